//! Exit statuses, the same for every command.

use std::process::ExitCode;

/// What the exit status of every `netvale` command means.
///
/// A closed stdout (`netvale ls | head -1`) is not an error: it ends the
/// command with [`Code::Done`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    /// 0: done what was asked.
    Done,
    /// 1: it ran, but the answer is negative: no packet was sent or received,
    /// a sequence check found a gap, a verification failed, a check failed.
    ///
    /// `vale-ctl` differs, as its scripts expect: it ends with 1 after every
    /// error, and also after a successful list without arguments.
    Negative,
    /// 2: the command line or the configuration is wrong.
    Usage,
    /// 3: a privilege, a kernel feature, a device, a port or a server is
    /// missing, or went away.
    Unavailable,
    /// 4: input, output or the system failed while running.
    Failure,
    /// 5: a peer broke the protocol.
    Peer,
    /// 128 + n: ended by signal n before the work that was asked for (`-n`)
    /// was complete. A command without an end of its own that is ended by
    /// SIGINT or SIGTERM has done its work.
    Signal(u8),
}

impl Code {
    /// The number the shell sees.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Negative => 1,
            Self::Usage => 2,
            Self::Unavailable => 3,
            Self::Failure => 4,
            Self::Peer => 5,
            Self::Signal(n) => 128u8.saturating_add(n),
        }
    }

    /// The class of an error's own exit code.
    pub(crate) fn from_error(error: &netvale::Error) -> Self {
        match error.exit_code() {
            1 => Self::Negative,
            2 => Self::Usage,
            3 => Self::Unavailable,
            5 => Self::Peer,
            _ => Self::Failure,
        }
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        code.number().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_follow_the_shell() {
        assert_eq!(Code::Signal(2).number(), 130);
        assert_eq!(Code::Signal(15).number(), 143);
    }
}

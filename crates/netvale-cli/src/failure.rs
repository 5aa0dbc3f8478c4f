//! Why a command ended early, and the only place where that is printed.

use std::io::{self, Write};
use std::process::ExitCode;

use netvale::{Error, ErrorKind};

use crate::exit::Code;

/// Result of a command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to tell the user.
    Error(Error),
    /// Nobody reads stdout any more: end in silence.
    StdoutClosed,
    /// Already told in the words that the tool's scripts expect.
    Reported(Code),
}

impl Failure {
    /// A wrong command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Error(Error::new(ErrorKind::Usage, message))
    }

    /// Prints the error, once, and gives the exit status.
    pub(crate) fn report(self, program: &str) -> ExitCode {
        match self {
            Self::StdoutClosed => Code::Done.into(),
            Self::Reported(code) => code.into(),
            Self::Error(error) => {
                let mut err = io::stderr().lock();
                // Nobody is left to tell when stderr fails.
                let _ = writeln!(err, "{program}: {error}");
                if let Some(hint) = error.hint() {
                    let _ = writeln!(err, "hint: {hint}");
                }
                Code::from_error(&error).into()
            }
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// Failures of stdout. Files and devices are reported with
/// [`io_error`], which says what was being done.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::StdoutClosed
        } else {
            Self::Error(io_error("cannot write to stdout", &error))
        }
    }
}

/// An error of the system, with what was being done.
pub(crate) fn io_error(doing: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Unavailable,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{doing}: {error}"))
}

//! One error type for the whole library.

use std::fmt;

use netvale_switch::domain::DomainError;
use netvale_wire::proto::ErrorKind as Refused;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: a class to act on, one line to show, perhaps advice.
#[derive(Debug, thiserror::Error)]
#[expect(
    clippy::error_impl_error,
    reason = "the crate's one error: netvale::Error is what its users look for"
)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    /// What the server called it, which is finer.
    refused: Option<Refused>,
    #[source]
    source: Option<std::io::Error>,
}

/// What went wrong, by what the caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A bad name, option or value: ask differently.
    Usage,
    /// No such port, switch or station.
    NotFound,
    /// In use by someone else: wait, or end them.
    Busy,
    /// It exists already.
    Exists,
    /// Out of memory, descriptors, ports, rings or buffers.
    NoSpace,
    /// A missing privilege, feature or device.
    Unavailable,
    /// The server is gone or never came: connect anew.
    Disconnected,
    /// A peer broke the protocol.
    Peer,
    /// Any other failure of the system.
    Io,
}

impl Error {
    /// An error of this class, with one line that says what failed and why.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            refused: None,
            source: None,
        }
    }

    /// The server's refusal.
    pub(crate) fn refused(mut self, refused: Refused) -> Self {
        self.refused = Some(refused);
        self
    }

    /// Adds one line of advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed operation of the system on some object.
    pub(crate) fn io(what: impl fmt::Display, source: impl Into<std::io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Unavailable,
            std::io::ErrorKind::OutOfMemory => ErrorKind::NoSpace,
            _ => match source.raw_os_error() {
                // EMFILE, ENFILE, ENOSPC
                Some(23 | 24 | 28) => ErrorKind::NoSpace,
                _ => ErrorKind::Io,
            },
        };
        Self {
            kind,
            message: format!("{what}: {source}"),
            hint: None,
            refused: None,
            source: Some(source),
        }
    }

    /// The class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// One line of advice, if there is any.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The number that a netmap program sees in `errno` for this error.
    #[must_use]
    pub fn errno(&self) -> i32 {
        if let Some(refused) = self.refused {
            return refused.errno();
        }
        if let Some(number) = self.source.as_ref().and_then(std::io::Error::raw_os_error) {
            return number;
        }
        let like = match self.kind {
            ErrorKind::Usage => Refused::Invalid,
            ErrorKind::NotFound | ErrorKind::Disconnected => Refused::NotFound,
            ErrorKind::Busy => Refused::Busy,
            ErrorKind::Exists => Refused::Exists,
            ErrorKind::NoSpace => Refused::NoMemory,
            ErrorKind::Unavailable => Refused::Unsupported,
            ErrorKind::Peer => Refused::Protocol,
            ErrorKind::Io => Refused::Os,
        };
        like.errno()
    }

    /// The exit code of a program that fails with this error: 2 usage,
    /// 3 something missing, 4 failure, 5 a peer's fault.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            ErrorKind::Usage => 2,
            ErrorKind::Unavailable | ErrorKind::NotFound | ErrorKind::Disconnected => 3,
            ErrorKind::Peer => 5,
            _ => 4,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<DomainError> for Error {
    fn from(e: DomainError) -> Self {
        let kind = match &e {
            DomainError::Invalid(_) => ErrorKind::Usage,
            DomainError::NotFound(_) | DomainError::Missing(_) => ErrorKind::NotFound,
            DomainError::Busy(_) => ErrorKind::Busy,
            DomainError::Exists(_) => ErrorKind::Exists,
            DomainError::NoSpace(_) => ErrorKind::NoSpace,
            DomainError::NeedsHeader(_) => ErrorKind::Io,
            _ => ErrorKind::Unavailable,
        };
        let error = Self::new(kind, e.to_string());
        match e {
            // Not what this kind is otherwise.
            DomainError::Missing(_) => error.refused(Refused::Missing),
            _ => error,
        }
    }
}

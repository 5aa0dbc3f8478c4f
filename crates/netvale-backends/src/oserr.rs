//! The error of a refused system call.

use std::fmt;
use std::io;

/// The kernel refused something: what, to which object, why, and what to do.
///
/// The kernel's own words are the [source](std::error::Error::source).
#[derive(Debug)]
pub struct OsError {
    what: &'static str,
    object: String,
    hint: Option<&'static str>,
    source: io::Error,
}

impl OsError {
    pub(crate) fn new(
        what: &'static str,
        object: impl Into<String>,
        source: impl Into<io::Error>,
    ) -> Self {
        let source = source.into();
        let hint = match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Some("run as root or with CAP_NET_ADMIN"),
            Some(libc::EMFILE | libc::ENFILE) => Some("raise the limit of open files"),
            _ => None,
        };
        Self {
            what,
            object: object.into(),
            hint,
            source,
        }
    }

    /// Says what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The kernel's error number.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for OsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}", self.what, self.object)?;
        match self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for OsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_which_and_what_to_do() {
        let e = OsError::new(
            "create",
            "TAP nv0",
            io::Error::from_raw_os_error(libc::EPERM),
        );
        let text = "cannot create TAP nv0 (run as root or with CAP_NET_ADMIN)";
        assert_eq!(e.to_string(), text);
        assert_eq!(e.errno(), Some(libc::EPERM));
        assert!(std::error::Error::source(&e).is_some());
        let e = e.hint("ask the administrator");
        assert_eq!(
            e.to_string(),
            "cannot create TAP nv0 (ask the administrator)"
        );
    }
}

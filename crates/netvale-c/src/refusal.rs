//! Why a function says no: a number for `errno` and a text for people.

use std::ffi::{CStr, c_int};
use std::fmt;

/// A failure on its way to the caller.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: c_int,
    pub(crate) text: String,
}

impl Refusal {
    /// The caller's fault.
    pub(crate) fn invalid(text: impl fmt::Display) -> Self {
        Self::new(libc::EINVAL, text)
    }

    /// No memory for something.
    pub(crate) fn no_memory(what: &str) -> Self {
        Self::new(libc::ENOMEM, format_args!("cannot allocate {what}"))
    }

    /// With an error number.
    pub(crate) fn new(errno: c_int, text: impl fmt::Display) -> Self {
        let text = text.to_string();
        Self { errno, text }
    }

    /// A system call failed: `what: reason`.
    pub(crate) fn system(what: impl fmt::Display) -> Self {
        let errno = errno();
        Self::new(errno, format_args!("{what}: {}", message(errno)))
    }
}

/// The system's text for an error number.
pub(crate) fn message(errno: c_int) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    // The standard library puts the number behind the text.
    match text.rfind(" (os error ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// The calling thread's `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: the function has no requirements.
    let at = unsafe { libc::__errno_location() };
    // SAFETY: it points to the thread's own number.
    unsafe { at.read() }
}

/// Sets the calling thread's `errno`.
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: the function has no requirements.
    let at = unsafe { libc::__errno_location() };
    // SAFETY: it points to the thread's own number.
    unsafe { at.write(errno) };
}

/// Bytes for people: what is no text is replaced.
pub(crate) fn shown(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// The bytes of a C string, without its NUL; empty for null.
///
/// # Safety
///
/// `text` is null or points to a string that stays unchanged for `'a`.
pub(crate) unsafe fn bytes<'a>(text: *const std::ffi::c_char) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: not null, and a string for 'a by the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_the_systems_own() {
        assert_eq!(message(libc::EINVAL), "Invalid argument");
        set_errno(libc::EBUSY);
        let refusal = Refusal::system("x");
        assert_eq!(
            (refusal.errno, refusal.text.as_str()),
            (libc::EBUSY, "x: Device or resource busy")
        );
    }
}

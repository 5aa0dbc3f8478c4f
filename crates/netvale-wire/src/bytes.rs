//! Checked access to big-endian fields, and the error all header parsers share.

use thiserror::Error;

/// Why a packet header could not be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HdrError {
    /// The buffer ends before the header does.
    #[error("{what} needs {need} bytes, {have} are there")]
    Short {
        /// Which header.
        what: &'static str,
        /// Bytes the header needs.
        need: usize,
        /// Bytes in the buffer.
        have: usize,
    },
    /// A field holds a value that makes the header meaningless.
    #[error("{what} has {field} {value}")]
    Bad {
        /// Which header.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// The offending value.
        value: u32,
    },
}

/// The first `N` bytes of `buf`, or how many are missing for `what`.
pub(crate) fn head<'a, const N: usize>(
    buf: &'a [u8],
    what: &'static str,
) -> Result<&'a [u8; N], HdrError> {
    buf.first_chunk().ok_or(HdrError::Short {
        what,
        need: N,
        have: buf.len(),
    })
}

/// The first `N` bytes of `buf` for writing, or how many are missing for `what`.
pub(crate) fn head_mut<'a, const N: usize>(
    buf: &'a mut [u8],
    what: &'static str,
) -> Result<&'a mut [u8; N], HdrError> {
    let have = buf.len();
    buf.first_chunk_mut().ok_or(HdrError::Short {
        what,
        need: N,
        have,
    })
}

/// Big-endian 16 bits at `at`, if they are all inside `buf`.
pub(crate) fn get_u16(buf: &[u8], at: usize) -> Option<u16> {
    let bytes = buf.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

/// Big-endian 32 bits at `at`, if they are all inside `buf`.
pub(crate) fn get_u32(buf: &[u8], at: usize) -> Option<u32> {
    let bytes = buf.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// Stores `value` big-endian at `at`; `None`, and nothing written, if it does not fit.
pub(crate) fn put_u16(buf: &mut [u8], at: usize, value: u16) -> Option<()> {
    *buf.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

/// Stores `value` big-endian at `at`; `None`, and nothing written, if it does not fit.
pub(crate) fn put_u32(buf: &mut [u8], at: usize, value: u32) -> Option<()> {
    *buf.get_mut(at..)?.first_chunk_mut()? = value.to_be_bytes();
    Some(())
}

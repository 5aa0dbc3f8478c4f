//! Scatter lists over pools, and the two calls that take them for a plain file.

#![expect(
    unsafe_code,
    reason = "the kernel reads and writes pool memory through raw addresses"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{BufPool, MAX_PIECES, Piece};

/// No entry of a scatter list.
pub(crate) const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// What a chain that is not inside its pool is answered with.
pub(crate) fn outside() -> io::Error {
    io::Error::from_raw_os_error(libc::EFAULT)
}

/// The scatter list entry of a piece; `None` if it is not inside the pool.
/// Whoever passes it to the kernel must keep the pool until the kernel is done.
pub(crate) fn entry(pool: &BufPool, piece: Piece) -> Option<libc::iovec> {
    Some(libc::iovec {
        iov_base: pool.address(piece)?.cast(),
        iov_len: piece.len as usize,
    })
}

/// Writes a chain with one call.
///
/// # Errors
///
/// The kernel's, or `EFAULT` for a chain that is not inside the pool.
pub(crate) fn writev(
    fd: BorrowedFd<'_>,
    pool: &BufPool,
    chain: impl Iterator<Item = Piece>,
) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES];
    let mut n = 0;
    for piece in chain {
        *iov.get_mut(n).ok_or_else(outside)? = entry(pool, piece).ok_or_else(outside)?;
        n += 1;
    }
    // SAFETY: the first `n` entries are ranges inside the pool, which the
    // borrow keeps mapped during the call; n is at most 64 and fits an int.
    let done = unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr(), count(n)) };
    usize::try_from(done)
        .ok()
        .ok_or_else(io::Error::last_os_error)
}

/// Reads one frame into a chain with one call. A result larger than the chain
/// says that the frame did not fit: the kernel's answer for a TAP does not.
///
/// # Errors
///
/// The kernel's, or `EFAULT` for a chain that is not inside the pool.
pub(crate) fn readv(fd: BorrowedFd<'_>, pool: &BufPool, chain: &[Piece]) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES + 1];
    let mut spill = [0u8; 1];
    let mut n = 0;
    for piece in chain {
        *iov.get_mut(n).ok_or_else(outside)? = entry(pool, *piece).ok_or_else(outside)?;
        n += 1;
    }
    *iov.get_mut(n).ok_or_else(outside)? = libc::iovec {
        iov_base: spill.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // SAFETY: the first `n` entries are ranges inside the pool, which the
    // borrow keeps mapped during the call, and no Rust reference to its bytes
    // exists; the last is a local byte.
    let done = unsafe { libc::readv(fd.as_raw_fd(), iov.as_ptr(), count(n + 1)) };
    usize::try_from(done)
        .ok()
        .ok_or_else(io::Error::last_os_error)
}

/// Entries as the kernel counts them; lists here never exceed 65.
fn count(n: usize) -> libc::c_int {
    libc::c_int::try_from(n).unwrap_or(libc::c_int::MAX)
}

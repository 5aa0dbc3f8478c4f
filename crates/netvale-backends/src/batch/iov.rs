//! Entries of scatter lists over pools.

use std::io;

use super::{BufPool, Piece};

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

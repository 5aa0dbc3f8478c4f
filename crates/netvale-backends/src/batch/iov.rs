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

/// Makes the last entry longer by the next piece, if that begins where it
/// ends, as buffers of a pool do that follow each other. Each entry of a list
/// costs the kernel time, and more than eight cost it an allocation.
pub(crate) fn grow(last: &mut libc::iovec, next: &libc::iovec) -> bool {
    let end = last.iov_base.addr().checked_add(last.iov_len);
    let adjacent = end == Some(next.iov_base.addr());
    if adjacent {
        last.iov_len += next.iov_len;
    }
    adjacent
}

/// Appends a piece to the list that begins at entry `start`.
pub(crate) fn append(
    list: &mut Vec<libc::iovec>,
    start: usize,
    pool: &BufPool,
    piece: Piece,
) -> Option<()> {
    let entry = entry(pool, piece)?;
    let last = list.get_mut(start..).and_then(<[_]>::last_mut);
    if !last.is_some_and(|last| grow(last, &entry)) {
        list.push(entry);
    }
    Some(())
}

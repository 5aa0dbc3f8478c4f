//! The requests of `/dev/net/tun`, and reading and writing in place.

#![expect(unsafe_code, reason = "ioctls and scatter lists carry raw addresses")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::batch::iov::{entry, grow, outside};
use crate::batch::{BufPool, MAX_PIECES, Piece};
use crate::net::NAME_MAX;
use crate::net::sys::check;

/// Requests whose argument is an int at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IntAt {
    SetHdrLen,
    GetHdrLen,
    SetLittleEndian,
    GetFeatures,
}

/// Requests whose argument is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    Offload,
    Persist,
}

/// Attaches a descriptor of `/dev/net/tun` to the interface `name`, which may
/// hold one `%d`; its full name comes back.
///
/// # Errors
///
/// The kernel's.
pub(super) fn set_iff(fd: BorrowedFd<'_>, name: &str, flags: u16) -> io::Result<String> {
    let mut req = request();
    for (to, from) in req.ifr_name.iter_mut().zip(name.bytes().take(NAME_MAX)) {
        *to = from.cast_signed();
    }
    req.ifr_ifru.ifru_flags = flags.cast_signed();
    ioctl_ifreq(fd, libc::TUNSETIFF, &mut req)?;
    Ok(name_of(&req))
}

/// Name and flags of the interface that a descriptor is attached to.
///
/// # Errors
///
/// The kernel's: `EBADFD` if it is attached to none.
pub(super) fn get_iff(fd: BorrowedFd<'_>) -> io::Result<(String, u16)> {
    let mut req = request();
    ioctl_ifreq(fd, libc::TUNGETIFF, &mut req)?;
    // SAFETY: the kernel filled the flags.
    let flags = unsafe { req.ifr_ifru.ifru_flags };
    Ok((name_of(&req), flags.cast_unsigned()))
}

/// One of the requests with an int; the int afterwards.
///
/// # Errors
///
/// The kernel's.
pub(super) fn int_at(fd: BorrowedFd<'_>, what: IntAt, value: libc::c_int) -> io::Result<i32> {
    let command = match what {
        IntAt::SetHdrLen => libc::TUNSETVNETHDRSZ,
        IntAt::GetHdrLen => libc::TUNGETVNETHDRSZ,
        IntAt::SetLittleEndian => libc::TUNSETVNETLE,
        IntAt::GetFeatures => libc::TUNGETFEATURES,
    };
    let mut value = value;
    // SAFETY: these four requests read or write one int, which outlives them.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command, &raw mut value) })?;
    Ok(value)
}

/// One of the requests whose argument is no address.
///
/// # Errors
///
/// The kernel's.
pub(super) fn number(fd: BorrowedFd<'_>, what: Number, value: u32) -> io::Result<()> {
    let command = match what {
        Number::Offload => libc::TUNSETOFFLOAD,
        Number::Persist => libc::TUNSETPERSIST,
    };
    // SAFETY: both requests take a plain number.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command, libc::c_ulong::from(value)) })
}

fn request() -> libc::ifreq {
    // SAFETY: integers, arrays of them and a pointer: all may be zero.
    unsafe { std::mem::zeroed() }
}

fn ioctl_ifreq(fd: BorrowedFd<'_>, command: libc::Ioctl, req: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: both requests passed here read and write a `struct ifreq`, which
    // outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), command, std::ptr::from_mut(req)) })
}

fn name_of(req: &libc::ifreq) -> String {
    let bytes: Vec<u8> = req
        .ifr_name
        .iter()
        .map(|c| c.cast_unsigned())
        .take_while(|&b| b != 0)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a chain with one call.
///
/// # Errors
///
/// The kernel's, or `EFAULT` for a chain that is not inside the pool.
pub(super) fn writev(
    fd: BorrowedFd<'_>,
    pool: &BufPool,
    chain: impl Iterator<Item = Piece>,
) -> io::Result<usize> {
    let mut chain = chain;
    let (first, more) = run(pool, &mut chain)?;
    if more.is_none() {
        // Without a list there is less to do.
        return plain(libc::SYS_write, fd, first);
    }
    let (mut iov, n) = list(pool, first, more, chain)?;
    listed(libc::SYS_writev, fd, iov.get_mut(..n).unwrap_or_default())
}

/// Reads one frame into a chain with one call. A result larger than the chain
/// says that the frame did not fit: the kernel's answer for a TAP does not.
///
/// `longest`: no frame has so many bytes, or it may be taken for one that does
/// not fit.
///
/// # Errors
///
/// The kernel's, or `EFAULT` for a chain that is not inside the pool.
pub(super) fn readv(
    fd: BorrowedFd<'_>,
    pool: &BufPool,
    chain: &[Piece],
    longest: usize,
) -> io::Result<usize> {
    let mut rest = chain.iter().copied();
    let (first, more) = run(pool, &mut rest)?;
    if more.is_none() && first.iov_len >= longest {
        // Without a list there is less to do.
        let room = first.iov_len;
        let got = plain(libc::SYS_read, fd, first)?;
        return Ok(if got < room { got } else { room + 1 });
    }
    let (mut iov, n) = list(pool, first, more, rest)?;
    let mut spill = [0u8; 1];
    *iov.get_mut(n).ok_or_else(outside)? = libc::iovec {
        iov_base: spill.as_mut_ptr().cast(),
        iov_len: 1,
    };
    listed(libc::SYS_readv, fd, iov.get_mut(..=n).unwrap_or_default())
}

/// The whole list, with room for one more entry, and its length.
fn list(
    pool: &BufPool,
    first: libc::iovec,
    mut next: Option<libc::iovec>,
    mut rest: impl Iterator<Item = Piece>,
) -> io::Result<([libc::iovec; MAX_PIECES + 1], usize)> {
    let mut iov = [EMPTY; MAX_PIECES + 1];
    iov[0] = first;
    let mut n = 0;
    while let Some(entry) = next {
        if !iov.get_mut(n).is_some_and(|last| grow(last, &entry)) {
            n += 1;
            *iov.get_mut(n).ok_or_else(outside)? = entry;
        }
        next = next_entry(pool, &mut rest)?;
    }
    Ok((iov, n + 1))
}

/// The memory at the beginning of a chain that is in one piece, and the entry
/// after it.
fn run(
    pool: &BufPool,
    chain: &mut impl Iterator<Item = Piece>,
) -> io::Result<(libc::iovec, Option<libc::iovec>)> {
    let mut first = next_entry(pool, chain)?.ok_or_else(outside)?;
    loop {
        match next_entry(pool, chain)? {
            Some(next) if grow(&mut first, &next) => {}
            more => return Ok((first, more)),
        }
    }
}

fn next_entry(
    pool: &BufPool,
    chain: &mut impl Iterator<Item = Piece>,
) -> io::Result<Option<libc::iovec>> {
    let piece = chain.next();
    piece
        .map(|piece| entry(pool, piece).ok_or_else(outside))
        .transpose()
}

/// `read` or `write`. The C library's functions cost more: a thread can be
/// ended in them.
fn plain(call: libc::c_long, fd: BorrowedFd<'_>, at: libc::iovec) -> io::Result<usize> {
    // SAFETY: callers pass one of the two calls, and a range inside a pool
    // that they keep mapped meanwhile, to whose bytes no Rust reference exists.
    let done = unsafe { libc::syscall(call, fd.as_raw_fd(), at.iov_base, at.iov_len) };
    usize::try_from(done)
        .ok()
        .ok_or_else(io::Error::last_os_error)
}

/// The same with lists: `readv` or `writev`.
fn listed(call: libc::c_long, fd: BorrowedFd<'_>, list: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: as in `plain`, for each entry; one may be a local byte of the
    // caller's.
    let done = unsafe { libc::syscall(call, fd.as_raw_fd(), list.as_ptr(), list.len()) };
    usize::try_from(done)
        .ok()
        .ok_or_else(io::Error::last_os_error)
}

/// No entry of a scatter list.
const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

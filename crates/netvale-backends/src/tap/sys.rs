//! The requests of `/dev/net/tun`, and reading and writing in place.

#![expect(unsafe_code, reason = "ioctls and scatter lists carry raw addresses")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::batch::iov::{entry, outside};
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
    let mut chain = chain.peekable();
    let Some(first) = chain.next() else {
        return Err(outside());
    };
    let first = entry(pool, first).ok_or_else(outside)?;
    let done = if chain.peek().is_none() {
        // Without a list there is less to do.
        // SAFETY: a range inside the pool, which the borrow keeps mapped.
        unsafe { libc::write(fd.as_raw_fd(), first.iov_base, first.iov_len) }
    } else {
        let mut iov = [EMPTY; MAX_PIECES];
        iov[0] = first;
        let mut n = 1;
        for piece in chain {
            *iov.get_mut(n).ok_or_else(outside)? = entry(pool, piece).ok_or_else(outside)?;
            n += 1;
        }
        // SAFETY: the first `n` entries are ranges inside the pool, which the
        // borrow keeps mapped; n is at most 64 and fits an int.
        unsafe { libc::writev(fd.as_raw_fd(), iov.as_ptr(), count(n)) }
    };
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
pub(super) fn readv(fd: BorrowedFd<'_>, pool: &BufPool, chain: &[Piece]) -> io::Result<usize> {
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

/// No entry of a scatter list.
const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

//! The requests of `/dev/net/tun`.

#![expect(unsafe_code, reason = "ioctls take untyped addresses")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

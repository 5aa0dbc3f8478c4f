//! `ioctl`, and the calls that fail on `/dev/netmap`.

use std::ffi::{c_int, c_uint, c_ulong, c_void};

use libc::{iovec, mmsghdr, msghdr, size_t, ssize_t, timespec};
use netvale_control::Errno;
use netvale_wire::abi::{NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC};

use crate::binding::Binding;
use crate::life;
use crate::real;
use crate::table::{self, Entry};

/// See `ioctl(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, arg: c_ulong) -> c_int {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the kernel looks at 32 bits; C programs sign-extend them"
    )]
    let command = request as u32;
    if let Entry::Port(i) = table::entry(fd)
        && let Some(b) = table::binding(i)
    {
        let done = match command {
            NIOCTXSYNC => b.txsync(fd),
            NIOCRXSYNC => b.rxsync(fd),
            _ => return other(b, fd, request, command, arg),
        };
        return answer(done);
    }
    // SAFETY: passed on.
    unsafe { foreign(fd, request, command, arg) }
}

fn answer(done: Result<(), Errno>) -> c_int {
    match done {
        Ok(()) => 0,
        Err(e) => real::fail(e.0),
    }
}

/// A request, or something that every file can do.
#[cold]
fn other(b: &'static Binding, fd: c_int, request: c_ulong, command: u32, arg: c_ulong) -> c_int {
    let arg = usize::try_from(arg).unwrap_or(0);
    match c_ulong::from(command) {
        // What the kernel does for all files, whatever they are.
        libc::FIONBIO | libc::FIOCLEX | libc::FIONCLEX | libc::FIOASYNC => {
            // SAFETY: passed on.
            return unsafe { real::ioctl(fd, request, arg) };
        }
        _ => {}
    }
    let was = real::errno();
    let _inside = life::Inside::enter();
    let done = crate::host::ioctl(b, fd, command, arg);
    real::set_errno(was);
    answer(done)
}

/// A descriptor that is not known.
///
/// # Safety
///
/// As `ioctl`.
unsafe fn foreign(fd: c_int, request: c_ulong, command: u32, arg: c_ulong) -> c_int {
    let ours = matches!(
        command,
        NIOCTXSYNC | NIOCRXSYNC | NIOCCTRL | NIOCREGIF | NIOCGINFO | NIOCCONFIG
    );
    if ours && life::discover(fd).is_some() {
        // SAFETY: as the caller's; it is known now.
        return unsafe { ioctl(fd, request, arg) };
    }
    // SAFETY: passed on.
    unsafe { real::ioctl(fd, request, usize::try_from(arg).unwrap_or(0)) }
}

#[inline]
fn is_port(fd: c_int) -> bool {
    matches!(table::entry(fd), Entry::Port(_)) && !life::Inside::is()
}

/// See `read(2)`. Registrations cannot be read.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t {
    if is_port(fd) {
        return real::fail(libc::EINVAL) as ssize_t;
    }
    // SAFETY: passed on.
    unsafe { real::read(fd, buf, n) }
}

/// See `write(2)`. Registrations cannot be written.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t {
    if is_port(fd) {
        return real::fail(libc::EINVAL) as ssize_t;
    }
    // SAFETY: passed on.
    unsafe { real::write(fd, buf, n) }
}

/// See `readv(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn readv(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
    if is_port(fd) {
        return real::fail(libc::EINVAL) as ssize_t;
    }
    // SAFETY: passed on.
    unsafe { real::readv(fd, iov, n) }
}

/// See `writev(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, iov: *const iovec, n: c_int) -> ssize_t {
    if is_port(fd) {
        return real::fail(libc::EINVAL) as ssize_t;
    }
    // SAFETY: passed on.
    unsafe { real::writev(fd, iov, n) }
}

/// Takes in the registrations among received descriptors.
///
/// # Safety
///
/// The header is one that `recvmsg` has filled in.
unsafe fn take_in(msg: &msghdr) {
    let was = real::errno();
    // SAFETY: control messages as the kernel wrote them.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(msg);
        while let Some(head) = c.as_ref() {
            if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(c);
                let bytes = head.cmsg_len.saturating_sub(data.offset_from(c.cast()).unsigned_abs());
                for i in 0..bytes / size_of::<c_int>() {
                    let fd = data.cast::<c_int>().add(i).read_unaligned();
                    life::discover(fd);
                }
            }
            c = libc::CMSG_NXTHDR(msg, c);
        }
    }
    real::set_errno(was);
}

/// See `recvmsg(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmsg(fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: passed on.
    let n = unsafe { real::recvmsg(fd, msg, flags) };
    // SAFETY: filled in, as it succeeded.
    if n >= 0 && unsafe { (*msg).msg_controllen } > 0 {
        // SAFETY: as above.
        unsafe { take_in(&*msg) };
    }
    n
}

/// See `recvmmsg(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmmsg(
    fd: c_int,
    all: *mut mmsghdr,
    n: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: passed on.
    let got = unsafe { real::recvmmsg(fd, all, n, flags, timeout) };
    for i in 0..usize::try_from(got).unwrap_or(0) {
        // SAFETY: that many were filled in.
        let msg = unsafe { &(*all.add(i)).msg_hdr };
        if msg.msg_controllen > 0 {
            // SAFETY: as above.
            unsafe { take_in(msg) };
        }
    }
    got
}

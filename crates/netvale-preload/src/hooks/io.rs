//! `ioctl`, and the calls that fail on `/dev/netmap`.

use std::ffi::{c_int, c_uint, c_ulong, c_void};

use libc::{cmsghdr, iovec, mmsghdr, msghdr, size_t, ssize_t, timespec};
use netvale_control::Errno;
use netvale_wire::abi::{NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC};

use crate::binding::Binding;
use crate::inside::Inside;
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
    let _inside = Inside::enter();
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
    matches!(table::entry(fd), Entry::Port(_)) && !Inside::is()
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

/// `read` of programs built with `_FORTIFY_SOURCE`.
///
/// # Safety
///
/// As `read`; `len` is the size of what `buf` points to, in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __read_chk(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    len: size_t,
) -> ssize_t {
    if n > len {
        // SAFETY: ends the process, as it does in the C library.
        unsafe { libc::abort() };
    }
    // SAFETY: passed on.
    unsafe { read(fd, buf, n) }
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
/// The header is one that `recvmsg` has filled in. It need not be aligned.
unsafe fn take_in(msg: *const msghdr) {
    const HEAD: usize = size_of::<cmsghdr>();
    // SAFETY: as the caller says.
    let msg = unsafe { msg.read_unaligned() };
    let start: *const u8 = msg.msg_control.cast::<u8>().cast_const();
    let was = real::errno();
    let mut at = 0;
    while msg.msg_controllen.saturating_sub(at) >= HEAD {
        // SAFETY: there is room for a head, as was seen above.
        let head: *const cmsghdr = unsafe { start.add(at) }.cast_aligned_or_not();
        // SAFETY: as above.
        let head = unsafe { head.read_unaligned() };
        let len = head.cmsg_len.min(msg.msg_controllen - at);
        if len < HEAD {
            break;
        }
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            for i in 0..(len - HEAD) / size_of::<c_int>() {
                // SAFETY: inside the message, which is `len` bytes long.
                let fd = unsafe { start.add(at + HEAD + i * size_of::<c_int>()) };
                let fd: *const c_int = fd.cast_aligned_or_not();
                // SAFETY: as above.
                life::discover(unsafe { fd.read_unaligned() });
            }
        }
        at += len.next_multiple_of(size_of::<usize>());
    }
    real::set_errno(was);
}

/// A pointer that is only read with `read_unaligned`.
trait Unaligned {
    fn cast_aligned_or_not<T>(self) -> *const T;
}

impl Unaligned for *const u8 {
    fn cast_aligned_or_not<T>(self) -> *const T {
        self.cast()
    }
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
    if n >= 0 {
        // SAFETY: filled in, as it succeeded.
        unsafe { take_in(msg) };
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
        // SAFETY: that many were filled in; the header is what they begin with.
        let msg: *const msghdr = unsafe { all.add(i) }.cast();
        // SAFETY: as above.
        unsafe { take_in(msg) };
    }
    got
}

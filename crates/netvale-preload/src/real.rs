//! The functions that we stand in front of.
//!
//! Those of the C library are called where there are any, because they are
//! cancellation points; without one (a static program) the kernel is asked
//! directly.

use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::{
    FILE, epoll_event, fd_set, iovec, mmsghdr, mode_t, msghdr, nfds_t, off64_t, pollfd, sigset_t,
    size_t, ssize_t, timespec, timeval,
};

/// A function of the next library in the search order.
pub(crate) struct Next {
    name: &'static CStr,
    at: AtomicUsize,
}

/// There is none.
const MISSING: usize = 1;

impl Next {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            at: AtomicUsize::new(0),
        }
    }

    #[inline]
    fn get(&self) -> Option<usize> {
        match self.at.load(Relaxed) {
            0 => self.find(),
            MISSING => None,
            at => Some(at),
        }
    }

    #[cold]
    fn find(&self) -> Option<usize> {
        let was = errno();
        // SAFETY: a C string and a handle that dlsym knows.
        let at = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) } as usize;
        set_errno(was);
        self.at.store(at.max(MISSING), Relaxed);
        (at != 0).then_some(at)
    }
}

/// `errno`.
pub(crate) fn errno() -> c_int {
    // SAFETY: always points to the calling thread's own number.
    let at = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *at }
}

/// Sets `errno`.
pub(crate) fn set_errno(n: c_int) {
    // SAFETY: as above.
    let at = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *at = n };
}

/// `-1`, and `errno`.
pub(crate) fn fail(n: c_int) -> c_int {
    set_errno(n);
    -1
}

/// What a system call returned, as the type of the C function.
trait Kernel<T> {
    fn answer(self) -> T;
}

impl Kernel<c_int> for c_long {
    fn answer(self) -> c_int {
        c_int::try_from(self).unwrap_or(-1)
    }
}

impl Kernel<Self> for c_long {
    fn answer(self) -> Self {
        self
    }
}

impl Kernel<ssize_t> for c_long {
    fn answer(self) -> ssize_t {
        isize::try_from(self).unwrap_or(-1)
    }
}

impl<T> Kernel<*mut T> for *mut c_void {
    fn answer(self) -> *mut T {
        self.cast()
    }
}

/// Defines a function that calls the next one of its name, or else the kernel.
macro_rules! next {
    ($($name:ident = $sym:literal ($($arg:ident: $ty:ty),*) -> $ret:ty, $else:expr;)*) => {$(
        /// The function of this name.
        ///
        /// # Safety
        ///
        /// As for that function.
        #[inline]
        pub(crate) unsafe fn $name($($arg: $ty),*) -> $ret {
            static NEXT: Next = Next::new($sym);
            match NEXT.get() {
                Some(at) => {
                    // SAFETY: the symbol of this name has this type.
                    let f = unsafe {
                        std::mem::transmute::<usize, unsafe extern "C" fn($($ty),*) -> $ret>(at)
                    };
                    // SAFETY: the caller keeps the function's contract.
                    unsafe { f($($arg),*) }
                }
                None => {
                    // SAFETY: the caller keeps the function's contract.
                    let done = unsafe { $else };
                    Kernel::answer(done)
                }
            }
        }
    )*};
}

use libc::syscall;
const NULL: *mut c_void = std::ptr::null_mut();

/// Streams are the C library's own: the kernel has none to give.
///
/// # Safety
///
/// Always safe; as the others are, so that they can stand side by side.
unsafe fn no_stream() -> *mut c_void {
    set_errno(libc::ENOSYS);
    NULL
}

/// Bytes of the kernel's signal set.
const SIGSET: usize = 8;

next! {
    close = c"close" (fd: c_int) -> c_int, syscall(libc::SYS_close, fd);
    close_range = c"close_range" (first: c_uint, last: c_uint, flags: c_int) -> c_int,
        syscall(libc::SYS_close_range, first, last, flags);
    dup = c"dup" (fd: c_int) -> c_int, syscall(libc::SYS_dup, fd);
    dup3 = c"dup3" (old: c_int, new: c_int, flags: c_int) -> c_int,
        syscall(libc::SYS_dup3, old, new, flags);
    dup2 = c"dup2" (old: c_int, new: c_int) -> c_int,
        if old == new { syscall(libc::SYS_fcntl, old, libc::F_GETFD).min(c_long::from(new)) }
        else { syscall(libc::SYS_dup3, old, new, 0) };
    read = c"read" (fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t,
        syscall(libc::SYS_read, fd, buf, n);
    write = c"write" (fd: c_int, buf: *const c_void, n: size_t) -> ssize_t,
        syscall(libc::SYS_write, fd, buf, n);
    readv = c"readv" (fd: c_int, iov: *const iovec, n: c_int) -> ssize_t,
        syscall(libc::SYS_readv, fd, iov, n);
    writev = c"writev" (fd: c_int, iov: *const iovec, n: c_int) -> ssize_t,
        syscall(libc::SYS_writev, fd, iov, n);
    recvmsg = c"recvmsg" (fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t,
        syscall(libc::SYS_recvmsg, fd, msg, flags);
    recvmmsg = c"recvmmsg" (fd: c_int, v: *mut mmsghdr, n: c_uint, flags: c_int, t: *mut timespec) -> c_int,
        syscall(libc::SYS_recvmmsg, fd, v, n, flags, t);
    poll = c"poll" (fds: *mut pollfd, n: nfds_t, ms: c_int) -> c_int, {
        let t = u64::try_from(ms).ok().map(|ms| timespec {
            tv_sec: c_long::try_from(ms / 1000).unwrap_or(c_long::MAX),
            tv_nsec: c_long::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        });
        let t = t.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        syscall(libc::SYS_ppoll, fds, n, t, NULL, SIGSET)
    };
    ppoll = c"ppoll" (fds: *mut pollfd, n: nfds_t, t: *const timespec, mask: *const sigset_t) -> c_int, {
        // The kernel writes the rest of the time into what it is given.
        let mut own = if t.is_null() { std::mem::zeroed() } else { *t };
        let t = if t.is_null() { std::ptr::null_mut() } else { std::ptr::from_mut(&mut own) };
        syscall(libc::SYS_ppoll, fds, n, t, mask, SIGSET)
    };
    pselect = c"pselect" (n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, t: *const timespec, mask: *const sigset_t) -> c_int, {
        let mut own = if t.is_null() { std::mem::zeroed() } else { *t };
        let t = if t.is_null() { std::ptr::null_mut() } else { std::ptr::from_mut(&mut own) };
        let set = [mask as usize, SIGSET];
        syscall(libc::SYS_pselect6, n, r, w, e, t, set.as_ptr())
    };
    select = c"select" (n: c_int, r: *mut fd_set, w: *mut fd_set, e: *mut fd_set, t: *mut timeval) -> c_int, {
        let own = t.as_ref().map(|t| timespec { tv_sec: t.tv_sec, tv_nsec: t.tv_usec * 1000 });
        let t = own.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        syscall(libc::SYS_pselect6, n, r, w, e, t, NULL)
    };
    epoll_ctl = c"epoll_ctl" (ep: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int,
        syscall(libc::SYS_epoll_ctl, ep, op, fd, event);
    epoll_wait = c"epoll_wait" (ep: c_int, events: *mut epoll_event, n: c_int, ms: c_int) -> c_int,
        syscall(libc::SYS_epoll_pwait, ep, events, n, ms, NULL, SIGSET);
    epoll_pwait = c"epoll_pwait" (ep: c_int, events: *mut epoll_event, n: c_int, ms: c_int, mask: *const sigset_t) -> c_int,
        syscall(libc::SYS_epoll_pwait, ep, events, n, ms, mask, SIGSET);
    epoll_pwait2 = c"epoll_pwait2" (ep: c_int, events: *mut epoll_event, n: c_int, t: *const timespec, mask: *const sigset_t) -> c_int,
        syscall(libc::SYS_epoll_pwait2, ep, events, n, t, mask, SIGSET);
    fopen = c"fopen" (path: *const c_char, mode: *const c_char) -> *mut FILE, no_stream();
    fopen64 = c"fopen64" (path: *const c_char, mode: *const c_char) -> *mut FILE, no_stream();
    opendir = c"opendir" (path: *const c_char) -> *mut libc::DIR, no_stream();
    stat64 = c"stat64" (path: *const c_char, st: *mut libc::stat64) -> c_int,
        syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path, st, 0);
    lstat64 = c"lstat64" (path: *const c_char, st: *mut libc::stat64) -> c_int,
        syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path, st, libc::AT_SYMLINK_NOFOLLOW);
    fstatat64 = c"fstatat64" (dir: c_int, path: *const c_char, st: *mut libc::stat64, flags: c_int) -> c_int,
        syscall(libc::SYS_newfstatat, dir, path, st, flags);
    statx = c"statx" (dir: c_int, path: *const c_char, flags: c_int, mask: c_uint, st: *mut libc::statx) -> c_int,
        syscall(libc::SYS_statx, dir, path, flags, mask, st);
    access = c"access" (path: *const c_char, mode: c_int) -> c_int,
        syscall(libc::SYS_faccessat, libc::AT_FDCWD, path, mode);
    faccessat = c"faccessat" (dir: c_int, path: *const c_char, mode: c_int, flags: c_int) -> c_int,
        syscall(libc::SYS_faccessat2, dir, path, mode, flags);
}

/// Functions with an argument that may be absent.
macro_rules! variadic {
    ($($name:ident = $sym:literal ($($arg:ident: $ty:ty),*; $last:ident: $lty:ty) -> $ret:ty, $nr:expr;)*) => {$(
        /// The function of this name.
        ///
        /// # Safety
        ///
        /// As for that function.
        #[inline]
        pub(crate) unsafe fn $name($($arg: $ty),*, $last: $lty) -> $ret {
            static NEXT: Next = Next::new($sym);
            match NEXT.get() {
                Some(at) => {
                    // SAFETY: the symbol of this name has this type.
                    let f = unsafe {
                        std::mem::transmute::<usize, unsafe extern "C" fn($($ty),*, ...) -> $ret>(at)
                    };
                    // SAFETY: the caller keeps the function's contract.
                    unsafe { f($($arg),*, $last) }
                }
                None => {
                    // SAFETY: the caller keeps the function's contract.
                    let done = unsafe { syscall($nr, $($arg),*, $last) };
                    Kernel::answer(done)
                }
            }
        }
    )*};
}

variadic! {
    ioctl = c"ioctl" (fd: c_int, request: c_ulong; arg: usize) -> c_int, libc::SYS_ioctl;
    fcntl = c"fcntl" (fd: c_int, command: c_int; arg: usize) -> c_int, libc::SYS_fcntl;
    openat = c"openat64" (dir: c_int, path: *const c_char, flags: c_int; mode: mode_t) -> c_int, libc::SYS_openat;
}

/// `mmap`, straight from the kernel: allocators call it before anything else
/// works.
///
/// # Safety
///
/// As `mmap`.
pub(crate) unsafe fn mmap(
    addr: *mut c_void,
    len: size_t,
    prot: c_int,
    flags: c_int,
    fd: c_int,
    offset: off64_t,
) -> *mut c_void {
    let [prot, flags, fd] = [prot, flags, fd].map(c_long::from);
    // SAFETY: the caller keeps mmap's contract; all arguments are as wide as
    // the kernel takes them.
    let at = unsafe { syscall(libc::SYS_mmap, addr, len, prot, flags, fd, offset) };
    pointer(at)
}

/// What a call returned that returns an address.
fn pointer(at: c_long) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(at.cast_unsigned().try_into().unwrap_or(usize::MAX))
}

/// `munmap`, straight from the kernel.
///
/// # Safety
///
/// As `munmap`.
pub(crate) unsafe fn munmap(addr: *mut c_void, len: size_t) -> c_int {
    #[expect(clippy::cast_possible_truncation, reason = "0 or -1")]
    // SAFETY: the caller keeps munmap's contract.
    unsafe {
        syscall(libc::SYS_munmap, addr, len) as c_int
    }
}

/// `mremap`, straight from the kernel.
///
/// # Safety
///
/// As `mremap`.
pub(crate) unsafe fn mremap(
    addr: *mut c_void,
    old: size_t,
    new: size_t,
    flags: c_int,
    to: *mut c_void,
) -> *mut c_void {
    // SAFETY: the caller keeps mremap's contract.
    let at = unsafe { syscall(libc::SYS_mremap, addr, old, new, c_long::from(flags), to) };
    pointer(at)
}

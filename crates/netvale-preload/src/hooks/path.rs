//! Paths: `/dev/netmap`, and the parameters under `/sys/module/netmap`.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};
use std::os::unix::ffi::OsStrExt;

use libc::{FILE, mode_t};
use netvale::registration::Site;

use crate::inside::Inside;
use crate::{life, real, rules};

const DEVICE: &[u8] = b"/dev/netmap";
const MODULE: &[u8] = b"/sys/module/netmap";
const MODULE_PARAMETERS: &[u8] = b"/sys/module/netmap/parameters";
/// Of a character device with everybody's favourite mode, as netmap makes it.
const MODE: u32 = libc::S_IFCHR | 0o600;
/// A misc device.
const MAJOR: u32 = 10;
const MINOR: u32 = 58;

/// What a path means to us.
enum Meaning {
    Other,
    Device,
    /// A file of ours stands in for it.
    File(CString),
}

/// # Safety
///
/// Null, or a C string.
unsafe fn meaning(path: *const c_char) -> Meaning {
    if path.is_null() {
        return Meaning::Other;
    }
    // Both begin with a slash; most paths are told apart by their first bytes.
    // SAFETY: a C string has at least its end.
    if unsafe { *path } != b'/'.cast_signed() {
        return Meaning::Other;
    }
    // SAFETY: a C string.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    if path == DEVICE {
        return Meaning::Device;
    }
    let Some(rest) = path.strip_prefix(MODULE) else {
        return Meaning::Other;
    };
    if Inside::is() || !(rest.is_empty() || rest.starts_with(b"/")) {
        return Meaning::Other;
    }
    stand_in(path).map_or(Meaning::Other, Meaning::File)
}

/// The file in the namespace's directory; the server makes it.
#[cold]
fn stand_in(path: &[u8]) -> Option<CString> {
    let was = real::errno();
    let _inside = Inside::enter();
    let site = Site::from_env();
    let mut file = site.dir().join(rules::PARAMETERS).into_os_string();
    if !std::path::Path::new(&file).exists() {
        life::start();
        drop(site.connect()); // starts the server
    }
    if let Some(name) = path.strip_prefix(MODULE_PARAMETERS) {
        file.push(std::ffi::OsStr::from_bytes(name));
    }
    real::set_errno(was);
    CString::new(file.as_bytes()).ok()
}

/// # Safety
///
/// As `openat`.
unsafe fn open_any(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let creates = flags & (libc::O_CREAT | libc::O_TMPFILE) != 0;
    // SAFETY: passed on.
    let open = |path| unsafe { real::openat(dir, path, flags, mode) };
    // SAFETY: a C string, says the caller.
    match unsafe { look(path, creates, open, |&fd| fd >= 0) } {
        Look::Done(fd) => fd,
        Look::Instead(fd, meaning) => {
            if let Some(fd) = fd {
                // SAFETY: opened just now, in vain.
                unsafe { real::close(fd) };
            }
            // SAFETY: passed on.
            unsafe { open_ours(dir, meaning, flags, mode) }
        }
    }
}

/// What has come of a call that went to the kernel first.
enum Look<T> {
    /// It has been answered.
    Done(T),
    /// The path means something to us. What the kernel answered, if it
    /// succeeded.
    Instead(Option<T>, Meaning),
}

/// Makes a call with a path, and finds out whether the path is one of ours.
/// The kernel looks at it first: what is no string at all is for it to find.
/// That cannot be if the call would `create` the file.
///
/// # Safety
///
/// The path is null, a C string, or something that the kernel refuses.
unsafe fn look<T>(
    path: *const c_char,
    create: bool,
    call: impl Fn(*const c_char) -> T,
    worked: impl Fn(&T) -> bool,
) -> Look<T> {
    let was = real::errno();
    let mut answer = None;
    if !create {
        let got = call(path);
        let readable = worked(&got)
            || matches!(
                real::errno(),
                libc::ENOENT | libc::ENOTDIR | libc::EACCES | libc::ENXIO | libc::ENODEV
            );
        if !readable {
            return Look::Done(got);
        }
        answer = Some(got);
    }
    let error = real::errno();
    // SAFETY: a C string, as the kernel could read it, or the caller says.
    match (unsafe { meaning(path) }, answer) {
        (Meaning::Other, Some(got)) => {
            real::set_errno(error);
            Look::Done(got)
        }
        (Meaning::Other, None) => Look::Done(call(path)),
        (other, answer) => {
            real::set_errno(was);
            Look::Instead(answer.filter(|a| worked(a)), other)
        }
    }
}

/// # Safety
///
/// As `openat`.
unsafe fn open_ours(dir: c_int, meaning: Meaning, flags: c_int, mode: mode_t) -> c_int {
    match meaning {
        Meaning::Other => real::fail(libc::ENOENT),
        // SAFETY: a path of ours.
        Meaning::File(file) => unsafe { real::openat(dir, file.as_ptr(), flags, mode) },
        Meaning::Device => {
            let was = real::errno();
            match life::open(flags) {
                Ok(fd) => {
                    real::set_errno(was);
                    fd
                }
                Err(n) => real::fail(n),
            }
        }
    }
}

macro_rules! opens {
    ($($name:ident;)*) => {$(
        /// See `open(2)`.
        ///
        /// # Safety
        ///
        /// As there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            // SAFETY: passed on.
            unsafe { open_any(libc::AT_FDCWD, path, flags, mode) }
        }
    )*};
}

opens! { open; open64; }

macro_rules! opens_at {
    ($($name:ident;)*) => {$(
        /// See `openat(2)`.
        ///
        /// # Safety
        ///
        /// As there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
            // SAFETY: passed on.
            unsafe { open_any(dir, path, flags, mode) }
        }
    )*};
}

opens_at! { openat; openat64; }

/// `open` of programs built with `_FORTIFY_SOURCE`.
///
/// # Safety
///
/// As `open` with two arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: passed on.
    unsafe { open_any(libc::AT_FDCWD, path, flags, 0) }
}

/// As `__open_2`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __open64_2(path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: passed on.
    unsafe { open_any(libc::AT_FDCWD, path, flags, 0) }
}

/// `openat` of programs built with `_FORTIFY_SOURCE`.
///
/// # Safety
///
/// As `openat` with three arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: passed on.
    unsafe { open_any(dir, path, flags, 0) }
}

/// As `__openat_2`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __openat64_2(dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: passed on.
    unsafe { open_any(dir, path, flags, 0) }
}

macro_rules! fopens {
    ($($name:ident;)*) => {$(
        /// See `fopen(3)`.
        ///
        /// # Safety
        ///
        /// As there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, mode: *const c_char) -> *mut FILE {
            // SAFETY: null or a C string, says the caller.
            let creates = unsafe { mode.as_ref() }.is_some_and(|&m| m != b'r'.cast_signed());
            // SAFETY: passed on.
            let open = |path| unsafe { real::$name(path, mode) };
            // SAFETY: a C string, says the caller.
            match unsafe { look(path, creates, open, |f| !f.is_null()) } {
                Look::Done(f) => f,
                Look::Instead(f, meaning) => {
                    if let Some(f) = f {
                        // SAFETY: opened just now, in vain.
                        unsafe { libc::fclose(f) };
                    }
                    match meaning {
                        // SAFETY: passed on, with another path.
                        Meaning::File(file) => unsafe { real::$name(file.as_ptr(), mode) },
                        // SAFETY: passed on.
                        _ => unsafe { real::$name(path, mode) },
                    }
                }
            }
        }
    )*};
}

fopens! { fopen; fopen64; }

/// See `opendir(3)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn opendir(path: *const c_char) -> *mut libc::DIR {
    // SAFETY: passed on.
    let open = |path| unsafe { real::opendir(path) };
    // SAFETY: a C string, says the caller.
    match unsafe { look(path, false, open, |d| !d.is_null()) } {
        Look::Done(d) => d,
        Look::Instead(d, meaning) => {
            if let Some(d) = d {
                // SAFETY: opened just now, in vain.
                unsafe { libc::closedir(d) };
            }
            match meaning {
                // SAFETY: passed on, with another path.
                Meaning::File(file) => unsafe { real::opendir(file.as_ptr()) },
                // SAFETY: passed on.
                _ => unsafe { real::opendir(path) },
            }
        }
    }
}

fn device() -> libc::stat64 {
    // SAFETY: all zeros is a value of it.
    let mut st: libc::stat64 = unsafe { std::mem::zeroed() };
    st.st_mode = MODE;
    st.st_nlink = 1;
    st.st_ino = 1;
    st.st_rdev = libc::makedev(MAJOR, MINOR);
    st.st_blksize = 4096;
    st
}

/// # Safety
///
/// As `fstatat`.
unsafe fn stat_any(
    path: *const c_char,
    st: *mut libc::stat64,
    next: impl Fn(*const c_char) -> c_int,
) -> c_int {
    // SAFETY: a C string, says the caller.
    match unsafe { look(path, false, &next, |&n| n == 0) } {
        Look::Done(n) => n,
        Look::Instead(_, Meaning::File(file)) => next(file.as_ptr()),
        Look::Instead(..) if st.is_null() => real::fail(libc::EFAULT),
        Look::Instead(..) => {
            // SAFETY: the caller's room for the answer.
            unsafe { st.write(device()) };
            0
        }
    }
}

// `stat` and `stat64` are the same structure on 64-bit Linux.
const _: () = assert!(size_of::<libc::stat>() == size_of::<libc::stat64>());

macro_rules! stats {
    ($($name:ident, $ty:ty, $next:ident;)*) => {$(
        /// See `stat(2)`.
        ///
        /// # Safety
        ///
        /// As there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(path: *const c_char, st: *mut $ty) -> c_int {
            let st: *mut libc::stat64 = st.cast();
            // SAFETY: passed on.
            unsafe { stat_any(path, st, |p| real::$next(p, st)) }
        }
    )*};
}

stats! { stat, libc::stat, stat64; stat64, libc::stat64, stat64; lstat, libc::stat, lstat64; lstat64, libc::stat64, lstat64; }

macro_rules! stats_at {
    ($($name:ident, $ty:ty;)*) => {$(
        /// See `fstatat(2)`.
        ///
        /// # Safety
        ///
        /// As there.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(dir: c_int, path: *const c_char, st: *mut $ty, flags: c_int) -> c_int {
            let st: *mut libc::stat64 = st.cast();
            // SAFETY: passed on.
            unsafe { stat_any(path, st, |p| real::fstatat64(dir, p, st, flags)) }
        }
    )*};
}

stats_at! { fstatat, libc::stat; fstatat64, libc::stat64; }

/// See `statx(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    st: *mut libc::statx,
) -> c_int {
    // SAFETY: passed on.
    let next = |path| unsafe { real::statx(dir, path, flags, mask, st) };
    // SAFETY: a C string, says the caller.
    match unsafe { look(path, false, next, |&n| n == 0) } {
        Look::Done(n) => n,
        Look::Instead(_, Meaning::File(file)) => next(file.as_ptr()),
        Look::Instead(..) if st.is_null() => real::fail(libc::EFAULT),
        Look::Instead(..) => {
            // SAFETY: all zeros is a value of it.
            let mut answer: libc::statx = unsafe { std::mem::zeroed() };
            answer.stx_mask = libc::STATX_BASIC_STATS;
            answer.stx_mode = u16::try_from(MODE).unwrap_or(0);
            answer.stx_nlink = 1;
            answer.stx_ino = 1;
            answer.stx_blksize = 4096;
            answer.stx_rdev_major = MAJOR;
            answer.stx_rdev_minor = MINOR;
            // SAFETY: the caller's room for the answer.
            unsafe { st.write(answer) };
            0
        }
    }
}

/// # Safety
///
/// As `faccessat`.
unsafe fn access_any(
    path: *const c_char,
    mode: c_int,
    next: impl Fn(*const c_char) -> c_int,
) -> c_int {
    // SAFETY: a C string, says the caller.
    match unsafe { look(path, false, &next, |&n| n == 0) } {
        Look::Done(n) => n,
        Look::Instead(_, Meaning::File(file)) => next(file.as_ptr()),
        Look::Instead(..) if mode & libc::X_OK != 0 => real::fail(libc::EACCES),
        Look::Instead(..) => 0,
    }
}

/// # Safety
///
/// As `euidaccess`.
unsafe fn effective(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: passed on.
    unsafe { real::faccessat(libc::AT_FDCWD, path, mode, libc::AT_EACCESS) }
}

/// See `access(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn access(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: passed on.
    let next = |p| unsafe { real::access(p, mode) };
    // SAFETY: passed on.
    unsafe { access_any(path, mode, next) }
}

/// See `euidaccess(3)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn euidaccess(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: passed on.
    let next = |p| unsafe { effective(p, mode) };
    // SAFETY: passed on.
    unsafe { access_any(path, mode, next) }
}

/// See `eaccess(3)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn eaccess(path: *const c_char, mode: c_int) -> c_int {
    // SAFETY: passed on.
    let next = |p| unsafe { effective(p, mode) };
    // SAFETY: passed on.
    unsafe { access_any(path, mode, next) }
}

/// See `faccessat(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn faccessat(
    dir: c_int,
    path: *const c_char,
    mode: c_int,
    flags: c_int,
) -> c_int {
    // SAFETY: passed on.
    let next = |p| unsafe { real::faccessat(dir, p, mode, flags) };
    // SAFETY: passed on.
    unsafe { access_any(path, mode, next) }
}

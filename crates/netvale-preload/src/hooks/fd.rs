//! Descriptors: closing and doubling them.

use std::ffi::{c_int, c_uint, c_ulong};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::binding::Binding;
use crate::inside::Inside;
use crate::life;
use crate::real;
use crate::table::{self, Entry};

/// Another file takes the place of a registration's, under the same number.
pub(crate) fn exchange(fd: c_int, b: &Binding, with: &OwnedFd) {
    // SAFETY: asks for a flag.
    let cloexec = unsafe { real::fcntl(fd, libc::F_GETFD, 0) } & libc::FD_CLOEXEC != 0;
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: both are open; the old file is given up.
    if unsafe { real::dup3(with.as_raw_fd(), fd, flags) } >= 0 {
        table::set(fd, Entry::Port(b.index));
    }
}

/// Whether the program may not know of it: hidden, and we are not asking
/// ourselves.
fn is_hidden(fd: c_int) -> bool {
    table::entry(fd) == Entry::Hidden && !Inside::is()
}

/// See `close(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close(fd: c_int) -> c_int {
    if table::entry(fd) == Entry::Other || life::is_borrowed() {
        // SAFETY: passed on.
        return unsafe { real::close(fd) };
    }
    if is_hidden(fd) {
        return real::fail(libc::EBADF);
    }
    let parted = life::part(fd);
    // SAFETY: passed on.
    let done = unsafe { real::close(fd) };
    parted.done();
    done
}

/// See `close_range(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let top = table::highest();
    let ours = c_int::try_from(first).is_ok_and(|f| f <= top);
    let only_marks = flags & libc::CLOSE_RANGE_CLOEXEC.cast_signed() != 0;
    if !ours || first > last || only_marks || life::is_borrowed() {
        // SAFETY: passed on.
        return unsafe { real::close_range(first, last, flags) };
    }
    let end = c_int::try_from(last).unwrap_or(c_int::MAX);
    let mut from = c_int::try_from(first).unwrap_or(c_int::MAX);
    let mut parted = Vec::new();
    let mut done = 0;
    let begin = from;
    for fd in begin..=end.min(top) {
        match table::entry(fd) {
            Entry::Other => {}
            Entry::Hidden => {
                // What lies before it; then on behind it.
                if from < fd {
                    // SAFETY: a part of the program's range.
                    done |= unsafe {
                        real::close_range(from.unsigned_abs(), (fd - 1).unsigned_abs(), flags)
                    };
                }
                from = fd + 1;
            }
            Entry::Port(_) | Entry::Epoll(_) => parted.push(life::part(fd)),
        }
    }
    if from.unsigned_abs() <= last {
        // SAFETY: the rest of the program's range.
        done |= unsafe { real::close_range(from.unsigned_abs(), last, flags) };
    }
    parted.into_iter().for_each(life::Parted::done);
    done
}

/// See `closefrom(3)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn closefrom(first: c_int) {
    // SAFETY: passed on.
    unsafe { close_range(first.max(0).unsigned_abs(), c_uint::MAX, 0) };
}

/// See `dup(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup(fd: c_int) -> c_int {
    if is_hidden(fd) {
        return real::fail(libc::EBADF);
    }
    // SAFETY: passed on.
    let new = unsafe { real::dup(fd) };
    if new >= 0 && table::entry(fd) != Entry::Other && !life::is_borrowed() {
        life::duplicate(fd, new);
    }
    new
}

/// Replaces what `new` is; `replace` does it.
fn onto(old: c_int, new: c_int, replace: impl Fn() -> c_int) -> c_int {
    let (a, b) = (table::entry(old), table::entry(new));
    if (a == Entry::Other && b == Entry::Other) || old == new || life::is_borrowed() {
        return replace();
    }
    if a == Entry::Hidden && !Inside::is() {
        return real::fail(libc::EBADF);
    }
    if b == Entry::Hidden {
        // It lies where the program wants to be. It cannot be moved, because
        // its number is in use, and must not be lost.
        return real::fail(libc::EBUSY);
    }
    // SAFETY: asks for flags.
    if unsafe { real::fcntl(old, libc::F_GETFD, 0) } < 0 {
        return -1;
    }
    let parted = life::part(new);
    let done = replace();
    if done >= 0 {
        life::duplicate(old, new);
    }
    parted.done();
    done
}

/// See `dup2(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup2(old: c_int, new: c_int) -> c_int {
    // SAFETY: passed on.
    onto(old, new, || unsafe { real::dup2(old, new) })
}

/// See `dup3(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    // SAFETY: passed on.
    onto(old, new, || unsafe { real::dup3(old, new, flags) })
}

/// See `fcntl(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
    let arg = usize::try_from(arg).unwrap_or(0);
    let was = table::entry(fd);
    if was == Entry::Hidden && !Inside::is() {
        return real::fail(libc::EBADF);
    }
    // SAFETY: passed on.
    let done = unsafe { real::fcntl(fd, command, arg) };
    let doubles = matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC);
    if doubles && done >= 0 && was != Entry::Other && !life::is_borrowed() {
        life::duplicate(fd, done);
    }
    done
}

/// See `fcntl(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fcntl64(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
    // SAFETY: passed on.
    unsafe { fcntl(fd, command, arg) }
}

//! `poll`, `select` and their variants.

use std::ffi::{c_int, c_ulong};
use std::time::Duration;

use libc::{fd_set, nfds_t, pollfd, sigset_t, size_t, timespec, timeval};

use crate::fdset::Sets;
use crate::real;
use crate::table;
use crate::wait::{self, Until};

fn from_ms(ms: c_int) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// A time as the kernel takes it; `Err` if it would not.
pub(super) fn from_timespec(t: Option<&timespec>) -> Result<Option<Duration>, ()> {
    let Some(t) = t else { return Ok(None) };
    match (u64::try_from(t.tv_sec), u32::try_from(t.tv_nsec)) {
        (Ok(s), Ok(ns)) if ns < 1_000_000_000 => Ok(Some(Duration::new(s, ns))),
        _ => Err(()),
    }
}

/// The descriptors of a call, if any of them is ours.
///
/// # Safety
///
/// As `poll`: there are `n` entries.
unsafe fn ours<'a>(fds: *mut pollfd, n: nfds_t) -> Option<&'a mut [pollfd]> {
    if fds.is_null() || table::highest() < 0 {
        return None;
    }
    let n = usize::try_from(n).ok().filter(|&n| n <= 1 << 20)?;
    // SAFETY: as the caller says.
    let fds = unsafe { std::slice::from_raw_parts_mut(fds, n) };
    wait::any(fds).then_some(fds)
}

/// See `poll(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poll(fds: *mut pollfd, n: nfds_t, ms: c_int) -> c_int {
    // The commonest: one registration, which is ready.
    if n == 1
        && table::highest() >= 0
        // SAFETY: there is one entry.
        && let Some(p) = unsafe { fds.as_mut() }
        && let Some(b) = table::port(p.fd)
    {
        p.revents = b.check(p.fd, p.events);
        if p.revents != 0 || ms == 0 {
            return c_int::from(p.revents != 0);
        }
    }
    // SAFETY: passed on.
    let Some(all) = (unsafe { ours(fds, n) }) else {
        // SAFETY: passed on.
        return unsafe { real::poll(fds, n, ms) };
    };
    // SAFETY: no mask.
    unsafe { wait::poll(all, &mut Until::after(from_ms(ms)), std::ptr::null()) }
}

/// See `ppoll(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ppoll(
    fds: *mut pollfd,
    n: nfds_t,
    t: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: passed on.
    let Some(all) = (unsafe { ours(fds, n) }) else {
        // SAFETY: passed on.
        return unsafe { real::ppoll(fds, n, t, mask) };
    };
    // SAFETY: null or a time, as the caller says.
    let Ok(time) = from_timespec(unsafe { t.as_ref() }) else {
        return real::fail(libc::EINVAL);
    };
    // SAFETY: the caller's mask.
    unsafe { wait::poll(all, &mut Until::after(time), mask) }
}

/// `poll` of programs built with `_FORTIFY_SOURCE`.
///
/// # Safety
///
/// As `poll`; `len` is the size of what `fds` points to, in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __poll_chk(fds: *mut pollfd, n: nfds_t, ms: c_int, len: size_t) -> c_int {
    check(n, len);
    // SAFETY: passed on.
    unsafe { poll(fds, n, ms) }
}

/// `ppoll` of programs built with `_FORTIFY_SOURCE`.
///
/// # Safety
///
/// As `ppoll`; `len` is the size of what `fds` points to, in bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __ppoll_chk(
    fds: *mut pollfd,
    n: nfds_t,
    t: *const timespec,
    mask: *const sigset_t,
    len: size_t,
) -> c_int {
    check(n, len);
    // SAFETY: passed on.
    unsafe { ppoll(fds, n, t, mask) }
}

/// An overflow ends the program, as it does in the C library.
fn check(n: nfds_t, len: size_t) {
    if usize::try_from(n).unwrap_or(usize::MAX) > len / size_of::<pollfd>() {
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
}

/// `select`, once a registration is in the sets.
///
/// # Safety
///
/// `mask` is null or a signal mask.
unsafe fn select_of(sets: &Sets, until: &mut Until, mask: *const sigset_t) -> c_int {
    let mut fds = sets.to_poll();
    // SAFETY: the caller's mask.
    let n = unsafe { wait::poll(fds.as_mut(), until, mask) };
    if n < 0 {
        return n;
    }
    match sets.answer(fds.as_mut()) {
        Some(n) => n,
        None => real::fail(libc::EBADF),
    }
}

/// See `select(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn select(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    t: *mut timeval,
) -> c_int {
    let sets = Sets::new(n, [r, w, e]);
    if table::highest() < 0 || !sets.any() {
        // SAFETY: passed on.
        return unsafe { real::select(n, r, w, e, t) };
    }
    // SAFETY: null or a time, as the caller says.
    let time = match unsafe { t.as_ref() } {
        None => None,
        Some(t) => {
            let (Ok(s), Ok(us)) = (u64::try_from(t.tv_sec), u64::try_from(t.tv_usec)) else {
                return real::fail(libc::EINVAL);
            };
            Some(Duration::from_secs(s).saturating_add(Duration::from_micros(us)))
        }
    };
    let mut until = Until::after(time);
    // SAFETY: no mask.
    let n = unsafe { select_of(&sets, &mut until, std::ptr::null()) };
    // Linux writes back what is left.
    // SAFETY: null or a time, as the caller says.
    if let Some(t) = unsafe { t.as_mut() } {
        let left = until.left(Duration::MAX).unwrap_or_default();
        t.tv_sec = left.as_secs().try_into().unwrap_or(0);
        t.tv_usec = left.subsec_micros().into();
    }
    n
}

/// See `pselect(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pselect(
    n: c_int,
    r: *mut fd_set,
    w: *mut fd_set,
    e: *mut fd_set,
    t: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let sets = Sets::new(n, [r, w, e]);
    if table::highest() < 0 || !sets.any() {
        // SAFETY: passed on.
        return unsafe { real::pselect(n, r, w, e, t, mask) };
    }
    // SAFETY: null or a time, as the caller says.
    let Ok(time) = from_timespec(unsafe { t.as_ref() }) else {
        return real::fail(libc::EINVAL);
    };
    // SAFETY: the caller's mask.
    unsafe { select_of(&sets, &mut Until::after(time), mask) }
}

const _: () = assert!(size_of::<nfds_t>() == size_of::<c_ulong>());

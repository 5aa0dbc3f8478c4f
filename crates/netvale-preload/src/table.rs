//! What each descriptor of this process is, to us.

use std::ffi::c_int;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering::*};

use crate::binding::Binding;
use crate::real;

/// Descriptors above this are never ours.
const LIMIT: usize = 1 << 20;
/// Registrations that a process can have open.
const BINDINGS: usize = 1 << 16;

const HIDDEN: u32 = 1;
const FIRST: u32 = 2;
const EPOLL: u32 = 1 << 31;

// Both are untouched, and so take no memory, in processes without netmap.
static TABLE: [AtomicU32; LIMIT] = [const { AtomicU32::new(0) }; LIMIT];
static SLAB: [AtomicPtr<Binding>; BINDINGS] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; BINDINGS];
/// Largest descriptor that was ever ours.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

/// What a descriptor is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// Not ours.
    Other,
    /// Kept open by us; to the program it does not exist.
    Hidden,
    /// A registration, by number.
    Port(u32),
    /// An epoll instance with registrations in it, by number.
    Epoll(u32),
}

#[inline]
fn word(fd: c_int) -> Option<&'static AtomicU32> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// What the descriptor is.
#[inline]
pub(crate) fn entry(fd: c_int) -> Entry {
    match word(fd).map_or(0, |w| w.load(Acquire)) {
        0 => Entry::Other,
        HIDDEN => Entry::Hidden,
        n if n & EPOLL != 0 => Entry::Epoll(n & !EPOLL),
        n => Entry::Port(n - FIRST),
    }
}

/// Whether the table has room for the descriptor.
pub(crate) fn holds(fd: c_int) -> bool {
    word(fd).is_some()
}

/// Notes what the descriptor is from now on.
pub(crate) fn set(fd: c_int, entry: Entry) {
    let Some(word) = word(fd) else { return };
    let n = match entry {
        Entry::Other => 0,
        Entry::Hidden => HIDDEN,
        Entry::Port(i) => i + FIRST,
        Entry::Epoll(i) => i | EPOLL,
    };
    if n != 0 {
        HIGHEST.fetch_max(fd, AcqRel);
    }
    word.store(n, Release);
}

/// Largest descriptor that was ever ours; -1 if none was.
#[inline]
pub(crate) fn highest() -> c_int {
    HIGHEST.load(Acquire)
}

/// The registration of a descriptor.
#[inline]
pub(crate) fn port(fd: c_int) -> Option<&'static Binding> {
    match entry(fd) {
        Entry::Port(i) => binding(i),
        _ => None,
    }
}

/// A registration by number.
#[inline]
pub(crate) fn binding(i: u32) -> Option<&'static Binding> {
    let at = SLAB.get(i as usize)?.load(Acquire);
    // SAFETY: null, or a box that was leaked into the slab for good.
    unsafe { at.as_ref() }
}

/// All registrations that there ever were.
pub(crate) fn bindings() -> impl Iterator<Item = &'static Binding> {
    (0..).map_while(binding)
}

/// Puts a new registration into the slab. The caller holds the lock of all
/// lives.
pub(crate) fn add(make: impl FnOnce(u32) -> Binding) -> Option<&'static Binding> {
    let i = SLAB.iter().position(|p| p.load(Acquire).is_null())?;
    let new = Box::into_raw(Box::new(make(u32::try_from(i).ok()?)));
    SLAB[i].store(new, Release);
    // SAFETY: leaked just now.
    unsafe { new.as_ref() }
}

/// Moves a descriptor that we keep for ourselves out of the program's way: to
/// a high number that programs do not count on, and hides it.
pub(crate) fn hide(fd: OwnedFd) -> OwnedFd {
    let raw = fd.into_raw_fd();
    let high = move_high(raw).unwrap_or(raw);
    set(high, Entry::Hidden);
    // SAFETY: ours, from `raw` or made just now.
    unsafe { OwnedFd::from_raw_fd(high) }
}

/// Moves a descriptor to a high number; `None` if there is none.
pub(crate) fn move_high(fd: RawFd) -> Option<RawFd> {
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(1024);
    // Near the top, but nowhere near the end of our table.
    let floor = soft.min(1 << 19).saturating_sub(soft.min(1 << 19) / 4);
    let high = dup_above(fd, usize::try_from(floor).unwrap_or(0))?;
    // SAFETY: the old number is ours and nobody else's.
    unsafe { real::close(fd) };
    Some(high)
}

/// A duplicate with a number of at least `floor`, closed on exec.
pub(crate) fn dup_above(fd: RawFd, floor: usize) -> Option<RawFd> {
    let was = real::errno();
    // SAFETY: makes a new descriptor and touches nothing.
    let new = unsafe { real::fcntl(fd, libc::F_DUPFD_CLOEXEC, floor) };
    real::set_errno(was);
    (new >= 0 && holds(new)).then_some(new)
}

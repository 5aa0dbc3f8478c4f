//! Mappings of regions: a mapping keeps its registration alive.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::*};

use crate::binding::Binding;
use crate::inside::Inside;
use crate::lock::Lock;
use crate::{life, table};

/// A mapping, or what is left of it.
struct Mapping {
    start: usize,
    end: usize,
    binding: u32,
}

static MAPPINGS: Lock<Vec<Mapping>> = Lock::new(Vec::new());
/// How many there are: most programs never have any.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether there are any.
#[inline]
pub(crate) fn any() -> bool {
    COUNT.load(Acquire) > 0
}

pub(crate) fn before_fork() {
    MAPPINGS.hold();
}

pub(crate) fn after_fork() {
    MAPPINGS.release_held();
}

/// A region has been mapped through this descriptor.
pub(crate) fn add(start: usize, len: usize, b: &'static Binding, fd: RawFd) {
    let _inside = Inside::enter();
    {
        let _life = life::lock();
        life::retain(b);
        if b.spare.load(Acquire) < 0
            && let Some(dup) = table::dup_above(fd, 3)
        {
            // SAFETY: made just now.
            let hidden = table::hide(unsafe { OwnedFd::from_raw_fd(dup) });
            b.spare
                .store(std::os::fd::IntoRawFd::into_raw_fd(hidden), Release);
        }
    }
    let mut all = MAPPINGS.lock();
    all.push(Mapping {
        start,
        end: start.saturating_add(len),
        binding: b.index,
    });
    COUNT.store(all.len(), Release);
}

/// A range of addresses is not what it was any more.
pub(crate) fn remove(start: usize, len: usize) {
    let end = start.saturating_add(len);
    let _inside = Inside::enter();
    loop {
        // One at a time: nothing of ours is called with the lock held.
        let Some(gone) = cut(start, end) else { return };
        let Some(b) = table::binding(gone) else {
            return;
        };
        let last = !MAPPINGS.lock().iter().any(|m| m.binding == gone);
        if last {
            life::refresh(b);
            b.before_last();
            let spare = b.spare.swap(-1, AcqRel);
            if spare >= 0 {
                table::set(spare, table::Entry::Other);
                // SAFETY: ours, and nobody has it any more.
                drop(unsafe { OwnedFd::from_raw_fd(spare) });
            }
        }
        life::release(b);
    }
}

/// Cuts a range out of the mappings; the binding of one that is gone entirely.
fn cut(start: usize, end: usize) -> Option<u32> {
    let mut all = MAPPINGS.lock();
    let mut i = 0;
    while i < all.len() {
        let (s, e, binding) = (all[i].start, all[i].end, all[i].binding);
        if end <= s || e <= start {
            i += 1;
            continue;
        }
        match (s < start, end < e) {
            (false, false) => {
                all.swap_remove(i);
                COUNT.store(all.len(), Release);
                return Some(binding);
            }
            (true, false) => all[i].end = start,
            (false, true) => all[i].start = end,
            (true, true) => {
                // A hole: two pieces, of which each keeps the registration.
                all[i].end = start;
                all.push(Mapping {
                    start: end,
                    end: e,
                    binding,
                });
                COUNT.store(all.len(), Release);
                if let Some(b) = table::binding(binding) {
                    life::retain(b);
                }
            }
        }
        i += 1;
    }
    None
}

/// A mapping has moved.
pub(crate) fn moved(from: usize, old: usize, to: usize, new: usize) {
    let _inside = Inside::enter();
    let found = {
        let all = MAPPINGS.lock();
        let m = all.iter().find(|m| m.start <= from && from < m.end);
        m.and_then(|m| table::binding(m.binding))
    };
    let Some(b) = found else { return };
    let spare = b.spare.load(Acquire);
    if spare >= 0 {
        // SAFETY: ours; stays open, because the mapping is still noted.
        let fd = unsafe { BorrowedFd::borrow_raw(spare) };
        add(to, new, b, std::os::fd::AsRawFd::as_raw_fd(&fd));
    }
    if old > 0 && from != to {
        remove(from, old);
    }
}

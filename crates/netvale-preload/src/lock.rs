//! A lock that a forked child can throw away, and that allocates nothing.

use std::cell::UnsafeCell;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netvale_shm::futex;

use crate::inside;

const FREE: u32 = 0;
const HELD: u32 = 1;

/// A sleeper looks up this often. Freeing a lock is a plain store, which saves
/// a locked instruction in every sync; so a sleeper that comes just then may
/// not be seen.
const LOOK_UP: Duration = Duration::from_millis(1);

/// A mutual exclusion lock.
pub(crate) struct Lock<T> {
    word: AtomicU32,
    /// The thread that has taken it last, by a number of its own.
    holder: AtomicUsize,
    /// Threads that sleep.
    waiters: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through a guard only, one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self {
            word: AtomicU32::new(FREE),
            holder: AtomicUsize::new(0),
            waiters: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&self) -> Guard<'_, T> {
        self.hold();
        Guard(self)
    }

    /// The same, but gives up in the end, and at once if it is this thread
    /// that holds it: then a signal's handler has interrupted it.
    pub(crate) fn lock_within(&self, time: Duration) -> Option<Guard<'_, T>> {
        let ours = || self.holder.load(Ordering::Relaxed) == inside::thread();
        let taken = self.try_take() || (!ours() && self.wait_until(Some(time)));
        // Not `then_some`: a guard that is made and dropped frees the lock.
        taken.then(|| Guard(self))
    }

    /// Takes the lock without a guard: [`Lock::release_held`] frees it.
    pub(crate) fn hold(&self) {
        if !self.try_take() {
            self.wait_until(None);
        }
    }

    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.try_take().then(|| Guard(self))
    }

    #[inline]
    fn try_take(&self) -> bool {
        let taken = self
            .word
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if taken {
            self.holder.store(inside::thread(), Ordering::Relaxed);
        }
        taken
    }

    /// Whether it was taken in time.
    #[cold]
    fn wait_until(&self, time: Option<Duration>) -> bool {
        for _ in 0..100 {
            std::hint::spin_loop();
            if self.try_take() {
                return true;
            }
        }
        let end = time.map(|t| Instant::now() + t);
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let taken = loop {
            if self.try_take() {
                break true;
            }
            let left = end.map_or(LOOK_UP, |e| e.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break false;
            }
            futex::wait(&self.word, HELD, Some(left.min(LOOK_UP)));
        };
        self.waiters.fetch_sub(1, Ordering::SeqCst);
        taken
    }

    #[inline]
    fn unlock(&self) {
        self.word.store(FREE, Ordering::Release);
        if self.waiters.load(Ordering::Relaxed) != 0 {
            futex::wake(&self.word, 1);
        }
    }

    /// Frees a lock that was taken by [`Lock::hold`].
    pub(crate) fn release_held(&self) {
        self.unlock();
    }

    /// What is behind it, while it is held by [`Lock::hold`].
    ///
    /// # Safety
    ///
    /// The caller holds it, and uses nothing else to get at the value.
    pub(crate) unsafe fn peek(&self) -> &T {
        // SAFETY: as the caller says.
        unsafe { &*self.value.get() }
    }

    /// Makes the lock free whoever holds it, and puts another value in. The old
    /// one is dropped unless somebody was in the middle of changing it.
    ///
    /// # Safety
    ///
    /// No other thread of this process uses it: those that did were left
    /// behind in the parent.
    pub(crate) unsafe fn renew(&self, value: T) {
        let whole = self.word.load(Ordering::Acquire) == FREE;
        // SAFETY: nobody else uses it, says the caller.
        let old = unsafe { self.value.get().replace(value) };
        self.waiters.store(0, Ordering::Relaxed);
        self.word.store(FREE, Ordering::Release);
        if whole {
            drop(old);
        } else {
            let _ = ManuallyDrop::new(old);
        }
    }
}

/// The lock is held.
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: we hold the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: we hold the lock.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.0.unlock();
    }
}

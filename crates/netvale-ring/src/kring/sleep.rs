//! Where a ring's sleeper says that it must be woken.

use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use netvale_shm::futex_half;

use crate::world::Waker;

/// Nobody sleeps.
pub const AWAKE: u32 = 0;
/// Someone sleeps on the word itself (futex).
pub const FUTEX: u32 = 1;
/// Added to an owner's identifier: its doorbell is to be rung.
pub const BELL: u32 = 2;

/// In a sleep word, beside the value: see [`SleepWord::announce_for_frames`].
const FRAMES_ONLY: u64 = 1 << 32;

/// Where a sleeper says that it must be woken. There is room for one.
#[derive(Debug, Clone, Copy)]
pub struct SleepWord<'a>(&'a AtomicU64);

impl<'a> SleepWord<'a> {
    #[inline]
    pub(super) fn new(word: &'a AtomicU64) -> Self {
        Self(word)
    }

    /// Announces a sleeper, and wakes whoever was announced before: that one
    /// must look again and announce itself anew. The caller looks for work
    /// once more before it sleeps.
    ///
    /// Those who sleep on the word itself ([`FUTEX`]) are woken
    /// together and do not displace each other: `false` if there are others.
    /// Who takes the announcement back then has to wake them.
    #[expect(clippy::cast_possible_truncation, reason = "values fit")]
    pub fn announce(self, value: u32, waker: &dyn Waker) -> bool {
        let displaced = self.0.swap(u64::from(value), SeqCst) as u32;
        if displaced == value {
            return value != FUTEX;
        }
        if displaced != AWAKE {
            waker.wake(self.futex(), displaced);
        }
        true
    }
    /// The same for one who need not hear of slots that came back, only of
    /// frames that are to be passed on ([`crate::forward`]). Not for those who
    /// sleep on the word.
    #[expect(clippy::cast_possible_truncation, reason = "values fit")]
    pub fn announce_for_frames(self, value: u32, waker: &dyn Waker) {
        let displaced = self.0.swap(u64::from(value) | FRAMES_ONLY, SeqCst) as u32;
        if displaced != value && displaced != AWAKE {
            waker.wake(self.futex(), displaced);
        }
    }
    /// Whether [`SleepWord::announce_for_frames`] announced who is there.
    pub(crate) fn is_for_frames(self) -> bool {
        self.0.load(SeqCst) & FRAMES_ONLY != 0
    }
    /// Takes an announcement back. `false` if the place is another's by now,
    /// who keeps it.
    pub fn disarm(self, value: u32) -> bool {
        let (own, awake) = (u64::from(value), u64::from(AWAKE));
        let take = |own| self.0.compare_exchange(own, awake, Relaxed, Relaxed);
        match take(own) {
            Ok(_) => true,
            Err(now) if now == own | FRAMES_ONLY => {
                take(now).map_or_else(|now| now == awake, |_| true)
            }
            Err(now) => now == awake,
        }
    }
    /// After publishing with a barrier: who must be woken, if anyone.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "values fit")]
    pub fn take(self) -> Option<u32> {
        if self.0.load(SeqCst) == u64::from(AWAKE) {
            return None;
        }
        let v = self.0.swap(u64::from(AWAKE), SeqCst) as u32;
        (v != AWAKE).then_some(v)
    }
    /// After publishing with a barrier: wakes whoever sleeps, if anyone does.
    #[inline]
    pub fn wake(self, waker: &dyn Waker) {
        if let Some(said) = self.take()
            && !waker.try_wake(self.futex(), said)
        {
            // It sleeps on: whoever publishes next tries again.
            let (awake, said) = (u64::from(AWAKE), u64::from(said));
            let _ = self.0.compare_exchange(awake, said, SeqCst, Relaxed);
        }
    }
    /// The half of the word that a futex sleeps on: for the kernel to look at,
    /// not for us.
    #[must_use]
    pub fn futex(self) -> &'a AtomicU32 {
        futex_half(self.0)
    }
}

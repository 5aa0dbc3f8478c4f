//! Reservations: how several senders, any of which may die at any
//! instruction, fill one ring.
//!
//! A ring has one *reservation word*, which holds the position up to which
//! slots are given out and describes the last reservation completely (owner,
//! length), and one *record word* per slot, of which the one at a
//! reservation's first slot describes that reservation:
//!
//! ```text
//!   resv   [ pos | owner | n | open ]      one compare-exchange per batch
//!   rec[k] [ lap | owner | n | done ]      k = first slot of the reservation
//!
//!   rhead            collected            given out               rhead
//!     |--- receiver's ---|--- being filled ---|------- free -------|
//!                    rec.start               pos
//! ```
//!
//! 1. A sender *reserves* `n` slots by one compare-exchange on the reservation
//!    word. Before that it writes down the record of the reservation that the
//!    word describes (if its owner has not done so yet), so that the owner of
//!    every slot given out can be found at every instant: it is either in the
//!    word or in a record. No lock is held, nobody waits for anybody.
//! 2. It fills the slots, and *publishes* by storing `done` in the record.
//! 3. The receiver *collects*: it walks the records from where it was, as far
//!    as they are done.
//! 4. If a sender dies, *repair* walks the same records and completes those of
//!    the dead with empty slots.
//!
//! A reservation may be shown piece by piece (`done` grows). Its slots are given
//! back to the senders only when all of it is done: a later reservation that
//! began at the same slot would write over its record.
//!
//! One record per batch, instead of a mark per slot, means fewer cache lines
//! that travel between sender and receiver besides the slots themselves.

#![expect(
    clippy::cast_possible_truncation,
    reason = "bit fields are cut out of words"
)]

mod quick;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::pos::{Pos, lap_age, lap_before};

/// Attempts before a reservation is given up. Each failure means that another
/// sender succeeded in between, so this is never reached in practice; it
/// bounds the loop against a peer that keeps scribbling over the word.
const MAX_TRIES: u32 = 10_000;

/// Walks over a ring's records before the walker gives up: each new try starts
/// where the receiver is by then, and it cannot pass what the walker looks for.
const MAX_WALKS: u32 = 1000;

/// Laps between two sweeps of old records. Lap numbers come round again after
/// 2^20 laps, and a record stays until another reservation begins at its slot:
/// without sweeping, an old one could one day be taken for a new one.
const SWEEP: u32 = 1 << 17;

/// Times that writing a record down is tried: it fails only if someone else
/// wrote that record, and all but a sweep leave what was wanted.
const HELP_TRIES: u32 = 4;

/// A 64-bit word in shared memory. Implemented for the core atomic, and for
/// the model checker's in tests.
pub trait Word {
    /// Atomic load.
    fn load(&self, order: Ordering) -> u64;
    /// Atomic store.
    fn store(&self, value: u64, order: Ordering);
    /// Atomic exchange.
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// Atomic compare-exchange (success, failure ordering).
    ///
    /// # Errors
    ///
    /// The value found, if it was not `current`.
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }
    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        Self::store(self, value, order);
    }
    #[inline]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        Self::swap(self, value, order)
    }
    #[inline]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        Self::compare_exchange(self, current, new, success, failure)
    }
}

/// The words of one ring's reservations.
#[derive(Debug)]
pub struct Resv<'a, W> {
    /// The reservation word. Written by senders, by compare-exchange.
    pub word: &'a W,
    /// One record word per slot. Written by senders.
    pub recs: &'a [W],
    /// Position up to which the receiver has given slots back: whole
    /// reservations only, because a record's slot must not begin another
    /// reservation before it is done with. Written by the receiver only.
    pub rhead: &'a W,
}

impl<W> Clone for Resv<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for Resv<'_, W> {}

/// A run of slots that belongs to one sender until it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// First slot.
    pub start: Pos,
    /// Slots, 1..=4095.
    pub n: u32,
    /// Who must publish it.
    pub owner: u16,
}

/// Why no slots were given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The caller's choice was no slots: nothing that it has fits.
    Full,
    /// The ring is closed: its port is gone or going.
    Closed,
    /// The words contradict each other: a peer has written over them.
    Fault,
}

/// How far a receiver's collection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// First slot of the reservation to look at next.
    pub start: Pos,
    /// First slot not yet published; inside that reservation, or at its start.
    pub tail: Pos,
}

/// What a collection found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Collected {
    /// Where to go on next time.
    pub cursor: Cursor,
    /// A record contradicted the others; collection stopped before it.
    pub fault: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    pos: Pos,
    owner: u16,
    n: u32,
    open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rec {
    lap: u32,
    owner: u16,
    n: u32,
    done: u32,
}

impl<'a, W: Word> Resv<'a, W> {
    /// Opens a closed (or fresh, all-zero) ring: nothing reserved, nothing to
    /// read. Returns the receiver's first cursor.
    pub fn open(self) -> Cursor {
        let old = Head::from_bits(self.word.load(Ordering::Relaxed));
        let pos = old.pos.next_lap();
        // What the ring's earlier lives left, with whatever lap.
        self.sweep(pos.lap(), 1);
        self.rhead.store(u64::from(pos.bits()), Ordering::Relaxed);
        let head = Head {
            pos,
            owner: 0,
            n: 0,
            open: true,
        };
        self.word.store(head.bits(), Ordering::Release);
        Cursor {
            start: pos,
            tail: pos,
        }
    }

    /// Closes the ring: no reservation succeeds any more. Those that were
    /// given out stay valid until their owners publish them.
    pub fn close(self) {
        for _ in 0..MAX_TRIES {
            let word = self.word.load(Ordering::Acquire);
            let mut head = Head::from_bits(word);
            if !head.open {
                return;
            }
            head.open = false;
            let new = head.bits();
            let (ok, fail) = (Ordering::AcqRel, Ordering::Relaxed);
            if self.word.compare_exchange(word, new, ok, fail).is_ok() {
                return;
            }
        }
    }

    /// Whether reservations are possible.
    #[inline]
    pub fn is_open(self) -> bool {
        Head::from_bits(self.word.load(Ordering::Acquire)).open
    }

    /// Position up to which slots are given out.
    #[inline]
    pub fn given_out(self) -> Pos {
        Head::from_bits(self.word.load(Ordering::Acquire)).pos
    }

    /// Reserves slots for `owner`. `choose` is told how many are free and says
    /// how many to take (it may be called again with another number).
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing was changed.
    #[inline]
    pub fn reserve(self, owner: u16, mut choose: impl FnMut(u32) -> u32) -> Result<Lease, Refused> {
        let slots = self.slots();
        for _ in 0..MAX_TRIES {
            // Pairs with the compare-exchange of the sender before us: its
            // reservation is complete in the word.
            let word = self.word.load(Ordering::Acquire);
            let head = Head::from_bits(word);
            if !head.open {
                return Err(Refused::Closed);
            }
            // Pairs with the receiver's Release store of `rhead`: it no longer
            // reads the slots that it gave back.
            let rhead = self.rhead();
            let used = rhead.distance(head.pos, slots);
            if used >= slots || head.pos.idx() >= slots {
                // Or the ring has moved on between the two loads.
                if self.word.load(Ordering::Acquire) != word {
                    continue;
                }
                return Err(Refused::Fault);
            }
            let free = slots - 1 - used;
            let n = choose(free).min(free);
            if n == 0 {
                return Err(Refused::Full);
            }
            self.write_down(head);
            let new = Head {
                pos: head.pos.add(n, slots),
                owner,
                n,
                open: true,
            };
            // AcqRel: what we wrote down is visible to whoever sees our word.
            let (ok, fail) = (Ordering::AcqRel, Ordering::Relaxed);
            if self
                .word
                .compare_exchange(word, new.bits(), ok, fail)
                .is_ok()
            {
                return Ok(Lease {
                    start: head.pos,
                    n,
                    owner,
                });
            }
        }
        Err(Refused::Fault)
    }

    /// Makes the first `done <= lease.n` slots of a lease visible.
    ///
    /// With `last`, also orders a following load of the receiver's sleep word
    /// after it (so that either the receiver sees the slots or we see that it
    /// sleeps).
    #[inline]
    pub fn publish(self, lease: Lease, done: u32, last: bool) {
        let Some(word) = self.recs.get(lease.start.idx() as usize) else {
            return;
        };
        let rec = Rec {
            lap: lease.start.lap(),
            owner: lease.owner,
            n: lease.n,
            done,
        };
        if last {
            // An exchange is a full barrier on every machine we know and
            // cheaper than a store and a fence.
            word.swap(rec.bits(), Ordering::SeqCst);
        } else {
            word.store(rec.bits(), Ordering::Release);
        }
    }

    /// Walks the records from `cursor` as far as they are done. Never passes
    /// what the ring can hold, whatever the words say.
    #[inline]
    pub fn collect(self, cursor: Cursor) -> Collected {
        self.collect_each(cursor, |_| {})
    }

    /// The same; calls `whole` with the first slot of each reservation that is
    /// done.
    #[inline]
    pub fn collect_each(self, cursor: Cursor, mut whole: impl FnMut(Pos)) -> Collected {
        let slots = self.slots();
        let mut at = cursor;
        let held = self.rhead().distance(at.start, slots);
        if held >= slots || at.start.idx() >= slots {
            return Collected {
                cursor,
                fault: true,
            };
        }
        let mut room = slots - 1 - held;
        // What was shown of the first reservation is not taken back.
        let mut shown = at.start.distance(at.tail, slots);
        while room > 0 {
            let Some(word) = self.recs.get(at.start.idx() as usize) else {
                break;
            };
            // Pairs with `publish`: the slots counted in `done` are filled.
            // SeqCst: see `publish`, the receiver's side of it.
            let rec = Rec::from_bits(word.load(Ordering::SeqCst));
            if rec.lap != at.start.lap() {
                break;
            }
            if rec.n == 0 || rec.n > room || rec.done > rec.n || rec.done < shown {
                return Collected {
                    cursor: at,
                    fault: true,
                };
            }
            shown = 0;
            at.tail = at.start.add(rec.done, slots);
            if rec.done < rec.n {
                break;
            }
            whole(at.start);
            if at.tail.lap() != at.start.lap() && at.tail.lap().is_multiple_of(SWEEP) {
                self.sweep(at.tail.lap(), 0);
            }
            at.start = at.tail;
            room -= rec.n;
        }
        Collected {
            cursor: at,
            fault: false,
        }
    }

    /// Calls `empty` for every slot that `dead` says belongs to a dead owner
    /// and was not published, then publishes those reservations. Returns how
    /// many slots that were. Only one repairer may run at a time; senders and
    /// the receiver (whose `cursor` is read anew for each try) go on meanwhile.
    pub fn repair(
        self,
        cursor: impl Fn() -> Cursor,
        mut dead: impl FnMut(u16) -> bool,
        mut empty: impl FnMut(u32),
    ) -> u32 {
        let mut repaired = 0;
        for _ in 0..MAX_WALKS {
            let whole = self.walk(cursor(), |lease, done| {
                if done < lease.n && dead(lease.owner) {
                    for k in done..lease.n {
                        empty(lease.start.add(k, self.slots()).idx());
                        repaired += 1;
                    }
                    self.publish(lease, lease.n, true);
                }
            });
            if whole {
                break;
            }
        }
        repaired
    }

    /// Slots given out and not published, by anyone.
    pub fn outstanding(self, cursor: impl Fn() -> Cursor) -> u32 {
        let mut left = 0;
        for _ in 0..MAX_WALKS {
            left = 0;
            if self.walk(cursor(), |lease, done| left += lease.n - done) {
                break;
            }
        }
        left
    }

    /// Calls `f` for each reservation from `cursor` on with what of it is done.
    /// `false` if it lost the way, because the ring moved on under it: then
    /// what lay before was done, and a newer cursor gets further.
    fn walk(self, cursor: Cursor, mut f: impl FnMut(Lease, u32)) -> bool {
        let slots = self.slots();
        let head = Head::from_bits(self.word.load(Ordering::Acquire));
        self.write_down(head);
        let mut start = cursor.start;
        let mut left = start.distance(head.pos, slots);
        if left >= slots || start.idx() >= slots {
            return false;
        }
        while left > 0 {
            let Some(word) = self.recs.get(start.idx() as usize) else {
                return false;
            };
            let rec = Rec::from_bits(word.load(Ordering::Acquire));
            if rec.lap != start.lap() || rec.n == 0 || rec.n > left || rec.done > rec.n {
                return false;
            }
            let lease = Lease {
                start,
                n: rec.n,
                owner: rec.owner,
            };
            f(lease, rec.done);
            start = start.add(rec.n, slots);
            left -= rec.n;
        }
        true
    }

    /// Writes the record of the reservation that the word describes, unless
    /// its owner, or another helper, has.
    #[inline]
    fn write_down(self, head: Head) {
        let slots = self.slots();
        if head.n == 0 || head.n >= slots || head.pos.idx() >= slots {
            return;
        }
        let start = head.pos.sub(head.n, slots);
        let Some(word) = self.recs.get(start.idx() as usize) else {
            return;
        };
        let rec = Rec {
            lap: start.lap(),
            owner: head.owner,
            n: head.n,
            done: 0,
        };
        for _ in 0..HELP_TRIES {
            let found = word.load(Ordering::Relaxed);
            // Only over a record of an earlier lap: a helper that slept
            // through whole laps must not bury what came later.
            if !lap_before(Rec::from_bits(found).lap, start.lap()) {
                return;
            }
            // Fails if the owner published meanwhile, which is as good.
            let (ok, fail) = (Ordering::Release, Ordering::Relaxed);
            if word.compare_exchange(found, rec.bits(), ok, fail).is_ok() {
                return;
            }
        }
    }

    /// Replaces records that are not from `least` to [`SWEEP`] laps older than
    /// `lap` by empty ones of the lap before.
    #[cold]
    fn sweep(self, lap: u32, least: u32) {
        let empty = Rec {
            lap: Pos::new(lap.wrapping_sub(1), 0).lap(),
            owner: 0,
            n: 0,
            done: 0,
        };
        for word in self.recs {
            let found = word.load(Ordering::Relaxed);
            let age = lap_age(Rec::from_bits(found).lap, lap);
            if age < least || age > SWEEP {
                // Fails if a sender wrote it meanwhile: then it is new.
                let (ok, fail) = (Ordering::Relaxed, Ordering::Relaxed);
                let _ = word.compare_exchange(found, empty.bits(), ok, fail);
            }
        }
    }

    #[inline]
    fn rhead(self) -> Pos {
        Pos::from_bits(self.rhead.load(Ordering::Acquire) as u32)
    }

    #[inline]
    fn slots(self) -> u32 {
        self.recs.len() as u32
    }
}

impl Head {
    const OPEN: u64 = 1 << 60;

    #[inline]
    const fn bits(self) -> u64 {
        let open = if self.open { Self::OPEN } else { 0 };
        self.pos.bits() as u64 | (self.owner as u64) << 32 | (self.n as u64 & 0xfff) << 48 | open
    }

    #[inline]
    const fn from_bits(bits: u64) -> Self {
        Self {
            pos: Pos::from_bits(bits as u32),
            owner: (bits >> 32) as u16,
            n: (bits >> 48) as u32 & 0xfff,
            open: bits & Self::OPEN != 0,
        }
    }
}

impl Rec {
    #[inline]
    const fn bits(self) -> u64 {
        self.lap as u64
            | (self.owner as u64) << 20
            | (self.n as u64 & 0xfff) << 36
            | (self.done as u64 & 0xfff) << 48
    }

    #[inline]
    const fn from_bits(bits: u64) -> Self {
        Self {
            lap: bits as u32 & 0xf_ffff,
            owner: (bits >> 20) as u16,
            n: (bits >> 36) as u32 & 0xfff,
            done: (bits >> 48) as u32 & 0xfff,
        }
    }
}

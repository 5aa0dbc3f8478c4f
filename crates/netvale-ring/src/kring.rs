//! The hidden state of a ring, in memory that only trusted parties map.

pub mod sleep;

use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use netvale_shm::{Array, Mem};

pub use sleep::SleepWord;

use crate::layout::{KRING_HEAD, KRING_WORDS};
use crate::offsets::Offsets;
use crate::pos::{MAX_SLOTS, Pos};
use crate::resv::{Cursor, Lease, Resv};

/// Identifies a ring of any port, in the whole namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KringId(pub u32);

/// Words of a kring, by index. Each group of eight is a cache line of its own.
///
/// | line | words | written by |
/// |---|---|---|
/// | 0 | geometry, peer, monitor links | control plane |
/// | 1 | reservation word, drops | senders (atomically) |
/// | 2 | `rhead`, sleep word | receiver; sleep word also cleared by wakers |
/// | 3 | lock, receiver's or sender's cursor, arrivals | holder of the lock |
/// | 4, 5 | counters | holder of the lock |
/// | 6 | offsets of frames in their buffers | control plane |
///
/// After these 64 words come one reservation record a slot and one sum a slot
/// (frames and bytes of the reservation that begins there), both written by
/// senders.
mod word {
    pub(super) const GEN: usize = 0;
    pub(super) const GEOM: usize = 1;
    pub(super) const OFS: usize = 2;
    pub(super) const PORT: usize = 3;
    pub(super) const PEER: usize = 4;
    pub(super) const MON_HEAD: usize = 5;
    pub(super) const MON_NEXT_TX: usize = 6;
    pub(super) const MON_NEXT_RX: usize = 7;
    pub(super) const RESV: usize = 8;
    pub(super) const IN_FRAMES: usize = 28;
    pub(super) const IN_BYTES: usize = 29;
    pub(super) const DROP_FULL: usize = 11;
    pub(super) const DROP_FAULT: usize = 12;
    pub(super) const RHEAD: usize = 16;
    pub(super) const SLEEP: usize = 17;
    pub(super) const LOCK: usize = 24;
    pub(super) const CURSOR: usize = 25;
    pub(super) const HW: usize = 26;
    pub(super) const FLAGS: usize = 27;
    pub(super) const COUNTERS: usize = 32;
    pub(super) const OFFSET_MASK: usize = 48;
    pub(super) const OFFSET_MAX: usize = 49;
}

/// In the geometry word: slots may begin behind their buffer's first byte.
const HAS_OFFSETS: u64 = 1 << 31;

/// In the flags word of a monitor's ring: it takes buffers, not copies.
const ZCOPY: u64 = 1;
/// In the flags word of a monitor's ring: what it watched is gone.
const GONE: u64 = 2;

/// Counters kept by the holder of a ring's lock, by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Frames that left this TX ring (dropped ones included).
    Frames = 0,
    /// Their bytes.
    Bytes,
    /// Syncs that moved something.
    Syncs,
    /// Frames dropped: a slot named no buffer or a length beyond it.
    DropSlot,
    /// Frames dropped: more than 64 slots, or cut off by the end of the batch.
    DropChain,
    /// Frames dropped: shorter than an Ethernet header.
    DropRunt,
    /// Frames dropped: nobody to send to.
    DropNoDest,
    /// Frames dropped: their offload request contradicts their headers.
    DropOffload,
    /// Syncs whose ring words broke the rules; nothing moved.
    FaultWords,
    /// Contradictions found in shared hidden state.
    FaultState,
    /// Nanoseconds spent moving this ring's frames. At a TX ring that serves a
    /// device: whole rounds in which something moved, either way.
    CpuNs,
    /// Frames flooded to all ports.
    Flooded,
}

impl Counter {
    /// Every counter that explains a drop, with the word shown to users.
    pub const DROPS: [(Self, &'static str); 5] = [
        (Self::DropSlot, "tx_bad_slot"),
        (Self::DropChain, "tx_chain"),
        (Self::DropRunt, "tx_runt"),
        (Self::DropNoDest, "tx_no_dest"),
        (Self::DropOffload, "tx_offload"),
    ];
}

/// What a kring says about where its ring lies. Anything, until checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geom {
    /// Region's identifier.
    pub region: u16,
    /// Slots.
    pub slots: u32,
    /// The region's generation: identifiers are used again.
    pub region_gen: u32,
    /// Byte offset of the ring in the region.
    pub ofs: usize,
}

/// A view of one ring's hidden state.
#[derive(Debug, Clone, Copy)]
pub struct Kring<'a> {
    id: KringId,
    words: &'a [AtomicU64; KRING_WORDS],
}

/// A kring whose place was checked once.
#[derive(Debug, Clone)]
pub struct KringWindow {
    id: KringId,
    words: Array<KRING_WORDS>,
}

impl KringWindow {
    /// The kring at byte offset `ofs`; `None` if it is not inside.
    #[must_use]
    pub fn at(id: KringId, mem: &Mem, ofs: usize) -> Option<Self> {
        Some(Self {
            id,
            words: mem.array_window(ofs)?,
        })
    }

    /// The view.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Kring<'_> {
        Kring {
            id: self.id,
            words: &self.words,
        }
    }
}

impl<'a> Kring<'a> {
    /// The kring at byte offset `ofs`; `None` if it is not inside.
    #[inline]
    #[must_use]
    pub fn at(id: KringId, mem: &'a Mem, ofs: usize) -> Option<Self> {
        Some(Self {
            id,
            words: mem.array(ofs)?,
        })
    }

    /// Counts how often the ring was made: with other contents each time.
    #[inline]
    #[must_use]
    pub fn generation(self) -> u64 {
        self.words[word::GEN].load(Acquire)
    }

    /// Its identifier.
    #[inline]
    #[must_use]
    pub fn id(self) -> KringId {
        self.id
    }

    /// Sets the geometry of a ring that is being made, and clears the rest.
    /// Records and the reservation word are kept: laps go on.
    pub fn init(self, port: u32, ring: u16, g: Geom) {
        let kept = [word::GEN, word::RESV, word::RHEAD];
        for (i, w) in self.words[..KRING_HEAD].iter().enumerate() {
            if !kept.contains(&i) {
                w.store(0, Relaxed);
            }
        }
        self.words[word::PORT].store(u64::from(port) | u64::from(ring) << 32, Relaxed);
        self.words[word::OFS].store(g.ofs as u64, Relaxed);
        let geom = u64::from(g.region) | u64::from(g.slots) << 16 | u64::from(g.region_gen) << 32;
        self.words[word::GEOM].store(geom, Relaxed);
        self.words[word::GEN].fetch_add(1, Release);
    }

    /// Where the ring lies.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn geom(self) -> Geom {
        let g = self.words[word::GEOM].load(Relaxed);
        Geom {
            region: g as u16,
            slots: (g >> 16) as u32 & 0x1fff,
            region_gen: (g >> 32) as u32,
            ofs: self.words[word::OFS].load(Relaxed) as usize,
        }
    }

    /// Where in its buffer a slot of this ring says that its frame begins;
    /// costs one test of the geometry word if it never says so.
    #[inline]
    #[must_use]
    pub fn offsets(self) -> Offsets {
        if self.has_offsets() {
            self.offset_words()
        } else {
            Offsets::NONE
        }
    }
    /// Whether it ever says so.
    #[inline]
    #[must_use]
    pub fn has_offsets(self) -> bool {
        self.words[word::GEOM].load(Relaxed) & HAS_OFFSETS != 0
    }
    #[cold]
    fn offset_words(self) -> Offsets {
        let max = self.words[word::OFFSET_MAX].load(Relaxed);
        Offsets::new(
            self.words[word::OFFSET_MASK].load(Relaxed),
            u32::try_from(max).unwrap_or(u32::MAX),
        )
    }
    /// Sets it, for the control plane; [`crate::offsets::enable`] does all
    /// that belongs to it.
    pub fn set_offsets(self, o: Offsets) {
        self.words[word::OFFSET_MASK].store(o.mask(), Relaxed);
        self.words[word::OFFSET_MAX].store(u64::from(o.max()), Relaxed);
        let geom = &self.words[word::GEOM];
        let rest = geom.load(Relaxed) & !HAS_OFFSETS;
        geom.store(rest | if o.is_none() { 0 } else { HAS_OFFSETS }, Release);
    }

    /// The port it belongs to.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn port(self) -> u32 {
        self.words[word::PORT].load(Relaxed) as u32
    }

    /// Its index among the port's rings of its direction.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn ring_idx(self) -> u16 {
        (self.words[word::PORT].load(Relaxed) >> 32) as u16
    }

    /// Reservations of a ring of `slots` slots (checked: at most 4096).
    #[inline]
    #[must_use]
    pub fn resv(self, slots: u32) -> Option<Resv<'a, AtomicU64>> {
        Some(Resv {
            word: &self.words[word::RESV],
            recs: self.recs().get(..slots as usize)?,
            rhead: &self.words[word::RHEAD],
        })
    }

    #[inline]
    fn recs(self) -> &'a [AtomicU64] {
        &self.words[KRING_HEAD..KRING_HEAD + MAX_SLOTS as usize]
    }

    /// Notes what a reservation brings, before it is published.
    #[inline]
    pub fn set_sum(self, lease: Lease, frames: u32, bytes: u64) {
        let i = KRING_HEAD + MAX_SLOTS as usize + lease.start.idx() as usize;
        if let Some(w) = self.words.get(i) {
            let lap = u64::from(lease.start.lap());
            w.store(lap | u64::from(frames) << 20 | bytes << 32, Relaxed);
        }
    }

    /// Frames and bytes of the reservation that begins at `start`; none if its
    /// sender died before it could say.
    #[inline]
    #[must_use]
    pub fn sum(self, start: Pos) -> (u64, u64) {
        let i = KRING_HEAD + MAX_SLOTS as usize + start.idx() as usize;
        let w = self.words.get(i).map_or(0, |w| w.load(Relaxed));
        if w & 0xf_ffff == u64::from(start.lap()) {
            (w >> 20 & 0xfff, w >> 32)
        } else {
            (0, 0)
        }
    }

    /// The ring at the other end of a pipe.
    #[must_use]
    pub fn peer(self) -> Option<KringId> {
        link(&self.words[word::PEER])
    }
    /// Sets it.
    pub fn set_peer(self, peer: Option<KringId>) {
        set_link(&self.words[word::PEER], peer);
    }
    /// First monitor ring that watches this ring.
    #[inline]
    #[must_use]
    pub fn monitors(self) -> Option<KringId> {
        link(&self.words[word::MON_HEAD])
    }
    /// Whether there is one.
    #[inline]
    #[must_use]
    pub fn is_watched(self) -> bool {
        self.words[word::MON_HEAD].load(Acquire) != 0
    }
    /// Sets it.
    pub fn set_monitors(self, first: Option<KringId>) {
        set_link(&self.words[word::MON_HEAD], first);
    }
    /// For a monitor's ring: the next one that watches the same TX (`tx`) or
    /// RX ring.
    #[must_use]
    pub fn next_monitor(self, tx: bool) -> Option<KringId> {
        link(
            &self.words[if tx {
                word::MON_NEXT_TX
            } else {
                word::MON_NEXT_RX
            }],
        )
    }
    /// Sets it.
    pub fn set_next_monitor(self, tx: bool, next: Option<KringId>) {
        let i = if tx {
            word::MON_NEXT_TX
        } else {
            word::MON_NEXT_RX
        };
        set_link(&self.words[i], next);
    }

    /// For a monitor's ring: whether it takes buffers instead of copies.
    #[must_use]
    pub fn is_zcopy(self) -> bool {
        self.words[word::FLAGS].load(Relaxed) & ZCOPY != 0
    }
    /// Sets it.
    pub fn set_zcopy(self, yes: bool) {
        let rest = self.words[word::FLAGS].load(Relaxed) & !ZCOPY;
        let zcopy = if yes { ZCOPY } else { 0 };
        self.words[word::FLAGS].store(rest | zcopy, Relaxed);
    }
    /// For a monitor's ring: whether the port that it watched is gone.
    #[inline]
    #[must_use]
    pub fn is_gone(self) -> bool {
        self.words[word::FLAGS].load(Relaxed) & GONE != 0
    }
    /// Flags; [`crate::forward`] has more of them.
    pub(crate) fn flags_word(self) -> &'a AtomicU64 {
        &self.words[word::FLAGS]
    }
    /// Notes that it is, for ever ([`crate::monitor::orphan`]).
    pub fn set_gone(self) {
        self.words[word::FLAGS].fetch_or(GONE, Relaxed);
    }

    /// Takes the ring's lock for `who` (not 0), or says who has it. Never waits.
    ///
    /// # Errors
    ///
    /// The holder.
    #[inline]
    pub fn try_lock(self, who: u64) -> Result<(), u64> {
        match self.words[word::LOCK].compare_exchange(0, who, Acquire, Relaxed) {
            Ok(_) => Ok(()),
            Err(holder) => Err(holder),
        }
    }
    /// Takes it from `holder`, who is known to be dead, unless somebody else has
    /// done so.
    #[must_use]
    pub fn inherit_lock(self, holder: u64, who: u64) -> bool {
        self.words[word::LOCK]
            .compare_exchange(holder, who, Acquire, Relaxed)
            .is_ok()
    }
    /// Gives it back.
    #[inline]
    pub fn unlock(self) {
        self.words[word::LOCK].store(0, Release);
    }
    /// Frees the lock if `who` holds it (who is known to be dead).
    pub fn break_lock(self, dead: impl Fn(u64) -> bool) -> bool {
        let holder = self.words[word::LOCK].load(Acquire);
        holder != 0
            && dead(holder)
            && self.words[word::LOCK]
                .compare_exchange(holder, 0, Release, Relaxed)
                .is_ok()
    }

    /// The receiver's cursor. Under the lock.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn cursor(self) -> Cursor {
        let w = self.words[word::CURSOR].load(Relaxed);
        Cursor {
            start: Pos::from_bits(w as u32),
            tail: Pos::from_bits((w >> 32) as u32),
        }
    }
    /// Stores it. Under the lock.
    #[inline]
    pub fn set_cursor(self, c: Cursor) {
        let w = u64::from(c.start.bits()) | u64::from(c.tail.bits()) << 32;
        self.words[word::CURSOR].store(w, Relaxed);
    }
    /// Position up to which slots were given back to the senders.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub fn rhead(self) -> Pos {
        Pos::from_bits(self.words[word::RHEAD].load(Acquire) as u32)
    }
    /// Position up to which the program of an RX ring has released slots.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub fn released(self) -> Pos {
        Pos::from_bits(self.words[word::HW].load(Relaxed) as u32)
    }
    /// Stores it. Under the lock.
    #[inline]
    pub fn set_released(self, p: Pos) {
        self.words[word::HW].store(u64::from(p.bits()), Relaxed);
    }
    /// Publishes it. Under the lock.
    #[inline]
    pub fn set_rhead(self, p: Pos) {
        self.words[word::RHEAD].store(u64::from(p.bits()), Release);
    }
    /// A pipe's published end of data (its RX ring's reservation word).
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub fn pipe_tail(self) -> Pos {
        Pos::from_bits(self.words[word::RESV].load(SeqCst) as u32)
    }
    /// Publishes it; orders a following load of the sleep word after it.
    #[inline]
    pub fn publish_pipe_tail(self, p: Pos) {
        self.words[word::RESV].swap(u64::from(p.bits()), SeqCst);
    }
    /// Gives slots of a pipe's RX ring back; orders a following load of the
    /// sender's sleep word after it.
    #[inline]
    pub fn publish_pipe_head(self, p: Pos) {
        self.words[word::RHEAD].swap(u64::from(p.bits()), SeqCst);
    }
    /// How far a pipe's receiver has given slots back, for a sender that may
    /// have announced its sleep before.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub fn pipe_head(self) -> Pos {
        Pos::from_bits(self.words[word::RHEAD].load(SeqCst) as u32)
    }
    /// A TX ring's first slot not yet sent (index) and the tail last published.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit fields")]
    pub fn hw(self) -> (u32, u32) {
        let w = self.words[word::HW].load(Relaxed);
        (w as u32, (w >> 32) as u32)
    }
    /// Stores them. Under the lock.
    #[inline]
    pub fn set_hw(self, cur: u32, tail: u32) {
        self.words[word::HW].store(u64::from(cur) | u64::from(tail) << 32, Relaxed);
    }

    /// The word a sleeping receiver (or a pipe's sleeping sender) leaves.
    #[inline]
    #[must_use]
    pub fn sleep_word(self) -> SleepWord<'a> {
        SleepWord::new(&self.words[word::SLEEP])
    }

    /// Adds to a counter. Under the lock.
    #[inline]
    pub fn count(self, c: Counter, n: u64) {
        if n != 0 {
            let w = &self.words[word::COUNTERS + c as usize];
            w.store(w.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }
    /// Reads a counter.
    #[must_use]
    pub fn counter(self, c: Counter) -> u64 {
        self.words[word::COUNTERS + c as usize].load(Relaxed)
    }
    /// Counts what arrived in this ring. For the receiver under its lock, or
    /// for a pipe's only sender under its own.
    #[inline]
    pub fn count_in(self, frames: u64, bytes: u64) {
        for (i, n) in [(word::IN_FRAMES, frames), (word::IN_BYTES, bytes)] {
            let w = &self.words[i];
            w.store(w.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }
    /// Counts frames that found this ring full.
    #[inline]
    pub fn count_full(self, frames: u64) {
        self.words[word::DROP_FULL].fetch_add(frames, Relaxed);
    }
    /// Counts frames dropped because this ring's words contradict each other.
    pub fn count_fault(self, frames: u64) {
        self.words[word::DROP_FAULT].fetch_add(frames, Relaxed);
    }
    /// Frames and bytes put in, frames that found it full, frames lost to a
    /// spoilt ring.
    #[must_use]
    pub fn in_counters(self) -> [u64; 4] {
        [
            word::IN_FRAMES,
            word::IN_BYTES,
            word::DROP_FULL,
            word::DROP_FAULT,
        ]
        .map(|i| self.words[i].load(Relaxed))
    }
}

fn link(word: &AtomicU64) -> Option<KringId> {
    let v = u32::try_from(word.load(Acquire)).ok()?;
    v.checked_sub(1).map(KringId)
}

fn set_link(word: &AtomicU64, to: Option<KringId>) {
    word.store(to.map_or(0, |k| u64::from(k.0) + 1), Release);
}

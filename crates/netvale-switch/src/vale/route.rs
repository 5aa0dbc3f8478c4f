//! The way of the last batch, to be gone again without a search.

use alloc::sync::Arc;
use core::sync::atomic::Ordering::Relaxed;

use netvale_ring::deliver::{Source, Target, deliver_one, deliver_run};
use netvale_ring::kring::{Counter, KringWindow};
use netvale_ring::layout::RESERVED_BUFS;
use netvale_ring::offsets::Offsets;
use netvale_ring::pipe::End;
use netvale_ring::slot::{NS_BUF_CHANGED, NS_INDIRECT, NS_MOREFRAG, RingWindow};
use netvale_ring::world::{Party, RegionMap, Waker, World};
use netvale_ring::{Ring, Slot};

use super::{MIN_RUN, RUN, TxRing};
use crate::fdb::FdbWindow;

/// The addresses of a frame: its first 12 bytes, as loaded.
pub(super) type Key = (u64, u64);

/// Where frames with the same addresses went last time. Valid while nothing
/// has changed in the namespace and both stations' entries are the same.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) topology: u64,
    pub(super) key: Key,
    pub(super) fdb: FdbWindow,
    pub(super) epoch: u8,
    /// The stations' entries; `None` for an address that has none whatever
    /// happens.
    pub(super) dst: Option<(u32, u64)>,
    pub(super) src: Option<(u32, u64)>,
    pub(super) kring: KringWindow,
    pub(super) ring: RingWindow,
    pub(super) generation: u64,
    pub(super) gives: bool,
    /// Frames for everyone go this way: there is one other port.
    pub(super) flood: bool,
}

impl Route {
    /// Whether the stations are where they were.
    #[inline]
    fn still(&self) -> bool {
        let fdb = self.fdb.get();
        self.dst.is_none_or(|at| fdb.still(at)) && self.src.is_none_or(|at| fdb.still(at))
    }
}

/// The commonest sync of all, for those that sync after every frame: one slot,
/// on the way of the frames before it. `false`, with nothing done, if anything
/// about it is out of the ordinary.
#[inline(always)]
pub(super) fn one(
    world: &World,
    own: &RegionMap,
    waker: &Arc<dyn Waker>,
    owner: u16,
    end: End<'_>,
    r: &Route,
) -> bool {
    let (ring, kring) = (end.ring, end.kring);
    let ((hwcur, hwtail), n) = (kring.hw(), ring.count());
    let head = ring.head();
    let as_usual = hwcur < n
        && hwtail < n
        && hwcur != hwtail
        && head == ring.next(hwcur)
        && ring.cur() == head
        && ring.tail() == hwtail
        && !kring.is_watched();
    if !as_usual || r.gives || r.topology != world.topology() || r.epoch != world.epoch() {
        return false;
    }
    let (slot, bufs) = (ring.slot(hwcur), own.bufs());
    let same = |head| has_key(head, r.key);
    if !r.still()
        || slot.has(NS_BUF_CHANGED)
        || !Limits::of(own).allow(slot)
        || !bufs.head(slot.buf(), 0).is_some_and(same)
    {
        return false;
    }
    let to = Target::known(r.kring.get(), own, r.ring.get(), r.generation);
    let Some(to) = to.filter(|to| !to.kring.is_watched()) else {
        return false;
    };
    kring.set_hw(head, hwtail); // see `txsync`
    deliver_one(waker, owner, own, &to, slot);
    kring.count(Counter::Frames, 1);
    kring.count(Counter::Bytes, u64::from(slot.len()));
    kring.count(Counter::Syncs, 1);
    if r.flood {
        kring.count(Counter::Flooded, 1);
    }
    kring.set_hw(head, hwcur);
    ring.set_tail(hwcur);
    true
}

/// Sends slots from `first` on the way that the frames before them took, as
/// far as they go the same way. Returns how many.
#[inline]
pub(super) fn follow(party: &Party<'_>, tx: &TxRing<'_>, r: &Route, first: u32, n: u32) -> u32 {
    let world = party.world;
    if r.topology != world.topology() || r.epoch != world.epoch() {
        return 0;
    }
    if !r.still() {
        return 0;
    }
    let to = Target::known(r.kring.get(), party.own, r.ring.get(), r.generation);
    let Some(to) = to else { return 0 };
    let from = Source {
        kring: tx.end.id,
        ring: tx.end.ring,
        map: party.own,
        gives: r.gives,
        offsets: Offsets::NONE, // or there were no route
    };
    let (mut done, mut at, mut bytes) = (0, first, 0);
    while done < n {
        let Some((run, b)) = measure(&from, at, n - done, r.key) else {
            break;
        };
        deliver_run(party, &from, &to, at, run, b);
        done += run;
        bytes += b;
        at = (at + run) % from.ring.count();
    }
    tx.end.kring.count(Counter::Frames, u64::from(done));
    tx.end.kring.count(Counter::Bytes, bytes);
    if r.flood {
        tx.end.kring.count(Counter::Flooded, u64::from(done));
    }
    done
}

/// How many slots from `first` on hold whole single-slot frames with these
/// addresses, and their bytes; at most [`RUN`], and not round the end of the
/// ring. Clears the program's NS_BUF_CHANGED in them. `None` if they are too few to be sent apart from what follows.
#[inline]
pub(super) fn measure(from: &Source<'_>, first: u32, left: u32, key: Key) -> Option<(u32, u64)> {
    let most = left.min(RUN).min(from.ring.count() - first);
    let (bufs, limits) = (from.map.bufs(), Limits::of(from.map));
    let (mut n, mut bytes, mut seen) = (0, 0, 0);
    for words in from.ring.words(first, most).chunks_exact(2) {
        let slot = Slot::from_bits(words[0].load(Relaxed));
        let same = |head| has_key(head, key);
        if !limits.allow(slot) || !bufs.head(slot.buf(), 0).is_some_and(same) {
            break;
        }
        n += 1;
        bytes += u64::from(slot.len());
        seen |= slot.bits();
    }
    if Slot::from_bits(seen).has(NS_BUF_CHANGED) {
        clear_changed(from.ring, first, n);
    }
    (n > 0 && (n == most || n >= MIN_RUN)).then_some((n, bytes))
}

/// Clears NS_BUF_CHANGED in `n` slots from `first` on, as a program expects.
#[inline(never)]
fn clear_changed(ring: Ring<'_>, first: u32, n: u32) {
    for words in ring.words(first, n).chunks_exact(2) {
        let slot = Slot::from_bits(words[0].load(Relaxed));
        if slot.has(NS_BUF_CHANGED) {
            let seen = slot.with_flags(slot.flags() & !NS_BUF_CHANGED);
            words[0].store(seen.bits(), Relaxed);
        }
    }
}

/// What a slot must keep to: taken out of the region once, because words
/// stored in between might, for all the compiler knows, change it.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    bufs: u32,
    len: u32,
}

impl Limits {
    #[inline]
    pub(super) fn of(map: &RegionMap) -> Self {
        Self {
            bufs: map.geom.bufs - RESERVED_BUFS,
            len: map.geom.buf_size - 14,
        }
    }

    /// Whether a slot holds a whole frame, in a buffer that exists, of a length
    /// that it can have. One comparison for both ends of each range.
    #[inline]
    pub(super) fn allow(self, slot: Slot) -> bool {
        !slot.has(NS_MOREFRAG | NS_INDIRECT)
            && slot.buf().wrapping_sub(RESERVED_BUFS) < self.bufs
            && u32::from(slot.len()).wrapping_sub(14) <= self.len
    }
}

/// Whether a frame's first 16 bytes bear these addresses.
#[inline]
pub(super) fn has_key((a, b): (u64, u64), key: Key) -> bool {
    a == key.0 && b & 0xffff_ffff == key.1
}

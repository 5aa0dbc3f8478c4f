//! Filling a destination's RX ring with a run of frames.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use netvale_shm::{Bufs, prefetch_write};

use crate::kring::{Kring, KringId};
use crate::monitor;
use crate::offsets::{self, Offsets};
use crate::port::{PortId, PortRec, Seat};
use crate::resv::{Lease, Refused, Resv};
use crate::slot::{NS_BUF_CHANGED, NS_MOREFRAG, Ring, Slot};
use crate::world::{Holder, Party, RegionMap, Waker, World};

/// Slots filled before they are shown to a receiver that may be polling on
/// another core: small enough to keep both busy, large enough that the record
/// does not bounce between them.
const PUBLISH_EVERY: u32 = 64;

/// One slot of a batch of frames, as collected from the sender's ring.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ent {
    /// Buffer, length, flags; checked: the buffer exists, the length fits.
    pub slot: Slot,
    /// Index of the slot in the sender's ring.
    pub at: u16,
    /// In a frame's first entry: its slots.
    pub frags: u8,
    /// For users of batches: the next frame of the same chain.
    pub next: u16,
    /// Where in the buffer it begins. Bytes; 0 unless the ring has offsets.
    pub off: u16,
}

/// Where frames come from.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The holder of its buffers: the sender's TX ring.
    pub kring: KringId,
    /// As mapped.
    pub ring: Ring<'a>,
    /// Its region.
    pub map: &'a RegionMap,
    /// The sender gives its buffers away instead of having them copied.
    pub gives: bool,
    /// Where in their buffers its frames begin.
    pub offsets: Offsets,
}

/// What became of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Frames that arrived.
    pub frames: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// A ring of the port in a seat of a switch, as its seat led to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlet {
    /// The ring.
    pub ring: KringId,
    /// The seat.
    pub seat: Seat,
}

/// A destination ring, resolved and checked.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Its identifier.
    pub id: KringId,
    /// Hidden state.
    pub kring: Kring<'a>,
    /// As mapped here.
    pub ring: Ring<'a>,
    /// Its region.
    pub map: &'a RegionMap,
    /// Its reservations.
    pub resv: Resv<'a, core::sync::atomic::AtomicU64>,
    /// Which ring of this identifier it was when it was resolved.
    pub generation: u64,
    /// Where in their buffers its frames begin.
    pub offsets: Offsets,
}

impl<'a> Target<'a> {
    /// The ring as its kring describes it, inside `map`.
    ///
    /// # Errors
    ///
    /// [`Refused::Closed`] if it lies elsewhere: it was made anew since `map`
    /// was found. Another region may have the same rings at the same places.
    /// [`Refused::Fault`] if it does not fit there.
    #[inline]
    pub fn new(id: KringId, kring: Kring<'a>, map: &'a RegionMap) -> Result<Self, Refused> {
        // First, so that whatever changes after it is found out by who reserves.
        let generation = kring.generation();
        let g = kring.geom();
        if (g.region, g.region_gen) != (map.id, map.generation) {
            return Err(Refused::Closed);
        }
        let ring = map.ring(g.ofs, g.slots);
        let target = ring.and_then(|ring| Self::known(kring, map, ring, generation));
        let mut target = target.filter(|t| t.id == id).ok_or(Refused::Fault)?;
        target.offsets = kring.offsets();
        Ok(target)
    }

    /// The same for a ring that was found by its port's seat.
    ///
    /// # Errors
    ///
    /// As [`Target::new`]; [`Refused::Closed`] too if its port has left that
    /// seat. Seats, ports and rings are used again: between looking at one and
    /// the next the port may have gone and another one come, which sits
    /// elsewhere and gets the same frames there, or sits at another switch.
    #[inline]
    pub fn seated(
        world: &World,
        from: Outlet,
        kring: Kring<'a>,
        map: &'a RegionMap,
    ) -> Result<Self, Refused> {
        let target = Self::new(from.ring, kring, map)?;
        // Looked at after the generation: it is the port of this very ring.
        let rec = PortId(kring.port()).rec(world);
        match rec.and_then(PortRec::seat) == Some(from.seat) {
            true => Ok(target),
            false => Err(Refused::Closed),
        }
    }

    /// The same, with ring and generation found earlier, when the ring had no
    /// offsets.
    #[inline]
    #[must_use]
    pub fn known(
        kring: Kring<'a>,
        map: &'a RegionMap,
        ring: Ring<'a>,
        generation: u64,
    ) -> Option<Self> {
        if ring.count() < 2 {
            return None;
        }
        Some(Self {
            id: kring.id(),
            kring,
            ring,
            map,
            resv: kring.resv(ring.count())?,
            generation,
            offsets: Offsets::NONE,
        })
    }

    /// Counts frames that could not be delivered, by the reason.
    #[cold]
    pub fn refuse(&self, why: Refused, frames: u32) {
        match why {
            Refused::Full | Refused::Closed => self.kring.count_full(frames.into()),
            Refused::Fault => self.kring.count_fault(frames.into()),
        }
    }
}

/// Counts frames for a ring that was not found. If it is closed it is another's
/// ring by now, who has lost nothing: the port that they were for has gone.
#[cold]
pub fn not_found(kring: Kring<'_>, why: Refused, frames: u64) {
    if why == Refused::Fault {
        kring.count_fault(frames);
    }
}

/// Delivers frames into one RX ring: copies, or swaps buffers if the sender
/// gives them away and both rings lie in one region. `chain` names each
/// frame's first entry, in order; there are `frames` of `need` slots in all.
///
/// Frames that find no room are dropped from the end of the run and counted at
/// the destination. Wakes the receiver once, if it sleeps.
#[inline]
pub fn deliver(
    party: &Party<'_>,
    from: &Source<'_>,
    to: Outlet,
    ents: &[Ent],
    chain: impl Iterator<Item = usize> + Clone,
    frames: u32,
    need: u32,
) -> Delivered {
    let none = Delivered::default();
    let Some(kring) = party.world.kring(to.ring) else {
        return none;
    };
    let Some(map) = party.map_of(kring) else {
        kring.count_fault(u64::from(frames));
        return none;
    };
    let to = match Target::seated(party.world, to, kring, &map) {
        Ok(to) => to,
        Err(why) => {
            not_found(kring, why, frames.into());
            return none;
        }
    };
    let choose = |free| {
        if kring.generation() != to.generation {
            return 0; // made anew since it was resolved
        }
        choose(ents, chain.clone(), need, free)
    };
    let lease = match to.resv.reserve(party.owner, choose) {
        Ok(lease) => lease,
        Err(why) => {
            to.refuse(why, frames);
            return none;
        }
    };
    let holders = holders(party, from, &to);
    let watched = kring.is_watched();
    let mut fill = Fill::new(to, from, lease, !watched);
    let mut done = none;
    for i in chain {
        let Some(first) = ents.get(i) else { break };
        if fill.filled + u32::from(first.frags) > lease.n {
            break;
        }
        if first.frags == 1 {
            done.bytes += fill.one(first, 1 << 8, holders);
        } else {
            let frags = usize::from(first.frags);
            for (k, ent) in ents.iter().skip(i).take(frags).enumerate() {
                let more = if k + 1 < frags { NS_MOREFRAG } else { 0 };
                let flags = u16::from(first.frags) << 8 | more;
                done.bytes += fill.one(ent, flags, holders);
            }
        }
        done.frames += 1;
    }
    if watched {
        monitor::tap_lease(party, &to, lease);
    }
    kring.set_sum(lease, done.frames, done.bytes);
    to.resv.publish(lease, lease.n, true);
    if done.frames < frames {
        kring.count_full(u64::from(frames - done.frames));
    }
    party.wake(kring);
    done
}

/// Delivers `n` slots of the sender's ring from `first` on, each a whole frame
/// that was checked to be one: the common case, without a list of entries.
///
/// What does not fit is counted at the destination. Frames that arrived.
#[inline]
pub fn deliver_run(
    party: &Party<'_>,
    from: &Source<'_>,
    to: &Target<'_>,
    first: u32,
    n: u32,
    bytes: u64,
) -> u32 {
    let kring = to.kring;
    let current = |free: u32| {
        // The ring may have been made anew since it was resolved. The
        // reservation word, which changes then too, was loaded before this.
        if kring.generation() == to.generation {
            free.min(n)
        } else {
            0
        }
    };
    let lease = match to.resv.reserve(party.owner, current) {
        Ok(lease) => lease,
        Err(why) => {
            to.refuse(why, n);
            return 0;
        }
    };
    let holders = holders(party, from, to);
    let plain = from.offsets.is_none() && to.offsets.is_none();
    let (mut done, mut src, mut dst) = (0, first, lease.start.idx());
    let watched = kring.is_watched();
    let step = if watched { u32::MAX } else { PUBLISH_EVERY };
    let mut lost = 0;
    while done < lease.n {
        let part = (lease.n - done)
            .min(step)
            .min(from.ring.count() - src)
            .min(to.ring.count() - dst);
        if part == PUBLISH_EVERY {
            // The next slots, which the receiver has read: otherwise each
            // line of them travels twice, to be read and to be written.
            prefetch_write(to.ring.words(dst + part, PUBLISH_EVERY));
        }
        lost += match holders {
            None if plain => copy_part(to, from, src, dst, part),
            None => copy_part_at_offsets(to, from, src, dst, part),
            Some(h) => swap_part(to, from, src, dst, part, h),
        };
        done += part;
        src = wrap(src + part, from.ring.count());
        dst = wrap(dst + part, to.ring.count());
        if done < lease.n && !watched {
            to.resv.publish(lease, done, false);
        }
    }
    if watched {
        monitor::tap_lease(party, to, lease);
    }
    if lease.n < n {
        kring.count_full(u64::from(n - lease.n));
        lost += bytes_of(from.ring, first + lease.n, n - lease.n);
    }
    kring.set_sum(lease, lease.n, bytes.saturating_sub(lost));
    to.resv.publish(lease, lease.n, true);
    party.wake(kring);
    lease.n
}

/// Delivers the one frame in `slot`, which was checked: [`deliver_run`] without
/// its loops, for senders that sync after every frame. `map` is the region of
/// both rings; nobody watches `to`, which has no offsets, and the sender keeps
/// its buffer.
#[inline(always)]
pub fn deliver_one(
    waker: &Arc<dyn Waker>,
    owner: u16,
    map: &RegionMap,
    to: &Target<'_>,
    slot: Slot,
) {
    let current = |_| u32::from(to.kring.generation() == to.generation);
    let lease = match to.resv.reserve_one(owner, current) {
        Ok(lease) => lease,
        Err(why) => return to.refuse(why, 1),
    };
    let i = lease.start.idx();
    let (bufs, buf) = (map.bufs(), to.ring.slot(i).buf());
    let fits = bufs.copy_from(buf, bufs, slot.buf(), usize::from(slot.len()));
    let len = if fits { slot.len() } else { 0 };
    to.ring.set_slot(i, Slot::new(buf, len, 1 << 8));
    to.kring.set_sum(lease, 1, u64::from(len));
    to.resv.publish(lease, 1, true);
    to.kring.sleep_word().wake(&**waker);
}

/// The holder table, if buffers are to be exchanged.
#[inline]
fn holders<'a>(party: &Party<'a>, from: &Source<'_>, to: &Target<'_>) -> Option<&'a [AtomicU32]> {
    match to.map.shared {
        Some(s)
            if from.gives
                && to.map.id == from.map.id
                && from.offsets.is_none()
                && to.offsets.is_none() =>
        {
            party.world.holders(s, to.map.geom.bufs)
        }
        _ => None,
    }
}

#[cold]
fn bytes_of(ring: Ring<'_>, first: u32, n: u32) -> u64 {
    let slots = (0..n).map(|i| ring.slot((first + i) % ring.count()));
    slots.map(|s| u64::from(s.len())).sum()
}

#[inline]
fn wrap(i: u32, count: u32) -> u32 {
    if i >= count { 0 } else { i }
}

/// Copies `n` frames between runs of slots that do not wrap. Returns the bytes
/// that did not arrive because a peer spoilt a slot.
#[inline]
fn copy_part(to: &Target<'_>, from: &Source<'_>, src: u32, dst: u32, n: u32) -> u64 {
    let (to_bufs, from_bufs) = (to.map.bufs(), from.map.bufs());
    let srcs = from.ring.words(src, n).chunks_exact(2);
    let dsts = to.ring.words(dst, n).chunks_exact(2);
    let mut lost = 0;
    for (s, d) in srcs.zip(dsts) {
        let slot = Slot::from_bits(s[0].load(Relaxed));
        let buf = Slot::from_bits(d[0].load(Relaxed)).buf();
        let len = slot.len();
        let mut put = Slot::new(buf, len, 1 << 8);
        if !to_bufs.copy_from(buf, from_bufs, slot.buf(), usize::from(len)) {
            lost += u64::from(len);
            put = Slot::new(buf, 0, 1 << 8);
        }
        d[0].store(put.bits(), Relaxed);
    }
    lost
}

/// Copies `n` frames that do not begin at their buffers' first bytes. Bytes
/// that did not arrive.
#[cold]
fn copy_part_at_offsets(to: &Target<'_>, from: &Source<'_>, src: u32, dst: u32, n: u32) -> u64 {
    let mut lost = 0;
    for i in 0..n {
        let slot = from.ring.slot(src + i);
        let off = from.offsets.at(from.ring, src + i, from.map.geom.buf_size);
        let buf = to.ring.slot(dst + i).buf();
        let (bufs, place) = (from.map.bufs(), (slot.buf(), off));
        let fits = offsets::copy_to_slot(to, dst + i, bufs, place, slot.len());
        let len = if fits { slot.len() } else { 0 };
        lost += u64::from(slot.len() - len);
        to.ring.set_slot(dst + i, Slot::new(buf, len, 1 << 8));
    }
    lost
}

/// Exchanges the buffers of `n` frames. Same order of stores as `Fill::swap`.
#[inline]
fn swap_part(
    to: &Target<'_>,
    from: &Source<'_>,
    src: u32,
    dst: u32,
    n: u32,
    holders: &[AtomicU32],
) -> u64 {
    let srcs = from.ring.words(src, n).chunks_exact(2);
    let dsts = to.ring.words(dst, n).chunks_exact(2);
    let (ours, theirs) = (
        Holder::kring(from.kring).bits(),
        Holder::kring(to.id).bits(),
    );
    let mut lost = 0;
    for (s, d) in srcs.zip(dsts) {
        let slot = Slot::from_bits(s[0].load(Relaxed));
        let old = Slot::from_bits(d[0].load(Relaxed)).buf();
        let (Some(h_new), Some(h_old)) =
            (holders.get(slot.buf() as usize), holders.get(old as usize))
        else {
            d[0].store(Slot::new(old, 0, 1 << 8).bits(), Relaxed);
            lost += u64::from(slot.len());
            continue;
        };
        h_old.store(ours, Relaxed);
        d[0].store(Slot::new(slot.buf(), slot.len(), 1 << 8).bits(), Relaxed);
        h_new.store(theirs, Relaxed);
        s[0].store(Slot::new(old, slot.len(), NS_BUF_CHANGED).bits(), Relaxed);
    }
    lost
}

/// How many slots to take when `free` are: all that are needed, or those of
/// the first frames that fit whole.
#[inline]
fn choose(ents: &[Ent], chain: impl Iterator<Item = usize>, need: u32, free: u32) -> u32 {
    if need <= free {
        return need;
    }
    let mut fit = 0;
    for i in chain {
        let n = ents.get(i).map_or(1, |e| u32::from(e.frags));
        if fit + n > free {
            break;
        }
        fit += n;
    }
    fit
}

/// A lease being filled.
struct Fill<'a> {
    to: Target<'a>,
    from: Source<'a>,
    to_bufs: Bufs<'a>,
    from_bufs: Bufs<'a>,
    lease: Lease,
    filled: u32,
    at: u32,
    show_at: u32,
    /// No offsets on either side.
    plain: bool,
}

impl<'a> Fill<'a> {
    #[inline]
    fn new(to: Target<'a>, from: &Source<'a>, lease: Lease, show_early: bool) -> Self {
        Self {
            to_bufs: to.map.bufs(),
            from_bufs: from.map.bufs(),
            plain: from.offsets.is_none() && to.offsets.is_none(),
            to,
            from: *from,
            lease,
            filled: 0,
            at: lease.start.idx(),
            show_at: if show_early { PUBLISH_EVERY } else { u32::MAX },
        }
    }

    /// Fills the next slot; bytes that arrived.
    #[inline]
    fn one(&mut self, ent: &Ent, flags: u16, holders: Option<&[AtomicU32]>) -> u64 {
        let dst = self.to.ring.slot(self.at);
        let len = ent.slot.len();
        let good = match holders {
            None if !self.plain => {
                let place = (ent.slot.buf(), u32::from(ent.off));
                let fits = offsets::copy_to_slot(&self.to, self.at, self.from_bufs, place, len);
                let slot = Slot::new(dst.buf(), if fits { len } else { 0 }, flags);
                self.to.ring.set_slot(self.at, slot);
                fits
            }
            None => {
                let fits = self.to_bufs.copy_from(
                    dst.buf(),
                    self.from_bufs,
                    ent.slot.buf(),
                    usize::from(len),
                );
                let slot = Slot::new(dst.buf(), if fits { len } else { 0 }, flags);
                self.to.ring.set_slot(self.at, slot);
                fits
            }
            Some(holders) => self.swap(ent, dst, flags, holders),
        };
        self.at = self.to.ring.next(self.at);
        self.filled += 1;
        if self.filled == self.show_at {
            self.to.resv.publish(self.lease, self.filled, false);
            self.show_at += PUBLISH_EVERY;
        }
        if good { u64::from(len) } else { 0 }
    }

    /// Exchanges the buffers of the sender's slot and the destination's.
    ///
    /// The holder table is always a partition of the buffers, and each store
    /// below leaves it so that who dies here loses none: see `Resv::repair`.
    #[inline]
    fn swap(&self, ent: &Ent, dst: Slot, flags: u16, holders: &[AtomicU32]) -> bool {
        let (mine, theirs) = (ent.slot.buf(), dst.buf());
        let (Some(h_mine), Some(h_theirs)) =
            (holders.get(mine as usize), holders.get(theirs as usize))
        else {
            self.to.ring.set_slot(self.at, Slot::new(theirs, 0, flags));
            return false;
        };
        h_theirs.store(Holder::kring(self.from.kring).bits(), Relaxed);
        self.to
            .ring
            .set_slot(self.at, Slot::new(mine, ent.slot.len(), flags));
        h_mine.store(Holder::kring(self.to.id).bits(), Relaxed);
        let back = Slot::new(theirs, ent.slot.len(), NS_BUF_CHANGED);
        self.from.ring.set_slot(u32::from(ent.at), back);
        true
    }
}

//! Monitors: ports that see what others send and receive.
//!
//! A *copy* monitor gets a copy of each frame as it is sent (before anything
//! else happens to it) or as it arrives. A *zero-copy* monitor gets the
//! buffers themselves, once their user is done with them, and puts empty ones
//! in their place. If its ring is short of space the oldest frames of a batch
//! are skipped. Monitor rings are filled by reservations like any other, so
//! several senders may feed one.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::deliver::Target;
use crate::kring::{Kring, KringId};
use crate::offsets::Offsets;
use crate::resv::Lease;
use crate::slot::{MAX_FRAGS, NS_BUF_CHANGED, NS_MOREFRAG, NS_TXMON, Ring, Slot};
use crate::world::{Holder, Party, RegionMap, World};

/// Monitors of one ring that are looked at: bounds the walk along links that
/// lie in shared memory.
pub const MAX_MONITORS: usize = 64;
/// Times that their list is walked along while ports come and go.
const MAX_WALKS: u32 = 16;

/// Slots handed to a monitor in one reservation.
const CHUNK: u32 = 1024;

/// A run of slots that monitors may see: `n` slots of `ring` from `first` on.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The watched ring.
    pub ring: Ring<'a>,
    /// Its region.
    pub map: &'a RegionMap,
    /// First slot.
    pub first: u32,
    /// Slots.
    pub n: u32,
}

/// Shows frames that are about to become readable in `to` to its monitors.
#[cold]
pub fn tap_lease(party: &Party<'_>, to: &Target<'_>, lease: Lease) {
    let run = Run {
        ring: to.ring,
        map: to.map,
        first: lease.start.idx(),
        n: lease.n,
    };
    tap_copy(party, to.kring, false, run);
}

/// Copies a run to every copy monitor of `watched`. `tx`: it is being sent.
#[cold]
pub fn tap_copy(party: &Party<'_>, watched: Kring<'_>, tx: bool, run: Run<'_>) {
    // A switch sends a frame that the program cut off as far as it is there; a
    // pipe waits for the rest.
    let cut = (tx && watched.peer().is_none()).then(|| (run.first + run.n - 1) % run.ring.count());
    let offsets = watched.offsets();
    for_each(party, watched, tx, false, |to| {
        copy_to(party, to, tx, run, offsets, cut);
    });
}

/// Copies a run to one monitor, each slot as far as the monitor's buffer goes.
/// `cut`: a slot whose frame ends there, whatever it says.
fn copy_to(
    party: &Party<'_>,
    to: &Target<'_>,
    tx: bool,
    run: Run<'_>,
    offsets: Offsets,
    cut: Option<u32>,
) {
    let plain = offsets.is_none() && to.offsets.is_none();
    pieces(run, |piece| {
        let skip = Skip::default();
        fill_at(party, to, piece, &skip, |slot, at, i| {
            let src = (piece.first + i) % piece.ring.count();
            let (dst, bufs) = (to.ring.slot(at).buf(), to.map.bufs());
            let (from, to_at) = (
                offsets.at(piece.ring, src, piece.map.geom.buf_size),
                to.offsets.at(to.ring, at, bufs.stride()),
            );
            let room = u16::try_from(bufs.stride() - to_at).unwrap_or(u16::MAX);
            let (len, src_bufs) = (slot.len().min(room), piece.map.bufs());
            let n = usize::from(len);
            // A slot that names more than its own buffer has is not copied.
            let copied = u32::from(slot.len()) + from <= piece.map.geom.buf_size
                && if plain {
                    bufs.copy_from(dst, src_bufs, slot.buf(), n)
                } else {
                    let (d, s) = (to_at as usize, from as usize);
                    bufs.copy_bytes(dst, d, src_bufs, slot.buf(), s, n)
                };
            let len = if copied { len } else { 0 };
            let mut flags = flags(slot, tx);
            if Some(src) == cut {
                flags &= !NS_MOREFRAG;
            }
            to.ring.set_slot(at, Slot::new(dst, len, flags));
            u64::from(len)
        });
    });
}

/// Gives a run of slots that their user is done with to the zero-copy monitors
/// of `watched`, in exchange for empty buffers. `holder`: the ring in whose
/// name the buffers are held. A buffer can be given away once only: of several
/// monitors the last one gets it, and the others a copy.
#[cold]
pub fn tap_zcopy(party: &Party<'_>, watched: Kring<'_>, holder: KringId, tx: bool, run: Run<'_>) {
    let offsets = watched.offsets();
    let mut left = 0;
    for_each(party, watched, tx, true, |_| left += 1);
    for_each(party, watched, tx, true, |to| {
        // Monitors come and go: one that came just now waits for the next run.
        left = match left {
            0 => return,
            1 => 0,
            _ => {
                left -= 1;
                return copy_to(party, to, tx, run, offsets, None);
            }
        };
        let Some(holders) = run
            .map
            .shared
            .filter(|_| to.map.id == run.map.id)
            .and_then(|s| party.world.holders(s, run.map.geom.bufs))
        else {
            return;
        };
        pieces(run, |piece| {
            let mut src = piece.first;
            let skip = Skip::default();
            fill_at(party, to, piece, &skip, |slot, at, i| {
                src = (piece.first + i) % piece.ring.count();
                exchange(holders, piece.ring, src, holder, to, at, flags(slot, tx));
                if !offsets.is_none() {
                    to.ring.set_ptr(at, piece.ring.ptr(src));
                }
                u64::from(slot.len())
            });
        });
    });
}

/// Exchanges buffers between a slot that the caller may write and one of its
/// reservation. Same order of stores as in `deliver`.
fn exchange(
    holders: &[AtomicU32],
    ring: Ring<'_>,
    src: u32,
    holder: KringId,
    to: &Target<'_>,
    at: u32,
    flags: u16,
) {
    let (mine, theirs) = (ring.slot(src), to.ring.slot(at));
    let (Some(h_mine), Some(h_theirs)) = (
        holders.get(mine.buf() as usize),
        holders.get(theirs.buf() as usize),
    ) else {
        to.ring.set_slot(at, Slot::new(theirs.buf(), 0, flags));
        return;
    };
    h_theirs.store(Holder::kring(holder).bits(), Relaxed);
    to.ring
        .set_slot(at, Slot::new(mine.buf(), mine.len(), flags));
    h_mine.store(Holder::kring(to.id).bits(), Relaxed);
    let back = Slot::new(theirs.buf(), mine.len(), mine.flags() | NS_BUF_CHANGED);
    ring.set_slot(src, back);
}

fn flags(slot: Slot, tx: bool) -> u16 {
    let keep = slot.flags() & (NS_MOREFRAG | 0xff00);
    keep | if tx { NS_TXMON } else { 0 }
}

/// Parts the monitors from a ring that goes away: each of their syncs says from
/// now on that the port is gone. `tx`: the watched ring is a TX ring. The
/// caller wakes those that sleep.
pub fn orphan(world: &World, watched: Kring<'_>, tx: bool, mut gone: impl FnMut(KringId)) {
    let mut next = watched.monitors();
    watched.set_monitors(None);
    for _ in 0..world.geom().krings {
        let Some(kring) = next.and_then(|id| world.kring(id)) else {
            return;
        };
        next = kring.next_monitor(tx);
        kring.set_gone();
        gone(kring.id());
    }
}

/// Calls `f` for each monitor ring of `watched` of the wanted sort.
///
/// A monitor may go while we look at it, and its ring's identifier be another
/// ring's then, which must not get these frames. The topology changes after the
/// monitor was taken from the list and before that: as long as it is the same
/// after the target was found, the target is what the list named.
fn for_each(
    party: &Party<'_>,
    watched: Kring<'_>,
    tx: bool,
    zcopy: bool,
    mut f: impl FnMut(&Target<'_>),
) {
    let mut done = [KringId(u32::MAX); MAX_MONITORS];
    let mut n = 0;
    for _ in 0..MAX_WALKS {
        let topology = party.world.topology();
        let same = || party.world.topology() == topology;
        let mut next = watched.monitors();
        for _ in 0..MAX_MONITORS {
            let Some(kring) = next.and_then(|id| party.world.kring(id)) else {
                break;
            };
            let id = kring.id();
            next = kring.next_monitor(tx);
            if kring.is_zcopy() != zcopy || done[..n].contains(&id) {
                continue;
            }
            let Some(map) = party.map_of(kring) else {
                continue;
            };
            let target = Target::new(id, kring, &map);
            if !same() {
                break;
            }
            if let Ok(target) = target {
                f(&target);
            }
            let Some(last) = done.get_mut(n) else { return };
            *last = id;
            n += 1;
        }
        if same() {
            return;
        }
    }
}

/// Cuts a run into pieces of at most [`CHUNK`] slots.
fn pieces<'a>(run: Run<'a>, mut f: impl FnMut(Run<'a>)) {
    let mut left = run.n.min(run.ring.count());
    let mut first = run.first;
    while left > 0 {
        let mut n = left.min(CHUNK);
        // Not in the middle of a frame: the rest might find no room.
        let last = |n: u32| run.ring.slot((first + n - 1) % run.ring.count());
        while n < left && n < CHUNK + MAX_FRAGS && last(n).has(NS_MOREFRAG) {
            n += 1;
        }
        f(Run { first, n, ..run });
        first = (first + n) % run.ring.count();
        left -= n;
    }
}

/// Slots of a piece skipped because the monitor was short of space.
#[derive(Debug, Default)]
struct Skip(core::cell::Cell<u32>);

/// Reserves room for the newest slots of a run, calls `put` for each with its
/// slot in the monitor's ring and its number in the run, and publishes.
fn fill_at(
    party: &Party<'_>,
    to: &Target<'_>,
    run: Run<'_>,
    skip: &Skip,
    mut put: impl FnMut(Slot, u32, u32) -> u64,
) {
    let count = run.ring.count();
    let at = |i: u32| run.ring.slot((run.first + i) % count);
    let lease = to.resv.reserve(party.owner, |free| {
        if to.kring.generation() != to.generation {
            return 0; // made anew since it was resolved
        }
        skip.0.set(newest(run.n, free, at));
        run.n - skip.0.get()
    });
    let skipped = match &lease {
        Ok(_) => skip.0.get(),
        Err(_) => run.n,
    };
    if skipped > 0 {
        let ends = (0..skipped).filter(|&i| !at(i).has(NS_MOREFRAG)).count();
        to.kring.count_full(ends as u64);
    }
    let Ok(lease) = lease else { return };
    let (mut frames, mut bytes) = (0, 0);
    let mut dst = lease.start.idx();
    for i in skipped..run.n {
        let slot = at(i);
        bytes += put(slot, dst, i);
        frames += u32::from(!slot.has(NS_MOREFRAG));
        dst = to.ring.next(dst);
    }
    to.kring.set_sum(lease, frames, bytes);
    to.resv.publish(lease, lease.n, true);
    party.wake(to.kring);
}

/// How many slots to skip so that the rest fits into `free` and begins with a
/// frame's first slot.
fn newest(n: u32, free: u32, at: impl Fn(u32) -> Slot) -> u32 {
    let mut skip = n.saturating_sub(free);
    while skip > 0 && skip < n && at(skip - 1).has(NS_MOREFRAG) {
        skip += 1;
    }
    skip
}

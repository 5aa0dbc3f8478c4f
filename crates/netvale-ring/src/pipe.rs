//! Pipes: two rings whose slots correspond one to one.
//!
//! Sending copies slots (16 bytes: index, length, flags, `ptr`) to the same
//! places of the peer's RX ring; receiving copies released slots back. So
//! buffers travel both ways and no byte of a frame is touched. The TX ring's
//! kring holds the buffers of both; an RX ring of a pipe has none of its own.
//! If the two ends lie in different regions, frames are copied instead, into
//! buffers that the RX ring then does have.
//!
//! A receiver that gives slots back as they came (the usual one) copies nothing
//! back: the sender's slots still say the same. To know, it keeps a private
//! copy of what it was shown ([`Shown`]), which costs less than writing into
//! lines that are in the sender's cache.
//!
//! There is one sender and one receiver, so two positions suffice, both in the
//! RX ring's kring: the end of data, and how far slots were given back.

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use crate::deliver::Target;
use crate::forward::{NS_FORWARD, Passing};
use crate::kring::{Counter, Kring, KringId};
use crate::layout::RESERVED_BUFS;
use crate::monitor::{self, Run};
use crate::offsets;
use crate::pos::Pos;
use crate::resv::Refused;
use crate::slot::{MAX_FRAGS, NS_BUF_CHANGED, NS_INDIRECT, NS_MOREFRAG, Ring, Slot};
use crate::sync::{BadWords, prologue};
use crate::world::{Party, RegionMap};

/// One end of a pipe's direction, as its user holds it.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Identifier.
    pub id: KringId,
    /// Hidden state.
    pub kring: Kring<'a>,
    /// The ring.
    pub ring: Ring<'a>,
}

/// What a sync moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Slots taken from the program.
    pub slots: u32,
}

/// Sends everything up to `head`, and takes back what the receiver released.
/// The caller holds the TX ring's lock.
///
/// # Errors
///
/// [`BadWords`]: `head` or `cur` broke the rules; nothing moved.
pub fn txsync(party: &Party<'_>, tx: End<'_>) -> Result<Moved, BadWords> {
    let (hwcur, hwtail) = tx.kring.hw();
    let head = prologue(tx.ring, party.own, hwcur, hwtail).inspect_err(|_| {
        tx.kring.count(Counter::FaultWords, 1);
    })?;
    let count = tx.ring.count();
    let Some(peer) = tx.kring.peer().and_then(|id| party.world.kring(id)) else {
        return Ok(Moved::default());
    };
    let Some(map) = party.map_of(peer) else {
        return Ok(Moved::default());
    };
    let to = match Target::new(peer.id(), peer, &map) {
        // Made anew in another region since: nobody's fault.
        Err(Refused::Closed) => return Ok(Moved::default()),
        found => found.ok(),
    };
    let Some(to) = to.filter(|t| t.ring.count() == count && t.kring.pipe_tail().idx() < count)
    else {
        tx.kring.count(Counter::FaultState, 1);
        return Ok(Moved::default());
    };
    let n = tx.ring.span(hwcur, head);
    if n > 0 {
        if tx.kring.is_watched() {
            let run = Run {
                ring: tx.ring,
                map: party.own,
                first: hwcur,
                n,
            };
            monitor::tap_copy(party, tx.kring, true, run);
        }
        send(party, tx, &to, hwcur, n);
        tx.kring.count(Counter::Syncs, 1);
    }
    // What the receiver has given back: all slots before its position.
    let back = to.kring.rhead().idx();
    if back >= count {
        tx.kring.count(Counter::FaultState, 1);
        tx.kring.set_hw(head, hwtail);
        return Ok(Moved { slots: n });
    }
    let was = tx.ring.next(hwtail);
    if back != was && tx.kring.is_watched() {
        let run = Run {
            ring: tx.ring,
            map: party.own,
            first: was,
            n: tx.ring.span(was, back),
        };
        monitor::tap_zcopy(party, tx.kring, tx.id, true, run);
    }
    let tail = if back == 0 { count - 1 } else { back - 1 };
    tx.kring.set_hw(head, tail);
    tx.ring.set_tail(tail);
    Ok(Moved { slots: n })
}

/// Copies `n` new slots over and shows the receiver the whole frames.
fn send(party: &Party<'_>, tx: End<'_>, to: &Target<'_>, first: u32, n: u32) {
    let count = tx.ring.count();
    let same = to.map.id == party.own.id && to.map.generation == party.own.generation;
    let shown = to.kring.pipe_tail();
    // Slots of an incomplete frame are there already but not shown yet.
    let pending = tx.ring.span(shown.idx(), first);
    let mut chain = pending.min(MAX_FRAGS - 1);
    let (mut frames, mut bytes, mut bad, mut whole) = (0u64, 0u64, 0u64, 0);
    let (bufs, size) = (party.own.geom.bufs, party.own.geom.buf_size);
    let from = tx.kring.offsets();
    let at_first_byte = from.is_none() && to.offsets.is_none();
    let mut plain = 0;
    if same && pending == 0 && at_first_byte {
        (plain, bytes) = copy_plain(tx.ring, to.ring, party.own, first, n);
        frames = u64::from(plain);
        whole = plain;
    }
    let mut k = (first + plain) % count;
    for i in plain + 1..=n {
        let slot = tx.ring.slot(k);
        let off = from.at(tx.ring, k, size);
        let good = slot.buf() >= RESERVED_BUFS
            && slot.buf() < bufs
            && u32::from(slot.len()) + off <= size
            && !slot.has(NS_INDIRECT);
        let len = if good { slot.len() } else { 0 };
        bad += u64::from(!good);
        chain += 1;
        // A chain longer than a frame may be is cut: its pieces arrive as
        // frames, and a ring full of MOREFRAG cannot stall the pipe.
        let more = slot.has(NS_MOREFRAG) && chain < MAX_FRAGS;
        let flags = if more {
            slot.flags()
        } else {
            slot.flags() & !NS_MOREFRAG
        };
        if same {
            to.ring.set_slot(k, Slot::new(slot.buf(), len, flags));
            hand_ptr(tx.ring, from, to.ring, to.offsets, k);
            if slot.has(NS_BUF_CHANGED) {
                let clear = slot.flags() & !NS_BUF_CHANGED;
                tx.ring.set_slot(k, slot.with_flags(clear));
            }
        } else {
            let dst = to.ring.slot(k).buf();
            let (src, bytes) = (party.own.bufs(), usize::from(len));
            let copied = if at_first_byte {
                to.map.bufs().copy_from(dst, src, slot.buf(), bytes)
            } else {
                offsets::copy_to_slot(to, k, src, (slot.buf(), off), len)
            };
            if slot.has(NS_BUF_CHANGED) {
                let clear = slot.flags() & !NS_BUF_CHANGED;
                tx.ring.set_slot(k, slot.with_flags(clear));
            }
            let len = if copied { len } else { 0 };
            to.ring
                .set_slot(k, Slot::new(dst, len, flags & !NS_BUF_CHANGED));
        }
        bytes += u64::from(len);
        if !more {
            frames += 1;
            whole = i;
            chain = 0;
        }
        k = if k + 1 == count { 0 } else { k + 1 };
    }
    tx.kring.count(Counter::Frames, frames);
    tx.kring.count(Counter::Bytes, bytes);
    tx.kring.count(Counter::DropSlot, bad);
    // Bytes of a frame whose end is still to come are counted as they come.
    to.kring.count_in(frames, bytes);
    if whole == 0 || pending + whole >= count {
        return;
    }
    if to.kring.is_watched() {
        let run = Run {
            ring: to.ring,
            map: to.map,
            first: shown.idx(),
            n: pending + whole,
        };
        monitor::tap_copy(party, to.kring, false, run);
    }
    to.kring
        .publish_pipe_tail(shown.add(pending + whole, count));
    party.wake(to.kring);
}

/// Hands a slot's `ptr` on to the same slot of the peer's ring.
#[inline]
fn hand_ptr(from: Ring<'_>, of: offsets::Offsets, to: Ring<'_>, ot: offsets::Offsets, k: u32) {
    let ptr = from.ptr(k);
    if of.is_none() && ot.is_none() {
        to.set_ptr(k, ptr);
    } else {
        to.set_ptr(k, offsets::larger((of, ptr), (ot, to.ptr(k))));
    }
}

/// Slot flags that need more than a copy.
const SPECIAL: u16 = NS_MOREFRAG | NS_INDIRECT | NS_BUF_CHANGED | NS_FORWARD;

/// Copies slots as they are from `first` on, `n` at most, as long as each is a
/// whole frame with nothing special about it. How many, and their bytes.
#[inline]
fn copy_plain(from: Ring<'_>, to: Ring<'_>, map: &RegionMap, first: u32, n: u32) -> (u32, u64) {
    let (last, size) = (map.geom.bufs - RESERVED_BUFS, map.geom.buf_size);
    let (mut done, mut bytes) = (0, 0);
    let mut part = |at, n| {
        let slots = from.words(at, n).chunks_exact(2);
        for (s, d) in slots.zip(to.words(at, n).chunks_exact(2)) {
            let slot = Slot::from_bits(s[0].load(Relaxed));
            if slot.has(SPECIAL)
                || slot.buf().wrapping_sub(RESERVED_BUFS) >= last
                || u32::from(slot.len()) > size
            {
                return false;
            }
            d[0].store(slot.bits(), Relaxed);
            d[1].store(s[1].load(Relaxed), Relaxed);
            bytes += u64::from(slot.len());
            done += 1;
        }
        true
    };
    let end = first + n;
    if part(first, n) && end > from.count() {
        part(0, end - from.count()); // the first part stopped at the end
    }
    (done, bytes)
}

/// The slots of an RX ring as its receiver was shown them.
#[derive(Debug, Default)]
pub struct Shown {
    /// By slot.
    words: Vec<[u64; 2]>,
    /// Where release and display stood after our last sync: another handle of
    /// the same ring may have synced since.
    released: Pos,
    tail: u32,
    /// So many of the slots that the receiver has, from the first on, are not
    /// known.
    unknown: u32,
}

impl Shown {
    /// For a ring of `slots` slots, of which nothing is known.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self {
            words: vec![[0; 2]; slots as usize],
            unknown: slots,
            ..Self::default()
        }
    }

    /// Forgets what another handle has changed.
    #[inline]
    fn begin(&mut self, count: u32, rhead: Pos, hwtail: u32, held: u32) {
        if self.words.len() != count as usize {
            self.unknown = count; // not of this ring: copies back, always
        } else if self.released != rhead || self.tail != hwtail {
            self.unknown = held;
        }
    }

    /// Whether `n` slots from `first` on are as they were shown, with nothing
    /// special about them.
    #[inline]
    fn is_unchanged(&self, ring: Ring<'_>, first: u32, n: u32) -> bool {
        if self.unknown > 0 {
            return false;
        }
        let mut special = 0;
        let mut part = |at: u32, n: u32| {
            let known = self.words.get(at as usize..).unwrap_or_default();
            ring.words(at, n)
                .chunks_exact(2)
                .zip(known)
                .all(|(now, was)| {
                    special |= was[0];
                    now[0].load(Relaxed) == was[0] && now[1].load(Relaxed) == was[1]
                })
        };
        let end = first + n;
        let count = ring.count();
        let same = part(first, n) && (end <= count || part(0, end - count));
        same && !Slot::from_bits(special).has(SPECIAL)
    }

    /// Notes slots that are shown now.
    #[inline]
    fn note(&mut self, ring: Ring<'_>, first: u32, n: u32) {
        let mut part = |at: u32, n: u32| {
            let known = self.words.get_mut(at as usize..).unwrap_or_default();
            for (now, was) in ring.words(at, n).chunks_exact(2).zip(known) {
                *was = [now[0].load(Relaxed), now[1].load(Relaxed)];
            }
        };
        let end = first + n;
        part(first, n);
        if end > ring.count() {
            part(0, end - ring.count());
        }
    }
}

/// Gives released slots back to the sender and looks for new frames. The
/// caller holds the RX ring's lock, and keeps `shown` from one sync of this
/// ring to the next. Returns the new tail.
///
/// # Errors
///
/// [`BadWords`]: `head` or `cur` broke the rules; nothing was released.
pub fn rxsync(party: &Party<'_>, rx: End<'_>, shown: &mut Shown) -> Result<u32, BadWords> {
    let count = rx.ring.count();
    let rhead = rx.kring.rhead();
    let (_, hwtail) = rx.kring.hw();
    if hwtail < count && rhead.idx() < count {
        shown.begin(count, rhead, hwtail, rx.ring.span(rhead.idx(), hwtail));
    }
    let words = prologue(rx.ring, party.own, rhead.idx(), hwtail);
    let tx = || rx.kring.peer().and_then(|id| party.world.kring(id));
    if rx.kring.asks_anew(rx.ring) {
        rx.kring.note_asked();
        if let Some(tx) = tx() {
            party.wake(tx);
        }
    }
    if let Ok(head) = words
        && head != rhead.idx()
    {
        let n = rx.ring.span(rhead.idx(), head);
        let tx = tx();
        let frames = match tx {
            Some(tx) => release(party, rx, tx, rhead.idx(), n, shown),
            None => false,
        };
        shown.unknown = shown.unknown.saturating_sub(n);
        rx.kring.publish_pipe_head(rhead.add(n, count));
        if let Some(tx) = tx.filter(|tx| frames || !tx.sleep_word().is_for_frames()) {
            party.wake(tx);
        }
    }
    let tail = rx.kring.pipe_tail();
    let held = rx.kring.rhead().distance(tail, count);
    if held >= count || tail.idx() >= count {
        rx.kring.count(Counter::FaultState, 1);
        return words.map(|_| hwtail);
    }
    if hwtail < count {
        shown.note(rx.ring, hwtail, rx.ring.span(hwtail, tail.idx()));
    }
    (shown.released, shown.tail) = (rx.kring.rhead(), tail.idx());
    rx.kring.set_hw(rhead.idx(), tail.idx());
    rx.ring.set_tail(tail.idx());
    match words {
        Ok(_) => Ok(tail.idx()),
        Err(bad) => {
            rx.kring.count(Counter::FaultWords, 1);
            Err(bad)
        }
    }
}

/// Copies `n` slots from `first` on back into the sender's ring, unless they
/// are what the sender put there. Whether frames are among them that are to be
/// passed on.
fn release(
    party: &Party<'_>,
    rx: End<'_>,
    tx: Kring<'_>,
    first: u32,
    n: u32,
    shown: &Shown,
) -> bool {
    let Some(map) = party.map_of(tx) else {
        return false;
    };
    let same = map.id == party.own.id && map.generation == party.own.generation;
    if rx.kring.is_watched() {
        let run = Run {
            ring: rx.ring,
            map: party.own,
            first,
            n,
        };
        let holder = if same { tx.id() } else { rx.id };
        monitor::tap_zcopy(party, rx.kring, holder, false, run);
    }
    if !same {
        return false; // each end keeps its own buffers
    }
    let passing = rx.kring.passing(rx.ring);
    let plain = !rx.kring.has_offsets() && !tx.has_offsets() && passing != Passing::All;
    if plain && shown.is_unchanged(rx.ring, first, n) {
        return false;
    }
    let g = tx.geom();
    let to = map.ring(g.ofs, g.slots);
    let Some(to) = to.filter(|to| to.count() == rx.ring.count()) else {
        rx.kring.count(Counter::FaultState, 1);
        return false;
    };
    let (bufs, size) = (party.own.geom.bufs, party.own.geom.buf_size);
    let plain = match plain {
        true => copy_plain(rx.ring, to, party.own, first, n).0,
        false => 0,
    };
    if plain == n {
        return false;
    }
    let offsets = (rx.kring.offsets(), tx.offsets());
    let mut frames = false;
    let mut k = (first + plain) % rx.ring.count();
    for _ in plain..n {
        let slot = rx.ring.slot(k);
        if slot.buf() >= RESERVED_BUFS && slot.buf() < bufs {
            let len = if u32::from(slot.len()) <= size {
                slot.len()
            } else {
                0
            };
            let flags = passing.mark(slot.flags());
            to.set_slot(k, Slot::new(slot.buf(), len, flags));
            hand_ptr(rx.ring, offsets.0, to, offsets.1, k);
            let mut done = NS_BUF_CHANGED;
            if passing.any() && flags & NS_FORWARD != 0 {
                frames = true;
                done |= NS_FORWARD;
            }
            if slot.has(done) {
                rx.ring.set_slot(k, slot.with_flags(slot.flags() & !done));
            }
        } else {
            rx.kring.count(Counter::DropSlot, 1);
        }
        k = rx.ring.next(k);
    }
    frames
}

/// Prepares the pair of hidden states of a new direction.
pub fn init(tx: Kring<'_>, rx: Kring<'_>, slots: u32) {
    let start = Pos::new(0, 0);
    tx.set_hw(0, slots - 1);
    rx.set_hw(0, 0);
    rx.publish_pipe_tail(start);
    rx.publish_pipe_head(start);
}

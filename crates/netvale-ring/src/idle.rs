//! Whether a sync would do nothing, told by a few loads: no lock, no store, no
//! locked instruction.
//!
//! Programs sync in loops, and most syncs of most rings find nothing. `true`
//! means that the words are as the last sync left them (`cur` may have moved
//! within the rules) and that nothing came since; a sync then need not be made.
//! Everything else, nonsense in any word included, is `false`, and the sync
//! proper decides under the ring's lock. Loads are in such an order that who
//! announced its sleep before it asks sees what was published before that.

use crate::kring::Kring;
use crate::pipe::End;
use crate::slot::Ring;
use crate::world::World;

/// Whether the program has moved nothing: `head` stands at `hwcur`, `tail` is
/// untouched, and `cur` lies between.
#[inline]
fn untouched(ring: Ring<'_>, hwcur: u32, tail: u32) -> bool {
    let (n, cur) = (ring.count(), ring.cur());
    ring.head() == hwcur
        && ring.tail() == tail
        && hwcur < n
        && tail < n
        && (cur == hwcur || (cur < n && ring.span(hwcur, cur) <= ring.span(hwcur, tail)))
}

/// For a TX ring whose slots are back at once: a switch port's, a null port's.
#[inline]
#[must_use]
pub fn tx(kring: Kring<'_>, ring: Ring<'_>) -> bool {
    let (hwcur, hwtail) = kring.hw();
    untouched(ring, hwcur, hwtail)
}

/// For a TX ring of a pipe: its receiver has given nothing back either.
#[inline]
#[must_use]
pub fn pipe_tx(world: &World, end: End<'_>) -> bool {
    let (hwcur, hwtail) = end.kring.hw();
    untouched(end.ring, hwcur, hwtail)
        && end
            .kring
            .peer()
            .and_then(|id| world.kring(id))
            .is_some_and(|rx| rx.pipe_head().idx() == end.ring.next(hwtail))
}

/// For an RX ring of a pipe.
#[inline]
#[must_use]
pub fn pipe_rx(end: End<'_>) -> bool {
    let (rhead, (_, hwtail)) = (end.kring.rhead(), end.kring.hw());
    let count = end.ring.count();
    untouched(end.ring, rhead.idx(), hwtail)
        && !end.kring.asks_anew(end.ring)
        && rhead.distance(end.kring.pipe_tail(), count) == end.ring.span(rhead.idx(), hwtail)
}

/// For an RX ring that is filled by reservations.
#[inline]
#[must_use]
pub fn rx(kring: Kring<'_>, ring: Ring<'_>) -> bool {
    let (released, cursor) = (kring.released(), kring.cursor());
    untouched(ring, released.idx(), cursor.tail.idx())
        && kring
            .resv(ring.count())
            .is_some_and(|resv| resv.is_quiet(cursor))
}

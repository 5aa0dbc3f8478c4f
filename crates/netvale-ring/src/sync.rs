//! What is checked before a ring is touched (netmap's sync prologues).
//!
//! The program owns `head`, `cur` and the slots in `[head, tail)`; it may
//! write nonsense anywhere. A sync reads each word once, checks it against the
//! hidden state, and either goes on with values that are right or puts the
//! ring right and moves nothing.

use crate::slot::{Ring, Slot};
use crate::world::RegionMap;

/// The program's words broke the rules; the ring was put right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadWords;

/// Checks `head` and `cur` of a TX or RX ring: circularly
/// `hwcur <= head <= cur <= tail`. Returns `head`.
///
/// # Errors
///
/// [`BadWords`], after the ring was put right ([`reinit`]).
#[inline]
pub fn prologue(
    ring: Ring<'_>,
    region: &RegionMap,
    hwcur: u32,
    tail: u32,
) -> Result<u32, BadWords> {
    let n = ring.count();
    let head = ring.head();
    let cur = ring.cur();
    let fine = head < n && cur < n && hwcur < n && tail < n && {
        let h = ring.span(hwcur, head);
        let c = ring.span(hwcur, cur);
        let t = ring.span(hwcur, tail);
        h <= c && c <= t
    };
    if fine {
        if ring.tail() != tail {
            ring.set_tail(tail); // written over by the program: restored
        }
        return Ok(head);
    }
    reinit(ring, region, hwcur, tail);
    Err(BadWords)
}

/// Puts a ring right: impossible buffer indices and lengths become 0; if one of
/// its indices is outside the ring, all three become the hidden ones, and stay
/// as they are otherwise.
#[cold]
pub fn reinit(ring: Ring<'_>, region: &RegionMap, hwcur: u32, tail: u32) {
    let n = ring.count();
    let outside = ring.head() >= n || ring.cur() >= n || ring.tail() >= n;
    for i in 0..n {
        let slot = ring.slot(i);
        if !region.valid_buf(slot.buf()) {
            ring.set_slot(i, Slot::new(0, 0, slot.flags()));
        } else if u32::from(slot.len()) > region.geom.buf_size {
            ring.set_slot(i, Slot::new(slot.buf(), 0, slot.flags()));
        }
    }
    if outside {
        ring.reset_head_cur(if hwcur < n { hwcur } else { 0 });
        ring.set_tail(if tail < n { tail } else { 0 });
    }
}

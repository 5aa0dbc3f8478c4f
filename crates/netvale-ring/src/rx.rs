//! Receiving: the sync of an RX ring that senders fill by reservations.

use crate::kring::{Counter, KringId};
use crate::monitor::{self, Run};
use crate::pipe::End;
use crate::sync::{BadWords, prologue};
use crate::world::Party;

/// Gives released slots back to the senders and looks for new frames. The
/// caller holds the ring's lock. Returns the new tail.
///
/// # Errors
///
/// [`BadWords`]: `head` or `cur` broke the rules; nothing was released (new
/// frames are published all the same).
#[inline]
pub fn rxsync(party: &Party<'_>, rx: End<'_>) -> Result<u32, BadWords> {
    let count = rx.ring.count();
    let rhead = rx.kring.rhead();
    let cursor = rx.kring.cursor();
    let words = prologue(rx.ring, party.own, rhead.idx(), cursor.tail.idx());
    if let Ok(head) = words
        && head != rhead.idx()
    {
        let n = rx.ring.span(rhead.idx(), head);
        if rx.kring.monitors().is_some() {
            release_to_monitors(party, rx, rx.id, rhead.idx(), n);
        }
        rx.kring.set_rhead(rhead.add(n, count));
    }
    let Some(resv) = rx.kring.resv(count) else {
        return words;
    };
    let (mut frames, mut bytes) = (0, 0);
    let found = resv.collect_each(cursor, |start| {
        let (f, b) = rx.kring.sum(start);
        frames += f;
        bytes += b;
    });
    if found.fault {
        rx.kring.count(Counter::FaultState, 1);
    }
    let tail = found.cursor.tail.idx();
    if found.cursor != cursor && tail < count {
        rx.kring.set_cursor(found.cursor);
        rx.ring.set_tail(tail);
        rx.kring.count_in(frames, bytes);
    }
    match words {
        Ok(_) if tail < count => Ok(tail),
        Ok(_) => Ok(cursor.tail.idx()),
        Err(bad) => {
            rx.kring.count(Counter::FaultWords, 1);
            Err(bad)
        }
    }
}

#[cold]
fn release_to_monitors(party: &Party<'_>, rx: End<'_>, holder: KringId, first: u32, n: u32) {
    let run = Run {
        ring: rx.ring,
        map: party.own,
        first,
        n,
    };
    monitor::tap_zcopy(party, rx.kring, holder, false, run);
}

//! Receiving: the sync of an RX ring that senders fill by reservations.

use crate::kring::{Counter, KringId};
use crate::monitor::{self, Run};
use crate::pipe::End;
use crate::pos::Pos;
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
    let was = rx.kring.released();
    let cursor = rx.kring.cursor();
    let words = prologue(rx.ring, party.own, was.idx(), cursor.tail.idx());
    let mut released = was;
    if let Ok(head) = words
        && head != was.idx()
    {
        let n = rx.ring.span(was.idx(), head);
        if rx.kring.monitors().is_some() {
            release_to_monitors(party, rx, rx.id, was.idx(), n);
        }
        released = was.add(n, count);
        rx.kring.set_released(released);
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
    give_back(rx, released, found.cursor.start, count);
    match words {
        Ok(_) if tail < count => Ok(tail),
        Ok(_) => Ok(cursor.tail.idx()),
        Err(bad) => {
            rx.kring.count(Counter::FaultWords, 1);
            Err(bad)
        }
    }
}

/// Lets senders have what the program released, but nothing of a reservation
/// that is still being filled, though its first slots were shown: its record
/// stands at its first slot and must not be written over.
#[inline]
fn give_back(rx: End<'_>, released: Pos, start: Pos, count: u32) {
    let inside = start.distance(released, count);
    let to = if inside < count { start } else { released };
    if to != rx.kring.rhead() {
        rx.kring.set_rhead(to);
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

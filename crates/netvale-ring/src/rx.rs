//! Receiving: the sync of an RX ring that senders fill by reservations.

use crate::kring::{Counter, KringId};
use crate::monitor::{self, Run};
use crate::pipe::End;
use crate::pos::Pos;
use crate::resv::Cursor;
use crate::sync::{BadWords, prologue};
use crate::world::Party;

/// Gives released slots back to the senders and looks for new frames. The
/// caller holds the ring's lock. Returns the new tail.
///
/// # Errors
///
/// [`BadWords`]: `head` or `cur` broke the rules; nothing was released (new
/// frames are published all the same).
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
        if rx.kring.is_watched() {
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
    } else if words.is_err() && cursor.tail.idx() < count {
        rx.ring.set_tail(cursor.tail.idx()); // whatever the program wrote
    }
    give_back(rx, released, found.cursor, count);
    match words {
        Ok(_) if tail < count => Ok(tail),
        Ok(_) => Ok(cursor.tail.idx()),
        Err(bad) => {
            rx.kring.count(Counter::FaultWords, 1);
            Err(bad)
        }
    }
}

/// The commonest sync of all: the program has released all that it was shown,
/// and one reservation has been filled since. The caller holds the ring's lock.
/// The new tail, or `None`, with nothing done, if anything is out of the
/// ordinary: then [`rxsync`] is to be called.
#[inline]
#[must_use]
pub fn next_batch(rx: End<'_>) -> Option<u32> {
    let (kring, ring) = (rx.kring, rx.ring);
    let (count, Cursor { start, tail }) = (ring.count(), kring.cursor());
    let (shown, head) = (tail.idx(), ring.head());
    let all_released = head == shown
        && shown < count
        && ring.cur() == head
        && ring.tail() == shown
        && start == tail
        && kring.released().idx() < count
        && !kring.is_watched();
    if !all_released {
        return None;
    }
    let end = kring.resv(count)?.next_whole(start)?;
    let (frames, bytes) = kring.sum(start);
    kring.set_released(start);
    kring.set_cursor(Cursor {
        start: end,
        tail: end,
    });
    kring.count_in(frames, bytes);
    ring.set_tail(end.idx());
    kring.set_rhead(start);
    Some(end.idx())
}

/// Lets senders have what the program released, but nothing of a reservation
/// that is still being filled, though its first slots were shown: its record
/// stands at its first slot and must not be written over.
#[inline]
fn give_back(rx: End<'_>, released: Pos, cursor: Cursor, count: u32) {
    let mut to = released;
    if cursor.tail != cursor.start && cursor.start.distance(released, count) < count {
        to = cursor.start;
    }
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

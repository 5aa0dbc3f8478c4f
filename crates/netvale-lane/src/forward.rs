//! Frames that a program passes on by releasing their slots: they come back in
//! the device's ring, marked, and leave by another device.

use netvale_backends::batch::{Batch, BufPool, MAX_PIECES, Piece};
use netvale_ring::Ring;
use netvale_ring::forward::NS_FORWARD;
use netvale_ring::kring::Kring;
use netvale_ring::slot::NS_MOREFRAG;
use netvale_switch::end::TxEnd;

use crate::{DeviceLane, Loss, Losses, Trouble};

/// Slots looked at in one turn.
const TURN: u32 = 256;

/// What a lane does with slots that come back.
#[derive(Debug, Default)]
pub(crate) struct Onward {
    device: Option<Box<dyn DeviceLane>>,
    /// `None`: nobody passes anything on.
    back: Option<Back>,
    /// The slot looked at last is not the last of its frame, which stays here.
    inside: bool,
    wanted: bool,
    batch: Batch,
}

/// Slots that have come back. In a ring whose slots are all free that is one
/// more than the program may use, so they are counted.
#[derive(Debug, Clone, Copy)]
struct Back {
    /// The last of them.
    last: u32,
    /// How many, up to that, have not been looked at.
    left: u32,
}

impl Back {
    /// The first that has not been looked at.
    fn first(self, count: u32) -> u32 {
        (self.last + 1 + count - self.left) % count
    }
}

impl Onward {
    pub(crate) fn set(&mut self, device: Option<Box<dyn DeviceLane>>) {
        self.device = device;
        self.wanted = false;
    }

    /// Whether frames wait for a device.
    pub(crate) fn wanted(&self) -> bool {
        self.wanted
    }

    /// The first slot that must not be used for what the device brings.
    pub(crate) fn limit(&self, ring: Ring<'_>) -> u32 {
        match self.back {
            Some(back) if back.left > 0 => back.first(ring.count()),
            Some(back) => back.last,
            None => ring.tail(),
        }
    }

    /// Looks at slots that have come back and sends the frames in those that
    /// are marked. Whether there were any slots.
    pub(crate) fn serve(&mut self, tx: &mut TxEnd, pool: &BufPool, losses: &Losses) -> bool {
        let passes = tx.receiver().is_some_and(Kring::forwards);
        if !passes {
            self.back = None;
            return false;
        }
        let _ = tx.sync(); // words that were put right are seen the next time
        let ring = tx.ring();
        let (head, tail, count) = (ring.head(), ring.tail(), ring.count());
        if head >= count || tail >= count {
            return false;
        }
        let left = match self.back {
            Some(back) => back.left + ring.span(back.last, tail),
            None => ring.span(head, tail) + 1,
        };
        let left = left.min(count);
        self.wanted = self.device.is_none();
        let looked = match self.wanted {
            false => self.collect(tx, Back { last: tail, left }, pool.stride()),
            true => 0,
        };
        self.back = Some(Back {
            last: tail,
            left: left - looked,
        });
        if looked > 0 {
            self.send(pool, losses);
        }
        looked > 0
    }

    /// Takes marked frames out of slots that have come back, and the marks off.
    /// How many slots are done with.
    fn collect(&mut self, tx: &TxEnd, back: Back, room: u32) -> u32 {
        let ring = tx.ring();
        // As the receiver has them.
        let offsets = tx.receiver().map(Kring::offsets).unwrap_or_default();
        self.batch.clear();
        let mut chain = [Piece {
            buf: 0,
            off: 0,
            len: 0,
        }; MAX_PIECES];
        let mut at = back.first(ring.count());
        let (mut frame, mut pieces, mut done) = (at, 0, 0);
        for i in 1..=back.left.min(TURN) {
            let slot = ring.slot(at);
            let more = slot.has(NS_MOREFRAG);
            let next = ring.next(at);
            if pieces == 0 && (self.inside || !slot.has(NS_FORWARD)) {
                self.inside = more;
                (at, frame, done) = (next, next, i);
                continue;
            }
            let piece = Piece {
                buf: slot.buf(),
                off: offsets.at(ring, at, room),
                len: slot.len().into(),
            };
            if let Some(place) = chain.get_mut(pieces) {
                *place = piece;
                pieces += 1;
            }
            at = next;
            if more && pieces < MAX_PIECES {
                continue;
            }
            // Never more pieces than a frame may have.
            let _ = self.batch.push(chain.get(..pieces).unwrap_or_default());
            while frame != at {
                let slot = ring.slot(frame);
                ring.set_slot(frame, slot.with_flags(0));
                frame = ring.next(frame);
            }
            (pieces, self.inside, done) = (0, more, i);
        }
        done
    }

    fn send(&mut self, pool: &BufPool, losses: &Losses) {
        let frames = self.batch.len();
        let Some(device) = self.device.as_mut().filter(|_| frames > 0) else {
            return;
        };
        let lost = match device.push(pool, &self.batch) {
            Ok(pushed) => (frames - pushed.done.min(frames)) as u64 + pushed.refused,
            Err(Trouble::Down | Trouble::Gone(_)) => frames as u64,
        };
        losses.count(Loss::Unforwarded, lost);
    }
}

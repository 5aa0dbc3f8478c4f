//! Whether an interface has no room now, or drops a frame.
//!
//! The kernel says the same of both, and the frame is gone in both cases. Who
//! waits for room for a frame that is always dropped (longer than the other end
//! of a veth takes, refused by a rule, without a carrier) waits for ever; who
//! gives up a frame for which there was no room loses what a moment would have
//! let through. So a frame is tried again for some time; then, whether the one
//! behind it finds room tells.

/// Times that a frame is tried before the one behind it is.
const BEFORE: u32 = 8;
/// Times that a frame is tried at all.
const TRIES: u32 = 64;
/// After a frame that was dropped: frames that are not tried again.
const KNOWN: usize = 4096;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Times that the first frame has been tried.
    tries: u32,
    /// Frames for which no room means that they are dropped.
    known: usize,
}

/// What to do about a frame that there was no room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Full {
    /// It is lost.
    Dropped,
    /// Try the one behind it: if that goes, this one is lost.
    PassOver,
    /// Try again later.
    Wait,
}

impl Room {
    /// There was none for the first of `left` frames, or, if it was passed
    /// over, for the next.
    pub(super) fn none(&mut self, over: usize, left: usize) -> Full {
        if over > 0 {
            return Full::Wait;
        }
        self.tries += 1;
        if self.known == 0 && self.tries < TRIES {
            return match self.tries >= BEFORE && left > 1 {
                true => Full::PassOver,
                false => Full::Wait,
            };
        }
        self.known = match self.known {
            0 => KNOWN,
            n => n - 1,
        };
        self.tries = 0;
        Full::Dropped
    }

    /// So many were sent, after some that were passed over.
    pub(super) fn sent(&mut self, over: usize, frames: usize) {
        self.tries = 0;
        self.known = match over {
            0 => self.known.saturating_sub(frames),
            _ => KNOWN,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers to `n` attempts in a row.
    fn tried(room: &mut Room, n: u32, left: usize) -> Vec<Full> {
        (0..n).map(|_| room.none(0, left)).collect()
    }

    #[test]
    fn room_that_comes_back_costs_no_frame() {
        let mut room = Room::default();
        for _ in 0..3 {
            let waits = tried(&mut room, BEFORE - 1, 9);
            assert!(waits.iter().all(|w| *w == Full::Wait), "{waits:?}");
            room.sent(0, 1);
        }
        // Also for others than the first there is none.
        for _ in BEFORE..TRIES {
            tried(&mut room, BEFORE - 1, 9);
            assert_eq!(room.none(0, 9), Full::PassOver);
            assert_eq!(room.none(1, 9), Full::Wait);
            room.sent(0, 1);
        }
    }

    #[test]
    fn a_dropped_frame_is_given_up_and_others_like_it_at_once() {
        let mut room = Room::default();
        tried(&mut room, BEFORE - 1, 2);
        assert_eq!(room.none(0, 2), Full::PassOver);
        room.sent(1, 1);
        assert_eq!(room.none(0, 2), Full::Dropped);
        room.sent(0, KNOWN);
        assert_eq!(room.none(0, 2), Full::Wait, "perhaps it is full now");
    }

    #[test]
    fn an_interface_that_drops_everything_is_no_wall() {
        let mut room = Room::default();
        let waits = tried(&mut room, TRIES - 1, 1);
        assert!(waits.iter().all(|w| *w == Full::Wait), "{waits:?}");
        assert_eq!(room.none(0, 1), Full::Dropped);
        for _ in 0..KNOWN {
            assert_eq!(room.none(0, 1), Full::Dropped);
        }
        assert_eq!(room.none(0, 1), Full::Wait);
    }
}

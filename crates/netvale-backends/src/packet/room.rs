//! Whether an interface has no room now, or drops a frame.
//!
//! The kernel says the same of both, and the frame is gone in both cases. Who
//! waits for room for a frame that is always dropped (longer than the other end
//! of a veth takes, refused by a rule, without a carrier unless a queueing
//! discipline takes it all the same) waits for ever; who gives up a frame for
//! which there was no room loses what a moment would have let through. So a
//! frame is tried again for some time; then, whether the one behind it finds
//! room tells.
//!
//! Others that are as long as a dropped one are not tried again for a while,
//! which is long if none but shorter ones found room. Otherwise it is short:
//! the one behind may have gone to another queue of the interface, or all may
//! be held up for longer than a frame is tried.

/// Times that a frame is tried before the one behind it is.
const BEFORE: u32 = 8;
/// Times that a frame is tried at all.
const TRIES: u32 = 64;
/// After a frame that was dropped for its length: frames that are not tried
/// again.
const KNOWN: usize = 4096;
/// After another one.
const FEW: usize = 256;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Times that the first frame has been tried.
    tries: u32,
    /// Its bytes.
    first: usize,
    /// Frames for which no room means that they are dropped, if they have at
    /// least so many bytes.
    known: usize,
    len: usize,
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
    /// There was none for the first of `left` frames, which has `len` bytes,
    /// or, if it was passed over, for the next.
    pub(super) fn none(&mut self, over: usize, left: usize, len: usize) -> Full {
        if over > 0 {
            return Full::Wait;
        }
        self.tries += 1;
        self.first = len;
        let known = self.known > 0 && len >= self.len;
        if !known && self.tries < TRIES {
            return match self.tries >= BEFORE && left > 1 {
                true => Full::PassOver,
                false => Full::Wait,
            };
        }
        match known {
            true => self.known -= 1,
            false => (self.known, self.len) = (FEW, len),
        }
        self.tries = 0;
        Full::Dropped
    }

    /// Frames of these lengths were sent, after some that were passed over.
    pub(super) fn sent(&mut self, over: usize, mut lens: impl ExactSizeIterator<Item = usize>) {
        self.tries = 0;
        if over > 0 {
            self.len = self.first;
            self.known = match lens.all(|len| len < self.len) {
                true => KNOWN,
                false => FEW,
            };
            return;
        }
        let frames = lens.len();
        // It was not for its length.
        if self.known > FEW && lens.any(|len| len >= self.len) {
            self.known = FEW;
        }
        self.known = self.known.saturating_sub(frames);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 1000;

    /// Answers to `n` attempts in a row.
    fn tried(room: &mut Room, n: u32, left: usize) -> Vec<Full> {
        (0..n).map(|_| room.none(0, left, LEN)).collect()
    }

    /// A frame has been dropped, and one of `len` bytes behind it was sent.
    fn passed_over(len: usize) -> Room {
        let mut room = Room::default();
        tried(&mut room, BEFORE - 1, 2);
        assert_eq!(room.none(0, 2, LEN), Full::PassOver);
        room.sent(1, [len].into_iter());
        room
    }

    /// Frames like it that are given up before one is tried again.
    fn given_up(room: &mut Room) -> usize {
        let dropped = || room.none(0, 1, LEN) == Full::Dropped;
        std::iter::repeat_with(dropped).take_while(|d| *d).count()
    }

    #[test]
    fn room_that_comes_back_costs_no_frame() {
        let mut room = Room::default();
        for _ in 0..3 {
            let waits = tried(&mut room, BEFORE - 1, 9);
            assert!(waits.iter().all(|w| *w == Full::Wait), "{waits:?}");
            room.sent(0, [LEN].into_iter());
        }
        // Also for others than the first there is none.
        for _ in BEFORE..TRIES {
            tried(&mut room, BEFORE - 1, 9);
            assert_eq!(room.none(0, 9, LEN), Full::PassOver);
            assert_eq!(room.none(1, 9, LEN), Full::Wait);
            room.sent(0, [LEN].into_iter());
        }
    }

    #[test]
    fn a_frame_that_is_too_long_is_given_up_and_others_like_it_at_once() {
        let mut room = passed_over(LEN - 1);
        assert_eq!(room.none(0, 2, LEN), Full::Dropped);
        assert_eq!(room.none(0, 2, LEN + 1), Full::Dropped);
        room.sent(0, std::iter::repeat_n(60, KNOWN - 3));
        assert_eq!(room.none(0, 2, LEN), Full::Dropped);
        assert_eq!(room.none(0, 2, LEN), Full::Wait, "perhaps it is full now");
        assert_eq!(given_up(&mut passed_over(60)), KNOWN);
    }

    #[test]
    fn shorter_frames_than_a_dropped_one_wait() {
        for behind in [60, LEN] {
            let mut room = passed_over(behind);
            assert_eq!(room.none(0, 2, LEN - 1), Full::Wait);
            assert_eq!(room.none(0, 2, LEN), Full::Dropped);
        }
    }

    #[test]
    fn a_queue_that_was_full_for_one_frame_costs_few_others() {
        // As by the hash of their flows, or in the bytes that a queue holds.
        assert_eq!(given_up(&mut passed_over(LEN)), FEW);
        let mut room = passed_over(60);
        room.sent(0, [60, LEN].into_iter());
        assert_eq!(given_up(&mut room), FEW - 2);
        let mut room = passed_over(60);
        room.sent(0, std::iter::repeat_n(LEN, FEW));
        assert_eq!(given_up(&mut room), 0);
    }

    #[test]
    fn an_interface_that_drops_everything_is_no_wall() {
        let mut room = Room::default();
        for _ in 0..3 {
            let waits = tried(&mut room, TRIES - 1, 1);
            assert!(waits.iter().all(|w| *w == Full::Wait), "{waits:?}");
            assert_eq!(room.none(0, 1, LEN), Full::Dropped);
            // Nothing shows yet that it was not held up.
            (0..FEW).for_each(|_| assert_eq!(room.none(0, 1, LEN), Full::Dropped));
        }
    }
}

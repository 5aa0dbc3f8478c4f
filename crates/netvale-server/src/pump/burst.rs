//! How much to ask a device for.

/// How many frames are asked for at once: as many as came lately. Where they
/// come singly nobody asks for a second one in vain: that costs as much as a
/// third of the frame.
#[derive(Debug)]
pub(super) struct Burst {
    frames: usize,
    /// Turns in a row that brought all that they asked for.
    full: u32,
}

impl Burst {
    /// So many full turns are no chance,
    const SURE: u32 = 4;
    /// and so many of single frames: questions and answers come singly all the
    /// time.
    const SURE_OF_ONE: u32 = 16;
    /// Most frames of a turn.
    const MOST: usize = 256;

    pub(super) fn new() -> Self {
        Self { frames: 1, full: 0 }
    }

    /// Frames to ask for.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// A turn is over that brought so many.
    pub(super) fn took(&mut self, got: usize) {
        if got < self.frames {
            *self = Self {
                frames: got.max(1),
                full: 0,
            };
            return;
        }
        self.full += 1;
        let sure = match self.frames {
            1 => Self::SURE_OF_ONE,
            _ => Self::SURE,
        };
        if self.full >= sure {
            *self = Self {
                frames: (self.frames * 2).min(Self::MOST),
                full: 0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_frames_are_asked_for_singly() {
        let mut burst = Burst::new();
        let mut in_vain = 0;
        for _ in 0..100 {
            in_vain += u32::from(burst.frames() > 1);
            burst.took(1);
        }
        assert!(in_vain <= 100 / Burst::SURE_OF_ONE, "{in_vain}");
        assert!(burst.frames() <= 2);
    }

    #[test]
    fn bursts_are_met_with_bursts() {
        let mut burst = Burst::new();
        for _ in 0..100 {
            burst.took(burst.frames());
        }
        assert_eq!(burst.frames(), Burst::MOST);
        burst.took(7);
        assert_eq!(burst.frames(), 7);
        burst.took(0);
        assert_eq!(burst.frames(), 1);
    }
}

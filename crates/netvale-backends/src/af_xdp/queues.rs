//! Which of an interface's queues get sockets, and whether these hear all.

/// Most queues of an interface that are used: as many as a port has rings.
pub const MOST_QUEUES: u32 = 16;

/// Queues of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queues {
    /// Receive and transmit queues that are in use, where the driver says.
    pub channels: Option<(u32, u32)>,
    /// Receive queues that the interface was made with: a driver that does not
    /// say may use them all (a bond's does) or one.
    pub made: u32,
}

impl Queues {
    /// How many get sockets.
    #[must_use]
    pub fn used(self) -> u32 {
        let most = self.channels.map_or(1, |(rx, tx)| rx.max(tx));
        most.clamp(1, MOST_QUEUES)
    }

    /// Into how many frames may come, if so many sockets do not have them all:
    /// AF_XDP has the frames of queues with a socket only, AF_PACKET has all.
    #[must_use]
    pub fn unheard(self, sockets: u32) -> Option<u32> {
        let receive = self.channels.map_or(self.made, |(rx, _)| rx);
        (receive > sockets).then_some(receive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_have_all_frames_or_it_is_said() {
        for (channels, made, used, unheard) in [
            (Some((4, 2)), 8, 4, None),
            (Some((2, 4)), 8, 4, None),
            (Some((16, 16)), 64, 16, None),
            (Some((17, 1)), 64, 16, Some(17)),
            (Some((1, 64)), 64, 16, None),
            // A TAP that nobody holds.
            (Some((0, 0)), 256, 1, None),
            (None, 1, 1, None),
            (None, 16, 1, Some(16)),
        ] {
            let queues = Queues { channels, made };
            assert_eq!(queues.used(), used, "{queues:?}");
            assert_eq!(queues.unheard(used), unheard, "{queues:?}");
        }
        let more = Queues {
            channels: Some((4, 4)),
            made: 8,
        };
        assert_eq!(more.unheard(2), Some(4), "as some were added");
    }
}

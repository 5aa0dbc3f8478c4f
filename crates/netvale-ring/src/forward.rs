//! Frames that a program passes on by releasing them (NS_FORWARD).
//!
//! A program that has an interface open marks slots of RX rings before it
//! releases them: what came from the wire then goes to the host's stack, and
//! what came from the host goes to the wire. That is the business of whoever
//! has the other side of the ring: the marks go back to it with the slots, and
//! only marks that count do.
//!
//! | word | set by | meaning |
//! |---|---|---|
//! | kring: possible | control plane | there is something to pass frames on to |
//! | kring: all | control plane | every released frame is marked |
//! | ring: NR_FORWARD | program | the marks in its slots count |
//! | kring: asked | receiver's sync | somebody set NR_FORWARD, or all are marked |

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use netvale_wire::abi;

use crate::kring::Kring;
use crate::slot::Ring;

/// NS_FORWARD: the frame is passed on when the slot is released.
pub const NS_FORWARD: u16 = abi::slot::FORWARD;
/// NR_FORWARD: the marks in the ring's slots count.
pub const NR_FORWARD: u32 = abi::ring::FORWARD;

/// In the flags word of a device's RX ring.
const POSSIBLE: u64 = 4;
const ALL: u64 = 8;
const ASKED: u64 = 16;
/// It is a device's.
const DEVICE: u64 = 32;

/// Which of the slots that are released are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passing {
    /// The ring knows nothing of it: flags are the program's affair.
    Unknown,
    /// None, whatever they say.
    None,
    /// Those that are marked.
    Marked,
    /// All.
    All,
}

impl Passing {
    /// Whether any may be.
    pub(crate) fn any(self) -> bool {
        matches!(self, Self::Marked | Self::All)
    }

    /// The flags with which a slot goes back.
    pub(crate) fn mark(self, flags: u16) -> u16 {
        match self {
            Self::Unknown | Self::Marked => flags,
            Self::None => flags & !NS_FORWARD,
            Self::All => flags | NS_FORWARD,
        }
    }
}

impl Kring<'_> {
    /// For a device's RX ring: whether what is released can be passed on, and
    /// whether all of it is.
    pub fn set_forwarding(self, possible: bool, all: bool) {
        let set =
            DEVICE | if possible { POSSIBLE } else { 0 } | if possible && all { ALL } else { 0 };
        self.flags_word().fetch_or(set, Relaxed);
        let clear = (POSSIBLE | ALL) & !set;
        self.flags_word().fetch_and(!clear, Relaxed);
    }

    /// Whether what is released in this RX ring can be passed on.
    #[inline]
    #[must_use]
    pub fn may_forward(self) -> bool {
        self.flags_word().load(Relaxed) & POSSIBLE != 0
    }

    /// Whether a program has asked for it since the ring was made.
    #[inline]
    #[must_use]
    pub fn forwards(self) -> bool {
        let both = POSSIBLE | ASKED;
        self.flags_word().load(SeqCst) & both == both
    }

    /// What happens to slots that are released now.
    #[inline]
    pub(crate) fn passing(self, ring: Ring<'_>) -> Passing {
        let flags = self.flags_word().load(Relaxed);
        if flags & DEVICE == 0 {
            return Passing::Unknown;
        }
        match flags & (POSSIBLE | ALL) {
            POSSIBLE if ring.flags() & NR_FORWARD != 0 => Passing::Marked,
            0 | POSSIBLE => Passing::None,
            _ => Passing::All,
        }
    }

    /// Whether a program asks for the first time.
    #[inline]
    pub(crate) fn asks_anew(self, ring: Ring<'_>) -> bool {
        let flags = self.flags_word().load(Relaxed);
        flags & (POSSIBLE | ASKED) == POSSIBLE
            && (flags & ALL != 0 || ring.flags() & NR_FORWARD != 0)
    }

    /// Notes that it did; under the ring's lock.
    pub(crate) fn note_asked(self) {
        self.flags_word().fetch_or(ASKED, SeqCst);
    }
}

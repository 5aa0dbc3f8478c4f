//! What a queue of a device can do, and how it fails.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use netvale_backends::batch::{Batch, BufPool, Piece, Sent};
use netvale_ring::Slot;
use netvale_shm::Mem;

use crate::Dir;

/// A queue of a device. It never blocks.
pub trait DeviceLane: Send + fmt::Debug {
    /// What becomes readable when frames have come; `None` if only time brings
    /// them ([`DeviceLane::due`]).
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether to be woken whenever something happens at the descriptor: not all
    /// that has to be seen makes it readable. It is then of no use to learn when
    /// it can be written to.
    fn edges(&self) -> bool {
        false
    }

    /// Longest frame that may come. Bytes.
    fn longest(&self) -> usize;

    /// Receives into `free`, which has room for the longest frame unless the
    /// whole ring has not: puts chains that partition a beginning of it into
    /// `batch` (which is empty) and fills the first of them. How many it filled.
    fn pull(&mut self, pool: &BufPool, free: &[Piece], batch: &mut Batch)
    -> Result<usize, Trouble>;

    /// Whether the last pull found that there is no more: whoever waits for
    /// the descriptor need not ask again before that says so.
    fn is_drained(&self) -> bool {
        false
    }

    /// Why it left out frames that came, or lost some that it had taken, and how
    /// many since it was last asked.
    fn left_out(&mut self) -> Option<(Loss, u64)> {
        None
    }

    /// Frames that the next pull takes at most. Buffers that nobody uses cost
    /// time for nothing.
    fn appetite(&self) -> usize {
        usize::MAX
    }

    /// Slots that the next pull can use at most, if that is known.
    fn slots(&self) -> Option<usize> {
        None
    }

    /// Sends the frames of `batch`.
    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble>;

    /// Nothing is queued for it: sends what it was given and still has.
    fn poke(&mut self) -> Result<(), Trouble> {
        Ok(())
    }

    /// Whether checksums of received frames may be half done.
    fn may_be_unfinished(&self) -> bool {
        false
    }

    /// When to ask for frames though the descriptor does not say so.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Nothing more will come for a while.
    fn rest(&mut self) {}

    /// In the name of which registration it is used.
    fn name(&mut self, _owner: u16) {}

    /// Before anything is done in one direction; `false` if another process
    /// that shares the device is at it.
    fn enter(&mut self, _dir: Dir) -> Result<bool, Trouble> {
        Ok(true)
    }

    /// If another process was there before: what it had committed and may not
    /// have done. The slots are put into `slots`.
    fn unfinished(&mut self, _dir: Dir, _slots: &mut Vec<Slot>) -> Option<Step> {
        None
    }

    /// What was received, or sent, since it was entered becomes valid, before
    /// the ring's slots from the step's first on become `slots` and its head
    /// moves.
    fn commit(&mut self, _dir: Dir, _step: Step, _slots: &[Slot]) -> Result<(), Trouble> {
        Ok(())
    }

    /// After that, if it was not refused.
    fn leave(&mut self, _dir: Dir) {}

    /// Whether there is surely nothing to be done in this direction, as far as
    /// a few loads can tell.
    fn is_idle(&self, _dir: Dir) -> bool {
        false
    }

    /// Where its losses are counted, if others who share it must see them.
    fn losses(&self) -> Option<Losses> {
        None
    }
}

/// What a lane wants to be told of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// That it is readable.
    pub readable: bool,
    /// That it can be written to.
    pub writable: bool,
    /// Whether whatever happens there counts for the first, once each time.
    pub edges: bool,
}

/// How a ring changes together with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The first slot that is filled.
    pub first: u32,
    /// The ring's head afterwards.
    pub head: u32,
}

/// What became of frames for a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Frames that are done with, from the first on; for the others there is
    /// no room now.
    pub done: usize,
    /// Those among them that the device refused.
    pub refused: u64,
    /// Only time makes room for the others: the descriptor says nothing of it.
    pub wait: bool,
}

impl From<Sent> for Pushed {
    fn from(sent: Sent) -> Self {
        Self {
            done: sent.next,
            refused: sent.refused as u64,
            wait: sent.wait,
        }
    }
}

/// Why a device moves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It is switched off; it may come back.
    Down,
    /// It is no more.
    Gone(String),
}

/// Why a frame was lost between a device and its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Refused by the device.
    Refused,
    /// For a device that was switched off.
    Down,
    /// Received, but longer than a frame can be.
    Long,
    /// To be passed on, but there was nowhere or no room.
    Unforwarded,
    /// Received, but for somebody who is not here.
    Foreign,
    /// Received, but its headers contradict each other, or what it needs cannot
    /// be done.
    Odd,
    /// Arrived, but the kernel had no room for it any more.
    Missed,
}

/// Frames that a device and its port lost between them.
#[derive(Debug, Clone)]
pub struct Losses(Mem);

impl Losses {
    /// Bytes that they take.
    pub const LEN: usize = 64;
    /// With the words shown to users.
    const ALL: [(Loss, &'static str); Self::COUNT] = [
        (Loss::Refused, "dev_refused"),
        (Loss::Down, "dev_down"),
        (Loss::Long, "dev_long"),
        (Loss::Unforwarded, "dev_forward"),
        (Loss::Foreign, "dev_foreign"),
        (Loss::Odd, "dev_odd"),
        (Loss::Missed, "dev_missed"),
    ];
    /// Kinds of losses.
    pub const COUNT: usize = 7;

    /// Those in this memory; `None` if it is too small.
    #[must_use]
    pub fn at(mem: &Mem, off: usize) -> Option<Self> {
        mem.part(off, Self::LEN).map(Self)
    }

    /// Counts `n` more.
    pub fn count(&self, loss: Loss, n: u64) {
        if let Some(word) = self.0.word(loss as usize * 8) {
            word.fetch_add(n, Relaxed);
        }
    }

    /// With the words shown to users.
    #[must_use]
    pub fn list(&self) -> [(&'static str, u64); Self::COUNT] {
        Self::ALL.map(|(loss, word)| {
            let n = self.0.word(loss as usize * 8);
            (word, n.map_or(0, |n| n.load(Relaxed)))
        })
    }

    /// Counts what others counted.
    pub fn add(&self, others: &Self) {
        for ((loss, _), (_, n)) in Self::ALL.into_iter().zip(others.list()) {
            self.count(loss, n);
        }
    }
}

impl Default for Losses {
    fn default() -> Self {
        Self(Mem::heap(Self::LEN))
    }
}

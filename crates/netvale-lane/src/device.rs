//! What a queue of a device can do, and how it fails.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use netvale_backends::batch::{Batch, BufPool, Piece};

/// A queue of a device. It never blocks.
pub trait DeviceLane: Send + fmt::Debug {
    /// What becomes readable when frames have come; `None` if only time brings
    /// them ([`DeviceLane::due`]).
    fn fd(&self) -> Option<BorrowedFd<'_>>;

    /// Longest frame that may come. Bytes.
    fn longest(&self) -> usize;

    /// Receives into `free`, which has room for the longest frame unless the
    /// whole ring has not: puts chains that partition a beginning of it into
    /// `batch` (which is empty) and fills the first of them. How many it filled.
    fn pull(&mut self, pool: &BufPool, free: &[Piece], batch: &mut Batch)
    -> Result<usize, Trouble>;

    /// Sends the frames of `batch`.
    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble>;

    /// When to ask for frames though the descriptor does not say so.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// Nothing more will come for a while.
    fn rest(&mut self) {}
}

/// What became of frames for a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Frames that are done with, from the first on; for the others there is
    /// no room now.
    pub done: usize,
    /// Those among them that the device refused.
    pub refused: u64,
}

/// Why a device moves nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It is switched off; it may come back.
    Down,
    /// It is no more.
    Gone(String),
}

/// Frames that a device and its port lost between them.
#[derive(Debug, Default)]
pub struct Losses {
    /// Refused by the device.
    pub refused: AtomicU64,
    /// For a device that was switched off.
    pub down: AtomicU64,
    /// Received, but longer than a frame can be.
    pub long: AtomicU64,
}

impl Losses {
    /// With the words shown to users.
    pub fn list(&self) -> [(&'static str, u64); 3] {
        [
            ("dev_refused", self.refused.load(Relaxed)),
            ("dev_down", self.down.load(Relaxed)),
            ("dev_long", self.long.load(Relaxed)),
        ]
    }
}

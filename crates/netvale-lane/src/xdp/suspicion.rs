//! Which frames must be looked at because their checksum may not be there.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use netvale_backends::af_xdp::{Suspected, Suspects};

/// After the program has counted a frame it may still be on its way: behind no
/// more than those of one round of the driver, and never behind so many.
const ON_THE_WAY: usize = 4096;

/// The counters of an interface, once there is a program that counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Counters(Arc<OnceLock<Suspects>>);

impl Counters {
    /// To be called once a program counts, and no other can come in its place.
    pub(super) fn trust(&self, counters: Suspects) {
        // Whoever is first: there is one program at a time.
        let _ = self.0.set(counters);
    }

    pub(super) fn get(&self) -> Option<&Suspects> {
        self.0.get()
    }

    /// What others need to read them.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.0.get().map(AsFd::as_fd)
    }
}

/// Decides for the frames of a queue, in their order.
#[derive(Debug)]
pub(super) struct Suspicion {
    /// Where the counter will come from.
    counters: Option<(Counters, u32)>,
    counter: Option<Suspected>,
    seen: u64,
    /// Frames that have to be looked at, the next ones.
    left: usize,
}

impl Suspicion {
    /// For a queue of sockets that this process has made.
    pub(super) fn of(counters: Counters, queue: u32) -> Self {
        Self {
            counters: Some((counters, queue)),
            ..Self::with(None)
        }
    }

    /// With the counter that another process handed over; without one, every
    /// frame has to be looked at.
    pub(super) fn with(counter: Option<Suspected>) -> Self {
        Self {
            counters: None,
            counter,
            seen: 0,
            left: ON_THE_WAY,
        }
    }

    /// Another has received in the meantime, maybe counted frames among them.
    pub(super) fn restart(&mut self) {
        self.left = ON_THE_WAY;
    }

    /// Whether the frames that have come by now have to be looked at. To be
    /// asked when it is known which those are.
    #[inline]
    pub(super) fn must_look(&mut self) -> bool {
        let Some(counter) = &self.counter else {
            self.find();
            return true;
        };
        let counted = counter.count();
        if counted != self.seen {
            self.seen = counted;
            self.left = ON_THE_WAY;
        }
        self.left > 0
    }

    /// So many frames were taken.
    #[inline]
    pub(super) fn passed(&mut self, frames: usize) {
        self.left = self.left.saturating_sub(frames);
    }

    /// From the next time on the counter is there, if there is one.
    #[cold]
    fn find(&mut self) {
        if let Some((counters, queue)) = &self.counters
            && let Some(file) = counters.file()
        {
            // If it cannot be mapped, nobody tries again for each batch.
            self.counter = Suspected::of(file, *queue).ok();
            self.left = ON_THE_WAY;
            self.counters = None;
        }
    }
}

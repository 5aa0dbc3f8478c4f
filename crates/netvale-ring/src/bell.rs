//! The page through which an isolated client and the server's worker tell
//! each other that they sleep. It follows the pools of a private region; the
//! client may write anything there, to its own harm only.

use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

use netvale_shm::Mem;

use crate::layout::RegionGeom;

/// A view of the page.
#[derive(Debug, Clone, Copy)]
pub struct Bell<'a> {
    worker: &'a AtomicU32,
    client: &'a AtomicU32,
}

impl<'a> Bell<'a> {
    /// Byte offsets in the page, a cache line each.
    const WORKER: usize = 0;
    const CLIENT: usize = 64;

    /// The page of a region; `None` if the memory is too small.
    #[must_use]
    pub fn at(mem: &'a Mem, geom: &RegionGeom) -> Option<Self> {
        Some(Self {
            worker: mem.word32(geom.bell_ofs() + Self::WORKER)?,
            client: mem.word32(geom.bell_ofs() + Self::CLIENT)?,
        })
    }

    /// The worker says whether it is about to sleep; it looks for work once
    /// more after saying yes.
    pub fn worker_sleeps(self, yes: bool) {
        self.worker.store(u32::from(yes), SeqCst);
    }

    /// The client has published something: whether it must ring the worker's
    /// bell. Asked at most once per sleep.
    #[inline]
    #[must_use]
    pub fn must_kick(self) -> bool {
        // The fence orders what was published before this look.
        core::sync::atomic::fence(SeqCst);
        self.worker.load(SeqCst) != 0 && self.worker.swap(0, SeqCst) != 0
    }

    /// The client says whether it is about to sleep; it looks at its rings
    /// once more after saying yes.
    pub fn client_sleeps(self, yes: bool) {
        self.client.store(u32::from(yes), SeqCst);
    }

    /// The worker has moved something: whether it must ring the client's bell.
    #[inline]
    #[must_use]
    pub fn must_wake(self) -> bool {
        core::sync::atomic::fence(SeqCst);
        self.client.load(SeqCst) != 0 && self.client.swap(0, SeqCst) != 0
    }
}

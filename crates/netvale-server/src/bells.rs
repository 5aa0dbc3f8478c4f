//! Who is to be rung when a ring's sleep word names a registration.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, PoisonError, RwLock};

use netvale_ring::kring::sleep;
use netvale_ring::world::Waker;
use netvale_shm::{Doorbell, futex};
use rustix::pipe::PipeFlags;

/// The doorbells of trusted registrations and of the workers.
#[derive(Debug, Default)]
pub(crate) struct Bells(RwLock<HashMap<u16, Arc<Doorbell>>>);

impl Bells {
    pub(crate) fn insert(&self, owner: u16, bell: Arc<Doorbell>) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(owner, bell);
    }

    pub(crate) fn remove(&self, owner: u16) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.remove(&owner);
    }

    pub(crate) fn get(&self, owner: u16) -> Option<Arc<Doorbell>> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.get(&owner).cloned()
    }

    /// Rings everybody's: whoever sleeps looks once and announces itself anew.
    pub(crate) fn ring_all(&self) {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.values().for_each(|bell| bell.ring());
    }
}

impl Waker for Bells {
    fn wake(&self, word: &AtomicU32, said: u32) {
        if said == sleep::FUTEX {
            futex::wake(word, u32::MAX);
            return;
        }
        let owner = said.checked_sub(sleep::BELL).map(u16::try_from);
        if let Some(Ok(owner)) = owner
            && let Some(bell) = self.get(owner)
        {
            bell.ring();
        }
    }
}

/// A bell between us and a process that we do not trust: a pipe, of which each
/// side has its own end. An eventfd would not do: its flags are common to all
/// who have it, so whoever made it blocking and filled it up could put the
/// other side to sleep for ever.
pub(crate) struct BellPair {
    /// To hear it. Not blocking.
    pub(crate) hear: OwnedFd,
    /// To ring it. Not blocking.
    pub(crate) ring: OwnedFd,
}

/// Bytes of such a pipe: more rings than anybody needs, one page of memory.
const PIPE_SIZE: usize = 4096;

impl BellPair {
    pub(crate) fn new() -> io::Result<Self> {
        let (hear, ring) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A larger one is only a waste.
        let _ = rustix::pipe::fcntl_setpipe_size(&ring, PIPE_SIZE);
        Ok(Self { hear, ring })
    }
}

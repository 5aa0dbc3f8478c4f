//! The memory in which an interface's frames lie.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use netvale_backends::af_xdp::{BufLayout, Umem, XskError};
use netvale_ring::kring::KringId;
use netvale_ring::world::{Holder, World};
use netvale_shm::{Bufs, HugePages, Memfd, Pool};

use super::{Arena, MemoryShape};
use crate::chain;

/// Where the first frame is in it; the kernel wants room before it.
const FIRST: usize = 4096;
/// Most buffers of our own.
const MOST_OWN: u32 = 1 << 20;
/// What the kernel has room for in a buffer, at least and at most.
const LEAST: u32 = 1792;
const MOST: u32 = 3840;
/// The most that it sends from one.
const MOST_SENT: u32 = 4096;

/// Bytes of memory that this process may lock; `None` if there is no limit.
#[must_use]
pub fn lockable() -> Option<u64> {
    use rustix::process::{Resource, getrlimit};
    use rustix::thread::{CapabilitySet, capabilities};
    let free = capabilities(None).is_ok_and(|c| c.effective.contains(CapabilitySet::IPC_LOCK));
    if free {
        return None;
    }
    getrlimit(Resource::Memlock).current
}

/// Buffers that the sockets of an interface use in place.
#[derive(Debug, Clone)]
pub struct Memory {
    umem: Umem,
    pool: Pool,
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    /// In a region, whose holder table says who has them.
    Region { world: World, table: u16, bufs: u32 },
    /// In a file of their own.
    Own(Arc<Memfd>),
}

/// Bytes from one buffer of our own to the next, and what is received into it:
/// that must fit into one of a ring's buffers.
fn own_size(ring: u32) -> Result<(u32, u32), String> {
    if ring < LEAST {
        return Err(format!(
            "buffers have {ring} bytes, less than the {LEAST} of a piece of a frame"
        ));
    }
    let stride = ring.min(MOST_SENT).next_multiple_of(64);
    Ok((stride, ring.min(MOST)))
}

fn own_len(count: u32, stride: u32) -> usize {
    (FIRST + count as usize * stride as usize).next_multiple_of(4096)
}

impl Memory {
    /// The arena of a region: buffers are exchanged with those of rings.
    ///
    /// # Errors
    ///
    /// Why the kernel cannot use them.
    pub fn of_region(arena: &Arena<'_>) -> Result<Self, XskError> {
        let (world, map) = (arena.world, arena.map);
        let geom = map.geom;
        let layout = BufLayout {
            first: geom.buf_ofs() as u64,
            stride: geom.buf_size,
            count: geom.bufs,
            usable: geom.buf_size.min(MOST),
            huge: arena.huge,
        };
        let wrong = |why| XskError::Layout { why, layout };
        let umem = Umem::part(map.mem.clone(), layout, arena.range.clone())?;
        let pool = map.mem.pool(geom.buf_ofs(), geom.bufs, geom.buf_size);
        let table = map
            .shared
            .filter(|&t| world.holders(t, geom.bufs).is_some());
        Ok(Self {
            umem,
            pool: pool.ok_or_else(|| wrong("the buffers are not inside the memory"))?,
            at: At::Region {
                world: world.clone(),
                table: table.ok_or_else(|| wrong("its buffers may not be exchanged"))?,
                bufs: geom.bufs,
            },
        })
    }

    /// Buffers of its own, `count` of them: every frame is copied between one
    /// of them and a ring's, which have `ring` bytes.
    ///
    /// # Errors
    ///
    /// There is no memory for them, or the ring's are too small.
    pub fn own(count: u32, ring: u32) -> Result<Self, String> {
        let (stride, _) = own_size(ring)?;
        let file = Memfd::create("netvale-xdp", own_len(count, stride), HugePages::Never);
        Self::in_file(file.map_err(|e| chain(&e))?, count, ring)
    }

    /// Buffers of its own that another process has made for the same rings.
    pub(super) fn from_fd(file: OwnedFd, count: u32, ring: u32) -> Result<Self, String> {
        if count > MOST_OWN {
            return Err(format!("{count} buffers for one socket"));
        }
        let (stride, _) = own_size(ring)?;
        let file = Memfd::from_fd(file, own_len(count, stride)).map_err(|e| chain(&e))?;
        Self::in_file(file, count, ring)
    }

    fn in_file(file: Memfd, count: u32, ring: u32) -> Result<Self, String> {
        let (stride, usable) = own_size(ring)?;
        let mem = file.map().map_err(|e| chain(&e))?;
        let layout = BufLayout {
            first: FIRST as u64,
            stride,
            count,
            usable,
            huge: false,
        };
        Ok(Self {
            pool: mem.pool(FIRST, count, stride).ok_or("no room for frames")?,
            umem: Umem::new(mem, layout).map_err(|e| chain(&e))?,
            at: At::Own(Arc::new(file)),
        })
    }

    /// What another process needs to find the buffers.
    pub(super) fn shape(&self) -> MemoryShape {
        let layout = self.umem.layout();
        match &self.at {
            At::Region { .. } => MemoryShape::Region {
                arena: self.umem.bufs(),
                huge: layout.huge,
            },
            At::Own(_) => MemoryShape::Own(layout.count),
        }
    }

    /// The file that it has of its own.
    pub(super) fn file(&self) -> Option<BorrowedFd<'_>> {
        match &self.at {
            At::Region { .. } => None,
            At::Own(file) => Some(file.as_fd()),
        }
    }

    /// Whether the buffers are a region's.
    #[inline]
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        matches!(self.at, At::Region { .. })
    }

    /// What is registered.
    #[inline]
    #[must_use]
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// Its buffers, by the numbers that they have in it.
    #[inline]
    pub(super) fn bufs(&self) -> Bufs<'_> {
        self.pool.bufs()
    }

    /// Who may exchange what with the ring `kring`; `None` if nobody.
    #[inline]
    pub(super) fn exchange(&self, kring: KringId) -> Option<Exchange<'_>> {
        let At::Region { world, table, bufs } = &self.at else {
            return None;
        };
        Some(Exchange {
            holders: world.holders(*table, *bufs)?,
            stock: Holder::stock(kring),
            arena: self.umem.bufs(),
        })
    }
}

/// Exchanges buffers between a stock and a ring's slots.
pub(super) struct Exchange<'a> {
    holders: &'a [AtomicU32],
    stock: Holder,
    arena: Range<u32>,
}

impl Exchange<'_> {
    /// A slot that has `theirs` gets `ours`, and `theirs` comes into the stock:
    /// the slot is written later, when all that was received is committed.
    /// `false` if that cannot be, because `theirs` is no buffer that the kernel
    /// knows, or none that its program may give away.
    ///
    /// The first store names the new buffer's holder, the last the old one's,
    /// so that neither is ever free. Who died before the commit is followed by
    /// one who receives the same into the same slot, and finds here what is
    /// done already.
    #[inline]
    pub(super) fn swap(&self, theirs: u32, ours: u32) -> bool {
        let (Some(old), Some(new)) = (
            self.holders.get(theirs as usize),
            self.holders.get(ours as usize),
        ) else {
            return false;
        };
        // Nobody can give away what is in the stock already.
        if theirs == ours || !self.arena.contains(&theirs) {
            return false;
        }
        let (was, is) = (old.load(Relaxed), new.load(Relaxed));
        match (was == self.stock.bits(), is == self.stock.bits()) {
            (true, is_stock) => !is_stock,
            (false, _) if Holder::from_bits(was).is_programs() => {
                new.store(was, Relaxed);
                old.store(self.stock.bits(), Relaxed);
                true
            }
            _ => false,
        }
    }
}

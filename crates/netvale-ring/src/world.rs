//! What a party that runs the engine has mapped: the hidden state and regions.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

use netvale_shm::{Array, Bufs, Mem, Pool};

use crate::kring::{Kring, KringId, KringWindow};
use crate::layout::{KRING, RegionGeom, STATE_MAGIC, StateGeom, header};
use crate::slot::Ring;

/// The hidden state of a namespace, mapped.
#[derive(Debug, Clone)]
pub struct World {
    state: Mem,
    geom: StateGeom,
    at: Offsets,
    header: Array<{ header::WORDS }>,
}

/// Byte offsets of the tables, worked out once.
#[derive(Debug, Clone, Copy)]
pub struct Offsets {
    krings: usize,
    /// Port records.
    pub ports: usize,
    /// Switches.
    pub switches: usize,
    /// Holder tables, and the way from one to the next.
    holders: [usize; 2],
}

impl Offsets {
    fn new(g: &StateGeom) -> Self {
        Self {
            krings: g.kring_ofs(0),
            ports: g.port_ofs(0),
            switches: g.switch_ofs(0),
            holders: [g.holders_ofs(0), g.holders_ofs(1) - g.holders_ofs(0)],
        }
    }
}

impl World {
    /// Formats fresh, all-zero memory of [`StateGeom::file_len`] bytes.
    /// `None` if it is too small.
    #[must_use]
    pub fn format(state: Mem, geom: StateGeom) -> Option<Self> {
        if state.len() < geom.file_len() {
            return None;
        }
        let at = Offsets::new(&geom);
        let header = state.array_window(0)?;
        let world = Self {
            state,
            geom,
            at,
            header,
        };
        world.header[header::MAGIC].store(STATE_MAGIC, Relaxed);
        Some(world)
    }

    /// Takes over a state that another process formatted. `None` if it is too
    /// small or of another version.
    #[must_use]
    pub fn attach(state: Mem, geom: StateGeom) -> Option<Self> {
        let at = Offsets::new(&geom);
        let header = state.array_window(0)?;
        let world = Self {
            state,
            geom,
            at,
            header,
        };
        let fine = world.state.len() >= geom.file_len()
            && world.header[header::MAGIC].load(Acquire) == STATE_MAGIC;
        fine.then_some(world)
    }

    /// The sizes of its tables.
    #[inline]
    #[must_use]
    pub fn geom(&self) -> &StateGeom {
        &self.geom
    }

    /// Where its tables begin.
    #[inline]
    #[must_use]
    pub fn offsets(&self) -> &Offsets {
        &self.at
    }

    /// Its memory.
    #[inline]
    #[must_use]
    pub fn mem(&self) -> &Mem {
        &self.state
    }

    /// A header word.
    #[inline]
    #[must_use]
    pub fn header(&self, i: usize) -> Option<&AtomicU64> {
        self.header.get(i)
    }

    /// Ageing epoch, 0..=15.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "four bits")]
    pub fn epoch(&self) -> u8 {
        self.header(header::EPOCH)
            .map_or(0, |w| w.load(Relaxed) as u8 & 0xf)
    }

    /// Counts changes to ports, rings and switches.
    #[inline]
    #[must_use]
    pub fn topology(&self) -> u64 {
        self.header(header::TOPOLOGY).map_or(0, |w| w.load(Acquire))
    }

    /// Notes that ports, rings or switches have changed.
    pub fn topology_changed(&self) {
        if let Some(w) = self.header(header::TOPOLOGY) {
            w.fetch_add(1, AcqRel);
        }
    }

    /// A ring's hidden state, checked once.
    #[must_use]
    pub fn kring_window(&self, id: KringId) -> Option<KringWindow> {
        if id.0 >= self.geom.krings {
            return None;
        }
        KringWindow::at(id, &self.state, self.at.krings + id.0 as usize * KRING)
    }

    /// A ring's hidden state; `None` for an identifier beyond the table.
    #[inline]
    #[must_use]
    pub fn kring(&self, id: KringId) -> Option<Kring<'_>> {
        if id.0 >= self.geom.krings {
            return None;
        }
        Kring::at(id, &self.state, self.at.krings + id.0 as usize * KRING)
    }

    /// The word of an owner (registration): 0 if there is none, else its
    /// process in the lower half and a value in the upper half that no other
    /// owner of this number has.
    #[must_use]
    pub fn owner(&self, owner: u16) -> Option<&AtomicU64> {
        self.state.word(self.geom.owner_ofs(owner))
    }

    /// The holder table of shared region `s`: one word per buffer.
    #[inline]
    #[must_use]
    pub fn holders(&self, s: u16, bufs: u32) -> Option<&[AtomicU32]> {
        if u32::from(s) >= self.geom.shared_regions || bufs > self.geom.holders {
            return None;
        }
        let [first, next] = self.at.holders;
        self.state
            .words32(first + usize::from(s) * next, bufs as usize)
    }
}

/// Who has a buffer, as stored in a holder table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder(u32);

impl Holder {
    /// Nobody: it may be given out.
    pub const FREE: Self = Self(0);
    /// Never given out.
    pub const RESERVED: Self = Self(1);
    const EXTRA: u32 = 1 << 31;
    const STOCK: u32 = 1 << 30;

    /// A ring.
    #[inline]
    #[must_use]
    pub const fn kring(k: KringId) -> Self {
        Self((k.0 & 0x1fff_ffff) + 2)
    }
    /// Whoever serves a ring for a device: beside the ring's slots.
    #[inline]
    #[must_use]
    pub const fn stock(k: KringId) -> Self {
        Self(Self::STOCK | k.0 & 0x1fff_ffff)
    }
    /// The extra-buffer list of an owner.
    #[must_use]
    pub const fn extra(owner: u16) -> Self {
        Self(Self::EXTRA | owner as u32)
    }
    /// As stored.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// Back from memory.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
    /// The ring, if it is one.
    #[must_use]
    pub const fn as_kring(self) -> Option<KringId> {
        if self.0 >= 2 && self.0 & (Self::EXTRA | Self::STOCK) == 0 {
            Some(KringId(self.0 - 2))
        } else {
            None
        }
    }
    /// The ring, if it is held by whoever serves that for a device.
    #[must_use]
    pub const fn as_stock(self) -> Option<KringId> {
        if self.0 & (Self::EXTRA | Self::STOCK) == Self::STOCK {
            Some(KringId(self.0 & !Self::STOCK))
        } else {
            None
        }
    }
    /// Whether a program has it: in a ring or on its list.
    #[inline]
    #[must_use]
    pub const fn is_programs(self) -> bool {
        self.0 >= 2 && self.0 & (Self::EXTRA | Self::STOCK) != Self::STOCK
    }
    /// The owner, if it is an extra-buffer list.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub const fn as_extra(self) -> Option<u16> {
        if self.0 & Self::EXTRA != 0 {
            Some(self.0 as u16)
        } else {
            None
        }
    }
}

/// A mapped region.
#[derive(Debug, Clone)]
pub struct RegionMap {
    /// Identifier (netmap's `nr_mem_id`).
    pub id: u16,
    /// Generation: identifiers are used again.
    pub generation: u32,
    /// Its holder table's number, if its buffers may move between ports.
    pub shared: Option<u16>,
    /// Where the pools lie.
    pub geom: RegionGeom,
    /// The memory.
    pub mem: Mem,
    pool: Pool,
}

impl RegionMap {
    /// Checks that the memory has what the geometry promises.
    #[must_use]
    pub fn new(
        id: u16,
        generation: u32,
        shared: Option<u16>,
        geom: RegionGeom,
        mem: Mem,
    ) -> Option<Self> {
        let fine = mem.len() >= geom.file_len() && geom.bufs > crate::layout::RESERVED_BUFS;
        let pool = mem.pool(geom.buf_ofs(), geom.bufs, geom.buf_size)?;
        fine.then_some(Self {
            id,
            generation,
            shared,
            geom,
            mem,
            pool,
        })
    }

    /// Its buffers.
    #[inline]
    #[must_use]
    pub fn bufs(&self) -> Bufs<'_> {
        self.pool.bufs()
    }

    /// The ring of `slots` slots at byte offset `ofs`.
    #[inline]
    #[must_use]
    pub fn ring(&self, ofs: usize, slots: u32) -> Option<Ring<'_>> {
        Ring::at(&self.mem, ofs, slots)
    }

    /// Whether a buffer index may be used.
    #[inline]
    #[must_use]
    pub fn valid_buf(&self, idx: u32) -> bool {
        idx >= crate::layout::RESERVED_BUFS && idx < self.geom.bufs
    }
}

/// A region that is the party's own, or one it has mapped since.
#[derive(Debug, Clone)]
pub enum MapRef<'a> {
    /// The party's own.
    Own(&'a RegionMap),
    /// Another.
    Other(Arc<RegionMap>),
}

impl Deref for MapRef<'_> {
    type Target = RegionMap;
    #[inline]
    fn deref(&self) -> &RegionMap {
        match self {
            Self::Own(map) => map,
            Self::Other(map) => map,
        }
    }
}

/// Whoever runs the engine, and with what.
#[derive(Clone, Copy)]
pub struct Party<'a> {
    /// Hidden state.
    pub world: &'a World,
    /// Other regions mapped so far.
    pub regions: &'a Regions,
    /// The region of the ring that is synced.
    pub own: &'a RegionMap,
    /// How sleepers are woken.
    pub waker: &'a dyn Waker,
    /// Registration in whose name reservations are made.
    pub owner: u16,
}

impl<'a> Party<'a> {
    /// The region in which a kring says that its ring lies.
    #[inline]
    #[must_use]
    pub fn map_of(&self, kring: Kring<'_>) -> Option<MapRef<'a>> {
        let g = kring.geom();
        if g.region == self.own.id && g.region_gen == self.own.generation {
            Some(MapRef::Own(self.own))
        } else {
            self.regions.get(g.region, g.region_gen).map(MapRef::Other)
        }
    }

    /// Wakes whoever sleeps on a ring, after something was published to it.
    #[inline]
    pub fn wake(&self, kring: Kring<'_>) {
        kring.sleep_word().wake(self.waker);
    }
}

impl fmt::Debug for Party<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Party")
            .field("owner", &self.owner)
            .field("own", &self.own.id)
            .finish_non_exhaustive()
    }
}

/// Where a party gets the regions of others from, when it first needs them.
pub trait RegionSource: Send + Sync {
    /// Maps a region, or `None` if it is gone or cannot be had.
    fn map(&self, id: u16, generation: u32) -> Option<RegionMap>;
}

/// Wakes sleepers, and knows of processes; the engine itself makes no system
/// call.
pub trait Waker: Send + Sync {
    /// Acts on what a ring's sleep word said ([`crate::kring::sleep`]).
    fn wake(&self, word: &AtomicU32, said: u32);

    /// The same; `false` if the sleeper could not be told now, but may be able
    /// to be later.
    fn try_wake(&self, word: &AtomicU32, said: u32) -> bool {
        self.wake(word, said);
        true
    }

    /// The process that runs the engine, if others may run it in the name of
    /// the same registration; 0 if none can.
    fn process(&self) -> u32 {
        0
    }

    /// Whether another process is gone, as far as that can be told.
    fn is_gone(&self, _process: u32) -> bool {
        false
    }
}

/// The regions that one user of the engine has mapped so far.
///
/// Bound to one thread at a time, like the ring handle that has it.
pub struct Regions {
    maps: RefCell<Vec<Option<Arc<RegionMap>>>>,
    source: Arc<dyn RegionSource>,
}

impl Regions {
    /// None yet.
    #[must_use]
    pub fn new(source: Arc<dyn RegionSource>) -> Self {
        Self {
            maps: RefCell::new(Vec::new()),
            source,
        }
    }

    /// The region, mapped now if it was not yet.
    #[inline]
    #[must_use]
    pub fn get(&self, id: u16, generation: u32) -> Option<Arc<RegionMap>> {
        // The borrow must be over before `load` takes another.
        let known = match self.maps.borrow().get(usize::from(id)) {
            Some(Some(m)) if m.generation == generation => Some(Arc::clone(m)),
            _ => None,
        };
        known.or_else(|| self.load(id, generation))
    }

    #[cold]
    fn load(&self, id: u16, generation: u32) -> Option<Arc<RegionMap>> {
        let map = self.source.map(id, generation).map(Arc::new);
        let mut maps = self.maps.borrow_mut();
        let i = usize::from(id);
        if i >= maps.len() {
            maps.resize(i + 1, None);
        }
        maps[i].clone_from(&map); // an older one of this name is gone
        map
    }
}

impl fmt::Debug for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.maps.borrow().iter().flatten().map(|m| m.id))
            .finish()
    }
}

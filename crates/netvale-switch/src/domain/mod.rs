//! The control plane: who may have which port, ring and buffer.
//!
//! A [`Domain`] owns a namespace: it alone gives out identifiers, rings and
//! buffers, and takes them back, also from those who died. It makes no system
//! call and knows no clock; the server (or an embedding program) gives it
//! memory and tells it who came and who went:
//!
//! 1. [`Domain::add_owner`] for each registration that is asked for,
//! 2. [`Domain::register`] binds it to a port, making the port if need be,
//! 3. [`Domain::owner_gone`] when its last descriptor is closed, whatever the
//!    reason; then [`Domain::reap`] until nothing is left to wait for.

mod arena;
mod books;
mod build;
mod close;
mod control;
mod devices;
mod monitors;
mod nr;
mod open;
mod pipes;
mod query;
mod regions;
mod seats;
mod second;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;

use netvale_ring::kring::KringId;
use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_ring::port::{PortId, PortKind, Rings, Seat};
use netvale_ring::world::{RegionMap, World};
use netvale_shm::Mem;

pub use arena::Parked;
use books::{BufIds, Ids, Slab};
pub use close::Freed;
pub use devices::{DevicePlan, DeviceUse, DeviceUser};
pub use nr::{NrBind, Offsets};
pub use query::{CheckReport, OwnerInfo, PortEntry, PortStats, RegionReport, StationEntry};
pub use regions::Layout;
use regions::Wanted;

/// Memory for the control plane to give out.
pub trait MemSource {
    /// What else of a piece of memory is kept: its file, for instance.
    type File;

    /// Makes zeroed memory. `huge`: in huge pages, if there are any.
    ///
    /// # Errors
    ///
    /// One line that says why not.
    fn create(&mut self, name: &str, len: usize, huge: bool) -> Result<(Mem, Self::File), String>;
}

/// What a control operation could not do, by netmap's error number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// EINVAL.
    #[error("{0}")]
    Invalid(String),
    /// ENXIO.
    #[error("{0}")]
    NotFound(String),
    /// EBUSY.
    #[error("{0}")]
    Busy(String),
    /// EEXIST.
    #[error("{0}")]
    Exists(String),
    /// ENOMEM.
    #[error("{0}")]
    NoSpace(String),
    /// EACCES.
    #[error("{0}")]
    Denied(String),
    /// EOPNOTSUPP.
    #[error("{0}")]
    Unsupported(String),
    /// ENODEV: there is no such pipe.
    #[error("{0}")]
    NoDevice(String),
    /// EINVAL: there is no such port to attach.
    #[error("{0}")]
    Missing(String),
    /// EIO: the port has a virtio-net header and the caller cannot take it.
    #[error("{0}")]
    NeedsHeader(String),
}

/// Result of a control operation.
pub type Result<T, E = DomainError> = core::result::Result<T, E>;

/// Sizes of a namespace. Every limit is reported when it is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Tables of the hidden state.
    pub state: StateGeom,
    /// The region that trusted ports share.
    pub global: RegionGeom,
    /// Whether regions are made of huge pages where there are enough.
    pub huge: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: StateGeom::default(),
            global: RegionGeom::GLOBAL,
            huge: true,
        }
    }
}

/// Most rings of a port, each direction.
pub const MAX_RINGS: u16 = 16;
/// Most rings of a pipe, each direction.
pub const MAX_PIPE_RINGS: u16 = 256;
/// Rings have this many slots unless asked otherwise.
pub const DEFAULT_SLOTS: u16 = 1024;
/// Most extra buffers of one registration.
pub const MAX_EXTRA: u32 = 128 * 4096;
/// Most pipes of one parent.
pub const MAX_PIPES: usize = 64;
/// Frames of VALE ports without a virtio-net header are at most this long.
pub const DEFAULT_MAX_FRAME: u32 = 1514;
/// Identifier of the shared region.
pub const GLOBAL_REGION: u16 = 1;

/// What a registration asks for beside the name; zeros take defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Want {
    /// TX rings.
    pub tx_rings: u16,
    /// RX rings.
    pub rx_rings: u16,
    /// Slots of each TX ring.
    pub tx_slots: u16,
    /// Slots of each RX ring.
    pub rx_slots: u16,
    /// Extra buffers.
    pub extra_bufs: u32,
    /// The sender gives its buffers away (else frames are copied).
    pub gives_buffers: bool,
    /// The caller understands virtio-net headers in frames.
    pub accepts_vnet_hdr: bool,
    /// Set the port's header length to this, if it is `Some`.
    pub vnet_hdr: Option<u8>,
}

/// One ring of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingInfo {
    /// Hidden state.
    pub kring: KringId,
    /// Index among the port's rings of this direction.
    pub idx: u16,
    /// Byte offset in the region.
    pub ofs: u64,
    /// Slots.
    pub slots: u16,
}

/// What a registration got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// In whose name.
    pub owner: u16,
    /// The port.
    pub port: PortId,
    /// Its full name.
    pub name: String,
    /// Its kind.
    pub kind: PortKind,
    /// Its region, and which of that name.
    pub region: u16,
    /// Generation of the region.
    pub region_gen: u32,
    /// The region's number among shared ones.
    pub shared: Option<u16>,
    /// The region's pools.
    pub geom: RegionGeom,
    /// Byte offset of the registration's `netmap_if`.
    pub nif_ofs: u64,
    /// All TX rings of the port.
    pub tx_rings: u16,
    /// All RX rings of the port.
    pub rx_rings: u16,
    /// Host rings, TX and RX: they stand behind the others, and are not
    /// among the numbers above.
    pub host_rings: [u16; 2],
    /// TX rings bound by this registration.
    pub tx: Vec<RingInfo>,
    /// RX rings bound by this registration.
    pub rx: Vec<RingInfo>,
    /// virtio-net header length. Bytes.
    pub vnet_hdr: u8,
    /// Extra buffers given.
    pub extra_bufs: u32,
    /// The server does the syncs.
    pub isolated: bool,
}

/// A namespace.
#[derive(Debug)]
pub struct Domain<M: MemSource> {
    world: World,
    config: Config,
    source: M,
    state_file: M::File,
    owners: Slab<Owner>,
    owners_made: u32,
    regions: Slab<Region<M::File>>,
    region_gen: u32,
    ports: Slab<Port>,
    names: BTreeMap<String, PortId>,
    switches: Slab<SwitchInfo>,
    switch_names: BTreeMap<String, u16>,
    krings: Ids,
    /// Ports named by us, so far.
    named: u64,
    zombies: Vec<Zombie>,
    wakes: RefCell<Vec<(KringId, u32)>>,
}

#[derive(Debug)]
struct Owner {
    pid: u32,
    isolated: bool,
    bound: Option<Bound>,
}

/// What an owner has.
#[derive(Debug)]
struct Bound {
    port: PortId,
    nif: u32,
    tx: Vec<u16>,
    rx: Vec<u16>,
    extra: u32,
}

#[derive(Debug)]
struct Region<F> {
    generation: u32,
    map: RegionMap,
    file: F,
    huge: bool,
    ifs: Ids,
    rings: Ids,
    bufs: BufIds,
    /// Ports and registrations that lie in it.
    users: u32,
    /// It was made for these callers.
    wanted: Option<Wanted>,
}

#[derive(Debug)]
struct SwitchInfo {
    name: String,
    idxs: Ids,
}

#[derive(Debug)]
struct Port {
    name: String,
    kind: PortKind,
    region: u16,
    isolated: bool,
    persistent: bool,
    /// A persistent port that came with a pipe and goes with the last one.
    automatic: bool,
    /// We made up its name: no request that says it means this port.
    unnamed: bool,
    seat: Option<Seat>,
    /// A persistent port in two switches: the port for the other one.
    joined: Option<PortId>,
    /// Of those two, the one that came later.
    second: bool,
    tx: Vec<RingState>,
    rx: Vec<RingState>,
    owners: Vec<u16>,
    /// The other end of a pipe.
    peer: Option<PortId>,
    /// Of its TX and RX rings, how many are host rings: the last ones.
    host: [u16; 2],
    /// What a monitor watches.
    watches: Option<PortId>,
    /// What a pipe belongs to.
    parent: Option<String>,
    /// The interface, or persistent port, that this belongs to in the end.
    root: Option<String>,
    max_frame: u32,
    vnet_hdr: u8,
    /// It counts as a user of its region's arena.
    arena: bool,
}

/// A ring as the control plane knows it.
#[derive(Debug, Clone, Copy)]
struct RingState {
    kring: KringId,
    /// Ring object in the region.
    obj: u32,
    slots: u16,
    /// Buffers it was given (0 for a pipe's RX ring in a shared region).
    bufs: u16,
    /// Buffers that whoever serves it for a device has beside those.
    stock: u32,
    users: u16,
    exclusive: bool,
}

/// A port that is gone, whose memory may still be written by senders that had
/// reserved slots before it went.
#[derive(Debug)]
struct Zombie {
    port: PortId,
    state: Box<Port>,
}

impl<M: MemSource> Domain<M> {
    /// Makes an empty namespace. Its memory is sparse: nothing is touched yet.
    ///
    /// # Errors
    ///
    /// [`DomainError::NoSpace`]: not even the empty tables could be had.
    pub fn new(config: Config, mut source: M) -> Result<Self> {
        let (state, state_file) = source
            .create("netvale-state", config.state.file_len(), false)
            .map_err(DomainError::NoSpace)?;
        let world = World::format(state, config.state)
            .ok_or_else(|| DomainError::NoSpace("hidden state is too small".into()))?;
        let g = config.state;
        Ok(Self {
            world,
            config,
            source,
            state_file,
            owners: Slab::new(u32::from(u16::MAX), 1),
            owners_made: 0,
            // The shared region's number is its own, whoever comes first.
            regions: Slab::new(g.regions, u32::from(GLOBAL_REGION) + 1),
            region_gen: 0,
            ports: Slab::new(g.ports, 0),
            names: BTreeMap::new(),
            switches: Slab::new(g.switches, 0),
            switch_names: BTreeMap::new(),
            krings: Ids::new(g.krings),
            named: 0,
            zombies: Vec::new(),
            wakes: RefCell::default(),
        })
    }

    /// The hidden state.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Its file.
    #[must_use]
    pub fn state_file(&self) -> &M::File {
        &self.state_file
    }

    /// Its sizes.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A new registration of process `pid`; not bound to a port yet.
    ///
    /// # Errors
    ///
    /// [`DomainError::NoSpace`]: 65,534 are there already.
    pub fn add_owner(&mut self, pid: u32, isolated: bool) -> Result<u16> {
        let id = self
            .owners
            .reserve()
            .ok_or_else(|| DomainError::NoSpace("65534 registrations exist already".into()))?;
        let owner = Owner {
            pid,
            isolated,
            bound: None,
        };
        self.owners.fill(id, owner);
        let id = u16::try_from(id).unwrap_or(u16::MAX);
        if let Some(w) = self.world.owner(id) {
            // Never the same value twice (in two thousand million): numbers
            // are used again, and whoever keeps something per owner must see it.
            self.owners_made = self.owners_made.wrapping_add(1);
            let tag = u64::from(pid) | 1 << 32 | u64::from(self.owners_made) << 33;
            w.store(tag, core::sync::atomic::Ordering::Release);
        }
        Ok(id)
    }

    /// A region by its identifier, if it is still the one of that generation.
    #[must_use]
    pub fn region(&self, id: u16, generation: u32) -> Option<(&RegionMap, &M::File)> {
        let r = self.regions.get(u32::from(id))?;
        (r.generation == generation).then_some((&r.map, &r.file))
    }

    /// Nothing is open: an on-demand server may end.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.owners.len() == 0 && self.ports.len() == 0 && self.zombies.is_empty()
    }

    fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.0)
    }

    fn find(&self, name: &str) -> Option<PortId> {
        self.names.get(name).copied()
    }

    fn rings_of(rings: &[RingState]) -> Rings {
        Rings {
            first: rings.first().map_or(0, |r| r.kring.0),
            count: u16::try_from(rings.len()).unwrap_or(0),
        }
    }
}

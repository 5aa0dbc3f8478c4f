//! The seam between a namespace and what runs it: in this process, or a server.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use netvale_ring::world::RegionMap;
use netvale_shm::Doorbell;
use netvale_switch::domain::{CheckReport, PortStats, Registration, StationEntry, Want};
use netvale_switch::end::Gear;
use netvale_wire::name::PortSpec;

use crate::drive::Driven;
use crate::{Result, RingConfig};

/// A namespace, however it is run. Answers are those of the domain.
pub(crate) trait Backend: Send + Sync + fmt::Debug {
    /// Binds a new registration to a port.
    fn register(&self, spec: &PortSpec, want: &Want, isolated: bool) -> Result<Attached>;
    /// Geometry of a port (made and removed again when absent).
    fn info(&self, spec: &PortSpec) -> Result<Registration>;
    /// Every port.
    fn list(&self) -> Result<Vec<crate::PortEntry>>;
    /// Counters of one port or all.
    fn stats(&self, name: Option<&str>) -> Result<Vec<PortStats>>;
    /// A switch's stations.
    fn fdb(&self, switch: &str) -> Result<Vec<StationEntry>>;
    /// Attaches a persistent port, or a device if there is a server; its index.
    fn attach(&self, what: &Attach<'_>) -> Result<u32>;
    /// Detaches it; its index.
    fn detach(&self, what: &Attach<'_>) -> Result<u32>;
    /// Makes a persistent port; its geometry.
    fn new_interface(&self, name: &str, config: &RingConfig) -> Result<()>;
    /// Deletes it.
    fn delete_interface(&self, name: &str) -> Result<()>;
    /// Sets a port's virtio-net header length.
    fn set_vnet_hdr(&self, name: &str, len: u8) -> Result<()>;
    /// Reads it.
    fn vnet_hdr(&self, name: &str) -> Result<u8>;
    /// Conservation check.
    fn check(&self) -> Result<CheckReport>;
    /// Ends the server.
    fn shutdown(&self, force: bool) -> Result<()>;
}

/// What is to be attached.
#[derive(Debug)]
pub(crate) enum Attach<'a> {
    /// A port by its name; the host stack behind an interface too.
    Port {
        /// Its name.
        spec: Box<PortSpec>,
        /// The host stack too.
        host: bool,
    },
    /// A back end: `vale0:tap:t0`.
    Device(&'a str),
}

/// A registration in this process.
#[derive(Debug)]
pub(crate) struct Attached {
    /// What it got.
    pub(crate) reg: Registration,
    /// Its region, mapped.
    pub(crate) map: RegionMap,
    /// Everything that running the engine takes; `None` if the server does it.
    pub(crate) gear: Option<Gear>,
    /// Rung by whoever wakes this registration.
    pub(crate) bell: Arc<Doorbell>,
    /// Isolated: rings the server's worker.
    pub(crate) kick: Option<Arc<Doorbell>>,
    /// Queues that this process drives.
    pub(crate) driven: Driven,
    /// The server moves what others come and go by.
    pub(crate) served: bool,
    /// Closes the registration when dropped; asked whether the server is there.
    pub(crate) keep: Arc<dyn Keep>,
}

/// What holds a registration open.
pub(crate) trait Keep: Any + Send + Sync + fmt::Debug {
    /// Whether the other side still answers: an embedded one always does.
    fn alive(&self) -> bool;
    /// Leaves a queue that this process drives to the server.
    fn undrive(&self, _queue: u16) {}
}

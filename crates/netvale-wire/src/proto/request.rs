//! What a client may ask.

use alloc::string::String;
use serde::{Deserialize, Serialize};

use super::{PortKey, StationKey};

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// First message of a connection. Reply: [`Reply::Hello`](super::Reply::Hello).
    Hello {
        /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the client.
        version: u32,
        /// The client wants its own private region and none of the server's
        /// hidden state, even if it could have them.
        #[serde(default)]
        isolated: bool,
        /// Program name, for people who read logs.
        #[serde(default)]
        client: String,
    },
    /// Bind this connection to a port. Reply: [`Reply::Registered`](super::Reply::Registered).
    Register {
        /// Port specification, see [`name`](crate::name).
        spec: String,
        /// The rest.
        #[serde(default)]
        want: Wanted,
    },
    /// Bind this connection to a port, in netmap's terms. Reply:
    /// [`Reply::Registered`](super::Reply::Registered).
    Bind {
        /// What a netmap registration says.
        nr: NrRequest,
    },
    /// Geometry of a port, in netmap's terms; one that is absent is made and
    /// removed again. Reply: [`Reply::Info`](super::Reply::Info).
    Describe {
        /// What a netmap registration says.
        nr: NrRequest,
    },
    /// What is this connection, which another process may have passed on,
    /// bound to? Reply: [`Reply::Registered`](super::Reply::Registered).
    Whoami,
    /// Have the socket behind a queue of the interface that this connection is
    /// bound to, to move its frames in this process's own syncs, or have the
    /// server move them again. Trusted clients only; fails unless
    /// [`Registered::drivable`](super::Registered::drivable) was said. Reply:
    /// [`Reply::Driven`](super::Reply::Driven), or
    /// [`Reply::Done`](super::Reply::Done) to the latter.
    Drive {
        /// Index of the queue's rings among the port's.
        queue: u16,
        /// This process moves them.
        on: bool,
    },
    /// Get a region's file descriptor. Reply: [`Reply::Region`](super::Reply::Region).
    Region {
        /// Region number.
        id: u16,
        /// Which one of that number.
        generation: u32,
    },
    /// A region's layout by its number alone. Reply: [`Reply::Memory`](super::Reply::Memory).
    Memory {
        /// Region number, 0 for the shared one.
        id: u16,
    },
    /// Make a shared region of this shape, or find the one that was made
    /// under the same key and still lives. Trusted clients only. Reply:
    /// [`Reply::Region`](super::Reply::Region), its file comes along.
    NewRegion {
        /// Tells regions apart; no part of it has a meaning.
        key: String,
        /// As [`RegionInfo::geom`](super::RegionInfo::geom).
        geom: [u32; 5],
    },
    /// Get the file descriptor that wakes a registration. Reply: [`Reply::Doorbell`](super::Reply::Doorbell).
    Doorbell {
        /// Registration, as the sleep word of a ring names it.
        owner: u16,
    },
    /// List all ports. Reply: [`Reply::Ports`](super::Reply::Ports).
    List {
        /// Go on after this one.
        #[serde(default)]
        after: Option<PortKey>,
    },
    /// Describe a port, as if it were registered. Reply: [`Reply::Info`](super::Reply::Info).
    Info {
        /// Port specification.
        spec: String,
    },
    /// Counters of one port or of all. Reply: [`Reply::Stats`](super::Reply::Stats).
    Stats {
        /// Port name; `None` for all ports.
        #[serde(default)]
        name: Option<String>,
        /// Go on after the port of this name.
        #[serde(default)]
        after: Option<String>,
    },
    /// Learning table of a switch. Reply: [`Reply::Fdb`](super::Reply::Fdb).
    Fdb {
        /// Switch name, for example `vale0`.
        switch: String,
        /// Go on after this one.
        #[serde(default)]
        after: Option<StationKey>,
    },
    /// Plug a persistent port or a device into a switch. Reply: [`Reply::Attached`](super::Reply::Attached).
    Attach {
        /// Switch and persistent port or interface, `vale0:name`, or switch and
        /// back end, `vale0:tap:name`.
        spec: String,
        /// `spec` is the name of a netmap request, which holds fewer
        /// signs, not a port specification.
        #[serde(default)]
        nr: bool,
        /// The host stack gets a port of the switch too.
        #[serde(default)]
        host: bool,
        /// Region for what is attached; 0 for the usual one.
        #[serde(default)]
        mem_id: u16,
        /// Name of a device's port; `None`: one like the device's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
    },
    /// Undo [`Request::Attach`]. Reply: [`Reply::Attached`](super::Reply::Attached).
    Detach {
        /// Switch and port.
        spec: String,
        /// As in [`Request::Attach`].
        #[serde(default)]
        nr: bool,
    },
    /// Have the server poll an attached device without sleeping, or stop
    /// that; netmap's POLLING_ENABLE and POLLING_DISABLE. Reply:
    /// [`Reply::Done`](super::Reply::Done).
    Polling {
        /// Switch and port.
        name: String,
        /// Poll, or stop.
        on: bool,
        /// One thread (1), or one for each ring (2).
        #[serde(default)]
        mode: u32,
        /// Processor of the first thread.
        #[serde(default)]
        first_cpu: u32,
        /// Processors.
        #[serde(default)]
        cpus: u32,
    },
    /// Create a persistent port. Reply: [`Reply::Done`](super::Reply::Done).
    NewIf {
        /// Its name, at most 15 bytes.
        name: String,
        /// Its rings.
        #[serde(default)]
        want: Wanted,
        /// Region; `None` for the shared one.
        #[serde(default)]
        region: Option<u16>,
        /// It is an interface of the host too: a TAP of its name, whose frames
        /// are the port's while that is attached.
        #[serde(default)]
        link: bool,
    },
    /// Delete a persistent port. Reply: [`Reply::Done`](super::Reply::Done).
    DelIf {
        /// Its name.
        name: String,
    },
    /// Set a port's virtio-net header length. Reply: [`Reply::Done`](super::Reply::Done).
    SetHdr {
        /// Port name.
        name: String,
        /// Length, bytes: 0, 10 or 12.
        len: u8,
    },
    /// Get a port's virtio-net header length. Reply: [`Reply::Hdr`](super::Reply::Hdr).
    GetHdr {
        /// Port name.
        name: String,
    },
    /// Check that every buffer is in exactly one place. Reply: [`Reply::Check`](super::Reply::Check).
    Check {
        /// Go on after this region.
        #[serde(default)]
        after: Option<u16>,
    },
    /// How the server is. Reply: [`Reply::Status`](super::Reply::Status).
    Status,
    /// End the server. Reply: [`Reply::Done`](super::Reply::Done).
    Shutdown {
        /// Even if there are registrations.
        #[serde(default)]
        force: bool,
    },
}

/// What a registration asks for beside the name; zeros take defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// Transmit rings.
    pub tx_rings: u16,
    /// Receive rings.
    pub rx_rings: u16,
    /// Slots of each transmit ring.
    pub tx_slots: u16,
    /// Slots of each receive ring.
    pub rx_slots: u16,
    /// Buffers besides those in the rings.
    pub extra_bufs: u32,
    /// The client gives buffers away, so they may be swapped, not copied.
    pub gives_buffers: bool,
    /// The client copes with virtio-net headers.
    pub accepts_vnet_hdr: bool,
    /// Set the port's header length, bytes: 0, 10 or 12.
    pub vnet_hdr: Option<u8>,
}

/// A registration in netmap's terms, as the new interface (`NIOCCTRL`) has
/// them: requests of the old one are translated before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NrRequest {
    /// The name in the request's header.
    pub name: String,
    /// What to bind: one of [`abi::mode`](crate::abi::mode), but neither
    /// `DEFAULT` nor `PIPE_*`.
    pub mode: u32,
    /// Ring, for the modes that bind one.
    pub ringid: u16,
    /// Bits of [`abi::regflags`](crate::abi::regflags); others are ignored.
    pub flags: u64,
    /// Region, 0 for the port's usual one.
    pub mem_id: u16,
    /// Rings, extra buffers and the rest; zeros take defaults.
    #[serde(default)]
    pub want: Wanted,
    /// Host rings, transmit and receive; zeros take defaults.
    #[serde(default)]
    pub host_rings: [u16; 2],
    /// Data need not begin at the start of a buffer.
    #[serde(default)]
    pub offsets: Option<NrOffsets>,
}

/// Where data begins in the buffers of a port; netmap's option `OFFSETS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NrOffsets {
    /// Largest offset, bytes.
    pub max: u64,
    /// Offset that each slot has at first, bytes.
    pub initial: u64,
    /// Bits of a slot's pointer that hold the offset; 0 for all 64.
    pub bits: u32,
    /// What the start of transmitted data is a multiple of, bytes.
    pub tx_align: u32,
    /// Room left free before received data, bytes.
    pub min_gap: u64,
}

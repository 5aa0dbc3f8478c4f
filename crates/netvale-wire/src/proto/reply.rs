//! What the server answers.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{ErrorKind, NrOffsets};

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`](super::Request::Hello). In the trusted context the file of the hidden
    /// state comes along.
    Hello {
        /// [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) of the server.
        version: u32,
        /// Release of the server.
        server: String,
        /// Process number of the server.
        pid: u32,
        /// Tells this server from every other there was or will be.
        instance: u64,
        /// Who does this client's syncs.
        context: Context,
        /// Hidden state, for a trusted client.
        #[serde(default)]
        state: Option<StateFile>,
    },
    /// To [`Request::Register`](super::Request::Register), [`Request::Bind`](super::Request::Bind) and [`Request::Whoami`](super::Request::Whoami).
    /// Files that come along: the region, the doorbell, and for an isolated client the bell
    /// that wakes the server's worker.
    Registered(Registered),
    /// To [`Request::Drive`](super::Request::Drive). Files that come along: the
    /// socket, its books, and its frames if they lie in no region.
    Driven(Driven),
    /// To [`Request::Region`](super::Request::Region) and [`Request::NewRegion`](super::Request::NewRegion); its file comes
    /// along.
    Region(RegionInfo),
    /// To [`Request::Memory`](super::Request::Memory).
    Memory(RegionInfo),
    /// To [`Request::Doorbell`](super::Request::Doorbell); one file descriptor comes along.
    Doorbell {
        /// Registration.
        owner: u16,
        /// Value of the registration's word in the hidden state: numbers are
        /// used again, these values are not.
        tag: u64,
    },
    /// To [`Request::List`](super::Request::List).
    Ports {
        /// Ports, by switch and index, then by name.
        ports: Vec<PortInfo>,
        /// There are more.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Info`](super::Request::Info) and [`Request::Describe`](super::Request::Describe).
    Info(Registered),
    /// To [`Request::Stats`](super::Request::Stats).
    Stats {
        /// One entry a port, by name.
        ports: Vec<PortStats>,
        /// There are more.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Fdb`](super::Request::Fdb).
    Fdb {
        /// Stations, by port and address.
        stations: Vec<Station>,
        /// There are more.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Attach`](super::Request::Attach) and [`Request::Detach`](super::Request::Detach).
    Attached {
        /// Index of the port in its switch.
        port_index: u32,
        /// What was plugged in or out: this port, and that of the host's stack
        /// if it went along.
        #[serde(default)]
        ports: Vec<Seated>,
    },
    /// To [`Request::GetHdr`](super::Request::GetHdr).
    Hdr {
        /// Length, bytes.
        len: u8,
    },
    /// To [`Request::Check`](super::Request::Check).
    Check {
        /// Each region's books.
        regions: Vec<RegionBooks>,
        /// What is wrong, one sentence each; empty when all is well.
        problems: Vec<String>,
        /// There are more regions.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Status`](super::Request::Status).
    Status(Status),
    /// Done, with nothing to say.
    Done,
    /// The request failed; nothing has changed.
    Error {
        /// What kind of failure.
        kind: ErrorKind,
        /// What failed and why, lower case, without a full stop.
        message: String,
        /// What the user may try.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// Who runs the engine for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// The client itself, on memory it shares with its peers.
    Trusted,
    /// A worker of the server; the client maps its own port only.
    Isolated,
}

impl Context {
    /// Word shown to users.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Isolated => "isolated",
        }
    }
}

/// The file of the hidden state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateFile {
    /// Bytes of the file.
    pub size: u64,
    /// Sizes of its tables.
    pub geom: [u32; 6],
}

/// A region: what it takes to map it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionInfo {
    /// Region number.
    pub id: u16,
    /// Which one of that number.
    pub generation: u32,
    /// Number among the shared ones.
    #[serde(default)]
    pub shared: Option<u16>,
    /// Bytes of the file.
    pub size: u64,
    /// Interface objects, ring objects, bytes of a ring object, buffers,
    /// bytes of a buffer.
    pub geom: [u32; 5],
}

/// What a registration got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// Registration number.
    pub owner: u16,
    /// Port number.
    pub port: u32,
    /// Name as requests carry it.
    pub name: String,
    /// What the port is: `vale`, `pipe`, `monitor` or `null`.
    pub kind: String,
    /// Region that holds the rings.
    pub region: RegionInfo,
    /// Offset of the interface descriptor in the region, bytes.
    pub nif_ofs: u64,
    /// Transmit rings of the port.
    pub tx_rings: u16,
    /// Receive rings of the port.
    pub rx_rings: u16,
    /// Transmit rings bound.
    pub tx: Vec<RingPlace>,
    /// Receive rings bound.
    pub rx: Vec<RingPlace>,
    /// Length of the port's virtio-net header, bytes: 0, 10 or 12.
    pub vnet_hdr: u8,
    /// Extra buffers given.
    pub extra_bufs: u32,
    /// Who does the syncs.
    pub context: Context,
    /// Host rings of the port, transmit and receive; they stand after its
    /// other rings of the same direction.
    #[serde(default)]
    pub host_rings: [u16; 2],
    /// Offsets in force, if they were asked for.
    #[serde(default)]
    pub offsets: Option<NrOffsets>,
    /// The sockets behind it can be had ([`Request::Drive`](super::Request::Drive)).
    #[serde(default)]
    pub drivable: bool,
    /// What it sends and gets goes through the server, also if both are
    /// trusted: it is a device's, and stands still when the server has ended.
    #[serde(default)]
    pub served: bool,
}

/// A queue that a client may drive: the other side of its rings, which lie in
/// the same region, and the queue's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driven {
    /// Number of the port on the other side.
    pub port: u32,
    /// Where received frames are put.
    pub tx: RingPlace,
    /// Where frames to be sent are taken from.
    pub rx: RingPlace,
    /// Entries of each of the socket's rings.
    pub entries: u32,
    /// Buffers that go with it.
    pub stock: u32,
    /// Where the frames lie.
    pub frames: FramePlace,
    /// The device reads and writes them itself.
    pub zero_copy: bool,
    /// The kernel has copied what it has taken to send.
    pub copies: bool,
    /// Frames may have several pieces.
    pub several: bool,
    /// Longest frame. Bytes.
    pub longest: u32,
}

/// Where the frames of a socket lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FramePlace {
    /// In buffers of the region: the first, and the one after the last.
    Region {
        /// Those.
        arena: [u32; 2],
        /// The region is made of huge pages.
        huge: bool,
    },
    /// In a file of their own, which comes along: so many buffers.
    Own(u32),
}

/// Where one ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingPlace {
    /// Number of its hidden state.
    pub kring: u32,
    /// Index among the port's rings of its direction.
    pub idx: u16,
    /// Offset in the region, bytes.
    pub ofs: u64,
    /// Slots.
    pub slots: u16,
}

/// A port's place in the order of [`Reply::Ports`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortKey {
    /// Number of the switch; the largest number for none.
    pub switch: u16,
    /// Index in the switch.
    pub index: u16,
    /// Name.
    pub name: String,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortInfo {
    /// Name as requests carry it.
    pub name: String,
    /// What it is: `vale`, `pipe`, `monitor`, `null`, or a device that clients
    /// have open, as `interface` or `tap`.
    pub kind: String,
    /// Switch it is plugged into.
    #[serde(default)]
    pub seat: Option<SeatInfo>,
    /// Who does its syncs.
    pub context: Context,
    /// It stays when nobody has it open.
    #[serde(default)]
    pub persistent: bool,
    /// Who has it open: at most [`MAX_OWNERS`] of them.
    #[serde(default)]
    pub owners: Vec<OwnerInfo>,
    /// Region that holds its rings.
    pub region: u16,
    /// Size of that region, bytes.
    pub memsize: u64,
    /// Bytes of a buffer.
    pub buf_size: u32,
    /// Transmit rings, receive rings, slots of each.
    pub rings: [u16; 4],
    /// Length of its virtio-net header, bytes.
    pub vnet_hdr: u8,
    /// The device that the server serves there, and how, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The network interface that the device is or has at its other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkInfo>,
}

/// A network interface of the server's network namespace, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// What it is called now.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Its longest packet, bytes.
    pub mtu: u32,
    /// Its hardware address; the bytes are those of
    /// [`MacAddr::to_u64`](crate::mac::MacAddr::to_u64).
    #[serde(default)]
    pub mac: Option<u64>,
}

/// Most registrations that one [`PortInfo`] names.
pub const MAX_OWNERS: usize = 64;

impl PortInfo {
    /// Its place in the order of [`Reply::Ports`].
    #[must_use]
    pub fn key(&self) -> PortKey {
        let (switch, index) = match &self.seat {
            Some(seat) => (seat.switch, seat.index),
            None => (u16::MAX, u16::MAX),
        };
        PortKey {
            switch,
            index,
            name: self.name.clone(),
        }
    }
}

/// A port's place in a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeatInfo {
    /// Name of the switch.
    pub name: String,
    /// Number of the switch.
    pub switch: u16,
    /// Index in the switch.
    pub index: u16,
}

/// A port by its name and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seated {
    /// What it is called in its switch.
    pub name: String,
    /// Its index there.
    pub port_index: u32,
}

/// A registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerInfo {
    /// Its number.
    pub owner: u16,
    /// Its process.
    pub pid: u32,
}

/// Counters of one port, from its creation on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortStats {
    /// Name as requests carry it.
    pub name: String,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Syncs that moved something.
    pub tx_syncs: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent to everyone.
    pub flooded: u64,
    /// Frames lost, by reason.
    pub drops: Vec<Drops>,
    /// Times its words in shared memory broke the rules.
    pub faults: u64,
    /// Time spent forwarding for this port, nanoseconds; at a device's port
    /// both ways.
    pub cpu_ns: u64,
}

/// Frames lost for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Why, for example `rx_full`.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// One station a switch has learnt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Station {
    /// Its address, first byte lowest.
    pub mac: u64,
    /// Index of the port it is behind.
    pub port_index: u16,
    /// Name of that port.
    pub port: String,
    /// Time since it was last seen, in the switch's ageing steps.
    pub age: u8,
}

/// A station's place in the order of [`Reply::Fdb`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StationKey {
    /// Index of its port.
    pub port_index: u16,
    /// Its address.
    pub mac: u64,
}

/// One region's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionBooks {
    /// Region number.
    pub id: u16,
    /// Buffers, the two reserved ones included.
    pub bufs: u32,
    /// Not given out.
    pub free: u32,
    /// Named by a ring's slot.
    pub in_rings: u32,
    /// On extra-buffer lists, or lent to devices.
    pub extra: u32,
    /// In huge pages.
    pub huge: bool,
}

/// How a server is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Its process number.
    pub pid: u32,
    /// Its release.
    pub release: String,
    /// Time since it started. Seconds.
    pub uptime_s: u64,
    /// Connections, this one included.
    pub connections: u32,
    /// Connections that are bound to a port.
    pub registrations: u32,
    /// Isolated ones among them.
    pub isolated: u32,
    /// Ports.
    pub ports: u32,
    /// Worker threads.
    pub workers: u32,
    /// It stays when nobody needs it.
    pub service: bool,
    /// Requests refused because they made no sense.
    pub bad_requests: u64,
    /// Connections refused for want of descriptors or room.
    pub refused: u64,
    /// File that it writes its log to, if it has one of its own.
    pub log: Option<String>,
    /// Number of the network namespace whose interfaces are its devices.
    pub net_ns: Option<u64>,
}

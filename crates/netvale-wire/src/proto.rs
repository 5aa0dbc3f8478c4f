//! The control protocol between a client and the server.
//!
//! One message is one datagram on a connected `SOCK_SEQPACKET` Unix socket: a
//! JSON object whose `op` field names the variant, at most [`MAX_MSG`] bytes.
//! File descriptors travel beside it as ancillary data. A client begins with
//! [`Request::Hello`] and waits for a reply to each request before the next.
//!
//! Unknown fields are ignored and fields with a default may be left out, so
//! that either side may be one release older; an unknown `op` is an error.
//!
//! ```
//! use netvale_wire::proto::{Request, decode, encode};
//!
//! let bytes = encode(&Request::Status).unwrap();
//! assert_eq!(bytes, br#"{"op":"status"}"#);
//! assert_eq!(decode(&bytes).unwrap(), Request::Status);
//! ```

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Version of this protocol; both sides must have the same.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest message, bytes. Answers that are longer come in several, each for a
/// request that says after which entry to go on.
pub const MAX_MSG: usize = 64 * 1024;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// First message of a connection. Reply: [`Reply::Hello`].
    Hello {
        /// [`PROTOCOL_VERSION`] of the client.
        version: u32,
        /// The client wants its own private region and none of the server's
        /// hidden state, even if it could have them.
        #[serde(default)]
        isolated: bool,
        /// Program name, for people who read logs.
        #[serde(default)]
        client: String,
    },
    /// Bind this connection to a port. Reply: [`Reply::Registered`].
    Register {
        /// Port specification, see [`name`](crate::name).
        spec: String,
        /// The rest.
        #[serde(default)]
        want: Wanted,
    },
    /// What is this connection, which another process may have passed on,
    /// bound to? Reply: [`Reply::Registered`].
    Whoami,
    /// Get a region's file descriptor. Reply: [`Reply::Region`].
    Region {
        /// Region number.
        id: u16,
        /// Which one of that number.
        generation: u32,
    },
    /// Get the file descriptor that wakes a registration. Reply: [`Reply::Doorbell`].
    Doorbell {
        /// Registration, as the sleep word of a ring names it.
        owner: u16,
    },
    /// List all ports. Reply: [`Reply::Ports`].
    List {
        /// Go on after this one.
        #[serde(default)]
        after: Option<PortKey>,
    },
    /// Describe a port, as if it were registered. Reply: [`Reply::Info`].
    Info {
        /// Port specification.
        spec: String,
    },
    /// Counters of one port or of all. Reply: [`Reply::Stats`].
    Stats {
        /// Port name; `None` for all ports.
        #[serde(default)]
        name: Option<String>,
        /// Go on after the port of this name.
        #[serde(default)]
        after: Option<String>,
    },
    /// Learning table of a switch. Reply: [`Reply::Fdb`].
    Fdb {
        /// Switch name, for example `vale0`.
        switch: String,
        /// Go on after this one.
        #[serde(default)]
        after: Option<StationKey>,
    },
    /// Plug a persistent port into a switch. Reply: [`Reply::Attached`].
    Attach {
        /// Switch and port, `vale0:name`.
        spec: String,
    },
    /// Undo [`Request::Attach`]. Reply: [`Reply::Attached`].
    Detach {
        /// Switch and port.
        spec: String,
    },
    /// Create a persistent port. Reply: [`Reply::Done`].
    NewIf {
        /// Its name, at most 15 bytes.
        name: String,
        /// Its rings.
        #[serde(default)]
        want: Wanted,
        /// Region; `None` for the shared one.
        #[serde(default)]
        region: Option<u16>,
    },
    /// Delete a persistent port. Reply: [`Reply::Done`].
    DelIf {
        /// Its name.
        name: String,
    },
    /// Set a port's virtio-net header length. Reply: [`Reply::Done`].
    SetHdr {
        /// Port name.
        name: String,
        /// Length, bytes: 0, 10 or 12.
        len: u8,
    },
    /// Get a port's virtio-net header length. Reply: [`Reply::Hdr`].
    GetHdr {
        /// Port name.
        name: String,
    },
    /// Check that every buffer is in exactly one place. Reply: [`Reply::Check`].
    Check {
        /// Go on after this region.
        #[serde(default)]
        after: Option<u16>,
    },
    /// How the server is. Reply: [`Reply::Status`].
    Status,
    /// End the server. Reply: [`Reply::Done`].
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

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Reply {
    /// To [`Request::Hello`]. In the trusted context the file of the hidden
    /// state comes along.
    Hello {
        /// [`PROTOCOL_VERSION`] of the server.
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
    /// To [`Request::Register`] and [`Request::Whoami`]. Files that come
    /// along: the region, the doorbell, and for an isolated client the bell
    /// that wakes the server's worker.
    Registered(Registered),
    /// To [`Request::Region`]; its file comes along.
    Region(RegionInfo),
    /// To [`Request::Doorbell`]; one file descriptor comes along.
    Doorbell {
        /// Registration.
        owner: u16,
        /// Value of the registration's word in the hidden state: numbers are
        /// used again, these values are not.
        tag: u64,
    },
    /// To [`Request::List`].
    Ports {
        /// Ports, by switch and index, then by name.
        ports: Vec<PortInfo>,
        /// There are more.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Info`].
    Info(Registered),
    /// To [`Request::Stats`].
    Stats {
        /// One entry a port, by name.
        ports: Vec<PortStats>,
        /// There are more.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Fdb`].
    Fdb {
        /// Stations, by port and address.
        stations: Vec<Station>,
        /// There are more.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Attach`] and [`Request::Detach`].
    Attached {
        /// Index of the port in its switch.
        port_index: u32,
    },
    /// To [`Request::GetHdr`].
    Hdr {
        /// Length, bytes.
        len: u8,
    },
    /// To [`Request::Check`].
    Check {
        /// Each region's books.
        regions: Vec<RegionBooks>,
        /// What is wrong, one sentence each; empty when all is well.
        problems: Vec<String>,
        /// There are more regions.
        #[serde(default)]
        more: bool,
    },
    /// To [`Request::Status`].
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
    /// What it is.
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
    /// Processor time spent forwarding for this port, nanoseconds.
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
    /// On extra-buffer lists.
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
}

/// The namespace directory of a user: where the server's socket is unless
/// somebody says otherwise. `runtime_dir` is `XDG_RUNTIME_DIR`.
///
/// Root's does not depend on the environment, which `sudo` may have kept from
/// another user.
///
/// ```
/// use netvale_wire::proto::default_dir;
/// assert_eq!(default_dir(Some("/run/user/7"), 7), "/run/user/7/netvale");
/// assert_eq!(default_dir(None, 7), "/tmp/netvale-7");
/// assert_eq!(default_dir(None, 0), "/run/netvale");
/// ```
#[must_use]
pub fn default_dir(runtime_dir: Option<&str>, uid: u32) -> String {
    match runtime_dir {
        _ if uid == 0 => "/run/netvale".into(),
        Some(dir) if dir.starts_with('/') => alloc::format!("{dir}/netvale"),
        _ => alloc::format!("/tmp/netvale-{uid}"),
    }
}

/// Name of the server's socket in the namespace directory.
pub const SOCKET_NAME: &str = "control";

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// No such port, switch or interface.
    NotFound,
    /// In use by someone else.
    Busy,
    /// The request makes no sense.
    Invalid,
    /// Memory, ports or buffers are used up.
    NoMemory,
    /// Not permitted.
    Denied,
    /// Understood, but not possible here.
    Unsupported,
    /// The name is taken.
    Exists,
    /// The port has a virtio-net header that the program does not accept.
    NoHdr,
    /// The end of an enumeration.
    End,
    /// An operating system call failed.
    Os,
    /// The client broke the protocol.
    Protocol,
    /// A kind that this release does not know.
    #[serde(other)]
    Other,
}

impl ErrorKind {
    /// Name of the `errno` value a netmap program sees.
    #[must_use]
    pub const fn errno_name(self) -> &'static str {
        match self {
            Self::NotFound => "ENXIO",
            Self::Busy => "EBUSY",
            Self::Invalid => "EINVAL",
            Self::NoMemory => "ENOMEM",
            Self::Denied => "EACCES",
            Self::Unsupported => "EOPNOTSUPP",
            Self::Exists => "EEXIST",
            Self::NoHdr | Self::Os | Self::Other => "EIO",
            Self::End => "ENOENT",
            Self::Protocol => "EPROTO",
        }
    }

    /// The `errno` value on Linux (`asm-generic/errno.h`).
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => 6,
            Self::Busy => 16,
            Self::Invalid => 22,
            Self::NoMemory => 12,
            Self::Denied => 13,
            Self::Unsupported => 95,
            Self::Exists => 17,
            Self::NoHdr | Self::Os | Self::Other => 5,
            Self::End => 2,
            Self::Protocol => 71,
        }
    }

    /// Exit status of a command-line tool that fails for this reason: 2 for
    /// usage, 3 for a missing privilege, feature or device, 4 for a failure at
    /// run time, 5 for a peer that broke the protocol.
    #[must_use]
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound | Self::Denied | Self::Unsupported => 3,
            Self::Busy
            | Self::NoMemory
            | Self::Exists
            | Self::NoHdr
            | Self::End
            | Self::Os
            | Self::Other => 4,
            Self::Protocol => 5,
        }
    }
}

/// Why a message could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProtoError {
    /// The message is longer than [`MAX_MSG`].
    #[error("message of {len} bytes, at most {MAX_MSG} are allowed")]
    TooLong {
        /// Its length, bytes.
        len: usize,
    },
    /// The message is no JSON object of a known form.
    #[error("malformed message: {reason}")]
    Malformed {
        /// What the JSON parser says.
        reason: String,
    },
}

/// Reads a request.
///
/// # Errors
///
/// [`ProtoError`], for any bytes that are no request.
pub fn decode(message: &[u8]) -> Result<Request, ProtoError> {
    from_json(message)
}

/// Reads a reply.
///
/// # Errors
///
/// [`ProtoError`], for any bytes that are no reply.
pub fn decode_reply(message: &[u8]) -> Result<Reply, ProtoError> {
    from_json(message)
}

/// Writes a request.
///
/// # Errors
///
/// [`ProtoError::TooLong`] if it would be longer than [`MAX_MSG`].
pub fn encode(request: &Request) -> Result<Vec<u8>, ProtoError> {
    to_json(request)
}

/// Writes a reply.
///
/// # Errors
///
/// [`ProtoError::TooLong`] if it would be longer than [`MAX_MSG`].
pub fn encode_reply(reply: &Reply) -> Result<Vec<u8>, ProtoError> {
    to_json(reply)
}

fn from_json<'a, T: Deserialize<'a>>(message: &'a [u8]) -> Result<T, ProtoError> {
    check_len(message.len())?;
    // serde_json limits nesting to 128 levels by itself.
    serde_json::from_slice(message).map_err(malformed)
}

fn to_json<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtoError> {
    let bytes = serde_json::to_vec(message).map_err(malformed)?;
    check_len(bytes.len())?;
    Ok(bytes)
}

fn check_len(len: usize) -> Result<(), ProtoError> {
    match len {
        0..=MAX_MSG => Ok(()),
        _ => Err(ProtoError::TooLong { len }),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "shape that map_err wants")]
fn malformed(error: serde_json::Error) -> ProtoError {
    ProtoError::Malformed {
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// The text form is what other programs may speak: it must not drift.
    #[test]
    fn text_form_is_fixed() {
        let full = br#"{"op":"register","spec":"vale0:a","want":{"tx_rings":1,"rx_rings":2,"tx_slots":3,"rx_slots":4,"extra_bufs":5,"gives_buffers":true,"accepts_vnet_hdr":true,"vnet_hdr":12}}"#;
        let request = Request::Register {
            spec: "vale0:a".into(),
            want: Wanted {
                tx_rings: 1,
                rx_rings: 2,
                tx_slots: 3,
                rx_slots: 4,
                extra_bufs: 5,
                gives_buffers: true,
                accepts_vnet_hdr: true,
                vnet_hdr: Some(12),
            },
        };
        assert_eq!(encode(&request).unwrap(), full);
        assert_eq!(decode(full).unwrap(), request);
        let short = decode(br#"{"op":"register","spec":"x"}"#).unwrap();
        let Request::Register { want, .. } = short else {
            panic!("{short:?}");
        };
        assert_eq!(want, Wanted::default());
        let short = decode(br#"{"op":"stats"}"#).unwrap();
        let all = Request::Stats {
            name: None,
            after: None,
        };
        assert_eq!(short, all);
        let later = decode(br#"{"op":"hello","version":1,"client":"c","new":[1]}"#).unwrap();
        assert!(matches!(
            later,
            Request::Hello {
                isolated: false,
                ..
            }
        ));
    }

    #[test]
    fn replies_round_trip_and_unknown_kinds_survive() {
        let error = br#"{"op":"error","kind":"of_the_future","message":"m"}"#;
        let want = Reply::Error {
            kind: ErrorKind::Other,
            message: "m".into(),
            hint: None,
        };
        assert_eq!(decode_reply(error).unwrap(), want);
        let region = RegionInfo {
            id: 1,
            generation: 9,
            shared: Some(0),
            size: 1 << 40,
            geom: [1, 2, 3, 4, 5],
        };
        let registered = Reply::Registered(Registered {
            owner: 3,
            port: 7,
            name: "vale0:a".into(),
            kind: "vale".into(),
            region,
            nif_ofs: 4096,
            tx_rings: 1,
            rx_rings: 1,
            tx: vec![RingPlace {
                kring: 1,
                idx: 0,
                ofs: 8192,
                slots: 1024,
            }],
            rx: vec![],
            extra_bufs: 0,
            vnet_hdr: 0,
            context: Context::Isolated,
        });
        let stats = Reply::Stats {
            ports: vec![PortStats {
                tx_packets: u64::MAX,
                drops: vec![Drops {
                    reason: "rx_full".into(),
                    packets: 3,
                }],
                ..PortStats::default()
            }],
            more: true,
        };
        let hello = Reply::Hello {
            version: PROTOCOL_VERSION,
            server: "0".into(),
            pid: 1,
            instance: u64::MAX,
            context: Context::Trusted,
            state: Some(StateFile {
                size: 4096,
                geom: [u32::MAX; 6],
            }),
        };
        for reply in [registered, stats, hello, Reply::Region(region), Reply::Done] {
            let bytes = encode_reply(&reply).unwrap();
            assert_eq!(decode_reply(&bytes).unwrap(), reply);
        }
    }

    #[test]
    fn bad_messages_are_refused() {
        for bytes in [
            &b""[..],
            b"[]",
            b"{}",
            br#"{"op":"fly"}"#,
            br#"{"op":"region","id":65536,"generation":1}"#,
            br#"{"op":"status"} x"#,
            b"\xff\xfe",
        ] {
            assert!(matches!(decode(bytes), Err(ProtoError::Malformed { .. })));
        }
        let mut long = br#"{"op":"status"}"#.to_vec();
        long.resize(MAX_MSG, b' ');
        assert_eq!(decode(&long), Ok(Request::Status));
        long.push(b' ');
        assert_eq!(decode(&long), Err(ProtoError::TooLong { len: MAX_MSG + 1 }));
        let name = "x".repeat(MAX_MSG);
        let request = Request::DelIf { name };
        assert!(matches!(encode(&request), Err(ProtoError::TooLong { .. })));
        let deep = "[".repeat(60_000);
        decode(deep.as_bytes()).unwrap_err();
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
            let _ = decode_reply(&bytes);
        }

        #[test]
        fn any_object_is_safe(op in "[a-z_]{0,10}", key in "[a-z_]{0,8}", value in "[\\[\\]{}0-9\",:a-z]{0,30}") {
            let text = alloc::format!(r#"{{"op":"{op}","{key}":{value}}}"#);
            let _ = decode(text.as_bytes());
        }
    }
}

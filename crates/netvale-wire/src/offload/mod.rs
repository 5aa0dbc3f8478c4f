//! Doing in software what a virtio-net header asks the network card to do.
//!
//! A frame with a [`VnetHdr`] may lack its checksum, or be up to 64 KiB long
//! and wait for segmentation. When it goes to a port without such headers,
//! [`plan`] decides from its first bytes what has to be done, and
//! [`Plan::write_segment`] writes each resulting frame. The long frame itself
//! may lie in many buffers: it is read through a function of the caller.
//!
//! | segmentation type | result |
//! |---|---|
//! | none | the frame, with its checksum completed if asked for |
//! | TCP over IPv4 or IPv6 | TCP segments |
//! | UDP (`GSO_UDP`) over IPv4 | one datagram in IP fragments |
//! | UDP (`GSO_UDP`) over IPv6 | refused |
//! | UDP (`GSO_UDP_L4`) over IPv4 or IPv6 | separate datagrams |
//!
//! Headers are taken into the plan once and never read again, so that a peer
//! who changes the frame meanwhile can spoil its own payload and nothing else.
//! Length fields of the long frame are not trusted: the length of the frame is.
//!
//! ```
//! use netvale_wire::offload::{OffloadError, plan};
//! use netvale_wire::vnet::VnetHdr;
//!
//! let frame = [0x55; 60];
//! let plan = plan(&VnetHdr::default(), &frame, frame.len(), 1514)?;
//! let mut out = [0; 1514];
//! for i in 0..plan.segments() {
//!     let len = plan.write_segment(i, |at, dst| {
//!         let Some(src) = frame.get(at..at + dst.len()) else { return false };
//!         dst.copy_from_slice(src);
//!         true
//!     }, &mut out)?;
//!     assert_eq!(&out[..len], &frame);
//! }
//! # Ok::<(), OffloadError>(())
//! ```

mod segment;
#[cfg(test)]
mod tests;
mod unfinished;

pub use unfinished::{Unfinished, unfinished};

use crate::bytes::{HdrError, put_u16};
use crate::checksum;
use crate::eth::{EthHdr, ethertype};
use crate::ip::{Ipv4Hdr, Ipv6Hdr, V6_LEN, proto};
use crate::l4::{TcpHdr, UDP_LEN, UdpHdr};
use crate::vnet::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, VnetHdr,
};
use core::net::IpAddr;
use thiserror::Error;

/// Longest headers that are repeated in each segment, bytes: enough for four
/// 802.1Q tags and the longest IPv4 and TCP headers (150), or for 76 bytes of
/// IPv6 extension headers between the longest others.
pub const MAX_HEADER: usize = 206;
/// Most segments one frame may become. A 64 KiB frame at TCP's default
/// segment size of 536 makes 123.
pub const MAX_SEGMENTS: usize = 1024;

/// What to do with one frame; see the [module](self).
#[derive(Clone, Debug)]
pub struct Plan {
    work: Work,
    /// Headers of the long frame; the first `header_len` bytes count.
    header: [u8; MAX_HEADER],
    header_len: usize,
    frame_len: usize,
    /// Payload in each segment but the last, bytes; never 0 unless the frame is empty.
    per_segment: usize,
    segments: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Pass the frame on; complete the checksum at `(start, offset)` if there is one.
    Plain { csum: Option<(usize, usize)> },
    /// Repeat IP and TCP headers.
    Tcp(Layers),
    /// Repeat IP and UDP headers.
    Udp(Layers),
    /// Repeat the IPv4 header only; complete the datagram's checksum if asked for.
    Fragments { layers: Layers, csum: bool },
}

/// Where the headers are and what the pseudo-header needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layers {
    /// Offset of the IP header, bytes.
    l3: usize,
    /// Offset of the TCP or UDP header, bytes.
    l4: usize,
    src: IpAddr,
    dst: IpAddr,
}

impl Plan {
    /// Frames to write, at least 1.
    #[must_use]
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// Bytes of headers repeated in each segment; 0 for a frame that is passed on.
    #[must_use]
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Payload bytes in each segment but the last.
    #[must_use]
    pub const fn payload_per_segment(&self) -> usize {
        self.per_segment
    }

    /// Length of segment `i`, bytes; `None` if there is no such segment.
    #[must_use]
    pub fn segment_len(&self, i: usize) -> Option<usize> {
        let (_, len) = self.payload(i)?;
        Some(self.header_len + len)
    }

    /// Offset and length of the payload of segment `i`, without the headers.
    fn payload(&self, i: usize) -> Option<(usize, usize)> {
        if i >= self.segments {
            return None;
        }
        let total = self.frame_len - self.header_len;
        let start = i * self.per_segment;
        Some((start, self.per_segment.min(total.saturating_sub(start))))
    }
}

/// Plans the treatment of a frame of `frame_len` bytes that begins with `head`
/// and came with the header `vnet`. `head` should hold [`MAX_HEADER`] bytes,
/// or all of a shorter frame; lengths do not include the virtio-net header.
///
/// Segments are at most `max_frame` bytes long. The limit does not apply to a
/// frame that needs no segmentation, as in VALE.
///
/// # Errors
///
/// [`OffloadError`]; the frame has to be dropped.
pub fn plan(
    vnet: &VnetHdr,
    head: &[u8],
    frame_len: usize,
    max_frame: usize,
) -> Result<Plan, OffloadError> {
    if vnet.flags & !(F_NEEDS_CSUM | F_DATA_VALID) != 0 {
        return Err(OffloadError::BadFlags { flags: vnet.flags });
    }
    if vnet.gso() == GSO_NONE {
        return plain(vnet, frame_len);
    }
    let head = head.get(..frame_len.min(MAX_HEADER)).unwrap_or(head);
    let (layers, protocol) = layers(vnet, head)?;
    let inner = usize::from(vnet.csum_start);
    if vnet.needs_csum() && inner > layers.l4 {
        return Err(OffloadError::Tunnel {
            inner,
            outer: layers.l4,
        });
    }
    let l4 = head.get(layers.l4..).unwrap_or_default();
    let (work, header_len) = match vnet.gso() {
        GSO_TCPV4 | GSO_TCPV6 => (
            Work::Tcp(layers),
            layers.l4 + check(protocol, proto::TCP, || TcpHdr::parse(l4))?.header_len,
        ),
        GSO_UDP_L4 => {
            check(protocol, proto::UDP, || UdpHdr::parse(l4))?;
            (Work::Udp(layers), layers.l4 + UDP_LEN)
        }
        _ => {
            check(protocol, proto::UDP, || UdpHdr::parse(l4))?;
            let csum = vnet.needs_csum();
            (Work::Fragments { layers, csum }, layers.l4)
        }
    };
    let payload = frame_len
        .checked_sub(header_len)
        .ok_or(OffloadError::NoPayload {
            header_len,
            frame_len,
        })?;
    let per_segment = per_segment(vnet, work, header_len, payload, max_frame)?;
    let segments = payload.div_ceil(per_segment).max(1);
    if segments > MAX_SEGMENTS {
        return Err(OffloadError::TooManySegments { segments });
    }
    let mut header = [0; MAX_HEADER];
    for (to, from) in header.iter_mut().zip(head.iter().take(header_len)) {
        *to = *from;
    }
    Ok(Plan {
        work,
        header,
        header_len,
        frame_len,
        per_segment,
        segments,
    })
}

fn plain(vnet: &VnetHdr, frame_len: usize) -> Result<Plan, OffloadError> {
    let csum = match vnet.needs_csum() {
        true => Some((usize::from(vnet.csum_start), usize::from(vnet.csum_offset))),
        false => None,
    };
    if let Some((start, offset)) = csum
        && start + offset + 2 > frame_len
    {
        return Err(OffloadError::BadCsum {
            start,
            offset,
            frame_len,
        });
    }
    Ok(Plan {
        work: Work::Plain { csum },
        header: [0; MAX_HEADER],
        header_len: 0,
        frame_len,
        per_segment: frame_len,
        segments: 1,
    })
}

/// Payload of each segment, bytes; at least 1.
fn per_segment(
    vnet: &VnetHdr,
    work: Work,
    header_len: usize,
    payload: usize,
    max_frame: usize,
) -> Result<usize, OffloadError> {
    let no_room = OffloadError::NoRoom {
        header_len,
        max_frame,
    };
    let l3 = match work {
        Work::Plain { .. } => 0,
        Work::Tcp(l) | Work::Udp(l) | Work::Fragments { layers: l, .. } => l.l3,
    };
    // The IP length fields have 16 bits; IPv6 does not count its header, which
    // is not worth a second limit.
    let longest = max_frame.min(l3 + usize::from(u16::MAX));
    let room = longest.checked_sub(header_len).ok_or(no_room)?;
    let wish = match usize::from(vnet.gso_size) {
        0 => usize::MAX,
        size => size,
    };
    let per_segment = match work {
        // Datagram borders have a meaning: they cannot be moved.
        Work::Udp(_) if vnet.gso_size == 0 => return Err(OffloadError::NoSegmentSize),
        Work::Udp(_) if wish.min(payload) > room => return Err(no_room),
        Work::Udp(_) => wish,
        Work::Fragments { layers, .. } => {
            // Fragments have to come out as one packet again.
            if payload + (layers.l4 - layers.l3) > usize::from(u16::MAX) {
                return Err(OffloadError::TooLong { payload });
            }
            match wish.min(room) {
                all if all >= payload => payload,
                part => part & !7,
            }
        }
        Work::Tcp(_) | Work::Plain { .. } => wish.min(room),
    };
    if per_segment == 0 {
        return Err(no_room);
    }
    Ok(per_segment)
}

/// Finds the IP and upper-layer headers and the upper-layer protocol.
fn layers(vnet: &VnetHdr, head: &[u8]) -> Result<(Layers, u8), OffloadError> {
    let (v4, v6) = match vnet.gso() {
        GSO_TCPV4 | GSO_UDP => (true, false),
        GSO_TCPV6 => (false, true),
        GSO_UDP_L4 => (true, true),
        gso_type => return Err(OffloadError::BadGso { gso_type }),
    };
    let eth = EthHdr::parse(head)?;
    let l3 = eth.len();
    let packet = head.get(l3..).unwrap_or_default();
    match eth.ethertype {
        ethertype::IPV4 if v4 => {
            let ip = Ipv4Hdr::parse(packet)?;
            if ip.is_fragment() {
                return Err(OffloadError::IsFragment);
            }
            let layers = Layers {
                l3,
                l4: l3 + ip.header_len,
                src: ip.src.into(),
                dst: ip.dst.into(),
            };
            Ok((layers, ip.protocol))
        }
        ethertype::IPV6 if v6 => {
            let ip = Ipv6Hdr::parse(packet)?;
            let (len, protocol) = skip_extensions(packet, ip.next_header)?;
            let layers = Layers {
                l3,
                l4: l3 + len,
                src: ip.src.into(),
                dst: ip.dst.into(),
            };
            Ok((layers, protocol))
        }
        ethertype => Err(OffloadError::WrongEthertype {
            ethertype,
            gso_type: vnet.gso_type,
        }),
    }
}

/// Walks over IPv6 extension headers that may be repeated in each segment:
/// hop-by-hop and destination options. Returns the length of all IPv6 headers
/// and what follows them.
fn skip_extensions(packet: &[u8], first: u8) -> Result<(usize, u8), OffloadError> {
    let mut len = V6_LEN;
    let mut next = first;
    while matches!(next, proto::HOP_BY_HOP | proto::DEST_OPTS) {
        let have = packet.len();
        match packet.get(len..).unwrap_or_default() {
            [after, units, ..] => {
                next = *after;
                len += 8 * (usize::from(*units) + 1);
            }
            _ => {
                let what = "IPv6 extension header";
                return Err(HdrError::Short {
                    what,
                    need: len + 2,
                    have,
                }
                .into());
            }
        }
    }
    Ok((len, next))
}

/// Runs `parse` if the packet carries what the segmentation type says.
fn check<T>(
    protocol: u8,
    wanted: u8,
    parse: impl FnOnce() -> Result<T, HdrError>,
) -> Result<T, OffloadError> {
    if protocol != wanted {
        return Err(OffloadError::WrongProtocol { protocol, wanted });
    }
    Ok(parse()?)
}

/// Completes the checksum that a sender left half done: the field at
/// `csum_start + csum_offset` holds the sum of the pseudo-header, and gets the
/// checksum of everything from `csum_start` on. A result of 0 is stored as
/// `0xffff`, its equal, because 0 means "none" to UDP.
///
/// # Errors
///
/// [`OffloadError::BadCsum`], and no change, if the field is not inside the frame.
pub fn finish_checksum(
    frame: &mut [u8],
    csum_start: usize,
    csum_offset: usize,
) -> Result<(), OffloadError> {
    let error = OffloadError::BadCsum {
        start: csum_start,
        offset: csum_offset,
        frame_len: frame.len(),
    };
    let covered = frame.get_mut(csum_start..).ok_or(error)?;
    let value = checksum::nonzero(checksum::checksum(covered));
    put_u16(covered, csum_offset, value).ok_or(error)
}

/// Why a frame with a virtio-net header cannot be sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OffloadError {
    /// The virtio-net header has unknown flags.
    #[error("virtio-net header has unknown flags {flags:#04x}")]
    BadFlags {
        /// All flags.
        flags: u8,
    },
    /// The virtio-net header has an unknown segmentation type.
    #[error("virtio-net header has unknown segmentation type {gso_type}")]
    BadGso {
        /// The type without the congestion bit.
        gso_type: u8,
    },
    /// A checksum is wanted outside the frame.
    #[error("checksum wanted at {start}+{offset} in a frame of {frame_len} bytes")]
    BadCsum {
        /// Where summing begins, bytes.
        start: usize,
        /// Where the result goes, bytes from there.
        offset: usize,
        /// Length of the frame, bytes.
        frame_len: usize,
    },
    /// A header is cut short or contradicts itself.
    #[error(transparent)]
    Header(#[from] HdrError),
    /// The frame is not of the IP version that the segmentation type says.
    #[error("ethertype {ethertype:#06x} does not suit segmentation type {gso_type}")]
    WrongEthertype {
        /// What the frame has.
        ethertype: u16,
        /// Segmentation type as received.
        gso_type: u8,
    },
    /// The packet does not carry what the segmentation type says.
    #[error("protocol {protocol} where segmentation needs {wanted}")]
    WrongProtocol {
        /// What the packet has.
        protocol: u8,
        /// What it should have.
        wanted: u8,
    },
    /// What is to be cut is the packet inside a tunnel, of whose headers the
    /// virtio-net header says nothing.
    #[error(
        "the packet to be segmented is inside another (its checksum is at {inner}, not {outer})"
    )]
    Tunnel {
        /// Where summing begins, bytes.
        inner: usize,
        /// Where the frame's own TCP or UDP header begins, bytes.
        outer: usize,
    },
    /// The packet is an IP fragment already.
    #[error("a fragment cannot be segmented")]
    IsFragment,
    /// The headers alone are longer than the frame.
    #[error("headers of {header_len} bytes in a frame of {frame_len}")]
    NoPayload {
        /// Length of the headers, bytes.
        header_len: usize,
        /// Length of the frame, bytes.
        frame_len: usize,
    },
    /// The destination's frames are too short for the headers and some payload.
    #[error("headers of {header_len} bytes and payload do not fit frames of {max_frame} bytes")]
    NoRoom {
        /// Length of the headers, bytes.
        header_len: usize,
        /// The destination's limit, bytes.
        max_frame: usize,
    },
    /// UDP segmentation without a segment size.
    #[error("UDP segmentation without a segment size")]
    NoSegmentSize,
    /// The fragments would not come out as a legal packet.
    #[error("{payload} bytes are too long for one IPv4 packet")]
    TooLong {
        /// Bytes after the IP header.
        payload: usize,
    },
    /// The frame would become more than [`MAX_SEGMENTS`] segments.
    #[error("{segments} segments from one frame, at most 1024 are allowed")]
    TooManySegments {
        /// How many there would be.
        segments: usize,
    },
    /// There is no segment with this number.
    #[error("segment {index} of {segments}")]
    NoSegment {
        /// The number asked for, from 0.
        index: usize,
        /// How many there are.
        segments: usize,
    },
    /// The output buffer is shorter than the segment.
    #[error("segment of {need} bytes for a buffer of {have}")]
    ShortOut {
        /// Length of the segment, bytes.
        need: usize,
        /// Length of the buffer, bytes.
        have: usize,
    },
    /// The caller's function could not read the frame.
    #[error("cannot read {len} bytes at {at} of the frame")]
    Source {
        /// Where reading began, bytes.
        at: usize,
        /// How much was wanted, bytes.
        len: usize,
    },
}

//! VXLAN (RFC 7348): Ethernet frames over UDP.
//!
//! 1. [`VxlanConfig`] says which network and where its other ends are; it can
//!    be read from text such as `vxlan:42@192.0.2.7,learning=off`.
//! 2. [`Vxlan`] is an endpoint: it sends frames to the end behind which their
//!    destination was seen, or to all ends, and receives in place. Headers
//!    do not lie in the pool: they are put before a frame while it is sent.
//! 3. [`VxlanSockets`] opens endpoints of several networks at one UDP port.
//!
//! No clock is read here: the caller passes the time since any fixed moment.
//!
//! Frames need their checksums and must not wait for segmentation. If the way
//! to another end is a veth, the kernel there leaves even the checksums inside
//! to it, and they arrive wrong: switch off transmit checksumming at the veth's
//! other end. The receiving socket is ordinary: the kernel's own vxlan device on the same
//! address and port excludes it.

mod endpoint;
mod share;
mod spec;
mod table;

pub use endpoint::{MAX_REMOTES, Vxlan, VxlanCounters, VxlanError, VxlanSent};
pub use share::VxlanSockets;
pub use spec::{SpecError, VxlanConfig};
pub use table::Station;

use netvale_wire::eth::{EthHdr, ethertype};
use netvale_wire::ip::{Ipv4Hdr, Ipv6Hdr, proto};

/// UDP port of VXLAN.
pub const PORT: u16 = 4789;
/// Length of the header, bytes.
pub const HEADER_LEN: usize = 8;
/// Bytes that VXLAN adds to a frame over IPv4: IP, UDP and VXLAN headers. Over
/// IPv6 there are 20 more.
pub const OVERHEAD_V4: usize = 20 + 8 + HEADER_LEN;

/// The flag that says that there is a network number.
const F_VNI: u8 = 0x08;

/// The number of a VXLAN network, 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Vni(u32);

impl Vni {
    /// Largest number.
    pub const MAX: u32 = (1 << 24) - 1;

    /// `None` above [`Vni::MAX`].
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        if number > Self::MAX {
            return None;
        }
        Some(Self(number))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The header of a frame of this network.
    #[must_use]
    pub const fn header(self) -> [u8; HEADER_LEN] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [F_VNI, 0, 0, 0, a, b, c, 0]
    }

    /// The network of a frame with this header. `None` if the header is short
    /// or names no network. Reserved bits are ignored, as the RFC wants it.
    #[must_use]
    pub fn of(header: &[u8]) -> Option<Self> {
        let [flags, _, _, _, a, b, c, _] = *header.first_chunk()?;
        if flags & F_VNI == 0 {
            return None;
        }
        Some(Self(u32::from_be_bytes([0, a, b, c])))
    }
}

impl std::fmt::Display for Vni {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of a frame that [`flow_hash`] may look at.
const HASHED: usize = 128;

/// A number that is the same for all frames of a flow: of addresses and ports
/// for IP, of Ethernet addresses and type else.
fn flow_hash(frame: &[u8]) -> u32 {
    let mut hash = Hash(0x9e37_79b9_7f4a_7c15);
    let Ok(eth) = EthHdr::parse(frame) else {
        hash.add(frame.get(..12).unwrap_or_default());
        return hash.end();
    };
    let packet = frame.get(eth.len()..).unwrap_or_default();
    let ports = match eth.ethertype {
        ethertype::IPV4 => Ipv4Hdr::parse(packet).ok().map(|ip| {
            hash.add(&ip.src.octets());
            hash.add(&ip.dst.octets());
            hash.add(&[ip.protocol]);
            // Fragments have no ports, and must stay with the first one's.
            let whole = !ip.is_fragment();
            (ip.header_len, ip.protocol, whole)
        }),
        ethertype::IPV6 => Ipv6Hdr::parse(packet).ok().map(|ip| {
            hash.add(&ip.src.octets());
            hash.add(&ip.dst.octets());
            hash.add(&[ip.next_header]);
            (netvale_wire::ip::V6_LEN, ip.next_header, true)
        }),
        _ => None,
    };
    match ports {
        Some((at, proto::TCP | proto::UDP, true)) => {
            hash.add(packet.get(at..at + 4).unwrap_or_default());
        }
        Some(_) => {}
        None => hash.add(frame.get(..14).unwrap_or_default()),
    }
    hash.end()
}

struct Hash(u64);

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(part) {
                *to = *from;
            }
            let mixed = self.0 ^ u64::from_le_bytes(word);
            self.0 = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd).rotate_left(29);
        }
    }

    fn end(self) -> u32 {
        let folded = self.0 ^ self.0 >> 33;
        let [a, b, c, d, ..] = folded.to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netvale_wire::mac::MacAddr;

    #[test]
    fn header_is_that_of_the_rfc() {
        let vni = Vni::new(0x0012_3456).unwrap();
        assert_eq!(vni.header(), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
        assert_eq!(Vni::of(&vni.header()), Some(vni));
        assert_eq!(Vni::of(&[0xff; 8]), Vni::new(Vni::MAX), "reserved bits");
        assert_eq!(Vni::of(&[0xf7; 8]), None, "no network");
        assert_eq!(Vni::of(&[8; 7]), None, "short");
        assert_eq!(Vni::new(1 << 24), None);
    }

    fn udp(src_port: u16, fragment: bool, mac: u8) -> Vec<u8> {
        let src = MacAddr([2, 0, 0, 0, 0, mac]);
        let eth = EthHdr::new(MacAddr::BROADCAST, src, ethertype::IPV4);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|ip| ip.parse().unwrap());
        let mut ip = Ipv4Hdr::new(a, b, proto::UDP, 16).unwrap();
        ip.more_fragments = fragment;
        let mut f = vec![0; 50];
        let at = eth.write(&mut f).unwrap();
        ip.write(&mut f[at..]).unwrap();
        f[34..36].copy_from_slice(&src_port.to_be_bytes());
        f
    }

    #[test]
    fn flows_keep_their_number() {
        assert_eq!(flow_hash(&udp(7, false, 1)), flow_hash(&udp(7, false, 2)));
        let mut seen: Vec<u32> = (0..256)
            .map(|p| flow_hash(&udp(p, false, 1)) % 16)
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 16, "ports spread over all lanes");
        assert_eq!(flow_hash(&udp(7, true, 1)), flow_hash(&udp(8, true, 1)));
        for len in 0..50 {
            let _ = flow_hash(&udp(7, false, 1)[..len]); // never panics
        }
    }
}

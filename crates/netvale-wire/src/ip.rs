//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use crate::bytes::{HdrError, get_u16, head, head_mut, put_u16};
use crate::checksum;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Length of an IPv4 header without options, bytes.
pub const V4_LEN: usize = 20;
/// Length of the fixed IPv6 header, bytes.
pub const V6_LEN: usize = 40;

/// Protocol (IPv4) and next-header (IPv6) numbers used here.
pub mod proto {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DEST_OPTS: u8 = 60;
}

/// IPv4 header. Options are skipped when read and never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Hdr {
    /// Length of the header with its options, bytes (20..=60).
    pub header_len: usize,
    /// Differentiated services and congestion bits.
    pub tos: u8,
    /// Length of header and payload, bytes.
    pub total_len: u16,
    /// Identification.
    pub id: u16,
    /// Do not fragment.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more_fragments: bool,
    /// Position of this fragment, in units of 8 bytes (13 bits).
    pub fragment_offset: u16,
    /// Time to live, hops.
    pub ttl: u8,
    /// Payload protocol.
    pub protocol: u8,
    /// Header checksum as read; [`write`](Self::write) computes it.
    pub checksum: u16,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
}

impl Ipv4Hdr {
    /// A header without options for `payload_len` bytes, TTL 64, not a fragment.
    /// `None` if the packet would be longer than 65535 bytes.
    #[must_use]
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload_len: usize) -> Option<Self> {
        Some(Self {
            header_len: V4_LEN,
            tos: 0,
            total_len: u16::try_from(payload_len.checked_add(V4_LEN)?).ok()?,
            id: 0,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol,
            checksum: 0,
            src,
            dst,
        })
    }

    /// Reads a header. The checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`] if `packet` ends inside the header,
    /// [`HdrError::Bad`] for a version other than 4 or a header length below 20.
    pub fn parse(packet: &[u8]) -> Result<Self, HdrError> {
        const WHAT: &str = "IPv4 header";
        let h = head::<V4_LEN>(packet, WHAT)?;
        let bad = |field, value: u8| HdrError::Bad {
            what: WHAT,
            field,
            value: u32::from(value),
        };
        if h[0] >> 4 != 4 {
            return Err(bad("version", h[0] >> 4));
        }
        let header_len = usize::from(h[0] & 0xf) * 4;
        if header_len < V4_LEN {
            return Err(bad("header length in words", h[0] & 0xf));
        }
        if packet.len() < header_len {
            return Err(HdrError::Short {
                what: WHAT,
                need: header_len,
                have: packet.len(),
            });
        }
        let fragment = u16::from_be_bytes([h[6], h[7]]);
        Ok(Self {
            header_len,
            tos: h[1],
            total_len: u16::from_be_bytes([h[2], h[3]]),
            id: u16::from_be_bytes([h[4], h[5]]),
            dont_fragment: fragment & 0x4000 != 0,
            more_fragments: fragment & 0x2000 != 0,
            fragment_offset: fragment & 0x1fff,
            ttl: h[8],
            protocol: h[9],
            checksum: u16::from_be_bytes([h[10], h[11]]),
            src: Ipv4Addr::new(h[12], h[13], h[14], h[15]),
            dst: Ipv4Addr::new(h[16], h[17], h[18], h[19]),
        })
    }

    /// Writes 20 bytes with a valid checksum and returns 20. `header_len` and
    /// `checksum` are not used.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`], and nothing is written, if they do not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, HdrError> {
        let out = head_mut::<V4_LEN>(out, "IPv4 header")?;
        let mut fragment = self.fragment_offset & 0x1fff;
        fragment |= u16::from(self.dont_fragment) << 14;
        fragment |= u16::from(self.more_fragments) << 13;
        out[0] = 0x45;
        out[1] = self.tos;
        out[2..4].copy_from_slice(&self.total_len.to_be_bytes());
        out[4..6].copy_from_slice(&self.id.to_be_bytes());
        out[6..8].copy_from_slice(&fragment.to_be_bytes());
        out[8] = self.ttl;
        out[9] = self.protocol;
        out[10..12].fill(0);
        out[12..16].copy_from_slice(&self.src.octets());
        out[16..20].copy_from_slice(&self.dst.octets());
        let sum = checksum::checksum(out);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        Ok(V4_LEN)
    }

    /// Whether this packet is part of a fragmented datagram.
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        self.more_fragments || self.fragment_offset != 0
    }
}

/// Recomputes the checksum of the IPv4 header that fills `header`, options
/// included. `None`, and no change, if it is too short to hold one.
pub fn refresh_v4_checksum(header: &mut [u8]) -> Option<()> {
    get_u16(header, 10)?;
    put_u16(header, 10, 0)?;
    let sum = checksum::checksum(header);
    put_u16(header, 10, sum)
}

/// Fixed IPv6 header. Extension headers count as payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv6Hdr {
    /// Traffic class.
    pub traffic_class: u8,
    /// Flow label (20 bits).
    pub flow_label: u32,
    /// Bytes after this header.
    pub payload_len: u16,
    /// Type of what follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source.
    pub src: Ipv6Addr,
    /// Destination.
    pub dst: Ipv6Addr,
}

impl Ipv6Hdr {
    /// A header for `payload_len` bytes, hop limit 64.
    /// `None` if there are more than 65535.
    #[must_use]
    pub fn new(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, payload_len: usize) -> Option<Self> {
        Some(Self {
            traffic_class: 0,
            flow_label: 0,
            payload_len: u16::try_from(payload_len).ok()?,
            next_header,
            hop_limit: 64,
            src,
            dst,
        })
    }

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`] if `packet` ends inside the header,
    /// [`HdrError::Bad`] for a version other than 6.
    pub fn parse(packet: &[u8]) -> Result<Self, HdrError> {
        const WHAT: &str = "IPv6 header";
        let h = head::<V6_LEN>(packet, WHAT)?;
        let word = u32::from_be_bytes([h[0], h[1], h[2], h[3]]);
        if word >> 28 != 6 {
            return Err(HdrError::Bad {
                what: WHAT,
                field: "version",
                value: word >> 28,
            });
        }
        let addr = |at: usize| {
            let bytes: [u8; 16] = core::array::from_fn(|i| h[at + i]);
            Ipv6Addr::from(bytes)
        };
        Ok(Self {
            traffic_class: (h[0] << 4) | (h[1] >> 4),
            flow_label: word & 0xf_ffff,
            payload_len: u16::from_be_bytes([h[4], h[5]]),
            next_header: h[6],
            hop_limit: h[7],
            src: addr(8),
            dst: addr(24),
        })
    }

    /// Writes the header and returns its length, 40 bytes.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`], and nothing is written, if it does not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, HdrError> {
        let out = head_mut::<V6_LEN>(out, "IPv6 header")?;
        let word = (6 << 28) | (u32::from(self.traffic_class) << 20) | (self.flow_label & 0xf_ffff);
        out[..4].copy_from_slice(&word.to_be_bytes());
        out[4..6].copy_from_slice(&self.payload_len.to_be_bytes());
        out[6] = self.next_header;
        out[7] = self.hop_limit;
        out[8..24].copy_from_slice(&self.src.octets());
        out[24..40].copy_from_slice(&self.dst.octets());
        Ok(V6_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    #[test]
    fn nonsense_is_refused() {
        let mut h = vec![0u8; 40];
        h[0] = 0x65;
        assert!(matches!(
            Ipv4Hdr::parse(&h),
            Err(HdrError::Bad { value: 6, .. })
        ));
        h[0] = 0x44;
        assert!(matches!(
            Ipv4Hdr::parse(&h),
            Err(HdrError::Bad { value: 4, .. })
        ));
        h[0] = 0x4f;
        assert!(matches!(
            Ipv4Hdr::parse(&h),
            Err(HdrError::Short { need: 60, .. })
        ));
        assert!(matches!(
            Ipv6Hdr::parse(&h),
            Err(HdrError::Bad { value: 4, .. })
        ));
        assert!(matches!(
            Ipv6Hdr::parse(&[0x60; 39]),
            Err(HdrError::Short { need: 40, .. })
        ));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let (a, b) = (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST);
        assert!(Ipv4Hdr::new(a, b, 17, 65515).is_some());
        assert!(Ipv4Hdr::new(a, b, 17, 65516).is_none());
        assert!(Ipv6Hdr::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, 17, 65536).is_none());
    }

    proptest! {
        #[test]
        fn v4_agrees_with_etherparse(
            src: [u8; 4], dst: [u8; 4], tos: u8, id: u16, ttl: u8, protocol: u8,
            len in 0usize..1000, df: bool, mf: bool, offset in 0u16..0x2000,
        ) {
            let hdr = Ipv4Hdr {
                tos, id, ttl, dont_fragment: df, more_fragments: mf, fragment_offset: offset,
                ..Ipv4Hdr::new(src.into(), dst.into(), protocol, len).unwrap()
            };
            let mut out = [0; 20];
            hdr.write(&mut out).unwrap();
            let (other, _) = etherparse::Ipv4Header::from_slice(&out).unwrap();
            prop_assert_eq!(other.calc_header_checksum(), other.header_checksum);
            prop_assert_eq!(other.source, src);
            prop_assert_eq!(other.destination, dst);
            prop_assert_eq!(usize::from(other.total_len), len + 20);
            prop_assert_eq!(other.identification, id);
            prop_assert_eq!((other.dont_fragment, other.more_fragments), (df, mf));
            prop_assert_eq!(other.fragment_offset.value(), offset);
            prop_assert_eq!((other.time_to_live, other.protocol.0), (ttl, protocol));
            let back = Ipv4Hdr::parse(&out).unwrap();
            prop_assert_eq!(back, Ipv4Hdr { checksum: other.header_checksum, ..hdr });
        }

        #[test]
        fn v6_agrees_with_etherparse(
            src: [u8; 16], dst: [u8; 16], class: u8, flow in 0u32..0x10_0000, len: u16,
            next: u8, hops: u8,
        ) {
            let hdr = Ipv6Hdr {
                traffic_class: class, flow_label: flow, hop_limit: hops,
                ..Ipv6Hdr::new(src.into(), dst.into(), next, usize::from(len)).unwrap()
            };
            let mut out = [0; 40];
            hdr.write(&mut out).unwrap();
            let (other, _) = etherparse::Ipv6Header::from_slice(&out).unwrap();
            prop_assert_eq!(other.source, src);
            prop_assert_eq!(other.destination, dst);
            prop_assert_eq!(other.payload_length, len);
            prop_assert_eq!(other.flow_label.value(), flow);
            prop_assert_eq!((other.next_header.0, other.hop_limit), (next, hops));
            prop_assert_eq!(Ipv6Hdr::parse(&out), Ok(hdr));
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(h) = Ipv4Hdr::parse(&bytes) {
                prop_assert!((20..=60).contains(&h.header_len) && h.header_len <= bytes.len());
            }
            let _ = Ipv6Hdr::parse(&bytes);
        }
    }
}

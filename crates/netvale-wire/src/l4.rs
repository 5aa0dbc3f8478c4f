//! UDP (RFC 768), TCP (RFC 9293) and ICMP echo (RFC 792, RFC 4443) headers.

use crate::bytes::{HdrError, get_u16, head, head_mut, put_u16};
use crate::checksum::{self, Sum};
use crate::ip::proto;
use core::net::IpAddr;

/// Length of a UDP header, bytes.
pub const UDP_LEN: usize = 8;
/// Length of a TCP header without options, bytes.
pub const TCP_LEN: usize = 20;
/// Length of an ICMP echo header, bytes.
pub const ECHO_LEN: usize = 8;

/// Offset of the checksum in a UDP header, bytes.
pub const UDP_CHECKSUM: usize = 6;
/// Offset of the checksum in a TCP header, bytes.
pub const TCP_CHECKSUM: usize = 16;

/// TCP flag bits.
pub mod tcp_flags {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Open.
    pub const SYN: u8 = 0x02;
    /// Abort.
    pub const RST: u8 = 0x04;
    /// Hand data to the program now.
    pub const PSH: u8 = 0x08;
    /// The acknowledgment number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// Congestion echo.
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced.
    pub const CWR: u8 = 0x80;
}

/// UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpHdr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Length of header and data, bytes.
    pub len: u16,
    /// Checksum, 0 for none.
    pub checksum: u16,
}

impl UdpHdr {
    /// Reads a header. The checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`] if `segment` has fewer than 8 bytes.
    pub fn parse(segment: &[u8]) -> Result<Self, HdrError> {
        let [a, b, c, d, e, f, g, h] = *head::<UDP_LEN>(segment, "UDP header")?;
        Ok(Self {
            src_port: u16::from_be_bytes([a, b]),
            dst_port: u16::from_be_bytes([c, d]),
            len: u16::from_be_bytes([e, f]),
            checksum: u16::from_be_bytes([g, h]),
        })
    }

    /// Writes the header as it is and returns 8; see [`set_checksum`].
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`], and nothing is written, if it does not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, HdrError> {
        let out = head_mut::<UDP_LEN>(out, "UDP header")?;
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..6].copy_from_slice(&self.len.to_be_bytes());
        out[6..].copy_from_slice(&self.checksum.to_be_bytes());
        Ok(UDP_LEN)
    }
}

/// TCP header. Options are skipped when read and never written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpHdr {
    /// Length of the header with its options, bytes (20..=60).
    pub header_len: usize,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Next byte expected from the peer.
    pub ack: u32,
    /// [`tcp_flags`].
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: u16,
    /// Checksum.
    pub checksum: u16,
    /// Urgent pointer.
    pub urgent: u16,
}

impl TcpHdr {
    /// Reads a header. The checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`] if `segment` ends inside the header,
    /// [`HdrError::Bad`] for a data offset below 5 words.
    pub fn parse(segment: &[u8]) -> Result<Self, HdrError> {
        const WHAT: &str = "TCP header";
        let h = head::<TCP_LEN>(segment, WHAT)?;
        let words = h[12] >> 4;
        let header_len = usize::from(words) * 4;
        if header_len < TCP_LEN {
            return Err(HdrError::Bad {
                what: WHAT,
                field: "data offset",
                value: u32::from(words),
            });
        }
        if segment.len() < header_len {
            return Err(HdrError::Short {
                what: WHAT,
                need: header_len,
                have: segment.len(),
            });
        }
        Ok(Self {
            header_len,
            src_port: u16::from_be_bytes([h[0], h[1]]),
            dst_port: u16::from_be_bytes([h[2], h[3]]),
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            flags: h[13],
            window: u16::from_be_bytes([h[14], h[15]]),
            checksum: u16::from_be_bytes([h[16], h[17]]),
            urgent: u16::from_be_bytes([h[18], h[19]]),
        })
    }

    /// Writes 20 bytes, options left out, and returns 20; see [`set_checksum`].
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`], and nothing is written, if they do not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, HdrError> {
        let out = head_mut::<TCP_LEN>(out, "TCP header")?;
        out[..2].copy_from_slice(&self.src_port.to_be_bytes());
        out[2..4].copy_from_slice(&self.dst_port.to_be_bytes());
        out[4..8].copy_from_slice(&self.seq.to_be_bytes());
        out[8..12].copy_from_slice(&self.ack.to_be_bytes());
        out[12] = 5 << 4;
        out[13] = self.flags;
        out[14..16].copy_from_slice(&self.window.to_be_bytes());
        out[16..18].copy_from_slice(&self.checksum.to_be_bytes());
        out[18..].copy_from_slice(&self.urgent.to_be_bytes());
        Ok(TCP_LEN)
    }
}

/// Kinds of ICMP echo message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// ICMP type 8.
    Request4,
    /// ICMP type 0.
    Reply4,
    /// ICMPv6 type 128.
    Request6,
    /// ICMPv6 type 129.
    Reply6,
}

impl EchoKind {
    const ALL: [Self; 4] = [Self::Request4, Self::Reply4, Self::Request6, Self::Reply6];

    /// The value of the type field.
    #[must_use]
    pub const fn icmp_type(self) -> u8 {
        match self {
            Self::Request4 => 8,
            Self::Reply4 => 0,
            Self::Request6 => 128,
            Self::Reply6 => 129,
        }
    }
}

/// ICMP or ICMPv6 echo header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EchoHdr {
    /// Request or reply, and for which IP version.
    pub kind: EchoKind,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub seq: u16,
    /// Checksum.
    pub checksum: u16,
}

impl EchoHdr {
    /// Reads a header. The checksum is not verified.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`] if `message` has fewer than 8 bytes,
    /// [`HdrError::Bad`] if it is no echo message.
    pub fn parse(message: &[u8]) -> Result<Self, HdrError> {
        const WHAT: &str = "ICMP echo header";
        let [ty, code, c, d, e, f, g, h] = *head::<ECHO_LEN>(message, WHAT)?;
        let kind = EchoKind::ALL.into_iter().find(|k| k.icmp_type() == ty);
        match kind {
            Some(kind) if code == 0 => Ok(Self {
                kind,
                checksum: u16::from_be_bytes([c, d]),
                id: u16::from_be_bytes([e, f]),
                seq: u16::from_be_bytes([g, h]),
            }),
            _ => Err(HdrError::Bad {
                what: WHAT,
                field: "type and code",
                value: u32::from(u16::from_be_bytes([ty, code])),
            }),
        }
    }

    /// Writes the header as it is and returns 8. For IPv4 the checksum is
    /// [`checksum::checksum`] of the message, for IPv6 see [`set_checksum`].
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`], and nothing is written, if it does not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, HdrError> {
        let out = head_mut::<ECHO_LEN>(out, "ICMP echo header")?;
        out[0] = self.kind.icmp_type();
        out[1] = 0;
        out[2..4].copy_from_slice(&self.checksum.to_be_bytes());
        out[4..6].copy_from_slice(&self.id.to_be_bytes());
        out[6..].copy_from_slice(&self.seq.to_be_bytes());
        Ok(ECHO_LEN)
    }
}

/// Computes and stores the checksum of `message`, which is a whole TCP, UDP,
/// ICMP or ICMPv6 message (header and data) between two addresses. For UDP a
/// result of 0 is stored as `0xffff`.
///
/// `None`, and no change, for another protocol, for addresses of different
/// versions, or for a message too short or too long to carry a checksum.
pub fn set_checksum(message: &mut [u8], src: IpAddr, dst: IpAddr, protocol: u8) -> Option<()> {
    let at = match protocol {
        proto::TCP => TCP_CHECKSUM,
        proto::UDP => UDP_CHECKSUM,
        proto::ICMP | proto::ICMPV6 => 2,
        _ => return None,
    };
    get_u16(message, at)?;
    let mut sum = match (src, dst) {
        _ if protocol == proto::ICMP => Sum::new(),
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            checksum::pseudo_v4(src, dst, protocol, u16::try_from(message.len()).ok()?)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            checksum::pseudo_v6(src, dst, protocol, u32::try_from(message.len()).ok()?)
        }
        _ => return None,
    };
    put_u16(message, at, 0)?;
    sum.add(message);
    let value = match protocol {
        proto::UDP => checksum::nonzero(sum.checksum()),
        _ => sum.checksum(),
    };
    put_u16(message, at, value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use etherparse::{TcpHeader, UdpHeader};
    use proptest::prelude::*;

    #[test]
    fn echo_kinds_have_their_numbers() {
        for (kind, ty) in [
            (EchoKind::Request4, 8),
            (EchoKind::Reply4, 0),
            (EchoKind::Request6, 128),
            (EchoKind::Reply6, 129),
        ] {
            let hdr = EchoHdr {
                kind,
                id: 0x1234,
                seq: 9,
                checksum: 0xabcd,
            };
            let mut out = [0xff; 8];
            hdr.write(&mut out).unwrap();
            assert_eq!(out, [ty, 0, 0xab, 0xcd, 0x12, 0x34, 0, 9]);
            assert_eq!(EchoHdr::parse(&out), Ok(hdr));
        }
        assert!(matches!(
            EchoHdr::parse(&[3; 8]),
            Err(HdrError::Bad { value: 0x0303, .. })
        ));
    }

    #[test]
    fn addresses_of_two_versions_have_no_checksum() {
        let mut message = [0u8; 8];
        let (a, b) = (Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into());
        assert_eq!(set_checksum(&mut message, a, b, proto::UDP), None);
        assert_eq!(message, [0; 8]);
    }

    proptest! {
        #[test]
        fn udp_agrees_with_etherparse(
            a: [u8; 4], b: [u8; 4], a6: [u8; 16], b6: [u8; 16], sp: u16, dp: u16,
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let len = u16::try_from(8 + data.len()).unwrap();
            let mut message = Vec::from([0u8; 8]);
            UdpHdr { src_port: sp, dst_port: dp, len, checksum: 0 }.write(&mut message).unwrap();
            message.extend(&data);
            set_checksum(&mut message, Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into(), 17).unwrap();
            let want = UdpHeader::with_ipv4_checksum(
                sp, dp,
                &etherparse::Ipv4Header { source: a, destination: b, ..Default::default() },
                &data,
            ).unwrap();
            prop_assert_eq!(&message[..8], &want.to_bytes()[..]);
            set_checksum(&mut message, Ipv6Addr::from(a6).into(), Ipv6Addr::from(b6).into(), 17).unwrap();
            let want = UdpHeader::with_ipv6_checksum(
                sp, dp,
                &etherparse::Ipv6Header { source: a6, destination: b6, ..Default::default() },
                &data,
            ).unwrap();
            prop_assert_eq!(&message[..8], &want.to_bytes()[..]);
            prop_assert_eq!(UdpHdr::parse(&message).unwrap().dst_port, dp);
        }

        #[test]
        fn tcp_agrees_with_etherparse(
            a: [u8; 4], b: [u8; 4], sp: u16, dp: u16, seq: u32, ack: u32, window: u16, flags: u8,
            data in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let hdr = TcpHdr {
                header_len: 20, src_port: sp, dst_port: dp, seq, ack, flags, window,
                checksum: 0, urgent: 7,
            };
            let mut message = Vec::from([0u8; 20]);
            hdr.write(&mut message).unwrap();
            message.extend(&data);
            set_checksum(&mut message, Ipv4Addr::from(a).into(), Ipv4Addr::from(b).into(), 6).unwrap();
            let (other, _) = TcpHeader::from_slice(&message).unwrap();
            prop_assert_eq!(other.calc_checksum_ipv4_raw(a, b, &data).unwrap(), other.checksum);
            prop_assert_eq!((other.source_port, other.destination_port), (sp, dp));
            prop_assert_eq!((other.sequence_number, other.acknowledgment_number), (seq, ack));
            prop_assert_eq!((other.fin, other.cwr), (flags & 1 != 0, flags & 0x80 != 0));
            let back = TcpHdr::parse(&message).unwrap();
            prop_assert_eq!(back, TcpHdr { checksum: other.checksum, ..hdr });
        }

        #[test]
        fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = UdpHdr::parse(&bytes);
            let _ = EchoHdr::parse(&bytes);
            if let Ok(h) = TcpHdr::parse(&bytes) {
                prop_assert!(h.header_len <= bytes.len());
            }
        }
    }
}

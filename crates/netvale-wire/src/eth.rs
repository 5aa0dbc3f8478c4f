//! Ethernet II headers (IEEE 802.3) with 802.1Q tags.

use crate::bytes::{HdrError, get_u16, put_u16};
use crate::mac::MacAddr;

/// Length of a header without tags, bytes.
pub const LEN: usize = 14;
/// Length of one 802.1Q tag, bytes.
pub const TAG_LEN: usize = 4;
/// Most tags [`EthHdr::parse`] walks over.
pub const MAX_TAGS: usize = 4;

/// Ethertypes used here.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// A parsed or to-be-written Ethernet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EthHdr {
    /// Destination.
    pub dst: MacAddr,
    /// Source.
    pub src: MacAddr,
    /// Tag control information of each 0x8100 tag, outermost first.
    tags: [u16; MAX_TAGS],
    tag_count: usize,
    /// Type of the payload, after the tags.
    pub ethertype: u16,
}

impl EthHdr {
    /// A header without tags.
    #[must_use]
    pub const fn new(dst: MacAddr, src: MacAddr, ethertype: u16) -> Self {
        Self {
            dst,
            src,
            tags: [0; MAX_TAGS],
            tag_count: 0,
            ethertype,
        }
    }

    /// Adds an innermost tag; `false`, and no change, when there are
    /// [`MAX_TAGS`] already. `tci` is priority (3 bits), drop-eligible (1) and
    /// VLAN number (12).
    #[must_use]
    pub fn push_tag(&mut self, tci: u16) -> bool {
        let Some(free) = self.tags.get_mut(self.tag_count) else {
            return false;
        };
        *free = tci;
        self.tag_count += 1;
        true
    }

    /// Tag control information of the tags, outermost first.
    #[must_use]
    pub fn tags(&self) -> &[u16] {
        self.tags.get(..self.tag_count).unwrap_or_default()
    }

    /// Length of the header with its tags, bytes: where the payload begins.
    #[must_use]
    pub const fn len(&self) -> usize {
        LEN + self.tag_count * TAG_LEN
    }

    /// Reads a header.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`] if `frame` ends inside the header,
    /// [`HdrError::Bad`] if it has more than [`MAX_TAGS`] tags.
    pub fn parse(frame: &[u8]) -> Result<Self, HdrError> {
        let need = |need| HdrError::Short {
            what: "Ethernet header",
            need,
            have: frame.len(),
        };
        let dst = MacAddr::from_slice(frame).ok_or(need(LEN))?;
        let src = frame.get(6..).and_then(MacAddr::from_slice);
        let mut hdr = Self::new(dst, src.ok_or(need(LEN))?, 0);
        loop {
            let ethertype = get_u16(frame, hdr.len() - 2).ok_or(need(hdr.len()))?;
            if ethertype != ethertype::VLAN {
                hdr.ethertype = ethertype;
                return Ok(hdr);
            }
            let tci = get_u16(frame, hdr.len()).ok_or(need(hdr.len() + TAG_LEN))?;
            if !hdr.push_tag(tci) {
                return Err(HdrError::Bad {
                    what: "Ethernet header",
                    field: "more 802.1Q tags than",
                    value: 4,
                });
            }
        }
    }

    /// Writes the header and returns its length, bytes.
    ///
    /// # Errors
    ///
    /// [`HdrError::Short`], and nothing is written, if it does not fit.
    pub fn write(&self, out: &mut [u8]) -> Result<usize, HdrError> {
        let len = self.len();
        let have = out.len();
        let out = out.get_mut(..len).ok_or(HdrError::Short {
            what: "Ethernet header",
            need: len,
            have,
        })?;
        for (field, value) in out.chunks_exact_mut(6).zip([self.dst, self.src]) {
            field.copy_from_slice(&value.0);
        }
        let mut at = 12;
        for &tci in self.tags() {
            put_u16(out, at, ethertype::VLAN);
            put_u16(out, at + 2, tci);
            at += TAG_LEN;
        }
        put_u16(out, at, self.ethertype);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tags_are_walked_to_the_payload_type() {
        let mut hdr = EthHdr::new(MacAddr::BROADCAST, MacAddr([2, 0, 0, 0, 0, 1]), 0x0800);
        assert!(hdr.push_tag(0x2005));
        assert!(hdr.push_tag(7));
        let mut buf = [0; 22];
        assert_eq!(hdr.write(&mut buf), Ok(22));
        assert_eq!(
            buf[12..],
            [0x81, 0, 0x20, 5, 0x81, 0, 0, 7, 8, 0],
            "tags follow the addresses"
        );
        assert_eq!(EthHdr::parse(&buf), Ok(hdr));
        let oracle = etherparse::SlicedPacket::from_ethernet(&buf);
        assert!(oracle.is_err(), "the IPv4 header is missing");
        assert_eq!(hdr.tags(), [0x2005, 7]);
    }

    #[test]
    fn fifth_tag_is_refused() {
        let mut frame = [0u8; 64];
        for at in [12, 16, 20, 24] {
            put_u16(&mut frame, at, ethertype::VLAN);
        }
        assert_eq!(EthHdr::parse(&frame).unwrap().len(), 30);
        put_u16(&mut frame, 28, ethertype::VLAN);
        assert!(matches!(EthHdr::parse(&frame), Err(HdrError::Bad { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_fail_and_write_back(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            vlan in 0usize..4,
        ) {
            let mut bytes = bytes;
            for i in 0..vlan {
                put_u16(&mut bytes, 12 + 4 * i, ethertype::VLAN);
            }
            if let Ok(hdr) = EthHdr::parse(&bytes) {
                let mut out = [0; LEN + MAX_TAGS * TAG_LEN];
                let n = hdr.write(&mut out).unwrap();
                prop_assert_eq!(&out[..n], &bytes[..n]);
            } else {
                prop_assert!(bytes.len() < LEN + vlan * TAG_LEN);
            }
        }
    }
}

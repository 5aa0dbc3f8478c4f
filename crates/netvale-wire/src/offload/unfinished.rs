//! Checksums that a sender left half done, where nobody says so.
//!
//! A stack leaves checksums to interfaces; virtual ones hand frames on as they
//! are. Where a virtio-net header comes with the frame it tells. Where none
//! does, the frame itself has to: the field then holds the sum of the
//! pseudo-header. A finished checksum has that value once in 65,536 times, so
//! it is also added up.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::bytes::put_u16;
use crate::checksum::{self, Sum, pseudo_v4, pseudo_v6};
use crate::eth::ethertype;
use crate::ip::proto;

/// A checksum field that holds no more than the sum of the pseudo-header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unfinished {
    /// Where the TCP or UDP header begins, bytes from the frame's start.
    pub start: usize,
    /// Where the message ends.
    pub end: usize,
    /// Where the field is, bytes from `start`.
    pub offset: usize,
    pseudo: Sum,
}

impl Unfinished {
    /// The field's value, given the message (bytes `start..end` of the frame);
    /// `None` if it is right as it is.
    #[must_use]
    pub fn finish(&self, message: &mut [u8]) -> Option<u16> {
        let mut all = self.pseudo;
        all.add(message);
        if all.fold() == 0xffff {
            return None;
        }
        let value = checksum::nonzero(checksum::checksum(message));
        put_u16(message, self.offset, value)?;
        Some(value)
    }
}

/// Whether a frame of `frame_len` bytes that begins with `head` may lack its
/// TCP or UDP checksum. `head` should hold the headers up to that field; IPv6
/// extension headers are not looked behind.
#[must_use]
pub fn unfinished(head: &[u8], frame_len: usize) -> Option<Unfinished> {
    let word = |at: usize| Some(u16::from_be_bytes(*head.get(at..)?.first_chunk()?));
    let mut l3 = 14;
    let mut kind = word(12)?;
    while matches!(kind, ethertype::VLAN | 0x88a8) {
        kind = word(l3 + 2)?;
        l3 += 4;
    }
    let length = |at: usize, start: usize| word(at).map(|len| usize::from(len) + start);
    let (protocol, start, end) = match kind {
        ethertype::IPV4 => {
            let ihl = usize::from(*head.get(l3)? & 15) * 4;
            if word(l3 + 6)? & 0x3fff != 0 || ihl < 20 {
                return None; // a fragment has no checksum of its own
            }
            (*head.get(l3 + 9)?, l3 + ihl, length(l3 + 2, l3)?)
        }
        ethertype::IPV6 => (*head.get(l3 + 6)?, l3 + 40, length(l3 + 4, l3 + 40)?),
        _ => return None,
    };
    let offset = match protocol {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => return None,
    };
    let field = word(start + offset)?;
    if end > frame_len || end < start + offset + 2 || (field == 0 && protocol == proto::UDP) {
        return None;
    }
    let len = end - start;
    let pseudo = if kind == ethertype::IPV4 {
        let ip = |at: usize| Some(Ipv4Addr::from(*head.get(at..)?.first_chunk::<4>()?));
        pseudo_v4(
            ip(l3 + 12)?,
            ip(l3 + 16)?,
            protocol,
            u16::try_from(len).ok()?,
        )
    } else {
        let ip = |at: usize| Some(Ipv6Addr::from(*head.get(at..)?.first_chunk::<16>()?));
        pseudo_v6(
            ip(l3 + 8)?,
            ip(l3 + 24)?,
            protocol,
            u32::try_from(len).ok()?,
        )
    };
    (pseudo.fold() == field).then_some(Unfinished {
        start,
        end,
        offset,
        pseudo,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::l4::set_checksum;
    use alloc::vec;
    use alloc::vec::Vec;
    use core::net::IpAddr;

    const A: [u8; 4] = [10, 0, 0, 1];
    const B: [u8; 4] = [10, 0, 0, 2];

    /// A frame with a message of `len` bytes behind `tags` tags, and where
    /// the message begins; its checksum is right.
    fn frame(tags: usize, v6: bool, protocol: u8, len: u16) -> (Vec<u8>, usize) {
        let mut f = vec![2; 12];
        (0..tags).for_each(|_| f.extend([0x81, 0, 0, 7]));
        let [src, dst];
        if v6 {
            [src, dst] =
                [1, 2].map(|n| IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n]));
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(len.to_be_bytes());
            f.extend([protocol, 64]);
        } else {
            [src, dst] = [IpAddr::from(A), IpAddr::from(B)];
            f.extend([8, 0, 0x45, 0]);
            f.extend((len + 20).to_be_bytes());
            f.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
        }
        for ip in [src, dst] {
            match ip {
                IpAddr::V4(ip) => f.extend(ip.octets()),
                IpAddr::V6(ip) => f.extend(ip.octets()),
            }
        }
        let start = f.len();
        f.extend((0..len).map(|i| i.to_le_bytes()[0] ^ 0x5a));
        if protocol == proto::UDP {
            f[start + 4..start + 6].copy_from_slice(&len.to_be_bytes());
        }
        set_checksum(&mut f[start..], src, dst, protocol).unwrap();
        (f, start)
    }

    #[test]
    fn what_a_stack_leaves_is_found_and_finished() {
        for (tags, v6) in [(0, false), (0, true), (1, false), (2, true)] {
            for (protocol, offset) in [(proto::TCP, 16), (proto::UDP, 6)] {
                let (good, start) = frame(tags, v6, protocol, 101);
                assert_eq!(unfinished(&good, good.len()), None);
                let mut left = good.clone();
                // The sum of the pseudo-header alone.
                let len = 101_u16;
                let pseudo = if v6 {
                    let at = start - 32;
                    let ip = |at: usize| Ipv6Addr::from(*good[at..].first_chunk::<16>().unwrap());
                    pseudo_v6(ip(at), ip(at + 16), protocol, len.into())
                } else {
                    pseudo_v4(A.into(), B.into(), protocol, len)
                };
                left[start + offset..start + offset + 2]
                    .copy_from_slice(&pseudo.fold().to_be_bytes());
                left.extend([9; 5]); // padding
                let found = unfinished(&left[..start + 20], left.len()).unwrap();
                assert_eq!(
                    (found.start, found.end, found.offset),
                    (start, start + 101, offset)
                );
                assert!(found.finish(&mut left[start..start + 101]).is_some());
                assert_eq!(left[..good.len()], good);
                for cut in 0..start + offset + 1 {
                    assert_eq!(unfinished(&left[..cut], left.len()), None, "{cut}");
                }
                assert_eq!(
                    unfinished(&left, start + 100),
                    None,
                    "longer than the frame"
                );
            }
        }
    }

    #[test]
    fn a_finished_checksum_that_looks_so_is_left_alone() {
        let (mut f, start) = frame(0, false, proto::UDP, 60);
        let pseudo = pseudo_v4(A.into(), B.into(), proto::UDP, 60).fold();
        // Data such that the right checksum is the sum of the pseudo-header.
        f[start + 6..start + 8].copy_from_slice(&pseudo.to_be_bytes());
        f[start + 8..start + 10].fill(0);
        let mut all = pseudo_v4(A.into(), B.into(), proto::UDP, 60);
        all.add(&f[start..]);
        let rest = all.checksum().to_be_bytes();
        f[start + 8..start + 10].copy_from_slice(&rest);
        let found = unfinished(&f, f.len()).unwrap();
        let before = f.clone();
        assert_eq!(found.finish(&mut f[start..]), None);
        assert_eq!(f, before);
        // Fragments, no checksum, other protocols.
        let (mut f, start) = frame(0, false, proto::UDP, 60);
        f[start + 6..start + 8].fill(0);
        assert_eq!(unfinished(&f, f.len()), None);
        f[start + 6..start + 8].copy_from_slice(&pseudo.to_be_bytes());
        f[20] = 0x20;
        assert_eq!(unfinished(&f, f.len()), None);
    }
}

//! The virtio-net header (virtio 1.2, section 5.1.6), little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | flags |
//! | 1 | 1 | segmentation type |
//! | 2 | 2 | length of the headers to repeat, a hint |
//! | 4 | 2 | segment size, bytes of payload |
//! | 6 | 2 | where checksumming begins, bytes from the frame's start |
//! | 8 | 2 | where the checksum goes, bytes from there |
//! | 10 | 2 | number of merged buffers, only in the 12-byte form |

use thiserror::Error;

/// The checksum at `csum_start + csum_offset` has to be completed.
pub const F_NEEDS_CSUM: u8 = 1;
/// The checksum was found valid.
pub const F_DATA_VALID: u8 = 2;

/// No segmentation.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// UDP over IPv4, into IP fragments.
pub const GSO_UDP: u8 = 3;
/// TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP, into separate datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Bit on top of a TCP type: the congestion-window-reduced flag belongs to
/// the first segment only.
pub const GSO_ECN: u8 = 0x80;

/// Length of a port's virtio-net header: 0, 10 or 12 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HdrLen(u8);

impl HdrLen {
    /// No header.
    pub const NONE: Self = Self(0);
    /// The 10-byte form.
    pub const SHORT: Self = Self(10);
    /// The 12-byte form, with the number of merged buffers.
    pub const MERGED: Self = Self(12);

    /// Accepts 0, 10 and 12.
    ///
    /// # Errors
    ///
    /// [`HdrLenError`] for any other number.
    pub const fn new(len: u32) -> Result<Self, HdrLenError> {
        match len {
            0 => Ok(Self::NONE),
            10 => Ok(Self::SHORT),
            12 => Ok(Self::MERGED),
            _ => Err(HdrLenError { len }),
        }
    }

    /// The length, bytes.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// Whether there is no header.
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// A length that no virtio-net header has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a virtio-net header has 0, 10 or 12 bytes, not {len}")]
pub struct HdrLenError {
    /// The offending length, bytes.
    pub len: u32,
}

/// A virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHdr {
    /// [`F_NEEDS_CSUM`], [`F_DATA_VALID`].
    pub flags: u8,
    /// One of `GSO_*`, with or without [`GSO_ECN`].
    pub gso_type: u8,
    /// Length of the headers to repeat, bytes; a hint that is never trusted.
    pub hdr_len: u16,
    /// Payload in each segment, bytes.
    pub gso_size: u16,
    /// Where checksumming begins, bytes from the frame's start.
    pub csum_start: u16,
    /// Where the checksum goes, bytes from `csum_start`.
    pub csum_offset: u16,
    /// Merged buffers; 0 in the 10-byte form.
    pub num_buffers: u16,
}

impl VnetHdr {
    /// Reads a header of length `len`; no header yields all zeros.
    /// `None` if `bytes` is shorter.
    #[must_use]
    pub fn parse(bytes: &[u8], len: HdrLen) -> Option<Self> {
        if len.is_none() {
            return Some(Self::default());
        }
        let bytes = bytes.get(..len.get())?;
        let [flags, gso_type, b, c, d, e, f, g, h, i] = *bytes.first_chunk()?;
        Some(Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([b, c]),
            gso_size: u16::from_le_bytes([d, e]),
            csum_start: u16::from_le_bytes([f, g]),
            csum_offset: u16::from_le_bytes([h, i]),
            num_buffers: match bytes.get(10..12) {
                Some(&[j, k]) => u16::from_le_bytes([j, k]),
                _ => 0,
            },
        })
    }

    /// Writes the header in the form `len` and returns how many bytes that
    /// took; `None`, and nothing written, if `out` is shorter.
    ///
    /// Writing a header that was read in another form translates it: from 12
    /// to 10 the buffer count is lost, from 10 to 12 it is 0, as in VALE.
    pub fn write(&self, out: &mut [u8], len: HdrLen) -> Option<usize> {
        let out = out.get_mut(..len.get())?;
        let [b, c] = self.hdr_len.to_le_bytes();
        let [d, e] = self.gso_size.to_le_bytes();
        let [f, g] = self.csum_start.to_le_bytes();
        let [h, i] = self.csum_offset.to_le_bytes();
        let [j, k] = self.num_buffers.to_le_bytes();
        let all = [self.flags, self.gso_type, b, c, d, e, f, g, h, i, j, k];
        out.copy_from_slice(all.get(..len.get())?);
        Some(len.get())
    }

    /// Whether the header asks for a checksum.
    #[must_use]
    pub const fn needs_csum(&self) -> bool {
        self.flags & F_NEEDS_CSUM != 0
    }

    /// The segmentation type without the congestion bit.
    #[must_use]
    pub const fn gso(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_three_lengths_exist() {
        for len in 0..300 {
            assert_eq!(
                HdrLen::new(len).is_ok(),
                [0, 10, 12].contains(&len),
                "{len}"
            );
        }
    }

    #[test]
    fn fields_are_little_endian_at_their_offsets() {
        let hdr = VnetHdr {
            flags: 1,
            gso_type: 0x81,
            hdr_len: 0x0203,
            gso_size: 0x0405,
            csum_start: 0x0607,
            csum_offset: 0x0809,
            num_buffers: 0x0a0b,
        };
        let mut out = [0xee; 13];
        assert_eq!(hdr.write(&mut out, HdrLen::MERGED), Some(12));
        assert_eq!(out, [1, 0x81, 3, 2, 5, 4, 7, 6, 9, 8, 0xb, 0xa, 0xee]);
        let mut out = [0xee; 11];
        assert_eq!(hdr.write(&mut out, HdrLen::MERGED), None);
        assert_eq!(hdr.write(&mut out, HdrLen::SHORT), Some(10));
        assert_eq!(out[10], 0xee);
        let back = VnetHdr::parse(&out, HdrLen::SHORT).unwrap();
        assert_eq!(
            back,
            VnetHdr {
                num_buffers: 0,
                ..hdr
            }
        );
    }

    proptest! {
        #[test]
        fn read_and_write_are_inverse(bytes: [u8; 12], short: bool) {
            let len = if short { HdrLen::SHORT } else { HdrLen::MERGED };
            let mut out = [0; 12];
            let n = VnetHdr::parse(&bytes, len).unwrap().write(&mut out, len).unwrap();
            prop_assert_eq!(&out[..n], &bytes[..n]);
            prop_assert!(VnetHdr::parse(&bytes[..n - 1], len).is_none());
        }
    }
}

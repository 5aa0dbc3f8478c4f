//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Values are in host order: a returned `u16` is stored with `to_be_bytes`.
//! A *sum* is the folded one's complement sum of 16-bit words; a *checksum* is
//! its complement, which is what headers carry.

use core::net::{Ipv4Addr, Ipv6Addr};

/// A running one's complement sum over data that arrive in pieces.
///
/// Pieces may have any length: a piece that begins at an odd offset is summed
/// as if the data were contiguous.
///
/// ```
/// use netvale_wire::checksum::{Sum, checksum};
///
/// let mut sum = Sum::new();
/// sum.add(&[0x45, 0x00, 0x01]);
/// sum.add(&[0x02]);
/// assert_eq!(sum.checksum(), checksum(&[0x45, 0x00, 0x01, 0x02]));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sum {
    /// Unfolded sum of big-endian words.
    acc: u64,
    odd: bool,
}

impl Sum {
    /// The sum of no data.
    #[must_use]
    pub const fn new() -> Self {
        Self { acc: 0, odd: false }
    }

    /// Appends bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let part = sum(bytes);
        let part = if self.odd { part.swap_bytes() } else { part };
        self.acc = self.acc.wrapping_add(u64::from(part));
        self.odd ^= !bytes.len().is_multiple_of(2);
    }

    /// Adds a 16-bit word, whatever the current offset: for pseudo-headers.
    pub fn add_u16(&mut self, word: u16) {
        self.acc = self.acc.wrapping_add(u64::from(word));
    }

    /// The folded sum so far.
    #[must_use]
    pub const fn fold(self) -> u16 {
        fold(self.acc)
    }

    /// The checksum of everything added: the complement of the sum.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

impl Default for Sum {
    fn default() -> Self {
        Self::new()
    }
}

/// The one's complement sum of `bytes` as big-endian words; an odd last byte
/// counts as the high half of a word.
#[must_use]
pub fn sum(bytes: &[u8]) -> u16 {
    // RFC 1071 section 2(B): the sum does not depend on byte order, so add in
    // little-endian order and swap once. Each step adds the two halves of a
    // 64-bit word to separate 64-bit lanes, which cannot carry out before
    // 2^32 steps, and the compiler turns the lanes into vectors.
    let (words, rest) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for chunk in words {
        let (quads, _) = chunk.as_chunks::<8>();
        for (i, quad) in quads.iter().enumerate() {
            let quad = u64::from_le_bytes(*quad);
            lanes[2 * i] += quad & 0xffff_ffff;
            lanes[2 * i + 1] += quad >> 32;
        }
    }
    let mut acc = lanes
        .iter()
        .fold(0u64, |a, &lane| a + u64::from(fold(lane)));
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        acc += u64::from(u16::from_le_bytes(*pair));
    }
    if let [byte] = last {
        acc += u64::from(*byte);
    }
    fold(acc).swap_bytes()
}

/// The checksum of `bytes`. Over data that contain a correct checksum it is 0.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// The sum of two pieces, the second of which begins `offset` bytes after the
/// start of the first.
#[must_use]
pub const fn combine(first: u16, second: u16, offset: usize) -> u16 {
    let second = if !offset.is_multiple_of(2) {
        second.swap_bytes()
    } else {
        second
    };
    fold(first as u64 + second as u64)
}

/// The checksum after a 16-bit field changed from `old` to `new`
/// (RFC 1624, equation 3).
#[must_use]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// The checksum after an aligned 32-bit field changed from `old` to `new`.
#[must_use]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    !fold(!checksum as u64 + !old as u64 + new as u64)
}

/// Sum of the pseudo-header for TCP and UDP over IPv4 (RFC 9293 section 3.1).
/// `len` is the length of the TCP or UDP header and its data, bytes.
#[must_use]
pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> Sum {
    let mut s = Sum::new();
    s.add(&src.octets());
    s.add(&dst.octets());
    s.add_u16(u16::from(protocol));
    s.add_u16(len);
    s
}

/// Sum of the pseudo-header over IPv6 (RFC 8200 section 8.1). `len` is the
/// length of the upper-layer header and its data, bytes.
#[must_use]
pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, len: u32) -> Sum {
    let mut s = Sum::new();
    s.add(&src.octets());
    s.add(&dst.octets());
    s.add(&len.to_be_bytes());
    s.add_u16(u16::from(next_header));
    s
}

/// What UDP stores for `checksum`: 0 would mean "none", and `0xffff` is equal
/// to it in one's complement (RFC 768).
#[must_use]
pub const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Adds the carries back in until 16 bits are left.
const fn fold(acc: u64) -> u16 {
    let acc = (acc >> 32) + (acc & 0xffff_ffff);
    let acc = (acc >> 16) + (acc & 0xffff);
    let acc = (acc >> 16) + (acc & 0xffff);
    let acc = (acc >> 16) + (acc & 0xffff);
    #[expect(clippy::cast_possible_truncation, reason = "folded below 2^16")]
    {
        acc as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// RFC 1071 as written: one word at a time.
    fn slow_sum(bytes: &[u8]) -> u16 {
        let mut acc = 0u32;
        for pair in bytes.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            acc += u32::from(u16::from_be_bytes([pair[0], low]));
            acc = (acc & 0xffff) + (acc >> 16);
        }
        u16::try_from(acc).unwrap()
    }

    /// 0 and 0xffff are the same number.
    fn same(a: u16, b: u16) -> bool {
        a % 0xffff == b % 0xffff
    }

    #[test]
    fn example_of_rfc_1071() {
        let data = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&data), 0xddf2);
    }

    #[test]
    fn all_ones_do_not_overflow() {
        let data = alloc::vec![0xff; 1 << 20];
        assert_eq!(sum(&data), 0xffff);
    }

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: equation 2 would yield 0xffff here.
        assert_eq!(update_u16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn pseudo_headers_are_the_sums_of_their_bytes() {
        let (a, b) = (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(192, 168, 0, 9));
        let bytes = [10, 1, 2, 3, 192, 168, 0, 9, 0, 17, 0x12, 0x34];
        assert_eq!(pseudo_v4(a, b, 17, 0x1234).fold(), slow_sum(&bytes));
        let (a, b) = (
            "2001:db8::1".parse::<Ipv6Addr>().unwrap(),
            "fe80::ffff:1".parse::<Ipv6Addr>().unwrap(),
        );
        let mut bytes = Vec::from(a.octets());
        bytes.extend(b.octets());
        bytes.extend([0x00, 0x01, 0x23, 0x45, 0, 0, 0, 6]);
        assert_eq!(pseudo_v6(a, b, 6, 0x12345).fold(), slow_sum(&bytes));
    }

    proptest! {
        #[test]
        fn fast_equals_slow(data in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert_eq!(sum(&data), slow_sum(&data));
        }

        #[test]
        fn pieces_equal_the_whole(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(data.len())).collect();
            cuts.extend([0, data.len()]);
            cuts.sort_unstable();
            let mut s = Sum::new();
            let mut folded = 0;
            for w in cuts.windows(2) {
                s.add(&data[w[0]..w[1]]);
                folded = combine(folded, sum(&data[w[0]..w[1]]), w[0]);
            }
            prop_assert!(same(s.fold(), slow_sum(&data)));
            prop_assert!(same(folded, slow_sum(&data)));
        }

        #[test]
        fn update_equals_recompute(
            mut data in proptest::collection::vec(any::<u8>(), 8..64),
            at in 0usize..30,
            new: u32,
        ) {
            let at = (at & !1).min((data.len() - 4) & !1);
            let before = checksum(&data);
            let old = u32::from_be_bytes(*data[at..].first_chunk().unwrap());
            data[at..at + 4].copy_from_slice(&new.to_be_bytes());
            prop_assert!(same(update_u32(before, old, new), checksum(&data)));
            let [a, b, c, d] = data[at..at + 4] else { unreachable!() };
            let (hi, lo) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let before = checksum(&data);
            data[at..at + 2].copy_from_slice(&lo.to_be_bytes());
            prop_assert!(same(update_u16(before, hi, lo), checksum(&data)));
        }
    }
}

//! Ethernet addresses.

use core::fmt;
use core::str::FromStr;
use thiserror::Error;

/// A 48-bit Ethernet address, in the order it has on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// `00:00:00:00:00:00`.
    pub const ZERO: Self = Self([0; 6]);

    /// The address as an integer: the first byte on the wire is the low byte,
    /// the top 16 bits are zero.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    }

    /// Inverse of [`to_u64`](Self::to_u64); the top 16 bits are ignored.
    #[must_use]
    pub const fn from_u64(value: u64) -> Self {
        let [a, b, c, d, e, f, _, _] = value.to_le_bytes();
        Self([a, b, c, d, e, f])
    }

    /// Reads the first six bytes of `bytes`; `None` if there are fewer.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self)
    }

    /// Whether the group bit is set. True for broadcast.
    #[must_use]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is [`BROADCAST`](Self::BROADCAST).
    #[must_use]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    /// Accepts six groups of one or two hexadecimal digits, separated by `:`
    /// or throughout by `-`.
    fn from_str(text: &str) -> Result<Self, MacError> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut bytes = [0u8; 6];
        let mut groups = text.split(separator);
        for (i, byte) in bytes.iter_mut().enumerate() {
            let group = groups.next().ok_or(MacError::Groups { found: i })?;
            let digits = group.len();
            let hex = group.bytes().all(|b| b.is_ascii_hexdigit());
            if !hex || !(1..=2).contains(&digits) {
                return Err(MacError::Group { group: i + 1 });
            }
            *byte = u8::from_str_radix(group, 16)
                .ok()
                .ok_or(MacError::Group { group: i + 1 })?;
        }
        match groups.count() {
            0 => Ok(Self(bytes)),
            more => Err(MacError::Groups { found: 6 + more }),
        }
    }
}

/// Why a text is not an Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MacError {
    /// The number of groups is wrong.
    #[error("an Ethernet address has 6 groups of hexadecimal digits, found {found}")]
    Groups {
        /// Groups there are.
        found: usize,
    },
    /// A group is not one or two hexadecimal digits.
    #[error("group {group} of the Ethernet address is not one or two hexadecimal digits")]
    Group {
        /// Which group, from 1.
        group: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::prelude::*;

    #[test]
    fn first_wire_byte_is_the_low_byte() {
        let mac = MacAddr([0x02, 0, 0, 0, 0, 0xaa]);
        assert_eq!(mac.to_u64(), 0x0000_aa00_0000_0002);
        assert!(!mac.is_multicast());
        assert!(MacAddr([0x01, 0, 0x5e, 0, 0, 1]).is_multicast());
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
    }

    #[test]
    fn bad_text_is_refused_with_its_place() {
        let parse = |s: &str| s.parse::<MacAddr>();
        assert_eq!(parse("1:2:3:4:5:6"), Ok(MacAddr([1, 2, 3, 4, 5, 6])));
        assert_eq!(parse("aa-BB-cc-0-1-2").unwrap().0[1], 0xbb);
        assert_eq!(parse(""), Err(MacError::Group { group: 1 }));
        assert_eq!(parse("1:2:3:4:5"), Err(MacError::Groups { found: 5 }));
        assert_eq!(parse("1:2:3:4:5:6:7"), Err(MacError::Groups { found: 7 }));
        assert_eq!(parse("1:2:+3:4:5:6"), Err(MacError::Group { group: 3 }));
        assert_eq!(parse("1:2:3:4:5:100"), Err(MacError::Group { group: 6 }));
    }

    proptest! {
        #[test]
        fn text_and_integer_round_trip(bytes: [u8; 6]) {
            let mac = MacAddr(bytes);
            prop_assert_eq!(mac.to_string().parse(), Ok(mac));
            prop_assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        }
    }
}

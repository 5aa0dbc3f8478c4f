//! Which addresses and ports successive packets carry.

use std::net::{Ipv4Addr, Ipv6Addr};

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A range of addresses and one of ports; both inclusive. An IPv4 address is
/// in the low 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) family: Family,
    pub(super) ip_first: u128,
    pub(super) ip_last: u128,
    pub(super) port_first: u16,
    pub(super) port_last: u16,
}

impl Endpoint {
    /// `IP[:PORT][-IP[:PORT]]`; an IPv6 address with a port is in brackets.
    pub(super) fn parse(text: &str, family: Family) -> Result<Self, String> {
        const DEFAULT_PORT: u16 = 1234;
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (first, Some(last)),
            None => (text, None),
        };
        let (ip_first, port_first) = parse_address(first, family)?;
        let port_first = port_first.unwrap_or(DEFAULT_PORT);
        let (ip_last, port_last) = match last {
            Some(last) => parse_address(last, family)?,
            None => (ip_first, None),
        };
        let port_last = port_last.unwrap_or(port_first);
        if ip_last < ip_first || port_last < port_first {
            return Err(format!("range '{text}' runs backwards"));
        }
        Ok(Self {
            family,
            ip_first,
            ip_last,
            port_first,
            port_last,
        })
    }

    /// True if there is only one address and one port.
    fn is_single(&self) -> bool {
        self.ip_first == self.ip_last && self.port_first == self.port_last
    }

    fn first(&self) -> (u128, u16) {
        (self.ip_first, self.port_first)
    }

    /// The next pair: ports run faster. `None` after the last.
    fn after(&self, (ip, port): (u128, u16)) -> Option<(u128, u16)> {
        if port < self.port_last {
            Some((ip, port + 1))
        } else if ip < self.ip_last {
            Some((ip + 1, self.port_first))
        } else {
            None
        }
    }

    fn random(&self, random: &mut Random) -> (u128, u16) {
        let ips = self.ip_last - self.ip_first;
        let offset = u128::from(random.next());
        let ip = self.ip_first
            + if ips == u128::MAX {
                offset
            } else {
                offset % (ips + 1)
            };
        let ports = u64::from(self.port_last - self.port_first) + 1;
        let port = u16::try_from(random.next() % ports).unwrap_or(0);
        (ip, self.port_first + port)
    }
}

/// The text of an address, as its family writes it.
pub(super) fn ip_text(family: Family, ip: u128) -> String {
    match family {
        Family::V4 => Ipv4Addr::from(v4(ip)).to_string(),
        Family::V6 => Ipv6Addr::from(ip).to_string(),
    }
}

/// The IPv4 address in the low 32 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "IPv4 addresses are stored in the low 32 bits, the rest is zero"
)]
pub(super) fn v4(ip: u128) -> u32 {
    ip as u32
}

fn parse_address(text: &str, family: Family) -> Result<(u128, Option<u16>), String> {
    let (ip, port) = match family {
        Family::V4 => match text.split_once(':') {
            Some((ip, port)) => (ip, Some(port)),
            None => (text, None),
        },
        Family::V6 => match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((ip, ""))) => (ip, None),
            Some(Some((ip, port))) => (ip, Some(port.trim_start_matches(':'))),
            Some(None) => return Err(format!("'{text}' has no ]")),
            None => (text, None),
        },
    };
    let address = match family {
        Family::V4 => ip.parse::<Ipv4Addr>().map(|ip| u128::from(u32::from(ip))),
        Family::V6 => ip.parse::<Ipv6Addr>().map(u128::from),
    };
    let address = address.map_err(|cause| format!("'{ip}': {cause}"))?;
    let port = port
        .map(|port| {
            port.parse()
                .map_err(|cause| format!("port '{port}': {cause}"))
        })
        .transpose()?;
    Ok((address, port))
}

/// What one packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) src: (u128, u16),
    pub(super) dst: (u128, u16),
}

/// Walks the ranges like an odometer (source port fastest, then source
/// address, destination port, destination address), or draws at random.
#[derive(Debug, Clone)]
pub(super) struct Flows {
    src: Endpoint,
    dst: Endpoint,
    random_src: bool,
    random_dst: bool,
    now: Tuple,
    random: Random,
}

impl Flows {
    pub(super) fn new(
        src: Endpoint,
        dst: Endpoint,
        random_src: bool,
        random_dst: bool,
        seed: u64,
    ) -> Self {
        Self {
            src,
            dst,
            random_src,
            random_dst,
            now: Tuple {
                src: src.first(),
                dst: dst.first(),
            },
            random: Random::new(seed),
        }
    }

    /// True if all packets carry the same.
    pub(super) fn is_single(&self) -> bool {
        self.src.is_single() && self.dst.is_single()
    }

    /// What the current packet carries.
    pub(super) fn current(&self) -> Tuple {
        self.now
    }

    /// Moves to the next packet's.
    pub(super) fn advance(&mut self) {
        let wrapped = if self.random_src {
            self.now.src = self.src.random(&mut self.random);
            true
        } else {
            let next = self.src.after(self.now.src);
            self.now.src = next.unwrap_or(self.src.first());
            next.is_none()
        };
        if self.random_dst {
            self.now.dst = self.dst.random(&mut self.random);
        } else if wrapped {
            let next = self.dst.after(self.now.dst);
            self.now.dst = next.unwrap_or(self.dst.first());
        }
    }
}

/// xorshift64*: spreads flows and sizes; nothing depends on its quality.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Zero is the one state that never changes.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 7
    }

    /// A number in `first..=last`.
    pub(super) fn between(&mut self, first: u32, last: u32) -> u32 {
        let span = u64::from(last.saturating_sub(first)) + 1;
        first + u32::try_from(self.next() % span).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4_range(text: &str) -> Endpoint {
        Endpoint::parse(text, Family::V4).expect("valid range")
    }

    #[test]
    fn ranges_parse() {
        let e = v4_range("10.0.0.1:7-10.0.0.3:9");
        assert_eq!(
            (e.ip_last - e.ip_first, e.port_first, e.port_last),
            (2, 7, 9)
        );
        assert_eq!(v4_range("1.2.3.4").port_last, 1234);
        let e = Endpoint::parse("[fd00::1]:5-[fd00::2]:6", Family::V6).expect("valid");
        assert_eq!((e.ip_last - e.ip_first, e.port_last), (1, 6));
        assert_eq!(ip_text(Family::V6, e.ip_first), "fd00::1");
        for text in ["", "1.2.3", "1.2.3.4:x", "1.2.3.4:70000", "1.1.1.2-1.1.1.1"] {
            assert!(Endpoint::parse(text, Family::V4).is_err(), "{text}");
        }
        for text in ["[fd00::1", "10.0.0.1", "[fd00::1]:x"] {
            assert!(Endpoint::parse(text, Family::V6).is_err(), "{text}");
        }
    }

    #[test]
    fn the_odometer_visits_each_pair_once() {
        let (src, dst) = (
            v4_range("10.0.0.1:1-10.0.0.2:3"),
            v4_range("10.1.0.1:5-10.1.0.2:6"),
        );
        let mut flows = Flows::new(src, dst, false, false, 1);
        let start = flows.current();
        let mut seen = std::collections::HashSet::new();
        loop {
            let Tuple { src, dst } = flows.current();
            assert!(seen.insert((src, dst)));
            flows.advance();
            if flows.current() == start {
                break;
            }
        }
        assert_eq!(seen.len(), 2 * 3 * 2 * 2);
    }

    #[test]
    fn random_draws_stay_inside() {
        let range = v4_range("10.0.0.250:65530-10.0.1.3:65535");
        let mut flows = Flows::new(range, range, true, true, 7);
        for _ in 0..1000 {
            flows.advance();
            for (ip, port) in [flows.current().src, flows.current().dst] {
                assert!((range.ip_first..=range.ip_last).contains(&ip));
                assert!((range.port_first..=range.port_last).contains(&port));
            }
        }
    }
}

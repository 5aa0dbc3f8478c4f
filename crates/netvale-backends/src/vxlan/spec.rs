//! Where an endpoint's network and other ends are, as text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use netvale_wire::mac::MacAddr;

use super::{PORT, Vni};

/// An endpoint's settings.
///
/// As text: `[vxlan:]VNI@REMOTE[:PORT][,OPTION]...`, where a remote is an IP
/// address, one of IPv6 in brackets if a port follows. Options:
///
/// | option | meaning |
/// |---|---|
/// | `remote=ADDRESS[:PORT]` | one more end; frames to unknown or many go to all |
/// | `local=ADDRESS[:PORT]` | where to receive; any address, port 4789 |
/// | `learning=on` or `off` | whether senders are remembered; on |
/// | `ageing=SECONDS` | how long; 300 |
/// | `station=MAC/ADDRESS[:PORT]` | frames for this address go to that end, for good |
/// | `fragment=on` or `off` | whether datagrams may be fragmented; off, as the RFC demands |
///
/// Datagrams do not tell ends apart that have one address and several ports, so
/// stations behind such are not remembered: frames for them go to all ends.
///
/// ```
/// use netvale_backends::vxlan::VxlanConfig;
///
/// let config: VxlanConfig = "vxlan:42@192.0.2.7,learning=off".parse()?;
/// assert_eq!(config.vni.get(), 42);
/// assert_eq!(config.remotes[0].to_string(), "192.0.2.7:4789");
/// # Ok::<(), netvale_backends::vxlan::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanConfig {
    /// The network.
    pub vni: Vni,
    /// The other ends. All have addresses of one family.
    pub remotes: Vec<SocketAddr>,
    /// Where to receive, and whose address datagrams carry.
    pub local: SocketAddr,
    /// Whether senders of frames are remembered with the end they came from.
    pub learning: bool,
    /// How long they are remembered after their last frame.
    pub ageing: Duration,
    /// Stations that are known from the start and not forgotten.
    pub stations: Vec<(MacAddr, SocketAddr)>,
    /// Whether datagrams longer than the path allows are fragmented. If not,
    /// they are counted and dropped.
    pub fragment: bool,
}

/// Why a text does not describe an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("VXLAN {text:?}: {why}")]
pub struct SpecError {
    /// The text, or the part that is wrong.
    pub text: String,
    /// What is wrong with it, and what would be right.
    pub why: &'static str,
}

impl VxlanConfig {
    /// One other end, and defaults.
    #[must_use]
    pub fn new(vni: Vni, remote: SocketAddr) -> Self {
        Self {
            vni,
            remotes: vec![remote],
            local: SocketAddr::new(any(remote.ip()), PORT),
            learning: true,
            ageing: Duration::from_secs(300),
            stations: Vec::new(),
            fragment: false,
        }
    }
}

impl FromStr for VxlanConfig {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let spec = text.strip_prefix("vxlan:").unwrap_or(text);
        let mut parts = spec.split(',');
        let first = parts.next().unwrap_or_default();
        let Some((vni, remote)) = first.split_once('@') else {
            return Err(bad(text, "expected VNI@REMOTE, such as 42@192.0.2.7"));
        };
        let vni = vni
            .parse()
            .ok()
            .and_then(Vni::new)
            .ok_or_else(|| bad(vni, "expected a network number of 0 to 16777215"))?;
        let mut config = Self::new(vni, address(remote)?);
        let mut seen = Vec::new();
        for part in parts {
            let Some((key, value)) = part.split_once('=') else {
                return Err(bad(part, "expected an option, such as learning=off"));
            };
            if !matches!(key, "remote" | "station") && seen.contains(&key) {
                return Err(bad(part, "the option is given twice"));
            }
            seen.push(key);
            match key {
                "remote" => config.remotes.push(address(value)?),
                "local" => config.local = address(value)?,
                "station" => {
                    let both = value.split_once('/');
                    let both = both.and_then(|(mac, at)| Some((mac.parse().ok()?, at)));
                    let (mac, at) = both.ok_or_else(|| {
                        bad(
                            value,
                            "expected MAC/ADDRESS, such as 02:00:00:00:00:01/192.0.2.7",
                        )
                    })?;
                    config.stations.push((mac, address(at)?));
                }
                "learning" => config.learning = switch(value)?,
                "fragment" => config.fragment = switch(value)?,
                "ageing" => {
                    let seconds: u32 = value
                        .parse()
                        .ok()
                        .filter(|s| *s > 0)
                        .ok_or_else(|| bad(value, "expected a number of seconds above 0"))?;
                    config.ageing = Duration::from_secs(seconds.into());
                }
                _ => {
                    return Err(bad(
                        part,
                        "expected one of remote=, local=, learning=, ageing=, station=, fragment=",
                    ));
                }
            }
        }
        config.check()?;
        Ok(config)
    }
}

impl VxlanConfig {
    /// Whether the addresses can belong to one endpoint.
    pub(super) fn check(&self) -> Result<(), SpecError> {
        for remote in self
            .remotes
            .iter()
            .chain(self.stations.iter().map(|s| &s.1))
        {
            let text = remote.to_string();
            if remote.is_ipv4() != self.local.is_ipv4() {
                let why = "local and remote addresses are of different families";
                return Err(bad(&text, why));
            }
            if remote.ip().is_multicast() {
                let why = "multicast groups are not supported; list the ends with remote=";
                return Err(bad(&text, why));
            }
            if remote.ip().is_unspecified() || remote.port() == 0 {
                return Err(bad(&text, "this is no address to send to"));
            }
        }
        Ok(())
    }
}

/// The address that means any, in the family of `like`.
fn any(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn address(text: &str) -> Result<SocketAddr, SpecError> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) if bare.len() == text.len() || ip.is_ipv6() => Ok(SocketAddr::new(ip, PORT)),
        _ => Err(bad(
            text,
            "expected an IP address, with a port if wanted: 192.0.2.7:4789 or [2001:db8::7]:4789",
        )),
    }
}

fn switch(text: &str) -> Result<bool, SpecError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(bad(text, "expected on or off")),
    }
}

fn bad(text: &str, why: &'static str) -> SpecError {
    SpecError {
        text: text.to_owned(),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> VxlanConfig {
        text.parse().unwrap()
    }

    #[test]
    fn every_form_is_understood() {
        let c = parse("vxlan:7@192.0.2.1");
        assert_eq!((c.vni.get(), c.learning, c.fragment), (7, true, false));
        assert_eq!(c.local.to_string(), "0.0.0.0:4789");
        assert_eq!(c.ageing, Duration::from_secs(300));
        let c = parse("16777215@192.0.2.1:5,local=192.0.2.2:6,learning=off,remote=192.0.2.3");
        assert_eq!(c.remotes[0].to_string(), "192.0.2.1:5");
        assert_eq!(c.remotes[1].to_string(), "192.0.2.3:4789");
        assert_eq!(c.local.to_string(), "192.0.2.2:6");
        assert!(!c.learning);
        for text in ["7@2001:db8::1", "7@[2001:db8::1]", "7@[2001:db8::1]:4789"] {
            let c = parse(text);
            assert_eq!(c.remotes[0].to_string(), "[2001:db8::1]:4789", "{text}");
            assert_eq!(c.local.to_string(), "[::]:4789");
        }
        let c = parse(
            "7@192.0.2.1,station=02:00:00:00:00:01/192.0.2.9,station=2-0-0-0-0-2/192.0.2.8:5",
        );
        let stations: Vec<_> = c
            .stations
            .iter()
            .map(|(mac, at)| format!("{mac} {at}"))
            .collect();
        let wanted = [
            "02:00:00:00:00:01 192.0.2.9:4789",
            "02:00:00:00:00:02 192.0.2.8:5",
        ];
        assert_eq!(stations, wanted);
        let c = parse("7@[::1]:5,local=::1,ageing=9,fragment=on");
        assert_eq!((c.ageing, c.fragment), (Duration::from_secs(9), true));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, wrong, why) in [
            ("vxlan:", "vxlan:", "VNI@REMOTE"),
            ("x@1.2.3.4", "x", "network number"),
            ("16777216@1.2.3.4", "16777216", "network number"),
            ("1@example.org", "example.org", "IP address"),
            ("1@[1.2.3.4]", "[1.2.3.4]", "IP address"),
            ("1@1.2.3.4:70000", "1.2.3.4:70000", "IP address"),
            ("1@1.2.3.4:0", "1.2.3.4:0", "no address"),
            ("1@0.0.0.0", "0.0.0.0:4789", "no address"),
            ("1@239.1.1.1", "239.1.1.1:4789", "multicast"),
            ("1@1.2.3.4,local=::1", "1.2.3.4:4789", "families"),
            ("1@1.2.3.4,learning=yes", "yes", "on or off"),
            (
                "1@1.2.3.4,station=2:0:0:0:0:1",
                "2:0:0:0:0:1",
                "MAC/ADDRESS",
            ),
            ("1@1.2.3.4,station=1/1.2.3.4", "1/1.2.3.4", "MAC/ADDRESS"),
            (
                "1@1.2.3.4,station=2:0:0:0:0:1/::1",
                "[::1]:4789",
                "families",
            ),
            ("1@1.2.3.4,ageing=0", "0", "seconds"),
            ("1@1.2.3.4,foo=1", "foo=1", "one of"),
            ("1@1.2.3.4,foo", "foo", "option"),
            ("1@1.2.3.4,ageing=1,ageing=2", "ageing=2", "twice"),
        ] {
            let e = text.parse::<VxlanConfig>().unwrap_err();
            assert_eq!(e.text, wrong, "{text}");
            assert!(e.why.contains(why), "{text}: {e}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(vxlan:)?[0-9@:.,=a-z\\[\\]]{0,40}") {
            let _ = text.parse::<VxlanConfig>();
        }
    }
}

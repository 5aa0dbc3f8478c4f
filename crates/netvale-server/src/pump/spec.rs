//! What the name of a device says.

use netvale_backends::pcap::{Pace, Rotation, Times};
use netvale_backends::vxlan::VxlanConfig;
use netvale_wire::name::BackendKind;
use netvale_wire::proto::ErrorKind;

use crate::listing::Refusal;

/// A device, as named.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum DeviceSpec {
    /// `tap:NAME[,vnet_hdr=0|10|12][,queues=N][,persist][,uring]`.
    Tap(TapSpec),
    /// A network interface.
    Nic(String),
    /// `pcap:FILE[,speed=X][,loop][,write][,rotate=MIB][,files=N]`.
    Pcap(PcapSpec),
    /// `vxlan:VNI@REMOTE[,OPTION]...`.
    Vxlan(VxlanConfig),
}

/// A TAP interface, to be made or adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TapSpec {
    pub(crate) name: String,
    /// Length of the virtio-net header; `None`: what is best for the use.
    pub(crate) header: Option<u8>,
    /// Queues.
    pub(crate) queues: usize,
    /// It stays when the server ends.
    pub(crate) persist: bool,
    /// Bursts of frames go to the kernel through io_uring.
    pub(crate) uring: bool,
}

/// A capture file, to be replayed or written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PcapSpec {
    /// Absolute: the server is somewhere else than whoever asks.
    pub(crate) path: String,
    pub(crate) pace: Pace,
    pub(crate) times: Times,
    /// Written, not read.
    pub(crate) write: bool,
    /// When another file is begun, and how many stay.
    pub(crate) rotation: Rotation,
}

impl DeviceSpec {
    /// Reads what follows a back end's colon.
    ///
    /// # Errors
    ///
    /// What is wrong and what is possible.
    pub(crate) fn backend(kind: BackendKind, arg: &str) -> Result<Self, Refusal> {
        match kind {
            BackendKind::Tap => tap(arg).map(Self::Tap),
            BackendKind::Pcap => pcap(arg).map(Self::Pcap),
            BackendKind::Vxlan => match arg.parse() {
                Ok(config) => Ok(Self::Vxlan(config)),
                Err(e) => Err(invalid(format!("{e}"))),
            },
            other => Err(Refusal::new(
                ErrorKind::Unsupported,
                format!("{}: ports are not supported yet", other.prefix()),
            )),
        }
    }

    /// `tap:NAME` and its like, or `None` for other names.
    ///
    /// # Errors
    ///
    /// As [`DeviceSpec::backend`].
    pub(crate) fn prefixed(text: &str) -> Option<Result<Self, Refusal>> {
        let (prefix, arg) = text.split_once(':')?;
        let kind = BackendKind::from_prefix(prefix)?;
        Some(Self::backend(kind, arg))
    }

    /// Queues, where that is known before it is opened; 1 else.
    pub(crate) fn queues(&self) -> u16 {
        match self {
            Self::Tap(tap) => u16::try_from(tap.queues).unwrap_or(1),
            _ => 1,
        }
    }

    /// Name of the interface that it is, or that is at its other end.
    pub(crate) fn interface(&self) -> Option<&str> {
        match self {
            Self::Tap(tap) => Some(&tap.name),
            Self::Nic(name) => Some(name),
            Self::Pcap(_) | Self::Vxlan(_) => None,
        }
    }

    /// What tells it from other devices: the same twice would not work.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Tap(tap) => tap.name.clone(),
            Self::Nic(name) => name.clone(),
            Self::Pcap(pcap) => format!("pcap:{}", pcap.path),
            Self::Vxlan(config) => format!("vxlan:{}", config.vni),
        }
    }
}

fn tap(arg: &str) -> Result<TapSpec, Refusal> {
    let mut parts = arg.split(',');
    let mut spec = TapSpec {
        name: parts.next().unwrap_or_default().into(),
        header: None,
        queues: 1,
        persist: false,
        uring: false,
    };
    for part in parts {
        match part.split_once('=').unwrap_or((part, "")) {
            ("vnet_hdr", "0") => spec.header = Some(0),
            ("vnet_hdr", "10") => spec.header = Some(10),
            ("vnet_hdr", "12") => spec.header = Some(12),
            ("queues", n) => {
                // As many as a port has rings.
                let queues = n.parse().ok().filter(|n| (1..=16).contains(n));
                let wrong = || invalid(format!("tap: queues={n}: expected 1 to 16"));
                spec.queues = queues.ok_or_else(wrong)?;
            }
            ("persist", "") => spec.persist = true,
            ("uring", "") => spec.uring = true,
            _ => {
                return Err(invalid(format!(
                    "tap: {part:?} is not one of vnet_hdr=0, vnet_hdr=10, vnet_hdr=12, \
                     queues=N, persist, uring"
                )));
            }
        }
    }
    // As an interface's host rings are asked for: the kernel would make a
    // second TAP of that name.
    if spec.name.contains(['^', '*']) {
        let name = spec.name.trim_end_matches(['^', '*']);
        return Err(invalid(format!(
            "tap:{}: a TAP has no host rings: the host is behind {name} itself",
            spec.name
        )));
    }
    Ok(spec)
}

fn pcap(arg: &str) -> Result<PcapSpec, Refusal> {
    let mut parts = arg.split(',');
    let mut spec = PcapSpec {
        path: parts.next().unwrap_or_default().into(),
        pace: Pace::Times(1.0),
        times: Times::Count(1),
        write: false,
        rotation: Rotation::default(),
    };
    let number = |part: &str, n: &str| {
        let number = n.parse().ok().filter(|n: &usize| (1..1 << 40).contains(n));
        number.ok_or_else(|| invalid(format!("pcap: {part}: expected a number above 0")))
    };
    for part in parts {
        match part.split_once('=').unwrap_or((part, "")) {
            ("rotate", mib) => spec.rotation.bytes = Some((number(part, mib)? as u64) << 20),
            ("files", n) => spec.rotation.keep = Some(number(part, n)?),
            ("speed", "max") => spec.pace = Pace::AtOnce,
            ("speed", x) => {
                let speed = x.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
                let wrong = || invalid(format!("pcap: speed={x}: expected a number, or max"));
                spec.pace = Pace::Times(speed.ok_or_else(wrong)?);
            }
            ("loop", "") => spec.times = Times::Forever,
            ("write", "") => spec.write = true,
            _ => {
                return Err(invalid(format!(
                    "pcap: {part:?} is not one of speed=X, speed=max, loop, write, \
                     rotate=MIB, files=N"
                )));
            }
        }
    }
    if spec.rotation != Rotation::default() && !spec.write {
        return Err(invalid(
            "pcap: rotate and files are for a file that is written",
        ));
    }
    if spec.rotation.keep.is_some() && spec.rotation.bytes.is_none() {
        return Err(invalid(
            "pcap: files keeps some of many: it needs rotate=MIB",
        ));
    }
    if !spec.path.starts_with('/') {
        return Err(invalid(format!(
            "pcap: {:?} is no absolute path, and the server is in another directory",
            spec.path
        )));
    }
    Ok(spec)
}

pub(super) fn invalid(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DeviceSpec, String> {
        DeviceSpec::prefixed(text).unwrap().map_err(|r| r.message)
    }

    #[test]
    fn every_option_is_understood() {
        let tap = TapSpec {
            name: "t0".into(),
            header: Some(10),
            queues: 4,
            persist: true,
            uring: true,
        };
        let text = "tap:t0,vnet_hdr=10,queues=4,persist,uring";
        assert_eq!(read(text), Ok(DeviceSpec::Tap(tap)));
        let pcap = PcapSpec {
            path: "/a b.pcap".into(),
            pace: Pace::Times(2.5),
            times: Times::Forever,
            write: false,
            rotation: Rotation::default(),
        };
        let text = "pcap:/a b.pcap,speed=2.5,loop";
        assert_eq!(read(text), Ok(DeviceSpec::Pcap(pcap)));
        let Ok(DeviceSpec::Pcap(written)) = read("pcap:/x,write,rotate=10,files=3") else {
            panic!("a file that is written");
        };
        let rotation = Rotation {
            bytes: Some(10 << 20),
            keep: Some(3),
            ..Rotation::default()
        };
        assert_eq!((written.write, written.rotation), (true, rotation));
        let vxlan = read("vxlan:42@192.0.2.7").unwrap();
        assert_eq!(vxlan.key(), "vxlan:42");
        assert!(DeviceSpec::prefixed("eth0").is_none());
        assert!(DeviceSpec::prefixed("vale0:tap0").is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("tap:t0,queues=0", "1 to 16"),
            ("tap:t0,vnet_hdr=11", "vnet_hdr=11"),
            ("tap:t0,persist=1x,", "is not one of"),
            ("tap:t0^", "no host rings"),
            ("tap:t0*,queues=2", "no host rings"),
            ("pcap:x", "absolute"),
            ("pcap:/x,speed=-1", "speed=-1"),
            ("pcap:/x,speed=nan", "speed=nan"),
            ("pcap:/x,rotate=10", "is written"),
            ("pcap:/x,write,rotate=0", "rotate=0"),
            ("pcap:/x,write,files=2", "needs rotate"),
            ("vxlan:x", "VNI@REMOTE"),
            ("vfio:0000:00:00.0", "not supported"),
        ] {
            let e = read(text).unwrap_err();
            assert!(e.contains(says), "{text}: {e}");
        }
    }
}

//! The cases of devices.

use super::{DeviceWork, Small, Traffic, Way, Xdp};
use crate::bench::case::{Bound, Case, Limit, Unit, Work};
use crate::bench::list::case;

const NAMESPACES: &str = "TCP between two namespaces";
const HOST: &str = "TCP between a host and its wire";
const AF_XDP: &str = "AF_XDP, 60 B";
const TAPS: &str = "TAPs, 60 B";
const FILES: &str = "Capture files";

/// Round trips, with and without a core for whoever moves the frames.
const TRIPS: [(&str, Traffic); 2] = [
    ("one core", Traffic::RoundTripsOneCore),
    ("two cores", Traffic::RoundTripsTwoCores),
];

const G: f64 = 1e9;
const M: f64 = 1e6;

impl DeviceWork {
    /// What its value counts.
    pub(in crate::bench) fn unit(self) -> Unit {
        match self {
            Self::Tcp {
                traffic: Traffic::RoundTripsOneCore | Traffic::RoundTripsTwoCores,
                ..
            } => Unit::Ns,
            Self::Tcp { .. } => Unit::Bps,
            Self::Xdp { .. } | Self::Small { .. } | Self::Replay => Unit::Pps,
        }
    }
}

/// Every case. Those that are compared with the same bare loop stand together.
pub(in crate::bench) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    namespaces(&mut cases);
    host(&mut cases);
    xdp(&mut cases);
    small(&mut cases);
    let replay = device("replay into a switch, 60 B", FILES, DeviceWork::Replay);
    let copy = Limit::Copy {
        frame_bytes: super::xdp::BYTES,
    };
    cases.push(replay.raw(copy).bounds(&[Bound::AtLeast(20.0 * M)]).quick());
    cases
}

fn device(name: &str, group: &'static str, work: DeviceWork) -> Case {
    case(name, group, Work::Device(work)).unit(work.unit())
}

fn tcp(name: &str, group: &'static str, way: Way, traffic: Traffic) -> Case {
    device(name, group, DeviceWork::Tcp { way, traffic })
}

fn limit(way: Way, traffic: Traffic) -> Limit {
    Limit::Device(DeviceWork::Tcp { way, traffic })
}

fn namespaces(cases: &mut Vec<Case>) {
    let mut add = |name: &str, way, traffic, raw: Option<Way>, bounds: &[Bound]| {
        let mut case = tcp(name, NAMESPACES, way, traffic).bounds(bounds).quick();
        case.raw = raw.map(|way| limit(way, traffic));
        cases.push(case);
    };
    let (bare, kernel) = (Some(Way::BareTaps), Some(Way::KernelBridge));
    add(
        "stream, TAPs at a switch",
        Way::SwitchTaps,
        Traffic::Tcp,
        bare,
        &[Bound::RatioAtLeast(0.9), Bound::AtLeast(15.7 * G)],
    );
    add(
        "stream, TAPs at a switch, beside the kernel's bridge",
        Way::SwitchTaps,
        Traffic::Tcp,
        kernel,
        &[],
    );
    add("stream, veth", Way::Cable, Traffic::Tcp, None, &[]);
    for (cores, traffic) in TRIPS {
        let name = format!("round trip, {cores}, TAPs at a switch");
        let bounds = &[Bound::RatioAtMost(1.15)];
        add(&name, Way::SwitchTaps, traffic, bare, bounds);
        let name = format!("{name}, beside the kernel's bridge");
        add(&name, Way::SwitchTaps, traffic, kernel, &[]);
    }
}

fn host(cases: &mut Vec<Case>) {
    for (way, name, streams) in [
        (
            Way::SwitchHost,
            "attach -h",
            &[Bound::RatioAtLeast(0.9)][..],
        ),
        (Way::HostRings, "bridge IF IF^, 1500 B frames", &[]),
        (Way::BareWire, "nobody in between", &[]),
    ] {
        let trips: &[Bound] = match way {
            Way::SwitchHost => &[Bound::RatioAtMost(1.15)],
            _ => &[],
        };
        let mut all = vec![
            ("stream, host to wire".to_owned(), Traffic::Tcp, streams),
            ("stream, wire to host".to_owned(), Traffic::TcpBack, streams),
        ];
        for (cores, traffic) in TRIPS {
            all.push((format!("round trip, {cores}"), traffic, trips));
        }
        for (what, traffic, bounds) in all {
            let name = format!("{what}, {name}");
            let case = tcp(&name, HOST, way, traffic).bounds(bounds);
            cases.push(case.raw(limit(Way::BareHost, traffic)).quick());
        }
    }
}

fn xdp(cases: &mut Vec<Case>) {
    for (name, what) in [
        ("receive, counts", Xdp::Receive),
        ("receive, reads", Xdp::Read),
        ("send", Xdp::Send),
        ("forward between two interfaces", Xdp::Forward),
    ] {
        let of = |bare| DeviceWork::Xdp { what, bare };
        let case = device(name, AF_XDP, of(false)).raw(Limit::Device(of(true)));
        cases.push(case.bounds(&[Bound::RatioAtLeast(0.9)]).quick());
    }
}

fn small(cases: &mut Vec<Case>) {
    for (name, what) in [
        ("small frames, from TAP to TAP", Small::Forward),
        ("small frames, from a program to a TAP", Small::Send),
    ] {
        let of = |bare| DeviceWork::Small { what, bare };
        let case = device(name, TAPS, of(false)).raw(Limit::Device(of(true)));
        cases.push(case.bounds(&[Bound::RatioAtLeast(0.9)]).quick());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_limits_count_the_same() {
        let cases = all();
        let names: HashSet<_> = cases.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            assert!(
                case.raw.is_none_or(|raw| raw.unit() == case.unit),
                "{}",
                case.name
            );
        }
    }
}

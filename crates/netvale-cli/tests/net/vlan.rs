//! VLAN tags pass as they are, wherever the kernel keeps them meanwhile.

use std::process::{Command, Stdio};

use netvale_backends::af_xdp::Redirect;
use netvale_backends::netlink::ethtool::{self, Offload, set_offload};
use netvale_backends::probe;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, TempDir, eventually, skip, within};

use crate::host::{Host, Program, no_offloads, no_xdp};
use crate::station::{Station, connect, settle};
use crate::storm::{kernel_bridge, without_xdp};

/// What is between the two stations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Interfaces,
    Taps,
    PlainTaps,
    TapAndInterface,
    Xdp,
    PlainPacket,
    /// The second station is behind the host of an interface, with a bridge of
    /// the kernel's, which keeps tags beside frames.
    Host,
    HostByXdp,
    HostByPacket,
}

/// Two namespaces with an interface `e` each, joined.
struct Joined {
    ends: [NetNs; 2],
    _bridge: Option<Program>,
    _taken: Vec<Redirect>,
    host: Host,
}

impl Lane {
    fn has_host(self) -> bool {
        matches!(self, Self::Host | Self::HostByXdp | Self::HostByPacket)
    }

    /// A program moves the frames, by AF_XDP or not.
    fn by_xdp(self) -> Option<bool> {
        match self {
            Self::Xdp | Self::HostByXdp => Some(true),
            Self::PlainPacket | Self::HostByPacket => Some(false),
            _ => None,
        }
    }

    fn join(self, test: &str) -> Option<Joined> {
        let host = Host::new(test)?;
        let ends = [NetNs::make(), NetNs::make()];
        let mut taken = Vec::new();
        let mut bridge = None;
        for (i, end) in ends.iter().enumerate() {
            let option = if self == Self::PlainTaps {
                ",vnet_hdr=0"
            } else {
                ""
            };
            let tap = match self {
                Self::Taps | Self::PlainTaps => true,
                Self::TapAndInterface => i == 0,
                _ => false,
            };
            let name = format!("v{i}");
            if tap {
                host.ok(&["attach", "vale0", &format!("tap:{name}{option}")]);
                host.ns.give(&name, end);
                end.ip(&format!("link set {name} name e"));
                end.ip("link set e up");
                continue;
            }
            host.ns.veth(&name, end, "e", "");
            if self.has_host() && i == 1 {
                continue;
            }
            if self.by_xdp() == Some(false) {
                taken.push(no_xdp(&host.ns, &name));
            }
            match self {
                _ if self.by_xdp().is_some() => {
                    no_offloads(end, "e");
                    // A tag beside the frame is none for a program in the driver.
                    let off = end.enter(|| set_offload("e", Offload::TxVlan, false));
                    assert!(off.unwrap());
                }
                Self::Host => drop(host.ok(&["attach", "vale0", &name, "--host"])),
                _ => drop(host.ok(&["attach", "vale0", &name])),
            }
        }
        if self.has_host() {
            kernel_bridge(&host, false, &["v0", "v1"]);
        }
        if let Some(wanted) = self.by_xdp() {
            let to = if self.has_host() {
                "netmap:v0^"
            } else {
                "netmap:v1"
            };
            let args = ["bridge", "-w", "0", "-i", "netmap:v0", "-i", to];
            bridge = Some(host.start("bridge", &args));
            let ready = within(PATIENCE, || host.log("bridge").contains("Ready to go"));
            assert!(ready, "{}", host.log("bridge"));
            let by_xdp = host.driven("v0").starts_with("by AF_XDP");
            assert_eq!(by_xdp, wanted, "{}", host.log(""));
        }
        Some(Joined {
            ends,
            _bridge: bridge,
            _taken: taken,
            host,
        })
    }
}

const LANES: [Lane; 9] = [
    Lane::Interfaces,
    Lane::Taps,
    Lane::PlainTaps,
    Lane::TapAndInterface,
    Lane::Xdp,
    Lane::PlainPacket,
    Lane::Host,
    Lane::HostByXdp,
    Lane::HostByPacket,
];

/// Frames with all kinds of tags.
fn tagged() -> Vec<Vec<u8>> {
    let tags: [&[u8]; 8] = [
        &[0x81, 0, 0, 5],
        &[0x81, 0, 0xe0, 0],                   // priority 7, no VLAN
        &[0x81, 0, 0x1f, 0xff],                // to be dropped first, VLAN 4095
        &[0x81, 0, 0xff, 0xfe],                // all of it
        &[0x88, 0xa8, 0, 9, 0x81, 0, 0x20, 5], // QinQ
        &[0x81, 0, 0, 5, 0x81, 0, 0, 6],
        &[0x88, 0xa8, 0x0f, 0xff, 0x88, 0xa8, 0, 1, 0x81, 0, 0, 1],
        &[0x91, 0, 0, 5, 0x81, 0, 0, 6], // what was there before QinQ
    ];
    let mut frames = Vec::new();
    for (i, tag) in (0u8..).zip(tags) {
        for len in [2, 46, 1400] {
            let mut bytes = [0xff; 6].to_vec();
            bytes.extend([2, 0x4e, 0, 0, 0, i]);
            bytes.extend(tag);
            bytes.extend([0x88, 0xb5]);
            bytes.extend((0..len).map(|at: usize| at.to_le_bytes()[0] ^ i));
            frames.push(bytes);
        }
    }
    frames
}

/// What tcpdump sees of what an interface receives.
struct Dump {
    program: Program,
    dir: TempDir,
}

impl Dump {
    fn new(ns: &NetNs) -> Option<Self> {
        let dir = TempDir::new();
        let mut command = Command::new("tcpdump");
        command.args([
            "-i",
            "e",
            "-Q",
            "in",
            "-U",
            "--immediate-mode",
            "-Z",
            "root",
        ]);
        command.arg("-w").arg(dir.path().join("dump.pcap"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = Program::of(ns.enter(|| command.spawn()).ok()?);
        // It writes the header of the file when it is ready.
        let it = Self { program, dir };
        eventually("tcpdump listens", || it.len() >= 24);
        Some(it)
    }

    fn len(&self) -> u64 {
        let file = self.dir.path().join("dump.pcap");
        file.metadata().map_or(0, |m| m.len())
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        use netvale_backends::pcap::Reader;
        let Ok(mut reader) = Reader::open(self.dir.path().join("dump.pcap")) else {
            return Vec::new();
        };
        let mut all = Vec::new();
        while let Ok(Some(record)) = reader.next_record() {
            all.push(record.data.to_vec());
        }
        all
    }
}

#[test]
fn tags_are_kept_exactly() {
    const TEST: &str = "vlan::tags_are_kept_exactly";
    for lane in LANES {
        let Some(joined) = lane.join(TEST) else {
            return;
        };
        let mut stations = joined.ends.each_ref().map(|end| Station::new(end, "e"));
        connect(&mut stations);
        // Another witness than our own socket.
        let Some(mut dump) = Dump::new(&joined.ends[1]) else {
            skip(TEST, "needs the program tcpdump (package tcpdump)");
            return;
        };
        let frames = tagged();
        for from in [0, 1] {
            frames.iter().for_each(|frame| stations[from].send(frame));
            settle(&mut stations, from, 1);
            let mut got = std::mem::take(&mut stations[1 - from].got);
            let fence = got.pop();
            for (got, sent) in got.iter().zip(&frames) {
                assert!(got == sent, "{lane:?}:\n{sent:02x?}\n{got:02x?}");
            }
            assert_eq!(got.len(), frames.len(), "{lane:?}");
            if from == 0 {
                let mut seen = Vec::new();
                eventually("tcpdump has the last frame", || {
                    seen = dump.frames();
                    seen.last() == fence.as_ref()
                });
                seen.pop();
                assert!(seen == frames, "{lane:?}: tcpdump");
            }
        }
        dump.program.kill();
        joined.host.assert_sound();
    }
}

/// A cable from `name` to a bridge of the kernel's, and the station behind it:
/// a tag that comes in there goes on beside the frame.
fn behind_a_bridge(host: &Host, name: &str) -> (NetNs, NetNs) {
    let (end, middle) = (NetNs::make(), NetNs::make());
    middle.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
    middle.ip("link set br0 up");
    middle.veth("left", &end, "e", "");
    host.ns.veth(name, &middle, "right", "");
    for port in ["left", "right"] {
        middle.ip(&format!("link set {port} master br0"));
    }
    for (ns, device) in [(&end, "e"), (&middle, "right")] {
        no_offloads(ns, device);
    }
    (end, middle)
}

fn tells_tags() -> bool {
    let features = probe::Interface::look("v0").unwrap().features;
    features.is_some_and(|f| f.tells_tags)
}

#[test]
fn tags_beside_frames_are_kept() {
    const TEST: &str = "vlan::tags_beside_frames_are_kept";
    for (way, wanted) in [
        // The program that directs frames to sockets asks for them.
        ("told", "by AF_XDP"),
        // The other ends put them into the frames.
        ("inside", "by AF_XDP"),
        (
            "packet",
            "by AF_PACKET (no AF_XDP: the parameter admode is 2",
        ),
        // Here the stack has taken them out before XDP in it could see them.
        ("stack", "by AF_PACKET (no AF_XDP: "),
    ] {
        let Some(host) = Host::new(TEST) else { return };
        let ends = ["v0", "v1"].map(|name| match way {
            "stack" => without_xdp(&host, name, ""),
            _ => behind_a_bridge(&host, name),
        });
        let offload = |ns: &NetNs| {
            let on = ethtool::offload("right", Offload::TxVlan);
            assert_eq!(on.unwrap(), Some(true), "{ns:?}: they are inside anyway");
            assert!(set_offload("right", Offload::TxVlan, false).unwrap());
        };
        match way {
            "told" if !host.ns.enter(tells_tags) => {
                skip(TEST, "needs a kernel that tells programs of tags (6.8)");
                continue;
            }
            "inside" => ends.iter().for_each(|(_, ns)| ns.enter(|| offload(ns))),
            "packet" => {
                let parameter = host.dir.path().join("ns/parameters/admode");
                std::fs::write(parameter, "2\n").unwrap();
            }
            _ => {}
        }
        let args = ["bridge", "-w", "0", "-i", "netmap:v0", "-i", "netmap:v1"];
        let _bridge = host.start("bridge", &args);
        let ready = within(PATIENCE, || host.log("bridge").contains("Ready to go"));
        assert!(ready, "{}", host.log("bridge"));
        let driven = host.driven("v0");
        assert!(driven.starts_with(wanted), "{driven}");
        let mut stations = ends.each_ref().map(|end| Station::new(&end.0, "e"));
        connect(&mut stations);
        let mut frames = tagged();
        if way == "inside" {
            // It was switched off for tags of the usual kind.
            frames.retain(|f| f[12] != 0x88);
        }
        for from in [0, 1] {
            frames.iter().for_each(|frame| stations[from].send(frame));
            settle(&mut stations, from, 1);
            let mut got = std::mem::take(&mut stations[1 - from].got);
            got.pop();
            for (got, sent) in got.iter().zip(&frames) {
                assert!(got == sent, "{driven}:\n{sent:02x?}\n{got:02x?}");
            }
            assert_eq!(got.len(), frames.len(), "{driven}");
        }
    }
}

//! Everything that two stacks can send each other, through every back end.
//!
//! Five combinations of two offloads, two lengths of packets, two families and
//! two numbers of queues hold every pair of settings. Rates are printed
//! (`--nocapture`) and never judged; the bytes are, by sockets of our own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, stream, within};

use crate::host::{Host, has_iperf, iperf, no_offloads};
use crate::storm::without_xdp;

/// How the two stacks are set.
#[derive(Debug, Clone, Copy)]
struct Cell {
    offloads: bool,
    mtu: u32,
    v6: bool,
    queues: u16,
}

const fn cell(offloads: bool, mtu: u32, v6: bool, queues: u16) -> Cell {
    Cell {
        offloads,
        mtu,
        v6,
        queues,
    }
}

/// Any two settings meet in one of them.
const CELLS: [Cell; 5] = [
    cell(true, 1500, false, 1),
    cell(true, 9000, true, 3),
    cell(false, 1500, true, 3),
    cell(false, 9000, false, 3),
    cell(false, 9000, true, 1),
];

impl Cell {
    /// Settings of a cable.
    fn cable(self) -> String {
        let Self { mtu, queues, .. } = self;
        format!("mtu {mtu} numrxqueues {queues} numtxqueues {queues}")
    }

    /// Bytes of the longest datagram that goes in one piece.
    fn longest(self) -> usize {
        self.mtu as usize - if self.v6 { 48 } else { 28 }
    }

    /// A TAP to be attached.
    fn tap(self, name: &str) -> String {
        format!("tap:{name},queues={}", self.queues)
    }

    /// What a stack gets: the interface with the address, set as the cell is.
    fn stack(self, ns: &NetNs, name: &str, n: u8) {
        ns.settle(name, n, self.mtu);
        if !self.offloads {
            no_offloads(ns, name);
        }
    }
}

/// Two ends with the addresses 1 and 2, and rates.
fn exchange(test: &str, how: &str, cell: Cell, a: &NetNs, b: &NetNs) {
    contents(how, cell, a, b);
    if has_iperf(test) {
        let to = if cell.v6 { "fd77::2" } else { "10.77.0.2" };
        let longest = cell.longest().to_string();
        let tcp = iperf(a, b, to, &["-t", "1"]);
        let udp = ["-u", "-t", "1", "-b", "200M", "-l", &longest];
        let udp = iperf(a, b, to, &udp);
        println!("{how:40} {cell:?}: TCP {tcp:.0?}, UDP {udp:.0?} Mbit/s");
        assert!(tcp.iter().chain(&udp).all(|&rate| rate > 0.0), "{how}");
    }
}

/// All that is sent arrives as it was.
fn contents(how: &str, cell: Cell, a: &NetNs, b: &NetNs) {
    let second = Duration::from_secs(1);
    let mtu = cell.mtu as usize;
    for (from, to) in [(a, 2), (b, 1)] {
        let v4 = Ipv4Addr::new(10, 77, 0, to);
        let v6 = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, to.into());
        // One may be lost, as on any network. The last goes in pieces.
        for len in [0, mtu - 28, 20_000] {
            let mut answered = || from.ping(v4, len, second).is_some();
            assert!(
                within(PATIENCE, &mut answered),
                "{how} {cell:?}: {v4} {len}"
            );
        }
        for len in [0, mtu - 48, 20_000] {
            let mut answered = || from.ping6(v6, len, second).is_some();
            assert!(
                within(PATIENCE, &mut answered),
                "{how} {cell:?}: {v6} {len}"
            );
        }
    }
    let (at_a, at_b) = match cell.v6 {
        false => ("10.77.0.1", "10.77.0.2"),
        true => ("[fd77::1]", "[fd77::2]"),
    };
    stream::tcp(a, b, &format!("{at_b}:5001"));
    stream::tcp(b, a, &format!("{at_a}:5001"));
    let (at_a, at_b) = (format!("{at_a}:5002"), format!("{at_b}:5002"));
    stream::udp(a, b, &at_a, &at_b, cell.longest());
}

#[test]
fn between_taps() {
    const TEST: &str = "matrix::between_taps";
    for cell in CELLS {
        let Some(host) = Host::new(TEST) else { return };
        let (a, b) = (NetNs::make(), NetNs::make());
        for (name, ns, n) in [("t1", &a, 1), ("t2", &b, 2)] {
            host.ok(&["attach", "vale0", &cell.tap(name)]);
            host.ns.give(name, ns);
            cell.stack(ns, name, n);
        }
        exchange(TEST, "TAP, switch, TAP", cell, &a, &b);
        host.assert_sound();
        host.ok(&["detach", "vale0:t1"]);
        host.ok(&["detach", "vale0:t2"]);
        host.assert_empty();
    }
}

#[test]
fn between_interfaces_on_a_switch() {
    const TEST: &str = "matrix::between_interfaces_on_a_switch";
    for cell in CELLS {
        let Some(host) = Host::new(TEST) else { return };
        let (a, b) = (NetNs::make(), NetNs::make());
        for (name, ns, n) in [("v1", &a, 1), ("v2", &b, 2)] {
            host.ns.veth(name, ns, "e", &cell.cable());
            cell.stack(ns, "e", n);
            if !cell.offloads {
                no_offloads(&host.ns, name);
            }
            host.ok(&["attach", "vale0", name]);
        }
        exchange(TEST, "wire, AF_PACKET, switch, wire", cell, &a, &b);
        host.assert_sound();
        host.ok(&["detach", "vale0:v1"]);
        host.ok(&["detach", "vale0:v2"]);
        host.assert_empty();
    }
}

#[test]
fn between_the_wire_and_its_host() {
    const TEST: &str = "matrix::between_the_wire_and_its_host";
    for cell in CELLS {
        let Some(host) = Host::new(TEST) else { return };
        let a = NetNs::make();
        host.ns.veth("v0", &a, "e", &cell.cable());
        cell.stack(&a, "e", 1);
        cell.stack(&host.ns, "v0", 2);
        host.ok(&["attach", "vale0", "v0", "--host"]);
        exchange(TEST, "wire, AF_PACKET, switch, host", cell, &a, &host.ns);
        host.assert_sound();
        host.ok(&["detach", "vale0:v0"]);
        host.assert_empty();
    }
}

/// Two interfaces with `netvale bridge` between them, or one and its host.
fn bridged(test: &str, to_host: bool, options: &[&str]) {
    for cell in CELLS {
        let Some(host) = Host::new(test) else { return };
        let (a, b) = (NetNs::make(), NetNs::make());
        host.ns.veth("v1", &a, "e", &cell.cable());
        cell.stack(&a, "e", 1);
        let other = if to_host {
            cell.stack(&host.ns, "v1", 2);
            &host.ns
        } else {
            host.ns.veth("v2", &b, "e", &cell.cable());
            cell.stack(&b, "e", 2);
            &b
        };
        let mut args = vec!["bridge", "-w", "0", "-i", "netmap:v1"];
        if !to_host {
            args.extend(["-i", "netmap:v2"]);
        }
        args.extend(options);
        let bridge = host.start("bridge", &args);
        let ready = within(PATIENCE, || host.log("bridge").contains("Ready to go"));
        assert!(ready, "{}", host.log("bridge"));
        let how = host.driven("v1");
        if cell.mtu == 1500 {
            assert!(how.starts_with("by AF_XDP"), "{how}: {}", host.log(""));
        }
        let how = format!("{how}, bridge {options:?}");
        exchange(test, &how, cell, &a, other);
        drop(bridge);
        host.assert_empty();
    }
}

#[test]
fn between_interfaces_by_a_bridge() {
    bridged("matrix::between_interfaces_by_a_bridge", false, &[]);
}

#[test]
fn between_interfaces_by_a_copying_bridge() {
    const TEST: &str = "matrix::between_interfaces_by_a_copying_bridge";
    bridged(TEST, false, &["-c"]);
}

#[test]
fn between_the_wire_and_its_host_by_a_bridge() {
    bridged(
        "matrix::between_the_wire_and_its_host_by_a_bridge",
        true,
        &[],
    );
}

#[test]
fn through_a_tunnel() {
    const TEST: &str = "matrix::through_a_tunnel";
    for cell in CELLS {
        let Some(left) = Host::new(TEST) else { return };
        let right = Host::make();
        let (a, b) = (NetNs::make(), NetNs::make());
        let cable = format!("mtu {}", cell.mtu + 100);
        left.ns.veth("cable", &right.ns, "cable", &cable);
        for (host, ns, here, there) in [(&left, &a, 1, 2), (&right, &b, 2, 1)] {
            // By the other family than what is inside.
            let (net, len) = match cell.v6 {
                false => ("fd88::", "64 nodad"),
                true => ("10.88.0.", "24"),
            };
            host.ns.set("ipv6/conf/cable/disable_ipv6", "0");
            host.ns.ip(&format!("addr add {net}{here}/{len} dev cable"));
            let tunnel = format!("vxlan:7@{net}{there},local={net}{here}");
            host.ok(&["attach", "vale0", &tunnel]);
            host.ok(&["attach", "vale0", &cell.tap("t")]);
            host.ns.give("t", ns);
            cell.stack(ns, "t", here);
        }
        exchange(TEST, "TAP, switch, VXLAN, switch, TAP", cell, &a, &b);
        for host in [&left, &right] {
            host.ok(&["detach", "vale0:vxlan7"]);
            host.ok(&["detach", "vale0:t"]);
            host.assert_empty();
        }
    }
}

#[test]
fn between_interfaces_and_a_tap() {
    const TEST: &str = "matrix::between_interfaces_and_a_tap";
    // What one side leaves to the other is finished for it.
    for (cell, tap_options) in [(CELLS[0], ",vnet_hdr=0"), (CELLS[2], ""), (CELLS[3], "")] {
        let Some(host) = Host::new(TEST) else { return };
        let (a, b) = (NetNs::make(), NetNs::make());
        host.ns.veth("v1", &a, "e", &cell.cable());
        a.settle("e", 1, cell.mtu);
        if !cell.offloads {
            no_offloads(&host.ns, "v1");
        }
        host.ok(&["attach", "vale0", "v1"]);
        host.ok(&["attach", "vale0", &(cell.tap("t") + tap_options)]);
        host.hand_over("t", &b, 2, cell.mtu);
        exchange(TEST, "wire, AF_PACKET, switch, TAP", cell, &a, &b);
        host.assert_sound();
    }
}

/// How `netvale bridge` gets at interfaces that it would drive by native XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driven {
    /// The parameter says so.
    Packet,
    /// The driver has no XDP.
    Generic,
}

/// As [`bridged`], without rates.
fn driven(test: &str, how: Driven, to_host: bool, cells: &[Cell]) {
    for &cell in cells {
        let config = format!("generic_xdp = {}", how == Driven::Generic);
        let Some(host) = Host::configured(test, &config) else {
            return;
        };
        if how == Driven::Packet {
            let parameter = host.dir.path().join("ns/parameters/admode");
            std::fs::write(parameter, "2\n").unwrap();
        }
        let interface = |name: &str| match how {
            Driven::Packet => {
                let end = NetNs::make();
                host.ns.veth(name, &end, "e", &cell.cable());
                (end, None)
            }
            Driven::Generic => {
                let (end, below) = without_xdp(&host, name, &cell.cable());
                (end, Some(below))
            }
        };
        let (a, _below) = interface("v1");
        cell.stack(&a, "e", 1);
        let (other, _below_too) = match to_host {
            true => (None, None),
            false => {
                let (b, below) = interface("v2");
                cell.stack(&b, "e", 2);
                (Some(b), below)
            }
        };
        if to_host {
            cell.stack(&host.ns, "v1", 2);
        }
        let to = if to_host { "netmap:v1^" } else { "netmap:v2" };
        let args = ["bridge", "-w", "0", "-i", "netmap:v1", "-i", to];
        let bridge = host.start("bridge", &args);
        let ready = within(PATIENCE, || host.log("bridge").contains("Ready to go"));
        assert!(ready, "{}", host.log("bridge"));
        let about = host.driven("v1");
        let by = match how {
            Driven::Packet => "by AF_PACKET",
            Driven::Generic => "by AF_XDP",
        };
        assert!(about.starts_with(by), "{how:?} {cell:?}: {about}");
        contents(&about, cell, &a, other.as_ref().unwrap_or(&host.ns));
        drop(bridge);
        host.assert_empty();
    }
}

#[test]
fn between_interfaces_by_a_bridge_over_af_packet() {
    const TEST: &str = "matrix::between_interfaces_by_a_bridge_over_af_packet";
    driven(TEST, Driven::Packet, false, &CELLS);
}

#[test]
fn between_the_wire_and_its_host_by_a_bridge_over_af_packet() {
    const TEST: &str = "matrix::between_the_wire_and_its_host_by_a_bridge_over_af_packet";
    driven(TEST, Driven::Packet, true, &CELLS);
}

#[test]
fn between_interfaces_by_a_bridge_over_generic_xdp() {
    const TEST: &str = "matrix::between_interfaces_by_a_bridge_over_generic_xdp";
    // Packets that wait for segmentation are none for it.
    driven(TEST, Driven::Generic, false, &CELLS[2..]);
}

#[test]
fn between_visible_ports() {
    const TEST: &str = "matrix::between_visible_ports";
    for cell in CELLS {
        let Some(host) = Host::new(TEST) else { return };
        let ends = [NetNs::make(), NetNs::make()];
        let rings = cell.queues.to_string();
        for ((name, ns), n) in [("p1", &ends[0]), ("p2", &ends[1])].into_iter().zip(1..) {
            let args = [
                "newif",
                name,
                "--link",
                "--tx-rings",
                &rings,
                "--rx-rings",
                &rings,
            ];
            host.ok(&args);
            host.ok(&["attach", &format!("vale0:{name}")]);
            host.ns.give(name, ns);
            cell.stack(ns, name, n);
        }
        contents("visible ports", cell, &ends[0], &ends[1]);
        host.assert_sound();
        for name in ["p1", "p2"] {
            host.ok(&["detach", &format!("vale0:{name}")]);
            host.ok(&["delif", name]);
        }
        host.assert_empty();
    }
}

//! The kernel's bridge and ours with the same frames: what comes out of each
//! port must be the same, byte by byte and in the same order.

use netvale_testkit::Rng;
use netvale_testkit::net::NetNs;

use crate::host::{Host, no_offloads, no_xdp};
use crate::station::{Station, connect, settle};

/// Bursts of one station each, after which all that was sent has arrived.
const BURSTS: u32 = 150;
const TEST: &str = "oracle::the_kernels_bridge_does_the_same";

/// One frame of the script. No frame that only one of the two may forward:
/// those to link-local groups, which the kernel's bridge keeps, and those from
/// a group or from nobody, which it does not believe.
fn frame(rng: &mut Rng, number: u32) -> Vec<u8> {
    let station = |rng: &mut Rng| [2, 0x4e, 0, 0, 0, rng.word().to_le_bytes()[1] % 6];
    let src = station(rng);
    let dst = match rng.below(10) {
        0 => [0xff; 6],
        1 => [0x33, 0x33, 0, 0, 0, 0xfb],
        2 => [1, 0, 0x5e, 1, 2, rng.word().to_le_bytes()[1]],
        3 => [2, 0x4e, 0xff, 0, 0, rng.word().to_le_bytes()[1]], // nobody's
        4 => src,
        _ => station(rng),
    };
    let mut bytes = [dst, src].concat();
    for _ in 0..[0, 0, 0, 1, 1, 2][rng.below(6)] {
        let types = [[0x81, 0], [0x88, 0xa8]];
        let tci = rng.word().to_be_bytes();
        bytes.extend(rng.pick(&types));
        bytes.extend([tci[0], tci[1]]);
    }
    // The kernel allows four bytes more to those of the first kind alone.
    let tag = bytes.get(12..14) == Some(&[0x81, 0]);
    bytes.extend([0x88, 0xb5]);
    // Runts, and what is as long as can be. Two bytes follow the last type, or
    // the kernel finds the tag cut off.
    let least = bytes.len() + 2;
    let len = match rng.below(6) {
        0 => least,
        1 => least + rng.below(46),
        2 => 1514 + if tag { 4 } else { 0 },
        _ => 60 + rng.below(1455),
    };
    let mut rest = number.to_be_bytes().to_vec();
    while bytes.len() + rest.len() < len {
        rest.extend(rng.word().to_le_bytes());
    }
    rest.truncate(len.saturating_sub(bytes.len()));
    bytes.extend(rest);
    bytes
}

/// What came out of each port.
fn play(stations: &mut [Station], seed: u64) -> Vec<Vec<Vec<u8>>> {
    connect(stations);
    let mut rng = Rng::new(seed);
    for burst in 1..=BURSTS {
        let from = rng.below(stations.len());
        for i in 0..=rng.below(12) {
            let frame = frame(&mut rng, burst << 8 | u32::try_from(i).unwrap());
            stations[from].send(&frame);
        }
        settle(stations, from, burst);
    }
    stations
        .iter_mut()
        .map(|s| std::mem::take(&mut s.got))
        .collect()
}

#[track_caller]
fn compare(how: &str, wanted: &[Vec<Vec<u8>>], got: &[Vec<Vec<u8>>]) {
    for (port, (wanted, got)) in wanted.iter().zip(got).enumerate() {
        for (i, (w, g)) in wanted.iter().zip(got).enumerate() {
            assert!(w == g, "{how}, port {port}, frame {i}:\n{w:02x?}\n{g:02x?}");
        }
        assert_eq!(wanted.len(), got.len(), "{how}, port {port}");
    }
}

/// Cables from interfaces `v0`, `v1`... of a namespace to stations.
fn cables(ns: &NetNs, ends: &[NetNs]) -> Vec<Station> {
    let cable = |(i, end): (usize, &NetNs)| {
        ns.veth(&format!("v{i}"), end, "e", "");
        Station::new(end, "e")
    };
    ends.iter().enumerate().map(cable).collect()
}

fn by_the_kernel(ends: &[NetNs], seed: u64) -> Vec<Vec<Vec<u8>>> {
    let ns = NetNs::make();
    ns.ip("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
    ns.ip("link set br0 up");
    let mut stations = cables(&ns, ends);
    for i in 0..ends.len() {
        ns.ip(&format!("link set v{i} master br0"));
    }
    play(&mut stations, seed)
}

#[test]
fn the_kernels_bridge_does_the_same() {
    let mut rng = Rng::announced(TEST);
    for count in [2, 3] {
        let seed = rng.word();
        let fresh = || (0..count).map(|_| NetNs::make()).collect::<Vec<_>>();
        if NetNs::new(TEST).is_none() {
            return;
        }
        let wanted = by_the_kernel(&fresh(), seed);
        let frames: usize = wanted.iter().map(Vec::len).sum();
        assert!(frames > 500, "a script of {frames} frames proves little");

        let (host, ends) = (Host::make(), fresh());
        let mut stations = cables(&host.ns, &ends);
        for i in 0..count {
            host.ok(&["attach", "vale0", &format!("v{i}")]);
        }
        let got = play(&mut stations, seed);
        compare("interfaces by AF_PACKET", &wanted, &got);
        host.assert_sound();

        for option in ["", ",vnet_hdr=0"] {
            let (host, ends) = (Host::make(), fresh());
            let mut stations = Vec::new();
            for (i, end) in ends.iter().enumerate() {
                host.ok(&["attach", "vale0", &format!("tap:t{i}{option}")]);
                host.ns.give(&format!("t{i}"), end);
                end.ip(&format!("link set t{i} up"));
                stations.push(Station::new(end, &format!("t{i}")));
            }
            let got = play(&mut stations, seed);
            compare(&format!("TAPs{option}"), &wanted, &got);
            host.assert_sound();
        }
    }
}

/// What goes into one end comes out of the other.
fn exact(test: &str, xdp: bool, options: &[&str]) {
    let mut rng = Rng::announced(test);
    let Some(host) = Host::new(test) else { return };
    let ends = [NetNs::make(), NetNs::make()];
    let mut taken = Vec::new();
    for (i, end) in ends.iter().enumerate() {
        let name = format!("v{i}");
        host.ns.veth(&name, end, "e", "");
        no_offloads(end, "e");
        if !xdp {
            taken.push(no_xdp(&host.ns, &name));
        }
    }
    let mut args = vec!["bridge", "-w", "0", "-i", "netmap:v0", "-i", "netmap:v1"];
    args.extend(options);
    let _bridge = host.start("bridge", &args);
    let mut stations: Vec<_> = ends.iter().map(|end| Station::new(end, "e")).collect();
    connect(&mut stations);
    let said = host.log("bridge");
    let moves = said.contains("zerocopy supported");
    assert_eq!(moves, options.is_empty(), "{said}");
    let by_xdp = host.driven("v0").starts_with("by AF_XDP");
    assert_eq!(by_xdp, xdp, "{}", host.log(""));
    for burst in 1..=BURSTS {
        let from = rng.below(2);
        let sent: Vec<_> = (0..=rng.below(32))
            .map(|i| frame(&mut rng, burst << 8 | u32::try_from(i).unwrap()))
            .collect();
        sent.iter().for_each(|frame| stations[from].send(frame));
        settle(&mut stations, from, burst);
        let mut got = std::mem::take(&mut stations[1 - from].got);
        got.pop(); // the fence
        compare(&host.driven("v0"), &[sent], &[got]);
        let back = std::mem::take(&mut stations[from].got);
        assert!(back.is_empty(), "{back:02x?}");
    }
    host.assert_sound();
}

#[test]
fn a_bridge_changes_nothing_by_af_xdp() {
    exact("oracle::a_bridge_changes_nothing_by_af_xdp", true, &[]);
}

#[test]
fn a_copying_bridge_changes_nothing_by_af_xdp() {
    const TEST: &str = "oracle::a_copying_bridge_changes_nothing_by_af_xdp";
    exact(TEST, true, &["-c"]);
}

#[test]
fn a_bridge_changes_nothing_by_af_packet() {
    exact("oracle::a_bridge_changes_nothing_by_af_packet", false, &[]);
}

#[test]
fn link_local_groups_pass_as_in_netmap() {
    // The kernel's bridge keeps these frames to itself; VALE knows no such
    // thing, nor does it ask where a frame comes from.
    const TEST: &str = "oracle::link_local_groups_pass_as_in_netmap";
    let Some(host) = Host::new(TEST) else { return };
    let ends = [NetNs::make(), NetNs::make()];
    let mut stations = cables(&host.ns, &ends);
    host.ok(&["attach", "vale0", "v0"]);
    host.ok(&["attach", "vale0", "v1"]);
    connect(&mut stations);
    let mut sent = Vec::new();
    for (dst, src) in [(0, 2), (0x0e, 2), (0x21, 2), (0, 3), (0x0e, 0)] {
        let mut bytes = vec![0; 60];
        bytes[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, dst]);
        bytes[6] = src; // one of them is a group's, one nobody's
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
        stations[0].send(&bytes);
        sent.push(bytes);
    }
    settle(&mut stations, 0, 1);
    stations[1].got.pop();
    assert_eq!(stations[1].got, sent);
}

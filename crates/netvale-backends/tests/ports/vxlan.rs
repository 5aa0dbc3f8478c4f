use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::slice::from_ref;
use std::time::Duration;

use netvale_backends::batch::{Batch, BufPool};
use netvale_backends::netlink::ethtool::{self, Offload};
use netvale_backends::vxlan::{Vni, Vxlan, VxlanConfig, VxlanError, VxlanSent, VxlanSockets};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, frame, skip};
use netvale_wire::mac::MacAddr;

use crate::common::{at, cable, get, mac, pool, put, readable, room, udp, udp_payload};

const NOW: Duration = Duration::from_secs(1000);
const INNER_HERE: [u8; 4] = [10, 99, 0, 1];
const INNER_HOST: [u8; 4] = [10, 99, 0, 2];

fn open(ns: &NetNs, spec: &str) -> Vxlan {
    let config: VxlanConfig = spec.parse().unwrap();
    ns.enter(|| Vxlan::open(config)).unwrap()
}

fn send(vxlan: &mut Vxlan, pool: &BufPool, frames: &[Vec<u8>]) -> VxlanSent {
    let mut batch = Batch::new();
    let mut next = 64;
    for f in frames {
        put(&mut batch, pool, next, f);
        next += u32::try_from(f.len().div_ceil(2048)).unwrap();
    }
    vxlan.send(pool, &batch, 0, NOW).unwrap()
}

/// Receives as many frames as are wanted.
fn receive(vxlan: &mut Vxlan, pool: &BufPool, wanted: usize) -> Vec<Vec<u8>> {
    let mut batch = Batch::new();
    let mut got = Vec::new();
    while got.len() < wanted {
        assert!(readable(&*vxlan, PATIENCE), "only {} came", got.len());
        room(&mut batch, 0, 16, 2);
        for i in 0..vxlan.recv(pool, &mut batch, NOW).unwrap() {
            assert!(!batch.truncated(i));
            got.push(get(&batch, pool, i));
        }
    }
    got
}

#[test]
fn the_kernels_vxlan_device_understands_us_over_ipv4() {
    let test = "vxlan::the_kernels_vxlan_device_understands_us_over_ipv4";
    with_the_kernel(test, "10.88.0.1", "10.88.0.2", 24);
}

#[test]
fn the_kernels_vxlan_device_understands_us_over_ipv6() {
    let test = "vxlan::the_kernels_vxlan_device_understands_us_over_ipv6";
    with_the_kernel(test, "fd88::1", "fd88::2", 64);
}

/// Our endpoint in `a`, the kernel's in `b`.
fn with_the_kernel(test: &str, here: &str, there: &str, prefix: u8) {
    let Some(a) = NetNs::new(test) else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1600");
    for (ns, name, address) in [(&a, "left", here), (&b, "right", there)] {
        let mut more = "";
        if here.contains(':') {
            ns.set(&format!("ipv6/conf/{name}/disable_ipv6"), "0");
            more = " nodad";
        }
        ns.ip(&format!("addr add {address}/{prefix} dev {name}{more}"));
        // By IPv6 that is done later, in the kernel's own time: until then
        // nobody is told where the address is.
        eventually("the address is known", || {
            let family = if prefix == 64 { "-6" } else { "-4" };
            let all = ns.ip(&format!("{family} route show table local dev {name}"));
            all.contains(address)
        });
    }
    let made = b.try_ip(&format!(
        "link add vx0 type vxlan id 42 dstport 4789 remote {here} local {there} dev right"
    ));
    if !made.status.success() {
        skip(test, "needs a kernel with vxlan (modprobe vxlan)");
        return;
    }
    // Else the kernel leaves even the inner checksum to the veth.
    let off = b.enter(|| ethtool::set_offload("right", Offload::TxChecksum, false));
    assert!(off.unwrap());
    b.ip("link set vx0 mtu 1450 up");
    b.ip("addr add 10.99.0.2/24 dev vx0");
    let station = mac(1);
    b.ip(&format!(
        "neigh add 10.99.0.1 lladdr {station} dev vx0 nud permanent"
    ));
    let host_mac = MacAddr(b.mac("vx0"));
    let socket = b.enter(|| UdpSocket::bind(at(INNER_HOST, 5000))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let bracketed = if here.contains(':') {
        format!("[{there}]")
    } else {
        there.to_owned()
    };
    let mut vxlan = open(&a, &format!("vxlan:42@{bracketed},local={here}"));
    let pool = pool(256);

    // To the kernel: payloads of all lengths, flows of many ports.
    let payloads: Vec<Vec<u8>> = (0..40u8)
        .map(|i| vec![i; 1 + 35 * usize::from(i)])
        .collect();
    let frames: Vec<Vec<u8>> = payloads
        .iter()
        .zip(6000..)
        .map(|(p, port)| {
            let from = (station, at(INNER_HERE, port));
            udp(from, (host_mac, at(INNER_HOST, 5000)), p)
        })
        .collect();
    let sent = send(&mut vxlan, &pool, &frames);
    let wanted = VxlanSent {
        datagrams: 40,
        ..VxlanSent::default()
    };
    assert_eq!(sent, wanted);
    let mut got = Vec::new();
    let mut buf = [0; 2048];
    for _ in 0..40 {
        let (n, from) = loop {
            // With a time limit the kernel does not go on by itself.
            match socket.recv_from(&mut buf) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                done => break done.unwrap(),
            }
        };
        assert_eq!(from.ip(), Ipv4Addr::from(INNER_HERE));
        got.push((from.port(), buf[..n].to_vec()));
    }
    got.sort(); // flows may overtake each other
    for ((port, payload), (i, sent)) in got.iter().zip((6000..).zip(&payloads)) {
        assert_eq!((*port, payload), (i, sent));
    }
    // The kernel learned where we are.
    let fdb = b.enter(|| std::process::Command::new("bridge").args(["fdb"]).output());
    if let Ok(out) = fdb {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let ours = format!("{station} dev vx0 dst {here}");
        assert!(text.contains(&ours), "{text}");
    }

    // From the kernel.
    for payload in &payloads {
        socket.send_to(payload, at(INNER_HERE, 7000)).unwrap();
    }
    let mut received = Vec::new();
    while received.len() < payloads.len() {
        for f in receive(&mut vxlan, &pool, 1) {
            assert_eq!(f[6..12], host_mac.0);
            if let Some(payload) = udp_payload(&f, 7000) {
                let back = (station, at(INNER_HERE, 7000));
                let mut wanted = udp((host_mac, at(INNER_HOST, 5000)), back, payload);
                wanted[18..20].copy_from_slice(&f[18..20]); // IP identification
                wanted[20] = f[20]; // do not fragment
                netvale_wire::ip::refresh_v4_checksum(&mut wanted[14..34]).unwrap();
                assert_eq!(f, wanted, "whole, checksums included");
                received.push(payload.to_vec());
            }
        }
    }
    assert_eq!(received, payloads);
    let learned: Vec<_> = vxlan.stations().collect();
    assert_eq!(learned.len(), 1);
    assert_eq!(learned[0].mac, host_mac);
    assert_eq!(learned[0].remote.to_string(), format!("{bracketed}:4789"));
}

#[test]
fn three_ends_learn_from_each_other() {
    let Some(ns) = NetNs::new("vxlan::three_ends_learn_from_each_other") else {
        return;
    };
    for n in 1..=3 {
        ns.ip(&format!("addr add 10.88.0.{n}/32 dev lo"));
    }
    // Each knows the two others; the third does not learn.
    // The third learns nothing, but is told where one station is.
    let told = MacAddr(frame::mac(9));
    let spec = |me: u8, learning| {
        let mut others = (1..=3).filter(|&n| n != me);
        let (x, y) = (others.next().unwrap(), others.next().unwrap());
        format!("7@10.88.0.{x},remote=10.88.0.{y},local=10.88.0.{me},learning={learning}")
    };
    let mut ends = [
        open(&ns, &spec(1, "on")),
        open(&ns, &spec(2, "on")),
        open(&ns, &format!("{},station={told}/10.88.0.2", spec(3, "off"))),
    ];
    let pool = pool(128);
    let frame = |to: u8, from: u8, seq| {
        frame::tagged(
            frame::mac(to.into()),
            frame::mac(from.into()),
            200,
            from.into(),
            seq,
        )
    };
    let mut reach = |from: usize, f: &Vec<u8>| -> Vec<usize> {
        let sent = send(&mut ends[from], &pool, from_ref(f));
        let mut reached = Vec::new();
        eventually("all datagrams have come", || {
            for (i, end) in ends.iter_mut().enumerate() {
                let mut batch = Batch::new();
                room(&mut batch, 0, 4, 1);
                for n in 0..end.recv(&pool, &mut batch, NOW).unwrap() {
                    assert_eq!(&get(&batch, &pool, n), f);
                    reached.push(i);
                }
            }
            reached.len() as u64 >= sent.datagrams
        });
        reached.sort_unstable();
        reached
    };
    assert_eq!(reach(0, &frame(2, 1, 0)), [1, 2], "unknown: to all");
    assert_eq!(reach(1, &frame(1, 2, 1)), [0], "learned");
    assert_eq!(reach(0, &frame(2, 1, 2)), [1], "learned");
    assert_eq!(
        reach(2, &frame(1, 3, 3)),
        [0, 1],
        "the third learns nothing"
    );
    assert_eq!(reach(2, &frame(9, 3, 6)), [1], "but knows what it was told");
    assert_eq!(reach(0, &frame(3, 1, 4)), [2]);
    let mut broadcast = frame(0, 1, 5);
    broadcast[..6].copy_from_slice(&frame::BROADCAST);
    assert_eq!(reach(0, &broadcast), [1, 2]);
    // Set for good, even where it is not.
    let wrong: SocketAddr = "10.88.0.3:4789".parse().unwrap();
    assert!(ends[0].set_station(MacAddr(frame::mac(2)), wrong));
    assert!(!ends[0].set_station(MacAddr(frame::mac(2)), "[::1]:4789".parse().unwrap()));
    let later = NOW + Duration::from_secs(301);
    assert_eq!(ends[0].expire(later), 1, "the third's station");
    assert!(ends[0].forget_station(MacAddr(frame::mac(2))));
    assert_eq!(ends[0].stations().count(), 0);
}

#[test]
fn nothing_is_learned_from_ends_that_share_an_address() {
    let test = "vxlan::nothing_is_learned_from_ends_that_share_an_address";
    let Some(ns) = NetNs::new(test) else { return };
    for n in 1..=3 {
        ns.ip(&format!("addr add 10.88.0.{n}/32 dev lo"));
    }
    let mut here = open(
        &ns,
        "7@10.88.0.2:4790,remote=10.88.0.2:4791,remote=10.88.0.3,local=10.88.0.1",
    );
    let mut ends = ["10.88.0.2:4790", "10.88.0.2:4791", "10.88.0.3"]
        .map(|local| open(&ns, &format!("7@10.88.0.1,local={local}")));
    let pool = pool(128);
    let up = frame::tagged(frame::mac(1), frame::mac(2), 200, 2, 0);
    let down = frame::tagged(frame::mac(2), frame::mac(1), 200, 1, 0);
    // A station moves between the ends.
    for (end, datagrams) in [(1, 3), (2, 1), (1, 3), (0, 3), (2, 1)] {
        assert_eq!(send(&mut ends[end], &pool, from_ref(&up)).datagrams, 1);
        assert_eq!(receive(&mut here, &pool, 1), from_ref(&up));
        let sent = send(&mut here, &pool, from_ref(&down));
        assert_eq!(sent.datagrams, datagrams, "behind {end}");
        for (i, other) in ends.iter_mut().enumerate() {
            if i == end || datagrams == 3 {
                assert_eq!(receive(other, &pool, 1), from_ref(&down));
            }
        }
    }
    // One that is set is found.
    let at = "10.88.0.2:4791".parse().unwrap();
    assert!(here.set_station(MacAddr(frame::mac(2)), at));
    assert_eq!(send(&mut ends[1], &pool, from_ref(&up)).datagrams, 1);
    assert_eq!(receive(&mut here, &pool, 1), from_ref(&up));
    assert_eq!(send(&mut here, &pool, from_ref(&down)).datagrams, 1);
    assert_eq!(receive(&mut ends[1], &pool, 1), [down]);
}

#[test]
fn what_is_not_sent_or_not_taken_is_counted() {
    let Some(a) = NetNs::new("vxlan::what_is_not_sent_or_not_taken_is_counted") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1500");
    a.ip("addr add 10.88.0.1/24 dev left");
    b.ip("addr add 10.88.0.2/24 dev right");
    let mut left = open(&a, "7@10.88.0.2,local=10.88.0.1");
    let mut right = open(&b, "7@10.88.0.1");
    let pool = pool(128);
    // 1500 less IPv4, UDP and VXLAN headers.
    let good = frame::tagged(frame::mac(2), frame::mac(1), 1464, 1, 0);
    let long = frame::tagged(frame::mac(2), frame::mac(1), 1465, 1, 1);
    let sent = send(
        &mut left,
        &pool,
        &[good.clone(), long.clone(), vec![2; 13], good.clone()],
    );
    let wanted = VxlanSent {
        datagrams: 2,
        malformed: 1,
        too_long: 1,
        ..VxlanSent::default()
    };
    assert_eq!(sent, wanted);
    assert_eq!(receive(&mut right, &pool, 2), [good.clone(), good.clone()]);
    let mut outside = Batch::new();
    outside.push_buf(128, 60);
    assert_eq!(left.send(&pool, &outside, 0, NOW).unwrap().malformed, 1);

    // Fragmented if that is wanted. Each end has a port of its own: a program
    // that another test starts holds a closed one for a moment more.
    let mut left = open(&a, "7@10.88.0.2,local=10.88.0.1:4790,fragment=on");
    assert_eq!(send(&mut left, &pool, from_ref(&long)).datagrams, 1);
    assert_eq!(receive(&mut right, &pool, 1), [long]);

    // Nobody to send to, and no way there.
    a.ip("route add unreachable 10.56.0.0/16");
    let mut left = open(&a, "7@10.56.0.1,local=10.88.0.1:4791");
    assert_eq!(send(&mut left, &pool, from_ref(&good)).unreachable, 1);
    let remote: SocketAddr = "10.88.0.2:4789".parse().unwrap();
    let mut config = VxlanConfig::new(Vni::new(7).unwrap(), remote);
    config.remotes.clear();
    config.local.set_port(4792);
    let mut left = a.enter(|| Vxlan::open(config)).unwrap();
    assert_eq!(send(&mut left, &pool, from_ref(&good)).nowhere, 1);

    // Strangers: another network, no header, too short a frame.
    let stranger = a.enter(|| UdpSocket::bind(at([10, 88, 0, 1], 0))).unwrap();
    let header = |vni| Vni::new(vni).unwrap().header();
    let mut no_vni = header(7);
    no_vni[0] = 0;
    let to = at([10, 88, 0, 2], 4789);
    for head in [header(8), no_vni, header(7)] {
        stranger.send_to(&[&head[..], &good].concat(), to).unwrap();
    }
    stranger.send_to(&header(7)[..5], to).unwrap();
    stranger.send_to(&[], to).unwrap();
    stranger
        .send_to(&[&header(7)[..], &[0; 13]].concat(), to)
        .unwrap();
    stranger
        .send_to(&[&header(7)[..], &good].concat(), to)
        .unwrap();
    assert_eq!(receive(&mut right, &pool, 2), [good.clone(), good]);
    eventually("the others are counted", || {
        let mut batch = Batch::new();
        room(&mut batch, 0, 4, 1);
        assert_eq!(right.recv(&pool, &mut batch, NOW).unwrap(), 0);
        let counters = right.counters();
        (counters.foreign, counters.short) == (4, 1)
    });
}

#[test]
fn addresses_that_cannot_be_had_are_named() {
    let Some(ns) = NetNs::new("vxlan::addresses_that_cannot_be_had_are_named") else {
        return;
    };
    let first = open(&ns, "7@10.88.0.2");
    assert_eq!(first.local().unwrap().to_string(), "0.0.0.0:4789");
    let open = |spec: &str| {
        let config: VxlanConfig = spec.parse().unwrap();
        ns.enter(|| Vxlan::open(config)).unwrap_err()
    };
    let e = open("8@10.88.0.2");
    assert!(matches!(e, VxlanError::InUse { .. }), "{e}");
    assert!(e.to_string().contains("0.0.0.0:4789"), "{e}");
    let e = open("8@10.88.0.2,local=10.88.0.9");
    assert!(matches!(e, VxlanError::NotOurs { .. }), "{e}");
    let mut many = VxlanConfig::new(Vni::new(1).unwrap(), "10.1.1.1:1".parse().unwrap());
    many.remotes = vec![many.remotes[0]; 1025];
    let e = Vxlan::open(many).unwrap_err();
    assert!(e.to_string().contains("1025"), "{e}");
}

/// A namespace with two addresses, and endpoints of these networks at both.
fn shared(test: &str, networks: &[u32]) -> Option<(NetNs, [VxlanSockets; 2], [Vec<Vxlan>; 2])> {
    let ns = NetNs::new(test)?;
    for n in [1, 2] {
        ns.ip(&format!("addr add 10.88.0.{n}/32 dev lo"));
    }
    let sockets = [VxlanSockets::default(), VxlanSockets::default()];
    let ends = [(1, 2), (2, 1)].map(|(here, there)| {
        let open = |vni: &u32| {
            let spec = format!("{vni}@10.88.0.{there},local=10.88.0.{here}");
            ns.enter(|| sockets[here - 1].open(spec.parse().unwrap()))
        };
        let all: Result<Vec<_>, _> = networks.iter().map(open).collect();
        all.unwrap()
    });
    Some((ns, sockets, ends))
}

fn numbered(network: u32, seq: u64) -> Vec<u8> {
    frame::tagged(frame::mac(2), frame::mac(network), 200, network, seq)
}

#[test]
fn networks_share_a_port_and_come_and_go() {
    let test = "vxlan::networks_share_a_port_and_come_and_go";
    let Some((ns, sockets, [mut left, right])) = shared(test, &[10, 20, 30]) else {
        return;
    };
    let pool = pool(128);
    let mut right = right.into_iter().map(Some).collect::<Vec<_>>();
    let open = |i: usize| {
        let spec = format!("{}0@10.88.0.1,local=10.88.0.2", i + 1);
        ns.enter(|| sockets[1].open(spec.parse().unwrap()))
    };
    let e = open(1).unwrap_err();
    assert!(matches!(e, VxlanError::Twice { .. }), "{e}");
    let frames = |i: usize| {
        let all = (0..5).map(|seq| numbered(u32::try_from(i + 1).unwrap(), seq));
        all.collect::<Vec<_>>()
    };
    // Whoever is asked first gets what is for all.
    for gone in [None, Some(0), Some(2), Some(1)] {
        if let Some(gone) = gone {
            right[gone] = None;
            // What is for nobody is counted by who gets it.
            assert_eq!(send(&mut left[gone], &pool, &frames(gone)).datagrams, 5);
            let mut there = right.iter_mut().flatten();
            let one = there.next().unwrap();
            eventually("they are counted", || {
                let mut batch = Batch::new();
                room(&mut batch, 0, 4, 1);
                assert_eq!(one.recv(&pool, &mut batch, NOW).unwrap(), 0);
                one.counters().foreign == 5
            });
            assert!(there.all(|v| v.counters().foreign == 0));
            right[gone] = Some(open(gone).unwrap());
            // The counters begin anew with each.
            for (i, end) in right.iter_mut().enumerate() {
                *end = None;
                *end = Some(open(i).unwrap());
            }
        }
        for (i, end) in left.iter_mut().enumerate() {
            assert_eq!(send(end, &pool, &frames(i)).datagrams, 5);
        }
        for (i, end) in right.iter_mut().enumerate().rev() {
            let end = end.as_mut().unwrap();
            let got = receive(end, &pool, 5);
            assert_eq!(got, frames(i), "network {i}, {gone:?} came anew");
            let stations: Vec<_> = end.stations().collect();
            assert_eq!(stations.len(), 1, "only its own");
            assert_eq!(
                stations[0].mac,
                MacAddr(frame::mac(u32::try_from(i + 1).unwrap()))
            );
            assert!(!readable(&*end, Duration::ZERO), "that was all");
        }
    }
    // The port is free when the last has gone.
    let config: VxlanConfig = "7@10.88.0.1,local=10.88.0.2".parse().unwrap();
    let e = ns.enter(|| Vxlan::open(config.clone())).unwrap_err();
    assert!(matches!(e, VxlanError::InUse { .. }), "{e}");
    drop(right);
    // Programs that other tests start hold descriptors for an instant.
    eventually("the port is free", || {
        ns.enter(|| Vxlan::open(config.clone())).is_ok()
    });
}

#[test]
fn a_network_that_is_not_asked_for_loses_only_its_own() {
    let test = "vxlan::a_network_that_is_not_asked_for_loses_only_its_own";
    let Some((_ns, _sockets, [mut left, mut right])) = shared(test, &[10, 20]) else {
        return;
    };
    let pool = pool(128);
    let sent = 5000;
    for seq in 0..sent {
        let frames = [numbered(1, seq)];
        assert_eq!(send(&mut left[0], &pool, &frames).datagrams, 1);
        if seq % 50 == 0 {
            assert_eq!(send(&mut left[1], &pool, &[numbered(2, seq)]).datagrams, 1);
            assert_eq!(receive(&mut right[1], &pool, 1), [numbered(2, seq)]);
        }
    }
    assert_eq!(send(&mut left[1], &pool, &[numbered(2, sent)]).datagrams, 1);
    assert_eq!(receive(&mut right[1], &pool, 1), [numbered(2, sent)]);
    let mut seq = 0;
    while readable(&right[0], Duration::ZERO) {
        for f in receive(&mut right[0], &pool, 1) {
            assert_eq!(f, numbered(1, seq));
            seq += 1;
        }
    }
    let overrun = right[0].counters().overrun;
    assert!(overrun > 0, "there was room for all");
    assert_eq!(seq + overrun, sent);
    assert_eq!(right[1].counters().overrun, 0);
}

#[test]
fn threads_receive_by_one_socket() {
    let test = "vxlan::threads_receive_by_one_socket";
    let Some((_ns, _sockets, [mut left, right])) = shared(test, &[10, 20, 30]) else {
        return;
    };
    const EACH: u64 = 1000;
    std::thread::scope(|scope| {
        for (network, mut end) in (1..).zip(right) {
            scope.spawn(move || {
                let pool = pool(128);
                let mut seq = 0;
                while seq < EACH {
                    for f in receive(&mut end, &pool, 1) {
                        assert_eq!(f, numbered(network, seq), "network {network}");
                        seq += 1;
                    }
                }
                assert_eq!(
                    end.counters(),
                    netvale_backends::vxlan::VxlanCounters::default()
                );
            });
        }
        let pool = pool(128);
        for seq in 0..EACH {
            for (network, end) in (1..).zip(&mut left) {
                assert_eq!(send(end, &pool, &[numbered(network, seq)]).datagrams, 1);
            }
        }
    });
}

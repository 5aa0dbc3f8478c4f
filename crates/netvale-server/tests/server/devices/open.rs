//! Devices that programs open.

use netvale_backends::af_xdp::Redirect;
use netvale_backends::bpf::XdpMode;
use netvale_backends::netlink::ethtool::{Offload, set_offload};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netvale::Port;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, stream};
use netvale_wire::abi::mode;
use netvale_wire::mac::MacAddr;
use netvale_wire::proto::{ErrorKind, NrRequest, Registered, Reply, Request};

use super::{Host, attach, echo, is_plain, join, plain, send, settle};
use crate::bed::{connect, register_request};
use crate::process::ServerProcess;

const A: &str = "10.77.0.1";
const HOST: &str = "10.77.0.9";

/// Carries frames both ways between two pairs of rings until told to stop.
fn carry(mut ports: [Port; 2], stop: Arc<AtomicBool>) -> thread::JoinHandle<u64> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut frames = 0;
        while !stop.load(Ordering::Relaxed) {
            let mut moved = false;
            for (from, to) in [(0, 1), (1, 0)] {
                ports[from].rx(0).sync().unwrap();
                while let Some(frame) = ports[from].rx(0).next() {
                    bytes.clear();
                    frame.read_to(&mut bytes);
                    let size = 2000;
                    let tx = ports[to].tx(0);
                    // What does not fit is lost, as on a wire.
                    let _ = tx.push_frags(&bytes, size);
                    moved = true;
                    frames += 1;
                }
                ports[from].rx(0).sync().unwrap();
                ports[to].tx(0).sync().unwrap();
            }
            if !moved {
                thread::yield_now();
            }
        }
        frames
    })
}

fn nr(name: &str, mode: u32) -> Request {
    Request::Bind {
        nr: NrRequest {
            name: name.into(),
            mode,
            ..NrRequest::default()
        },
    }
}

#[test]
fn a_program_between_two_taps() {
    let test = "devices::open::a_program_between_two_taps";
    between_two_taps(test, false);
}

#[test]
fn an_isolated_program_between_two_taps() {
    let test = "devices::open::an_isolated_program_between_two_taps";
    between_two_taps(test, true);
}

fn between_two_taps(test: &str, isolated: bool) {
    let Some(host) = Host::new(test) else {
        return;
    };
    let (a, b) = (NetNs::make(), NetNs::make());
    let ns = host.namespace().isolated(isolated);
    let ports = ["tap:t0", "tap:t1"].map(|name| ns.open(name).unwrap());
    host.hand_over("t0", &a, A, 1500);
    host.hand_over("t1", &b, "10.77.0.2", 1500);
    let stop = Arc::new(AtomicBool::new(false));
    let carrier = carry(ports, Arc::clone(&stop));
    let there: Ipv4Addr = "10.77.0.2".parse().unwrap();
    assert!(echo(&a, there, 1400));
    stream::tcp(&a, &b, "10.77.0.2:5001");
    stream::udp(&b, &a, "[fd77::2]:5002", "[fd77::1]:5002", 1452);
    let taken = host.refusal(&register_request("tap:t0,queues=2"));
    assert_eq!(taken.0, ErrorKind::Busy, "{}", taken.1);
    let taken = host.refusal(&attach("vale0:tap:t0", false));
    assert_eq!(taken.0, ErrorKind::Busy, "{}", taken.1);
    stop.store(true, Ordering::Relaxed);
    assert!(join(carrier) > 100);
    eventually("the TAPs go with their ports", || {
        !a.try_ip("link show dev t0").status.success() && host.names().is_empty()
    });
    host.bed.assert_sound();
}

#[test]
fn an_interface_and_the_host_behind_it() {
    let test = "devices::open::an_interface_and_the_host_behind_it";
    let Some(host) = Host::new(test) else {
        return;
    };
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e0", "");
    settle(&a, "e0", A, 1500);
    settle(&host.ns, "v0", HOST, 1500);
    // As for netmap's own emulation.
    for (ns, name) in [(&a, "e0"), (&host.ns, "v0")] {
        let all = [
            Offload::TxChecksum,
            Offload::Tso,
            Offload::Gso,
            Offload::Gro,
        ];
        ns.enter(|| {
            for offload in all {
                assert!(set_offload(name, offload, false).unwrap(), "{offload:?}");
            }
        });
    }
    let us: Ipv4Addr = HOST.parse().unwrap();
    let ns = host.namespace();
    let moment = std::time::Duration::from_millis(200);
    // The host rings alone take nothing away.
    let side = ns.open("netmap:v0^").unwrap();
    assert!(echo(&a, us, 0));
    // With the wire's too, the program is the way.
    let wire = ns.open("netmap:v0").unwrap();
    assert!(a.ping(us, 0, moment).is_none());
    let stop = Arc::new(AtomicBool::new(false));
    let carrier = carry([wire, side], Arc::clone(&stop));
    for len in [0, 1400] {
        assert!(echo(&a, us, len));
        assert!(echo(&host.ns, A.parse().unwrap(), len));
    }
    stream::tcp(&a, &host.ns, &format!("{HOST}:5001"));
    stream::tcp(&host.ns, &a, "[fd77::1]:5001");
    stop.store(true, Ordering::Relaxed);
    assert!(join(carrier) > 100);
    eventually("the host has its interface again", || {
        a.ping(us, 0, moment).is_some()
    });
    host.bed.assert_sound();
    eventually("its TAP is gone", || {
        !host.ns.ip("-o link").contains("nvhost")
    });
}

#[test]
fn rings_are_chosen_as_netmap_does() {
    let test = "devices::open::rings_are_chosen_as_netmap_does";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.ns.ip("link add d0 type veth peer name d1");
    host.ns.ip("link set dev d0 up");
    let bound = |mode| {
        let mut client = host.bed.connect();
        match client.ask(&nr("d0", mode)).unwrap().0 {
            Reply::Registered(Registered {
                tx,
                rx,
                tx_rings,
                rx_rings,
                host_rings,
                ..
            }) => {
                assert_eq!((tx_rings, rx_rings, host_rings), (1, 1, [1, 1]));
                let of = |rings: &[netvale_wire::proto::RingPlace]| -> Vec<u16> {
                    rings.iter().map(|r| r.idx).collect()
                };
                (of(&tx), of(&rx))
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(bound(mode::ALL_NIC), (vec![0], vec![0]));
    assert_eq!(bound(mode::SW), (vec![1], vec![1]));
    assert_eq!(bound(mode::NIC_SW), (vec![0, 1], vec![0, 1]));
    assert_eq!(bound(mode::ONE_NIC), (vec![0], vec![0]));
    assert_eq!(bound(mode::ONE_SW), (vec![1], vec![1]));
    eventually("all is given back", || host.names().is_empty());
    // What is described is what is got, and nothing stays.
    let describe = Request::Describe {
        nr: NrRequest {
            name: "d0".into(),
            mode: mode::ALL_NIC,
            ..NrRequest::default()
        },
    };
    let Reply::Info(info) = host.ask(&describe) else {
        panic!("no answer");
    };
    assert_eq!((info.tx_rings, info.host_rings), (1, [1, 1]));
    let refused = |request| host.refusal(&request).0;
    let one = |ringid, mode| Request::Bind {
        nr: NrRequest {
            name: "d0".into(),
            mode,
            ringid,
            ..NrRequest::default()
        },
    };
    assert_eq!(refused(one(1, mode::ONE_NIC)), ErrorKind::Invalid);
    assert_eq!(refused(one(1, mode::ONE_SW)), ErrorKind::Invalid);
    assert_eq!(refused(nr("d2", mode::ALL_NIC)), ErrorKind::NotFound);
    assert_eq!(refused(nr("vale0:d0", mode::ALL_NIC)), ErrorKind::Invalid);
    host.attach("vale0:d0");
    assert_eq!(refused(nr("d0", mode::ALL_NIC)), ErrorKind::Busy);
    assert_eq!(refused(nr("vale0:d0", mode::ALL_NIC)), ErrorKind::Busy);
    assert_eq!(refused(attach("vale1:d0", false)), ErrorKind::Busy);
    host.detach("vale0:d0");
    assert_eq!(host.names(), Vec::<String>::new());
    host.bed.assert_sound();
}

/// Frames of all lengths between the two ends of a cable, through every queue.
fn both_ends_of_a_cable(test: &str, mtu: usize, how: &str, taken: bool) {
    let Some(host) = Host::new(test) else {
        return;
    };
    let queues = "numrxqueues 2 numtxqueues 2";
    host.ns.veth("v0", &host.ns, "v1", queues);
    for name in ["v0", "v1"] {
        host.ns.ip(&format!("link set dev {name} mtu {mtu}"));
    }
    // Programs of somebody else keep ours away.
    let _others = ["v0", "v1"].map(|name| {
        let index = host.ns.index(name);
        let place = || Redirect::attach(index, 2, XdpMode::Native).unwrap();
        taken.then(|| host.ns.enter(place))
    });
    let ns = host.namespace();
    let mut ends = ["netmap:v0", "netmap:v1"].map(|name| ns.open(name).unwrap());
    for port in host.bed.ports() {
        let about = port.device.unwrap();
        assert!(about.contains(how), "{about}");
    }
    assert_eq!(ends.each_ref().map(|p| p.tx_count()), [2, 2]);
    let longest = mtu + 14;
    for (i, len) in (60..=longest).step_by(longest / 60).enumerate() {
        let bytes = plain(i.to_le_bytes()[0], len);
        for (from, to) in [(0, 1), (1, 0)] {
            let tx = ends[from].tx(i % 2);
            tx.push_frags(&bytes, 2048).unwrap();
            tx.sync().unwrap();
            let got = receive_any(&mut ends[to], is_plain);
            assert!(got == bytes, "frame of {len} bytes");
        }
    }
    // Many at once, none lost, in order.
    for burst in 0..20u8 {
        for n in 0..100u8 {
            ends[0]
                .tx(0)
                .push(&plain(n, 60 + usize::from(burst)))
                .unwrap();
        }
        ends[0].tx(0).sync().unwrap();
        for n in 0..100u8 {
            let got = receive_any(&mut ends[1], is_plain);
            assert_eq!((got[20], got.len()), (n, 60 + usize::from(burst)));
        }
    }
    // The cable is cut.
    host.ns.ip("link del dev v0");
    eventually("the names are free", || {
        host.names().iter().all(|n| n != "v0" && n != "v1")
    });
    host.ns.veth("v0", &host.ns, "v1", queues);
    let again = ns.open("netmap:v0").unwrap();
    drop((ends, again));
    eventually("all is given back", || host.names().is_empty());
    host.bed.assert_sound();
}

pub(super) fn receive_any(port: &mut Port, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let end = std::time::Instant::now() + PATIENCE;
    let mut bytes = Vec::new();
    while std::time::Instant::now() < end {
        for ring in 0..port.rx_count() {
            while let Some(frame) = port.rx(ring).next() {
                bytes.clear();
                frame.read_to(&mut bytes);
                if wanted(&bytes) {
                    port.rx(ring).sync().unwrap();
                    return bytes;
                }
            }
        }
        let moment = std::time::Duration::from_millis(20);
        port.wait_rx(Some(moment)).unwrap();
    }
    panic!("nothing of what was wanted came");
}

#[test]
fn frames_are_exact_by_af_xdp() {
    let test = "devices::open::frames_are_exact_by_af_xdp";
    both_ends_of_a_cable(test, 1500, "; buffers of the region itself)", false);
}

#[test]
fn large_frames_are_exact_by_af_xdp() {
    let test = "devices::open::large_frames_are_exact_by_af_xdp";
    both_ends_of_a_cable(test, 9000, "by AF_XDP", false);
}

#[test]
fn frames_are_exact_by_af_packet() {
    let test = "devices::open::frames_are_exact_by_af_packet";
    let how = "by AF_PACKET (no AF_XDP: cannot attach an XDP program to";
    both_ends_of_a_cable(test, 9000, how, true);
}

#[test]
fn the_parameter_says_how_interfaces_are_driven() {
    let test = "devices::open::the_parameter_says_how_interfaces_are_driven";
    let Some(host) = Host::new(test) else {
        return;
    };
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e0", "");
    let set = |mode: u32| {
        let parameter = host.bed.dir.join("parameters/admode");
        std::fs::write(parameter, format!("{mode}\n")).unwrap();
    };
    let about = || {
        let port = host.namespace().open("netmap:v0").unwrap();
        let about = host.bed.ports().remove(0).device.unwrap();
        drop(port);
        eventually("it is closed", || host.names().is_empty());
        about
    };
    for (mode, by) in [(0, "by AF_XDP"), (1, "by AF_XDP"), (2, "by AF_PACKET")] {
        set(mode);
        // The kernel takes its time to free a queue, and the server's patience has an end.
        eventually(&format!("{mode}: {by}"), || about().contains(by));
    }
    // Somebody else's program.
    let v0 = host.ns.index("v0");
    let other = || Redirect::attach(v0, 1, XdpMode::Native).unwrap();
    let _other = host.ns.enter(other);
    set(0);
    assert!(about().contains("by AF_PACKET (no AF_XDP: "), "{}", about());
    set(1);
    let refused = host.refusal(&nr("v0", mode::ALL_NIC));
    assert_eq!(refused.0, ErrorKind::Unsupported, "{}", refused.1);
    assert!(refused.1.contains("admode is 1"), "{}", refused.1);
    assert!(host.names().is_empty());
    host.bed.assert_sound();
}

/// A cable from an interface of the host, v0, to one with address [`A`].
fn cable_with_queues(host: &Host, queues: u32) -> NetNs {
    let a = NetNs::make();
    let settings = format!("numrxqueues {queues} numtxqueues {queues}");
    host.ns.veth("v0", &a, "e0", &settings);
    a.ip(&format!("addr add {A}/24 dev e0"));
    let mac = MacAddr(host.ns.mac("v0"));
    a.ip(&format!(
        "neigh add {HOST} lladdr {mac} dev e0 nud permanent"
    ));
    a
}

/// Datagrams of many flows, which the stack there spreads over all queues.
fn many_flows_arrive(a: &NetNs, port: &mut Port) {
    for flow in 2000..2064u16 {
        let socket = a.enter(|| UdpSocket::bind((A, flow))).unwrap();
        socket.send_to(&[1; 40], (HOST, 9)).unwrap();
        let is_it = |f: &[u8]| f.get(34..36) == Some(&flow.to_be_bytes()[..]);
        assert_eq!(receive_any(port, is_it).len(), 14 + 20 + 8 + 40);
    }
}

#[test]
fn more_queues_than_sockets_are_all_received_from() {
    let test = "devices::open::more_queues_than_sockets_are_all_received_from";
    let Some(host) = Host::new(test) else {
        return;
    };
    let a = cable_with_queues(&host, 32);
    let mut port = host.namespace().open("netmap:v0").unwrap();
    let about = host.bed.ports().remove(0).device.unwrap();
    let how = "by AF_PACKET (no AF_XDP: it receives into 32 queues, and sockets have the frames \
               of 16 only";
    assert!(about.contains(how), "{about}");
    many_flows_arrive(&a, &mut port);
}

#[test]
fn queues_that_may_be_in_use_are_all_received_from() {
    let test = "devices::open::queues_that_may_be_in_use_are_all_received_from";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.ns.ip("link add name br0 up numrxqueues 8 type bridge");
    let _port = host.namespace().open("netmap:br0").unwrap();
    let about = host.bed.ports().remove(0).device.unwrap();
    let how = "by AF_PACKET (no AF_XDP: it may receive into 8 queues, and sockets have the \
               frames of 1 only";
    assert!(about.contains(how), "{about}");
    assert!(
        !about.contains("ethtool"),
        "the driver would refuse: {about}"
    );
}

#[test]
fn queues_that_are_added_are_received_from() {
    let test = "devices::open::queues_that_are_added_are_received_from";
    let Some(host) = Host::new(test) else {
        return;
    };
    if Command::new("ethtool").arg("--version").output().is_err() {
        netvale_testkit::skip(test, "needs the program ethtool (package ethtool)");
        return;
    }
    let a = cable_with_queues(&host, 4);
    let set = |ns: &NetNs, what: &str| {
        let words = what.split(' ');
        let done = ns.enter(|| Command::new("ethtool").arg("-L").args(words).output());
        let done = done.unwrap();
        assert!(done.status.success(), "{what:?}: {done:?}");
    };
    set(&a, "e0 tx 2");
    set(&host.ns, "v0 rx 2 tx 2");
    let mut port = host.namespace().open("netmap:v0").unwrap();
    let about = || host.bed.ports().remove(0).device.unwrap();
    assert!(about().contains("by AF_XDP"), "{}", about());
    many_flows_arrive(&a, &mut port);
    set(&host.ns, "v0 rx 4");
    set(&a, "e0 tx 4");
    eventually("the server has heard of it", || {
        about().contains("by AF_PACKET (no AF_XDP: it receives into 4 queues")
    });
    many_flows_arrive(&a, &mut port);
    drop(port);
    eventually("all is given back", || host.names().is_empty());
    host.bed.assert_sound();
}

#[test]
fn every_ring_sends_though_not_every_queue_is_received() {
    let test = "devices::open::every_ring_sends_though_not_every_queue_is_received";
    let Some(host) = Host::new(test) else {
        return;
    };
    let queues = "numrxqueues 2 numtxqueues 2";
    host.ns.veth("v0", &host.ns, "v1", queues);
    std::fs::write(host.bed.dir.join("parameters/admode"), "2\n").unwrap();
    let ns = host.namespace();
    let mut to = ns.open("netmap:v1").unwrap();
    // Frames of one that is down cannot be spread over sockets.
    for (name, state) in [("netmap:v0/T", "up"), ("netmap:v0", "down")] {
        host.ns.ip(&format!("link set dev v0 {state}"));
        let mut from = ns.open(name).unwrap();
        host.ns.ip("link set dev v0 up");
        host.ns.wait_until_up(&["v0"]);
        assert_eq!(from.tx_count(), 2);
        for ring in 0..2u8 {
            send(&mut from, ring.into(), &plain(ring, 60));
            assert_eq!(receive_any(&mut to, is_plain)[20], ring, "{name}");
        }
        drop(from);
        eventually("it is closed", || host.names().len() == 1);
    }
    host.bed.assert_sound();
}

#[test]
fn devices_of_another_network_namespace_are_not_described() {
    let test = "devices::open::devices_of_another_network_namespace_are_not_described";
    let Some(ns) = NetNs::new(test) else { return };
    let there = NetNs::make();
    ns.veth("e0", &there, "e1", "");
    let tmp = tempfile::tempdir().unwrap();
    let server = ns.enter(|| ServerProcess::start(&tmp.path().join("ns"), None));
    let describe = |name: &str| Request::Describe {
        nr: NrRequest {
            name: name.into(),
            mode: mode::ALL_NIC,
            ..NrRequest::default()
        },
    };
    let info = |spec: &str| Request::Info { spec: spec.into() };
    let ask = |at: &NetNs, request: &Request| {
        let mut remote = at.enter(|| connect(&server.dir, false));
        remote.ask(request).unwrap().0
    };
    for request in [describe("e0"), info("netmap:e0")] {
        let reply = ask(&ns, &request);
        assert!(matches!(reply, Reply::Info(_)), "{request:?}: {reply:?}");
        match ask(&there, &request) {
            Reply::Error { kind, message, .. } => {
                assert_eq!(kind, ErrorKind::Unsupported, "{request:?}: {message}");
                assert!(message.contains("another network namespace"), "{message}");
            }
            other => panic!("{request:?}: {other:?}"),
        }
    }
    // All else is the same everywhere.
    for request in [describe("vale0:p"), info("vale0:p")] {
        let reply = ask(&there, &request);
        assert!(matches!(reply, Reply::Info(_)), "{request:?}: {reply:?}");
    }
}

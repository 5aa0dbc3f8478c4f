//! The host's stack behind an interface: several rings, and frames that are
//! passed on by releasing them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use netvale::{Namespace, Port};
use netvale_backends::af_xdp::Redirect;
use netvale_backends::bpf::XdpMode;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, stream, within};
use netvale_wire::abi::mode;
use netvale_wire::proto::{NrRequest, Registered, Reply, Request};

use super::{Host, echo, join, settle};

const A: &str = "10.77.0.1";
const HOST: &str = "10.77.0.9";
const MOMENT: std::time::Duration = std::time::Duration::from_millis(200);

/// A host with an interface `v0`, and who is at the cable's other end.
fn cable(test: &str, mtu: u32, queues: u32) -> Option<(Host, NetNs)> {
    let host = Host::new(test)?;
    let a = NetNs::make();
    let queues = format!("numrxqueues {queues} numtxqueues {queues}");
    host.ns.veth("v0", &a, "e0", &queues);
    settle(&a, "e0", A, mtu);
    settle(&host.ns, "v0", HOST, mtu);
    Some((host, a))
}

/// A program that looks at every frame of a port and passes on those that it
/// may.
struct Guard {
    stop: Arc<AtomicBool>,
    /// Frames passed on, dropped.
    counts: Arc<[AtomicU64; 2]>,
    thread: thread::JoinHandle<()>,
}

impl Guard {
    fn start(mut port: Port, may: impl Fn(&[u8]) -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = thread::spawn(move || {
            let mut bytes = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let _ = port.wait_rx(Some(std::time::Duration::from_millis(20)));
                for i in 0..port.rx_count() {
                    while let Some(frame) = port.rx(i).next() {
                        frame.read_to(&mut bytes);
                        let pass = may(&bytes);
                        counted[usize::from(!pass)].fetch_add(1, Ordering::Relaxed);
                        if pass {
                            frame.pass_on();
                        }
                    }
                    port.rx(i).sync().unwrap();
                }
            }
        });
        Self {
            stop,
            counts,
            thread,
        }
    }

    fn counts(&self) -> (u64, u64) {
        let of = |i: usize| self.counts[i].load(Ordering::Relaxed);
        (of(0), of(1))
    }

    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let counts = self.counts();
        join(self.thread);
        counts
    }
}

fn ip(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Not for TCP port 5009, in any direction.
fn not_port_5009(frame: &[u8]) -> bool {
    let port = |at: usize| frame.get(at..at + 2) == Some(&5009_u16.to_be_bytes()[..]);
    let tcp = frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&6);
    !(tcp && (port(34) || port(36)))
}

/// What all programs that pass everything but one port on must do, opened by
/// `open` under each of `names`.
fn passes(host: &Host, a: &NetNs, ns: &Namespace, names: &[&str]) {
    let us = ip(HOST);
    let mut guards: Vec<Guard> = Vec::new();
    for name in names {
        guards.push(Guard::start(ns.open(name).unwrap(), not_port_5009));
    }
    // Each echo request and its answer, and a few frames to find addresses.
    assert!(echo(a, us, 0));
    let before: u64 = guards.iter().map(|g| g.counts().0).sum();
    for _ in 0..10 {
        assert!(echo(a, us, 1400));
        assert!(echo(&host.ns, ip(A), 1400));
    }
    let after: u64 = guards.iter().map(|g| g.counts().0).sum();
    let passed = after - before;
    assert!((20..200).contains(&passed), "{passed} frames");
    stream::tcp(a, &host.ns, &format!("{HOST}:5001"));
    stream::tcp(&host.ns, a, "[fd77::1]:5001");
    // Nothing goes in circles: neighbours are looked for, by multicast too,
    // and then it is quiet.
    assert!(host.ns.ping(ip("10.77.0.77"), 0, MOMENT).is_none());
    let sum = || guards.iter().map(|g| g.counts().0).sum::<u64>();
    let before = sum();
    thread::sleep(MOMENT);
    assert!(sum() - before < 50, "{} frames", sum() - before);
    // What is not passed on is lost.
    let blocked = std::time::Duration::from_millis(700);
    assert!(
        !a.connects(&host.ns, (us, 5009), blocked),
        "port 5009 is blocked"
    );
    let dropped: u64 = guards.into_iter().map(|g| g.end().1).sum();
    assert!(dropped > 0);
    eventually("the host has its interface again", || {
        a.ping(us, 0, MOMENT).is_some()
    });
    assert!(
        a.connects(&host.ns, (us, 5009), PATIENCE),
        "port 5009 is open"
    );
    eventually("all is given back", || host.names().is_empty());
    eventually("its TAP is gone", || {
        !host.ns.ip("-o link").contains("nvhost")
    });
    host.bed.assert_sound();
}

#[test]
fn a_guard_passes_frames_on_both_ways() {
    let test = "devices::host::a_guard_passes_frames_on_both_ways";
    let Some((host, a)) = cable(test, 1500, 1) else {
        return;
    };
    passes(&host, &a, &host.namespace(), &["netmap:v0*"]);
}

#[test]
fn an_isolated_guard_passes_frames_on_both_ways() {
    let test = "devices::host::an_isolated_guard_passes_frames_on_both_ways";
    let Some((host, a)) = cable(test, 1500, 1) else {
        return;
    };
    passes(&host, &a, &host.namespace().isolated(true), &["netmap:v0*"]);
}

#[test]
fn a_guard_of_a_wire_by_af_packet_passes_frames_on() {
    let test = "devices::host::a_guard_of_a_wire_by_af_packet_passes_frames_on";
    by_af_packet(test, 1500, 1);
}

#[test]
fn a_guard_of_a_wire_with_queues_by_af_packet_passes_long_frames_on() {
    let test = "devices::host::a_guard_of_a_wire_with_queues_by_af_packet_passes_long_frames_on";
    by_af_packet(test, 9000, 2);
}

/// With the cable's offloads on: checksums are left to the interfaces and TCP's
/// packets are longer than frames.
fn by_af_packet(test: &str, mtu: u32, queues: u32) {
    let Some((host, a)) = cable(test, mtu, queues) else {
        return;
    };
    // A program of somebody else keeps ours away.
    let v0 = host.ns.index("v0");
    let other = || Redirect::attach(v0, queues, XdpMode::Native).unwrap();
    let _other = host.ns.enter(other);
    let wire = host.namespace().open("netmap:v0*").unwrap();
    let about = host.bed.ports().remove(0).device.unwrap();
    assert!(about.contains("by AF_PACKET"), "{about}");
    drop(wire);
    eventually("it is closed", || host.names().is_empty());
    passes(&host, &a, &host.namespace(), &["netmap:v0*"]);
}

#[test]
fn a_guard_of_the_wire_alone_leaves_the_host_its_way_out() {
    let test = "devices::host::a_guard_of_the_wire_alone_leaves_the_host_its_way_out";
    let Some((host, a)) = cable(test, 1500, 2) else {
        return;
    };
    passes(&host, &a, &host.namespace(), &["netmap:v0"]);
}

#[test]
fn what_is_not_marked_or_not_allowed_stays() {
    let test = "devices::host::what_is_not_marked_or_not_allowed_stays";
    let Some((host, a)) = cable(test, 1500, 1) else {
        return;
    };
    let ns = host.namespace();
    // Nobody marks anything: neither side hears of the other.
    let guard = Guard::start(ns.open("netmap:v0*").unwrap(), |_| false);
    assert!(a.ping(ip(HOST), 0, MOMENT).is_none());
    assert!(host.ns.ping(ip(A), 0, MOMENT).is_none());
    let (passed, dropped) = guard.end();
    assert!(passed == 0 && dropped > 0);
    eventually("all is given back", || host.names().is_empty());
    // Host rings and one half of the wire are not enough to send.
    let [rx, side] = ["netmap:v0/R", "netmap:v0^"].map(|name| ns.open(name).unwrap());
    let guards = [rx, side].map(|port| Guard::start(port, |_| true));
    assert!(echo(&a, ip(HOST), 0), "the host sends by itself");
    let [(arrived, _), (sent, _)] = guards.map(Guard::end);
    assert!(arrived > 0 && sent == 0, "{arrived} {sent}");
}

#[test]
fn the_parameter_passes_everything_on() {
    let test = "devices::host::the_parameter_passes_everything_on";
    let Some((host, a)) = cable(test, 1500, 1) else {
        return;
    };
    let parameter = host.bed.dir.join("parameters/fwd");
    std::fs::write(parameter, "1\n").unwrap();
    // This program marks nothing.
    let guard = Guard::start(host.namespace().open("netmap:v0*").unwrap(), |_| false);
    assert!(echo(&a, ip(HOST), 0));
    assert!(echo(&host.ns, ip(A), 1000));
    let (_, seen) = guard.end();
    assert!((4..100).contains(&seen), "{seen}");
}

fn register(mode: u32, ringid: u16, host_rings: [u16; 2]) -> Request {
    Request::Bind {
        nr: NrRequest {
            name: "v0".into(),
            mode,
            ringid,
            host_rings,
            ..NrRequest::default()
        },
    }
}

#[test]
fn host_rings_are_served_each() {
    let test = "devices::host::host_rings_are_served_each";
    let Some((host, a)) = cable(test, 1500, 4) else {
        return;
    };
    let bound = |request: &Request| {
        let mut client = host.bed.connect();
        match client.ask(request).unwrap().0 {
            Reply::Registered(Registered {
                tx, rx, host_rings, ..
            }) => {
                let of = |rings: &[netvale_wire::proto::RingPlace]| -> Vec<u16> {
                    rings.iter().map(|r| r.idx).collect()
                };
                (client, host_rings, of(&tx), of(&rx))
            }
            other => panic!("{other:?}"),
        }
    };
    let (first, rings, tx, rx) = bound(&register(mode::SW, 0, [16, 3]));
    assert_eq!((rings, tx.len(), rx), ([16, 3], 16, vec![4, 5, 6]));
    assert_eq!(tx.first(), Some(&4));
    // Later openers get the truth, whatever they ask for.
    let (one, rings, tx, rx) = bound(&register(mode::ONE_SW, 2, [1, 1]));
    assert_eq!((rings, tx, rx), ([16, 3], vec![6], vec![6]));
    // No frame comes here: ring 9 exists in one direction only.
    let (other, _, tx, rx) = bound(&register(mode::ONE_SW, 9, [0, 0]));
    assert_eq!((tx, rx), (vec![13], vec![4]));
    drop((one, other));
    let ns = host.namespace();
    let all = ns.open("netmap:v0*").unwrap();
    assert_eq!((all.tx_count(), all.rx_count()), (20, 7));
    drop(first);
    // Frames of many flows, of which each keeps its ring; what a program
    // queues in any of the rings arrives.
    let seen: Arc<[AtomicU64; 7]> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let mover = {
        let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
        thread::spawn(move || {
            let mut port = all;
            let (mut bytes, mut turn) = (Vec::new(), 0);
            while !stop.load(Ordering::Relaxed) {
                let _ = port.wait_rx(Some(std::time::Duration::from_millis(20)));
                for i in 0..7 {
                    while let Some(frame) = port.rx(i).next() {
                        frame.read_to(&mut bytes);
                        seen[i].fetch_add(1, Ordering::Relaxed);
                        turn += 1;
                        let to = if i < 4 { 4 + turn % 16 } else { turn % 4 };
                        let _ = port.tx(to).push(&bytes);
                    }
                    port.rx(i).sync().unwrap();
                }
                for i in 0..20 {
                    port.tx(i).sync().unwrap();
                }
            }
        })
    };
    assert!(echo(&a, ip(HOST), 0));
    let sockets: Vec<_> = (0..32u16)
        .map(|i| {
            let here = host
                .ns
                .enter(|| std::net::UdpSocket::bind((ip(HOST), 6000 + i)));
            let there = a.enter(|| std::net::UdpSocket::bind((ip(A), 6000 + i)));
            let (here, there) = (here.unwrap(), there.unwrap());
            there.set_nonblocking(true).unwrap();
            here.connect((ip(A), 6000 + i)).unwrap();
            (here, there)
        })
        .collect();
    for (i, (here, there)) in sockets.iter().enumerate() {
        let arrives = || {
            let _ = here.send(b"hello");
            let mut got = [0; 8];
            within(MOMENT, || there.recv(&mut got).is_ok())
        };
        assert!(within(PATIENCE, arrives), "flow {i}");
    }
    let counts = || [4, 5, 6].map(|i| seen[i].load(Ordering::Relaxed));
    assert!(counts().iter().all(|&n| n > 0), "{:?}", counts());
    for _ in 0..20 {
        // Twenty answers through rings in turns.
        assert!(echo(&a, ip(HOST), 100));
    }
    stop.store(true, Ordering::Relaxed);
    join(mover);
    eventually("all is given back", || host.names().is_empty());
    host.bed.assert_sound();
}

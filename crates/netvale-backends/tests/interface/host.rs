//! The host stack of an interface through a TAP.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use netvale_backends::af_xdp::Redirect;
use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::bpf::{BpfError, XdpMode, tc_programs};
use netvale_backends::host::{HostConfig, HostCounters, HostLink, WireSide};
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_backends::tap::{Tap, TapConfig, TapQueue};
use netvale_shm::Mem;
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, skip};

use crate::bed::{Cable, Port, config, redirect, region, umem};
use crate::processes::Other;

/// The peer's address, and that of the interface whose host side is ours.
const LEFT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const SHORT: Duration = Duration::from_millis(200);

fn cable(test: &str) -> Option<Cable> {
    let cable = Cable::new(test, 1, 1500)?;
    if let Err(BpfError::Unsupported { .. }) = cable.right.enter(|| tc_programs(1)) {
        skip(test, "needs Linux 6.6 with CONFIG_NET_XGRESS");
        return None;
    }
    cable.left.ip(&format!("addr add {LEFT}/24 dev a"));
    cable.right.ip(&format!("addr add {RIGHT}/24 dev b"));
    // Frames are counted here: neighbours that have been found are not looked for again.
    for (ns, name) in [(&cable.left, "a"), (&cable.right, "b")] {
        let key = format!("ipv4/neigh/{name}/delay_first_probe_time");
        ns.set(&key, "3600");
    }
    assert!(cable.left.ping(RIGHT, 64, PATIENCE).is_some());
    Some(cable)
}

/// A TAP beside the interface, and the connection of the two.
pub(crate) fn connect(ns: &NetNs, wire: WireSide) -> (TapQueue, HostLink) {
    let tap = ns.enter(|| Tap::open(&TapConfig::new("t"))).unwrap();
    let (b, t) = (ns.index("b"), ns.index("t"));
    let link = ns.enter(|| HostLink::attach(b, t, HostConfig::new(wire)));
    (tap.into_queues().remove(0), link.unwrap())
}

/// The wire's side of the interface.
enum Wire {
    Xsk {
        port: Port,
        _program: Redirect,
    },
    Packet {
        socket: PacketSocket,
        pool: BufPool,
        mem: Mem,
    },
}

impl Wire {
    fn xsk(ns: &NetNs) -> Self {
        let (file, geom) = region(64);
        let mut port = Port::open(ns, "b", 0, &umem(&file, &geom), 2..66, &config());
        let program = redirect(ns, "b", 1, XdpMode::Native);
        program.connect(0, &port.xsk.socket).unwrap();
        port.fill(32);
        Self::Xsk {
            port,
            _program: program,
        }
    }

    fn packet(ns: &NetNs) -> Self {
        let config = PacketConfig {
            leave_out_mark: Some(HostConfig::MARK),
            ..PacketConfig::new("b")
        };
        let socket = ns.enter(|| PacketSocket::open(&config)).unwrap();
        let mem = Mem::heap(2 * 2112);
        let pool = BufPool::new(&mem, 0, 2, 2112).unwrap();
        Self::Packet { socket, pool, mem }
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        match self {
            Self::Xsk { port, .. } => {
                let frame = port.receive(Duration::ZERO)?;
                port.fill(1);
                Some(frame)
            }
            Self::Packet { socket, pool, mem } => {
                let mut batch = whole(0, 2112);
                if socket.recv(pool, &mut batch).unwrap() == 0 {
                    return None;
                }
                let mut bytes = vec![0; batch.frame_len(0)];
                assert!(mem.read(0, &mut bytes));
                Some(bytes)
            }
        }
    }

    fn send(&mut self, frame: &[u8]) {
        match self {
            Self::Xsk { port, .. } => port.send(frame),
            Self::Packet { socket, pool, mem } => {
                assert!(mem.write(2112, frame));
                let batch = whole(1, u32::try_from(frame.len()).unwrap());
                let sent = socket.send(pool, &batch, 0).unwrap();
                assert_eq!((sent.next, sent.refused), (1, 0));
            }
        }
    }
}

fn whole(buf: u32, len: u32) -> Batch {
    let mut batch = Batch::new();
    batch.push(&[Piece { buf, off: 0, len }]).unwrap();
    batch
}

/// Frames that the program moved.
#[derive(Default)]
struct Moved {
    from_host: AtomicU64,
    to_host: AtomicU64,
    stop: AtomicBool,
}

/// Runs `then` while a program moves frames between the wire and the host.
fn forwarding(wire: &mut Wire, tap: &TapQueue, then: impl FnOnce()) -> (u64, u64) {
    let moved = Moved::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut frame = vec![0; 2112];
            while !moved.stop.load(Ordering::Relaxed) {
                let arrived = wire.receive();
                if let Some(frame) = &arrived {
                    assert!(tap.write(frame).unwrap());
                    moved.to_host.fetch_add(1, Ordering::Relaxed);
                }
                let leaving = tap.read(&mut frame).unwrap();
                if let Some(len) = leaving {
                    wire.send(&frame[..len]);
                    moved.from_host.fetch_add(1, Ordering::Relaxed);
                }
                if arrived.is_none() && leaving.is_none() {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        });
        let stop = Stop(&moved.stop);
        then();
        drop(stop);
    });
    let count = |n: &AtomicU64| n.load(Ordering::Relaxed);
    (count(&moved.from_host), count(&moved.to_host))
}

/// Stops the program, also when the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Pings both ways through the program; what was moved and counted must agree,
/// and nothing may go in circles.
fn both_ways(cable: &Cable, wire: &mut Wire, tap: &TapQueue, link: &HostLink) -> HostCounters {
    let before = link.counters().unwrap();
    let (from_host, to_host) = forwarding(wire, tap, || {
        for len in [0, 64, 1472] {
            assert!(cable.left.ping(RIGHT, len, PATIENCE).is_some(), "in, {len}");
            assert!(
                cable.right.ping(LEFT, len, PATIENCE).is_some(),
                "out, {len}"
            );
        }
    });
    let counted = link.counters().unwrap();
    assert_eq!(counted.captured - before.captured, from_host);
    assert_eq!(counted.injected - before.injected, to_host);
    // Three requests and three answers each way, and some for addresses; a
    // circle would make thousands.
    assert!((6..=30).contains(&from_host), "{from_host} from the host");
    assert!((6..=30).contains(&to_host), "{to_host} to the host");
    assert!(counted.captured_bytes > 2 * 1514 && counted.injected_bytes > 2 * 1514);
    assert_eq!(counted.foreign, 0);
    counted
}

#[test]
fn pings_pass_through_a_program_that_has_the_wire_by_xdp() {
    let test = "host::pings_pass_through_a_program_that_has_the_wire_by_xdp";
    let Some(cable) = cable(test) else {
        return;
    };
    let mut wire = Wire::xsk(&cable.right);
    assert!(cable.left.ping(RIGHT, 64, SHORT).is_none(), "all is taken");
    let (tap, link) = connect(&cable.right, WireSide::Xdp);
    link.capture(true).unwrap();
    // What waited in the rings is not the answer to anything any more.
    while wire.receive().is_some() {}
    both_ways(&cable, &mut wire, &tap, &link);
    // The large datagrams of the host come in pieces, with their checksums.
    let there = cable.left.enter(|| UdpSocket::bind((LEFT, 999))).unwrap();
    there.set_read_timeout(Some(PATIENCE)).unwrap();
    let here = cable.right.enter(|| UdpSocket::bind((RIGHT, 999))).unwrap();
    let data: Vec<u8> = (0..4000_u32).map(|i| i.to_le_bytes()[0]).collect();
    forwarding(&mut wire, &tap, || {
        for len in [100, 1472, 4000] {
            here.send_to(&data[..len], (LEFT, 999)).unwrap();
            let mut got = vec![0; 5000];
            assert_eq!(there.recv(&mut got).unwrap(), len);
            assert_eq!(got[..len], data[..len]);
        }
    });
    assert_eq!(link.counters().unwrap().withheld, 0);
}

#[test]
fn pings_pass_through_a_program_that_has_the_wire_by_packets() {
    let test = "host::pings_pass_through_a_program_that_has_the_wire_by_packets";
    let Some(cable) = cable(test) else {
        return;
    };
    let mut wire = Wire::packet(&cable.right);
    let (tap, link) = connect(&cable.right, WireSide::Packet);
    assert!(cable.left.ping(RIGHT, 64, SHORT).is_none(), "withheld");
    link.capture(true).unwrap();
    while wire.receive().is_some() {}
    let withheld = link.counters().unwrap().withheld;
    assert!(withheld > 0);
    let counted = both_ways(&cable, &mut wire, &tap, &link);
    assert_eq!(counted.withheld - withheld, counted.injected);
    drop(link);
    eventually("the stack gets what arrives", || {
        cable.left.ping(RIGHT, 64, SHORT).is_some()
    });
}

#[test]
fn capture_is_switched_and_ends_with_the_connection() {
    let test = "host::capture_is_switched_and_ends_with_the_connection";
    let Some(cable) = cable(test) else {
        return;
    };
    let (tap, link) = connect(&cable.right, WireSide::Xdp);
    let mut frame = vec![0; 2112];
    let within = |patience| cable.right.ping(LEFT, 64, patience).is_some();
    let pings = || within(SHORT);
    assert!(
        within(PATIENCE),
        "nothing is captured before it is asked for"
    );
    assert_eq!(link.counters().unwrap(), HostCounters::default());
    link.capture(true).unwrap();
    assert!(!pings());
    let len = tap.read(&mut frame).unwrap().unwrap();
    assert_eq!(frame[..6], cable.left.mac("a"), "{:?}", &frame[..len]);
    assert_eq!(frame[6..12], cable.right.mac("b"));
    link.capture(false).unwrap();
    assert!(within(PATIENCE));
    link.capture(true).unwrap();
    assert!(!pings());
    drop(link);
    eventually("the host has its interface back", pings);
    let b = cable.right.index("b");
    eventually("no program is left", || {
        cable.right.enter(|| tc_programs(b)).unwrap() == (vec![], vec![])
    });
}

#[test]
fn what_the_host_routes_back_counts_as_its_own() {
    let test = "host::what_the_host_routes_back_counts_as_its_own";
    let Some(cable) = cable(test) else {
        return;
    };
    let far = Ipv4Addr::new(10, 99, 0, 1);
    cable
        .left
        .ip(&format!("route add 10.99.0.0/24 via {RIGHT}"));
    cable
        .right
        .ip(&format!("route add 10.99.0.0/24 via {LEFT}"));
    cable.right.set("ipv4/ip_forward", "1");
    cable.right.set("ipv4/conf/all/send_redirects", "0");
    cable.right.set("ipv4/conf/b/send_redirects", "0");
    let mut wire = Wire::xsk(&cable.right);
    let (tap, link) = connect(&cable.right, WireSide::Xdp);
    link.capture(true).unwrap();
    let from = cable.left.enter(|| UdpSocket::bind((LEFT, 0))).unwrap();
    from.send_to(b"there and back", (far, 999)).unwrap();
    let mut request = None;
    eventually("the datagram arrives", || {
        request = wire.receive().filter(|f| f.ends_with(b"there and back"));
        request.is_some()
    });
    let request = request.unwrap();
    assert!(tap.write(&request).unwrap());
    let mut frame = vec![0; 2112];
    let mut len = 0;
    eventually("the host sends it on", || {
        len = tap.read(&mut frame).unwrap().unwrap_or(0);
        frame[..len].ends_with(b"there and back")
    });
    const TTL: usize = 14 + 8;
    assert_eq!(frame[TTL] + 1, request[TTL]);
    assert_eq!(frame[30..34], far.octets());
    assert_eq!(link.counters().unwrap().injected, 1);
}

#[test]
fn what_the_host_sends_on_the_tap_itself_is_dropped() {
    let test = "host::what_the_host_sends_on_the_tap_itself_is_dropped";
    let Some(cable) = cable(test) else {
        return;
    };
    let (tap, link) = connect(&cable.right, WireSide::Xdp);
    link.capture(true).unwrap();
    cable.right.ip("addr add 10.80.0.1/24 dev t");
    let nobody = cable.right.ping(Ipv4Addr::new(10, 80, 0, 2), 0, SHORT);
    assert!(nobody.is_none());
    assert!(link.counters().unwrap().foreign > 0);
    assert_eq!(tap.read(&mut [0; 2112]).unwrap(), None);
}

#[test]
fn generic_xdp_and_the_connection_exclude_each_other() {
    let test = "host::generic_xdp_and_the_connection_exclude_each_other";
    let Some(cable) = cable(test) else {
        return;
    };
    let ns = &cable.right;
    let (tap, link) = connect(ns, WireSide::Xdp);
    let (b, t) = (ns.index("b"), ns.index("t"));
    let no = ns
        .enter(|| Redirect::attach(b, 1, XdpMode::Generic))
        .unwrap_err();
    assert!(matches!(no, BpfError::Loop { .. }));
    assert!(
        no.to_string().contains("the connection is there already"),
        "{no}"
    );
    drop(
        ns.enter(|| Redirect::attach(b, 1, XdpMode::Native))
            .unwrap(),
    );
    drop(link);
    let _generic = redirect(ns, "b", 1, XdpMode::Generic);
    let host = HostConfig::new(WireSide::Xdp);
    let no = ns.enter(|| HostLink::attach(b, t, host)).unwrap_err();
    assert!(matches!(no, BpfError::Loop { .. }), "{no}");
    drop(tap);
    let no = ns.enter(|| HostLink::attach(b, b, host)).unwrap_err();
    assert!(
        no.to_string().starts_with("cannot connect b to its TAP"),
        "{no}"
    );
}

#[test]
fn a_killed_owner_gives_the_host_its_interface_back() {
    let test = "host::a_killed_owner_gives_the_host_its_interface_back";
    let Some(cable) = cable(test) else {
        return;
    };
    let mut owner = Other::start("host owner");
    owner.send("use this", &[cable.right.as_fd()]);
    assert_eq!(owner.hear(), "ready");
    assert!(cable.right.ping(LEFT, 64, SHORT).is_none());
    assert!(cable.left.ping(RIGHT, 64, SHORT).is_none());
    owner.kill();
    eventually("the host sends by itself again", || {
        cable.right.ping(LEFT, 64, SHORT).is_some()
    });
    assert!(cable.left.ping(RIGHT, 64, PATIENCE).is_some());
}

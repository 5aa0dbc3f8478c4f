//! Frames that are complete, from stacks that leave the rest to interfaces.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::packet::{PacketConfig, PacketSocket, RingConfig, WholeSocket};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, skip};
use netvale_wire::checksum::pseudo_v4;
use netvale_wire::eth::{EthHdr, ethertype};
use netvale_wire::ip::{Ipv4Hdr, proto};
use netvale_wire::mac::MacAddr;
use netvale_wire::vnet::{F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_UDP_L4, HdrLen, VnetHdr};

use crate::common::{at, cable, get, mac, pool, put, udp, udp_payload};
use crate::packet::{tap, to_be_fragmented};

const A: [u8; 4] = [10, 77, 0, 1];
const B: [u8; 4] = [10, 77, 0, 2];

const BYTES: usize = 4 << 20;
const BUFS: u32 = 64;

/// The two namespaces of a cable, one end of which sends frames with headers,
/// and the other receives whole ones.
fn ends(test: &str, ring: Option<RingConfig>) -> Option<([NetNs; 2], PacketSocket, WholeSocket)> {
    NetNs::new(test)?;
    let (a, b) = (NetNs::make(), NetNs::make());
    cable(&a, &b, "");
    let config = PacketConfig::new("right");
    let whole = b.enter(|| WholeSocket::open(&config, 1514, ring)).unwrap();
    let mut from = PacketConfig::new("left");
    from.header = HdrLen::SHORT;
    let from = a.enter(|| PacketSocket::open(&from)).unwrap();
    Some(([a, b], from, whole))
}

/// Packets come by calls or through a ring: of a size that is enough, or so
/// small that it is full all the time.
fn with_and_without_a_ring(test: impl Fn(Option<RingConfig>)) {
    for bytes in [None, Some(1 << 20), Some(64 << 10)] {
        test(bytes.map(|bytes| RingConfig::for_mtu(1500, bytes)));
    }
}

/// What was seen of frames.
#[derive(Debug, Default)]
struct Seen {
    frames: u64,
    longest: usize,
}

/// Receives into `n` buffers: the frames, after it has been checked that every
/// buffer is in one place.
fn receive(socket: &mut WholeSocket, pool: &BufPool, n: u32, batch: &mut Batch) -> usize {
    let free: Vec<Piece> = (0..n)
        .map(|buf| Piece {
            buf,
            off: 0,
            len: 2112,
        })
        .collect();
    batch.clear();
    let frames = socket.recv(pool, &free, batch).unwrap();
    let mut bufs: Vec<u32> = (0..batch.len())
        .flat_map(|i| batch.chain(i).iter().map(|p| p.buf))
        .collect();
    bufs.sort_unstable();
    let first: Vec<u32> = (0..).take(bufs.len()).collect();
    assert_eq!(bufs, first, "the first of the list, each once");
    assert!((frames..batch.len()).all(|i| batch.frame_len(i) == 0));
    frames
}

fn carry(from: &mut WholeSocket, to: &mut WholeSocket, pool: &BufPool, seen: &mut Seen) -> bool {
    let mut batch = Batch::new();
    // Few buffers now and then, so that long packets have to wait.
    let n = if seen.frames.is_multiple_of(3) {
        5
    } else {
        BUFS
    };
    let frames = receive(from, pool, n, &mut batch);
    let mut out = Batch::new();
    for i in 0..frames {
        let chain: Vec<_> = batch.pieces(i).collect();
        out.push(&chain).unwrap();
        let bytes = get(&batch, pool, i);
        seen.longest = seen.longest.max(bytes.len());
    }
    seen.frames += frames as u64;
    let mut first = 0;
    while first < out.len() {
        let sent = to.send(pool, &out, first).unwrap();
        assert_eq!(sent.refused, 0);
        first = sent.next;
    }
    frames > 0
}

/// Sends bytes one way and the same back.
fn transfer(
    a: &NetNs,
    b: &NetNs,
    server: SocketAddr,
    left: &mut WholeSocket,
    right: &mut WholeSocket,
) -> [Seen; 2] {
    let listener = b.enter(|| TcpListener::bind(server)).unwrap();
    let pool = pool(BUFS);
    let mut seen = [Seen::default(), Seen::default()];
    let [there, back] = &mut seen;
    let byte = |i: usize| i.wrapping_mul(31).to_le_bytes()[1] ^ i.to_le_bytes()[0];
    let limit = |s: &TcpStream| {
        s.set_read_timeout(Some(PATIENCE)).unwrap();
        s.set_write_timeout(Some(PATIENCE)).unwrap();
    };
    thread::scope(|scope| {
        let client = scope.spawn(move || {
            let connect = || TcpStream::connect_timeout(&server, PATIENCE).unwrap();
            let mut stream = a.enter(connect);
            limit(&stream);
            let all: Vec<u8> = (0..BYTES).map(byte).collect();
            let mut reader = stream.try_clone().unwrap();
            let read = thread::spawn(move || {
                let mut got = vec![0; BYTES];
                reader.read_exact(&mut got).unwrap();
                got
            });
            stream.write_all(&all).unwrap();
            assert!(read.join().unwrap() == all);
        });
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            limit(&stream);
            let mut left = BYTES;
            let mut part = vec![0; 1 << 16];
            while left > 0 {
                let n = stream.read(&mut part).unwrap();
                assert_ne!(n, 0);
                stream.write_all(&part[..n]).unwrap();
                left -= n;
            }
        });
        while !(client.is_finished() && server.is_finished()) {
            let moved = carry(left, right, &pool, there);
            if !(carry(right, left, &pool, back) || moved) {
                thread::yield_now();
            }
        }
    });
    seen
}

#[test]
fn what_offloads_leave_undone_is_done() {
    let test = "whole::what_offloads_leave_undone_is_done";
    with_and_without_a_ring(|ring| streams(test, ring));
}

fn streams(test: &str, ring: Option<RingConfig>) {
    if NetNs::new(test).is_none() {
        return;
    }
    let (a, wire, b) = (NetNs::make(), NetNs::make(), NetNs::make());
    let open = |name| {
        let config = PacketConfig::new(name);
        wire.enter(|| WholeSocket::open(&config, 1514, ring))
            .unwrap()
    };
    cable(&a, &wire, "");
    let mut left = open("right");
    wire.ip("link set dev right name r1");
    cable(&b, &wire, "");
    let mut right = open("right");
    for (ns, last) in [(&a, 1), (&b, 2)] {
        ns.ip(&format!("addr add 10.77.0.{last}/24 dev left"));
        ns.set("ipv6/conf/left/disable_ipv6", "0");
        ns.ip(&format!("addr add fd77::{last}/64 dev left nodad"));
    }
    for server in ["10.77.0.2:7000", "[fd77::2]:7000"] {
        let server = server.parse().unwrap();
        let seen = transfer(&a, &b, server, &mut left, &mut right);
        for seen in &seen {
            assert_eq!(seen.longest, 1514, "{server}: {seen:?}");
            assert!(seen.frames > BYTES as u64 / 1460, "{server}: {seen:?}");
        }
    }
    assert_eq!((left.incomplete(), right.incomplete()), (0, 0));
}

#[test]
fn tags_stay_in_frames_that_are_cut_and_finished() {
    let test = "whole::tags_stay_in_frames_that_are_cut_and_finished";
    with_and_without_a_ring(|ring| tags(test, ring));
}

fn tags(test: &str, ring: Option<RingConfig>) {
    let Some((_cable, mut from, mut whole)) = ends(test, ring) else {
        return;
    };
    let pool = pool(BUFS);
    // UDP behind a tag, to be cut into datagrams of 1000 bytes, and one that
    // only lacks its checksum.
    for (gso, data) in [(GSO_UDP_L4, 3500), (GSO_NONE, 700)] {
        let payload: Vec<u8> = (0..data).map(|i: u32| i.to_le_bytes()[0]).collect();
        let plain = udp((mac(1), at(A, 1)), (mac(2), at(B, 2)), &payload);
        let mut bytes = vec![0; 10];
        let vnet = VnetHdr {
            flags: F_NEEDS_CSUM,
            gso_type: gso,
            hdr_len: 46,
            gso_size: if gso == GSO_NONE { 0 } else { 1000 },
            csum_start: 38,
            csum_offset: 6,
            ..VnetHdr::default()
        };
        vnet.write(&mut bytes, HdrLen::SHORT).unwrap();
        bytes.extend_from_slice(&plain[..12]);
        bytes.extend_from_slice(&[0x81, 0, 0x60, 5]);
        bytes.extend_from_slice(&plain[12..]);
        // As a stack leaves it: the sum of the pseudo-header.
        let len = u16::try_from(payload.len() + 8).unwrap();
        let sum = pseudo_v4(A.into(), B.into(), 17, len).fold();
        bytes[10 + 44..10 + 46].copy_from_slice(&sum.to_be_bytes());
        let mut batch = Batch::new();
        put(&mut batch, &pool, BUFS - 32, &bytes);
        assert_eq!(from.send(&pool, &batch, 0).unwrap().refused, 0);
        let mut got: Vec<Vec<u8>> = Vec::new();
        let mut batch = Batch::new();
        let wanted = usize::try_from(data).unwrap().div_ceil(1000);
        netvale_testkit::eventually("all of it comes", || {
            for i in 0..receive(&mut whole, &pool, 16, &mut batch) {
                let frame = get(&batch, &pool, i);
                if frame[..12] == plain[..12] {
                    got.push(frame);
                }
            }
            got.len() == wanted
        });
        let mut all = Vec::new();
        for frame in &got {
            assert_eq!(frame[12..16], [0x81, 0, 0x60, 5]);
            let untagged = [&frame[..12], &frame[16..]].concat();
            let payload = udp_payload(&untagged, 2).unwrap();
            all.extend_from_slice(payload);
            let whole = udp((mac(1), at(A, 1)), (mac(2), at(B, 2)), payload);
            assert_eq!(untagged[34..], whole[34..], "with its checksum");
        }
        assert!(all == payload);
    }
    assert_eq!(whole.incomplete(), 0);
}

/// A frame with TCP over IPv4 that lacks its checksum.
fn tcp(src: MacAddr, dst: MacAddr, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[..4].copy_from_slice(&[0x1b, 0x58, 0x1b, 0x58]);
    segment[12..16].copy_from_slice(&[0x50, 0x10, 0xff, 0xff]);
    let len = u16::try_from(segment.len() + payload.len()).unwrap();
    let sum = pseudo_v4(A.into(), B.into(), proto::TCP, len).fold();
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0; 34];
    let eth = EthHdr::new(dst, src, ethertype::IPV4);
    eth.write(&mut frame).unwrap();
    let ip = Ipv4Hdr::new(A.into(), B.into(), proto::TCP, len.into()).unwrap();
    ip.write(&mut frame[14..]).unwrap();
    [&frame, &segment, payload].concat()
}

#[test]
fn packets_that_contradict_themselves_are_dropped_and_counted() {
    let test = "whole::packets_that_contradict_themselves_are_dropped_and_counted";
    with_and_without_a_ring(|ring| contradictions(test, ring));
}

fn contradictions(test: &str, ring: Option<RingConfig>) {
    let Some(([a, b], mut from, mut whole)) = ends(test, ring) else {
        return;
    };
    let pool = pool(BUFS);
    let send = |from: &mut PacketSocket, vnet: VnetHdr, frame: &[u8]| {
        let mut bytes = vec![0; 10];
        vnet.write(&mut bytes, HdrLen::SHORT).unwrap();
        bytes.extend_from_slice(frame);
        let mut batch = Batch::new();
        put(&mut batch, &pool, BUFS - 32, &bytes);
        assert_eq!(from.send(&pool, &batch, 0).unwrap().refused, 0);
    };
    // Packets of a tunnel: what is to be cut is inside.
    a.ip("addr add 10.77.0.1/24 dev left");
    let [far, inner] = [b.mac("right"), a.mac("left")].map(MacAddr);
    a.ip(&format!(
        "neigh add 10.77.0.2 lladdr {far} dev left nud permanent"
    ));
    let made = a.try_ip(
        "link add vx0 type vxlan id 42 dstport 4789 remote 10.77.0.2 local 10.77.0.1 dev left",
    );
    if !made.status.success() {
        skip(test, "needs a kernel with vxlan (modprobe vxlan)");
        return;
    }
    a.ip("link set vx0 up");
    let mut config = PacketConfig::new("vx0");
    config.header = HdrLen::SHORT;
    let mut tunnel = a.enter(|| PacketSocket::open(&config)).unwrap();
    let data = [0x55; 4000];
    let stream = tcp(inner, far, &data);
    let mut datagrams = udp((inner, at(A, 1)), (far, at(B, 2)), &data);
    let sum = pseudo_v4(A.into(), B.into(), proto::UDP, 4008).fold();
    datagrams[40..42].copy_from_slice(&sum.to_be_bytes());
    for (gso_type, csum_offset, odd) in [(GSO_TCPV4, 16, stream), (GSO_UDP_L4, 6, datagrams)] {
        let gso = VnetHdr {
            flags: F_NEEDS_CSUM,
            gso_type,
            hdr_len: u16::try_from(odd.len() - data.len()).unwrap(),
            gso_size: 1000,
            csum_start: 34,
            csum_offset,
            ..VnetHdr::default()
        };
        send(&mut tunnel, gso, &odd);
    }
    let mut good = vec![0x66; 100];
    good[12..14].copy_from_slice(&[0x88, 0xb5]);
    send(&mut from, VnetHdr::default(), &good);
    let mut batch = Batch::new();
    let mut got = Vec::new();
    netvale_testkit::eventually("the other frame comes", || {
        for i in 0..receive(&mut whole, &pool, 8, &mut batch) {
            got.push(get(&batch, &pool, i));
        }
        got.contains(&good)
    });
    assert!(!got.iter().any(|f| f.ends_with(&[0x55; 60])), "{got:?}");
    // The kernel itself drops what it cannot describe in a ring.
    assert_eq!(whole.incomplete() + whole.missed(), 2);
}

#[test]
fn what_no_header_describes_does_not_end_reception() {
    let test = "whole::what_no_header_describes_does_not_end_reception";
    with_and_without_a_ring(|ring| undescribed(test, ring));
}

fn undescribed(test: &str, ring: Option<RingConfig>) {
    let Some(ns) = NetNs::new(test) else {
        return;
    };
    let tap = tap(&ns);
    let config = PacketConfig::new("right");
    let mut whole = ns.enter(|| WholeSocket::open(&config, 1514, ring)).unwrap();
    let pool = pool(BUFS);
    let mut good = vec![0x66; 100];
    good[12..14].copy_from_slice(&[0x88, 0xb5]);
    let sent = [&[0; 10], &good[..]].concat();
    assert!(tap.write(&to_be_fragmented()).unwrap());
    let mut batch = Batch::new();
    netvale_testkit::eventually("frames come", || {
        assert!(tap.write(&sent).unwrap());
        let n = receive(&mut whole, &pool, 8, &mut batch);
        (0..n).any(|i| get(&batch, &pool, i) == good)
    });
    assert!(whole.incomplete() + whole.missed() > 0);
    assert!(!whole.has_ring());
}

//! TCP between two namespaces, carried by back ends with segmentation and
//! checksums left out.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use netvale_backends::batch::{Batch, BufPool};
use netvale_backends::packet::{PacketConfig, PacketSocket};
use netvale_backends::tap::{Offloads, Tap, TapConfig, TapQueue, TapUring};
use netvale_testkit::PATIENCE;
use netvale_testkit::net::NetNs;
use netvale_wire::vnet::{GSO_TCPV4, GSO_TCPV6, HdrLen, VnetHdr};

use crate::common::{cable, pool, room};

/// Buffers that hold the longest frame.
const LONGEST: u32 = 33;
const BYTES: usize = 8 << 20;

/// What is seen of the frames that pass.
#[derive(Debug, Default)]
struct Seen {
    longest: usize,
    segmented: u64,
    partial: u64,
    plain: u64,
}

/// One of the two sides of the wire.
trait Side {
    fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> usize;
    fn send(&mut self, pool: &BufPool, batch: &Batch);
}

impl Side for TapQueue {
    fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> usize {
        Self::recv(self, pool, batch).unwrap()
    }

    fn send(&mut self, pool: &BufPool, batch: &Batch) {
        let sent = Self::send(self, pool, batch, 0).unwrap();
        assert_eq!(sent.refused, 0);
    }
}

impl Side for TapUring {
    fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> usize {
        Self::recv(self, pool, batch).unwrap()
    }

    fn send(&mut self, pool: &BufPool, batch: &Batch) {
        let sent = Self::send(self, pool, batch, 0).unwrap();
        assert_eq!(sent.refused, 0);
    }
}

impl Side for PacketSocket {
    fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> usize {
        Self::recv(self, pool, batch).unwrap()
    }

    fn send(&mut self, pool: &BufPool, batch: &Batch) {
        let sent = Self::send(self, pool, batch, 0).unwrap();
        assert_eq!(sent.refused, 0);
    }
}

/// Carries frames from one side to the other; whether there were any.
fn carry(
    from: &mut dyn Side,
    to: &mut dyn Side,
    pool: &BufPool,
    (header, v6): (HdrLen, bool),
    seen: &mut Seen,
) -> bool {
    let (mut batch, mut out) = (Batch::new(), Batch::new());
    room(&mut batch, 0, 8, LONGEST);
    let n = from.recv(pool, &mut batch);
    for i in 0..n {
        assert!(!batch.truncated(i));
        let mut head = [0; 12];
        let _ = batch.read(pool, i, 0, &mut head);
        let vnet = VnetHdr::parse(&head, header).unwrap();
        let len = batch.frame_len(i) - header.get();
        seen.longest = seen.longest.max(len);
        if vnet.needs_csum() {
            // TCP behind Ethernet and IP headers without options; neighbours
            // are looked for with complete checksums.
            let start = if v6 { 54 } else { 34 };
            assert_eq!((vnet.csum_start, vnet.csum_offset), (start, 16));
            seen.partial += 1;
        } else {
            seen.plain += 1;
        }
        if vnet.gso() == if v6 { GSO_TCPV6 } else { GSO_TCPV4 } {
            assert!(vnet.needs_csum(), "segmentation needs the checksum");
            assert!((500..=1448).contains(&vnet.gso_size), "{vnet:?}");
            assert!(len > usize::from(vnet.gso_size));
            seen.segmented += 1;
        } else {
            assert!(len <= 1514, "{len} bytes and no segmentation: {vnet:?}");
        }
        let chain: Vec<_> = batch.pieces(i).collect();
        out.push(&chain).unwrap();
    }
    to.send(pool, &out);
    n > 0
}

/// Sends bytes both ways at once between a client in `a` and a server in `b`,
/// while `left` and `right` are joined.
fn transfer(
    a: &NetNs,
    b: &NetNs,
    server: SocketAddr,
    left: &mut dyn Side,
    right: &mut dyn Side,
    header: HdrLen,
) -> [Seen; 2] {
    let listener = b.enter(|| TcpListener::bind(server)).unwrap();
    let pool = pool(8 * LONGEST);
    let mut seen = [Seen::default(), Seen::default()];
    let [there, back] = &mut seen;
    let form = (header, server.is_ipv6());
    thread::scope(|scope| {
        let connect = || TcpStream::connect_timeout(&server, PATIENCE).unwrap();
        let client = scope.spawn(move || exchange(a.enter(connect), 1));
        let server = scope.spawn(move || exchange(listener.accept().unwrap().0, 2));
        while !(client.is_finished() && server.is_finished()) {
            let moved = carry(left, right, &pool, form, there);
            if !(carry(right, left, &pool, form, back) || moved) {
                thread::yield_now();
            }
        }
    });
    seen
}

/// Sends a pattern and checks the other's.
fn exchange(stream: TcpStream, salt: u8) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let other = 3 - salt;
    let reading = thread::spawn(move || {
        let mut buf = vec![0; 1 << 16];
        let mut at = 0;
        while at < BYTES {
            let n = reader.read(&mut buf).unwrap();
            assert_ne!(n, 0, "the connection ended after {at} bytes");
            for (i, &byte) in buf[..n].iter().enumerate() {
                assert_eq!(byte, pattern(at + i, other), "byte {}", at + i);
            }
            at += n;
        }
    });
    let mut writer = stream;
    let mut at = 0;
    while at < BYTES {
        let part: Vec<u8> = (at..at + (1 << 16)).map(|i| pattern(i, salt)).collect();
        writer.write_all(&part).unwrap();
        at += part.len();
    }
    reading.join().unwrap();
}

fn pattern(i: usize, salt: u8) -> u8 {
    i.wrapping_mul(31).to_le_bytes()[1] ^ i.to_le_bytes()[0] ^ salt
}

fn tap(ns: &NetNs, name: &str, address: &str, header: HdrLen) -> TapQueue {
    let mut config = TapConfig::new(name);
    // One end each way.
    config.napi = address.ends_with('2');
    config.header = header;
    config.offloads = Offloads::ALL;
    let tap = ns.enter(|| Tap::open(&config)).unwrap();
    ns.ip(&format!("addr add {address}/24 dev {name}"));
    let last = address.rsplit('.').next().unwrap_or_default();
    ns.set(&format!("ipv6/conf/{name}/disable_ipv6"), "0");
    ns.ip(&format!("addr add fd77::{last}/64 dev {name} nodad"));
    tap.into_queues().remove(0)
}

fn check([there, back]: &[Seen; 2]) {
    for seen in [there, back] {
        assert!(seen.longest > 32_000, "{seen:?}");
        assert!(
            seen.segmented > 0 && seen.partial >= seen.segmented,
            "{seen:?}"
        );
    }
}

#[test]
fn long_frames_pass_between_two_taps() {
    let Some(_) = NetNs::new("tcp::long_frames_pass_between_two_taps") else {
        return;
    };
    for (ring, header, server) in [
        (false, HdrLen::MERGED, "10.77.0.2:7000"),
        (false, HdrLen::SHORT, "[fd77::2]:7000"),
        (true, HdrLen::MERGED, "[fd77::2]:7000"),
        (true, HdrLen::SHORT, "10.77.0.2:7000"),
    ] {
        let server = server.parse().unwrap();
        let (a, b) = (NetNs::make(), NetNs::make());
        let left = tap(&a, "nvt0", "10.77.0.1", header);
        let right = tap(&b, "nvt0", "10.77.0.2", header);
        let seen = if ring {
            let mut left = TapUring::new(left, 8).unwrap();
            let mut right = TapUring::new(right, 8).unwrap();
            transfer(&a, &b, server, &mut left, &mut right, header)
        } else {
            let (mut left, mut right) = (left, right);
            transfer(&a, &b, server, &mut left, &mut right, header)
        };
        check(&seen);
    }
}

#[test]
fn long_frames_pass_between_a_packet_socket_and_a_tap() {
    let test = "tcp::long_frames_pass_between_a_packet_socket_and_a_tap";
    let Some(_) = NetNs::new(test) else {
        return;
    };
    for header in [HdrLen::SHORT, HdrLen::MERGED] {
        let (a, wire, b) = (NetNs::make(), NetNs::make(), NetNs::make());
        cable(&a, &wire, "");
        a.ip("addr add 10.77.0.1/24 dev left");
        let mut config = PacketConfig::new("right");
        config.header = header;
        let mut left = wire.enter(|| PacketSocket::open(&config)).unwrap();
        let mut right = tap(&b, "nvt0", "10.77.0.2", header);
        let server = "10.77.0.2:7000".parse().unwrap();
        let seen = transfer(&a, &b, server, &mut left, &mut right, header);
        check(&seen);
    }
}

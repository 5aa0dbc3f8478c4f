use std::net::UdpSocket;
use std::time::Duration;

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::tap::{
    Make, Offloads, Packed, Tap, TapConfig, TapError, TapQueue, TapUring, supported,
};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually};
use netvale_wire::mac::MacAddr;
use netvale_wire::vnet::{F_NEEDS_CSUM, HdrLen, VnetHdr};

use crate::common::{at, get, mac, pool, put, readable, room, udp, udp_payload};

const HOST: [u8; 4] = [10, 77, 0, 1];
const HERE: [u8; 4] = [10, 77, 0, 2];

/// A TAP with an address in a namespace, behind which there is a station.
pub(crate) fn tap_with_host(ns: &NetNs, config: &TapConfig) -> Tap {
    let tap = ns.enter(|| Tap::open(config)).unwrap();
    let name = tap.name().to_owned();
    ns.ip(&format!("addr add 10.77.0.1/24 dev {name}"));
    let station = mac(2);
    ns.ip(&format!(
        "neigh add 10.77.0.2 lladdr {station} dev {name} nud permanent"
    ));
    tap
}

/// A queue that is used in one of the two ways.
enum Way {
    Plain(TapQueue),
    Ring(Box<TapUring>),
}

impl Way {
    fn queue(&self) -> &TapQueue {
        match self {
            Self::Plain(q) => q,
            Self::Ring(r) => r.queue(),
        }
    }

    fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> usize {
        match self {
            Self::Plain(q) => q.recv(pool, batch).unwrap(),
            Self::Ring(r) => r.recv(pool, batch).unwrap(),
        }
    }

    fn send(&mut self, pool: &BufPool, batch: &Batch) -> (usize, usize) {
        let sent = match self {
            Self::Plain(q) => q.send(pool, batch, 0).unwrap(),
            Self::Ring(r) => r.send(pool, batch, 0).unwrap(),
        };
        (sent.next, sent.refused)
    }
}

#[test]
fn frames_pass_whole_in_both_directions() {
    let Some(_) = NetNs::new("tap::frames_pass_whole_in_both_directions") else {
        return;
    };
    for header in [HdrLen::NONE, HdrLen::SHORT, HdrLen::MERGED] {
        for ring in [false, true] {
            round_trip(header, ring);
        }
    }
}

fn round_trip(header: HdrLen, ring: bool) {
    let ns = NetNs::make();
    let mut config = TapConfig::new("nvt%d");
    config.header = header;
    let tap = tap_with_host(&ns, &config);
    assert_eq!((tap.name(), tap.made()), ("nvt0", true));
    let host_mac = ns.enter(|| tap.mac()).unwrap();
    let queue = tap.into_queues().remove(0);
    let mut way = match ring {
        true => Way::Ring(Box::new(TapUring::new(queue, 16).unwrap())),
        false => Way::Plain(queue),
    };
    let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();

    // From the host: 40 datagrams of all lengths, whatever else it sends.
    let (pool, mut batch) = (pool(256), Batch::new());
    let sent: Vec<Vec<u8>> = (0..40u8)
        .map(|i| vec![i; 1 + 37 * usize::from(i)])
        .collect();
    for payload in &sent {
        socket.send_to(payload, at(HERE, 6000)).unwrap();
    }
    let mut got = Vec::new();
    while got.len() < sent.len() {
        assert!(readable(way.queue(), PATIENCE), "only {} came", got.len());
        room(&mut batch, 0, 24, 2);
        for i in 0..way.recv(&pool, &mut batch) {
            let bytes = get(&batch, &pool, i);
            let vnet = VnetHdr::parse(&bytes, header).unwrap();
            assert_eq!(vnet.flags & F_NEEDS_CSUM, 0, "offloads are off");
            let frame = &bytes[header.get()..];
            if let Some(payload) = udp_payload(frame, 6000) {
                let [from, to] = [(host_mac, at(HOST, 5000)), (mac(2), at(HERE, 6000))];
                let mut wanted = udp(from, to, payload);
                wanted[18..20].copy_from_slice(&frame[18..20]); // IP identification
                wanted[20] = frame[20]; // do not fragment
                netvale_wire::ip::refresh_v4_checksum(&mut wanted[14..34]).unwrap();
                assert_eq!(frame, wanted, "complete, checksums included");
                got.push(payload.to_vec());
            }
        }
    }
    assert_eq!(got, sent);
    room(&mut batch, 0, 4, 2);
    assert_eq!(way.recv(&pool, &mut batch), 0, "no more");

    // To the host, a refused frame among them.
    batch.clear();
    for (i, payload) in (0u32..).zip(&sent) {
        let mut bytes = vec![0; header.get()];
        let [from, to] = [(mac(2), at(HERE, 6000)), (host_mac, at(HOST, 5000))];
        bytes.extend(udp(from, to, payload));
        put(&mut batch, &pool, i * 2, &bytes);
        if i == 7 {
            put(&mut batch, &pool, 200, &vec![0; header.get() + 9]);
            batch.push_buf(256, 60); // outside the pool
        }
    }
    assert_eq!(way.send(&pool, &batch), (42, 2));
    let mut buf = [0; 2048];
    for payload in &sent {
        let (n, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!((&buf[..n], from), (&payload[..], at(HERE, 6000).into()));
    }
}

#[test]
fn a_checksum_that_is_left_out_is_completed_by_the_host() {
    let Some(ns) = NetNs::new("tap::a_checksum_that_is_left_out_is_completed_by_the_host") else {
        return;
    };
    let mut config = TapConfig::new("nvt0");
    config.header = HdrLen::MERGED;
    config.offloads = Offloads::ALL;
    let tap = tap_with_host(&ns, &config);
    let host_mac = ns.enter(|| tap.mac()).unwrap();
    let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000))).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let [from, to] = [(mac(2), at(HERE, 6000)), (host_mac, at(HOST, 5000))];
    let mut frame = udp(from, to, b"checksum left out");
    let wrong = [frame[40] ^ 0x5a, frame[41]];
    frame[40..42].copy_from_slice(&wrong);
    let queue = &tap.queues()[0];
    let with = |vnet: VnetHdr| {
        let mut bytes = vec![0; 12];
        vnet.write(&mut bytes, HdrLen::MERGED).unwrap();
        bytes.extend(&frame);
        assert!(queue.write(&bytes).unwrap());
    };
    with(VnetHdr::default()); // wrong, dropped by the host
    with(VnetHdr {
        flags: F_NEEDS_CSUM,
        csum_start: 34,
        csum_offset: 6,
        ..VnetHdr::default()
    });
    let mut buf = [0; 64];
    let (n, _) = socket.recv_from(&mut buf).unwrap();
    assert_eq!(&buf[..n], b"checksum left out");
    socket.set_nonblocking(true).unwrap();
    socket.recv_from(&mut buf).unwrap_err();
}

#[test]
fn packed_receiving_uses_what_each_frame_needs() {
    let Some(ns) = NetNs::new("tap::packed_receiving_uses_what_each_frame_needs") else {
        return;
    };
    let mut config = TapConfig::new("nvt0");
    config.mtu = Some(9000);
    let tap = tap_with_host(&ns, &config);
    assert_eq!(ns.enter(|| tap.mtu()).unwrap(), 9000);
    let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000))).unwrap();
    let lens = [100, 5000, 1, 8900, 2006, 2007];
    for (i, len) in (0u8..).zip(lens) {
        socket.send_to(&vec![i; len], at(HERE, 6000)).unwrap();
    }
    let (pool, mut batch) = (pool(64), Batch::new());
    let free: Vec<Piece> = (0..20)
        .map(|buf| Piece {
            buf,
            off: 0,
            len: 2048,
        })
        .collect();
    let queue = &tap.queues()[0];
    let mut used = 0;
    let mut payloads = Vec::new();
    eventually("all have come", || {
        batch.clear();
        // Two at a time.
        let got = queue.recv_packed(&pool, &free[used..], (9014, 2), &mut batch);
        let got = got.unwrap();
        assert!(got.frames == batch.len() && got.frames <= 2, "{got:?}");
        assert!(!got.drained || got.frames < 2, "{got:?}");
        used += got.pieces;
        for i in 0..batch.len() {
            let frame = get(&batch, &pool, i);
            payloads.extend(udp_payload(&frame, 6000).map(<[u8]>::to_vec));
        }
        payloads.len() == lens.len()
    });
    for ((i, len), payload) in (0u8..).zip(lens).zip(&payloads) {
        assert_eq!(payload, &vec![i; len]);
    }
    // 42 bytes of headers: 1, 3, 1, 5, 1 and 2 buffers, if nothing else came.
    assert!((13..20).contains(&used), "{used} buffers");
    let rest = &free[..4];
    let none = queue.recv_packed(&pool, rest, (9014, 2), &mut batch);
    assert_eq!(none.unwrap(), Packed::default(), "four buffers are too few");
    let none = queue.recv_packed(&pool, &free, (9014, 2), &mut batch);
    assert!(none.unwrap().drained);
}

#[test]
fn frames_that_are_too_long_are_marked() {
    let Some(_) = NetNs::new("tap::frames_that_are_too_long_are_marked") else {
        return;
    };
    for ring in [false, true] {
        let ns = NetNs::make();
        let mut config = TapConfig::new("nvt0");
        config.mtu = Some(9000);
        let queue = tap_with_host(&ns, &config).into_queues().remove(0);
        let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000))).unwrap();
        let pool = pool(8);
        let free = [0, 1].map(|buf| Piece {
            buf,
            off: 0,
            len: pool.stride(),
        });
        for (len, wanted) in [(2111, (2111, false)), (3000, (2112, true))] {
            socket.send_to(&vec![7; len - 42], at(HERE, 6000)).unwrap();
            let mut batch = Batch::new();
            while batch.len() == 0 || batch.frame_len(0) < 1000 {
                assert!(readable(&queue, PATIENCE));
                batch.clear();
                let got = queue.recv_packed(&pool, &free, (1500, 1), &mut batch);
                assert_eq!(got.unwrap().frames, 1);
            }
            assert_eq!((batch.frame_len(0), batch.truncated(0)), wanted);
        }
        let mut way = match ring {
            true => Way::Ring(Box::new(TapUring::new(queue, 4).unwrap())),
            false => Way::Plain(queue),
        };
        for len in [57, 58, 59] {
            socket.send_to(&vec![7; len], at(HERE, 6000)).unwrap();
        }
        let mut batch = Batch::new();
        let mut cut = Vec::new();
        while cut.len() < 3 {
            assert!(readable(way.queue(), PATIENCE));
            batch.clear();
            batch.push_buf(0, 100);
            if way.recv(&pool, &mut batch) == 1 {
                let frame = get(&batch, &pool, 0);
                if frame[34..].starts_with(&5000u16.to_be_bytes()) {
                    cut.push((frame.len(), batch.truncated(0)));
                }
            }
        }
        assert_eq!(cut, [(99, false), (100, false), (100, true)]);
    }
}

#[test]
fn chains_hold_the_same_however_their_buffers_lie() {
    let Some(_) = NetNs::new("tap::chains_hold_the_same_however_their_buffers_lie") else {
        return;
    };
    // Buffers that follow each other in memory are one entry of a list.
    for order in [
        [0, 1, 2, 3, 4],
        [4, 3, 2, 1, 0],
        [0, 1, 3, 4, 2],
        [7, 2, 3, 9, 5],
    ] {
        for ring in [false, true] {
            let ns = NetNs::make();
            let mut config = TapConfig::new("nvt0");
            config.mtu = Some(9000);
            let tap = tap_with_host(&ns, &config);
            let host_mac = ns.enter(|| tap.mac()).unwrap();
            let queue = tap.into_queues().remove(0);
            let pool = pool(16);
            let chain = order.map(|buf| Piece {
                buf,
                off: 0,
                len: pool.stride(),
            });
            let whole = 5 * pool.stride() as usize;
            let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000))).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let payload: Vec<u8> = (0..8900u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
            // Longest frame expected: as many bytes as come, and one less.
            let frame_len = 42 + payload.len();
            for longest in [frame_len, frame_len - 1, whole] {
                socket.send_to(&payload, at(HERE, 6000)).unwrap();
                let (mut batch, mut got) = (Batch::new(), None);
                while got.is_none() {
                    assert!(readable(&queue, PATIENCE));
                    batch.clear();
                    queue
                        .recv_packed(&pool, &chain, (longest, 1), &mut batch)
                        .unwrap();
                    let bytes = get(&batch, &pool, 0);
                    got = udp_payload(&bytes, 6000).map(<[u8]>::to_vec);
                }
                assert!(got.as_ref() == Some(&payload), "{order:?}, {longest}");
                assert!(!batch.truncated(0));
            }
            // The other way.
            let mut way = match ring {
                true => Way::Ring(Box::new(TapUring::new(queue, 4).unwrap())),
                false => Way::Plain(queue),
            };
            let [from, to] = [(mac(2), at(HERE, 6000)), (host_mac, at(HOST, 5000))];
            let mut batch = Batch::new();
            batch.push(&chain).unwrap();
            let frame = udp(from, to, &payload);
            assert_eq!(batch.write(&pool, 0, 0, &frame), frame.len());
            batch.set_len(0, frame.len(), false);
            assert_eq!(way.send(&pool, &batch), (1, 0));
            let mut back = vec![0; 9000];
            let n = socket.recv(&mut back).unwrap();
            assert!(back[..n] == payload, "{order:?}, {ring}");
        }
    }
}

#[test]
fn flows_are_spread_over_several_queues() {
    let Some(ns) = NetNs::new("tap::flows_are_spread_over_several_queues") else {
        return;
    };
    let mut config = TapConfig::new("nvt0");
    config.queues = 4;
    let tap = tap_with_host(&ns, &config);
    assert_eq!(tap.queues().len(), 4);
    let host_mac = ns.enter(|| tap.mac()).unwrap();
    for i in 0..64 {
        let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000 + i))).unwrap();
        socket.send_to(&[9], at(HERE, 6000)).unwrap();
    }
    let (pool, mut batch) = (pool(64), Batch::new());
    let mut counts = [0; 4];
    eventually("all have come", || {
        for (queue, count) in tap.queues().iter().zip(&mut counts) {
            room(&mut batch, 0, 16, 1);
            for i in 0..queue.recv(&pool, &mut batch).unwrap() {
                let frame = get(&batch, &pool, i);
                *count += u32::from(udp_payload(&frame, 6000).is_some());
            }
        }
        counts.iter().sum::<u32>() == 64
    });
    let used = counts.iter().filter(|&&n| n > 0).count();
    assert!(used >= 3, "{counts:?}");
    // Every queue leads to the host.
    let socket = ns.enter(|| UdpSocket::bind(at(HOST, 4000))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for (i, queue) in (0u8..).zip(tap.queues()) {
        let [from, to] = [(mac(2), at(HERE, 6000)), (host_mac, at(HOST, 4000))];
        assert!(queue.write(&udp(from, to, &[i])).unwrap());
        let mut buf = [0; 8];
        assert_eq!(socket.recv(&mut buf).unwrap(), 1);
        assert_eq!(buf[0], i);
    }
}

#[test]
fn interfaces_are_made_adopted_and_passed_on() {
    let Some(ns) = NetNs::new("tap::interfaces_are_made_adopted_and_passed_on") else {
        return;
    };
    let open = |change: &dyn Fn(&mut TapConfig)| {
        let mut config = TapConfig::new("nvt7");
        change(&mut config);
        // A closure in another thread: only data go there.
        ns.enter(|| Tap::open(&config))
    };
    let exists = || ns.try_ip("link show dev nvt7").status.success();
    assert!(ns.enter(supported).unwrap());

    let missing = open(&|c| c.make = Make::Adopt).unwrap_err();
    assert!(matches!(missing, TapError::Missing { .. }), "{missing}");

    // Made for a while.
    let tap = open(&|c| {
        c.make = Make::New;
        c.mac = Some(MacAddr([2, 0, 0, 0, 0, 0x77]));
    })
    .unwrap();
    assert_eq!(ns.mac("nvt7"), [2, 0, 0, 0, 0, 0x77]);
    assert!(exists());
    let busy = open(&|_| ()).unwrap_err();
    assert!(busy.to_string().contains("another program"), "{busy}");
    drop(tap);
    eventually("it goes with its last queue", || !exists());

    // Failing leaves nothing: the header fits, the MTU does not.
    let refused = open(&|c| c.mtu = Some(1 << 20)).unwrap_err();
    assert!(refused.to_string().contains("MTU"), "{refused}");
    eventually("it is gone", || !exists());

    // Persistent, made by others, for several queues.
    ns.ip("tuntap add mode tap name nvt7 multi_queue vnet_hdr");
    let taken = open(&|c| c.make = Make::New).unwrap_err();
    assert!(matches!(taken, TapError::Exists { .. }), "{taken}");
    let one = open(&|c| c.header = HdrLen::SHORT).unwrap_err();
    assert!(matches!(one, TapError::Mismatch { .. }), "{one}");
    let mut tap = open(&|c| {
        c.make = Make::Adopt;
        c.queues = 2;
        c.header = HdrLen::MERGED;
        c.offloads = Offloads::ALL;
    })
    .unwrap();
    assert!(!tap.made());
    assert!(tap.offloads().tso4 && tap.offloads().csum);
    assert_eq!(tap.set_offloads(Offloads::NONE).unwrap(), Offloads::NONE);
    let fds = tap.into_queues().into_iter().map(Into::into).collect();
    let tap = Tap::from_fds(fds).unwrap();
    assert_eq!((tap.name(), tap.header()), ("nvt7", HdrLen::MERGED));
    drop(tap);
    assert!(exists(), "it was persistent");

    // And no longer.
    let tap = open(&|c| {
        c.queues = 2;
        c.header = HdrLen::SHORT;
        c.persistent = Some(false);
    })
    .unwrap();
    drop(tap);
    eventually("it is gone", || !exists());
}

#[test]
fn what_is_down_or_deleted_says_so() {
    let Some(_) = NetNs::new("tap::what_is_down_or_deleted_says_so") else {
        return;
    };
    for ring in [false, true] {
        let ns = NetNs::make();
        let mut config = TapConfig::new("nvt0");
        config.up = None;
        let queue = ns
            .enter(|| Tap::open(&config))
            .unwrap()
            .into_queues()
            .remove(0);
        let mut ring = ring.then(|| TapUring::new(queue, 4).unwrap());
        let plain = ring.is_none().then(|| {
            ns.enter(|| Tap::open(&TapConfig::new("nvt1")))
                .unwrap()
                .into_queues()
                .remove(0)
        });
        let (pool, mut batch) = (pool(4), Batch::new());
        batch.push_buf(0, 60);
        let mut send = |batch: &Batch| match &mut ring {
            Some(ring) => ring.send(&pool, batch, 0).map(|s| s.next),
            None => plain
                .as_ref()
                .unwrap()
                .send(&pool, batch, 0)
                .map(|s| s.next),
        };
        let name = if plain.is_some() { "nvt1" } else { "nvt0" };
        ns.ip(&format!("link set {name} down"));
        let e = send(&batch).unwrap_err();
        assert!(matches!(e, TapError::Down { .. }), "{e}");
        ns.ip(&format!("link set {name} up"));
        assert_eq!(send(&batch).unwrap(), 1);
        ns.ip(&format!("link del {name}"));
        let e = send(&batch).unwrap_err();
        assert!(matches!(e, TapError::Gone { .. }), "{e}");
        let e = match &mut ring {
            Some(ring) => ring.recv(&pool, &mut batch).unwrap_err(),
            None => plain.as_ref().unwrap().recv(&pool, &mut batch).unwrap_err(),
        };
        assert!(matches!(e, TapError::Gone { .. }), "{e}");
    }
}

#[test]
fn a_queue_survives_that_io_uring_is_forbidden() {
    let Some(ns) = NetNs::new("tap::a_queue_survives_that_io_uring_is_forbidden") else {
        return;
    };
    let tap = tap_with_host(&ns, &TapConfig::new("nvt0"));
    let host_mac = ns.enter(|| tap.mac()).unwrap();
    let queue = tap.into_queues().remove(0);
    let refused = std::thread::spawn(|| {
        // As a container engine's filter does: io_uring_setup is 425 everywhere.
        netvale_testkit::refuse(425).unwrap();
        assert!(!TapUring::available());
        TapUring::new(queue, 16).unwrap_err()
    });
    let refused = refused.join().unwrap();
    let said = refused.why.to_string();
    assert!(said.contains("io_uring for TAP nvt0"), "{said}");
    let socket = ns.enter(|| UdpSocket::bind(at(HOST, 5000))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let [from, to] = [(mac(2), at(HERE, 6000)), (host_mac, at(HOST, 5000))];
    assert!(refused.queue.write(&udp(from, to, b"here")).unwrap());
    let mut buf = [0; 8];
    assert_eq!(socket.recv(&mut buf).unwrap(), 4);
}

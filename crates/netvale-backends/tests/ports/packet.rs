use std::process::Command;
use std::time::Duration;

use netvale_backends::batch::{Batch, BufPool};
use netvale_backends::packet::{Fanout, PacketConfig, PacketError, PacketSocket, Spread};
use netvale_backends::tap::{Tap, TapConfig, TapQueue};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, frame, skip};
use netvale_wire::vnet::{F_NEEDS_CSUM, HdrLen, VnetHdr};

use crate::common::{at, cable, get, mac, pool, put, readable, room, udp};

/// Frames of all lengths, some with one or two VLAN tags.
pub(crate) fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (seq, len) in [60, 61, 64, 300, 1000, 1400, 1505, 1506]
        .into_iter()
        .enumerate()
    {
        let seq = seq as u64;
        let whole = frame::tagged(frame::BROADCAST, frame::mac(1), len, 9, seq);
        frames.push(whole.clone());
        for tags in [
            &[0x81, 0, 0x20, 5][..],
            &[0x88, 0xa8, 0, 7],
            &[0x81, 0, 0, 0, 0x81, 0, 0xff, 0xff],
        ] {
            let mut tagged = whole[..12].to_vec();
            tagged.extend(tags);
            tagged.extend(&whole[12..]);
            frames.push(tagged);
        }
    }
    frames
}

pub(crate) fn open(ns: &NetNs, config: &PacketConfig) -> PacketSocket {
    ns.enter(|| PacketSocket::open(config)).unwrap()
}

/// Receives as many frames of ours as are wanted, whatever else comes.
fn receive(socket: &mut PacketSocket, pool: &BufPool, wanted: usize) -> Vec<Vec<u8>> {
    let mut batch = Batch::new();
    let mut got = Vec::new();
    while got.len() < wanted {
        assert!(readable(&socket, PATIENCE), "only {} came", got.len());
        room(&mut batch, 0, 16, 1);
        for i in 0..socket.recv(pool, &mut batch).unwrap() {
            assert!(!batch.truncated(i));
            got.push(get(&batch, pool, i));
        }
    }
    got
}

#[test]
fn frames_pass_exactly_in_both_directions() {
    let Some(a) = NetNs::new("packet::frames_pass_exactly_in_both_directions") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1500");
    for header in [HdrLen::NONE, HdrLen::SHORT, HdrLen::MERGED] {
        for bypass in [true, false] {
            let (mut l, mut r) = (PacketConfig::new("left"), PacketConfig::new("right"));
            (l.header, r.header) = (header, header);
            (l.qdisc_bypass, r.qdisc_bypass) = (bypass, bypass);
            let (mut left, mut right) = (open(&a, &l), open(&b, &r));
            let pool = pool(128);
            let frames: Vec<Vec<u8>> = frames()
                .iter()
                .map(|f| [&vec![0; header.get()], &f[..]].concat())
                .collect();
            for turn in 0..2 {
                let (from, to) = match turn {
                    0 => (&mut left, &mut right),
                    _ => (&mut right, &mut left),
                };
                let mut batch = Batch::new();
                for (i, f) in (64..).zip(&frames) {
                    put(&mut batch, &pool, i, f);
                }
                let sent = from.send(&pool, &batch, 0).unwrap();
                assert_eq!((sent.next, sent.refused), (frames.len(), 0));
                let got = receive(to, &pool, frames.len());
                assert_eq!(got.len(), frames.len(), "and no other");
                for (got, wanted) in got.iter().zip(&frames) {
                    assert_eq!(got, wanted, "{header:?}");
                }
                // What was sent does not come back to the sender.
                assert!(!readable(&*from, Duration::ZERO));
            }
        }
    }
}

#[test]
fn what_cannot_be_sent_is_refused_and_the_rest_is_sent() {
    let Some(a) = NetNs::new("packet::what_cannot_be_sent_is_refused_and_the_rest_is_sent") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1500");
    let mut left = open(&a, &PacketConfig::new("left"));
    let mut right = open(&b, &PacketConfig::new("right"));
    let pool = pool(64);
    let good = frame::tagged(frame::BROADCAST, frame::mac(1), 100, 9, 1);
    let mut batch = Batch::new();
    put(&mut batch, &pool, 20, &good);
    put(&mut batch, &pool, 21, &vec![0xff; 1600]); // too long
    put(&mut batch, &pool, 22, &good);
    batch.push_buf(64, 60); // no such buffer
    put(&mut batch, &pool, 23, &good);
    batch.push_buf(24, 5); // no Ethernet header
    put(&mut batch, &pool, 25, &good);
    let sent = left.send(&pool, &batch, 0).unwrap();
    assert_eq!((sent.next, sent.refused), (7, 3));
    assert_eq!(receive(&mut right, &pool, 4), vec![good; 4]);

    // Room that is too short by one byte, and by a tag.
    let plain = frame::tagged(frame::BROADCAST, frame::mac(1), 100, 9, 2);
    let mut tagged = plain[..12].to_vec();
    tagged.extend([0x81, 0, 0, 9]);
    tagged.extend(&plain[12..]);
    for (frame, room, cut) in [
        (&plain, 100, false),
        (&plain, 99, true),
        (&tagged, 104, false),
        (&tagged, 103, true),
    ] {
        batch.clear();
        put(&mut batch, &pool, 30, frame);
        left.send(&pool, &batch, 0).unwrap();
        assert!(readable(&right, PATIENCE));
        batch.clear();
        batch.push_buf(0, room);
        assert_eq!(right.recv(&pool, &mut batch).unwrap(), 1);
        assert_eq!(batch.truncated(0), cut, "{} into {room}", frame.len());
        let got = get(&batch, &pool, 0);
        assert_eq!(got[..], frame[..frame.len().min(room as usize)]);
    }
}

/// UDP on a VLAN with a header of 10 bytes, whose checksum is left to whoever
/// needs it.
pub(crate) fn left_undone_on_a_vlan() -> Vec<u8> {
    let ends = [1, 2].map(|n| (mac(n), at([10, 77, 0, n], 5000)));
    let plain = udp(ends[0], ends[1], b"on a vlan");
    let vnet = VnetHdr {
        flags: F_NEEDS_CSUM,
        csum_start: 38,
        csum_offset: 6,
        ..VnetHdr::default()
    };
    let mut frame = vec![0; 10];
    vnet.write(&mut frame, HdrLen::SHORT).unwrap();
    frame.extend(&plain[..12]);
    frame.extend([0x81, 0, 0, 5]);
    frame.extend(&plain[12..]);
    frame
}

/// What came with a header of 12 bytes is what was sent.
pub(crate) fn assert_undone_on_a_vlan(got: &[u8], sent: &[u8]) {
    assert_eq!(got[12..], sent[10..]);
    let seen = VnetHdr::parse(got, HdrLen::MERGED).unwrap();
    assert_eq!(seen.flags, F_NEEDS_CSUM);
    assert_eq!((seen.csum_start, seen.csum_offset), (38, 6));
}

#[test]
fn checksum_offsets_count_the_tag_that_is_put_back() {
    let Some(a) = NetNs::new("packet::checksum_offsets_count_the_tag_that_is_put_back") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    let [mut l, mut r] = ["left", "right"].map(PacketConfig::new);
    (l.header, r.header) = (HdrLen::SHORT, HdrLen::MERGED);
    let (mut left, mut right) = (open(&a, &l), open(&b, &r));
    // The receiving kernel takes the tag out and counts without it.
    let frame = left_undone_on_a_vlan();
    let pool = pool(32);
    let mut batch = Batch::new();
    put(&mut batch, &pool, 20, &frame);
    assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 1);
    let got = receive(&mut right, &pool, 1).remove(0);
    assert_undone_on_a_vlan(&got, &frame);
}

#[test]
fn marks_outgoing_frames_and_other_stations_are_told_apart() {
    let test = "packet::marks_outgoing_frames_and_other_stations_are_told_apart";
    let Some(ns) = NetNs::new(test) else {
        return;
    };
    // Both ends in one namespace: a mark does not leave it.
    cable(&ns, &ns, "");
    let config = |interface: &str, change: &dyn Fn(&mut PacketConfig)| {
        let mut config = PacketConfig::new(interface);
        change(&mut config);
        config
    };
    let mut plain = open(&ns, &config("left", &|c| c.receive = false));
    let mut marked = open(
        &ns,
        &config("left", &|c| {
            c.receive = false;
            c.mark = Some(0x1234_5678);
        }),
    );
    let mut filtered = open(
        &ns,
        &config("right", &|c| c.leave_out_mark = Some(0x1234_5678)),
    );
    let mut all = open(&ns, &config("right", &|_| ()));
    let mut outgoing = open(&ns, &config("left", &|c| c.ignore_outgoing = false));
    let mut incoming = open(&ns, &config("left", &|_| ()));
    let pool = pool(32);
    let frame = |seq| frame::tagged(frame::mac(77), frame::mac(1), 80, 9, seq);
    for seq in 1..=4 {
        let socket = if seq % 2 == 1 {
            &mut marked
        } else {
            &mut plain
        };
        let mut batch = Batch::new();
        put(&mut batch, &pool, 20, &frame(seq));
        assert_eq!(socket.send(&pool, &batch, 0).unwrap().next, 1);
    }
    let everything = vec![frame(1), frame(2), frame(3), frame(4)];
    assert_eq!(receive(&mut all, &pool, 4), everything);
    assert_eq!(receive(&mut filtered, &pool, 2), [frame(2), frame(4)]);
    assert!(!readable(&filtered, Duration::ZERO));
    // Past the queueing discipline they are not shown as outgoing.
    let mut queued = open(
        &ns,
        &config("left", &|c| {
            c.receive = false;
            c.qdisc_bypass = false;
        }),
    );
    let mut batch = Batch::new();
    put(&mut batch, &pool, 20, &frame(5));
    assert_eq!(queued.send(&pool, &batch, 0).unwrap().next, 1);
    assert_eq!(receive(&mut outgoing, &pool, 1), [frame(5)]);
    assert!(!readable(&incoming, Duration::ZERO));
    let mut none = Batch::new();
    room(&mut none, 0, 4, 1);
    assert_eq!(incoming.recv(&pool, &mut none).unwrap(), 0);
    // A socket that does not receive has nothing.
    assert_eq!(plain.stats().unwrap().frames, 0);
}

#[test]
fn a_fanout_group_shares_the_frames() {
    let Some(a) = NetNs::new("packet::a_fanout_group_shares_the_frames") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    let mut left = open(&a, &PacketConfig::new("left"));
    let mut config = PacketConfig::new("right");
    config.fanout = Some(Fanout {
        group: 7,
        spread: Spread::RoundRobin,
    });
    let mut group: Vec<PacketSocket> = (0..3).map(|_| open(&b, &config)).collect();
    config.fanout = Some(Fanout {
        group: 7,
        spread: Spread::Hash,
    });
    let e = b.enter(|| PacketSocket::open(&config)).unwrap_err();
    assert!(e.to_string().contains("fanout group"), "{e}");
    let pool = pool(64);
    for seq in 0..30 {
        let mut batch = Batch::new();
        let frame = frame::tagged(frame::BROADCAST, frame::mac(1), 64, 9, seq);
        put(&mut batch, &pool, 40, &frame);
        assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 1);
    }
    let mut seen = Vec::new();
    for socket in &mut group {
        for f in receive(socket, &pool, 10) {
            seen.push(frame::verify(&f).unwrap().1);
        }
        assert!(!readable(&*socket, Duration::ZERO));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..30).collect::<Vec<_>>());
}

#[test]
fn interfaces_that_go_down_or_away_say_so() {
    let Some(a) = NetNs::new("packet::interfaces_that_go_down_or_away_say_so") else {
        return;
    };
    let b = NetNs::make();
    let missing = a.enter(|| PacketSocket::open(&PacketConfig::new("left")));
    assert!(matches!(missing, Err(PacketError::Missing { .. })));
    let name = a.enter(|| PacketSocket::open(&PacketConfig::new("a/b")));
    assert!(matches!(name, Err(PacketError::Name { .. })));
    cable(&a, &b, "");
    let mut left = open(&a, &PacketConfig::new("left"));
    let pool = pool(32);
    let mut batch = Batch::new();
    put(
        &mut batch,
        &pool,
        20,
        &frame::tagged(frame::BROADCAST, frame::mac(1), 64, 9, 0),
    );

    a.ip("link set left down");
    assert!(readable(&left, PATIENCE));
    let mut empty = Batch::new();
    room(&mut empty, 0, 2, 1);
    let e = left.recv(&pool, &mut empty).unwrap_err();
    assert!(matches!(e, PacketError::Down { .. }), "{e}");
    let e = left.send(&pool, &batch, 0).unwrap_err();
    assert!(matches!(e, PacketError::Down { .. }), "{e}");
    assert!(e.to_string().contains("ip link set left up"));

    a.ip("link set left up");
    let mut right = open(&b, &PacketConfig::new("right"));
    eventually("it works again", || {
        left.send(&pool, &batch, 0).is_ok_and(|s| s.next == 1)
    });
    assert_eq!(receive(&mut right, &pool, 1).len(), 1);

    b.ip("link del right");
    assert!(readable(&left, PATIENCE));
    let e = left.recv(&pool, &mut empty).unwrap_err();
    assert!(matches!(e, PacketError::Gone { .. }), "{e}");
    let e = left.send(&pool, &batch, 0).unwrap_err();
    assert!(matches!(e, PacketError::Gone { .. }), "{e}");
}

#[test]
fn what_is_dropped_is_counted() {
    let Some(a) = NetNs::new("packet::what_is_dropped_is_counted") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    let mut left = open(&a, &PacketConfig::new("left"));
    let mut config = PacketConfig::new("right");
    config.receive_buffer = Some(4096);
    let mut right = open(&b, &config);
    let pool = pool(64);
    let mut batch = Batch::new();
    for seq in 0..50 {
        let frame = frame::tagged(frame::BROADCAST, frame::mac(1), 1000, 9, seq.into());
        put(&mut batch, &pool, 8 + seq, &frame);
    }
    assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 50);
    eventually("all have come", || right.stats().unwrap().frames == 50);
    let stats = right.stats().unwrap();
    assert!((1..50).contains(&stats.dropped), "{stats:?}");
    room(&mut batch, 0, 8, 1);
    let n = right.recv(&pool, &mut batch).unwrap() as u64;
    assert_eq!(n, 50 - stats.dropped);
    assert_eq!(right.stats().unwrap(), stats, "asking does not forget");
}

/// Sends all frames of a batch: how many were refused.
fn send_all(socket: &mut PacketSocket, pool: &BufPool, batch: &Batch) -> usize {
    let (mut next, mut refused) = (0, 0);
    eventually("all are done with", || {
        let sent = socket.send(pool, batch, next).unwrap();
        assert_eq!(sent.wait, sent.next < batch.len());
        next = sent.next;
        refused += sent.refused;
        next == batch.len()
    });
    refused
}

#[test]
fn what_an_interface_drops_does_not_hold_up_the_rest() {
    let test = "packet::what_an_interface_drops_does_not_hold_up_the_rest";
    let Some(a) = NetNs::new(test) else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    b.ip("link set dev right mtu 1000");
    let pool = pool(128);
    let frame = |len, seq| frame::tagged(frame::BROADCAST, frame::mac(1), len, 9, seq);
    for bypass in [true, false] {
        let mut config = PacketConfig::new("left");
        config.qdisc_bypass = bypass;
        let mut left = open(&a, &config);
        let mut right = open(&b, &PacketConfig::new("right"));
        let mut batch = Batch::new();
        // The other end takes no frames so long: first, in a row, and last.
        for seq in 0..60 {
            let len = if [0, 20, 21, 22, 59].contains(&seq) {
                1500
            } else {
                64
            };
            put(&mut batch, &pool, 64 + seq, &frame(len, seq.into()));
        }
        assert_eq!(send_all(&mut left, &pool, &batch), 5, "bypass: {bypass}");
        let mut wanted = (0..60).filter(|seq| ![0, 20, 21, 22, 59].contains(seq));
        for got in receive(&mut right, &pool, 55) {
            assert_eq!(frame::verify(&got).unwrap().1, wanted.next().unwrap());
        }
        // One at a time, with nothing behind it that could tell.
        for (len, refused) in [(1500, 1), (64, 0)] {
            let mut batch = Batch::new();
            put(&mut batch, &pool, 64, &frame(len, 7));
            assert_eq!(send_all(&mut left, &pool, &batch), refused);
        }
        assert_eq!(receive(&mut right, &pool, 1), [frame(64, 7)]);
        // It takes none at all. The queueing discipline of an interface
        // without a carrier does, and says nothing.
        if !bypass {
            continue;
        }
        b.ip("link set dev right down");
        assert_eq!(send_all(&mut left, &pool, &batch), 60);
        b.ip("link set dev right up");
        eventually("the cable is up", || {
            a.ip("-o link show dev left").contains("state UP")
        });
    }
}

#[test]
fn frames_wait_for_a_queue_that_is_full() {
    let test = "packet::frames_wait_for_a_queue_that_is_full";
    let Some(a) = NetNs::new(test) else {
        return;
    };
    let tc = |args: &str| {
        let run = || Command::new("tc").args(args.split(' ')).output();
        a.enter(run).is_ok_and(|out| out.status.success())
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    // The first frames pass, five are queued, and there they stay.
    let queue = |rate| format!("qdisc replace dev left root tbf burst 2000 limit 5000 rate {rate}");
    if !tc(&queue("8bit")) {
        skip(
            test,
            "needs tc and the token bucket filter (modprobe sch_tbf)",
        );
        return;
    }
    let mut config = PacketConfig::new("left");
    config.qdisc_bypass = false;
    let mut left = open(&a, &config);
    let mut right = open(&b, &PacketConfig::new("right"));
    let pool = pool(64);
    let mut batch = Batch::new();
    for seq in 0..30 {
        let frame = frame::tagged(frame::BROADCAST, frame::mac(1), 900, 9, seq.into());
        put(&mut batch, &pool, 32 + seq, &frame);
    }
    let mut next = left.send(&pool, &batch, 0).unwrap().next;
    assert!((5..10).contains(&next), "{next}");
    for _ in 0..3 {
        let sent = left.send(&pool, &batch, next).unwrap();
        assert_eq!((sent.next, sent.refused, sent.wait), (next, 0, true));
    }
    assert!(tc(&queue("1gbit")));
    eventually("all are sent", || {
        let sent = left.send(&pool, &batch, next).unwrap();
        assert_eq!(sent.refused, 0);
        next = sent.next;
        next == batch.len()
    });
    for (got, wanted) in receive(&mut right, &pool, 30).iter().zip(0..) {
        assert_eq!(frame::verify(got).unwrap().1, wanted);
    }
}

/// A datagram, with a header of 10 bytes, that is to be cut into fragments of
/// IP: a receiving socket has no word for that.
pub(crate) fn to_be_fragmented() -> Vec<u8> {
    let ends = [1, 2].map(|n| (mac(n), at([10, 77, 0, n], 5000)));
    let vnet = VnetHdr {
        flags: F_NEEDS_CSUM,
        gso_type: 3, // UDP, by fragmentation
        hdr_len: 42,
        gso_size: 1480,
        csum_start: 34,
        csum_offset: 6,
        ..VnetHdr::default()
    };
    let mut bytes = vec![0; 10];
    vnet.write(&mut bytes, HdrLen::SHORT).unwrap();
    bytes.extend(udp(ends[0], ends[1], &[0x55; 4000]));
    bytes
}

/// A TAP whose frames have a header of 10 bytes, as an interface of a
/// namespace.
pub(crate) fn tap(ns: &NetNs) -> TapQueue {
    let mut config = TapConfig::new("right");
    config.header = HdrLen::SHORT;
    let tap = ns.enter(|| Tap::open(&config)).unwrap();
    ns.ip("link set dev right up");
    tap.into_queues().remove(0)
}

#[test]
fn a_packet_that_no_header_describes_is_counted() {
    let Some(ns) = NetNs::new("packet::a_packet_that_no_header_describes_is_counted") else {
        return;
    };
    let tap = tap(&ns);
    let mut config = PacketConfig::new("right");
    config.header = HdrLen::SHORT;
    let mut socket = open(&ns, &config);
    let pool = pool(128);
    let good = frame::tagged(frame::BROADCAST, frame::mac(1), 100, 9, 1);
    let good = [&[0; 10], &good[..]].concat();
    for frames in [1, 8] {
        for frame in [&to_be_fragmented(), &good, &to_be_fragmented(), &good] {
            assert!(tap.write(frame).unwrap());
        }
        let (mut batch, mut got) = (Batch::new(), 0);
        eventually("the others come", || {
            room(&mut batch, 0, frames, 3);
            let n = socket.recv(&pool, &mut batch).unwrap();
            got += (0..n).filter(|&i| get(&batch, &pool, i) == good).count();
            got == 2
        });
    }
    assert_eq!(socket.odd(), 4);
}

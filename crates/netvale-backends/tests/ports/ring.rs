use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::packet::{PacketConfig, PacketError, PacketRing, PacketSocket, RingConfig};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, frame};
use netvale_wire::vnet::{HdrLen, VnetHdr};

use crate::common::{at, cable, get, mac, pool, put, readable, to_be_cut, udp};
use crate::packet::{
    assert_undone_on_a_vlan, frames, left_undone_on_a_vlan, open, tap, to_be_fragmented,
};

/// 32 slots.
const SMALL: u32 = 64 << 10;

fn ring(ns: &NetNs, header: HdrLen, bytes: u32) -> PacketRing {
    let mut config = PacketConfig::new("right");
    config.header = header;
    config.receive_buffer = Some(8 << 20);
    ns.enter(|| PacketRing::open(&config, RingConfig::for_mtu(1500, bytes)))
        .unwrap()
}

/// Both ends of a cable, and a socket with these headers at the left one.
fn wired(test: &str, settings: &str, header: HdrLen) -> Option<(NetNs, NetNs, PacketSocket)> {
    let (a, b) = (NetNs::new(&format!("ring::{test}"))?, NetNs::make());
    cable(&a, &b, settings);
    let left = sender(&a, header);
    Some((a, b, left))
}

fn sender(ns: &NetNs, header: HdrLen) -> PacketSocket {
    let mut config = PacketConfig::new("left");
    config.header = header;
    open(ns, &config)
}

/// Receives into the first `n` buffers; the frames, after it has been checked
/// that they have used them in order.
fn receive(ring: &mut PacketRing, pool: &BufPool, n: u32) -> Vec<Vec<u8>> {
    let piece = |buf| Piece {
        buf,
        off: 0,
        len: pool.stride(),
    };
    let free: Vec<Piece> = (0..n).map(piece).collect();
    let mut batch = Batch::new();
    let frames = ring.recv_packed(pool, &free, &mut batch).unwrap();
    assert_eq!(frames, batch.len());
    let used: Vec<Piece> = (0..frames).flat_map(|i| batch.chain(i).to_vec()).collect();
    assert_eq!(used, free[..used.len()]);
    assert!((0..frames).all(|i| !batch.truncated(i)));
    (0..frames).map(|i| get(&batch, pool, i)).collect()
}

/// A packet of TCP that waits for segmentation, with a header of 10 bytes. It
/// says which one it is and has a checksum of itself.
fn large(len: usize, seq: u64) -> Vec<u8> {
    let mut bytes = vec![0; 10];
    to_be_cut().write(&mut bytes, HdrLen::SHORT).unwrap();
    let payload: Vec<u8> = (0..len as u64 - 54)
        .map(|i| (i * 31 + seq * 7 + i / 251).to_le_bytes()[0])
        .collect();
    let [from, to] = [1, 2].map(|n| (mac(n), at([10, 77, 0, n], 5000)));
    // Ports, numbers, a header of five words, flags, window.
    bytes.extend(udp(from, to, &payload)[..34].iter());
    let total = u16::try_from(len - 14).unwrap();
    bytes[26..28].copy_from_slice(&total.to_be_bytes());
    bytes[33] = 6;
    netvale_wire::ip::refresh_v4_checksum(&mut bytes[24..44]).unwrap();
    bytes.extend([0x13, 0x88, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10]);
    bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(&payload);
    bytes
}

#[test]
fn frames_pass_exactly_through_a_ring() {
    let Some(a) = NetNs::new("ring::frames_pass_exactly_through_a_ring") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1500");
    for header in [HdrLen::NONE, HdrLen::SHORT, HdrLen::MERGED] {
        let mut left = sender(&a, header);
        let mut right = ring(&b, header, 1 << 20);
        assert_eq!(right.header(), header);
        let pool = pool(128);
        let frames: Vec<Vec<u8>> = frames()
            .iter()
            .map(|f| [&vec![0; header.get()], &f[..]].concat())
            .collect();
        let mut batch = Batch::new();
        for (i, f) in (64..).zip(&frames) {
            put(&mut batch, &pool, i, f);
        }
        assert_eq!(left.send(&pool, &batch, 0).unwrap().next, frames.len());
        let mut all = Vec::new();
        while all.len() < frames.len() {
            assert!(readable(&right, PATIENCE), "only {} came", all.len());
            assert!(right.is_ready());
            all.append(&mut receive(&mut right, &pool, 5));
        }
        assert_eq!(all, frames, "{header:?}");
        assert!(!right.is_ready());
        // And back.
        assert_eq!(right.send(&pool, &batch, 0).unwrap().next, frames.len());
        let mut batch = Batch::new();
        let mut n = 0;
        eventually("they come back", || {
            batch.clear();
            (0..24).for_each(|buf| batch.push_buf(buf, 2048));
            for i in 0..left.recv(&pool, &mut batch).unwrap() {
                assert_eq!(get(&batch, &pool, i), frames[n]);
                n += 1;
            }
            n == frames.len()
        });
        let stats = right.stats().unwrap();
        let wanted = frames.len() as u64;
        assert_eq!(
            (stats.frames, stats.dropped, right.missed()),
            (wanted, 0, 0)
        );
    }
}

#[test]
fn packets_longer_than_a_slot_keep_their_place() {
    let test = "packets_longer_than_a_slot_keep_their_place";
    let Some((_a, b, mut left)) = wired(test, "mtu 1500", HdrLen::SHORT) else {
        return;
    };
    for header in [HdrLen::SHORT, HdrLen::MERGED] {
        let mut right = ring(&b, header, SMALL);
        let pool = pool(256);
        let mut sent = Vec::new();
        // Around the ring, with and without tags, short ones in between.
        for round in 0..40u64 {
            let mut turn = Vec::new();
            for i in 0..6 {
                let seq = round * 6 + i;
                if i % 2 == 0 {
                    turn.push(large(
                        [65_000, 1990, 3000][usize::try_from(i / 2).unwrap()],
                        seq,
                    ));
                } else {
                    let len = 60 + usize::try_from(seq * 37 % 1400).unwrap();
                    let short = frame::tagged(frame::BROADCAST, frame::mac(1), len, 9, seq);
                    turn.push([&[0; 10], &short[..]].concat());
                }
            }
            if round % 2 == 1 {
                // What the header says of bytes behind the tag is put right
                // when it is taken out, and again when it is put back.
                for frame in &mut turn {
                    frame.splice(22..22, [0x81, 0, 0x20, 5]);
                    let mut vnet = VnetHdr::parse(frame, HdrLen::SHORT).unwrap();
                    if vnet.needs_csum() {
                        (vnet.csum_start, vnet.hdr_len) = (38, 58);
                    }
                    vnet.write(frame, HdrLen::SHORT).unwrap();
                }
            }
            let mut batch = Batch::new();
            let mut first = 64;
            for frame in &turn {
                put(&mut batch, &pool, first, frame);
                first += u32::try_from(frame.len().div_ceil(2048)).unwrap();
            }
            assert_eq!(left.send(&pool, &batch, 0).unwrap().next, turn.len());
            sent.append(&mut turn);
            // Few buffers now and then: the long ones wait.
            let n = [33, 64, 34][usize::try_from(round % 3).unwrap()];
            while !sent.is_empty() {
                assert!(readable(&right, PATIENCE), "{} are missing", sent.len());
                for got in receive(&mut right, &pool, n) {
                    let wanted = sent.remove(0);
                    assert!(got[header.get()..] == wanted[10..], "round {round}");
                    let [got, wanted] = [(&got, header), (&wanted, HdrLen::SHORT)]
                        .map(|(bytes, header)| VnetHdr::parse(bytes, header).unwrap());
                    assert_eq!(got.needs_csum(), wanted.needs_csum());
                    assert_eq!(
                        (got.csum_start, got.csum_offset),
                        (wanted.csum_start, wanted.csum_offset)
                    );
                    assert_eq!(
                        (got.gso_type, got.gso_size),
                        (wanted.gso_type, wanted.gso_size)
                    );
                }
            }
        }
        assert_eq!(right.missed(), 0);
    }
}

#[test]
fn checksum_offsets_count_the_tag_in_a_slot() {
    let test = "checksum_offsets_count_the_tag_in_a_slot";
    let Some((_a, b, mut left)) = wired(test, "", HdrLen::SHORT) else {
        return;
    };
    let mut right = ring(&b, HdrLen::MERGED, SMALL);
    let frame = left_undone_on_a_vlan();
    let pool = pool(32);
    let mut batch = Batch::new();
    put(&mut batch, &pool, 20, &frame);
    assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 1);
    let mut got = Vec::new();
    eventually("it comes", || {
        got = receive(&mut right, &pool, 1);
        got.len() == 1
    });
    assert_undone_on_a_vlan(&got[0], &frame);
}

#[test]
fn the_ring_goes_round_many_times_and_what_does_not_fit_is_counted() {
    let test = "the_ring_goes_round_many_times_and_what_does_not_fit_is_counted";
    let Some((_a, b, mut left)) = wired(test, "mtu 1500", HdrLen::NONE) else {
        return;
    };
    let mut right = ring(&b, HdrLen::NONE, SMALL);
    let pool = pool(64);
    let send = |left: &mut PacketSocket, first: u64, n: u64| {
        let mut batch = Batch::new();
        for (buf, seq) in (40..).zip(first..first + n) {
            let len = 60 + usize::try_from(seq * 37 % 1400).unwrap();
            let frame = frame::tagged(frame::BROADCAST, frame::mac(1), len, 9, seq);
            put(&mut batch, &pool, buf, &frame);
        }
        assert_eq!(left.send(&pool, &batch, 0).unwrap().next, batch.len());
    };
    let mut next = 0;
    for round in 0..500 {
        send(&mut left, round * 20, 20);
        let end = (round + 1) * 20;
        eventually("all frames come", || {
            for got in receive(&mut right, &pool, 7) {
                assert_eq!(frame::verify(&got), Ok((9, next)));
                next += 1;
            }
            next == end
        });
    }
    assert_eq!(right.missed(), 0);
    // Nobody reads: 32 slots, 60 frames. What is lost is noticed with the
    // first frame that comes.
    for i in 0..3 {
        send(&mut left, next + i * 20, 20);
    }
    let came = next + 60;
    eventually("all have come", || right.stats().unwrap().frames == came);
    assert_eq!(right.missed(), 28);
    for _ in 0..28 {
        send(&mut left, 0, 1);
    }
    let mut got = 0;
    eventually("those in the ring come", || {
        got += receive(&mut right, &pool, 8).len();
        got == 32
    });
    send(&mut left, 7, 1);
    eventually("and those after it", || {
        let came = receive(&mut right, &pool, 8);
        came.iter().any(|f| frame::verify(f) == Ok((9, 7)))
    });
    assert_eq!(right.missed(), 56);
}

#[test]
fn long_packets_that_there_is_no_memory_for_are_counted() {
    let test = "long_packets_that_there_is_no_memory_for_are_counted";
    let Some((_a, b, mut left)) = wired(test, "mtu 1500", HdrLen::SHORT) else {
        return;
    };
    let mut config = PacketConfig::new("right");
    config.header = HdrLen::SHORT;
    // Room for two or so.
    config.receive_buffer = Some(64 << 10);
    let size = RingConfig::for_mtu(1500, SMALL);
    let mut right = b.enter(|| PacketRing::open(&config, size)).unwrap();
    let pool = pool(128);
    for seq in 0..20 {
        let mut batch = Batch::new();
        put(&mut batch, &pool, 64, &large(60_000, seq));
        assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 1);
    }
    eventually("all have come", || right.stats().unwrap().frames == 20);
    let mut seen = Vec::new();
    eventually("they are received or counted", || {
        for got in receive(&mut right, &pool, 64) {
            let seq = (0..20).find(|&seq| got[10..] == large(60_000, seq)[10..]);
            seen.push(seq.expect("it is whole"));
        }
        seen.len() as u64 + right.missed() == 20
    });
    assert!((1..20).contains(&seen.len()), "{seen:?}");
    assert!(seen.is_sorted());
}

#[test]
fn a_packet_that_no_header_describes_ends_the_ring_but_not_the_frames() {
    let test = "ring::a_packet_that_no_header_describes_ends_the_ring_but_not_the_frames";
    let Some(ns) = NetNs::new(test) else {
        return;
    };
    let tap = tap(&ns);
    let mut right = ring(&ns, HdrLen::SHORT, SMALL);
    let pool = pool(64);
    let frame = |seq| {
        let frame = frame::tagged(frame::BROADCAST, frame::mac(1), 100, 9, seq);
        [&[0; 10], &frame[..]].concat()
    };
    // Whoever has been woken for nothing looks; a full ring is no reason.
    for seq in 0..50 {
        assert!(tap.write(&frame(seq)).unwrap());
    }
    let mut got = 0;
    eventually("those that found room come", || {
        got += receive(&mut right, &pool, 8).len();
        got == 32
    });
    assert!(receive(&mut right, &pool, 8).is_empty());
    assert_eq!((right.missed(), right.has_ended()), (18, false));
    assert!(receive(&mut right, &pool, 8).is_empty());
    assert!(tap.write(&to_be_fragmented()).unwrap());
    eventually("it is seen that the ring has ended", || {
        receive(&mut right, &pool, 8);
        right.has_ended()
    });
    let mut batch = Batch::new();
    for seq in 50..60 {
        assert!(tap.write(&frame(seq)).unwrap());
        eventually("frames come without it", || {
            batch.clear();
            (0..4).for_each(|buf| batch.push_buf(buf, 2048));
            let n = right.without().unwrap().recv(&pool, &mut batch).unwrap();
            (0..n).any(|i| get(&batch, &pool, i) == frame(seq))
        });
    }
    assert_eq!(right.missed(), 19);
}

#[test]
fn a_frame_longer_than_all_buffers_is_cut() {
    let test = "a_frame_longer_than_all_buffers_is_cut";
    let Some((_a, b, mut left)) = wired(test, "mtu 1500", HdrLen::SHORT) else {
        return;
    };
    let mut right = ring(&b, HdrLen::SHORT, SMALL);
    let pool = pool(128);
    let short = [
        &[0; 10],
        &frame::tagged(frame::BROADCAST, frame::mac(1), 1000, 9, 5)[..],
    ]
    .concat();
    let mut batch = Batch::new();
    put(&mut batch, &pool, 64, &large(5000, 1));
    put(&mut batch, &pool, 70, &short);
    put(&mut batch, &pool, 72, &short);
    assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 3);
    let room = [(0, 2112), (1, 500)].map(|(buf, len)| Piece { buf, off: 0, len });
    for (free, wanted) in [
        (&room[..], (2612, true)),
        (&room[1..], (500, true)),
        (&room[..], (1010, false)),
    ] {
        let mut batch = Batch::new();
        eventually("the next one comes", || {
            right.recv_packed(&pool, free, &mut batch).unwrap() == 1
        });
        assert_eq!((batch.frame_len(0), batch.truncated(0)), wanted);
    }
}

#[test]
fn a_ring_tells_what_it_cannot_do() {
    let Some(a) = NetNs::new("ring::a_ring_tells_what_it_cannot_do") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    let mut right = ring(&b, HdrLen::NONE, SMALL);
    let pool = pool(4);
    assert_eq!(receive(&mut right, &pool, 4).len(), 0);
    let error = |right: &mut PacketRing| {
        let free = [Piece {
            buf: 0,
            off: 0,
            len: 2112,
        }];
        let mut batch = Batch::new();
        right.recv_packed(&pool, &free, &mut batch).unwrap_err()
    };
    b.ip("link set right down");
    assert!(readable(&right, PATIENCE));
    let e = error(&mut right);
    assert!(matches!(e, PacketError::Down { .. }), "{e}");
    b.ip("link set right up");
    b.ip("link del right");
    assert!(readable(&right, PATIENCE));
    let e = error(&mut right);
    assert!(matches!(e, PacketError::Gone { .. }), "{e}");
    let config = PacketConfig::new("right");
    let none = b.enter(|| PacketRing::open(&config, RingConfig::for_mtu(1500, SMALL)));
    assert!(matches!(none, Err(PacketError::Missing { .. })));
}

#[test]
fn slots_are_as_large_as_frames() {
    let slots = |mtu| RingConfig::for_mtu(mtu, 1 << 20).slots();
    assert_eq!([68, 1500, 1900].map(slots), [512, 512, 512]);
    assert_eq!([1903, 3900, 9000].map(slots), [256, 256, 64]);
    assert_eq!([60_000, u32::MAX].map(slots), [64, 64]);
    assert_eq!(RingConfig::for_mtu(1500, 0).slots(), 32);
}

use netvale_backends::batch::Batch;
use netvale_backends::packet::{PacketConfig, PacketError, PacketRing, PacketSocket, RingConfig};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, frame};
use netvale_wire::vnet::HdrLen;

use crate::common::{cable, get, pool, put, readable, room};
use crate::packet::{frames, open};

const SMALL: RingConfig = RingConfig {
    block_len: 64 << 10,
    blocks: 2,
    patience_ms: 1,
};

#[test]
fn frames_pass_exactly_through_a_ring() {
    let Some(a) = NetNs::new("ring::frames_pass_exactly_through_a_ring") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1500");
    let mut left = open(&a, &PacketConfig::new("left"));
    let config = PacketConfig::new("right");
    let mut right = b
        .enter(|| PacketRing::open(&config, RingConfig::default()))
        .unwrap();
    let pool = pool(128);
    let frames = frames();
    let mut batch = Batch::new();
    for (i, f) in (64..).zip(&frames) {
        put(&mut batch, &pool, i, f);
    }
    // In place, then copied, then sent back.
    left.send(&pool, &batch, 0).unwrap();
    let mut n = 0;
    while n < frames.len() {
        assert!(readable(&right, PATIENCE), "only {n} came");
        while let Some(got) = right.next_frame().unwrap() {
            let (head, body) = got.data.split_at(12);
            let tag = got.tag.as_ref().map_or(&[][..], |t| t);
            assert_eq!([head, tag, body].concat(), frames[n]);
            assert_eq!(got.len, got.data.len());
            assert!(got.time_ns > 1_600_000_000_000_000_000);
            n += 1;
        }
    }
    left.send(&pool, &batch, 0).unwrap();
    let mut all = Vec::new();
    let mut received = Batch::new();
    while all.len() < frames.len() {
        assert!(readable(&right, PATIENCE), "only {} came", all.len());
        room(&mut received, 0, 5, 1);
        for i in 0..right.recv(&pool, &mut received).unwrap() {
            all.push(get(&received, &pool, i));
        }
    }
    assert_eq!(all, frames);
    let sent = right.send(&pool, &batch, 0).unwrap();
    assert_eq!(sent.next, frames.len());
    let stats = right.stats().unwrap();
    let wanted = 2 * frames.len() as u64;
    assert_eq!((stats.frames, stats.dropped), (wanted, 0));
}

#[test]
fn the_ring_goes_round_many_times() {
    let Some(a) = NetNs::new("ring::the_ring_goes_round_many_times") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "mtu 1500");
    let mut left = open(&a, &PacketConfig::new("left"));
    let config = PacketConfig::new("right");
    let mut right = b.enter(|| PacketRing::open(&config, SMALL)).unwrap();
    let pool = pool(32);
    let (mut next, mut got) = (0, 0);
    // 128 KiB of ring, 10 MB of frames. On a busy machine the kernel may hand
    // over both blocks nearly empty and drop a frame: all must be accounted for.
    for round in 0..500 {
        let mut batch = Batch::new();
        for i in 0..20 {
            let seq = u64::from(round * 20 + i);
            let len = 60 + usize::try_from(seq * 37 % 1400).unwrap();
            let frame = frame::tagged(frame::BROADCAST, frame::mac(1), len, 9, seq);
            put(&mut batch, &pool, i, &frame);
        }
        assert_eq!(left.send(&pool, &batch, 0).unwrap().next, 20);
        let sent = u64::from(round + 1) * 20;
        eventually("all frames came or were dropped", || {
            while let Some(frame) = right.next_frame().unwrap() {
                let (source, seq) = frame::verify(frame.data).unwrap();
                assert!(source == 9 && seq >= next, "{seq} after {next}");
                next = seq + 1;
                got += 1;
            }
            got + right.stats().unwrap().dropped == sent
        });
    }
    assert!(got > 9000, "{got}");
    // Nobody reads: the ring fills, the rest is counted.
    let mut batch = Batch::new();
    let frame = frame::tagged(frame::BROADCAST, frame::mac(1), 1400, 9, 0);
    for i in 0..20 {
        put(&mut batch, &pool, i, &frame);
    }
    for _ in 0..10 {
        left.send(&pool, &batch, 0).unwrap();
    }
    eventually("all have come", || right.stats().unwrap().frames == 10_200);
    let stats = right.stats().unwrap();
    assert!(stats.dropped > 0 && stats.freezes > 0, "{stats:?}");
    while got < 10_200 - stats.dropped {
        assert!(readable(&right, PATIENCE));
        while let Some(frame) = right.next_frame().unwrap() {
            frame::verify(frame.data).unwrap();
            got += 1;
        }
    }
}

#[test]
fn a_ring_tells_what_it_cannot_do() {
    let Some(a) = NetNs::new("ring::a_ring_tells_what_it_cannot_do") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "");
    let mut config = PacketConfig::new("right");
    config.header = HdrLen::SHORT;
    let e = b.enter(|| PacketRing::open(&config, SMALL)).unwrap_err();
    assert!(matches!(e, PacketError::RingWithHeader { .. }), "{e}");
    config.header = HdrLen::NONE;
    let mut right = b.enter(|| PacketRing::open(&config, SMALL)).unwrap();
    assert!(right.next_frame().unwrap().is_none());
    b.ip("link set right down");
    let e = right.next_frame().unwrap_err();
    assert!(matches!(e, PacketError::Down { .. }), "{e}");
    b.ip("link set right up");
    b.ip("link del right");
    let e = right.next_frame().unwrap_err();
    assert!(matches!(e, PacketError::Gone { .. }), "{e}");
    let none = b.enter(|| PacketSocket::open(&config));
    assert!(matches!(none, Err(PacketError::Missing { .. })));
}

//! Frames through a switch.

use std::time::Duration;

use netvale::{PushError, wire::mac::MacAddr};
use netvale_testkit::frame::{BROADCAST, mac, plain, tagged};
use netvale_testkit::io::{drain, push, quiet, recv, recv_n, recv_ring, send, send_all, settled};
use netvale_testkit::roles::{Numbered, Order};
use netvale_testkit::{Bed, Place, Rng, eventually};

pub(crate) fn two_ports_exchange_frames(bed: &Bed) {
    let mut rng = Rng::announced("two_ports_exchange_frames");
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    let mut seq = 0;
    for round in 0..40 {
        let (from, to, src, dst) = if round % 2 == 0 {
            (&mut a, &mut b, 1, 2)
        } else {
            (&mut b, &mut a, 2, 1)
        };
        let mut frames = Vec::new();
        for _ in 0..rng.below(200) + 1 {
            seq += 1;
            let len = 60 + rng.below(1455);
            frames.push(tagged(mac(dst), mac(src), len, src, seq));
        }
        send_all(from, &frames);
        assert_eq!(recv_n(to, frames.len()), frames);
    }
    quiet(&mut a);
    quiet(&mut b);
    let (sa, sb) = (a.stats().unwrap(), b.stats().unwrap());
    assert_eq!(sa.tx_frames + sb.tx_frames, seq);
    assert_eq!((sa.tx_frames, sa.tx_bytes), (sb.rx_frames, sb.rx_bytes));
    assert_eq!(sa.all_dropped(), 0);
}

pub(crate) fn flooding_reaches_all_others(bed: &Bed) {
    let names = ["vale0:a", "vale0:b", "vale0:c", "vale1:other"];
    let mut ports = names.map(|n| bed.ns().open(n).unwrap());
    let multicast = [1, 0, 0x5e, 0, 0, 1];
    for (i, dst) in [BROADCAST, multicast, mac(77)].into_iter().enumerate() {
        let f = tagged(dst, mac(1), 100, 1, i as u64);
        send(&mut ports[0], &f);
        assert_eq!(recv(&mut ports[1]), f);
        assert_eq!(recv(&mut ports[2]), f);
    }
    for p in &mut ports {
        quiet(p);
    }
}

pub(crate) fn runts_go_nowhere(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    push(a.tx(0), &[0xff; 13]);
    push(a.tx(0), &[0xff; 1]);
    assert_eq!(a.tx(0).push(&[]), Err(PushError::Size));
    let f = plain(BROADCAST, mac(1), 14, 0);
    send(&mut a, &f);
    assert_eq!(recv(&mut b), f);
    quiet(&mut b);
    settled(&a, 3);
    assert_eq!(a.stats().unwrap().dropped("tx_runt"), 2);
}

pub(crate) fn stations_are_learned_and_followed(bed: &Bed) {
    let open = |n| bed.ns().open(n).unwrap();
    let (mut a, mut b, mut c) = (open("vale0:a"), open("vale0:b"), open("vale0:c"));
    // Station 9 speaks on b, on c, and on b again.
    for (round, on_b) in [(0, true), (1, false), (2, true)] {
        let hello = tagged(BROADCAST, mac(9), 60, 9, round);
        let (here, there) = if on_b {
            (&mut b, &mut c)
        } else {
            (&mut c, &mut b)
        };
        send(here, &hello);
        assert_eq!(recv(&mut a), hello);
        assert_eq!(recv(there), hello);
        let f = tagged(mac(9), mac(1), 60, 1, round);
        send(&mut a, &f);
        assert_eq!(recv(here), f);
        quiet(there);
        quiet(here);
        let known = bed.ns().fdb("vale0").unwrap();
        let entry = known.iter().find(|e| e.mac == mac(9)).unwrap();
        assert_eq!(entry.port, here.name());
        assert!(known.iter().any(|e| e.mac == mac(1) && e.port == "vale0:a"));
    }
    // A port that goes takes its stations along.
    drop(b);
    eventually("the port is forgotten", || {
        let known = bed.ns().fdb("vale0").unwrap();
        known.iter().all(|e| e.mac != mac(9))
    });
    let f = tagged(mac(9), mac(1), 60, 1, 9);
    send(&mut a, &f);
    assert_eq!(recv(&mut c), f);
    if bed.place() == Place::Embedded {
        bed.ns().add_station(MacAddr(mac(50)), "vale0:c").unwrap();
        for _ in 0..9 {
            bed.ns().age().unwrap();
        }
        assert_eq!(bed.ns().fdb("vale0").unwrap(), []);
    }
}

pub(crate) fn who_sends_to_itself_is_heard_by_nobody(bed: &Bed) {
    let open = |n| bed.ns().open(n).unwrap();
    let (mut a, mut b) = (open("vale0:a"), open("vale0:b"));
    // In one batch: nobody knows 9 before it sends, and everybody after.
    let [to, own, again] =
        [(1, 0), (9, 1), (1, 2)].map(|(src, n)| tagged(mac(9), mac(src), 60, src, n));
    let last = tagged(BROADCAST, mac(1), 60, 1, 3);
    send_all(&mut a, &[to.clone(), own, again, last.clone()]);
    assert_eq!(recv_n(&mut b, 2), [to, last]);
    quiet(&mut a);
    assert_eq!(a.stats().unwrap().dropped("tx_no_dest"), 2);
}

pub(crate) fn many_ports(bed: &Bed) {
    let n = if bed.place() == Place::Isolated {
        12
    } else {
        40
    };
    let open = |i| {
        let port = bed.ns().port(&format!("vale0:p{i}"));
        port.slots(64, 64).open().unwrap()
    };
    let mut ports: Vec<_> = (0..n).map(open).collect();
    for i in 0..n {
        let f = tagged(BROADCAST, mac(i), 60, i, 1);
        send(&mut ports[i as usize], &f);
        for (j, p) in ports.iter_mut().enumerate() {
            if j != i as usize {
                assert_eq!(recv(p), f);
            }
        }
    }
    for (i, p) in ports.iter_mut().enumerate() {
        let f = tagged(mac((i as u32 + 1) % n), mac(i as u32), 60, 1, 2);
        send(p, &f);
    }
    for (i, p) in ports.iter_mut().enumerate() {
        let from = (i as u32 + n - 1) % n;
        assert_eq!(recv(p), tagged(mac(i as u32), mac(from), 60, 1, 2));
    }
    assert_eq!(bed.ns().list().unwrap().len(), n as usize);
}

pub(crate) fn ring_to_ring(bed: &Bed) {
    let open = |n, rings| bed.ns().port(n).rings(rings, rings).open().unwrap();
    let (mut a, mut b, mut c) = (open("vale0:a", 4), open("vale0:b", 4), open("vale0:c", 2));
    for (p, n) in [(&mut b, 2), (&mut c, 3)] {
        send(p, &tagged(BROADCAST, mac(n), 60, n, 0));
    }
    recv_n(&mut a, 2);
    recv(&mut b);
    recv(&mut c);
    for i in 0..4 {
        for dst in [2, 3] {
            let f = tagged(mac(dst), mac(1), 60 + i, 1, i as u64);
            push(a.tx(i), &f);
            a.tx(i).sync().unwrap();
            let got = if dst == 2 {
                recv_ring(b.rx(i))
            } else {
                recv_ring(c.rx(i % 2))
            };
            assert_eq!(got, f);
        }
    }
    // To everyone: the first ring, whatever ring it came from.
    push(a.tx(3), &tagged(BROADCAST, mac(1), 60, 1, 9));
    a.tx(3).sync().unwrap();
    recv_ring(b.rx(0));
    recv_ring(c.rx(0));
    quiet(&mut b);
    quiet(&mut c);
}

pub(crate) fn frames_of_up_to_64_slots(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    let size = a.tx(0).buf_size() as usize;
    for (n, frag) in [
        (1, 60),
        (2, 60),
        (5, 2000),
        (63, 100),
        (64, 100),
        (64, size),
    ] {
        let f = tagged(mac(2), mac(1), n * frag, 1, n as u64);
        a.tx(0).push_frags(&f, frag).unwrap();
        a.tx(0).sync().unwrap();
        assert_eq!(recv(&mut b), f);
    }
    assert_eq!(a.tx(0).push_frags(&[0; 650], 10), Err(PushError::Size));
    assert_eq!(a.tx(0).push(&vec![0; 64 * size + 1]), Err(PushError::Size));
    for (i, len) in [9000, 1515, size, size + 1, 65_000].into_iter().enumerate() {
        let f = tagged(mac(2), mac(1), len, 1, i as u64);
        send(&mut a, &f);
        let frags = len.div_ceil(size);
        eventually("the frame is there", || {
            b.rx(0).sync().unwrap() as usize >= frags
        });
        let got = b.rx(0).next().unwrap();
        assert_eq!((got.len(), got.frags()), (len, frags));
        let mut part = [0; 100];
        assert_eq!(got.read(len - 50, &mut part), 50);
        assert_eq!(part[..50], f[len - 50..]);
        let mut v = Vec::new();
        got.read_to(&mut v);
        assert!(v == f);
        b.rx(0).sync().unwrap();
    }
    quiet(&mut b);
}

pub(crate) fn a_full_destination_drops_and_counts(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().port("vale0:b").slots(64, 64).open().unwrap();
    let mut c = bed.ns().open("vale0:c").unwrap();
    let frames: Vec<_> = (0..200)
        .map(|i| tagged(BROADCAST, mac(1), 60, 1, i))
        .collect();
    send_all(&mut a, &frames);
    // A full ring holds nobody else up.
    assert_eq!(recv_n(&mut c, 200), frames);
    settled(&a, 200);
    assert_eq!(recv_n(&mut b, 63), frames[..63]);
    quiet(&mut b);
    let s = b.stats().unwrap();
    assert_eq!((s.rx_frames, s.dropped("rx_full")), (63, 137));
    // Whole frames only: two slots are free, three are needed.
    let big: Vec<_> = (0..40)
        .map(|i| tagged(mac(7), mac(1), 5000, 1, 300 + i))
        .collect();
    send_all(&mut a, &big);
    assert_eq!(recv_n(&mut c, 40), big);
    settled(&a, 240);
    assert_eq!(recv_n(&mut b, 21), big[..21]);
    quiet(&mut b);
    let s = b.stats().unwrap();
    assert_eq!((s.rx_frames, s.dropped("rx_full")), (84, 156));
}

pub(crate) fn buffers_that_are_kept(bed: &Bed) {
    let mut a = bed
        .ns()
        .port("vale0:a")
        .keep_buffers(true)
        .slots(32, 32)
        .open()
        .unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    let f = tagged(mac(2), mac(1), 100, 1, 1);
    a.tx(0).fill(&f).unwrap();
    for _ in 0..20 {
        let mut n = 0;
        eventually("there is space", || {
            a.tx(0).sync().unwrap();
            n = a.tx(0).push_resident(31, 100);
            n > 0
        });
        a.tx(0).sync().unwrap();
        for got in recv_n(&mut b, n as usize) {
            assert_eq!(got, f);
        }
    }
    // Only the number changes from one to the next.
    eventually("there is space", || {
        a.tx(0).sync().unwrap();
        a.tx(0).space() > 0
    });
    assert!(a.tx(0).poke(0, 99, &[0xee]));
    assert_eq!(a.tx(0).push_resident(1, 100), 1);
    a.tx(0).sync().unwrap();
    let got = recv(&mut b);
    assert_eq!((&got[..99], got[99]), (&f[..99], 0xee));
    let shares = bed.place() != Place::Isolated;
    assert_eq!(a.same_region(&b), shares);
}

pub(crate) fn frames_are_forwarded(bed: &Bed) {
    let open = |n| bed.ns().open(n).unwrap();
    let (mut a, mut m) = (open("vale0:a"), open("vale0:m"));
    let (mut n, mut b) = (open("vale1:n"), open("vale1:b"));
    let mut rng = Rng::announced("frames_are_forwarded");
    let (mut numbers, mut order) = (Numbered::new(1), Order::default());
    while numbers.count() < 1500 {
        for _ in 0..rng.below(100) + 1 {
            let len = *rng.pick(&[60, 100, 1514, 2112, 2113, 7000]);
            if !numbers.push(a.tx(0), BROADCAST, mac(1), len) {
                break;
            }
        }
        a.tx(0).sync().unwrap();
        eventually("all is forwarded", || {
            m.rx(0).sync().unwrap();
            m.rx(0).forward(n.tx(0), u32::MAX);
            n.tx(0).sync().unwrap();
            m.rx(0).sync().unwrap();
            b.rx(0).sync().unwrap();
            order.take_all(b.rx(0), "b", |_, _| {});
            b.rx(0).sync().unwrap();
            order.frames == numbers.count()
        });
    }
    // Changed on the way.
    send(&mut a, &plain(BROADCAST, mac(1), 100, 3));
    eventually("it is there", || m.rx(0).sync().unwrap() > 0);
    let mut got = m.rx(0).next().unwrap();
    assert_eq!(got.write(50, &[9; 4]), 4);
    assert_eq!(
        got.load_u64(48),
        u64::from_le_bytes([3, 3, 9, 9, 9, 9, 3, 3])
    );
    got.forward(n.tx(0)).unwrap();
    n.tx(0).sync().unwrap();
    m.rx(0).sync().unwrap();
    assert_eq!(recv(&mut b)[48..56], [3, 3, 9, 9, 9, 9, 3, 3]);
    // Without room it stays where it is.
    let mut tiny = bed.ns().port("vale2:t").slots(4, 4).open().unwrap();
    let big = tagged(BROADCAST, mac(1), 9000, 1, 5000);
    send(&mut a, &big);
    eventually("it is there", || m.rx(0).sync().unwrap() > 4);
    assert_eq!(m.rx(0).forward(tiny.tx(0), 9), 0);
    assert_eq!(drain(&mut m), [big]);
}

pub(crate) fn two_handles_of_one_port(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut again = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().open("vale0:b").unwrap();
    assert_eq!(bed.ns().list().unwrap().len(), 2);
    for i in 0..3 {
        let f = tagged(mac(2), mac(1), 60, 1, i);
        send(&mut a, &f);
        assert_eq!(recv(&mut b), f);
    }
    // One that only receives disturbs nobody who sends.
    for i in 0..20 {
        let f = tagged(mac(2), mac(1), 60, 1, i);
        send(&mut a, &f);
        assert!(!again.wait_rx(Some(Duration::from_millis(1))).unwrap());
        assert_eq!(recv(&mut b), f);
    }
    // And it sends if it has something to send.
    again.tx(0).sync().unwrap();
    let f = tagged(mac(2), mac(1), 60, 1, 20);
    send(&mut again, &f);
    assert_eq!(recv(&mut b), f);
    // The port stays with either of them, and goes on where it was.
    drop(a);
    drop(again);
    eventually("it is gone", || bed.ns().list().unwrap().len() == 1);
    let first = bed.ns().open("vale0:a").unwrap();
    let mut a = bed.ns().open("vale0:a").unwrap();
    drop(first);
    for i in 3..6 {
        let f = tagged(mac(2), mac(1), 60, 1, i);
        send(&mut a, &f);
        assert_eq!(recv(&mut b), f);
        send(&mut b, &f);
        assert_eq!(recv(&mut a), f);
    }
}

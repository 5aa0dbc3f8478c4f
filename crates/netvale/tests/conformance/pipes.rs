//! Pipes.

use std::time::Duration;

use netvale::{ErrorKind, PushError};
use netvale_testkit::frame::{BROADCAST, mac, tagged};
use netvale_testkit::io::{push, quiet, recv, recv_n, recv_ring, send, send_all};
use netvale_testkit::{Bed, Rng, eventually};

const MOMENT: Option<Duration> = Some(Duration::from_millis(50));
const LONG: Option<Duration> = Some(Duration::from_secs(20));

fn numbered(from: u64, n: u64) -> Vec<Vec<u8>> {
    (from..from + n)
        .map(|i| tagged(BROADCAST, mac(1), 60 + (i as usize * 7) % 1400, 1, i))
        .collect()
}

pub(crate) fn both_directions(bed: &Bed) {
    let mut a = bed.ns().open("vale0:x{1").unwrap();
    let mut b = bed.ns().open("vale0:x}1").unwrap();
    let mut rng = Rng::announced("both_directions");
    let mut at = 0;
    for _ in 0..40 {
        let n = rng.below(300) as u64 + 1;
        let frames = numbered(at, n);
        at += n;
        let (from, to) = if rng.percent(50) {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        for f in &frames {
            push(from.tx(0), f);
        }
        from.tx(0).sync().unwrap();
        assert_eq!(recv_n(to, frames.len()), frames);
        to.rx(0).sync().unwrap();
        eventually("everything is given back", || {
            from.tx(0).sync().unwrap();
            from.tx(0).pending() == 0
        });
    }
    quiet(&mut a);
    quiet(&mut b);
    // Several slots, and frames forwarded from one end to the other direction.
    let big = tagged(BROADCAST, mac(1), 30_000, 1, at);
    send(&mut a, &big);
    eventually("it is there", || b.rx(0).sync().unwrap() > 10);
    let (tx, rx) = b.tx_rx(0, 0);
    assert_eq!(rx.forward(tx, 1), 1);
    tx.sync().unwrap();
    rx.sync().unwrap();
    assert_eq!(recv(&mut a), big);
    let s = (a.stats().unwrap(), b.stats().unwrap());
    assert_eq!(s.0.tx_frames + s.1.tx_frames, at + 2);
}

pub(crate) fn a_full_pipe_holds_its_sender_back(bed: &Bed) {
    let open = |n| bed.ns().port(n).slots(32, 32).open().unwrap();
    let (mut a, mut b) = (open("vale0:x{1"), open("vale0:x}1"));
    let frames = numbered(0, 100);
    send_all(&mut a, &frames[..31]);
    assert_eq!(a.tx(0).push(&frames[31]), Err(PushError::Full));
    assert_eq!((a.tx(0).pending(), a.tx(0).space()), (31, 0));
    assert!(!a.wait_tx(MOMENT).unwrap());
    assert_eq!(recv_n(&mut b, 10), frames[..10]);
    // Taken is not released.
    assert!(!a.wait_tx(MOMENT).unwrap() || a.tx(0).space() <= 10);
    b.rx(0).sync().unwrap();
    assert!(a.wait_tx(LONG).unwrap());
    eventually("ten came back", || {
        a.tx(0).sync().unwrap();
        a.tx(0).space() == 10
    });
    // A sleeping sender is woken by the receiver.
    send_all(&mut a, &frames[31..41]);
    let b = std::thread::scope(|s| {
        let receiver = s.spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(recv_n(&mut b, 31), frames[10..41]);
            b.rx(0).sync().unwrap();
            b
        });
        assert!(a.wait_tx(LONG).unwrap());
        receiver.join().unwrap()
    });
    assert_eq!(b.stats().unwrap().rx_frames, 41);
    // No frame is ever dropped.
    let drops = a.stats().unwrap().drops;
    assert_eq!(drops.iter().map(|(_, n)| n).sum::<u64>(), 0);
}

pub(crate) fn ends_come_and_go(bed: &Bed) {
    let open = |n| bed.ns().port(n).slots(16, 16).open().unwrap();
    let frames = numbered(0, 40);
    let mut a = open("vale0:x{1");
    send_all(&mut a, &frames[..5]);
    // What was sent waits for whoever comes.
    let mut b = open("vale0:x}1");
    assert_eq!(recv_n(&mut b, 5), frames[..5]);
    b.rx(0).sync().unwrap();
    drop(b);
    eventually("the end is closed", || {
        let all = bed.ns().list().unwrap();
        all.iter()
            .filter(|e| e.owner_pid != 0 || e.context == "isolated")
            .count()
            <= 2
    });
    send_all(&mut a, &frames[5..15]);
    let mut b = open("vale0:x}1");
    assert_eq!(recv_n(&mut b, 10), frames[5..15]);
    b.rx(0).sync().unwrap();
    // The sender goes, what it sent stays.
    send_all(&mut a, &frames[15..20]);
    eventually("it is sent", || a.stats().unwrap().tx_frames == 20);
    drop(a);
    assert_eq!(recv_n(&mut b, 5), frames[15..20]);
    b.rx(0).sync().unwrap();
    let mut a = open("vale0:x{1");
    send_all(&mut a, &frames[20..30]);
    assert_eq!(recv_n(&mut b, 10), frames[20..30]);
    drop(b);
    drop(a);
    eventually("the pipe is gone", || bed.ns().list().unwrap().is_empty());
}

pub(crate) fn many_rings_and_many_slots(bed: &Bed) {
    let mut a = bed
        .ns()
        .port("vale0:x{r")
        .rings(3, 2)
        .slots(8, 128)
        .open()
        .unwrap();
    // The other end is what the first one made it, turned round.
    let mut b = bed.ns().open("vale0:x}r").unwrap();
    let i = b.info().clone();
    assert_eq!(
        (i.tx_rings, i.rx_rings, i.tx_slots, i.rx_slots),
        (2, 3, 128, 8)
    );
    for r in 0..3 {
        for i in 0..30 {
            let f = tagged(BROADCAST, mac(1), 60, r as u32, i);
            push(a.tx(r), &f);
            a.tx(r).sync().unwrap();
            assert_eq!(recv_ring(b.rx(r)), f);
            b.rx(r).sync().unwrap();
        }
    }
    for r in 0..2 {
        let f = tagged(BROADCAST, mac(1), 60, 9, r as u64);
        push(b.tx(r), &f);
        b.tx(r).sync().unwrap();
        assert_eq!(recv_ring(a.rx(r)), f);
    }
}

pub(crate) fn no_more_than_64(bed: &Bed) {
    let open = |i: usize| bed.ns().port(&format!("vale0:x{{{i}")).slots(4, 4).open();
    let open_all = || (0..64).map(|i| open(i).unwrap()).collect::<Vec<_>>();
    let mut all = open_all();
    let e = open(64).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
    all.pop();
    eventually("there is room for one", || open(64).is_ok());
}

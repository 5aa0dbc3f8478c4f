//! Sleeping until there is something, and threads.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use netvale_testkit::frame::{BROADCAST, mac, tagged};
use netvale_testkit::io::{push, recv, send};
use netvale_testkit::roles::{Numbered, Order};
use netvale_testkit::{Bed, PATIENCE, eventually};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) fn nothing_comes(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let start = Instant::now();
    assert!(!a.wait_rx(Some(Duration::from_millis(60))).unwrap());
    assert!(!a.rx(0).wait(Some(Duration::from_millis(60))).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(120));
    assert!(a.wait_tx(Some(PATIENCE)).unwrap());
    assert!(!a.wait_rx(Some(Duration::ZERO)).unwrap());
}

pub(crate) fn a_sender_wakes(bed: &Bed) {
    // One ring sleeps on a word, two on the doorbell.
    for rings in [1, 2] {
        let mut a = bed.ns().open("vale0:a").unwrap();
        let mut b = bed.ns().port("vale0:b").rings(1, rings).open().unwrap();
        for i in 0..30 {
            let f = tagged(BROADCAST, mac(1), 60, 1, i);
            std::thread::scope(|s| {
                let sleeper = s.spawn(|| b.wait_rx(Some(PATIENCE)).unwrap());
                std::thread::sleep(Duration::from_millis(i % 3));
                send(&mut a, &f);
                assert!(sleeper.join().unwrap());
            });
            assert_eq!(recv(&mut b), f);
            b.rx(0).sync().unwrap();
        }
        // Queued frames go out before the port sleeps.
        push(b.tx(0), &tagged(BROADCAST, mac(2), 60, 2, 0));
        assert!(!b.wait_rx(Some(Duration::from_millis(1))).unwrap());
        assert!(a.wait_rx(Some(PATIENCE)).unwrap());
        drop((a, b));
        eventually("they are gone", || bed.ns().list().unwrap().is_empty());
    }
}

fn readable(fd: impl AsFd, ms: u64) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let time = Timespec::try_from(Duration::from_millis(ms)).unwrap();
    poll(&mut fds, Some(&time)).unwrap() > 0
}

pub(crate) fn on_a_descriptor(bed: &Bed) {
    let mut a = bed.ns().open("vale0:a").unwrap();
    let mut b = bed.ns().port("vale0:b").rings(1, 2).open().unwrap();
    for i in 0..20 {
        assert!(b.arm().unwrap());
        assert!(!readable(&b, 10));
        let f = tagged(BROADCAST, mac(1), 60, 1, i);
        send(&mut a, &f);
        assert!(readable(&b, 20_000));
        b.disarm();
        assert_eq!(recv(&mut b), f);
        b.rx(0).sync().unwrap();
        // While something is there, sleeping would be wrong.
        send(&mut a, &f);
        eventually("it is there", || !b.arm().unwrap());
        recv(&mut b);
        b.rx(0).sync().unwrap();
        b.disarm();
    }
}

pub(crate) fn halves_in_threads(bed: &Bed) {
    const FRAMES: u64 = 20_000;
    let (mut at, mut ar) = bed.ns().open("vale0:a").unwrap().split();
    let (mut bt, mut br) = bed.ns().open("vale0:b").unwrap().split();
    let over = AtomicBool::new(false);
    let over = &over;
    let counts = std::thread::scope(|s| {
        let mut senders = Vec::new();
        for (n, tx) in [(1, &mut at), (2, &mut bt)] {
            senders.push(s.spawn(move || {
                let mut numbers = Numbered::new(n);
                while numbers.count() < FRAMES {
                    for _ in 0..32 {
                        numbers.push(tx.ring(0), mac(3 - n), mac(n), 80);
                    }
                    tx.ring(0).sync().unwrap();
                    std::thread::yield_now();
                }
                numbers.count()
            }));
        }
        let mut receivers = Vec::new();
        for rx in [&mut ar, &mut br] {
            receivers.push(s.spawn(move || {
                let mut order = Order::default();
                // Silence is the end only when nobody sends any more.
                loop {
                    let last = over.load(Ordering::Acquire);
                    let came = rx.wait(Some(Duration::from_millis(500))).unwrap();
                    order.take_all(rx.ring(0), "half", |_, _| {});
                    if last && !came {
                        return order.frames;
                    }
                }
            }));
        }
        let sent: Vec<_> = senders.into_iter().map(|t| t.join()).collect();
        over.store(true, Ordering::Release);
        let sent: Vec<u64> = sent.into_iter().map(Result::unwrap).collect();
        let got: Vec<u64> = receivers.into_iter().map(|t| t.join().unwrap()).collect();
        (sent, got)
    });
    let stats = |n| bed.ns().stats(Some(n)).unwrap().remove(0);
    let (sa, sb) = (stats("vale0:a"), stats("vale0:b"));
    assert_eq!([sa.tx_frames, sb.tx_frames], counts.0[..]);
    assert_eq!([sa.rx_frames, sb.rx_frames], counts.1[..]);
    for (from, to) in [(&sa, &sb), (&sb, &sa)] {
        assert_eq!(from.tx_frames, to.rx_frames + to.dropped("rx_full"));
    }
}

pub(crate) fn rings_in_threads(bed: &Bed) {
    const FRAMES: u64 = 5_000;
    let open = |n| bed.ns().port(n).rings(3, 3).open().unwrap();
    let (mut a, mut b) = (open("vale0:a"), open("vale0:b"));
    send(&mut b, &tagged(BROADCAST, mac(2), 60, 2, 0));
    recv(&mut a);
    let (tx, rx) = (a.into_rings().0, b.into_rings().1);
    let got: u64 = std::thread::scope(|s| {
        for (i, mut tx) in tx.into_iter().enumerate() {
            s.spawn(move || {
                let mut numbers = Numbered::new(i as u32);
                while numbers.count() < FRAMES {
                    numbers.push(&mut tx, mac(2), mac(1), 60);
                    tx.sync().unwrap();
                    if numbers.count().is_multiple_of(64) {
                        std::thread::yield_now();
                    }
                }
                // The worker takes the last ones when it comes round.
                eventually("all is taken", || {
                    tx.sync().unwrap();
                    tx.pending() == 0
                });
            });
        }
        let receivers: Vec<_> = rx
            .into_iter()
            .enumerate()
            .map(|(i, mut rx)| {
                s.spawn(move || {
                    let mut order = Order::default();
                    while rx.wait(Some(Duration::from_millis(500))).unwrap() {
                        // Ring to ring: nobody else's frames are here.
                        order.take_all(&mut rx, "ring", |source, _| assert_eq!(source, i as u32));
                        rx.sync().unwrap();
                    }
                    order.frames
                })
            })
            .collect();
        receivers.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert!(got > 0);
    // The ports went with the last of their rings.
    eventually("they are gone", || bed.ns().list().unwrap().is_empty());
}

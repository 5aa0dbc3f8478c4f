//! The library's own handles: rings between threads, pipes, monitors,
//! forwarding, and the books afterwards.

#[cfg(test)]
mod api {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    use netvale::{Namespace, PushError, RxRing};

    const LIMIT: Duration = Duration::from_secs(30);

    fn frame(dst: u8, src: u8, n: u64, len: usize) -> Vec<u8> {
        let mut f = vec![src; len];
        f[..6].copy_from_slice(&[2, 0, 0, 0, 0, dst]);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        f[12..14].copy_from_slice(&[0x88, 0xb5]);
        f[14..22].copy_from_slice(&n.to_le_bytes());
        f
    }

    fn all(rx: &mut RxRing) -> Vec<Vec<u8>> {
        rx.sync().unwrap();
        let mut out = Vec::new();
        let mut bytes = Vec::new();
        while let Some(f) = rx.next() {
            f.read_to(&mut bytes);
            out.push(bytes.clone());
        }
        rx.sync().unwrap();
        out
    }

    /// A handle whose place another one of the same rings has overtaken goes on
    /// where the ring is. If it had queued something, it is told once.
    #[test]
    fn an_overtaken_handle_finds_its_place() {
        let ns = Namespace::embedded().unwrap();
        let open = |name| ns.open(name).unwrap();
        let (mut first, mut second) = (open("netmap:p{1"), open("netmap:p{1"));
        let mut idle = open("netmap:p{1");
        let (mut end, mut late) = (open("netmap:p}1"), open("netmap:p}1"));
        let slots = first.tx(0).slots();
        let most = u64::from(slots - 24);
        let sent = |n| frame(1, 2, n, 60);
        for n in 0..most {
            first.tx(0).push(&sent(n)).unwrap();
        }
        first.tx(0).sync().unwrap();
        let fault = |e: netvale::Error| e.kind() == netvale::ErrorKind::Peer;
        assert_eq!(idle.tx(0).sync().unwrap(), 0);
        assert_eq!(u64::from(idle.tx(0).pending()), most);
        // Where the first frame lies, which is the same.
        second.tx(0).push(&sent(0)).unwrap();
        assert!(second.tx(0).sync().is_err_and(fault), "another sent");
        assert_eq!(second.tx(0).sync().unwrap(), 0);
        for n in most..most + 5 {
            second.tx(0).push(&sent(n)).unwrap();
        }
        assert_eq!(second.tx(0).sync().unwrap(), 5);
        let got = all(end.rx(0));
        assert!(
            got.iter()
                .eq((0..most + 5).map(sent).collect::<Vec<_>>().iter())
        );
        // Not so many that the other's old place would be among them.
        for n in 0..10 {
            second.tx(0).push(&sent(n)).unwrap();
        }
        second.tx(0).sync().unwrap();
        assert!(late.rx(0).sync().is_err_and(fault), "another received");
        assert_eq!(all(late.rx(0)), (0..10).map(sent).collect::<Vec<_>>());
        drop((first, second, idle, end, late));
        clean(&ns);
    }

    fn clean(ns: &Namespace) {
        let report = ns.check().unwrap();
        assert_eq!(report.problems, Vec::<String>::new());
        for r in report.regions {
            assert_eq!(r.free, r.buffers - 2, "buffers leaked");
        }
    }

    /// Senders and a receiver in threads of their own: what arrives is in
    /// order for each sender and what does not is counted, to the frame.
    #[test]
    fn threads_lose_only_what_is_counted() {
        for (slots, keep, gap) in [
            (2, true, 0),
            (16, false, 0),
            (333, true, 3),
            (1024, false, 0),
        ] {
            let ns = Namespace::embedded().unwrap();
            let mut rx = ns.port("vale0:rx").slots(8, slots).open().unwrap();
            rx.tx(0).push(&frame(9, 9, 0, 60)).unwrap();
            rx.tx(0).sync().unwrap();
            let done = &AtomicBool::new(false);
            let senders = 2u8;
            let total = 40_000u64;
            let got = std::thread::scope(|scope| {
                let handles: Vec<_> = (1..=senders)
                    .map(|s| {
                        let ns = &ns;
                        scope.spawn(move || {
                            let name = format!("vale0:s{s}");
                            let mut p = ns
                                .port(&name)
                                .slots(256, 8)
                                .keep_buffers(keep)
                                .open()
                                .unwrap();
                            let mut n = 0;
                            while n < total {
                                for _ in 0..=(n % 200) {
                                    if n < total
                                        && p.tx(0)
                                            .push(&frame(
                                                9,
                                                s,
                                                n,
                                                60 + usize::try_from(n).unwrap() % 900,
                                            ))
                                            .is_ok()
                                    {
                                        n += 1;
                                    }
                                }
                                p.tx(0).sync().unwrap();
                                if gap > 0 && n % gap == 0 {
                                    std::thread::yield_now();
                                }
                            }
                            p
                        })
                    })
                    .collect();
                let receiver = scope.spawn(|| {
                    let mut next = [0u64; 16];
                    let mut got = 0u64;
                    let start = Instant::now();
                    loop {
                        let end = done.load(Relaxed);
                        let batch = all(rx.rx(0));
                        if end && batch.is_empty() {
                            return got;
                        }
                        for f in batch {
                            let n = u64::from_le_bytes(f[14..22].try_into().unwrap());
                            let s = f[11];
                            assert_eq!(f, frame(9, s, n, 60 + usize::try_from(n).unwrap() % 900));
                            assert!(n >= next[usize::from(s)], "out of order");
                            next[usize::from(s)] = n + 1;
                            got += 1;
                        }
                        assert!(start.elapsed() < LIMIT, "hangs");
                    }
                });
                let ports: Vec<_> = handles.into_iter().map(|h| h.join().unwrap()).collect();
                done.store(true, Relaxed);
                let got = receiver.join().unwrap();
                for p in &ports {
                    let stats = p.stats().unwrap();
                    assert_eq!(stats.tx_frames, total);
                    assert_eq!(stats.dropped("tx_no_dest"), 0);
                }
                got
            });
            let stats = rx.stats().unwrap();
            let lost = stats.dropped("rx_full");
            assert_eq!(got + lost, u64::from(senders) * total, "{stats:?}");
            assert_eq!(stats.rx_frames, got, "{stats:?}");
            assert_eq!(stats.dropped("rx_fault"), 0);
            assert!(ns.check().unwrap().problems.is_empty());
            drop(rx);
            clean(&ns);
        }
    }

    /// A pipe loses nothing, keeps order, and its sender waits.
    #[test]
    fn a_pipe_loses_nothing() {
        for slots in [2, 3, 64, 1000] {
            let ns = Namespace::embedded().unwrap();
            let mut tx = ns.port("vale0:p{1").slots(slots, slots).open().unwrap();
            let mut rx = ns.open("vale0:p}1").unwrap();
            let total = if slots < 10 { 2000u64 } else { 30_000 };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let mut n = 0;
                    while n < total {
                        match tx.tx(0).push(&frame(1, 2, n, 60)) {
                            Ok(()) => n += 1,
                            Err(PushError::Full) => {
                                tx.tx(0).sync().unwrap();
                                tx.wait_tx(Some(Duration::from_millis(50))).unwrap();
                            }
                            Err(e) => panic!("{e}"),
                        }
                    }
                    tx.tx(0).sync().unwrap();
                });
                let (mut next, start) = (0, Instant::now());
                while next < total {
                    rx.wait_rx(Some(Duration::from_millis(50))).unwrap();
                    for f in all(rx.rx(0)) {
                        assert_eq!(f, frame(1, 2, next, 60));
                        next += 1;
                    }
                    assert!(start.elapsed() < LIMIT, "hangs at {next}");
                }
            });
            tx.tx(0).sync().unwrap();
            assert_eq!(tx.tx(0).pending(), 0, "all slots came back");
            assert!(ns.check().unwrap().problems.is_empty());
            drop((tx, rx));
            clean(&ns);
        }
    }

    #[test]
    fn frames_are_forwarded_without_a_copy() {
        let ns = Namespace::embedded().unwrap();
        let mut a = ns.port("vale0:a").slots(64, 64).open().unwrap();
        let mut m = ns.port("vale0:m").slots(64, 64).open().unwrap();
        let mut out = ns.port("vale1:m").slots(64, 64).open().unwrap();
        let mut b = ns.port("vale1:b").slots(64, 64).open().unwrap();
        for n in 0..500u64 {
            let f = frame(7, 1, n, 60 + (usize::try_from(n).unwrap() * 97) % 6000);
            a.tx(0).push_frags(&f, 2112).unwrap();
            a.tx(0).sync().unwrap();
            m.rx(0).sync().unwrap();
            assert_eq!(m.rx(0).forward(out.tx(0), 10), 1);
            m.rx(0).sync().unwrap();
            out.tx(0).sync().unwrap();
            assert_eq!(all(b.rx(0)), [f], "{n}");
            assert_eq!(ns.check().unwrap().problems, Vec::<String>::new(), "{n}");
        }
        drop((a, m, out, b));
        clean(&ns);
    }

    /// Monitors cannot send, but they can wait.
    #[test]
    fn a_monitor_waits() {
        let ns = Namespace::embedded().unwrap();
        let mut a = ns.open("vale0:a").unwrap();
        let _b = ns.open("vale0:b").unwrap();
        let mut m = ns.open("vale0:a/t").unwrap();
        assert!(!m.wait_rx(Some(Duration::from_millis(5))).unwrap());
        let refused = m.tx(0).sync().unwrap_err();
        assert_eq!(refused.kind(), netvale::ErrorKind::Usage);
        a.tx(0).push(&frame(3, 1, 5, 60)).unwrap();
        a.tx(0).sync().unwrap();
        assert!(m.wait_rx(Some(Duration::from_secs(5))).unwrap());
        assert_eq!(all(m.rx(0)), [frame(3, 1, 5, 60)]);
    }

    #[test]
    fn a_waiting_receiver_is_woken() {
        let ns = Namespace::embedded().unwrap();
        let mut a = ns.open("vale0:a").unwrap();
        for rings in [1, 3] {
            let mut b = ns
                .port(&format!("vale0:b{rings}"))
                .rings(1, rings)
                .open()
                .unwrap();
            std::thread::scope(|scope| {
                let waiter = scope.spawn(move || {
                    let start = Instant::now();
                    for _ in 0..50 {
                        assert!(b.wait_rx(Some(LIMIT)).unwrap());
                        let _ = (0..usize::from(rings))
                            .map(|i| all(b.rx(i)).len())
                            .sum::<usize>();
                    }
                    start.elapsed()
                });
                let start = Instant::now();
                while !waiter.is_finished() && start.elapsed() < LIMIT {
                    a.tx(0).push(&frame(99, 1, 1, 60)).unwrap();
                    a.tx(0).sync().unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                }
                // A lost wake-up would cost half a second each.
                assert!(waiter.join().unwrap() < Duration::from_secs(5));
            });
        }
    }

    /// Ports of several regions meet on one switch; buffers stay in theirs.
    #[test]
    fn regions_of_ones_own() {
        let ns = Namespace::embedded().unwrap();
        let region = ns.new_region(8, 8192).unwrap();
        assert_eq!(ns.new_region(8, 8192).unwrap(), region + 1);
        let usage = ns.new_region(0, 8192).unwrap_err();
        assert_eq!(usage.kind(), netvale::ErrorKind::Usage);
        let mut a = ns.open("vale0:a").unwrap();
        let mut b = ns.open(&format!("vale0:b@{region}")).unwrap();
        assert_eq!((a.info().mem_id, b.info().mem_id), (1, region));
        assert!(!a.same_region(&b));
        let mut bytes = Vec::new();
        for n in 0..3000u32 {
            let mut f = [0xff; 60];
            f[6..10].copy_from_slice(&n.to_le_bytes());
            let (from, to) = if n % 2 == 0 {
                (&mut a, &mut b)
            } else {
                (&mut b, &mut a)
            };
            from.tx(0).push(&f).unwrap();
            from.tx(0).sync().unwrap();
            assert_eq!(to.rx(0).sync().unwrap(), 1);
            to.rx(0).next().unwrap().read_to(&mut bytes);
            assert_eq!(bytes, f);
        }
        // The region has room for four ports of 1024 slots a ring, no more.
        let more: Vec<_> = (0..4)
            .map(|i| ns.open(&format!("vale0:m{i}@{region}")))
            .collect();
        let kinds: Vec<_> = more
            .iter()
            .map(|r| r.as_ref().err().map(|e| e.kind()))
            .collect();
        assert_eq!(kinds[..2], [None, None]);
        assert_eq!(kinds[3], Some(netvale::ErrorKind::NoSpace));
        assert_eq!(ns.check().unwrap().problems, Vec::<String>::new());
    }
}

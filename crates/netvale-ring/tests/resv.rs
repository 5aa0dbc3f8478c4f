//! Reservations against a plain queue, from any lap and ring size, between
//! real threads, and with any bits in their words.

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    reason = "foreign bits are cut to size on purpose"
)]
mod resv {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use netvale_ring::Pos;
    use netvale_ring::resv::{Cursor, Lease, Refused, Resv};
    use proptest::prelude::*;

    /// A ring's words and a value for each of its slots.
    struct Bed {
        word: AtomicU64,
        rhead: AtomicU64,
        recs: Vec<AtomicU64>,
        data: Vec<AtomicU64>,
    }

    impl Bed {
        fn new(slots: u32) -> Self {
            let zeros = || (0..slots).map(|_| AtomicU64::new(0)).collect();
            Self {
                word: AtomicU64::new(0),
                rhead: AtomicU64::new(0),
                recs: zeros(),
                data: zeros(),
            }
        }

        /// Closed, as left by earlier lives of all sorts that ended in `lap`.
        fn used(slots: u32, lap: u32, junk: u64) -> Self {
            let bed = Self::new(slots);
            bed.word
                .store(u64::from(Pos::new(lap, slots / 2).bits()), Relaxed);
            let mut x = junk;
            for rec in &bed.recs {
                x = x
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                // Done reservations of laps near the one to come.
                let near = u64::from(lap.wrapping_add(1)).wrapping_add(x >> 62) & 0xf_ffff;
                let n = 1 + (x >> 20) % u64::from(slots);
                rec.store(
                    near | 7 << 20 | (n & 0xfff) << 36 | (n & 0xfff) << 48,
                    Relaxed,
                );
            }
            bed
        }

        fn resv(&self) -> Resv<'_, AtomicU64> {
            Resv {
                word: &self.word,
                recs: &self.recs,
                rhead: &self.rhead,
            }
        }

        fn slots(&self) -> u32 {
            u32::try_from(self.recs.len()).unwrap()
        }

        fn slot(&self, start: Pos, k: u32) -> &AtomicU64 {
            &self.data[start.add(k, self.slots()).idx() as usize]
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Reserve {
            owner: u16,
            want: u32,
        },
        /// Publishes so many parts of 256 of the `which`th lease.
        Publish {
            which: usize,
            part: u32,
        },
        Finish {
            which: usize,
        },
        Collect,
        Release {
            part: u32,
        },
        Die {
            owner: u16,
        },
        Reopen,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1u16..5, 0u32..5000).prop_map(|(owner, want)| Op::Reserve { owner, want }),
            4 => (1u16..5, 1u32..4).prop_map(|(owner, want)| Op::Reserve { owner, want }),
            2 => (0usize..8, 0u32..=256).prop_map(|(which, part)| Op::Publish { which, part }),
            6 => (0usize..8).prop_map(|which| Op::Finish { which }),
            4 => Just(Op::Collect),
            4 => (0u32..=256).prop_map(|part| Op::Release { part }),
            1 => (1u16..5).prop_map(|owner| Op::Die { owner }),
            1 => Just(Op::Reopen),
        ]
    }

    /// A lease as the model sees it: values of its slots, published so many.
    struct Given {
        lease: Lease,
        values: Vec<u64>,
        done: u32,
    }

    const EMPTY: u64 = u64::MAX;

    fn slots() -> impl Strategy<Value = u32> {
        prop_oneof![2u32..10, 2u32..=4096, Just(4096u32), Just(4095u32)]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn agrees_with_a_queue(
            slots in slots(),
            lap in prop_oneof![Just(0u32), 0xf_fff0u32..=0xf_ffff, 0x1_fff0u32..=0x2_0010, 0u32..=0xf_ffff],
            junk: u64,
            ops in prop::collection::vec(op(), 1..150),
        ) {
            let bed = Bed::used(slots, lap, junk);
            let resv = bed.resv();
            prop_assert_eq!(resv.reserve(1, |f| f), Err(Refused::Closed));
            let mut cursor = resv.open();
            prop_assert_eq!(cursor.start.idx(), 0);
            // Leases that are not collected whole, then slots shown, then held.
            let mut given: VecDeque<Given> = VecDeque::new();
            let mut held: VecDeque<u64> = VecDeque::new();
            let (mut collected, mut next) = (0u32, 1u64);
            for op in ops {
                let out: u32 = given.iter().map(|g| g.lease.n).sum();
                let used = u32::try_from(held.len()).unwrap() + out - collected;
                match op {
                    Op::Reserve { owner, want } => {
                        let free = slots - 1 - used;
                        let mut told = None;
                        let got = if want == 1 {
                            resv.reserve_one(owner, |f| 1.min(f))
                        } else {
                            let got = resv.reserve(owner, |f| { told = Some(f); want });
                            prop_assert_eq!(told, Some(free));
                            got
                        };
                        let n = want.min(free);
                        if n == 0 {
                            prop_assert_eq!(got, Err(Refused::Full));
                            continue;
                        }
                        let lease = got.unwrap();
                        prop_assert_eq!((lease.n, lease.owner), (n, owner));
                        let values: Vec<u64> = (next..next + u64::from(n)).collect();
                        next += u64::from(n);
                        for (k, &v) in (0..n).zip(&values) {
                            bed.slot(lease.start, k).store(v, Relaxed);
                        }
                        given.push_back(Given { lease, values, done: 0 });
                    }
                    Op::Publish { which, part } => {
                        if let Some(g) = given.iter_mut().filter(|g| g.done < g.lease.n).nth(which) {
                            g.done = g.done.max(g.lease.n * part / 256);
                            resv.publish(g.lease, g.done, part & 1 == 0);
                        }
                    }
                    Op::Finish { which } => {
                        if let Some(g) = given.iter_mut().filter(|g| g.done < g.lease.n).nth(which) {
                            g.done = g.lease.n;
                            resv.publish(g.lease, g.done, true);
                        }
                    }
                    Op::Collect => {
                        let (quiet, whole) = (resv.is_quiet(cursor), resv.next_whole(cursor.start));
                        let found = resv.collect(cursor);
                        prop_assert!(!found.fault);
                        // The shortcuts say what the walk finds.
                        prop_assert_eq!(quiet, found.cursor == cursor);
                        if let Some(end) = whole.filter(|_| cursor.start == cursor.tail) {
                            prop_assert_eq!(found.cursor, Cursor { start: end, tail: end });
                        }
                        let mut expect = Vec::new();
                        while let Some(g) = given.front() {
                            expect.extend_from_slice(&g.values[collected as usize..g.done as usize]);
                            collected = g.done;
                            if g.done < g.lease.n {
                                break;
                            }
                            given.pop_front();
                            collected = 0;
                        }
                        let n = cursor.tail.distance(found.cursor.tail, slots);
                        let got: Vec<u64> =
                            (0..n.min(slots)).map(|k| bed.slot(cursor.tail, k).load(Relaxed)).collect();
                        prop_assert_eq!(&got, &expect);
                        held.extend(got);
                        cursor = found.cursor;
                    }
                    Op::Release { part } => {
                        let n = u32::try_from(held.len()).unwrap() * part / 256;
                        let rhead = Pos::from_bits(u32::try_from(bed.rhead.load(Relaxed)).unwrap());
                        // Whole reservations only.
                        let n = n.min(rhead.distance(cursor.start, slots));
                        held.drain(..n as usize);
                        bed.rhead.store(u64::from(rhead.add(n, slots).bits()), Relaxed);
                    }
                    Op::Die { owner } => {
                        let mut expect = 0;
                        for g in given.iter_mut().filter(|g| g.lease.owner == owner) {
                            expect += g.lease.n - g.done;
                            g.values[g.done as usize..].fill(EMPTY);
                            g.done = g.lease.n;
                        }
                        let n = resv.repair(|| cursor, |o| o == owner, |at| {
                            bed.data[at as usize].store(EMPTY, Relaxed);
                        });
                        prop_assert_eq!(n, expect);
                    }
                    Op::Reopen => {
                        resv.close();
                        prop_assert!(!resv.is_open());
                        prop_assert_eq!(resv.reserve(1, |f| f), Err(Refused::Closed));
                        let owed: u32 = given.iter().map(|g| g.lease.n - g.done).sum();
                        prop_assert_eq!(resv.outstanding(|| cursor), owed);
                        if owed == 0 {
                            given.clear();
                            held.clear();
                            collected = 0;
                            cursor = resv.open();
                            prop_assert_eq!(resv.collect(cursor).cursor, cursor);
                        } else {
                            // Not to be had by the program, only by this test.
                            let open = bed.word.load(Relaxed) | 1 << 60;
                            bed.word.store(open, Relaxed);
                        }
                    }
                }
                let owed: u32 = given.iter().map(|g| g.lease.n - g.done).sum();
                prop_assert_eq!(resv.outstanding(|| cursor), owed);
            }
        }

        #[test]
        fn survives_any_bits(
            slots in slots(),
            words in prop::collection::vec((0u32..6, any::<u64>()), 1..40),
            start: u32,
            tail: u32,
        ) {
            let bed = Bed::new(slots);
            let resv = bed.resv();
            let mut cursor = resv.open();
            let mut leases = Vec::new();
            for (what, bits) in words {
                let at = usize::try_from(bits >> 7).unwrap() % bed.recs.len();
                match what {
                    0 => bed.word.store(bits, Relaxed),
                    1 => bed.rhead.store(bits, Relaxed),
                    // A plausible record: its lap is the current one.
                    2 => {
                        let lap = u64::from(cursor.start.lap());
                        let rec = &bed.recs[cursor.start.idx() as usize % bed.recs.len()];
                        rec.store(bits & !0xf_ffff | lap, Relaxed);
                    }
                    3 => bed.recs[at].store(bits, Relaxed),
                    4 => cursor = Cursor { start: Pos::from_bits(start ^ (bits as u32)), tail: Pos::from_bits(tail) },
                    _ => {
                        let _ = bed.word.fetch_or(1 << 60, Relaxed);
                    }
                }
                let got = if bits & 64 == 0 {
                    resv.reserve_one(3, |free| { assert!(free < slots); 1 })
                } else {
                    resv.reserve(3, |free| { assert!(free < slots); 1 + at as u32 % 64 })
                };
                if let Ok(lease) = got {
                    prop_assert!(lease.n < slots && lease.start.idx() < slots);
                    leases.push(lease);
                }
                if let Some(end) = resv.next_whole(cursor.start) {
                    prop_assert!(end.idx() < slots && end.idx() > cursor.start.idx());
                }
                let _ = resv.is_quiet(cursor);
                let found = resv.collect(cursor);
                if !found.fault && found.cursor != cursor {
                    prop_assert!(found.cursor.tail.idx() < slots);
                    prop_assert!(cursor.start.distance(found.cursor.tail, slots) < slots);
                }
                let rhead = Pos::from_bits(bed.rhead.load(Relaxed) as u32);
                if found.cursor.start != cursor.start {
                    prop_assert!(rhead.distance(found.cursor.start, slots) < slots);
                }
                cursor = found.cursor;
                if let Some(lease) = leases.pop() {
                    resv.publish(lease, lease.n, true);
                }
                let _ = resv.outstanding(|| cursor);
                let mut touched = 0u32;
                resv.repair(|| cursor, |owner| owner & 1 == 0, |at| {
                    assert!(at < slots);
                    touched += 1;
                });
                prop_assert!(touched <= slots * 1000);
                if bits & 3 == 0 {
                    resv.close();
                    cursor = resv.open();
                    prop_assert_eq!(resv.collect(cursor).cursor, cursor, "a fresh ring is empty");
                }
            }
        }
    }

    /// A record that nobody wrote over for all laps is not taken for new when
    /// its lap number comes round.
    #[test]
    fn old_records_never_come_to_life() {
        let bed = Bed::new(4);
        let resv = bed.resv();
        let mut cursor = resv.open();
        let mut step = |n: u32| {
            let lease = resv.reserve(1, |_| n).unwrap();
            let ahead = resv.collect(cursor);
            assert_eq!(ahead.cursor, cursor, "an unpublished lease was shown");
            resv.publish(lease, n, true);
            cursor = resv.collect(cursor).cursor;
            assert_eq!(cursor.tail, lease.start.add(n, 4));
            bed.rhead.store(u64::from(cursor.start.bits()), Relaxed);
            lease.start
        };
        // Once a reservation at slot 1, then for a whole turn of the laps
        // never again, then one there.
        step(1);
        let first = step(1);
        step(2);
        let laps = 1 << 20;
        for _ in 1..laps {
            step(3);
            step(1);
        }
        step(1);
        let again = step(1);
        assert_eq!(first, again, "the test is to meet the same lap again");
    }

    /// Real threads: no slot given twice, order kept per sender, nothing lost.
    #[test]
    fn senders_and_a_receiver_race() {
        for (slots, senders, each) in [
            (2u32, 2u64, 4000u64),
            (5, 3, 20_000),
            (64, 4, 50_000),
            (1000, 3, 100_000),
        ] {
            race(slots, senders, each);
        }
    }

    fn race(slots: u32, senders: u64, each: u64) {
        let bed = &Bed::new(slots);
        let mut cursor = bed.resv().open();
        let leased: &Vec<AtomicBool> = &(0..slots).map(|_| AtomicBool::new(false)).collect();
        std::thread::scope(|scope| {
            for who in 1..=senders {
                scope.spawn(move || {
                    let (mut sent, mut turn) = (0, who);
                    while sent < each {
                        turn += 1;
                        let want = u32::try_from((turn * 7 % 13 + 1).min(each - sent)).unwrap();
                        let owner = u16::try_from(who).unwrap();
                        let Ok(lease) = bed.resv().reserve(owner, |f| want.min(f)) else {
                            std::thread::yield_now();
                            continue;
                        };
                        for k in 0..lease.n {
                            let at = lease.start.add(k, slots).idx() as usize;
                            assert!(!leased[at].swap(true, Relaxed), "slot {at} given twice");
                            bed.data[at].store(who << 32 | sent, Relaxed);
                            sent += 1;
                            if turn % 5 == 0 {
                                bed.resv().publish(lease, k + 1, false);
                            }
                        }
                        bed.resv().publish(lease, lease.n, true);
                    }
                });
            }
            let mut next = vec![0u64; 1 + usize::try_from(senders).unwrap()];
            let mut left = senders * each;
            while left > 0 {
                let found = bed.resv().collect(cursor);
                assert!(!found.fault);
                let n = cursor.tail.distance(found.cursor.tail, slots);
                if n == 0 {
                    std::thread::yield_now();
                }
                for k in 0..n {
                    let at = cursor.tail.add(k, slots).idx() as usize;
                    let v = bed.data[at].load(Relaxed);
                    let who = usize::try_from(v >> 32).unwrap();
                    assert_eq!(v & 0xffff_ffff, next[who], "sender {who} out of order");
                    next[who] += 1;
                    left -= 1;
                    leased[at].store(false, Relaxed);
                }
                cursor = found.cursor;
                let to = u64::from(cursor.start.bits());
                bed.rhead.store(to, std::sync::atomic::Ordering::Release);
            }
        });
        assert_eq!(bed.resv().outstanding(|| cursor), 0);
    }

    /// Senders die now and then in the middle of a lease; a repairer clears
    /// up behind them, and everybody else loses nothing.
    #[test]
    fn dying_senders_block_nobody() {
        const EACH: u64 = 20_000;
        let slots = 32;
        let bed = &Bed::new(slots);
        let shared = &AtomicU64::new(0);
        let first = bed.resv().open();
        let pack = |c: Cursor| u64::from(c.start.bits()) | u64::from(c.tail.bits()) << 32;
        let unpack = |w: u64| Cursor {
            start: Pos::from_bits(w as u32),
            tail: Pos::from_bits((w >> 32) as u32),
        };
        shared.store(pack(first), Relaxed);
        let dead: &Mutex<Vec<u16>> = &Mutex::default();
        let done = &AtomicBool::new(false);
        let living = &AtomicU64::new(2);
        std::thread::scope(|scope| {
            for who in 1..=2u64 {
                scope.spawn(move || {
                    let mut sent = 0;
                    while sent < EACH {
                        // Every 50th batch is somebody's last.
                        let dies = sent % 50 == 49;
                        let owner = if dies {
                            100 + u16::try_from(sent % 5000).unwrap()
                        } else {
                            u16::try_from(who).unwrap()
                        };
                        let Ok(lease) = bed.resv().reserve(owner, |f| 3.min(f)) else {
                            std::thread::yield_now();
                            continue;
                        };
                        if dies {
                            if sent % 100 == 99 {
                                bed.slot(lease.start, 0).store(EMPTY - 1, Relaxed);
                                bed.resv().publish(lease, 1, false);
                            }
                            dead.lock().unwrap().push(owner);
                            sent += 1;
                            continue;
                        }
                        for k in 0..lease.n {
                            bed.slot(lease.start, k).store(who << 32 | sent, Relaxed);
                            if k == 0 {
                                sent += 1;
                            }
                        }
                        bed.resv().publish(lease, lease.n, true);
                    }
                    living.fetch_sub(1, Relaxed);
                });
            }
            scope.spawn(move || {
                loop {
                    let last = living.load(Relaxed) == 0;
                    let now = std::mem::take(&mut *dead.lock().unwrap());
                    if !now.is_empty() {
                        bed.resv().repair(
                            || unpack(shared.load(Relaxed)),
                            |o| now.contains(&o),
                            |at| bed.data[at as usize].store(EMPTY, Relaxed),
                        );
                    } else if last {
                        break;
                    }
                    std::thread::yield_now();
                }
                done.store(true, Relaxed);
            });
            let mut cursor = first;
            let mut last = [0u64; 3];
            loop {
                let end = done.load(std::sync::atomic::Ordering::Acquire);
                let found = bed.resv().collect(cursor);
                assert!(
                    !found.fault,
                    "{found:?} {:x?} rhead {:x}",
                    bed.recs,
                    bed.rhead.load(Relaxed)
                );
                let n = cursor.tail.distance(found.cursor.tail, slots);
                for k in 0..n {
                    let v = bed.slot(cursor.tail, k).load(Relaxed);
                    if v < EMPTY - 1 {
                        let who = usize::try_from(v >> 32).unwrap();
                        assert!(v & 0xffff_ffff >= last[who], "out of order");
                        last[who] = v & 0xffff_ffff;
                    }
                }
                cursor = found.cursor;
                shared.store(pack(cursor), Relaxed);
                bed.rhead.store(
                    u64::from(cursor.start.bits()),
                    std::sync::atomic::Ordering::Release,
                );
                if end && n == 0 {
                    break;
                }
                if n == 0 {
                    std::thread::yield_now();
                }
            }
            assert_eq!(
                bed.resv().given_out(),
                cursor.tail,
                "somebody blocks the ring"
            );
        });
    }
}

//! Every interleaving (up to a number of preemptions) of senders, a receiver
//! and a repairer on one small ring:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 \
//!     cargo test -p netvale-ring --test loom --release
//! ```
//!
//! What it cannot see: slots of real memory (an atomic stands for each), and
//! SeqCst in full (the model checker treats SeqCst accesses as AcqRel), so the
//! sleep word's protocol is not proven here.

#[cfg(loom)]
#[cfg(test)]
mod model {
    use core::sync::atomic::Ordering;
    use std::sync::Mutex;

    use loom::sync::Arc;
    use loom::sync::atomic::AtomicU64;
    use netvale_ring::Pos;
    use netvale_ring::resv::{Cursor, Lease, Resv, Word};

    const SLOTS: u32 = 4;
    /// What a repairer leaves in a slot.
    const EMPTY: u64 = u64::MAX;

    /// The model checker's word.
    ///
    /// The checker looks only at the last access of a word to find accesses
    /// whose order matters. So it misses a store that comes after two loads by
    /// different threads. Every model is therefore checked twice: once with
    /// loads, which may see old values, and once with exchanges in their
    /// place, where no order is missed.
    #[derive(Debug)]
    struct Cell {
        word: AtomicU64,
        exact: bool,
    }

    impl Word for Cell {
        fn load(&self, order: Ordering) -> u64 {
            if self.exact {
                self.word.fetch_add(0, order)
            } else {
                self.word.load(order)
            }
        }
        fn store(&self, value: u64, order: Ordering) {
            // The checker lets a plain store that races with an exchange come
            // before it or after it for different readers, which no machine
            // does. An exchange in its place has one place in the order.
            self.word.swap(value, order);
        }
        fn swap(&self, value: u64, order: Ordering) -> u64 {
            self.word.swap(value, order)
        }
        fn compare_exchange(
            &self,
            current: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.word.compare_exchange(current, new, success, failure)
        }
    }

    fn cell(exact: bool) -> Cell {
        Cell {
            word: AtomicU64::new(0),
            exact,
        }
    }

    /// Checks a model in both ways.
    fn check(model: impl Fn(bool) + Copy + Sync + Send + 'static) {
        for exact in [false, true] {
            loom::model(move || model(exact));
        }
    }

    /// A ring, what lies in its slots, and who the test thinks has each slot:
    /// that last part is no part of the model, so it orders nothing.
    struct Bed {
        word: Cell,
        rhead: Cell,
        recs: Vec<Cell>,
        data: Vec<AtomicU64>,
        cursor: AtomicU64,
        leased: Mutex<[Option<u16>; SLOTS as usize]>,
    }

    impl Bed {
        fn new(exact: bool) -> Arc<Self> {
            let bed = Self {
                word: cell(exact),
                rhead: cell(exact),
                recs: (0..SLOTS).map(|_| cell(exact)).collect(),
                data: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
                cursor: AtomicU64::new(0),
                leased: Mutex::default(),
            };
            let cursor = bed.resv().open();
            bed.set_cursor(cursor);
            Arc::new(bed)
        }

        fn resv(&self) -> Resv<'_, Cell> {
            Resv {
                word: &self.word,
                recs: &self.recs,
                rhead: &self.rhead,
            }
        }

        fn cursor(&self) -> Cursor {
            let w = self.cursor.load(Ordering::Relaxed);
            Cursor {
                start: Pos::from_bits(u32::try_from(w & 0xffff_ffff).unwrap()),
                tail: Pos::from_bits(u32::try_from(w >> 32).unwrap()),
            }
        }

        fn set_cursor(&self, c: Cursor) {
            let w = u64::from(c.start.bits()) | u64::from(c.tail.bits()) << 32;
            self.cursor.store(w, Ordering::Relaxed);
        }

        /// Reserves, and notes that nobody else has the slots.
        fn reserve(&self, who: u16, want: u32) -> Option<Lease> {
            let lease = if want == 1 {
                self.resv().reserve_one(who, |free| 1.min(free))
            } else {
                self.resv().reserve(who, |free| want.min(free))
            };
            let lease = lease.ok()?;
            let mut leased = self.leased.lock().unwrap();
            for k in 0..lease.n {
                let slot = &mut leased[lease.start.add(k, SLOTS).idx() as usize];
                assert_eq!(*slot, None, "slot given to {who} as well");
                *slot = Some(who);
            }
            Some(lease)
        }

        fn fill(&self, lease: Lease, k: u32, value: u64) {
            let at = lease.start.add(k, SLOTS).idx() as usize;
            self.data[at].store(value, Ordering::Relaxed);
        }

        /// Takes what is published: the values, in order.
        fn receive(&self, got: &mut Vec<u64>) {
            let before = self.cursor();
            let found = self.resv().collect(before);
            assert!(!found.fault);
            self.set_cursor(found.cursor);
            let n = before.tail.distance(found.cursor.tail, SLOTS);
            assert!(n < SLOTS, "more slots than the ring has");
            for k in 0..n {
                let at = before.tail.add(k, SLOTS).idx() as usize;
                got.push(self.data[at].load(Ordering::Relaxed));
            }
        }

        /// Gives back every reservation that was received whole.
        fn release(&self) {
            let (from, to) = (Pos::from_bits(self.rhead_bits()), self.cursor().start);
            for k in 0..from.distance(to, SLOTS) {
                let at = from.add(k, SLOTS).idx() as usize;
                self.leased.lock().unwrap()[at] = None;
                self.data[at].store(0, Ordering::Relaxed);
            }
            self.rhead.store(u64::from(to.bits()), Ordering::Release);
        }

        fn rhead_bits(&self) -> u32 {
            u32::try_from(self.rhead.load(Ordering::Relaxed)).unwrap()
        }
    }

    /// Sends `n` values in one lease, in two publications; how many it sent.
    fn send(bed: &Bed, who: u16, n: u32) -> u64 {
        let Some(lease) = bed.reserve(who, n) else {
            return 0;
        };
        for k in 0..lease.n {
            bed.fill(lease, k, u64::from(who) * 100 + u64::from(k));
            if k + 1 < lease.n {
                bed.resv().publish(lease, k + 1, false);
            }
        }
        bed.resv().publish(lease, lease.n, true);
        u64::from(lease.n)
    }

    /// Each sender's values are there in order, each once, and nothing else.
    fn verify(got: &[u64], sent: &[(u16, u64)]) {
        for &(who, n) in sent {
            let base = u64::from(who) * 100;
            let mine: Vec<u64> = got
                .iter()
                .copied()
                .filter(|v| v / 100 == u64::from(who))
                .collect();
            assert_eq!(mine, (base..base + n).collect::<Vec<_>>(), "{got:?}");
        }
        let all: u64 = sent.iter().map(|s| s.1).sum();
        assert_eq!(got.len() as u64, all, "{got:?}");
    }

    #[test]
    fn two_senders_and_a_receiver() {
        check(|exact| {
            let bed = Bed::new(exact);
            let senders: Vec<_> = [(1, 2), (2, 1)]
                .map(|(who, n)| {
                    let bed = Arc::clone(&bed);
                    loom::thread::spawn(move || send(&bed, who, n))
                })
                .into();
            let mut got = Vec::new();
            bed.receive(&mut got);
            let sent: Vec<(u16, u64)> = senders
                .into_iter()
                .zip([1, 2])
                .map(|(t, who)| (who, t.join().unwrap()))
                .collect();
            bed.receive(&mut got);
            verify(&got, &sent);
            assert_eq!(bed.resv().outstanding(|| bed.cursor()), 0);
        });
    }

    /// The ring wraps under the senders: the receiver gives slots back while
    /// they reserve.
    #[test]
    fn slots_are_used_again_only_when_given_back() {
        check(|exact| {
            let bed = Bed::new(exact);
            let mut got = Vec::new();
            let first = send(&bed, 3, 3);
            let senders: Vec<_> = [1u16, 2]
                .map(|who| {
                    let bed = Arc::clone(&bed);
                    loom::thread::spawn(move || send(&bed, who, 2))
                })
                .into();
            bed.receive(&mut got);
            bed.release();
            let mut sent = vec![(3, first)];
            for (t, who) in senders.into_iter().zip([1, 2]) {
                sent.push((who, t.join().unwrap()));
            }
            bed.receive(&mut got);
            verify(&got, &sent);
        });
    }

    /// A sender stops for ever after `published` of its two slots, another one
    /// goes on, and a repairer runs beside it.
    fn dies_after(published: u32) {
        check(move |exact| {
            let bed = Bed::new(exact);
            let dead = bed.reserve(9, 2).unwrap();
            if published > 0 {
                bed.fill(dead, 0, 900);
                bed.resv().publish(dead, published, false);
            }
            let sender = {
                let bed = Arc::clone(&bed);
                loom::thread::spawn(move || send(&bed, 1, 1))
            };
            let mut got = Vec::new();
            let repaired = bed.resv().repair(
                || bed.cursor(),
                |owner| owner == 9,
                |at| bed.data[at as usize].store(EMPTY, Ordering::Relaxed),
            );
            assert_eq!(repaired, 2 - published);
            bed.receive(&mut got);
            assert!(got.len() >= 2, "repair did not unblock: {got:?}");
            let sent = sender.join().unwrap();
            bed.receive(&mut got);
            let empties = got.iter().filter(|&&v| v == EMPTY).count();
            assert_eq!(empties, 2 - published as usize);
            got.retain(|&v| v != EMPTY);
            verify(&got, &[(9, u64::from(published)), (1, sent)]);
            assert_eq!(bed.resv().outstanding(|| bed.cursor()), 0);
        });
    }

    #[test]
    fn repairs_one_that_died_before_publishing() {
        dies_after(0);
    }

    #[test]
    fn repairs_one_that_died_half_way() {
        dies_after(1);
    }

    /// The dead one's reservation is only in the word, or just being written
    /// down by a sender that helps, while the repairer looks for it and the
    /// receiver collects.
    #[test]
    fn repair_meets_a_receiver_that_collects() {
        check(|exact| {
            let bed = Bed::new(exact);
            let alive = bed.reserve(1, 1).unwrap();
            bed.fill(alive, 0, 100);
            bed.resv().publish(alive, 1, true);
            bed.reserve(9, 1).unwrap();
            let repairer = {
                let bed = Arc::clone(&bed);
                loom::thread::spawn(move || {
                    let empty = |at: u32| bed.data[at as usize].store(EMPTY, Ordering::Relaxed);
                    bed.resv().repair(|| bed.cursor(), |o| o == 9, empty)
                })
            };
            let mut got = Vec::new();
            bed.receive(&mut got);
            assert_eq!(repairer.join().unwrap(), 1);
            bed.receive(&mut got);
            assert_eq!(got, [100, EMPTY]);
        });
    }

    #[test]
    fn closing_refuses_new_leases_and_keeps_old_ones() {
        check(|exact| {
            let bed = Bed::new(exact);
            let sender = {
                let bed = Arc::clone(&bed);
                loom::thread::spawn(move || send(&bed, 1, 1))
            };
            bed.resv().close();
            assert!(!bed.resv().is_open());
            assert!(bed.reserve(2, 1).is_none(), "a closed ring gave slots out");
            let owed = bed.resv().outstanding(|| bed.cursor());
            let sent = sender.join().unwrap();
            assert!(u64::from(owed) <= sent, "owed {owed} of {sent}");
            assert_eq!(bed.resv().outstanding(|| bed.cursor()), 0);
            let mut got = Vec::new();
            bed.receive(&mut got);
            verify(&got, &[(1, sent)]);
        });
    }
}

//! What programs of netmap's C interface rely on when they sync: what becomes
//! of flags, of words that break the rules, of data that lies elsewhere, and
//! that a sync with nothing to do does nothing.

#[cfg(test)]
mod common;

#[cfg(test)]
mod program {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use netvale_ring::port::PortKind;
    use netvale_ring::slot::{NS_BUF_CHANGED, NS_INDIRECT, NS_MOREFRAG};
    use netvale_ring::world::Waker;
    use netvale_ring::{Counter, Slot};
    use netvale_switch::domain::Want;
    use netvale_switch::end::{Indirect, RxEnd, SyncError, TxEnd};

    use crate::common::{Bed, Port, drain, peek, queue, small, want};

    fn frame(dst: u8, src: u8, len: usize) -> Vec<u8> {
        let mut f: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0]).collect();
        f[..6].copy_from_slice(&[2, 0, 0, 0, 0, dst]);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        f
    }

    /// Two ports that know each other: a is station 1, b is station 2.
    fn pair(bed: &Bed, slots: u16) -> (Port, Port) {
        let w = want(1, 1, slots, slots);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        for (from, to, n, m) in [(0, 1, 1, 2), (1, 0, 2, 1)] {
            let ports = [&mut a, &mut b];
            assert!(queue(ports[from], 0, &[&frame(m, n, 60)]));
            ports[from].tx[0].sync().unwrap();
            let [x, y] = ports;
            drain(if to == 0 { x } else { y }, 0);
        }
        (a, b)
    }

    /// A program's memory.
    #[derive(Debug)]
    struct Memory(BTreeMap<u64, Vec<u8>>);

    impl Indirect for Memory {
        fn fetch(&self, ptr: u64, dst: &mut [u8]) -> bool {
            match self.0.get(&ptr).filter(|m| m.len() >= dst.len()) {
                Some(m) => dst.copy_from_slice(&m[..dst.len()]),
                None => return false,
            }
            true
        }
    }

    /// Puts a slot whose data is elsewhere at `at`.
    fn point(port: &Port, at: u32, ptr: u64, len: u16, flags: u16) {
        let ring = port.tx[0].ring();
        let buf = ring.slot(at).buf();
        ring.set_slot(at, Slot::new(buf, len, flags | NS_INDIRECT));
        ring.set_ptr(at, ptr);
    }

    #[test]
    fn data_elsewhere_is_fetched_before_it_is_looked_at() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 64);
        let mut seen = bed.open("vale0:a/t", &want(1, 1, 16, 64));
        let whole = frame(2, 1, 60);
        let long = frame(2, 1, 300);
        let memory = Memory(BTreeMap::from([
            (0x1000, whole.clone()),
            (0x2000, long[..100].to_vec()),
            (0x3000, long[150..].to_vec()),
        ]));
        a.tx[0].set_indirect(Arc::new(memory));
        let ring = a.tx[0].ring();
        let first = ring.head();
        // One whole frame, one of three slots of which the second is its own.
        point(&a, first, 0x1000, 60, NS_BUF_CHANGED);
        point(&a, first + 1, 0x2000, 100, NS_MOREFRAG);
        let own = ring.slot(first + 2).buf();
        assert!(a.map.bufs().write(own, 0, &long[100..150]));
        ring.set_slot(first + 2, Slot::new(own, 50, NS_MOREFRAG));
        point(&a, first + 3, 0x3000, 150, 0);
        ring.set_head(first + 4);
        assert_eq!(a.tx[0].sync(), Ok(4));
        let got = drain(&mut b, 0);
        assert_eq!(got.len(), 2);
        assert_eq!((&got[0].bytes, &got[1].bytes), (&whole, &long));
        let flags: Vec<u16> = got[1].slots.iter().map(|s| s.1).collect();
        assert_eq!(flags, [3 << 8 | NS_MOREFRAG, 3 << 8 | NS_MOREFRAG, 3 << 8]);
        // The program's slots are as it left them, less NS_BUF_CHANGED.
        let ring = a.tx[0].ring();
        assert_eq!(ring.slot(first).flags(), NS_INDIRECT);
        assert_eq!(ring.slot(first + 1).flags(), NS_INDIRECT | NS_MOREFRAG);
        assert_eq!(ring.slot(first + 2).flags(), NS_MOREFRAG);
        assert_eq!(ring.ptr(first + 3), 0x3000);
        // A monitor is shown what was sent, not what lay in the buffers.
        let shown: Vec<_> = drain(&mut seen, 0).into_iter().map(|g| g.bytes).collect();
        assert_eq!(shown, [whole, long]);
    }

    #[test]
    fn data_that_cannot_be_fetched_is_an_empty_slot() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 64);
        let memory = Memory(BTreeMap::from([(0x1000, frame(2, 1, 60))]));
        for hook in [false, true] {
            if hook {
                a.tx[0].set_indirect(Arc::new(Memory(memory.0.clone())));
            }
            let bad = bed.drops(&a)["tx_bad_slot"];
            let first = a.tx[0].ring().head();
            // The addresses cannot be had: the frame is dropped.
            point(&a, first, 0xdead, 60, 0);
            // A later part cannot: the rest arrives, that slot is empty.
            let ring = a.tx[0].ring();
            let own = ring.slot(first + 1).buf();
            assert!(a.map.bufs().write(own, 0, &frame(2, 1, 60)));
            ring.set_slot(first + 1, Slot::new(own, 60, NS_MOREFRAG));
            point(&a, first + 2, 0, 70, NS_MOREFRAG);
            let last = ring.slot(first + 3).buf();
            assert!(a.map.bufs().write(last, 0, &[7; 40]));
            ring.set_slot(first + 3, Slot::new(last, 40, 0));
            ring.set_head(first + 4);
            assert_eq!(a.tx[0].sync(), Ok(4));
            let got = drain(&mut b, 0);
            assert_eq!(got.len(), 1);
            let slots: Vec<u16> = got[0].slots.iter().map(|s| s.0).collect();
            assert_eq!(slots, [60, 0, 40]);
            assert_eq!(got[0].slots[0].1, 3 << 8 | NS_MOREFRAG);
            assert_eq!(bed.drops(&a)["tx_bad_slot"], bad + 1);
            assert_eq!(a.tx[0].ring().slot(first).flags(), NS_INDIRECT);
        }
    }

    #[test]
    fn buf_changed_is_cleared_whichever_way_a_frame_goes() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 256);
        // One, a short list, a run, a mixture with another destination.
        for n in [1, 3, 100, 120, 1] {
            let ring = a.tx[0].ring();
            let first = ring.head();
            for i in 0..n {
                let at = (first + i) % ring.count();
                let to = if n == 120 && i % 3 == 0 { 9 } else { 2 };
                let buf = ring.slot(at).buf();
                assert!(a.map.bufs().write(buf, 0, &frame(to, 1, 60)));
                ring.set_slot(at, Slot::new(buf, 60, NS_BUF_CHANGED));
            }
            ring.set_head((first + n) % ring.count());
            assert_eq!(a.tx[0].sync(), Ok(n));
            for i in 0..n {
                let at = (first + i) % 256;
                assert_eq!(a.tx[0].ring().slot(at).flags(), 0, "{n}: slot {i}");
            }
            let got = drain(&mut b, 0);
            assert_eq!(got.len(), n as usize);
            assert!(got.iter().all(|g| g.slots[0].1 == 1 << 8), "{n}");
        }
    }

    /// As a process beside which others run the engine in the same name.
    struct One;
    impl Waker for One {
        fn wake(&self, _: &AtomicU32, _: u32) {}
        fn process(&self) -> u32 {
            1000
        }
        fn is_gone(&self, process: u32) -> bool {
            process == 1001
        }
    }

    #[test]
    fn relatives_take_over_the_locks_of_a_dead_process() {
        let bed = Bed::new(small());
        let pipe = want(1, 1, 16, 16);
        for (name, other) in [("vale0:a", "vale0:b"), ("vale0:p{1", "vale0:p}1")] {
            let (mut port, _other) = (bed.open(name, &pipe), bed.open(other, &pipe));
            let mut gear = bed.gear.clone();
            gear.waker = Arc::new(One);
            let (reg, map) = (&port.reg, &port.map);
            port.tx[0] = TxEnd::new(&gear, reg, &reg.tx[0], map).unwrap();
            port.rx[0] = RxEnd::new(&gear, reg, &reg.rx[0], map).unwrap();
            let owner = u64::from(port.reg.owner);
            let holders = [
                (1001 << 32 | owner, true),
                // One that lives, a stranger, a thread of ours, one who does
                // not say which process it is.
                (1002 << 32 | owner, false),
                (1001 << 32 | (owner + 1), false),
                (1000 << 32 | owner, false),
                (owner, false),
            ];
            for (holder, gives_way) in holders {
                port.tx[0].kring().try_lock(holder).unwrap();
                port.rx[0].kring().try_lock(holder).unwrap();
                // There is something to put right.
                port.tx[0].ring().set_tail(9);
                port.rx[0].ring().set_tail(9);
                let done = [port.tx[0].sync().err(), port.rx[0].sync().err()];
                let locked = Some(SyncError::Locked);
                assert_eq!(done == [None; 2], gives_way, "{holder:#x}");
                assert_eq!(done == [locked; 2], !gives_way, "{holder:#x}");
                if !gives_way {
                    port.tx[0].kring().unlock();
                    port.rx[0].kring().unlock();
                }
                // And whoever took it over has given it back.
                assert!(port.tx[0].sync().is_ok() && port.rx[0].sync().is_ok());
            }
        }
    }

    #[test]
    fn a_sync_with_nothing_to_do_takes_no_lock() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 16);
        let pipe = want(1, 1, 16, 16);
        let (mut p, mut q) = (bed.open("vale0:p{1", &pipe), bed.open("vale0:p}1", &pipe));
        assert!(queue(&a, 0, &[&frame(2, 1, 60)]));
        assert!(queue(&p, 0, &[&frame(2, 1, 60)]));
        for port in [&mut a, &mut b, &mut p, &mut q] {
            port.tx[0].sync().unwrap();
            port.rx[0].sync().unwrap();
            assert!(port.tx[0].idle() && port.rx[0].idle());
            // Someone else is in the middle of a sync: nothing would tell.
            for kring in [port.tx[0].kring(), port.rx[0].kring()] {
                kring.try_lock(0x77).unwrap();
            }
            assert_eq!(port.tx[0].sync(), Ok(0));
            assert_eq!(port.rx[0].sync(), Ok(port.rx[0].ring().tail()));
            // As soon as there is something, the lock is asked for.
            port.rx[0].ring().set_tail(9);
            assert_eq!(port.rx[0].sync(), Err(SyncError::Locked));
            port.tx[0].ring().set_tail(9);
            assert_eq!(port.tx[0].sync(), Err(SyncError::Locked));
            for kring in [port.tx[0].kring(), port.rx[0].kring()] {
                kring.unlock();
            }
            // What the program wrote over is restored.
            let (tx, rx) = (port.tx[0].ring(), port.rx[0].ring());
            assert_eq!((tx.tail(), rx.tail()), (9, 9));
            port.tx[0].sync().unwrap();
            port.rx[0].sync().unwrap();
            assert!(port.tx[0].ring().tail() != 9 && port.rx[0].ring().tail() < 4);
            assert!(port.tx[0].idle() && port.rx[0].idle());
        }
        // Then there is news: for b and q, which have not released anything.
        for (from, to) in [(&mut a, &mut b), (&mut p, &mut q)] {
            assert!(to.rx[0].idle() && from.tx[0].idle());
            assert!(queue(from, 0, &[&frame(2, 1, 60)]));
            assert!(!from.tx[0].idle());
            from.tx[0].sync().unwrap();
            assert!(!to.rx[0].idle());
            let before = to.rx[0].ring().tail();
            assert_eq!(to.rx[0].sync(), Ok(before + 1));
            // `cur` alone may move: all was looked at, nothing released.
            set_cur(to, before + 1);
            assert!(to.rx[0].idle());
            assert_eq!(to.rx[0].sync(), Ok(before + 1));
            set_cur(to, before + 2);
            assert!(!to.rx[0].idle());
            assert_eq!(to.rx[0].sync(), Err(SyncError::BadWords));
            set_cur(to, before + 1);
            assert_eq!(drain(to, 0).len(), 2);
            assert!(to.rx[0].idle());
        }
        // A pipe's sender has news when its slots come back.
        assert!(a.tx[0].idle());
        assert!(!p.tx[0].idle());
        assert_eq!(p.tx[0].sync(), Ok(0));
        assert!(p.tx[0].idle());
        assert_eq!(p.tx[0].ring().tail(), 1);
        p.tx[0].ring().set_head(3);
        assert!(!p.tx[0].idle());
    }

    /// Moves `cur` of the first RX ring and leaves `head` where it is.
    fn set_cur(port: &Port, cur: u32) {
        let ofs = usize::try_from(port.reg.rx[0].ofs).unwrap();
        let word = port.map.mem.word32(ofs + 24).unwrap();
        word.store(cur, std::sync::atomic::Ordering::Relaxed);
    }

    #[test]
    fn null_ports_move_nothing_and_monitors_never_send() {
        let bed = Bed::new(small());
        let mut port = bed.open("vale0:n", &want(1, 1, 16, 16));
        port.reg.kind = PortKind::Null;
        let mut tx = TxEnd::new(&bed.gear, &port.reg, &port.reg.tx[0], &port.map).unwrap();
        let mut rx = RxEnd::new(&bed.gear, &port.reg, &port.reg.rx[0], &port.map).unwrap();
        assert_eq!((tx.sync(), rx.sync()), (Ok(0), Ok(0)));
        tx.ring().set_head(5);
        assert_eq!(tx.sync(), Ok(0));
        assert_eq!((tx.ring().head(), tx.ring().tail()), (5, 15));
        tx.ring().set_head(16);
        assert_eq!(tx.sync(), Err(SyncError::BadWords));
        assert_eq!((tx.ring().head(), tx.ring().tail()), (0, 15));
        rx.ring().set_head(1);
        assert_eq!(rx.sync(), Err(SyncError::BadWords));
        port.reg.kind = PortKind::Monitor;
        let mut tx = TxEnd::new(&bed.gear, &port.reg, &port.reg.tx[0], &port.map).unwrap();
        assert!(tx.idle());
        assert_eq!(tx.sync(), Err(SyncError::Monitor));
        tx.ring().set_head(1);
        assert!(!tx.idle());
        assert_eq!(tx.sync(), Err(SyncError::Monitor));
    }

    /// Bad words on a TX ring: nothing is sent, bad slots are put right, and
    /// indices inside the ring stay as the program wrote them.
    #[test]
    fn bad_words_of_a_sender() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 16);
        assert!(queue(&a, 0, &[&frame(2, 1, 60)]));
        let ring = a.tx[0].ring();
        let (hwcur, tail) = (ring.head() - 1, ring.tail());
        let saved: Vec<Slot> = (0..16).map(|i| ring.slot(i)).collect();
        ring.set_slot(7, Slot::new(1, 60, 0));
        ring.set_slot(8, Slot::new(u32::MAX, 60, 4));
        ring.set_slot(9, saved[9].with_buf(saved[9].buf()));
        ring.set_slot(9, Slot::new(saved[9].buf(), 2113, 8));
        ring.set_slot(10, Slot::new(saved[10].buf(), 2112, 8));
        let words = |p: &Port| {
            let r = p.tx[0].ring();
            (r.head(), r.cur(), r.tail())
        };
        // Inside the ring, but `cur` is behind `head`.
        let ofs = usize::try_from(a.reg.tx[0].ofs).unwrap();
        let cur = a.map.mem.word32(ofs + 24).unwrap();
        cur.store(hwcur, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(a.tx[0].sync(), Err(SyncError::BadWords));
        assert_eq!(words(&a), (hwcur + 1, hwcur, tail));
        let ring = a.tx[0].ring();
        assert_eq!(ring.slot(7), Slot::new(0, 0, 0));
        assert_eq!(ring.slot(8), Slot::new(0, 0, 4));
        assert_eq!(ring.slot(9), Slot::new(saved[9].buf(), 0, 8));
        assert_eq!(ring.slot(10), Slot::new(saved[10].buf(), 2112, 8));
        assert!(drain(&mut b, 0).is_empty());
        // One of the three outside: all are reset.
        for (which, value) in [(20, 16), (24, u32::MAX), (28, 99)] {
            let word = a.map.mem.word32(ofs + which).unwrap();
            word.store(value, std::sync::atomic::Ordering::Relaxed);
            // A `tail` alone would only be restored: `head` is past `cur` too.
            if which == 28 {
                let head = a.map.mem.word32(ofs + 20).unwrap();
                head.store(hwcur + 1, std::sync::atomic::Ordering::Relaxed);
            }
            assert_eq!(a.tx[0].sync(), Err(SyncError::BadWords), "{which}");
            assert_eq!(words(&a), (hwcur, hwcur, tail), "{which}");
        }
        assert_eq!(a.tx[0].kring().counter(Counter::FaultWords), 4);
        for (i, slot) in (0..).zip(saved) {
            a.tx[0].ring().set_slot(i, slot);
        }
        // And then all is well.
        assert!(queue(&a, 0, &[&frame(2, 1, 60)]));
        assert_eq!(a.tx[0].sync(), Ok(1));
        assert_eq!(drain(&mut b, 0).len(), 1);
        bed.check();
    }

    /// Bad words on an RX ring: nothing is released, but what came is shown.
    #[test]
    fn bad_words_of_a_receiver() {
        for name in ["vale0:", "pipe"] {
            let bed = Bed::new(small());
            let (mut a, mut b) = if name == "pipe" {
                let w = want(1, 1, 16, 16);
                (bed.open("vale0:p{1", &w), bed.open("vale0:p}1", &w))
            } else {
                pair(&bed, 16)
            };
            let start = b.rx[0].ring().tail();
            for n in 1..=3 {
                assert!(queue(&a, 0, &[&frame(2, 1, 60)]));
                assert_eq!(a.tx[0].sync(), Ok(1));
                let ring = b.rx[0].ring();
                // `tail` written over as well: it is right afterwards.
                ring.set_head(if n == 2 { 16 } else { start + n });
                ring.set_tail(11);
                assert_eq!(b.rx[0].sync(), Err(SyncError::BadWords), "{name}");
                assert_eq!(b.rx[0].ring().tail(), start + n, "{name}");
                b.rx[0].ring().set_head(start);
            }
            // The same with nothing new.
            b.rx[0].ring().set_head(start + 4);
            b.rx[0].ring().set_tail(11);
            assert_eq!(b.rx[0].sync(), Err(SyncError::BadWords));
            assert_eq!(b.rx[0].ring().tail(), start + 3);
            b.rx[0].ring().set_head(start);
            assert_eq!(drain(&mut b, 0).len(), 3, "{name}");
            bed.check();
        }
    }

    /// A frame that `head` cuts off goes out as far as it is there.
    #[test]
    fn a_frame_that_head_cuts_off() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 64);
        let f = frame(2, 1, 90);
        let ring = a.tx[0].ring();
        let first = ring.head();
        for (i, part) in (0..).zip(f.chunks(30)) {
            let buf = ring.slot(first + i).buf();
            assert!(a.map.bufs().write(buf, 0, part));
            ring.set_slot(first + i, Slot::new(buf, 30, NS_MOREFRAG));
        }
        ring.set_head(first + 3);
        assert_eq!(a.tx[0].sync(), Ok(3));
        let got = drain(&mut b, 0);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].bytes, f);
        let flags: Vec<u16> = got[0].slots.iter().map(|s| s.1).collect();
        assert_eq!(flags, [3 << 8 | NS_MOREFRAG, 3 << 8 | NS_MOREFRAG, 3 << 8]);
    }

    /// The first frame that does not fit ends a batch for its destination:
    /// later ones that would fit are dropped too, other destinations not.
    #[test]
    fn nothing_overtakes_a_frame_that_does_not_fit() {
        let bed = Bed::new(small());
        let (mut a, mut b) = pair(&bed, 64);
        let mut c = bed.open("vale0:c", &want(1, 1, 16, 8));
        assert!(queue(&c, 0, &[&frame(1, 3, 60)]));
        c.tx[0].sync().unwrap();
        drain(&mut a, 0);
        let long = frame(3, 1, 50 * 5);
        let parts: Vec<&[u8]> = long.chunks(50).collect();
        for (to, parts) in [
            (3, None),
            (3, None),
            (3, None),
            (3, Some(&parts[..])),
            (3, None),
            (2, None),
        ] {
            match parts {
                Some(parts) => assert!(queue(&a, 0, parts)),
                None => assert!(queue(&a, 0, &[&frame(to, 1, 60)])),
            }
        }
        a.tx[0].sync().unwrap();
        let full = bed.drops(&c)["rx_full"];
        assert_eq!(full, 2, "the long one and the one behind it");
        let lens: Vec<usize> = drain(&mut c, 0).iter().map(|g| g.bytes.len()).collect();
        assert_eq!(lens, [60, 60, 60]);
        assert_eq!(drain(&mut b, 0).len(), 1);
        // The next batch finds room.
        assert!(queue(&a, 0, &parts));
        a.tx[0].sync().unwrap();
        assert_eq!(drain(&mut c, 0)[0].bytes, long);
    }

    /// Whoever gives its buffers away finds others in its slots, and is told.
    #[test]
    fn buffers_given_away_come_back_as_others() {
        let bed = Bed::new(small());
        let gives = Want {
            gives_buffers: true,
            ..want(1, 1, 16, 16)
        };
        let (mut a, mut b) = (bed.open("vale0:a", &gives), bed.open("vale0:b", &gives));
        let mut all = frame(2, 1, 60);
        all[..6].fill(0xff);
        assert!(queue(&b, 0, &[&all]));
        b.tx[0].sync().unwrap();
        drain(&mut a, 0);
        for station in [8, 9] {
            let known = frame(1, station, 60);
            let ring = a.tx[0].ring();
            let at = ring.head();
            let mine = ring.slot(at).buf();
            assert!(queue(&a, 0, &[&known]));
            a.tx[0].sync().unwrap();
            assert_eq!(peek_after(&mut b), mine);
            let slot = a.tx[0].ring().slot(at);
            assert!(slot.buf() != mine && slot.has(NS_BUF_CHANGED));
        }
        bed.check_holders(&a);
        bed.check_holders(&b);
    }

    /// The buffer of the frame that came last.
    fn peek_after(port: &mut Port) -> u32 {
        port.rx[0].sync().unwrap();
        let ring = port.rx[0].ring();
        assert_eq!(peek(port, 0).len(), 1);
        let buf = ring.slot(ring.head()).buf();
        ring.set_head(ring.tail());
        port.rx[0].sync().unwrap();
        buf
    }
}

//! The ways that a batch may take through a switch, and what can be seen of
//! them from outside.

#[cfg(test)]
mod common;

#[cfg(test)]
mod ways {
    use std::sync::atomic::AtomicU32;
    use std::sync::{Arc, Mutex};

    use netvale_ring::kring::{KringId, sleep};
    use netvale_ring::world::{Waker, World};

    use crate::common::{Bed, NoWaker, Port, drain, queue, small, want};

    const ALL: [u8; 6] = [0xff; 6];

    fn mac(n: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, n]
    }

    fn frame(dst: [u8; 6], src: [u8; 6], n: u8) -> Vec<u8> {
        let mut f = vec![n; 60];
        f[..6].copy_from_slice(&dst);
        f[6..12].copy_from_slice(&src);
        f
    }

    fn send(port: &mut Port, r: usize, f: &[u8]) {
        assert!(queue(port, r, &[f]));
        assert_eq!(port.tx[r].sync(), Ok(1));
    }

    /// Contents of the frames that have arrived: their last bytes.
    fn got(port: &mut Port) -> Vec<u8> {
        drain(port, 0).iter().map(|g| g.bytes[59]).collect()
    }

    fn flooded(bed: &Bed, port: &Port) -> u64 {
        let stats = bed.with(|d| d.port_stats(port.reg.port)).unwrap();
        stats.flooded
    }

    /// Whether the ring remembers that frames for everyone have one way.
    fn has_flood_way(port: &Port, r: usize) -> bool {
        format!("{:?}", port.tx[r]).contains("way: Some(\"everyone\")")
    }

    #[test]
    fn broadcasts_have_one_way_until_a_third_port_comes() {
        let bed = Bed::new(small());
        let want = want(1, 1, 64, 64);
        let (mut a, mut b) = (bed.open("vale0:a", &want), bed.open("vale0:b", &want));
        for i in 0..4 {
            send(&mut a, 0, &frame(ALL, mac(1), i));
            assert!(has_flood_way(&a, 0));
        }
        // A batch goes the same way.
        for i in 4..12 {
            assert!(queue(&a, 0, &[&frame(ALL, mac(1), i)]));
        }
        assert_eq!(a.tx[0].sync(), Ok(8));
        assert_eq!(got(&mut b), (0..12).collect::<Vec<_>>());
        assert_eq!(flooded(&bed, &a), 12);
        let mut c = bed.open("vale0:c", &want);
        for i in 12..16 {
            send(&mut a, 0, &frame(ALL, mac(1), i));
        }
        for port in [&mut b, &mut c] {
            assert_eq!(got(port), [12, 13, 14, 15]);
        }
        assert_eq!(flooded(&bed, &a), 16);
        // And again when it goes.
        bed.close(c);
        for i in 16..18 {
            send(&mut a, 0, &frame(ALL, mac(1), i));
        }
        assert!(has_flood_way(&a, 0));
        assert_eq!(got(&mut b), [16, 17]);
        assert_eq!(flooded(&bed, &a), 18);
        bed.check();
    }

    #[test]
    fn a_station_that_becomes_known_ends_the_flood() {
        let bed = Bed::new(small());
        let mut a = bed.open("vale0:a", &want(2, 1, 64, 64));
        let mut b = bed.open("vale0:b", &want(1, 1, 64, 64));
        for i in 0..3 {
            send(&mut a, 0, &frame(mac(9), mac(1), i));
            assert!(!has_flood_way(&a, 0));
        }
        assert_eq!(got(&mut b), [0, 1, 2]);
        // It turns out to be behind the sender.
        send(&mut a, 1, &frame(ALL, mac(9), 3));
        assert_eq!(got(&mut b), [3]);
        send(&mut a, 0, &frame(mac(9), mac(1), 4));
        assert!(got(&mut b).is_empty());
        assert_eq!(flooded(&bed, &a), 4);
        assert_eq!(bed.drops(&a)["tx_no_dest"], 1);
        bed.check();
    }

    /// Looks at a TX ring when it has to wake somebody: in the middle of the
    /// sync that sends.
    struct Spy {
        world: World,
        kring: Mutex<Option<KringId>>,
        seen: Mutex<Vec<u32>>,
    }

    impl Waker for Spy {
        fn wake(&self, _: &AtomicU32, _: u32) {
            let kring = self.kring.lock().unwrap().unwrap();
            let (taken, _) = self.world.kring(kring).unwrap().hw();
            self.seen.lock().unwrap().push(taken);
        }
    }

    /// Whoever is woken may see the sender die: another handle of the sender's
    /// port must not send the same frames once more.
    #[test]
    fn slots_are_taken_before_they_are_sent() {
        for dst in [ALL, mac(2)] {
            let mut bed = Bed::new(small());
            let spy = Arc::new(Spy {
                world: bed.world.clone(),
                kring: Mutex::new(None),
                seen: Mutex::default(),
            });
            bed.gear.waker = Arc::clone(&spy) as Arc<dyn Waker>;
            let want = want(1, 1, 64, 64);
            let (mut a, mut b) = (bed.open("vale0:a", &want), bed.open("vale0:b", &want));
            *spy.kring.lock().unwrap() = Some(a.reg.tx[0].kring);
            send(&mut b, 0, &frame(ALL, mac(2), 0));
            // With no way known, on the way of the frame before, batches.
            for n in [1, 1, 1, 5, 20, 1] {
                let word = b.rx[0].kring().sleep_word();
                word.announce(sleep::FUTEX, &NoWaker);
                for i in 0..n {
                    assert!(queue(&a, 0, &[&frame(dst, mac(1), i)]));
                }
                let head = a.tx[0].ring().head();
                assert_eq!(a.tx[0].sync(), Ok(u32::from(n)));
                let seen = std::mem::take(&mut *spy.seen.lock().unwrap());
                assert_eq!(seen, [head], "{n} frames");
                assert_eq!(drain(&mut b, 0).len(), usize::from(n));
            }
        }
    }
}

//! Peers that write anything anywhere, while ports send and receive: nothing
//! panics, nothing hangs, and ports that were not touched lose nothing.

#[cfg(test)]
mod common;

#[cfg(test)]
mod hostile {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
    use std::time::{Duration, Instant};

    use netvale_ring::layout::{FDB_ENTRIES, KRING, PORT_REC, RegionGeom, StateGeom};
    use netvale_switch::domain::{Config, Want};

    use crate::common::{Bed, Port, Rng, drain, queue, small, want};

    /// No sync may take longer than this, on a busy machine.
    const LIMIT: Duration = Duration::from_secs(5);

    fn config() -> Config {
        Config {
            state: StateGeom {
                holders: 20_000,
                switches: 3,
                ..small().state
            },
            global: RegionGeom {
                bufs: 20_000,
                ..small().global
            },
            huge: false,
        }
    }

    /// A word that is wrong in an interesting way.
    fn spoil(rng: &mut Rng, old: u64) -> u64 {
        match rng.below(6) {
            0 => rng.next(),
            1 => old ^ 1 << rng.below(64),
            2 => old.wrapping_add(1),
            3 => u64::MAX,
            4 => 0,
            _ => old & 0xffff_ffff | rng.next() << 32,
        }
    }

    /// Ports that send and receive for some time; `reach` says which words of
    /// the state or the region are written over meanwhile.
    fn torture(
        seed: u64,
        time: Duration,
        words: impl Fn(&Bed, &[Port]) -> Vec<(bool, usize, usize)>,
    ) {
        let bed = Bed::new(config());
        let mut ports = Vec::new();
        for i in 0..4u16 {
            let w = Want {
                gives_buffers: i % 2 == 0,
                accepts_vnet_hdr: true,
                vnet_hdr: (i == 3).then_some(12),
                ..want(
                    2,
                    2,
                    [16, 64, 7, 1024][usize::from(i)],
                    [64, 7, 1024, 32][usize::from(i)],
                )
            };
            ports.push(bed.open(&format!("vale0:p{i}"), &w));
        }
        ports.push(bed.open("vale0:q{1", &want(1, 1, 16, 16)));
        ports.push(bed.open("vale0:q}1", &want(1, 1, 16, 16)));
        ports.push(bed.open("vale0:p0/rt", &want(1, 1, 16, 16)));
        ports.push(bed.open("vale0:p1/z", &want(1, 1, 16, 16)));
        let map = ports[0].map.clone();
        let targets = words(&bed, &ports);
        let ids: Vec<_> = ports.iter().map(|p| p.reg.port).collect();
        let faults = |bed: &Bed| -> u64 {
            ids.iter()
                .filter_map(|&id| bed.with(|d| d.port_stats(id)))
                .flat_map(|s| s.drops.into_iter().map(|d| d.1).chain([s.faults]))
                .fold(0, u64::wrapping_add)
        };
        let (stop, longest) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let syncs = &AtomicU64::new(0);
        std::thread::scope(|scope| {
            let mut rng = Rng(seed | 1);
            let world = bed.world.clone();
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    for _ in 0..64 {
                        let (state, from, n) = targets[rng.below(targets.len())];
                        let at = from + 8 * rng.below(n / 8);
                        let mem = if state { world.mem() } else { &map.mem };
                        let word = mem.word(at).unwrap();
                        word.store(spoil(&mut rng, word.load(Relaxed)), Relaxed);
                    }
                    std::thread::yield_now();
                }
            });
            for (i, port) in ports.iter_mut().enumerate() {
                scope.spawn(move || {
                    let mut rng = Rng(seed * 77 + i as u64 + 1);
                    while !stop.load(Relaxed) {
                        let start = Instant::now();
                        churn(port, &mut rng);
                        let took = u64::try_from(start.elapsed().as_millis()).unwrap();
                        longest.fetch_max(took, Relaxed);
                        syncs.fetch_add(1, Relaxed);
                    }
                });
            }
            let end = Instant::now() + time;
            while Instant::now() < end {
                std::thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, Relaxed);
        });
        assert!(
            Duration::from_millis(longest.load(Relaxed)) < LIMIT,
            "a sync took {longest:?} ms"
        );
        assert!(syncs.load(Relaxed) > 100, "nothing was done: {syncs:?}");
        assert!(faults(&bed) > 0, "nobody noticed");
        // The books do not balance any more, but nothing panics over them.
        let _ = bed.with(|d| (d.check(), d.list(), d.stats(None), d.fdb("vale0"), d.age()));
        for p in ports {
            bed.close(p);
        }
        let _ = bed.with(|d| d.reap());
        // Others, made afterwards in another switch, work.
        let w = want(1, 1, 16, 16);
        if let (Ok(mut a), Ok(mut b)) = (bed.try_open("vale7:a", &w), bed.try_open("vale7:b", &w)) {
            let _ = (drain_all(&mut a), drain_all(&mut b));
            let mut got = 0;
            for _ in 0..100 {
                let mut f = [7; 60];
                f[0] = 0xff;
                if queue(&a, 0, &[&f]) {
                    let _ = a.tx[0].sync();
                }
                got += drain_all(&mut b);
            }
            assert!(got > 0, "a fresh switch does not work");
        }
    }

    /// Sends and receives with no belief in what the ring says.
    fn churn(port: &mut Port, rng: &mut Rng) {
        for r in 0..port.tx.len() {
            let ring = port.tx[r].ring();
            let n = ring.count();
            let (mut at, tail) = (ring.head() % n, ring.tail() % n);
            for _ in 0..rng.below(20) {
                if at == tail {
                    break;
                }
                let mut f = [0u8; 80];
                f[..6].copy_from_slice(&[2, 0, 0, 0, 0, u8::try_from(rng.below(6)).unwrap()]);
                f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, u8::try_from(rng.below(6)).unwrap()]);
                let slot = ring.slot(at);
                let _ = port.map.bufs().write(slot.buf(), 0, &f);
                let more = if rng.chance(20) { 0x20 } else { 0 };
                ring.set_slot(at, netvale_ring::Slot::new(slot.buf(), 80, more));
                at = ring.next(at);
            }
            ring.set_head(at);
            let _ = port.tx[r].sync();
        }
        for r in 0..port.rx.len() {
            let _ = port.rx[r].has_news();
            let _ = port.rx[r].is_stuck();
            let _ = port.rx[r].sync();
            let ring = port.rx[r].ring();
            ring.set_head(ring.tail());
            let _ = port.rx[r].sync();
            if rng.chance(1) {
                port.rx[r].repair(|_, _| true);
            }
        }
    }

    fn drain_all(port: &mut Port) -> u32 {
        let _ = port.rx[0].sync();
        let ring = port.rx[0].ring();
        let n = ring.span(ring.head() % ring.count(), ring.tail() % ring.count());
        ring.set_head(ring.tail());
        let _ = port.rx[0].sync();
        n
    }

    #[test]
    fn rings_slots_and_buffers() {
        torture(11, Duration::from_secs(4), |_, ports| {
            let mut out = Vec::new();
            for p in ports {
                for r in p.reg.tx.iter().chain(&p.reg.rx) {
                    let at = usize::try_from(r.ofs).unwrap();
                    out.push((false, at, 64));
                    out.push((false, at + 256, 16 * usize::from(r.slots)));
                }
            }
            let g = ports[0].map.geom;
            out.push((
                false,
                g.buf_ofs(),
                g.bufs as usize * g.buf_size as usize / 8,
            ));
            out
        });
    }

    #[test]
    fn hidden_state_of_rings() {
        torture(12, Duration::from_secs(4), |bed, ports| {
            let g = *bed.world.geom();
            let mut out = Vec::new();
            for p in ports {
                for r in p.reg.tx.iter().chain(&p.reg.rx) {
                    let at = g.kring_ofs(r.kring.0);
                    out.push((true, at, 512));
                    // Records and what else follows for each slot.
                    out.push((true, at + 512, (32 * usize::from(r.slots)).min(KRING - 512)));
                }
            }
            out
        });
    }

    #[test]
    fn tables_of_ports_switches_and_buffers() {
        torture(13, Duration::from_secs(4), |bed, ports| {
            let g = *bed.world.geom();
            let mut out = vec![
                (true, g.switch_ofs(0), 64 * 8 + 64),
                (true, g.fdb_ofs(0), FDB_ENTRIES as usize * 8),
                (true, g.holders_ofs(0), 40_000),
                (true, g.owner_ofs(0), 256),
                (true, 8, 64),
            ];
            out.extend(
                ports
                    .iter()
                    .map(|p| (true, g.port_ofs(p.reg.port.0), PORT_REC)),
            );
            out
        });
    }

    #[test]
    fn everything_at_once() {
        torture(14, Duration::from_secs(4), |bed, ports| {
            let g = *bed.world.geom();
            let mut out = vec![(true, 0, g.file_len() / 8 * 8)];
            for p in ports {
                for r in p.reg.tx.iter().chain(&p.reg.rx) {
                    out.push((true, g.kring_ofs(r.kring.0), 512));
                    out.push((false, usize::try_from(r.ofs).unwrap(), 64));
                }
            }
            out
        });
    }

    /// Spoilt rings of one port are that port's trouble: others lose nothing.
    #[test]
    fn untouched_ports_lose_nothing() {
        let bed = Bed::new(config());
        let w = want(1, 1, 64, 64);
        let bad = bed.open("vale0:bad", &w);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let stop = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _end = Stop(stop);
            let mut bad = bad;
            scope.spawn(move || {
                let mut rng = Rng(5);
                while !stop.load(Relaxed) {
                    churn(&mut bad, &mut rng);
                    for r in bad.reg.tx.iter().chain(&bad.reg.rx) {
                        let at = usize::try_from(r.ofs).unwrap() + 16;
                        let word = bad.map.mem.word(at + 8 * rng.below(3)).unwrap();
                        word.store(spoil(&mut rng, word.load(Relaxed)), Relaxed);
                    }
                }
            });
            for i in 0..3000u32 {
                let mut f = [0u8; 64];
                f[..12].copy_from_slice(&[2, 9, 0, 0, 0, 2, 2, 9, 0, 0, 0, 1]);
                f[20..24].copy_from_slice(&i.to_le_bytes());
                deliver(&bed, &mut a, &mut b, &f);
                f[..12].copy_from_slice(&[2, 9, 0, 0, 0, 1, 2, 9, 0, 0, 0, 2]);
                assert!(queue(&b, 0, &[&f]));
                b.tx[0].sync().unwrap();
                let _ = drain(&mut a, 0);
            }
        });
        assert_eq!(bed.drops(&a)["rx_fault"] + bed.drops(&b)["rx_fault"], 0);
    }

    /// Ends the other threads, also when this one panics.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    /// Sends a frame, again if the other's ring was full, until it arrives.
    fn deliver(bed: &Bed, a: &mut Port, b: &mut Port, f: &[u8]) {
        let start = Instant::now();
        loop {
            let full = bed.drops(b)["rx_full"];
            assert!(queue(a, 0, &[f]));
            a.tx[0].sync().unwrap();
            // Behind a sender that is preempted, it comes when that one goes on.
            while bed.drops(b)["rx_full"] == full || start.elapsed() < LIMIT / 100 {
                let got = drain(b, 0);
                let mut mine = got.iter().filter(|g| g.bytes.get(1) == Some(&9));
                if let Some(mine) = mine.next() {
                    assert_eq!(mine.bytes, f);
                    return;
                }
                assert!(start.elapsed() < LIMIT, "a frame was lost");
            }
        }
    }
}

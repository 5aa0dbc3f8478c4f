//! Delivery between regions whose buffers differ in size, which the control
//! plane may make or a program may bring.

#[cfg(test)]
mod deliver {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use netvale_ring::deliver::{Ent, Outlet, Source, deliver};
    use netvale_ring::kring::{Counter, Geom};
    use netvale_ring::layout::{RegionGeom, StateGeom};
    use netvale_ring::offsets::Offsets;
    use netvale_ring::pipe;
    use netvale_ring::port::{PortId, Seat};
    use netvale_ring::slot::NS_MOREFRAG;
    use netvale_ring::world::{Party, RegionMap, RegionSource, Regions, Waker, World};
    use netvale_ring::{KringId, Ring, Slot};
    use netvale_shm::Mem;

    const SLOTS: u32 = 16;

    fn region(id: u16, buf_size: u32) -> RegionMap {
        let geom = RegionGeom {
            ifs: 1,
            rings: 2,
            ring_size: 4096,
            bufs: 2 + 2 * SLOTS,
            buf_size,
        };
        RegionMap::new(id, 1, None, geom, Mem::heap(geom.file_len())).unwrap()
    }

    fn world() -> World {
        let geom = StateGeom {
            ports: 1,
            krings: 4,
            regions: 4,
            shared_regions: 1,
            holders: 1,
            switches: 1,
        };
        World::format(Mem::heap(geom.file_len()), geom).unwrap()
    }

    /// Makes ring object `obj` of a region, held by kring `obj`.
    fn ring<'a>(world: &World, map: &'a RegionMap, obj: u32, kring: u32) -> Ring<'a> {
        let ofs = map.geom.ring_ofs(obj);
        let ring = map.ring(ofs, SLOTS).unwrap();
        ring.init(0, 0, map.geom.buf_size, 0, 0);
        for i in 0..SLOTS {
            ring.set_slot(i, Slot::new(2 + obj * SLOTS + i, 0, 0));
        }
        let k = world.kring(KringId(kring)).unwrap();
        k.init(
            0,
            0,
            Geom {
                region: map.id,
                slots: SLOTS,
                region_gen: 1,
                ofs,
            },
        );
        let cursor = k.resv(SLOTS).unwrap().open();
        k.set_cursor(cursor);
        ring
    }

    struct Maps(Vec<RegionMap>);
    impl RegionSource for Maps {
        fn map(&self, id: u16, _: u32) -> Option<RegionMap> {
            self.0.iter().find(|m| m.id == id).cloned()
        }
    }
    /// Finds a region, and meanwhile a monitor's ring becomes another ring.
    struct Meanwhile {
        world: World,
        found: RegionMap,
    }
    impl RegionSource for Meanwhile {
        fn map(&self, _: u16, _: u32) -> Option<RegionMap> {
            let watched = self.world.kring(KringId(1)).unwrap();
            watched.set_monitors(None);
            self.world.topology_changed();
            ring(&self.world, &self.found, 0, 2);
            Some(self.found.clone())
        }
    }

    /// Finds a region, and meanwhile the ring in it is made anew in another.
    struct Leaves {
        world: World,
        found: RegionMap,
        other: RegionMap,
    }
    impl RegionSource for Leaves {
        fn map(&self, _: u16, _: u32) -> Option<RegionMap> {
            ring(&self.world, &self.other, 1, 1);
            Some(self.found.clone())
        }
    }

    fn party<'a>(world: &'a World, regions: &'a Regions, own: &'a RegionMap) -> Party<'a> {
        Party {
            world,
            regions,
            own,
            waker: &Nobody,
            owner: 1,
        }
    }

    fn source<'a>(ring: Ring<'a>, map: &'a RegionMap, gives: bool) -> Source<'a> {
        Source {
            kring: KringId(0),
            ring,
            map,
            gives,
            offsets: Offsets::NONE,
        }
    }

    struct Nobody;
    impl Waker for Nobody {
        fn wake(&self, _: &AtomicU32, _: u32) {}
    }

    /// A fragment that does not fit the destination's buffer becomes empty, the
    /// others arrive; a monitor shows as much of each as its buffer takes.
    #[test]
    fn smaller_buffers() {
        let world = world();
        let (own, other, third) = (region(1, 2048), region(2, 512), region(3, 64));
        let from = ring(&world, &own, 0, 0);
        let to = ring(&world, &other, 0, 1);
        let seen = ring(&world, &third, 0, 2);
        world
            .kring(KringId(1))
            .unwrap()
            .set_monitors(Some(KringId(2)));
        let seat = Seat { switch: 0, idx: 7 };
        PortId(0).rec(&world).unwrap().set_seat(Some(seat));
        let outlet = |idx| Outlet {
            ring: KringId(1),
            seat: Seat { idx, ..seat },
        };
        let regions = Regions::new(Arc::new(Maps(vec![other.clone(), third.clone()])));
        let party = party(&world, &regions, &own);
        let bytes: Vec<u8> = (0..1024u32).map(|i| i.to_le_bytes()[0] ^ 0x5a).collect();
        let lens = [100u16, 600, 512, 1];
        let ents: Vec<Ent> = lens
            .iter()
            .zip(0u16..)
            .map(|(&len, at)| {
                let buf = from.slot(u32::from(at)).buf();
                assert!(own.bufs().write(buf, 0, &bytes));
                Ent {
                    slot: Slot::new(buf, len, 0),
                    at,
                    frags: if at == 0 { 4 } else { 0 },
                    ..Ent::default()
                }
            })
            .collect();
        // It gives its buffers away, but not into another region.
        let source = source(from, &own, true);
        let done = deliver(&party, &source, outlet(7), &ents, [0].into_iter(), 1, 4);
        assert_eq!((done.frames, done.bytes), (1, 613));
        for (i, want) in (0..).zip([100u16, 0, 512, 1]) {
            let slot = to.slot(i);
            let more = if i < 3 { NS_MOREFRAG } else { 0 };
            assert_eq!((slot.len(), slot.flags()), (want, 4 << 8 | more), "{i}");
            let mut got = vec![0; usize::from(want)];
            assert!(other.bufs().read(slot.buf(), 0, &mut got));
            assert_eq!(got, bytes[..got.len()]);
        }
        assert_eq!(from.slot(0).buf(), 2, "the sender keeps its buffers");
        for (i, want) in (0..).zip([64u16, 0, 64, 1]) {
            let slot = seen.slot(i);
            let more = if i < 3 { NS_MOREFRAG } else { 0 };
            assert_eq!((slot.len(), slot.flags()), (want, 4 << 8 | more), "{i}");
            let mut got = vec![0; usize::from(want)];
            assert!(third.bufs().read(slot.buf(), 0, &mut got));
            assert_eq!(got, bytes[..got.len()]);
        }
        // A destination that has no room at all is left as it was.
        let tail = world.kring(KringId(1)).unwrap().resv(SLOTS).unwrap();
        let before = tail.given_out();
        let one = [Ent {
            frags: 1,
            ..ents[0]
        }];
        for _ in 0..11 {
            deliver(&party, &source, outlet(7), &one, [0].into_iter(), 1, 1);
        }
        assert_eq!(before.distance(tail.given_out(), SLOTS), 11);
        let none = deliver(&party, &source, outlet(7), &one, [0].into_iter(), 1, 1);
        assert_eq!((none.frames, none.bytes), (0, 0));
        // Nor is one whose port sits elsewhere by now.
        world.kring(KringId(1)).unwrap().set_rhead(tail.given_out());
        let none = deliver(&party, &source, outlet(8), &one, [0].into_iter(), 1, 1);
        assert_eq!((none.frames, none.bytes), (0, 0));
        assert_eq!(before.distance(tail.given_out(), SLOTS), 11);
        let [frames, _, full, fault] = world.kring(KringId(1)).unwrap().in_counters();
        assert_eq!((frames, full, fault), (0, 1, 0), "counted when collected");
    }

    /// What is sent to a watched ring is not put into a ring that was its
    /// monitor's a moment ago.
    #[test]
    fn a_monitor_goes_while_it_is_looked_at() {
        let world = world();
        let (own, third) = (region(1, 2048), region(3, 2048));
        let from = ring(&world, &own, 0, 0);
        ring(&world, &own, 1, 1);
        ring(&world, &third, 0, 2);
        let kring = |i| world.kring(KringId(i)).unwrap();
        kring(1).set_monitors(Some(KringId(2)));
        let seat = Seat { switch: 0, idx: 7 };
        PortId(0).rec(&world).unwrap().set_seat(Some(seat));
        let regions = Regions::new(Arc::new(Meanwhile {
            world: world.clone(),
            found: third,
        }));
        let party = party(&world, &regions, &own);
        let source = source(from, &own, false);
        let one = [Ent {
            slot: Slot::new(from.slot(0).buf(), 60, 0),
            frags: 1,
            ..Ent::default()
        }];
        let to = Outlet {
            ring: KringId(1),
            seat,
        };
        let done = deliver(&party, &source, to, &one, [0].into_iter(), 1, 1);
        assert_eq!(done.frames, 1);
        let [mine, theirs] = [1, 2].map(|i| {
            let resv = kring(i).resv(SLOTS).unwrap();
            kring(i).cursor().start.distance(resv.given_out(), SLOTS)
        });
        assert_eq!((mine, theirs), (1, 0));
    }

    /// That a pipe's other end is made anew while it is looked for is nobody's
    /// fault.
    #[test]
    fn a_pipes_peer_goes_while_it_is_looked_for() {
        let world = world();
        let (own, found, other) = (region(1, 2048), region(2, 2048), region(3, 2048));
        let from = ring(&world, &own, 0, 0);
        ring(&world, &found, 1, 1);
        let kring = |i| world.kring(KringId(i)).unwrap();
        pipe::init(kring(0), kring(1), SLOTS);
        kring(0).set_peer(Some(KringId(1)));
        let regions = Regions::new(Arc::new(Leaves {
            world: world.clone(),
            found,
            other,
        }));
        let party = party(&world, &regions, &own);
        from.set_tail(SLOTS - 1);
        from.set_head(1);
        let end = pipe::End {
            id: KringId(0),
            kring: kring(0),
            ring: from,
        };
        assert_eq!(pipe::txsync(&party, end), Ok(pipe::Moved::default()));
        assert_eq!(kring(0).counter(Counter::FaultState), 0);
    }
}

//! Who gets what, what is refused with which error, and that everything comes
//! back.

#[cfg(test)]
mod common;

#[cfg(test)]
#[expect(
    clippy::assertions_on_result_states,
    reason = "only whether it was refused matters"
)]
mod domain {
    use std::sync::atomic::Ordering::Relaxed;

    use netvale_ring::Slot;
    use netvale_ring::layout::{BUF_SIZE, RegionGeom, StateGeom};
    use netvale_ring::slot::{NS_MOREFRAG, NS_TXMON};
    use netvale_ring::world::Holder;
    use netvale_switch::domain::{Config, DomainError, MAX_PIPES, Want};
    use netvale_wire::name::PortSpec;

    use crate::common::{Bed, Port, Rng, drain, queue, small, want};

    fn frame(dst: u8, src: u8) -> [u8; 60] {
        let mut f = [src; 60];
        f[..6].copy_from_slice(&[2, 0, 0, 0, 0, dst]);
        f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
        f
    }

    fn all() -> [u8; 60] {
        let mut f = frame(0, 9);
        f[..6].fill(0xff);
        f
    }

    fn send(port: &mut Port, r: usize, f: &[u8]) {
        assert!(queue(port, r, &[f]));
        port.tx[r].sync().unwrap();
    }

    /// Nothing is open and nothing is missing.
    #[track_caller]
    fn assert_empty(bed: &Bed) {
        bed.check();
        bed.with(|d| {
            assert!(d.is_idle());
            assert!(d.list().is_empty());
            for r in d.check().regions {
                assert_eq!(r.free, r.bufs - 2, "buffers of region {} leaked", r.id);
            }
        });
    }

    fn spec(name: &str) -> PortSpec {
        PortSpec::parse(name).unwrap()
    }

    #[test]
    fn refusals_have_netmaps_error_and_leave_nothing() {
        let bed = Bed::new(small());
        let d = Want::default();
        let err = |name: &str| bed.try_open(name, &d).unwrap_err();
        let a = bed.open("vale0:a", &want(2, 2, 16, 16));
        assert!(matches!(err("vale0:a-2"), DomainError::Invalid(_)));
        assert!(matches!(err("vale0:a^"), DomainError::Invalid(_)));
        assert!(matches!(err("vale0:a*"), DomainError::Invalid(_)));
        assert!(matches!(err("vale0:a/x"), DomainError::Busy(_)));
        assert!(matches!(err("vale0:b/r"), DomainError::NotFound(_)));
        assert!(matches!(err("netmap:nosuch0"), DomainError::NotFound(_)));
        assert!(matches!(err("vale0:c@77"), DomainError::Invalid(_)));
        assert!(matches!(
            err("vale0:c@share=vale0:d"),
            DomainError::NotFound(_)
        ));
        assert!(matches!(err("vale0:c{1-9"), DomainError::Invalid(_)));
        assert!(matches!(err("vale0:c-3"), DomainError::Invalid(_)));
        let bad_header = Want {
            vnet_hdr: Some(7),
            accepts_vnet_hdr: true,
            ..d
        };
        assert!(matches!(
            bed.try_open("vale0:e", &bad_header),
            Err(DomainError::Invalid(_))
        ));
        bed.with(|d| d.set_vnet_hdr("vale0:a", 12)).unwrap();
        assert!(matches!(err("vale0:a"), DomainError::NeedsHeader(_)));
        let set = |n: &str, l| bed.with(|d| d.set_vnet_hdr(n, l));
        assert!(matches!(set("vale0:a", 11), Err(DomainError::Invalid(_))));
        assert!(matches!(set("vale0:z", 10), Err(DomainError::NotFound(_))));
        bed.with(|d| {
            let o = d.add_owner(1, false).unwrap();
            assert!(d.register(o, &spec("vale0:x"), &Want::default()).is_ok());
            let again = d.register(o, &spec("vale0:y"), &Want::default());
            assert!(matches!(again, Err(DomainError::Busy(_))));
            d.owner_gone(o);
            d.owner_gone(o);
            assert!(d.register(o, &spec("vale0:y"), &Want::default()).is_err());
        });
        assert_eq!(bed.with(|d| d.list().len()), 1);
        bed.check();
        bed.close(a);
        assert_empty(&bed);
    }

    #[test]
    fn exclusive_is_per_ring_and_direction() {
        let bed = Bed::new(small());
        let w = want(2, 2, 16, 16);
        let one = bed.open("vale0:a-0/x", &w);
        assert!(bed.try_open("vale0:a-0", &w).is_err());
        assert!(bed.try_open("vale0:a", &w).is_err());
        let tx = bed.open("vale0:a-1/xT", &w);
        assert_eq!((tx.tx.len(), tx.rx.len()), (1, 0));
        let rx = bed.open("vale0:a-1/R", &w);
        assert!(bed.try_open("vale0:a-1/xR", &w).is_err());
        let none = bed.open("vale0:a/RT", &w);
        assert_eq!((none.tx.len(), none.rx.len()), (0, 0));
        bed.close(one);
        let again = bed.open("vale0:a-0/x", &w);
        for p in [tx, rx, none, again] {
            bed.close(p);
        }
        assert_empty(&bed);
    }

    #[test]
    fn persistent_ports_keep_their_names() {
        let bed = Bed::new(small());
        let new = |n: &str| bed.with(|d| d.new_interface(n, &Want::default(), None));
        let (attach, detach, delete) = (
            |n: &str| bed.with(|d| d.attach(&spec(n))),
            |n: &str| bed.with(|d| d.detach(&spec(n))),
            |n: &str| bed.with(|d| d.delete_interface(n)),
        );
        new("p").unwrap();
        assert!(matches!(new("p"), Err(DomainError::Exists(_))));
        assert!(matches!(new("valep"), Err(DomainError::Invalid(_))));
        assert!(matches!(
            new("sixteen-letters-"),
            Err(DomainError::Invalid(_))
        ));
        // Not attached: it is no port of a switch, and none can hide it.
        assert!(matches!(
            bed.try_open("vale0:p", &Want::default()),
            Err(DomainError::Invalid(_))
        ));
        assert!(matches!(attach("vale0:q"), Err(DomainError::Invalid(_))));
        assert_eq!(attach("vale0:p").unwrap(), 0);
        assert!(matches!(attach("vale0:p"), Err(DomainError::Busy(_))));
        assert!(
            matches!(new("p"), Err(DomainError::Exists(_))),
            "attached, but it exists"
        );
        assert!(matches!(delete("p"), Err(DomainError::Busy(_))));
        let open = bed.open("vale0:p", &Want::default());
        assert_eq!(detach("vale0:p").unwrap(), 0);
        assert!(matches!(detach("vale0:p"), Err(DomainError::NotFound(_))));
        assert!(
            matches!(delete("p"), Err(DomainError::Busy(_))),
            "still open"
        );
        bed.close(open);
        let eph = bed.open("vale0:e", &Want::default());
        assert!(matches!(detach("vale0:e"), Err(DomainError::Invalid(_))));
        assert!(matches!(delete("vale0:e"), Err(DomainError::Invalid(_))));
        bed.close(eph);
        delete("p").unwrap();
        assert!(matches!(delete("p"), Err(DomainError::NotFound(_))));
        assert_empty(&bed);
    }

    #[test]
    fn a_parent_has_64_pipes() {
        let bed = Bed::new(Config {
            state: StateGeom {
                krings: 1024,
                ports: 256,
                ..small().state
            },
            global: RegionGeom {
                ifs: 256,
                ..small().global
            },
            ..small()
        });
        let w = want(1, 1, 4, 4);
        let pipes: Vec<Port> = (0..MAX_PIPES)
            .map(|i| bed.open(&format!("vale0:a{{{i}"), &w))
            .collect();
        let more = bed.try_open("vale0:a{x", &w);
        assert!(matches!(more, Err(DomainError::Invalid(_))));
        bed.open("vale0:b{x", &w);
        let slave = bed.open("vale0:a}3", &w);
        bed.close(slave);
        for p in pipes {
            bed.close(p);
        }
        assert_eq!(bed.with(|d| d.list().len()), 2);
        bed.check();
    }

    /// A refused pipe leaves neither end.
    #[test]
    fn a_refused_pipe_leaves_no_end() {
        let bed = Bed::new(small());
        for i in 0..100 {
            assert!(
                bed.try_open(&format!("vale0:a{{p{}-5", i % 3), &want(1, 1, 8, 8))
                    .is_err()
            );
        }
        assert_empty(&bed);
    }

    #[test]
    fn all_rings_of_a_pipe_are_in_its_interface() {
        let bed = Bed::new(Config {
            state: StateGeom {
                krings: 2048,
                ..small().state
            },
            global: RegionGeom {
                rings: 2048,
                ..small().global
            },
            ..small()
        });
        let p = bed.open("vale0:a{1", &want(256, 256, 2, 2));
        for (i, r) in p.reg.tx.iter().chain(&p.reg.rx).enumerate() {
            let mut ofs = [0; 8];
            let at = usize::try_from(p.reg.nif_ofs).unwrap() + 56 + 8 * i;
            assert!(p.map.mem.read(at, &mut ofs));
            assert_eq!(
                p.reg.nif_ofs.wrapping_add(u64::from_le_bytes(ofs)),
                r.ofs,
                "ring {i}"
            );
        }
        bed.close(p);
        assert_empty(&bed);
    }

    /// Each table runs full in turn; what was half made is taken back.
    #[test]
    fn exhaustion_is_told_and_rolled_back() {
        let base = Config {
            state: StateGeom {
                ports: 10,
                krings: 24,
                regions: 6,
                holders: 1000,
                ..small().state
            },
            global: RegionGeom {
                ifs: 8,
                rings: 20,
                bufs: 400,
                ..small().global
            },
            huge: false,
        };
        let tight = [
            Config {
                state: StateGeom {
                    ports: 4,
                    ..base.state
                },
                ..base
            },
            Config {
                state: StateGeom {
                    krings: 7,
                    ..base.state
                },
                ..base
            },
            Config {
                global: RegionGeom {
                    ifs: 3,
                    ..base.global
                },
                ..base
            },
            Config {
                global: RegionGeom {
                    rings: 7,
                    ..base.global
                },
                ..base
            },
            Config {
                global: RegionGeom {
                    bufs: 150,
                    ..base.global
                },
                ..base
            },
            Config {
                state: StateGeom {
                    switches: 2,
                    ..base.state
                },
                ..base
            },
            Config {
                global: RegionGeom {
                    ring_size: 512,
                    ..base.global
                },
                ..base
            },
        ];
        for (i, config) in tight.into_iter().enumerate() {
            let bed = Bed::new(config);
            let mut rng = Rng(7 + i as u64);
            let mut open: Vec<Port> = Vec::new();
            let mut refused = 0;
            for round in 0..300 {
                let name = match round % 5 {
                    0 => format!("vale{}:a{round}", round % 7),
                    1 => format!("vale0:p{{x{round}"),
                    2 => open
                        .iter()
                        .find(|p| {
                            !p.reg.name.contains(['/', ':']) || p.reg.name.starts_with("vale")
                        })
                        .filter(|p| !p.reg.name.contains('/'))
                        .map_or("vale0:n".into(), |p| format!("{}/r", p.reg.name)),
                    3 => "null:n".into(),
                    _ => format!("vale0:s{}", round % 3),
                };
                let n = u16::try_from(1 + rng.below(3)).unwrap();
                let slots = rng.pick(&[2, 8, 30]);
                match bed.try_open(&name, &want(n, n, slots, slots)) {
                    Ok(p) => open.push(p),
                    Err(DomainError::NoSpace(_)) => refused += 1,
                    Err(DomainError::Invalid(_)) => {}
                    Err(e) => panic!("{name}: {e:?}"),
                }
                bed.check();
                if open.len() > 6 || rng.chance(30) && !open.is_empty() {
                    let p = open.swap_remove(rng.below(open.len()));
                    bed.close(p);
                    bed.check();
                }
            }
            assert!(refused > 0, "table {i} was never full");
            for p in open {
                bed.close(p);
            }
            assert_empty(&bed);
        }
    }

    /// Isolated ports have regions of their own; a refusal gives them back.
    #[test]
    fn private_regions_come_back() {
        let bed = Bed::new(Config {
            state: StateGeom {
                ports: 2,
                regions: 6,
                ..small().state
            },
            ..small()
        });
        let w = want(1, 1, 4, 4);
        for _ in 0..50 {
            bed.with(|d| {
                let owners: Vec<u16> = (0..3).map(|_| d.add_owner(1, true).unwrap()).collect();
                let got: Vec<bool> = owners
                    .iter()
                    .map(|&o| d.register(o, &spec(&format!("vale0:i{o}")), &w).is_ok())
                    .collect();
                assert_eq!(got, [true, true, false]);
                owners.iter().for_each(|&o| {
                    d.owner_gone(o);
                });
                assert!(d.is_idle());
                assert!(d.check().regions.is_empty());
            });
        }
    }

    #[test]
    fn a_switch_has_a_thousand_ports_and_there_are_many_switches() {
        let bed = Bed::new(Config {
            state: StateGeom {
                ports: 4096,
                krings: 4096,
                switches: 64,
                ..small().state
            },
            global: RegionGeom {
                ifs: 2048,
                rings: 4096,
                ..small().global
            },
            huge: false,
        });
        let mut ports: Vec<Port> = (0..1100)
            .map(|i| bed.open(&format!("vale0:p{i}"), &want(1, 1, 4, 4)))
            .collect();
        for s in 1..60 {
            ports.push(bed.open(&format!("vale{s}:p"), &want(1, 1, 4, 4)));
        }
        send(&mut ports[1099], 0, &all());
        for (i, p) in ports.iter_mut().enumerate() {
            let got = drain(p, 0).len();
            assert_eq!(got, usize::from(i < 1099), "port {i}");
        }
        send(&mut ports[700], 0, &frame(9, 7));
        assert_eq!(drain(&mut ports[1099], 0).len(), 1);
        bed.check();
        for p in ports {
            bed.close(p);
        }
        assert_empty(&bed);
    }

    #[test]
    fn ten_thousand_opens_leak_nothing() {
        let bed = Bed::new(small());
        let mut rng = Rng(99);
        let mut open: Vec<Port> = Vec::new();
        for i in 0..10_000 {
            let name = rng.pick(&[
                "vale0:a",
                "vale0:b",
                "vale1:a",
                "vale0:c{1",
                "vale0:c}1",
                "null:z",
                "vale0:a/rt",
                "vale1:a/z",
            ]);
            let w = Want {
                extra_bufs: 3,
                gives_buffers: rng.chance(50),
                ..want(1, 2, 5, 4)
            };
            if let Ok(mut p) = bed.try_open(name, &w) {
                if p.reg.name.starts_with("vale") && !p.reg.name.contains(['/', '{', '}']) {
                    send(&mut p, 0, &all());
                }
                for r in 0..p.rx.len() {
                    // Whatever was there before us is gone.
                    let _ = drain(&mut p, r);
                }
                open.push(p);
            }
            while open.len() > 6 || (!open.is_empty() && rng.chance(40)) {
                let p = open.swap_remove(rng.below(open.len()));
                bed.close(p);
            }
            if i % 500 == 0 {
                bed.check();
            }
        }
        for p in open {
            bed.close(p);
        }
        assert_empty(&bed);
    }

    /// Hidden ring state is used again, by rings of another sort: nothing of
    /// the first life is seen in the second.
    #[test]
    fn a_fresh_ring_is_empty_whatever_was_there_before() {
        let bed = Bed::new(small());
        let w = want(1, 1, 8, 8);
        for round in 0..20 {
            let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
            assert!(drain(&mut a, 0).is_empty(), "round {round}");
            assert!(drain(&mut b, 0).is_empty(), "round {round}");
            for _ in 0..=round {
                send(&mut a, 0, &all());
                send(&mut b, 0, &all());
                assert_eq!((drain(&mut a, 0).len(), drain(&mut b, 0).len()), (1, 1));
            }
            bed.close(a);
            bed.close(b);
            let pipe = bed.open("vale0:c{1", &w);
            bed.close(pipe);
        }
        assert_empty(&bed);
    }

    /// Ports of different regions exchange frames by copy.
    #[test]
    fn frames_cross_regions() {
        let bed = Bed::new(small());
        let id = bed
            .with(|d| {
                d.new_region(RegionGeom {
                    bufs: 1000,
                    ..small().global
                })
            })
            .unwrap();
        let gives = Want {
            gives_buffers: true,
            ..want(1, 1, 16, 16)
        };
        let mut a = bed.open("vale0:a", &gives);
        let mut b = bed.open(&format!("vale0:b@{id}"), &gives);
        assert_ne!(a.reg.region, b.reg.region);
        for i in 0..40 {
            send(&mut a, 0, &frame(2, 1));
            send(&mut b, 0, &frame(1, 2));
            assert_eq!(drain(&mut b, 0)[0].bytes, frame(2, 1), "{i}");
            assert_eq!(drain(&mut a, 0)[0].bytes, frame(1, 2), "{i}");
        }
        bed.check();
        bed.close(a);
        bed.close(b);
        assert_empty(&bed);
    }

    /// A port whose users differ about giving buffers away keeps them.
    #[test]
    fn whoever_keeps_its_buffers_does_not_lose_them() {
        let bed = Bed::new(small());
        bed.with(|d| d.new_interface("p", &want(1, 1, 8, 8), None))
            .unwrap();
        bed.with(|d| d.attach(&spec("vale0:p"))).unwrap();
        let mut b = bed.open("vale0:b", &want(1, 1, 8, 8));
        send(&mut b, 0, &frame(9, 2));
        let gives = Want {
            gives_buffers: true,
            ..Want::default()
        };
        let giver = bed.open("vale0:p", &gives);
        bed.close(giver);
        let mut keeper = bed.open("vale0:p", &Want::default());
        let ring = keeper.tx[0].ring();
        let before: Vec<u32> = (0..8).map(|i| ring.slot(i).buf()).collect();
        send(&mut keeper, 0, &frame(2, 1));
        let ring = keeper.tx[0].ring();
        let after: Vec<u32> = (0..8).map(|i| ring.slot(i).buf()).collect();
        assert_eq!(before, after, "a buffer was given away");
        bed.close(keeper);
        bed.check();
    }

    #[test]
    fn monitors_see_what_was_sent_and_received() {
        for zcopy in [false, true] {
            for gives in [false, true] {
                let bed = Bed::new(small());
                let w = Want {
                    gives_buffers: gives,
                    ..want(1, 1, 16, 16)
                };
                let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
                let z = if zcopy { "z" } else { "" };
                let mut tx = bed.open(&format!("vale0:a/{z}t"), &want(1, 1, 16, 16));
                let mut rx = bed.open(&format!("vale0:b/{z}r"), &want(1, 1, 16, 16));
                if zcopy {
                    // Such a monitor sees both directions.
                    assert_eq!(tx.reg.region, a.reg.region);
                }
                for i in 0..50u8 {
                    let f = frame(2, 100 + i);
                    send(&mut a, 0, &f);
                    let got = drain(&mut b, 0);
                    assert_eq!(got.len(), 1);
                    assert_eq!(got[0].bytes, f);
                    let seen = drain(&mut tx, 0);
                    assert_eq!(seen.len(), 1, "zcopy {zcopy} gives {gives} frame {i}");
                    assert_eq!(seen[0].bytes, f, "zcopy {zcopy} gives {gives} frame {i}");
                    assert_eq!(seen[0].slots[0].1 & NS_TXMON, NS_TXMON);
                    let seen = drain(&mut rx, 0);
                    assert_eq!(seen.len(), 1, "zcopy {zcopy} gives {gives} frame {i}");
                    assert_eq!(seen[0].bytes, f);
                    assert_eq!(seen[0].slots[0].1 & NS_TXMON, 0);
                    bed.check();
                }
                for p in [a, tx, b, rx] {
                    bed.close(p);
                }
                assert_empty(&bed);
            }
        }
    }

    /// A zero-copy monitor lies in the region of what it watches.
    #[test]
    fn zero_copy_monitors_share_the_region() {
        let bed = Bed::new(small());
        let id = bed
            .with(|d| {
                d.new_region(RegionGeom {
                    bufs: 1000,
                    ..small().global
                })
            })
            .unwrap();
        let a = bed.open(&format!("vale0:a@{id}"), &want(1, 1, 16, 16));
        let m = bed.open("vale0:a/z", &want(1, 1, 16, 16));
        assert_eq!(m.reg.region, id);
        bed.close(m);
        bed.close(a);
        assert_empty(&bed);
    }

    /// Extra-buffer lists as programs leave them: whatever they say, no buffer
    /// is lost or freed twice.
    #[test]
    fn any_extra_list_is_taken_back() {
        for seed in 1..200 {
            let bed = Bed::new(small());
            let mut rng = Rng(seed);
            let other = bed.open(
                "vale0:o",
                &Want {
                    extra_bufs: 4,
                    ..want(1, 1, 8, 8)
                },
            );
            let p = bed.open(
                "vale0:p",
                &Want {
                    extra_bufs: 10,
                    ..want(1, 1, 8, 8)
                },
            );
            assert_eq!(p.reg.extra_bufs, 10);
            bed.check();
            let head = usize::try_from(p.reg.nif_ofs).unwrap() + 32;
            let mut list = Vec::new();
            let mut word = [0; 4];
            assert!(p.map.mem.read(head, &mut word));
            let mut b = u32::from_le_bytes(word);
            while b != 0 {
                list.push(b);
                assert!(p.map.bufs().read(b, 0, &mut word));
                b = u32::from_le_bytes(word);
            }
            assert_eq!(list.len(), 10);
            let own: Vec<u32> = (0..8).map(|i| p.tx[0].ring().slot(i).buf()).collect();
            let theirs: Vec<u32> = (0..8).map(|i| other.rx[0].ring().slot(i).buf()).collect();
            match rng.below(6) {
                0 => {}
                // Swaps some with the ring's, as programs do.
                1 => {
                    let ring = p.tx[0].ring();
                    for i in 0..5usize {
                        let at = u32::try_from(i).unwrap();
                        ring.set_slot(at, Slot::new(list[i], 60, 1));
                        list[i] = own[i];
                    }
                }
                2 => list.truncate(rng.below(10)),
                3 => list.extend(theirs.iter().copied()),
                4 => list.extend([0xffff_ffff, 599_999, 2, 3, 4]),
                _ => list.extend(own.iter().copied()),
            }
            // Links, and at the end nothing, a loop or garbage.
            let last = rng.pick(&[0, 1, u32::MAX, *list.first().unwrap_or(&0), 300]);
            let mut next = last;
            for &b in list.iter().rev() {
                let _ = p.map.bufs().write(b, 0, &next.to_le_bytes());
                next = b;
            }
            assert!(p.map.mem.write(head, &next.to_le_bytes()));
            bed.close(p);
            bed.check();
            bed.close(other);
            assert_empty(&bed);
        }
    }

    /// The intermediate states of an exchange, in the order in which they come
    /// about; whoever was at it dies then.
    #[test]
    fn death_in_an_exchange_loses_no_buffer() {
        for stores in 0..=4 {
            for published in [false, true] {
                for close_receiver_first in [false, true] {
                    let bed = Bed::new(small());
                    let w = Want {
                        gives_buffers: true,
                        ..want(1, 1, 8, 8)
                    };
                    let (a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
                    let (ka, kb) = (a.reg.tx[0].kring, b.reg.rx[0].kring);
                    let kring = bed.world.kring(kb).unwrap();
                    let resv = kring.resv(8).unwrap();
                    let lease = resv.reserve(a.reg.owner, |_| 3).unwrap();
                    bed.world
                        .kring(ka)
                        .unwrap()
                        .try_lock(u64::from(a.reg.owner))
                        .unwrap();
                    let holders = bed
                        .world
                        .holders(a.reg.shared.unwrap(), a.reg.geom.bufs)
                        .unwrap();
                    for i in 0..=2u32 {
                        let (src, dst) = (a.tx[0].ring().slot(i), b.rx[0].ring().slot(i));
                        let done = if i == 1 {
                            stores
                        } else {
                            4 * u32::from(i == 0)
                        };
                        if done > 0 {
                            holders[dst.buf() as usize].store(Holder::kring(ka).bits(), Relaxed);
                        }
                        if done > 1 {
                            b.rx[0].ring().set_slot(i, Slot::new(src.buf(), 60, 1 << 8));
                        }
                        if done > 2 {
                            holders[src.buf() as usize].store(Holder::kring(kb).bits(), Relaxed);
                        }
                        if done > 3 {
                            a.tx[0].ring().set_slot(i, Slot::new(dst.buf(), 60, 1));
                        }
                    }
                    if published {
                        resv.publish(lease, 1, false);
                    }
                    let freed = bed.with(|d| d.owner_gone(a.reg.owner));
                    assert_eq!(freed.repaired_slots, if published { 2 } else { 3 });
                    assert_eq!(freed.broken_locks, 1);
                    bed.check();
                    bed.check_holders(&b);
                    if !close_receiver_first {
                        b.rx[0].sync().unwrap();
                        let r = b.rx[0].ring();
                        assert_eq!(r.span(r.head(), r.tail()), 3, "the receiver is not blocked");
                    }
                    bed.close(b);
                    assert_empty(&bed);
                }
            }
        }
    }

    /// A receiver that goes while a sender has slots of it: its memory stays
    /// until the sender has published or died.
    #[test]
    fn a_closed_port_waits_for_its_senders() {
        for dies in [false, true] {
            let bed = Bed::new(small());
            let w = want(1, 1, 8, 8);
            let (a, b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
            let kring = bed.world.kring(b.reg.rx[0].kring).unwrap();
            let resv = kring.resv(8).unwrap();
            let lease = resv.reserve(a.reg.owner, |_| 2).unwrap();
            bed.close(b);
            assert!(bed.with(|d| d.reap()), "freed under the sender");
            assert!(resv.reserve(a.reg.owner, |f| f).is_err());
            bed.check();
            if !dies {
                resv.publish(lease, 2, true);
                assert!(!bed.with(|d| d.reap()));
            }
            bed.close(a);
            assert_empty(&bed);
        }
    }

    /// A chain that `head` cuts off is a frame of what is there, for its
    /// receiver and for monitors.
    #[test]
    fn a_chain_that_is_cut_off_is_a_frame() {
        let bed = Bed::new(small());
        let w = want(1, 1, 8, 8);
        let (mut a, mut b) = (bed.open("vale0:a", &w), bed.open("vale0:b", &w));
        let mut m = bed.open("vale0:a/t", &want(1, 1, 4, 4));
        for i in 0..5 {
            let ring = a.tx[0].ring();
            let at = ring.head();
            let buf = ring.slot(at).buf();
            assert!(a.map.bufs().write(buf, 0, &all()));
            ring.set_slot(at, Slot::new(buf, 60, NS_MOREFRAG));
            ring.set_head(ring.next(at));
            a.tx[0].sync().unwrap();
            assert_eq!(drain(&mut b, 0).len(), 1);
            assert_eq!(drain(&mut m, 0).len(), 1, "frame {i}");
        }
        for p in [a, b, m] {
            bed.close(p);
        }
        assert_empty(&bed);
    }

    #[test]
    fn a_port_that_left_is_forgotten() {
        let bed = Bed::new(small());
        let w = want(1, 1, 8, 8);
        let (mut a, mut b, mut c) = (
            bed.open("vale0:a", &w),
            bed.open("vale0:b", &w),
            bed.open("vale0:c", &w),
        );
        send(&mut b, 0, &frame(9, 2));
        let _ = (drain(&mut a, 0), drain(&mut c, 0));
        send(&mut a, 0, &frame(2, 1));
        assert_eq!((drain(&mut b, 0).len(), drain(&mut c, 0).len()), (1, 0));
        bed.close(b);
        send(&mut a, 0, &frame(2, 1));
        assert_eq!(drain(&mut c, 0).len(), 1, "unknown again: flooded");
        let mut d = bed.open("vale0:d", &w);
        send(&mut a, 0, &frame(2, 1));
        assert_eq!((drain(&mut d, 0).len(), drain(&mut c, 0).len()), (1, 1));
        assert_eq!(usize::try_from(BUF_SIZE).unwrap() % 64, 0);
    }
}

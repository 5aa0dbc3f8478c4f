//! Tables that run full, and very many ports.

use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_switch::domain::{Config, DomainError, Want};

use crate::bed::{all, assert_empty, frame, send, spec};
use crate::common::{Bed, Port, Rng, drain, small, want};

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
                    .find(|p| !p.reg.name.contains(['/', ':']) || p.reg.name.starts_with("vale"))
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

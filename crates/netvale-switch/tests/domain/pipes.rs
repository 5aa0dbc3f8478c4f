//! Pipes.

use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_switch::domain::{Config, DomainError, MAX_PIPES};

use crate::bed::assert_empty;
use crate::common::{Bed, Port, small, want};

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

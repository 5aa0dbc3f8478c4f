//! Pipes.

use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_switch::domain::{Config, DomainError, MAX_PIPES};

use crate::bed::assert_empty;
use crate::common::{Bed, Port, Rng, small, want};

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

/// What the receiver changes in a slot arrives at the sender, whoever of
/// several handles releases it; what it leaves as it was stays as it was sent.
#[test]
fn only_changes_are_copied_back_and_none_is_missed() {
    use netvale_ring::Slot;
    let bed = Bed::new(small());
    let w = want(1, 1, 8, 8);
    let mut tx = bed.open("vale0:p{1", &w);
    let mut a = bed.open("vale0:p}1", &w);
    let mut b = bed.open("vale0:p}1", &w);
    let mut rng = Rng(7);
    let mut at = 0;
    for round in 0..2000u32 {
        let n = rng.pick(&[1u32, 2, 3, 4, 5, 6]);
        let (ring, mut sent) = (tx.tx[0].ring(), Vec::new());
        for i in 0..n {
            let k = (at + i) % 8;
            let flags = if rng.below(8) == 0 {
                netvale_ring::slot::NS_BUF_CHANGED
            } else {
                0
            };
            let slot = Slot::new(
                ring.slot(k).buf(),
                u16::try_from(60 + round % 100).unwrap(),
                flags,
            );
            ring.set_slot(k, slot);
            ring.set_ptr(k, u64::from(round) << 8 | u64::from(i));
            sent.push(slot);
        }
        ring.set_head((at + n) % 8);
        tx.tx[0].sync().unwrap();

        // One handle looks, perhaps another one releases.
        let (first, second) = if rng.below(2) == 0 {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        first.rx[0].sync().unwrap();
        let last = if rng.below(3) == 0 { second } else { first };
        last.rx[0].sync().unwrap();
        let rx = last.rx[0].ring();
        let mut back = Vec::new();
        for i in 0..n {
            let k = (at + i) % 8;
            match rng.below(6) {
                0 => rx.set_slot(k, Slot::new(rx.slot(k).buf(), 1, 0)),
                1 => rx.set_ptr(k, 99),
                _ => {}
            }
            back.push((rx.slot(k), rx.ptr(k)));
        }
        rx.set_head((at + n) % 8);
        last.rx[0].sync().unwrap();
        tx.tx[0].sync().unwrap();
        let ring = tx.tx[0].ring();
        for (i, (slot, ptr)) in back.into_iter().enumerate() {
            let k = (at + u32::try_from(i).unwrap()) % 8;
            assert_eq!(
                (ring.slot(k), ring.ptr(k)),
                (slot, ptr),
                "round {round} slot {k}"
            );
        }
        at = (at + n) % 8;
    }
    for p in [tx, a, b] {
        bed.close(p);
    }
    assert_empty(&bed);
}

//! Regions and extra buffers.

use netvale_ring::Slot;
use netvale_ring::deliver::Target;
use netvale_ring::layout::RegionGeom;
use netvale_ring::resv::Refused;
use netvale_switch::domain::Want;

use crate::bed::{assert_empty, frame, send};
use crate::common::{Bed, Rng, drain, small, want};

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

/// A sender has found the region of a ring, whose port then goes. The next
/// port's ring has the same identifier and lies in another region, at the same
/// place: what is sent there must not be written into the old one.
#[test]
fn rings_made_anew_elsewhere_are_noticed() {
    let bed = Bed::new(small());
    let like = small().global;
    let [first, second] = [(); 2].map(|()| bed.with(|d| d.new_region(like)).unwrap());
    let before = bed.open(&format!("vale0:a@{first}"), &want(1, 1, 16, 16));
    let (old, ring) = (before.map.clone(), before.reg.rx[0].kring);
    let found = |map| {
        let kring = bed.world.kring(ring).unwrap();
        Target::new(ring, kring, map).map(|to| to.id)
    };
    assert_eq!(found(&old), Ok(ring));
    bed.close(before);
    let after = bed.open(&format!("vale0:b@{second}"), &want(1, 1, 16, 16));
    assert_eq!(after.reg.rx[0].kring, ring);
    let at = |map: &netvale_ring::world::RegionMap| {
        let g = bed.world.kring(ring).unwrap().geom();
        map.ring(g.ofs, g.slots).is_some()
    };
    assert!(at(&old) && at(&after.map), "both have a ring there");
    assert_eq!(found(&after.map), Ok(ring));
    assert_eq!(found(&old), Err(Refused::Closed));
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

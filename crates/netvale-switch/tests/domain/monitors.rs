//! Monitors.

use netvale_ring::layout::RegionGeom;
use netvale_ring::slot::NS_TXMON;
use netvale_switch::domain::Want;

use crate::bed::{assert_empty, frame, send};
use crate::common::{Bed, drain, small, want};

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

/// A monitor outlives what it watches, and says so.
#[test]
fn a_monitor_notices_that_its_port_has_left() {
    let bed = Bed::new(small());
    let w = want(1, 1, 8, 8);
    let a = bed.open("vale0:a", &w);
    let mut m = bed.open("vale0:a/rt", &w);
    assert!(m.rx[0].sync().is_ok());
    bed.close(a);
    assert_eq!(m.rx[0].sync(), Err(netvale_switch::end::SyncError::Gone));
    // The next port of that name is another.
    let b = bed.open("vale0:a", &w);
    assert_eq!(m.rx[0].sync(), Err(netvale_switch::end::SyncError::Gone));
    bed.close(m);
    bed.close(b);
    assert_empty(&bed);
}

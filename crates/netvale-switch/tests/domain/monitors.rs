//! Monitors.

use netvale_ring::layout::RegionGeom;
use netvale_ring::slot::NS_TXMON;
use netvale_switch::domain::Want;
use netvale_wire::name::PortSpec;

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

/// The host's side of an interface is a port of the same switch, whose name
/// looks like a wish for host rings.
#[test]
fn a_port_that_is_called_like_host_rings_is_watched() {
    let bed = Bed::new(small());
    let w = want(1, 1, 16, 16);
    let stack = PortSpec::from_nr_name("vale0:e^").unwrap();
    let (mut nic, mut host) = (
        bed.open("vale0:e", &w),
        bed.try_open_spec(&stack, &w).unwrap(),
    );
    let mut seen = bed.open("vale0:e^/t", &w);
    send(&mut nic, 0, &frame(2, 100));
    send(&mut host, 0, &frame(2, 101));
    let got = drain(&mut seen, 0);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].bytes, frame(2, 101));
    for p in [nic, host, seen] {
        bed.close(p);
    }
    assert_empty(&bed);
}

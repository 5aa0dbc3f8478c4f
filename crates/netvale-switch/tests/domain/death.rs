//! Whoever dies in the middle of something.

use std::sync::atomic::Ordering::Relaxed;

use netvale_ring::Slot;
use netvale_ring::world::Holder;
use netvale_switch::domain::Want;

use crate::bed::assert_empty;
use crate::common::{Bed, small, want};

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

//! Buffers that devices use in place: where they come from, and that all of
//! them come back, whoever dies when.

use std::sync::atomic::Ordering::Relaxed;

use netvale_ring::Slot;
use netvale_ring::kring::KringId;
use netvale_ring::world::Holder;
use netvale_switch::domain::{DevicePlan, Want};

use crate::bed::assert_empty;
use crate::common::{Bed, Port, small};
use crate::devices::{PLAN, make};

const WITH: DevicePlan<'_> = DevicePlan { arena: 400, ..PLAN };

fn slots(port: &Port, tx: usize) -> Vec<u32> {
    let ring = port.tx[tx].ring();
    (0..ring.count()).map(|i| ring.slot(i).buf()).collect()
}

fn holder(bed: &Bed, port: &Port, buf: u32) -> Holder {
    let table = port.reg.shared.unwrap();
    let holders = bed.world.holders(table, port.reg.geom.bufs).unwrap();
    Holder::from_bits(holders[buf as usize].load(Relaxed))
}

fn hold(bed: &Bed, port: &Port, buf: u32, by: Holder) {
    let table = port.reg.shared.unwrap();
    let holders = bed.world.holders(table, port.reg.geom.bufs).unwrap();
    holders[buf as usize].store(by.bits(), Relaxed);
}

fn arena(bed: &Bed, port: &Port) -> Option<std::ops::Range<u32>> {
    bed.with(|d| d.arena(port.reg.region))
}

/// As it is unless a program moves buffers by itself.
#[track_caller]
fn check_holders(bed: &Bed, port: &Port) {
    for (i, ring) in port.reg.tx.iter().enumerate() {
        for buf in slots(port, i) {
            assert_eq!(holder(bed, port, buf), Holder::kring(ring.kring), "{buf}");
        }
    }
}

fn put(port: &Port, i: u32, buf: u32) {
    let ring = port.tx[0].ring();
    ring.set_slot(i, Slot::new(buf, 60, 0));
}

#[test]
fn rings_of_both_sides_lie_in_the_arena_until_it_is_full() {
    let bed = Bed::new(small());
    let (_, device) = make(&bed, &WITH).unwrap();
    let user = bed.open("netmap:eth0*", &Want::default());
    let other = bed.open("vale0:a", &Want::default());
    let range = arena(&bed, &device).unwrap();
    assert_eq!(range.len(), 400);
    for port in [&device, &user] {
        for r in 0..3 {
            // The last is a host ring.
            let inside = slots(port, r).iter().all(|b| range.contains(b));
            assert_eq!(inside, r < 2);
        }
    }
    assert!(!slots(&other, 0).iter().any(|b| range.contains(b)));
    // 2 * 2 rings are in it with 2 * (8 + 16) buffers; then come others.
    let wide = DevicePlan {
        name: "eth1",
        slots: (1024, 1024),
        ..WITH
    };
    let (_, second) = make(&bed, &wide).unwrap();
    let inside = |p: &Port| {
        (0..3)
            .flat_map(|r| slots(p, r))
            .filter(|b| range.contains(b))
            .count()
    };
    let user2 = bed.open("netmap:eth1*", &Want::default());
    assert_eq!(inside(&second) + inside(&user2), 400 - 2 * 24);
    bed.check();
    assert!(
        bed.with(|d| d.take_stock(second.reg.tx[0].kring, 5))
            .is_empty()
    );
    for port in [device, second, user, other] {
        bed.close(port);
    }
    assert_eq!(arena(&bed, &user2), Some(range), "its port is still there");
    bed.close(user2);
    assert_eq!(bed.with(|d| d.arena(1)), None);
    assert_empty(&bed);
}

#[test]
fn a_region_of_ones_own_and_one_too_small_have_none() {
    let bed = Bed::new(small());
    let alone = DevicePlan {
        isolated: true,
        ..WITH
    };
    let (_, device) = make(&bed, &alone).unwrap();
    assert_eq!(arena(&bed, &device), None);
    assert!(
        bed.with(|d| d.take_stock(device.reg.tx[0].kring, 5))
            .is_empty()
    );
    bed.close(device);
    let huge = DevicePlan {
        arena: u32::MAX,
        ..WITH
    };
    let (_, device) = make(&bed, &huge).unwrap();
    assert_eq!(arena(&bed, &device).unwrap().len(), 299_999, "half");
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn a_stock_is_conserved_through_exchanges_and_comes_back() {
    let bed = Bed::new(small());
    let (_, device) = make(&bed, &WITH).unwrap();
    let kring = device.reg.tx[0].kring;
    let free = bed.free();
    let mut stock = bed.with(|d| d.take_stock(kring, 100));
    assert_eq!((stock.len(), bed.free()), (100, free - 100));
    assert!(
        stock
            .iter()
            .all(|&b| holder(&bed, &device, b) == Holder::stock(kring))
    );
    bed.check();
    for n in 0..5000 {
        let (at, i) = (n % 100, u32::try_from(n).unwrap() % 16);
        let (old, new) = (device.tx[0].ring().slot(i).buf(), stock[at]);
        hold(&bed, &device, new, Holder::kring(kring));
        put(&device, i, new);
        hold(&bed, &device, old, Holder::stock(kring));
        stock[at] = old;
    }
    bed.check();
    check_holders(&bed, &device);
    let mut found = bed.with(|d| d.settle_stock(kring));
    found.sort_unstable();
    stock.sort_unstable();
    assert_eq!(found, stock);
    assert_eq!(bed.with(|d| d.return_stock(kring)), 100);
    assert_eq!((bed.free(), bed.with(|d| d.return_stock(kring))), (free, 0));
    bed.check();
    // With the port it comes back too.
    assert_eq!(bed.with(|d| d.take_stock(kring, 30)).len(), 30);
    bed.close(device);
    assert_empty(&bed);
}

/// Whoever serves the ring dies after each store of an exchange.
#[test]
fn an_exchange_may_end_anywhere() {
    for (step, settle) in (0..4).flat_map(|step| [(step, true), (step, false)]) {
        let bed = Bed::new(small());
        let (_, device) = make(&bed, &WITH).unwrap();
        let kring = device.reg.tx[0].kring;
        let stock = bed.with(|d| d.take_stock(kring, 10));
        let (old, new) = (device.tx[0].ring().slot(3).buf(), stock[4]);
        // The table first, then the slot: a lane exchanges many at once.
        for i in 0..step {
            match i {
                0 => hold(&bed, &device, new, Holder::kring(kring)),
                1 => hold(&bed, &device, old, Holder::stock(kring)),
                _ => put(&device, 3, new),
            }
        }
        if settle {
            let found = bed.with(|d| d.settle_stock(kring));
            let named = device.tx[0].ring().slot(3).buf();
            assert_eq!(found.len(), 10, "step {step}");
            assert!(!found.contains(&named));
            assert!(found.contains(&if named == old { new } else { old }));
            bed.check();
            check_holders(&bed, &device);
            assert_eq!(bed.with(|d| d.return_stock(kring)), 10);
            bed.check();
        }
        bed.close(device);
        assert_empty(&bed);
    }
}

/// A program moves a buffer from one of its rings to another and nobody is
/// told: the table is wrong, but right in sum.
#[test]
fn buffers_that_programs_moved_stay_where_they_are() {
    let bed = Bed::new(small());
    let (_, device) = make(&bed, &WITH).unwrap();
    let other = bed.open("vale0:a", &Want::default());
    let kring = device.reg.tx[0].kring;
    let stock = bed.with(|d| d.take_stock(kring, 10));
    for i in 0..8 {
        let (a, b) = (slots(&device, 0)[i], slots(&other, 0)[i]);
        put(&device, u32::try_from(i).unwrap(), b);
        put(&other, u32::try_from(i).unwrap(), a);
    }
    let mut found = bed.with(|d| d.settle_stock(kring));
    found.sort_unstable();
    assert_eq!(found, stock);
    bed.check();
    check_holders(&bed, &device);
    bed.check_holders(&other);
    // The arena stays as long as one of its buffers is elsewhere, and serves
    // the next device.
    let range = arena(&bed, &device);
    bed.close(device);
    assert_eq!(arena(&bed, &other), range);
    bed.check();
    let (_, device) = make(&bed, &DevicePlan { arena: 7, ..WITH }).unwrap();
    assert_eq!(arena(&bed, &device), range);
    bed.close(device);
    bed.close(other);
    assert_empty(&bed);
}

#[test]
fn a_stock_is_of_one_ring_and_no_more_than_there_is() {
    let bed = Bed::new(small());
    let (_, device) = make(&bed, &WITH).unwrap();
    let [a, b] = [0, 1].map(|i| device.reg.tx[i].kring);
    let first = bed.with(|d| d.take_stock(a, 50));
    let rest = bed.with(|d| d.take_stock(b, 1000));
    assert_eq!(rest.len(), 400 - 2 * 24 - 50);
    assert_eq!(bed.with(|d| d.settle_stock(a)), first);
    assert!(bed.with(|d| d.take_stock(KringId(511), 1)).is_empty());
    assert_eq!(bed.with(|d| d.return_stock(b)), rest.len());
    bed.check();
    // What nobody has used goes back without a look at the rings.
    let (free, again) = (bed.free(), bed.with(|d| d.take_stock(b, 30)));
    bed.with(|d| d.give_back(b, &again[..10]));
    assert_eq!(bed.free(), free - 20);
    bed.check();
    bed.with(|d| d.give_back(b, &again[10..]));
    assert_eq!(
        (bed.free(), bed.with(|d| d.settle_stock(b))),
        (free, vec![])
    );
    bed.check();
    bed.close(device);
    assert_empty(&bed);
}

/// Also if a program moved buffers between them, and others in exchange.
#[test]
fn stocks_of_several_rings_come_back_together() {
    let bed = Bed::new(small());
    let (_, device) = make(&bed, &WITH).unwrap();
    let free = bed.free();
    let [a, b] = [0, 1].map(|i| device.reg.tx[i].kring);
    for (kring, n) in [(a, 20), (b, 30)] {
        let stock = bed.with(|d| d.take_stock(kring, n));
        for (i, &new) in (0..).zip(&stock[..5]) {
            let ring = device.tx[usize::from(kring == b)].ring();
            let old = ring.slot(i).buf();
            hold(&bed, &device, new, Holder::kring(kring));
            hold(&bed, &device, old, Holder::stock(kring));
            ring.set_slot(i, Slot::new(new, 60, 0));
        }
    }
    for i in 3..8 {
        let [one, two] = [0, 1].map(|r| device.tx[r].ring().slot(i));
        device.tx[0].ring().set_slot(i, two);
        device.tx[1].ring().set_slot(i, one);
    }
    bed.check();
    assert_eq!(bed.with(|d| d.return_stocks(&[a, b])), 50);
    assert_eq!(bed.free(), free);
    bed.check();
    check_holders(&bed, &device);
    assert_eq!(bed.with(|d| d.return_stocks(&[a, b])), 0);
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn what_a_device_may_still_write_is_nobodys() {
    let bed = Bed::new(small());
    let (_, device) = make(&bed, &WITH).unwrap();
    let kring = device.reg.tx[0].kring;
    let free = bed.free();
    let stock = bed.with(|d| d.take_stock(kring, 50));
    let parked = bed.with(|d| d.park_stocks(&[kring]));
    assert_eq!(bed.with(|d| d.return_stock(kring)), 0);
    bed.check();
    let again = bed.with(|d| d.take_stock(kring, 1000));
    assert!(!again.iter().any(|b| stock.contains(b)));
    let region = device.reg.region;
    bed.close(device);
    bed.check();
    let range = bed.with(|d| d.arena(region));
    assert_eq!(range.map(|r| r.len()), Some(400), "it cannot go yet");
    bed.with(|d| parked.iter().for_each(|p| d.unpark(p)));
    assert!(bed.free() > free);
    assert_empty(&bed);
}

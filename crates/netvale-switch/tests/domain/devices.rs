//! Ports of devices: two sides, linked ring by ring.

use netvale_ring::port::PortId;
use netvale_switch::domain::{DevicePlan, DeviceUse, DomainError, Want};
use netvale_switch::end::{RxEnd, SyncError, TxEnd};

use crate::bed::{assert_empty, frame, send, spec};
use crate::common::{Bed, Port, drain, small, want};

pub(crate) const PLAN: DevicePlan<'_> = DevicePlan {
    name: "eth0",
    queues: 2,
    host: [1, 1],
    slots: (8, 16),
    region: None,
    isolated: false,
    vnet_hdr: 0,
    arena: 0,
};

/// The device's side as a port, and the users'.
pub(crate) fn make(bed: &Bed, plan: &DevicePlan<'_>) -> Result<(PortId, Port), DomainError> {
    let (user, reg, map) = bed.with(|d| {
        let owner = d.add_owner(7, plan.isolated)?;
        match d.make_device(owner, plan) {
            Ok((user, reg)) => {
                let map = d.region(reg.region, reg.region_gen).unwrap().0.clone();
                Ok((user, reg, map))
            }
            Err(e) => {
                d.owner_gone(owner);
                Err(e)
            }
        }
    })?;
    let tx = |r| TxEnd::new(&bed.gear, &reg, r, &map).unwrap();
    let rx = |r| RxEnd::new(&bed.gear, &reg, r, &map).unwrap();
    let port = Port {
        tx: reg.tx.iter().map(tx).collect(),
        rx: reg.rx.iter().map(rx).collect(),
        reg: reg.clone(),
        map: map.clone(),
    };
    Ok((user, port))
}

#[test]
fn frames_go_between_the_sides_ring_by_ring() {
    let bed = Bed::new(small());
    let (user, mut device) = make(&bed, &PLAN).unwrap();
    let mut all = bed.open("netmap:eth0*", &Want::default());
    assert_eq!((all.reg.tx_rings, all.reg.rx_rings), (2, 2));
    assert_eq!(all.reg.host_rings, [1, 1]);
    assert_eq!((all.reg.tx[0].slots, all.reg.rx[0].slots), (8, 16));
    for r in 0..3u8 {
        let at = usize::from(r);
        for i in 0..40 {
            send(&mut device, at, &frame(i, r));
            assert_eq!(drain(&mut all, at)[0].bytes, frame(i, r));
            send(&mut all, at, &frame(r, i));
            assert_eq!(drain(&mut device, at)[0].bytes, frame(r, i));
        }
    }
    let used = DeviceUse {
        open: true,
        tx: true,
        rx: true,
        host: true,
        down: true,
    };
    assert_eq!(bed.with(|d| d.device_use(user)), used);
    bed.check();
    bed.close(all);
    assert_eq!(bed.with(|d| d.device_use(user)), DeviceUse::default());
    assert_eq!(bed.with(|d| d.list().len()), 2, "it stays for its device");
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn modes_choose_among_queues_and_host_rings() {
    let bed = Bed::new(small());
    let (user, device) = make(&bed, &PLAN).unwrap();
    for (name, tx, rx, used) in [
        ("netmap:eth0", vec![0, 1], vec![0, 1], (true, true, false)),
        ("netmap:eth0^", vec![2], vec![2], (false, false, true)),
        ("netmap:eth0^0/R", vec![], vec![2], (false, false, true)),
        ("netmap:eth0-1/T", vec![1], vec![], (true, false, false)),
        (
            "netmap:eth0*",
            vec![0, 1, 2],
            vec![0, 1, 2],
            (true, true, true),
        ),
    ] {
        let p = bed.open(name, &Want::default());
        let idx = |rings: &[netvale_switch::domain::RingInfo]| -> Vec<u16> {
            rings.iter().map(|r| r.idx).collect()
        };
        assert_eq!((idx(&p.reg.tx), idx(&p.reg.rx)), (tx, rx), "{name}");
        let now = bed.with(|d| d.device_use(user));
        assert_eq!((now.tx, now.rx, now.host), used, "{name}");
        assert_eq!(now.down, name == "netmap:eth0*", "{name}");
        // As programs see it: hardware rings, then host rings.
        let mut counts = [0; 20];
        let at = usize::try_from(p.reg.nif_ofs).unwrap() + 24;
        assert!(p.map.mem.read(at, &mut counts));
        let word = |i: usize| u32::from_le_bytes(counts[i..i + 4].try_into().unwrap());
        assert_eq!([word(0), word(4), word(12), word(16)], [2, 2, 1, 1]);
        bed.close(p);
    }
    for name in ["netmap:eth0-2", "netmap:eth0^1"] {
        let refused = bed.try_open(name, &Want::default());
        assert!(matches!(refused, Err(DomainError::Invalid(_))), "{name}");
    }
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn host_rings_are_as_many_as_asked_for_in_each_direction() {
    let bed = Bed::new(small());
    for host in [[5, 2], [2, 5], [1, 1]] {
        let plan = DevicePlan {
            queues: 1,
            host,
            ..PLAN
        };
        let (_, mut device) = make(&bed, &plan).unwrap();
        let mut all = bed.open("netmap:eth0*", &Want::default());
        assert_eq!(all.reg.host_rings, host);
        assert_eq!((all.reg.tx_rings, all.reg.rx_rings), (1, 1));
        let [tx, rx] = host.map(|n| usize::from(n) + 1);
        assert_eq!((all.tx.len(), all.rx.len()), (tx, rx));
        assert_eq!(device.tx.len(), tx.max(rx));
        assert_eq!(device.rx.len(), tx.max(rx));
        for (r, byte) in (0..tx).zip(0u8..) {
            send(&mut all, r, &frame(byte, 1));
            assert_eq!(drain(&mut device, r)[0].bytes, frame(byte, 1));
        }
        for (r, byte) in (0..rx).zip(0u8..) {
            send(&mut device, r, &frame(byte, 2));
            assert_eq!(drain(&mut all, r)[0].bytes, frame(byte, 2));
        }
        // Those without a counterpart are there, and quiet.
        for r in tx.min(rx)..tx.max(rx) {
            assert!(device.tx[r].sync().is_ok() && device.rx[r].sync().is_ok());
        }
        bed.check();
        bed.close(all);
        bed.close(device);
        assert_empty(&bed);
    }
}

#[test]
fn released_frames_that_are_marked_go_back_marked_if_that_counts() {
    use netvale_ring::forward::{NR_FORWARD, NS_FORWARD};
    let bed = Bed::new(small());
    let (user, mut device) = make(&bed, &PLAN).unwrap();
    let mut port = bed.open("netmap:eth0*", &Want::default());
    // What comes back of three frames, of which the second is marked.
    let mut marks = |ring: usize| {
        for i in 0..3 {
            send(&mut device, ring, &frame(i, 0));
        }
        port.rx[ring].sync().unwrap();
        let r = port.rx[ring].ring();
        let (first, marked) = (r.head(), r.next(r.head()));
        let slot = r.slot(marked);
        r.set_slot(marked, slot.with_flags(slot.flags() | NS_FORWARD));
        r.set_head(r.tail());
        port.rx[ring].sync().unwrap();
        device.tx[ring].sync().unwrap();
        let back = device.tx[ring].ring();
        let mut at = first;
        let marks = [(); 3].map(|()| {
            let slot = back.slot(at);
            back.set_slot(at, slot.with_flags(0));
            at = back.next(at);
            slot.has(NS_FORWARD)
        });
        let asked = device.tx[ring].receiver().unwrap().forwards();
        (marks, asked)
    };
    let (none, second) = ([false; 3], [false, true, false]);
    bed.with(|d| d.set_forwarding(user, true, false, false));
    for ring in 0..3 {
        assert_eq!(marks(ring), (none, false), "the ring's flag is missing");
    }
    for r in &bed.open("netmap:eth0*", &Want::default()).rx {
        r.ring().add_flags(NR_FORWARD);
    }
    assert_eq!((marks(0), marks(1)), ((second, true), (second, true)));
    assert_eq!(marks(2), (none, false), "not down to the wire");
    bed.with(|d| d.set_forwarding(user, false, true, false));
    assert_eq!((marks(0), marks(2)), ((none, false), (second, true)));
    bed.with(|d| d.set_forwarding(user, true, true, true));
    assert_eq!((marks(0), marks(2)), (([true; 3], true), ([true; 3], true)));
    bed.close(port);
    bed.close(device);
}

#[test]
fn ports_without_host_rings_have_none() {
    let bed = Bed::new(small());
    let plan = DevicePlan {
        name: "tap:t0",
        queues: 1,
        host: [0, 0],
        ..PLAN
    };
    let (_, device) = make(&bed, &plan).unwrap();
    let again = make(&bed, &plan).map(|_| ());
    assert!(matches!(again, Err(DomainError::Busy(_))));
    let nr = |mode| netvale_switch::domain::NrBind {
        name: "tap:t0",
        mode,
        ringid: 0,
        flags: 0,
        mem_id: 0,
        want: Want::default(),
        offsets: None,
    };
    let owner = bed.with(|d| d.add_owner(1, false)).unwrap();
    let bind = |mode| bed.with(|d| d.bind(owner, &nr(mode), &|_| false).map(|_| ()));
    use netvale_wire::abi::mode;
    for mode in [mode::SW, mode::ONE_SW, mode::NIC_SW] {
        assert!(matches!(bind(mode), Err(DomainError::Invalid(_))));
    }
    bind(mode::ALL_NIC).unwrap();
    bed.with(|d| d.owner_gone(owner));
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn a_device_that_is_gone_is_found_no_more() {
    let bed = Bed::new(small());
    let (user, device) = make(&bed, &PLAN).unwrap();
    let mut p = bed.open("netmap:eth0", &Want::default());
    assert!(p.tx[0].sync().is_ok() && p.rx[0].sync().is_ok());
    bed.with(|d| d.device_gone(user));
    bed.close(device);
    // Who has it open is told, and told again.
    for _ in 0..2 {
        assert_eq!(p.tx[0].sync(), Err(SyncError::Gone));
        assert_eq!(p.rx[0].sync(), Err(SyncError::Gone));
    }
    let rings = p.reg.tx.iter().chain(&p.reg.rx);
    for r in rings {
        assert!(bed.world.kring(r.kring).unwrap().is_gone());
    }
    assert!(bed.try_open("netmap:eth0", &Want::default()).is_err());
    // It comes back while somebody still has the old one.
    let (_, device) = make(&bed, &PLAN).unwrap();
    let q = bed.open("netmap:eth0", &Want::default());
    assert_ne!(p.reg.port, q.reg.port);
    bed.check();
    bed.close(p);
    bed.close(q);
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn isolated_users_have_memory_of_their_own() {
    let bed = Bed::new(small());
    let plan = DevicePlan {
        isolated: true,
        ..PLAN
    };
    let (_, mut device) = make(&bed, &plan).unwrap();
    assert_eq!(device.reg.shared, None);
    let trusted = bed.try_open("netmap:eth0", &want(0, 0, 0, 0));
    assert!(matches!(trusted, Err(DomainError::Busy(_))));
    let owner = bed.with(|d| d.add_owner(1, true)).unwrap();
    let reg = bed.with(|d| d.register(owner, &spec("netmap:eth0"), &Want::default()));
    assert_eq!(reg.unwrap().region, device.reg.region);
    send(&mut device, 0, &frame(1, 2));
    bed.check();
    bed.with(|d| d.owner_gone(owner));
    bed.close(device);
    assert_empty(&bed);
}

#[test]
fn what_does_not_fit_leaves_nothing() {
    let bed = Bed::new(small());
    let huge = DevicePlan {
        queues: 16,
        host: [16, 16],
        slots: (4096, 4096),
        ..PLAN
    };
    let (mut made, mut refused) = (Vec::new(), 0);
    for name in ["a", "b", "c", "d", "e"] {
        match make(&bed, &DevicePlan { name, ..huge }) {
            Ok((_, device)) => made.push(device),
            Err(DomainError::NoSpace(_)) => refused += 1,
            Err(e) => panic!("{e}"),
        }
    }
    assert!(refused > 0 && !made.is_empty());
    bed.check();
    made.into_iter().for_each(|device| bed.close(device));
    assert_empty(&bed);
}

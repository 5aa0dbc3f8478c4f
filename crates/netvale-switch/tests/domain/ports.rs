//! Ports of switches and persistent ports: names, rings, buffers.

use netvale_ring::Slot;
use netvale_ring::layout::{BUF_SIZE, RegionGeom, StateGeom};
use netvale_ring::slot::NS_MOREFRAG;
use netvale_switch::domain::{Config, DomainError, Want};

use crate::bed::{all, assert_empty, frame, send, spec};
use crate::common::{Bed, drain, small, want};

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
    assert!(matches!(attach("vale0:q"), Err(DomainError::Missing(_))));
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

/// A second seat is a port like another, for the namespace's own use; what is
/// refused leaves nothing, whatever was done by then.
#[test]
fn a_persistent_port_in_two_switches() {
    let with = |state: StateGeom, ifs| Config {
        state,
        global: RegionGeom {
            ifs,
            ..small().global
        },
        huge: false,
    };
    let (switches, ports) = (1, 1);
    let tight = [
        with(
            StateGeom {
                switches,
                ..small().state
            },
            64,
        ),
        with(
            StateGeom {
                ports,
                ..small().state
            },
            64,
        ),
        with(small().state, 1),
        with(small().state, 0),
    ];
    for (i, config) in tight.into_iter().enumerate() {
        let bed = Bed::new(config);
        bed.with(|d| {
            d.new_interface("p", &want(2, 1, 8, 16), None).unwrap();
            assert_eq!(d.second_seat("vale1:p"), None, "it has no first one");
            d.attach(&spec("vale0:p")).unwrap();
            let second = d.second_seat("vale1:p").unwrap();
            let owners = [(); 2].map(|()| d.add_owner(1, false).unwrap());
            let refused = d.attach_second(&second, owners);
            assert!(matches!(refused, Err(DomainError::NoSpace(_))), "{i}");
            assert_eq!(d.list().len(), 1);
            d.detach(&spec("vale0:p")).unwrap();
            d.delete_interface("p").unwrap();
        });
        assert_empty(&bed);
    }
    let bed = Bed::new(small());
    bed.with(|d| {
        d.new_interface("p", &want(2, 1, 8, 16), None).unwrap();
        d.attach(&spec("vale0:p")).unwrap();
        for no in ["vale0:p", "p", "vale1:q", "vale1", "vale1:p{1"] {
            assert_eq!(d.second_seat(no), None, "{no}");
        }
        let second = d.second_seat("vale1:p").unwrap();
        let owners = [(); 2].map(|()| d.add_owner(1, false).unwrap());
        let (index, [a, b]) = d.attach_second(&second, owners).unwrap();
        assert_eq!((index, b.name.as_str()), (0, "vale1:p"));
        // What the one receives the other sends.
        assert_eq!((a.tx.len(), a.rx.len()), (2, 1));
        assert_eq!((b.tx.len(), b.rx.len()), (1, 2));
        assert_eq!((b.tx[0].slots, b.rx[0].slots), (16, 8));
        assert_eq!(d.second_seat("vale2:p"), None);
        let hdr = d.set_vnet_hdr("vale0:p", 12);
        assert!(matches!(hdr, Err(DomainError::Busy(_))));
        let first = d.detach(&spec("vale0:p"));
        assert!(matches!(first, Err(DomainError::Busy(_))));
        for o in owners {
            d.owner_gone(o);
        }
        assert_eq!(d.detach(&spec("vale1:p")), Ok(0));
        d.set_vnet_hdr("vale0:p", 12).unwrap();
        d.detach(&spec("vale0:p")).unwrap();
        d.delete_interface("p").unwrap();
    });
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

//! Registrations in netmap's terms: what is granted, and the error of each
//! refusal.

use netvale_ring::layout::{RegionGeom, StateGeom};
use netvale_ring::port::PortKind;
use netvale_switch::domain::{
    Config, Domain, DomainError, GLOBAL_REGION, MAX_PIPES, NrBind, Offsets, Registration, Result,
    Want,
};
use netvale_wire::abi::{mode, regflags};

use crate::bed::assert_empty;
use crate::common::{Bed, Sparse, small, want};

fn nr(name: &str) -> NrBind<'_> {
    NrBind {
        name,
        mode: mode::ALL_NIC,
        ringid: 0,
        flags: 0,
        mem_id: 0,
        want: want(1, 1, 8, 8),
        offsets: None,
    }
}

fn with_mode(name: &str, mode: u32, ringid: u16) -> NrBind<'_> {
    NrBind {
        mode,
        ringid,
        ..nr(name)
    }
}

fn with_flags(name: &str, flags: u64) -> NrBind<'_> {
    NrBind { flags, ..nr(name) }
}

fn in_region(name: &str, mem_id: u16) -> NrBind<'_> {
    NrBind { mem_id, ..nr(name) }
}

/// The system of these tests has one interface.
fn is_interface(name: &str) -> bool {
    name == "eth7"
}

fn open(d: &mut Domain<Sparse>, nr: &NrBind<'_>) -> Result<Registration> {
    let owner = d.add_owner(1, false)?;
    let got = d.bind(owner, nr, &is_interface);
    if got.is_err() {
        d.owner_gone(owner);
    }
    got
}

fn errno(e: &DomainError) -> &'static str {
    match e {
        DomainError::Invalid(_) | DomainError::Missing(_) => "EINVAL",
        DomainError::NotFound(_) => "ENXIO",
        DomainError::Busy(_) => "EBUSY",
        DomainError::Exists(_) => "EEXIST",
        DomainError::NoSpace(_) => "ENOMEM",
        DomainError::Unsupported(_) => "EOPNOTSUPP",
        DomainError::NoDevice(_) => "ENODEV",
        DomainError::NeedsHeader(_) => "EIO",
        _ => "?",
    }
}

/// The error of a registration, which leaves nothing behind. What a look at
/// the port says is the same, for ports that are made.
#[track_caller]
fn refused(bed: &Bed, nr: &NrBind<'_>) -> &'static str {
    let before = bed.with(|d| d.list());
    let e = bed.with(|d| open(d, nr)).unwrap_err();
    bed.check();
    assert_eq!(bed.with(|d| d.list()), before, "{nr:?} left something");
    errno(&e)
}

fn names(bed: &Bed) -> Vec<String> {
    bed.with(|d| d.list().into_iter().map(|p| p.name).collect())
}

#[test]
fn every_refusal_has_netmaps_error() {
    let bed = Bed::new(small());
    let two = NrBind {
        want: want(2, 1, 8, 8),
        ..nr("vale0:a")
    };
    let a = bed.with(|d| open(d, &two)).unwrap();
    let mon = regflags::MONITOR_RX;
    let cases = [
        // Regions and modes come before names.
        (in_region("vale0", 77), "EINVAL"),
        (with_mode("x", mode::NULL, 0), "EINVAL"),
        (with_mode("vale0:a", mode::PIPE_MASTER, 0), "EINVAL"),
        (with_mode("vale0:a", mode::PIPE_SLAVE, 0), "EINVAL"),
        // Names.
        (nr(""), "ENXIO"),
        (nr("nosuch0"), "ENXIO"),
        (nr("eth7"), "ENXIO"),
        (nr("no:such"), "ENXIO"),
        (nr("vale0"), "ENOMEM"),
        (nr("vale-0:a"), "ENOMEM"),
        (nr("vale123456789012:a"), "ENOMEM"),
        (nr("vale0:sixteen-letters-"), "ENOMEM"),
        (nr("vale0:eth7"), "EINVAL"),
        (nr("vale0:\u{1b}[2J"), "EINVAL"),
        // Monitors: an absent port could be made, so it is one not open.
        (with_flags("nosuch0", mon), "ENXIO"),
        (with_flags("eth7", mon), "EINVAL"),
        (with_flags("vale0:b", mon), "EINVAL"),
        (with_flags("vale0:b", regflags::ZCOPY_MON), "EINVAL"),
        (with_flags("vale0", mon), "ENOMEM"),
        (with_flags("vale0:a{1", mon), "EINVAL"),
        // Pipes.
        (nr("vale0:a{"), "EINVAL"),
        (nr("{1"), "EINVAL"),
        (nr("}"), "EINVAL"),
        (nr("vale0{1"), "ENOMEM"),
        (with_mode("vale0:a{1", mode::SW, 0), "EINVAL"),
        (with_mode("vale0:a{1", mode::NIC_SW, 0), "EINVAL"),
        (with_mode("vale0:a{1", mode::ONE_SW, 0), "EINVAL"),
        (with_mode("vale0:a{1", 99, 0), "EINVAL"),
        (with_mode("vale0:a{1", mode::ONE_NIC, 1), "EINVAL"),
        (nr("sixteen-letters-{1"), "EINVAL"),
        // Modes.
        (with_mode("vale0:a", mode::DEFAULT, 0), "EINVAL"),
        (with_mode("vale0:new", 9, 0), "EINVAL"),
        (with_mode("vale0:a", mode::SW, 0), "EINVAL"),
        (with_mode("vale0:a", mode::NIC_SW, 0), "EINVAL"),
        (with_mode("vale0:new", mode::ONE_SW, 0), "EINVAL"),
        (with_mode("vale0:a", mode::ONE_NIC, 2), "EINVAL"),
        (with_mode("vale0:new", mode::ONE_NIC, u16::MAX), "EINVAL"),
        (with_flags("vale0:a", regflags::EXCLUSIVE), "EBUSY"),
    ];
    for (ask, want) in &cases {
        assert_eq!(refused(&bed, ask), *want, "{ask:?}");
    }
    // Only one side is short: its first ring takes part.
    let second = with_mode("vale0:a", mode::ONE_NIC, 1);
    let r = bed.with(|d| open(d, &second)).unwrap();
    assert_eq!((r.tx[0].idx, r.rx[0].idx), (1, 0));
    let again = bed.with(|d| d.bind(r.owner, &nr("vale0:z"), &is_interface));
    assert_eq!(errno(&again.unwrap_err()), "EBUSY");
    bed.with(|d| d.set_vnet_hdr("vale0:a", 12)).unwrap();
    assert_eq!(refused(&bed, &nr("vale0:a")), "EIO");
    let accepts = with_flags("vale0:a", regflags::ACCEPT_VNET_HDR);
    let h = bed.with(|d| open(d, &accepts)).unwrap();
    for r in [a, r, h] {
        bed.with(|d| d.owner_gone(r.owner));
    }
    assert_empty(&bed);
}

#[test]
fn flags_that_bind_nothing_and_flags_of_no_meaning() {
    let bed = Bed::new(small());
    let both = regflags::RX_RINGS_ONLY | regflags::TX_RINGS_ONLY | regflags::EXCLUSIVE;
    let none = bed.with(|d| open(d, &with_flags("vale0:a", both))).unwrap();
    assert_eq!((none.tx.len(), none.rx.len()), (0, 0));
    assert_eq!((none.tx_rings, none.rx_rings), (1, 1));
    let odd = bed
        .with(|d| open(d, &with_flags("vale0:a", u64::MAX << 18 | 0x10ff)))
        .unwrap();
    assert_eq!((odd.tx.len(), odd.rx.len()), (1, 1));
    assert_eq!(odd.port, none.port);
    let tx = with_flags("vale0:a", regflags::TX_RINGS_ONLY);
    let tx = bed.with(|d| open(d, &tx)).unwrap();
    assert_eq!((tx.tx.len(), tx.rx.len()), (1, 0));
    for r in [none, odd, tx] {
        bed.with(|d| d.owner_gone(r.owner));
    }
    assert_empty(&bed);
}

#[test]
fn a_null_port_is_memory_and_any_number_of_rings() {
    let bed = Bed::new(small());
    let null = |rings: u16, extra_bufs| NrBind {
        mode: mode::NULL,
        mem_id: GLOBAL_REGION,
        want: Want {
            extra_bufs,
            ..want(rings * 2, rings, 256, 100)
        },
        ..nr("vale0:a")
    };
    let a = bed.with(|d| open(d, &null(5, 7))).unwrap();
    assert_eq!((a.tx.len(), a.rx.len(), a.extra_bufs), (10, 5, 7));
    assert_eq!((a.tx[9].slots, a.rx[4].slots), (256, 100));
    assert_eq!((a.kind, a.region), (PortKind::Null, GLOBAL_REGION));
    // Each is one of its own, whatever they are called.
    let b = bed.with(|d| open(d, &null(0, 3))).unwrap();
    assert_ne!(a.port, b.port);
    assert_eq!((b.tx_rings, b.rx_rings, b.extra_bufs), (0, 0, 3));
    let monitor = NrBind {
        flags: regflags::MONITOR_RX,
        ..null(1, 0)
    };
    let c = bed.with(|d| open(d, &monitor)).unwrap();
    assert_eq!(c.kind, PortKind::Null);
    let port = bed.with(|d| open(d, &nr("vale0:a"))).unwrap();
    assert_eq!(port.kind, PortKind::Vale);
    assert_eq!(refused(&bed, &null(200, 0)), "ENOMEM");
    bed.check();
    for r in [a, b, c, port] {
        bed.with(|d| d.owner_gone(r.owner));
    }
    assert_empty(&bed);
}

#[test]
fn pipes_bring_their_parent_along() {
    let bed = Bed::new(small());
    let one = bed.with(|d| open(d, &nr("foo{1"))).unwrap();
    assert_eq!(names(&bed), ["foo", "foo{1", "foo}1"]);
    // The parent is a port like any other, only that nobody may delete it.
    let parent = bed.with(|d| open(d, &nr("foo"))).unwrap();
    assert_eq!(parent.kind, PortKind::Vale);
    bed.with(|d| d.owner_gone(parent.owner));
    let e = bed.with(|d| d.delete_interface("foo")).unwrap_err();
    assert_eq!(errno(&e), "EINVAL");
    let e = bed.with(|d| d.new_interface("foo", &want(1, 1, 8, 8), None));
    assert_eq!(errno(&e.unwrap_err()), "EEXIST");
    let other = bed.with(|d| open(d, &nr("foo}1"))).unwrap();
    let two = bed.with(|d| open(d, &nr("foo{2"))).unwrap();
    for r in [one, other] {
        bed.with(|d| d.owner_gone(r.owner));
    }
    assert_eq!(names(&bed), ["foo", "foo{2", "foo}2"]);
    // Attached, it stays until it is detached.
    assert_eq!(bed.with(|d| d.attach_named("vale0:foo")).unwrap(), 0);
    bed.with(|d| d.owner_gone(two.owner));
    assert_eq!(names(&bed), ["vale0:foo"]);
    let both = bed.with(|d| open(d, &nr("foo"))).unwrap();
    assert_eq!(both.name, "vale0:foo");
    bed.with(|d| d.owner_gone(both.owner));
    bed.with(|d| d.detach_named("vale0:foo")).unwrap();
    assert_empty(&bed);
    // Open when its last pipe goes, it stays until it is closed.
    let pipe = bed.with(|d| open(d, &nr("foo{1"))).unwrap();
    let parent = bed.with(|d| open(d, &nr("foo"))).unwrap();
    bed.with(|d| d.owner_gone(pipe.owner));
    assert_eq!(names(&bed), ["foo"]);
    bed.with(|d| d.owner_gone(parent.owner));
    assert_empty(&bed);
    // An interface is there already; a persistent port too, and keeps its pipes.
    let pipe = bed.with(|d| open(d, &nr("eth7{1"))).unwrap();
    assert_eq!(names(&bed), ["eth7{1", "eth7}1"]);
    bed.with(|d| d.owner_gone(pipe.owner));
    bed.with(|d| d.new_interface("p", &want(1, 1, 8, 8), None))
        .unwrap();
    let pipe = bed.with(|d| open(d, &nr("p{1"))).unwrap();
    let e = bed.with(|d| d.delete_interface("p")).unwrap_err();
    assert_eq!(errno(&e), "EBUSY");
    bed.with(|d| d.owner_gone(pipe.owner));
    assert_eq!(names(&bed), ["p"]);
    bed.with(|d| d.delete_interface("p")).unwrap();
    assert_empty(&bed);
}

/// The memory of a pipe is its parent's, or what the first opener asked for.
#[test]
fn pipes_lie_where_their_parent_does() {
    let bed = Bed::new(small());
    let geom = RegionGeom {
        bufs: 5000,
        ..small().global
    };
    let id = bed.with(|d| d.new_region(geom)).unwrap();
    let port = bed.with(|d| open(d, &in_region("vale0:a", id))).unwrap();
    let ignored = in_region("vale0:a{1", GLOBAL_REGION);
    let pipe = bed.with(|d| open(d, &ignored)).unwrap();
    assert_eq!((port.region, pipe.region), (id, id));
    let free = bed.with(|d| open(d, &in_region("foo{1", id))).unwrap();
    let second = bed.with(|d| open(d, &nr("foo}2"))).unwrap();
    let parent = bed.with(|d| open(d, &nr("foo"))).unwrap();
    assert_eq!((free.region, second.region, parent.region), (id, id, id));
    assert_eq!(refused(&bed, &in_region("foo{1", 99)), "EINVAL");
    for r in [port, pipe, free, second, parent] {
        bed.with(|d| d.owner_gone(r.owner));
    }
    assert_empty(&bed);
}

#[test]
fn a_65th_pipe_is_refused_and_leaves_nothing() {
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
    let pipes: Vec<Registration> = (0..MAX_PIPES)
        .map(|i| bed.with(|d| open(d, &nr(&format!("foo{{{i}")))).unwrap())
        .collect();
    assert_eq!(refused(&bed, &nr("foo{more")), "EINVAL");
    let other = bed.with(|d| open(d, &nr("foo}5"))).unwrap();
    for r in pipes.iter().chain([&other]) {
        bed.with(|d| d.owner_gone(r.owner));
    }
    assert_empty(&bed);
}

/// Braces as the kernel module reads them; no name means two ports.
#[test]
fn pipes_of_pipes() {
    let bed = Bed::new(small());
    let get = |name: &str| bed.with(|d| open(d, &nr(name)));
    let nested = get("vale0:a{1{2").unwrap();
    // Read from the right this is another pipe, not the first one's other end.
    let odd = get("vale0:a{1}2").unwrap();
    assert_ne!(nested.port, odd.port);
    assert_eq!(get("vale0:a{1{2").unwrap().port, nested.port);
    assert_eq!(get("vale0:a{1}2").unwrap().port, odd.port);
    let (m, s) = (get("vale0:a}1{2").unwrap(), get("vale0:a}1}2").unwrap());
    let kring = bed.world.kring(m.tx[0].kring).unwrap();
    assert_eq!(kring.peer(), Some(s.rx[0].kring));
    // A name that we made up is nobody's.
    let monitor = bed.with(|d| {
        let on = with_flags("vale0:b", regflags::MONITOR_RX);
        open(d, &nr("vale0:b")).unwrap();
        open(d, &on).unwrap()
    });
    assert!(monitor.name.starts_with("vale0:b/r#"));
    assert_eq!(refused(&bed, &nr(&monitor.name)), "EBUSY");
    bed.check();
    let all = bed.with(|d| d.list());
    for o in all.iter().flat_map(|p| &p.owners) {
        bed.with(|d| d.owner_gone(o.owner));
    }
    assert_empty(&bed);
    // An empty port part is a name like another.
    let empty = get("vale0:").unwrap();
    assert_eq!(
        (empty.name.as_str(), empty.kind),
        ("vale0:", PortKind::Vale)
    );
    bed.with(|d| d.owner_gone(empty.owner));
    assert_empty(&bed);
}

#[test]
fn attaching_by_the_names_in_requests() {
    let bed = Bed::new(small());
    let attach = |name: &str| bed.with(|d| d.attach_named(name));
    let detach = |name: &str| bed.with(|d| d.detach_named(name));
    let err = |r: Result<u32>| errno(&r.unwrap_err());
    bed.with(|d| d.new_interface("p", &want(1, 1, 8, 8), None))
        .unwrap();
    assert_eq!(err(attach("p")), "EINVAL");
    assert_eq!(err(attach("vale0")), "ENOMEM");
    assert_eq!(err(attach("vale0:q")), "EINVAL");
    assert_eq!(err(attach("vale0:eth7")), "EINVAL");
    let open_by = bed.with(|d| open(d, &nr("p"))).unwrap();
    assert_eq!(err(attach("vale0:p")), "EBUSY");
    bed.with(|d| d.owner_gone(open_by.owner));
    assert_eq!(attach("vale0:p"), Ok(0));
    assert_eq!(err(attach("vale0:p")), "EBUSY");
    assert_eq!(refused(&bed, &nr("vale1:p")), "EINVAL");
    // Monitors, too, find it by both names.
    let user = bed.with(|d| open(d, &nr("p"))).unwrap();
    for name in ["p", "vale0:p"] {
        let m = bed.with(|d| open(d, &with_flags(name, regflags::MONITOR_TX)));
        let m = m.unwrap();
        assert!(m.name.starts_with("vale0:p/t#"), "{}", m.name);
        bed.with(|d| d.owner_gone(m.owner));
    }
    bed.with(|d| d.owner_gone(user.owner));
    assert_eq!(err(detach("p")), "EINVAL");
    assert_eq!(err(detach("vale0")), "ENXIO");
    assert_eq!(err(detach("vale1:p")), "ENXIO");
    let eph = bed.with(|d| open(d, &nr("vale0:e"))).unwrap();
    assert_eq!(err(detach("vale0:e")), "EINVAL");
    bed.with(|d| d.owner_gone(eph.owner));
    assert_eq!(detach("vale0:p"), Ok(0));
    bed.with(|d| d.delete_interface("p")).unwrap();
    let hdr = |name: &str| errno(&bed.with(|d| d.vnet_hdr(name)).unwrap_err());
    assert_eq!((hdr("vale0:x"), hdr("vale0:x{1")), ("ENXIO", "ENODEV"));
    assert_empty(&bed);
}

/// A look makes nothing that stays, and sees what others keep to themselves.
#[test]
fn a_look_leaves_no_trace() {
    let bed = Bed::new(small());
    let look = |ask: &NrBind<'_>| bed.with(|d| d.describe(ask, &is_interface));
    let seen = look(&NrBind {
        want: want(2, 3, 16, 32),
        ..nr("vale0:new")
    })
    .unwrap();
    assert_eq!((seen.tx_rings, seen.rx_rings), (2, 3));
    assert_eq!((seen.tx[0].slots, seen.rx[0].slots), (16, 32));
    look(&nr("foo{1")).unwrap();
    look(&with_mode("x", mode::NULL, 0)).unwrap_err();
    look(&NrBind {
        mem_id: GLOBAL_REGION,
        ..with_mode("x", mode::NULL, 0)
    })
    .unwrap();
    assert_empty(&bed);
    for (ask, want) in [
        (nr("nosuch0"), "ENXIO"),
        (nr("vale0"), "ENOMEM"),
        (nr("vale0:eth7"), "EINVAL"),
        (nr("x{"), "EINVAL"),
        (in_region("vale0:a", 9), "EINVAL"),
    ] {
        assert_eq!(errno(&look(&ask).unwrap_err()), want, "{ask:?}");
    }
    assert_empty(&bed);
    let alone = bed
        .with(|d| open(d, &with_flags("vale0:a", regflags::EXCLUSIVE)))
        .unwrap();
    bed.with(|d| d.set_vnet_hdr("vale0:a", 10)).unwrap();
    let seen = look(&NrBind {
        want: want(9, 9, 9, 9),
        ..nr("vale0:a")
    })
    .unwrap();
    assert_eq!((seen.tx_rings, seen.tx[0].slots, seen.vnet_hdr), (1, 8, 10));
    bed.with(|d| d.owner_gone(alone.owner));
    assert_empty(&bed);
}

#[test]
fn offsets_are_checked_given_and_taken_away() {
    let bed = Bed::new(small());
    let at = |max, initial, bits| NrBind {
        offsets: Some(Offsets { max, initial, bits }),
        ..nr("vale0:a")
    };
    for bad in [at(4096, 0, 0), at(64, 65, 0), at(64, 0, 65), at(64, 0, 6)] {
        assert_eq!(refused(&bed, &bad), "EINVAL", "{bad:?}");
    }
    let words = |r: &Registration| {
        bed.with(|d| {
            let (map, _) = d.region(r.region, r.region_gen).unwrap();
            let ring = map.ring(usize::try_from(r.rx[0].ofs).unwrap(), 8).unwrap();
            let all = (0..8).map(|i| ring.ptr(i)).collect::<Vec<_>>();
            (d.world().kring(r.rx[0].kring).unwrap().offsets(), all)
        })
    };
    let first = bed.with(|d| open(d, &at(64, 32, 16))).unwrap();
    let (has, ptrs) = words(&first);
    assert_eq!((has.mask(), has.max()), (0xffff, 64));
    assert_eq!(ptrs, [32; 8]);
    assert_eq!(bed.with(|d| d.largest_offset(first.owner)), Some(64));

    // Others may ask for as much as there is, and get what there is.
    for bad in [at(65, 0, 16), at(1, 0, 17)] {
        assert_eq!(refused(&bed, &bad), "EBUSY", "{bad:?}");
    }
    let second = bed.with(|d| open(d, &at(8, 8, 8))).unwrap();
    assert_eq!(words(&second).1, [32; 8], "somebody uses them");
    assert_eq!(bed.with(|d| d.largest_offset(second.owner)), Some(64));
    let flags = regflags::ZCOPY_MON;
    let monitor = NrBind {
        flags,
        ..at(8, 0, 8)
    };
    assert_eq!(refused(&bed, &monitor), "EOPNOTSUPP");
    for r in [first, second] {
        bed.with(|d| d.owner_gone(r.owner));
    }

    // A port that stays forgets the offsets of who is gone.
    bed.with(|d| d.new_interface("p", &want(1, 1, 8, 8), None))
        .unwrap();
    let with = NrBind {
        name: "p",
        ..at(8, 8, 8)
    };
    let r = bed.with(|d| open(d, &with)).unwrap();
    assert_eq!(words(&r).1, [8; 8]);
    bed.with(|d| d.owner_gone(r.owner));
    let r = bed.with(|d| open(d, &nr("p"))).unwrap();
    let (has, ptrs) = words(&r);
    assert!(has.is_none());
    assert_eq!(ptrs, [0; 8]);
    bed.with(|d| d.owner_gone(r.owner));
    bed.with(|d| d.delete_interface("p")).unwrap();
    assert_empty(&bed);
}

/// Regions in the shape of a program's own memory.
#[test]
fn small_regions_fill_up_and_are_rolled_back() {
    let bed = Bed::new(small());
    let shape = |ring_size, bufs, buf_size| RegionGeom {
        ifs: 3,
        rings: 4,
        ring_size,
        bufs,
        buf_size,
    };
    for bad in [
        shape(255, 100, 64),
        shape(1 << 21, 100, 64),
        shape(4096, 2, 64),
        shape(4096, 100, 32),
        shape(4096, 100, 1 << 17),
        shape(4096, 100, 100),
        shape(4000, 100, 64),
    ] {
        let e = bed.with(|d| d.want_region("bad", bad, 1)).unwrap_err();
        assert_eq!(errno(&e), "EINVAL", "{bad:?}");
    }
    let huge = shape(4096, 700_000, 64);
    let e = bed.with(|d| d.want_region("big", huge, 1)).unwrap_err();
    assert_eq!(errno(&e), "ENOMEM");
    for buf_size in [64, 2048, 65536] {
        // 16 slots of 16 bytes behind a header of 256.
        let geom = shape(512, 40, buf_size);
        let layout = bed.with(|d| d.want_region("k", geom, 1)).unwrap();
        let ask = |slots, rings| NrBind {
            want: want(rings, rings, slots, slots),
            ..in_region("vale0:a", layout.id)
        };
        assert_eq!(refused(&bed, &ask(17, 1)), "ENOMEM");
        assert_eq!(refused(&bed, &ask(8, 3)), "ENOMEM", "rings");
        let same = bed.with(|d| d.want_region("k", geom, 1)).unwrap();
        assert_eq!(same, layout);
        let r = bed.with(|d| open(d, &ask(16, 1))).unwrap();
        assert_eq!((r.region, r.geom), (layout.id, geom));
        // 6 of 38 buffers are left.
        let extra = NrBind {
            want: Want {
                extra_bufs: 10,
                ..want(1, 1, 2, 2)
            },
            ..in_region("vale0:b", layout.id)
        };
        let b = bed.with(|d| open(d, &extra)).unwrap();
        assert_eq!(b.extra_bufs, 2);
        let last = bed.with(|d| open(d, &ask(16, 1))).unwrap();
        assert_eq!(refused(&bed, &ask(16, 1)), "ENOMEM", "interfaces");
        for r in [last, b, r] {
            bed.with(|d| d.owner_gone(r.owner));
        }
        assert_eq!(
            errno(&bed.with(|d| d.layout(layout.id)).unwrap_err()),
            "EINVAL"
        );
    }
    assert_empty(&bed);
}

#[test]
fn a_region_goes_with_its_last_user() {
    let bed = Bed::new(small());
    let geom = RegionGeom {
        bufs: 100,
        ..small().global
    };
    let want = |key: &str, pid| bed.with(|d| d.want_region(key, geom, pid)).unwrap();
    let gone = |id| bed.with(|d| d.layout(id)).is_err();
    // Never used: it goes when nobody wants it.
    let a = want("a", 1);
    assert_eq!(want("a", 2), a);
    assert_ne!(want("b", 1).id, a.id);
    bed.with(|d| d.give_up_region(a.id, a.generation, 1));
    assert!(!gone(a.id));
    bed.with(|d| d.give_up_region(a.id, a.generation + 9, 2));
    assert!(!gone(a.id));
    bed.with(|d| d.give_up_region(a.id, a.generation, 2));
    assert!(gone(a.id));
    // Used: with its last port, which need not be the one who made it.
    let b = want("b", 1);
    let first = bed.with(|d| open(d, &in_region("vale0:a", b.id))).unwrap();
    let second = bed.with(|d| open(d, &in_region("vale0:b", b.id))).unwrap();
    bed.with(|d| d.owner_gone(first.owner));
    assert!(!gone(b.id));
    assert_eq!(want("b", 7), b);
    bed.with(|d| d.owner_gone(second.owner));
    assert!(!gone(b.id), "process 7 has not come yet");
    bed.with(|d| d.give_up_region(b.id, b.generation, 7));
    assert!(gone(b.id));
    assert_empty(&bed);
}

/// Everything is asked for in every order that chance makes, and comes back.
#[test]
fn any_order_of_requests_leaves_nothing() {
    let bed = Bed::new(small());
    let mut rng = crate::common::Rng(5);
    let mut open_now: Vec<u16> = Vec::new();
    for round in 0..4000 {
        let name = rng.pick(&[
            "vale0:a",
            "vale0:a{1",
            "vale0:a}1",
            "foo",
            "foo{1",
            "foo}1",
            "foo{1{2",
            "foo{1}2",
            "p",
            "p{x",
            "vale1:p",
            "vale0:a/r#3",
            "null:q",
            "vale0:",
            "eth7{3",
        ]);
        let ask = NrBind {
            mode: rng.pick(&[1, 1, 1, 1, 4, 7, 2, 99]),
            flags: rng.pick(&[0, 0, 0, 0x100, 0x200, 0x400, 0x800, 0x2000, 0x4000]),
            mem_id: rng.pick(&[0, 0, 0, 1, 9]),
            ..nr(name)
        };
        match rng.below(10) {
            0 => drop(bed.with(|d| d.describe(&ask, &is_interface))),
            1 => drop(bed.with(|d| d.new_interface("p", &want(1, 1, 4, 4), None))),
            2 => drop(bed.with(|d| d.delete_interface("p"))),
            3 => drop(bed.with(|d| d.attach_named("vale1:p"))),
            4 => drop(bed.with(|d| d.detach_named("vale1:p"))),
            _ => {
                if let Ok(r) = bed.with(|d| open(d, &ask)) {
                    open_now.push(r.owner);
                }
            }
        }
        while open_now.len() > 8 || (!open_now.is_empty() && rng.chance(30)) {
            let o = open_now.swap_remove(rng.below(open_now.len()));
            bed.with(|d| d.owner_gone(o));
        }
        if round % 100 == 0 {
            bed.check();
        }
    }
    for o in open_now {
        bed.with(|d| d.owner_gone(o));
    }
    drop(bed.with(|d| d.detach_named("vale1:p")));
    drop(bed.with(|d| d.delete_interface("p")));
    assert_empty(&bed);
}

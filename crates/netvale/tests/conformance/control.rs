//! Kinds of ports, and what the control plane says of them.

use netvale::{ErrorKind, Port, RingConfig};
use netvale_testkit::frame::{BROADCAST, mac, plain, tagged};
use netvale_testkit::io::{quiet, recv, send, settled};
use netvale_testkit::{Bed, Place, eventually};

pub(crate) fn null_ports(bed: &Bed) {
    let mut p = bed
        .ns()
        .port("null:")
        .rings(3, 2)
        .slots(16, 64)
        .extra_bufs(5)
        .open()
        .unwrap();
    assert_eq!((p.tx_count(), p.rx_count(), p.info().extra_bufs), (3, 2, 5));
    p.tx(0).push(&[1; 60]).unwrap();
    for i in 0..2 {
        p.tx(i).sync().unwrap();
        assert_eq!(p.rx(i).sync().unwrap(), 0);
    }
    quiet(&mut p);
    bed.assert_sound();
}

pub(crate) fn persistent_ports(bed: &Bed) {
    let ns = bed.ns();
    let config = RingConfig {
        tx_slots: 64,
        rx_slots: 128,
        ..RingConfig::default()
    };
    let info = ns.new_interface("p0", &config).unwrap();
    assert_eq!((info.tx_slots, info.rx_slots, info.rx_rings), (64, 128, 1));
    let kind = |r: netvale::Result<()>| r.unwrap_err().kind();
    assert_eq!(
        kind(ns.new_interface("p0", &config).map(|_| ())),
        ErrorKind::Exists
    );
    let entry = ns.list().unwrap().remove(0);
    assert_eq!(
        (&*entry.name, &*entry.context, entry.switch),
        ("p0", "persistent", None)
    );
    assert_eq!(kind(ns.open("vale0:p0").map(|_| ())), ErrorKind::Usage);
    assert_eq!(ns.attach("vale0:p0", false).unwrap(), 0);
    assert_eq!(
        kind(ns.attach("vale0:p0", false).map(|_| ())),
        ErrorKind::Busy
    );
    // Programs are told EINVAL, as netmap has it.
    let nobody = ns.attach("vale1:nobody", false).unwrap_err();
    assert_eq!((nobody.kind(), nobody.errno()), (ErrorKind::NotFound, 22));
    assert_eq!(
        kind(ns.attach("vale1:p0", true).map(|_| ())),
        ErrorKind::Unavailable
    );
    if bed.place() == Place::Embedded {
        // Nobody is there to serve devices, and the error says who is.
        for (name, host) in [
            ("vale0:tap:t0", false),
            ("vale0:pcap:x.pcap", false),
            ("vale0:eth0", true),
            ("vale0:eth0", false),
        ] {
            let e = ns.attach(name, host).unwrap_err();
            assert!(
                e.hint().is_some_and(|h| h.contains("from_env")),
                "{name}: {e}"
            );
        }
    }
    assert_eq!(ns.list().unwrap()[0].name, "vale0:p0");
    assert_eq!(kind(ns.delete_interface("p0")), ErrorKind::Busy);
    // It is a trusted port.
    let opened = ns.open("vale0:p0");
    if bed.place() == Place::Isolated {
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::Busy);
    } else {
        let mut p = opened.unwrap();
        let mut a = ns.open("vale0:a").unwrap();
        let f = tagged(BROADCAST, mac(1), 60, 1, 1);
        send(&mut a, &f);
        assert_eq!(recv(&mut p), f);
        // Detached, it talks to nobody.
        assert_eq!(ns.detach("vale0:p0").unwrap(), 0);
        send(&mut p, &f);
        send(&mut a, &f);
        quiet(&mut a);
        quiet(&mut p);
        assert_eq!(kind(ns.delete_interface("p0")), ErrorKind::Busy);
        drop(p);
        eventually("nobody has it open", || {
            ns.attach("vale0:p0", false).is_ok()
        });
        let mut p = ns.open("vale0:p0").unwrap();
        send(&mut p, &f);
        assert_eq!(recv(&mut a), f);
        assert_eq!(kind(ns.detach("vale0:a").map(|_| ())), ErrorKind::Usage);
    }
    assert_eq!(kind(ns.detach("vale0:q").map(|_| ())), ErrorKind::NotFound);
    ns.detach("vale0:p0").unwrap();
    assert_eq!(kind(ns.detach("vale0:p0").map(|_| ())), ErrorKind::NotFound);
    eventually("it can be deleted", || ns.delete_interface("p0").is_ok());
    assert_eq!(kind(ns.delete_interface("p0")), ErrorKind::NotFound);
}

pub(crate) fn exclusive_ports(bed: &Bed) {
    let ns = bed.ns();
    let busy = |name: &str| {
        let e = ns.open(name).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Busy, "{e}");
    };
    let a = ns.port("vale0:a/x").rings(2, 2).open().unwrap();
    busy("vale0:a");
    busy("vale0:a-0");
    drop(a);
    eventually("it is free", || ns.open("vale0:a").is_ok());
    eventually("it is gone", || ns.list().unwrap().is_empty());
    let first = ns.port("vale0:a-0/x").rings(2, 2).open().unwrap();
    let second = ns.open("vale0:a-1/x").unwrap();
    busy("vale0:a");
    busy("vale0:a-1");
    drop(second);
    eventually("the ring is free", || ns.open("vale0:a-1").is_ok());
    busy("vale0:a-0/R");
    drop(first);
    // Directions are had one by one.
    eventually("it is gone", || ns.list().unwrap().is_empty());
    let _sending = ns.open("vale0:a/Tx").unwrap();
    let _receiving = ns.open("vale0:a/Rx").unwrap();
    // A monitor has rings of its own.
    let _watching = ns.open("vale0:a/r").unwrap();
}

pub(crate) fn choosing_rings(bed: &Bed) {
    let ns = bed.ns();
    let counts = |p: &Port| (p.tx_count(), p.rx_count());
    let all = ns.port("vale0:a").rings(3, 2).open().unwrap();
    assert_eq!(counts(&all), (3, 2));
    for (name, want) in [
        ("vale0:a", (3, 2)),
        ("vale0:a-1", (1, 1)),
        ("vale0:a-2", (1, 1)),
        ("vale0:a/T", (3, 0)),
        ("vale0:a/R", (0, 2)),
        ("vale0:a-0/T", (1, 0)),
        ("vale0:a/TR", (0, 0)),
    ] {
        assert_eq!(counts(&ns.open(name).unwrap()), want, "{name}");
    }
    for name in ["vale0:a-3", "vale0:a^", "vale0:a*"] {
        let e = ns.open(name).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage, "{e}");
    }
    drop(all);
    // Ring 1 sends to ring 1.
    eventually("it is gone", || ns.list().unwrap().is_empty());
    let mut a = ns.port("vale0:a-1").rings(2, 2).open().unwrap();
    let mut b = ns.port("vale0:b").rings(2, 2).open().unwrap();
    send(&mut b, &plain(BROADCAST, mac(2), 60, 0));
    settled(&b, 1);
    let f = tagged(mac(2), mac(1), 60, 1, 1);
    send(&mut a, &f);
    eventually("it is there", || b.rx(1).sync().unwrap() == 1);
    // Nobody reads ring 0 of a, which is where floods go.
    quiet(&mut a);
    let conf = ns.open("vale0:c@conf:rings=2,slots=32").unwrap();
    assert_eq!((counts(&conf), conf.info().tx_slots), ((2, 2), 32));
}

pub(crate) fn extra_buffers(bed: &Bed) {
    let before = bed.buffers_in_use();
    let a = bed
        .ns()
        .port("vale0:a")
        .slots(8, 8)
        .extra_bufs(100)
        .open()
        .unwrap();
    assert_eq!(a.info().extra_bufs, 100);
    let report = bed.ns().check().unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let extra: u64 = report.regions.iter().map(|r| r.extra).sum();
    assert_eq!(extra, 100);
    let again = bed.ns().port("vale0:a").extra_bufs(10).open().unwrap();
    if bed.place() != Place::Isolated {
        assert_eq!(again.info().extra_bufs, 10);
        assert!(bed.buffers_in_use() >= before + 110 + 16);
    }
    bed.assert_sound();
}

pub(crate) fn headers(bed: &Bed) {
    let ns = bed.ns();
    let mut with = ns.port("vale0:h").vnet_hdr(12).open().unwrap();
    let mut plain_port = ns.open("vale0:p").unwrap();
    let mut short = ns.port("vale0:s").vnet_hdr(10).open().unwrap();
    assert_eq!(
        (with.info().vnet_hdr, ns.vnet_hdr("vale0:s").unwrap()),
        (12, 10)
    );
    let f = tagged(BROADCAST, mac(1), 200, 1, 1);
    let framed = |n: usize| [vec![0; n], f.clone()].concat();
    send(&mut with, &framed(12));
    assert_eq!(recv(&mut plain_port), f);
    assert_eq!(recv(&mut short), framed(10));
    send(&mut plain_port, &f);
    assert_eq!(recv(&mut with), framed(12));
    assert_eq!(recv(&mut short), framed(10));
    // Who does not take headers is told.
    let e = ns.open("vale0:h").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Io, "{e}");
    assert!(e.to_string().contains("virtio-net"), "{e}");
    assert_eq!(
        ns.port("vale0:h")
            .accept_vnet_hdr()
            .open()
            .unwrap()
            .info()
            .vnet_hdr,
        12
    );
    ns.set_vnet_hdr("vale0:h", 0).unwrap();
    send(&mut plain_port, &f);
    assert_eq!(recv(&mut with), f);
    assert_eq!(ns.vnet_hdr("vale0:h").unwrap(), 0);
    let kind = |r: netvale::Result<()>| r.unwrap_err().kind();
    assert_eq!(kind(ns.set_vnet_hdr("vale0:h", 11)), ErrorKind::Usage);
    assert_eq!(kind(ns.set_vnet_hdr("vale0:x", 12)), ErrorKind::NotFound);
    assert_eq!(
        kind(ns.vnet_hdr("vale0:x").map(|_| ())),
        ErrorKind::NotFound
    );
    let bad = ns.port("vale0:x").vnet_hdr(3).open();
    assert_eq!(kind(bad.map(|_| ())), ErrorKind::Usage);
}

pub(crate) fn what_is_told(bed: &Bed) {
    let ns = bed.ns();
    assert_eq!(ns.list().unwrap(), []);
    // A port that is not there is made for a moment.
    let i = ns.info("vale0:nobody").unwrap();
    assert_eq!(
        (i.tx_rings, i.rx_rings, i.tx_slots, i.rx_slots),
        (1, 1, 1024, 1024)
    );
    assert_eq!(ns.list().unwrap(), []);
    let mut a = ns
        .port("vale0:a")
        .rings(2, 3)
        .slots(100, 9000)
        .open()
        .unwrap();
    let mut b = ns.open("vale1:b").unwrap();
    let mut c = ns.open("vale0:c").unwrap();
    assert_eq!(a.info().rx_slots, 4096);
    assert_eq!(ns.info("vale0:a").unwrap().tx_slots, 100);
    let context = match bed.place() {
        Place::Embedded => "embedded",
        Place::Trusted => "trusted",
        Place::Isolated => "isolated",
    };
    assert_eq!((a.context(), a.name()), (context, "vale0:a"));
    let all = ns.list().unwrap();
    let names: Vec<_> = all
        .iter()
        .map(|e| (&*e.name, e.port_idx, &*e.kind))
        .collect();
    assert_eq!(
        names,
        [
            ("vale0:a", 0, "vale"),
            ("vale0:c", 1, "vale"),
            ("vale1:b", 0, "vale")
        ]
    );
    let pid = if bed.place() == Place::Embedded {
        0
    } else {
        std::process::id()
    };
    assert!(all.iter().all(|e| e.owner_pid == pid));
    assert_eq!(all[0].info.rx_rings, 3);
    let f = plain(BROADCAST, mac(1), 100, 1);
    send(&mut a, &f);
    recv(&mut c);
    settled(&a, 1);
    quiet(&mut b);
    let s = ns.stats(None).unwrap();
    assert_eq!(s.len(), 3);
    let of = |n: &str| s.iter().find(|s| s.name == n).unwrap();
    assert_eq!((of("vale0:a").tx_frames, of("vale0:a").tx_bytes), (1, 100));
    assert_eq!((of("vale0:c").rx_frames, of("vale0:c").rx_bytes), (1, 100));
    assert_eq!((of("vale1:b").rx_frames, of("vale0:c").faults), (0, 0));
    let known = ns.fdb("vale0").unwrap();
    assert_eq!(
        (known.len(), known[0].mac, known[0].port_idx),
        (1, mac(1), 0)
    );
    assert_eq!(ns.fdb("vale1").unwrap(), []);
    // The lowest free index is given out again.
    drop(a);
    eventually("it is gone", || ns.list().unwrap().len() == 2);
    let _d = ns.open("vale0:d").unwrap();
    assert_eq!(ns.list().unwrap()[0].name, "vale0:d");
}

pub(crate) fn mistakes(bed: &Bed) {
    let ns = bed.ns();
    let long = format!("vale0:{}", "x".repeat(70));
    for name in [
        "",
        "vale0",
        "vale0:",
        "eth0",
        "vale0:a{",
        "vale0:a{1}2",
        "vale0:a/q",
        "vale0:a@",
        "vale0:a@nonsense",
        "vale0:a-x",
        "vale0:a\n",
        "val:a",
        &long,
    ] {
        let e = ns.open(name).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage, "{name:?}: {e}");
        assert!(
            !e.to_string().trim_end().contains('\n') || name.contains('\n'),
            "{e}"
        );
        assert!(e.hint().is_some(), "{e}");
    }
    for name in ["netmap:nobody", "netmap:nobody-1"] {
        assert_eq!(
            ns.open(name).unwrap_err().kind(),
            ErrorKind::NotFound,
            "{name}"
        );
    }
    assert_eq!(
        ns.stats(Some("vale0:x")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(ns.fdb("vale0").unwrap_err().kind(), ErrorKind::NotFound);
    for name in ["a-name-that-is-too-long", "", "a:b", "a b"] {
        let e = ns.new_interface(name, &RingConfig::default()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Usage, "{name:?}: {e}");
    }
    if bed.place() != Place::Isolated {
        assert_eq!(ns.open("vale0:a@77").unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(
            ns.open("vale0:a@share:vale0:b").unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }
    // None of it left anything.
    assert_eq!(ns.list().unwrap(), []);
    if bed.place() == Place::Embedded {
        assert_eq!(ns.shutdown(true).unwrap_err().kind(), ErrorKind::Usage);
    } else {
        // One port, one context.
        let other = bed.handle(bed.place() == Place::Trusted);
        let _a = ns.open("vale0:a").unwrap();
        assert_eq!(other.open("vale0:a").unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(ns.shutdown(false).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(ns.age().unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

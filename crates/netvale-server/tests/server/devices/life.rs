//! Devices that come and go, and what is refused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netvale_server::AttachConfig;
use netvale_testkit::eventually;
use netvale_testkit::net::NetNs;
use netvale_wire::proto::{ErrorKind, Reply, Request};

use super::{Host, attach, echo, plain, send, settle};
use crate::bed::Bed;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn attaching_and_detaching_leaves_nothing() {
    let test = "devices::life::attaching_and_detaching_leaves_nothing";
    let Some(host) = Host::new(test) else {
        return;
    };
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e0", "");
    let links = || host.ns.ip("-o link").lines().count();
    let mut before = None;
    for i in 0..200 {
        host.attach("vale0:tap:t0");
        host.ask(&attach("vale0:v0", i % 2 == 0));
        assert_eq!(host.names().len(), 2 + usize::from(i % 2 == 0));
        host.detach("vale0:v0");
        host.detach("vale0:t0");
        // Threads and the shared region are there from the first time on.
        before.get_or_insert((descriptors(), links()));
    }
    // Other tests of this process have descriptors too.
    let (fds, interfaces) = before.unwrap();
    eventually("descriptors are given back", || descriptors() < fds + 150);
    // A program that another test starts has a TAP's descriptor for an instant.
    eventually("interfaces are given back", || links() <= interfaces);
    assert_eq!(host.names(), Vec::<String>::new());
    host.bed.assert_sound();
}

#[test]
fn an_interface_deleted_under_load_leaves_the_switch_whole() {
    let test = "devices::life::an_interface_deleted_under_load_leaves_the_switch_whole";
    let Some(host) = Host::new(test) else {
        return;
    };
    let a = NetNs::make();
    host.attach("vale0:tap:t0");
    host.hand_over("t0", &a, "10.77.0.1", 1500);
    let stop = Arc::new(AtomicBool::new(false));
    let mut port = host.namespace().open("vale0:p").unwrap();
    let flood = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let _ = port.tx(0).push(&plain(1, 200));
                port.tx(0).sync().unwrap();
            }
        })
    };
    for round in 0..5 {
        host.ns.veth("v0", &a, "e0", "");
        settle(&a, "e0", "10.77.1.1", 1500);
        host.ask(&attach("vale0:v0", round % 2 == 0));
        std::thread::sleep(std::time::Duration::from_millis(30));
        let whole = 3 + usize::from(round % 2 == 0);
        assert_eq!(host.names().len(), whole);
        let del = if round == 1 { "v0" } else { "e0" };
        let ns = if round == 1 { &host.ns } else { &a };
        ns.ip(&format!("link del dev {del}"));
        eventually("the attachment goes with its interface", || {
            host.names().len() == 2
        });
    }
    // A TAP elsewhere is deleted there.
    a.ip("link del dev t0");
    eventually("it goes too", || host.names() == ["vale0:p"]);
    stop.store(true, Ordering::Relaxed);
    super::join(flood);
    host.attach("vale0:tap:t0");
    host.detach("vale0:t0");
    eventually("the program's port is closed", || host.names().is_empty());
    host.bed.assert_sound();
}

#[test]
fn a_device_that_is_switched_off_comes_back() {
    let test = "devices::life::a_device_that_is_switched_off_comes_back";
    let Some(host) = Host::new(test) else {
        return;
    };
    let (a, b) = (NetNs::make(), NetNs::make());
    host.ns.veth("v0", &a, "e0", "");
    settle(&a, "e0", "10.77.0.1", 1500);
    host.attach("vale0:v0");
    host.attach("vale0:tap:t1");
    host.hand_over("t1", &b, "10.77.0.2", 1500);
    let there = "10.77.0.1".parse().unwrap();
    assert!(echo(&b, there, 0));
    host.ns.ip("link set dev v0 down");
    let moment = std::time::Duration::from_millis(200);
    assert!(b.ping(there, 0, moment).is_none());
    host.ns.ip("link set dev v0 name v9");
    host.ns.ip("link set dev v9 up");
    eventually("frames pass again", || b.ping(there, 0, moment).is_some());
    b.ip("link set dev t1 down");
    let mut port = host.namespace().open("vale0:p").unwrap();
    send(&mut port, 0, &plain(1, 60));
    eventually("the loss is counted", || {
        let stats = host.namespace().stats(Some("vale0:t1")).unwrap();
        stats[0]
            .drops
            .iter()
            .any(|&(why, n)| why == "dev_down" && n > 0)
    });
    b.ip("link set dev t1 up");
    b.ip("addr replace 10.77.0.2/24 dev t1");
    eventually("frames pass again", || b.ping(there, 0, moment).is_some());
    host.detach("vale0:v0");
    host.detach("vale0:t1");
}

#[test]
fn a_configured_device_has_its_processor() {
    let test = "devices::life::a_configured_device_has_its_processor";
    let device = AttachConfig {
        switch: "vale7".into(),
        device: "tap:t0,queues=2".into(),
        port: None,
        host: false,
        cpus: vec![0],
        region: 0,
        line: 0,
    };
    let Some(host) = Host::with(test, move |c| c.attach = vec![device]) else {
        return;
    };
    assert_eq!(host.names(), ["vale7:t0"]);
    let poll = |on, mode, first_cpu, cpus| Request::Polling {
        name: "vale7:t0".into(),
        on,
        mode,
        first_cpu,
        cpus,
    };
    let refused = |request| host.refusal(&request).0;
    assert_eq!(refused(poll(false, 1, 0, 1)), ErrorKind::Fault);
    assert_eq!(refused(poll(true, 1, 0, 0)), ErrorKind::Invalid);
    assert_eq!(refused(poll(true, 1, 0, 2)), ErrorKind::Invalid);
    assert_eq!(refused(poll(true, 1, 4000, 1)), ErrorKind::Invalid);
    assert_eq!(refused(poll(true, 3, 0, 1)), ErrorKind::Invalid);
    host.ask(&poll(true, 1, 0, 1));
    assert_eq!(refused(poll(true, 1, 0, 1)), ErrorKind::Fault);
    let detach = Request::Detach {
        spec: "vale7:t0".into(),
        nr: true,
    };
    assert_eq!(refused(detach), ErrorKind::Busy);
    let b = NetNs::make();
    host.hand_over("t0", &b, "10.77.0.2", 1500);
    let mut port = host.namespace().open("vale7:p").unwrap();
    b.enter(|| b.ping("10.77.0.3".parse().unwrap(), 0, std::time::Duration::ZERO));
    let arp = super::receive(&mut port, 0, |f| f.get(12..14) == Some(&[8, 6]));
    assert_eq!(arp.len(), 42);
    host.ask(&poll(false, 0, 0, 0));
    host.detach("vale7:t0");
    drop(port);
    host.bed.assert_sound();
}

#[test]
fn a_device_is_detached_by_its_own_name_whatever_its_port_is_called() {
    let test = "devices::life::a_device_is_detached_by_its_own_name_whatever_its_port_is_called";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.ns.ip("link add d0 type veth peer name d1");
    let dir = tempfile::tempdir().unwrap();
    let capture = format!("pcap:{}", dir.path().join("x.pcap").display());
    let called = |port: &str, device: &str| {
        let request = Request::Attach {
            spec: format!("vale0:{device}"),
            nr: true,
            host: false,
            mem_id: 0,
            port: Some(port.into()),
        };
        let reply = host.ask(&request);
        assert!(matches!(reply, Reply::Attached { .. }), "{reply:?}");
    };
    let left = || BTreeSet::from_iter(host.names());
    let ports = |names: &[&str]| BTreeSet::from_iter(names.iter().map(|n| format!("vale0:{n}")));
    // Ports with the names that others' devices have.
    called("x", "tap:t0");
    called("t0", "d0");
    called("one", &format!("{capture},write"));
    called("two", "vxlan:7@192.0.2.1");
    host.detach(&format!("vale0:{capture}"));
    assert_eq!(left(), ports(&["t0", "two", "x"]));
    host.detach("vale0:vxlan:7@192.0.2.1");
    assert_eq!(left(), ports(&["t0", "x"]));
    // As it is called now, and as it was attached.
    host.ns.ip("link set dev t0 name w0");
    eventually("its new name is known", || {
        host.link("vale0:x").is_some_and(|l| l.name == "w0")
    });
    host.detach("vale0:tap:t0");
    assert_eq!(left(), ports(&["t0"]));
    let none = Request::Detach {
        spec: "vale0:tap:t0".into(),
        nr: true,
    };
    host.refusal(&none);
    called("d0", "tap:t1");
    // A port's name goes before an interface's.
    host.detach("vale0:d0");
    assert_eq!(left(), ports(&["t0"]));
    host.detach("vale0:d0");
    assert_eq!(left(), ports(&[]));
    host.bed.assert_sound();
}

#[test]
fn impossible_devices_are_refused_with_the_reason() {
    let test = "devices::life::impossible_devices_are_refused_with_the_reason";
    let Some(host) = Host::new(test) else {
        return;
    };
    host.ns.ip("link add d0 type veth peer name d1");
    for (spec, on_host, kind, says) in [
        ("vale0:nosuch0", false, ErrorKind::Missing, "nosuch0"),
        ("vale0:tap:a/b", false, ErrorKind::Invalid, "slash"),
        (
            "vale0:tap:t0,queues=99",
            false,
            ErrorKind::Invalid,
            "1 to 16",
        ),
        ("vale0:tap:t0", true, ErrorKind::Invalid, "no host stack"),
        ("vale0:tap:d0", false, ErrorKind::Invalid, "not as a TAP"),
        (
            "vale0:vxlan:1@192.0.2.1,local=192.0.2.2",
            false,
            ErrorKind::NotFound,
            "no address",
        ),
        ("va le:tap:t0", false, ErrorKind::Invalid, ""),
        // 127.0.0.1 would be dead.
        ("vale0:lo", false, ErrorKind::Invalid, "loopback"),
        ("vale0:lo", true, ErrorKind::Invalid, "loopback"),
    ] {
        let (got, message) = host.refusal(&attach(spec, on_host));
        assert_eq!(got, kind, "{spec}: {message}");
        assert!(message.contains(says), "{spec}: {message}");
        assert_eq!(host.names(), Vec::<String>::new(), "{spec}");
    }
    let no = host.namespace().open("netmap:lo").unwrap_err().to_string();
    assert!(no.contains("loopback"), "{no}");
    let left = host.ns.ip("-o link");
    assert_eq!(left.lines().count(), 3, "{left}");
    host.bed.assert_sound();
}

#[test]
fn without_the_privilege_it_is_said() {
    let test = "devices::life::without_the_privilege_it_is_said";
    if netvale_testkit::net::may_administer() {
        let ns = NetNs::make();
        ns.ip("link add d0 type veth peer name d1");
        // Started by a thread that gives its own up, which the server inherits.
        let bed = ns.enter(|| {
            use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
            let none = CapabilitySets {
                effective: CapabilitySet::empty(),
                permitted: CapabilitySet::empty(),
                inheritable: CapabilitySet::empty(),
            };
            set_capabilities(None, none).unwrap();
            Bed::new()
        });
        let kind = |spec: &str| match bed.connect().ask(&attach(spec, false)).unwrap().0 {
            Reply::Error { kind, message, .. } => {
                assert!(message.contains("CAP_"), "{message}");
                kind
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(kind("vale0:tap:nvpriv0"), ErrorKind::Denied);
        assert_eq!(kind("vale0:d0"), ErrorKind::Denied);
        assert!(bed.ports().is_empty());
    } else {
        netvale_testkit::skip(test, "needs root, to give privileges up");
    }
}

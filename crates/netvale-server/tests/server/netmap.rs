//! Requests in netmap's terms, and its parameters.

use std::os::fd::OwnedFd;

use netvale_server::remote::Remote;
use netvale_shm::Memfd;
use netvale_wire::abi::{mode, regflags};
use netvale_wire::proto::{
    ErrorKind, NrOffsets, NrRequest, RegionInfo, Registered, Reply, Request, Wanted,
};

use crate::bed::{self, Bed, SOON, connect, eventually, refused};

fn nr(name: &str) -> NrRequest {
    NrRequest {
        name: name.into(),
        mode: mode::ALL_NIC,
        ..NrRequest::default()
    }
}

fn bind(remote: &mut Remote, nr: NrRequest) -> (Registered, Vec<OwnedFd>) {
    match remote.ask(&Request::Bind { nr }).unwrap() {
        (Reply::Registered(r), fds) => (r, fds),
        other => panic!("{other:?}"),
    }
}

fn no(remote: &mut Remote, nr: NrRequest) -> ErrorKind {
    refused(remote, &Request::Bind { nr })
}

fn new_region(remote: &mut Remote, key: &str, bufs: u32) -> RegionInfo {
    let ask = Request::NewRegion {
        key: key.into(),
        geom: [4, 8, 1024, bufs, 256],
    };
    match remote.ask(&ask).unwrap() {
        (Reply::Region(r), fds) => {
            let file = fds.into_iter().next().unwrap();
            Memfd::from_fd(file, usize::try_from(r.size).unwrap()).unwrap();
            r
        }
        other => panic!("{other:?}"),
    }
}

fn memory(remote: &mut Remote, id: u16) -> Option<RegionInfo> {
    match remote.ask(&Request::Memory { id }).unwrap().0 {
        Reply::Memory(r) => Some(r),
        Reply::Error { kind, .. } => {
            assert_eq!(kind, ErrorKind::Invalid);
            None
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn binding_is_registering() {
    let bed = Bed::new();
    let mut a = bed.connect();
    let ask = NrRequest {
        want: Wanted {
            tx_rings: 2,
            extra_bufs: 3,
            ..Wanted::default()
        },
        host_rings: [1, 1],
        ..nr("vale0:a")
    };
    let (reg, fds) = bind(&mut a, ask);
    assert_eq!((reg.tx.len(), reg.rx.len(), fds.len()), (2, 1, 2));
    assert_eq!(
        (reg.extra_bufs, reg.host_rings, reg.region.id),
        (3, [0, 0], 1)
    );
    assert_eq!(a.ask(&Request::Whoami).unwrap().0, Reply::Registered(reg));
    assert_eq!(no(&mut a, nr("vale0:b")), ErrorKind::Busy);
    // After a refusal a connection may try again.
    let mut b = bed.connect();
    let alone = NrRequest {
        flags: regflags::EXCLUSIVE,
        ..nr("vale0:a")
    };
    assert_eq!(no(&mut b, alone), ErrorKind::Busy);
    assert_eq!(no(&mut b, nr("nosuch0")), ErrorKind::NotFound);
    assert_eq!(no(&mut b, nr("vale0")), ErrorKind::NoMemory);
    // Every system has this interface.
    assert_eq!(no(&mut b, nr("vale0:lo")), ErrorKind::Invalid);
    let offset = NrOffsets {
        max: 64,
        ..NrOffsets::default()
    };
    let ask = NrRequest {
        offsets: Some(offset),
        ..nr("vale0:b")
    };
    let mut c = bed.connect();
    let (reg, _) = bind(&mut c, ask);
    assert_eq!(reg.offsets.map(|o| o.max), Some(64));
    drop(c);
    assert!(eventually(SOON, || bed.ports().len() == 1));
    bind(&mut b, nr("foo{1"));
    let names: Vec<String> = bed.ports().into_iter().map(|p| p.name).collect();
    assert_eq!(names, ["vale0:a", "foo", "foo{1", "foo}1"]);
    assert!(bed.ports().iter().all(|p| !p.persistent));
    drop((a, b));
    assert!(eventually(SOON, || bed.ports().is_empty()));
    bed.assert_sound();
}

#[test]
fn an_isolated_client_binds_too() {
    let bed = Bed::new();
    let mut a = connect(&bed.dir, true);
    let (reg, fds) = bind(&mut a, nr("vale0:a"));
    assert_eq!(fds.len(), 3);
    assert_ne!(reg.region.id, 1);
    let region = NrRequest {
        mem_id: reg.region.id,
        ..nr("vale0:b")
    };
    let mut b = bed.connect();
    assert_eq!(no(&mut b, region), ErrorKind::Invalid, "a private region");
    assert_eq!(no(&mut b, nr("vale0:a")), ErrorKind::Busy);
    let ask = Request::NewRegion {
        key: "k".into(),
        geom: [4, 8, 1024, 100, 256],
    };
    let mut c = connect(&bed.dir, true);
    assert_eq!(refused(&mut c, &ask), ErrorKind::Denied);
    bind(&mut c, nr("foo{1"));
    assert!(bed.ports().iter().all(|p| p.name != "foo"));
    drop((a, c));
    assert!(eventually(SOON, || bed.ports().is_empty()));
    bed.assert_sound();
}

#[test]
fn ports_and_memory_are_described() {
    let bed = Bed::new();
    let mut a = bed.connect();
    let describe = |nr| Request::Describe { nr };
    let (reply, _) = a.ask(&describe(nr("vale0:new"))).unwrap();
    let Reply::Info(seen) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(
        (seen.tx_rings, seen.rx_rings, seen.rx[0].slots),
        (1, 1, 1024)
    );
    assert!(bed.ports().is_empty());
    assert_eq!(
        refused(&mut a, &describe(nr("nosuch0"))),
        ErrorKind::NotFound
    );
    // An interface of the system has host rings too.
    match a.ask(&describe(nr("lo"))).unwrap().0 {
        Reply::Info(info) => assert_eq!(info.host_rings, [1, 1]),
        other => panic!("{other:?}"),
    }
    let shared = memory(&mut a, 0).unwrap();
    assert_eq!((Some(shared), shared.id), (memory(&mut a, 1), 1));
    assert_eq!(shared.geom, seen.region.geom);
    assert_eq!(memory(&mut a, 7), None);
    let hdr = |name: &str| Request::GetHdr { name: name.into() };
    assert_eq!(refused(&mut a, &hdr("vale0:x")), ErrorKind::NotFound);
    assert_eq!(refused(&mut a, &hdr("vale0:x{1")), ErrorKind::NoDevice);
    assert_eq!(a.ask(&hdr("lo")).unwrap().0, Reply::Hdr { len: 0 });
}

#[test]
fn regions_are_found_by_their_key_and_go_with_their_users() {
    let bed = Bed::new();
    let (mut a, mut b) = (bed.connect(), bed.connect());
    let first = new_region(&mut a, "mine", 100);
    assert_eq!(first.geom, [4, 8, 1024, 100, 256]);
    assert_eq!(new_region(&mut b, "mine", 999), first);
    let other = new_region(&mut b, "other", 50);
    assert_ne!(other.id, first.id);
    let null = |mem_id| NrRequest {
        mode: mode::NULL,
        mem_id,
        ..nr("x")
    };
    let (reg, _) = bind(&mut a, null(first.id));
    assert_eq!((reg.region, reg.kind.as_str()), (first, "null"));
    let bad = Request::NewRegion {
        key: "bad".into(),
        geom: [0; 5],
    };
    assert_eq!(refused(&mut b, &bad), ErrorKind::Invalid);
    let bad = Request::NewRegion {
        key: "k".repeat(5000),
        geom: first.geom,
    };
    assert_eq!(refused(&mut b, &bad), ErrorKind::Invalid);
    // Nobody used the second one.
    let mut c = bed.connect();
    drop(b);
    assert!(eventually(SOON, || memory(&mut c, other.id).is_none()));
    assert!(memory(&mut c, first.id).is_some());
    drop(a);
    assert!(eventually(SOON, || memory(&mut c, first.id).is_none()));
    assert_eq!(no(&mut c, null(first.id)), ErrorKind::Invalid);
    assert_eq!(no(&mut c, null(0)), ErrorKind::Invalid);
    bed.assert_sound();
}

#[test]
fn switches_by_the_names_in_requests() {
    let bed = Bed::new();
    let mut c = bed.connect();
    let new = |name: &str| Request::NewIf {
        name: name.into(),
        want: Wanted::default(),
        region: Some(0),
        link: false,
    };
    let delete = |name: &str| Request::DelIf { name: name.into() };
    let attach = |spec: &str, mem_id| Request::Attach {
        spec: spec.into(),
        nr: true,
        host: false,
        mem_id,
        port: None,
    };
    let detach = |spec: &str| Request::Detach {
        spec: spec.into(),
        nr: true,
    };
    assert_eq!(refused(&mut c, &new("lo")), ErrorKind::Exists);
    assert_eq!(refused(&mut c, &delete("lo")), ErrorKind::Invalid);
    assert_eq!(refused(&mut c, &delete("nosuch0")), ErrorKind::NotFound);
    assert_eq!(c.ask(&new("a-b")).unwrap().0, Reply::Done);
    assert_eq!(refused(&mut c, &attach("vale0", 0)), ErrorKind::NoMemory);
    assert_eq!(refused(&mut c, &attach("a-b", 0)), ErrorKind::Invalid);
    assert_eq!(refused(&mut c, &attach("vale0:a-b", 9)), ErrorKind::Invalid);
    // As a specification this would mean a ring.
    let attached = bed::attached("vale0:a-b");
    assert_eq!(c.ask(&attach("vale0:a-b", 1)).unwrap().0, attached);
    assert_eq!(refused(&mut c, &detach("vale0:b")), ErrorKind::NotFound);
    assert_eq!(c.ask(&detach("vale0:a-b")).unwrap().0, attached);
    assert_eq!(c.ask(&delete("a-b")).unwrap().0, Reply::Done);
}

/// One port in two switches: nobody else may have it until it is in one again.
#[test]
fn a_second_switch_for_a_port() {
    let bed = Bed::new();
    let mut c = bed.connect();
    let attach = |spec: &str| Request::Attach {
        spec: spec.into(),
        nr: true,
        host: false,
        mem_id: 0,
        port: None,
    };
    let detach = |spec: &str| Request::Detach {
        spec: spec.into(),
        nr: true,
    };
    let new = Request::NewIf {
        name: "p".into(),
        want: Wanted::default(),
        region: None,
        link: false,
    };
    assert_eq!(c.ask(&new).unwrap().0, Reply::Done);
    let attached = bed::attached("vale0:p");
    let second = bed::attached("vale1:p");
    assert_eq!(c.ask(&attach("vale0:p")).unwrap().0, attached);
    let (_, fds) = bind(&mut bed.connect(), nr("p"));
    assert_eq!(fds.len(), 2);
    assert!(eventually(SOON, || bed.ports()[0].owners.is_empty()));
    for _ in 0..3 {
        assert_eq!(c.ask(&attach("vale1:p")).unwrap().0, second);
        for name in ["p", "vale0:p", "vale1:p", "p{1"] {
            assert_eq!(no(&mut c, nr(name)), ErrorKind::Busy, "{name}");
        }
        assert_eq!(refused(&mut c, &attach("vale1:p")), ErrorKind::Busy);
        assert_eq!(refused(&mut c, &attach("vale2:p")), ErrorKind::Busy);
        assert_eq!(refused(&mut c, &detach("vale0:p")), ErrorKind::Busy);
        let names: Vec<String> = bed.ports().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["vale0:p", "vale1:p"]);
        assert_eq!(c.ask(&detach("vale1:p")).unwrap().0, second);
        bed.assert_sound();
    }
    assert_eq!(refused(&mut c, &detach("vale1:p")), ErrorKind::NotFound);
    assert_eq!(c.ask(&detach("vale0:p")).unwrap().0, attached);
    let delete = Request::DelIf { name: "p".into() };
    assert_eq!(c.ask(&delete).unwrap().0, Reply::Done);
    assert!(bed.ports().is_empty());
    bed.assert_sound();
    // The server may end while a port joins two switches.
    assert_eq!(c.ask(&new).unwrap().0, Reply::Done);
    c.ask(&attach("vale0:p")).unwrap();
    c.ask(&attach("vale1:p")).unwrap();
}

#[test]
fn parameters_are_there_as_long_as_the_server() {
    let mut bed = Bed::new();
    let dir = bed.dir.join("parameters");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!(read("no_timestamp"), "0\n");
    std::fs::write(dir.join("no_timestamp"), "1\n").unwrap();
    assert_eq!(read("no_timestamp"), "1\n");
    let mut c = bed.connect();
    let shared = memory(&mut c, 0).unwrap().geom;
    assert_eq!(read("buf_curr_num"), format!("{}\n", shared[3]));
    assert_eq!(read("buf_curr_size"), format!("{}\n", shared[4]));
    c.ask(&Request::Shutdown { force: true }).unwrap();
    assert!(bed.ends_within(SOON));
    assert!(!dir.exists());
}

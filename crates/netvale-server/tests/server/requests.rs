//! Every request, asked properly.

use netvale_shm::Memfd;
use netvale_wire::proto::{ErrorKind, PortStats, Reply, Request, Wanted};

use crate::bed::{self, Bed, SOON, connect, eventually, list, refused, register, register_request};

#[test]
fn a_registration_lasts_as_long_as_its_connection() {
    let bed = Bed::new();
    let mut a = bed.connect();
    let (reg, fds) = register(&mut a, "vale0:a");
    assert_eq!((reg.name.as_str(), reg.kind.as_str()), ("vale0:a", "vale"));
    assert_eq!((reg.tx.len(), reg.rx.len(), fds.len()), (1, 1, 2));
    let ports = bed.ports();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].owners[0].pid, std::process::id());
    assert_eq!(
        refused(&mut a, &register_request("vale0:b")),
        ErrorKind::Busy
    );
    // Another registration of the same port is refused if it wants it alone.
    let mut b = bed.connect();
    assert_eq!(
        refused(&mut b, &register_request("vale0:a/x")),
        ErrorKind::Busy
    );
    assert_eq!(
        refused(&mut b, &register_request("vale0:")),
        ErrorKind::Invalid
    );
    assert_eq!(
        refused(&mut b, &register_request("netmap:none")),
        ErrorKind::NotFound
    );
    // A refused connection may try again.
    register(&mut b, "vale0:b");
    assert_eq!(bed.ports().len(), 2);
    drop(a);
    assert!(eventually(SOON, || bed.ports().len() == 1));
    drop(b);
    assert!(eventually(SOON, || bed.ports().is_empty()));
    bed.assert_sound();
}

#[test]
fn whoever_has_the_socket_can_ask_what_it_is() {
    let bed = Bed::new();
    let mut a = bed.connect();
    assert_eq!(refused(&mut a, &Request::Whoami), ErrorKind::NotFound);
    let (reg, _) = register(&mut a, "vale0:a");
    let (reply, fds) = a.ask(&Request::Whoami).unwrap();
    assert_eq!(reply, Reply::Registered(reg.clone()));
    assert_eq!(fds.len(), 2);
    let region = fds.into_iter().next().unwrap();
    Memfd::from_fd(region, usize::try_from(reg.region.size).unwrap()).unwrap();
}

#[test]
fn trusted_clients_get_regions_and_doorbells() {
    let bed = Bed::new();
    let (mut a, mut b) = (bed.connect(), bed.connect());
    let (reg, _) = register(&mut a, "vale0:a");
    let (id, generation) = (reg.region.id, reg.region.generation);
    let (reply, fds) = b.ask(&Request::Region { id, generation }).unwrap();
    assert_eq!(reply, Reply::Region(reg.region));
    assert_eq!(fds.len(), 1);
    let wrong = Request::Region {
        id,
        generation: generation + 1,
    };
    assert_eq!(refused(&mut b, &wrong), ErrorKind::NotFound);
    let ask = Request::Doorbell { owner: reg.owner };
    let (reply, fds) = b.ask(&ask).unwrap();
    let Reply::Doorbell { tag: first, .. } = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(fds.len(), 1);
    // The number is used again, the tag is not.
    drop(a);
    assert!(eventually(SOON, || bed.ports().is_empty()));
    assert_eq!(refused(&mut b, &ask), ErrorKind::NotFound);
    let mut c = bed.connect();
    let (again, _) = register(&mut c, "vale0:a");
    assert_eq!(again.owner, reg.owner);
    let (reply, _) = b.ask(&ask).unwrap();
    assert!(matches!(reply, Reply::Doorbell { tag, .. } if tag != first));
}

#[test]
fn persistent_ports_and_their_switches() {
    let bed = Bed::new();
    let mut c = bed.connect();
    let done = |reply: (Reply, _)| assert_eq!(reply.0, Reply::Done);
    let newif = Request::NewIf {
        name: "p0".into(),
        want: Wanted {
            tx_rings: 2,
            ..Wanted::default()
        },
        region: None,
        link: false,
    };
    done(c.ask(&newif).unwrap());
    assert_eq!(refused(&mut c, &newif), ErrorKind::Exists);
    let spec = "vale3:p0".to_owned();
    let (reply, _) = c
        .ask(&Request::Attach {
            spec: spec.clone(),
            nr: false,
            host: false,
            mem_id: 0,
            port: None,
        })
        .unwrap();
    assert_eq!(reply, bed::attached("vale3:p0"));
    let ports = list(&mut c);
    assert!(ports[0].persistent);
    assert_eq!(ports[0].seat.as_ref().unwrap().name, "vale3");
    let hdr = Request::SetHdr {
        name: spec.clone(),
        len: 12,
    };
    done(c.ask(&hdr).unwrap());
    let (reply, _) = c.ask(&Request::GetHdr { name: spec.clone() }).unwrap();
    assert_eq!(reply, Reply::Hdr { len: 12 });
    let fdb = Request::Fdb {
        switch: "vale3".into(),
        after: None,
    };
    let (reply, _) = c.ask(&fdb).unwrap();
    assert!(matches!(reply, Reply::Fdb { more: false, .. }));
    let (reply, _) = c.ask(&Request::Info { spec: spec.clone() }).unwrap();
    assert!(matches!(reply, Reply::Info(r) if r.tx_rings == 2 && r.vnet_hdr == 12));
    let del = Request::DelIf { name: "p0".into() };
    assert_eq!(
        refused(&mut c, &Request::DelIf { name: spec.clone() }),
        ErrorKind::Busy
    );
    let (reply, _) = c.ask(&Request::Detach { spec, nr: false }).unwrap();
    assert_eq!(reply, bed::attached("vale3:p0"));
    done(c.ask(&del).unwrap());
    assert_eq!(refused(&mut c, &del), ErrorKind::NotFound);
    assert_eq!(refused(&mut c, &fdb), ErrorKind::NotFound);
    bed.assert_sound();
}

#[test]
fn long_listings_come_in_pages() {
    let bed = Bed::with(|c| c.domain.huge = false);
    let open: Vec<_> = (0..400)
        .map(|i| {
            let mut remote = bed.connect();
            register(
                &mut remote,
                &format!("null:a-rather-long-name-for-a-port-{i:03}"),
            );
            remote
        })
        .collect();
    let mut c = bed.connect();
    let (first, _) = c.ask(&Request::List { after: None }).unwrap();
    assert!(matches!(first, Reply::Ports { more: true, .. }));
    let all = list(&mut c);
    assert_eq!(all.len(), open.len());
    assert!(all.is_sorted_by_key(netvale_wire::proto::PortInfo::key));
    let mut stats: Vec<PortStats> = Vec::new();
    loop {
        let after = stats.last().map(|s| s.name.clone());
        let (reply, _) = c.ask(&Request::Stats { name: None, after }).unwrap();
        let Reply::Stats { ports, more } = reply else {
            panic!("{reply:?}");
        };
        stats.extend(ports);
        if !more {
            break;
        }
    }
    assert_eq!(stats.len(), open.len());
    let (reply, _) = c.ask(&Request::Status).unwrap();
    assert!(matches!(reply, Reply::Status(s) if s.registrations == 400 && s.ports == 400));
}

#[test]
fn the_greeting_comes_first_and_once() {
    let bed = Bed::new();
    let mut c = connect(&bed.dir, true);
    let hello = Request::Hello {
        version: netvale_wire::proto::PROTOCOL_VERSION,
        isolated: false,
        client: String::new(),
    };
    assert_eq!(refused(&mut c, &hello), ErrorKind::Protocol);
}

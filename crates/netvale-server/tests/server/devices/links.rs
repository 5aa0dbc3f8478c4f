//! Interfaces of the host as they change: ports that are interfaces too, new
//! names, sizes and addresses.

use std::net::Ipv4Addr;

use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually};
use netvale_wire::mac::MacAddr;
use netvale_wire::proto::{ErrorKind, LinkInfo, Reply, Request, Wanted};

use super::open::receive_any;
use super::{Host, attach, echo, is_plain, plain, send, settle};
use crate::bed::register_request;

const ONE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

fn newif(name: &str) -> Request {
    Request::NewIf {
        name: name.into(),
        want: Wanted::default(),
        region: None,
        link: true,
    }
}

impl Host {
    /// The interface behind a port, as the server knows it.
    pub(super) fn link(&self, port: &str) -> Option<LinkInfo> {
        let mut ports = self.bed.ports().into_iter();
        ports.find(|p| p.name == port)?.link
    }

    fn has_interface(&self, name: &str) -> bool {
        self.ns
            .try_ip(&format!("link show dev {name}"))
            .status
            .success()
    }
}

#[test]
fn a_persistent_port_is_an_interface_of_the_host() {
    let test = "devices::links::a_persistent_port_is_an_interface_of_the_host";
    let Some(host) = Host::new(test) else { return };
    assert_eq!(host.ask(&newif("v1")), Reply::Done);
    assert!(host.has_interface("v1"));
    assert_eq!(host.refusal(&newif("v1")).0, ErrorKind::Exists);
    let (kind, said) = host.refusal(&newif("lo"));
    assert_eq!(kind, ErrorKind::Exists, "{said}");
    let link = host.link("v1").unwrap();
    assert!(!link.up, "as any interface that was just made");

    // Plugged into a switch, it reaches a container there.
    let b = NetNs::make();
    host.attach("vale0:v1");
    host.attach("vale0:tap:t1");
    settle(&host.ns, "v1", "10.77.0.1", 1500);
    host.hand_over("t1", &b, "10.77.0.2", 1500);
    assert!(echo(&host.ns, TWO, 1400));
    assert!(b.ping(ONE, 60_000, PATIENCE).is_some());

    // What becomes of the interface is seen.
    let mac = MacAddr([2, 0xaa, 0, 0, 0, 9]);
    host.ns
        .ip("link set dev v1 mtu 1400 address 02:aa:00:00:00:09");
    eventually("size and address are known", || {
        host.link("vale0:v1")
            .is_some_and(|l| (l.up, l.mtu, l.mac) == (true, 1400, Some(mac.to_u64())))
    });
    host.ns.ip("link set dev v1 down");
    eventually("it is known to be down", || {
        host.link("vale0:v1").is_some_and(|l| !l.up)
    });
    let mut port = host.namespace().open("vale0:p").unwrap();
    let down = || {
        let stats = host.namespace().stats(Some("vale0:v1")).unwrap();
        stats[0].dropped("dev_down")
    };
    eventually("frames for it are counted as lost", || {
        send(&mut port, 0, &[0xff; 60]);
        down() > 0
    });
    host.ns.ip("link set dev v1 up");
    assert!(echo(&host.ns, TWO, 0), "and it comes back");

    // While it is served nobody else has it; afterwards it is a port as before.
    let ns = host.namespace();
    let e = ns.open("vale0:v1").unwrap_err();
    assert_eq!(e.kind(), netvale::ErrorKind::Busy, "{e}");
    let delete = Request::DelIf { name: "v1".into() };
    assert_eq!(host.refusal(&delete).0, ErrorKind::Busy);
    host.detach("vale0:v1");
    assert!(host.has_interface("v1"));
    let open = ns.open("netmap:v1").unwrap();
    assert_eq!(open.info().vnet_hdr, 0);
    drop(open);
    // Its header is what programs want it to be, until it is the TAP's again.
    let set = |name: &str, len| Request::SetHdr {
        name: name.into(),
        len,
    };
    let header = |name: &str| match host.ask(&Request::GetHdr { name: name.into() }) {
        Reply::Hdr { len } => len,
        other => panic!("{other:?}"),
    };
    assert_eq!(host.ask(&set("v1", 10)), Reply::Done);
    assert_eq!(header("v1"), 10);
    eventually("it is attached again", || {
        matches!(host.ask(&attach("vale0:v1", false)), Reply::Attached { .. })
    });
    assert!(echo(&host.ns, TWO, 0));
    assert_eq!(header("vale0:v1"), 12);
    assert_eq!(host.refusal(&set("vale0:v1", 0)).0, ErrorKind::Busy);
    // Also by the name that it has now.
    host.ns.ip("link set dev v1 down");
    host.ns.ip("link set dev v1 name w1");
    eventually("its new name is known", || {
        host.link("vale0:v1").is_some_and(|l| l.name == "w1")
    });
    host.detach("vale0:w1");
    assert_eq!(header("v1"), 10);
    assert_eq!(host.names(), ["vale0:t1", "vale0:p", "v1"]);
    assert_eq!(host.ask(&delete), Reply::Done);
    // A program that another test starts has its descriptor for an instant.
    eventually("it is gone", || !host.has_interface("w1"));
    assert!(!host.has_interface("v1"));
}

#[test]
fn a_port_goes_with_its_interface() {
    let test = "devices::links::a_port_goes_with_its_interface";
    let Some(host) = Host::with(test, |c| c.link_ports = true) else {
        return;
    };
    // All are interfaces here, as netmap's are.
    for name in ["v1", "v2"] {
        let plain = Request::NewIf {
            name: name.into(),
            want: Wanted::default(),
            region: None,
            link: false,
        };
        assert_eq!(host.ask(&plain), Reply::Done);
        assert!(host.has_interface(name));
    }
    host.attach("vale0:v1");
    assert_eq!(host.names(), ["vale0:v1", "v2"]);
    for name in ["v1", "v2"] {
        host.ns.ip(&format!("link del dev {name}"));
    }
    eventually("both ports are gone", || host.names().is_empty());

    // One that was given to a container works on there.
    let b = NetNs::make();
    assert_eq!(host.ask(&newif("v3")), Reply::Done);
    host.hand_over("v3", &b, "10.77.0.2", 1500);
    host.attach("vale0:v3");
    host.attach("vale0:tap:t1");
    settle(&host.ns, "t1", "10.77.0.1", 1500);
    assert!(echo(&host.ns, TWO, 0));
    host.detach("vale0:v3");
    assert_eq!(host.ask(&Request::DelIf { name: "v3".into() }), Reply::Done);
    eventually("it is gone", || {
        !b.try_ip("link show dev v3").status.success()
    });
}

#[test]
fn an_interface_has_both_its_names() {
    let test = "devices::links::an_interface_has_both_its_names";
    let Some(host) = Host::new(test) else { return };
    let b = NetNs::make();
    host.ns.veth("v0", &b, "e0", "");
    b.ip("addr add 10.77.0.2/24 dev e0");
    host.attach("vale0:v0");
    host.attach("vale0:tap:t1");
    settle(&host.ns, "t1", "10.77.0.1", 1500);
    assert!(echo(&host.ns, TWO, 0));
    let rename = |old: &str, new: &str| {
        host.ns.ip(&format!("link set dev {old} down"));
        host.ns.ip(&format!("link set dev {old} name {new}"));
        host.ns.ip(&format!("link set dev {new} up"));
    };
    rename("v0", "w0");
    eventually("its new name is known", || {
        host.link("vale0:v0")
            .is_some_and(|l| l.name == "w0" && l.up)
    });
    assert!(echo(&host.ns, TWO, 0), "it works on");
    // It is the same device by either name, and detached by either.
    assert_eq!(host.refusal(&attach("vale1:w0", false)).0, ErrorKind::Busy);
    host.detach("vale0:w0");
    host.attach("vale0:w0");
    rename("w0", "v0");
    eventually("its new name is known", || {
        host.link("vale0:w0").is_some_and(|l| l.name == "v0")
    });
    host.detach("vale0:w0");
    assert_eq!(host.names(), ["vale0:t1"]);
}

#[test]
fn an_interface_that_leaves_a_bridge_keeps_its_port() {
    let test = "devices::links::an_interface_that_leaves_a_bridge_keeps_its_port";
    let Some(host) = Host::new(test) else { return };
    host.ns.ip("link add br0 type bridge");
    let b = NetNs::make();
    host.ns.veth("v0", &b, "e0", "");
    host.ns.ip("link set dev v0 master br0");
    b.ip("addr add 10.77.0.2/24 dev e0");
    host.attach("vale0:v0");
    host.attach("vale0:tap:t1");
    settle(&host.ns, "t1", "10.77.0.1", 1500);
    host.ns.ip("link set dev v0 nomaster");
    // What was told before that has been heard then.
    host.ns.ip("link set dev v0 mtu 1400");
    eventually("its size is known", || {
        host.link("vale0:v0").is_none_or(|l| l.mtu == 1400)
    });
    assert!(host.names().contains(&"vale0:v0".into()));
    assert!(echo(&host.ns, TWO, 0));
}

#[test]
fn an_interface_is_one_device_by_all_its_names() {
    let test = "devices::links::an_interface_is_one_device_by_all_its_names";
    let Some(host) = Host::new(test) else { return };
    host.ns.ip("link add d0 type veth peer name d1");
    host.ns.ip("link property add dev d0 altname other0");
    let taken = |name: &str| {
        let switches = ["vale0", "vale1"].map(|s| attach(&format!("{s}:{name}"), false));
        let open = register_request(&format!("netmap:{name}"));
        for request in switches.into_iter().chain([open]) {
            let (kind, said) = host.refusal(&request);
            assert_eq!(kind, ErrorKind::Busy, "{request:?}: {said}");
        }
    };
    host.attach("vale0:d0");
    taken("other0");
    host.detach("vale0:d0");
    host.attach("vale0:other0");
    taken("d0");
    host.detach("vale0:other0");
    let open = host.namespace().open("netmap:d0").unwrap();
    taken("other0");
    drop(open);
    eventually("it is closed", || host.names().is_empty());
    host.bed.assert_sound();
}

#[test]
fn programs_keep_the_interface_that_they_opened() {
    let test = "devices::links::programs_keep_the_interface_that_they_opened";
    let Some(host) = Host::new(test) else { return };
    for (name, peer) in [("v0", "v1"), ("c0", "c1")] {
        host.ns.veth(name, &host.ns, peer, "");
    }
    // Sockets that are opened by name.
    std::fs::write(host.bed.dir.join("parameters/admode"), "2\n").unwrap();
    let ns = host.namespace();
    let mut sender = ns.open("netmap:v0/T").unwrap();
    let mut peers = ["netmap:v1", "netmap:c1"].map(|name| ns.open(name).unwrap());
    // Another one gets its name.
    for (old, new) in [("v0", "w0"), ("c0", "v0")] {
        host.ns.ip(&format!("link set dev {old} down"));
        host.ns.ip(&format!("link set dev {old} name {new}"));
        host.ns.ip(&format!("link set dev {new} up"));
    }
    host.ns.wait_until_up(&["w0", "v0", "v1", "c1"]);
    // To receive, its wire is opened anew.
    let mut receiver = ns.open("netmap:v0/R").unwrap();
    send(&mut peers[1], 0, &plain(1, 60));
    send(&mut peers[0], 0, &plain(2, 60));
    assert_eq!(receive_any(&mut receiver, is_plain)[20], 2);
    send(&mut sender, 0, &plain(3, 60));
    assert_eq!(receive_any(&mut peers[0], is_plain)[20], 3);
    let ports = host.bed.ports();
    let port = ports
        .iter()
        .find(|p| p.name == "netmap:v0" || p.name == "v0");
    let about = port.unwrap().device.as_deref().unwrap();
    assert!(about.contains("interface w0 by AF_PACKET"), "{about}");
    drop((sender, receiver, peers));
    eventually("all is given back", || host.names().is_empty());
    host.bed.assert_sound();
}

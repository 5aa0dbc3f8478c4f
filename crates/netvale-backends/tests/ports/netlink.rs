use std::fs::File;
use std::os::fd::AsFd;
use std::time::Duration;

use netvale_backends::netlink::ethtool::{self, Offload};
use netvale_backends::netlink::{
    LinkChange, LinkEvent, LinkWatch, Netlink, NetlinkError, NewLink, OperState,
};
use netvale_backends::tap::{Tap, TapConfig};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually};
use netvale_wire::mac::MacAddr;

use crate::common::readable;

#[test]
fn links_are_made_changed_and_deleted() {
    let Some(ns) = NetNs::new("netlink::links_are_made_changed_and_deleted") else {
        return;
    };
    let other = NetNs::make();
    let other_fd = other
        .enter(|| File::open("/proc/thread-self/ns/net"))
        .unwrap();
    let mut netlink = ns.enter(Netlink::open).unwrap();
    let lo = netlink.link("lo").unwrap();
    assert_eq!((lo.index, lo.mtu, lo.up, lo.kind), (1, 65536, true, None));

    let veth = NewLink::Veth {
        peer: "right",
        peer_netns: Some(other_fd.as_fd()),
        queues: 3,
    };
    let left = netlink.create("left", veth).unwrap();
    assert_eq!(left.kind.as_deref(), Some("veth"));
    assert_eq!((left.tx_queues, left.rx_queues), (3, 3));
    assert!(!left.up && left.lower_netns.is_some());
    assert_eq!(other.index("right"), left.lower.unwrap());
    let again = netlink.create("left", NewLink::Bridge).unwrap_err();
    assert!(matches!(again, NetlinkError::Exists { .. }), "{again}");

    let bridge = netlink.create("bridge", NewLink::Bridge).unwrap();
    let mac = MacAddr([2, 0, 0, 0, 0, 0x42]);
    let change = LinkChange {
        up: Some(true),
        mtu: Some(1234),
        mac: Some(mac),
        name: Some("first"),
        controller: Some(bridge.index),
        netns: None,
    };
    netlink.change(left.index, &change).unwrap();
    let left = netlink.link_at(left.index).unwrap();
    assert_eq!(
        (&*left.name, left.mtu, left.mac),
        ("first", 1234, Some(mac))
    );
    assert_eq!((left.up, left.carrier), (true, false), "the peer is down");
    assert_ne!(left.state, OperState::Up);
    assert_eq!(left.controller, Some(bridge.index));
    other.ip("link set right up");
    eventually("there is a carrier", || {
        let link = netlink.link("first").unwrap();
        link.carrier && link.state == OperState::Up
    });
    assert!(ns.ip("-o link show dev first").contains("mtu 1234"));

    // The kernel's own words.
    let refused = netlink.change(
        left.index,
        &LinkChange {
            mtu: Some(10),
            ..LinkChange::default()
        },
    );
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("mtu less than device minimum"), "{text}");

    let down = LinkChange {
        up: Some(false),
        controller: Some(0),
        netns: Some(other_fd.as_fd()),
        ..LinkChange::default()
    };
    netlink.change(left.index, &down).unwrap();
    let gone = netlink.link("first").unwrap_err();
    assert!(matches!(gone, NetlinkError::Missing { .. }), "{gone}");
    let moved = other.enter(|| Netlink::open()?.link("first")).unwrap();
    assert_eq!(moved.mac, Some(mac));

    let names: Vec<String> = netlink
        .links()
        .unwrap()
        .into_iter()
        .map(|l| l.name)
        .collect();
    assert!(names.contains(&"lo".to_owned()) && names.contains(&"bridge".to_owned()));
    netlink.delete(bridge.index).unwrap();
    let twice = netlink.delete(bridge.index).unwrap_err();
    assert!(matches!(twice, NetlinkError::Missing { .. }), "{twice}");
    let hardware = netlink.delete(1).unwrap_err();
    assert!(
        matches!(hardware, NetlinkError::Refused { .. }),
        "{hardware}"
    );
    let name = netlink.create("much-too-long-name", NewLink::Dummy);
    assert!(matches!(name, Err(NetlinkError::Name { .. })));
}

#[test]
fn a_long_list_comes_whole() {
    let Some(ns) = NetNs::new("netlink::a_long_list_comes_whole") else {
        return;
    };
    let mut netlink = ns.enter(Netlink::open).unwrap();
    for i in 0..200 {
        netlink.create(&format!("d{i}"), NewLink::Bridge).unwrap();
    }
    let mut names: Vec<String> = netlink
        .links()
        .unwrap()
        .into_iter()
        .filter(|l| l.kind.as_deref() == Some("bridge"))
        .map(|l| l.name)
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 200);
}

/// The first event that fits, waiting for it.
fn event(watch: &mut LinkWatch, what: &str, mut fits: impl FnMut(&LinkEvent) -> bool) {
    loop {
        for event in &mut *watch {
            let event = event.unwrap();
            assert_ne!(event, LinkEvent::Lost);
            if fits(&event) {
                return;
            }
        }
        assert!(readable(&*watch, PATIENCE), "never told: {what}");
    }
}

#[test]
fn news_of_links_arrive_in_order() {
    let Some(ns) = NetNs::new("netlink::news_of_links_arrive_in_order") else {
        return;
    };
    let mut watch = ns.enter(LinkWatch::open).unwrap();
    assert!(watch.next_event().unwrap().is_none());
    let tap = ns.enter(|| Tap::open(&TapConfig::new("nvt0"))).unwrap();
    let mut index = 0;
    event(&mut watch, "it is there", |e| match e {
        LinkEvent::Changed(l) if l.name == "nvt0" => {
            index = l.index;
            assert_eq!(l.kind.as_deref(), Some("tun"));
            true
        }
        _ => false,
    });
    event(
        &mut watch,
        "it is up",
        |e| matches!(e, LinkEvent::Changed(l) if l.index == index && l.up),
    );
    ns.ip("link set nvt0 mtu 1400");
    event(
        &mut watch,
        "its MTU",
        |e| matches!(e, LinkEvent::Changed(l) if l.index == index && l.mtu == 1400),
    );
    ns.ip("link set nvt0 down");
    event(
        &mut watch,
        "it is down",
        |e| matches!(e, LinkEvent::Changed(l) if l.index == index && !l.up),
    );
    ns.ip("link set nvt0 name nvt1");
    event(
        &mut watch,
        "its name",
        |e| matches!(e, LinkEvent::Changed(l) if l.index == index && l.name == "nvt1"),
    );
    drop(tap);
    event(
        &mut watch,
        "it is gone",
        |e| matches!(e, LinkEvent::Removed(l) if l.index == index && l.name == "nvt1"),
    );
}

#[test]
fn what_a_bridge_tells_of_its_members_is_no_news_of_links() {
    let test = "netlink::what_a_bridge_tells_of_its_members_is_no_news_of_links";
    let Some(ns) = NetNs::new(test) else { return };
    let mut netlink = ns.enter(Netlink::open).unwrap();
    let bridge = netlink.create("bridge", NewLink::Bridge).unwrap();
    let veth = NewLink::Veth {
        peer: "peer",
        peer_netns: None,
        queues: 0,
    };
    let member = netlink.create("member", veth).unwrap();
    let mut watch = ns.enter(LinkWatch::open).unwrap();
    for controller in [bridge.index, 0] {
        let change = LinkChange {
            controller: Some(controller),
            ..LinkChange::default()
        };
        netlink.change(member.index, &change).unwrap();
    }
    ns.ip("link set member mtu 1400");
    event(&mut watch, "its MTU", |e| match e {
        LinkEvent::Changed(l) if l.index == member.index => {
            assert_eq!((&*l.name, l.kind.as_deref()), ("member", Some("veth")));
            l.mtu == 1400
        }
        e => {
            assert!(!matches!(e, LinkEvent::Removed(_)), "{e:?}");
            false
        }
    });
}

#[test]
fn lost_news_are_an_event() {
    let Some(ns) = NetNs::new("netlink::lost_news_are_an_event") else {
        return;
    };
    let mut watch = ns.enter(|| LinkWatch::with_buffer(4096)).unwrap();
    let mut netlink = ns.enter(Netlink::open).unwrap();
    let bridge = netlink.create("bridge", NewLink::Bridge).unwrap();
    for mtu in 1000..1100 {
        let change = LinkChange {
            mtu: Some(mtu),
            ..LinkChange::default()
        };
        netlink.change(bridge.index, &change).unwrap();
    }
    assert!(readable(&watch, Duration::ZERO));
    let events: Vec<LinkEvent> = watch.by_ref().map(Result::unwrap).collect();
    assert!(events.contains(&LinkEvent::Lost), "{} events", events.len());
    // Afterwards it goes on, and the whole truth can be asked for.
    netlink.delete(bridge.index).unwrap();
    event(
        &mut watch,
        "it is gone",
        |e| matches!(e, LinkEvent::Removed(l) if l.index == bridge.index),
    );
    netlink.link("bridge").unwrap_err();
}

#[test]
fn drivers_tell_and_are_told() {
    let Some(ns) = NetNs::new("netlink::drivers_tell_and_are_told") else {
        return;
    };
    let other = NetNs::make();
    ns.veth("left", &other, "right", "numrxqueues 4 numtxqueues 2");
    ns.enter(|| {
        let channels = ethtool::channels("left").unwrap().unwrap();
        assert_eq!((channels.rx, channels.tx), (4, 2), "{channels:?}");
        assert_eq!(ethtool::channels("lo").unwrap(), None);
        // Virtual interfaces have no rings of hardware, some say zero.
        let rings = ethtool::rings("left").unwrap().unwrap_or_default();
        assert!(rings.rx <= rings.rx_max && rings.tx <= rings.tx_max);
        for offload in [Offload::TxChecksum, Offload::Gro, Offload::TxVlan] {
            for on in [false, true] {
                assert!(ethtool::set_offload("left", offload, on).unwrap());
                let now = ethtool::offload("left", offload).unwrap();
                assert_eq!(now, Some(on), "{offload:?}");
            }
        }
        // A tap without hardware cannot join segments in hardware.
        assert!(!ethtool::set_offload("left", Offload::Lro, true).unwrap_or(false));
        let missing = ethtool::rings("nothing").unwrap_err();
        assert!(matches!(missing, NetlinkError::Missing { .. }), "{missing}");
        let bad = ethtool::rings("a b").unwrap_err();
        assert!(matches!(bad, NetlinkError::Name { .. }), "{bad}");
    });
}

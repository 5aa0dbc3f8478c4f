//! The firewall among the examples, between namespaces.

use std::net::Ipv4Addr;
use std::time::Duration;

use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, within};
use rustix::process::{Pid, Signal, kill_process};

use crate::examples::{Bench, Link};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 9);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 81, 0, 1);
const MOMENT: Duration = Duration::from_millis(300);
const SECOND: Duration = Duration::from_secs(1);

fn echo(from: &NetNs, to: Ipv4Addr) -> bool {
    within(PATIENCE, || from.ping(to, 500, SECOND).is_some())
}

/// The two numbers in a line of the program's.
fn numbers(said: &str, line: &str) -> (u64, u64) {
    let line = said.lines().find(|l| l.starts_with(line)).unwrap();
    let mut all = line.split(|c: char| !c.is_ascii_digit());
    let mut next = || all.find_map(|n| n.parse().ok()).unwrap();
    (next(), next())
}

#[test]
fn the_firewall_drops_what_it_shall_and_lets_the_host_go() {
    let test = "firewall::the_firewall_drops_what_it_shall_and_lets_the_host_go";
    let Some(host) = NetNs::new(test) else { return };
    let peer = NetNs::make();
    host.veth("v0", &peer, "e0", "");
    host.ip(&format!("addr add {HOST}/24 dev v0"));
    peer.ip(&format!("addr add {PEER}/24 dev e0"));
    assert!(echo(&peer, HOST));

    let bench = Bench::new(Link::Shared);
    let rules = ["v0", "tcp:5009", "udp:53@192.0.2.7", "@203.0.113.9"];
    let firewall = host.enter(|| bench.start("firewall", &rules));
    for _ in 0..5 {
        assert!(echo(&peer, HOST) && echo(&host, PEER));
    }
    assert!(peer.connects(&host, (HOST, 5008), PATIENCE), "another port");
    assert!(
        !peer.connects(&host, (HOST, 5009), SECOND),
        "dropped on its way in"
    );
    assert!(
        !host.connects(&peer, (PEER, 5009), SECOND),
        "dropped on its way out"
    );
    assert!(host.connects(&peer, (PEER, 5008), PATIENCE));
    let pid = Pid::from_child(firewall.child());
    kill_process(pid, Signal::TERM).unwrap();
    let said = firewall.end();
    let (passed_in, dropped_in) = numbers(&said, "in:");
    let (passed_out, dropped_out) = numbers(&said, "out:");
    // Ten echoes with their answers, two connections, and addresses to find:
    // nothing goes in circles. The attempts to connect are made anew at most
    // a few times.
    assert!((14..200).contains(&passed_in), "{said}");
    assert!((14..200).contains(&passed_out), "{said}");
    assert!((1..10).contains(&dropped_in), "{said}");
    assert!((1..10).contains(&dropped_out), "{said}");
    eventually("the host has its interface", || {
        peer.ping(HOST, 0, MOMENT).is_some()
    });
    assert!(peer.connects(&host, (HOST, 5009), PATIENCE));

    // It blocks everything, and is killed.
    let firewall = host.enter(|| bench.start("firewall", &["v0", "@10.81.0.9"]));
    assert!(peer.ping(HOST, 0, MOMENT).is_none());
    let pid = Pid::from_child(firewall.child());
    kill_process(pid, Signal::KILL).unwrap();
    eventually("the host has its interface again", || {
        peer.ping(HOST, 0, MOMENT).is_some()
    });
    assert!(peer.connects(&host, (HOST, 5009), PATIENCE) && echo(&host, PEER));
    drop(firewall);
    eventually("nothing is left", || !host.ip("-o link").contains("nvhost"));
}

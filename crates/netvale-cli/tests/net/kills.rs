//! Programs and servers that are killed while frames pass.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use netvale_backends::bpf::{tc_programs, xdp_state};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, Rng, eventually, within};

use crate::host::{Host, Program, descriptors, no_offloads};

const MOMENT: Duration = Duration::from_millis(100);
const US: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const THEM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// An interface with a stack behind it, and a stack at the other end.
fn cable(host: &Host) -> NetNs {
    let a = NetNs::make();
    host.ns.veth("v0", &a, "e", "");
    a.settle("e", 1, 1500);
    host.ns.settle("v0", 2, 1500);
    no_offloads(&a, "e");
    no_offloads(&host.ns, "v0");
    a
}

/// The host has its interface as if we had never been there.
#[track_caller]
fn assert_free(host: &Host, a: &NetNs, round: &str) {
    let ping = || a.ping(US, 1000, MOMENT).is_some() && host.ns.ping(THEM, 0, MOMENT).is_some();
    assert!(within(PATIENCE, ping), "{round}: cut off");
    let index = host.ns.index("v0");
    let mut left = String::new();
    let free = within(PATIENCE, || {
        let (tc, xdp) = host.ns.enter(|| (tc_programs(index), xdp_state(index)));
        let (tc, xdp) = (tc.unwrap(), xdp.unwrap());
        let links = host.ns.ip("-o link");
        left = format!("{tc:?} {xdp:?} {links} {}", host.ns.ip("link show dev v0"));
        tc.0.is_empty()
            && tc.1.is_empty()
            && xdp == netvale_backends::bpf::XdpState::default()
            && !links.contains("nvhost")
            && !links.contains("tap")
    });
    assert!(free, "{round}: {left}");
}

/// Pings from there without end.
fn under_load(a: &NetNs, then: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let _ = a.ping(US, 1000, Duration::from_millis(1));
            }
        });
        // Also if it panics.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _stop = Stop(&stop);
        then();
    });
}

/// Starts one of those programs that take the interface from the host.
fn start(host: &Host, which: usize) -> Program {
    let args: &[&str] = match which {
        0 => &["bridge", "-w", "0", "-i", "netmap:v0"],
        1 => &["bridge", "-w", "0", "-i", "netmap:v0", "-i", "tap:tap0"],
        2 => &["bridge", "-w", "0", "-L", "-i", "netmap:v0"],
        3 => &["pkt-gen", "-i", "netmap:v0", "-f", "rx", "-w", "0"],
        _ => &[
            "pkt-gen",
            "-i",
            "netmap:v0",
            "-f",
            "tx",
            "-w",
            "0",
            "-R",
            "20000",
        ],
    };
    host.start("program", args)
}

#[test]
fn a_killed_program_gives_the_interface_back() {
    const TEST: &str = "kills::a_killed_program_gives_the_interface_back";
    let mut rng = Rng::announced(TEST);
    let Some(host) = Host::new(TEST) else { return };
    let a = cable(&host);
    let mut before = BTreeMap::new();
    for round in 0..20 {
        under_load(&a, || {
            let mut program = start(&host, round % 5);
            // Anywhere from before it is connected to when it carries.
            std::thread::sleep(Duration::from_millis(rng.below(120) as u64));
            if round < 5 {
                let has_it = within(PATIENCE, || !host.names().is_empty());
                assert!(has_it, "{round}: {}", host.log("program"));
            }
            program.kill();
        });
        let round = format!("round {round}");
        assert_free(&host, &a, &round);
        host.assert_empty();
        if round == "round 4" {
            before = descriptors(host.server.pid());
        }
    }
    // The first look may have seen one that was about to be closed.
    eventually("descriptors are given back", || {
        let now = descriptors(host.server.pid());
        now.iter()
            .all(|(kind, n)| before.get(kind).is_some_and(|had| n <= had))
    });
}

#[test]
fn a_killed_server_gives_the_interface_back() {
    const TEST: &str = "kills::a_killed_server_gives_the_interface_back";
    let mut rng = Rng::announced(TEST);
    let Some(mut host) = Host::new(TEST) else {
        return;
    };
    let a = cable(&host);
    let b = NetNs::make();
    for round in 0..12 {
        let mut program = None;
        under_load(&a, || {
            match round % 3 {
                0 => drop(host.ok(&["attach", "vale0", "v0", "--host"])),
                1 => drop(host.ok(&["attach", "vale0", "v0"])),
                _ => program = Some(start(&host, round % 5)),
            }
            if round % 2 == 0 {
                host.ok(&["attach", "vale0", "tap:tap1"]);
                host.ns.give("tap1", &b);
            }
            std::thread::sleep(Duration::from_millis(rng.below(100) as u64));
            host.server.kill();
        });
        let round = format!("round {round}");
        assert_free(&host, &a, &round);
        eventually("the TAP is gone", || !b.ip("-o link").contains("tap1"));
        if let Some(mut program) = program {
            // Bridges and receivers wait for frames that cannot come.
            program.fails(&round);
        }
        host.restart();
        host.assert_empty();
    }
}

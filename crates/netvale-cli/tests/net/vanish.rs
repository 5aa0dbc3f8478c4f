//! Interfaces that change and vanish while frames pass.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, eventually, within};

use crate::host::{Host, no_offloads};

const MOMENT: Duration = Duration::from_millis(200);

fn at(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, n)
}

/// A switch with TAPs of two stacks, 1 and 2, and the interface `v0` to a
/// third, 3.
struct Bed {
    host: Host,
    ends: [NetNs; 3],
}

impl Bed {
    fn new(test: &str) -> Option<Self> {
        let host = Host::new(test)?;
        let ends = [NetNs::make(), NetNs::make(), NetNs::make()];
        for n in [1, 2] {
            let tap = format!("t{n}");
            host.ok(&["attach", "vale0", &format!("tap:{tap}")]);
            host.hand_over(&tap, &ends[usize::from(n) - 1], n, 1500);
        }
        let bed = Self { host, ends };
        bed.cable();
        Some(bed)
    }

    fn cable(&self) {
        self.host.ns.veth("v0", &self.ends[2], "e", "");
        self.ends[2].settle("e", 3, 1500);
        // Of the cable before it.
        self.ends[0].ip("neigh flush all");
        self.host.ok(&["attach", "vale0", "v0"]);
        self.meet(3);
    }

    fn answers(&self, n: u8) -> bool {
        self.ends[0].ping(at(n), 1000, MOMENT).is_some()
    }

    #[track_caller]
    fn meet(&self, n: u8) {
        let met = within(PATIENCE, || self.answers(n));
        assert!(met, "{n} does not answer: {}", self.host.log(""));
    }

    #[track_caller]
    fn logged(&self, what: &str) {
        let log = || self.host.log("");
        assert!(
            within(PATIENCE, || log().contains(what)),
            "{what}: {}",
            log()
        );
    }
}

#[test]
fn the_switch_stays_whole_whatever_becomes_of_an_interface() {
    const TEST: &str = "vanish::the_switch_stays_whole_whatever_becomes_of_an_interface";
    let Some(bed) = Bed::new(TEST) else { return };
    let (host, ns) = (&bed.host, &bed.host.ns);
    let (stop, answered, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        // The other two go on all the time.
        let others = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let n = match bed.ends[1].ping(at(1), 500, PATIENCE) {
                    Some(_) => &answered,
                    None => &lost,
                };
                n.fetch_add(1, Ordering::Relaxed);
            }
        });
        let all = || {
            ns.ip("link set dev v0 down");
            assert!(!bed.answers(3), "it is down");
            ns.ip("link set dev v0 up");
            bed.meet(3);
            // Down at the other end.
            bed.ends[2].ip("link set dev e down");
            assert!(!bed.answers(3), "it is down");
            bed.ends[2].ip("link set dev e up");
            bed.meet(3);
            // The port keeps its name, and is detached by it.
            ns.ip("link set dev v0 down");
            ns.ip("link set dev v0 name v9");
            ns.ip("link set dev v9 up");
            bed.meet(3);
            assert!(host.names().contains(&"vale0:v0".to_owned()));
            host.ok(&["detach", "vale0:v0"]);
            bed.logged("detached port=\"vale0:v0\"");
            host.ok(&["attach", "vale0", "v9"]);
            bed.meet(3);
            // Another takes the old name; the two are told apart.
            let other = NetNs::make();
            ns.veth("v0", &other, "e", "");
            host.ok(&["attach", "vale1", "v0"]);
            host.ok(&["detach", "vale1:v0"]);
            ns.ip("link del dev v0");
            bed.meet(3);
            // Moved away: for this host it is gone.
            let elsewhere = NetNs::make();
            ns.give("v9", &elsewhere);
            bed.logged("WARN device is gone: interface");
            eventually("its port goes", || {
                !host.names().contains(&"vale0:v9".to_owned())
            });
            elsewhere.give("v9", ns);
            ns.ip("link set dev v9 up");
            host.ok(&["attach", "vale0", "v9"]);
            bed.meet(3);
            // Deleted, at either end.
            bed.ends[2].ip("link del dev e");
            eventually("its port goes", || {
                !host.names().contains(&"vale0:v9".to_owned())
            });
            bed.cable();
            ns.ip("link del dev v0");
            eventually("its port goes", || {
                !host.names().contains(&"vale0:v0".to_owned())
            });
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(all));
        stop.store(true, Ordering::Relaxed);
        others.join().unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
    });
    let lost = lost.into_inner();
    assert!(
        answered.into_inner() > 100 && lost == 0,
        "{lost} pings lost"
    );
    assert_eq!(host.names(), ["vale0:t1", "vale0:t2"]);
    host.assert_sound();
}

#[test]
fn a_program_is_told_that_its_interface_is_gone() {
    const TEST: &str = "vanish::a_program_is_told_that_its_interface_is_gone";
    let Some(host) = Host::new(TEST) else { return };
    let a = NetNs::make();
    for (round, how) in ["deleted", "deleted there", "moved", "bridged"]
        .iter()
        .enumerate()
    {
        let how = *how;
        host.ns.veth("v0", &a, "e", "");
        a.settle("e", 1, 1500);
        no_offloads(&a, "e");
        let ns = host.namespace();
        let (mut port, mut program) = (None, None);
        if how == "bridged" {
            let args = ["bridge", "-w", "0", "-i", "netmap:v0", "-i", "tap:t0"];
            program = Some(host.start("program", &args));
            eventually("it has both", || host.names().len() == 2);
        } else {
            let mut opened = host.ns.enter(|| ns.open("netmap:v0")).unwrap();
            let _ = a.ping(at(7), 0, Duration::ZERO);
            assert!(opened.wait_rx(Some(PATIENCE)).unwrap(), "a question for 7");
            port = Some(opened);
        }
        let elsewhere = NetNs::make();
        match how {
            "deleted" | "bridged" => drop(host.ns.ip("link del dev v0")),
            "moved" => host.ns.give("v0", &elsewhere),
            _ => drop(a.ip("link del dev e")),
        }
        if let Some(mut port) = port {
            let mut e = None;
            let told = within(PATIENCE, || {
                let _ = port.tx(0).push(&[0xff; 60]);
                let synced = port.tx(0).sync().err();
                e = synced.or_else(|| port.wait_rx(Some(Duration::from_millis(10))).err());
                e.is_some()
            });
            assert!(told, "{how}: {}", host.log(""));
            println!("{how}: {}", e.unwrap());
        }
        if let Some(program) = &mut program {
            let ended = within(PATIENCE, || !program.is_alive());
            assert!(ended, "{how}: {}", host.log("program"));
            println!("{how}: {}", host.log("program"));
        }
        let said = || host.log("").matches("WARN device is gone: ").count();
        let gone = || said() > round;
        assert!(within(PATIENCE, gone), "{how}: {}", host.log(""));
        drop(elsewhere);
        host.assert_empty();
        eventually("it is gone", || !a.ip("-o link").contains(" e@"));
    }
}

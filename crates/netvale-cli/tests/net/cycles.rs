//! A thousand times there and back again, and nothing left.

use std::collections::BTreeMap;
use std::time::Instant;

use netvale_backends::bpf::{tc_programs, xdp_state};
use netvale_backends::pcap::{Writer, WriterConfig};
use netvale_testkit::net::NetNs;
use netvale_testkit::raw::Raw;
use netvale_testkit::{PATIENCE, Rng, within};

use netvale_wire::proto::{Reply, Request};

use crate::host::{Host, descriptors};

/// Servers at a time, for most of the time goes by waiting for the kernel; and
/// cycles of each.
const SERVERS: usize = 4;
const CYCLES: usize = 250;

/// What a server has of the system.
fn belongings(host: &Host) -> BTreeMap<String, usize> {
    let pid = host.server.pid();
    let mut all = descriptors(pid);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |key: &str| -> usize {
        let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    for key in ["Threads:", "VmLck:", "VmPin:"] {
        all.insert(key.into(), number(key));
    }
    let links = host.ns.ip("-o link").lines().count();
    all.insert("interfaces".into(), links);
    all
}

/// Programs of an interface in the kernel.
fn programs(ns: &NetNs, name: &str) -> usize {
    let index = ns.index(name);
    let (tc, xdp) = ns.enter(|| (tc_programs(index), xdp_state(index)));
    let ((ingress, egress), xdp) = (tc.unwrap(), xdp.unwrap());
    let xdp = usize::from(xdp.native.is_some()) + usize::from(xdp.generic.is_some());
    ingress.len() + egress.len() + xdp
}

#[test]
fn a_thousand_devices_leave_nothing() {
    const TEST: &str = "cycles::a_thousand_devices_leave_nothing";
    let mut rng = Rng::announced(TEST);
    if NetNs::new(TEST).is_none() {
        return;
    }
    std::thread::scope(|scope| {
        for _ in 0..SERVERS {
            let rng = Rng::new(rng.word());
            scope.spawn(|| cycles(rng));
        }
    });
}

fn cycles(mut rng: Rng) {
    let host = Host::make();
    let _stay = host.ns.stay();
    let a = NetNs::make();
    for (name, peer) in [("v0", "e0"), ("v1", "e1")] {
        host.ns.veth(name, &a, peer, "numrxqueues 2 numtxqueues 2");
    }
    let capture = host.dir.path().join("in.pcap");
    let mut writer = Writer::create(&capture, WriterConfig::default()).unwrap();
    writer.write(0, &[&[0xff; 60]], 0).unwrap();
    writer.finish().unwrap();
    let replay = format!("pcap:{},speed=max", capture.display());
    let written = format!("pcap:{},write", host.dir.path().join("out.pcap").display());

    let ns = host.namespace();
    let mut control = Raw::connect(&host.dir.path().join("ns"), false);
    let mut cycle = |kind: usize| {
        let [device, with_host] = match kind {
            0 => ["tap:t0", ""],
            1 => ["v0", ""],
            2 => ["v0", "host"],
            3 => [replay.as_str(), ""],
            4 => [written.as_str(), ""],
            5 => ["tap:t0,queues=3,vnet_hdr=0", ""],
            open => {
                let name = ["netmap:v1", "netmap:v1^", "netmap:v1*", "tap:t1"][open - 6];
                let mut port = ns.open(name).unwrap();
                let _ = port.tx(0).push(&[0xff; 60]);
                port.tx(0).sync().unwrap();
                return;
            }
        };
        let spec = format!("vale0:{device}");
        let (nr, host, mem_id) = (true, with_host == "host", 0);
        let request = Request::Attach {
            spec,
            nr,
            host,
            mem_id,
            port: None,
        };
        match control.ask(&request).0 {
            Reply::Attached { .. } => {}
            other => panic!("{request:?}: {other:?}"),
        }
        let name = match kind {
            0 | 5 => "t0",
            3 => "in",
            4 => "out",
            _ => "v0",
        };
        ns.detach(&format!("vale0:{name}")).unwrap();
    };
    // Threads and regions come with the first and stay.
    (0..10).for_each(&mut cycle);
    host.assert_empty();
    let before = belongings(&host);
    let mut kinds = [0; 10];
    let mut times = [0.0; 10];
    for i in 0..CYCLES {
        // A third of them by AF_XDP, which takes the longest to go. Six of each, and then by chance.
        let kind = if i < 60 { i % 10 } else { rng.below(10) };
        kinds[kind] += 1;
        let start = Instant::now();
        cycle(kind);
        times[kind] += start.elapsed().as_secs_f64();
    }
    assert!(kinds.iter().all(|&n| n > 5), "{kinds:?}");
    println!("cycles {kinds:?}, seconds {times:.1?}");
    host.assert_empty();
    let mut more = Vec::new();
    let nothing = within(PATIENCE, || {
        let now = belongings(&host).into_iter();
        let had = |what: &str| before.get(what).copied().unwrap_or(0);
        more = now.filter(|(what, n)| *n > had(what)).collect();
        more.is_empty()
    });
    assert!(nothing, "{more:?} of what had been {before:?}");
    let programs = ["v0", "v1"].map(|name| programs(&host.ns, name));
    assert_eq!(programs, [0, 0]);
}

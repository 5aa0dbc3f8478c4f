//! What is found out about an interface.

use netvale_backends::bpf::{XdpMode, xdp_state};
use netvale_backends::host::WireSide;
use netvale_backends::probe::{Finding, Interface, Privileges, Verdict, try_native, try_zero_copy};

use netvale_testkit::{eventually, refuse, skip};

use crate::bed::{Cable, redirect};
use crate::host::connect;

fn look(cable: &Cable, name: &str) -> Interface {
    cable.right.enter(|| Interface::look(name)).unwrap()
}

fn about<'a>(found: &'a [Finding], what: &str) -> &'a Finding {
    found.iter().find(|f| f.what == what).unwrap()
}

#[test]
fn a_cable_is_described() {
    let Some(cable) = Cable::new("probe::a_cable_is_described", 3, 4000) else {
        return;
    };
    let b = look(&cable, "b");
    assert_eq!(b.driver.as_deref(), Some("veth"));
    assert_eq!((b.rx_queues, b.tx_queues), (3, 3));
    assert_eq!((b.mtu, b.up, b.index), (4000, true, cable.right.index("b")));
    assert!(b.offloads.tso && b.offloads.gso);
    assert!(!b.offloads.lro);
    let features = b.features.unwrap();
    assert!(features.native && features.redirect && !features.zero_copy);
    assert_eq!(b.tcx, Some((vec![], vec![])));
    let found = b.findings();
    assert_eq!(about(&found, "interface").verdict, Verdict::Good);
    assert_eq!(about(&found, "frame size").verdict, Verdict::Limited);
    assert!(
        about(&found, "AF_XDP")
            .text
            .starts_with("native with a copy")
    );
    assert_eq!(about(&found, "host rings").verdict, Verdict::Good);
    // They are finished, whatever the offloads of the other end.
    assert!(found.iter().all(|f| f.what != "checksums"), "{found:?}");

    // With all that we attach to it.
    let program = redirect(&cable.right, "b", 3, XdpMode::Native);
    let (_tap, link) = connect(&cable.right, WireSide::Xdp);
    let b = look(&cable, "b");
    assert!(b.xdp.native.is_some());
    let ours = |name: &str| vec![name.to_owned()];
    assert_eq!(b.tcx, Some((ours("nv_host_gate"), ours("nv_host_out"))));
    assert_eq!(about(&b.findings(), "XDP program").verdict, Verdict::Bad);
    assert_eq!(about(&b.findings(), "host rings").verdict, Verdict::Good);
    drop((program, link));
    cable.right.ip("link set dev b down");
    let b = look(&cable, "b");
    assert_eq!(about(&b.findings(), "interface").verdict, Verdict::Bad);
    let no = cable.right.enter(|| Interface::look("none")).unwrap_err();
    assert!(no.to_string().starts_with("cannot look at interface none"));
    assert!(Privileges::look().suffice(), "or there would be no cable");
}

#[test]
fn attempts_leave_nothing_attached() {
    let Some(cable) = Cable::new("probe::attempts_leave_nothing_attached", 1, 1500) else {
        return;
    };
    let ns = &cable.right;
    let index = ns.index("b");
    ns.enter(|| try_native(index)).unwrap();
    eventually("nothing is attached", || {
        ns.enter(|| xdp_state(index)).unwrap().native.is_none()
    });
    let no = ns
        .enter(|| try_zero_copy(index, 0))
        .unwrap_err()
        .to_string();
    assert!(no.contains("queue 0 of b (its driver cannot"), "{no}");
    // Loopback has no native XDP.
    let no = ns.enter(|| try_native(1)).unwrap_err().to_string();
    assert!(
        no.starts_with("cannot attach native XDP to lo: its driver"),
        "{no}"
    );
}

#[test]
fn what_the_kernel_says_to_programs_is_told() {
    const TEST: &str = "probe::what_the_kernel_says_to_programs_is_told";
    if !Privileges::look().suffice() {
        return skip(TEST, "needs CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF");
    }
    // A filter holds for the thread.
    let looked = std::thread::spawn(|| {
        refuse(libc::SYS_bpf).unwrap();
        Privileges::look()
    });
    let mine = looked.join().unwrap();
    assert!(!mine.suffice());
    let said = mine.to_string();
    assert!(
        said.starts_with("the kernel refuses BPF programs: Operation not permitted"),
        "{said}"
    );
}

//! How programs and sockets end, and what stands in their way.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::time::Duration;

use netvale_backends::af_xdp::{RingSizes, Xsk, XskConfig, XskError};
use netvale_backends::bpf::{
    Asm, BpfError, Cell, Program, ProgramKind, Reg, Width, XdpMode, tc_programs, xdp_state,
};
use netvale_backends::host::WireSide;
use netvale_testkit::net::{NetNs, may_administer};
use netvale_testkit::{PATIENCE, eventually};

use crate::bed::{Cable, Port, config, redirect, region, umem};
use crate::host::connect;
use crate::processes::Other;

const LEFT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const RIGHT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const SHORT: Duration = Duration::from_millis(200);

fn addresses(cable: &Cable) {
    cable.left.ip(&format!("addr add {LEFT}/24 dev a"));
    cable.right.ip(&format!("addr add {RIGHT}/24 dev b"));
    assert!(cable.left.ping(RIGHT, 64, PATIENCE).is_some());
}

#[test]
fn a_killed_owner_leaves_the_interface_to_the_stack() {
    let Some(cable) = Cable::new(
        "life::a_killed_owner_leaves_the_interface_to_the_stack",
        1,
        1500,
    ) else {
        return;
    };
    addresses(&cable);
    let mut owner = Other::start("owner");
    owner.send("use this", &[cable.right.as_fd()]);
    assert_eq!(owner.hear(), "ready");
    assert!(cable.left.ping(RIGHT, 64, SHORT).is_none(), "all is taken");
    let index = cable.right.index("b");
    let state = cable.right.enter(|| xdp_state(index)).unwrap();
    assert!(state.native.is_some() && state.generic.is_none());
    owner.kill();
    eventually("the stack answers again", || {
        cable.left.ping(RIGHT, 64, SHORT).is_some()
    });
    let state = cable.right.enter(|| xdp_state(index)).unwrap();
    assert_eq!(state.native, None);
}

/// Descriptors of this process, by what they are.
fn descriptors() -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let Ok(target) = std::fs::read_link(entry.unwrap().path()) else {
            continue; // closed by another test meanwhile
        };
        let kind = target.to_string_lossy().into_owned();
        if let Some(kind) = kind
            .strip_prefix("anon_inode:")
            .filter(|k| k.contains("bpf"))
        {
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
    }
    kinds
}

fn kinds(of: &[(&str, usize)]) -> BTreeMap<String, usize> {
    of.iter().map(|&(kind, n)| (kind.into(), n)).collect()
}

#[test]
fn a_hundred_times_on_and_off_leaves_nothing() {
    let test = "life::a_hundred_times_on_and_off_leaves_nothing";
    // In a process of its own, where no other test opens descriptors.
    const ALONE: &str = "NETVALE_XDP_ALONE";
    if std::env::var_os(ALONE).is_none() {
        if !may_administer() {
            let _ = NetNs::new(test); // says so
            return;
        }
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(ALONE, "1")
            .status();
        assert!(status.unwrap().success());
        return;
    }
    // Queues in turns: each takes a while to be free again.
    let cable = Cable::new(test, 4, 1500).unwrap();
    addresses(&cable);
    let (file, geom) = region(16);
    let memory = umem(&file, &geom);
    let index = cable.right.index("b");
    let all = |what: &str| std::fs::read_dir(what).unwrap().count();
    let before = (all("/proc/self/fd"), maps(), descriptors());
    assert!(before.2.is_empty());
    for round in 0..100 {
        let mode = if round % 2 == 0 {
            XdpMode::Native
        } else {
            XdpMode::Generic
        };
        let queue = round / 2 % 4;
        let port = Port::open(&cable.right, "b", queue, &memory, 2..10, &config());
        let program = redirect(&cable.right, "b", 4, mode);
        program.connect(queue, &port.xsk.socket).unwrap();
        assert_eq!(descriptors(), kinds(&[("bpf-map", 1), ("bpf_link", 1)]));
        if mode == XdpMode::Native {
            let (_tap, link) = connect(&cable.right, WireSide::Xdp);
            link.capture(true).unwrap();
            assert_eq!(descriptors(), kinds(&[("bpf-map", 3), ("bpf_link", 5)]));
        }
    }
    assert_eq!((all("/proc/self/fd"), maps(), descriptors()), before);
    assert!(cable.left.ping(RIGHT, 64, PATIENCE).is_some());
    let state = cable.right.enter(|| xdp_state(index)).unwrap();
    assert_eq!(state, netvale_backends::bpf::XdpState::default());
    assert!(!cable.right.ip("link show dev b").contains("xdp"));
    assert!(!cable.right.ip("link").contains("t: "), "no TAP");
    let programs = cable.right.enter(|| tc_programs(index)).unwrap();
    assert_eq!(programs, (vec![], vec![]));
}

/// Mappings of AF_XDP rings.
fn maps() -> usize {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    text.lines().filter(|l| l.contains("socket:")).count()
}

#[test]
fn another_program_is_named() {
    let Some(cable) = Cable::new("life::another_program_is_named", 1, 1500) else {
        return;
    };
    let index = cable.right.index("b");
    let attach = |mode| {
        let no = cable
            .right
            .enter(|| netvale_backends::af_xdp::Redirect::attach(index, 1, mode));
        match no.unwrap_err() {
            BpfError::Busy {
                interface, holder, ..
            } => (interface, holder),
            e => panic!("{e:?}"),
        }
    };
    let first = redirect(&cable.right, "b", 1, XdpMode::Native);
    let (interface, holder) = attach(XdpMode::Native);
    assert_eq!(interface, "b");
    assert!(holder.starts_with("native program "), "{holder}");
    assert!(holder.ends_with("\"nv_redirect\""), "{holder}");
    // The kernel does not run both kinds.
    assert_eq!(attach(XdpMode::Generic).1, holder);
    drop(first);
    let _first = redirect(&cable.right, "b", 1, XdpMode::Generic);
    assert!(attach(XdpMode::Native).1.starts_with("generic program"));
}

#[test]
fn a_queue_has_one_socket_and_is_free_again_soon() {
    let Some(cable) = Cable::new(
        "life::a_queue_has_one_socket_and_is_free_again_soon",
        1,
        1500,
    ) else {
        return;
    };
    let (file, geom) = region(16);
    let memory = umem(&file, &geom);
    let first = Port::open(&cable.right, "b", 0, &memory, 2..10, &config());
    let index = cable.right.index("b");
    let at_once = XskConfig {
        patience: Duration::ZERO,
        ..config()
    };
    let no = cable
        .right
        .enter(|| Xsk::open(&memory, index, 0, &at_once))
        .unwrap_err();
    assert!(matches!(no, XskError::Busy { queue: 0, .. }), "{no}");
    assert!(no.to_string().starts_with("queue 0 of b has"), "{no}");
    // A ring alone keeps the socket.
    let rx = first.xsk.rx.unwrap();
    drop((first.xsk.socket, first.xsk.tx, first.xsk.fill));
    drop(first.xsk.completion);
    std::thread::sleep(SHORT);
    let no = cable.right.enter(|| Xsk::open(&memory, index, 0, &at_once));
    assert!(matches!(no, Err(XskError::Busy { .. })));
    drop(rx);
    drop(Port::open(&cable.right, "b", 0, &memory, 2..10, &config()));
}

#[test]
fn refusals_say_why_and_what_to_do() {
    let Some(cable) = Cable::new("life::refusals_say_why_and_what_to_do", 1, 1500) else {
        return;
    };
    let (file, geom) = region(16);
    let memory = umem(&file, &geom);
    let index = cable.right.index("b");
    #[track_caller]
    fn said(no: Result<Xsk, XskError>) -> String {
        match no {
            Ok(_) => panic!("it was not refused"),
            Err(e) => e.to_string(),
        }
    }
    let open = |index, queue, config: &XskConfig| {
        let no = cable
            .right
            .enter(|| Xsk::open(&memory, index, queue, config));
        said(no)
    };
    let no = open(index, 7, &config());
    assert!(
        no.starts_with("cannot bind AF_XDP to queue 7 of b (there may"),
        "{no}"
    );
    let no = open(4_000_000, 0, &config());
    assert!(no.contains("interface 4000000 (there is no such"), "{no}");
    let zero = XskConfig {
        copy: netvale_backends::af_xdp::CopyMode::ZeroCopy,
        ..config()
    };
    let no = open(index, 0, &zero);
    assert!(no.contains("its driver cannot do"), "{no}");
    let uneven = XskConfig {
        sizes: RingSizes::all(100),
        ..config()
    };
    assert!(open(index, 0, &uneven).contains("powers of two"));
    // Refused when it is bound, or when there is something to do.
    cable.right.ip("link set dev b down");
    let bound = cable
        .right
        .enter(|| Xsk::open(&memory, index, 0, &config()));
    match bound {
        Err(e) => assert!(e.to_string().contains("is down"), "{e}"),
        Ok(xsk) => {
            let no = xsk.socket.kick_tx().unwrap_err();
            assert_eq!(no.kind(), std::io::ErrorKind::NetworkDown);
        }
    }

    // A descriptor of something else is no socket.
    let no = Xsk::from_fd(
        file.as_fd().try_clone_to_owned().unwrap(),
        RingSizes::all(64),
    );
    assert!(
        no.unwrap_err()
            .to_string()
            .contains("the rings of an AF_XDP socket")
    );
    // Rings larger than they are cannot be mapped.
    cable.right.ip("link set dev b up");
    let port = Port::open(&cable.right, "b", 0, &memory, 2..10, &config());
    let again = port.xsk.socket.as_fd().try_clone_to_owned().unwrap();
    Xsk::from_fd(again, RingSizes::all(1 << 14)).unwrap_err();
}

#[test]
fn without_privilege_the_remedy_is_named() {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    // In a thread of its own, which gives its privileges away.
    let said = std::thread::spawn(|| {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        set_capabilities(None, none).unwrap();
        let (file, geom) = region(16);
        let memory = umem(&file, &geom);
        let socket = Xsk::open(&memory, 1, 0, &config()).map(|_| ());
        let program = netvale_backends::af_xdp::Redirect::attach(1, 1, XdpMode::Native);
        (
            socket.unwrap_err().to_string(),
            program.unwrap_err().to_string(),
        )
    });
    let (socket, program) = said.join().unwrap();
    assert_eq!(
        socket,
        "cannot make an AF_XDP socket (run as root or with CAP_NET_RAW)"
    );
    assert_eq!(
        program,
        "cannot create a BPF map of 1 sockets (run as root or with CAP_BPF and CAP_NET_ADMIN)"
    );
}

#[test]
fn the_verifiers_words_are_in_the_error() {
    let test = "life::the_verifiers_words_are_in_the_error";
    if !may_administer() {
        let _ = NetNs::new(test); // says so
        return;
    }
    let kind = ProgramKind::Xdp { frags: false };
    let mut asm = Asm::new();
    asm.load(Width::Word, Reg::R0, Reg::R7, 0); // which nothing has set
    asm.exit();
    let no = Program::load(kind, "nv_wrong", &asm.finish()).unwrap_err();
    assert!(matches!(no, BpfError::Verifier { .. }), "{no:?}");
    let text = no.to_string();
    assert!(
        text.starts_with("the kernel's verifier refuses program nv_wrong: "),
        "{text}"
    );
    assert!(text.contains("R7 !read_ok"), "{text}");

    // Memory of a cell is reached within its bounds only.
    let cell = Cell::new("nv_cell", 2).unwrap();
    cell.write(&[1, 2]).unwrap();
    assert_eq!(cell.read().unwrap(), [1, 2]);
    let no = cell.write(&[1, 2, 3]).unwrap_err().to_string();
    assert!(no.starts_with("cannot write the BPF map nv_cell"), "{no}");
    let mut asm = Asm::new();
    cell.address(&mut asm, Reg::R1, 1);
    asm.load(Width::Double, Reg::R0, Reg::R1, 8);
    asm.exit();
    let no = Program::load(kind, "nv_beyond", &asm.finish()).unwrap_err();
    assert!(no.to_string().contains("off=16 size=8"), "{no}");
}

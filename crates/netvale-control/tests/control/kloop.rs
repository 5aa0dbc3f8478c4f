//! Control blocks and the sync loop.

use netvale_control::{Errno, Eventfds, Kloop};
use netvale_wire::abi::{
    NmReqOptCsb, NmReqOptSyncKloopMode, NmReqSyncKloopStart, opttype, reqtype,
};
use zerocopy::IntoBytes;

use crate::fake::{ATOK, Call, KTOA, NOWHERE, RO, World, head, status};

const OK: Result<(), Errno> = Ok(());
const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

fn csb(atok: u64, ktoa: u64) -> NmReqOptCsb {
    NmReqOptCsb {
        nro_opt: head(opttype::CSB, 0),
        csb_atok: atok,
        csb_ktoa: ktoa,
    }
}

fn enable(w: &mut World, atok: u64, ktoa: u64) -> Result<(), Errno> {
    w.chain(&[csb(atok, ktoa).as_bytes()]);
    let done = w.bare(reqtype::CSB_ENABLE, "ignored");
    assert_eq!(w.statuses(1), [done.err().map_or(0, status)]);
    done
}

#[test]
fn csb_enable_needs_its_option() {
    let mut w = World::bound();
    assert_eq!(w.bare(reqtype::CSB_ENABLE, ""), EINVAL);
    w.chain(&[head(99, 0).as_bytes()]);
    assert_eq!(w.bare(reqtype::CSB_ENABLE, ""), EINVAL);
    assert!(w.host.calls.is_empty());
}

#[test]
fn csb_enable_on_an_unbound_file_has_no_effect() {
    let mut w = World::new();
    for (atok, ktoa) in [(ATOK, KTOA), (0, 0), (1, NOWHERE)] {
        assert_eq!(enable(&mut w, atok, ktoa), OK);
    }
    assert!(w.host.calls.is_empty());
}

#[test]
fn csb_enable_checks_as_registration_does() {
    for (atok, ktoa, want) in [
        (ATOK, KTOA, OK),
        (0, KTOA, EINVAL),
        (ATOK, 0, EINVAL),
        (ATOK + 4, KTOA, EINVAL),
        (ATOK, KTOA + 32, EINVAL),
        (NOWHERE, KTOA, Err(Errno::EFAULT)),
        (ATOK, RO, Err(Errno::EFAULT)),
    ] {
        let mut w = World::bound();
        assert_eq!(enable(&mut w, atok, ktoa), want);
        let calls = if want == OK {
            vec![Call::Csb(atok, ktoa)]
        } else {
            vec![]
        };
        assert_eq!(w.host.calls, calls);
        assert!(w.host.bound.is_some(), "stays bound");
    }
    for e in [Errno::EINVAL, Errno::EBUSY, Errno::ENOMEM] {
        let mut w = World::bound();
        w.host.fail_csb = Some(e);
        assert_eq!(enable(&mut w, ATOK, KTOA), Err(e));
        assert!(w.host.bound.is_some());
    }
}

#[test]
fn blocks_in_use_are_not_touched() {
    let mut w = World::bound();
    w.host.running = true;
    assert_eq!(enable(&mut w, ATOK, RO), Err(Errno::EBUSY));
    assert!(w.host.calls.is_empty());
}

fn start(w: &mut World, sleep_us: u32) -> Result<(), Errno> {
    let mut body = NmReqSyncKloopStart { sleep_us, pad: 0 };
    w.ctrl(reqtype::SYNC_KLOOP_START, "", &mut body)
}

#[test]
fn a_plain_loop() {
    for sleep_us in [0, 1, 1_000_000] {
        let mut w = World::bound();
        assert_eq!(start(&mut w, sleep_us), OK);
        let want = Kloop {
            sleep_us,
            ..Kloop::default()
        };
        assert_eq!(w.host.calls, [Call::Kloop(want)]);
    }
    for sleep_us in [1_000_001, u32::MAX] {
        let mut w = World::bound();
        assert_eq!(start(&mut w, sleep_us), EINVAL);
        assert!(w.host.calls.is_empty());
    }
    assert_eq!(start(&mut World::new(), 0), Err(Errno::ENXIO));
    for e in [Errno::EINVAL, Errno::EBUSY, Errno::EBADF] {
        let mut w = World::bound();
        w.host.fail = Some(e);
        assert_eq!(start(&mut w, 0), Err(e));
    }
    let mut w = World::bound();
    w.host.running = true;
    w.chain(&[mode(99).as_bytes()]);
    assert_eq!(start(&mut w, 0), Err(Errno::EBUSY));
    assert!(w.host.calls.is_empty());
}

fn mode(mode: u32) -> NmReqOptSyncKloopMode {
    NmReqOptSyncKloopMode {
        nro_opt: head(opttype::SYNC_KLOOP_MODE, 0),
        mode,
        pad: 0,
    }
}

/// The eventfd option with a size of `extra` bytes more than right.
fn eventfds(fds: &[(i32, i32)], extra: i64) -> Vec<u8> {
    let size = (24 + 8 * fds.len() as u64).wrapping_add_signed(extra);
    let mut bytes = head(opttype::SYNC_KLOOP_EVENTFDS, size).as_bytes().to_vec();
    for (io, irq) in fds {
        bytes.extend_from_slice(io.as_bytes());
        bytes.extend_from_slice(irq.as_bytes());
    }
    bytes
}

/// For the three rings that are bound.
const FDS: [(i32, i32); 3] = [(10, 11), (12, -1), (14, 15)];

#[test]
fn eventfds_are_one_pair_a_ring() {
    let mut w = World::bound();
    w.chain(&[&eventfds(&FDS, 0)]);
    assert_eq!(start(&mut w, 7), OK);
    assert_eq!(w.statuses(1), [0]);
    let pairs = FDS.map(|(ioeventfd, irqfd)| Eventfds { ioeventfd, irqfd });
    let want = Kloop {
        sleep_us: 7,
        eventfds: Some(pairs.to_vec()),
        ..Kloop::default()
    };
    assert_eq!(w.host.calls, [Call::Kloop(want)]);

    let four = [FDS.as_slice(), &[(1, 1)]].concat();
    for (fds, extra) in [
        (&FDS[..2], 0),
        (&four[..], 0),
        (&[], 0),
        (&FDS[..], 1),
        (&FDS[..], -1),
        (&FDS[..], -8),
        (&FDS[..], 8),
    ] {
        let mut w = World::bound();
        w.chain(&[&eventfds(fds, extra)]);
        assert_eq!(start(&mut w, 0), EINVAL);
        assert_eq!(w.statuses(1), [22]);
        assert!(w.host.calls.is_empty());
    }
}

#[test]
fn direct_modes_need_all_ioeventfds() {
    let missing = [(10, 11), (-1, 13), (14, 15)];
    for bits in 0..4u32 {
        // With the options in either order.
        for swap in [false, true] {
            let mut w = World::bound();
            let (m, f) = (mode(bits), eventfds(&FDS, 0));
            let list: [&[u8]; 2] = if swap {
                [&f, m.as_bytes()]
            } else {
                [m.as_bytes(), &f]
            };
            w.chain(&list);
            assert_eq!(start(&mut w, 0), OK);
            assert_eq!(w.statuses(2), [0, 0]);
            let [Call::Kloop(k)] = w.host.calls.as_slice() else {
                panic!("{:?}", w.host.calls);
            };
            assert_eq!((k.direct_tx, k.direct_rx), (bits & 1 != 0, bits & 2 != 0));
        }

        let mut w = World::bound();
        w.chain(&[mode(bits).as_bytes(), &eventfds(&missing, 0)]);
        let want = if bits == 0 { OK } else { EINVAL };
        assert_eq!(start(&mut w, 0), want, "one missing");
        assert_eq!(w.statuses(2), [0, want.err().map_or(0, status)]);

        let mut w = World::bound();
        w.chain(&[mode(bits).as_bytes()]);
        assert_eq!(start(&mut w, 0), want, "all missing");
        assert_eq!(w.statuses(1), [want.err().map_or(0, status)]);
    }
}

#[test]
fn unknown_mode_bits_are_refused() {
    for bits in [4, 7, 1 << 31, u32::MAX] {
        let mut w = World::bound();
        w.chain(&[mode(bits).as_bytes(), &eventfds(&FDS, 0)]);
        assert_eq!(start(&mut w, 0), EINVAL);
        assert_eq!(w.statuses(2), [22, 95]);
        assert!(w.host.calls.is_empty());
    }
}

#[test]
fn stop_always_succeeds() {
    for mut w in [World::new(), World::bound(), World::failing(Errno::EINVAL)] {
        assert_eq!(w.bare(reqtype::SYNC_KLOOP_STOP, "any"), OK);
        assert_eq!(w.host.calls, [Call::KloopStop]);
    }
}

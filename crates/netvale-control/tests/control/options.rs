//! The list of options: budgets, statuses, what comes back.

use netvale_control::Errno;
use netvale_wire::abi::{
    NIOCCTRL, NmReqOptCsb, NmReqOptOffsets, NmReqOptSyncKloopMode, NmReqOption, NmReqPortHdr,
    NmReqRegister, mode, opttype, reqtype,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::fake::{
    ATOK, BIG, BIG_LEN, BODY, Call, HDR, KTOA, NOWHERE, OPT_STEP, OPTS, RO, WO, World, head,
    header, status,
};

const EMSGSIZE: Result<(), Errno> = Err(Errno::EMSGSIZE);
const NOT_SUPPORTED: u32 = 95;
const UNTOUCHED: u32 = u32::MAX;

/// A request that looks at no option.
fn stop(w: &mut World) -> Result<(), Errno> {
    w.bare(reqtype::SYNC_KLOOP_STOP, "")
}

fn register(w: &mut World) -> Result<(), Errno> {
    let mut body = NmReqRegister::new_zeroed();
    body.nr_mode = mode::ALL_NIC;
    w.ctrl(reqtype::REGISTER, "vale0:a", &mut body)
}

#[test]
fn an_unknown_option_is_marked_and_fails_registration_only() {
    for kind in [6, 7, 1234, u32::MAX] {
        let mut w = World::new();
        w.chain(&[head(kind, u64::MAX).as_bytes()]);
        assert_eq!(stop(&mut w), Ok(()));
        assert_eq!(w.statuses(1), [NOT_SUPPORTED]);

        w.chain(&[head(kind, 0).as_bytes()]);
        assert_eq!(register(&mut w), Err(Errno::EOPNOTSUPP));
        assert_eq!(w.statuses(1), [NOT_SUPPORTED]);
        assert!(w.host.bound.is_none());
        assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
    }
}

#[test]
fn known_options_in_the_wrong_request_are_ignored_or_fail_registration() {
    let mode = NmReqOptSyncKloopMode {
        nro_opt: head(opttype::SYNC_KLOOP_MODE, 0),
        mode: 0,
        pad: 0,
    };
    let fds = head(opttype::SYNC_KLOOP_EVENTFDS, 24);
    for option in [mode.as_bytes(), fds.as_bytes()] {
        let mut w = World::new();
        w.chain(&[option]);
        assert_eq!(stop(&mut w), Ok(()));
        assert_eq!(w.statuses(1), [NOT_SUPPORTED]);
        assert_eq!(register(&mut w), Err(Errno::EOPNOTSUPP));
        assert!(w.host.bound.is_none());
    }
}

#[test]
fn type_zero_ends_the_request() {
    let mut w = World::new();
    w.chain(&[
        head(100, 0).as_bytes(),
        head(0, 0).as_bytes(),
        head(100, 0).as_bytes(),
    ]);
    assert_eq!(stop(&mut w), Err(Errno::EINVAL));
    assert!(w.host.calls.is_empty());
    assert_eq!(w.statuses(3), [NOT_SUPPORTED, 22, UNTOUCHED]);
}

#[test]
fn the_same_known_type_twice_marks_both() {
    for kind in 1..opttype::MAX {
        let mut w = World::new();
        let bytes = [head(kind, 24).as_bytes(), &[0; 80]].concat();
        w.chain(&[&bytes, head(99, 0).as_bytes(), &bytes]);
        assert_eq!(stop(&mut w), Err(Errno::EINVAL));
        assert!(w.host.calls.is_empty());
        assert_eq!(w.statuses(3), [22, NOT_SUPPORTED, 22]);
        let back: NmReqOption = w.option(0);
        assert_eq!(back.nro_next, OPTS + OPT_STEP, "as given");
    }
    let mut w = World::new();
    w.chain(&[head(99, 0).as_bytes(), head(99, 0).as_bytes()]);
    assert_eq!(stop(&mut w), Ok(()), "unknown ones may repeat");
}

#[test]
fn endless_lists_end() {
    // Of an unknown type, of length one and two; of a known type.
    for (kinds, want) in [
        (&[1234u32][..], EMSGSIZE),
        (&[1234, 4321], EMSGSIZE),
        (&[opttype::CSB], Err(Errno::EINVAL)),
        (&[99, opttype::CSB, 98], Err(Errno::EINVAL)),
    ] {
        for reqtype in [reqtype::SYNC_KLOOP_STOP, reqtype::REGISTER] {
            let mut w = World::new();
            let bytes: Vec<_> = kinds
                .iter()
                .map(|&k| [head(k, 0).as_bytes(), &[0; 16]].concat())
                .collect();
            let refs: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
            w.chain(&refs);
            let end = OPTS + (kinds.len() as u64 - 1) * OPT_STEP;
            let mut last: NmReqOption = w.mem.get(end);
            last.nro_next = OPTS;
            w.mem.put(end, &last);
            let done = match reqtype {
                reqtype::REGISTER => register(&mut w),
                _ => stop(&mut w),
            };
            assert_eq!(done, want, "{kinds:?}");
            assert!(w.host.calls.is_empty());
            assert_eq!(w.mem.get::<NmReqOption>(end).nro_next, OPTS);
        }
    }
}

/// `n` unknown options one after another; the address of the last.
fn plain_list(w: &mut World, n: u64) -> u64 {
    for i in 0..n {
        let mut o = head(77, 0);
        o.nro_next = if i + 1 < n { BIG + 24 * (i + 1) } else { 0 };
        o.nro_status = UNTOUCHED;
        w.mem.put(BIG + 24 * i, &o);
    }
    w.first = BIG;
    BIG + 24 * (n - 1)
}

#[test]
fn plain_options_are_limited_by_number() {
    // 16 + 48 + body + 32 n must not exceed 4208: 129 without a body, 127 with
    // that of a registration.
    for (n, want) in [(129, Ok(())), (130, EMSGSIZE), (10_000, EMSGSIZE)] {
        let mut w = World::new();
        plain_list(&mut w, n);
        assert_eq!(stop(&mut w), want, "{n}");
        let first: NmReqOption = w.mem.get(BIG);
        let marked = if want.is_ok() {
            NOT_SUPPORTED
        } else {
            UNTOUCHED
        };
        assert_eq!(first.nro_status, marked);
    }
    for (n, want) in [
        (127, Err(Errno::EOPNOTSUPP)),
        (128, EMSGSIZE),
        (10_000, EMSGSIZE),
    ] {
        let mut w = World::new();
        plain_list(&mut w, n);
        assert_eq!(register(&mut w), want, "{n}");
        assert_eq!(w.host.calls.is_empty(), want == EMSGSIZE);
    }
}

#[test]
fn a_declared_size_over_the_limit_is_refused_for_every_known_type() {
    for kind in 1..opttype::MAX {
        for (size, long) in [(4096, kind == 2), (4097, true), (u64::MAX, true)] {
            let mut w = World::new();
            w.chain(&[&[head(kind, size).as_bytes(), &[0; 80]].concat()]);
            // 24 + 4072 fit, but for the eventfds only with no body at all.
            let want = if long && size > 4096 {
                EMSGSIZE
            } else {
                Ok(())
            };
            assert_eq!(stop(&mut w), want, "{kind} {size}");
            assert_eq!(w.statuses(1), [NOT_SUPPORTED]);
        }
    }
}

#[test]
fn the_sum_of_all_parts_is_limited() {
    let fds = |size| [head(opttype::SYNC_KLOOP_EVENTFDS, size).as_bytes(), &[0; 8]].concat();
    // Alone, the eventfds may fill the limit; not so after another option or a
    // body.
    for (before, body, size, want) in [
        (0, false, 4096, Ok(())),
        (0, false, 4097, EMSGSIZE),
        (1, false, 4096 - 24, Ok(())),
        (1, false, 4096 - 23, EMSGSIZE),
        (3, false, 4096 - 72, Ok(())),
        (3, false, 4096 - 71, EMSGSIZE),
        (0, true, 4096 - 8, Ok(())),
        (0, true, 4096 - 7, EMSGSIZE),
    ] {
        let mut w = World::new();
        let plain = head(50, 0);
        let fds = fds(size);
        let mut list = vec![plain.as_bytes(); before];
        list.push(&fds);
        w.chain(&list);
        let done = if body {
            w.ctrl(
                reqtype::PORT_HDR_GET,
                "vale0:a",
                &mut NmReqPortHdr::new_zeroed(),
            )
        } else {
            stop(&mut w)
        };
        assert_eq!(done, want, "{before} {body} {size}");
    }
    // So many plain options that the buffer, not the sum, is what overflows.
    for (plain, want) in [(127, Ok(())), (128, EMSGSIZE)] {
        let mut w = World::new();
        let last = plain_list(&mut w, plain);
        let at = OPTS;
        let mut o: NmReqOption = w.mem.get(last);
        o.nro_next = at;
        w.mem.put(last, &o);
        w.mem.put(at, &head(opttype::OFFSETS, 0));
        assert_eq!(stop(&mut w), want, "{plain}");
    }
}

#[test]
fn eventfds_shorter_than_their_head_have_no_body() {
    for size in [0, 1, 23, 24] {
        let mut w = World::new();
        // At the very end of memory: nothing after the head may be read.
        let at = HDR + 0x2_0000 - 24;
        w.mem.put(at, &head(opttype::SYNC_KLOOP_EVENTFDS, size));
        w.first = at;
        assert_eq!(stop(&mut w), Ok(()), "{size}");
    }
}

#[test]
fn bad_pointers_are_faults_and_what_was_read_is_marked() {
    let bad = [
        1,
        NOWHERE,
        WO,
        HDR + 0x2_0000 - 8,
        u64::MAX,
        u64::MAX - 23,
        u64::MAX - 24,
    ];
    for at in bad {
        let mut w = World::new();
        w.first = at;
        assert_eq!(stop(&mut w), Err(Errno::EFAULT), "{at:x}");
        // As the second one.
        w.chain(&[head(90, 0).as_bytes()]);
        let mut first: NmReqOption = w.option(0);
        first.nro_next = at;
        w.mem.put(OPTS, &first);
        assert_eq!(stop(&mut w), Err(Errno::EFAULT), "{at:x}");
        assert!(w.host.calls.is_empty());
        let back: NmReqOption = w.option(0);
        assert_eq!((back.nro_next, back.nro_status), (at, NOT_SUPPORTED));
    }
    // A head at the end of memory, its body beyond.
    for kind in [1, 3, 4, 5] {
        let mut w = World::new();
        w.first = HDR + 0x2_0000 - 24;
        w.mem.put(w.first, &head(kind, 0));
        assert_eq!(stop(&mut w), Err(Errno::EFAULT));
    }
}

#[test]
fn an_option_that_cannot_be_written_is_a_fault_and_the_others_are_marked() {
    let mut w = World::new();
    w.chain(&[head(90, 0).as_bytes(), head(91, 0).as_bytes()]);
    let mut first: NmReqOption = w.option(0);
    first.nro_next = RO;
    w.mem.put(OPTS, &first);
    let mut middle = head(92, 0);
    middle.nro_next = OPTS + OPT_STEP;
    w.mem.put(RO, &middle);
    assert_eq!(stop(&mut w), Err(Errno::EFAULT));
    assert_eq!(w.statuses(2), [NOT_SUPPORTED; 2]);
    assert_eq!(w.mem.get::<NmReqOption>(RO), middle);
}

#[test]
fn a_binding_is_undone_if_a_status_cannot_be_written() {
    let mut w = World::new();
    let mut option = NmReqOptOffsets::new_zeroed();
    option.nro_opt = head(opttype::OFFSETS, 0);
    w.mem.put(RO, &option);
    w.first = RO;
    assert_eq!(register(&mut w), Err(Errno::EFAULT));
    assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
}

#[test]
fn bodies_come_back_after_success_with_status_zero_only() {
    let offsets = |max| NmReqOptOffsets {
        nro_opt: head(opttype::OFFSETS, 0),
        nro_max_offset: max,
        nro_tx_align: 3,
        ..NmReqOptOffsets::new_zeroed()
    };
    // The largest offset in force is an answer.
    let mut w = World::new();
    w.host.max_offset = Some(300);
    w.chain(&[offsets(200).as_bytes()]);
    assert_eq!(register(&mut w), Ok(()));
    let back: NmReqOptOffsets = w.option(0);
    assert_eq!((back.nro_opt.nro_status, back.nro_max_offset), (0, 300));
    assert_eq!(back.nro_tx_align, 3);

    // Status 0, but the call fails later.
    let mut w = World::new();
    w.host.max_offset = Some(300);
    w.chain(&[offsets(200).as_bytes(), head(99, 0).as_bytes()]);
    assert_eq!(register(&mut w), Err(Errno::EOPNOTSUPP));
    let back: NmReqOptOffsets = w.option(0);
    assert_eq!((back.nro_opt.nro_status, back.nro_max_offset), (0, 200));
    assert_eq!(w.statuses(2), [0, NOT_SUPPORTED]);

    // The call succeeds, the option was not taken.
    let mut w = World::new();
    w.chain(&[offsets(200).as_bytes()]);
    assert_eq!(stop(&mut w), Ok(()));
    assert_eq!(w.option::<NmReqOptOffsets>(0).nro_max_offset, 200);
}

#[test]
fn a_body_that_is_no_answer_need_not_be_writable() {
    let at = BIG + BIG_LEN as u64 - 24;
    let body = [0u8; 32];
    // Not taken, though the call succeeds.
    let mut w = World::new();
    w.mem.put(at, &head(opttype::OFFSETS, 0));
    w.mem.put(at + 24, &body);
    w.first = at;
    assert_eq!(stop(&mut w), Ok(()));
    assert_eq!(w.mem.get::<NmReqOption>(at).nro_status, NOT_SUPPORTED);
    // Taken, but the call fails: its own error, not that of the copy.
    let mut w = World::new();
    let mut first = head(99, 0);
    first.nro_next = at;
    w.mem.put(OPTS, &first);
    w.mem.put(at, &head(opttype::OFFSETS, 0));
    w.first = OPTS;
    assert_eq!(register(&mut w), Err(Errno::EOPNOTSUPP));
    assert_eq!(w.mem.get::<NmReqOption>(at).nro_status, 0);
    // Taken by a call that succeeds: a fault, and the binding is undone.
    let mut w = World::new();
    w.mem.put(at, &head(opttype::OFFSETS, 0));
    w.first = at;
    assert_eq!(register(&mut w), Err(Errno::EFAULT));
    assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
}

#[test]
fn options_may_lie_over_each_other_and_over_the_request() {
    // An option that is the header itself, and one that is the body: odd
    // requests, but neither endless nor out of bounds.
    for first in [HDR, HDR + 8, BODY, BODY - 8] {
        let mut w = World::new();
        let mut body = NmReqRegister::new_zeroed();
        body.nr_mode = mode::ALL_NIC;
        w.mem.put(BODY, &body);
        let mut h = header(reqtype::REGISTER, "vale0:a");
        h.nr_body = BODY;
        h.nr_options = first;
        w.mem.put(HDR, &h);
        let _ = w.ioctl(NIOCCTRL, HDR);
    }
    let mut w = World::new();
    let csb = NmReqOptCsb {
        nro_opt: head(opttype::CSB, 0),
        csb_atok: ATOK,
        csb_ktoa: KTOA,
    };
    w.chain(&[csb.as_bytes()]);
    // The second option is the first one's body.
    let mut first: NmReqOption = w.option(0);
    first.nro_next = OPTS + 24;
    w.mem.put(OPTS, &first);
    w.mem.put(OPTS + 24, &head(99, 0));
    assert_eq!(w.bare(reqtype::CSB_ENABLE, ""), Ok(()), "not bound");
    assert_eq!(w.statuses(1), [0]);
    assert_eq!(status(Errno::EOPNOTSUPP), NOT_SUPPORTED);
}

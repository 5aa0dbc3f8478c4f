//! `REGISTER`, row by row.

use netvale_control::{Bound, Errno, Extmem, Memory, Offsets, Pool, Register};
use netvale_wire::abi::{
    NmReqOptCsb, NmReqOptExtmem, NmReqOptOffsets, NmReqPoolsInfo, NmReqRegister, mode, opttype,
    regflags, reqtype,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::fake::{ATOK, Call, KTOA, NOWHERE, PORT, RO, WO, World, head, status};

const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

fn wish() -> NmReqRegister {
    NmReqRegister {
        nr_offset: 91,
        nr_memsize: 92,
        nr_tx_slots: 10,
        nr_rx_slots: 20,
        nr_tx_rings: 3,
        nr_rx_rings: 4,
        nr_host_tx_rings: 5,
        nr_host_rx_rings: 6,
        nr_mem_id: 8,
        nr_ringid: 1,
        nr_mode: mode::ONE_NIC,
        nr_extra_bufs: 40,
        pad: 0,
        nr_flags: regflags::EXCLUSIVE | 0x1000 | 1 << 50,
    }
}

fn register(w: &mut World, body: &mut NmReqRegister) -> Result<(), Errno> {
    w.ctrl(reqtype::REGISTER, "eth0", body)
}

fn simple(w: &mut World, mode: u32, flags: u64) -> Result<(), Errno> {
    let mut body = NmReqRegister::new_zeroed();
    body.nr_mode = mode;
    body.nr_flags = flags;
    register(w, &mut body)
}

#[test]
fn a_request_is_handed_on_and_answered_in_full() {
    let mut w = World::new();
    let mut body = wish();
    assert_eq!(register(&mut w, &mut body), Ok(()));
    assert_eq!(
        *w.registered(),
        Register {
            name: "eth0".into(),
            mode: mode::ONE_NIC,
            ringid: 1,
            flags: regflags::EXCLUSIVE | 0x1000 | 1 << 50,
            mem_id: 8,
            rings: [3, 4, 5, 6],
            slots: [10, 20],
            extra_bufs: 40,
            extmem: None,
            offsets: None,
        }
    );
    assert_eq!(
        body,
        NmReqRegister {
            nr_offset: 0x2_0000_0040,
            nr_memsize: PORT.memsize,
            nr_tx_slots: 512,
            nr_rx_slots: 256,
            nr_tx_rings: 2,
            nr_rx_rings: 3,
            nr_host_tx_rings: 1,
            nr_host_rx_rings: 1,
            nr_mem_id: 7,
            nr_extra_bufs: 3,
            ..wish()
        },
        "mode, ring and flags unchanged"
    );
}

#[test]
fn every_error_of_the_host_is_the_request_s() {
    for e in [
        Errno::ENXIO,
        Errno::EOPNOTSUPP,
        Errno::EINVAL,
        Errno::ENOMEM,
        Errno::EBUSY,
        Errno::EIO,
        Errno::ENODEV,
    ] {
        let mut w = World::failing(e);
        let mut body = wish();
        assert_eq!(register(&mut w, &mut body), Err(e));
        assert_eq!(body, wish());
        assert_eq!(w.host.calls.len(), 1, "nothing to undo");
        // The file can be used again.
        w.host.fail = None;
        assert_eq!(register(&mut w, &mut body), Ok(()));
    }
}

#[test]
fn a_bound_file_is_busy_before_anything_else() {
    let mut w = World::bound();
    let mut body = wish();
    body.nr_mode = 99;
    w.chain(&[head(99, 0).as_bytes()]);
    assert_eq!(register(&mut w, &mut body), Err(Errno::EBUSY));
    assert!(w.host.calls.is_empty());
    assert_eq!(w.statuses(1), [95]);
}

#[test]
fn modes() {
    for m in 0..20 {
        let mut w = World::new();
        let done = simple(&mut w, m, 0);
        match m {
            mode::ALL_NIC..=mode::ONE_NIC | mode::ONE_SW => assert_eq!(done, Ok(())),
            // No memory. As a pipe: the old requests only.
            mode::NULL | mode::PIPE_MASTER | mode::PIPE_SLAVE => {
                assert_eq!(done, EINVAL);
                assert!(w.host.calls.is_empty());
            }
            _ => {
                assert_eq!(done, EINVAL);
                assert_eq!(w.host.calls, [Call::PortInfo("eth0".into(), 0)]);
                // A port that is not there comes first.
                let mut w = World::failing(Errno::ENXIO);
                assert_eq!(simple(&mut w, m, 0), Err(Errno::ENXIO));
            }
        }
    }
}

#[test]
fn a_null_port_needs_memory_but_no_name() {
    for name in ["", "anything at all"] {
        let mut w = World::new();
        let mut body = NmReqRegister::new_zeroed();
        body.nr_mode = mode::NULL;
        body.nr_mem_id = 4;
        assert_eq!(w.ctrl(reqtype::REGISTER, name, &mut body), Ok(()));
        assert_eq!((&*w.registered().name, w.registered().mem_id), (name, 4));
    }
    let mut w = World::new();
    w.chain(&[extmem().as_bytes()]);
    assert_eq!(simple(&mut w, mode::NULL, 0), Ok(()));
    assert!(w.registered().extmem.is_some());
}

#[test]
fn no_interface_has_an_empty_name() {
    let mut w = World::new();
    let mut body = NmReqRegister::new_zeroed();
    body.nr_mode = mode::ALL_NIC;
    assert_eq!(w.ctrl(reqtype::REGISTER, "", &mut body), Err(Errno::ENXIO));
    assert!(w.host.calls.is_empty());
    // The region is looked for first.
    let mut w = World::failing(Errno::EINVAL);
    body.nr_mem_id = 3;
    assert_eq!(w.ctrl(reqtype::REGISTER, "", &mut body), EINVAL);
    assert_eq!(w.host.calls, [Call::Memory(3)]);
}

#[test]
fn flags_come_back_unchanged_but_for_a_zero_copy_monitor() {
    let both = regflags::MONITOR_TX | regflags::MONITOR_RX;
    for (given, back) in [
        (0, 0),
        (!regflags::ZCOPY_MON, !regflags::ZCOPY_MON),
        (regflags::RX_RINGS_ONLY | regflags::TX_RINGS_ONLY, 0x6000),
        (regflags::ZCOPY_MON, regflags::ZCOPY_MON | both),
        (
            regflags::ZCOPY_MON | 1 << 63,
            regflags::ZCOPY_MON | both | 1 << 63,
        ),
    ] {
        let mut w = World::new();
        let mut body = NmReqRegister::new_zeroed();
        body.nr_mode = mode::ALL_NIC;
        body.nr_flags = given;
        assert_eq!(register(&mut w, &mut body), Ok(()));
        assert_eq!(body.nr_flags, back);
        assert_eq!(w.registered().flags, back);
    }
}

fn extmem() -> NmReqOptExtmem {
    NmReqOptExtmem {
        nro_opt: head(opttype::EXTMEM, 0),
        nro_usrptr: 0x7000_0000,
        nro_info: NmReqPoolsInfo {
            nr_memsize: 1 << 21,
            nr_mem_id: 77,
            nr_if_pool_objtotal: 11,
            nr_buf_pool_objsize: 4096,
            ..NmReqPoolsInfo::new_zeroed()
        },
    }
}

#[test]
fn external_memory_wins_and_its_defaults_come_back() {
    let mut w = World::new();
    w.chain(&[extmem().as_bytes()]);
    let mut body = wish();
    assert_eq!(register(&mut w, &mut body), Ok(()));
    assert_eq!(w.registered().mem_id, 0, "the other region is ignored");
    let pool = |count, size| Pool {
        offset: 0,
        count,
        size,
    };
    assert_eq!(
        w.registered().extmem,
        Some(Extmem {
            addr: 0x7000_0000,
            memory: Memory {
                size: 1 << 21,
                id: 77,
                ifs: pool(11, 0),
                rings: pool(0, 0),
                bufs: pool(0, 4096),
            }
        })
    );
    let mut want = extmem();
    want.nro_info.nr_if_pool_objsize = 1024;
    want.nro_info.nr_ring_pool_objtotal = 4;
    want.nro_info.nr_ring_pool_objsize = 20480;
    want.nro_info.nr_buf_pool_objtotal = 400;
    assert_eq!(w.option::<NmReqOptExtmem>(0), want);
}

#[test]
fn external_memory_that_is_not_to_be_had() {
    // Not built in: the host leaves it out, or says so.
    let mut w = World::new();
    w.host.can_extmem = false;
    w.chain(&[extmem().as_bytes()]);
    assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(w.statuses(1), [95]);
    assert!(w.host.bound.is_none());
    for (e, marked) in [
        (Errno::EOPNOTSUPP, 95),
        (Errno::ENOMEM, 12),
        (Errno::EINVAL, 22),
        (Errno::EFAULT, 14),
        // Not of the memory.
        (Errno::ENXIO, 0),
        (Errno::EBUSY, 0),
    ] {
        let mut w = World::failing(e);
        w.chain(&[extmem().as_bytes()]);
        assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(e));
        assert_eq!(w.statuses(1), [marked]);
        let back: NmReqOptExtmem = w.option(0);
        assert_eq!(back.nro_info, extmem().nro_info);
    }
}

fn offsets(max: u64, initial: u64, bits: u32) -> NmReqOptOffsets {
    NmReqOptOffsets {
        nro_opt: head(opttype::OFFSETS, 0),
        nro_max_offset: max,
        nro_initial_offset: initial,
        nro_offset_bits: bits,
        nro_tx_align: 16,
        nro_min_gap: 32,
    }
}

#[test]
fn offsets_are_checked() {
    for (max, initial, bits, ok) in [
        (0, 0, 0, true),
        (128, 128, 0, true),
        (128, 129, 0, false),
        (u64::MAX, u64::MAX, 64, true),
        (u64::MAX, 0, 0, true),
        (255, 0, 8, true),
        (256, 0, 8, false),
        (1, 1, 1, true),
        (2, 0, 1, false),
        (1 << 62, 0, 63, true),
        (1 << 63, 0, 63, false),
        (0, 0, 65, false),
        (0, 0, u32::MAX, false),
    ] {
        let mut w = World::new();
        w.chain(&[offsets(max, initial, bits).as_bytes()]);
        let done = simple(&mut w, mode::ALL_NIC, 0);
        if ok {
            assert_eq!(done, Ok(()));
            let want = Offsets {
                max,
                initial,
                bits: if bits == 0 { 64 } else { bits },
                tx_align: 16,
                min_gap: 32,
            };
            assert_eq!(w.registered().offsets, Some(want));
            assert_eq!(w.statuses(1), [0]);
            let back: NmReqOptOffsets = w.option(0);
            assert_eq!(back.nro_offset_bits, bits, "as given");
        } else {
            assert_eq!(done, EINVAL, "{max} {initial} {bits}");
            assert_eq!(w.statuses(1), [22]);
            assert!(w.host.bound.is_none());
        }
    }
}

#[test]
fn bad_offsets_are_found_after_the_port() {
    let bad = offsets(1, 2, 0);
    // No such port.
    let mut w = World::failing(Errno::ENXIO);
    w.chain(&[bad.as_bytes()]);
    assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(Errno::ENXIO));
    assert_eq!(w.statuses(1), [95], "never looked at");
    // One without offsets, whether or not the host says so.
    let mut w = World::failing(Errno::EOPNOTSUPP);
    w.chain(&[bad.as_bytes()]);
    assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(Errno::EOPNOTSUPP));
    for option in [bad, offsets(2, 1, 0)] {
        let mut w = World::new();
        w.host.max_offset = None;
        w.chain(&[option.as_bytes()]);
        assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(Errno::EOPNOTSUPP));
        assert_eq!(w.statuses(1), [95]);
        assert!(w.host.bound.is_none());
    }
    // A conflict with what is in force; larger than a buffer.
    for e in [Errno::EBUSY, Errno::EINVAL] {
        let mut w = World::failing(e);
        w.chain(&[offsets(2, 1, 0).as_bytes()]);
        assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(e));
        assert_eq!(w.statuses(1), [status(e)]);
    }
}

fn csb(atok: u64, ktoa: u64) -> NmReqOptCsb {
    NmReqOptCsb {
        nro_opt: head(opttype::CSB, 0),
        csb_atok: atok,
        csb_ktoa: ktoa,
    }
}

#[test]
fn control_blocks() {
    let exclusive = regflags::EXCLUSIVE;
    let end = crate::fake::HDR + 0x2_0000;
    // Three rings: 192 bytes each.
    for (atok, ktoa, flags, want) in [
        (ATOK, KTOA, exclusive, Ok(())),
        (end - 192, KTOA, exclusive, Ok(())),
        (ATOK, KTOA, 0, Err(Errno::EINVAL)),
        (NOWHERE, KTOA, 0, Err(Errno::EINVAL)),
        (0, KTOA, exclusive, Err(Errno::EINVAL)),
        (ATOK, 0, exclusive, Err(Errno::EINVAL)),
        (ATOK + 32, KTOA, exclusive, Err(Errno::EINVAL)),
        (ATOK, KTOA + 1, exclusive, Err(Errno::EINVAL)),
        (end - 128, KTOA, exclusive, Err(Errno::EFAULT)),
        (ATOK, end - 128, exclusive, Err(Errno::EFAULT)),
        (NOWHERE, KTOA, exclusive, Err(Errno::EFAULT)),
        (ATOK, NOWHERE, exclusive, Err(Errno::EFAULT)),
        (RO, KTOA, exclusive, Err(Errno::EFAULT)),
        (ATOK, RO, exclusive, Err(Errno::EFAULT)),
        (WO, KTOA, exclusive, Err(Errno::EFAULT)),
        (ATOK, WO, exclusive, Err(Errno::EFAULT)),
        (!63, KTOA, exclusive, Err(Errno::EFAULT)),
        (ATOK, !63, exclusive, Err(Errno::EFAULT)),
    ] {
        let mut w = World::new();
        w.mem.put(ATOK, &[5u8; 192]);
        w.chain(&[csb(atok, ktoa).as_bytes()]);
        assert_eq!(
            simple(&mut w, mode::ALL_NIC, flags),
            want,
            "{atok:x} {ktoa:x}"
        );
        assert_eq!(w.statuses(1), [want.err().map_or(0, status)]);
        assert_eq!(w.host.bound.is_some(), want.is_ok());
        let last = match want {
            Ok(()) => Call::Csb(atok, ktoa),
            Err(_) => Call::Unregister,
        };
        assert_eq!(w.host.calls.last(), Some(&last));
        assert_eq!(w.mem.get::<[u8; 192]>(ATOK), [5; 192], "only tried");
    }
}

#[test]
fn control_blocks_are_looked_at_after_the_port() {
    let mut w = World::failing(Errno::ENXIO);
    w.chain(&[csb(1, 1).as_bytes()]);
    assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Err(Errno::ENXIO));
    assert_eq!(w.statuses(1), [95]);
    // And after bad offsets.
    let mut w = World::new();
    w.chain(&[
        csb(NOWHERE, NOWHERE).as_bytes(),
        offsets(0, 1, 0).as_bytes(),
    ]);
    assert_eq!(simple(&mut w, mode::ALL_NIC, regflags::EXCLUSIVE), EINVAL);
    assert_eq!(w.statuses(2), [95, 22]);
}

#[test]
fn control_blocks_that_the_host_refuses_undo_the_binding() {
    for e in [Errno::EBUSY, Errno::ENOMEM, Errno::EFAULT] {
        let mut w = World::new();
        w.host.fail_csb = Some(e);
        w.chain(&[csb(ATOK, KTOA).as_bytes()]);
        assert_eq!(simple(&mut w, mode::ALL_NIC, regflags::EXCLUSIVE), Err(e));
        assert_eq!(w.statuses(1), [status(e)]);
        assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
    }
}

#[test]
fn without_rings_control_blocks_have_no_effect() {
    let mut w = World::new();
    w.host.next = Bound {
        bound: [0, 0],
        ..w.host.next
    };
    w.chain(&[csb(1, 1).as_bytes()]);
    assert_eq!(simple(&mut w, mode::ALL_NIC, 0), Ok(()));
    assert_eq!(w.statuses(1), [0]);
    assert_eq!(w.host.calls.len(), 1);
}

#[test]
fn many_rings_are_tried_to_the_last() {
    let end = crate::fake::HDR + 0x2_0000;
    for (rings, want) in [
        (256, Ok(())),
        (257, Err(Errno::EFAULT)),
        (u32::MAX, Err(Errno::EFAULT)),
    ] {
        let mut w = World::new();
        w.host.next.bound = [rings, 0];
        w.chain(&[csb(end - 64 * 256, end - 64 * 256).as_bytes()]);
        assert_eq!(simple(&mut w, mode::ALL_NIC, regflags::EXCLUSIVE), want);
    }
}

#[test]
fn all_options_together() {
    let mut w = World::new();
    w.chain(&[
        csb(ATOK, KTOA).as_bytes(),
        offsets(64, 0, 16).as_bytes(),
        extmem().as_bytes(),
    ]);
    assert_eq!(simple(&mut w, mode::SW, regflags::EXCLUSIVE), Ok(()));
    assert_eq!(w.statuses(3), [0, 0, 0]);
    let mut w = World::new();
    w.chain(&[csb(ATOK, KTOA).as_bytes(), head(6, 0).as_bytes()]);
    let done = simple(&mut w, mode::SW, regflags::EXCLUSIVE);
    assert_eq!(done, Err(Errno::EOPNOTSUPP));
    assert_eq!(w.statuses(2), [0, 95]);
    assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
}

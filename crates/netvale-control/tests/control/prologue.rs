//! What happens before a request is looked at, and after.

use netvale_control::Errno;
use netvale_wire::abi::{
    NIOCCONFIG, NIOCCTRL, NIOCGINFO, NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC, NmIfreq, NmReq,
    NmReqHeader, NmReqPortHdr, NmReqPortInfoGet, NmReqRegister, mode, reqtype,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::fake::{BODY, Call, HDR, NOWHERE, RO, WO, World, header};

const COMMANDS: [u32; 4] = [NIOCCTRL, NIOCREGIF, NIOCGINFO, NIOCCONFIG];

#[test]
fn unknown_commands_are_not_supported_whatever_their_argument() {
    for cmd in [0, NIOCTXSYNC, NIOCRXSYNC, NIOCCTRL + 1, 0x5421, u32::MAX] {
        for arg in [0, HDR, NOWHERE, u64::MAX] {
            assert_eq!(World::new().ioctl(cmd, arg), Err(Errno::EOPNOTSUPP));
        }
    }
}

#[test]
fn the_argument_must_be_there() {
    for cmd in COMMANDS {
        assert_eq!(World::new().ioctl(cmd, 0), Err(Errno::EINVAL));
        // Unmapped, not readable, at the end of memory, beyond it.
        for arg in [
            NOWHERE,
            WO,
            HDR - 1,
            HDR + 0x2_0000 - 8,
            u64::MAX,
            u64::MAX - 20,
        ] {
            let mut w = World::new();
            assert_eq!(w.ioctl(cmd, arg), Err(Errno::EFAULT), "{arg:x}");
            assert!(w.host.calls.is_empty());
        }
    }
}

#[test]
fn a_header_that_cannot_be_written_back_is_a_fault() {
    let mut w = World::new();
    w.mem.put(RO, &header(reqtype::SYNC_KLOOP_STOP, ""));
    assert_eq!(w.ioctl(NIOCCTRL, RO), Err(Errno::EFAULT));
    assert_eq!(
        w.host.calls,
        [Call::KloopStop],
        "the request was carried out"
    );
}

#[test]
fn a_binding_is_undone_if_its_answer_cannot_be_written() {
    let mut body = NmReqRegister::new_zeroed();
    body.nr_mode = mode::ALL_NIC;
    // The header, then the body.
    for (hdr, at) in [(RO, BODY), (HDR, RO)] {
        let mut w = World::new();
        let mut h = header(reqtype::REGISTER, "vale0:a");
        h.nr_body = at;
        w.mem.put(hdr, &h);
        w.mem.put(at, &body);
        assert_eq!(w.ioctl(NIOCCTRL, hdr), Err(Errno::EFAULT));
        assert!(w.host.bound.is_none());
        assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
    }
    let mut w = World::new();
    let mut req = NmReq::new_zeroed();
    req.nr_version = 14;
    assert!(req.set_name(b"vale0:a"));
    w.mem.put(RO, &req);
    assert_eq!(w.ioctl(NIOCREGIF, RO), Err(Errno::EFAULT));
    assert!(w.host.bound.is_none());
    assert_eq!(w.host.calls.last(), Some(&Call::Unregister));
}

#[test]
fn the_fixed_structure_comes_back_after_a_failure() {
    // Seen by the terminated name.
    let mut w = World::new();
    let mut h = header(reqtype::VALE_DELIF, "");
    h.nr_name = [b'x'; 64];
    h.nr_reserved = 1;
    w.mem.put(HDR, &h);
    assert_eq!(w.ioctl(NIOCCTRL, HDR), Err(Errno::EINVAL));
    let back: NmReqHeader = w.mem.get(HDR);
    h.nr_name[63] = 0;
    assert_eq!(back.as_bytes(), h.as_bytes());

    let mut req = NmReq::new_zeroed();
    req.nr_name = [b'x'; 16];
    req.nr_version = 14;
    req.nr_cmd = 99;
    w.mem.put(HDR, &req);
    assert_eq!(w.ioctl(NIOCREGIF, HDR), Err(Errno::EINVAL));
    req.nr_name[15] = 0;
    assert_eq!(w.mem.get::<NmReq>(HDR), req);

    let mut w = World::failing(Errno::EINVAL);
    let mut config = NmIfreq::new_zeroed();
    config.nifr_name[..5].copy_from_slice(b"vale0");
    w.mem.put(HDR, &config);
    assert_eq!(w.ioctl(NIOCCONFIG, HDR), Err(Errno::EINVAL));
    config.data[0] = 0xff;
    assert_eq!(
        w.mem.get::<NmIfreq>(HDR),
        config,
        "what the host made of it"
    );
}

#[test]
fn versions_14_and_15_are_spoken() {
    for (version, ok) in [(0, false), (13, false), (14, true), (15, true), (16, false)] {
        let mut w = World::new();
        let mut h = header(reqtype::SYNC_KLOOP_STOP, "");
        h.nr_version = version;
        w.mem.put(HDR, &h);
        let want = if ok { Ok(()) } else { Err(Errno::EINVAL) };
        assert_eq!(w.ioctl(NIOCCTRL, HDR), want, "{version}");
        assert_eq!(w.mem.get::<NmReqHeader>(HDR).nr_version, version);
    }
}

#[test]
fn the_reserved_word_must_be_zero() {
    let mut w = World::new();
    let mut h = header(reqtype::SYNC_KLOOP_STOP, "");
    h.nr_reserved = 0x8000_0000;
    w.mem.put(HDR, &h);
    assert_eq!(w.ioctl(NIOCCTRL, HDR), Err(Errno::EINVAL));
    assert!(w.host.calls.is_empty());
}

#[test]
fn a_body_is_there_exactly_if_the_request_has_one() {
    for reqtype in 0..=20 {
        let bare = matches!(reqtype, 9 | 14 | 15);
        let known = (1..=15).contains(&reqtype);
        let mut w = World::bound();
        if !known || !bare {
            assert_eq!(w.bare(reqtype, "vale0:a"), Err(Errno::EINVAL), "{reqtype}");
        }
        if !known || bare {
            let mut body = [0u8; 64];
            let done = w.ctrl(reqtype, "vale0:a", &mut body);
            assert_eq!(done, Err(Errno::EINVAL), "{reqtype}");
        }
        assert!(w.host.calls.is_empty(), "{reqtype}");
    }
    assert_eq!(World::new().bare(reqtype::VALE_DELIF, "v0"), Ok(()));
    assert_eq!(World::new().bare(reqtype::SYNC_KLOOP_STOP, ""), Ok(()));
}

#[test]
fn a_bad_body_pointer_is_a_fault_before_anything_happens() {
    for reqtype in (1..=13).filter(|&t| t != reqtype::VALE_DELIF) {
        for at in [NOWHERE, WO, HDR + 0x2_0000 - 4, u64::MAX - 3, 1] {
            let mut w = World::new();
            let mut h = header(reqtype, "vale0:a");
            h.nr_body = at;
            w.mem.put(HDR, &h);
            assert_eq!(w.ioctl(NIOCCTRL, HDR), Err(Errno::EFAULT));
            assert!(w.host.calls.is_empty());
        }
    }
}

#[test]
fn the_body_comes_back_on_success_only() {
    let given = NmReqPortInfoGet {
        nr_tx_slots: 77,
        pad: [1, 2, 3],
        ..NmReqPortInfoGet::new_zeroed()
    };
    let mut w = World::failing(Errno::ENXIO);
    let mut body = given;
    let done = w.ctrl(reqtype::PORT_INFO_GET, "eth0", &mut body);
    assert_eq!((done, body), (Err(Errno::ENXIO), given));
    let mut w = World::new();
    assert_eq!(w.ctrl(reqtype::PORT_INFO_GET, "eth0", &mut body), Ok(()));
    assert_eq!((body.nr_tx_slots, body.pad), (512, [1, 2, 3]));

    // A body that cannot be written.
    let mut h = header(reqtype::PORT_HDR_GET, "vale0:a");
    h.nr_body = RO;
    w.mem.put(HDR, &h);
    assert_eq!(w.ioctl(NIOCCTRL, HDR), Err(Errno::EFAULT));
    assert_eq!(w.mem.get::<NmReqPortHdr>(RO).nr_hdr_len, 0);
}

#[test]
fn a_name_ends_at_byte_63_and_must_be_utf_8() {
    let mut w = World::new();
    let mut h = header(reqtype::VALE_DELIF, "");
    h.nr_name = [b'n'; 64];
    w.mem.put(HDR, &h);
    assert_eq!(w.ioctl(NIOCCTRL, HDR), Ok(()));
    assert_eq!(w.host.calls, [Call::DelIf("n".repeat(63))]);

    for reqtype in 1..=12 {
        let mut w = World::new();
        let mut h = header(reqtype, "");
        h.nr_name[..9].copy_from_slice(b"vale0:\xff\xfe\0");
        h.nr_body = if reqtype == reqtype::VALE_DELIF {
            0
        } else {
            BODY
        };
        w.mem.put(HDR, &h);
        assert_eq!(w.ioctl(NIOCCTRL, HDR), Err(Errno::EINVAL), "{reqtype}");
        assert!(w.host.calls.is_empty(), "{reqtype}");
    }
}

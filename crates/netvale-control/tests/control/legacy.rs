//! The old requests.

use netvale_control::{Attach, Errno, ListEntry, NewIf};
use netvale_wire::abi::legacy::{RINGID_DO_RX_POLL, RINGID_HW, RINGID_NO_TX_POLL, RINGID_SW, cmd};
use netvale_wire::abi::{NIOCCONFIG, NIOCGINFO, NIOCREGIF, NmIfreq, NmReq, mode, regflags};
use zerocopy::FromZeros;

use crate::fake::{Call, HDR, World};

const OK: Result<(), Errno> = Ok(());
const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

/// Numbers that are recognised when they come back.
fn request(name: &str) -> NmReq {
    let mut req = NmReq {
        nr_name: [0; 16],
        nr_version: 14,
        nr_offset: 1001,
        nr_memsize: 1002,
        nr_tx_slots: 1003,
        nr_rx_slots: 1004,
        nr_tx_rings: 1005,
        nr_rx_rings: 1006,
        nr_ringid: 0,
        nr_cmd: 0,
        nr_arg1: 1007,
        nr_arg2: 1008,
        nr_arg3: 1009,
        nr_flags: 0,
        spare2: [1010],
    };
    assert!(req.set_name(name.as_bytes()));
    req
}

fn send(w: &mut World, cmd: u32, req: &mut NmReq) -> Result<(), Errno> {
    w.mem.put(HDR, req);
    let done = w.ioctl(cmd, HDR);
    *req = w.mem.get(HDR);
    done
}

fn regif(w: &mut World, req: &mut NmReq) -> Result<(), Errno> {
    send(w, NIOCREGIF, req)
}

#[test]
fn any_version_from_14_on_is_accepted() {
    for cmd in [NIOCREGIF, NIOCGINFO] {
        for (version, ok) in [
            (0, false),
            (13, false),
            (14, true),
            (15, true),
            (u32::MAX, true),
        ] {
            let mut w = World::new();
            let mut req = request("eth0");
            req.nr_version = version;
            let want = if ok { OK } else { EINVAL };
            assert_eq!(send(&mut w, cmd, &mut req), want, "{version}");
            assert_eq!(req.nr_version, version);
            assert_eq!(w.host.calls.is_empty(), !ok);
        }
    }
}

#[test]
fn a_registration_is_translated_and_answered() {
    let mut w = World::new();
    let given = NmReq {
        nr_ringid: RINGID_HW | 5,
        nr_flags: 0x800,
        ..request("eth0")
    };
    let mut req = given;
    assert_eq!(regif(&mut w, &mut req), OK);
    let asked = w.registered();
    assert_eq!(
        (&*asked.name, asked.mode, asked.ringid),
        ("eth0", mode::ONE_NIC, 5)
    );
    assert_eq!(asked.rings, [1005, 1006, 0, 0], "no host rings");
    assert_eq!(asked.slots, [1003, 1004]);
    assert_eq!((asked.mem_id, asked.extra_bufs), (1008, 1009));
    assert_eq!(asked.flags, regflags::EXCLUSIVE);
    assert_eq!((asked.extmem, asked.offsets), (None, None));
    let want = NmReq {
        // Of 0x2_0000_0040 and 0x1_2345_6000.
        nr_offset: 0x40,
        nr_memsize: 0x2345_6000,
        nr_tx_slots: 512,
        nr_rx_slots: 256,
        nr_tx_rings: 2,
        nr_rx_rings: 3,
        nr_arg2: 7,
        nr_arg3: 3,
        ..given
    };
    assert_eq!(req, want, "all else as given");
}

#[test]
fn a_failed_registration_comes_back_as_given() {
    for e in [Errno::ENXIO, Errno::EINVAL, Errno::EBUSY, Errno::ENOMEM] {
        let mut w = World::failing(e);
        let mut req = request("eth0");
        assert_eq!(regif(&mut w, &mut req), Err(e));
        assert_eq!(req, request("eth0"));
    }
    let mut w = World::bound();
    assert_eq!(regif(&mut w, &mut request("eth0")), Err(Errno::EBUSY));
}

#[test]
fn modes_come_from_the_flags_or_else_from_the_ring() {
    for (ringid, flags, mode, ring) in [
        (0, 0, mode::ALL_NIC, 0),
        (3, 0, mode::ALL_NIC, 3),
        (RINGID_HW | 3, 0, mode::ONE_NIC, 3),
        (RINGID_SW, 0, mode::SW, 0),
        (RINGID_SW | 2, 0x800, mode::SW, 2),
        (RINGID_HW | 0xfff, 0, mode::ONE_NIC, 0xfff),
        (RINGID_SW, 1, mode::ALL_NIC, 0),
        (0, 2, mode::SW, 0),
        (0, 3, mode::NIC_SW, 0),
        (RINGID_SW | 4, 4, mode::ONE_NIC, 4),
        (0, 7, mode::NULL, 0),
        (1, 8, mode::ONE_SW, 1),
    ] {
        let mut w = World::new();
        let given = NmReq {
            nr_ringid: ringid,
            nr_flags: flags,
            ..request("eth0")
        };
        let mut req = given;
        assert_eq!(regif(&mut w, &mut req), OK);
        assert_eq!((w.registered().mode, w.registered().ringid), (mode, ring));
        assert_eq!((req.nr_ringid, req.nr_flags), (ringid, flags), "as given");
        assert_eq!(w.registered().flags, u64::from(flags & !0xf));
    }
    for flags in 9..16 {
        let mut req = request("eth0");
        req.nr_flags = flags;
        assert_eq!(regif(&mut World::new(), &mut req), EINVAL, "{flags}");
    }
}

#[test]
fn pipes_are_named_by_their_number() {
    for (flags, ringid, name) in [
        (5, 0, "eth0{0"),
        (6, 0, "eth0}0"),
        (5, 7, "eth0{7"),
        (6, 0xfff, "eth0}4095"),
        (5, 0xf00a, "eth0{10"),
    ] {
        let mut w = World::new();
        let given = NmReq {
            nr_ringid: ringid,
            nr_flags: flags,
            ..request("eth0")
        };
        let mut req = given;
        assert_eq!(regif(&mut w, &mut req), OK);
        let asked = w.registered();
        assert_eq!((&*asked.name, asked.mode), (name, mode::ALL_NIC));
        assert_eq!(asked.ringid, 0);
        assert_eq!(req.nr_name, given.nr_name, "the name as given");
        assert_eq!((req.nr_ringid, req.nr_flags), (ringid, flags));
    }
    // The longest there can be still fits.
    let mut w = World::new();
    let mut req = request("a23456789012345");
    (req.nr_flags, req.nr_ringid) = (6, 0xfff);
    assert_eq!(regif(&mut w, &mut req), OK);
    assert_eq!(w.registered().name, "a23456789012345}4095");
}

#[test]
fn flags_and_ring_bits_become_flags() {
    for (ringid, flags, want) in [
        (RINGID_NO_TX_POLL, 0, regflags::NO_TX_POLL),
        (RINGID_DO_RX_POLL, 0, regflags::DO_RX_POLL),
        (0x9000, 0x100, 0x3_0100),
        (0, 0xffff_fff0, 0xffff_fff0),
    ] {
        let mut w = World::new();
        let mut req = request("eth0");
        (req.nr_ringid, req.nr_flags) = (ringid, flags);
        assert_eq!(regif(&mut w, &mut req), OK);
        let asked = w.registered().flags & !(regflags::MONITOR_TX | regflags::MONITOR_RX);
        assert_eq!(asked, want & !(regflags::MONITOR_TX | regflags::MONITOR_RX));
        assert_eq!((req.nr_ringid, req.nr_flags), (ringid, flags));
    }
    // Other than in the new request, a zero-copy monitor's flags too.
    let mut w = World::new();
    let mut req = request("eth0");
    req.nr_flags = 0x400;
    assert_eq!(regif(&mut w, &mut req), OK);
    assert_eq!(req.nr_flags, 0x400);
    assert_eq!(w.registered().flags, 0x700);
}

#[test]
fn port_info() {
    // Any command but a list is ignored here.
    for cmd in [0, 1, 6, 99] {
        let mut w = World::new();
        let given = NmReq {
            nr_cmd: cmd,
            nr_ringid: RINGID_HW | 9,
            nr_flags: 0x705,
            ..request("vale0:a")
        };
        let mut req = given;
        assert_eq!(send(&mut w, NIOCGINFO, &mut req), OK);
        assert_eq!(w.host.calls, [Call::PortInfo("vale0:a".into(), 1008)]);
        let want = NmReq {
            nr_memsize: 0x2345_6000,
            nr_tx_slots: 512,
            nr_rx_slots: 256,
            nr_tx_rings: 2,
            nr_rx_rings: 3,
            nr_arg2: 7,
            ..given
        };
        assert_eq!(req, want, "no offset, no extra buffers");
    }
    let mut w = World::failing(Errno::ENXIO);
    let mut req = request("eth0");
    assert_eq!(send(&mut w, NIOCGINFO, &mut req), Err(Errno::ENXIO));
    assert_eq!(req, request("eth0"));
}

#[test]
fn port_info_without_a_name_is_about_a_region() {
    for id in [0, 3] {
        let mut w = World::new();
        let mut req = request("");
        req.nr_arg2 = id;
        assert_eq!(send(&mut w, NIOCGINFO, &mut req), OK);
        assert_eq!(w.host.calls, [Call::Memory(id)]);
        let want = NmReq {
            nr_memsize: 0x10_0000,
            nr_arg2: 9,
            ..request("")
        };
        assert_eq!(req, want);
    }
}

fn command(cmd: u16, name: &str) -> NmReq {
    NmReq {
        nr_cmd: cmd,
        ..request(name)
    }
}

#[test]
fn attach_and_detach() {
    for (arg1, host) in [(0, false), (1, true), (2, false), (0xffff, true)] {
        for flags in [0, 1, 2, 4] {
            let mut w = World::new();
            let mut req = command(cmd::BDG_ATTACH, "vale0:eth0");
            (req.nr_arg1, req.nr_flags) = (arg1, flags);
            let given = req;
            assert_eq!(regif(&mut w, &mut req), OK);
            let want = Attach {
                name: "vale0:eth0".into(),
                host,
                mem_id: 1008,
            };
            assert_eq!(w.host.calls, [Call::Attach(want)]);
            assert_eq!(req, given);
        }
    }
    let mut req = command(cmd::BDG_ATTACH, "vale0:eth0");
    req.nr_ringid = RINGID_HW | 1;
    assert_eq!(regif(&mut World::new(), &mut req), EINVAL);
    assert_eq!(
        regif(&mut World::new(), &mut command(cmd::BDG_ATTACH, "eth0")),
        EINVAL
    );

    let mut w = World::new();
    let mut req = command(cmd::BDG_DETACH, "vale0:eth0");
    assert_eq!(regif(&mut w, &mut req), OK);
    assert_eq!(w.host.calls, [Call::Detach("vale0:eth0".into())]);
    assert_eq!(req, command(cmd::BDG_DETACH, "vale0:eth0"));
    assert_eq!(regif(&mut w, &mut command(cmd::BDG_DETACH, "eth0")), EINVAL);
}

#[test]
fn lists() {
    let mut w = World::new();
    for (port_idx, name) in [(2, "vale0:a"), (300, "vale0:long_name_of_a_port")] {
        w.host.list.push(ListEntry {
            bridge_idx: 4,
            port_idx,
            name: name.into(),
        });
    }
    let mut ask = |name: &str, bridge, port| {
        let mut req = command(cmd::BDG_LIST, name);
        (req.nr_arg1, req.nr_arg2) = (bridge, port);
        let done = send(&mut w, NIOCGINFO, &mut req);
        let name = String::from_utf8(req.name().to_vec()).unwrap();
        done.map(|()| (req.nr_arg1, req.nr_arg2, name))
    };
    assert_eq!(ask("", 0, 0), Ok((4, 2, "vale0:a".into())));
    assert_eq!(ask("", 4, 3), Ok((4, 300, "vale0:long_name".into())), "cut");
    assert_eq!(ask("", 4, 301), Err(Errno::ENOENT));
    assert_eq!(ask("", 5, 0), Err(Errno::ENOENT));
    assert_eq!(ask("vale0:a", 0, 0), Ok((4, 2, "vale0:a".into())));
    assert_eq!(ask("vale0:b", 0, 0), Ok((4, 255, "vale0:b".into())));
    assert_eq!(ask("vale1:b", 0, 0), Err(Errno::ENOENT));
    assert_eq!(ask("eth0", 0, 0), Err(Errno::EINVAL));
    // Not a registration.
    assert_eq!(regif(&mut w, &mut command(cmd::BDG_LIST, "")), EINVAL);
}

#[test]
fn header_lengths() {
    for (len, want) in [(0, OK), (10, OK), (12, OK), (11, EINVAL)] {
        let mut w = World::new();
        let mut req = command(cmd::BDG_VNET_HDR, "vale0:a");
        req.nr_arg1 = len;
        let given = req;
        assert_eq!(regif(&mut w, &mut req), want);
        assert_eq!(req, given);
        let call = Call::SetHdr("vale0:a".into(), u32::from(len));
        assert_eq!(w.host.calls, if want == OK { vec![call] } else { vec![] });
    }
    let mut w = World::new();
    let mut req = command(cmd::VNET_HDR_GET, "vale0:a");
    assert_eq!(regif(&mut w, &mut req), OK);
    assert_eq!(w.host.calls, [Call::Hdr("vale0:a".into())]);
    let want = NmReq {
        nr_arg1: 12,
        ..command(cmd::VNET_HDR_GET, "vale0:a")
    };
    assert_eq!(req, want);
}

#[test]
fn persistent_ports() {
    let mut w = World::new();
    let mut req = command(cmd::BDG_NEWIF, "v0");
    assert_eq!(regif(&mut w, &mut req), OK);
    let wish = NewIf {
        rings: [1005, 1006],
        slots: [1003, 1004],
        mem_id: 1008,
    };
    assert_eq!(w.host.calls, [Call::NewIf("v0".into(), wish)]);
    let want = NmReq {
        nr_tx_slots: 1024,
        nr_rx_slots: 2048,
        nr_tx_rings: 1,
        nr_rx_rings: 2,
        nr_arg2: 11,
        ..command(cmd::BDG_NEWIF, "v0")
    };
    assert_eq!(req, want);
    assert_eq!(
        regif(&mut w, &mut command(cmd::BDG_NEWIF, "vale0:a")),
        EINVAL
    );
    let mut w = World::failing(Errno::EEXIST);
    let done = regif(&mut w, &mut command(cmd::BDG_NEWIF, "v0"));
    assert_eq!(done, Err(Errno::EEXIST));

    let mut w = World::new();
    let mut req = command(cmd::BDG_DELIF, "v0");
    assert_eq!(regif(&mut w, &mut req), OK);
    assert_eq!(w.host.calls, [Call::DelIf("v0".into())]);
    assert_eq!(req, command(cmd::BDG_DELIF, "v0"));
}

#[test]
fn polling_threads() {
    for (flags, ringid, cpus, want) in [
        (1, 3, 1, Some((1, 3, 1))),
        (1, 0, 2, None),
        (4, 2, 5, Some((2, 2, 5))),
        (0x804, 0xf001, 5, Some((2, 1, 5))),
        (0, 0, 1, None),
        (2, 0, 1, None),
    ] {
        let mut w = World::new();
        let mut req = command(cmd::BDG_POLLING_ON, "vale0:eth0");
        (req.nr_flags, req.nr_ringid, req.nr_arg1) = (flags, ringid, cpus);
        let given = req;
        let result = if want.is_some() { OK } else { EINVAL };
        assert_eq!(regif(&mut w, &mut req), result);
        assert_eq!(req, given);
        let calls: Vec<_> = want
            .map(|_| Call::Polling("vale0:eth0".into(), want))
            .into_iter()
            .collect();
        assert_eq!(w.host.calls, calls);
    }
    let mut w = World::new();
    let mut req = command(cmd::BDG_POLLING_OFF, "vale0:eth0");
    assert_eq!(regif(&mut w, &mut req), OK);
    assert_eq!(w.host.calls, [Call::Polling("vale0:eth0".into(), None)]);
}

#[test]
fn commands_that_are_not_served() {
    for (cmd, e) in [
        (cmd::PT_HOST_CREATE, Errno::ENOMEM),
        (cmd::PT_HOST_DELETE, Errno::ENOMEM),
        (cmd::BDG_REGOPS, Errno::EINVAL),
        (13, Errno::EINVAL),
        (0xffff, Errno::EINVAL),
    ] {
        let mut w = World::new();
        let mut req = command(cmd, "vale0:a");
        assert_eq!(regif(&mut w, &mut req), Err(e), "{cmd}");
        assert_eq!(req, command(cmd, "vale0:a"));
        assert!(w.host.calls.is_empty());
    }
}

#[test]
fn names_that_are_not_utf_8_are_refused() {
    for cmd in [NIOCREGIF, NIOCGINFO] {
        for nr_cmd in [0, 1, 2, 4, 5, 6, 7, 10, 11, 12] {
            let mut w = World::new();
            let mut req = command(nr_cmd, "");
            req.nr_name[..7].copy_from_slice(b"vale:\xc3\x28");
            assert_eq!(send(&mut w, cmd, &mut req), EINVAL, "{nr_cmd}");
            assert!(w.host.calls.is_empty());
        }
    }
}

#[test]
fn config_passes_bytes() {
    let mut w = World::new();
    let mut req = NmIfreq::new_zeroed();
    req.nifr_name = [b'v'; 16];
    req.data = [7; 256];
    w.mem.put(HDR, &req);
    assert_eq!(w.ioctl(NIOCCONFIG, HDR), OK);
    assert_eq!(w.host.calls, [Call::Config("v".repeat(15))]);
    req.data[0] = 0xf8;
    assert_eq!(w.mem.get::<NmIfreq>(HDR), req);

    for name in [&b"\0"[..], b"\xff\0"] {
        let mut w = World::new();
        let mut req = NmIfreq::new_zeroed();
        req.nifr_name[..name.len()].copy_from_slice(name);
        w.mem.put(HDR, &req);
        assert_eq!(w.ioctl(NIOCCONFIG, HDR), EINVAL);
        assert_eq!(w.mem.get::<NmIfreq>(HDR), req);
        assert!(w.host.calls.is_empty());
    }
}

//! Requests about ports, switches and regions, row by row.

use netvale_control::{Attach, Errno, ListEntry, NewIf};
use netvale_wire::abi::{
    NmReqPoolsInfo, NmReqPortHdr, NmReqPortInfoGet, NmReqRegister, NmReqValeAttach,
    NmReqValeDetach, NmReqValeList, NmReqValeNewif, NmReqValePolling, mode, polling, reqtype,
};
use zerocopy::FromZeros;

use crate::fake::{Call, MADE, PORT, World};

const OK: Result<(), Errno> = Ok(());
const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

/// All requests that name a port hand on what the host says.
#[test]
fn errors_of_the_host_are_the_request_s() {
    for e in [
        Errno::ENXIO,
        Errno::EBUSY,
        Errno::EACCES,
        Errno::EEXIST,
        Errno::EIO,
    ] {
        for reqtype in (1..=12).filter(|&t| t != reqtype::VALE_DELIF) {
            let name = match reqtype {
                reqtype::VALE_NEWIF => "v0",
                _ => "vale0:a",
            };
            let mut w = World::failing(e);
            let mut body = [0u8; 64];
            match reqtype {
                reqtype::REGISTER | reqtype::VALE_ATTACH => body[36] = 1,
                reqtype::VALE_POLLING_ENABLE => (body[0], body[8]) = (1, 1),
                _ => {}
            }
            let given = body;
            assert_eq!(w.ctrl(reqtype, name, &mut body), Err(e), "{reqtype}");
            assert_eq!(body, given, "{reqtype}");
            assert_eq!(w.host.calls.len(), 1, "{reqtype}");
        }
        assert_eq!(World::failing(e).bare(reqtype::VALE_DELIF, "v0"), Err(e));
    }
}

#[test]
fn port_info() {
    let mut w = World::new();
    let mut body = NmReqPortInfoGet::new_zeroed();
    body.nr_mem_id = 4;
    assert_eq!(w.ctrl(reqtype::PORT_INFO_GET, "vale0:a", &mut body), OK);
    assert_eq!(w.host.calls, [Call::PortInfo("vale0:a".into(), 4)]);
    assert_eq!(
        body,
        NmReqPortInfoGet {
            nr_memsize: PORT.memsize,
            nr_tx_slots: 512,
            nr_rx_slots: 256,
            nr_tx_rings: 2,
            nr_rx_rings: 3,
            nr_host_tx_rings: 1,
            nr_host_rx_rings: 1,
            nr_mem_id: 7,
            pad: [0; 3],
        }
    );
}

#[test]
fn port_info_without_a_name_is_about_a_region() {
    for id in [0, 1, 5] {
        let mut w = World::new();
        let given = NmReqPortInfoGet {
            nr_tx_slots: 70,
            nr_rx_rings: 9,
            nr_mem_id: id,
            ..NmReqPortInfoGet::new_zeroed()
        };
        let mut body = given;
        assert_eq!(w.ctrl(reqtype::PORT_INFO_GET, "", &mut body), OK);
        assert_eq!(w.host.calls, [Call::Memory(id)]);
        let want = NmReqPortInfoGet {
            nr_memsize: MADE.size,
            nr_mem_id: MADE.id,
            ..given
        };
        assert_eq!(body, want);
    }
    let mut w = World::failing(Errno::EINVAL);
    let mut body = NmReqPortInfoGet::new_zeroed();
    assert_eq!(w.ctrl(reqtype::PORT_INFO_GET, "", &mut body), EINVAL);
}

#[test]
fn pools_info() {
    let mut w = World::new();
    let mut body = NmReqPoolsInfo::new_zeroed();
    body.nr_mem_id = 2;
    assert_eq!(w.ctrl(reqtype::POOLS_INFO_GET, "eth0", &mut body), OK);
    let calls = [Call::PortInfo("eth0".into(), 2), Call::Memory(PORT.mem_id)];
    assert_eq!(w.host.calls, calls);
    assert_eq!(
        body,
        NmReqPoolsInfo {
            nr_memsize: MADE.size,
            nr_mem_id: 9,
            pad: [0; 3],
            nr_if_pool_offset: 0,
            nr_if_pool_objtotal: 2,
            nr_if_pool_objsize: 1024,
            nr_ring_pool_offset: 0x1000,
            nr_ring_pool_objtotal: 4,
            nr_ring_pool_objsize: 20480,
            nr_buf_pool_offset: 0x2_0000,
            nr_buf_pool_objtotal: 400,
            nr_buf_pool_objsize: 2048,
        }
    );
    let mut w = World::new();
    let done = w.ctrl(reqtype::POOLS_INFO_GET, "", &mut body);
    assert_eq!(done, Err(Errno::ENXIO));
    assert!(w.host.calls.is_empty());
}

#[test]
fn header_lengths() {
    let set = |name: &str, len| {
        let mut w = World::new();
        let mut body = NmReqPortHdr {
            nr_hdr_len: len,
            pad: 0,
        };
        let done = w.ctrl(reqtype::PORT_HDR_SET, name, &mut body);
        assert_eq!(body.nr_hdr_len, len);
        (done, w.host.calls)
    };
    for len in [0, 10, 12] {
        let call = Call::SetHdr("vale0:a".into(), len);
        assert_eq!(set("vale0:a", len), (OK, vec![call]));
        for name in ["", "eth0", "x{1"] {
            assert_eq!(set(name, len), (Err(Errno::ENXIO), vec![]));
        }
    }
    for len in [1, 9, 11, 13, 20, u32::MAX] {
        assert_eq!(set("vale0:a", len), (EINVAL, vec![]));
        assert_eq!(set("eth0", len), (EINVAL, vec![]), "the length first");
    }

    for name in ["eth0", "vale0:a", "x{1"] {
        let mut w = World::new();
        let mut body = NmReqPortHdr::new_zeroed();
        assert_eq!(w.ctrl(reqtype::PORT_HDR_GET, name, &mut body), OK);
        assert_eq!(body.nr_hdr_len, 12);
        assert_eq!(w.host.calls, [Call::Hdr(name.into())]);
    }
    for e in [Errno::ENXIO, Errno::ENODEV] {
        let mut w = World::failing(e);
        let mut body = NmReqPortHdr::new_zeroed();
        assert_eq!(w.ctrl(reqtype::PORT_HDR_GET, "x{1", &mut body), Err(e));
    }
    let mut body = NmReqPortHdr::new_zeroed();
    let done = World::new().ctrl(reqtype::PORT_HDR_GET, "", &mut body);
    assert_eq!(done, Err(Errno::ENXIO));
}

#[test]
fn persistent_ports() {
    let given = NmReqValeNewif {
        nr_tx_slots: 5,
        nr_rx_slots: 6,
        nr_tx_rings: 7,
        nr_rx_rings: 8,
        nr_mem_id: 9,
        pad: 0,
    };
    for name in ["v", "v0", "val", "a123456789abcde"] {
        let mut w = World::new();
        let mut body = given;
        assert_eq!(w.ctrl(reqtype::VALE_NEWIF, name, &mut body), OK);
        let want = NewIf {
            rings: [7, 8],
            slots: [5, 6],
            mem_id: 9,
        };
        assert_eq!(w.host.calls, [Call::NewIf(name.into(), want)]);
        let truth = NmReqValeNewif {
            nr_tx_slots: 1024,
            nr_rx_slots: 2048,
            nr_tx_rings: 1,
            nr_rx_rings: 2,
            nr_mem_id: 11,
            pad: 0,
        };
        assert_eq!(body, truth);
    }
    for name in ["", "vale", "vale0", "vale0:a", "a123456789abcdef"] {
        let mut w = World::new();
        let mut body = given;
        assert_eq!(w.ctrl(reqtype::VALE_NEWIF, name, &mut body), EINVAL);
        assert!(w.host.calls.is_empty(), "{name}");
    }

    let mut w = World::new();
    assert_eq!(w.bare(reqtype::VALE_DELIF, "v0"), OK);
    assert_eq!(w.host.calls, [Call::DelIf("v0".into())]);
    let mut w = World::new();
    assert_eq!(w.bare(reqtype::VALE_DELIF, ""), Err(Errno::ENXIO));
    assert!(w.host.calls.is_empty());
}

#[test]
fn attachments() {
    let given = |mode, ringid| NmReqValeAttach {
        reg: NmReqRegister {
            nr_mode: mode,
            nr_ringid: ringid,
            nr_mem_id: 3,
            nr_memsize: 55,
            ..NmReqRegister::new_zeroed()
        },
        port_index: 99,
        pad: 0,
    };
    for (mode, host) in [(mode::ALL_NIC, false), (mode::NIC_SW, true)] {
        let mut w = World::new();
        let mut body = given(mode, 0);
        assert_eq!(w.ctrl(reqtype::VALE_ATTACH, "vale0:eth0", &mut body), OK);
        let want = Attach {
            name: "vale0:eth0".into(),
            host,
            mem_id: 3,
        };
        assert_eq!(w.host.calls, [Call::Attach(want)]);
        assert_eq!(body.port_index, 5);
        assert_eq!(body.reg, given(mode, 0).reg, "as given");
    }
    let refused = |name: &str, mode, ringid| {
        let mut w = World::new();
        let mut body = given(mode, ringid);
        assert_eq!(w.ctrl(reqtype::VALE_ATTACH, name, &mut body), EINVAL);
        assert!(w.host.calls.is_empty(), "{name} {mode} {ringid}");
    };
    for name in ["", "eth0", "val0:eth0", "x:vale"] {
        refused(name, mode::ALL_NIC, 0);
    }
    for mode in [0, 2, 4, 5, 6, 7, 8, u32::MAX] {
        refused("vale0:eth0", mode, 0);
    }
    refused("vale0:eth0", mode::ALL_NIC, 1);

    let mut w = World::new();
    let mut body = NmReqValeDetach::new_zeroed();
    assert_eq!(w.ctrl(reqtype::VALE_DETACH, "vale0:eth0", &mut body), OK);
    assert_eq!(body.port_index, 6);
    assert_eq!(w.host.calls, [Call::Detach("vale0:eth0".into())]);
    for name in ["", "eth0"] {
        let mut w = World::new();
        assert_eq!(w.ctrl(reqtype::VALE_DETACH, name, &mut body), EINVAL);
        assert!(w.host.calls.is_empty());
    }
}

fn three_switches() -> World {
    let mut w = World::new();
    // In no order.
    for (bridge_idx, port_idx, name) in [
        (2, 7, "valeB:late"),
        (0, 4, "vale0:e"),
        (0, 0, "vale0:a"),
        (2, 0, "valeB:b"),
        (1, 3, "vale1:a"),
    ] {
        w.host.list.push(ListEntry {
            bridge_idx,
            port_idx,
            name: name.into(),
        });
    }
    w
}

fn list(w: &mut World, name: &str, bridge: u16, port: u32) -> Result<(u16, u32), Errno> {
    let mut body = NmReqValeList {
        nr_bridge_idx: bridge,
        pad: 0,
        nr_port_idx: port,
    };
    w.ctrl(reqtype::VALE_LIST, name, &mut body)?;
    Ok((body.nr_bridge_idx, body.nr_port_idx))
}

#[test]
fn ports_are_enumerated_in_order() {
    let mut w = three_switches();
    let mut seen = Vec::new();
    let (mut bridge, mut port) = (0, 0);
    let end = loop {
        match list(&mut w, "", bridge, port) {
            Ok((b, p)) => {
                seen.push((b, p, w.name()));
                (bridge, port) = (b, p + 1);
            }
            Err(e) => break e,
        }
    };
    assert_eq!(end, Errno::ENOENT);
    let want = [
        (0, 0, "vale0:a"),
        (0, 4, "vale0:e"),
        (1, 3, "vale1:a"),
        (2, 0, "valeB:b"),
        (2, 7, "valeB:late"),
    ];
    assert_eq!(seen, want.map(|(b, p, n)| (b, p, n.to_string())));

    assert_eq!(list(&mut w, "", 0, u32::MAX), Ok((1, 3)));
    assert_eq!(list(&mut w, "", 2, 8), Err(Errno::ENOENT));
    assert_eq!(list(&mut w, "", u16::MAX, 0), Err(Errno::ENOENT));
    assert_eq!(w.name(), "", "no name at the end");
    assert_eq!(list(&mut World::new(), "", 0, 0), Err(Errno::ENOENT));
}

#[test]
fn a_port_is_found_by_its_name() {
    let mut w = three_switches();
    assert_eq!(list(&mut w, "vale0:e", 9, 9), Ok((0, 4)));
    assert_eq!(w.name(), "vale0:e");
    assert_eq!(list(&mut w, "valeB:late", 0, 0), Ok((2, 7)));
    // The switch is there, the port is not.
    for name in ["valeB:x", "valeB:", "valeB:late:r"] {
        assert_eq!(list(&mut w, name, 0, 0), Ok((2, 255)), "{name}");
    }
    for name in ["valeC:b", "vale", "vale0", "valeB", "vale:a"] {
        assert_eq!(list(&mut w, name, 0, 0), Err(Errno::ENOENT), "{name}");
    }
    for name in ["eth0", "val0:a", "x"] {
        assert_eq!(list(&mut w, name, 0, 0), Err(Errno::EINVAL), "{name}");
    }
}

#[test]
fn a_name_that_is_too_long_is_cut() {
    let mut w = World::new();
    w.host.list.push(ListEntry {
        name: format!("vale0:{}", "n".repeat(80)),
        ..ListEntry::default()
    });
    assert_eq!(list(&mut w, "", 0, 0), Ok((0, 0)));
    assert_eq!(w.name(), format!("vale0:{}", "n".repeat(57)));
}

#[test]
fn polling_threads() {
    let on = |name: &str, mode, first, count| {
        let mut w = World::new();
        let mut body = NmReqValePolling {
            nr_mode: mode,
            nr_first_cpu_id: first,
            nr_num_polling_cpus: count,
            pad: 0,
        };
        let done = w.ctrl(reqtype::VALE_POLLING_ENABLE, name, &mut body);
        assert_eq!(w.host.calls.is_empty(), done.is_err());
        (done, w.host.calls.pop())
    };
    let (single, multi) = (polling::SINGLE_CPU, polling::MULTI_CPU);
    for (mode, first, count, ok) in [
        (single, 0, 1, true),
        (single, 3, 1, true),
        (single, 0, 0, false),
        (single, 0, 2, false),
        (multi, 0, 1, true),
        (multi, 2, 8, true),
        (multi, 2, 0, false),
        (multi, 1, u32::MAX, false),
        (0, 0, 1, false),
        (3, 0, 1, false),
        (u32::MAX, 0, 1, false),
    ] {
        let call = Call::Polling("vale0:eth0".into(), Some((mode, first, count)));
        let want = if ok { (OK, Some(call)) } else { (EINVAL, None) };
        assert_eq!(on("vale0:eth0", mode, first, count), want);
        assert_eq!(on("eth0", mode, first, count), (EINVAL, None));
    }

    let mut w = World::new();
    let mut body = [0xffu8; 16];
    let off = reqtype::VALE_POLLING_DISABLE;
    assert_eq!(w.ctrl(off, "vale0:eth0", &mut body), OK);
    assert_eq!(w.host.calls, [Call::Polling("vale0:eth0".into(), None)]);
    assert_eq!(w.ctrl(off, "eth0", &mut body), EINVAL);
    for e in [Errno::EOPNOTSUPP, Errno::EFAULT] {
        assert_eq!(World::failing(e).ctrl(off, "vale0:a", &mut body), Err(e));
    }
}

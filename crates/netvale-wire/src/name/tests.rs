//! Tables and properties of the port-name grammar.

use super::*;
use alloc::format;
use alloc::vec::Vec;
use proptest::prelude::*;

const X: u64 = regflags::EXCLUSIVE;
const Z: u64 = regflags::ZCOPY_MON;
const MT: u64 = regflags::MONITOR_TX;
const MR: u64 = regflags::MONITOR_RX;
const TO: u64 = regflags::TX_RINGS_ONLY;
const RO: u64 = regflags::RX_RINGS_ONLY;

/// Specification, name in the request, mode, ring, flags, region.
const NETMAP_FORMS: &[(&str, &str, u32, u16, u64, u16)] = &[
    ("netmap:eth0", "eth0", mode::ALL_NIC, 0, 0, 0),
    ("netmap:14", "14", mode::ALL_NIC, 0, 0, 0),
    ("netmap:eth0.5", "eth0.5", mode::ALL_NIC, 0, 0, 0),
    ("netmap:eth0-1", "eth0", mode::ONE_NIC, 1, 0, 0),
    ("netmap:eth0-007", "eth0", mode::ONE_NIC, 7, 0, 0),
    ("netmap:eth0-4094", "eth0", mode::ONE_NIC, 4094, 0, 0),
    ("netmap:eth0*", "eth0", mode::NIC_SW, 0, 0, 0),
    ("netmap:eth0*/x", "eth0", mode::NIC_SW, 0, X, 0),
    ("netmap:eth0^", "eth0", mode::SW, 0, 0, 0),
    ("netmap:eth0^3", "eth0", mode::ONE_SW, 3, 0, 0),
    ("netmap:eth0^/x@2/R", "eth0", mode::SW, 0, X | RO, 2),
    ("netmap:eth0^3/x@2", "eth0", mode::ONE_SW, 3, X, 2),
    ("netmap:eth0/x", "eth0", mode::ALL_NIC, 0, X, 0),
    ("netmap:eth0/z", "eth0", mode::ALL_NIC, 0, Z, 0),
    ("netmap:eth0/r", "eth0", mode::ALL_NIC, 0, MR, 0),
    ("netmap:eth0/t", "eth0", mode::ALL_NIC, 0, MT, 0),
    ("netmap:eth0/rtrt", "eth0", mode::ALL_NIC, 0, MR | MT, 0),
    (
        "netmap:eth0/xztrTR",
        "eth0",
        mode::ALL_NIC,
        0,
        X | Z | MT | MR | TO | RO,
        0,
    ),
    ("netmap:eth0-2/Tx", "eth0", mode::ONE_NIC, 2, TO | X, 0),
    ("netmap:eth0@2", "eth0", mode::ALL_NIC, 0, 0, 2),
    ("netmap:eth0@65535", "eth0", mode::ALL_NIC, 0, 0, 65535),
    ("netmap:eth0@2/R", "eth0", mode::ALL_NIC, 0, RO, 2),
    ("netmap:eth0@2/R@2", "eth0", mode::ALL_NIC, 0, RO, 2),
    ("netmap:eth0@2@2", "eth0", mode::ALL_NIC, 0, 0, 2),
    ("netmap:eth0-1@2/T", "eth0", mode::ONE_NIC, 1, TO, 2),
    ("netmap:pipe{0", "pipe{0", mode::ALL_NIC, 0, 0, 0),
    ("netmap:pipe{in", "pipe{in", mode::ALL_NIC, 0, 0, 0),
    ("netmap:pipe}in", "pipe}in", mode::ALL_NIC, 0, 0, 0),
    ("netmap:pipe{in-7", "pipe{in", mode::ONE_NIC, 7, 0, 0),
    ("netmap:pipe}a_B/z@3", "pipe}a_B", mode::ALL_NIC, 0, Z, 3),
    ("vale0:0", "vale0:0", mode::ALL_NIC, 0, 0, 0),
    ("vale:0", "vale:0", mode::ALL_NIC, 0, 0, 0),
    ("vale_x1:a.b:c d", "vale_x1:a.b:c d", mode::ALL_NIC, 0, 0, 0),
    ("valeXXX:YYY", "valeXXX:YYY", mode::ALL_NIC, 0, 0, 0),
    ("valeXXX:YYY-4", "valeXXX:YYY", mode::ONE_NIC, 4, 0, 0),
    ("vale0:eth0^", "vale0:eth0", mode::SW, 0, 0, 0),
    ("vale0:0{0", "vale0:0{0", mode::ALL_NIC, 0, 0, 0),
    ("vale0:0/Tx", "vale0:0", mode::ALL_NIC, 0, TO | X, 0),
    (
        "vale12345678901:123456789012345",
        "vale12345678901:123456789012345",
        mode::ALL_NIC,
        0,
        0,
        0,
    ),
];

#[test]
fn netmap_forms_are_accepted() {
    for &(text, name, mode, ring, flags, mem) in NETMAP_FORMS {
        let spec = PortSpec::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(spec.port_name(), name, "{text}");
        assert_eq!((spec.nr_mode(), spec.nr_ringid()), (mode, ring), "{text}");
        assert_eq!(spec.flags.bits(), flags, "{text}");
        assert_eq!(spec.mem_id.unwrap_or(0), mem, "{text}");
        assert_eq!(spec.opts, PortOpts::default(), "{text}");
        let back = PortSpec::from_nr_name(name).unwrap();
        assert_eq!((back.kind, back.pipe), (spec.kind, spec.pipe), "{text}");
    }
}

/// Specification and a part of the message that its refusal must give.
const REFUSED: &[(&str, &str)] = &[
    ("", "empty"),
    ("eth0", "an interface is written netmap:<name>"),
    ("netmap", "missing ':' after 'netmap'"),
    ("netmapXXX:eth0", "unknown prefix"),
    ("Netmap:eth0", "unknown prefix"),
    ("vale", "missing ':' after 'vale'"),
    ("valentine", "missing ':'"),
    ("vale-0:a", "'-' at byte 4"),
    ("vale0/x:a", "'/' at byte 5"),
    (
        "vale123456789012:a",
        "the switch name has 16 bytes, at most 15",
    ),
    ("vale0:1234567890123456", "has 16 bytes, at most 15"),
    ("vale0:", "empty port name at byte 6"),
    ("vale0:-1", "empty port name at byte 6"),
    ("netmap:", "empty port name at byte 7"),
    ("netmap:^", "empty port name at byte 7"),
    ("netmap:{", "empty port name at byte 7"),
    ("netmap:{x", "empty port name at byte 7"),
    ("netmap:vale0:0", "':' at byte 12"),
    ("netmap:eth0&", "'&' at byte 11"),
    ("netmap:eth 0", "' ' at byte 10"),
    ("netmap:eth0\n", "'\\n' at byte 11"),
    ("vale0:a\0", "'\\0' at byte 7"),
    ("netmap:p{", "empty pipe name at byte 9"),
    ("netmap:p{-1", "empty pipe name at byte 9"),
    ("netmap:p{1}2", "parent of the pipe at byte 10 is a pipe"),
    ("netmap:p{a.b", "'.' at byte 10"),
    ("netmap:p{a^", "host rings"),
    ("netmap:p{a*", "host rings"),
    (
        "netmap:eth0-",
        "ring at byte 12 is not a decimal number from 0 to 4094",
    ),
    ("netmap:eth0-x", "ring at byte 12"),
    ("netmap:eth0-4095", "from 0 to 4094"),
    ("netmap:eth0-99999999999999999999999", "from 0 to 4094"),
    ("netmap:eth0^4095", "from 0 to 4094"),
    ("netmap:eth0*1", "'1' at byte 12"),
    ("netmap:eth0-1^", "'^' at byte 13"),
    ("netmap:eth0^*", "'*' at byte 12"),
    ("netmap:eth0@2-1", "'-' at byte 13"),
    ("netmap:eth0@2x", "'x' at byte 13"),
    ("netmap:eth0/", "empty flags"),
    (
        "netmap:eth0/q",
        "'q' at byte 12 is not allowed in the flags, which takes x z t r T R",
    ),
    ("netmap:eth0/x/z", "'/' at byte 13"),
    ("netmap:eth0/x-1", "'-' at byte 13"),
    ("netmap:eth0@0", "from 1 to 65535"),
    ("netmap:eth0@65537", "from 1 to 65535"),
    (
        "netmap:eth0@2/R@3",
        "region 3 at byte 16 contradicts region 2",
    ),
    ("netmap:eth0@", "empty option or region number at byte 12"),
    ("vale0:0@", "empty option"),
    ("vale0:0@@conf:slots=1", "empty option"),
    (
        "vale0:0@conf:slots=1@",
        "empty option or region number at byte 21",
    ),
    ("netmap:eth0/R@xxx", "unknown option 'xxx' at byte 14"),
    ("netmap:eth0@netmap:lo/R", "unknown option 'netmap'"),
    ("vale0:0@conf:slots=1@3", "unknown option '3'"),
    ("vale0:0@conf", "needs a ':' and keys"),
    ("vale0:0@conf=4", "needs a ':' and keys"),
    ("vale0:0@conf:slot=1", "no key 'slot' (byte 13)"),
    ("vale0:0@conf:slots", "a value for every key"),
    ("vale0:0@conf:slots=", "a value for every key"),
    ("vale0:0@conf:slots=1,", "a value for every key"),
    ("vale0:0@conf:slots=4k", "value at byte 19"),
    ("vale0:0@conf:slots=+4", "value at byte 19"),
    ("vale0:0@conf:rings=65536", "from 0 to 65535"),
    (
        "vale0:0@conf:slots=1,slots=1",
        "key slots is given twice, the second time at byte 21",
    ),
    ("vale0:0@share", "needs a port"),
    ("vale0:0@share=", "needs a port"),
    (
        "vale0:0@share=eth0",
        "at byte 14, must begin with netmap: or vale",
    ),
    (
        "vale0:0@share=vale0:a@share=vale0:b",
        "option share is given twice",
    ),
    ("vale0:0@extmem:if-num=3", "needs a file"),
    ("vale0:0@extmem=a@extmem=b", "option extmem is given twice"),
    ("vale0:0@offset:bits=3", "needs a number"),
    ("vale0:0@offset:initial=3,bits=65", "from 0 to 64"),
    ("tap", "missing ':' after 'tap'"),
    ("tap:", "empty argument"),
    ("tap@2", "missing ':' after 'tap'"),
    ("nullx", "unknown prefix"),
    ("null@2x", "'x' at byte 6"),
    ("pcap:f@bogus", "unknown option 'bogus'"),
];

#[test]
fn bad_names_are_refused_with_the_reason() {
    for &(text, part) in REFUSED {
        let error = PortSpec::parse(text).expect_err(text);
        let message = error.to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn length_of_a_name_is_limited() {
    let fits = "e".repeat(63);
    assert_eq!(
        PortSpec::parse(&format!("netmap:{fits}"))
            .unwrap()
            .port_name(),
        fits
    );
    let error = PortSpec::parse(&format!("netmap:{fits}e")).unwrap_err();
    let len = 64;
    assert!(matches!(error, NameError::TooLong { len: l, max: 63, .. } if l == len));
    let pipe = format!("vale0:a{{{}", "p".repeat(56));
    assert!(matches!(
        PortSpec::parse(&pipe),
        Err(NameError::TooLong { .. })
    ));
    PortSpec::parse(&format!("pcap:/{}", "d/".repeat(1000))).unwrap();
    PortSpec::parse(&format!("pcap:/{}", "d/".repeat(2100))).unwrap_err();
}

#[test]
fn options_are_read() {
    let conf = |text: &str| PortSpec::parse(text).unwrap().opts.conf;
    let c = conf("vale0:a@conf:tx-rings=3,rings=2,slots=256,rx_slots=512");
    assert_eq!((c.tx_rings, c.rx_rings), (Some(3), Some(2)));
    assert_eq!((c.tx_slots, c.rx_slots), (Some(256), Some(512)));
    assert_eq!(c.host_tx_rings, None);
    let c = conf("vale0:a@conf:host-rings=2,host-rx-rings=1@conf:rings=9");
    assert_eq!(
        (c.host_tx_rings, c.host_rx_rings, c.tx_rings),
        (Some(2), Some(1), Some(9))
    );
    assert_eq!(conf("vale0:a@conf:"), Conf::default());

    for share in ["@share=vale0:b", "@share:port=vale0:b", "@share:vale0:b"] {
        let spec = PortSpec::parse(&format!("netmap:eth0-1@7{share}")).unwrap();
        assert_eq!(spec.opts.share.as_deref(), Some("vale0:b"));
        assert_eq!(spec.mem_id, Some(7));
    }
    let mem = |text: &str| PortSpec::parse(text).unwrap().opts.extmem.unwrap();
    assert_eq!(mem("vale0:a@extmem=/dev/huge,1").file, "/dev/huge,1");
    let m = mem(
        "vale0:a@extmem:file=/m,if-num=1,if-size=2,ring-num=3,ring-size=4,buf-num=5,buf-size=6",
    );
    let numbers = [
        m.if_num,
        m.if_size,
        m.ring_num,
        m.ring_size,
        m.buf_num,
        m.buf_size,
    ];
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6].map(Some));
    let offset = |text: &str| PortSpec::parse(text).unwrap().opts.offset.unwrap();
    assert_eq!(
        offset("vale0:a@offset=64"),
        Offset {
            initial: 64,
            bits: None
        }
    );
    let long = offset("vale0:a@offset:bits=16,initial=64@conf:slots=3");
    assert_eq!(
        long,
        Offset {
            initial: 64,
            bits: Some(16)
        }
    );
}

#[test]
fn backends_take_their_argument_as_it_is() {
    let parse = |text: &str| PortSpec::parse(text).unwrap();
    for (text, kind, arg) in [
        ("tap:my-tap", BackendKind::Tap, "my-tap"),
        (
            "pcap:/a-b/c^d*{e}.pcap",
            BackendKind::Pcap,
            "/a-b/c^d*{e}.pcap",
        ),
        (
            "vhost-user:/run/user@@1/s",
            BackendKind::VhostUser,
            "/run/user@1/s",
        ),
        ("vfio:0000:03:00.0", BackendKind::Vfio, "0000:03:00.0"),
        ("vxlan:10.0.0.1,vni=7", BackendKind::Vxlan, "10.0.0.1,vni=7"),
        ("vxlan:42@@10.0.0.1:5", BackendKind::Vxlan, "42@10.0.0.1:5"),
    ] {
        let spec = parse(text);
        let arg = arg.to_string();
        assert_eq!(spec, PortSpec::new(PortKind::Backend { kind, arg }));
        assert_eq!(spec.to_string(), text);
        assert_eq!(PortSpec::from_nr_name(&spec.port_name()), Ok(spec));
    }
    let tunnel = parse("vxlan:42@10.0.0.1:5@3");
    assert_eq!(tunnel.to_string(), "vxlan:42@@10.0.0.1:5@3");
    assert_eq!(tunnel, parse("vxlan:42@@10.0.0.1:5@3"));
    assert_eq!(
        parse("vxlan:7@[fd00::1]:5").port_name(),
        "vxlan:7@[fd00::1]:5"
    );
    assert_eq!(parse("vxlan:7@3").mem_id, Some(3));
    let spec = parse("tap:t@3@conf:slots=64");
    assert_eq!((spec.mem_id, spec.opts.conf.tx_slots), (Some(3), Some(64)));
    for text in ["null", "null:"] {
        let name = String::new();
        assert_eq!(parse(text), PortSpec::new(PortKind::Null { name }));
    }
    let spec = parse("null@3@conf:rings=2");
    assert_eq!((spec.nr_mode(), spec.mem_id), (mode::NULL, Some(3)));
}

#[test]
fn request_names_have_no_modifiers() {
    let parse = |text: &str| PortSpec::from_nr_name(text);
    let name = "my-if^0".to_string();
    assert_eq!(parse("my-if^0").unwrap().kind, PortKind::Nic { name });
    assert!(matches!(
        parse("{x"),
        Err(NameError::EmptyPart { at: 0, .. })
    ));
    assert!(matches!(
        parse("x{"),
        Err(NameError::EmptyPart { at: 2, .. })
    ));
    assert!(matches!(
        parse("}x"),
        Err(NameError::EmptyPart { at: 0, .. })
    ));
    assert!(matches!(
        parse("vale0{1"),
        Err(NameError::MissingColon { .. })
    ));
    let unnamed = parse("vale0:").unwrap();
    assert_eq!(unnamed.port_name(), "vale0:");
    assert!(matches!(
        parse("vale0"),
        Err(NameError::MissingColon { .. })
    ));
    assert!(matches!(
        parse("netmap:eth0"),
        Err(NameError::BadChar { .. })
    ));
    assert_eq!(parse(""), Err(NameError::Empty));
}

/// Name, what it belongs to, role and name of the pipe.
const NESTED: &[(&str, &str, PipeRole, &str)] = &[
    ("a{1{2", "a{1", PipeRole::Master, "2"),
    ("a}1{2", "a}1", PipeRole::Master, "2"),
    ("a}1}2", "a}1", PipeRole::Slave, "2"),
    ("a{1}2", "a", PipeRole::Master, "1}2"),
    ("vale0:a{1{2{3", "vale0:a{1{2", PipeRole::Master, "3"),
    ("a{b-c*", "a", PipeRole::Master, "b-c*"),
];

#[test]
fn pipes_in_requests_split_at_the_last_brace() {
    for &(name, parent, role, id) in NESTED {
        let spec = PortSpec::from_nr_name(name).unwrap();
        assert_eq!(spec.port_name(), name);
        assert_eq!(spec.parent().unwrap().port_name(), parent, "{name}");
        let above = PortSpec::from_nr_name(parent).unwrap();
        assert_eq!(spec.parent(), Some(above), "{name}");
        let pipe = spec.pipe.unwrap();
        assert_eq!((pipe.role, pipe.id.as_str()), (role, id), "{name}");
    }
    assert_eq!(PortSpec::from_nr_name("a").unwrap().parent(), None);
}

fn any_spec() -> impl Strategy<Value = PortSpec> {
    let kind = prop_oneof![
        ("vale[a-zA-Z0-9_]{0,11}", "[a-z0-9.:&]{1,15}")
            .prop_map(|(switch, port)| PortKind::Vale { switch, port }),
        "[a-z0-9._+]{1,20}".prop_map(|name| PortKind::Nic { name }),
        "[ -~]{0,20}".prop_map(|name| PortKind::Null { name }),
        (0..BackendKind::ALL.len(), "[ -~]{1,40}").prop_map(|(i, arg)| PortKind::Backend {
            kind: BackendKind::ALL[i],
            arg
        }),
    ];
    let rings = prop_oneof![
        Just(RingSel::All),
        Just(RingSel::Host),
        Just(RingSel::NicAndHost),
        (0u16..4095).prop_map(RingSel::One),
        (0u16..4095).prop_map(RingSel::HostOne),
    ];
    let pipe = proptest::option::of((any::<bool>(), "[a-zA-Z0-9_]{1,10}"));
    let conf = (any::<[Option<u16>; 4]>(), any::<[Option<u32>; 2]>());
    let sizes = (any::<[Option<u32>; 6]>(), "[a-z/]{1,9}");
    let offset = proptest::option::of((any::<u32>(), proptest::option::of(0u8..=64)));
    let share = proptest::option::of(Just("vale0:x".to_string()));
    let opts = (conf, proptest::option::of(sizes), offset, share);
    (
        kind,
        rings,
        pipe,
        any::<u64>(),
        proptest::option::of(1u16..),
        opts,
    )
        .prop_map(
            |(kind, rings, pipe, flags, mem_id, (conf, sizes, offset, share))| {
                let netmap = matches!(kind, PortKind::Vale { .. } | PortKind::Nic { .. });
                let mut spec = PortSpec::new(kind);
                spec.mem_id = mem_id;
                if netmap {
                    spec.flags = PortFlags::from_bits(flags);
                    spec.rings = rings;
                    if matches!(rings, RingSel::All | RingSel::One(_)) {
                        spec.pipe = pipe.map(|(master, id)| Pipe {
                            role: if master {
                                PipeRole::Master
                            } else {
                                PipeRole::Slave
                            },
                            id,
                            under: None,
                        });
                    }
                }
                let ([tx_rings, rx_rings, host_tx_rings, host_rx_rings], [tx_slots, rx_slots]) =
                    conf;
                spec.opts.conf = Conf {
                    tx_rings,
                    rx_rings,
                    host_tx_rings,
                    host_rx_rings,
                    tx_slots,
                    rx_slots,
                };
                spec.opts.extmem = sizes.map(|([a, b, c, d, e, f], file)| ExtMem {
                    file,
                    if_num: a,
                    if_size: b,
                    ring_num: c,
                    ring_size: d,
                    buf_num: e,
                    buf_size: f,
                });
                spec.opts.offset = offset.map(|(initial, bits)| Offset { initial, bits });
                spec.opts.share = share;
                spec
            },
        )
}

proptest! {
    #[test]
    fn display_round_trips(spec in any_spec()) {
        let text = spec.to_string();
        prop_assert_eq!(PortSpec::parse(&text), Ok(spec.clone()), "{}", text);
        let back = PortSpec::from_nr_name(&spec.port_name()).unwrap();
        prop_assert_eq!((back.kind, back.pipe), (spec.kind, spec.pipe));
    }

    #[test]
    fn any_text_is_safe(text in "\\PC{0,80}") {
        let _ = PortSpec::parse(&text);
        if let Ok(spec) = PortSpec::from_nr_name(&text) {
            prop_assert_eq!(PortSpec::from_nr_name(&spec.port_name()), Ok(spec));
        }
    }

    /// Texts made of the grammar's own pieces get deeper into the parser; what
    /// is accepted must survive being written and read again.
    #[test]
    fn pieces_in_any_order_are_safe(pieces in proptest::collection::vec(0usize..26, 0..12)) {
        const PIECES: [&str; 26] = [
            "netmap:", "vale0:", "vale", "null", "tap:", "eth0", "é", "{", "}", "^", "*", "-",
            "/", "@", "x", "12", "conf:", "share=", "extmem:", "offset=", "slots=", ",", ":", "=",
            "file=", "0",
        ];
        let text: String = pieces.into_iter().map(|i| PIECES[i]).collect::<Vec<_>>().concat();
        if let Ok(spec) = PortSpec::parse(&text) {
            prop_assert_eq!(PortSpec::parse(&spec.to_string()), Ok(spec));
        }
        if let Ok(spec) = PortSpec::from_nr_name(&text) {
            prop_assert_eq!(PortSpec::from_nr_name(&spec.port_name()), Ok(spec));
        }
    }
}

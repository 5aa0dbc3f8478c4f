//! The messages' text form and what is refused.

use super::*;
use alloc::vec;
use proptest::prelude::*;

/// The text form is what other programs may speak: it must not drift.
#[test]
fn text_form_is_fixed() {
    let full = br#"{"op":"register","spec":"vale0:a","want":{"tx_rings":1,"rx_rings":2,"tx_slots":3,"rx_slots":4,"extra_bufs":5,"gives_buffers":true,"accepts_vnet_hdr":true,"vnet_hdr":12}}"#;
    let request = Request::Register {
        spec: "vale0:a".into(),
        want: Wanted {
            tx_rings: 1,
            rx_rings: 2,
            tx_slots: 3,
            rx_slots: 4,
            extra_bufs: 5,
            gives_buffers: true,
            accepts_vnet_hdr: true,
            vnet_hdr: Some(12),
        },
    };
    assert_eq!(encode(&request).unwrap(), full);
    assert_eq!(decode(full).unwrap(), request);
    let short = decode(br#"{"op":"register","spec":"x"}"#).unwrap();
    let Request::Register { want, .. } = short else {
        panic!("{short:?}");
    };
    assert_eq!(want, Wanted::default());
    let short = decode(br#"{"op":"stats"}"#).unwrap();
    let all = Request::Stats {
        name: None,
        after: None,
    };
    assert_eq!(short, all);
    let later = decode(br#"{"op":"hello","version":1,"client":"c","new":[1]}"#).unwrap();
    assert!(matches!(
        later,
        Request::Hello {
            isolated: false,
            ..
        }
    ));
}

/// What programs of the release before send and get is still understood.
#[test]
fn requests_in_netmaps_terms() {
    let full = br#"{"op":"bind","nr":{"name":"vale0:a","mode":1,"ringid":0,"flags":2048,"mem_id":3,"want":{"tx_rings":0,"rx_rings":0,"tx_slots":0,"rx_slots":0,"extra_bufs":0,"gives_buffers":false,"accepts_vnet_hdr":false,"vnet_hdr":null},"host_rings":[0,0],"offsets":null}}"#;
    let nr = NrRequest {
        name: "vale0:a".into(),
        mode: 1,
        flags: 2048,
        mem_id: 3,
        ..NrRequest::default()
    };
    let bind = Request::Bind { nr: nr.clone() };
    assert_eq!(encode(&bind).unwrap(), full);
    assert_eq!(decode(full).unwrap(), bind);
    let short =
        br#"{"op":"describe","nr":{"name":"vale0:a","mode":1,"ringid":0,"flags":2048,"mem_id":3}}"#;
    assert_eq!(decode(short).unwrap(), Request::Describe { nr });
    let geom = br#"{"op":"new_region","key":"k","geom":[1,2,3,4,5]}"#;
    assert!(matches!(
        decode(geom),
        Ok(Request::NewRegion {
            geom: [1, 2, 3, 4, 5],
            ..
        })
    ));
    let old = decode(br#"{"op":"attach","spec":"vale0:a"}"#).unwrap();
    let want = Request::Attach {
        spec: "vale0:a".into(),
        nr: false,
        host: false,
        mem_id: 0,
        port: None,
    };
    assert_eq!(old, want);
    let old = br#"{"op":"registered","owner":1,"port":1,"name":"x","kind":"vale","region":{"id":1,"generation":1,"size":1,"geom":[1,1,1,1,1]},"nif_ofs":0,"tx_rings":1,"rx_rings":1,"tx":[],"rx":[],"vnet_hdr":0,"extra_bufs":0,"context":"trusted"}"#;
    assert!(matches!(
        decode_reply(old),
        Ok(Reply::Registered(Registered {
            host_rings: [0, 0],
            offsets: None,
            drivable: false,
            served: false,
            ..
        }))
    ));
}

#[test]
fn replies_round_trip_and_unknown_kinds_survive() {
    let error = br#"{"op":"error","kind":"of_the_future","message":"m"}"#;
    let want = Reply::Error {
        kind: ErrorKind::Other,
        message: "m".into(),
        hint: None,
    };
    assert_eq!(decode_reply(error).unwrap(), want);
    let region = RegionInfo {
        id: 1,
        generation: 9,
        shared: Some(0),
        size: 1 << 40,
        geom: [1, 2, 3, 4, 5],
    };
    let registered = Reply::Registered(Registered {
        owner: 3,
        port: 7,
        name: "vale0:a".into(),
        kind: "vale".into(),
        region,
        nif_ofs: 4096,
        tx_rings: 1,
        rx_rings: 1,
        tx: vec![RingPlace {
            kring: 1,
            idx: 0,
            ofs: 8192,
            slots: 1024,
        }],
        rx: vec![],
        extra_bufs: 0,
        vnet_hdr: 0,
        context: Context::Isolated,
        host_rings: [0, 1],
        offsets: Some(NrOffsets {
            max: 2048,
            initial: u64::MAX,
            bits: 16,
            tx_align: 64,
            min_gap: 1,
        }),
        drivable: true,
        served: true,
    });
    let driven = Reply::Driven(Driven {
        port: 8,
        tx: RingPlace {
            kring: 3,
            idx: 0,
            ofs: 4096,
            slots: 512,
        },
        rx: RingPlace {
            kring: 4,
            idx: 0,
            ofs: 8192,
            slots: 512,
        },
        entries: 2048,
        stock: 4096,
        frames: FramePlace::Region {
            arena: [2, 16386],
            huge: true,
        },
        zero_copy: true,
        copies: false,
        several: true,
        longest: 10_000,
    });
    let stats = Reply::Stats {
        ports: vec![PortStats {
            tx_packets: u64::MAX,
            drops: vec![Drops {
                reason: "rx_full".into(),
                packets: 3,
            }],
            ..PortStats::default()
        }],
        more: true,
    };
    let hello = Reply::Hello {
        version: PROTOCOL_VERSION,
        server: "0".into(),
        pid: 1,
        instance: u64::MAX,
        context: Context::Trusted,
        state: Some(StateFile {
            size: 4096,
            geom: [u32::MAX; 6],
        }),
    };
    for reply in [
        registered,
        driven,
        stats,
        hello,
        Reply::Region(region),
        Reply::Memory(region),
        Reply::Done,
    ] {
        let bytes = encode_reply(&reply).unwrap();
        assert_eq!(decode_reply(&bytes).unwrap(), reply);
    }
}

#[test]
fn bad_messages_are_refused() {
    for bytes in [
        &b""[..],
        b"[]",
        b"{}",
        br#"{"op":"fly"}"#,
        br#"{"op":"region","id":65536,"generation":1}"#,
        br#"{"op":"status"} x"#,
        b"\xff\xfe",
    ] {
        assert!(matches!(decode(bytes), Err(ProtoError::Malformed { .. })));
    }
    let mut long = br#"{"op":"status"}"#.to_vec();
    long.resize(MAX_MSG, b' ');
    assert_eq!(decode(&long), Ok(Request::Status));
    long.push(b' ');
    assert_eq!(decode(&long), Err(ProtoError::TooLong { len: MAX_MSG + 1 }));
    let name = "x".repeat(MAX_MSG);
    let request = Request::DelIf { name };
    assert!(matches!(encode(&request), Err(ProtoError::TooLong { .. })));
    let deep = "[".repeat(60_000);
    decode(deep.as_bytes()).unwrap_err();
}

proptest! {
    #[test]
    fn any_bytes_are_safe(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
        let _ = decode_reply(&bytes);
    }

    #[test]
    fn any_object_is_safe(op in "[a-z_]{0,10}", key in "[a-z_]{0,8}", value in "[\\[\\]{}0-9\",:a-z]{0,30}") {
        let text = alloc::format!(r#"{{"op":"{op}","{key}":{value}}}"#);
        let _ = decode(text.as_bytes());
    }
}

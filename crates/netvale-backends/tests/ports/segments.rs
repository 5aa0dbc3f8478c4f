//! Frames that wait for segmentation, for interfaces that cannot do it.

use std::time::Duration;

use netvale_backends::batch::Batch;
use netvale_backends::netlink::ethtool::{Offload, set_offload};
use netvale_backends::packet::{Fanout, PacketConfig, PacketSocket, Spread};
use netvale_testkit::net::NetNs;
use netvale_testkit::{PATIENCE, frame};
use netvale_wire::eth::{EthHdr, ethertype};
use netvale_wire::ip::{Ipv4Hdr, proto};
use netvale_wire::vnet::HdrLen;

use crate::common::{cable, get, mac, pool, put, readable, room, to_be_cut};
use crate::packet::open;

const PAYLOAD: usize = 1400;
const HEADERS: usize = 54;

/// A TCP packet of three segments with its virtio-net header, and its payload.
fn large() -> (Vec<u8>, Vec<u8>) {
    let payload: Vec<u8> = (0..3 * PAYLOAD).map(|i| (i / 7).to_le_bytes()[0]).collect();
    let mut bytes = vec![0; 12 + 34];
    to_be_cut().write(&mut bytes, HdrLen::MERGED).unwrap();
    let eth = EthHdr::new(mac(2), mac(1), ethertype::IPV4);
    eth.write(&mut bytes[12..]).unwrap();
    let [from, to] = [1, 2].map(|n| [10, 77, 0, n].into());
    let ip = Ipv4Hdr::new(from, to, proto::TCP, 20 + payload.len()).unwrap();
    ip.write(&mut bytes[26..]).unwrap();
    // Ports, numbers, a header of five words, flags, window.
    bytes.extend([0x13, 0x88, 0x13, 0x89, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10]);
    bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(&payload);
    (bytes, payload)
}

#[test]
fn an_interface_that_cannot_segment_gets_segments() {
    let Some(a) = NetNs::new("segments::an_interface_that_cannot_segment_gets_segments") else {
        return;
    };
    let b = NetNs::make();
    cable(&a, &b, "numrxqueues 2 numtxqueues 2");
    let config = PacketConfig {
        header: HdrLen::MERGED,
        queue_mark: Some(7),
        fanout: Some(Fanout {
            group: 1,
            spread: Spread::Queue,
        }),
        ..PacketConfig::new("left")
    };
    let mut group: Vec<PacketSocket> = (0..2).map(|_| open(&a, &config)).collect();
    let mut right = open(&b, &PacketConfig::new("right"));
    let pool = pool(64);
    let (bytes, payload) = large();
    let small = frame::tagged(mac(2).0, mac(1).0, 64, 9, 0);
    for able in [true, false] {
        let off = |offload| a.enter(|| set_offload("left", offload, able)).unwrap();
        assert!(off(Offload::Tso) && off(Offload::Gso), "able: {able}");
        // More than go through the queueing discipline at a time.
        for round in 0..1500 {
            let mut batch = Batch::new();
            put(&mut batch, &pool, 40, &[&[0; 12], &small[..]].concat());
            put(&mut batch, &pool, 41, &bytes);
            put(&mut batch, &pool, 50, &[&[0; 12], &small[..]].concat());
            let sent = group[0].send(&pool, &batch, 0).unwrap();
            assert_eq!((sent.next, sent.refused), (3, 0), "able: {able}, {round}");
            let mut got: Vec<u8> = Vec::new();
            let mut lens = Vec::new();
            while got.len() < payload.len() || lens.len() < if able { 3 } else { 5 } {
                assert!(
                    readable(&right, PATIENCE),
                    "able: {able}, {round}: {lens:?}"
                );
                let mut batch = Batch::new();
                room(&mut batch, 0, 4, 3);
                for i in 0..right.recv(&pool, &mut batch).unwrap() {
                    let frame = get(&batch, &pool, i);
                    lens.push(frame.len());
                    if frame.len() == small.len() {
                        assert_eq!(frame, small);
                    } else {
                        got.extend(&frame[HEADERS..]);
                    }
                }
            }
            assert!(got == payload, "able: {able}");
            let whole = HEADERS + PAYLOAD;
            let wanted = match able {
                true => vec![64, HEADERS + payload.len(), 64],
                false => vec![64, whole, whole, whole, 64],
            };
            assert_eq!(lens, wanted);
        }
        // Its sender is no receiver of it, and nor are others of its group.
        assert!(group.iter().all(|s| !readable(s, Duration::ZERO)), "{able}");
    }
    assert_eq!(group[1].stats().unwrap().frames, 0);
}

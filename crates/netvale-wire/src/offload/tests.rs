//! Segmentation checked against etherparse, which builds the long frames and
//! judges the short ones.

use super::*;
use crate::vnet::{GSO_ECN, HdrLen};
use alloc::vec;
use alloc::vec::Vec;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice, UdpHeader};
use proptest::prelude::*;

const SRC4: [u8; 4] = [10, 0, 0, 1];
const DST4: [u8; 4] = [10, 9, 8, 7];
const SRC6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const DST6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 2];

/// Data whose every byte depends on its place.
fn payload(len: usize) -> Vec<u8> {
    let byte = |i: usize| u8::try_from((i * 31 + i / 251) % 256).unwrap();
    (0..len).map(byte).collect()
}

#[derive(Debug, Clone, Copy)]
enum L3 {
    V4,
    V6,
}

fn any_l3() -> impl Strategy<Value = L3> {
    prop_oneof![Just(L3::V4), Just(L3::V6)]
}

fn tcp_frame(l3: L3, vlan: bool, seq: u32, options: &[u8], data: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match (l3, vlan) {
        (L3::V4, false) => eth.ipv4(SRC4, DST4, 20),
        (L3::V6, false) => eth.ipv6(SRC6, DST6, 20),
        (L3::V4, true) => eth.single_vlan(5.try_into().unwrap()).ipv4(SRC4, DST4, 20),
        (L3::V6, true) => eth.single_vlan(5.try_into().unwrap()).ipv6(SRC6, DST6, 20),
    };
    let tcp = ip.tcp(1000, 2000, seq, 512).ack(77).psh().fin().cwr();
    let tcp = tcp.options_raw(options).unwrap();
    let mut frame = Vec::new();
    tcp.write(&mut frame, data).unwrap();
    frame
}

fn udp_frame(l3: L3, data: &[u8]) -> Vec<u8> {
    let eth = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match l3 {
        L3::V4 => eth.ipv4(SRC4, DST4, 20),
        L3::V6 => eth.ipv6(SRC6, DST6, 20),
    };
    let mut frame = Vec::new();
    ip.udp(1000, 2000).write(&mut frame, data).unwrap();
    frame
}

fn vnet(gso_type: u8, gso_size: u16) -> VnetHdr {
    VnetHdr {
        flags: F_NEEDS_CSUM,
        gso_type,
        gso_size,
        ..VnetHdr::default()
    }
}

fn tcp_type(l3: L3) -> u8 {
    match l3 {
        L3::V4 => GSO_TCPV4,
        L3::V6 => GSO_TCPV6,
    }
}

fn reader(frame: &[u8]) -> impl FnMut(usize, &mut [u8]) -> bool {
    |at, dst| match frame.get(at..at + dst.len()) {
        Some(src) => {
            dst.copy_from_slice(src);
            true
        }
        None => false,
    }
}

/// Plans and writes all segments, into buffers that are exactly long enough.
fn segments(hdr: &VnetHdr, frame: &[u8], max: usize) -> Result<Vec<Vec<u8>>, OffloadError> {
    let head = &frame[..frame.len().min(MAX_HEADER)];
    let plan = plan(hdr, head, frame.len(), max)?;
    let mut all = Vec::new();
    for i in 0..plan.segments() {
        let mut out = vec![0xee; plan.segment_len(i).unwrap()];
        assert_eq!(plan.write_segment(i, reader(frame), &mut out)?, out.len());
        all.push(out);
    }
    assert!(plan.segment_len(plan.segments()).is_none());
    Ok(all)
}

fn check_ip(packet: &SlicedPacket<'_>) -> u16 {
    match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let h = ip.header();
            assert_eq!(h.to_header().calc_header_checksum(), h.header_checksum());
            h.identification()
        }
        NetSlice::Ipv6(_) => 0,
        NetSlice::Arp(_) => panic!("not IP"),
    }
}

fn tcp_checksum_ok(packet: &SlicedPacket<'_>, tcp: &etherparse::TcpSlice<'_>) -> bool {
    let header = tcp.to_header();
    let want = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(_) => header.calc_checksum_ipv4_raw(SRC4, DST4, tcp.payload()),
        _ => header.calc_checksum_ipv6_raw(SRC6, DST6, tcp.payload()),
    };
    want.unwrap() == tcp.checksum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn tcp_segments_are_valid_and_carry_the_stream(
        l3 in any_l3(), vlan: bool, seq: u32, words in 0usize..=10, len in 0usize..20_000,
        max in 200usize..3000, gso_size in prop_oneof![Just(0u16), 100u16..3000],
    ) {
        let data = payload(len);
        let options = vec![1; 4 * words];
        let frame = tcp_frame(l3, vlan, seq, &options, &data);
        let all = segments(&vnet(tcp_type(l3) | GSO_ECN, gso_size), &frame, max).unwrap();
        let count = all.len();
        let mut stream: Vec<u8> = Vec::new();
        for (i, segment) in all.iter().enumerate() {
            prop_assert!(segment.len() <= max);
            let packet = SlicedPacket::from_ethernet(segment).unwrap();
            prop_assert_eq!(packet.link_exts.len(), usize::from(vlan));
            let id = check_ip(&packet);
            let Some(TransportSlice::Tcp(tcp)) = &packet.transport else { panic!("not TCP") };
            prop_assert!(tcp_checksum_ok(&packet, tcp));
            prop_assert_eq!(tcp.options(), &options[..]);
            let done = u32::try_from(stream.len()).unwrap();
            prop_assert_eq!(tcp.sequence_number(), seq.wrapping_add(done));
            let last = i + 1 == count;
            prop_assert_eq!((tcp.fin(), tcp.psh()), (last, last));
            prop_assert_eq!((tcp.cwr(), tcp.ack()), (i == 0, true));
            if let L3::V4 = l3 {
                prop_assert_eq!(usize::from(id), i);
            }
            if !last && gso_size != 0 {
                prop_assert!(tcp.payload().len() <= usize::from(gso_size));
            }
            stream.extend(tcp.payload());
        }
        prop_assert_eq!(stream, data);
    }

    #[test]
    fn udp_segments_are_datagrams_of_the_wanted_size(
        l3 in any_l3(), len in 0usize..9000, gso_size in 20u16..1400,
    ) {
        let data = payload(len);
        let frame = udp_frame(l3, &data);
        let all = segments(&vnet(GSO_UDP_L4, gso_size), &frame, 1514).unwrap();
        let want: Vec<&[u8]> = data.chunks(usize::from(gso_size)).collect();
        prop_assert_eq!(all.len(), want.len().max(1));
        for (i, segment) in all.iter().enumerate() {
            let packet = SlicedPacket::from_ethernet(segment).unwrap();
            check_ip(&packet);
            let Some(TransportSlice::Udp(udp)) = &packet.transport else { panic!("not UDP") };
            let data = want.get(i).copied().unwrap_or_default();
            prop_assert_eq!(udp.payload(), data);
            let header = udp.to_header();
            let sum = match l3 {
                L3::V4 => header.calc_checksum_ipv4_raw(SRC4, DST4, data),
                L3::V6 => header.calc_checksum_ipv6_raw(SRC6, DST6, data),
            };
            prop_assert_eq!(sum.unwrap(), udp.checksum());
        }
    }

    #[test]
    fn fragments_reassemble_to_the_datagram(
        // Not so small that there would be more fragments than are allowed.
        len in 0usize..20_000, max in 100usize..3000, gso_size in prop_oneof![Just(0u16), 24u16..3000],
        options: bool,
    ) {
        let data = payload(len);
        let mut frame = udp_frame(L3::V4, &data);
        let good = UdpHeader::with_ipv4_checksum(1000, 2000,
            &etherparse::Ipv4Header { source: SRC4, destination: DST4, ..Default::default() },
            &data).unwrap();
        frame[40..42].copy_from_slice(&[0xde, 0xad]);
        if options {
            // Record route (first fragment only), then router alert (all).
            frame[14] = 0x47;
            frame.splice(34..34, [7, 3, 4, 1, 0x94, 4, 0, 0]);
        }
        let all = segments(&vnet(GSO_UDP, gso_size), &frame, max).unwrap();
        let mut datagram: Vec<u8> = Vec::new();
        for (i, fragment) in all.iter().enumerate() {
            prop_assert!(fragment.len() <= max);
            let packet = SlicedPacket::from_ethernet(fragment);
            let packet = packet.unwrap();
            prop_assert_eq!(check_ip(&packet), 0, "all fragments have the same identification");
            let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4") };
            let h = ip.header();
            prop_assert_eq!(usize::from(h.fragments_offset().value()) * 8, datagram.len());
            prop_assert_eq!(h.more_fragments(), i + 1 < all.len());
            if options {
                let first = [7, 3, 4, 1, 0x94, 4, 0, 0];
                let other = [1, 1, 1, 1, 0x94, 4, 0, 0];
                prop_assert_eq!(h.options(), if i == 0 { &first } else { &other });
            }
            datagram.extend(ip.payload().payload);
        }
        prop_assert_eq!(&datagram[..8], &good.to_bytes()[..]);
        prop_assert_eq!(&datagram[8..], &data[..]);
    }

    #[test]
    fn half_done_checksums_are_completed(l3 in any_l3(), len in 0usize..1400) {
        let data = payload(len);
        let want = udp_frame(l3, &data);
        let start = match l3 { L3::V4 => 34, L3::V6 => 54 };
        let udp_len = 8 + len;
        let partial = match l3 {
            L3::V4 => checksum::pseudo_v4(SRC4.into(), DST4.into(), 17, u16::try_from(udp_len).unwrap()),
            L3::V6 => checksum::pseudo_v6(SRC6.into(), DST6.into(), 17, u32::try_from(udp_len).unwrap()),
        };
        let mut frame = want.clone();
        frame[start + 6..start + 8].copy_from_slice(&partial.fold().to_be_bytes());
        let hdr = VnetHdr {
            flags: F_NEEDS_CSUM, csum_start: u16::try_from(start).unwrap(), csum_offset: 6,
            ..VnetHdr::default()
        };
        prop_assert_eq!(segments(&hdr, &frame, 64).unwrap(), vec![want]);
    }

    /// Whatever a peer writes, there is an error or a plan whose segments fit.
    #[test]
    fn hostile_frames_are_safe(
        l3 in any_l3(), udp: bool, header: [u8; 12], known: bool, gso in 0usize..6,
        damage in proptest::collection::vec((0usize..120, any::<u8>()), 0..6),
        len in 0usize..3000, cut in 0usize..200, max in 0usize..70_000,
    ) {
        let data = payload(len);
        let mut frame = match udp {
            true => udp_frame(l3, &data),
            false => tcp_frame(l3, true, 1, &[], &data),
        };
        for (at, byte) in damage {
            if let Some(b) = frame.get_mut(at) {
                *b = byte;
            }
        }
        frame.truncate(frame.len().saturating_sub(cut));
        let mut hdr = VnetHdr::parse(&header, HdrLen::MERGED).unwrap();
        if known {
            hdr.flags &= 3;
            hdr.gso_type = [GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP, GSO_UDP_L4, 9][gso];
        }
        if let Ok(all) = segments(&hdr, &frame, max) {
            prop_assert!(all.len() <= MAX_SEGMENTS);
            for segment in all {
                prop_assert!(hdr.gso() == GSO_NONE || segment.len() <= max);
            }
        }
    }
}

#[test]
fn ipv6_extension_headers_are_repeated() {
    let data = payload(3000);
    let mut frame = tcp_frame(L3::V6, false, 9, &[], &data);
    // Destination options: next header TCP, 8 bytes, one PadN.
    frame[20] = proto::DEST_OPTS;
    frame.splice(54..54, [proto::TCP, 0, 1, 4, 0, 0, 0, 0]);
    let all = segments(&vnet(GSO_TCPV6, 1000), &frame, 1514).unwrap();
    assert_eq!(all.len(), 3);
    for segment in all {
        let packet = SlicedPacket::from_ethernet(&segment).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("not TCP")
        };
        assert_eq!(tcp.payload().len(), 1000);
        assert!(tcp_checksum_ok(&packet, tcp));
    }
}

#[test]
fn inconsistent_requests_are_refused() {
    let v4 = tcp_frame(L3::V4, false, 1, &[], &payload(2000));
    let v6 = udp_frame(L3::V6, &payload(2000));
    let refuse = |hdr: VnetHdr, frame: &[u8], max| segments(&hdr, frame, max).unwrap_err();

    let e = refuse(vnet(2, 1000), &v4, 1514);
    assert_eq!(e, OffloadError::BadGso { gso_type: 2 });
    let e = refuse(
        VnetHdr {
            flags: 8,
            ..VnetHdr::default()
        },
        &v4,
        1514,
    );
    assert_eq!(e, OffloadError::BadFlags { flags: 8 });
    let e = refuse(vnet(GSO_TCPV6, 1000), &v4, 1514);
    assert!(matches!(
        e,
        OffloadError::WrongEthertype {
            ethertype: 0x0800,
            ..
        }
    ));
    let e = refuse(vnet(GSO_UDP, 1000), &v6, 1514);
    assert!(matches!(
        e,
        OffloadError::WrongEthertype {
            ethertype: 0x86dd,
            ..
        }
    ));
    let e = refuse(vnet(GSO_UDP_L4, 1000), &v4, 1514);
    assert_eq!(
        e,
        OffloadError::WrongProtocol {
            protocol: 6,
            wanted: 17
        }
    );
    let e = refuse(vnet(GSO_UDP_L4, 0), &v6, 1514);
    assert_eq!(e, OffloadError::NoSegmentSize);
    let e = refuse(vnet(GSO_UDP_L4, 1500), &v6, 1514);
    assert_eq!(
        e,
        OffloadError::NoRoom {
            header_len: 62,
            max_frame: 1514
        }
    );
    let e = refuse(vnet(GSO_TCPV4, 1), &v4, 1514);
    assert_eq!(e, OffloadError::TooManySegments { segments: 2000 });
    let e = refuse(vnet(GSO_TCPV4, 1000), &v4, 54);
    assert_eq!(
        e,
        OffloadError::NoRoom {
            header_len: 54,
            max_frame: 54
        }
    );
    let e = refuse(vnet(GSO_TCPV4, 1000), &v4[..40], 1514);
    assert!(matches!(e, OffloadError::Header(HdrError::Short { .. })));
    for (gso, frame, outer) in [(GSO_TCPV4, &v4, 34), (GSO_UDP_L4, &v6, 54)] {
        let hdr = VnetHdr {
            flags: F_NEEDS_CSUM,
            csum_start: 84,
            ..vnet(gso, 1000)
        };
        let e = refuse(hdr, frame, 1514);
        assert_eq!(e, OffloadError::Tunnel { inner: 84, outer });
    }
    let mut fragment = v4.clone();
    fragment[20] = 0x20;
    let e = refuse(vnet(GSO_TCPV4, 1000), &fragment, 1514);
    assert_eq!(e, OffloadError::IsFragment);
    let hdr = VnetHdr {
        csum_start: 2050,
        csum_offset: 3,
        ..vnet(GSO_NONE, 0)
    };
    assert!(matches!(
        refuse(hdr, &v4, 1514),
        OffloadError::BadCsum { .. }
    ));
}

#[test]
fn writing_reports_what_is_missing() {
    let frame = tcp_frame(L3::V4, false, 1, &[], &payload(2000));
    let plan = plan(&vnet(GSO_TCPV4, 0), &frame, frame.len(), 1514).unwrap();
    assert_eq!(
        (
            plan.segments(),
            plan.header_len(),
            plan.payload_per_segment()
        ),
        (2, 54, 1460)
    );
    let mut out = [0; 2048];
    let e = plan.write_segment(2, reader(&frame), &mut out).unwrap_err();
    assert_eq!(
        e,
        OffloadError::NoSegment {
            index: 2,
            segments: 2
        }
    );
    let e = plan
        .write_segment(0, reader(&frame), &mut out[..1513])
        .unwrap_err();
    assert_eq!(
        e,
        OffloadError::ShortOut {
            need: 1514,
            have: 1513
        }
    );
    let e = plan
        .write_segment(1, reader(&frame[..2000]), &mut out)
        .unwrap_err();
    assert_eq!(e, OffloadError::Source { at: 1514, len: 540 });
}

#[test]
fn checksum_field_must_be_inside() {
    let mut frame = [1u8; 20];
    for (start, offset) in [(18, 1), (20, 0), (21, 0), (0, 19), (0, usize::MAX)] {
        assert!(
            finish_checksum(&mut frame, start, offset).is_err(),
            "{start}+{offset}"
        );
        assert_eq!(frame, [1; 20]);
    }
    finish_checksum(&mut frame, 10, 8).unwrap();
    assert_ne!(frame, [1; 20]);
}

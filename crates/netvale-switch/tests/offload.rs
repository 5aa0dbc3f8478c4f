//! Ports with a virtio-net header send to ports without: checksums and
//! segments, judged by another implementation.

#[cfg(test)]
mod common;

#[cfg(test)]
mod offload {
    use etherparse::{NetHeaders, PacketBuilder, PacketHeaders, TransportHeader};
    use netvale_switch::domain::Want;
    use netvale_wire::vnet::{
        F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, HdrLen, VnetHdr,
    };

    use crate::common::{Bed, Got, Port, drain, queue, small, want};

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn port(bed: &Bed, name: &str, hdr: u8) -> Port {
        let w = Want {
            vnet_hdr: (hdr > 0).then_some(hdr),
            accepts_vnet_hdr: true,
            ..want(1, 1, 256, 256)
        };
        bed.open(name, &w)
    }

    /// Sends a frame with its header, in slots of `frag` bytes.
    fn send(p: &mut Port, hdr: VnetHdr, frame: &[u8], frag: usize) {
        let len = HdrLen::new(u32::from(p.reg.vnet_hdr)).unwrap();
        let mut bytes = vec![0; len.get()];
        hdr.write(&mut bytes, len).unwrap();
        bytes.extend_from_slice(frame);
        let parts: Vec<&[u8]> = bytes.chunks(frag).collect();
        assert!(queue(p, 0, &parts));
        p.tx[0].sync().unwrap();
    }

    fn payload(n: usize) -> Vec<u8> {
        (0..n)
            .map(|i| i.wrapping_mul(31).to_le_bytes()[0])
            .collect()
    }

    /// The payload, and the TCP sequence number if there is one; panics unless
    /// every checksum is right.
    fn judge(frame: &[u8]) -> (Vec<u8>, u32) {
        let p = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let body = p.payload.slice().to_vec();
        let (net, l4) = (p.net.unwrap(), p.transport.unwrap());
        if let NetHeaders::Ipv4(ip, _) = &net {
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            assert_eq!(usize::from(ip.total_len), frame.len() - 14);
        }
        let (given, right, seq) = match (&net, &l4) {
            (NetHeaders::Ipv4(ip, _), TransportHeader::Tcp(t)) => (
                t.checksum,
                t.calc_checksum_ipv4(ip, &body).unwrap(),
                t.sequence_number,
            ),
            (NetHeaders::Ipv6(ip, _), TransportHeader::Tcp(t)) => (
                t.checksum,
                t.calc_checksum_ipv6(ip, &body).unwrap(),
                t.sequence_number,
            ),
            (NetHeaders::Ipv4(ip, _), TransportHeader::Udp(u)) => {
                (u.checksum, u.calc_checksum_ipv4(ip, &body).unwrap(), 0)
            }
            (NetHeaders::Ipv6(ip, _), TransportHeader::Udp(u)) => {
                (u.checksum, u.calc_checksum_ipv6(ip, &body).unwrap(), 0)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(given, right, "checksum");
        (body, seq)
    }

    fn tcp(v6: bool, body: &[u8]) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2(A, B);
        let mut out = Vec::new();
        if v6 {
            let ip = eth.ipv6([1; 16], [2; 16], 64);
            ip.tcp(10, 20, 0xffff_f000, 100)
                .psh()
                .fin()
                .write(&mut out, body)
                .unwrap();
        } else {
            let ip = eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
            ip.tcp(10, 20, 0xffff_f000, 100)
                .psh()
                .fin()
                .write(&mut out, body)
                .unwrap();
        }
        out
    }

    fn udp(v6: bool, body: &[u8]) -> Vec<u8> {
        let eth = PacketBuilder::ethernet2(A, B);
        let mut out = Vec::new();
        if v6 {
            eth.ipv6([1; 16], [2; 16], 64)
                .udp(7, 8)
                .write(&mut out, body)
                .unwrap();
        } else {
            eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .udp(7, 8)
                .write(&mut out, body)
                .unwrap();
        }
        out
    }

    /// Spoils the checksum: the engine must not depend on it.
    fn zero_csum(frame: &mut [u8], start: usize, offset: usize) {
        frame[start + offset..start + offset + 2].fill(0);
    }

    #[test]
    fn large_frames_become_segments() {
        for hdr_len in [10, 12] {
            for (v6, is_tcp) in [(false, true), (true, true), (false, false), (true, false)] {
                for (size, mss, frag) in [
                    (100, 536, 2112),
                    (4000, 1000, 2112),
                    (9000, 1448 - 20, 700),
                    (60_000, 1400, 2112),
                    (2001, 1000, 2000),
                ] {
                    let bed = Bed::new(small());
                    let (mut a, mut b) = (port(&bed, "vale0:a", hdr_len), port(&bed, "vale0:b", 0));
                    let mut c = port(&bed, "vale0:c", hdr_len);
                    let body = payload(size);
                    let start = if v6 { 54 } else { 34 };
                    let (mut frame, offset, kind, header) = if is_tcp {
                        let kind = if v6 { GSO_TCPV6 } else { GSO_TCPV4 };
                        (tcp(v6, &body), 16, kind, start + 20)
                    } else {
                        (udp(v6, &body), 6, GSO_UDP_L4, start + 8)
                    };
                    zero_csum(&mut frame, start, offset);
                    let hdr = VnetHdr {
                        flags: F_NEEDS_CSUM,
                        gso_type: kind,
                        hdr_len: u16::try_from(header).unwrap(),
                        gso_size: mss,
                        csum_start: u16::try_from(start).unwrap(),
                        csum_offset: u16::try_from(offset).unwrap(),
                        num_buffers: 0,
                    };
                    send(&mut a, hdr, &frame, frag);
                    let got: Vec<Got> = drain(&mut b, 0);
                    let what = format!("v6 {v6} tcp {is_tcp} {size} by {mss}");
                    assert_eq!(got.len(), size.div_ceil(usize::from(mss)), "{what}");
                    let mut whole = Vec::new();
                    for g in &got {
                        assert!(g.bytes.len() <= 1514, "{what}: {} bytes", g.bytes.len());
                        let (part, seq) = judge(&g.bytes);
                        if is_tcp {
                            let at = u32::try_from(whole.len()).unwrap();
                            assert_eq!(seq, 0xffff_f000u32.wrapping_add(at), "{what}");
                        }
                        whole.extend(part);
                    }
                    assert_eq!(whole, body, "{what}");
                    // A port with the same header gets it as it is.
                    let got = drain(&mut c, 0);
                    assert_eq!(got.len(), 1);
                    assert_eq!(got[0].bytes[usize::from(hdr_len)..], frame);
                    assert_eq!(bed.drops(&a).values().sum::<u64>(), 0);
                    assert_eq!(bed.drops(&b).values().sum::<u64>(), 0);
                    bed.check();
                }
            }
        }
    }

    #[test]
    fn checksums_are_completed() {
        let bed = Bed::new(small());
        let (mut a, mut b) = (port(&bed, "vale0:a", 12), port(&bed, "vale0:b", 0));
        let mut short = port(&bed, "vale0:c", 10);
        for size in [0, 1, 7, 100, 1400] {
            for v6 in [false, true] {
                let body = payload(size);
                let mut frame = tcp(v6, &body);
                let start = if v6 { 54u16 } else { 34 };
                // The sender leaves the pseudo-header's sum there.
                let at = usize::from(start) + 16;
                let l4 = u16::try_from(20 + size).unwrap();
                let sum = pseudo(&frame, v6, l4);
                frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
                let hdr = VnetHdr {
                    flags: F_NEEDS_CSUM,
                    gso_type: GSO_NONE,
                    csum_start: start,
                    csum_offset: 16,
                    ..VnetHdr::default()
                };
                send(&mut a, hdr, &frame, 2112);
                let got = drain(&mut b, 0);
                assert_eq!(got.len(), 1);
                assert_eq!(judge(&got[0].bytes).0, body);
                let got = drain(&mut short, 0);
                assert_eq!(got[0].bytes[10..], frame);
                assert_eq!(
                    VnetHdr::parse(&got[0].bytes, HdrLen::SHORT)
                        .unwrap()
                        .csum_start,
                    start
                );
            }
        }
    }

    fn pseudo(frame: &[u8], v6: bool, len: u16) -> u16 {
        let addresses = if v6 { &frame[22..54] } else { &frame[26..34] };
        let mut sum: u32 = addresses
            .chunks(2)
            .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
            .sum();
        sum += 6 + u32::from(len);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    /// Requests that contradict their frame are dropped, and counted once.
    #[test]
    fn contradictions_are_counted() {
        let bed = Bed::new(small());
        let (mut a, mut b) = (port(&bed, "vale0:a", 12), port(&bed, "vale0:b", 0));
        let frame = udp(false, &payload(3000));
        let wrong = [
            VnetHdr {
                gso_type: GSO_TCPV4,
                gso_size: 1000,
                flags: F_NEEDS_CSUM,
                ..VnetHdr::default()
            },
            VnetHdr {
                gso_type: GSO_TCPV6,
                gso_size: 1000,
                ..VnetHdr::default()
            },
            VnetHdr {
                gso_type: GSO_UDP_L4,
                gso_size: 0,
                ..VnetHdr::default()
            },
            VnetHdr {
                gso_type: 77,
                gso_size: 1000,
                ..VnetHdr::default()
            },
            VnetHdr {
                flags: F_NEEDS_CSUM,
                csum_start: 60_000,
                csum_offset: 6,
                ..VnetHdr::default()
            },
        ];
        for (i, hdr) in wrong.into_iter().enumerate() {
            send(&mut a, hdr, &frame, 2112);
            assert_eq!(drain(&mut b, 0), Vec::new(), "{i}");
            assert_eq!(bed.drops(&a)["tx_offload"], i as u64 + 1, "{i}");
        }
        assert_eq!(bed.drops(&b).values().sum::<u64>(), 0);
    }

    /// With a longer header in front it would have 65 slots.
    #[test]
    fn what_outgrows_a_frame_is_dropped() {
        let bed = Bed::new(small());
        let (mut a, mut b) = (port(&bed, "vale0:a", 0), port(&bed, "vale0:b", 12));
        let mut frame = vec![7; 64 * 2112];
        frame[0] = 0xff;
        send(&mut a, VnetHdr::default(), &frame, 2112);
        assert_eq!(drain(&mut b, 0), Vec::new());
        assert_eq!(bed.drops(&a)["tx_offload"], 1);
        frame.truncate(64 * 2112 - 12);
        send(&mut a, VnetHdr::default(), &frame, 2112);
        let got = drain(&mut b, 0);
        assert_eq!(got[0].slots.len(), 64);
        assert_eq!(got[0].bytes[12..], frame);
    }
}

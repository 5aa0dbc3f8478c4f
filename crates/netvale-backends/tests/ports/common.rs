//! Pools, frames and waiting.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_shm::{HugePages, Mem, Memfd};
use netvale_testkit::eventually;
use netvale_testkit::net::NetNs;
use netvale_wire::eth::{EthHdr, ethertype};
use netvale_wire::ip::{Ipv4Hdr, proto};
use netvale_wire::l4::{UdpHdr, set_checksum};
use netvale_wire::mac::MacAddr;
use netvale_wire::vnet::{F_NEEDS_CSUM, GSO_TCPV4, VnetHdr};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

/// A pool in memory that could be shared, with netvale's usual buffers.
pub(crate) fn pool(count: u32) -> BufPool {
    const STRIDE: u32 = 2112;
    let len = (64 + count * STRIDE) as usize;
    let mem: Mem = Memfd::create("nvtest", len, HugePages::Never)
        .unwrap()
        .map()
        .unwrap();
    BufPool::new(&mem, 64, count, STRIDE).unwrap()
}

/// Room for `frames` frames, each `bufs` buffers long, from buffer `first` on.
pub(crate) fn room(batch: &mut Batch, first: u32, frames: u32, bufs: u32) {
    batch.clear();
    for frame in 0..frames {
        let chain: Vec<Piece> = (0..bufs)
            .map(|i| Piece {
                buf: first + frame * bufs + i,
                off: 0,
                len: 2048,
            })
            .collect();
        batch.push(&chain).unwrap();
    }
}

/// Puts a frame into buffers from `first` on.
pub(crate) fn put(batch: &mut Batch, pool: &BufPool, first: u32, frame: &[u8]) {
    let mut chain = Vec::new();
    for (i, part) in (first..).zip(frame.chunks(2048)) {
        let len = u32::try_from(part.len()).unwrap();
        chain.push(Piece {
            buf: i,
            off: 0,
            len,
        });
    }
    batch.push(&chain).unwrap();
    assert_eq!(batch.write(pool, batch.len() - 1, 0, frame), frame.len());
}

/// The bytes of a frame.
pub(crate) fn get(batch: &Batch, pool: &BufPool, i: usize) -> Vec<u8> {
    let mut bytes = vec![0; batch.frame_len(i)];
    assert_eq!(batch.read(pool, i, 0, &mut bytes), bytes.len());
    bytes
}

/// Waits until a descriptor is readable.
pub(crate) fn readable(fd: impl AsFd, time: Duration) -> bool {
    let timeout = Timespec::try_from(time).unwrap();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() > 0
}

/// A cable from `left` to `right`, ready to carry: until the kernel has noticed
/// that both ends are up, it drops what goes through a queueing discipline.
#[track_caller]
pub(crate) fn cable(a: &NetNs, b: &NetNs, settings: &str) {
    a.veth("left", b, "right", settings);
    stay();
    eventually("the cable is up", || {
        [(a, "left"), (b, "right")].iter().all(|(ns, name)| {
            ns.ip(&format!("-o link show dev {name}"))
                .contains("state UP")
        })
    });
}

/// Keeps the calling thread on its processor: the kernel queues frames for each
/// processor apart, so those of a thread that moves may overtake each other.
pub(crate) fn stay() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu());
    sched_setaffinity(None, &here).unwrap();
}

/// The address of a test's station.
pub(crate) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0x4e, 0, 0, 0, n])
}

/// A UDP datagram in a frame, with all checksums.
pub(crate) fn udp(
    (src_mac, src): (MacAddr, SocketAddrV4),
    (dst_mac, dst): (MacAddr, SocketAddrV4),
    payload: &[u8],
) -> Vec<u8> {
    let mut datagram = vec![0; 8 + payload.len()];
    let hdr = UdpHdr {
        src_port: src.port(),
        dst_port: dst.port(),
        len: u16::try_from(datagram.len()).unwrap(),
        checksum: 0,
    };
    hdr.write(&mut datagram).unwrap();
    datagram[8..].copy_from_slice(payload);
    let [a, b] = [src, dst].map(|s| IpAddr::V4(*s.ip()));
    set_checksum(&mut datagram, a, b, proto::UDP).unwrap();
    let mut frame = vec![0; 34];
    let eth = EthHdr::new(dst_mac, src_mac, ethertype::IPV4);
    let at = eth.write(&mut frame).unwrap();
    let ip = Ipv4Hdr::new(*src.ip(), *dst.ip(), proto::UDP, datagram.len()).unwrap();
    ip.write(&mut frame[at..]).unwrap();
    frame.extend(datagram);
    frame
}

/// The payload of a frame, if it is UDP over IPv4 to this port.
pub(crate) fn udp_payload(frame: &[u8], port: u16) -> Option<&[u8]> {
    let eth = EthHdr::parse(frame).ok()?;
    let packet = frame.get(eth.len()..)?;
    let ip = Ipv4Hdr::parse(packet).ok()?;
    let datagram = packet.get(ip.header_len..usize::from(ip.total_len))?;
    let udp = UdpHdr::parse(datagram).ok()?;
    let ours = eth.ethertype == ethertype::IPV4 && ip.protocol == proto::UDP;
    (ours && udp.dst_port == port).then_some(datagram.get(8..)?)
}

/// `ip:port`.
pub(crate) fn at(ip: [u8; 4], port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(ip), port)
}

/// Of a TCP packet over IPv4 that waits for segmentation.
pub(crate) fn to_be_cut() -> VnetHdr {
    VnetHdr {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 54,
        gso_size: 1400,
        csum_start: 34,
        csum_offset: 16,
        ..VnetHdr::default()
    }
}

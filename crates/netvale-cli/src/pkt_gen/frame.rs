//! The UDP packets that pkt-gen sends, with checksums that are kept right as
//! fields change instead of being computed anew.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use netvale_wire::checksum::{nonzero, update_u16};
use netvale_wire::eth::{self, EthHdr, ethertype};
use netvale_wire::ip::{self, Ipv4Hdr, Ipv6Hdr, proto};
use netvale_wire::l4::{self, UdpHdr};
use netvale_wire::mac::MacAddr;

use super::config::Config;
use super::flow::{Family, Flows, Tuple, v4};

/// Payload of txseq: the sequence number.
pub(super) const SEQ_BYTES: u32 = 4;
/// Payload of ping: sequence number, mark, time sent.
pub(super) const PROBE_BYTES: u32 = 16;
/// Tells our own pings from other packets.
const PROBE_MARK: [u8; 4] = *b"nvpg";
/// What fills the rest of the payload.
const FILLER: &[u8] = b"netvale pkt-gen ";

/// Ethernet, IP and UDP headers, bytes.
pub(super) const fn header_bytes(family: Family) -> u32 {
    match family {
        Family::V4 => 14 + 20 + 8,
        Family::V6 => 14 + 40 + 8,
    }
}

/// Where the fields of a packet are, from the start of the Ethernet header.
#[derive(Debug, Clone, Copy)]
struct Layout {
    src_ip: usize,
    dst_ip: usize,
    ip_len: usize,
    udp: usize,
    payload: usize,
}

impl Layout {
    const fn new(family: Family) -> Self {
        match family {
            Family::V4 => Self {
                src_ip: eth::LEN + 12,
                dst_ip: eth::LEN + 16,
                ip_len: ip::V4_LEN,
                udp: eth::LEN + ip::V4_LEN,
                payload: eth::LEN + ip::V4_LEN + l4::UDP_LEN,
            },
            Family::V6 => Self {
                src_ip: eth::LEN + 8,
                dst_ip: eth::LEN + 24,
                ip_len: ip::V6_LEN,
                udp: eth::LEN + ip::V6_LEN,
                payload: eth::LEN + ip::V6_LEN + l4::UDP_LEN,
            },
        }
    }
}

/// Offset of the checksum in an IPv4 header.
const V4_CHECKSUM: usize = 10;

/// Makes one packet after the other in place.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    /// virtio-net header (zeros), then the frame; at least all headers.
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are sent.
    len: usize,
    vnet_hdr: usize,
    family: Family,
    layout: Layout,
    macs: (MacAddr, MacAddr),
    flows: Flows,
}

impl Frames {
    /// Frames of `config`'s smallest size; `seed` makes threads differ.
    pub(super) fn new(config: &Config, src_mac: MacAddr, seed: u64) -> Self {
        let family = config.src.family;
        let mut this = Self {
            buffer: Vec::new(),
            len: 0,
            vnet_hdr: usize::from(config.vnet_hdr),
            family,
            layout: Layout::new(family),
            macs: (config.dst_mac, src_mac),
            flows: Flows::new(
                config.src,
                config.dst,
                config.random_src,
                config.random_dst,
                seed,
            ),
        };
        this.resize(config.size_min);
        this
    }

    /// The packet to send now.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    /// Its length, bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// True if [`advance`](Self::advance) changes nothing.
    pub(super) fn is_constant(&self) -> bool {
        self.flows.is_single()
    }

    /// Where [`advance`](Self::advance) and [`set_seq`](Self::set_seq) may
    /// change bytes; empty if the frame is too short to have them.
    pub(super) fn hot(&self) -> Range<usize> {
        let first = match self.family {
            Family::V4 => eth::LEN + V4_CHECKSUM,
            Family::V6 => self.layout.src_ip,
        };
        let end = self.layout.payload + SEQ_BYTES as usize;
        let (first, end) = (self.vnet_hdr + first, self.vnet_hdr + end);
        first.min(self.len)..end.min(self.len)
    }

    /// Sets the size without virtio-net header, and writes all headers.
    pub(super) fn resize(&mut self, size: u32) {
        let size = size as usize;
        self.len = self.vnet_hdr + size;
        let whole = size.max(self.layout.payload);
        self.buffer.clear();
        self.buffer.resize(self.vnet_hdr, 0);
        self.buffer
            .extend(FILLER.iter().copied().cycle().take(whole));
        let tuple = self.flows.current();
        // Sizes were checked with the command line; a packet that no header
        // can describe keeps the filler, which a receiver then drops.
        let _ = self.write_headers(tuple, whole);
    }

    fn write_headers(&mut self, tuple: Tuple, whole: usize) -> Option<()> {
        let frame = &mut self.buffer[self.vnet_hdr..];
        let segment = whole - self.layout.udp;
        let ethertype = match self.family {
            Family::V4 => ethertype::IPV4,
            Family::V6 => ethertype::IPV6,
        };
        let (dst_mac, src_mac) = self.macs;
        EthHdr::new(dst_mac, src_mac, ethertype).write(frame).ok()?;
        let packet = &mut frame[eth::LEN..];
        let (src, dst): (IpAddr, IpAddr) = match self.family {
            Family::V4 => {
                let src = Ipv4Addr::from(v4(tuple.src.0));
                let dst = Ipv4Addr::from(v4(tuple.dst.0));
                let header = Ipv4Hdr::new(src, dst, proto::UDP, segment)?;
                header.write(packet).ok()?;
                (src.into(), dst.into())
            }
            Family::V6 => {
                let (src, dst) = (Ipv6Addr::from(tuple.src.0), Ipv6Addr::from(tuple.dst.0));
                let header = Ipv6Hdr::new(src, dst, proto::UDP, segment)?;
                header.write(packet).ok()?;
                (src.into(), dst.into())
            }
        };
        let message = &mut packet[self.layout.ip_len..];
        let udp = UdpHdr {
            src_port: tuple.src.1,
            dst_port: tuple.dst.1,
            len: u16::try_from(segment).ok()?,
            checksum: 0,
        };
        udp.write(message).ok()?;
        l4::set_checksum(message, src, dst, proto::UDP)
    }

    /// Moves on to the next addresses and ports.
    pub(super) fn advance(&mut self) {
        let before = self.flows.current();
        self.flows.advance();
        let after = self.flows.current();
        let Layout {
            src_ip,
            dst_ip,
            udp,
            ..
        } = self.layout;
        if before.src.0 != after.src.0 {
            self.replace_ip(src_ip, after.src.0);
        }
        if before.dst.0 != after.dst.0 {
            self.replace_ip(dst_ip, after.dst.0);
        }
        if before.src.1 != after.src.1 {
            self.replace(udp, &after.src.1.to_be_bytes(), false);
        }
        if before.dst.1 != after.dst.1 {
            self.replace(udp + 2, &after.dst.1.to_be_bytes(), false);
        }
    }

    /// Writes a sequence number at the start of the payload.
    pub(super) fn set_seq(&mut self, seq: u32) {
        self.replace(self.layout.payload, &seq.to_be_bytes(), false);
    }

    /// Makes the packet a ping that was sent at `now_ns`.
    pub(super) fn set_probe(&mut self, seq: u32, now_ns: u64) {
        let mut probe = [0u8; PROBE_BYTES as usize];
        probe[..4].copy_from_slice(&seq.to_be_bytes());
        probe[4..8].copy_from_slice(&PROBE_MARK);
        probe[8..].copy_from_slice(&now_ns.to_be_bytes());
        self.replace(self.layout.payload, &probe, false);
    }

    /// Where the payload begins, from the start of the buffer.
    pub(super) fn payload_offset(&self) -> usize {
        self.vnet_hdr + self.layout.payload
    }

    fn replace_ip(&mut self, at: usize, address: u128) {
        match self.family {
            Family::V4 => self.replace(at, &v4(address).to_be_bytes(), true),
            Family::V6 => self.replace(at, &address.to_be_bytes(), false),
        }
    }

    /// Replaces whole 16-bit words at an even offset, and corrects the UDP
    /// checksum and, for IPv4 addresses, the header's.
    fn replace(&mut self, at: usize, new: &[u8], in_v4_header: bool) {
        let udp_checksum = self.vnet_hdr + self.layout.udp + l4::UDP_CHECKSUM;
        let ip_checksum = self.vnet_hdr + eth::LEN + V4_CHECKSUM;
        let mut udp_sum = self.word(udp_checksum);
        let mut ip_sum = self.word(ip_checksum);
        for (i, pair) in new.as_chunks::<2>().0.iter().enumerate() {
            let at = self.vnet_hdr + at + 2 * i;
            let (old, new) = (self.word(at), u16::from_be_bytes(*pair));
            self.set_word(at, new);
            udp_sum = update_u16(udp_sum, old, new);
            ip_sum = update_u16(ip_sum, old, new);
        }
        self.set_word(udp_checksum, nonzero(udp_sum));
        if in_v4_header {
            self.set_word(ip_checksum, ip_sum);
        }
    }

    fn word(&self, at: usize) -> u16 {
        match self.buffer.get(at..at + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        }
    }

    fn set_word(&mut self, at: usize, value: u16) {
        if let Some(bytes) = self.buffer.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// Sequence number and time of a ping whose payload is `payload`.
pub(super) fn read_probe(payload: &[u8]) -> Option<(u32, u64)> {
    let payload: &[u8; PROBE_BYTES as usize] = payload.first_chunk()?;
    let (seq, rest) = payload.split_first_chunk::<4>()?;
    let (mark, time) = rest.split_first_chunk::<4>()?;
    let time: &[u8; 8] = time.first_chunk()?;
    (*mark == PROBE_MARK).then(|| (u32::from_be_bytes(*seq), u64::from_be_bytes(*time)))
}

/// Turns a packet into its answer: MAC addresses, IP addresses and UDP ports
/// change places, which no checksum notices.
pub(super) fn swap_ends(frame: &mut [u8]) {
    swap(frame, 0, 6, 6);
    let ethertype = frame
        .get(12..14)
        .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    match ethertype {
        Some(ethertype::IPV4) => {
            swap(frame, eth::LEN + 12, eth::LEN + 16, 4);
            let plain = frame.get(eth::LEN) == Some(&0x45);
            if plain && frame.get(eth::LEN + 9) == Some(&proto::UDP) {
                swap(frame, eth::LEN + 20, eth::LEN + 22, 2);
            }
        }
        Some(ethertype::IPV6) => {
            swap(frame, eth::LEN + 8, eth::LEN + 24, 16);
            if frame.get(eth::LEN + 6) == Some(&proto::UDP) {
                swap(frame, eth::LEN + 40, eth::LEN + 42, 2);
            }
        }
        _ => {}
    }
}

/// Exchanges `len` bytes at `a` with those at `b`; nothing if the frame ends
/// before.
fn swap(frame: &mut [u8], a: usize, b: usize, len: usize) {
    if frame.len() >= b + len {
        let (left, right) = frame.split_at_mut(b);
        left[a..a + len].swap_with_slice(&mut right[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;
    use netvale_wire::checksum::{checksum, pseudo_v4, pseudo_v6};

    /// Computes every checksum anew.
    fn assert_valid(frame: &[u8]) {
        let packet = &frame[eth::LEN..];
        let header = EthHdr::parse(frame).expect("Ethernet");
        let (mut sum, message) = if header.ethertype == ethertype::IPV4 {
            let ip = Ipv4Hdr::parse(packet).expect("IPv4");
            assert_eq!(checksum(&packet[..20]), 0);
            assert_eq!(usize::from(ip.total_len), packet.len());
            let message = &packet[20..];
            (pseudo_v4(ip.src, ip.dst, 17, ip.total_len - 20), message)
        } else {
            let ip = Ipv6Hdr::parse(packet).expect("IPv6");
            assert_eq!(usize::from(ip.payload_len), packet.len() - 40);
            let len = u32::from(ip.payload_len);
            (pseudo_v6(ip.src, ip.dst, 17, len), &packet[40..])
        };
        sum.add(message);
        assert_eq!(sum.checksum(), 0);
        assert_ne!(message[6..8], [0, 0]);
    }

    #[test]
    fn checksums_stay_right() {
        let v4 = "-i vale0:a -f txseq -d 10.1.0.1:1-10.1.3.9:300 -s 9.255.255.1:65000-10.0.0.9";
        let v6 = "-i vale0:a -f txseq -6 -d [fd00::fffe]:1-[fd00::1:9]:9 -s fd00::1-fd00::9";
        for line in [v4, v6] {
            for random in ["", " -z", " -Z", " -z -Z"] {
                for vnet in [" -H 0", " -H 12"] {
                    let config = config(&format!("{line}{random}{vnet}")).expect("valid");
                    let vnet = usize::from(config.vnet_hdr);
                    let mut frames = Frames::new(&config, MacAddr::ZERO, 1);
                    for seq in 0..2000 {
                        frames.set_seq(seq * 0x1_0001);
                        assert_valid(&frames.bytes()[vnet..]);
                        frames.advance();
                        if seq % 500 == 0 {
                            frames.resize(70 + seq);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn only_the_hot_bytes_change() {
        let config = config("-i vale0:a -f txseq -z -Z -d 10.1.0.1:1-10.9.0.1:99 -l 100 -H 10")
            .expect("valid");
        let mut frames = Frames::new(&config, MacAddr::ZERO, 3);
        let first = frames.bytes().to_vec();
        let hot = frames.hot();
        for seq in 1..100 {
            frames.advance();
            frames.set_seq(seq);
            let now = frames.bytes();
            assert_eq!(now[..hot.start], first[..hot.start]);
            assert_eq!(now[hot.end..], first[hot.end..]);
        }
    }

    #[test]
    fn short_frames_are_cut() {
        let config = config("-i vale0:a -f tx -l 20").expect("valid");
        let mut frames = Frames::new(&config, MacAddr::ZERO, 1);
        assert_eq!(frames.bytes().len(), 20);
        frames.advance();
        assert!(frames.hot().is_empty());
    }

    #[test]
    fn a_probe_comes_back() {
        for line in ["-i vale0:a -f ping", "-i vale0:a -f ping -6"] {
            let config = config(line).expect("valid");
            let mac = MacAddr([2, 0, 0, 0, 0, 1]);
            let mut frames = Frames::new(&config, mac, 1);
            frames.set_probe(7, 123_456_789_000);
            let mut answer = frames.bytes().to_vec();
            swap_ends(&mut answer);
            assert_valid(&answer);
            assert_eq!(MacAddr::from_slice(&answer), Some(mac));
            let payload = &answer[frames.payload_offset()..];
            assert_eq!(read_probe(payload), Some((7, 123_456_789_000)));
            assert_eq!(read_probe(&payload[..8]), None);
            swap_ends(&mut answer);
            assert_eq!(answer, frames.bytes());
        }
    }

    #[test]
    fn swapping_survives_any_length() {
        for len in 0..80 {
            for ethertype in [[0x08, 0x00], [0x86, 0xdd]] {
                let mut frame = vec![0x45; len];
                if len >= 14 {
                    frame[12..14].copy_from_slice(&ethertype);
                }
                swap_ends(&mut frame);
                assert_eq!(frame.len(), len);
            }
        }
    }
}

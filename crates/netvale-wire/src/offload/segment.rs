//! Writing the frames of a [`Plan`].

use super::{Layers, OffloadError, Plan, Work, finish_checksum};
use crate::bytes::{get_u16, get_u32, put_u16, put_u32};
use crate::checksum;
use crate::ip::{V4_LEN, V6_LEN, proto, refresh_v4_checksum};
use crate::l4::{UDP_CHECKSUM, set_checksum, tcp_flags};
use core::net::IpAddr;

/// Offsets in an IPv4 header: total length, identification, fragment word.
const V4_TOTAL_LEN: usize = 2;
const V4_ID: usize = 4;
const V4_FRAGMENT: usize = 6;
/// Offset of the payload length in an IPv6 header.
const V6_PAYLOAD_LEN: usize = 4;
/// Offsets in a TCP header: sequence number, flags.
const TCP_SEQ: usize = 4;
const TCP_FLAGS: usize = 13;
/// Offset of the length in a UDP header.
const UDP_LENGTH: usize = 4;
/// "More fragments" in an IPv4 fragment word.
const MORE_FRAGMENTS: u16 = 0x2000;

impl Plan {
    /// Writes segment `i` to the start of `out` and returns its length, bytes.
    ///
    /// `read` copies the bytes at an offset of the long frame, which does not
    /// count its virtio-net header, to a buffer it has to fill; it returns
    /// `false` if it cannot.
    ///
    /// # Errors
    ///
    /// [`OffloadError::NoSegment`], [`OffloadError::ShortOut`] or
    /// [`OffloadError::Source`]. `out` may then be partly overwritten.
    pub fn write_segment(
        &self,
        i: usize,
        mut read: impl FnMut(usize, &mut [u8]) -> bool,
        out: &mut [u8],
    ) -> Result<usize, OffloadError> {
        let no_segment = OffloadError::NoSegment {
            index: i,
            segments: self.segments,
        };
        let (start, payload_len) = self.payload(i).ok_or(no_segment)?;
        let len = self.header_len + payload_len;
        let have = out.len();
        let out = out
            .get_mut(..len)
            .ok_or(OffloadError::ShortOut { need: len, have })?;
        let (header, payload) = out.split_at_mut(self.header_len);
        for (to, from) in header.iter_mut().zip(&self.header) {
            *to = *from;
        }
        fill(&mut read, self.header_len + start, payload)?;
        let last = i + 1 == self.segments;
        // The plan has checked that all fields are inside the headers, so the
        // writers below cannot fail; a bug in it would leave a bad frame, which
        // the receiver drops, rather than stop the switch.
        match self.work {
            Work::Plain { csum: None } => {}
            Work::Plain {
                csum: Some((start, offset)),
            } => finish_checksum(out, start, offset)?,
            Work::Tcp(layers) => {
                let written = fix_ip(out, layers, i)
                    .and_then(|()| fix_tcp(out.get_mut(layers.l4..)?, layers, start, i == 0, last));
                debug_assert!(written.is_some(), "TCP header checked by the plan");
            }
            Work::Udp(layers) => {
                let written = fix_ip(out, layers, i)
                    .and_then(|()| fix_udp(out.get_mut(layers.l4..)?, layers));
                debug_assert!(written.is_some(), "UDP header checked by the plan");
            }
            Work::Fragments { layers, csum } => {
                if i == 0 && csum {
                    let sum = self.datagram_checksum(layers, &mut read)?;
                    put_u16(out, layers.l4 + UDP_CHECKSUM, sum);
                }
                let written = self.fix_fragment(out, layers, start, last);
                debug_assert!(written.is_some(), "IPv4 header checked by the plan");
            }
        }
        Ok(len)
    }

    /// The UDP checksum of the whole datagram, which no single fragment holds.
    fn datagram_checksum(
        &self,
        layers: Layers,
        read: &mut impl FnMut(usize, &mut [u8]) -> bool,
    ) -> Result<u16, OffloadError> {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (layers.src, layers.dst) else {
            return Ok(0);
        };
        let len = self.frame_len - layers.l4;
        let len = u16::try_from(len)
            .ok()
            .ok_or(OffloadError::TooLong { payload: len })?;
        let mut sum = checksum::pseudo_v4(src, dst, proto::UDP, len);
        let mut chunk = [0; 512];
        let mut at = layers.l4;
        while at < self.frame_len {
            let n = chunk.len().min(self.frame_len - at);
            let piece = chunk.get_mut(..n).unwrap_or_default();
            fill(read, at, piece)?;
            if at == layers.l4 {
                put_u16(piece, UDP_CHECKSUM, 0);
            }
            sum.add(piece);
            at += n;
        }
        Ok(checksum::nonzero(sum.checksum()))
    }

    /// Sets length, position and checksum of an IPv4 fragment; options that
    /// belong to the first fragment only become padding in the others.
    fn fix_fragment(&self, out: &mut [u8], layers: Layers, start: usize, last: bool) -> Option<()> {
        let packet = out.get_mut(layers.l3..)?;
        put_u16(packet, V4_TOTAL_LEN, u16::try_from(packet.len()).ok()?)?;
        if self.segments > 1 {
            let more = if last { 0 } else { MORE_FRAGMENTS };
            put_u16(packet, V4_FRAGMENT, u16::try_from(start / 8).ok()? | more)?;
        }
        let header = packet.get_mut(..layers.l4 - layers.l3)?;
        if start > 0 {
            blank_uncopied_options(header.get_mut(V4_LEN..)?);
        }
        refresh_v4_checksum(header)
    }
}

fn fill(
    read: &mut impl FnMut(usize, &mut [u8]) -> bool,
    at: usize,
    dst: &mut [u8],
) -> Result<(), OffloadError> {
    let len = dst.len();
    if len == 0 || read(at, dst) {
        Ok(())
    } else {
        Err(OffloadError::Source { at, len })
    }
}

/// Sets the lengths, and for IPv4 identification and checksum, of segment `i`.
fn fix_ip(out: &mut [u8], layers: Layers, i: usize) -> Option<()> {
    let packet = out.get_mut(layers.l3..)?;
    if layers.src.is_ipv6() {
        let len = packet.len().checked_sub(V6_LEN)?;
        return put_u16(packet, V6_PAYLOAD_LEN, u16::try_from(len).ok()?);
    }
    put_u16(packet, V4_TOTAL_LEN, u16::try_from(packet.len()).ok()?)?;
    let id = get_u16(packet, V4_ID)?.wrapping_add(u16::try_from(i).ok()?);
    put_u16(packet, V4_ID, id)?;
    refresh_v4_checksum(packet.get_mut(..layers.l4 - layers.l3)?)
}

fn fix_tcp(
    segment: &mut [u8],
    layers: Layers,
    start: usize,
    first: bool,
    last: bool,
) -> Option<()> {
    let seq = get_u32(segment, TCP_SEQ)?.wrapping_add(u32::try_from(start).ok()?);
    put_u32(segment, TCP_SEQ, seq)?;
    let flags = segment.get_mut(TCP_FLAGS)?;
    if !first {
        *flags &= !tcp_flags::CWR;
    }
    if !last {
        *flags &= !(tcp_flags::FIN | tcp_flags::PSH);
    }
    set_checksum(segment, layers.src, layers.dst, proto::TCP)
}

fn fix_udp(datagram: &mut [u8], layers: Layers) -> Option<()> {
    put_u16(datagram, UDP_LENGTH, u16::try_from(datagram.len()).ok()?)?;
    set_checksum(datagram, layers.src, layers.dst, proto::UDP)
}

/// RFC 791, section 3.1: only options with the copied bit are in every fragment.
fn blank_uncopied_options(options: &mut [u8]) {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(&kind) = options.get(at) {
        let len = match (kind, options.get(at + 1)) {
            (END, _) => return,
            (NOP, _) => 1,
            (_, Some(&len)) if len >= 2 => usize::from(len),
            // Malformed: leave the rest as it is.
            _ => return,
        };
        if kind & COPIED == 0 {
            let end = options.len().min(at + len);
            options.get_mut(at..end).unwrap_or_default().fill(NOP);
        }
        at += len;
    }
}

//! VLAN tags that interfaces took out of frames.

use netvale_wire::vnet::{HdrLen, VnetHdr};

use crate::batch::{Batch, BufPool};

/// A VLAN tag as it stands in a frame: type, then control information.
pub(super) type Tag = [u8; 4];

/// The tag that auxiliary data carry.
pub(super) fn tag_of(aux: &[u8]) -> Option<Tag> {
    let status = u32::from_ne_bytes(*aux.first_chunk()?);
    let tci = u16::from_ne_bytes(*aux.get(16..)?.first_chunk()?);
    let tpid = u16::from_ne_bytes(*aux.get(18..)?.first_chunk()?);
    tag(status, tci, tpid)
}

pub(super) fn tag(status: u32, tci: u16, tpid: u16) -> Option<Tag> {
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let tpid = match status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => 0x8100,
        _ => tpid,
    };
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    Some([a, b, c, d])
}

/// Puts a tag back behind the addresses, and moves the offsets of the
/// virtio-net header, which the kernel counted without it.
pub(super) fn insert_tag(pool: &BufPool, batch: &mut Batch, i: usize, header: HdrLen, tag: Tag) {
    let at = header.get() + 12;
    if batch.frame_len(i) < at {
        return;
    }
    batch.open_gap(pool, i, at, tag.len());
    batch.write(pool, i, at, &tag);
    let mut bytes = [0; 12];
    let n = batch.read(
        pool,
        i,
        0,
        bytes.get_mut(..header.get()).unwrap_or_default(),
    );
    if n == 0 {
        return;
    }
    if let Some(mut vnet) = VnetHdr::parse(&bytes, header) {
        move_back(&mut vnet);
        if let Some(n) = vnet.write(&mut bytes, header) {
            batch.write(pool, i, 0, bytes.get(..n).unwrap_or_default());
        }
    }
}

/// What the header says of bytes behind a tag lies behind it.
pub(super) fn move_back(vnet: &mut VnetHdr) {
    if vnet.needs_csum() {
        vnet.csum_start = vnet.csum_start.saturating_add(4);
    }
    if vnet.hdr_len > 0 {
        vnet.hdr_len = vnet.hdr_len.saturating_add(4);
    }
}

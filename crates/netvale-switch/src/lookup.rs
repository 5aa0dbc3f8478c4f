//! How a switch finds where a frame goes: a seam for embedding programs, and
//! three that are built in.

use crate::fdb::Fdb;

/// What a look-up may see of a frame: the first slot after any virtio-net
/// header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Destination address, first byte lowest.
    pub dst: u64,
    /// Source address, first byte lowest.
    pub src: u64,
    /// EtherType, host order.
    pub ethertype: u16,
    /// Index of the sending port in the switch.
    pub port: u16,
    /// Index of the sending ring.
    pub ring: u16,
}

/// Where a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dest {
    /// To the port with this index.
    Port(u16),
    /// To every other port.
    All,
    /// Nowhere.
    Drop,
}

/// A look-up function.
///
/// Called once for each frame whose addresses differ from the one before it in
/// the batch. It must not block.
pub trait Lookup: Send + Sync {
    /// Decides where a frame goes.
    fn lookup(&self, head: &FrameHead) -> Dest;
}

/// Learning, as a bridge does: unknown and group addresses go to all.
#[inline]
pub(crate) fn learned(fdb: Fdb<'_>, dst: u64) -> Dest {
    if dst & 1 != 0 {
        return Dest::All;
    }
    fdb.lookup(dst).map_or(Dest::All, Dest::Port)
}

/// Only what was entered by hand: unknown addresses are dropped.
#[inline]
pub(crate) fn entered(fdb: Fdb<'_>, dst: u64) -> Dest {
    if dst & 1 != 0 {
        return Dest::All;
    }
    fdb.lookup(dst).map_or(Dest::Drop, Dest::Port)
}

/// The flow of a frame, to spread flows over rings: addresses and ports of an
/// IP packet, else the MAC addresses. `words` are its bytes 0..48.
#[must_use]
pub fn flow_hash(bytes: &[u8; 48]) -> u32 {
    let word = |i: usize| {
        let mut b = [0; 8];
        b.copy_from_slice(&bytes[i..i + 8]);
        u64::from_le_bytes(b)
    };
    let mix = |h: u64, w: u64| (h ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let ethertype = u16::from_be_bytes([bytes[12], bytes[13]]);
    let h = match ethertype {
        // Addresses at 26..34; ports follow a header without options.
        0x0800 => {
            let ports = if bytes[14] & 0xf == 5 {
                word(34) & 0xffff_ffff
            } else {
                0
            };
            mix(mix(0, word(26)), ports)
        }
        // The last 8 bytes of each address that lie in view.
        0x86dd => mix(mix(0, word(30)), word(40)),
        _ => mix(mix(0, word(0)), word(8) & 0xffff_ffff),
    };
    u32::try_from(mix(h, 0) >> 32).unwrap_or(0)
}

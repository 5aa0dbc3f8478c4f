//! `struct netmap_slot`: one descriptor of a ring, 16 bytes, align 8.
//!
//! | offset | size | field | writer |
//! |---|---|---|---|
//! | 0 | 4 | buffer index | slot's owner |
//! | 4 | 2 | length, bytes | slot's owner |
//! | 6 | 2 | flags | slot's owner |
//! | 8 | 8 | pointer or data offset | slot's owner |

/// Size of a slot, bytes.
pub const SIZE: usize = 16;
/// Index in the buffer pool (`u32`).
pub const BUF_IDX: usize = 0;
/// Bytes in this slot (`u16`).
pub const LEN: usize = 4;
/// `NS_*` flags (`u16`).
pub const FLAGS: usize = 6;
/// Address ([`INDIRECT`]) or data offset, masked by the ring's `offset_mask` (`u64`).
pub const PTR: usize = 8;

/// `NS_BUF_CHANGED`: the buffer index changed since the last sync.
pub const BUF_CHANGED: u16 = 0x0001;
/// `NS_REPORT`: report completion at this slot.
pub const REPORT: u16 = 0x0002;
/// `NS_FORWARD`: pass the received frame on to the other side (host or NIC).
pub const FORWARD: u16 = 0x0004;
/// `NS_NO_LEARN`: documented by netmap, ignored by VALE.
pub const NO_LEARN: u16 = 0x0008;
/// `NS_INDIRECT`: the data lie at [`PTR`] in the sending process (VALE, transmit).
pub const INDIRECT: u16 = 0x0010;
/// `NS_MOREFRAG`: the packet continues in the next slot.
pub const MOREFRAG: u16 = 0x0020;
/// `NS_TXMON`: in a monitor, the packet was transmitted, not received.
pub const TXMON: u16 = 0x0040;
/// Shift of the high byte: fragment count on receive (`NS_RFRAGS`),
/// destination port on transmit (`NS_PORT`, ignored by VALE).
pub const PORT_SHIFT: u32 = 8;
/// Mask of the high byte.
pub const PORT_MASK: u16 = 0xff00;

/// `NS_RFRAGS`: fragment count that the flags of a received slot carry.
#[must_use]
pub const fn rfrags(flags: u16) -> u8 {
    flags.to_be_bytes()[0]
}

/// `flags` with the fragment count replaced by `count`.
#[must_use]
pub const fn with_rfrags(flags: u16, count: u8) -> u16 {
    u16::from_be_bytes([count, flags.to_be_bytes()[1]])
}

//! `struct netmap_if`: 56 bytes, then one ring offset (`u64`) a ring.
//!
//! | offset | size | field | writer |
//! |---|---|---|---|
//! | 0 | 16 | name, cut to 15 bytes and NUL | system, once |
//! | 16 | 4 | version, left 0 | – |
//! | 20 | 4 | flags | system, once |
//! | 24 | 4 | hardware transmit rings | system, once |
//! | 28 | 4 | hardware receive rings | system, once |
//! | 32 | 4 | head of the extra-buffer list | both |
//! | 36 | 4 | host transmit rings | system, once |
//! | 40 | 4 | host receive rings | system, once |
//! | 56 | 8 n | ring offsets | system, once |

/// Size of the fixed part, bytes.
pub const SIZE: usize = 56;
/// Port name, NUL-terminated (16 bytes).
pub const NAME: usize = 0;
/// Never written by netmap (`u32`).
pub const VERSION: usize = 16;
/// [`PRIV_MEM`] (`u32`).
pub const FLAGS: usize = 20;
/// Hardware transmit rings, host rings not counted (`u32`).
pub const TX_RINGS: usize = 24;
/// Hardware receive rings, host rings not counted (`u32`).
pub const RX_RINGS: usize = 28;
/// First extra buffer, 0 for none; each begins with the next one's index (`u32`).
pub const BUFS_HEAD: usize = 32;
/// Host transmit rings (`u32`).
pub const HOST_TX_RINGS: usize = 36;
/// Host receive rings (`u32`).
pub const HOST_RX_RINGS: usize = 40;
/// Ring offsets from the start of this struct, bytes: hardware transmit, host
/// transmit, hardware receive, host receive. 0 means not bound by this file.
pub const RING_OFS: usize = 56;

/// `NI_PRIV_MEM`: the port's memory is a private region.
pub const PRIV_MEM: u32 = 1;

/// Bytes a descriptor with `rings` ring offsets occupies; `None` on overflow.
#[must_use]
pub const fn bytes(rings: usize) -> Option<usize> {
    match rings.checked_mul(8) {
        Some(n) => n.checked_add(SIZE),
        None => None,
    }
}

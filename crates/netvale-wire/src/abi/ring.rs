//! `struct netmap_ring`: 256-byte header, align 128, then the slots.
//!
//! | offset | size | field | writer |
//! |---|---|---|---|
//! | 0 | 8 | bytes from this header to buffer 0, signed | system, once |
//! | 8 | 4 | number of slots | system, once |
//! | 12 | 4 | buffer stride, bytes | system, once |
//! | 16 | 2 | ring number in its direction | system, once |
//! | 18 | 2 | direction | system, once |
//! | 20 | 4 | `head` | user |
//! | 24 | 4 | `cur` | user |
//! | 28 | 4 | `tail` | system |
//! | 32 | 4 | flags | user |
//! | 40 | 16 | time stamp, seconds and microseconds | system, at receive sync |
//! | 56 | 8 | mask of the offset bits in a slot's pointer | system, once |
//! | 64 | 8 | required alignment of data, bytes | system, once |
//! | 128 | 128 | reserved for the program | user |
//! | 256 | 16 n | slots | see [`slot`](super::slot) |

/// Size of the header, bytes: offset of slot 0.
pub const SIZE: usize = 256;
/// Distance from this ring to buffer 0, bytes (`i64`).
pub const BUF_OFS: usize = 0;
/// Number of slots (`u32`).
pub const NUM_SLOTS: usize = 8;
/// Distance between buffers, bytes (`u32`).
pub const NR_BUF_SIZE: usize = 12;
/// Index within the direction; host rings follow the hardware rings (`u16`).
pub const RINGID: usize = 16;
/// [`DIR_RX`] or [`DIR_TX`] (`u16`).
pub const DIR: usize = 18;
/// First slot the user owns (`u32`).
pub const HEAD: usize = 20;
/// Wake-up point (`u32`).
pub const CUR: usize = 24;
/// First slot the system owns (`u32`).
pub const TAIL: usize = 28;
/// [`TIMESTAMP`], [`FORWARD`] (`u32`).
pub const FLAGS: usize = 32;
/// Seconds of the last receive sync (`i64`).
pub const TS_SEC: usize = 40;
/// Microseconds of the last receive sync (`i64`).
pub const TS_USEC: usize = 48;
/// Offset bits of a slot's pointer; 0 when offsets are not in use (`u64`).
pub const OFFSET_MASK: usize = 56;
/// Required alignment of the data start, bytes; 0 for none (`u64`).
pub const BUF_ALIGN: usize = 64;
/// 128 bytes no system ever touches; programs such as `lb` keep state here.
pub const SEM: usize = 128;
/// Length of the area at [`SEM`], bytes.
pub const SEM_LEN: usize = 128;
/// Offset of slot 0.
pub const SLOTS: usize = SIZE;

/// [`DIR`] of a receive ring. netmap's header says the opposite; its code,
/// and so programs, see these values.
pub const DIR_RX: u16 = 0;
/// [`DIR`] of a transmit ring.
pub const DIR_TX: u16 = 1;

/// `NR_TIMESTAMP`: refresh the time stamp at each receive sync.
pub const TIMESTAMP: u32 = 0x0002;
/// `NR_FORWARD`: honour the slots' forward flag.
pub const FORWARD: u32 = 0x0004;

/// Bytes a ring with `num_slots` slots occupies; `None` on overflow.
#[must_use]
pub const fn bytes(num_slots: u32) -> Option<usize> {
    let slots = num_slots as usize;
    match slots.checked_mul(super::slot::SIZE) {
        Some(n) => n.checked_add(SIZE),
        None => None,
    }
}

//! Slots and the public ring that programs see.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use netvale_shm::{Array32, Mem, Words};
use netvale_wire::abi;

/// The first 8 bytes of a netmap slot, read once: buffer index, length, flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slot(u64);

impl Slot {
    /// A slot's word.
    #[inline]
    #[must_use]
    pub const fn new(buf: u32, len: u16, flags: u16) -> Self {
        Self(buf as u64 | (len as u64) << 32 | (flags as u64) << 48)
    }
    /// As stored.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
    /// To be stored.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }
    /// Buffer index. Anything, until checked.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub const fn buf(self) -> u32 {
        self.0 as u32
    }
    /// Bytes used. Anything, until checked.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "bit field")]
    pub const fn len(self) -> u16 {
        (self.0 >> 32) as u16
    }
    /// NS_* flags.
    #[inline]
    #[must_use]
    pub const fn flags(self) -> u16 {
        (self.0 >> 48) as u16
    }
    /// Whether any of these flags is set.
    #[inline]
    #[must_use]
    pub const fn has(self, flags: u16) -> bool {
        self.flags() & flags != 0
    }
    /// The same with other flags.
    #[inline]
    #[must_use]
    pub const fn with_flags(self, flags: u16) -> Self {
        Self::new(self.buf(), self.len(), flags)
    }
    /// The same with another buffer.
    #[inline]
    #[must_use]
    pub const fn with_buf(self, buf: u32) -> Self {
        Self::new(buf, self.len(), self.flags())
    }
}

/// NS_BUF_CHANGED: the slot's owner put another buffer in.
pub const NS_BUF_CHANGED: u16 = abi::slot::BUF_CHANGED;
/// NS_INDIRECT: the data is elsewhere in the sender's memory.
pub const NS_INDIRECT: u16 = abi::slot::INDIRECT;
/// NS_MOREFRAG: the frame goes on in the next slot.
pub const NS_MOREFRAG: u16 = abi::slot::MOREFRAG;
/// NS_TXMON: a monitor's slot holds a transmitted frame.
pub const NS_TXMON: u16 = abi::slot::TXMON;

/// Most slots of one frame (NETMAP_MAX_FRAGS).
pub const MAX_FRAGS: u32 = 64;

/// A `netmap_ring` in a region: what the program writes, and reads back.
///
/// | field | written by |
/// |---|---|
/// | `head`, `cur`, `flags` | the program |
/// | `tail`, `ts` | the system |
/// | slots in `[head, tail)` | the program |
/// | the other slots | the system |
///
/// Nothing here is believed; see [`crate::sync`].
#[derive(Debug, Clone, Copy)]
pub struct Ring<'a> {
    hdr: &'a [AtomicU32; 64],
    slots: &'a [AtomicU64],
}

/// A ring whose place was checked once.
#[derive(Debug, Clone)]
pub struct RingWindow {
    hdr: Array32<64>,
    slots: Words,
}

impl RingWindow {
    /// The ring of `slots` slots at byte offset `ofs`; `None` if not inside.
    #[must_use]
    pub fn at(mem: &Mem, ofs: usize, slots: u32) -> Option<Self> {
        Some(Self {
            hdr: mem.array32_window(ofs)?,
            slots: mem.window(ofs + 256, slots as usize * 2)?,
        })
    }

    /// The view.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Ring<'_> {
        Ring {
            hdr: &self.hdr,
            slots: &self.slots,
        }
    }
}

impl<'a> Ring<'a> {
    const HEAD: usize = 20 / 4;
    const CUR: usize = 24 / 4;
    const TAIL: usize = 28 / 4;
    const FLAGS: usize = 32 / 4;
    const OFFSET_MASK: usize = 56 / 4;
    const BUF_ALIGN: usize = 64 / 4;

    /// The ring of `slots` slots at byte offset `ofs`; `None` if not inside.
    #[inline]
    #[must_use]
    pub fn at(mem: &'a Mem, ofs: usize, slots: u32) -> Option<Self> {
        Some(Self {
            hdr: mem.array32(ofs)?,
            slots: mem.words(ofs + 256, slots as usize * 2)?,
        })
    }

    /// Writes the constant fields and the first indices of a new ring.
    /// `buf_ofs` is the distance from this ring to buffer 0.
    pub fn init(self, ringid: u16, dir: u16, buf_size: u32, buf_ofs: u64, tail: u32) {
        let [lo, hi] = [buf_ofs & 0xffff_ffff, buf_ofs >> 32];
        let constants = [
            u32::try_from(lo).unwrap_or(0),
            u32::try_from(hi).unwrap_or(0),
            self.count(),
            buf_size,
            u32::from(ringid) | u32::from(dir) << 16,
        ];
        for (word, v) in self.hdr.iter().zip(constants) {
            word.store(v, Relaxed);
        }
        for word in &self.hdr[constants.len()..] {
            word.store(0, Relaxed);
        }
        self.set_tail(tail);
    }

    /// Number of slots.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "at most 4096")]
    pub fn count(self) -> u32 {
        (self.slots.len() / 2) as u32
    }
    /// First slot that the program keeps. Anything.
    #[inline]
    #[must_use]
    pub fn head(self) -> u32 {
        self.hdr[Self::HEAD].load(core::sync::atomic::Ordering::Acquire)
    }
    /// Wake-up point. Anything.
    #[inline]
    #[must_use]
    pub fn cur(self) -> u32 {
        self.hdr[Self::CUR].load(Relaxed)
    }
    /// First slot of the system, as last published.
    #[inline]
    #[must_use]
    pub fn tail(self) -> u32 {
        self.hdr[Self::TAIL].load(core::sync::atomic::Ordering::Acquire)
    }
    /// NR_* flags. Anything.
    #[inline]
    #[must_use]
    pub fn flags(self) -> u32 {
        self.hdr[Self::FLAGS].load(Relaxed)
    }
    /// Sets NR_* flags.
    pub fn add_flags(self, flags: u32) {
        let word = &self.hdr[Self::FLAGS];
        word.store(word.load(Relaxed) | flags, Relaxed);
    }
    /// Hands slots up to `head` to the system (also moves `cur`).
    #[inline]
    pub fn set_head(self, head: u32) {
        self.hdr[Self::CUR].store(head, Relaxed);
        self.hdr[Self::HEAD].store(head, core::sync::atomic::Ordering::Release);
    }
    /// Moves the wake-up point only.
    #[inline]
    pub fn set_cur(self, cur: u32) {
        self.hdr[Self::CUR].store(cur, Relaxed);
    }
    /// Sets both indices, for a ring that is being put right.
    pub fn reset_head_cur(self, at: u32) {
        self.set_head(at);
    }
    /// Publishes the first slot of the system.
    #[inline]
    pub fn set_tail(self, tail: u32) {
        self.hdr[Self::TAIL].store(tail, core::sync::atomic::Ordering::Release);
    }
    /// Writes the timestamp: seconds and microseconds.
    pub fn set_ts(self, sec: i64, usec: i64) {
        for (i, v) in [sec, usec].into_iter().enumerate() {
            let bytes = v.to_le_bytes();
            let [a, b, c, d, e, f, g, h] = bytes;
            self.hdr[10 + 2 * i].store(u32::from_le_bytes([a, b, c, d]), Relaxed);
            self.hdr[11 + 2 * i].store(u32::from_le_bytes([e, f, g, h]), Relaxed);
        }
    }
    /// Reads the timestamp.
    #[must_use]
    pub fn ts(self) -> (i64, i64) {
        let word = |i: usize| {
            let (lo, hi) = (self.hdr[i].load(Relaxed), self.hdr[i + 1].load(Relaxed));
            (u64::from(lo) | u64::from(hi) << 32).cast_signed()
        };
        (word(10), word(12))
    }
    /// Writes the constants that tell the program how slots carry offsets:
    /// which bits of `ptr` hold one (0: none), and what the start of the data
    /// must be a multiple of. Bytes; 0 or 1: anything.
    pub fn set_offset_words(self, mask: u64, align: u64) {
        for (i, v) in [(Self::OFFSET_MASK, mask), (Self::BUF_ALIGN, align)] {
            let [lo, hi] = [v & 0xffff_ffff, v >> 32];
            self.hdr[i].store(u32::try_from(lo).unwrap_or(0), Relaxed);
            self.hdr[i + 1].store(u32::try_from(hi).unwrap_or(0), Relaxed);
        }
    }
    /// The words of `n` slots from `first` on, two each; fewer if the ring
    /// ends before.
    #[inline]
    #[must_use]
    pub fn words(self, first: u32, n: u32) -> &'a [AtomicU64] {
        let from = (first as usize * 2).min(self.slots.len());
        let to = (from + n as usize * 2).min(self.slots.len());
        &self.slots[from..to]
    }

    /// Reads slot `i`; an index beyond the ring gives an empty slot.
    #[inline]
    #[must_use]
    pub fn slot(self, i: u32) -> Slot {
        match self.slots.get(i as usize * 2) {
            Some(word) => Slot(word.load(Relaxed)),
            None => Slot(0),
        }
    }
    /// Writes slot `i`, if there is one.
    #[inline]
    pub fn set_slot(self, i: u32, slot: Slot) {
        if let Some(word) = self.slots.get(i as usize * 2) {
            word.store(slot.0, Relaxed);
        }
    }
    /// The second word of slot `i` (`ptr`).
    #[inline]
    #[must_use]
    pub fn ptr(self, i: u32) -> u64 {
        self.slots
            .get(i as usize * 2 + 1)
            .map_or(0, |w| w.load(Relaxed))
    }
    /// Writes the second word of slot `i`.
    #[inline]
    pub fn set_ptr(self, i: u32, ptr: u64) {
        if let Some(word) = self.slots.get(i as usize * 2 + 1) {
            word.store(ptr, Relaxed);
        }
    }
    /// The slot after `i`.
    #[inline]
    #[must_use]
    pub fn next(self, i: u32) -> u32 {
        if i + 1 >= self.count() { 0 } else { i + 1 }
    }
    /// Slots from `a` forward to `b`; both must be below the count.
    #[inline]
    #[must_use]
    pub fn span(self, a: u32, b: u32) -> u32 {
        if b >= a { b - a } else { b + self.count() - a }
    }
}

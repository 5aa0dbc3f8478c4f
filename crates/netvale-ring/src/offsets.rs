//! Frames that begin behind the first byte of their buffer (netmap's offsets
//! option): some bits of a slot's `ptr` say how far behind.
//!
//! A ring has offsets if the control plane said so with [`enable`], when the
//! ring was registered with the option. What `ptr` holds is the program's word:
//! it is cut to the ring's largest offset, and to the buffer. The usable length
//! of a slot is the buffer less its offset.
//!
//! * A switch copies a frame to the destination slot's own offset, moved up to
//!   where source and destination are alike modulo 64, if that is allowed.
//! * A copy monitor's ring has offsets of its own, or none.
//! * A pipe hands `ptr` on with the slot, and keeps the larger one of the two
//!   offsets that the two ends' slots had.
//! * Buffers are not exchanged between rings of which one has offsets: frames
//!   of a sender that gives its buffers away are copied then.
//!
//! A ring without offsets costs one test of a word that a sync loads anyway.

use crate::deliver::Target;
use crate::kring::Kring;
use crate::slot::Ring;
use crate::world::World;
use netvale_shm::Bufs;

/// Source and destination of a copy are kept alike modulo this. Bytes.
const LINE: u32 = 64;

/// Which bits of a slot's `ptr` are its offset, and how large it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    mask: u64,
    max: u32,
}

impl Offsets {
    /// Frames begin at the first byte.
    pub const NONE: Self = Self { mask: 0, max: 0 };

    /// Offsets in the bits of `mask`, cut to `max` bytes. A mask of 0 means
    /// that there are none.
    #[inline]
    #[must_use]
    pub const fn new(mask: u64, max: u32) -> Self {
        Self { mask, max }
    }
    /// Whether frames always begin at the first byte.
    #[inline]
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.mask == 0
    }
    /// The bits of `ptr`.
    #[must_use]
    pub const fn mask(self) -> u64 {
        self.mask
    }
    /// The largest offset. Bytes.
    #[must_use]
    pub const fn max(self) -> u32 {
        self.max
    }
    /// The offset that `ptr` holds. Bytes.
    #[inline]
    #[must_use]
    pub fn of(self, ptr: u64) -> u32 {
        u32::try_from(ptr & self.mask).map_or(self.max, |off| off.min(self.max))
    }
    /// `ptr` with another offset.
    #[inline]
    #[must_use]
    pub const fn put(self, ptr: u64, off: u32) -> u64 {
        ptr & !self.mask | off as u64 & self.mask
    }
    /// The offset of slot `i` of a ring whose buffers have `size` bytes.
    #[inline]
    #[must_use]
    pub fn at(self, ring: Ring<'_>, i: u32, size: u32) -> u32 {
        if self.is_none() {
            0
        } else {
            self.of(ring.ptr(i)).min(size)
        }
    }
}

/// Gives a ring offsets: writes `offset_mask` and `buf_align` for its programs
/// and tells the engine. For the control plane, when a ring is registered; the
/// caller has checked that `o.max()` is no longer than a buffer, fits the mask,
/// and is no smaller than what the ring's users were promised before.
///
/// `align`: what data must begin at a multiple of. Bytes, 0 for anything.
pub fn enable(world: &World, kring: Kring<'_>, ring: Ring<'_>, o: Offsets, align: u64) {
    ring.set_offset_words(o.mask(), align);
    kring.set_offsets(o);
    // Senders keep ways to rings that had none.
    world.topology_changed();
}

/// Writes `initial` (bytes) as the offset of all slots, which nobody uses yet.
pub fn fill(kring: Kring<'_>, ring: Ring<'_>, initial: u32) {
    let o = kring.offsets();
    for i in 0..ring.count() {
        ring.set_ptr(i, o.put(ring.ptr(i), initial));
    }
}

/// Copies `len` bytes from byte `from` of a buffer to slot `at` of a ring: to
/// where its slot says, or up to 63 bytes further. `false` if they do not fit.
pub(crate) fn copy_to_slot(
    to: &Target<'_>,
    at: u32,
    src: Bufs<'_>,
    (buf, from): (u32, u32),
    len: u16,
) -> bool {
    let size = to.map.geom.buf_size;
    let own = to.offsets.at(to.ring, at, size);
    let alike = own + (from.wrapping_sub(own) & (LINE - 1));
    let fits = alike <= to.offsets.max() && alike + u32::from(len) <= size;
    let off = if fits { alike } else { own };
    if !to.offsets.is_none() {
        let ptr = to.offsets.put(to.ring.ptr(at), off);
        to.ring.set_ptr(at, ptr);
    }
    to.map.bufs().copy_bytes(
        to.ring.slot(at).buf(),
        off as usize,
        src,
        buf,
        from as usize,
        usize::from(len),
    )
}

/// What the `ptr` of a pipe's slot becomes when the peer's slot is copied over
/// it: the peer's, with the larger one of the two offsets.
#[inline]
pub(crate) fn larger((from, new): (Offsets, u64), (to, old): (Offsets, u64)) -> u64 {
    let off = from.of(new).max(to.of(old));
    let o = if to.is_none() { from } else { to };
    o.put(new, off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_cut_to_what_the_ring_allows() {
        let o = Offsets::new(0xffff, 256);
        assert_eq!(o.of(0xdead_0000_0040), 64);
        assert_eq!(o.of(0xdead_0000_ffff), 256);
        assert_eq!(o.put(0xdead_0000_ffff, 2), 0xdead_0000_0002);
        assert_eq!(Offsets::new(u64::MAX, 256).of(1 << 40), 256);
        assert_eq!(Offsets::NONE.of(u64::MAX), 0);
        assert_eq!(Offsets::NONE.put(7, 9), 7);
    }

    #[test]
    fn a_pipe_keeps_the_larger_offset_and_the_other_bits() {
        let o = Offsets::new(0xff, 128);
        assert_eq!(larger((o, 0x120), (o, 0x40)), 0x140);
        assert_eq!(larger((o, 0x150), (o, 0x40)), 0x150);
        assert_eq!(larger((Offsets::NONE, 0x100), (o, 0x40)), 0x140);
        assert_eq!(larger((o, 0x1f0), (Offsets::NONE, 0x40)), 0x180);
    }
}

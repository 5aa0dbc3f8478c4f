//! Packet buffers: whole-block copies between pools, byte access by index.

#![expect(
    unsafe_code,
    reason = "copies between buffers are the hottest loop of the project"
)]

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

/// Copies move blocks of this many bytes.
const BLOCK: usize = 64;

/// From this length on the C library's copy, which picks the widest vectors
/// at run time, beats the inlined loop.
const LONG: usize = 512;

/// A pool of equal buffers in memory that others may write.
///
/// `count` buffers, `stride` bytes apart; the stride is a multiple of 64 and so
/// is the address of the first. Every access takes a buffer index and checks it.
#[derive(Clone, Copy)]
pub struct Bufs<'a> {
    base: NonNull<u8>,
    count: u32,
    stride: u32,
    _mem: PhantomData<&'a super::Mem>,
}

// SAFETY: a borrowed view of a `Mem`, which is Sync.
unsafe impl Send for Bufs<'_> {}
// SAFETY: as above.
unsafe impl Sync for Bufs<'_> {}

impl<'a> Bufs<'a> {
    /// # Safety
    ///
    /// `count * stride` bytes at `base` are mapped for `'a`; `base` and
    /// `stride` are multiples of 64, `stride` is not 0.
    pub(crate) unsafe fn new(base: NonNull<u8>, count: u32, stride: u32) -> Self {
        Self {
            base,
            count,
            stride,
            _mem: PhantomData,
        }
    }

    pub(crate) fn base(self) -> NonNull<u8> {
        self.base
    }

    /// Buffers in the pool.
    #[inline]
    #[must_use]
    pub fn count(self) -> u32 {
        self.count
    }

    /// Bytes in each buffer.
    #[inline]
    #[must_use]
    pub fn stride(self) -> u32 {
        self.stride
    }

    /// The first 16 bytes of buffer `idx`, from byte `off` on, as two
    /// little-endian words: enough for both MAC addresses of a frame.
    #[inline]
    #[must_use]
    pub fn head(self, idx: u32, off: usize) -> Option<(u64, u64)> {
        let p = self.at(idx, off, 16)?;
        // SAFETY: 16 bytes at `p` are inside the pool; reads of packed u64
        // have no alignment need. Volatile: read once, whatever others write.
        let a = unsafe { p.cast::<Unaligned>().read_volatile() };
        let second = p.as_ptr().wrapping_add(8).cast::<Unaligned>();
        // SAFETY: as above, the second 8 bytes.
        let b = unsafe { second.read_volatile() };
        Some((u64::from_le(a.0), u64::from_le(b.0)))
    }

    /// The 8 bytes of buffer `idx` at `off` as a little-endian word; 0 if they
    /// are not inside.
    #[inline]
    #[must_use]
    pub fn load(self, idx: u32, off: usize) -> u64 {
        let Some(p) = self.at(idx, off, 8) else {
            return 0;
        };
        // SAFETY: 8 bytes at `p` are inside the pool; packed, so any alignment.
        let word = unsafe { p.cast::<Unaligned>().read_volatile() };
        u64::from_le(word.0)
    }

    /// Asks the cache for the first line of buffer `idx`. Never faults.
    #[inline]
    pub fn prefetch(self, idx: u32) {
        #[cfg(target_arch = "x86_64")]
        if idx < self.count {
            let p = self
                .base
                .as_ptr()
                .wrapping_add(idx as usize * self.stride as usize);
            // SAFETY: a prefetch is a hint and cannot fault.
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(p.cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = idx;
    }

    /// Asks the cache to own the first line of buffer `idx`, to be written.
    #[inline]
    pub fn prefetch_write(self, idx: u32) {
        #[cfg(target_arch = "x86_64")]
        if idx < self.count {
            let p = self
                .base
                .as_ptr()
                .wrapping_add(idx as usize * self.stride as usize);
            // SAFETY: a prefetch is a hint and cannot fault.
            unsafe {
                core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_ET0 }>(p.cast());
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = idx;
    }

    /// Copies the first `len` bytes of `src[from]` to `self[to]`, rounded up
    /// to whole 64-byte blocks, never past either buffer.
    ///
    /// `false`, with nothing copied, if an index is out of range or `len` is
    /// longer than a buffer of either pool.
    #[inline]
    #[must_use]
    pub fn copy_from(self, to: u32, src: Bufs<'_>, from: u32, len: usize) -> bool {
        let room = self.stride.min(src.stride) as usize;
        if to >= self.count || from >= src.count || len > room {
            return false;
        }
        // Strides are multiples of BLOCK, so rounding up stays inside.
        let len = len.next_multiple_of(BLOCK);
        // SAFETY: to < count, so the buffer lies inside the pool.
        let d = unsafe { self.base.add(to as usize * self.stride as usize) };
        // SAFETY: from < src.count, likewise.
        let s = unsafe { src.base.add(from as usize * src.stride as usize) };
        if len >= LONG {
            // SAFETY: both ranges are inside their buffers. They may be the
            // same buffer (a peer can write any index), hence not the
            // non-overlapping copy.
            unsafe { core::ptr::copy(s.as_ptr(), d.as_ptr(), len) };
            return true;
        }
        let mut off = 0;
        while off < len {
            let (db, sb) = (d.as_ptr().wrapping_add(off), s.as_ptr().wrapping_add(off));
            // SAFETY: off + BLOCK <= len rounded up <= stride of both, and
            // both addresses are multiples of 64 (module invariant).
            unsafe { copy_block(db, sb) };
            off += BLOCK;
        }
        true
    }

    /// Copies bytes of buffer `idx` from `off` on into `dst`. `false`, with
    /// nothing copied, if they are not inside one buffer.
    #[inline]
    #[must_use]
    pub fn read(self, idx: u32, off: usize, dst: &mut [u8]) -> bool {
        let Some(src) = self.at(idx, off, dst.len()) else {
            return false;
        };
        // SAFETY: `src` is valid for dst.len() bytes; no Rust slice of mapped
        // memory exists, so they do not overlap.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_mut_ptr(), dst.len()) };
        true
    }

    /// Copies `src` into buffer `idx` at `off`. `false`, with nothing copied,
    /// if it does not fit inside one buffer.
    #[inline]
    #[must_use]
    pub fn write(self, idx: u32, off: usize, src: &[u8]) -> bool {
        let Some(dst) = self.at(idx, off, src.len()) else {
            return false;
        };
        // SAFETY: as in `read`, in the other direction.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_ptr(), src.len()) };
        true
    }

    /// Copies `len` bytes between byte offsets of two buffers (no rounding).
    #[inline]
    #[must_use]
    pub fn copy_bytes(
        self,
        to: u32,
        to_off: usize,
        src: Bufs<'_>,
        from: u32,
        from_off: usize,
        len: usize,
    ) -> bool {
        let (Some(d), Some(s)) = (self.at(to, to_off, len), src.at(from, from_off, len)) else {
            return false;
        };
        // SAFETY: both ranges were checked; `copy` allows overlap.
        unsafe { core::ptr::copy(s.as_ptr(), d.as_ptr(), len) };
        true
    }

    #[inline]
    fn at(self, idx: u32, off: usize, len: usize) -> Option<NonNull<u8>> {
        let stride = self.stride as usize;
        if idx >= self.count || off > stride || len > stride - off {
            return None;
        }
        // SAFETY: idx < count and off <= stride: inside the pool or at its end.
        Some(unsafe { self.base.add(idx as usize * stride + off) })
    }
}

impl fmt::Debug for Bufs<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bufs")
            .field("count", &self.count)
            .field("stride", &self.stride)
            .finish_non_exhaustive()
    }
}

#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Unaligned(u64);

/// Copies one block with vector registers.
///
/// # Safety
///
/// 64 bytes at each address are mapped, and both are multiples of 64.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_ptr_alignment,
    reason = "four loads, then four stores; the caller guarantees 64-byte alignment"
)]
unsafe fn copy_block(d: *mut u8, s: *const u8) {
    use core::arch::x86_64::__m128i;
    let (d, s) = (d.cast::<__m128i>(), s.cast::<__m128i>());
    // SAFETY: the caller's contract covers 4 x 16 aligned bytes at each side.
    unsafe {
        let a = s.read_volatile();
        let b = s.add(1).read_volatile();
        let c = s.add(2).read_volatile();
        let e = s.add(3).read_volatile();
        d.write_volatile(a);
        d.add(1).write_volatile(b);
        d.add(2).write_volatile(c);
        d.add(3).write_volatile(e);
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn copy_block(d: *mut u8, s: *const u8) {
    // SAFETY: 64 mapped bytes on each side by the caller's contract.
    unsafe { core::ptr::copy(s, d, BLOCK) };
}

#[cfg(test)]
mod tests {
    use crate::Mem;

    #[test]
    fn copies_whole_blocks_and_nothing_more() {
        let mem = Mem::heap(2112 * 4);
        let bufs = mem.bufs(0, 4, 2112).unwrap();
        let pattern: Vec<u8> = (0..2112u32).map(|i| i.to_le_bytes()[0] | 1).collect();
        assert!(bufs.write(2, 0, &pattern));
        for len in [0, 1, 60, 64, 65, 511, 512, 513, 1514, 2048, 2111, 2112] {
            assert!(mem.zero(0, 2112 * 2));
            assert!(bufs.copy_from(0, bufs, 2, len));
            let mut got = vec![0; 2112];
            assert!(bufs.read(0, 0, &mut got));
            let full = len.next_multiple_of(64);
            assert_eq!(got[..full], pattern[..full], "{len}");
            assert!(got[full..].iter().all(|&b| b == 0), "{len}");
            assert!(bufs.read(1, 0, &mut got));
            assert!(got.iter().all(|&b| b == 0), "spilled over at {len}");
        }
    }

    #[test]
    fn refuses_what_is_outside() {
        let mem = Mem::heap(2112 * 2);
        let bufs = mem.bufs(0, 2, 2112).unwrap();
        assert!(!bufs.copy_from(2, bufs, 0, 60));
        assert!(!bufs.copy_from(0, bufs, 2, 60));
        assert!(!bufs.copy_from(0, bufs, 1, 2113));
        assert!(!bufs.copy_from(0, bufs, 1, usize::MAX));
        assert!(bufs.head(1, 2096).is_some());
        assert!(bufs.head(1, 2097).is_none());
        assert!(bufs.head(2, 0).is_none());
        assert!(!bufs.write(1, 2110, &[0; 3]));
        assert!(!bufs.copy_bytes(0, 2112, bufs, 1, 0, 1));
        assert!(bufs.copy_bytes(0, 2112, bufs, 1, 0, 0));
        bufs.prefetch(7);
        bufs.prefetch_write(u32::MAX);
    }

    #[test]
    fn head_is_the_first_sixteen_bytes() {
        let mem = Mem::heap(128);
        let bufs = mem.bufs(64, 1, 64).unwrap();
        assert!(bufs.write(0, 3, &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
        let (a, b) = bufs.head(0, 3).unwrap();
        assert_eq!(a.to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(b, 9);
        assert_eq!(bufs.load(0, 3), a);
        assert_eq!(bufs.load(0, 57), 0, "not inside");
        assert_eq!(bufs.load(1, 0), 0, "no such buffer");
    }
}

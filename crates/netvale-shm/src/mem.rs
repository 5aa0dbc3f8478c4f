//! A counted mapping and its bounds-checked accessors.

#![expect(
    unsafe_code,
    reason = "the one place where mapped memory is dereferenced"
)]

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use alloc::sync::Arc;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::Bufs;

/// A range of memory that others may write, kept mapped while it exists.
///
/// Cloning is cheap (one reference count). Nothing read from it is trusted
/// here: accessors only promise to stay inside the range.
#[derive(Clone)]
pub struct Mem {
    ptr: NonNull<u8>,
    len: usize,
    // Dropped last: unmaps when the last view of the mapping is gone.
    _keep: Arc<dyn Backing>,
}

/// What keeps the bytes of a [`Mem`] alive.
pub(crate) trait Backing: Send + Sync {}

// SAFETY: the memory is plain bytes owned by `_keep`, which is Send + Sync;
// every access through `Mem` is atomic, volatile or a raw copy, so views may
// be used from any thread.
unsafe impl Send for Mem {}
// SAFETY: as above; `Mem` has no thread-bound state of its own.
unsafe impl Sync for Mem {}

impl Mem {
    /// Zeroed private memory, page-aligned: for embedded use and tests.
    ///
    /// # Panics
    ///
    /// If `len` is 0 or too large for the address space.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        let heap = Heap::new(len);
        let ptr = heap.ptr;
        Self {
            ptr,
            len,
            _keep: Arc::new(heap),
        }
    }

    /// A view of `len` bytes at `ptr`, alive as long as `keep`.
    ///
    /// # Safety
    ///
    /// The bytes must be mapped readable and writable, aligned to 64, until
    /// `keep` is dropped, and no Rust reference to them may exist elsewhere.
    #[cfg(feature = "std")]
    pub(crate) unsafe fn from_raw(ptr: NonNull<u8>, len: usize, keep: Arc<dyn Backing>) -> Self {
        Self {
            ptr,
            len,
            _keep: keep,
        }
    }

    /// Bytes in the range.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address where the range begins, for programs that compute their
    /// own pointers from it (the C ABI). Dereferencing it is theirs to justify.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The part `[off, off + len)`, or `None` if it is not inside.
    #[must_use]
    pub fn part(&self, off: usize, len: usize) -> Option<Self> {
        Some(Self {
            ptr: self.at(off, len)?,
            len,
            _keep: Arc::clone(&self._keep),
        })
    }

    /// `n` 64-bit words at byte offset `off`; `None` if outside or unaligned.
    #[inline]
    #[must_use]
    pub fn words(&self, off: usize, n: usize) -> Option<&[AtomicU64]> {
        let ptr = self.at(off, n.checked_mul(8)?)?.cast::<AtomicU64>();
        if !ptr.is_aligned() {
            return None;
        }
        // SAFETY: `at` proved n*8 bytes inside the mapping, which outlives
        // `&self`; the alignment was checked; AtomicU64 accepts any bits and
        // permits concurrent writers.
        Some(unsafe { core::slice::from_raw_parts(ptr.as_ptr(), n) })
    }

    /// Exactly `N` 64-bit words at byte offset `off`: their number is known to
    /// the compiler, so constant indices need no check.
    #[inline]
    #[must_use]
    pub fn array<const N: usize>(&self, off: usize) -> Option<&[AtomicU64; N]> {
        self.words(off, N)?.first_chunk()
    }

    /// Exactly `N` 32-bit words at byte offset `off`.
    #[inline]
    #[must_use]
    pub fn array32<const N: usize>(&self, off: usize) -> Option<&[AtomicU32; N]> {
        self.words32(off, N)?.first_chunk()
    }

    /// One 64-bit word at byte offset `off`.
    #[inline]
    #[must_use]
    pub fn word(&self, off: usize) -> Option<&AtomicU64> {
        self.words(off, 1)?.first()
    }

    /// `n` 32-bit words at byte offset `off`; `None` if outside or unaligned.
    #[inline]
    #[must_use]
    pub fn words32(&self, off: usize, n: usize) -> Option<&[AtomicU32]> {
        let ptr = self.at(off, n.checked_mul(4)?)?.cast::<AtomicU32>();
        if !ptr.is_aligned() {
            return None;
        }
        // SAFETY: as in `words`, with 4-byte words.
        Some(unsafe { core::slice::from_raw_parts(ptr.as_ptr(), n) })
    }

    /// One 32-bit word at byte offset `off`.
    #[inline]
    #[must_use]
    pub fn word32(&self, off: usize) -> Option<&AtomicU32> {
        self.words32(off, 1)?.first()
    }

    /// The buffer pool of `count` buffers, `stride` bytes apart, at `off`.
    ///
    /// `None` if it is not inside, or if `off` or `stride` is not a multiple
    /// of 64 (copies move whole 64-byte blocks).
    #[inline]
    #[must_use]
    pub fn bufs(&self, off: usize, count: u32, stride: u32) -> Option<Bufs<'_>> {
        let bytes = (count as usize).checked_mul(stride as usize)?;
        let ptr = self.at(off, bytes)?;
        if stride == 0 || !stride.is_multiple_of(64) || !ptr.as_ptr().addr().is_multiple_of(64) {
            return None;
        }
        // SAFETY: `at` proved count*stride bytes inside a mapping that
        // outlives the borrow; alignment and stride were checked above.
        Some(unsafe { Bufs::new(ptr, count, stride) })
    }

    /// Copies bytes out. `false` (and nothing copied) if not inside.
    #[must_use]
    pub fn read(&self, off: usize, dst: &mut [u8]) -> bool {
        let Some(src) = self.at(off, dst.len()) else {
            return false;
        };
        // SAFETY: `src` is valid for dst.len() bytes and cannot overlap
        // `dst`, because no Rust slice of mapped memory exists. A racing
        // writer makes the bytes unspecified, never the access invalid.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_mut_ptr(), dst.len()) };
        true
    }

    /// Copies bytes in. `false` (and nothing copied) if not inside.
    #[must_use]
    pub fn write(&self, off: usize, src: &[u8]) -> bool {
        let Some(dst) = self.at(off, src.len()) else {
            return false;
        };
        // SAFETY: as in `read`, in the other direction.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), dst.as_ptr(), src.len()) };
        true
    }

    /// Fills bytes with zeros. `false` (and nothing done) if not inside.
    #[must_use]
    pub fn zero(&self, off: usize, len: usize) -> bool {
        let Some(dst) = self.at(off, len) else {
            return false;
        };
        // SAFETY: `dst` is valid for `len` bytes of writes.
        unsafe { core::ptr::write_bytes(dst.as_ptr(), 0, len) };
        true
    }

    #[inline]
    fn at(&self, off: usize, len: usize) -> Option<NonNull<u8>> {
        if off > self.len || len > self.len - off {
            return None;
        }
        // SAFETY: off <= self.len, so the result is inside the mapping or one
        // past its end.
        Some(unsafe { self.ptr.add(off) })
    }
}

impl fmt::Debug for Mem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mem")
            .field("ptr", &self.ptr)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// Page-aligned zeroed heap memory.
struct Heap {
    ptr: NonNull<u8>,
    layout: Layout,
}

impl Heap {
    fn new(len: usize) -> Self {
        assert!(len > 0, "memory of no bytes");
        let Ok(layout) = Layout::from_size_align(len, 4096) else {
            panic!("memory of {len} bytes does not fit the address space");
        };
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else {
            handle_alloc_error(layout);
        };
        Self { ptr, layout }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc_zeroed` with this layout, once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) };
    }
}

// SAFETY: owns its allocation; nothing is bound to a thread.
unsafe impl Send for Heap {}
// SAFETY: the pointer is only read.
unsafe impl Sync for Heap {}
impl Backing for Heap {}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering;

    #[test]
    fn bounds_are_exact() {
        let mem = Mem::heap(256);
        assert!(mem.words(0, 32).is_some());
        assert!(mem.words(0, 33).is_none());
        assert!(mem.words(256, 0).is_some());
        assert!(mem.words(257, 0).is_none());
        assert!(mem.words(8, usize::MAX / 4).is_none());
        assert!(mem.words(4, 1).is_none(), "unaligned");
        assert!(mem.word32(252).is_some());
        assert!(mem.word32(253).is_none());
        assert!(mem.bufs(0, 4, 64).is_some());
        assert!(mem.bufs(0, 5, 64).is_none());
        assert!(mem.bufs(32, 1, 64).is_none(), "not on a block");
        assert!(mem.bufs(0, 2, 100).is_none(), "stride not in blocks");
        assert!(!mem.read(250, &mut [0; 7]));
        assert!(!mem.write(usize::MAX, &[0]));
    }

    #[test]
    fn parts_share_bytes_and_keep_them_alive() {
        let mem = Mem::heap(128);
        let part = mem.part(64, 64).unwrap();
        mem.word(64).unwrap().store(9, Ordering::Relaxed);
        drop(mem);
        assert_eq!(part.word(0).unwrap().load(Ordering::Relaxed), 9);
        assert!(part.part(1, 64).is_none());
        assert!(part.zero(0, 64));
        assert_eq!(part.word(0).unwrap().load(Ordering::Relaxed), 0);
    }
}

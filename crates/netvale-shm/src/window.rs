//! Parts of a mapping that were checked once and are used again and again.
//!
//! A view made by [`Mem`] on every use checks its bounds every time, which at
//! tens of millions of frames a second is a third of all instructions
//! (measured: 1700 a frame in batches of one, 1250 with these).

#![expect(
    unsafe_code,
    reason = "a check of the bounds made once, when the window is made"
)]

use core::fmt;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64};

use crate::{Bufs, Mem};

/// 64-bit words of a mapping, kept mapped.
#[derive(Clone)]
pub struct Words {
    ptr: NonNull<[AtomicU64]>,
    _mem: Mem,
}

/// Exactly `N` 64-bit words of a mapping, kept mapped.
#[derive(Clone)]
pub struct Array<const N: usize> {
    ptr: NonNull<[AtomicU64; N]>,
    _mem: Mem,
}

/// Exactly `N` 32-bit words of a mapping, kept mapped.
#[derive(Clone)]
pub struct Array32<const N: usize> {
    ptr: NonNull<[AtomicU32; N]>,
    _mem: Mem,
}

/// A buffer pool of a mapping, kept mapped.
#[derive(Clone)]
pub struct Pool {
    base: NonNull<u8>,
    count: u32,
    stride: u32,
    _mem: Mem,
}

impl Mem {
    /// [`Mem::words`], checked now and for ever.
    #[must_use]
    pub fn window(&self, off: usize, n: usize) -> Option<Words> {
        let ptr = NonNull::from(self.words(off, n)?);
        Some(Words {
            ptr,
            _mem: self.clone(),
        })
    }

    /// [`Mem::array`], checked now and for ever.
    #[must_use]
    pub fn array_window<const N: usize>(&self, off: usize) -> Option<Array<N>> {
        let ptr = NonNull::from(self.array(off)?);
        Some(Array {
            ptr,
            _mem: self.clone(),
        })
    }

    /// [`Mem::array32`], checked now and for ever.
    #[must_use]
    pub fn array32_window<const N: usize>(&self, off: usize) -> Option<Array32<N>> {
        let ptr = NonNull::from(self.array32(off)?);
        Some(Array32 {
            ptr,
            _mem: self.clone(),
        })
    }

    /// [`Mem::bufs`], checked now and for ever.
    #[must_use]
    pub fn pool(&self, off: usize, count: u32, stride: u32) -> Option<Pool> {
        let base = self.bufs(off, count, stride)?.base();
        Some(Pool {
            base,
            count,
            stride,
            _mem: self.clone(),
        })
    }
}

impl Deref for Words {
    type Target = [AtomicU64];
    #[inline]
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: made from a checked reference into a mapping that `_mem`
        // keeps where it is; atomics permit concurrent writers.
        unsafe { self.ptr.as_ref() }
    }
}

impl<const N: usize> Deref for Array<N> {
    type Target = [AtomicU64; N];
    #[inline]
    fn deref(&self) -> &[AtomicU64; N] {
        // SAFETY: as for `Words`.
        unsafe { self.ptr.as_ref() }
    }
}

impl<const N: usize> Deref for Array32<N> {
    type Target = [AtomicU32; N];
    #[inline]
    fn deref(&self) -> &[AtomicU32; N] {
        // SAFETY: as for `Words`.
        unsafe { self.ptr.as_ref() }
    }
}

impl Pool {
    /// The buffers.
    #[inline]
    #[must_use]
    pub fn bufs(&self) -> Bufs<'_> {
        // SAFETY: `Mem::bufs` checked this very pool when it was made, and
        // `_mem` keeps it mapped for the borrow.
        unsafe { Bufs::new(self.base, self.count, self.stride) }
    }
}

// SAFETY: windows are views of a `Mem`, which is Send and Sync, and give out
// only atomics.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}
// SAFETY: as above.
unsafe impl<const N: usize> Send for Array<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Array<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Send for Array32<N> {}
// SAFETY: as above.
unsafe impl<const N: usize> Sync for Array32<N> {}
// SAFETY: as above; `Bufs` itself is Send and Sync.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Words({})", self.len())
    }
}
impl<const N: usize> fmt::Debug for Array<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({N})")
    }
}
impl<const N: usize> fmt::Debug for Array32<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array32({N})")
    }
}
impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} x {})", self.count, self.stride)
    }
}

/// The half of a 64-bit word that a futex sleeps on. Only its address may be
/// used, to be handed to the kernel.
#[inline]
#[must_use]
pub fn futex_half(word: &AtomicU64) -> &AtomicU32 {
    let low = NonNull::from(word).cast::<AtomicU32>();
    // SAFETY: the low half of a live, aligned 64-bit word on a little-endian
    // target (checked for the crate); nothing of ours reads or writes it as
    // 32 bits.
    unsafe { low.as_ref() }
}

/// Asks the cache to own the lines of these words, which will be written.
#[inline]
pub fn prefetch_write(words: &[AtomicU64]) {
    #[cfg(target_arch = "x86_64")]
    for word in words.iter().step_by(8) {
        let p = NonNull::from(word).cast::<i8>().as_ptr();
        // SAFETY: a prefetch is a hint and cannot fault.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_ET0 }>(p);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = words;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::Ordering::Relaxed;

    #[test]
    fn windows_outlive_the_handle_they_came_from() {
        let mem = Mem::heap(4096);
        let words = mem.window(64, 4).unwrap();
        let array = mem.array_window::<2>(64).unwrap();
        let half = mem.array32_window::<2>(64).unwrap();
        let pool = mem.pool(1024, 4, 64).unwrap();
        assert!(mem.window(4090, 4).is_none());
        assert!(mem.array_window::<600>(0).is_none());
        assert!(mem.pool(1024, 64, 64).is_none());
        drop(mem);
        words[0].store(0x1_0000_0002, Relaxed);
        assert_eq!(array[0].load(Relaxed), 0x1_0000_0002);
        assert_eq!(half[0].load(Relaxed), 2);
        assert_eq!(futex_half(&words[0]).load(Relaxed), 2);
        assert!(pool.bufs().write(3, 0, &[1; 64]));
        assert!(!pool.bufs().write(4, 0, &[1; 64]));
    }
}

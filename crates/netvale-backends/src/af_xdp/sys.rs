//! The mapped rings of a socket.

#![expect(unsafe_code, reason = "mmap, and words in mapped memory")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::XdpRingOffset;

/// A ring as the kernel maps it: two counters, a word of flags and a power of
/// two of entries.
#[derive(Debug)]
pub(super) struct RingMap {
    base: NonNull<u8>,
    len: usize,
    producer: usize,
    consumer: usize,
    flags: usize,
    slots: usize,
    /// 64-bit words of all entries.
    words: usize,
}

// SAFETY: plain memory that stays mapped while this exists; it is reached
// through atomics only.
unsafe impl Send for RingMap {}
// SAFETY: as above.
unsafe impl Sync for RingMap {}

impl RingMap {
    /// Maps a socket's ring of `entries` entries of `words` 64-bit words.
    pub(super) fn new(
        socket: BorrowedFd<'_>,
        page_offset: u64,
        at: XdpRingOffset,
        entries: u32,
        words: usize,
    ) -> io::Result<Self> {
        let at_usize = |n: u64| usize::try_from(n).ok().ok_or(io::ErrorKind::InvalidData);
        // Linux has had the flags since 5.4, the rest of what we need since later.
        let flags = at.flags.ok_or(io::ErrorKind::Unsupported)?;
        let mut map = Self {
            base: NonNull::dangling(),
            len: 0,
            producer: at_usize(at.producer)?,
            consumer: at_usize(at.consumer)?,
            flags: at_usize(flags)?,
            slots: at_usize(at.desc)?,
            words: (entries as usize).saturating_mul(words),
        };
        let end = |offset: usize, bytes: usize| offset.checked_add(bytes);
        let ends = [
            end(map.producer, 4),
            end(map.consumer, 4),
            end(map.flags, 4),
            map.words.checked_mul(8).and_then(|n| end(map.slots, n)),
        ];
        let len = ends.into_iter().reduce(|a, b| Some(a?.max(b?))).flatten();
        let len = len.ok_or(io::ErrorKind::InvalidData)?;
        let counters = [map.producer, map.consumer, map.flags];
        let aligned =
            counters.into_iter().all(|at| at.is_multiple_of(4)) && map.slots.is_multiple_of(8);
        if !aligned || entries == 0 || !entries.is_power_of_two() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // SAFETY: a new mapping at an address of the kernel's choice. If the
        // ring is smaller than `len`, the kernel refuses it, so every access
        // below `len` is to the ring.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                page_offset,
            )
        }?;
        map.base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        map.len = len;
        Ok(map)
    }

    #[inline]
    pub(super) fn producer(&self) -> &AtomicU32 {
        self.word(self.producer)
    }

    #[inline]
    pub(super) fn consumer(&self) -> &AtomicU32 {
        self.word(self.consumer)
    }

    #[inline]
    pub(super) fn flags(&self) -> &AtomicU32 {
        self.word(self.flags)
    }

    /// The entries, as words.
    #[inline]
    pub(super) fn slots(&self) -> &[AtomicU64] {
        // SAFETY: `new` checked alignment and bounds.
        let first = unsafe { self.base.add(self.slots) }.cast::<AtomicU64>();
        // SAFETY: `words` words from there are inside the mapping, which lives
        // as long as `self`; others write them, as atomics permit.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), self.words) }
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: only the three offsets that `new` has checked come here.
        let word = unsafe { self.base.add(offset) }.cast::<AtomicU32>();
        // SAFETY: aligned, inside the mapping, which lives as long as `self`.
        unsafe { word.as_ref() }
    }
}

impl Drop for RingMap {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: mapped by `new` with this length; no reference to it
            // outlives `self`.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

/// Words that the kernel's side writes, to be read only.
#[derive(Debug)]
pub(super) struct Words {
    base: NonNull<u8>,
    words: usize,
}

// SAFETY: plain memory that stays mapped while this exists; it is reached
// through atomics only.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    /// Maps the first `words` 64-bit words of a map that can be mapped.
    pub(super) fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let len = words.checked_mul(8).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a new mapping at an address of the kernel's choice. If the
        // map is smaller than `len`, the kernel refuses it.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                map,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { base, words })
    }

    /// Word `at`, if there is one.
    #[inline]
    pub(super) fn load(&self, at: usize) -> Option<u64> {
        if at >= self.words {
            return None;
        }
        // SAFETY: inside the mapping.
        let word = unsafe { self.base.cast::<AtomicU64>().add(at) };
        // SAFETY: aligned, because mappings begin on pages, and mapped as long
        // as `self` lives; only read, which the protection permits.
        let word = unsafe { word.as_ref() };
        Some(word.load(std::sync::atomic::Ordering::Acquire))
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length; no reference to it
        // outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}

/// How many frames one call may send in copy mode.
pub(super) fn set_tx_budget(socket: BorrowedFd<'_>, frames: u32) -> io::Result<()> {
    const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
    let size = libc::socklen_t::try_from(size_of::<u32>()).unwrap_or(4);
    // SAFETY: the option is a 32-bit number, read during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            (&raw const frames).cast(),
            size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

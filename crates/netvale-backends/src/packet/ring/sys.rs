//! The slots that the kernel fills.

#![expect(unsafe_code, reason = "mmap, and memory that the kernel hands over")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use netvale_wire::vnet::HdrLen;
use rustix::mm::{MapFlags, ProtFlags};

use crate::packet::Tag;

/// Bits of a slot's first word: it is ours, its frame is queued at the socket
/// too, others were lost.
const USER: u32 = 1;
const COPY: u32 = 2;
const LOSING: u32 = 4;
/// Bytes of `struct tpacket2_hdr`.
const HDR: usize = 32;
/// Bytes of a virtio-net header as the kernel writes it, whatever its length.
const VNET: usize = 10;

/// Slots of frames, walked in order.
#[derive(Debug)]
pub(in crate::packet) struct Slots {
    base: NonNull<u8>,
    slot_len: usize,
    count: usize,
    /// Whether there are virtio-net headers.
    vnet: bool,
    /// The slot that is read or waited for.
    at: usize,
    /// Slots given back since that was last asked.
    taken: usize,
}

/// A frame in a slot.
#[derive(Debug, Clone, Copy)]
pub(in crate::packet) struct Slot<'a> {
    /// Its virtio-net header, if there are any.
    pub(in crate::packet) vnet: &'a [u8],
    /// Its bytes without the tag, as many as fit.
    pub(in crate::packet) data: &'a [u8],
    /// How many it has.
    pub(in crate::packet) len: usize,
    /// The VLAN tag that stands behind the addresses.
    pub(in crate::packet) tag: Option<Tag>,
    /// It is queued at the socket as well, as it does not fit.
    pub(in crate::packet) queued: bool,
    /// Others were lost since that was last asked.
    pub(in crate::packet) losing: bool,
}

impl Slot<'_> {
    /// Whether all of it is in the slot.
    pub(in crate::packet) fn is_whole(&self) -> bool {
        self.data.len() == self.len
    }
}

// SAFETY: owns a mapping; nothing is bound to a thread.
unsafe impl Send for Slots {}
// SAFETY: a shared reference reads slots that are ours, which nobody writes
// until `release`, and their atomic words; that needs an exclusive one.
unsafe impl Sync for Slots {}

impl Slots {
    /// Maps the ring of a socket that has been made to have one.
    pub(in crate::packet) fn map(
        fd: BorrowedFd<'_>,
        slot_len: u32,
        count: u32,
        header: HdrLen,
    ) -> io::Result<Self> {
        let (slot_len, count) = (slot_len as usize, count as usize);
        let len = slot_len
            .checked_mul(count)
            .filter(|_| slot_len >= HDR && count > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at an address of the kernel's choice
        // overlaps nothing of ours.
        let ptr = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        Ok(Self {
            base: NonNull::new(ptr.cast()).ok_or(io::ErrorKind::OutOfMemory)?,
            slot_len,
            count,
            vnet: !header.is_none(),
            at: 0,
            taken: 0,
        })
    }

    /// The next frame, if the kernel has handed one over.
    pub(in crate::packet) fn peek(&self) -> Option<Slot<'_>> {
        // Acquire: pairs with the barrier before the kernel's store.
        let status = self.status().load(Ordering::Acquire);
        if status & USER == 0 {
            return None;
        }
        let [len, snap] = [4, 8].map(|off| self.word(off) as usize);
        let mac = self.half(12) as usize;
        // A frame may be so long that nothing of it was copied.
        let data = self.bytes(mac, snap);
        let vnet = match self.vnet {
            true => self.bytes(mac.saturating_sub(VNET), VNET),
            false => &[],
        };
        Some(Slot {
            vnet,
            data,
            len,
            tag: crate::packet::tag(status, self.half(24), self.half(26)),
            queued: status & COPY != 0,
            losing: status & LOSING != 0,
        })
    }

    /// Gives the next frame's slot back.
    pub(in crate::packet) fn release(&mut self) {
        // Release: our reads come before the kernel's next writes.
        self.status().store(0, Ordering::Release);
        self.at = (self.at + 1) % self.count;
        self.taken += 1;
    }

    /// Whether as many as there are have been given back since that was last
    /// asked.
    pub(in crate::packet) fn were_all_taken(&mut self) -> bool {
        std::mem::take(&mut self.taken) >= self.count
    }

    /// Whether no slot has a frame, not only the next.
    pub(in crate::packet) fn are_empty(&self) -> bool {
        let empty = |i| self.status_of(i).load(Ordering::Relaxed) & USER == 0;
        (0..self.count).all(empty)
    }

    fn slot(&self) -> NonNull<u8> {
        self.slot_at(self.at)
    }

    fn slot_at(&self, i: usize) -> NonNull<u8> {
        debug_assert!(i < self.count);
        // SAFETY: i < count, as `at` and every caller's number are, so this is
        // inside the mapping.
        unsafe { self.base.add(i * self.slot_len) }
    }

    fn status(&self) -> &AtomicU32 {
        self.status_of(self.at)
    }

    fn status_of(&self, i: usize) -> &AtomicU32 {
        // SAFETY: the word is inside the mapping and, like every slot,
        // aligned; both sides access it as a whole word only.
        unsafe { self.slot_at(i).cast::<AtomicU32>().as_ref() }
    }

    /// Bytes of a slot that is ours; none where it has not so many.
    fn bytes(&self, off: usize, len: usize) -> &[u8] {
        if off < HDR || len > self.slot_len || off > self.slot_len - len {
            return &[];
        }
        // SAFETY: inside the slot by the check above.
        let first = unsafe { self.slot().add(off) };
        // SAFETY: likewise. The slot is ours: the kernel does not write it
        // until `release`, which needs `&mut self` and so comes after the
        // borrow of this slice.
        unsafe { std::slice::from_raw_parts(first.as_ptr(), len) }
    }

    /// A word of the kernel's header.
    fn word(&self, off: usize) -> u32 {
        debug_assert!(off + 4 <= HDR);
        // SAFETY: inside the header, as every caller's constant is.
        let at = unsafe { self.slot().add(off) };
        // SAFETY: the slot is ours, so nobody writes; any alignment is read.
        unsafe { at.cast::<u32>().read_unaligned() }
    }

    /// Half a word of it.
    fn half(&self, off: usize) -> u16 {
        debug_assert!(off + 2 <= HDR);
        // SAFETY: as for a whole one.
        let at = unsafe { self.slot().add(off) };
        // SAFETY: likewise.
        unsafe { at.cast::<u16>().read_unaligned() }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        let len = self.slot_len * self.count;
        // SAFETY: this range was mapped by `map`; nothing lent from it lives.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), len) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    use rustix::fs::MemfdFlags;

    use super::*;

    const LEN: u32 = 2048;

    /// A ring of so many slots, and the file to which the test writes what the
    /// kernel would.
    pub(in crate::packet::ring) fn ring(count: u32) -> (Slots, File) {
        let file = File::from(rustix::fs::memfd_create("slots", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(u64::from(LEN * count)).unwrap();
        let slots = Slots::map(file.as_fd(), LEN, count, HdrLen::NONE).unwrap();
        (slots, file)
    }

    /// A frame comes into a slot.
    pub(in crate::packet::ring) fn fill(file: &File, slot: u32) {
        let at = u64::from(slot * LEN);
        file.write_all_at(&USER.to_ne_bytes(), at).unwrap();
    }
}

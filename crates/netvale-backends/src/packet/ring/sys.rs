//! The blocks that the kernel fills (TPACKET_V3).

#![expect(unsafe_code, reason = "mmap, and memory that the kernel hands over")]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

use super::RingFrame;

/// Whether a block is ours (`TP_STATUS_USER`) or the kernel's (0).
const OURS: u32 = 1;
/// Bytes of `struct tpacket3_hdr`.
const FRAME_HDR: usize = 48;
/// Offsets in `struct tpacket_block_desc`: version, private offset, then these.
const STATUS: usize = 8;
const FRAMES: usize = 12;
const FIRST: usize = 16;

/// Blocks of frames, walked in order.
#[derive(Debug)]
pub(super) struct Blocks {
    base: NonNull<u8>,
    block_len: usize,
    count: usize,
    /// The block that is read or waited for.
    at: usize,
    /// Whether it is ours; then frames left in it, and where the next is.
    open: bool,
    left: u32,
    next: usize,
}

// SAFETY: owns a mapping; nothing is bound to a thread.
unsafe impl Send for Blocks {}
// SAFETY: a shared reference gives access to the state of one block, an
// atomic; all else needs an exclusive one.
unsafe impl Sync for Blocks {}

impl Blocks {
    /// Maps the ring of a socket that has been made to have one.
    pub(super) fn map(fd: BorrowedFd<'_>, block_len: usize, count: usize) -> io::Result<Self> {
        let len = block_len
            .checked_mul(count)
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
            block_len,
            count,
            at: 0,
            open: false,
            left: 0,
            next: 0,
        })
    }

    /// The next frame, if the kernel has handed one over. A block goes back
    /// when the frame after its last is asked for, so what was lent before is
    /// not in use any more.
    pub(super) fn next(&mut self) -> Option<RingFrame<'_>> {
        // At most one round over the ring: empty blocks do not exist, but a
        // kernel that made them must not hold us.
        for _ in 0..self.count {
            if !self.open {
                // Acquire: pairs with the barrier before the kernel's store.
                if self.status().load(Ordering::Acquire) & OURS == 0 {
                    return None;
                }
                self.open = true;
                self.left = self.word(FRAMES)?;
                self.next = self.word(FIRST)? as usize;
            }
            if self.left > 0 {
                break;
            }
            self.release();
        }
        if !self.open || self.left == 0 {
            return None;
        }
        let start = self.next;
        let [step, sec, nsec, snap, len, status] =
            [0, 4, 8, 12, 16, 20].map(|off| self.word(start + off));
        let mac = self.word(start + 24)? & 0xffff;
        let (tci, tpid) = (self.word(start + 32)?, self.word(start + 36)?);
        self.left -= 1;
        self.next = start + (step? as usize).max(FRAME_HDR);
        let at = start + mac as usize;
        let snap = snap? as usize;
        if snap > self.block_len || at > self.block_len - snap {
            self.left = 0; // not a frame: give the block back next time
            return None;
        }
        // SAFETY: inside the block by the check above.
        let first = unsafe { self.block().add(at) };
        // SAFETY: likewise. The block is ours: the kernel does not write it
        // until `release`, which needs `&mut self` and so comes after the
        // borrow of this slice.
        let data = unsafe { std::slice::from_raw_parts(first.as_ptr(), snap) };
        // The tag's control information is a u32 in the header, the type a u16.
        Some(RingFrame {
            data,
            len: len? as usize,
            time_ns: u64::from(sec?) * 1_000_000_000 + u64::from(nsec?),
            tag: crate::packet::tag(status?, low(tci), low(tpid)),
        })
    }

    fn release(&mut self) {
        // Release: our reads come before the kernel's next writes.
        self.status().store(0, Ordering::Release);
        self.open = false;
        self.at = (self.at + 1) % self.count;
    }

    fn block(&self) -> NonNull<u8> {
        // SAFETY: at < count, so this is inside the mapping.
        unsafe { self.base.add(self.at * self.block_len) }
    }

    fn status(&self) -> &AtomicU32 {
        // SAFETY: the descriptor is inside the block.
        let at = unsafe { self.block().add(STATUS) };
        // SAFETY: blocks are page-aligned, so the word is aligned; both sides
        // access it as a whole word only.
        unsafe { at.cast::<AtomicU32>().as_ref() }
    }

    /// A word of the open block; `None` if it is not inside.
    fn word(&self, off: usize) -> Option<u32> {
        if off > self.block_len - 4 {
            return None;
        }
        // SAFETY: four bytes at `off` are inside the block.
        let at = unsafe { self.block().add(off) };
        // SAFETY: the block is ours, so nobody writes; any alignment is read.
        Some(unsafe { at.cast::<u32>().read_unaligned() })
    }
}

/// The low half.
fn low(word: u32) -> u16 {
    let [a, b, ..] = word.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let len = self.block_len * self.count;
        // SAFETY: this range was mapped by `map`; nothing lent from it lives.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), len) };
    }
}

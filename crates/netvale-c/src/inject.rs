//! Sending one packet: `nmport_inject`.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{Ordering, fence};

use netvale_wire::abi::{NETMAP_MAX_FRAGS, nif, ring, slot};

use crate::abi::Port;
use crate::memory::Region;

/// `int nmport_inject(struct nmport_d *d, const void *buf, size_t size)`:
/// copies a packet into the transmit rings, which are tried in turn, and
/// spreads it over slots if it is longer than a buffer. The size, or 0 if no
/// ring has room. The packet leaves at the next sync.
///
/// # Safety
///
/// `d` is an open port that no other thread uses, `buf` points to `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmport_inject(d: *mut Port, buf: *const c_void, size: usize) -> c_int {
    // SAFETY: the caller's promise.
    let port = unsafe { &mut *d };
    let Ok(result) = c_int::try_from(size) else {
        return 0;
    };
    // SAFETY: an open port's region is mapped.
    let Some(region) = (unsafe { Region::of(port) }) else {
        return 0;
    };
    let (first, last) = (port.first_tx_ring, port.last_tx_ring);
    // A port without rings has them in the wrong order, or a last one of 65535.
    let Some(nifp) = region
        .offset_of(port.nifp)
        .filter(|_| first <= last && last < u16::MAX)
    else {
        return 0;
    };
    let mut ri = port.cur_tx_ring;
    for _ in first..=last {
        if ri > last || ri < first {
            ri = first;
        }
        let sent = TxRing::open(region, nifp, ri).and_then(|ring| {
            let room = ring.room(size)?;
            // SAFETY: the caller's promise.
            unsafe { ring.put(room, buf.cast(), size) }
        });
        if sent.is_some() {
            port.cur_tx_ring = ri;
            return result;
        }
        ri = ri.wrapping_add(1);
    }
    0
}

/// A transmit ring. What its header says was read once and checked.
struct TxRing {
    region: Region,
    /// Where it is in the region.
    at: usize,
    num_slots: u32,
    buf_size: u32,
    cur: u32,
    tail: u32,
    offset_mask: u64,
    /// Where buffer 0 is in the region; may be before its beginning.
    bufs: i64,
}

impl TxRing {
    fn open(region: Region, nifp: usize, ri: u16) -> Option<Self> {
        let offset: i64 = region.read(nifp + nif::RING_OFS + 8 * usize::from(ri))?;
        let at = nifp.checked_add_signed(isize::try_from(offset).ok()?)?;
        if offset == 0 {
            return None;
        }
        let num_slots = region.read(at.checked_add(ring::NUM_SLOTS)?)?;
        region.at(at, ring::bytes(num_slots)?)?;
        let cur = region.read(at + ring::CUR)?;
        let tail = region.read(at + ring::TAIL)?;
        // What the system did before it moved the tail is seen after this.
        fence(Ordering::Acquire);
        let bufs = i64::try_from(at)
            .ok()?
            .checked_add(region.read(at + ring::BUF_OFS)?)?;
        let ring = Self {
            region,
            at,
            num_slots,
            buf_size: region.read(at + ring::NR_BUF_SIZE)?,
            cur,
            tail,
            offset_mask: region.read(at + ring::OFFSET_MASK)?,
            bufs,
        };
        (cur < num_slots && tail < num_slots).then_some(ring)
    }

    fn next(&self, i: u32) -> u32 {
        if i + 1 == self.num_slots { 0 } else { i + 1 }
    }

    fn slot(&self, i: u32) -> usize {
        self.at + ring::SLOTS + slot::SIZE * i as usize
    }

    /// Where the data of a slot begin in their buffer, and how many fit.
    fn capacity(&self, i: u32) -> Option<(u32, u32)> {
        let ptr: u64 = self.region.read(self.slot(i) + slot::PTR)?;
        let offset = u32::try_from(ptr & self.offset_mask).ok()?;
        let room = self.buf_size.checked_sub(offset)?.min(u32::from(u16::MAX));
        (room > 0).then_some((offset, room))
    }

    /// How many slots the packet takes, if they are free.
    fn room(&self, size: usize) -> Option<usize> {
        let mut left = size;
        let mut i = self.cur;
        for slots in 1..=NETMAP_MAX_FRAGS {
            if i == self.tail {
                return None;
            }
            let (_, room) = self.capacity(i)?;
            left = left.saturating_sub(room as usize);
            if left == 0 {
                return Some(slots);
            }
            i = self.next(i);
        }
        None
    }

    /// Fills `slots` slots and gives them to the system.
    ///
    /// # Safety
    ///
    /// `data` points to `size` bytes.
    unsafe fn put(&self, slots: usize, data: *const u8, size: usize) -> Option<()> {
        let mut i = self.cur;
        let mut done = 0;
        for left in (0..slots).rev() {
            let (offset, room) = self.capacity(i)?;
            let len = (size - done).min(room as usize);
            let index: u32 = self.region.read(self.slot(i) + slot::BUF_IDX)?;
            let buf = i64::from(index).checked_mul(i64::from(self.buf_size))?;
            let begin = usize::try_from(self.bufs.checked_add(buf)?).ok()?;
            let to = self.region.at(begin.checked_add(offset as usize)?, len)?;
            // SAFETY: done + len <= size, so the source is the caller's.
            let from = unsafe { data.add(done) };
            // SAFETY: the source as above; the target was checked to be in the
            // region, in a buffer that the slot says is this port's.
            unsafe { from.copy_to(to, len) };
            let flags = if left > 0 { slot::MOREFRAG } else { 0 };
            self.region
                .write(self.slot(i) + slot::LEN, u16::try_from(len).ok()?)?;
            self.region.write(self.slot(i) + slot::FLAGS, flags)?;
            done += len;
            i = self.next(i);
        }
        // The slots are filled before the system may see them.
        fence(Ordering::Release);
        self.region.write(self.at + ring::CUR, i)?;
        self.region.write(self.at + ring::HEAD, i)
    }
}

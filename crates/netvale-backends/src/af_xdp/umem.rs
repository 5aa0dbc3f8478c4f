//! Which memory frames are in, and where in it.

use std::ops::{Range, RangeInclusive};

use netvale_shm::Mem;

use super::{Desc, XskError};

/// Bytes that the kernel keeps free before each received frame.
const HEADROOM: u32 = 256;
/// A chunk of a UMEM with chunks at any address has 2048 bytes to a page.
const CHUNKS: RangeInclusive<u32> = 2048..=4096;
/// In a descriptor: the chunk's address, above it the frame's offset in it.
const OFFSET_SHIFT: u32 = 48;
const PAGE: u64 = 4096;
const HUGE_PAGE: u64 = 2 << 20;

/// Where the buffers lie in the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufLayout {
    /// Byte offset of buffer 0.
    pub first: u64,
    /// Bytes from one buffer to the next.
    pub stride: u32,
    /// Buffers.
    pub count: u32,
    /// Bytes of a buffer that frames may use: at most `stride`, 1792..=3840.
    pub usable: u32,
    /// Whether the memory lies in 2 MiB pages, so that a device can reach a
    /// buffer that crosses a border of small pages.
    pub huge: bool,
}

/// A frame, or a piece of one, in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The buffer.
    pub buf: u32,
    /// Where in it the bytes begin.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// Whether the frame goes on in the next descriptor.
    pub more: bool,
}

/// Memory with packet buffers, for AF_XDP sockets to use in place.
///
/// The kernel is told of chunks that begin [`HEADROOM`](Self::HEADROOM) bytes
/// *before* the buffers and may be anywhere ("unaligned"). It skips that much,
/// so that a received frame begins exactly where its buffer does, as netmap
/// programs expect it. The end of the buffer before it is thus headroom; nothing
/// is written there, because no program of ours adds metadata.
///
/// Registering memory pins it, so that untouched pages cost memory from then
/// on: [`Umem::part`] gives the kernel only those that hold certain buffers.
/// Other processes may register the same memory for sockets of their own.
#[derive(Debug, Clone)]
pub struct Umem {
    mem: Mem,
    layout: BufLayout,
    bufs: Range<u32>,
    /// The pages to register, and where in `mem` they begin.
    pages: Mem,
    origin: u64,
}

impl Umem {
    /// Bytes before a buffer that the kernel counts as its.
    pub const HEADROOM: u32 = HEADROOM;

    /// All buffers. Nothing is registered yet.
    ///
    /// # Errors
    ///
    /// [`XskError::Layout`] if the memory does not begin on a page border, the
    /// buffers are not inside, or a frame's size is not possible.
    pub fn new(mem: Mem, layout: BufLayout) -> Result<Self, XskError> {
        Self::part(mem, layout, 0..layout.count)
    }

    /// Some of the buffers, which keep their numbers. Nothing is registered
    /// yet.
    ///
    /// # Errors
    ///
    /// As [`Umem::new`], and if these are none of the buffers.
    pub fn part(mem: Mem, layout: BufLayout, bufs: Range<u32>) -> Result<Self, XskError> {
        let wrong = |why| XskError::Layout { why, layout };
        if !(mem.as_ptr().addr() as u64).is_multiple_of(PAGE) {
            return Err(wrong("the memory does not begin on a page border"));
        }
        if layout.usable > layout.stride {
            return Err(wrong("frames are longer than the distance of buffers"));
        }
        if !CHUNKS.contains(&layout.usable.saturating_add(HEADROOM)) {
            return Err(wrong("frames must have 1792 to 3840 bytes"));
        }
        if !layout.first.is_multiple_of(64) || !layout.stride.is_multiple_of(64) {
            return Err(wrong("buffers do not begin on multiples of 64"));
        }
        let at = |buf: u32| {
            let bytes = u64::from(buf) * u64::from(layout.stride);
            layout.first.saturating_add(bytes)
        };
        let len = mem.len() as u64;
        if layout.count == 0 || at(layout.count) > len {
            return Err(wrong("the buffers are not inside the memory"));
        }
        if len >= 1 << OFFSET_SHIFT {
            return Err(wrong("the memory is larger than descriptors can say"));
        }
        if bufs.is_empty() || bufs.end > layout.count {
            return Err(wrong("the part is not of these buffers"));
        }
        let first = at(bufs.start).saturating_sub(u64::from(HEADROOM));
        let origin = first - first % PAGE;
        let end = at(bufs.end).next_multiple_of(PAGE).min(len);
        let pages = usize::try_from(origin)
            .ok()
            .zip(usize::try_from(end - origin).ok())
            .and_then(|(origin, len)| mem.part(origin, len));
        Ok(Self {
            pages: pages.ok_or_else(|| wrong("the buffers are not inside the memory"))?,
            mem,
            layout,
            bufs,
            origin,
        })
    }

    /// The memory in which the buffers are.
    #[must_use]
    pub fn mem(&self) -> &Mem {
        &self.mem
    }

    /// Where the buffers are.
    #[inline]
    #[must_use]
    pub fn layout(&self) -> BufLayout {
        self.layout
    }

    /// The buffers that can be used.
    #[inline]
    #[must_use]
    pub fn bufs(&self) -> Range<u32> {
        self.bufs.clone()
    }

    /// The memory that the kernel is given.
    #[must_use]
    pub fn pages(&self) -> &Mem {
        &self.pages
    }

    /// What a chunk is to the kernel, in bytes.
    pub(super) fn chunk(&self) -> u32 {
        self.layout.usable + HEADROOM
    }

    /// The word to put in the fill ring so that a frame arrives at the
    /// beginning of this buffer. `None` if there is no such buffer, or nothing
    /// before it (which is so for a buffer 0 at offset 0).
    #[inline]
    #[must_use]
    pub fn fill_addr(&self, buf: u32) -> Option<u64> {
        self.offset_of(buf)?.checked_sub(u64::from(HEADROOM))
    }

    /// The buffer of a word from the fill ring that the kernel has not used.
    #[inline]
    #[must_use]
    pub fn filled_buf(&self, addr: u64) -> Option<u32> {
        self.buf_at(addr.checked_add(u64::from(HEADROOM))?)
            .filter(|&(_, offset)| offset == 0)
            .map(|(buf, _)| buf)
    }

    /// Bytes that one descriptor can send: all of a buffer, or a chunk.
    #[inline]
    #[must_use]
    pub fn sendable(&self) -> u32 {
        self.layout.stride.min(self.chunk())
    }

    /// The descriptor that sends a frame. `None` if it is not inside a buffer,
    /// or longer than a chunk, or empty.
    #[inline]
    #[must_use]
    pub fn tx_desc(&self, frame: Frame) -> Option<Desc> {
        let end = frame.offset.checked_add(frame.len)?;
        if frame.len == 0 || frame.len > self.sendable() || end > self.layout.stride {
            return None;
        }
        Some(Desc {
            addr: self.offset_of(frame.buf)? + u64::from(frame.offset),
            len: frame.len,
            more: frame.more,
        })
    }

    /// The same bytes in a descriptor that can be told from those of
    /// [`Umem::tx_desc`] ([`Desc::is_marked`]).
    #[inline]
    #[must_use]
    pub fn marked_tx_desc(&self, frame: Frame) -> Option<Desc> {
        let plain = self.tx_desc(frame)?;
        let base = plain.addr.checked_sub(u64::from(HEADROOM))?;
        Some(Desc {
            addr: base | u64::from(HEADROOM) << OFFSET_SHIFT,
            ..plain
        })
    }

    /// Where a received frame is. `None` if the descriptor points elsewhere
    /// than into a buffer: whoever wrote it is not to be trusted.
    #[inline]
    #[must_use]
    pub fn locate(&self, desc: Desc) -> Option<Frame> {
        let (buf, offset) = self.buf_at(flat(desc.addr))?;
        let end = offset.checked_add(desc.len)?;
        (end <= self.layout.usable).then_some(Frame {
            buf,
            offset,
            len: desc.len,
            more: desc.more,
        })
    }

    /// The buffer of a word from the completion ring. `None` for what was
    /// never one: descriptors that the kernel refuses come back as well.
    #[inline]
    #[must_use]
    pub fn completed_buf(&self, addr: u64) -> Option<u32> {
        self.buf_at(flat(addr)).map(|(buf, _)| buf)
    }

    /// Whether a device can reach the whole chunk of a buffer: the kernel
    /// refuses one that crosses a border between pages that need not lie
    /// together. It matters for zero copy only; such a buffer's word in the
    /// fill ring would be lost.
    #[must_use]
    pub fn device_can_reach(&self, buf: u32) -> bool {
        let page = if self.layout.huge { HUGE_PAGE } else { PAGE };
        let base = self.pages.as_ptr().addr() as u64 % page;
        self.fill_addr(buf).is_some_and(|start| {
            let start = base + start;
            start / page == (start + u64::from(self.chunk()) - 1) / page
        })
    }

    /// Where a buffer is in the pages.
    #[inline]
    fn offset_of(&self, buf: u32) -> Option<u64> {
        let bytes = u64::from(buf) * u64::from(self.layout.stride);
        self.bufs
            .contains(&buf)
            .then(|| self.layout.first + bytes - self.origin)
    }

    /// The buffer that holds a byte of the pages, and where in it.
    #[inline]
    fn buf_at(&self, offset: u64) -> Option<(u32, u32)> {
        let inside = offset
            .checked_add(self.origin)?
            .checked_sub(self.layout.first)?;
        let stride = u64::from(self.layout.stride);
        let buf = u32::try_from(inside / stride).ok()?;
        let offset = u32::try_from(inside % stride).ok()?;
        self.bufs.contains(&buf).then_some((buf, offset))
    }
}

impl Desc {
    /// Whether [`Umem::marked_tx_desc`] made it.
    #[inline]
    #[must_use]
    pub fn is_marked(self) -> bool {
        !self.is_void() && self.addr >> OFFSET_SHIFT != 0
    }
}

/// A descriptor's address as one number.
#[inline]
fn flat(addr: u64) -> u64 {
    (addr & ((1 << OFFSET_SHIFT) - 1)) + (addr >> OFFSET_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn umem() -> Umem {
        let layout = BufLayout {
            first: 4096,
            stride: 2112,
            count: 10,
            usable: 2112,
            huge: false,
        };
        Umem::new(Mem::heap(4096 + 10 * 2112), layout).unwrap()
    }

    #[test]
    fn addresses_lead_back_to_their_buffers() {
        let umem = umem();
        for buf in 0..10 {
            let fill = umem.fill_addr(buf).unwrap();
            assert_eq!(umem.filled_buf(fill), Some(buf));
            let got = Desc {
                addr: fill | 256 << OFFSET_SHIFT,
                len: 2112,
                more: true,
            };
            let frame = umem.locate(got).unwrap();
            let whole = Frame {
                buf,
                offset: 0,
                len: 2112,
                more: true,
            };
            assert_eq!(frame, whole);
            let sent = umem.tx_desc(frame).unwrap();
            assert_eq!(umem.completed_buf(sent.addr), Some(buf));
            let marked = umem.marked_tx_desc(frame).unwrap();
            assert_eq!(umem.completed_buf(marked.addr), Some(buf));
            assert_eq!((sent.is_marked(), marked.is_marked()), (false, true));
            assert_eq!((sent.len, sent.more), (marked.len, marked.more));
        }
    }

    #[test]
    fn more_can_be_sent_from_a_buffer_than_received_into_it() {
        let layout = BufLayout {
            first: 4096,
            stride: 4096,
            count: 4,
            usable: 3840,
            huge: false,
        };
        let umem = Umem::new(Mem::heap(5 * 4096), layout).unwrap();
        let of = |len| Frame {
            buf: 3,
            offset: 0,
            len,
            more: false,
        };
        assert_eq!(umem.tx_desc(of(4096)).map(|d| d.len), Some(4096));
        assert_eq!(umem.tx_desc(of(4097)), None);
    }

    #[test]
    fn what_is_not_in_a_buffer_is_nothing() {
        let umem = umem();
        let at = |addr, len| {
            umem.locate(Desc {
                addr,
                len,
                more: false,
            })
        };
        assert!(at(4095, 1).is_none());
        assert!(at(4096, 2113).is_none());
        assert!(at(4096 + 10 * 2112, 0).is_none());
        assert!(at(4097, 2112).is_none(), "into the next");
        assert!(at(u64::MAX, u32::MAX).is_none());
        assert!(at(4096, u32::MAX).is_none());
        assert_eq!(umem.fill_addr(10), None);
        assert_eq!(umem.filled_buf(u64::MAX), None);
        assert_eq!(umem.completed_buf(u64::MAX), None);
        let frame = Frame {
            buf: 9,
            offset: 2000,
            len: 113,
            more: false,
        };
        assert_eq!(umem.tx_desc(frame), None);
        let one_less = Frame { len: 112, ..frame };
        assert!(umem.tx_desc(one_less).is_some());
    }

    #[test]
    fn a_part_has_its_own_pages_and_the_same_numbers() {
        let whole = umem();
        let part = Umem::part(whole.mem().clone(), whole.layout(), 5..8).unwrap();
        // From 256 bytes before buffer 5 to the end of buffer 7, in pages.
        let (from, to): (u64, u64) = (4096 + 5 * 2112 - 256, 4096 + 8 * 2112);
        let len = part.pages().len();
        assert_eq!(part.origin, from / 4096 * 4096);
        assert_eq!(part.origin + len as u64, to.next_multiple_of(4096));
        for buf in 5..8 {
            let fill = part.fill_addr(buf).unwrap();
            assert_eq!(fill + part.origin, whole.fill_addr(buf).unwrap());
            assert_eq!(part.filled_buf(fill), Some(buf));
            assert_eq!(part.completed_buf(fill + 256), Some(buf));
            assert!(fill + 256 + 2112 <= len as u64);
        }
        assert_eq!((part.fill_addr(4), part.fill_addr(8)), (None, None));
        let before = whole.fill_addr(4).unwrap() + 256;
        assert_eq!(part.completed_buf(before.wrapping_sub(part.origin)), None);
        assert_eq!(part.completed_buf(len as u64), None);
    }

    #[test]
    fn impossible_layouts_are_refused_with_the_reason() {
        let good = umem().layout();
        let mem = Mem::heap(4096 + 10 * 2112);
        let of = |layout| Umem::new(mem.clone(), layout).unwrap_err().to_string();
        assert!(of(BufLayout { count: 11, ..good }).contains("not inside"));
        assert!(
            of(BufLayout {
                usable: 1791,
                ..good
            })
            .contains("1792")
        );
        assert!(
            of(BufLayout {
                usable: 2113,
                ..good
            })
            .contains("distance")
        );
        assert!(
            of(BufLayout {
                stride: 2113,
                ..good
            })
            .contains("64")
        );
        let none = Umem::part(mem.clone(), good, 3..3).unwrap_err();
        assert!(none.to_string().contains("not of these"));
        assert!(
            Umem::part(mem.clone(), good, 3..11).is_err_and(|e| e.to_string().contains("part"))
        );
        let unaligned = Umem::new(
            mem.part(64, 8192).unwrap(),
            BufLayout {
                first: 0,
                count: 1,
                ..good
            },
        );
        assert!(unaligned.unwrap_err().to_string().contains("page border"));
    }

    #[test]
    fn devices_reach_what_lies_in_one_page() {
        let small = umem();
        // Chunks of 2368 bytes from offset 3840: most cross a page's border.
        // and these do not.
        let reached: Vec<u32> = (0..10).filter(|&b| small.device_can_reach(b)).collect();
        let expected: Vec<u32> = (0..10_u32)
            .filter(|b| (3840 + b * 2112) / 4096 == (3840 + b * 2112 + 2367) / 4096)
            .collect();
        assert_eq!(reached, expected);
        assert!(!reached.is_empty() && reached.len() < 10);
    }
}

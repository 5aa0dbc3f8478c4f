//! Receiving through slots that the kernel fills (TPACKET_V2).
//!
//! The kernel copies each frame into the next slot and wakes whoever waits, as
//! it does without a ring; but nothing has to be asked of it to get the frame.
//! Measured on a veth, frames of 60 bytes in batches of 64, CPU time: sender,
//! kernel and receiver 970 ns a frame instead of 1130, the receiver alone 31
//! instead of 372; one by one, 350 ns less.
//!
//! Frames that are too long for a slot, those that wait for segmentation first
//! of all, are also queued at the socket, from which they are received in
//! place; this costs a tenth more than without a ring.
//!
//! A packet that no virtio-net header describes (UDP to be fragmented, SCTP to
//! be segmented) ends a ring: the kernel, 6.18 still, takes a slot for it, drops
//! it, keeps the slot, and drops all that come after it. No readiness tells of
//! that; but whoever sleeps at the descriptor is woken, which `EPOLLET` together
//! with `EPOLLOUT` shows, for the socket is always writable. So it sends nothing
//! itself, or that would wake too. What the kernel then says it has dropped tells
//! that the ring has ended, and it goes on without.
//!
//! Blocks of many frames (TPACKET_V3) are handed over when they are full or
//! after a millisecond, which no round trip can bear, and packets of 64 KiB,
//! copied once more, took three times as long.

mod sys;

use std::os::fd::{AsFd, BorrowedFd};

use netvale_wire::vnet::{HdrLen, VnetHdr};

use super::{Base, PacketConfig, PacketError, PacketSocket, PacketStats, insert_tag};
use crate::batch::{Batch, BufPool, MAX_PIECES, Piece, Sent};
use crate::net::mmsg::{Ask, Messages, recv};
use crate::net::sys::set_int;

pub(super) use sys::{Slot, Slots};

/// Bytes of a slot before the frame, at most: the kernel's header and ours.
const BEFORE: u32 = 128;
/// Bytes of a block of slots.
const BLOCK: u32 = 64 << 10;

/// How large a ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingConfig {
    /// Bytes of a slot: 2048, 4096, 8192 or 16384.
    slot_len: u32,
    /// Slots.
    slots: u32,
}

impl RingConfig {
    /// Slots for frames of an interface of this MTU in so many bytes of
    /// memory.
    #[must_use]
    pub fn for_mtu(mtu: u32, bytes: u32) -> Self {
        let wanted = mtu.saturating_add(BEFORE + 18).clamp(2048, 16 << 10);
        let slot_len = wanted.next_power_of_two().min(16 << 10);
        let bytes = bytes.clamp(BLOCK, 1 << 30).next_multiple_of(BLOCK);
        Self {
            slot_len,
            slots: bytes / slot_len,
        }
    }

    /// Frames that can wait.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }
}

/// A packet socket that receives through a ring of slots.
#[derive(Debug)]
pub struct PacketRing {
    /// `None` when it has ended. Before the socket, so that it is unmapped
    /// first.
    slots: Option<Slots>,
    socket: PacketSocket,
    /// Sends.
    out: PacketSocket,
    /// For frames that do not fit into a slot.
    long: Messages,
    room: Batch,
    /// Frames that nobody had room for.
    missed: u64,
}

impl PacketRing {
    /// Opens a socket with a ring. It never blocks: wait with `poll` on its
    /// descriptor.
    ///
    /// # Errors
    ///
    /// As for [`PacketSocket`](super::PacketSocket::open).
    pub fn open(config: &PacketConfig, ring: RingConfig) -> Result<Self, PacketError> {
        let base = Base::open(config)?;
        let slots = slots(&base, ring)?;
        base.start(config)?;
        Ok(Self {
            slots: Some(slots),
            socket: base.into(),
            out: PacketSocket::open(&config.sender())?,
            long: Messages::default(),
            room: Batch::new(),
            missed: 0,
        })
    }

    /// Length of the virtio-net header in front of each frame.
    #[must_use]
    pub fn header(&self) -> HdrLen {
        self.socket.base.header
    }

    /// Whether a frame is there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.slots
            .as_ref()
            .is_some_and(|slots| slots.peek().is_some())
    }

    /// What to receive from if the ring has ended: it brings nothing any more.
    pub fn without(&mut self) -> Option<&mut PacketSocket> {
        match self.slots {
            Some(_) => None,
            None => Some(&mut self.socket),
        }
    }

    /// Whether it has.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.slots.is_none()
    }

    /// Frames that were lost because nobody received them in time, with what
    /// ended the ring and came before that was seen.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Receives into a list of pieces, frame after frame, with their VLAN
    /// tags: each takes as many as it needs. Appends a frame to `batch` for
    /// each; ends when there is no more, or no room for the next. One that is
    /// longer than the whole list is cut. How many.
    ///
    /// # Errors
    ///
    /// [`PacketError::Down`], [`PacketError::Gone`] or [`PacketError::Os`]:
    /// there is no frame.
    pub fn recv_packed(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, PacketError> {
        let (mut frames, mut next, mut losing, mut any) = (0, 0, false, false);
        let Some(slots) = &mut self.slots else {
            return Ok(0);
        };
        let base = &mut self.socket.base;
        while let Some(slot) = slots.peek() {
            any = true;
            losing |= slot.losing;
            if !slot.is_whole() && !slot.queued {
                // There was no memory to queue it.
                self.missed += 1;
                slots.release();
                continue;
            }
            let len = base.header.get() + slot.len + slot.tag.map_or(0, |t| t.len());
            let left = free.get(next..).unwrap_or_default();
            let (n, room) = enough(left, len);
            if n == 0 || (room < len && next > 0) {
                break;
            }
            let chain = left.get(..n).unwrap_or_default();
            if slot.queued {
                self.room.clear();
                let fits = self.room.push(chain);
                let got = match fits {
                    Ok(()) => queued(base, &mut self.long, pool, &self.room),
                    Err(_) => Ok(None),
                };
                match got {
                    Ok(Some((len, cut))) => {
                        let at = batch.len();
                        if batch.push(chain).is_ok() {
                            batch.set_len(at, len, cut);
                            if let Some(tag) = slot.tag {
                                insert_tag(pool, batch, at, base.header, tag);
                            }
                        }
                    }
                    Ok(None) => {
                        self.missed += 1;
                        slots.release();
                        continue;
                    }
                    // The frame is there the next time.
                    Err(_) if frames > 0 => break,
                    Err(e) => return Err(e),
                }
            } else if batch.push(chain).is_ok() {
                copy(pool, batch, base.header, &slot);
            }
            slots.release();
            frames += 1;
            next += n;
        }
        if losing {
            self.missed += base.dropped()?;
        }
        if !any {
            base.check()?;
            if has_ended(base, slots, &mut self.missed)? {
                self.slots = None;
                end(base)?;
            }
        }
        Ok(frames)
    }

    /// As [`PacketSocket::send`](super::PacketSocket::send).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
    ) -> Result<Sent, PacketError> {
        let mut sent = self.out.send(pool, batch, first)?;
        // Whether that socket can be written to is not what ours says.
        sent.wait |= sent.next < batch.len();
        Ok(sent)
    }

    /// What came and what was dropped since the socket was opened.
    ///
    /// # Errors
    ///
    /// [`PacketError::Os`].
    pub fn stats(&mut self) -> Result<PacketStats, PacketError> {
        self.missed += self.socket.base.dropped()?;
        Ok(self.socket.base.stats)
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Nothing is in a ring: whether nothing will be any more. Counts what was lost.
pub(super) fn has_ended(
    base: &mut Base,
    slots: &mut Slots,
    missed: &mut u64,
) -> Result<bool, PacketError> {
    let lost = base.dropped()?;
    *missed += lost;
    Ok(is_kept(slots, lost))
}

/// Whether the kernel keeps the slot that is waited for, as frames were lost.
fn is_kept(slots: &mut Slots, lost: u64) -> bool {
    // Of a ring that was full as many have been taken since.
    let was_full = slots.were_all_taken();
    // Behind a slot that is kept none is filled; behind one that the kernel is
    // still writing, all may be.
    lost > 0 && !was_full && slots.are_empty()
}

/// Gives a ring that is not mapped any more back.
pub(super) fn end(base: &Base) -> Result<(), PacketError> {
    let none = libc::tpacket_req {
        tp_block_size: 0,
        tp_block_nr: 0,
        tp_frame_size: 0,
        tp_frame_nr: 0,
    };
    let done = super::sys::make_ring(base.fd.as_fd(), &none);
    Ok(done.map_err(|e| base.os("give back the packet ring of interface", e))?)
}

/// Makes a ring of a socket that is not bound yet.
pub(super) fn slots(base: &Base, ring: RingConfig) -> Result<Slots, PacketError> {
    let blocks = (u64::from(ring.slots) * u64::from(ring.slot_len)) / u64::from(BLOCK);
    let request = libc::tpacket_req {
        tp_block_size: BLOCK,
        tp_block_nr: u32::try_from(blocks).unwrap_or(1),
        tp_frame_size: ring.slot_len,
        tp_frame_nr: ring.slots,
    };
    const VERSION_2: i32 = 1;
    const COPY_THRESH: i32 = 7; // PACKET_COPY_THRESH
    let fd = base.fd.as_fd();
    let set = |option, value| set_int(fd, libc::SOL_PACKET, option, value);
    set(libc::PACKET_VERSION, VERSION_2)
        .and_then(|()| set(COPY_THRESH, 1))
        .and_then(|()| super::sys::make_ring(fd, &request))
        .map_err(|e| {
            base.os("make a packet ring for interface", e)
                .hint("make it smaller")
        })?;
    let slots = Slots::map(fd, ring.slot_len, ring.slots, base.header);
    Ok(slots.map_err(|e| base.os("map the packet ring of interface", e))?)
}

/// The shortest beginning of a list that has room for a frame, or all that a
/// frame can have, and its bytes.
fn enough(list: &[Piece], len: usize) -> (usize, usize) {
    let (mut n, mut room) = (0, 0);
    for piece in list.iter().take(MAX_PIECES) {
        if room >= len && n > 0 {
            break;
        }
        room += piece.len as usize;
        n += 1;
    }
    (n, room)
}

/// Receives the next queued frame into the only chain: its length and whether
/// it was cut; `None` if there is none.
fn queued(
    base: &Base,
    long: &mut Messages,
    pool: &BufPool,
    room: &Batch,
) -> Result<Option<(usize, bool)>, PacketError> {
    let ask = Ask {
        head: 0,
        spill: 0,
        address: false,
        control: false,
    };
    loop {
        match recv(base.fd.as_fd(), long, pool, room, 0..1, ask) {
            Ok(_) => return Ok(long.get(0).map(|got| (got.len, got.truncated))),
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(None),
                _ => return Err(base.error("receive from", e)),
            },
        }
    }
}

/// Fills the last chain of the batch with a frame of a slot.
fn copy(pool: &BufPool, batch: &mut Batch, header: HdrLen, slot: &Slot<'_>) {
    const ADDRESSES: usize = 12;
    let i = batch.len() - 1;
    let mut head = [0; 12];
    if let Some(bytes) = head.get_mut(..slot.vnet.len()) {
        bytes.copy_from_slice(slot.vnet);
    }
    let tag: &[u8] = match &slot.tag {
        Some(tag) if slot.data.len() >= ADDRESSES => tag,
        _ => &[],
    };
    if !tag.is_empty()
        && let Some(mut vnet) = VnetHdr::parse(&head, header)
    {
        super::move_back(&mut vnet);
        // There is room: it was read from there.
        let _ = vnet.write(&mut head, header);
    }
    let (start, rest) = slot.data.split_at(slot.data.len().min(ADDRESSES));
    let head = head.get(..header.get()).unwrap_or_default();
    let parts = [head, start, tag, rest];
    let total = parts.iter().map(|p| p.len()).sum();
    let room = batch.room(i);
    batch.set_len(i, total, total > room);
    let mut at = 0;
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        batch.write(pool, i, at, part);
        at += part.len();
    }
}

#[cfg(test)]
mod tests {
    use super::sys::tests::{fill, ring};
    use super::*;

    #[test]
    fn a_ring_whose_next_slot_is_being_written_has_not_ended() {
        let (mut slots, file) = ring(32);
        for slot in 0..3 {
            fill(&file, slot);
            assert!(slots.peek().is_some());
            slots.release();
        }
        // It went round, to the slot that is waited for.
        (4..32).chain(0..3).for_each(|slot| fill(&file, slot));
        assert!(slots.peek().is_none());
        assert!(!is_kept(&mut slots, 7));
        fill(&file, 3);
        for _ in 0..32 {
            assert!(slots.peek().is_some());
            slots.release();
        }
        assert!(!is_kept(&mut slots, 1), "it was full");
        assert!(!is_kept(&mut slots, 0), "nothing was lost");
        assert!(is_kept(&mut slots, 1));
    }
}

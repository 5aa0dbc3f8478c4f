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
//! Blocks of many frames (TPACKET_V3) are handed over when they are full or
//! after a millisecond, which no round trip can bear, and packets of 64 KiB,
//! copied once more, took three times as long.

mod sys;

use std::os::fd::{AsFd, BorrowedFd};

use netvale_wire::vnet::{HdrLen, VnetHdr};

use super::{Base, PacketConfig, PacketError, PacketStats, insert_tag};
use crate::batch::{Batch, BufPool, MAX_PIECES, Piece, Sent};
use crate::net::mmsg::{Ask, Messages, Out, recv};
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
    // Before the socket, so that it is unmapped first.
    slots: Slots,
    base: Base,
    tx: Messages,
    outs: Vec<Out>,
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
            slots,
            base,
            tx: Messages::default(),
            outs: Vec::new(),
            long: Messages::default(),
            room: Batch::new(),
            missed: 0,
        })
    }

    /// Length of the virtio-net header in front of each frame.
    #[must_use]
    pub fn header(&self) -> HdrLen {
        self.base.header
    }

    /// Whether a frame is there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.slots.peek().is_some()
    }

    /// Frames that were lost because nobody received them in time.
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
        while let Some(slot) = self.slots.peek() {
            any = true;
            losing |= slot.losing;
            if !slot.is_whole() && !slot.queued {
                // There was no memory to queue it.
                self.missed += 1;
                self.slots.release();
                continue;
            }
            let len = self.base.header.get() + slot.len + slot.tag.map_or(0, |t| t.len());
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
                    Ok(()) => queued(&self.base, &mut self.long, pool, &self.room),
                    Err(_) => Ok(None),
                };
                match got {
                    Ok(Some((len, cut))) => {
                        let at = batch.len();
                        if batch.push(chain).is_ok() {
                            batch.set_len(at, len, cut);
                            if let Some(tag) = slot.tag {
                                insert_tag(pool, batch, at, self.base.header, tag);
                            }
                        }
                    }
                    Ok(None) => {
                        self.missed += 1;
                        self.slots.release();
                        continue;
                    }
                    // The frame is there the next time.
                    Err(_) if frames > 0 => break,
                    Err(e) => return Err(e),
                }
            } else if batch.push(chain).is_ok() {
                copy(pool, batch, self.base.header, &slot);
            }
            self.slots.release();
            frames += 1;
            next += n;
        }
        if losing {
            let before = self.base.stats.dropped;
            self.missed += self.base.stats()?.dropped - before;
        }
        if !any {
            self.base.check()?;
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
        self.base
            .send(&mut self.tx, &mut self.outs, pool, batch, first)
    }

    /// What came and what was dropped since the socket was opened.
    ///
    /// # Errors
    ///
    /// [`PacketError::Os`].
    pub fn stats(&mut self) -> Result<PacketStats, PacketError> {
        let before = self.base.stats.dropped;
        let stats = self.base.stats()?;
        self.missed += stats.dropped - before;
        Ok(stats)
    }
}

impl AsFd for PacketRing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.base.fd.as_fd()
    }
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

//! Frames as they would be on a wire, for programs that know no virtio-net
//! header.
//!
//! The kernel hands packets on as it has them: with checksums that were left
//! to an interface that has none to compute (a veth's), and put together from
//! many frames (GRO). Here each is finished: checksums are computed, long
//! packets cut into frames.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};

use netvale_wire::offload::{self, Plan};
use netvale_wire::vnet::{GSO_NONE, HdrLen, VnetHdr};

use super::ring::{self, RingConfig, Slots, slots};
use super::{Base, ODD, PacketConfig, PacketError, PacketSocket, Tag, tag_of};
use crate::batch::{Batch, BufPool, Piece, Sent};
use crate::net::mmsg::{Ask, Got, Messages, recv};

/// Frames of one system call.
const PER_CALL: usize = 64;
/// The longest packet, with VLAN tags.
const LONGEST: usize = 65_536 + 32;
/// Bytes of the addresses at the beginning of a frame.
const ADDRESSES: usize = 12;

/// A packet socket whose frames are complete.
#[derive(Debug)]
pub struct WholeSocket {
    /// Where packets come, if there is a ring, and it has not ended; before the
    /// socket, so that it is unmapped first.
    slots: Option<Slots>,
    base: Base,
    /// Sends: what programs send is complete.
    out: PacketSocket,
    messages: Messages,
    /// Where messages are received.
    rooms: Batch,
    /// Longest frame on the wire, bytes.
    max_frame: usize,
    /// Packets that are not cut to the end yet.
    waiting: VecDeque<Packet>,
    scratch: Vec<u8>,
    incomplete: u64,
    missed: u64,
}

/// A packet in private memory.
#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    plan: Plan,
    next: usize,
}

/// Pieces of a list that are not filled yet.
struct Free<'a> {
    list: &'a [Piece],
    /// Those that were filled and emptied again.
    back: Vec<Piece>,
    next: usize,
}

impl Free<'_> {
    /// A chain for `len` bytes, if there is room.
    fn take(&mut self, len: usize, chain: &mut Vec<Piece>) -> bool {
        chain.clear();
        let (kept, next) = (self.back.len(), self.next);
        let mut room = 0;
        while room < len {
            let piece = match self.back.pop() {
                Some(piece) => piece,
                None => match self.list.get(self.next) {
                    Some(&piece) => {
                        self.next += 1;
                        piece
                    }
                    None => {
                        // All of it back, in any order.
                        let used = chain.len() - (self.next - next);
                        self.next = next;
                        self.back.extend(chain.drain(..used));
                        debug_assert_eq!(self.back.len(), kept);
                        return false;
                    }
                },
            };
            room += piece.len as usize;
            chain.push(piece);
        }
        true
    }
}

impl WholeSocket {
    /// Opens a socket of an interface whose frames are `max_frame` bytes at
    /// most, without VLAN tags; the header of `config` is of no account.
    /// `ring`: packets come through one.
    ///
    /// # Errors
    ///
    /// [`PacketError`].
    pub fn open(
        config: &PacketConfig,
        max_frame: usize,
        ring: Option<RingConfig>,
    ) -> Result<Self, PacketError> {
        let receiver = PacketConfig {
            header: HdrLen::SHORT,
            ..config.clone()
        };
        let sender = PacketConfig {
            header: HdrLen::NONE,
            ..config.sender()
        };
        let base = Base::open(&receiver)?;
        let slots = ring.map(|ring| slots(&base, ring)).transpose()?;
        base.start(&receiver)?;
        Ok(Self {
            slots,
            base,
            out: PacketSocket::open(&sender)?,
            messages: Messages::default(),
            rooms: Batch::new(),
            max_frame,
            waiting: VecDeque::new(),
            scratch: Vec::new(),
            incomplete: 0,
            missed: 0,
        })
    }

    /// Longest frame that [`WholeSocket::recv`] needs room for, bytes.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.max_frame + 4
    }

    /// Packets dropped because they contradicted their own headers, or were of
    /// a kind that cannot be cut: those in tunnels, for one.
    #[must_use]
    pub fn incomplete(&self) -> u64 {
        self.incomplete
    }

    /// Packets that were lost because nobody received them in time, as far as
    /// a ring tells, with what ended it and came before that was seen.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether there is surely no more than what has been received.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let empty = |slots: &Slots| slots.peek().is_none();
        self.waiting.is_empty() && self.slots.as_ref().is_some_and(empty)
    }

    /// The interface's name when the socket was opened.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.base.name
    }

    /// Whether packets come through a ring.
    #[must_use]
    pub fn has_ring(&self) -> bool {
        self.slots.is_some()
    }

    /// Receives into a list of pieces. Appends to `batch`, which is empty, a
    /// chain for each frame, and then others, so that all together have the
    /// first pieces of the list, in any order. How many frames.
    ///
    /// # Errors
    ///
    /// [`PacketError::Down`], [`PacketError::Gone`] or [`PacketError::Os`].
    pub fn recv(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, PacketError> {
        let mut free = Free {
            list: free,
            back: Vec::new(),
            next: 0,
        };
        self.cut(pool, &mut free, batch);
        if self.waiting.is_empty() {
            let came = match self.slots {
                Some(_) => self.walk(pool, &mut free, batch),
                None => self
                    .call(pool, &mut free)
                    .map(|n| self.sort(pool, &mut free, batch, n)),
            };
            match came {
                Ok(()) => {}
                // Frames are there: the error comes again.
                Err(_) if batch.len() > 0 => {}
                Err(e) => return Err(e),
            }
        }
        let frames = batch.len();
        for piece in free.back {
            // One piece is always a chain.
            let _ = batch.push(&[piece]);
            batch.set_len(batch.len() - 1, 0, false);
        }
        Ok(frames)
    }

    /// Makes frames of what is in the ring.
    fn walk(
        &mut self,
        pool: &BufPool,
        free: &mut Free<'_>,
        batch: &mut Batch,
    ) -> Result<(), PacketError> {
        let (mut chain, mut any, mut losing) = (Vec::new(), false, false);
        while self.waiting.is_empty()
            && batch.len() < PER_CALL
            && let Some(slot) = self.slots.as_ref().and_then(Slots::peek)
        {
            any = true;
            losing |= slot.losing;
            let hdr = VnetHdr::parse(slot.vnet, HdrLen::SHORT).unwrap_or_default();
            if slot.is_whole() && hdr.gso() == GSO_NONE {
                let len = slot.len + slot.tag.map_or(0, |t| t.len());
                if !free.take(len.max(1), &mut chain) {
                    break;
                }
                self.scratch.clear();
                self.scratch.extend_from_slice(slot.data);
                let (start, offset) = (usize::from(hdr.csum_start), usize::from(hdr.csum_offset));
                let bytes = &mut self.scratch;
                let good =
                    !hdr.needs_csum() || offload::finish_checksum(bytes, start, offset).is_ok();
                if let Some(tag) = slot.tag.filter(|_| bytes.len() >= ADDRESSES) {
                    bytes.splice(ADDRESSES..ADDRESSES, tag);
                }
                if !good {
                    self.incomplete += 1;
                    free.back.append(&mut chain);
                } else if batch.push(&chain).is_err() {
                    self.incomplete += 1; // longer than a frame can be
                    free.back.append(&mut chain);
                } else {
                    let at = batch.len() - 1;
                    batch.set_len(at, bytes.len(), false);
                    batch.write(pool, at, 0, bytes);
                }
            } else {
                let bytes = match (slot.is_whole(), slot.queued) {
                    (true, _) => Some(slot.data.to_vec()),
                    (false, true) => queued(&self.base, &mut self.messages, pool)?,
                    // There was no memory to queue it.
                    (false, false) => None,
                };
                match bytes.map(|bytes| plan(bytes, hdr, slot.tag, self.max_frame)) {
                    Some(Some(packet)) => self.waiting.push_back(packet),
                    Some(None) => self.incomplete += 1,
                    None => self.missed += 1,
                }
            }
            if let Some(slots) = &mut self.slots {
                slots.release();
            }
            self.cut(pool, free, batch);
        }
        if losing {
            self.missed += self.base.dropped()?;
        }
        if !any {
            self.base.check()?;
            if let Some(slots) = &mut self.slots
                && ring::has_ended(&mut self.base, slots, &mut self.missed)?
            {
                self.slots = None;
                ring::end(&self.base)?;
            }
        }
        Ok(())
    }

    /// Receives messages into rooms out of `free`; how many.
    fn call(&mut self, pool: &BufPool, free: &mut Free<'_>) -> Result<usize, PacketError> {
        let mut chain = Vec::new();
        self.rooms.clear();
        while self.rooms.len() < PER_CALL && free.take(self.longest(), &mut chain) {
            if self.rooms.push(&chain).is_err() {
                free.back.append(&mut chain);
                break;
            }
        }
        let n = match self.rooms.len() {
            0 => 0,
            _ => self.ask(pool)?,
        };
        for i in (n..self.rooms.len()).rev() {
            free.back.extend(self.rooms.chain(i).iter().rev());
        }
        Ok(n)
    }

    fn ask(&mut self, pool: &BufPool) -> Result<usize, PacketError> {
        let ask = Ask {
            head: HdrLen::SHORT.get(),
            spill: LONGEST,
            address: false,
            control: true,
        };
        for _ in 0..ODD {
            let (fd, range) = (self.base.fd.as_fd(), 0..self.rooms.len());
            match recv(fd, &mut self.messages, pool, &self.rooms, range, ask) {
                Ok(n) => return Ok(n),
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(0),
                    Some(libc::EINTR) => {}
                    // A packet that no virtio-net header can describe.
                    Some(libc::EINVAL) => self.incomplete += 1,
                    _ => return Err(self.base.error("receive from", e)),
                },
            }
        }
        Ok(0)
    }

    /// Makes frames of `n` messages.
    fn sort(&mut self, pool: &BufPool, free: &mut Free<'_>, batch: &mut Batch, n: usize) {
        for i in 0..n {
            let chain = self.rooms.chain(i);
            let room = self.rooms.room(i);
            let Some(got) = self.messages.get(i) else {
                free.back.extend(chain);
                continue;
            };
            let hdr = VnetHdr::parse(got.head, HdrLen::SHORT).unwrap_or_default();
            let tag = got
                .control(libc::SOL_PACKET, libc::PACKET_AUXDATA)
                .and_then(tag_of);
            let fits = got.len + tag.map_or(0, |t| t.len()) <= room;
            // In order: nothing overtakes what waits.
            let in_place = fits && hdr.gso() == GSO_NONE && self.waiting.is_empty();
            if in_place && batch.push(chain).is_ok() {
                let at = batch.len() - 1;
                batch.set_len(at, got.len, got.truncated);
                if hdr.needs_csum() && !finish(pool, batch, at, &hdr, &mut self.scratch) {
                    self.incomplete += 1;
                    batch.set_len(at, 0, false);
                } else if let Some(tag) = tag {
                    super::insert_tag(pool, batch, at, HdrLen::NONE, tag);
                }
                continue;
            }
            match packet(pool, &self.rooms, i, &got, hdr, tag, self.max_frame) {
                Some(packet) => self.waiting.push_back(packet),
                None => self.incomplete += 1,
            }
            free.back.extend(chain);
            self.cut(pool, free, batch);
        }
    }

    /// Cuts what waits into frames, as far as there is room.
    fn cut(&mut self, pool: &BufPool, free: &mut Free<'_>, batch: &mut Batch) {
        let mut chain = Vec::new();
        while let Some(packet) = self.waiting.front_mut() {
            let Some(len) = packet.plan.segment_len(packet.next) else {
                self.waiting.pop_front();
                continue;
            };
            if !free.take(len.max(1), &mut chain) {
                return;
            }
            self.scratch.clear();
            self.scratch.resize(len, 0);
            let bytes = &packet.bytes;
            let read = |at: usize, dst: &mut [u8]| {
                let src = bytes.get(at..at + dst.len());
                src.is_some_and(|src| {
                    dst.copy_from_slice(src);
                    true
                })
            };
            let made = packet
                .plan
                .write_segment(packet.next, read, &mut self.scratch);
            packet.next += 1;
            let Ok(made) = made else {
                self.incomplete += 1;
                free.back.append(&mut chain);
                continue;
            };
            if batch.push(&chain).is_err() {
                free.back.append(&mut chain);
                continue;
            }
            let at = batch.len() - 1;
            batch.set_len(at, made, false);
            batch.write(pool, at, 0, self.scratch.get(..made).unwrap_or_default());
        }
    }

    /// Sends the frames of `batch` from number `first` on.
    ///
    /// # Errors
    ///
    /// As [`PacketSocket::send`].
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
}

impl AsFd for WholeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.base.fd.as_fd()
    }
}

/// Computes the checksum of received frame `i` where it lies.
fn finish(pool: &BufPool, batch: &Batch, i: usize, hdr: &VnetHdr, scratch: &mut Vec<u8>) -> bool {
    scratch.clear();
    scratch.resize(batch.frame_len(i), 0);
    let n = batch.read(pool, i, 0, scratch);
    scratch.truncate(n);
    let (start, offset) = (usize::from(hdr.csum_start), usize::from(hdr.csum_offset));
    if offload::finish_checksum(scratch, start, offset).is_err() {
        return false;
    }
    let at = start + offset;
    let field = scratch.get(at..at + 2).unwrap_or_default();
    batch.write(pool, i, at, field) == 2
}

/// Takes message `i` into private memory, with its tag, and plans how it is
/// cut. `None` if it contradicts itself.
fn packet(
    pool: &BufPool,
    rooms: &Batch,
    i: usize,
    got: &Got<'_>,
    hdr: VnetHdr,
    tag: Option<Tag>,
    max_frame: usize,
) -> Option<Packet> {
    let in_chain = got.len.min(rooms.room(i));
    let mut bytes = vec![0; in_chain];
    if rooms.read(pool, i, 0, &mut bytes) != in_chain || got.truncated {
        return None;
    }
    bytes.extend_from_slice(got.spill.get(..got.len - in_chain)?);
    plan(bytes, hdr, tag, max_frame)
}

/// Takes the next queued packet into private memory; `None` if there is none.
fn queued(
    base: &Base,
    messages: &mut Messages,
    pool: &BufPool,
) -> Result<Option<Vec<u8>>, PacketError> {
    let ask = Ask {
        head: HdrLen::SHORT.get(),
        spill: LONGEST,
        address: false,
        control: false,
    };
    // No room but the spill.
    let none = Batch::new();
    loop {
        match recv(base.fd.as_fd(), messages, pool, &none, 0..1, ask) {
            Ok(_) => {
                let got = messages.get(0).filter(|got| !got.truncated);
                return Ok(got.and_then(|got| Some(got.spill.get(..got.len)?.to_vec())));
            }
            Err(e) => match e.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN) => return Ok(None),
                _ => return Err(base.error("receive from", e)),
            },
        }
    }
}

/// Plans how a packet is cut, with its tag. `None` if it contradicts itself.
fn plan(
    mut bytes: Vec<u8>,
    mut hdr: VnetHdr,
    tag: Option<Tag>,
    max_frame: usize,
) -> Option<Packet> {
    if let Some(tag) = tag {
        if bytes.len() < ADDRESSES {
            return None;
        }
        bytes.splice(ADDRESSES..ADDRESSES, tag);
        if hdr.needs_csum() {
            hdr.csum_start = hdr.csum_start.saturating_add(4);
        }
    }
    let head = bytes.get(..bytes.len().min(offload::MAX_HEADER))?;
    // The tag does not count for the interface's longest frame.
    let max_frame = max_frame + tag.map_or(0, |t| t.len());
    let plan = offload::plan(&hdr, head, bytes.len(), max_frame).ok()?;
    Some(Packet {
        bytes,
        plan,
        next: 0,
    })
}

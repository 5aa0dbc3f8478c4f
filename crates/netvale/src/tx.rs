//! Sending.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use netvale_ring::kring::Kring;
use netvale_ring::slot::{MAX_FRAGS, NS_BUF_CHANGED, NS_MOREFRAG, Ring, RingWindow};
use netvale_ring::world::{Holder, RegionMap};
use netvale_ring::{Counter, Slot};
use netvale_switch::domain::RingInfo;
use netvale_switch::end::{SyncError, TxEnd};

use crate::drive::{For, Outward};
use crate::port::Shared;
use crate::spin::Spin;
use crate::wait::{self, Awaited};
use crate::{Error, ErrorKind, Result};

/// One sync in so many is timed, and counts for all of them: a look at the
/// clock costs as much as sending ten frames.
const SAMPLE: u32 = 64;

/// A frame was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The ring has too few free slots: sync, or the peer is slow.
    #[error("the ring is full")]
    Full,
    /// Empty, or longer than 64 slots carry.
    #[error("a frame must have at least one byte and fit into 64 slots")]
    Size,
}

/// A TX ring. May move to another thread, used by one at a time.
#[derive(Debug)]
pub struct TxRing {
    shared: Arc<Shared>,
    end: Option<TxEnd>,
    /// The queue behind it, if this process drives that.
    lane: Option<Outward>,
    window: RingWindow,
    slots: u32,
    info: RingInfo,
    /// First slot that is not queued yet.
    next: u32,
    /// What it was at the last sync.
    synced: u32,
    /// First slot of the system, as of the last sync.
    tail: u32,
    syncs: u32,
    spin: Spin,
}

impl TxRing {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        info: &RingInfo,
        end: Option<TxEnd>,
        lane: Option<Outward>,
    ) -> Option<Self> {
        let ofs = usize::try_from(info.ofs).ok()?;
        let slots = u32::from(info.slots);
        let window = RingWindow::at(&shared.map.mem, ofs, slots)?;
        let ring = window.get();
        // A port may have been used before: go on where its rings stand.
        let (next, tail) = (ring.head(), ring.tail());
        (next < slots && tail < slots).then(|| Self {
            shared: Arc::clone(shared),
            end,
            lane,
            window,
            slots,
            info: *info,
            next,
            synced: next,
            tail,
            syncs: 0,
            spin: Spin::default(),
        })
    }

    #[inline]
    pub(crate) fn ring(&self) -> Ring<'_> {
        self.window.get()
    }

    pub(crate) fn map(&self) -> &RegionMap {
        &self.shared.map
    }

    /// Slots in the ring.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Bytes that one slot carries.
    #[must_use]
    pub fn buf_size(&self) -> u32 {
        self.shared.map.geom.buf_size
    }

    /// Slots free to be queued.
    #[inline]
    #[must_use]
    pub fn space(&self) -> u32 {
        span(self.next, self.tail, self.slots)
    }

    /// Queues a frame: copies it into the next slot, or slots.
    ///
    /// # Errors
    ///
    /// [`PushError`]; nothing was queued.
    #[inline]
    pub fn push(&mut self, frame: &[u8]) -> Result<(), PushError> {
        let size = self.buf_size() as usize;
        if frame.is_empty() || frame.len() > size {
            return self.push_frags(frame, size);
        }
        if self.next == self.tail {
            return Err(PushError::Full);
        }
        let ring = self.ring();
        let buf = ring.slot(self.next).buf();
        if !self.shared.map.bufs().write(buf, 0, frame) {
            return Err(PushError::Full); // a peer spoilt the slot
        }
        let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
        ring.set_slot(self.next, Slot::new(buf, len, 0));
        self.next = next(self.next, self.slots);
        Ok(())
    }

    /// Queues a frame spread over slots of `frag` bytes.
    ///
    /// # Errors
    ///
    /// [`PushError`]; nothing was queued.
    pub fn push_frags(&mut self, frame: &[u8], frag: usize) -> Result<(), PushError> {
        let frag = frag.clamp(1, self.buf_size() as usize);
        let need = frame.len().div_ceil(frag);
        if need == 0 || need > MAX_FRAGS as usize || need >= self.slots as usize {
            return Err(PushError::Size);
        }
        if need > self.space() as usize {
            return Err(PushError::Full);
        }
        let (ring, bufs) = (self.ring(), self.shared.map.bufs());
        let mut at = self.next;
        for (i, part) in frame.chunks(frag).enumerate() {
            let buf = ring.slot(at).buf();
            if !bufs.write(buf, 0, part) {
                return Err(PushError::Full); // a peer spoilt the slot
            }
            let more = if i + 1 < need { NS_MOREFRAG } else { 0 };
            let len = u16::try_from(part.len()).unwrap_or(u16::MAX);
            ring.set_slot(at, Slot::new(buf, len, more));
            at = next(at, self.slots);
        }
        self.next = at;
        Ok(())
    }

    /// Queues up to `n` slots whose buffers hold a frame of `len` bytes
    /// already ([`TxRing::fill`]; ports that keep their buffers). How many.
    #[inline]
    pub fn push_resident(&mut self, n: u32, len: u16) -> u32 {
        let n = n.min(self.space());
        let ring = self.ring();
        let (mut at, mut left) = (self.next, n);
        while left > 0 {
            let part = left.min(self.slots - at); // up to the end of the ring
            for slot in ring.words(at, part).chunks_exact(2) {
                let buf = Slot::from_bits(slot[0].load(Relaxed)).buf();
                slot[0].store(Slot::new(buf, len, 0).bits(), Relaxed);
            }
            left -= part;
            at = if at + part == self.slots {
                0
            } else {
                at + part
            };
        }
        self.next = at;
        n
    }

    /// Writes the same bytes into the buffers of all free slots.
    ///
    /// # Errors
    ///
    /// [`PushError::Size`] if they do not fit into one buffer.
    pub fn fill(&mut self, frame: &[u8]) -> Result<(), PushError> {
        if frame.len() > self.buf_size() as usize {
            return Err(PushError::Size);
        }
        for ahead in 0..self.space() {
            self.poke(ahead, 0, frame);
        }
        // The one slot that is always the system's comes round as well.
        let last = self.tail;
        let buf = self.ring().slot(last).buf();
        let _ = self.shared.map.bufs().write(buf, 0, frame);
        Ok(())
    }

    /// Overwrites bytes in the buffer of the free slot `ahead` places on,
    /// without queueing it. `false` if there is no such slot or no room.
    pub fn poke(&mut self, ahead: u32, off: usize, bytes: &[u8]) -> bool {
        if ahead >= self.space() {
            return false;
        }
        let at = (self.next + ahead) % self.slots;
        let buf = self.ring().slot(at).buf();
        self.shared.map.bufs().write(buf, off, bytes)
    }

    /// Hands everything queued to the engine. Slots that it took over.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`]: the port is gone; [`ErrorKind::Usage`]: a
    /// monitor's ring; [`ErrorKind::Peer`]: another process wrote over the
    /// ring's words, and what was queued is lost.
    #[inline]
    pub fn sync(&mut self) -> Result<u32> {
        if self.next == self.synced {
            self.adopt();
        } else {
            self.ring().set_head(self.next);
        }
        let before = std::mem::replace(&mut self.synced, self.next);
        let Some(end) = &mut self.end else {
            return Ok(self.sync_isolated(before));
        };
        self.syncs = self.syncs.wrapping_add(1);
        let start = self.syncs.is_multiple_of(SAMPLE).then(Instant::now);
        let taken = match end.sync() {
            Ok(n) => n,
            Err(SyncError::Locked) => 0,
            Err(e) => return Err(self.failed(e)),
        };
        if let Some(lane) = &mut self.lane {
            if lane.serve() {
                let _ = end.sync(); // shows what went out; errors are the next one's
            } else if lane.is_over() {
                self.shared.leave(self.info.idx, lane.queue());
                self.lane = None;
            }
        }
        if let Some(start) = start {
            let ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(0);
            end.kring().count(Counter::CpuNs, ns * u64::from(SAMPLE));
        }
        let tail = self.ring().tail();
        if tail < self.slots {
            self.tail = tail;
        }
        Ok(taken)
    }

    /// Nothing was queued here: another handle of the ring may have sent, and
    /// must not find its words put back.
    #[inline]
    fn adopt(&mut self) {
        let head = self.ring().head();
        if head < self.slots {
            (self.next, self.synced) = (head, head);
        }
    }

    /// The server's worker does the rest.
    fn sync_isolated(&mut self, before: u32) -> u32 {
        let ring = self.ring();
        self.shared.kick();
        let tail = ring.tail();
        if tail < self.slots {
            self.tail = tail;
        }
        span(before, self.next, self.slots)
    }

    #[cold]
    fn failed(&mut self, e: SyncError) -> Error {
        let name = &self.shared.reg.name;
        let kind = match e {
            SyncError::Gone => ErrorKind::Disconnected,
            SyncError::Monitor => ErrorKind::Usage,
            _ => {
                // Nonsense was put right by the engine; words that another
                // handle of the ring has overtaken are put right here.
                if let Some(end) = &self.end {
                    end.rewind();
                }
                let ring = self.ring();
                let (head, tail) = (ring.head(), ring.tail());
                if head < self.slots && tail < self.slots {
                    (self.next, self.tail) = (head, tail);
                    self.synced = head;
                }
                ErrorKind::Peer
            }
        };
        Error::new(kind, format!("{name}: cannot send: {e}"))
    }

    /// Slots queued and not back yet: not synced, or on a pipe whose receiver
    /// has not released them.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.slots - 1 - self.space()
    }

    /// Sleeps until the ring has space (`true`) or the time is over: for
    /// threads that have one ring each. Only the rings of pipes ever fill up.
    ///
    /// # Errors
    ///
    /// As [`TxRing::sync`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        if self.look()? {
            return Ok(true);
        }
        let shared = Arc::clone(&self.shared);
        let mut spin = self.spin;
        let got = wait::until_ready(&shared, std::slice::from_mut(self), &mut spin, timeout);
        self.spin = spin;
        got
    }

    /// The buffer of the slot that is next.
    pub(crate) fn next_buf(&self) -> u32 {
        self.ring().slot(self.next).buf()
    }

    /// Queues a frame's slot in exchange for the one that is next: both rings
    /// lie in one region.
    pub(crate) fn take_slot(&mut self, slot: Slot, more: bool) {
        let more = if more { NS_MOREFRAG } else { 0 };
        let slot = Slot::new(slot.buf(), slot.len(), NS_BUF_CHANGED | more);
        self.ring().set_slot(self.next, slot);
        self.next = next(self.next, self.slots);
    }

    /// Notes that a buffer is this ring's.
    pub(crate) fn hold(&self, buf: u32) {
        if let (Some(gear), Some(s)) = (&self.shared.gear, self.shared.map.shared)
            && let Some(h) = gear.world.holders(s, self.shared.map.geom.bufs)
            && let Some(word) = h.get(buf as usize)
        {
            let holder = Holder::kring(self.info.kring);
            word.store(holder.bits(), Relaxed);
        }
    }
}

impl Awaited for TxRing {
    const WHAT: For = For::Tx;

    fn look(&mut self) -> Result<bool> {
        self.sync()?;
        Ok(self.space() > 0)
    }

    fn kring(&self) -> Option<Kring<'_>> {
        Some(self.end.as_ref()?.kring())
    }

    fn is_due(&self) -> bool {
        self.lane.as_ref().is_some_and(Outward::is_due)
    }

    /// Not where this process drives the queue: the kernel takes frames from
    /// anybody who has its socket.
    fn needs_server(&self) -> bool {
        self.lane.as_ref().is_none_or(Outward::is_over)
    }

    /// Whoever gives slots back has not reserved them.
    fn repair(&mut self) {}
}

/// The slot after `i`.
#[inline]
pub(crate) fn next(i: u32, slots: u32) -> u32 {
    if i + 1 == slots { 0 } else { i + 1 }
}

/// Slots from `a` forward to `b`.
#[inline]
pub(crate) fn span(a: u32, b: u32, slots: u32) -> u32 {
    if b >= a { b - a } else { b + slots - a }
}

//! Receiving.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use netvale_ring::Slot;
use netvale_ring::forward::{NR_FORWARD, NS_FORWARD};
use netvale_ring::kring::Kring;
use netvale_ring::slot::{MAX_FRAGS, NS_BUF_CHANGED, NS_MOREFRAG, Ring, RingWindow};
use netvale_ring::world::Holder;
use netvale_shm::Bufs;
use netvale_switch::domain::RingInfo;
use netvale_switch::end::{RxEnd, SyncError};

use crate::drive::{For, Inward};
use crate::port::Shared;
use crate::registration::is_dead;
use crate::spin::Spin;
use crate::tx::{PushError, TxRing, next, span};
use crate::wait::{self, Awaited};
use crate::{Error, ErrorKind, Result};

/// Syncs in a row that found reserved but unpublished slots and nothing else,
/// before the ring asks whether whoever reserved them is dead.
const STUCK: u32 = 1 << 16;

/// Slots between the frame that is taken and the one that is fetched ahead.
const AHEAD: u32 = 8;

/// An RX ring. May move to another thread, used by one at a time.
#[derive(Debug)]
pub struct RxRing {
    shared: Arc<Shared>,
    end: Option<RxEnd>,
    /// The queue behind it, if this process drives that.
    lane: Option<Inward>,
    window: RingWindow,
    slots: u32,
    info: RingInfo,
    /// First slot that was not taken yet.
    next: u32,
    /// First slot of the system, as of the last sync.
    tail: u32,
    /// Isolated: slots released since the worker was told.
    untold: u32,
    stuck: u32,
    stamps: bool,
    spin: Spin,
}

impl RxRing {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        info: &RingInfo,
        end: Option<RxEnd>,
        lane: Option<Inward>,
    ) -> Option<Self> {
        let ofs = usize::try_from(info.ofs).ok()?;
        let slots = u32::from(info.slots);
        let window = RingWindow::at(&shared.map.mem, ofs, slots)?;
        let ring = window.get();
        let (next, tail) = (ring.head(), ring.tail());
        (next < slots && tail < slots).then(|| Self {
            shared: Arc::clone(shared),
            end,
            lane,
            window,
            slots,
            info: *info,
            next,
            tail,
            untold: 0,
            stuck: 0,
            stamps: false,
            spin: Spin::default(),
        })
    }

    #[inline]
    pub(crate) fn ring(&self) -> Ring<'_> {
        self.window.get()
    }

    /// Slots in the ring.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Slots filled and not taken yet, as of the last sync.
    #[inline]
    #[must_use]
    pub fn available(&self) -> u32 {
        span(self.next, self.tail, self.slots)
    }

    /// Gives taken slots back and looks for new frames. Slots available now.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`]: the port is gone; [`ErrorKind::Peer`]:
    /// another process wrote over the ring's words, which were put right.
    #[inline]
    pub fn sync(&mut self) -> Result<u32> {
        let tail = match &mut self.end {
            Some(end) => {
                let ring = end.ring();
                if ring.head() != self.next {
                    ring.set_head(self.next);
                }
                let mut synced = end.sync();
                if let Some(lane) = &mut self.lane
                    && synced.is_ok()
                {
                    if lane.serve() {
                        synced = end.sync();
                    } else if lane.is_over() {
                        self.shared.leave(self.info.idx, lane.queue());
                        self.lane = None;
                    }
                }
                match synced {
                    Ok(tail) => tail,
                    Err(SyncError::Locked) => self.ring().tail(),
                    Err(e) => return Err(self.failed(e)),
                }
            }
            None => self.sync_isolated(),
        };
        if tail == self.tail {
            self.look_stuck();
        } else if tail < self.slots {
            self.tail = tail;
            self.stuck = 0;
            if self.stamps {
                self.stamp();
            }
        }
        Ok(self.available())
    }

    /// The worker looks at the ring by itself while it is awake; asleep, it
    /// must know before the ring is full.
    fn sync_isolated(&mut self) -> u32 {
        let ring = self.ring();
        let before = ring.head();
        if before != self.next {
            ring.set_head(self.next);
            let passed_on = ring.flags() & NR_FORWARD != 0;
            self.untold += span(before.min(self.slots - 1), self.next, self.slots);
            if passed_on || self.untold >= self.slots / 4 {
                self.untold = 0;
                self.shared.kick();
            }
        }
        self.ring().tail()
    }

    #[inline]
    fn look_stuck(&mut self) {
        self.stuck += 1;
        if self.stuck >= STUCK {
            self.stuck = 0;
            self.repair();
        }
    }

    #[cold]
    fn failed(&mut self, e: SyncError) -> Error {
        let name = &self.shared.reg.name;
        let kind = match e {
            SyncError::Gone => ErrorKind::Disconnected,
            _ => {
                if let Some(end) = &self.end {
                    end.rewind();
                }
                let ring = self.ring();
                let (head, tail) = (ring.head(), ring.tail());
                if head < self.slots && tail < self.slots {
                    (self.next, self.tail) = (head, tail);
                }
                ErrorKind::Peer
            }
        };
        Error::new(kind, format!("{name}: cannot receive: {e}"))
    }

    /// Takes the next whole frame; its slots go back at the next
    /// [`RxRing::sync`]. `None` if there is none yet. Empty slots (of senders
    /// that died) are passed over.
    #[inline]
    #[expect(
        clippy::should_implement_trait,
        reason = "frames borrow the ring, which an iterator's items cannot"
    )]
    pub fn next(&mut self) -> Option<Frame<'_>> {
        loop {
            let avail = self.available();
            if avail == 0 {
                return None;
            }
            if self.lane.is_some() {
                self.prefetch(avail);
            }
            let (first, frags, len) = self.frame_at(self.next, avail)?;
            self.next = (first + frags) % self.slots;
            if len > 0 {
                return Some(Frame {
                    ring: self.window.get(),
                    bufs: self.shared.map.bufs(),
                    rx: self,
                    first,
                    frags,
                    len,
                });
            }
        }
    }

    /// What comes from the kernel comes from another core's cache.
    #[inline]
    fn prefetch(&self, avail: u32) {
        if avail > AHEAD {
            let at = self.next + AHEAD;
            let at = if at >= self.slots {
                at - self.slots
            } else {
                at
            };
            let buf = self.ring().slot(at).buf();
            self.shared.map.bufs().prefetch(buf);
        }
    }

    /// Slots and bytes of the frame that begins at slot `at`; `None` if its
    /// last slot is not there yet.
    #[inline]
    fn frame_at(&self, first: u32, avail: u32) -> Option<(u32, u32, u32)> {
        let ring = self.ring();
        let size = self.shared.map.geom.buf_size;
        let mut at = first;
        let (mut frags, mut len) = (0, 0);
        loop {
            let slot = ring.slot(at);
            frags += 1;
            len += u32::from(slot.len()).min(size);
            // A full ring cannot be waiting for the rest of a frame.
            let all = frags == avail && avail + 1 == self.slots;
            if !slot.has(NS_MOREFRAG) || frags == MAX_FRAGS || all {
                return Some((first, frags, len));
            }
            if frags == avail {
                return None;
            }
            at = next(at, self.slots);
        }
    }

    /// Takes up to `n` slots without looking at their frames. Frames and bytes
    /// as their slots say.
    #[inline]
    pub fn discard(&mut self, n: u32) -> (u32, u64) {
        let n = n.min(self.available());
        let ring = self.ring();
        let (mut frames, mut bytes) = (0, 0);
        let (mut at, mut left) = (self.next, n);
        while left > 0 {
            let part = left.min(self.slots - at); // up to the end of the ring
            for word in ring.words(at, part).chunks_exact(2) {
                let slot = Slot::from_bits(word[0].load(Relaxed));
                frames += u32::from(!slot.has(NS_MOREFRAG) && slot.len() > 0);
                bytes += u64::from(slot.len());
            }
            left -= part;
            at = if at + part == self.slots {
                0
            } else {
                at + part
            };
        }
        self.next = at;
        (frames, bytes)
    }

    /// Moves up to `max` frames to `tx`: by exchanging buffers if both rings
    /// lie in one region, else by copying. Returns how many; sync both rings
    /// then.
    pub fn forward(&mut self, tx: &mut TxRing, max: u32) -> u32 {
        let mut moved = 0;
        while moved < max {
            let at = self.next;
            let Some(frame) = self.next() else { break };
            if frame.forward(tx).is_err() {
                self.next = at; // stays where it is
                break;
            }
            moved += 1;
        }
        moved
    }

    /// Notes the time of each sync that finds frames, for
    /// [`RxRing::timestamp`]. Costs a look at the clock.
    pub fn set_timestamps(&mut self, yes: bool) {
        self.stamps = yes;
    }

    /// When the last sync that found frames was: time since 1970. Zero unless
    /// [`RxRing::set_timestamps`] asked for it.
    #[must_use]
    pub fn timestamp(&self) -> Duration {
        let (sec, usec) = self.ring().ts();
        let sec = Duration::from_secs(u64::try_from(sec).unwrap_or(0));
        sec + Duration::from_micros(u64::try_from(usec).unwrap_or(0))
    }

    fn stamp(&self) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.unwrap_or_default();
        let sec = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        self.ring().set_ts(sec, i64::from(now.subsec_micros()));
    }

    /// Sleeps until the ring has frames (`true`) or the time is over: for
    /// threads that have one ring each.
    ///
    /// # Errors
    ///
    /// As [`RxRing::sync`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        if self.sync()? > 0 {
            return Ok(true);
        }
        let shared = Arc::clone(&self.shared);
        let mut spin = self.spin;
        let got = wait::until_ready(&shared, std::slice::from_mut(self), &mut spin, timeout);
        self.spin = spin;
        got
    }

    fn same_region(&self, tx: &TxRing) -> bool {
        let (a, b) = (&self.shared.map, tx.map());
        a.id == b.id && a.generation == b.generation && a.mem.as_ptr() == b.mem.as_ptr()
    }

    fn hold(&self, buf: u32) {
        if let (Some(gear), Some(s)) = (&self.shared.gear, self.shared.map.shared)
            && let Some(h) = gear.world.holders(s, self.shared.map.geom.bufs)
            && let Some(word) = h.get(buf as usize)
        {
            let holder = Holder::kring(self.info.kring);
            word.store(holder.bits(), Relaxed);
        }
    }
}

impl Awaited for RxRing {
    const WHAT: For = For::Rx;

    fn look(&mut self) -> Result<bool> {
        Ok(self.sync()? > 0)
    }

    fn kring(&self) -> Option<Kring<'_>> {
        Some(self.end.as_ref()?.kring())
    }

    fn is_due(&self) -> bool {
        self.lane.as_ref().is_some_and(Inward::is_due)
    }

    /// Asks, when there is no server to do it, whether a dead sender stands in
    /// the way, and clears it if so.
    #[cold]
    fn repair(&mut self) {
        if let Some(end) = &mut self.end
            && end.is_stuck()
            && !self.shared.keep.alive()
        {
            end.repair(|_, pid| is_dead(pid));
        }
    }
}

/// One received frame, of 1 to 64 slots.
///
/// Its bytes lie in memory that peers may write: they are copied out, never
/// borrowed, so that what was checked once stays as it was.
#[derive(Debug)]
pub struct Frame<'a> {
    // Taken apart from `rx` because views borrow the mapping, not the ring.
    ring: Ring<'a>,
    bufs: Bufs<'a>,
    rx: &'a RxRing,
    first: u32,
    frags: u32,
    len: u32,
}

impl Frame<'_> {
    /// Bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Slots.
    #[must_use]
    pub fn frags(&self) -> usize {
        self.frags as usize
    }

    /// Flags of the first slot (`NS_*`).
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.ring.slot(self.first).flags()
    }

    /// Copies bytes from `off` on; how many there were.
    #[inline]
    pub fn read(&self, off: usize, dst: &mut [u8]) -> usize {
        if self.frags == 1 {
            let n = dst.len().min(self.len().saturating_sub(off));
            let buf = self.ring.slot(self.first).buf();
            return if self.bufs.read(buf, off, &mut dst[..n]) {
                n
            } else {
                0
            };
        }
        self.each(off, dst.len(), |buf, at, done, n| {
            self.bufs.read(buf, at, &mut dst[done..done + n])
        })
    }

    /// Replaces the vector's contents with the frame.
    pub fn read_to(&self, v: &mut Vec<u8>) {
        v.clear();
        v.resize(self.len(), 0);
        let n = self.read(0, v);
        v.truncate(n);
    }

    /// The 8 bytes at `off` as a little-endian word; 0 if they are not there.
    #[inline]
    #[must_use]
    pub fn load_u64(&self, off: usize) -> u64 {
        if self.frags == 1 && off + 8 <= self.len() {
            let buf = self.ring.slot(self.first).buf();
            return self.bufs.load(buf, off);
        }
        let mut bytes = [0; 8];
        self.read(off, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// Overwrites bytes from `off` on, before the frame is forwarded; how many.
    pub fn write(&mut self, off: usize, bytes: &[u8]) -> usize {
        self.each(off, bytes.len(), |buf, at, done, n| {
            self.bufs.write(buf, at, &bytes[done..done + n])
        })
    }

    /// Calls `f` with buffer, offset in it, bytes done and bytes to do, for
    /// each part of `[off, off + len)`.
    fn each(
        &self,
        mut off: usize,
        len: usize,
        mut f: impl FnMut(u32, usize, usize, usize) -> bool,
    ) -> usize {
        let size = self.bufs.stride() as usize;
        let (mut done, mut at) = (0, self.first);
        for _ in 0..self.frags {
            let slot = self.ring.slot(at);
            let here = usize::from(slot.len()).min(size);
            if off < here {
                let n = (here - off).min(len - done);
                if !f(slot.buf(), off, done, n) {
                    return done;
                }
                done += n;
                off = 0;
                if done == len {
                    break;
                }
            } else {
                off -= here;
            }
            at = next(at, self.ring.count());
        }
        done
    }

    /// Passes the frame on to the other side of its interface when its slots
    /// are released by the next [`RxRing::sync`]: what came from the wire goes
    /// to the host's stack, whether or not the host rings are open; what came
    /// from the host goes to the wire, if this registration has all TX rings
    /// of the interface (`eth0*`). On a port that is no interface the frame is
    /// dropped.
    ///
    /// From the first call on the host may send by itself while nobody has its
    /// rings open.
    pub fn pass_on(self) {
        if self.ring.flags() & NR_FORWARD == 0 {
            self.ring.add_flags(NR_FORWARD);
        }
        let slot = self.ring.slot(self.first);
        let flags = slot.flags() | NS_FORWARD;
        self.ring.set_slot(self.first, slot.with_flags(flags));
    }

    /// Queues the frame on `tx`: without a copy if both rings lie in one
    /// region. Sync both rings then.
    ///
    /// # Errors
    ///
    /// [`PushError`]; the frame is dropped with this value, unless it was
    /// taken by [`RxRing::forward`].
    pub fn forward(self, tx: &mut TxRing) -> Result<(), PushError> {
        if self.frags > tx.space() {
            return Err(PushError::Full);
        }
        if !self.rx.same_region(tx) {
            let mut bytes = Vec::new();
            self.read_to(&mut bytes);
            return tx.push(&bytes);
        }
        let mut at = self.first;
        for i in 0..self.frags {
            let slot = self.ring.slot(at);
            let back = tx.next_buf();
            // Both holders before both slots: whoever dies in between, each
            // buffer is freed once when the two rings are taken back.
            tx.hold(slot.buf());
            self.rx.hold(back);
            tx.take_slot(slot, i + 1 < self.frags);
            self.ring.set_slot(at, Slot::new(back, 0, NS_BUF_CHANGED));
            at = next(at, self.ring.count());
        }
        Ok(())
    }
}

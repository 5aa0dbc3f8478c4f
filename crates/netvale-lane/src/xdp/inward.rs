//! From a socket's rings into slots.

use netvale_backends::af_xdp::{FillRing, Frame, RxRing, XskSocket};
use netvale_backends::batch::{Batch, BufPool, MAX_PIECES, Piece};
use netvale_ring::kring::KringId;

use super::again::Again;
use super::lane::{NOWHERE, corrupt, move_bytes, trouble};
use super::memory::Exchange;
use super::suspicion::Suspicion;
use super::{Memory, Traits};
use crate::books::{Books, Dir, Entry, Side};
use crate::{Step, Trouble};

/// Frames received at once.
const AT_ONCE: usize = 256;
/// No frame that the kernel receives has so many pieces.
const LONGEST_CHAIN: usize = 256;

#[derive(Debug)]
pub(super) struct Inward {
    pub(super) side: Side,
    rx: RxRing,
    fill: FillRing,
    /// Slots that whoever was here before may not have filled: the first, how
    /// many, and the ring's head after them.
    unfinished: Option<[u32; 3]>,
    frame: Vec<Frame>,
    /// The driver waits for buffers and has not heard of them.
    pub(super) again: Again,
    suspicion: Suspicion,
    /// Frames received last may lack their checksum.
    pub(super) looks: bool,
}

/// What the inward direction does not have to itself.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) socket: &'a XskSocket,
    pub(super) memory: &'a Memory,
    pub(super) books: &'a Books,
    pub(super) traits: Traits,
    pub(super) kring: KringId,
}

impl Inward {
    pub(super) fn new(side: Side, rx: RxRing, fill: FillRing, suspicion: Suspicion) -> Self {
        Self {
            side,
            rx,
            fill,
            unfinished: None,
            frame: Vec::with_capacity(MAX_PIECES),
            again: Again::default(),
            suspicion,
            looks: true,
        }
    }

    /// Takes the side; `false` if somebody else has it.
    pub(super) fn enter(&mut self) -> bool {
        match self.side.enter() {
            Entry::Taken => return false,
            Entry::Again => {}
            Entry::After([rx, fill, first, n, head, _]) => {
                self.rx.seek(rx);
                self.fill.seek(fill);
                self.rx.release();
                self.fill.publish();
                self.suspicion.restart();
                self.unfinished = (first != NOWHERE).then_some([first, n, head]);
                if self.fill.needs_wakeup() {
                    // Whoever was here may not have told the driver.
                    self.again.now();
                }
            }
        }
        true
    }

    /// What whoever was here before had committed and may not have done: the
    /// step, and how many slots it fills.
    pub(super) fn unfinished(&mut self) -> Option<(Step, u32)> {
        let [first, n, head] = self.unfinished.take()?;
        Some((Step { first, head }, n))
    }

    /// Whether there is nothing to be received, as far as a few loads can tell.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.rx.is_empty() && !self.side.is_unfinished() && self.again.due().is_none()
    }

    /// Slots that what is there takes.
    #[inline]
    pub(super) fn slots(&self) -> usize {
        self.rx.pending() as usize
    }

    /// Lends the kernel the last of these buffers, as many as it should have of
    /// so many.
    pub(super) fn stock(&mut self, on: Shared<'_>, stock: &mut Vec<u32>) -> Result<(), String> {
        let n = self.fill.refresh().map_err(|e| e.to_string())? as usize;
        // Some of the ring stays free: the kernel shows frames before it
        // shows that it has taken their buffers.
        let keep = stock.len() - (n - n / 8).min(stock.len() / 4 * 3);
        for buf in stock.drain(keep..) {
            self.lend(on.memory, buf);
        }
        self.commit([NOWHERE, 0, 0], on.socket)
    }

    /// Lends a buffer to the kernel, to receive into.
    fn lend(&mut self, memory: &Memory, buf: u32) {
        // The ring has an entry for each that we may have: as many come out of
        // the other as go in here.
        let _ = memory.umem().fill_addr(buf).map(|addr| self.fill.put(addr));
    }

    /// Finds the next frame; `false` if it is not there, or not all of it.
    fn next(&mut self, memory: &Memory) -> Result<bool, Trouble> {
        let start = self.rx.position();
        self.frame.clear();
        loop {
            let Some(desc) = self.rx.take() else {
                self.rx.unread(start);
                return Ok(false);
            };
            let Some(frame) = memory.umem().locate(desc) else {
                return Err(Trouble::Gone("a descriptor outside the memory".into()));
            };
            self.frame.push(frame);
            if !desc.more {
                return Ok(true);
            }
            if self.frame.len() == LONGEST_CHAIN {
                return Err(Trouble::Gone("a frame without an end".into()));
            }
        }
    }

    /// Gives a slot a received piece: their buffers change places, or the bytes
    /// are copied. The slot's buffer from then on, and whether all bytes are in
    /// it. The other buffer is lent to the kernel.
    #[inline]
    fn give(
        &mut self,
        on: Shared<'_>,
        exchange: Option<&Exchange<'_>>,
        pool: &BufPool,
        frame: Frame,
        slot: Piece,
    ) -> (u32, bool) {
        let swapped = frame.offset == 0
            && on.traits.reaches(on.memory, slot.buf)
            && exchange.is_some_and(|x| x.swap(slot.buf, frame.buf));
        let (buf, back, good) = match swapped {
            true => (frame.buf, slot.buf, true),
            false => {
                on.books.count_copy(Dir::In);
                let good = move_bytes(on.memory.bufs(), frame, pool.bufs(), slot);
                (slot.buf, frame.buf, good)
            }
        };
        self.lend(on.memory, back);
        if self.looks {
            // Its first line comes from another core's cache; it is there when
            // the whole batch has been taken.
            pool.bufs().prefetch(buf);
        }
        (buf, good)
    }

    /// What was taken and lent so far becomes valid.
    pub(super) fn commit(
        &mut self,
        [first, n, head]: [u32; 3],
        socket: &XskSocket,
    ) -> Result<(), String> {
        let (rx, fill) = (self.rx.position(), self.fill.position());
        self.side.commit([rx, fill, first, n, head, 0]);
        self.rx.release();
        self.fill.publish();
        self.tell(socket)
    }

    /// Tells the driver of buffers if it waits for some.
    fn tell(&mut self, socket: &XskSocket) -> Result<(), String> {
        if !self.fill.needs_wakeup() {
            self.again.done();
            return Ok(());
        }
        match socket.kick_rx() {
            Ok(true) => self.again.done(),
            // If it has no buffer left, no frame makes us come here again.
            Ok(false) => self.again.later(),
            // It looks for buffers itself when it is switched on.
            Err(e) if trouble(&e) == Trouble::Down => self.again.stop(),
            Err(e) => return Err(e.to_string()),
        }
        Ok(())
    }

    pub(super) fn pull(
        &mut self,
        on: Shared<'_>,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        let memory = on.memory;
        if self.again.is_due() {
            self.tell(on.socket).map_err(Trouble::Gone)?;
        }
        self.rx.refresh().map_err(corrupt)?;
        self.fill.refresh().map_err(corrupt)?;
        // The kernel copies for interfaces that are no hardware, too, and says
        // nothing of checksums.
        self.looks = !on.traits.zero_copy && self.suspicion.must_look();
        let exchange = memory.exchange(on.kring);
        let mut pieces = [Piece {
            buf: 0,
            off: 0,
            len: 0,
        }; MAX_PIECES];
        let mut used = 0;
        while batch.len() < AT_ONCE && used < free.len() {
            let start = self.rx.position();
            // The commonest: a frame in one piece, which is kept in registers.
            if let Some(desc) = self.rx.take()
                && !desc.more
                && let Some(&slot) = free.get(used)
                && let Some(frame) = memory.umem().locate(desc)
            {
                let (buf, good) = self.give(on, exchange.as_ref(), pool, frame, slot);
                batch.push_buf(buf, frame.len);
                if !good {
                    batch.set_len(batch.len() - 1, 0, true);
                }
                used += 1;
                continue;
            }
            self.rx.unread(start);
            if !self.next(memory)? {
                break;
            }
            let n = self.frame.len();
            let slots = free.get(used..used + n).filter(|_| n <= MAX_PIECES);
            let Some(slots) = slots else {
                if used > 0 {
                    self.rx.unread(start);
                    break; // the next time
                }
                // No ring of this size can have it.
                for i in 0..n {
                    let buf = self.frame.get(i).map_or(0, |f| f.buf);
                    self.lend(memory, buf);
                }
                batch.push_buf(free.first().map_or(0, |p| p.buf), 0);
                batch.set_len(0, 0, true);
                used += 1;
                continue;
            };
            let mut good = true;
            for (i, slot) in slots.iter().enumerate() {
                let Some(&frame) = self.frame.get(i) else {
                    break;
                };
                let (buf, fine) = self.give(on, exchange.as_ref(), pool, frame, *slot);
                good &= fine;
                if let Some(piece) = pieces.get_mut(i) {
                    *piece = Piece {
                        buf,
                        off: 0,
                        len: frame.len,
                    };
                }
            }
            if batch.push(pieces.get(..n).unwrap_or_default()).is_ok() && !good {
                batch.set_len(batch.len() - 1, 0, true);
            }
            used += n;
        }
        self.suspicion.passed(batch.len());
        Ok(batch.len())
    }
}

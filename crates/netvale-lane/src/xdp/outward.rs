//! From slots into a socket's rings.

use netvale_backends::af_xdp::{CompletionRing, Desc, Frame, TxRing, XskSocket};
use netvale_backends::batch::{Batch, BufPool, Piece};

use super::again::Again;
use super::lane::{NOWHERE, corrupt, move_bytes, trouble};
use super::{Memory, Traits};
use crate::books::{Books, Dir, Entry, FreeList, Side};
use crate::{Pushed, Step, Trouble};

/// The shortest frame that can be sent: an Ethernet header.
const SHORTEST: usize = 14;
/// The most pieces of a frame that the kernel sends by copying.
const MOST_PIECES: usize = 17;

#[derive(Debug)]
pub(super) struct Outward {
    pub(super) side: Side,
    tx: TxRing,
    done: CompletionRing,
    /// Those of the stock that can be sent from.
    free: FreeList,
    /// So far what was put was seen to be taken.
    popped: u32,
    /// Entries that can be put.
    room: usize,
    /// Frames behind that: the first ones in the ring's slots.
    waiting: usize,
    /// The ring's head as it was or should have been set last.
    head: u32,
    unfinished: bool,
    /// The kernel had no room.
    pub(super) again: Again,
}

/// What fits into a ring.
enum Put {
    Done,
    /// Not now.
    Full,
    /// Never.
    Refused,
}

/// What the outward direction does not have to itself.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    pub(super) socket: &'a XskSocket,
    pub(super) memory: &'a Memory,
    pub(super) books: &'a Books,
    pub(super) traits: Traits,
}

impl Rest<'_> {
    /// Whether the kernel can send a piece from where it is, and has copied it
    /// when it has taken it.
    #[inline]
    fn keeps(&self, piece: Piece) -> bool {
        self.traits.copies
            && self.memory.is_in_place()
            && piece.off == 0
            && self.traits.reaches(self.memory, piece.buf)
    }
}

/// Up to where entries of a ring of this size were seen to be taken, if
/// `claimed`, which others could write, can be that; else up to its end.
fn within(end: u32, claimed: u32, size: u32) -> u32 {
    if end.wrapping_sub(claimed) <= size {
        claimed
    } else {
        end
    }
}

impl Outward {
    pub(super) fn new(side: Side, tx: TxRing, done: CompletionRing) -> Self {
        Self {
            side,
            tx,
            done,
            free: FreeList::default(),
            popped: 0,
            room: 0,
            waiting: 0,
            head: NOWHERE,
            unfinished: false,
            again: Again::default(),
        }
    }

    /// Takes the side; `false` if somebody else has it.
    pub(super) fn enter(&mut self) -> bool {
        match self.side.enter() {
            Entry::Taken => return false,
            Entry::Again => {}
            Entry::After([tx, done, begin, end, popped, head]) => {
                self.tx.seek(tx);
                self.done.seek(done);
                self.free = FreeList { begin, end };
                self.popped = within(tx, popped, self.tx.size());
                self.head = head;
                self.done.release();
                self.tx.publish();
                let entries = (0..tx.wrapping_sub(self.popped))
                    .map(|i| self.tx.entry(self.popped.wrapping_add(i)));
                self.waiting = entries.filter(|d| !d.more && !d.is_void()).count();
                self.unfinished = head != NOWHERE;
                // Whoever was here may not have told the kernel.
                match self.tx.is_empty() {
                    true => self.again.stop(),
                    false => self.again.now(),
                }
            }
        }
        true
    }

    /// What whoever was here before had committed and may not have done.
    pub(super) fn unfinished(&mut self) -> Option<Step> {
        let first = NOWHERE;
        let head = self.head;
        std::mem::take(&mut self.unfinished).then_some(Step { first, head })
    }

    /// Whether there is nothing to be done but to send, as far as a few loads
    /// can tell.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.again.due().is_none() && !self.side.is_unfinished()
    }

    /// Takes over the buffers to send from.
    pub(super) fn stock(&mut self, books: &Books, stock: Vec<u32>) {
        for buf in stock {
            books.put(&mut self.free, buf);
        }
        self.commit(NOWHERE);
    }

    /// What was put so far becomes valid, and the ring's head.
    pub(super) fn commit(&mut self, head: u32) {
        self.head = head;
        let (tx, done) = (self.tx.position(), self.done.position());
        let FreeList { begin, end } = self.free;
        self.side.commit([tx, done, begin, end, self.popped, head]);
        self.done.release();
        self.tx.publish();
    }

    /// Takes note of what has been sent.
    fn reap(&mut self, rest: Rest<'_>) -> Result<(), Trouble> {
        self.done.refresh().map_err(corrupt)?;
        while let Some(addr) = self.done.take() {
            // What the kernel has copied was free before.
            if !rest.traits.copies {
                self.free_again(rest, addr);
            }
        }
        Ok(())
    }

    fn free_again(&mut self, rest: Rest<'_>, addr: u64) {
        if let Some(buf) = rest.memory.umem().completed_buf(addr) {
            rest.books.put(&mut self.free, buf);
        }
    }

    /// Queues frame `i` of a batch.
    #[inline]
    fn put(&mut self, rest: Rest<'_>, pool: &BufPool, batch: &Batch, i: usize) -> Put {
        // The commonest: one piece, which the kernel knows.
        if let &[piece] = batch.chain(i)
            && self.room > 0
            && batch.frame_len(i) == piece.len as usize
            && piece.len as usize >= SHORTEST
            && rest.keeps(piece)
        {
            let whole = Frame {
                buf: piece.buf,
                offset: 0,
                len: piece.len,
                more: false,
            };
            // The kernel reads it when the whole batch is there. A frame that
            // is passed on comes from another core's cache.
            pool.bufs().prefetch(piece.buf);
            let desc = rest.memory.umem().tx_desc(whole);
            if desc.is_some_and(|desc| self.tx.put(desc)) {
                self.room -= 1;
                self.waiting += 1;
                return Put::Done;
            }
        }
        self.put_any(rest, pool, batch, i)
    }

    fn put_any(&mut self, rest: Rest<'_>, pool: &BufPool, batch: &Batch, i: usize) -> Put {
        let most = if rest.traits.several { MOST_PIECES } else { 1 };
        let longest = rest.memory.umem().sendable();
        // The kernel takes less at once than large buffers have.
        let parts = |piece: Piece| (0..piece.len).step_by(longest.max(1) as usize);
        let (mut pieces, mut copies) = (0, 0);
        for piece in batch.pieces(i) {
            pieces += parts(piece).len();
            copies += usize::from(!rest.keeps(piece)) * parts(piece).len();
        }
        if pieces > most || batch.frame_len(i) < SHORTEST {
            return Put::Refused;
        }
        if self.room < pieces || rest.books.count(self.free) < copies {
            return Put::Full;
        }
        let start = self.tx.position();
        let all = batch.pieces(i);
        let all = all.flat_map(|piece| parts(piece).map(move |at| (piece, at)));
        for (k, (piece, at)) in all.enumerate() {
            let part = Frame {
                buf: piece.buf,
                offset: piece.off + at,
                len: longest.min(piece.len - at),
                more: k + 1 < pieces,
            };
            let desc = match rest.keeps(piece) {
                true => rest.memory.umem().tx_desc(part),
                false => self.copied(rest, pool, part),
            };
            if !desc.is_some_and(|desc| self.tx.put(desc)) {
                // Others have spoilt the list of our own buffers. Part of a
                // frame must not go out: the next would be taken for its end.
                self.tx.seek(start);
                return Put::Refused;
            }
        }
        self.room -= pieces;
        self.waiting += 1;
        Put::Done
    }

    /// Copies a piece into a free buffer of ours.
    fn copied(&mut self, rest: Rest<'_>, pool: &BufPool, from: Frame) -> Option<Desc> {
        let ours = rest.books.first(self.free)?;
        self.free.begin = self.free.begin.wrapping_add(1);
        let to = Piece {
            buf: ours,
            off: 0,
            len: from.len,
        };
        rest.books.count_copy(Dir::Out);
        // Bytes that cannot be read stay what they were: nobody's secret.
        let _ = move_bytes(pool.bufs(), from, rest.memory.bufs(), to);
        let sent = Frame {
            buf: ours,
            offset: 0,
            ..from
        };
        rest.memory.umem().marked_tx_desc(sent)
    }

    /// How many of the frames that wait the kernel has taken.
    fn taken(&mut self, rest: Rest<'_>) -> Result<usize, Trouble> {
        let free = self.tx.refresh().map_err(corrupt)?;
        let left = match rest.traits.copies {
            true => self.tx.size() - free,
            false => 0, // they are copies, and free when they have been sent
        };
        self.room = free as usize;
        let end = self.tx.position().wrapping_sub(left);
        // Before the end, unless it was another's word and wrong.
        self.popped = within(end, self.popped, self.tx.size());
        let mut frames = 0;
        while self.popped != end {
            let desc = self.tx.entry(self.popped);
            self.popped = self.popped.wrapping_add(1);
            if desc.is_marked() && rest.traits.copies {
                self.free_again(rest, desc.addr);
            }
            frames += usize::from(!desc.more && !desc.is_void());
        }
        frames = frames.min(self.waiting);
        self.waiting -= frames;
        Ok(frames)
    }

    /// Has the kernel take what there is.
    fn kick(&mut self, rest: Rest<'_>) -> Result<(), Trouble> {
        let mut left = self.tx.size();
        let told = loop {
            if !self.tx.needs_wakeup() {
                break Ok(true);
            }
            let told = rest.socket.kick_tx();
            let free = self.tx.refresh().map_err(corrupt)?;
            let now = self.tx.size() - free;
            // A kernel that copies stops at each entry that was made void, and
            // at each frame that the device drops: nobody may come back soon.
            if now == 0 || now >= left || told.is_err() {
                break told.map(|all| now == 0 || (all && !rest.traits.copies));
            }
            left = now;
        };
        match told {
            Ok(true) => self.again.done(),
            Ok(false) => self.again.later(),
            Err(e) => {
                // Nobody asks again before there are other frames.
                self.again.stop();
                let trouble = trouble(&e);
                if trouble == Trouble::Down && rest.traits.copies {
                    self.give_up(rest);
                }
                return Err(trouble);
            }
        }
        Ok(())
    }

    /// The interface is down: what waits is lost, and must not be sent when it
    /// comes back, from buffers that have other contents then.
    fn give_up(&mut self, rest: Rest<'_>) {
        let (mut at, end) = (self.popped, self.tx.position());
        while at != end {
            let desc = self.tx.entry(at);
            if desc.is_marked() {
                self.free_again(rest, desc.addr);
            }
            self.tx.void(at);
            at = at.wrapping_add(1);
        }
        self.waiting = 0;
        self.commit(self.head);
    }

    pub(super) fn push(
        &mut self,
        rest: Rest<'_>,
        pool: &BufPool,
        batch: &Batch,
    ) -> Result<Pushed, Trouble> {
        let mut pushed = Pushed::default();
        self.reap(rest)?;
        pushed.done = self.taken(rest)?;
        // Those that went before wait no more, and are in front of the others.
        let mut i = pushed.done + self.waiting;
        loop {
            let mut put = Put::Done;
            while i < batch.len() {
                put = self.put(rest, pool, batch, i);
                match put {
                    Put::Done => i += 1,
                    _ => break,
                }
            }
            self.commit(self.head);
            if !self.tx.is_empty() {
                self.kick(rest)?;
            }
            pushed.done += self.taken(rest)?;
            // In their order: it is refused when those before it are gone.
            match put {
                Put::Refused if self.waiting == 0 => {
                    pushed.done += 1;
                    pushed.refused += 1;
                    i += 1;
                }
                _ => return Ok(pushed),
            }
        }
    }

    pub(super) fn poke(&mut self, rest: Rest<'_>) -> Result<(), Trouble> {
        if self.again.is_due() {
            self.kick(rest)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_claim_keeps_loops_within_the_ring() {
        const END: u32 = 5;
        for (claimed, found) in [
            (END, END),
            (END - 5, END - 5),
            (END.wrapping_sub(8), END.wrapping_sub(8)),
            (END.wrapping_sub(9), END),
            (END + 1, END),
            (u32::MAX / 2, END),
        ] {
            assert_eq!(within(END, claimed, 8), found, "{claimed}");
        }
    }
}

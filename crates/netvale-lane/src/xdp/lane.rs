//! One socket as a lane.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netvale_backends::af_xdp::{
    CompletionRing, Desc, FillRing, Frame, RingCorrupt, RxRing, TxRing, Xsk, XskSocket,
};
use netvale_backends::batch::{Batch, BufPool, MAX_PIECES, Piece};
use netvale_ring::Slot;
use netvale_ring::kring::KringId;
use netvale_shm::Bufs;

use super::{Memory, Traits};
use crate::books::{self, Books, Dir, Entry, FreeList, Side};
use crate::{DeviceLane, Losses, Pushed, Step, Trouble};

/// Frames received at once.
const AT_ONCE: usize = 256;
/// The shortest frame that can be sent: an Ethernet header.
const SHORTEST: usize = 14;
/// The most pieces of a frame that the kernel sends by copying.
const MOST_PIECES: usize = 17;
/// No frame that the kernel receives has so many.
const LONGEST_CHAIN: usize = 256;
/// How soon to ask again whether the kernel has room: the first time, and
/// after many.
const RETRY: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(2)];
/// Whoever makes a socket is alone with it until it is hooked up.
const MAKER: u16 = u16::MAX;
/// No position in a ring.
const NOWHERE: u32 = u32::MAX;

/// A queue's socket, in one direction or in both.
///
/// *Receiving*: frames come into buffers of the ring's stock. A frame's buffer
/// and a slot's change places, whatever the frame's length.
///
/// *Sending*: a kernel that copies has copied a frame when it has taken its
/// descriptor. So slots keep their buffers, as programs of netmap expect it,
/// and are given back then. Where that does not hold ([`Traits::copies`])
/// frames are sent from buffers of the stock.
///
/// Buffers that the kernel does not know are copied, in both directions.
#[derive(Debug)]
pub struct XdpLane {
    socket: Arc<XskSocket>,
    memory: Memory,
    /// The ring whose stock it has.
    kring: KringId,
    traits: Traits,
    books: Books,
    inward: Option<Inward>,
    outward: Option<Outward>,
}

#[derive(Debug)]
struct Inward {
    side: Side,
    rx: RxRing,
    fill: FillRing,
    /// Slots that whoever was here before may not have filled: the first, how
    /// many, and the ring's head after them.
    unfinished: Option<[u32; 3]>,
    frame: Vec<Frame>,
}

#[derive(Debug)]
struct Outward {
    side: Side,
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
    retry: Option<Instant>,
    pause: Duration,
}

/// What fits into a ring.
enum Put {
    Done,
    /// Not now.
    Full,
    /// Never.
    Refused,
}

impl XdpLane {
    /// Serves a socket that nobody has used yet, with a stock of buffers of
    /// `memory`, of which as many as fit are lent to the kernel, up to three
    /// quarters.
    pub(super) fn begin(
        xsk: Xsk,
        memory: &Memory,
        kring: KringId,
        mut stock: Vec<u32>,
        (traits, books): (Traits, Books),
    ) -> Result<Self, String> {
        let mut lane = Self::of(xsk, memory, kring, traits, books)?;
        lane.name(MAKER);
        // Others would be lost in the fill ring.
        stock.retain(|&b| traits.reaches(memory, b));
        if let Some(inward) = &mut lane.inward {
            inward.enter();
            let n = inward.fill.refresh().map_err(|e| e.to_string())? as usize;
            // Some of the ring stays free: the kernel shows frames before it
            // shows that it has taken their buffers.
            let keep = stock.len() - (n - n / 8).min(stock.len() / 4 * 3);
            for buf in stock.drain(keep..) {
                inward.lend(memory, buf);
            }
            inward.commit([NOWHERE, 0, 0], &lane.socket)?;
            inward.side.leave();
        }
        if let Some(outward) = &mut lane.outward {
            outward.enter();
            for buf in stock {
                lane.books.put(&mut outward.free, buf);
            }
            outward.head = NOWHERE;
            outward.commit();
            outward.side.leave();
        }
        Ok(lane)
    }

    /// Serves a socket that is, or was, in use.
    pub(super) fn of(
        xsk: Xsk,
        memory: &Memory,
        kring: KringId,
        traits: Traits,
        books: Books,
    ) -> Result<Self, String> {
        let side = |dir| books.side(dir).ok_or("no room for books");
        let (Some(rx), Some(fill), Some(tx), Some(done)) =
            (xsk.rx, xsk.fill, xsk.tx, xsk.completion)
        else {
            return Err("a socket without rings".into());
        };
        Ok(Self {
            socket: xsk.socket,
            memory: memory.clone(),
            kring,
            traits,
            inward: Some(Inward {
                side: side(Dir::In)?,
                rx,
                fill,
                unfinished: None,
                frame: Vec::with_capacity(MAX_PIECES),
            }),
            outward: Some(Outward {
                side: side(Dir::Out)?,
                tx,
                done,
                free: FreeList::default(),
                popped: 0,
                room: 0,
                waiting: 0,
                head: NOWHERE,
                unfinished: false,
                retry: None,
                pause: RETRY[0],
            }),
            books,
        })
    }

    /// Two lanes, one for each direction.
    pub(super) fn split(self) -> [Self; 2] {
        let share = |inward, outward| Self {
            socket: Arc::clone(&self.socket),
            memory: self.memory.clone(),
            kring: self.kring,
            traits: self.traits,
            books: self.books.clone(),
            inward,
            outward,
        };
        [share(self.inward, None), share(None, self.outward)]
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Arc<XskSocket> {
        &self.socket
    }

    /// The outward direction, and what it needs of the rest.
    fn out(&mut self) -> Option<(&mut Outward, Rest<'_>)> {
        let rest = Rest {
            socket: &self.socket,
            memory: &self.memory,
            books: &self.books,
            traits: self.traits,
        };
        Some((self.outward.as_mut()?, rest))
    }
}

/// What the outward direction does not have to itself.
#[derive(Clone, Copy)]
struct Rest<'a> {
    socket: &'a XskSocket,
    memory: &'a Memory,
    books: &'a Books,
    traits: Traits,
}

impl Rest<'_> {
    /// Whether the kernel can send a piece from where it is, and has copied it
    /// when it has taken it.
    fn keeps(&self, piece: Piece) -> bool {
        self.traits.copies
            && self.memory.is_in_place()
            && piece.off == 0
            && self.traits.reaches(self.memory, piece.buf)
    }
}

impl Inward {
    fn enter(&mut self) -> bool {
        match self.side.enter() {
            Entry::Taken => return false,
            Entry::Again => {}
            Entry::After([rx, fill, first, n, head, _]) => {
                self.rx.seek(rx);
                self.fill.seek(fill);
                self.rx.release();
                self.fill.publish();
                self.unfinished = (first != NOWHERE).then_some([first, n, head]);
            }
        }
        true
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
                self.rx.seek(start);
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

    /// What was taken and lent so far becomes valid.
    fn commit(&mut self, [first, n, head]: [u32; 3], socket: &XskSocket) -> Result<(), String> {
        let (rx, fill) = (self.rx.position(), self.fill.position());
        self.side.commit([rx, fill, first, n, head, 0]);
        self.rx.release();
        self.fill.publish();
        if self.fill.needs_wakeup() {
            // `false` asks for another time, which the next frame brings.
            match socket.kick_rx() {
                Err(e) if trouble(&e) != Trouble::Down => return Err(e.to_string()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Outward {
    fn enter(&mut self) -> bool {
        match self.side.enter() {
            Entry::Taken => return false,
            Entry::Again => {}
            Entry::After([tx, done, begin, end, popped, head]) => {
                self.tx.seek(tx);
                self.done.seek(done);
                self.free = FreeList { begin, end };
                (self.popped, self.head) = (popped, head);
                self.done.release();
                self.tx.publish();
                let entries = (0..tx.wrapping_sub(popped).min(self.tx.size()))
                    .map(|i| self.tx.entry(popped.wrapping_add(i)));
                self.waiting = entries.filter(|d| !d.more && !d.is_void()).count();
                self.unfinished = head != NOWHERE;
                // Whoever was here may not have told the kernel.
                self.retry = (!self.tx.is_empty()).then(Instant::now);
            }
        }
        true
    }

    fn commit(&mut self) {
        let (tx, done) = (self.tx.position(), self.done.position());
        let FreeList { begin, end } = self.free;
        self.side
            .commit([tx, done, begin, end, self.popped, self.head]);
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
    fn put(&mut self, rest: Rest<'_>, pool: &BufPool, batch: &Batch, i: usize) -> Put {
        let most = if rest.traits.several { MOST_PIECES } else { 1 };
        let longest = rest.memory.umem().sendable();
        let (mut pieces, mut copies, mut fits) = (0, 0, true);
        for piece in batch.pieces(i) {
            pieces += 1;
            copies += usize::from(!rest.keeps(piece));
            fits &= piece.len <= longest;
        }
        if pieces > most || !fits || batch.frame_len(i) < SHORTEST {
            return Put::Refused;
        }
        if self.room < pieces || rest.books.count(self.free) < copies {
            return Put::Full;
        }
        for (k, piece) in batch.pieces(i).enumerate() {
            let frame = Frame {
                buf: piece.buf,
                offset: 0,
                len: piece.len,
                more: k + 1 < pieces,
            };
            let desc = match rest.keeps(piece) {
                true => rest.memory.umem().tx_desc(frame),
                false => self.copied(rest, pool, piece, frame),
            };
            if let Some(desc) = desc {
                self.room -= usize::from(self.tx.put(desc));
            }
        }
        self.waiting += 1;
        Put::Done
    }

    /// Copies a piece into a free buffer of ours.
    fn copied(
        &mut self,
        rest: Rest<'_>,
        pool: &BufPool,
        piece: Piece,
        frame: Frame,
    ) -> Option<Desc> {
        let ours = rest.books.first(self.free)?;
        self.free.begin = self.free.begin.wrapping_add(1);
        let from = Frame {
            offset: piece.off,
            ..frame
        };
        let to = Piece {
            buf: ours,
            off: 0,
            len: piece.len,
        };
        rest.books.count_copy(Dir::Out);
        // Bytes that cannot be read stay what they were: nobody's secret.
        let _ = move_bytes(pool.bufs(), from, rest.memory.bufs(), to);
        let sent = Frame { buf: ours, ..frame };
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
            Ok(true) => {
                self.retry = None;
                self.pause = RETRY[0];
                Ok(())
            }
            Ok(false) => {
                self.retry = Some(Instant::now() + self.pause);
                self.pause = (self.pause * 2).min(RETRY[1]);
                Ok(())
            }
            Err(e) => {
                // Nobody asks again before there are other frames.
                self.retry = None;
                let trouble = trouble(&e);
                if trouble == Trouble::Down && rest.traits.copies {
                    self.give_up(rest);
                }
                Err(trouble)
            }
        }
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
        self.commit();
    }
}

impl DeviceLane for XdpLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn longest(&self) -> usize {
        self.traits.longest
    }

    fn name(&mut self, owner: u16) {
        if let Some(inward) = &mut self.inward {
            inward.side.name(owner);
        }
        if let Some(outward) = &mut self.outward {
            outward.side.name(owner);
        }
    }

    fn enter(&mut self, dir: Dir) -> Result<bool, Trouble> {
        if self.books.is_closed() {
            return Err(Trouble::Gone("the server has closed it".into()));
        }
        Ok(match dir {
            Dir::In => self.inward.as_mut().is_some_and(Inward::enter),
            Dir::Out => self.outward.as_mut().is_some_and(Outward::enter),
        })
    }

    fn unfinished(&mut self, dir: Dir, slots: &mut Vec<Slot>) -> Option<Step> {
        match (dir, &mut self.inward, &mut self.outward) {
            (Dir::In, Some(inward), _) => {
                let [first, n, head] = inward.unfinished.take()?;
                slots.clear();
                slots.extend(self.books.noted(n));
                Some(Step { first, head })
            }
            (Dir::Out, _, Some(out)) if out.unfinished => {
                out.unfinished = false;
                slots.clear();
                Some(Step {
                    first: NOWHERE,
                    head: out.head,
                })
            }
            _ => None,
        }
    }

    fn commit(&mut self, dir: Dir, step: Step, slots: &[Slot]) -> Result<(), Trouble> {
        match (dir, &mut self.inward, &mut self.outward) {
            (Dir::In, Some(inward), _) => {
                self.books.note(slots);
                let n = u32::try_from(slots.len()).unwrap_or(0);
                let done = inward.commit([step.first, n, step.head], &self.socket);
                done.map_err(Trouble::Gone)
            }
            (Dir::Out, _, Some(out)) => {
                out.head = step.head;
                out.commit();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn leave(&mut self, dir: Dir) {
        match (dir, &self.inward, &self.outward) {
            (Dir::In, Some(inward), _) => inward.side.leave(),
            (Dir::Out, _, Some(outward)) => outward.side.leave(),
            _ => {}
        }
    }

    fn is_idle(&self, dir: Dir) -> bool {
        match (dir, &self.inward, &self.outward) {
            (Dir::In, Some(inward), _) => inward.rx.is_empty() && !inward.side.is_unfinished(),
            (Dir::Out, _, Some(out)) => out.retry.is_none() && !out.side.is_unfinished(),
            _ => true,
        }
    }

    fn losses(&self) -> Option<Losses> {
        Losses::at(self.books.mem(), books::LOSSES)
    }

    fn may_be_unfinished(&self) -> bool {
        // The kernel copies for interfaces that are no hardware, too, and says
        // nothing of checksums.
        !self.traits.zero_copy
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        let Some(inward) = &mut self.inward else {
            return Ok(0);
        };
        inward.rx.refresh().map_err(corrupt)?;
        inward.fill.refresh().map_err(corrupt)?;
        let exchange = self.memory.exchange(self.kring);
        let mut pieces = [Piece {
            buf: 0,
            off: 0,
            len: 0,
        }; MAX_PIECES];
        let mut used = 0;
        while batch.len() < AT_ONCE && used < free.len() {
            let start = inward.rx.position();
            if !inward.next(&self.memory)? {
                break;
            }
            let n = inward.frame.len();
            let slots = free.get(used..used + n).filter(|_| n <= MAX_PIECES);
            let Some(slots) = slots else {
                if used > 0 {
                    inward.rx.seek(start);
                    break; // the next time
                }
                // No ring of this size can have it.
                for i in 0..n {
                    let buf = inward.frame.get(i).map_or(0, |f| f.buf);
                    inward.lend(&self.memory, buf);
                }
                batch.push_buf(free.first().map_or(0, |p| p.buf), 0);
                batch.set_len(0, 0, true);
                used += 1;
                continue;
            };
            let mut good = true;
            for (i, slot) in slots.iter().enumerate() {
                let Some(&frame) = inward.frame.get(i) else {
                    break;
                };
                let swapped = frame.offset == 0
                    && self.traits.reaches(&self.memory, slot.buf)
                    && exchange
                        .as_ref()
                        .is_some_and(|x| x.swap(slot.buf, frame.buf));
                let (buf, back) = match swapped {
                    true => (frame.buf, slot.buf),
                    false => {
                        self.books.count_copy(Dir::In);
                        good &= move_bytes(self.memory.bufs(), frame, pool.bufs(), *slot);
                        (slot.buf, frame.buf)
                    }
                };
                inward.lend(&self.memory, back);
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
        Ok(batch.len())
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let mut pushed = Pushed::default();
        let Some((out, rest)) = self.out() else {
            return Ok(pushed);
        };
        out.reap(rest)?;
        pushed.done = out.taken(rest)?;
        // Those that went before wait no more, and are in front of the others.
        let mut i = pushed.done + out.waiting;
        loop {
            let mut put = Put::Done;
            while i < batch.len() {
                put = out.put(rest, pool, batch, i);
                match put {
                    Put::Done => i += 1,
                    _ => break,
                }
            }
            out.commit();
            if !out.tx.is_empty() {
                out.kick(rest)?;
            }
            pushed.done += out.taken(rest)?;
            // In their order: it is refused when those before it are gone.
            match put {
                Put::Refused if out.waiting == 0 => {
                    pushed.done += 1;
                    pushed.refused += 1;
                    i += 1;
                }
                _ => return Ok(pushed),
            }
        }
    }

    fn poke(&mut self) -> Result<(), Trouble> {
        match self.out() {
            Some((out, rest)) if out.retry.is_some_and(|at| at <= Instant::now()) => out.kick(rest),
            _ => Ok(()),
        }
    }

    fn due(&self) -> Option<Instant> {
        self.outward.as_ref().and_then(|o| o.retry)
    }
}

/// Copies a piece of a frame between two pools; whether it could be.
fn move_bytes(from: Bufs<'_>, frame: Frame, into: Bufs<'_>, to: Piece) -> bool {
    let (len, offset) = (frame.len as usize, frame.offset as usize);
    if frame.len > to.len {
        return false;
    }
    if offset == 0 && to.off == 0 {
        return into.copy_from(to.buf, from, frame.buf, len);
    }
    let mut bytes = vec![0; len];
    from.read(frame.buf, offset, &mut bytes) && into.write(to.buf, to.off as usize, &bytes)
}

fn corrupt(e: RingCorrupt) -> Trouble {
    Trouble::Gone(e.to_string())
}

fn trouble(e: &std::io::Error) -> Trouble {
    const ENETDOWN: i32 = 100;
    match e.raw_os_error() {
        Some(ENETDOWN) => Trouble::Down,
        _ => Trouble::Gone(format!("AF_XDP: {e}")),
    }
}

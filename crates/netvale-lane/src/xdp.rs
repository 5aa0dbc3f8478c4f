//! AF_XDP sockets of an interface.
//!
//! Registering memory pins all of it, and the shared region is sparse and
//! larger than what may be pinned; also its buffers wander between ports. So
//! each socket has a small pool of its own, and a frame is copied once between
//! that and a slot's buffer: the kernel's copy before it costs ten times that.
//!
//! A socket can be used by several processes in turn: whoever made it hands
//! over its descriptor, the pool and the books ([`HandOver`]); each maps them
//! and makes lanes of its own ([`take_over`]). The frames to receive into and
//! those to send from are two sets, because the two directions are used by
//! different threads or processes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use netvale_backends::af_xdp::{
    BufLayout, CompletionRing, CopyMode, FillRing, Frame, Redirect, RingSizes, RxRing, TxRing,
    Umem, Xsk, XskConfig, XskSocket,
};
use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::bpf::XdpMode;
use netvale_shm::{HugePages, Mem, Memfd, Pool};

use crate::books::{self, Books, Dir, Entry, FreeList, Side};
use crate::{DeviceLane, Losses, Pushed, Trouble, chain};

/// Entries of each ring, and frames in each direction.
const ENTRIES: u32 = 2048;
/// Bytes of a frame: as in regions.
const FRAME: u32 = 2112;
/// Where the first frame is; the kernel wants room before it.
const FIRST: usize = 4096;
/// Longest packet without Ethernet header and VLAN tags that fits.
pub const LONGEST_MTU: u32 = FRAME - 26;
/// Frames received at once.
const AT_ONCE: u32 = 256;
/// Whoever makes a socket is alone with it until it is hooked up.
const MAKER: u16 = u16::MAX;

/// The sockets of all queues of an interface.
#[derive(Debug)]
pub struct Sockets {
    /// One for each queue.
    pub lanes: Vec<Box<dyn DeviceLane>>,
    /// What others need to use them, by queue.
    pub hand_overs: Vec<HandOver>,
}

impl Sockets {
    /// Opens them; nothing is received yet.
    ///
    /// # Errors
    ///
    /// Why not; nothing is left behind.
    pub fn open(index: u32, queues: u32) -> Result<Self, String> {
        let mut all = Self {
            lanes: Vec::new(),
            hand_overs: Vec::new(),
        };
        for queue in 0..queues {
            let (lane, hand_over) = XdpLane::open(index, queue)?;
            all.lanes.push(Box::new(lane));
            all.hand_overs.push(hand_over);
        }
        Ok(all)
    }
}

/// Has the frames of an interface's queues go to these sockets, until it is
/// dropped.
///
/// # Errors
///
/// The kernel's: there is another program, for one.
pub fn redirect(index: u32, sockets: &[HandOver]) -> Result<Redirect, String> {
    let queues = u32::try_from(sockets.len()).unwrap_or(u32::MAX);
    let redirect = Redirect::attach(index, queues, XdpMode::Native).map_err(|e| chain(&e))?;
    for (queue, socket) in (0..).zip(sockets) {
        let connected = redirect.connect(queue, &socket.socket);
        connected.map_err(|e| chain(&e))?;
    }
    Ok(redirect)
}

/// What it takes to use a socket that another process has made.
#[derive(Debug)]
pub struct HandOver {
    socket: Arc<XskSocket>,
    books: Books,
    books_file: Memfd,
    pool_file: Memfd,
}

/// Sizes that go with the descriptors of a [`HandOver`]: entries of each ring,
/// bytes of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of each of the socket's rings.
    pub entries: u32,
    /// Bytes of the file with the frames.
    pub pool: u64,
}

impl HandOver {
    /// The sizes, which have to be told with the descriptors.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            entries: ENTRIES,
            pool: self.pool_file.len() as u64,
        }
    }

    /// What to pass on: the socket, the books, the frames.
    #[must_use]
    pub fn files(&self) -> [BorrowedFd<'_>; 3] {
        let (socket, books) = (self.socket.as_fd(), self.books_file.as_fd());
        [socket, books, self.pool_file.as_fd()]
    }

    /// Lets go of what a registration held when it ended.
    pub fn break_locks(&self, owner: u16) -> usize {
        self.books.break_locks(owner)
    }

    /// Frames lost by all who used the socket.
    #[must_use]
    pub fn losses(&self) -> Losses {
        Losses::at(self.books.mem(), books::LOSSES).unwrap_or_default()
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        self.books.close();
    }
}

/// Lanes of this process for a socket that another has made, one for each
/// direction. `files` are those of [`HandOver::files`].
///
/// # Errors
///
/// They are not what they should be.
pub fn take_over(sizes: Sizes, files: [OwnedFd; 3]) -> Result<[XdpLane; 2], String> {
    let [socket, books, pool] = files;
    let count = 2 * ENTRIES;
    if sizes.entries != ENTRIES || sizes.pool != pool_len(count) as u64 {
        return Err(format!("sockets of another kind: {sizes:?}"));
    }
    let map = |fd, len| Memfd::from_fd(fd, len).and_then(|f| f.map());
    let books = map(books, Books::len(count)).map_err(|e| chain(&e))?;
    let books = Books::at(books, count).ok_or("no room for books")?;
    let mem = map(pool, pool_len(count)).map_err(|e| chain(&e))?;
    let xsk = Xsk::from_fd(socket, RingSizes::all(ENTRIES)).map_err(|e| chain(&e))?;
    let whole = XdpLane::of(xsk, mem, books)?;
    let (mut inward, mut outward) = (whole.share(), whole.share());
    (inward.inward, outward.outward) = (whole.inward, whole.outward);
    Ok([inward, outward])
}

fn pool_len(count: u32) -> usize {
    (FIRST + count as usize * FRAME as usize).next_multiple_of(4096)
}

/// A queue's socket, in one direction or in both.
#[derive(Debug)]
pub struct XdpLane {
    socket: Arc<XskSocket>,
    umem: Umem,
    frames: Pool,
    books: Books,
    inward: Option<Inward>,
    outward: Option<Outward>,
}

#[derive(Debug)]
struct Inward {
    side: Side,
    rx: RxRing,
    fill: FillRing,
}

#[derive(Debug)]
struct Outward {
    side: Side,
    tx: TxRing,
    done: CompletionRing,
    /// Frames that the kernel does not have.
    free: FreeList,
    /// To be told once more that there are frames to send.
    kick: bool,
}

impl XdpLane {
    fn open(index: u32, queue: u32) -> Result<(Self, HandOver), String> {
        let count = 2 * ENTRIES;
        let pool_file = Memfd::create("netvale-xdp", pool_len(count), HugePages::Never);
        let pool_file = pool_file.map_err(|e| chain(&e))?;
        let mem = pool_file.map().map_err(|e| chain(&e))?;
        let (books, books_file) = Books::create(count).map_err(|e| chain(&e))?;
        let config = XskConfig {
            sizes: RingSizes::all(ENTRIES),
            copy: CopyMode::Copy,
            tx_budget: Some(ENTRIES),
            ..XskConfig::default()
        };
        let umem = umem(mem.clone())?;
        let xsk = Xsk::open(&umem, index, queue, &config).map_err(|e| chain(&e))?;
        let mut lane = Self::of(xsk, mem, books)?;
        lane.begin()?;
        let hand_over = HandOver {
            socket: Arc::clone(&lane.socket),
            books: lane.books.clone(),
            books_file,
            pool_file,
        };
        Ok((lane, hand_over))
    }

    fn of(xsk: Xsk, mem: Mem, books: Books) -> Result<Self, String> {
        let frames = mem.pool(FIRST, 2 * ENTRIES, FRAME);
        let side = |dir| books.side(dir).ok_or("no room for books");
        let (Some(rx), Some(fill), Some(tx), Some(done)) =
            (xsk.rx, xsk.fill, xsk.tx, xsk.completion)
        else {
            return Err("a socket without rings".into());
        };
        Ok(Self {
            socket: xsk.socket,
            umem: umem(mem)?,
            frames: frames.ok_or("no room for frames")?,
            inward: Some(Inward {
                side: side(Dir::In)?,
                rx,
                fill,
            }),
            outward: Some(Outward {
                side: side(Dir::Out)?,
                tx,
                done,
                free: FreeList::default(),
                kick: false,
            }),
            books,
        })
    }

    /// The same socket, for neither direction.
    fn share(&self) -> Self {
        Self {
            socket: Arc::clone(&self.socket),
            umem: self.umem.clone(),
            frames: self.frames.clone(),
            books: self.books.clone(),
            inward: None,
            outward: None,
        }
    }

    /// Lends one half of the frames to the kernel, to receive into; the others
    /// are free to be sent from.
    fn begin(&mut self) -> Result<(), String> {
        self.name(MAKER);
        if let Some(inward) = &mut self.inward {
            inward.enter();
            inward.fill.refresh().map_err(|e| chain(&e))?;
            for frame in 0..ENTRIES {
                inward.lend(&self.umem, frame);
            }
            inward.commit(&self.socket).map_err(|e| e.to_string())?;
            inward.side.leave();
        }
        if let Some(outward) = &mut self.outward {
            outward.enter();
            for frame in ENTRIES..2 * ENTRIES {
                self.books.put(&mut outward.free, frame);
            }
            outward.commit();
            outward.side.leave();
        }
        Ok(())
    }
}

fn umem(mem: Mem) -> Result<Umem, String> {
    let layout = BufLayout {
        first: FIRST as u64,
        stride: FRAME,
        count: 2 * ENTRIES,
        usable: FRAME,
        huge: false,
    };
    Umem::new(mem, layout).map_err(|e| chain(&e))
}

impl Inward {
    fn enter(&mut self) -> bool {
        match self.side.enter() {
            Entry::Taken => return false,
            Entry::Again => {}
            Entry::After([rx, fill, ..]) => {
                self.rx.seek(rx);
                self.fill.seek(fill);
                self.rx.release();
                self.fill.publish();
            }
        }
        true
    }

    /// Lends a frame to the kernel, to receive into.
    fn lend(&mut self, umem: &Umem, frame: u32) {
        // The ring has an entry for each of these frames.
        let _ = umem.fill_addr(frame).map(|addr| self.fill.put(addr));
    }

    /// What was taken and lent so far becomes valid.
    fn commit(&mut self, socket: &XskSocket) -> std::io::Result<()> {
        let (rx, fill) = (self.rx.position(), self.fill.position());
        self.side.commit([rx, fill, 0, 0]);
        self.rx.release();
        self.fill.publish();
        if self.fill.needs_wakeup() {
            // `false` asks for another time, which the next frame brings.
            socket.kick_rx()?;
        }
        Ok(())
    }
}

impl Outward {
    fn enter(&mut self) -> bool {
        match self.side.enter() {
            Entry::Taken => return false,
            Entry::Again => {}
            Entry::After([tx, done, begin, end]) => {
                self.tx.seek(tx);
                self.done.seek(done);
                self.free = FreeList { begin, end };
                self.done.release();
                self.tx.publish();
                // Whoever was here may not have told the kernel.
                self.kick = !self.tx.is_empty();
            }
        }
        true
    }

    fn commit(&mut self) {
        let (tx, done) = (self.tx.position(), self.done.position());
        self.side.commit([tx, done, self.free.begin, self.free.end]);
        self.done.release();
        self.tx.publish();
    }

    /// Takes back frames that have been sent.
    fn reap(&mut self, umem: &Umem, books: &Books) -> Result<(), Trouble> {
        let done = self.done.refresh();
        done.map_err(|e| Trouble::Gone(e.to_string()))?;
        while let Some(addr) = self.done.take() {
            if let Some(frame) = umem.completed_buf(addr) {
                books.put(&mut self.free, frame);
            }
        }
        Ok(())
    }

    fn kick(&mut self, socket: &XskSocket) -> Result<(), Trouble> {
        // After an error nobody asks again before there are other frames.
        self.kick = false;
        self.kick = !socket.kick_tx().map_err(|e| trouble(&e))?;
        Ok(())
    }
}

impl DeviceLane for XdpLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn longest(&self) -> usize {
        FRAME as usize
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

    fn leave(&mut self, dir: Dir) {
        match (dir, &self.inward, &self.outward) {
            (Dir::In, Some(inward), _) => inward.side.leave(),
            (Dir::Out, _, Some(outward)) => outward.side.leave(),
            _ => {}
        }
    }

    fn is_idle(&self, dir: Dir) -> bool {
        match (dir, &self.inward, &self.outward) {
            (Dir::In, Some(inward), _) => inward.rx.is_empty(),
            (Dir::Out, _, Some(outward)) => !outward.kick,
            _ => true,
        }
    }

    fn losses(&self) -> Option<Losses> {
        Losses::at(self.books.mem(), books::LOSSES)
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
        let corrupt = |e: netvale_backends::af_xdp::RingCorrupt| Trouble::Gone(e.to_string());
        let there = inward.rx.refresh().map_err(corrupt)?;
        inward.fill.refresh().map_err(corrupt)?;
        for piece in free.iter().take(there.min(AT_ONCE) as usize) {
            let Some(desc) = inward.rx.take() else { break };
            let Some(frame) = self.umem.locate(desc) else {
                return Err(Trouble::Gone("a descriptor outside the memory".into()));
            };
            // The driver's own headroom would move it; then it is not ours.
            let whole = frame.offset == 0 && !frame.more && frame.len <= piece.len;
            let (len, from) = (frame.len as usize, self.frames.bufs());
            if whole && pool.bufs().copy_from(piece.buf, from, frame.buf, len) {
                batch.push_buf(piece.buf, frame.len);
            } else {
                batch.push_buf(piece.buf, 0);
            }
            inward.lend(&self.umem, frame.buf);
        }
        if batch.len() > 0 {
            let told = inward.commit(&self.socket);
            told.map_err(|e| Trouble::Gone(e.to_string()))?;
        }
        Ok(batch.len())
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let Some(outward) = &mut self.outward else {
            return Ok(Pushed::default());
        };
        outward.reap(&self.umem, &self.books)?;
        let room = outward.tx.refresh();
        let mut room = room.map_err(|e| Trouble::Gone(e.to_string()))?;
        let mut pushed = Pushed::default();
        for i in 0..batch.len() {
            let Some(frame) = self.books.first(outward.free).filter(|_| room > 0) else {
                break;
            };
            match desc(&self.umem, &self.frames, frame, (pool, batch, i)) {
                Some(desc) if outward.tx.put(desc) => {
                    outward.free.begin = outward.free.begin.wrapping_add(1);
                    room -= 1;
                }
                _ => pushed.refused += 1,
            }
            pushed.done += 1;
        }
        outward.commit();
        if pushed.done > 0 || outward.kick {
            outward.kick(&self.socket)?;
        }
        Ok(pushed)
    }

    fn poke(&mut self) -> Result<(), Trouble> {
        match &mut self.outward {
            Some(outward) if outward.kick => outward.kick(&self.socket),
            _ => Ok(()),
        }
    }

    fn due(&self) -> Option<std::time::Instant> {
        // The kernel had no room: again, and soon.
        let kick = self.outward.as_ref().is_some_and(|o| o.kick);
        kick.then(std::time::Instant::now)
    }
}

/// Copies frame `i` of a batch into one of ours: what sends it, if it can be
/// sent.
fn desc(
    umem: &Umem,
    frames: &Pool,
    frame: u32,
    (pool, batch, i): (&BufPool, &Batch, usize),
) -> Option<netvale_backends::af_xdp::Desc> {
    let len = batch.frame_len(i);
    let mut pieces = batch.pieces(i);
    // Longer than the interface takes, or no frame.
    let (Some(piece), None) = (pieces.next(), pieces.next()) else {
        return None;
    };
    let copied = frames.bufs().copy_from(frame, pool.bufs(), piece.buf, len);
    let desc = umem.tx_desc(Frame {
        buf: frame,
        offset: 0,
        len: piece.len,
        more: false,
    });
    desc.filter(|_| copied && len >= 14)
}

fn trouble(e: &std::io::Error) -> Trouble {
    const ENETDOWN: i32 = 100;
    match e.raw_os_error() {
        Some(ENETDOWN) => Trouble::Down,
        _ => Trouble::Gone(format!("AF_XDP: {e}")),
    }
}

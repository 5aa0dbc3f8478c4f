//! One socket as a lane.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use netvale_backends::af_xdp::{Frame, RingCorrupt, Xsk, XskSocket};
use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_ring::Slot;
use netvale_ring::kring::KringId;
use netvale_shm::Bufs;

use super::inward::{self, Inward};
use super::outward::{Outward, Rest};
use super::suspicion::Suspicion;
use super::{Memory, Traits};
use crate::books::{self, Books, Dir};
use crate::{DeviceLane, Losses, Pushed, Step, Trouble};

/// Whoever makes a socket is alone with it until it is hooked up.
const MAKER: u16 = u16::MAX;
/// No position in a ring.
pub(super) const NOWHERE: u32 = u32::MAX;

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

impl XdpLane {
    /// Serves a socket that nobody has used yet, with a stock of buffers of
    /// `memory`, of which as many as fit are lent to the kernel, up to three
    /// quarters.
    pub(super) fn begin(
        xsk: Xsk,
        memory: &Memory,
        kring: KringId,
        mut stock: Vec<u32>,
        gear: (Traits, Books, Suspicion),
    ) -> Result<Self, String> {
        let traits = gear.0;
        let mut lane = Self::of(xsk, memory, kring, gear)?;
        lane.name(MAKER);
        // Others would be lost in the fill ring.
        stock.retain(|&b| traits.reaches(memory, b));
        if let Some((inward, shared)) = lane.inward() {
            inward.enter();
            inward.stock(shared, &mut stock)?;
            inward.side.leave();
        }
        if let Some((outward, rest)) = lane.outward() {
            outward.enter();
            outward.stock(rest.books, stock);
            outward.side.leave();
        }
        Ok(lane)
    }

    /// Serves a socket that is, or was, in use.
    pub(super) fn of(
        xsk: Xsk,
        memory: &Memory,
        kring: KringId,
        (traits, books, suspicion): (Traits, Books, Suspicion),
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
            inward: Some(Inward::new(side(Dir::In)?, rx, fill, suspicion)),
            outward: Some(Outward::new(side(Dir::Out)?, tx, done)),
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

    /// The inward direction, and what it needs of the rest.
    #[inline]
    fn inward(&mut self) -> Option<(&mut Inward, inward::Shared<'_>)> {
        let shared = inward::Shared {
            socket: &self.socket,
            memory: &self.memory,
            books: &self.books,
            traits: self.traits,
            kring: self.kring,
        };
        Some((self.inward.as_mut()?, shared))
    }

    /// The outward direction, and what it needs of the rest.
    #[inline]
    fn outward(&mut self) -> Option<(&mut Outward, Rest<'_>)> {
        let rest = Rest {
            socket: &self.socket,
            memory: &self.memory,
            books: &self.books,
            traits: self.traits,
        };
        Some((self.outward.as_mut()?, rest))
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
                let (step, n) = inward.unfinished()?;
                slots.clear();
                slots.extend(self.books.noted(&inward.side, n));
                Some(step)
            }
            (Dir::Out, _, Some(outward)) => {
                let step = outward.unfinished()?;
                slots.clear();
                Some(step)
            }
            _ => None,
        }
    }

    fn commit(&mut self, dir: Dir, step: Step, slots: &[Slot]) -> Result<(), Trouble> {
        match (dir, &mut self.inward, &mut self.outward) {
            (Dir::In, Some(inward), _) => {
                self.books.note(&inward.side, slots);
                let n = u32::try_from(slots.len()).unwrap_or(0);
                let done = inward.commit([step.first, n, step.head], &self.socket);
                done.map_err(Trouble::Gone)
            }
            (Dir::Out, _, Some(outward)) => {
                outward.commit(step.head);
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
            (Dir::In, Some(inward), _) => inward.is_idle(),
            (Dir::Out, _, Some(outward)) => outward.is_idle(),
            _ => true,
        }
    }

    fn losses(&self) -> Option<Losses> {
        Losses::at(self.books.mem(), books::LOSSES)
    }

    fn may_be_unfinished(&self) -> bool {
        self.inward.as_ref().is_some_and(|inward| inward.looks)
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        match self.inward() {
            Some((inward, shared)) => inward.pull(shared, pool, free, batch),
            None => Ok(0),
        }
    }

    fn slots(&self) -> Option<usize> {
        self.inward.as_ref().map(Inward::slots)
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        match self.outward() {
            Some((outward, rest)) => outward.push(rest, pool, batch),
            None => Ok(Pushed::default()),
        }
    }

    fn poke(&mut self) -> Result<(), Trouble> {
        match self.outward() {
            Some((outward, rest)) => outward.poke(rest),
            None => Ok(()),
        }
    }

    fn due(&self) -> Option<Instant> {
        let inward = self.inward.as_ref().and_then(|i| i.again.due());
        let outward = self.outward.as_ref().and_then(|o| o.again.due());
        inward.into_iter().chain(outward).min()
    }
}

/// Copies a piece of a frame between two pools; whether it could be.
pub(super) fn move_bytes(from: Bufs<'_>, frame: Frame, into: Bufs<'_>, to: Piece) -> bool {
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

pub(super) fn corrupt(e: RingCorrupt) -> Trouble {
    Trouble::Gone(e.to_string())
}

pub(super) fn trouble(e: &std::io::Error) -> Trouble {
    const ENETDOWN: i32 = 100;
    match e.raw_os_error() {
        Some(ENETDOWN) => Trouble::Down,
        _ => Trouble::Gone(format!("AF_XDP: {e}")),
    }
}

//! Queues of interfaces that this process drives: frames move between a
//! queue's socket and the rings of a port in the port's own syncs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use netvale_lane::{Lane, Losses, xdp};
use netvale_ring::kring::KringId;
use netvale_ring::port::{PortId, PortKind};
use netvale_switch::domain::{Registration, RingInfo};
use netvale_switch::end::Gear;
use netvale_wire::proto::{self, FramePlace, Reply, Request, RingPlace};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

pub use crate::wait::For;

use crate::client::Of;
use crate::registration::kept;
use crate::{Error, ErrorKind, Result};

/// Name of the environment variable that, if it is `0`, leaves interfaces to
/// the server.
pub const DRIVE_VAR: &str = "NETVALE_DRIVE";

/// The driven queues of a registration.
#[derive(Debug, Default)]
pub struct Driven {
    inward: Vec<Option<Inward>>,
    outward: Vec<Option<Outward>>,
    /// What to wait for, if there are any.
    pub watch: Option<Watch>,
}

/// The way from a queue's socket to an RX ring.
#[derive(Debug)]
pub struct Inward {
    lane: Box<Lane>,
    queue: Arc<Queue>,
}

/// The way from a TX ring to a queue's socket.
#[derive(Debug)]
pub struct Outward {
    lane: Box<Lane>,
    queue: Arc<Queue>,
}

/// A queue that this process drives, in one direction or in both.
#[derive(Debug)]
pub struct Queue {
    socket: Arc<xdp::Socket>,
    /// What it can bring: frames, space.
    rx: bool,
    tx: bool,
    /// The server drives it again.
    left: AtomicBool,
}

impl Inward {
    /// Brings what the socket has; to be called after a sync of the ring, and
    /// if it says `true`, another sync shows frames. A system call only if the
    /// driver waits for buffers.
    #[inline]
    pub fn serve(&mut self) -> bool {
        !self.queue.is_left() && self.lane.serve_in()
    }

    /// Whether the driver has to be told again of buffers, and soon.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.lane.due().is_some()
    }

    /// Whether this process can drive the queue no more, and is to leave it to
    /// the server: its socket was closed or has failed, or the program passes
    /// frames on to the host by releasing them (NR_FORWARD), which only the
    /// server can do.
    #[inline]
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.is_left() || self.lane.is_gone() || self.lane.passes_on()
    }

    /// Which one it is.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Queue {
    #[inline]
    fn is_left(&self) -> bool {
        self.left.load(Relaxed)
    }
}

impl Outward {
    /// Sends what the ring's sync has handed over; if it says `true`, another
    /// sync shows space. A system call only if there is something to send.
    #[inline]
    pub fn serve(&mut self) -> bool {
        !self.queue.is_left() && self.lane.serve_out()
    }

    /// Whether the kernel has to be asked again, and soon: nobody says when.
    #[must_use]
    pub fn is_due(&self) -> bool {
        !self.queue.is_left() && self.lane.due().is_some()
    }

    /// As [`Inward::is_over`]; or its other direction was ([`Watch::leave`]).
    #[inline]
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.is_left() || self.lane.is_gone()
    }

    /// Which one it is.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Driven {
    /// Asks for the queues of a registration, over its own connection. Those
    /// that cannot be had are the server's, as without this.
    pub(crate) fn by_asking(
        of: &Of<'_>,
        mut ask: impl FnMut(&Request) -> Result<(Reply, Vec<OwnedFd>)>,
    ) -> Self {
        let mut all = Self::default();
        let off = std::env::var_os(DRIVE_VAR).is_some_and(|v| v == "0");
        let Some(gear) = of.gear.filter(|_| of.registered.drivable && !off) else {
            return all;
        };
        let reg = of.reg;
        all.inward.resize_with(reg.rx.len(), || None);
        all.outward.resize_with(reg.tx.len(), || None);
        let Ok(mut watch) = Watch::new(of.bell) else {
            return all;
        };
        let mut any = false;
        for queue in 0..reg.tx_rings.max(reg.rx_rings) {
            let rx = reg.rx.iter().position(|r| r.idx == queue);
            let tx = reg.tx.iter().position(|r| r.idx == queue);
            if rx.is_none() && tx.is_none() {
                continue;
            }
            let request = |on| Request::Drive { queue, on };
            // The answer may be lost for want of descriptors: the server
            // thinks that we drive it until it is told.
            let got = ask(&request(true));
            let Ok((socket, [inward, outward])) =
                got.and_then(|(reply, files)| lanes((of, gear), &reply, files))
            else {
                let _ = ask(&request(false)); // the server does it then
                continue;
            };
            let queue = Arc::new(Queue {
                socket,
                rx: rx.is_some(),
                tx: tx.is_some(),
                left: AtomicBool::new(false),
            });
            watch.queues.push(Arc::clone(&queue));
            any = true;
            if let Some(place) = rx.and_then(|i| all.inward.get_mut(i)) {
                *place = Some(Inward {
                    lane: Box::new(inward),
                    queue: Arc::clone(&queue),
                });
            }
            if let Some(place) = tx.and_then(|i| all.outward.get_mut(i)) {
                *place = Some(Outward {
                    lane: Box::new(outward),
                    queue,
                });
            }
        }
        all.watch = any.then_some(watch);
        all
    }

    /// The way to the registration's RX ring `i`, to be taken once.
    pub fn inward(&mut self, i: usize) -> Option<Inward> {
        self.inward.get_mut(i)?.take()
    }

    /// The way from the registration's TX ring `i`, to be taken once.
    pub fn outward(&mut self, i: usize) -> Option<Outward> {
        self.outward.get_mut(i)?.take()
    }
}

/// A queue's two lanes, and their socket.
fn lanes(
    (of, gear): (&Of<'_>, &Gear),
    reply: &Reply,
    files: Vec<OwnedFd>,
) -> Result<(Arc<xdp::Socket>, [Lane; 2])> {
    let bad = |what: String| Error::new(ErrorKind::Peer, what);
    let Reply::Driven(driven) = reply else {
        return Err(crate::client::link::unexpected(reply));
    };
    let shape = xdp::Shape {
        entries: driven.entries,
        stock: driven.stock,
        traits: xdp::Traits {
            zero_copy: driven.zero_copy,
            copies: driven.copies,
            several: driven.several,
            longest: driven.longest as usize,
        },
        memory: match driven.frames {
            FramePlace::Region {
                arena: [start, end],
                huge,
            } => xdp::MemoryShape::Region {
                arena: start..end,
                huge,
            },
            FramePlace::Own(count) => xdp::MemoryShape::Own(count),
        },
    };
    // Only the first, the socket, stays open.
    let mut files = files;
    if let Some(socket) = files.first_mut() {
        let open = socket.try_clone();
        *socket = kept(open.map_err(|e| Error::io("cannot use a queue", e))?);
    }
    let at = xdp::Place {
        world: &gear.world,
        map: of.map,
        kring: KringId(driven.tx.kring),
        queue: driven.tx.idx.into(),
    };
    let [inward, outward] = xdp::take_over(&shape, files, at).map_err(bad)?;
    let watched = Arc::clone(inward.socket());
    let (tx, rx) = (place(&driven.tx), place(&driven.rx));
    let other = other_side(of.reg, driven, tx, rx);
    let lane = |device| {
        let losses = Losses::default(); // the socket has its own
        let lane = Lane::new(0, gear, &other, (&tx, &rx), of.map, device, &losses);
        lane.ok_or_else(|| bad("the server described rings outside their region".into()))
    };
    Ok((watched, [lane(Box::new(inward))?, lane(Box::new(outward))?]))
}

/// The other side of a port, in our name: what we hold there is given back
/// with our registration.
fn other_side(
    reg: &Registration,
    driven: &proto::Driven,
    tx: RingInfo,
    rx: RingInfo,
) -> Registration {
    Registration {
        port: PortId(driven.port),
        kind: PortKind::Pipe,
        tx: vec![tx],
        rx: vec![rx],
        ..reg.clone()
    }
}

fn place(p: &RingPlace) -> RingInfo {
    RingInfo {
        kring: KringId(p.kring),
        idx: p.idx,
        ofs: p.ofs,
        slots: p.slots,
    }
}

/// One descriptor to poll for the bell of a registration and its sockets.
///
/// There is one for each thing to wait for: a socket that has frames would
/// keep one awake who waits for space, and the reverse. Sockets are watched
/// only when somebody waits for that: each that watches a socket costs it some
/// 40 ns for every frame sent.
#[derive(Debug)]
pub struct Watch {
    polls: [OwnedFd; 3],
    /// Which of them watch the sockets.
    joined: [AtomicBool; 3],
    queues: Vec<Arc<Queue>>,
}

/// Failed sockets that are left out at once.
const SOME: usize = 16;

impl Watch {
    pub(crate) fn new(bell: BorrowedFd<'_>) -> std::io::Result<Self> {
        let make = || -> std::io::Result<OwnedFd> {
            let epoll = kept(epoll::create(epoll::CreateFlags::CLOEXEC)?);
            let data = epoll::EventData::new_u64(0);
            epoll::add(&epoll, bell, data, epoll::EventFlags::IN)?;
            Ok(epoll)
        };
        Ok(Self {
            polls: [make()?, make()?, make()?],
            joined: Default::default(),
            queues: Vec::new(),
        })
    }

    /// Becomes readable when it is worth looking.
    #[must_use]
    pub fn fd(&self, what: For) -> BorrowedFd<'_> {
        self.join(what);
        self.unjoined_fd(what)
    }

    /// The same descriptor; sockets are not watched if nobody has asked for
    /// that yet.
    #[must_use]
    pub fn unjoined_fd(&self, what: For) -> BorrowedFd<'_> {
        let [rx, tx, both] = &self.polls;
        match what {
            For::Rx => rx.as_fd(),
            For::Tx => tx.as_fd(),
            For::Both => both.as_fd(),
        }
    }

    fn is_joined(&self, what: For) -> bool {
        let joined = self.joined.get(what as usize);
        joined.is_some_and(|j| j.load(Acquire))
    }

    /// Has the sockets watched for this from now on. `false` if there was no
    /// memory for that: then only the bell is.
    pub fn join(&self, what: For) -> bool {
        self.is_joined(what) || self.join_all(what).is_ok()
    }

    #[cold]
    fn join_all(&self, what: For) -> std::io::Result<()> {
        let epoll = self.unjoined_fd(what);
        for (number, queue) in (1..).zip(&self.queues) {
            let mut flags = epoll::EventFlags::empty();
            flags.set(epoll::EventFlags::IN, queue.rx && what != For::Tx);
            flags.set(epoll::EventFlags::OUT, queue.tx && what != For::Rx);
            // The bell is 0.
            let data = epoll::EventData::new_u64(number);
            match epoll::add(epoll, &queue.socket, data, flags) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
            if queue.left.load(SeqCst) {
                let _ = epoll::delete(epoll, &queue.socket);
            }
        }
        if let Some(joined) = self.joined.get(what as usize) {
            joined.store(true, Release);
        }
        Ok(())
    }

    /// This process uses a queue no more, in either direction: the server is
    /// to be told, if it says `true`.
    pub fn leave(&self, queue: &Queue) -> bool {
        let first = !queue.left.swap(true, SeqCst);
        for epoll in &self.polls {
            let _ = epoll::delete(epoll, &queue.socket); // if it is watched
        }
        first
    }

    /// After a wake-up that brought nothing: leaves out sockets whose
    /// interface is gone, which would never let anybody sleep again.
    pub fn heed(&self, what: For) {
        if !self.is_joined(what) {
            return; // the bell has rung
        }
        let wrong = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        let epoll = self.unjoined_fd(what);
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; SOME];
        let n = epoll::wait(epoll, &mut events, Some(&Timespec::default()));
        for event in events.into_iter().take(n.unwrap_or(0)) {
            let (flags, data) = (event.flags, event.data);
            if !flags.intersects(wrong) {
                continue;
            }
            let number = usize::try_from(data.u64()).unwrap_or(0);
            let queue = number.checked_sub(1).and_then(|i| self.queues.get(i));
            // Left out already, if another thread was here.
            let _ = queue.map(|q| epoll::delete(epoll, &q.socket));
        }
    }
}

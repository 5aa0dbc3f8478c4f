//! TAP interfaces.

use std::os::fd::{AsFd, BorrowedFd};

use netvale_backends::batch::{Batch, BufPool, Piece, Sent};
use netvale_backends::tap::{NoUring, Offloads, Tap, TapConfig, TapError, TapQueue, TapUring};
use netvale_wire::proto::ErrorKind;
use netvale_wire::vnet::HdrLen;

use super::burst::Burst;
use super::spec::TapSpec;
use super::{Device, DeviceLane, Keep, Pushed, Trouble, Use};
use crate::listing::Refusal;

/// Longest frame that waits for segmentation, with the longest header.
const LONGEST: usize = 12 + 14 + 65_536;
/// What there is room for at least, should the MTU be raised.
const JUMBO: usize = 10_000;

/// Makes or adopts the interface.
pub(super) fn open(spec: &TapSpec, how: Use) -> Result<Device, Refusal> {
    let header = spec.header.unwrap_or(how.header);
    let hdr_len = HdrLen::new(header.into()).unwrap_or(HdrLen::NONE);
    let config = TapConfig {
        queues: spec.queues,
        persistent: spec.persist.then_some(true),
        header: hdr_len,
        offloads: match header {
            0 => Offloads::NONE,
            _ => Offloads::ALL,
        },
        ..TapConfig::new(&spec.name)
    };
    let tap = Tap::open(&config).map_err(|e| refusal(&e))?;
    let made = if tap.made() { "made" } else { "adopted" };
    let name = tap.name().to_owned();
    let mut about = format!("TAP {name} ({made}, {}", queues(spec.queues));
    let longest = longest(&tap);
    let mut lanes: Vec<Box<dyn DeviceLane>> = Vec::new();
    let mut refused = None;
    for queue in tap.into_queues() {
        let io = match spec.uring {
            true => Io::ring(queue, &mut refused),
            false => Io::Plain(queue),
        };
        lanes.push(Box::new(TapLane::new(io, longest)));
    }
    match refused {
        Some(why) => {
            tracing::info!(tap = name, "no io_uring: {why}");
            about.push_str(&format!("; no io_uring: {why})"));
        }
        None if spec.uring => about.push_str(", io_uring)"),
        None => about.push(')'),
    }
    Ok(Device {
        name,
        lanes,
        header,
        about,
        host: None,
        keep: Keep::default(),
        index: None,
    })
}

/// So many, in words.
pub(crate) fn queues(n: usize) -> String {
    match n {
        1 => "1 queue".into(),
        n => format!("{n} queues"),
    }
}

/// A lane for each queue.
pub(crate) fn lanes(tap: Tap) -> Vec<Box<dyn DeviceLane>> {
    let longest = longest(&tap);
    let lane = |queue| Box::new(TapLane::new(Io::Plain(queue), longest)) as Box<dyn DeviceLane>;
    tap.into_queues().into_iter().map(lane).collect()
}

/// Longest frame that may come from it.
fn longest(tap: &Tap) -> usize {
    let mtu = tap.mtu().map_or(0, |mtu| mtu as usize);
    match tap.header().is_none() {
        true => JUMBO.max(mtu + 18),
        false => LONGEST,
    }
}

/// How frames get to the kernel. They come from it one by one in any case.
#[derive(Debug)]
pub(super) enum Io {
    /// One by one.
    Plain(TapQueue),
    /// In bursts, if there are many.
    Ring(Box<TapUring>),
}

impl Io {
    /// Requests that are under way at once, and so frames of a burst.
    const ENTRIES: u32 = 256;

    /// In bursts, or else it is noted why not.
    fn ring(queue: TapQueue, refused: &mut Option<String>) -> Self {
        match TapUring::new(queue, Self::ENTRIES) {
            Ok(ring) => Self::Ring(Box::new(ring)),
            Err(NoUring { queue, why }) => {
                *refused = Some(crate::files::chain(&why));
                Self::Plain(queue)
            }
        }
    }

    fn queue(&self) -> &TapQueue {
        match self {
            Self::Plain(queue) => queue,
            Self::Ring(ring) => ring.queue(),
        }
    }
}

/// One queue.
#[derive(Debug)]
pub(super) struct TapLane {
    io: Io,
    longest: usize,
    burst: Burst,
}

impl TapLane {
    /// Of an interface with frames of so many bytes at most.
    pub(super) fn new(io: Io, longest: usize) -> Self {
        Self {
            io,
            longest,
            burst: Burst::new(),
        }
    }
}

impl DeviceLane for TapLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.io.queue().as_fd())
    }

    fn longest(&self) -> usize {
        self.longest
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        let all: usize = free.iter().map(|p| p.len as usize).sum();
        // A ring that is smaller than the longest frame takes what fits.
        let longest = self.longest.min(all);
        let want = (longest, self.burst.frames());
        match self.io.queue().recv_packed(pool, free, want, batch) {
            Ok(got) => {
                self.burst.took(got.frames);
                Ok(batch.len())
            }
            Err(e) => Err(trouble(&e)),
        }
    }

    fn is_drained(&self) -> bool {
        // Or all came that was asked for: then the descriptor says whether
        // there is more.
        true
    }

    fn appetite(&self) -> usize {
        self.burst.frames()
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        pushed(match &mut self.io {
            Io::Plain(queue) => queue.send(pool, batch, 0),
            Io::Ring(ring) => ring.send_adaptive(pool, batch, 0),
        })
    }
}

/// A queue's sending half, for rings that have no queue of their own.
#[derive(Debug)]
pub(super) struct TapWriter {
    queue: TapQueue,
}

impl TapWriter {
    /// Sends by a descriptor that somebody else receives from.
    pub(super) fn new(queue: TapQueue) -> Self {
        Self { queue }
    }
}

impl DeviceLane for TapWriter {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn longest(&self) -> usize {
        1
    }

    fn pull(&mut self, _: &BufPool, _: &[Piece], _: &mut Batch) -> Result<usize, Trouble> {
        Ok(0)
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        pushed(self.queue.send(pool, batch, 0))
    }
}

fn pushed(sent: Result<Sent, TapError>) -> Result<Pushed, Trouble> {
    sent.map(Pushed::from).map_err(|e| trouble(&e))
}

fn trouble(e: &TapError) -> Trouble {
    match e {
        TapError::Down { .. } => Trouble::Down,
        e => Trouble::Gone(crate::files::chain(e)),
    }
}

pub(crate) fn refusal(e: &TapError) -> Refusal {
    let kind = match e {
        TapError::Exists { .. } => ErrorKind::Exists,
        TapError::Missing { .. } => ErrorKind::NotFound,
        TapError::Name { .. } | TapError::Queues { .. } | TapError::Mismatch { .. } => {
            ErrorKind::Invalid
        }
        TapError::Os(e) => return Refusal::backend(e.errno(), e),
        _ => ErrorKind::Other,
    };
    Refusal::new(kind, crate::files::chain(e))
}

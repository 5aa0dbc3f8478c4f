//! TAP interfaces.

use std::os::fd::{AsFd, BorrowedFd};

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::tap::{Offloads, Tap, TapConfig, TapError, TapQueue};
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
    let header = match (spec.header, how.headers) {
        (Some(len), _) => len,
        (None, true) => 12,
        (None, false) => 0,
    };
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
    let about = format!("TAP {} ({made}, {})", tap.name(), queues(spec.queues));
    Ok(Device {
        name: tap.name().to_owned(),
        lanes: lanes(tap),
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
    let mtu = tap.mtu().map_or(0, |mtu| mtu as usize);
    let longest = match tap.header().is_none() {
        true => JUMBO.max(mtu + 18),
        false => LONGEST,
    };
    let lane = |queue| Box::new(TapLane::new(queue, longest)) as Box<dyn DeviceLane>;
    tap.into_queues().into_iter().map(lane).collect()
}

/// One queue.
#[derive(Debug)]
pub(super) struct TapLane {
    queue: TapQueue,
    longest: usize,
    burst: Burst,
}

impl TapLane {
    /// Of an interface with frames of so many bytes at most.
    pub(super) fn new(queue: TapQueue, longest: usize) -> Self {
        Self {
            queue,
            longest,
            burst: Burst::new(),
        }
    }
}

impl DeviceLane for TapLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.queue.as_fd())
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
        match self.queue.recv_packed(pool, free, want, batch) {
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
        send(&self.queue, pool, batch)
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
        send(&self.queue, pool, batch)
    }
}

fn send(queue: &TapQueue, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
    match queue.send(pool, batch, 0) {
        Ok(sent) => Ok(Pushed {
            done: sent.next,
            refused: sent.refused as u64,
        }),
        Err(e) => Err(trouble(&e)),
    }
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

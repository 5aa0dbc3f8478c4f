//! The wire of an interface by AF_PACKET, received through a ring.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::packet::{PacketConfig, PacketError, PacketRing, RingConfig};
use netvale_wire::proto::ErrorKind;
use netvale_wire::vnet::HdrLen;

use super::nic::{LONGEST, Nic, NicLane, socket, trouble};
use super::{DeviceLane, Loss, Pushed, Trouble};
use crate::listing::Refusal;

/// Bytes of a ring: 2048 frames of the usual size.
const BYTES: u32 = 4 << 20;
/// Rings at once. Their memory is taken whether frames come or not.
const MOST: u32 = 32;

/// Rings that there are.
static RINGS: AtomicU32 = AtomicU32::new(0);

/// The right to have one.
#[derive(Debug)]
struct Seat;

impl Seat {
    fn take() -> Option<Self> {
        let add = |n: u32| (n < MOST).then_some(n + 1);
        let taken = RINGS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.is_ok().then_some(Self)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        RINGS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The queues of an interface, whose frames have headers: through rings if
/// possible. Says which way it is.
///
/// # Errors
///
/// It cannot be received from at all.
pub(super) fn headed(
    nic: &Nic,
    config: &PacketConfig,
    how: &mut String,
) -> Result<(Vec<Box<dyn DeviceLane>>, HdrLen), Refusal> {
    let ring = |config: &PacketConfig| {
        let lane = SlotLane::open(config, nic.mtu);
        lane.map_err(|why| Refusal::new(ErrorKind::Os, why))
    };
    match nic.sockets(config, ring) {
        Ok(rings) => {
            *how = "a ring".into();
            let header = rings.first().map_or(config.header, SlotLane::header);
            let lane = |lane| Box::new(lane) as Box<dyn DeviceLane>;
            Ok((rings.into_iter().map(lane).collect(), header))
        }
        Err(why) => {
            let sockets = nic.sockets(config, socket)?;
            tracing::info!(interface = nic.name, "no packet ring: {}", why.message);
            *how = format!("no ring: {}", why.message);
            let header = sockets.first().map_or(config.header, |s| s.1);
            let lane = |(socket, _)| NicLane::boxed(socket, LONGEST);
            Ok((sockets.into_iter().map(lane).collect(), header))
        }
    }
}

/// A queue.
#[derive(Debug)]
struct SlotLane {
    ring: PacketRing,
    /// There was no buffer for all that was there.
    more: bool,
    /// Of those that it missed, as many have been counted.
    told: u64,
    _seat: Seat,
}

impl SlotLane {
    /// Opens one, with the shorter virtio-net header if the kernel has no
    /// longer one.
    ///
    /// # Errors
    ///
    /// Why it must do without a ring.
    fn open(config: &PacketConfig, mtu: u32) -> Result<Self, String> {
        let seat = Seat::take().ok_or_else(|| format!("{MOST} queues have one"))?;
        let size = RingConfig::for_mtu(mtu, BYTES);
        let older = PacketConfig {
            header: HdrLen::SHORT,
            ..config.clone()
        };
        let opened = match PacketRing::open(config, size) {
            Err(PacketError::HeaderLen { .. }) => PacketRing::open(&older, size),
            opened => opened,
        };
        Ok(Self {
            ring: opened.map_err(|e| crate::files::chain(&e))?,
            more: false,
            told: 0,
            _seat: seat,
        })
    }

    /// Length of the virtio-net header of its frames.
    fn header(&self) -> HdrLen {
        self.ring.header()
    }
}

impl DeviceLane for SlotLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ring.as_fd())
    }

    fn longest(&self) -> usize {
        LONGEST
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        let got = self.ring.recv_packed(pool, free, batch);
        self.more = self.ring.is_ready();
        got.map_err(|e| trouble(&e))
    }

    fn is_drained(&self) -> bool {
        !self.more
    }

    fn left_out(&mut self) -> Option<(Loss, u64)> {
        let all = self.ring.missed();
        let new = all - std::mem::replace(&mut self.told, all);
        (new > 0).then_some((Loss::Missed, new))
    }

    fn appetite(&self) -> usize {
        // Room for one long packet is room for many short ones.
        if self.more { usize::MAX } else { 1 }
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let sent = self.ring.send(pool, batch, 0).map_err(|e| trouble(&e))?;
        Ok(Pushed {
            done: sent.next,
            refused: sent.refused as u64,
        })
    }
}

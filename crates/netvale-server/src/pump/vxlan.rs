//! Tunnels to switches on other hosts.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::vxlan::{Vxlan, VxlanConfig, VxlanError, VxlanSockets};
use netvale_wire::proto::ErrorKind;

use super::{Device, DeviceLane, Keep, Loss, Pushed, Told, Trouble};
use crate::listing::Refusal;

/// Longest frame that is received: one of the largest usual underlay. Room for
/// any datagram would be room for eight frames at once.
const LONGEST: usize = 10_000;
/// Frames asked for at once: each needs room for the longest that is usual.
const AT_ONCE: usize = 128;

/// Opens this end of the tunnel.
pub(super) fn open(config: &VxlanConfig, sockets: &VxlanSockets) -> Result<Device, Refusal> {
    let endpoint = sockets.open(config.clone()).map_err(|e| refusal(&e))?;
    let about = format!(
        "VXLAN {} at {} to {} ends",
        config.vni,
        config.local,
        config.remotes.len()
    );
    let lane = VxlanLane {
        endpoint,
        start: Instant::now(),
        told: Told::default(),
    };
    Ok(Device {
        name: format!("vxlan{}", config.vni),
        lanes: vec![Box::new(lane)],
        header: 0,
        about,
        host: None,
        keep: Keep::default(),
        index: None,
    })
}

#[derive(Debug)]
struct VxlanLane {
    endpoint: Vxlan,
    start: Instant,
    /// Of useless datagrams.
    told: Told,
}

impl DeviceLane for VxlanLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.endpoint.as_fd())
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
        chains(free, LONGEST, AT_ONCE, batch);
        let now = self.start.elapsed();
        let got = self.endpoint.recv(pool, batch, now);
        got.map_err(|e| Trouble::Gone(crate::files::chain(&e)))
    }

    fn left_out(&mut self) -> Option<(Loss, u64)> {
        let c = self.endpoint.counters();
        self.told
            .since(Loss::Foreign, c.foreign + c.short + c.overrun)
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let now = self.start.elapsed();
        let sent = self.endpoint.send(pool, batch, 0, now);
        let sent = sent.map_err(|e| Trouble::Gone(crate::files::chain(&e)))?;
        let refused = sent.malformed + sent.too_long + sent.full + sent.unreachable + sent.nowhere;
        Ok(Pushed {
            done: batch.len(),
            refused,
            wait: false,
        })
    }
}

/// Divides `free` into chains that hold `longest` bytes each, `most` at most;
/// what is left of it makes no chain.
pub(super) fn chains(free: &[Piece], longest: usize, most: usize, batch: &mut Batch) {
    let room = free.first().map_or(1, |p| p.len.max(1) as usize);
    let each = longest.div_ceil(room).clamp(1, free.len().max(1));
    for chain in free.chunks_exact(each).take(most) {
        // Never more pieces than a frame may have.
        let _ = batch.push(chain);
    }
}

fn refusal(e: &VxlanError) -> Refusal {
    let kind = match e {
        VxlanError::Config(_) | VxlanError::Remotes { .. } => ErrorKind::Invalid,
        VxlanError::InUse { .. } | VxlanError::Twice { .. } => ErrorKind::Busy,
        VxlanError::NotOurs { .. } => ErrorKind::NotFound,
        VxlanError::Os(e) => return Refusal::backend(e.errno(), e),
        _ => ErrorKind::Other,
    };
    Refusal::new(kind, crate::files::chain(e))
}

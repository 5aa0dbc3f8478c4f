//! The wire of an interface by AF_PACKET, received through rings if possible.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use netvale_backends::batch::{Batch, BufPool, Piece};
use netvale_backends::packet::{PacketConfig, PacketError, PacketRing, RingConfig, WholeSocket};
use netvale_wire::proto::ErrorKind;
use netvale_wire::vnet::HdrLen;

use super::burst::Burst;
use super::nic::{LONGEST, Nic, NicLane, packet_refusal, socket, trouble};
use super::vxlan::chains;
use super::{DeviceLane, Failure, Loss, Pushed, Told, Trouble};
use crate::listing::Refusal;

/// Bytes of a ring: 2048 frames of the usual size.
const BYTES: u32 = 4 << 20;
/// Rings at once. Their memory is taken whether frames come or not.
const MOST: u32 = 32;

/// Rings that there are.
static RINGS: AtomicU32 = AtomicU32::new(0);

/// What users are told of an interface by AF_PACKET.
#[derive(Debug, Clone, Default)]
pub(super) struct How {
    /// Why it is not driven otherwise, if there is a reason.
    pub(super) why: Option<String>,
    /// How frames are received.
    pub(super) receives: Option<String>,
    /// Told instead when a ring has ended.
    pub(super) failure: Failure,
}

impl How {
    /// All of it.
    pub(super) fn about(&self, interface: &str) -> String {
        let said: Vec<&str> = [&self.why, &self.receives]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        let by = format!("interface {interface} by AF_PACKET");
        match said.is_empty() {
            true => by,
            false => format!("{by} ({})", said.join("; ")),
        }
    }
}

/// The right to have one.
#[derive(Debug)]
struct Seat {
    how: How,
}

impl Seat {
    fn take(how: &How) -> Result<Self, String> {
        let add = |n: u32| (n < MOST).then_some(n + 1);
        let taken = RINGS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        match taken {
            Ok(_) => Ok(Self { how: how.clone() }),
            Err(_) => Err(full()),
        }
    }

    /// Says, there and in the log, that the ring has ended.
    fn ended(mut self, interface: &str) {
        const WHY: &str = "a packet came that no virtio-net header describes";
        tracing::warn!(interface, "no packet ring any more: {WHY}");
        self.how.receives = Some(format!("a ring has ended: {WHY}"));
        self.how.failure.set(Some(self.how.about(interface)));
    }

    /// Whether there are some for all queues: better none than one for all.
    fn suffice(queues: u16) -> Result<(), Refusal> {
        match RINGS.load(Ordering::Relaxed) + u32::from(queues) <= MOST {
            true => Ok(()),
            false => Err(Refusal::new(ErrorKind::Os, full())),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        RINGS.fetch_sub(1, Ordering::Relaxed);
    }
}

fn full() -> String {
    format!("no more than {MOST} queues can have one")
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
    how: &mut How,
) -> Result<(Vec<Box<dyn DeviceLane>>, HdrLen), Refusal> {
    let ring = |config: &PacketConfig| {
        let lane = SlotLane::open(config, nic.mtu, how);
        lane.map_err(|why| Refusal::new(ErrorKind::Os, why))
    };
    match Seat::suffice(nic.queues()).and_then(|()| nic.sockets(config, ring)) {
        Ok(rings) => {
            how.receives = Some(RING.into());
            let header = rings.first().map_or(config.header, SlotLane::header);
            let lane = |lane| Box::new(lane) as Box<dyn DeviceLane>;
            Ok((rings.into_iter().map(lane).collect(), header))
        }
        Err(why) => {
            let sockets = nic.sockets(config, socket)?;
            how.receives = Some(no_ring(nic, &why));
            let header = sockets.first().map_or(config.header, |s| s.1);
            let lane = |(socket, _)| NicLane::boxed(socket, LONGEST);
            Ok((sockets.into_iter().map(lane).collect(), header))
        }
    }
}

/// The same of complete frames without headers.
///
/// # Errors
///
/// As [`headed`].
pub(super) fn whole(
    nic: &Nic,
    config: &PacketConfig,
    how: &mut How,
) -> Result<Vec<Box<dyn DeviceLane>>, Refusal> {
    let max_frame = nic.mtu as usize + 14;
    let open = |config: &PacketConfig, seat: Option<Seat>| {
        let size = RingConfig::for_mtu(nic.mtu, BYTES);
        let size = seat.as_ref().map(|_| size);
        let opened = WholeSocket::open(config, max_frame, size);
        opened.map(|socket| WholeLane {
            socket,
            odd: Told::default(),
            missed: Told::default(),
            seat,
        })
    };
    let ring = |config: &PacketConfig| {
        let seat = Seat::take(how).map_err(|why| Refusal::new(ErrorKind::Os, why))?;
        open(config, Some(seat)).map_err(|e| packet_refusal(&e))
    };
    let lanes = match Seat::suffice(nic.queues()).and_then(|()| nic.sockets(config, ring)) {
        Ok(lanes) => {
            how.receives = Some(RING.into());
            lanes
        }
        Err(why) => {
            let none = |config: &PacketConfig| open(config, None).map_err(|e| packet_refusal(&e));
            let lanes = nic.sockets(config, none)?;
            how.receives = Some(no_ring(nic, &why));
            lanes
        }
    };
    let lane = |lane| Box::new(lane) as Box<dyn DeviceLane>;
    Ok(lanes.into_iter().map(lane).collect())
}

/// What users read of it.
const RING: &str = "a ring";

/// Says, there and in the log, that there is none.
fn no_ring(nic: &Nic, why: &Refusal) -> String {
    tracing::info!(interface = nic.name, "no packet ring: {}", why.message);
    format!("no ring: {}", why.message)
}

/// A queue.
#[derive(Debug)]
struct SlotLane {
    ring: PacketRing,
    /// There was no buffer for all that was there.
    more: bool,
    /// How much to ask for when the ring has ended.
    burst: Burst,
    /// Of those that it missed, and that no header describes.
    missed: Told,
    odd: Told,
    /// Until the ring ends.
    seat: Option<Seat>,
}

impl SlotLane {
    /// Opens one, with the shorter virtio-net header if the kernel has no
    /// longer one.
    ///
    /// # Errors
    ///
    /// Why it must do without a ring.
    fn open(config: &PacketConfig, mtu: u32, how: &How) -> Result<Self, String> {
        let seat = Seat::take(how)?;
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
            burst: Burst::new(),
            missed: Told::default(),
            odd: Told::default(),
            seat: Some(seat),
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

    fn edges(&self) -> bool {
        // Else it is not seen that the ring has ended.
        !self.ring.has_ended()
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
        if let Some(socket) = self.ring.without() {
            chains(free, LONGEST, self.burst.frames(), batch);
            let got = socket.recv(pool, batch).map_err(|e| trouble(&e))?;
            self.burst.took(got);
            return Ok(got);
        }
        let got = self.ring.recv_packed(pool, free, batch);
        self.more = self.ring.is_ready();
        if let Some(socket) = self.ring.without()
            && let Some(seat) = self.seat.take()
        {
            seat.ended(socket.interface());
        }
        got.map_err(|e| trouble(&e))
    }

    fn is_drained(&self) -> bool {
        !self.more
    }

    fn left_out(&mut self) -> Option<(Loss, u64)> {
        let missed = self.missed.since(Loss::Missed, self.ring.missed());
        // The other one the next time.
        let odd = self.ring.without().map_or(0, |socket| socket.odd());
        missed.or_else(|| self.odd.since(Loss::Odd, odd))
    }

    fn appetite(&self) -> usize {
        if self.ring.has_ended() {
            return self.burst.frames();
        }
        // Room for one long packet is room for many short ones.
        if self.more { usize::MAX } else { 1 }
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let sent = self.ring.send(pool, batch, 0);
        sent.map(Pushed::from).map_err(|e| trouble(&e))
    }
}

/// The wire for programs that know no virtio-net header.
#[derive(Debug)]
struct WholeLane {
    socket: WholeSocket,
    /// Of those that it could not make whole, and that it missed.
    odd: Told,
    missed: Told,
    /// For its ring, as long as it has one.
    seat: Option<Seat>,
}

impl DeviceLane for WholeLane {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    fn edges(&self) -> bool {
        self.socket.has_ring()
    }

    fn longest(&self) -> usize {
        self.socket.longest()
    }

    fn pull(
        &mut self,
        pool: &BufPool,
        free: &[Piece],
        batch: &mut Batch,
    ) -> Result<usize, Trouble> {
        let got = self.socket.recv(pool, free, batch);
        if !self.socket.has_ring()
            && let Some(seat) = self.seat.take()
        {
            seat.ended(self.socket.interface());
        }
        got.map_err(|e| trouble(&e))
    }

    fn is_drained(&self) -> bool {
        self.socket.is_drained()
    }

    fn left_out(&mut self) -> Option<(Loss, u64)> {
        let odd = self.odd.since(Loss::Odd, self.socket.incomplete());
        // The other one the next time.
        odd.or_else(|| self.missed.since(Loss::Missed, self.socket.missed()))
    }

    fn push(&mut self, pool: &BufPool, batch: &Batch) -> Result<Pushed, Trouble> {
        let sent = self.socket.send(pool, batch, 0);
        sent.map(Pushed::from).map_err(|e| trouble(&e))
    }
}

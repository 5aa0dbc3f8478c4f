//! Sockets that were closed, and the buffers that they had.
//!
//! A client that drives a queue is alive when the server closes its socket: it
//! may be in the middle of a turn, and it has the socket open until it ends.
//! So the buffers of the sockets come back in steps.
//!
//! 1. The books are closed, and the server takes both their sides: nobody can
//!    be at the rings in the socket's name any more. Clients are there for
//!    microseconds; one that has been stopped keeps the wire from being opened
//!    anew, and its stocks are as they are until it goes on or dies.
//! 2. The stocks are settled. They are free at once if nobody else has the
//!    socket and the kernel copies; else when nobody has it any more, and the
//!    device has had time to let go of them.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use netvale_lane::Losses;
use netvale_lane::xdp::{Closed, HandOver};
use netvale_ring::kring::KringId;
use netvale_switch::domain::Parked;
use netvale_wire::proto::ErrorKind;

use super::Core;
use super::devices::Devices;
use super::opened::Opened;
use crate::listing::Refusal;

/// How long the control thread waits for clients at closed sockets.
const MOMENT: Duration = Duration::from_millis(20);
/// After that it looks again in this time.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a device that reads and writes buffers itself may go on after its
/// socket was closed.
const LINGER: Duration = Duration::from_secs(2);

/// The closed sockets of an interface.
#[derive(Debug)]
pub(super) struct Closing {
    port: String,
    sockets: Vec<Closed>,
    rings: Vec<KringId>,
    /// The server's own registration, whose lanes have ended.
    ours: u16,
    /// The device reads and writes the buffers itself.
    direct: bool,
    /// Registrations that have one of the sockets open.
    holders: BTreeSet<u16>,
    losses: Losses,
}

/// Buffers that somebody may still use.
#[derive(Debug)]
pub(super) struct Lingering {
    /// Until when, if nobody has the sockets open.
    end: Instant,
    holders: BTreeSet<u16>,
    parked: Vec<Parked>,
}

impl Closing {
    /// The sockets of an interface, which are closed.
    pub(super) fn new(opened: &mut Opened, sockets: Vec<HandOver>) -> Self {
        let port = opened.name.clone();
        for (queue, socket) in sockets.iter().enumerate() {
            let [received, sent] = socket.copied();
            tracing::debug!(port, queue, received, sent, "copied once more");
        }
        let mut all = sockets.iter();
        Self {
            port,
            direct: all.any(|s| s.shape().traits.zero_copy),
            sockets: sockets.into_iter().map(HandOver::close).collect(),
            rings: opened.inward_rings(),
            ours: opened.reg.owner,
            holders: std::mem::take(&mut opened.holders),
            losses: opened.losses.clone(),
        }
    }

    /// Whether nobody is at the sockets any more.
    fn is_left(&self) -> bool {
        let left = self.sockets.iter().map(Closed::is_left);
        left.fold(true, |all, left| all & left)
    }

    fn break_locks(&self, owner: u16) {
        self.sockets.iter().for_each(|s| {
            s.break_locks(owner);
        });
    }
}

impl Devices {
    /// When to look again at closed sockets and their buffers.
    fn closing_due(&self) -> Option<Instant> {
        let free = self.lingering.iter().filter(|l| l.holders.is_empty());
        free.map(|l| l.end).chain(self.look_again).min()
    }
}

impl Core {
    /// Takes back what closed sockets had, as soon as that can be.
    pub(super) fn close_sockets(&mut self, closing: Closing) {
        // One of ours that failed has not let go.
        closing.break_locks(closing.ours);
        let end = Instant::now() + MOMENT;
        while !closing.is_left() {
            if Instant::now() > end {
                let port = closing.port.as_str();
                tracing::warn!(port, "whoever drives its queues stands still");
                self.devices.closing.push(closing);
                self.devices.look_again = Some(Instant::now() + AGAIN);
                return;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        self.settle_closed(closing);
    }

    fn settle_closed(&mut self, closing: Closing) {
        for socket in &closing.sockets {
            closing.losses.add(&socket.losses());
        }
        if closing.holders.is_empty() {
            self.take_stocks_back(&closing.rings, closing.direct);
        } else {
            self.park(&closing.rings, closing.holders);
        }
    }

    /// Takes back what closed sockets had that nobody else has open. `direct`:
    /// the device reads and writes it, and stops that behind our back.
    pub(super) fn take_stocks_back(&mut self, rings: &[KringId], direct: bool) {
        match direct {
            true => self.park(rings, BTreeSet::new()),
            false => {
                self.domain.return_stocks(rings);
            }
        }
    }

    fn park(&mut self, rings: &[KringId], holders: BTreeSet<u16>) {
        let parked = self.domain.park_stocks(rings);
        if !parked.is_empty() {
            self.devices.lingering.push(Lingering {
                end: Instant::now() + LINGER,
                holders,
                parked,
            });
        }
    }

    /// Whether nobody is at sockets that an interface had before.
    ///
    /// # Errors
    ///
    /// Somebody is, and stands still there.
    pub(super) fn check_left(&self, at: usize) -> Result<(), Refusal> {
        let Some(opened) = self.devices.opened.get(at) else {
            return Ok(());
        };
        let mut all = self.devices.closing.iter();
        if all.any(|c| c.rings == opened.inward_rings()) {
            let port = &opened.name;
            let message = format!("{port}: a process that drives its queues stands still");
            let hint = "let it go on (fg, SIGCONT) or end it";
            return Err(Refusal::new(ErrorKind::Busy, message).hint(hint).later());
        }
        Ok(())
    }

    /// A registration is over, and has nothing open any more.
    pub(super) fn let_go(&mut self, owner: u16) {
        for closing in &mut self.devices.closing {
            closing.break_locks(owner);
            closing.holders.remove(&owner);
        }
        for lingering in &mut self.devices.lingering {
            if lingering.holders.remove(&owner) {
                lingering.end = Instant::now() + LINGER;
            }
        }
        self.settle_left();
    }

    /// Takes back what those sockets had that have been left meanwhile.
    /// Whether there were any.
    fn settle_left(&mut self) -> bool {
        let all = std::mem::take(&mut self.devices.closing);
        let (left, still): (Vec<_>, _) = all.into_iter().partition(Closing::is_left);
        self.devices.closing = still;
        let any = !left.is_empty();
        left.into_iter().for_each(|c| self.settle_closed(c));
        any
    }

    /// When buffers are to be freed of devices that were closed.
    pub(crate) fn lingers(&self) -> Option<Instant> {
        self.devices.closing_due()
    }

    /// Frees those that nobody has any more by now.
    pub(crate) fn linger_no_more(&mut self, now: Instant) {
        let all = std::mem::take(&mut self.devices.lingering);
        let is_over = |l: &Lingering| l.holders.is_empty() && l.end <= now;
        let (over, still): (Vec<_>, _) = all.into_iter().partition(is_over);
        self.devices.lingering = still;
        for parked in over.iter().flat_map(|l| &l.parked) {
            self.domain.unpark(parked);
        }
        if self.devices.look_again.is_none_or(|at| at > now) {
            return;
        }
        let any = self.settle_left();
        let more = !self.devices.closing.is_empty();
        self.devices.look_again = more.then(|| now + AGAIN);
        if any {
            // What could not be opened meanwhile.
            self.settle_all_devices();
        }
    }
}

//! Queues of interfaces that clients drive themselves.
//!
//! A trusted client that has rings of a queue open may have the queue's socket
//! too, and moves frames between the two in its own syncs. The server keeps
//! the socket as well: as long as everybody who has rings of the queue drives
//! it, the server's own lane is parked. It serves again when somebody comes
//! who does not, and when drivers go, however that happens: what they held is
//! given back, and the socket's books say how far they had come.

use std::os::fd::OwnedFd;

use netvale_lane::xdp::{HandOver, MemoryShape};
use netvale_switch::domain::DeviceUser;
use netvale_wire::proto::{Context, Driven, ErrorKind, FramePlace, Reply};

use super::{Answer, Core, trusted_only};
use crate::conn::Conn;
use crate::listing::{self, Refusal};

impl Core {
    /// Whether a registration may drive queues of what it is bound to.
    pub(super) fn is_drivable(&self, owner: u16) -> bool {
        self.drivable(owner).is_some()
    }

    /// Which of the opened devices it is, and what the registration has open.
    fn drivable(&self, owner: u16) -> Option<(usize, DeviceUser)> {
        let port = self.domain.registration(owner)?.port;
        let at = self.devices.opened.iter().position(|o| o.user == port)?;
        let opened = self.devices.opened.get(at)?;
        if opened.sockets.is_empty() || opened.reg.isolated {
            return None;
        }
        let user = self.domain.device_users(opened.user);
        let user = user.into_iter().find(|u| u.owner == owner)?;
        Some((at, user))
    }

    /// A client wants to drive a queue, or no longer.
    pub(super) fn drive(&mut self, conn: &Conn, context: Context, queue: u16, on: bool) -> Answer {
        trusted_only(context)?;
        let none = || {
            let message = "this connection has no queue that it could drive";
            Refusal::new(ErrorKind::NotFound, message)
        };
        let owner = conn.owner.ok_or_else(none)?;
        let (at, user) = self.drivable(owner).ok_or_else(none)?;
        if !user.has(queue) {
            return Err(none());
        }
        let opened = self.devices.opened.get_mut(at).ok_or_else(none)?;
        let i = usize::from(queue);
        let socket = opened.sockets.get(i).ok_or_else(none)?;
        if !on {
            opened.drivers.remove(&(queue, owner));
            self.settle_drivers(at);
            return Ok((Reply::Done, Vec::new()));
        }
        let files = files(socket)?;
        let (tx, rx) = (opened.reg.tx.get(i), opened.reg.rx.get(i));
        let (Some(tx), Some(rx)) = (tx, rx) else {
            return Err(none());
        };
        let shape = socket.shape();
        let reply = Driven {
            port: opened.reg.port.0,
            tx: listing::place(tx),
            rx: listing::place(rx),
            entries: shape.entries,
            stock: shape.stock,
            frames: match &shape.memory {
                MemoryShape::Region { arena, huge } => FramePlace::Region {
                    arena: [arena.start, arena.end],
                    huge: *huge,
                },
                MemoryShape::Own(count) => FramePlace::Own(*count),
            },
            zero_copy: shape.traits.zero_copy,
            copies: shape.traits.copies,
            several: shape.traits.several,
            longest: u32::try_from(shape.traits.longest).unwrap_or(u32::MAX),
        };
        opened.drivers.insert((queue, owner));
        opened.holders.insert(owner);
        self.settle_drivers(at);
        Ok((Reply::Driven(reply), files))
    }

    /// A registration is over: what it held of sockets is given back.
    pub(super) fn undrive(&mut self, owner: u16) {
        for opened in &mut self.devices.opened {
            opened.drivers.retain(|&(_, o)| o != owner);
            opened.holders.remove(&owner);
            let broken = opened.sockets.iter().map(|s| s.break_locks(owner));
            let broken: usize = broken.sum();
            if broken > 0 {
                let port = opened.name.as_str();
                tracing::info!(owner, port, broken, "took back what a dead driver held");
            }
        }
        self.let_go(owner);
    }

    /// Has those queues served that somebody has open who does not drive them.
    pub(super) fn settle_drivers(&mut self, at: usize) {
        let Some(opened) = self.devices.opened.get(at) else {
            return;
        };
        let users = self.domain.device_users(opened.user);
        let queues = u16::try_from(opened.sockets.len()).unwrap_or(0);
        let idle = |q: u16| {
            let mut all = users.iter().filter(|u| u.has(q));
            all.all(|u| opened.drivers.contains(&(q, u.owner)))
        };
        let wanted: Vec<(u16, bool)> = (0..queues).map(|q| (q, !idle(q))).collect();
        for (queue, served) in wanted {
            self.seat_lane(at, queue, served);
        }
    }

    /// Has a queue's lane served, or parks it.
    fn seat_lane(&mut self, at: usize, queue: u16, served: bool) {
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return;
        };
        let parked = opened.parked.iter().position(|p| p.0 == queue);
        match (parked, served) {
            (Some(i), true) => {
                let (_, mut lane) = opened.parked.swap_remove(i);
                lane.wake(true, true);
                self.devices.serve(lane);
            }
            (None, false) => {
                let id = opened.wired.get(usize::from(queue)).copied();
                if let Some(lane) = id.and_then(|id| self.devices.take(id))
                    && let Some(opened) = self.devices.opened.get_mut(at)
                {
                    opened.parked.push((queue, lane));
                }
            }
            _ => {}
        }
    }
}

fn files(socket: &HandOver) -> Result<Vec<OwnedFd>, Refusal> {
    socket.files().iter().map(super::dup).collect()
}

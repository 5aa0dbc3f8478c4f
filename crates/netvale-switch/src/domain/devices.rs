//! Ports of devices: what the user of an interface or a back end sees is one
//! side, whoever moves frames for the device has the other, and the rings of
//! the two are linked as those of pipes are.

use alloc::format;
use alloc::vec::Vec;

use netvale_ring::port::{PortId, PortKind};

use super::build::Plan;
use super::open::{all_of, slots};
use super::pipes::link_pipe;
use super::{
    Bound, DEFAULT_SLOTS, Domain, DomainError, MAX_RINGS, MemSource, Registration, Result,
};

/// What the port of a device is to be.
#[derive(Debug, Clone, Copy)]
pub struct DevicePlan<'a> {
    /// Name of the user's side.
    pub name: &'a str,
    /// Queues: the user's TX rings and RX rings.
    pub queues: u16,
    /// The user's host rings after those: TX (to the stack) and RX.
    pub host: [u16; 2],
    /// Slots of each ring, TX and RX; 0 for the default.
    pub slots: (u16, u16),
    /// Region, `None` for the usual one.
    pub region: Option<u16>,
    /// The user is isolated.
    pub isolated: bool,
    /// Length of the virtio-net header of its frames.
    pub vnet_hdr: u8,
    /// The buffers of its queues are to be those of the region's arena, which
    /// is made with so many if there is none; 0 for any buffers.
    pub arena: u32,
}

/// Rings of a device's port that somebody has open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceUse {
    /// Somebody has the port open at all.
    pub open: bool,
    /// A TX ring of a queue.
    pub tx: bool,
    /// An RX ring of a queue.
    pub rx: bool,
    /// A host ring.
    pub host: bool,
    /// Somebody has all TX rings of the queues and may pass frames of the
    /// host's on to them.
    pub down: bool,
}

/// A registration of a device's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceUser {
    /// Its number.
    pub owner: u16,
    /// TX rings that it has open.
    pub tx: Vec<u16>,
    /// RX rings that it has open.
    pub rx: Vec<u16>,
}

impl DeviceUser {
    /// Whether it has a ring of this number open, in either direction.
    #[must_use]
    pub fn has(&self, ring: u16) -> bool {
        self.tx.contains(&ring) || self.rx.contains(&ring)
    }
}

impl<M: MemSource> Domain<M> {
    /// Makes the port of a device, and binds `owner` (who must have no port
    /// yet) to its other side, which has a TX ring for each RX ring of the
    /// user's and the reverse. The user's port, and what the owner got: as many
    /// rings of each kind as the user's port has in the direction that has
    /// more, and those without a counterpart stay empty.
    ///
    /// The port stays until [`Domain::owner_gone`] of the owner; nothing
    /// happens when its last user goes ([`Domain::device_use`] tells).
    ///
    /// # Errors
    ///
    /// [`DomainError::Busy`] if there is a port of that name, or no space;
    /// nothing is left behind.
    pub fn make_device(
        &mut self,
        owner: u16,
        plan: &DevicePlan<'_>,
    ) -> Result<(PortId, Registration)> {
        self.unbound(owner)?;
        if self.find(plan.name).is_some() {
            return Err(DomainError::Busy(format!("{} is open", plan.name)));
        }
        let queues = plan.queues.min(MAX_RINGS);
        let [host_tx, host_rx] = plan.host;
        let most = host_tx.max(host_rx);
        let tx_slots = slots(plan.slots.0, DEFAULT_SLOTS);
        let rx_slots = slots(plan.slots.1, DEFAULT_SLOTS);
        let hidden = self.free_name(plan.name);
        let mut ends = Vec::new();
        // Both in one region, so that buffers and not bytes go through.
        let all = queues + most;
        let region = self.device_region(plan, (all, tx_slots), (all, rx_slots))?;
        let arena = plan.arena > 0 && self.enter_arena(region, plan.arena);
        let user = ((queues + host_tx, tx_slots), (queues + host_rx, rx_slots));
        let other = ((all, rx_slots), (all, tx_slots));
        for (name, (tx, rx)) in [(plan.name, user), (&hidden, other)] {
            let built = self.build(Plan {
                name: name.into(),
                kind: PortKind::Pipe,
                tx,
                rx,
                isolated: plan.isolated,
                region,
                rx_bufs: false,
                arena: if arena { plan.queues } else { 0 },
            });
            match built {
                Ok(port) => ends.push(port),
                Err(e) => {
                    ends.iter().for_each(|&p| self.discard(p));
                    if arena {
                        self.leave_arena(region);
                    }
                    return Err(e);
                }
            }
        }
        let (user, other) = (ends[0], ends[1]);
        if let Some(p) = self.ports.get_mut(other.0) {
            p.arena = arena;
        }
        for (a, b, host, unnamed) in [
            (user, other, plan.host, false),
            (other, user, [most; 2], true),
        ] {
            if let Some(p) = self.ports.get_mut(a.0) {
                p.peer = Some(b);
                p.unnamed = unnamed;
                p.host = host;
            }
            if plan.vnet_hdr != 0 {
                self.set_header_of(a, plan.vnet_hdr);
            }
        }
        link_pipe(self, user, other);
        link_pipe(self, other, user);
        match self.bind_all(owner, other) {
            Ok(reg) => Ok((user, reg)),
            Err(e) => {
                self.discard_whole(user);
                Err(e)
            }
        }
    }

    /// Room for both sides.
    fn device_region(
        &mut self,
        plan: &DevicePlan<'_>,
        tx: (u16, u16),
        rx: (u16, u16),
    ) -> Result<u16> {
        let both = (tx.0 + rx.0, tx.1.max(rx.1));
        self.region_for(plan.region, plan.isolated, both, both, 0)
    }

    /// Binds an owner to all rings of a port.
    fn bind_all(&mut self, owner: u16, port: PortId) -> Result<Registration> {
        let gone = || DomainError::NotFound("no such port".into());
        let p = self.port(port).ok_or_else(gone)?;
        let (region, tx, rx) = (p.region, all_of(&p.tx), all_of(&p.rx));
        let nif = self.take_if(region)?;
        self.write_nif(port, region, nif, &tx, &rx, 0);
        let p = self.ports.get_mut(port.0).ok_or_else(gone)?;
        for r in p.tx.iter_mut().chain(&mut p.rx) {
            r.users += 1;
            r.exclusive = true;
        }
        p.owners.push(owner);
        self.enter_region(region, owner);
        if let Some(o) = self.owners.get_mut(u32::from(owner)) {
            o.bound = Some(Bound {
                port,
                nif,
                tx,
                rx,
                extra: 0,
            });
        }
        self.registration(owner).ok_or_else(gone)
    }

    /// Which rings of a device's port, named by its user's side, are in use.
    #[must_use]
    pub fn device_use(&self, user: PortId) -> DeviceUse {
        let Some(p) = self.port(user) else {
            return DeviceUse::default();
        };
        let used = |rings: &[super::RingState], host: u16| {
            let hw = rings.len().saturating_sub(usize::from(host));
            let any = |rings: &[super::RingState]| rings.iter().any(|r| r.users > 0);
            let (hw, host) = rings.split_at(hw);
            (any(hw), any(host))
        };
        let (tx, host_tx) = used(&p.tx, p.host[0]);
        let (rx, host_rx) = used(&p.rx, p.host[1]);
        DeviceUse {
            open: !p.owners.is_empty(),
            tx,
            rx,
            host: host_tx || host_rx,
            down: host_rx && p.owners.iter().any(|&o| self.has_all_queues(p, o)),
        }
    }

    /// Whether a registration has every TX ring that is a queue's, of which
    /// there is one at least.
    fn has_all_queues(&self, p: &super::Port, owner: u16) -> bool {
        let queues = p.tx.len().saturating_sub(usize::from(p.host[0]));
        let bound = self.owners.get(u32::from(owner));
        let bound = bound.and_then(|o| o.bound.as_ref());
        bound.is_some_and(|b| {
            let has = |i: usize| b.tx.iter().any(|&t| usize::from(t) == i);
            queues > 0 && (0..queues).all(has)
        })
    }

    /// What a device can do with frames that its user, named by his side of
    /// the port, passes on by releasing them: `up`, from the queues to the
    /// host; `down`, from the host to the queues; `all` frames, or those that
    /// are marked.
    pub fn set_forwarding(&self, user: PortId, up: bool, down: bool, all: bool) {
        let Some(p) = self.port(user) else { return };
        let queues = p.rx.len().saturating_sub(usize::from(p.host[1]));
        for (i, r) in p.rx.iter().enumerate() {
            if let Some(kring) = self.world.kring(r.kring) {
                kring.set_forwarding(if i < queues { up } else { down }, all);
            }
        }
    }

    /// Who has a device's port, named by its user's side, open.
    #[must_use]
    pub fn device_users(&self, user: PortId) -> Vec<DeviceUser> {
        let owners = self.port(user).map(|p| p.owners.as_slice());
        let bound = owners.unwrap_or_default().iter().filter_map(|&owner| {
            let bound = self.owners.get(u32::from(owner))?.bound.as_ref()?;
            Some(DeviceUser {
                owner,
                tx: bound.tx.clone(),
                rx: bound.rx.clone(),
            })
        });
        bound.collect()
    }

    /// A device is no more: nobody finds its port any longer, and those who
    /// have it open are told by their next sync.
    pub fn device_gone(&mut self, user: PortId) {
        let Some(name) = self.port(user).map(|p| p.name.clone()) else {
            return;
        };
        let hidden = self.free_name(&name);
        self.names.remove(&name);
        self.names.insert(hidden.clone(), user);
        if let Some(p) = self.ports.get_mut(user.0) {
            p.name = hidden;
            p.unnamed = true;
        }
        let Some(p) = self.port(user) else { return };
        for r in p.tx.iter().chain(&p.rx) {
            if let Some(kring) = self.world.kring(r.kring) {
                kring.set_gone();
                self.wake_later(kring);
            }
        }
        self.world.topology_changed();
    }
}

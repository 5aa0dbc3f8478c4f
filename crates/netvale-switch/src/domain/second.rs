//! A persistent port in two switches. The second seat is a port of its own;
//! whoever runs the namespace carries frames between the two, so that the
//! switches are joined, and nobody else may open either.

use alloc::format;

use netvale_ring::port::{PortId, PortKind};
use netvale_wire::name::{self, PortSpec};

use super::build::Plan;
use super::open::Ask;
use super::{Domain, DomainError, MemSource, Registration, Result, Want};

impl<M: MemSource> Domain<M> {
    /// What `name` says if attaching it would give a persistent port its
    /// second seat.
    #[must_use]
    pub fn second_seat(&self, name: &str) -> Option<PortSpec> {
        let spec = PortSpec::from_nr_name(name).ok()?;
        self.first_seat(&spec).map(|_| spec)
    }

    /// The attached port that is to get a second seat.
    fn first_seat(&self, spec: &PortSpec) -> Option<PortId> {
        let name::PortKind::Vale { port, .. } = &spec.kind else {
            return None;
        };
        let id = self.persistent(port)?;
        let p = self.port(id)?;
        let free = p.seat.is_some() && p.owners.is_empty() && p.joined.is_none();
        let new = spec.pipe.is_none() && self.find(&spec.port_name()).is_none();
        (free && new).then_some(id)
    }

    /// Gives an attached persistent port a seat in a second switch, and the
    /// owners both: the port as it is, and its second seat. They must carry
    /// what either receives to the other. Ends with [`Domain::detach`] of the
    /// second name, after both owners are gone.
    ///
    /// # Errors
    ///
    /// As netmap's VALE_ATTACH; nothing is left behind, and the owners are
    /// gone.
    pub fn attach_second(
        &mut self,
        spec: &PortSpec,
        owners: [u16; 2],
    ) -> Result<(u32, [Registration; 2])> {
        let made = self.make_second(spec, owners);
        if made.is_err() {
            for owner in owners {
                self.owner_gone(owner);
            }
        }
        made
    }

    fn make_second(
        &mut self,
        spec: &PortSpec,
        owners: [u16; 2],
    ) -> Result<(u32, [Registration; 2])> {
        let name = spec.port_name();
        let busy = || DomainError::Busy(format!("{name} is attached already, or open"));
        let (Some(id), name::PortKind::Vale { switch, .. }) = (self.first_seat(spec), &spec.kind)
        else {
            return Err(busy());
        };
        let p = self.port(id).ok_or_else(busy)?;
        let like = |rings: &[super::RingState]| {
            let n = u16::try_from(rings.len()).unwrap_or(1);
            (n, rings.first().map_or(super::DEFAULT_SLOTS, |r| r.slots))
        };
        let hdr = p.vnet_hdr;
        let plan = Plan {
            name: name.clone(),
            kind: PortKind::Vale,
            // What the one receives the other sends.
            tx: like(&p.rx),
            rx: like(&p.tx),
            isolated: false,
            region: p.region,
            rx_bufs: true,
            arena: 0,
        };
        let second = self.build(plan)?;
        let joined = self.join(switch, spec, [id, second], owners, hdr);
        if joined.is_err() {
            // First what lies in it.
            for owner in owners {
                self.owner_gone(owner);
            }
            self.discard(second);
        }
        joined
    }

    fn join(
        &mut self,
        switch: &str,
        spec: &PortSpec,
        [id, second]: [PortId; 2],
        owners: [u16; 2],
        hdr: u8,
    ) -> Result<(u32, [Registration; 2])> {
        if let Some(p) = self.ports.get_mut(second.0) {
            p.persistent = true;
        }
        self.set_header_of(second, hdr);
        let want = Want {
            accepts_vnet_hdr: true,
            ..Want::default()
        };
        let ask = Ask::new(spec, &want, false);
        let first = self.enter(owners[0], id, &ask)?;
        let ends = [first, self.enter(owners[1], second, &ask)?];
        let seat = self.seat(switch, second)?;
        for (a, b, is_second) in [(id, second, false), (second, id, true)] {
            if let Some(p) = self.ports.get_mut(a.0) {
                p.joined = Some(b);
                p.second = is_second;
            }
        }
        Ok((u32::from(seat.idx), ends))
    }

    /// Takes the second seat away: its index, if the port is one.
    pub(super) fn part(&mut self, id: PortId) -> Option<u32> {
        let p = self.port(id).filter(|p| p.second)?;
        let (seat, first) = (p.seat?, p.joined?);
        self.discard(id);
        if let Some(p) = self.ports.get_mut(first.0) {
            p.joined = None;
        }
        Some(u32::from(seat.idx))
    }
}

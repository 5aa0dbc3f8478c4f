//! Monitors: making them, and hanging them on what they watch.

use alloc::format;

use netvale_ring::port::{PortId, PortKind};
use netvale_wire::name::{PortFlags, PortSpec, RingSel};

use super::build::Plan;
use super::open::{Ask, chosen, slots};
use super::{DEFAULT_SLOTS, Domain, DomainError, MemSource, Result};

impl<M: MemSource> Domain<M> {
    /// Makes a monitor of a port that is open.
    pub(super) fn make_monitor(&mut self, ask: &Ask<'_>) -> Result<PortId> {
        let (spec, want, isolated) = (ask.spec, &ask.want, ask.isolated);
        let none = || {
            let name = spec.port_name();
            DomainError::NotFound(format!("{name}: no such port to monitor"))
        };
        let parent = self.watched(spec)?.ok_or_else(none)?;
        let p = self.port(parent).ok_or_else(none)?;
        let parent_name = p.name.clone();
        if p.kind == PortKind::Monitor {
            return Err(DomainError::Invalid("a monitor cannot be monitored".into()));
        }
        if p.owners.is_empty() {
            return Err(DomainError::Invalid(format!("{parent_name} is not open")));
        }
        let mut rings = PortSpec {
            flags: PortFlags::default(),
            ..spec.clone()
        };
        if parent_name != spec.port_name() && parent_name == spec.whole_name() {
            rings.rings = RingSel::All;
        }
        let (wtx, wrx) = chosen(p, &rings)?;
        let zcopy = spec.flags.zcopy_mon;
        let (mon_tx, mon_rx) = (spec.flags.mon_tx || zcopy, spec.flags.mon_rx || zcopy);
        if zcopy && (isolated || p.isolated) {
            return Err(DomainError::Unsupported(format!(
                "{parent_name}: zero-copy monitors need a region shared with the port"
            )));
        }
        let rings = u16::try_from(p.tx.len().max(p.rx.len())).unwrap_or(1);
        let like =
            p.rx.first()
                .or(p.tx.first())
                .map_or(DEFAULT_SLOTS, |r| r.slots);
        let kind = format!(
            "{}{}{}",
            if zcopy { "z" } else { "" },
            if mon_rx { "r" } else { "" },
            if mon_tx { "t" } else { "" }
        );
        let shared = zcopy.then_some(p.region);
        let name = self.free_name(&format!("{parent_name}/{kind}"));
        let tx = (1, slots(want.tx_slots, like).min(64));
        let rx = (rings, slots(want.rx_slots, like));
        let region = self.region_for(shared, isolated, tx, rx, want.extra_bufs)?;
        let port = self.build(Plan {
            name,
            kind: PortKind::Monitor,
            tx,
            rx,
            isolated,
            region,
            rx_bufs: true,
            arena: 0,
        })?;
        if let Some(m) = self.ports.get_mut(port.0) {
            m.watches = Some(parent);
            m.unnamed = true;
        }
        self.link_monitor(port, parent, zcopy, (mon_tx, &wtx), (mon_rx, &wrx));
        Ok(port)
    }

    /// The port that a monitor is to watch. The host's side of an interface on
    /// a switch is a port, which has no host rings.
    fn watched(&self, spec: &PortSpec) -> Result<Option<PortId>> {
        let whole = spec.whole_name();
        match self.find(&whole) {
            Some(port) if whole != spec.port_name() => Ok(Some(port)),
            _ => self.lookup(spec),
        }
    }

    fn link_monitor(
        &self,
        monitor: PortId,
        parent: PortId,
        zcopy: bool,
        tx: (bool, &[u16]),
        rx: (bool, &[u16]),
    ) {
        let (Some(m), Some(p)) = (self.port(monitor), self.port(parent)) else {
            return;
        };
        for (dir, is_tx, (on, which)) in [(&p.tx, true, tx), (&p.rx, false, rx)] {
            for &i in which.iter().filter(|_| on) {
                let (Some(ring), Some(mine)) = (dir.get(usize::from(i)), m.rx.get(usize::from(i)))
                else {
                    continue;
                };
                let (Some(watched), Some(tap)) =
                    (self.world.kring(ring.kring), self.world.kring(mine.kring))
                else {
                    continue;
                };
                tap.set_zcopy(zcopy);
                tap.set_next_monitor(is_tx, watched.monitors());
                watched.set_monitors(Some(mine.kring));
            }
        }
    }
}

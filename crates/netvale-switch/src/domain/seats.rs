//! Seats: which port has which place in which switch.

use alloc::format;

use netvale_ring::layout::SWITCH_PORTS;
use netvale_ring::port::{PortId, Seat};

use super::books::Ids;
use super::{Domain, DomainError, MemSource, Result, SwitchInfo};
use crate::switch::Switch;

impl<M: MemSource> Domain<M> {
    /// Finds or makes a switch.
    fn switch(&mut self, name: &str) -> Result<u16> {
        if let Some(&s) = self.switch_names.get(name) {
            return Ok(s);
        }
        let limit = self.config.state.switches;
        let id = self
            .switches
            .reserve()
            .ok_or_else(|| DomainError::NoSpace(format!("{limit} switches exist already")))?;
        let info = SwitchInfo {
            name: name.into(),
            idxs: Ids::new(SWITCH_PORTS),
        };
        self.switches.fill(id, info);
        let s = u16::try_from(id).unwrap_or(u16::MAX);
        self.switch_names.insert(name.into(), s);
        Ok(s)
    }

    /// Seats a port in a switch.
    pub(super) fn seat(&mut self, switch: &str, port: PortId) -> Result<Seat> {
        let s = self.switch(switch)?;
        let full = DomainError::NoSpace(format!("{switch} has {SWITCH_PORTS} ports already"));
        let idx = self
            .switches
            .get_mut(u32::from(s))
            .and_then(|i| i.idxs.take())
            .and_then(|i| u16::try_from(i).ok())
            .ok_or(full)?;
        let seat = Seat { switch: s, idx };
        if let Some(rec) = port.rec(&self.world) {
            rec.set_seat(Some(seat));
        }
        if let Some(sw) = Switch::at(&self.world, s) {
            sw.set_port(idx, Some(port));
        }
        if let Some(p) = self.ports.get_mut(port.0) {
            p.seat = Some(seat);
        }
        self.world.topology_changed();
        Ok(seat)
    }

    /// Takes a port out of its switch; the switch goes with its last port.
    pub(super) fn unseat(&mut self, port: PortId) -> Option<Seat> {
        let seat = self.ports.get_mut(port.0)?.seat.take()?;
        if let Some(rec) = port.rec(&self.world) {
            rec.set_seat(None);
        }
        if let Some(sw) = Switch::at(&self.world, seat.switch) {
            sw.set_port(seat.idx, None);
            sw.fdb().retain(|s| s.port == seat.idx);
        }
        let id = u32::from(seat.switch);
        if let Some(info) = self.switches.get_mut(id) {
            info.idxs.put(u32::from(seat.idx));
            if info.idxs.taken() == 0 {
                let name = core::mem::take(&mut info.name);
                self.switch_names.remove(&name);
                self.switches.release(id);
                if let Some(sw) = Switch::at(&self.world, seat.switch) {
                    sw.clear();
                }
            }
        }
        self.world.topology_changed();
        Some(seat)
    }
}

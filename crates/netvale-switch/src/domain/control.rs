//! Control operations on ports and switches.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use netvale_ring::layout::header;
use netvale_ring::port::{Opts, PortId, PortKind, Seat};
use netvale_wire::name::{self, PortSpec};

use super::{DEFAULT_MAX_FRAME, Domain, DomainError, MemSource, Result, Want};
use crate::switch::{LookupKind, Switch};

/// Epochs after which a silent station is forgotten.
const MAX_AGE: u8 = 8;

impl<M: MemSource> Domain<M> {
    /// Makes a persistent port that belongs to no switch yet.
    ///
    /// # Errors
    ///
    /// As netmap's VALE_NEWIF: bad or too long name, name taken, no space.
    pub fn new_interface(
        &mut self,
        name: &str,
        want: &Want,
        region: Option<u16>,
    ) -> Result<PortId> {
        check_interface_name(name)?;
        if self.find(name).is_some() || self.persistent(name).is_some() {
            return Err(DomainError::Exists(format!("{name} exists already")));
        }
        let port = self.make_plain(PortKind::Vale, region, name, want, false)?;
        if let Some(p) = self.ports.get_mut(port.0) {
            p.persistent = true;
        }
        Ok(port)
    }

    /// Deletes a persistent port.
    ///
    /// # Errors
    ///
    /// As netmap's VALE_DELIF: not found, not persistent, open or attached.
    pub fn delete_interface(&mut self, name: &str) -> Result<()> {
        let id = self.find(name).or_else(|| self.persistent(name));
        let id = id.ok_or_else(|| not_found(name))?;
        let p = self.port(id).ok_or_else(|| not_found(name))?;
        if !p.persistent || p.automatic {
            return Err(DomainError::Invalid(format!(
                "{name} is not a persistent port, or goes with its pipes"
            )));
        }
        if p.seat.is_some() || !p.owners.is_empty() || self.has_pipes(name) {
            return Err(DomainError::Busy(format!(
                "{name} is attached, open, or has pipes"
            )));
        }
        self.discard(id);
        Ok(())
    }

    /// Attaches a persistent port to a switch: `vale0:name`. It bears that
    /// name from then on. Returns its index.
    ///
    /// # Errors
    ///
    /// As netmap's VALE_ATTACH.
    pub fn attach(&mut self, spec: &PortSpec) -> Result<u32> {
        let (switch, port) = switch_and_port(spec)?;
        let full = spec.port_name();
        if self.find(&full).is_some() {
            return Err(DomainError::Busy(format!(
                "{full} is attached or open already"
            )));
        }
        let missing = || {
            DomainError::Missing(format!(
                "{port}: no persistent port or interface has that name"
            ))
        };
        let id = self.persistent(&port).ok_or_else(missing)?;
        let p = self.port(id).ok_or_else(missing)?;
        if !p.persistent {
            return Err(missing());
        }
        if p.seat.is_some() || !p.owners.is_empty() {
            return Err(DomainError::Busy(format!(
                "{port} is attached already, or open"
            )));
        }
        let seat = self.seat(&switch, id)?;
        self.rename(id, full);
        Ok(u32::from(seat.idx))
    }

    /// Detaches a persistent port from its switch. Returns the index it had.
    ///
    /// # Errors
    ///
    /// As netmap's VALE_DETACH.
    pub fn detach(&mut self, spec: &PortSpec) -> Result<u32> {
        let (_, port) = switch_and_port(spec)?;
        let full = spec.port_name();
        let id = self.find(&full).ok_or_else(|| not_found(&full))?;
        if !self.port(id).is_some_and(|p| p.persistent) {
            return Err(DomainError::Invalid(format!(
                "{full} was not attached, but opened"
            )));
        }
        if let Some(index) = self.part(id) {
            return Ok(index);
        }
        if self.port(id).is_some_and(|p| p.joined.is_some()) {
            return Err(DomainError::Busy(format!(
                "{port} is in a second switch, from which it must be detached first"
            )));
        }
        let seat = self.unseat(id).ok_or_else(|| not_found(&full))?;
        self.rename(id, port);
        if self
            .port(id)
            .is_some_and(|p| p.owners.is_empty() && !self.stays(p))
        {
            self.discard(id);
        }
        Ok(u32::from(seat.idx))
    }

    /// The persistent port of this name, attached to a switch or not.
    pub(super) fn persistent(&self, name: &str) -> Option<PortId> {
        let is = |full: &str| full.rsplit(':').next() == Some(name);
        let all = self.ports.iter();
        let mut all = all.filter(|(_, p)| p.persistent && !p.second);
        all.find(|(_, p)| is(&p.name)).map(|(id, _)| PortId(id))
    }

    fn rename(&mut self, id: PortId, name: String) {
        if let Some(p) = self.ports.get_mut(id.0) {
            self.names.remove(&p.name);
            p.name.clone_from(&name);
            self.names.insert(name, id);
        }
    }

    /// Sets the virtio-net header length of a port: 0, 10 or 12 bytes. With a
    /// header, frames may be as long as a buffer.
    ///
    /// # Errors
    ///
    /// As netmap's PORT_HDR_SET.
    pub fn set_vnet_hdr(&mut self, name: &str, len: u8) -> Result<()> {
        check_header_len(len)?;
        let id = self.find(name).ok_or_else(|| not_found(name))?;
        let p = self.port(id).filter(|p| p.kind == PortKind::Vale);
        if p.ok_or_else(|| not_found(name))?.joined.is_some() {
            return Err(DomainError::Busy(format!("{name} joins two switches")));
        }
        self.set_header_of(id, len);
        Ok(())
    }

    /// The virtio-net header length of a port.
    ///
    /// # Errors
    ///
    /// As netmap's PORT_HDR_GET: no such port, or no such pipe.
    pub fn vnet_hdr(&self, name: &str) -> Result<u8> {
        let id = self.find(name).or_else(|| self.persistent(name));
        let p = id.and_then(|id| self.port(id));
        p.map(|p| p.vnet_hdr).ok_or_else(|| {
            if name.contains(['{', '}']) {
                return DomainError::NoDevice(format!("{name}: no such pipe"));
            }
            not_found(name)
        })
    }

    pub(super) fn set_header_of(&mut self, id: PortId, len: u8) {
        let Some(p) = self.ports.get_mut(id.0) else {
            return;
        };
        p.vnet_hdr = len;
        p.max_frame = match self.regions.get(u32::from(p.region)) {
            Some(r) if len != 0 => r.map.geom.buf_size,
            _ => DEFAULT_MAX_FRAME,
        };
        if let Some(rec) = id.rec(&self.world) {
            rec.set_opts(Opts {
                vnet_hdr: len,
                max_frame: p.max_frame,
                ..rec.opts()
            });
        }
        self.world.topology_changed();
    }

    /// Chooses how a switch finds destinations.
    ///
    /// # Errors
    ///
    /// No such switch.
    pub fn set_lookup(&mut self, switch: &str, kind: LookupKind) -> Result<()> {
        let s = *self
            .switch_names
            .get(switch)
            .ok_or_else(|| not_found(switch))?;
        let sw = Switch::at(&self.world, s).ok_or_else(|| not_found(switch))?;
        sw.set_lookup(kind);
        self.world.topology_changed();
        Ok(())
    }

    /// Enters a station by hand: frames for `mac` (first byte lowest) go to
    /// that port.
    ///
    /// # Errors
    ///
    /// No such port, or not one of a switch.
    pub fn add_station(&mut self, mac: u64, port: &str) -> Result<()> {
        let Seat { switch, idx } = self
            .find(port)
            .and_then(|id| self.port(id))
            .and_then(|p| p.seat)
            .ok_or_else(|| not_found(port))?;
        let sw = Switch::at(&self.world, switch).ok_or_else(|| not_found(port))?;
        sw.fdb().learn(mac, idx, self.world.epoch());
        Ok(())
    }

    /// Time has passed: one eighth of the learning tables' ageing time.
    /// Stations not heard for eight calls are forgotten; how many.
    pub fn age(&mut self) -> usize {
        let epoch = self.world.epoch().wrapping_add(1) & 0xf;
        if let Some(w) = self.world.header(header::EPOCH) {
            w.store(u64::from(epoch), core::sync::atomic::Ordering::Relaxed);
        }
        let all: Vec<u32> = self.switches.iter().map(|(i, _)| i).collect();
        all.into_iter()
            .filter_map(|s| Switch::at(&self.world, u16::try_from(s).ok()?))
            .filter(|sw| sw.lookup() != LookupKind::Static)
            .map(|sw| {
                sw.fdb()
                    .retain(|st| epoch.wrapping_sub(st.epoch) & 0xf >= MAX_AGE)
            })
            .sum()
    }
}

/// Accepts the lengths that a virtio-net header can have.
pub(super) fn check_header_len(len: u8) -> Result<()> {
    if matches!(len, 0 | 10 | 12) {
        return Ok(());
    }
    Err(DomainError::Invalid(format!(
        "a virtio-net header has 0, 10 or 12 bytes, not {len}"
    )))
}

fn switch_and_port(spec: &PortSpec) -> Result<(String, String)> {
    match &spec.kind {
        name::PortKind::Vale { switch, port } if spec.pipe.is_none() => {
            Ok((switch.clone(), port.clone()))
        }
        other => Err(DomainError::Invalid(format!(
            "{other}: expected a port of a switch, as in vale0:name"
        ))),
    }
}

pub(super) fn check_interface_name(name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 15 || name.starts_with("vale") {
        return Err(DomainError::Invalid(format!(
            "{name}: a persistent port's name has 1 to 15 bytes and does not begin with vale"
        )));
    }
    let spec =
        PortSpec::from_nr_name(name).map_err(|e| DomainError::Invalid(format!("{name}: {e}")))?;
    if spec.pipe.is_some() || !matches!(spec.kind, name::PortKind::Nic { .. }) {
        return Err(DomainError::Invalid(format!(
            "{name}: not the name of an interface"
        )));
    }
    Ok(())
}

fn not_found(name: &str) -> DomainError {
    DomainError::NotFound(format!("{name}: no such port"))
}

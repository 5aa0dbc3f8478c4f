//! Registering: finding or making a port, its rings and their buffers.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use netvale_ring::MAX_SLOTS;
use netvale_ring::kring::KringId;
use netvale_ring::layout::RegionGeom;
use netvale_ring::pipe;
use netvale_ring::port::{Opts, PortId, PortKind};
use netvale_wire::name::{self, PipeRole, PortSpec, RingSel};

use super::build::Plan;
use super::control::check_header_len;
use super::{
    Bound, DEFAULT_SLOTS, Domain, DomainError, MAX_EXTRA, MAX_PIPE_RINGS, MAX_PIPES, MAX_RINGS,
    MemSource, Port, Registration, Result, RingInfo, RingState, Want,
};

impl<M: MemSource> Domain<M> {
    /// Binds `owner` to the port that `spec` names, making it if need be.
    ///
    /// # Errors
    ///
    /// As netmap's REGISTER; nothing is left behind, and the owner may try
    /// again.
    pub fn register(&mut self, owner: u16, spec: &PortSpec, want: &Want) -> Result<Registration> {
        let Some(o) = self.owners.get(u32::from(owner)) else {
            return Err(DomainError::Invalid(format!("no registration {owner}")));
        };
        if o.bound.is_some() {
            return Err(DomainError::Busy(
                "this registration has a port already".into(),
            ));
        }
        let isolated = o.isolated;
        let want = with_options(spec, want);
        if let Some(len) = want.vnet_hdr {
            check_header_len(len)?;
        }
        let spec = &self.with_shared(spec)?;
        let made;
        let port = if spec.flags.is_monitor() {
            made = true;
            self.make_monitor(spec, &want, isolated)?
        } else {
            let name = spec.port_name();
            match self.find(&name) {
                Some(port) => {
                    made = false;
                    port
                }
                None => {
                    made = true;
                    self.make_port(spec, &name, &want, isolated)?
                }
            }
        };
        let bound = self.bind(owner, port, spec, &want, isolated);
        self.world.topology_changed();
        if bound.is_err() && made {
            let peer = self.port(port).and_then(|p| p.peer);
            self.discard(port);
            if let Some(peer) = peer {
                self.discard(peer);
            }
        }
        bound
    }

    /// The specification with `@share:` turned into the region it means.
    fn with_shared(&self, spec: &PortSpec) -> Result<PortSpec> {
        let mut spec = spec.clone();
        if spec.opts.extmem.is_some() || spec.opts.offset.is_some() {
            return Err(DomainError::Unsupported(
                "options extmem and offset are not supported yet".into(),
            ));
        }
        if let Some(other) = spec.opts.share.take() {
            let invalid = |e: name::NameError| DomainError::Invalid(e.to_string());
            let name = PortSpec::parse(&other).map_err(invalid)?.port_name();
            let region = self
                .find(&name)
                .and_then(|p| self.port(p))
                .map(|p| p.region);
            let none =
                || DomainError::NotFound(format!("{name}: no such port to share memory with"));
            spec.mem_id = Some(region.ok_or_else(none)?);
        }
        Ok(spec)
    }

    fn bind(
        &mut self,
        owner: u16,
        port: PortId,
        spec: &PortSpec,
        want: &Want,
        isolated: bool,
    ) -> Result<Registration> {
        let gone = || DomainError::NotFound(format!("{}: no such port", spec.port_name()));
        let p = self.port(port).ok_or_else(gone)?;
        if p.isolated != isolated {
            let how = if p.isolated { "isolated" } else { "trusted" };
            return Err(DomainError::Busy(format!(
                "{} is open as {how} port",
                p.name
            )));
        }
        let hdr = want.vnet_hdr.unwrap_or(p.vnet_hdr);
        if hdr != 0 && !want.accepts_vnet_hdr {
            return Err(DomainError::NeedsHeader(format!(
                "{} has a virtio-net header of {hdr} bytes, which the program did not say it takes",
                p.name
            )));
        }
        let (tx, rx) = chosen(p, spec)?;
        for (rings, dir) in [(&tx, &p.tx), (&rx, &p.rx)] {
            for &i in rings {
                let r = &dir[usize::from(i)];
                if r.exclusive || (spec.flags.exclusive && r.users > 0) {
                    return Err(DomainError::Busy(format!(
                        "ring {i} of {} is in use",
                        p.name
                    )));
                }
            }
        }
        if let Some(len) = want.vnet_hdr {
            self.set_header_of(port, len);
        }
        let region = self.port(port).ok_or_else(gone)?.region;
        let nif = self.take_if(region)?;
        let extra = self.take_extra(region, owner, want.extra_bufs);
        self.write_nif(port, region, nif, &tx, &rx, extra.0);
        let exclusive = spec.flags.exclusive;
        let p = self.ports.get_mut(port.0).ok_or_else(gone)?;
        for (rings, dir) in [(&tx, &mut p.tx), (&rx, &mut p.rx)] {
            for &i in rings {
                let r = &mut dir[usize::from(i)];
                r.users += 1;
                r.exclusive |= exclusive;
            }
        }
        // Whoever keeps its buffers would miss those that another gave away.
        let first = p.owners.is_empty();
        p.owners.push(owner);
        if let Some(rec) = port.rec(&self.world) {
            let opts = rec.opts();
            rec.set_opts(Opts {
                gives_buffers: want.gives_buffers && (first || opts.gives_buffers),
                ..opts
            });
        }
        let bound = Bound {
            port,
            nif,
            tx: tx.clone(),
            rx: rx.clone(),
            extra: extra.1,
        };
        if let Some(r) = self.regions.get_mut(u32::from(region)) {
            r.users += 1;
        }
        if let Some(o) = self.owners.get_mut(u32::from(owner)) {
            o.bound = Some(bound);
        }
        self.registration(owner).ok_or_else(gone)
    }

    /// What a bound registration has.
    #[must_use]
    pub fn registration(&self, owner: u16) -> Option<Registration> {
        let o = self.owners.get(u32::from(owner))?;
        let b = o.bound.as_ref()?;
        let p = self.port(b.port)?;
        let r = self.regions.get(u32::from(p.region))?;
        let info = |dir: &[RingState], i: u16| {
            let ring = dir.get(usize::from(i))?;
            Some(RingInfo {
                kring: ring.kring,
                idx: i,
                ofs: r.map.geom.ring_ofs(ring.obj) as u64,
                slots: ring.slots,
            })
        };
        Some(Registration {
            owner,
            port: b.port,
            name: p.name.clone(),
            kind: p.kind,
            region: p.region,
            region_gen: r.generation,
            shared: r.map.shared,
            geom: r.map.geom,
            nif_ofs: r.map.geom.if_ofs(b.nif) as u64,
            tx_rings: u16::try_from(p.tx.len()).unwrap_or(0),
            rx_rings: u16::try_from(p.rx.len()).unwrap_or(0),
            tx: b.tx.iter().filter_map(|&i| info(&p.tx, i)).collect(),
            rx: b.rx.iter().filter_map(|&i| info(&p.rx, i)).collect(),
            vnet_hdr: p.vnet_hdr,
            extra_bufs: b.extra,
            isolated: p.isolated,
        })
    }

    /// Makes a port that nobody has open: of a switch, a pipe, or null.
    fn make_port(
        &mut self,
        spec: &PortSpec,
        name: &str,
        want: &Want,
        isolated: bool,
    ) -> Result<PortId> {
        if let Some(pipe) = &spec.pipe {
            return self.make_pipe(spec, pipe.role, name, want, isolated);
        }
        let kind = match &spec.kind {
            name::PortKind::Vale { port, .. } if self.persistent(port).is_some() => {
                return Err(DomainError::Invalid(format!(
                    "{port} is a persistent port: attach it to the switch first"
                )));
            }
            name::PortKind::Vale { .. } => PortKind::Vale,
            name::PortKind::Null { .. } => PortKind::Null,
            name::PortKind::Nic { name } => {
                return Err(DomainError::NotFound(format!(
                    "{name}: no persistent port has that name"
                )));
            }
            name::PortKind::Backend { kind, .. } => {
                return Err(DomainError::Unsupported(format!(
                    "{}: ports are not supported yet",
                    kind.prefix()
                )));
            }
        };
        let port = self.make_plain(kind, spec.mem_id, name, want, isolated)?;
        if let name::PortKind::Vale { switch, .. } = &spec.kind
            && let Err(e) = self.seat(switch, port)
        {
            self.discard(port);
            return Err(e);
        }
        Ok(port)
    }

    /// Makes a port that is linked to nothing yet.
    pub(super) fn make_plain(
        &mut self,
        kind: PortKind,
        region: Option<u16>,
        name: &str,
        want: &Want,
        isolated: bool,
    ) -> Result<PortId> {
        let tx = (
            count(want.tx_rings, 1, MAX_RINGS),
            slots(want.tx_slots, DEFAULT_SLOTS),
        );
        let rx = (
            count(want.rx_rings, 1, MAX_RINGS),
            slots(want.rx_slots, DEFAULT_SLOTS),
        );
        let region = self.region_for(region, isolated, tx, rx, want.extra_bufs)?;
        self.build(Plan {
            name: name.into(),
            kind,
            tx,
            rx,
            isolated,
            region,
            rx_bufs: true,
        })
    }

    /// Makes both ends of a pipe; the end that was asked for.
    fn make_pipe(
        &mut self,
        spec: &PortSpec,
        role: PipeRole,
        name: &str,
        want: &Want,
        isolated: bool,
    ) -> Result<PortId> {
        let peer_spec = PortSpec {
            pipe: spec.pipe.clone().map(|p| name::Pipe {
                role: p.role.peer(),
                ..p
            }),
            ..spec.clone()
        };
        if matches!(
            spec.rings,
            RingSel::Host | RingSel::HostOne(_) | RingSel::NicAndHost
        ) {
            return Err(DomainError::Invalid(format!(
                "{name}: a pipe has no host rings"
            )));
        }
        let parent = spec.kind.to_string();
        let siblings = self
            .ports
            .iter()
            .filter(|(_, p)| p.parent.as_deref() == Some(&parent))
            .count();
        if siblings / 2 >= MAX_PIPES {
            return Err(DomainError::Invalid(format!(
                "{parent} has {MAX_PIPES} pipes already"
            )));
        }
        let like = self.find(&parent).and_then(|p| self.port(p));
        let default = |dir: fn(&Port) -> &Vec<RingState>| {
            like.and_then(|p| dir(p).first())
                .map_or(DEFAULT_SLOTS, |r| r.slots)
        };
        let (dtx, drx) = (default(|p| &p.tx), default(|p| &p.rx));
        let mut tx = (
            count(want.tx_rings, 1, MAX_PIPE_RINGS),
            slots(want.tx_slots, dtx),
        );
        let mut rx = (
            count(want.rx_rings, 1, MAX_PIPE_RINGS),
            slots(want.rx_slots, drx),
        );
        if role == PipeRole::Slave {
            // The configuration is the master's.
            core::mem::swap(&mut tx, &mut rx);
        }
        let (master_tx, master_rx) = (tx, rx);
        let mut ends = vec![];
        for (end, tx, rx) in [
            (PipeRole::Master, master_tx, master_rx),
            (PipeRole::Slave, master_rx, master_tx),
        ] {
            let region = match self.region_for(spec.mem_id, isolated, tx, rx, want.extra_bufs) {
                Ok(region) => region,
                Err(e) => {
                    ends.iter().for_each(|&p| self.discard(p));
                    return Err(e);
                }
            };
            let s = if end == role {
                name.into()
            } else {
                peer_spec.port_name()
            };
            let built = self.build(Plan {
                name: s,
                kind: PortKind::Pipe,
                tx,
                rx,
                isolated,
                region,
                rx_bufs: isolated,
            });
            match built {
                Ok(port) => ends.push(port),
                Err(e) => {
                    ends.iter().for_each(|&p| self.discard(p));
                    return Err(e);
                }
            }
        }
        let (master, slave) = (ends[0], ends[1]);
        for (a, b) in [(master, slave), (slave, master)] {
            if let Some(p) = self.ports.get_mut(a.0) {
                p.peer = Some(b);
                p.parent = Some(parent.clone());
            }
            self.link_pipe(a, b);
        }
        Ok(if role == PipeRole::Master {
            master
        } else {
            slave
        })
    }

    /// Joins the TX rings of `a` with the RX rings of `b`.
    fn link_pipe(&self, a: PortId, b: PortId) {
        let (Some(a), Some(b)) = (self.port(a), self.port(b)) else {
            return;
        };
        for (t, r) in a.tx.iter().zip(&b.rx) {
            let (Some(tx), Some(rx)) = (self.world.kring(t.kring), self.world.kring(r.kring))
            else {
                continue;
            };
            tx.set_peer(Some(r.kring));
            rx.set_peer(Some(t.kring));
            pipe::init(tx, rx, u32::from(t.slots));
        }
    }

    /// Makes a monitor of a port that is open.
    fn make_monitor(&mut self, spec: &PortSpec, want: &Want, isolated: bool) -> Result<PortId> {
        let parent_name = spec.port_name();
        let parent = self.find(&parent_name).ok_or_else(|| {
            DomainError::NotFound(format!("{parent_name}: no such port to monitor"))
        })?;
        let p = self
            .port(parent)
            .ok_or_else(|| DomainError::NotFound(parent_name.clone()))?;
        if p.kind == PortKind::Monitor {
            return Err(DomainError::Invalid("a monitor cannot be monitored".into()));
        }
        if p.owners.is_empty() {
            return Err(DomainError::Invalid(format!("{parent_name} is not open")));
        }
        let (wtx, wrx) = chosen(
            p,
            &PortSpec {
                flags: name::PortFlags::default(),
                ..spec.clone()
            },
        )?;
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
        self.monitors_made += 1;
        let name = format!("{parent_name}/{kind}#{}", self.monitors_made);
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
        })?;
        if let Some(m) = self.ports.get_mut(port.0) {
            m.watches = Some(parent);
        }
        self.link_monitor(port, parent, zcopy, (mon_tx, &wtx), (mon_rx, &wrx));
        Ok(port)
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

    /// The region for a new port: the one asked for, the shared one, or for an
    /// isolated port one of its own.
    fn region_for(
        &mut self,
        asked: Option<u16>,
        isolated: bool,
        tx: (u16, u16),
        rx: (u16, u16),
        extra: u32,
    ) -> Result<u16> {
        if isolated {
            let rings = u32::from(tx.0) + u32::from(rx.0) + 2;
            let most = u32::from(tx.1.max(rx.1));
            let geom = RegionGeom::private(rings, most, extra.min(MAX_EXTRA));
            return self.make_region(geom, false);
        }
        match asked {
            None => self.global_region(),
            Some(super::GLOBAL_REGION) => self.global_region(),
            Some(id) => match self.regions.get(u32::from(id)) {
                Some(r) if r.map.shared.is_some() => Ok(id),
                _ => Err(DomainError::Invalid(format!("no memory region {id}"))),
            },
        }
    }

    /// Makes another shared region; its identifier is a `@N` of port names.
    ///
    /// # Errors
    ///
    /// [`DomainError::NoSpace`].
    pub fn new_region(&mut self, geom: RegionGeom) -> Result<u16> {
        self.global_region()?;
        self.make_region(geom, true)
    }
}

/// Rings that a specification binds.
fn chosen(p: &Port, spec: &PortSpec) -> Result<(Vec<u16>, Vec<u16>)> {
    let all =
        |rings: &[RingState]| (0..u16::try_from(rings.len()).unwrap_or(0)).collect::<Vec<_>>();
    let (mut tx, mut rx) = match spec.rings {
        RingSel::All => (all(&p.tx), all(&p.rx)),
        RingSel::One(i) => {
            let i = usize::from(i);
            if i >= p.tx.len() && i >= p.rx.len() {
                return Err(DomainError::Invalid(format!("{} has no ring {i}", p.name)));
            }
            // A side that has no such ring takes part with its first.
            let pick = |rings: &[RingState]| -> Vec<u16> {
                let i = if i < rings.len() { i } else { 0 };
                rings
                    .get(i)
                    .and(u16::try_from(i).ok())
                    .into_iter()
                    .collect()
            };
            (pick(&p.tx), pick(&p.rx))
        }
        RingSel::Host | RingSel::HostOne(_) | RingSel::NicAndHost => {
            return Err(DomainError::Invalid(format!(
                "{} has no host rings",
                p.name
            )));
        }
    };
    if spec.flags.rx_only {
        tx.clear();
    }
    if spec.flags.tx_only {
        rx.clear();
    }
    Ok((tx, rx))
}

/// The wishes, as amended by options inside the name (`@conf:`).
fn with_options(spec: &PortSpec, want: &Want) -> Want {
    let c = &spec.opts.conf;
    let slots = |asked: Option<u32>, otherwise: u16| {
        asked.map_or(otherwise, |n| u16::try_from(n).unwrap_or(u16::MAX))
    };
    Want {
        tx_rings: c.tx_rings.unwrap_or(want.tx_rings),
        rx_rings: c.rx_rings.unwrap_or(want.rx_rings),
        tx_slots: slots(c.tx_slots, want.tx_slots),
        rx_slots: slots(c.rx_slots, want.rx_slots),
        ..*want
    }
}

fn count(asked: u16, default: u16, most: u16) -> u16 {
    if asked == 0 { default } else { asked.min(most) }
}

fn slots(asked: u16, default: u16) -> u16 {
    let most = u16::try_from(MAX_SLOTS).unwrap_or(u16::MAX);
    if asked == 0 {
        default
    } else {
        asked.clamp(2, most)
    }
}

/// Rings of a port, for code that must not list one twice.
pub(super) fn krings_of(p: &Port) -> BTreeSet<KringId> {
    p.tx.iter().chain(&p.rx).map(|r| r.kring).collect()
}

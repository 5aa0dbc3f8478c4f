//! Registering: finding or making a port, its rings and their buffers.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use netvale_ring::MAX_SLOTS;
use netvale_ring::kring::KringId;
use netvale_ring::layout::RegionGeom;
use netvale_ring::port::{Opts, PortId, PortKind};
use netvale_wire::name::{self, PortSpec, RingSel};

use super::build::Plan;
use super::control::check_header_len;
use super::{
    Bound, DEFAULT_SLOTS, Domain, DomainError, MAX_RINGS, MemSource, Port, Registration, Result,
    RingInfo, RingState, Want,
};

impl<M: MemSource> Domain<M> {
    /// Binds `owner` to the port that `spec` names, making it if need be.
    ///
    /// # Errors
    ///
    /// As netmap's REGISTER; nothing is left behind, and the owner may try
    /// again.
    pub fn register(&mut self, owner: u16, spec: &PortSpec, want: &Want) -> Result<Registration> {
        let isolated = self.unbound(owner)?;
        let spec = &self.with_shared(spec)?;
        let ask = Ask::new(spec, want, isolated);
        if let Some(len) = ask.want.vnet_hdr {
            check_header_len(len)?;
        }
        let (port, made) = self.resolve(&ask)?;
        let bound = self.enter(owner, port, &ask);
        self.settle(port, made, bound)
    }

    /// Whether an owner, who must have no port yet, is isolated.
    pub(super) fn unbound(&self, owner: u16) -> Result<bool> {
        match self.owners.get(u32::from(owner)) {
            None => Err(DomainError::Invalid(format!("no registration {owner}"))),
            Some(o) if o.bound.is_some() => Err(DomainError::Busy(
                "this registration has a port already".into(),
            )),
            Some(o) => Ok(o.isolated),
        }
    }

    /// The port that is asked for, and whether it was made for this: if what
    /// follows fails, [`Domain::settle`] removes it again.
    pub(super) fn resolve(&mut self, ask: &Ask<'_>) -> Result<(PortId, bool)> {
        if let Some(id) = ask.spec.mem_id {
            self.known_region(id)?;
        }
        if ask.spec.flags.is_monitor() {
            return self.make_monitor(ask).map(|port| (port, true));
        }
        match self.lookup(ask.spec)? {
            Some(port) => Ok((port, false)),
            None => self.make_port(ask).map(|port| (port, true)),
        }
    }

    /// After the last step: a port made for nothing goes.
    pub(super) fn settle<T>(&mut self, port: PortId, made: bool, got: Result<T>) -> Result<T> {
        self.world.topology_changed();
        if made && got.is_err() {
            self.discard_whole(port);
        }
        got
    }

    /// The port that a specification names, if it exists. A persistent port
    /// has two names while it is attached to a switch.
    pub(super) fn lookup(&self, spec: &PortSpec) -> Result<Option<PortId>> {
        let name = spec.port_name();
        let found = match (&spec.kind, &spec.pipe) {
            (name::PortKind::Nic { name }, None) => {
                self.find(name).or_else(|| self.persistent(name))
            }
            _ => self.find(&name),
        };
        match found.and_then(|id| self.port(id)) {
            Some(p) if p.unnamed => Err(DomainError::Busy(format!(
                "a port that is no part of {spec} is called {name}"
            ))),
            Some(p) if p.joined.is_some() => {
                Err(DomainError::Busy(format!("{name} joins two switches")))
            }
            _ => Ok(found),
        }
    }

    /// A name that no port has, for one that no request shall find.
    pub(super) fn free_name(&mut self, stem: &str) -> String {
        loop {
            self.named += 1;
            let name = format!("{stem}#{}", self.named);
            if self.find(&name).is_none() {
                return name;
            }
        }
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

    /// Binds an owner to a port that exists.
    pub(super) fn enter(
        &mut self,
        owner: u16,
        port: PortId,
        ask: &Ask<'_>,
    ) -> Result<Registration> {
        let (spec, want) = (ask.spec, &ask.want);
        let gone = || DomainError::NotFound(format!("{}: no such port", spec.port_name()));
        let p = self.port(port).ok_or_else(gone)?;
        if p.isolated != ask.isolated {
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
        let region = p.region;
        let nif = self.take_if(region)?;
        if let Some(len) = want.vnet_hdr {
            self.set_header_of(port, len);
        }
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
        self.enter_region(region, owner);
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
        Some(Registration {
            owner,
            nif_ofs: r.map.geom.if_ofs(b.nif) as u64,
            tx: ring_infos(r.map.geom, &p.tx, &b.tx),
            rx: ring_infos(r.map.geom, &p.rx, &b.rx),
            extra_bufs: b.extra,
            ..self.outline(b.port)?
        })
    }

    /// A port as if a registration of number 0 had all its rings.
    pub(super) fn outline(&self, port: PortId) -> Option<Registration> {
        let p = self.port(port)?;
        let r = self.regions.get(u32::from(p.region))?;
        let (tx, rx) = (all_of(&p.tx), all_of(&p.rx));
        Some(Registration {
            owner: 0,
            port,
            name: p.name.clone(),
            kind: p.kind,
            region: p.region,
            region_gen: r.generation,
            shared: r.map.shared,
            geom: r.map.geom,
            nif_ofs: 0,
            tx_rings: hardware(p).0,
            rx_rings: hardware(p).1,
            host_rings: p.host,
            tx: ring_infos(r.map.geom, &p.tx, &tx),
            rx: ring_infos(r.map.geom, &p.rx, &rx),
            vnet_hdr: p.vnet_hdr,
            extra_bufs: 0,
            isolated: p.isolated,
        })
    }

    /// Geometry of a port; one that does not exist is made and removed again,
    /// as netmap's PORT_INFO_GET does. Owner and interface of the answer are 0.
    ///
    /// # Errors
    ///
    /// As [`Domain::register`], but a port that somebody has for himself, or
    /// with headers, may be looked at.
    pub fn info(&mut self, spec: &PortSpec) -> Result<Registration> {
        let spec = &self.with_shared(spec)?;
        self.look_at(&Ask::new(spec, &Want::default(), false))
    }

    pub(super) fn look_at(&mut self, ask: &Ask<'_>) -> Result<Registration> {
        let (port, made) = self.resolve(ask)?;
        let seen = self.outline(port).ok_or_else(|| {
            DomainError::NotFound(format!("{}: no such port", ask.spec.port_name()))
        });
        let fits = seen.and_then(|seen| {
            let p = self.port(port);
            p.map_or(Ok(()), |p| chosen(p, ask.spec).map(|_| ()))
                .map(|()| seen)
        });
        if made {
            self.discard_whole(port);
        }
        fits
    }

    /// Makes a port that nobody has open: of a switch, a pipe, or null.
    fn make_port(&mut self, ask: &Ask<'_>) -> Result<PortId> {
        let (spec, name) = (ask.spec, ask.spec.port_name());
        if let Some(pipe) = &spec.pipe {
            return self.make_pipe(ask, pipe.role, &name);
        }
        let kind = match &spec.kind {
            name::PortKind::Vale { port, .. } if self.persistent(port).is_some() => {
                return Err(DomainError::Invalid(format!(
                    "{port} is a persistent port: attach it to the switch first"
                )));
            }
            name::PortKind::Vale { port, .. } if (ask.is_interface)(port) => {
                return Err(DomainError::Invalid(format!(
                    "{port} is a network interface: attach it to the switch first"
                )));
            }
            name::PortKind::Vale { .. } => PortKind::Vale,
            name::PortKind::Null { .. } => PortKind::Null,
            name::PortKind::Nic { name } => {
                return Err(DomainError::NotFound(format!(
                    "{name}: no persistent port or interface has that name"
                )));
            }
            name::PortKind::Backend { kind, .. } => {
                return Err(DomainError::Unsupported(format!(
                    "{}: ports are not supported yet",
                    kind.prefix()
                )));
            }
        };
        let port = self.make_plain(kind, spec.mem_id, &name, &ask.want, ask.isolated)?;
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
            arena: 0,
        })
    }
}

/// What is asked for, worked out.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) spec: &'a PortSpec,
    pub(super) want: Want,
    pub(super) isolated: bool,
    /// Whether the system has a network interface of this name.
    pub(super) is_interface: &'a dyn Fn(&str) -> bool,
}

impl<'a> Ask<'a> {
    pub(super) fn new(spec: &'a PortSpec, want: &Want, isolated: bool) -> Self {
        Self {
            spec,
            want: with_options(spec, want),
            isolated,
            is_interface: &|_| false,
        }
    }
}

pub(super) fn all_of(rings: &[RingState]) -> Vec<u16> {
    (0..u16::try_from(rings.len()).unwrap_or(0)).collect()
}

fn ring_infos(geom: RegionGeom, rings: &[RingState], which: &[u16]) -> Vec<RingInfo> {
    let info = |&i: &u16| {
        let ring = rings.get(usize::from(i))?;
        Some(RingInfo {
            kring: ring.kring,
            idx: i,
            ofs: geom.ring_ofs(ring.obj) as u64,
            slots: ring.slots,
        })
    };
    which.iter().filter_map(info).collect()
}

/// TX and RX rings that are no host rings.
fn hardware(p: &Port) -> (u16, u16) {
    let count = |rings: &[RingState], host: u16| {
        let all = u16::try_from(rings.len()).unwrap_or(0);
        all.saturating_sub(host)
    };
    (count(&p.tx, p.host[0]), count(&p.rx, p.host[1]))
}

/// Rings that a specification binds.
pub(super) fn chosen(p: &Port, spec: &PortSpec) -> Result<(Vec<u16>, Vec<u16>)> {
    let (hw_tx, hw_rx) = hardware(p);
    let [host_tx, host_rx] = p.host;
    let host = |i: u16, hw: u16| hw + i;
    let no_host = || DomainError::Invalid(format!("{} has no host rings", p.name));
    // A side that has no such ring takes part with its first.
    let pick = |i: u16, n: u16| -> Vec<u16> {
        let i = if i < n { i } else { 0 };
        (i < n).then_some(i).into_iter().collect()
    };
    let (mut tx, mut rx) = match spec.rings {
        // A monitor has a ring for each of the port's, host rings or not.
        RingSel::Host | RingSel::HostOne(_) | RingSel::NicAndHost
            if p.kind == PortKind::Monitor =>
        {
            (all_of(&p.tx), all_of(&p.rx))
        }
        RingSel::All => ((0..hw_tx).collect(), (0..hw_rx).collect()),
        RingSel::One(i) if i >= hw_tx && i >= hw_rx => {
            return Err(DomainError::Invalid(format!("{} has no ring {i}", p.name)));
        }
        RingSel::One(i) => (pick(i, hw_tx), pick(i, hw_rx)),
        _ if host_tx == 0 && host_rx == 0 => return Err(no_host()),
        RingSel::Host => (
            (0..host_tx).map(|i| host(i, hw_tx)).collect(),
            (0..host_rx).map(|i| host(i, hw_rx)).collect(),
        ),
        RingSel::HostOne(i) if i >= host_tx && i >= host_rx => {
            return Err(DomainError::Invalid(format!(
                "{} has no host ring {i}",
                p.name
            )));
        }
        RingSel::HostOne(i) => {
            let of = |n, hw| pick(i, n).into_iter().map(|i| host(i, hw)).collect();
            (of(host_tx, hw_tx), of(host_rx, hw_rx))
        }
        RingSel::NicAndHost => (all_of(&p.tx), all_of(&p.rx)),
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

pub(super) fn count(asked: u16, default: u16, most: u16) -> u16 {
    if asked == 0 { default } else { asked.min(most) }
}

pub(super) fn slots(asked: u16, default: u16) -> u16 {
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

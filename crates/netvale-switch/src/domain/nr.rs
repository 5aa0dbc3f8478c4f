//! Registering in netmap's own terms: what each request means, and which error
//! a program of netmap's gets when.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use netvale_ring::layout::RegionGeom;
use netvale_ring::offsets::{self, Offsets as RingOffsets};
use netvale_ring::port::{PortId, PortKind};
use netvale_wire::abi::{NM_BDG_NAME, mode, regflags};
use netvale_wire::name::{self, NameError, PortFlags, PortSpec, RingSel};

use super::build::Plan;
use super::control::check_header_len;
use super::open::{Ask, chosen, slots};
use super::{
    DEFAULT_SLOTS, Domain, DomainError, MAX_PIPE_RINGS, MemSource, Registration, Result, RingState,
    Want,
};

/// A registration as a netmap request says it.
#[derive(Debug, Clone, Copy)]
pub struct NrBind<'a> {
    /// The name in the request's header.
    pub name: &'a str,
    /// What to bind: one of [`mode`].
    pub mode: u32,
    /// Ring, for the modes that bind one.
    pub ringid: u16,
    /// Bits of [`regflags`]; others are ignored.
    pub flags: u64,
    /// Region; 0 for the port's usual one.
    pub mem_id: u16,
    /// The rest. That headers are accepted may be said here or in the flags.
    pub want: Want,
    /// Where data begins in buffers.
    pub offsets: Option<Offsets>,
}

/// netmap's option OFFSETS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offsets {
    /// Largest offset, bytes.
    pub max: u64,
    /// Offset of each slot at first, bytes.
    pub initial: u64,
    /// Bits of a slot's pointer that hold it; 0 for all 64.
    pub bits: u32,
}

impl Offsets {
    /// What the rings are to be told, if it makes sense for such buffers.
    fn check(&self, geom: RegionGeom) -> Result<Wanted> {
        let mask = match self.bits {
            0 | 64 => u64::MAX,
            bits @ 1..64 => (1 << bits) - 1,
            bits => {
                return Err(DomainError::Invalid(format!(
                    "an offset has at most 64 bits, not {bits}"
                )));
            }
        };
        let Self { max, initial, .. } = *self;
        let small = |n: u64| u32::try_from(n).ok().filter(|&n| n <= geom.buf_size);
        match (small(max), small(initial)) {
            (Some(most), Some(first)) if max <= mask && initial <= max => Ok(Wanted {
                offsets: RingOffsets::new(mask, most),
                initial: first,
            }),
            _ => Err(DomainError::Invalid(format!(
                "offsets up to {max}, at first {initial}, do not fit in {mask:#x} and in \
                 buffers of {} bytes",
                geom.buf_size
            ))),
        }
    }
}

/// Offsets as the engine knows them, checked.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    offsets: RingOffsets,
    initial: u32,
}

impl<M: MemSource> Domain<M> {
    /// Binds `owner` to the port that a netmap request means, making it if
    /// need be. `is_interface`: whether the system has a network interface of
    /// this name.
    ///
    /// # Errors
    ///
    /// As netmap's REGISTER, in its order; nothing is left behind, and the
    /// owner may try again.
    pub fn bind(
        &mut self,
        owner: u16,
        nr: &NrBind<'_>,
        is_interface: &dyn Fn(&str) -> bool,
    ) -> Result<Registration> {
        let isolated = self.unbound(owner)?;
        let spec = self.read(nr)?;
        let ask = ask(nr, &spec, isolated, is_interface);
        if let Some(len) = ask.want.vnet_hdr {
            check_header_len(len)?;
        }
        let (port, made) = self.resolve_nr(nr, &ask)?;
        let bound = check_mode(nr.mode)
            .and_then(|()| self.check_offsets(port, nr, &spec))
            .and_then(|wanted| {
                let bound = self.enter(owner, port, &ask)?;
                self.set_offsets(&bound, wanted);
                Ok(bound)
            });
        self.settle(port, made, bound)
    }

    /// Geometry of a port, as [`Domain::info`], in netmap's terms.
    ///
    /// # Errors
    ///
    /// As [`Domain::bind`].
    pub fn describe(
        &mut self,
        nr: &NrBind<'_>,
        is_interface: &dyn Fn(&str) -> bool,
    ) -> Result<Registration> {
        let spec = self.read(nr)?;
        let ask = ask(nr, &spec, false, is_interface);
        check_mode(nr.mode)?;
        if nr.mode != mode::NULL {
            self.check_watched(&ask)?;
            return self.look_at(&ask);
        }
        let port = self.make_null(nr, &ask)?;
        let seen = self.outline(port);
        self.discard(port);
        seen.ok_or_else(|| DomainError::NotFound(nr.name.to_owned()))
    }

    /// Attaches a persistent port to a switch: [`Domain::attach`] by the name
    /// in a request.
    ///
    /// # Errors
    ///
    /// As netmap's VALE_ATTACH.
    pub fn attach_named(&mut self, name: &str) -> Result<u32> {
        let spec = switch_port(name, DomainError::NoSpace)?;
        self.attach(&spec)
    }

    /// Undoes [`Domain::attach_named`].
    ///
    /// # Errors
    ///
    /// As netmap's VALE_DETACH.
    pub fn detach_named(&mut self, name: &str) -> Result<u32> {
        let spec = switch_port(name, DomainError::NotFound)?;
        self.detach(&spec)
    }

    /// The name as a specification, after what netmap checks before it.
    fn read(&self, nr: &NrBind<'_>) -> Result<PortSpec> {
        if nr.mem_id != 0 {
            self.known_region(nr.mem_id)?;
        }
        let mem_id = (nr.mem_id != 0).then_some(nr.mem_id);
        let (spec, rings) = match nr.mode {
            mode::NULL if mem_id.is_none() => {
                return Err(DomainError::Invalid(
                    "a port without a device needs a memory region".into(),
                ));
            }
            mode::NULL => {
                let name = nr.name.to_owned();
                (PortSpec::new(name::PortKind::Null { name }), RingSel::All)
            }
            mode::PIPE_MASTER | mode::PIPE_SLAVE => {
                return Err(DomainError::Invalid(
                    "pipes are named, the modes for them are of the old interface".into(),
                ));
            }
            other => {
                let spec = PortSpec::from_nr_name(nr.name).map_err(|e| refused(nr.name, &e))?;
                let rings = match other {
                    mode::SW => RingSel::Host,
                    mode::NIC_SW => RingSel::NicAndHost,
                    mode::ONE_NIC => RingSel::One(nr.ringid),
                    mode::ONE_SW => RingSel::HostOne(nr.ringid),
                    _ => RingSel::All,
                };
                if spec.pipe.is_some() {
                    check_mode(other)?;
                }
                (spec, rings)
            }
        };
        Ok(PortSpec {
            rings,
            flags: PortFlags::from_bits(nr.flags),
            mem_id,
            ..spec
        })
    }

    fn resolve_nr(&mut self, nr: &NrBind<'_>, ask: &Ask<'_>) -> Result<(PortId, bool)> {
        if nr.mode == mode::NULL {
            return self.make_null(nr, ask).map(|port| (port, true));
        }
        self.check_watched(ask)?;
        self.resolve(ask)
    }

    /// What is to be monitored must be open. An absent port of a switch or
    /// pipe could be made, so it counts as one that is not open.
    fn check_watched(&self, ask: &Ask<'_>) -> Result<()> {
        let spec = ask.spec;
        if !spec.flags.is_monitor() || self.lookup(spec)?.is_some() {
            return Ok(());
        }
        let name = spec.port_name();
        match &spec.kind {
            name::PortKind::Nic { name } if spec.pipe.is_none() && !(ask.is_interface)(name) => {
                Err(DomainError::NotFound(format!("{name}: no such port")))
            }
            _ => Err(DomainError::Invalid(format!("{name} is not open"))),
        }
    }

    /// A port without a device: each request makes one of its own, and it may
    /// have no rings at all.
    fn make_null(&mut self, nr: &NrBind<'_>, ask: &Ask<'_>) -> Result<PortId> {
        let want = &ask.want;
        if want.tx_rings.max(want.rx_rings) > MAX_PIPE_RINGS {
            return Err(DomainError::NoSpace(format!(
                "an interface object has room for {MAX_PIPE_RINGS} rings of each direction"
            )));
        }
        let tx = (want.tx_rings, slots(want.tx_slots, DEFAULT_SLOTS));
        let rx = (want.rx_rings, slots(want.rx_slots, DEFAULT_SLOTS));
        let region = self.region_for(ask.spec.mem_id, ask.isolated, tx, rx, want.extra_bufs)?;
        let name = self.free_name(&format!("null:{}", nr.name));
        let port = self.build(Plan {
            name,
            kind: PortKind::Null,
            tx,
            rx,
            isolated: ask.isolated,
            region,
            rx_bufs: true,
            arena: 0,
        })?;
        if let Some(p) = self.ports.get_mut(port.0) {
            p.unnamed = true;
        }
        Ok(port)
    }

    /// Offsets that the rings of a request can be given. Rings that others use
    /// must have as many bits and reach as far already.
    fn check_offsets(
        &self,
        port: PortId,
        nr: &NrBind<'_>,
        spec: &PortSpec,
    ) -> Result<Option<Wanted>> {
        let (Some(offsets), Some(p)) = (nr.offsets, self.port(port)) else {
            return Ok(None);
        };
        if spec.flags.zcopy_mon {
            return Err(DomainError::Unsupported(format!(
                "{}: a monitor that exchanges buffers takes offsets as they come",
                p.name
            )));
        }
        let wanted = offsets.check(self.layout(p.region)?.geom)?;
        let (tx, rx) = chosen(p, spec)?;
        let rings = |dir: &[RingState], which: &[u16]| {
            let of = |&i: &u16| dir.get(usize::from(i)).copied();
            which.iter().filter_map(of).collect::<Vec<_>>()
        };
        for ring in rings(&p.tx, &tx).into_iter().chain(rings(&p.rx, &rx)) {
            let Some(kring) = self.world.kring(ring.kring).filter(|_| ring.users > 0) else {
                continue;
            };
            let (has, wants) = (kring.offsets(), wanted.offsets);
            if wants.mask() & !has.mask() != 0 || has.max() < wants.max() {
                return Err(DomainError::Busy(format!(
                    "{}: its rings are in use with other offsets",
                    p.name
                )));
            }
        }
        Ok(Some(wanted))
    }

    /// Gives the rings of a new registration their offsets, or takes away those
    /// of who had them before; rings that others use keep what they have.
    fn set_offsets(&self, bound: &Registration, wanted: Option<Wanted>) {
        let Some(p) = self.port(bound.port) else {
            return;
        };
        let Some(region) = self.regions.get(u32::from(p.region)) else {
            return;
        };
        for (dir, rings) in [(&p.tx, &bound.tx), (&p.rx, &bound.rx)] {
            for info in rings {
                let users = dir.get(usize::from(info.idx)).map_or(0, |r| r.users);
                let ofs = usize::try_from(info.ofs).unwrap_or(usize::MAX);
                let ring = region.map.ring(ofs, u32::from(info.slots));
                let kring = self.world.kring(info.kring);
                let (Some(ring), Some(kring), 1) = (ring, kring, users) else {
                    continue;
                };
                if let Some(wanted) = wanted {
                    offsets::enable(&self.world, kring, ring, wanted.offsets, 0);
                    offsets::fill(kring, ring, wanted.initial);
                } else if kring.has_offsets() {
                    offsets::fill(kring, ring, 0);
                    offsets::enable(&self.world, kring, ring, RingOffsets::NONE, 0);
                }
            }
        }
    }

    /// The largest offset of a registration's rings; `None` if they have none.
    #[must_use]
    pub fn largest_offset(&self, owner: u16) -> Option<u32> {
        let bound = self.registration(owner)?;
        let rings = bound.tx.iter().chain(&bound.rx);
        let offsets = rings.filter_map(|r| Some(self.world.kring(r.kring)?.offsets()));
        offsets.filter(|o| !o.is_none()).map(RingOffsets::max).min()
    }
}

fn ask<'a>(
    nr: &NrBind<'_>,
    spec: &'a PortSpec,
    isolated: bool,
    is_interface: &'a dyn Fn(&str) -> bool,
) -> Ask<'a> {
    let accepts = nr.flags & regflags::ACCEPT_VNET_HDR != 0;
    Ask {
        spec,
        want: Want {
            accepts_vnet_hdr: accepts || nr.want.accepts_vnet_hdr,
            ..nr.want
        },
        isolated,
        is_interface,
    }
}

fn check_mode(mode: u32) -> Result<()> {
    match mode {
        mode::ALL_NIC | mode::SW | mode::NIC_SW | mode::ONE_NIC | mode::NULL | mode::ONE_SW => {
            Ok(())
        }
        other => Err(DomainError::Invalid(format!("no mode has number {other}"))),
    }
}

/// A name of a switch's port; `bad`: the error if no switch has such a name.
fn switch_port(name: &str, bad: fn(String) -> DomainError) -> Result<PortSpec> {
    if !name.starts_with(NM_BDG_NAME) {
        return Err(DomainError::Invalid(format!(
            "{name}: a switch's name begins with {NM_BDG_NAME}"
        )));
    }
    PortSpec::from_nr_name(name).map_err(|e| bad(format!("{name}: {e}")))
}

/// The error of a name that nothing can have.
fn refused(name: &str, e: &NameError) -> DomainError {
    let say = format!("{name}: {e}");
    let brace = name.rfind('{').or_else(|| name.rfind('}'));
    match brace {
        Some(at) if at == 0 || at + 1 == name.len() => DomainError::Invalid(say),
        _ if name.contains(char::is_control) => DomainError::Invalid(say),
        _ if name.starts_with(NM_BDG_NAME) => DomainError::NoSpace(say),
        _ => DomainError::NotFound(say),
    }
}

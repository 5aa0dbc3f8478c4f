//! Pipes: both ends at once, and the port they belong to.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use netvale_ring::pipe;
use netvale_ring::port::{PortId, PortKind};
use netvale_wire::name::{self, PipeRole, PortSpec, RingSel};

use super::build::Plan;
use super::control::check_interface_name;
use super::open::{Ask, count, slots};
use super::{
    DEFAULT_SLOTS, Domain, DomainError, MAX_PIPE_RINGS, MAX_PIPES, MemSource, Port, Result,
    RingState, Want,
};

impl<M: MemSource> Domain<M> {
    /// Makes both ends of a pipe; the end that was asked for. What it belongs
    /// to need not exist: an interface comes into being, as a persistent port
    /// that stays as long as its pipes; any other parent is only a name.
    pub(super) fn make_pipe(
        &mut self,
        ask: &Ask<'_>,
        role: PipeRole,
        name: &str,
    ) -> Result<PortId> {
        let spec = ask.spec;
        if matches!(
            spec.rings,
            RingSel::Host | RingSel::HostOne(_) | RingSel::NicAndHost
        ) {
            return Err(DomainError::Invalid(format!(
                "{name}: a pipe has no host rings"
            )));
        }
        let above = spec.parent().unwrap_or_else(|| spec.clone());
        let parent = above.port_name();
        let ends = self.ports.iter().map(|(_, p)| p);
        let mut ends = ends.filter(|p| p.parent.as_deref() == Some(&parent));
        let sibling = ends.next().map(|p| (p.region, p.isolated));
        if sibling.map_or(0, |_| ends.count() + 1) / 2 >= MAX_PIPES {
            return Err(DomainError::Invalid(format!(
                "{parent} has {MAX_PIPES} pipes already"
            )));
        }
        let root = match &spec.kind {
            name::PortKind::Nic { name } => Some(name.clone()),
            _ => None,
        };
        if let Some(root) = &root {
            self.make_root(root, ask)?;
        }
        let like = self.lookup(&above)?;
        let home = like
            .and_then(|id| self.port(id))
            .map(|p| (p.region, p.isolated))
            .or(sibling)
            .and_then(|(region, isolated)| (!isolated).then_some(region));
        let place = Place {
            slots: self.slots_like(like),
            region: home.or(spec.mem_id),
            parent,
            root,
        };
        let made = self.make_ends(ask, role, name, &place);
        if made.is_err()
            && let Some(root) = &place.root
        {
            self.sweep_root(root);
        }
        made
    }

    /// Slots of the first rings of a port, TX and RX.
    fn slots_like(&self, like: Option<PortId>) -> (u16, u16) {
        let like = like.and_then(|id| self.port(id));
        let of = |dir: fn(&Port) -> &Vec<RingState>| {
            like.and_then(|p| dir(p).first())
                .map_or(DEFAULT_SLOTS, |r| r.slots)
        };
        (of(|p| &p.tx), of(|p| &p.rx))
    }

    /// The persistent port that pipes of this name belong to. An interface of
    /// the system is one, and an isolated pipe does without.
    fn make_root(&mut self, name: &str, ask: &Ask<'_>) -> Result<()> {
        if ask.isolated || self.persistent(name).is_some() || (ask.is_interface)(name) {
            return Ok(());
        }
        check_interface_name(name)?;
        let want = Want::default();
        let region = ask.spec.mem_id;
        let id = self.make_plain(PortKind::Vale, region, name, &want, false)?;
        if let Some(p) = self.ports.get_mut(id.0) {
            p.persistent = true;
            p.automatic = true;
            p.root = Some(name.into());
        }
        Ok(())
    }

    /// Whether a port stays when nobody has it open.
    pub(super) fn stays(&self, p: &Port) -> bool {
        let name = p.root.as_deref().unwrap_or_default();
        p.persistent && (!p.automatic || p.seat.is_some() || self.has_pipes(name))
    }

    /// Whether pipes belong to the interface, or persistent port, of this name.
    pub(super) fn has_pipes(&self, root: &str) -> bool {
        let mut all = self.ports.iter().map(|(_, p)| p);
        all.any(|p| p.kind == PortKind::Pipe && p.root.as_deref() == Some(root))
    }

    /// Removes the persistent port that came with pipes, if it is alone.
    pub(super) fn sweep_root(&mut self, name: &str) {
        let root = self.persistent(name);
        let alone = root
            .and_then(|id| self.port(id))
            .is_some_and(|p| p.automatic && p.owners.is_empty() && !self.stays(p));
        if alone && let Some(id) = root {
            self.discard(id);
        }
    }

    /// Removes a port, a pipe with both its ends.
    pub(super) fn discard_whole(&mut self, id: PortId) {
        let p = self.port(id);
        let (peer, root) = p.map_or((None, None), |p| (p.peer, p.root.clone()));
        self.discard(id);
        if let Some(peer) = peer {
            self.discard(peer);
        }
        if let Some(root) = root {
            self.sweep_root(&root);
        }
    }

    fn make_ends(
        &mut self,
        ask: &Ask<'_>,
        role: PipeRole,
        name: &str,
        place: &Place,
    ) -> Result<PortId> {
        let (want, isolated) = (&ask.want, ask.isolated);
        let mut tx = (
            count(want.tx_rings, 1, MAX_PIPE_RINGS),
            slots(want.tx_slots, place.slots.0),
        );
        let mut rx = (
            count(want.rx_rings, 1, MAX_PIPE_RINGS),
            slots(want.rx_slots, place.slots.1),
        );
        if role == PipeRole::Slave {
            // The configuration is the master's.
            core::mem::swap(&mut tx, &mut rx);
        }
        let (peer_name, peer_unnamed) = self.name_of_peer(ask.spec);
        let mut ends = vec![];
        for (end, tx, rx) in [(PipeRole::Master, tx, rx), (PipeRole::Slave, rx, tx)] {
            let this = end == role;
            let plan = |region| Plan {
                name: String::from(if this { name } else { &peer_name }),
                kind: PortKind::Pipe,
                tx,
                rx,
                isolated,
                region,
                rx_bufs: isolated,
                arena: 0,
            };
            let built = self
                .region_for(place.region, isolated, tx, rx, want.extra_bufs)
                .and_then(|region| self.build(plan(region)));
            match built {
                Ok(port) => ends.push((port, !this && peer_unnamed)),
                Err(e) => {
                    ends.iter().for_each(|&(p, _)| self.discard(p));
                    return Err(e);
                }
            }
        }
        let (master, slave) = (ends[0], ends[1]);
        for ((a, unnamed), (b, _)) in [(master, slave), (slave, master)] {
            if let Some(p) = self.ports.get_mut(a.0) {
                p.peer = Some(b);
                p.parent = Some(place.parent.clone());
                p.root.clone_from(&place.root);
                p.unnamed = unnamed;
            }
            link_pipe(self, a, b);
        }
        Ok(match role {
            PipeRole::Master => master.0,
            PipeRole::Slave => slave.0,
        })
    }

    /// What the other end is called, and whether that is made up: braces in
    /// names can be such that no request means the other end.
    fn name_of_peer(&mut self, spec: &PortSpec) -> (String, bool) {
        let pipe = spec.pipe.clone().map(|p| name::Pipe {
            role: p.role.peer(),
            ..p
        });
        let peer = PortSpec {
            pipe,
            ..PortSpec::new(spec.kind.clone())
        };
        let name = peer.port_name();
        if PortSpec::from_nr_name(&name) == Ok(peer) && self.find(&name).is_none() {
            return (name, false);
        }
        (self.free_name(&name), true)
    }
}

/// What a new pipe takes from what it belongs to.
struct Place {
    /// Slots of a TX and an RX ring.
    slots: (u16, u16),
    region: Option<u16>,
    parent: String,
    root: Option<String>,
}

/// Joins the TX rings of `a` with the RX rings of `b`.
pub(super) fn link_pipe<M: MemSource>(domain: &Domain<M>, a: PortId, b: PortId) {
    let (Some(a), Some(b)) = (domain.port(a), domain.port(b)) else {
        return;
    };
    for (t, r) in a.tx.iter().zip(&b.rx) {
        let world = &domain.world;
        let (Some(tx), Some(rx)) = (world.kring(t.kring), world.kring(r.kring)) else {
            continue;
        };
        tx.set_peer(Some(r.kring));
        rx.set_peer(Some(t.kring));
        pipe::init(tx, rx, u32::from(t.slots));
    }
}

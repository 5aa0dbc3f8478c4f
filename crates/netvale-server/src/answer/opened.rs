//! Devices that clients have open: `tap:t0`, `netmap:eth0`, `netmap:eth0^`.
//!
//! The client's port is one side of rings linked as a pipe's are, a pump has
//! the other, or the client itself ([`super::driven`]). A device moves frames
//! only between rings that somebody has open, and is given back with the last
//! registration.

use std::collections::BTreeSet;

use netvale_lane::xdp::HandOver;
use netvale_ring::port::PortId;
use netvale_switch::domain::{DevicePlan, DeviceUse, DomainError, Registration};
use netvale_wire::name::{PortKind, PortSpec};
use netvale_wire::proto::{ErrorKind, Wanted};
use netvale_wire::vnet::HdrLen;

use super::devices::busy;
use super::wire::Mode;
use super::{Core, is_interface};
use crate::conn::Conn;
use crate::listing::Refusal;
use crate::pump::{self, DeviceLane, DeviceSpec, Keep, Lane, Losses, Nic, Take, Use};

/// Host rings of an interface, each direction.
const HOST_RINGS: u16 = 1;
/// Most of them that a client can have.
const MOST_HOST_RINGS: u16 = 16;

/// A device that clients have open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) key: String,
    /// Name of its port.
    pub(super) name: String,
    pub(super) about: String,
    pub(super) losses: Losses,
    /// The clients' side.
    pub(super) user: PortId,
    /// The pump's side.
    pub(super) reg: Registration,
    /// Rings of the pump's side that are queues'; the others are the host's.
    pub(super) queues: usize,
    /// The client's host rings, TX and RX.
    host: [u16; 2],
    pub(super) lanes: Vec<u64>,
    /// Lanes that clients drive, by queue.
    pub(super) parked: Vec<(u16, Lane)>,
    /// Registrations that drive a queue: queue, owner.
    pub(super) drivers: BTreeSet<(u16, u16)>,
    /// Registrations that have a queue's socket open.
    pub(super) holders: BTreeSet<u16>,
    // In this order: first the host's stack is let go.
    stack: Keep,
    pub(super) keep: Keep,
    /// An interface, whose frames are taken only while rings are open.
    pub(super) nic: Option<Nic>,
    /// The virtio-net header of an interface's frames: as its first program
    /// wanted it.
    pub(super) header: HdrLen,
    /// How an interface is to be driven.
    pub(super) mode: Mode,
    /// Number of the interface that it is, or that is at its other end.
    pub(super) link: Option<u32>,
    /// Whether its wire is open, and receives.
    pub(super) wire: Option<bool>,
    /// Its frames are taken in the stack, as its driver has no XDP.
    pub(super) generic: bool,
    /// Why AF_XDP will not do for what is wanted now.
    pub(super) unfit: Option<String>,
    /// The wire's sockets, if they are of AF_XDP.
    pub(super) sockets: Vec<HandOver>,
    /// Lanes that serve the wire, by queue.
    pub(super) wired: Vec<u64>,
    /// For which use it is set up.
    set: DeviceUse,
    /// Whether a program passes frames on from the wire to the host's stack.
    onward: Onward,
    /// If its frames do not lie in its region: why.
    pub(super) no_arena: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Onward {
    /// None so far.
    No,
    Yes,
    /// The stack cannot be reached.
    Never,
}

impl Opened {
    /// Name of the pump's side.
    pub(super) fn hidden(&self) -> &str {
        &self.reg.name
    }

    /// What it is, as listed.
    pub(super) fn kind(&self) -> &str {
        let prefix = self.name.split_once(':').map(|(prefix, _)| prefix);
        prefix.unwrap_or("interface")
    }

    /// What was lost on the way to the device and from it.
    pub(super) fn lost(&self) -> [(&'static str, u64); Losses::COUNT] {
        let all = Losses::default();
        all.add(&self.losses);
        self.sockets.iter().for_each(|s| all.add(&s.losses()));
        all.list()
    }
}

impl Core {
    /// If `spec` means a device that is not open yet, opens it.
    pub(super) fn open_device(
        &mut self,
        conn: &Conn,
        isolated: bool,
        spec: &PortSpec,
        want: &Wanted,
        host_rings: [u16; 2],
    ) -> Result<(), Refusal> {
        if !spec.flags.is_monitor() && self.devices.is_attached(&spec.port_name()) {
            return Err(busy(&format!("{} is attached", spec.port_name())));
        }
        self.same_place(conn, spec)?;
        let Some(device) = self.closed_device(spec)? else {
            return self.fits_header(spec, want);
        };
        if !conn.trusted_user {
            let message = "only the server's own user and root may open devices";
            return Err(Refusal::new(ErrorKind::Denied, message));
        }
        let key = device.key();
        if self.devices.uses(&device) {
            return Err(busy(&format!("{key} is attached to a switch, or open")));
        }
        let name = spec.port_name();
        if matches!(device, DeviceSpec::Tap(_)) {
            self.devices.watch_links();
        }
        let asked = want.vnet_hdr.filter(|_| want.accepts_vnet_hdr);
        let header = asked.unwrap_or(0);
        let made = match &device {
            DeviceSpec::Nic(interface) => {
                let nic = Nic::find(interface)?;
                let about = format!("interface {interface}");
                self.devices.watch_links();
                Made {
                    lanes: Vec::new(),
                    queues: nic.queues(),
                    host: host_rings.map(|n| n.clamp(HOST_RINGS, MOST_HOST_RINGS)),
                    header,
                    about,
                    keep: Keep::default(),
                    nic: Some(nic),
                }
            }
            _ => {
                let how = Use {
                    header,
                    host: false,
                };
                let device = pump::open(&device, how, &self.devices.tunnels)?;
                Made {
                    queues: u16::try_from(device.lanes.len()).unwrap_or(u16::MAX),
                    lanes: device.lanes,
                    host: [0, 0],
                    header: device.header,
                    about: device.about,
                    keep: device.keep,
                    nic: None,
                }
            }
        };
        same_header(&name, made.header, asked)?;
        let arena = match &made.nic {
            Some(nic) if !isolated && header == 0 => self.arena_for(nic, want, spec.mem_id),
            Some(_) if header != 0 => Err(super::wire::HEADERS.into()),
            _ => Err("isolated programs have memory of their own".into()),
        };
        let plan = DevicePlan {
            name: &name,
            queues: made.queues,
            host: made.host,
            slots: (want.tx_slots, want.rx_slots),
            region: spec.mem_id,
            isolated,
            vnet_hdr: made.header,
            arena: *arena.as_ref().unwrap_or(&0),
        };
        let owner = self.domain.add_owner(std::process::id(), isolated)?;
        let (user, reg) = match self.domain.make_device(owner, &plan) {
            Ok(both) => both,
            Err(e) => {
                self.close(owner);
                return Err(e.into());
            }
        };
        self.regions.enter(&self.domain, super::open::krings(&reg));
        tracing::info!(port = name, device = made.about, "opened");
        let link = match &device {
            DeviceSpec::Nic(name) => self.devices.known_link(name),
            DeviceSpec::Tap(tap) => self.devices.known_link(&tap.name),
            _ => None,
        };
        let opened = Opened {
            key,
            link,
            name,
            about: made.about,
            losses: Losses::default(),
            user,
            reg,
            queues: usize::from(made.queues),
            host: made.host,
            lanes: Vec::new(),
            parked: Vec::new(),
            drivers: BTreeSet::new(),
            holders: BTreeSet::new(),
            stack: Keep::default(),
            keep: made.keep,
            mode: Mode::of(&self.config, made.nic.as_ref()),
            nic: made.nic,
            header: HdrLen::new(made.header.into()).unwrap_or(HdrLen::NONE),
            wire: None,
            generic: false,
            unfit: None,
            sockets: Vec::new(),
            wired: Vec::new(),
            set: DeviceUse::default(),
            onward: Onward::No,
            no_arena: arena.err().unwrap_or("the region has no room".into()),
        };
        self.devices.opened.push(opened);
        let at = self.devices.opened.len() - 1;
        let started = made.lanes.into_iter().enumerate();
        for (i, lane) in started.collect::<Vec<_>>() {
            if let Err(e) = self.start_opened(at, i, lane) {
                self.close_opened(owner);
                return Err(e);
            }
        }
        Ok(())
    }

    /// Whether a device that is open has the virtio-net header that another
    /// program wants.
    fn fits_header(&self, spec: &PortSpec, want: &Wanted) -> Result<(), Refusal> {
        let name = spec.port_name();
        let is_it = self.devices.opened.iter().any(|o| o.name == name);
        if !is_it || spec.flags.is_monitor() {
            return Ok(());
        }
        let asked = want.vnet_hdr.filter(|_| want.accepts_vnet_hdr);
        same_header(&name, self.domain.vnet_hdr(&name)?, asked)
    }

    /// The device that a name means, if no port has the name yet.
    fn closed_device(&self, spec: &PortSpec) -> Result<Option<DeviceSpec>, Refusal> {
        if spec.pipe.is_some() || spec.flags.is_monitor() {
            return Ok(None);
        }
        // Ports of that name, persistent ones too.
        if self.domain.vnet_hdr(&spec.port_name()).is_ok() {
            return Ok(None);
        }
        match &spec.kind {
            PortKind::Backend { kind, arg } => DeviceSpec::backend(*kind, arg).map(Some),
            PortKind::Nic { name } if is_interface(name) => Ok(Some(DeviceSpec::Nic(name.clone()))),
            _ => Ok(None),
        }
    }

    /// What a request about a device that is not open is to be told: its port
    /// is made for the moment.
    pub(super) fn look_at_device<T>(
        &mut self,
        spec: &PortSpec,
        host_rings: [u16; 2],
        look: impl FnOnce(&mut Self) -> Result<T, DomainError>,
    ) -> Result<T, Refusal> {
        let Some(device) = self.closed_device(spec)? else {
            return Ok(look(self)?);
        };
        if self.devices.uses(&device) {
            return Err(busy(&format!("{} is attached to a switch", device.key())));
        }
        let plan = DevicePlan {
            name: &spec.port_name(),
            queues: device.queues(),
            host: match device {
                DeviceSpec::Nic(_) => host_rings.map(|n| n.clamp(HOST_RINGS, MOST_HOST_RINGS)),
                _ => [0, 0],
            },
            slots: (0, 0),
            region: spec.mem_id,
            isolated: false,
            vnet_hdr: 0,
            arena: 0,
        };
        let owner = self.domain.add_owner(std::process::id(), false)?;
        let seen = match self.domain.make_device(owner, &plan) {
            Ok(_) => look(self),
            Err(e) => Err(e),
        };
        self.close(owner);
        Ok(seen?)
    }

    /// Has ring `i` of an opened device served.
    pub(super) fn start_opened(
        &mut self,
        at: usize,
        i: usize,
        device: Box<dyn DeviceLane>,
    ) -> Result<(), Refusal> {
        let lost = || Refusal::new(ErrorKind::Other, "the port's rings are not in its region");
        self.hire_pumps()?;
        let gear = self.gear();
        let id = self.devices.next_lane();
        let opened = self.devices.opened.get_mut(at).ok_or_else(lost)?;
        let reg = &opened.reg;
        let map = self.domain.region(reg.region, reg.region_gen);
        let map = &map.ok_or_else(lost)?.0;
        let rings = (
            reg.tx.get(i).ok_or_else(lost)?,
            reg.rx.get(i).ok_or_else(lost)?,
        );
        let losses = &opened.losses;
        let lane = Lane::new(id, &gear, reg, rings, map, device, losses).ok_or_else(lost)?;
        opened.lanes.push(id);
        self.devices.serve(lane);
        Ok(())
    }

    /// Sets devices up for the rings that are open now, and gives back those
    /// that nobody has open any more.
    ///
    /// # Errors
    ///
    /// What the port `asked` was opened for cannot be had. With other devices
    /// whoever asks has nothing to do: that is tried again the next time.
    pub(super) fn settle_devices(&mut self, asked: Option<PortId>) -> Result<(), Refusal> {
        let mut refused = Ok(());
        let mut at = 0;
        while let Some(opened) = self.devices.opened.get(at) {
            let (now, port) = (self.domain.device_use(opened.user), opened.user);
            if !now.open {
                let owner = opened.reg.owner;
                self.close_opened(owner);
                continue;
            }
            if opened.nic.is_some() && opened.set != now {
                let done = self.set_up_nic(at, now);
                match (done, self.devices.opened.get(at)) {
                    (Err(e), _) if asked == Some(port) => refused = Err(e),
                    (Err(e), Some(opened)) => {
                        let port = opened.name.as_str();
                        tracing::warn!(port, "the interface is not set up: {}", e.message);
                    }
                    _ => {}
                }
            }
            self.settle_drivers(at);
            at += 1;
        }
        refused
    }

    /// As [`Core::settle_devices`], for those who have rings open already: they
    /// get what can be had now.
    pub(super) fn settle_all_devices(&mut self) {
        let patient = std::mem::take(&mut self.patient);
        let _ = self.settle_devices(None); // refuses nobody
        self.patient = patient;
    }

    /// An interface may have got receive queues without a socket, whose frames
    /// would go to the host's stack: it is driven otherwise then.
    pub(super) fn look_at_queues(&mut self, index: u32) {
        let receives = |o: &Opened| !o.sockets.is_empty() && o.wire == Some(true);
        let deaf = |o: &Opened| {
            let nic = o.nic.as_ref().filter(|n| n.index == index && receives(o));
            nic.is_some_and(|n| n.is_all_heard().is_err())
        };
        let mut all = self.devices.opened.iter_mut().enumerate();
        let Some((at, opened)) = all.find(|(_, o)| deaf(o)) else {
            return;
        };
        opened.wire = None; // as it is it will not do
        let now = self.domain.device_use(opened.user);
        if let Err(e) = self.set_up_nic(at, now) {
            tracing::warn!("the interface is not set up: {}", e.message);
        }
        self.settle_drivers(at);
    }

    /// Takes from an interface, and from the host behind it, what rings that
    /// are open take.
    fn set_up_nic(&mut self, at: usize, now: DeviceUse) -> Result<(), Refusal> {
        if let Some(opened) = self.devices.opened.get_mut(at) {
            opened.set = DeviceUse::default(); // until it is done
        }
        self.take_from_nic(at, now)?;
        if let Some(opened) = self.devices.opened.get_mut(at) {
            opened.set = now;
        }
        Ok(())
    }

    fn take_from_nic(&mut self, at: usize, now: DeviceUse) -> Result<(), Refusal> {
        // The wire stays as it is while that will do: to take an interface's
        // queues anew takes a driver some time.
        let wanted = (now.tx || now.rx).then_some(now.rx);
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return Ok(());
        };
        let injects = now.host || opened.onward == Onward::Yes;
        let rewire = !opened.adapt(wanted, injects);
        self.stop_host(at);
        if rewire {
            self.stop_lanes(at);
        }
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return Ok(());
        };
        opened.stack = Keep::default();
        if rewire {
            self.rewire(at, wanted, injects)?;
        }
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return Ok(());
        };
        let by_xdp = !opened.sockets.is_empty();
        let Some(nic) = &opened.nic else {
            return Ok(());
        };
        let host = match (now.host, opened.onward == Onward::Yes) {
            (true, _) => Some(opened.host),
            (false, true) => Some([0, 0]),
            (false, false) => None,
        };
        let take = Take {
            // Who gives the host what the wire brings lets it answer, too.
            from_stack: now.tx && (now.host || opened.onward != Onward::Yes),
            from_wire: now.rx,
        };
        let mut stack = nic.stack(opened.header, take, host, by_xdp)?;
        let (up, mut down) = (opened.wired.clone(), Vec::new());
        for _ in 0..stack.lanes.len() {
            down.push(match now.down {
                true => Some(nic.onward(opened.header)?),
                false => None,
            });
        }
        opened.stack = std::mem::take(&mut stack.keep);
        let can = opened.onward != Onward::Never;
        let (user, queues) = (opened.user, opened.queues);
        let all = crate::params::read(&self.config.namespace, "fwd").is_some_and(|n| n != 0);
        self.domain.set_forwarding(user, can, now.down, all);
        for lane in up {
            let onward = stack.onward()?;
            let opened = self.devices.opened.get_mut(at);
            let mut parked = opened.into_iter().flat_map(|o| &mut o.parked);
            match parked.find(|(_, parked)| parked.id == lane) {
                Some((_, parked)) => parked.set_onward(onward),
                None => self.devices.change(lane, |lane| lane.set_onward(onward)),
            }
        }
        for (i, host) in std::mem::take(&mut stack.lanes).into_iter().enumerate() {
            self.start_opened(at, queues + i, host)?;
        }
        self.set_onward_of_host(at, down);
        Ok(())
    }

    /// Tells lanes of host rings where frames go that are passed on.
    fn set_onward_of_host(&mut self, at: usize, devices: Vec<Option<Box<dyn DeviceLane>>>) {
        let Some(opened) = self.devices.opened.get(at) else {
            return;
        };
        let wired = &opened.wired;
        let host = opened.lanes.iter().filter(|id| !wired.contains(id));
        for (lane, device) in host.copied().collect::<Vec<_>>().into_iter().zip(devices) {
            self.devices.change(lane, |lane| lane.set_onward(device));
        }
    }

    /// A lane of a wire has frames for the host's stack: it is connected.
    pub(super) fn pass_on(&mut self, lane: u64) {
        let mut opened = self.devices.opened.iter_mut();
        let Some(at) = opened.position(|o| o.wired.contains(&lane) && o.onward == Onward::No)
        else {
            return;
        };
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return;
        };
        opened.onward = Onward::Yes;
        let now = self.domain.device_use(opened.user);
        let Err(e) = self.set_up_nic(at, now) else {
            return;
        };
        if let Some(opened) = self.devices.opened.get_mut(at) {
            let port = &opened.name;
            tracing::warn!(port, "frames cannot be passed on: {}", e.message);
            opened.onward = Onward::Never;
        }
        if let Err(e) = self.set_up_nic(at, now) {
            tracing::warn!("the interface is not set up: {}", e.message);
        }
    }

    /// Stops what serves an interface's host rings.
    fn stop_host(&mut self, at: usize) {
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return;
        };
        let wired = &opened.wired;
        let (keep, stop): (Vec<u64>, Vec<u64>) =
            opened.lanes.iter().partition(|id| wired.contains(id));
        opened.lanes = keep;
        stop.into_iter().for_each(|id| self.devices.stop(id));
    }

    /// Stops all lanes of an interface, after what programs had queued for it
    /// just before they ended.
    pub(super) fn stop_lanes(&mut self, at: usize) {
        let Some(opened) = self.devices.opened.get_mut(at) else {
            return;
        };
        opened.wired.clear();
        let parked = std::mem::take(&mut opened.parked);
        let ids = std::mem::take(&mut opened.lanes);
        for (_, lane) in parked {
            self.devices.serve(lane);
        }
        ids.into_iter().for_each(|id| self.devices.finish(id));
    }

    /// Gives a device back. `owner`: the pump's side, whose place in the list
    /// may be another's by now.
    fn close_opened(&mut self, owner: u16) {
        let mut all = self.devices.opened.iter();
        let Some(at) = all.position(|o| o.reg.owner == owner) else {
            return;
        };
        self.stop_lanes(at);
        if let Some(opened) = self.devices.opened.get_mut(at) {
            opened.stack = Keep::default();
        }
        self.unwire(at);
        let opened = self.devices.opened.swap_remove(at);
        tracing::info!(port = opened.name, "closed");
        drop(opened); // programs in the kernel
        self.devices.forget_links();
        self.close_plain(owner);
    }

    /// A device that clients have open is no more: they are told.
    pub(super) fn lose_opened(&mut self, at: usize) {
        let Some(opened) = self.devices.opened.get(at) else {
            return;
        };
        let owner = opened.reg.owner;
        self.domain.device_gone(opened.user);
        self.close_opened(owner);
    }
}

/// Nobody changes the virtio-net header of a device's frames: a program wants
/// what they have, or does not say.
fn same_header(name: &str, has: u8, asked: Option<u8>) -> Result<(), Refusal> {
    match asked {
        Some(len) if len != has => Err(Refusal::new(
            ErrorKind::Unsupported,
            format!("frames of {name} have a virtio-net header of {has} bytes, not {len}"),
        )),
        _ => Ok(()),
    }
}

/// What opening brought.
struct Made {
    lanes: Vec<Box<dyn DeviceLane>>,
    queues: u16,
    host: [u16; 2],
    header: u8,
    about: String,
    keep: Keep,
    nic: Option<Nic>,
}

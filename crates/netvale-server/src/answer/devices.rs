//! Devices attached to switches: opened, given ports, and taken back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use netvale_backends::netlink::{Link, LinkWatch};
use netvale_backends::vxlan::VxlanSockets;
use netvale_ring::world::Waker;
use netvale_shm::Doorbell;
use netvale_switch::domain::{Registration, Want};
use netvale_wire::abi::NM_BDG_NAME;
use netvale_wire::name::{MAX_PORT, PortFlags, PortKind, PortSpec};
use netvale_wire::proto::ErrorKind;

use super::closing::{Closing, Lingering};
use super::linked::Linked;
use super::opened::Opened;
use super::{Core, is_interface};
use crate::config::AttachConfig;
use crate::listing::Refusal;
use crate::pump::{self, Device, DeviceSpec, Heard, Keep, Lane, Losses, News, Pump, Use};

/// Slots of each ring of a device's port.
const SLOTS: u16 = 1024;

/// Length of the virtio-net header of frames between a switch and a device.
const HEADER: u8 = 12;

/// Everything that has to do with devices.
#[derive(Debug)]
pub(crate) struct Devices {
    /// Threads for all devices that have none of their own.
    pub(super) pumps: Vec<Pump>,
    /// Devices that are in use, by the name of their port.
    pub(super) used: BTreeMap<String, Used>,
    /// Devices that clients have open.
    pub(super) opened: Vec<Opened>,
    /// Closed sockets that clients are still at.
    pub(super) closing: Vec<Closing>,
    /// When to look at those again.
    pub(super) look_again: Option<Instant>,
    /// Buffers of closed sockets that somebody may still use.
    pub(super) lingering: Vec<Lingering>,
    /// Tells of interfaces, as soon as one is in use.
    pub(crate) links: Option<LinkWatch>,
    /// Those in use as they were last heard of, by number.
    pub(super) known: BTreeMap<u32, Link>,
    /// Persistent ports that are interfaces of the host, by name.
    pub(super) linked: BTreeMap<String, Linked>,
    /// Sockets of tunnels: networks share them.
    pub(super) tunnels: VxlanSockets,
    /// Lanes made so far.
    lanes: u64,
    news: News,
    heard: Receiver<(u64, Heard)>,
    /// Rung when there are news.
    pub(crate) bell: Arc<Doorbell>,
}

/// A device that is in use.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) key: String,
    /// What it was attached as; a persistent port's interface was not.
    pub(super) made: Option<DeviceSpec>,
    /// The port, and the host stack's if it has one.
    pub(super) ports: Vec<DevicePort>,
    /// Threads of its own.
    pub(super) own: Vec<Pump>,
    /// Its threads never sleep.
    pub(super) polled: bool,
}

/// A port that the server has for a device.
#[derive(Debug)]
pub(super) struct DevicePort {
    pub(super) name: String,
    pub(super) owner: u16,
    pub(super) lanes: Vec<u64>,
    pub(super) losses: Losses,
    pub(super) about: String,
    /// Number of the interface with which it ends.
    pub(super) index: Option<u32>,
    /// Number of the interface that it is, or that is at its other end.
    pub(super) link: Option<u32>,
    pub(super) keep: Keep,
}

/// Where a device is to be attached.
#[derive(Debug, Clone, Copy)]
pub(super) struct Where<'a> {
    pub(super) switch: &'a str,
    /// The host stack's side too.
    pub(super) host: bool,
    /// Region of its rings; 0 for the shared one.
    pub(super) mem_id: u16,
    /// Processors of threads of its own.
    pub(super) cpus: &'a [usize],
    /// Name of its port; `None`: one like the device's.
    pub(super) port: Option<&'a str>,
}

impl Devices {
    pub(crate) fn new() -> std::io::Result<Self> {
        let bell = Arc::new(Doorbell::new()?);
        let (to, heard) = channel();
        Ok(Self {
            pumps: Vec::new(),
            used: BTreeMap::new(),
            opened: Vec::new(),
            closing: Vec::new(),
            look_again: None,
            lingering: Vec::new(),
            links: None,
            known: BTreeMap::new(),
            linked: BTreeMap::new(),
            tunnels: VxlanSockets::default(),
            lanes: 0,
            news: News::new(to, Arc::clone(&bell)),
            heard,
            bell,
        })
    }

    /// Whether the server stays for them.
    pub(crate) fn any(&self) -> bool {
        !self.used.is_empty()
    }

    /// How a port's device is driven, if it has one.
    pub(crate) fn about(&self, port: &str) -> Option<String> {
        let said = |keep: &Keep, about: &str| keep.failure().unwrap_or_else(|| about.into());
        let mut ports = self.used.values().flat_map(|u| &u.ports);
        let attached = ports.find(|p| p.name == port);
        let attached = attached.map(|p| said(&p.keep, &p.about));
        let open = self.opened.iter().find(|o| o.name == port);
        let open = open.map(|o| said(&o.keep, &o.about));
        let linked = self.linked.get(port).map(|l| l.about.clone());
        attached.or(open).or(linked)
    }

    /// The interface that a port's device is, or has at its other end.
    pub(crate) fn link_of(&self, port: &str) -> Option<&Link> {
        let mut ports = self.used.values().flat_map(|u| &u.ports);
        let attached = ports.find(|p| p.name == port).and_then(|p| p.link);
        let open = self.opened.iter().find(|o| o.name == port);
        let linked = self.linked.get(port).map(|l| l.index);
        let index = attached.or(open.and_then(|o| o.link)).or(linked)?;
        self.known.get(&index)
    }

    /// What a port's device lost.
    pub(crate) fn losses(&self, port: &str) -> Option<[(&'static str, u64); Losses::COUNT]> {
        let mut ports = self.used.values().flat_map(|u| &u.ports);
        let attached = ports.find(|p| p.name == port).map(|p| p.losses.list());
        let open = self.opened.iter().find(|o| o.name == port);
        attached.or(open.map(Opened::lost))
    }

    /// Whether this device is attached, or open. An interface has one number,
    /// but may have several names.
    pub(super) fn uses(&self, spec: &DeviceSpec) -> bool {
        let index = spec.interface().and_then(super::interface);
        // That of one that went elsewhere may be another's now.
        let index = index.filter(|i| self.known.contains_key(i));
        let key = spec.key();
        let same = |k: &str, link: Option<u32>| k == key || (index.is_some() && link == index);
        let mut used = self.used.values();
        self.opened.iter().any(|o| same(&o.key, o.link))
            || used.any(|u| same(&u.key, u.ports.first().and_then(|p| p.link)))
    }

    /// Whether a port is an attached device's.
    pub(super) fn is_attached(&self, port: &str) -> bool {
        let mut ports = self.used.values().flat_map(|u| &u.ports);
        ports.any(|p| p.name == port)
    }

    /// Whether a port is the other side of a client's.
    pub(super) fn is_hidden(&self, port: &str) -> bool {
        self.opened.iter().any(|o| o.hidden() == port)
    }

    pub(super) fn next_lane(&mut self) -> u64 {
        self.lanes += 1;
        self.lanes
    }

    /// Gives a lane to the common thread that has the fewest.
    pub(super) fn serve(&mut self, lane: Lane) {
        if let Some(pump) = self.pumps.iter_mut().min_by_key(|p| p.lanes()) {
            pump.add(lane);
        }
    }

    /// Takes a lane from the common threads.
    pub(super) fn stop(&mut self, lane: u64) {
        self.pumps.iter_mut().for_each(|p| p.remove(lane));
    }

    /// As [`Devices::stop`], after what is queued has been sent.
    pub(super) fn finish(&mut self, lane: u64) {
        self.pumps.iter_mut().for_each(|p| p.finish(lane));
    }

    /// Takes a lane from the common threads, and gives it back.
    pub(super) fn take(&mut self, lane: u64) -> Option<Lane> {
        self.pumps.iter_mut().find_map(|p| p.take(lane))
    }

    /// Changes a lane that one of the common threads serves.
    pub(super) fn change(&mut self, lane: u64, how: impl FnOnce(&mut Lane)) {
        for pump in &mut self.pumps {
            if let Some(mut lane) = pump.take(lane) {
                how(&mut lane);
                pump.add(lane);
                return;
            }
        }
    }

    /// Ends all threads, and with them all devices.
    pub(crate) fn end(&mut self) {
        self.pumps.clear();
        self.used.clear();
        self.opened.clear();
        self.linked.clear();
    }
}

/// A device named after a switch: `vale0:tap:t0`, or an interface's name.
pub(super) fn named(full: &str, persistent: bool) -> Option<(&str, Result<DeviceSpec, Refusal>)> {
    let (switch, rest) = full.split_once(':')?;
    if let Some(spec) = DeviceSpec::prefixed(rest) {
        return Some((switch, spec));
    }
    let nic = !persistent && is_interface(rest);
    nic.then(|| (switch, Ok(DeviceSpec::Nic(rest.into()))))
}

impl Core {
    /// Attaches what the configuration says.
    pub(crate) fn attach_configured(&mut self, a: &AttachConfig) -> Result<(), Refusal> {
        let full = format!("{}:{}", a.switch, a.device);
        let Some((switch, spec)) = named(&full, false) else {
            let message = format!("{}: no such interface or device", a.device);
            return Err(Refusal::new(ErrorKind::NotFound, message));
        };
        let place = Where {
            switch,
            host: a.host,
            mem_id: a.region,
            cpus: &a.cpus,
            port: a.port.as_deref(),
        };
        self.attach_device(&spec?, place).map(drop)
    }

    /// Opens a device and gives it a port of a switch: the port's index.
    pub(super) fn attach_device(
        &mut self,
        spec: &DeviceSpec,
        place: Where<'_>,
    ) -> Result<u32, Refusal> {
        if !place.switch.starts_with(NM_BDG_NAME) {
            let message = format!("{}: a switch's name begins with vale", place.switch);
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        if let Some(port) = place.port {
            plain_name(place.switch, port)?;
        }
        let key = spec.key();
        if self.devices.uses(spec) {
            return Err(busy(&format!("{key} is attached already, or open")));
        }
        if place.host && !matches!(spec, DeviceSpec::Nic(_)) {
            let message = format!("{key} has no host stack behind it");
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        self.domain.layout(place.mem_id)?;
        let how = Use {
            header: HEADER,
            host: place.host,
        };
        let has_link = matches!(spec, DeviceSpec::Nic(_) | DeviceSpec::Tap(_));
        if has_link {
            self.devices.watch_links();
        }
        let mut device = pump::open(spec, how, &self.devices.tunnels)?;
        let link = has_link.then(|| self.devices.known_link(&device.name));
        let mut host = device.host.take();
        if let Some(port) = place.port {
            device.name = port.into();
            if let Some(host) = &mut host {
                host.name = format!("{port}^");
            }
        }
        let mut used = Used {
            key,
            made: Some(spec.clone()),
            ports: Vec::new(),
            own: self.own_pumps(place.cpus)?,
            polled: false,
        };
        let first = self.seat_device(device, place, &mut used);
        if let Some(port) = used.ports.first_mut() {
            port.link = link.flatten();
        }
        let done = first.and_then(|index| match host {
            Some(host) => self.seat_device(*host, place, &mut used).map(|_| index),
            None => Ok(index),
        });
        match done {
            Ok(index) => {
                for port in &used.ports {
                    tracing::info!(port = port.name, device = port.about, "attached");
                }
                let name = used.ports.first().map(|p| p.name.clone());
                self.devices.used.insert(name.unwrap_or_default(), used);
                self.seated = true;
                self.persistent = true;
                Ok(index)
            }
            Err(e) => {
                self.unseat_device(used);
                Err(e)
            }
        }
    }

    /// A port of the switch for a device, and lanes that serve it.
    fn seat_device(
        &mut self,
        device: Device,
        place: Where<'_>,
        used: &mut Used,
    ) -> Result<u32, Refusal> {
        if device.name.len() > MAX_PORT {
            let message = format!("{}: a port's name has at most 15 bytes", device.name);
            let hint = "give it another: netvale attach SWITCH:PORT DEVICE, or \
                        port = \"NAME\" in the configuration";
            return Err(Refusal::new(ErrorKind::Invalid, message).hint(hint));
        }
        let kind = PortKind::Vale {
            switch: place.switch.into(),
            port: device.name.clone(),
        };
        let spec = PortSpec {
            flags: PortFlags {
                exclusive: true,
                ..PortFlags::default()
            },
            mem_id: (place.mem_id != 0).then_some(place.mem_id),
            ..PortSpec::new(kind)
        };
        let name = spec.port_name();
        // As a request would have to say it.
        PortSpec::from_nr_name(&name)
            .map_err(|e| Refusal::new(ErrorKind::NoMemory, format!("{name}: {e}")))?;
        if self.domain.vnet_hdr(&name).is_ok() {
            return Err(busy(&format!("{name} is attached already, or open")));
        }
        let queues = u16::try_from(device.lanes.len()).unwrap_or(u16::MAX);
        let want = Want {
            tx_rings: queues,
            rx_rings: queues,
            tx_slots: SLOTS,
            rx_slots: SLOTS,
            gives_buffers: true,
            accepts_vnet_hdr: true,
            vnet_hdr: Some(device.header),
            ..Want::default()
        };
        let owner = self.domain.add_owner(std::process::id(), false)?;
        used.ports.push(DevicePort {
            name,
            owner,
            lanes: Vec::new(),
            losses: Losses::default(),
            about: device.about,
            index: device.index,
            link: None,
            keep: device.keep,
        });
        let reg = self.domain.register(owner, &spec, &want)?;
        self.regions.enter(&self.domain, super::open::krings(&reg));
        self.start_lanes(&reg, device.lanes, used)?;
        let seat = self.domain.seat_of(reg.port);
        seat.ok_or_else(|| Refusal::new(ErrorKind::Other, "the port has no place"))
    }

    /// Has the last port of `used` served.
    pub(super) fn start_lanes(
        &mut self,
        reg: &Registration,
        lanes: Vec<Box<dyn pump::DeviceLane>>,
        used: &mut Used,
    ) -> Result<(), Refusal> {
        let lost = || Refusal::new(ErrorKind::Other, "the port's rings are not in its region");
        let gear = self.gear();
        let map = self.domain.region(reg.region, reg.region_gen);
        let map = map.ok_or_else(lost)?.0.clone();
        let port = used.ports.last_mut().ok_or_else(lost)?;
        let mut made = Vec::with_capacity(lanes.len());
        for (i, device) in lanes.into_iter().enumerate() {
            let rings = (
                reg.tx.get(i).ok_or_else(lost)?,
                reg.rx.get(i).ok_or_else(lost)?,
            );
            let id = self.devices.next_lane();
            let lane = Lane::new(id, &gear, reg, rings, &map, device, &port.losses);
            made.push(lane.ok_or_else(lost)?);
        }
        if used.own.is_empty() {
            self.hire_pumps()?;
        }
        for (i, lane) in made.into_iter().enumerate() {
            port.lanes.push(lane.id);
            let n = used.own.len().max(1);
            let mut common = self.devices.pumps.iter_mut();
            let pump = match used.own.get_mut(i % n) {
                Some(own) => Some(own),
                None => common.by_ref().min_by_key(|p| p.lanes()),
            };
            if let Some(pump) = pump {
                pump.add(lane);
            }
        }
        Ok(())
    }

    /// The threads for devices without their own, when the first comes.
    pub(super) fn hire_pumps(&mut self) -> Result<(), Refusal> {
        while self.devices.pumps.len() < self.config.pumps {
            let pump = self.new_pump(None)?;
            self.devices.pumps.push(pump);
        }
        Ok(())
    }

    pub(super) fn own_pumps(&mut self, cpus: &[usize]) -> Result<Vec<Pump>, Refusal> {
        let mut pumps = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            match self.new_pump(Some(cpu)) {
                Ok(pump) => pumps.push(pump),
                Err(e) => {
                    pumps.into_iter().for_each(|p| self.dismiss(p));
                    return Err(e);
                }
            }
        }
        Ok(pumps)
    }

    fn new_pump(&mut self, cpu: Option<usize>) -> Result<Pump, Refusal> {
        let os = |e: std::io::Error| Refusal::os("start a thread for devices", &e);
        let bell = Arc::new(Doorbell::new().map_err(os)?);
        let owner = self.domain.add_owner(std::process::id(), false)?;
        // Before anybody can find the thread asleep.
        self.bells.insert(owner, Arc::clone(&bell));
        let waker = Arc::clone(&self.bells) as Arc<dyn Waker>;
        let news = self.devices.news.clone();
        Pump::spawn(owner, cpu, bell, waker, news).map_err(|e| {
            // Whoever wanted it is in the middle of setting a device up.
            self.close_plain(owner);
            os(e)
        })
    }

    pub(super) fn dismiss(&mut self, pump: Pump) {
        let owner = pump.owner;
        drop(pump); // its thread has ended now
        self.close_plain(owner);
    }

    /// Takes a device and its ports away; `false` if there is none there.
    pub(super) fn detach_device(&mut self, name: &str) -> Result<Option<u32>, Refusal> {
        let Some(used) = self.devices.used.get(name) else {
            let mut all = self.devices.used.values();
            if all.any(|u| u.ports.iter().any(|p| p.name == name)) {
                let message = format!("{name} goes with the interface in front of it");
                return Err(Refusal::new(ErrorKind::Invalid, message));
            }
            return Ok(None);
        };
        if used.polled {
            return Err(busy(&format!("{name} is polled: stop that first")));
        }
        let port = used.ports.first().map(|p| p.owner);
        let reg = port.and_then(|owner| self.domain.registration(owner));
        let index = reg.and_then(|reg| self.domain.seat_of(reg.port));
        if let Some(used) = self.devices.used.remove(name) {
            self.unseat_device(used);
            tracing::info!(port = name, "detached");
        }
        Ok(Some(index.unwrap_or(0)))
    }

    /// A device is no more: its port goes with it.
    pub(super) fn lose_used(&mut self, name: &str) {
        if let Some(used) = self.devices.used.remove(name) {
            let key = used.key.clone();
            self.unseat_device(used);
            self.lose_linked(&key);
        }
    }

    pub(super) fn unseat_device(&mut self, mut used: Used) {
        for port in &used.ports {
            for &lane in &port.lanes {
                for pump in used.own.iter_mut().chain(&mut self.devices.pumps) {
                    pump.remove(lane);
                }
            }
        }
        let owners: Vec<u16> = used.ports.iter().map(|p| p.owner).collect();
        for pump in used.own.drain(..).collect::<Vec<_>>() {
            self.dismiss(pump);
        }
        drop(used); // programs in the kernel
        owners.into_iter().for_each(|o| self.close(o));
        self.devices.forget_links();
        self.look_for_persistent();
    }

    /// Takes back devices that are no more, and gives lanes what they want.
    pub(crate) fn hear_of_devices(&mut self) {
        self.devices.bell.clear();
        while let Ok((lane, what)) = self.devices.heard.try_recv() {
            let why = match what {
                Heard::Gone(why) => why,
                Heard::WantsOnward => {
                    self.pass_on(lane);
                    continue;
                }
            };
            let lanes = self.devices.opened.iter().map(|o| &o.lanes);
            if let Some(at) = lanes.into_iter().position(|l| l.contains(&lane)) {
                let name = self.devices.opened.get(at).map(|o| o.name.as_str());
                tracing::warn!(port = name, "device is gone: {why}");
                self.lose_opened(at);
                continue;
            }
            let has = |u: &Used| u.ports.iter().any(|p| p.lanes.contains(&lane));
            let found = self.devices.used.iter().find(|(_, u)| has(u));
            let Some(name) = found.map(|(name, _)| name.clone()) else {
                continue;
            };
            tracing::warn!(port = name, "device is gone: {why}");
            self.lose_used(&name);
        }
        self.wake_all();
    }
}

/// Whether it names a port of the switch and nothing else, as a ring of one.
fn plain_name(switch: &str, port: &str) -> Result<(), Refusal> {
    let plain = PortKind::Vale {
        switch: switch.into(),
        port: port.into(),
    };
    let full = format!("{switch}:{port}");
    let why = match PortSpec::parse(&full) {
        Ok(spec) if spec == PortSpec::new(plain) => return Ok(()),
        Ok(_) => "it says more than a port's name".to_owned(),
        Err(e) => e.to_string(),
    };
    Err(Refusal::new(ErrorKind::Invalid, format!("{full}: {why}")))
}

pub(super) fn busy(message: &str) -> Refusal {
    Refusal::new(ErrorKind::Busy, message)
}

//! Persistent ports that are interfaces of the host too.
//!
//! Such a port has a TAP of its name. While the port is attached to a switch a
//! pump has it open, alone, and moves frames between it and the TAP: to the
//! host it is an interface with a cable to the switch. While it is not
//! attached, programs can open it as any persistent port, and what the host
//! sends through the interface goes nowhere.
//!
//! The TAP goes with the port and with the server; deleted by others
//! (`ip link del`), it takes the port with it. It may be given to another
//! network namespace.

use std::os::fd::{AsFd, OwnedFd};

use netvale_backends::tap::{Make, Offloads, Tap, TapConfig};
use netvale_lane::Losses;
use netvale_switch::domain::Want;
use netvale_wire::name::{NameError, PortFlags, PortSpec};
use netvale_wire::proto::ErrorKind;
use netvale_wire::vnet::HdrLen;

use super::Core;
use super::devices::{DevicePort, Devices, Used, busy};
use crate::listing::Refusal;
use crate::pump::{self, Keep};

/// The host's side of a persistent port.
#[derive(Debug)]
pub(super) struct Linked {
    /// The TAP's queues, which keep it.
    queues: Vec<OwnedFd>,
    /// Its number.
    pub(super) index: u32,
    pub(super) about: String,
    /// Length of the port's virtio-net header before a pump had it.
    header: Option<u8>,
}

impl Devices {
    /// Whether a port of a switch is the host's interface.
    pub(super) fn is_linked(&self, full: &str) -> bool {
        let used = self.used.get(full);
        used.is_some_and(|u| self.linked.contains_key(&u.key))
    }
}

impl Core {
    /// Makes a new persistent port an interface of the host.
    pub(super) fn link_port(&mut self, name: &str, rings: [u16; 2]) -> Result<(), Refusal> {
        let [tx, rx] = rings;
        if tx != rx {
            let message = format!(
                "{name}: an interface of the host has as many TX as RX rings, not {tx} and {rx}"
            );
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        self.devices.watch_links();
        let config = TapConfig {
            make: Make::New,
            queues: rx.max(1).into(),
            header: HdrLen::MERGED,
            offloads: Offloads::ALL,
            // As any interface that was just made.
            up: None,
            ..TapConfig::new(name)
        };
        let tap = Tap::open(&config).map_err(|e| pump::tap_refusal(&e))?;
        let noted = self.devices.note_link(name);
        let index = noted.map_err(|e| pump::link_refusal(&e))?;
        let queues = tap.queues().iter();
        let queues: Result<_, _> = queues.map(|q| q.as_fd().try_clone_to_owned()).collect();
        let linked = Linked {
            queues: queues.map_err(|e| Refusal::os("keep a TAP", &e))?,
            index,
            about: format!(
                "interface {name} of the host ({})",
                pump::queues(rx.max(1).into())
            ),
            header: None,
        };
        self.devices.linked.insert(name.to_owned(), linked);
        tracing::info!(port = name, "is an interface of the host");
        Ok(())
    }

    /// A persistent port has been attached: what is the host's is served from
    /// now on. `full`: its name in the switch.
    pub(super) fn serve_linked(&mut self, full: &str) -> Result<(), Refusal> {
        let name = full.split_once(':').map_or(full, |(_, port)| port);
        let name = name.to_owned();
        if !self.devices.linked.contains_key(&name) {
            return Ok(());
        }
        let done = self.start_linked(full, &name);
        if done.is_err() {
            // As if it had not been attached.
            self.restore_header(full, &name);
            if let Err(e) = self.domain.detach_named(full) {
                tracing::warn!(port = full, "it stays attached: {e}");
            }
        }
        done
    }

    /// A linked port is not served any more: its header is as programs that
    /// open it next expect it.
    fn restore_header(&mut self, full: &str, name: &str) {
        let linked = self.devices.linked.get_mut(name);
        if let Some(len) = linked.and_then(|l| l.header.take())
            && let Err(e) = self.domain.set_vnet_hdr(full, len)
        {
            tracing::warn!(port = full, "its header stays: {e}");
        }
    }

    fn start_linked(&mut self, full: &str, name: &str) -> Result<(), Refusal> {
        let gone = || Refusal::new(ErrorKind::NotFound, format!("interface {name} is gone"));
        let invalid = |e: NameError| Refusal::new(ErrorKind::Invalid, format!("{full}: {e}"));
        let header = self.domain.vnet_hdr(full).ok();
        let linked = self.devices.linked.get_mut(name).ok_or_else(gone)?;
        let copies: Result<Vec<_>, _> = linked.queues.iter().map(OwnedFd::try_clone).collect();
        let copies = copies.map_err(|e| Refusal::os("open a TAP", &e))?;
        let tap = Tap::from_fds(copies).map_err(|e| pump::tap_refusal(&e))?;
        linked.header = header;
        let (about, index) = (linked.about.clone(), linked.index);
        let spec = PortSpec {
            flags: PortFlags {
                exclusive: true,
                ..PortFlags::default()
            },
            ..PortSpec::parse(full).map_err(invalid)?
        };
        let want = Want {
            gives_buffers: true,
            accepts_vnet_hdr: true,
            vnet_hdr: Some(u8::try_from(HdrLen::MERGED.get()).unwrap_or(0)),
            ..Want::default()
        };
        let owner = self.domain.add_owner(std::process::id(), false)?;
        let mut used = Used {
            key: name.to_owned(),
            made: None,
            ports: vec![DevicePort {
                name: full.to_owned(),
                owner,
                lanes: Vec::new(),
                losses: Losses::default(),
                about,
                index: None,
                link: Some(index),
                keep: Keep::default(),
            }],
            own: Vec::new(),
            polled: false,
        };
        let reg = self.domain.register(owner, &spec, &want);
        let started = reg.map_err(Refusal::from).and_then(|reg| {
            let krings = super::open::krings(&reg);
            self.regions.enter(&self.domain, krings);
            self.start_lanes(&reg, pump::tap_lanes(tap), &mut used)
        });
        match started {
            Ok(()) => {
                tracing::info!(port = full, "serves the host's interface");
                self.devices.used.insert(full.to_owned(), used);
                Ok(())
            }
            Err(e) => {
                self.unseat_device(used);
                Err(e)
            }
        }
    }

    /// A linked port is about to be detached: it is not served any more.
    pub(super) fn rest_linked(&mut self, full: &str) -> Result<(), Refusal> {
        if self.devices.used.get(full).is_some_and(|u| u.polled) {
            return Err(busy(&format!("{full} is polled: stop that first")));
        }
        let Some(used) = self.devices.used.remove(full) else {
            return Ok(());
        };
        let name = used.key.clone();
        self.unseat_device(used);
        self.restore_header(full, &name);
        Ok(())
    }

    /// Deletes the host's side of a port that has been deleted.
    pub(super) fn unlink_port(&mut self, name: &str) {
        if self.devices.linked.remove(name).is_some() {
            self.devices.forget_links();
        }
    }

    /// The TAP of the linked port of this name, if it is one, has been deleted
    /// by others, and its pump has ended: the port goes too.
    pub(super) fn lose_linked(&mut self, name: &str) {
        if self.devices.linked.remove(name).is_none() {
            return;
        }
        tracing::warn!(port = name, "its interface has been deleted, and so is it");
        for full in self.domain.list().into_iter().map(|p| p.name) {
            if full.rsplit(':').next() == Some(name)
                && let Ok(spec) = PortSpec::parse(&full)
            {
                let _ = self.domain.detach(&spec); // if it is attached
            }
        }
        if let Err(e) = self.domain.delete_interface(name) {
            tracing::warn!(port = name, "it stays, as a port of programs: {e}");
        }
        self.look_for_persistent();
    }

    /// An interface is not in this network namespace any more.
    pub(super) fn lose_linked_interface(&mut self, index: u32) {
        let is_gone = |l: &Linked| {
            let first = l.queues.first().and_then(|q| q.try_clone().ok());
            // One that was given to another namespace has its queues.
            l.index == index && first.is_some_and(|q| Tap::from_fds(vec![q]).is_err())
        };
        let mut linked = self.devices.linked.iter();
        let Some((name, _)) = linked.find(|(_, l)| is_gone(l)) else {
            return;
        };
        let name = name.clone();
        let mut used = self.devices.used.iter();
        match used
            .find(|(_, u)| u.key == name)
            .map(|(full, _)| full.clone())
        {
            Some(full) => self.lose_used(&full),
            None => self.lose_linked(&name),
        }
    }
}

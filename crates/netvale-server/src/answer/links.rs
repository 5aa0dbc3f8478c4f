//! News of the interfaces that devices stand for.

use std::collections::BTreeSet;
use std::mem::discriminant;

use netvale_backends::netlink::{Link, LinkEvent, LinkWatch, Netlink, NetlinkError};

use super::Core;
use super::devices::{Devices, Used};
use crate::pump::DeviceSpec;

impl Devices {
    /// Wants to be told of interfaces.
    pub(super) fn watch_links(&mut self) {
        if self.links.is_none() {
            match LinkWatch::open() {
                Ok(watch) => self.links = Some(watch),
                // Devices notice most by themselves.
                Err(e) => tracing::warn!("{}", crate::files::chain(&e)),
            }
        }
    }

    /// Remembers the interface of this name; its number.
    pub(super) fn note_link(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let link = Netlink::open().and_then(|mut netlink| netlink.link(name))?;
        let index = link.index;
        self.known.insert(index, link);
        Ok(index)
    }

    /// As [`Devices::note_link`]; a device works also if nothing is known of
    /// its interface.
    pub(super) fn known_link(&mut self, name: &str) -> Option<u32> {
        let noted = self.note_link(name);
        noted
            .inspect_err(|e| {
                let why = crate::files::chain(e);
                tracing::warn!(interface = name, "nothing is known of it: {why}");
            })
            .ok()
    }

    /// The device whose interface is called so now, by its port's name.
    pub(super) fn called(&self, switch: &str, link: &str) -> Option<String> {
        self.find_in(switch, |u| {
            let index = u.ports.first().and_then(|p| p.link);
            let now = index.and_then(|i| self.known.get(&i));
            u.key == link || now.is_some_and(|l| l.name == link)
        })
    }

    /// The device that is so called now, or was when it was attached, by its
    /// port's name.
    pub(super) fn port_of(&self, switch: &str, device: &DeviceSpec) -> Option<String> {
        let (kind, key) = (discriminant(device), device.key());
        let made = |u: &Used| {
            let made = u.made.as_ref().filter(|m| discriminant(*m) == kind);
            made.map(DeviceSpec::key)
        };
        let now = self.find_in(switch, |u| u.key == key && made(u).is_some());
        now.or_else(|| self.find_in(switch, |u| made(u).as_ref() == Some(&key)))
    }

    fn find_in(&self, switch: &str, is_it: impl Fn(&Used) -> bool) -> Option<String> {
        let mut used = self.used.iter();
        let found = used.find(|(name, u)| {
            let here = name.split_once(':').is_some_and(|(s, _)| s == switch);
            here && is_it(u)
        });
        found.map(|(name, _)| name.clone())
    }

    /// An interface has changed: what is shown, and by which name the device
    /// is told from others.
    fn link_changed(&mut self, link: &Link) {
        let index = link.index;
        let Some(old) = self.known.get_mut(&index).filter(|old| *old != link) else {
            return;
        };
        let old = std::mem::replace(old, link.clone());
        let Link { name, up, mtu, .. } = link;
        tracing::info!(
            interface = name,
            up,
            mtu,
            was = old.name,
            "interface has changed"
        );
        if old.name == link.name {
            return;
        }
        for used in self.used.values_mut() {
            let is = used.ports.iter().any(|p| p.link == Some(index));
            // A linked port's key is the port's own name.
            if is && used.key == old.name && !self.linked.contains_key(&used.key) {
                used.key.clone_from(&link.name);
            }
        }
        for open in &mut self.opened {
            if open.link == Some(index) && open.key == old.name {
                open.key.clone_from(&link.name);
            }
            if let Some(nic) = open.nic.as_mut().filter(|n| n.index == index) {
                nic.renamed(&link.name);
            }
        }
    }

    /// Forgets interfaces that no device has.
    pub(super) fn forget_links(&mut self) {
        let ports = self.used.values().flat_map(|u| &u.ports);
        let used = ports.filter_map(|p| p.link);
        let open = self.opened.iter().filter_map(|o| o.link);
        let linked = self.linked.values().map(|l| l.index);
        let all: BTreeSet<u32> = used.chain(open).chain(linked).collect();
        self.known.retain(|index, _| all.contains(index));
    }

    /// What uses an interface: an attached port's name, or which of those that
    /// are open.
    fn users_of(&self, index: u32) -> (Option<String>, Option<usize>) {
        let mut used = self.used.iter();
        let on = |u: &Used| u.ports.iter().any(|p| p.index == Some(index));
        let attached = used.find(|(_, u)| on(u)).map(|(name, _)| name.clone());
        let mut open = self.opened.iter().map(|o| o.nic.as_ref());
        let open = open.position(|nic| nic.is_some_and(|n| n.index == index));
        (attached, open)
    }
}

impl Core {
    /// Hears what has become of interfaces.
    pub(crate) fn hear_of_links(&mut self) {
        loop {
            let event = match &mut self.devices.links {
                Some(links) => links.next_event(),
                None => return,
            };
            match event {
                Ok(Some(LinkEvent::Removed(link))) => self.lose_interface(link.index),
                Ok(Some(LinkEvent::Changed(link))) => {
                    self.devices.link_changed(&link);
                    self.look_at_queues(link.index);
                }
                Ok(Some(_)) => self.look_at_links(),
                Ok(None) => return,
                Err(e) => {
                    let why = crate::files::chain(&e);
                    tracing::error!("no news of interfaces any more: {why}");
                    self.devices.links = None;
                    return;
                }
            }
        }
    }

    /// News were lost: which interfaces are still there?
    fn look_at_links(&mut self) {
        let links = Netlink::open().and_then(|mut netlink| netlink.links());
        let Ok(links) = links else { return };
        for link in &links {
            self.devices.link_changed(link);
            self.look_at_queues(link.index);
        }
        let of_ports = self.devices.used.values().flat_map(|u| &u.ports);
        let nics = self.devices.opened.iter().filter_map(|o| o.nic.as_ref());
        let linked = self.devices.linked.values().map(|l| l.index);
        let indices: Vec<u32> = of_ports
            .filter_map(|p| p.index)
            .chain(nics.map(|n| n.index))
            .chain(linked)
            .collect();
        for index in indices {
            if links.iter().all(|l| l.index != index) {
                self.lose_interface(index);
            }
        }
    }

    /// An interface is no more, or in another namespace. A TAP notices by itself
    /// when it is deleted, and works on if it was given to a container.
    fn lose_interface(&mut self, index: u32) {
        self.devices.known.remove(&index);
        self.lose_linked_interface(index);
        let (attached, open) = self.devices.users_of(index);
        if let Some(at) = open {
            let name = self.devices.opened.get(at).map(|o| o.name.as_str());
            tracing::warn!(port = name, "device is gone: interface removed");
            self.lose_opened(at);
        }
        if let Some(name) = attached {
            tracing::warn!(port = name, "device is gone: interface removed");
            self.lose_used(&name);
        }
        self.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use netvale_switch::domain::Want;
    use netvale_testkit::net::NetNs;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_port_goes_with_an_interface_that_went_unheard() {
        let test = "answer::links::tests::a_port_goes_with_an_interface_that_went_unheard";
        let Some(ns) = NetNs::new(test) else { return };
        let tmp = tempfile::tempdir().unwrap();
        ns.enter(|| {
            let mut core = Core::new(Config::at(tmp.path())).unwrap();
            core.new_interface("v1", &Want::default(), None, true)
                .unwrap();
            ns.ip("link del dev v1");
            core.look_at_links();
            assert!(core.domain.list().is_empty());
        });
    }
}

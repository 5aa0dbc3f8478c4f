//! News of the interfaces that devices stand for.

use netvale_backends::netlink::{Link, LinkEvent, LinkWatch, Netlink};

use super::Core;
use super::devices::{Devices, Used};

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
                    let (attached, open) = self.devices.users_of(link.index);
                    if attached.is_some() || open.is_some() {
                        let Link { name, up, mtu, .. } = link;
                        tracing::info!(interface = name, up, mtu, "interface has changed");
                    }
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
        let of_ports = self.devices.used.values().flat_map(|u| &u.ports);
        let nics = self.devices.opened.iter().filter_map(|o| o.nic.as_ref());
        let indices: Vec<u32> = of_ports
            .filter_map(|p| p.index)
            .chain(nics.map(|n| n.index))
            .collect();
        for index in indices {
            if links.iter().all(|l| l.index != index) {
                self.lose_interface(index);
            }
        }
    }

    fn lose_interface(&mut self, index: u32) {
        let (attached, open) = self.devices.users_of(index);
        if let Some(at) = open {
            let name = self.devices.opened.get(at).map(|o| o.name.as_str());
            tracing::warn!(port = name, "device is gone: interface removed");
            self.lose_opened(at);
        }
        if let Some(name) = attached
            && let Some(used) = self.devices.used.remove(&name)
        {
            tracing::warn!(port = name, "device is gone: interface removed");
            self.unseat_device(used);
        }
        self.wake_all();
    }
}

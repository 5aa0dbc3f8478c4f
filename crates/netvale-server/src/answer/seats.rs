//! Attaching and detaching persistent ports and devices.

use std::sync::Arc;

use netvale_shm::Doorbell;
use netvale_switch::domain::Registration;
use netvale_wire::name::{BackendKind, PortKind, PortSpec};
use netvale_wire::proto::ErrorKind;

use super::devices::{self, Where};
use super::{Core, parse};
use crate::conn::Conn;
use crate::joint::Joint;
use crate::listing::Refusal;
use crate::pump::DeviceSpec;

impl Core {
    /// The index that the port got. `nr`: the name is a request's. `named`: a
    /// device's port is to be called so.
    pub(super) fn attach(
        &mut self,
        spec: &str,
        nr: bool,
        host: bool,
        mem_id: u16,
        named: Option<&str>,
    ) -> Result<u32, Refusal> {
        let port = spec.split_once(':').map_or(spec, |(_, port)| port);
        let persistent = self.domain.is_persistent(port);
        if let Some((switch, device)) = devices::named(spec, persistent) {
            let place = Where {
                switch,
                host,
                mem_id,
                cpus: &[],
                port: named,
            };
            return self.attach_device(&device?, place);
        }
        if persistent && named.is_some() {
            let message = format!("{port} is a persistent port, which keeps its name");
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        if host && !nr {
            let message = format!("{spec}: a persistent port has no host stack to attach");
            return Err(Refusal::new(ErrorKind::Unsupported, message));
        }
        let name = full_name(spec, nr)?;
        if let Some(second) = self.domain.second_seat(&name) {
            return self.join(name, &second);
        }
        let index = match nr {
            true => self.domain.attach_named(spec)?,
            false => self.domain.attach(&parse(spec)?)?,
        };
        self.serve_linked(&name)?;
        Ok(index)
    }

    /// Whether a client may attach what it names so: see [`Core::same_net`].
    pub(super) fn may_attach(&self, conn: &Conn, spec: &str) -> Result<(), Refusal> {
        let port = spec.split_once(':').map_or(spec, |(_, port)| port);
        match self.domain.is_persistent(port) || port.starts_with("pcap:") {
            true => Ok(()),
            false => self.same_net(conn, port),
        }
    }

    /// Whether a client may have what it opens or asks about so: see
    /// [`Core::same_net`].
    pub(super) fn same_place(&self, conn: &Conn, spec: &PortSpec) -> Result<(), Refusal> {
        let beside = spec.pipe.is_some() || spec.flags.is_monitor();
        let is_device = match &spec.kind {
            PortKind::Backend { kind, .. } => *kind != BackendKind::Pcap,
            PortKind::Nic { name } => !self.domain.is_persistent(name),
            _ => false,
        };
        match is_device && !beside {
            true => self.same_net(conn, &spec.port_name()),
            false => Ok(()),
        }
    }

    /// Refuses a device to a client of another network namespace: the same name
    /// means another one there, or nothing.
    pub(super) fn same_net(&self, conn: &Conn, what: &str) -> Result<(), Refusal> {
        let ours = std::process::id();
        let known = conn.netns_cookie.zip(self.netns_cookie);
        // A process with a server of its own knows where that is.
        if conn.pid == ours || known.is_none_or(|(theirs, ours)| theirs == ours) {
            return Ok(());
        }
        let message =
            format!("{what}: the server (process {ours}) is in another network namespace");
        let hint = "name another directory with --ns or NETVALE_NS, for a server of this one";
        Err(Refusal::new(ErrorKind::Unsupported, message).hint(hint))
    }

    /// The index that the port had.
    pub(super) fn detach(&mut self, spec: &str, nr: bool) -> Result<u32, Refusal> {
        let short = match spec.split_once(':') {
            // By the port's name first, which may be another interface's too.
            Some((switch, rest)) if !self.devices.is_attached(spec) => {
                match DeviceSpec::prefixed(rest) {
                    Some(Ok(device)) => self.devices.port_of(switch, &device),
                    _ => self.devices.called(switch, rest),
                }
            }
            _ => None,
        };
        let short = short.unwrap_or_else(|| spec.to_owned());
        if self.devices.is_linked(&short) {
            self.rest_linked(&short)?;
            return self.domain.detach_named(&short).map_err(|e| {
                // As if nobody had asked.
                if let Err(e) = self.serve_linked(&short) {
                    tracing::warn!(port = short, "it is not served: {}", e.message);
                }
                e.into()
            });
        }
        if let Some(index) = self.detach_device(&short)? {
            return Ok(index);
        }
        if let Some(joint) = self.joints.remove(&full_name(spec, nr)?) {
            let owners = joint.owners;
            drop(joint); // its thread has ended now
            owners.into_iter().for_each(|o| self.close(o));
        }
        match nr {
            true => Ok(self.domain.detach_named(spec)?),
            false => Ok(self.domain.detach(&parse(spec)?)?),
        }
    }

    /// An attached port is to be in a second switch: it joins the two.
    fn join(&mut self, name: String, spec: &PortSpec) -> Result<u32, Refusal> {
        let process = std::process::id();
        let first = self.domain.add_owner(process, false)?;
        let second = match self.domain.add_owner(process, false) {
            Ok(second) => second,
            Err(e) => {
                self.close(first);
                return Err(e.into());
            }
        };
        let owners = [first, second];
        match self.domain.attach_second(spec, owners) {
            Ok((index, ends)) => match self.carry(&ends) {
                Ok(joint) => {
                    self.joints.insert(name, joint);
                    Ok(index)
                }
                Err(refusal) => {
                    owners.into_iter().for_each(|o| self.close(o));
                    self.domain.detach(spec)?;
                    Err(refusal)
                }
            },
            Err(e) => {
                owners.into_iter().for_each(|o| self.close(o));
                Err(e.into())
            }
        }
    }

    fn carry(&mut self, ends: &[Registration; 2]) -> Result<Joint, Refusal> {
        let os = |e| Refusal::os("join two switches", &e);
        let bell = Arc::new(Doorbell::new().map_err(os)?);
        for reg in ends {
            self.regions.enter(&self.domain, super::open::krings(reg));
        }
        let lost = || Refusal::new(ErrorKind::Other, "the port's rings are not in its region");
        let (region, generation) = (ends[0].region, ends[0].region_gen);
        let (map, _) = self.domain.region(region, generation).ok_or_else(lost)?;
        // Before anybody can find the thread asleep.
        self.bells.insert(ends[0].owner, Arc::clone(&bell));
        let joint = Joint::start(&self.gear(), ends, map, bell);
        joint.map_err(os)?.ok_or_else(lost)
    }
}

/// Switch and port, as ports are called.
fn full_name(spec: &str, nr: bool) -> Result<String, Refusal> {
    match nr {
        true => Ok(spec.into()),
        false => Ok(parse(spec)?.port_name()),
    }
}

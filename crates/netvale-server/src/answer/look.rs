//! Requests that ask and change nothing.

use std::sync::atomic::Ordering::Acquire;

use netvale_switch::domain::Registration;
use netvale_wire::abi::mode;
use netvale_wire::name::PortSpec;
use netvale_wire::proto::{
    Context, ErrorKind, NrRequest, PortInfo, PortKey, Reply, StationKey, Status,
};

use super::{Answer, Core, Owner, dup, is_interface, parse, trusted_only};
use crate::conn::Conn;
use crate::listing::{self, Refusal};

impl Core {
    pub(super) fn region(&self, context: Context, id: u16, generation: u32) -> Answer {
        trusted_only(context)?;
        let (map, file) = self
            .domain
            .region(id, generation)
            .ok_or_else(|| Refusal::new(ErrorKind::NotFound, format!("no memory region {id}")))?;
        Ok((Reply::Region(listing::region(map, file)), vec![dup(file)?]))
    }

    pub(super) fn doorbell(&self, context: Context, owner: u16) -> Answer {
        trusted_only(context)?;
        let gone = || Refusal::new(ErrorKind::NotFound, format!("no registration {owner}"));
        let bell = self.bells.get(owner).ok_or_else(gone)?;
        let word = self.domain.world().owner(owner).ok_or_else(gone)?;
        // Whoever asks wants to ring it, and may have given up waiting for us.
        bell.ring();
        let reply = Reply::Doorbell {
            owner,
            tag: word.load(Acquire),
        };
        Ok((reply, vec![dup(&bell)?]))
    }

    pub(super) fn list(&self, after: Option<&PortKey>) -> Reply {
        let mut all = self.domain.list();
        // The server's own side of devices that are open.
        all.retain(|entry| !self.devices.is_hidden(&entry.name));
        let all = all.into_iter().map(|entry| {
            let about = self.devices.about(&entry.name);
            let link = self.devices.link_of(&entry.name).map(listing::link);
            let mut opened = self.devices.opened.iter();
            let opened = opened.find(|o| o.name == entry.name);
            let listed = listing::port(entry);
            PortInfo {
                device: about,
                link,
                kind: opened.map_or(listed.kind.clone(), |o| o.kind().into()),
                ..listed
            }
        });
        let (ports, more) =
            listing::page(all.filter(|p: &PortInfo| after.is_none_or(|a| p.key() > *a)));
        Reply::Ports { ports, more }
    }

    pub(super) fn info(&mut self, conn: &Conn, spec: &str) -> Result<Reply, Refusal> {
        let spec = parse(spec)?;
        self.may_look(conn, &spec.port_name())?;
        self.same_place(conn, &spec)?;
        let reg = self.look_at_device(&spec, [0, 0], |core| core.domain.info(&spec))?;
        Ok(self.seen(&reg))
    }

    pub(super) fn describe(&mut self, conn: &Conn, nr: &NrRequest) -> Result<Reply, Refusal> {
        self.may_look(conn, &nr.name)?;
        let bind = listing::nr_bind(nr);
        let look = |core: &mut Self| core.domain.describe(&bind, &is_interface);
        let reg = match PortSpec::from_nr_name(&nr.name) {
            Ok(spec) if nr.mode != mode::NULL => {
                self.same_place(conn, &spec)?;
                self.look_at_device(&spec, nr.host_rings, look)?
            }
            _ => look(self)?,
        };
        Ok(self.seen(&reg))
    }

    /// Making the port, if only for a moment, takes memory of the trusted.
    fn may_look(&self, conn: &Conn, name: &str) -> Result<(), Refusal> {
        if conn.trusted_user || self.domain.vnet_hdr(name).is_ok() {
            return Ok(());
        }
        let message = format!("{name}: no such port");
        Err(Refusal::new(ErrorKind::NotFound, message))
    }

    fn seen(&self, reg: &Registration) -> Reply {
        self.regions.prune(&self.domain);
        Reply::Info(listing::registered(reg, reg.geom.file_len() as u64))
    }

    pub(super) fn stats(&self, name: Option<&str>, after: Option<&str>) -> Reply {
        let mut all = self.domain.stats(name);
        all.retain(|s| !self.devices.is_hidden(&s.name));
        all.sort_by(|a, b| a.name.cmp(&b.name));
        for s in &mut all {
            s.drops
                .extend(self.devices.losses(&s.name).into_iter().flatten());
        }
        let rest = all
            .into_iter()
            .filter(|s| after.is_none_or(|a| s.name.as_str() > a));
        let (ports, more) = listing::page(rest.map(listing::stats));
        Reply::Stats { ports, more }
    }

    pub(super) fn fdb(&self, switch: &str, after: Option<StationKey>) -> Result<Reply, Refusal> {
        let all = self.domain.fdb(switch).ok_or_else(|| {
            Refusal::new(ErrorKind::NotFound, format!("{switch}: no such switch"))
        })?;
        let all = all.into_iter().map(listing::station);
        let rest = all.filter(|s| after.is_none_or(|a| listing::station_key(s) > a));
        let (stations, more) = listing::page(rest);
        Ok(Reply::Fdb { stations, more })
    }

    pub(super) fn status(&self, connections: usize) -> Status {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let isolated = |o: &&Owner| matches!(o, Owner::Isolated { .. });
        Status {
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").into(),
            uptime_s: self.started.elapsed().as_secs(),
            connections: count(connections),
            registrations: count(self.owners.len()),
            isolated: count(self.owners.values().filter(isolated).count()),
            ports: count(self.domain.list().len()),
            workers: count(self.workers.len()),
            service: self.config.service,
            bad_requests: self.bad_requests,
            refused: self.refused,
            net_ns: self.net_ns,
            log: (self.config.log.as_ref()).map(|path| path.display().to_string()),
        }
    }
}

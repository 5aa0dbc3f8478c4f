//! Registrations: from a request to rings, bells and a worker.

use std::io;
use std::sync::Arc;

use netvale_ring::kring::KringId;
use netvale_shm::Doorbell;
use netvale_switch::domain::{Domain, DomainError, NrBind, Registration, Want};
use netvale_wire::abi::mode;
use netvale_wire::name::{PortFlags, PortSpec};
use netvale_wire::proto::{Context, ErrorKind, NrOffsets, NrRequest, Registered, Reply, Wanted};

use super::{Answer, Core, Fenced, Owner, dup, is_interface, parse, trusted_only};
use crate::bells::BellPair;
use crate::conn::Conn;
use crate::files::FileSource;
use crate::listing::{self, Refusal};
use crate::worker::Client;

/// Longest key of a region, bytes.
const MAX_KEY: usize = 4096;

impl Core {
    pub(super) fn register(
        &mut self,
        conn: &mut Conn,
        context: Context,
        spec: &str,
        want: &Wanted,
    ) -> Answer {
        unbound(conn)?;
        let spec = parse(spec)?;
        let isolated = context == Context::Isolated;
        if isolated {
            self.check_fence(conn, &spec.port_name(), spec.flags.is_monitor())?;
        }
        self.open_device(conn, isolated, &spec, want, [0, 0])?;
        let want = self.allowed(conn, want);
        self.open(conn, isolated, |domain, owner| {
            domain.register(owner, &spec, &want)
        })
    }

    /// A registration in netmap's terms.
    pub(super) fn bind(&mut self, conn: &mut Conn, context: Context, nr: &NrRequest) -> Answer {
        unbound(conn)?;
        let isolated = context == Context::Isolated;
        if isolated && nr.mode != mode::NULL {
            let monitor = PortFlags::from_bits(nr.flags).is_monitor();
            self.check_fence(conn, &nr.name, monitor)?;
        }
        let offsets = nr.offsets;
        if nr.mode != mode::NULL
            && let Ok(spec) = PortSpec::from_nr_name(&nr.name)
        {
            let spec = PortSpec {
                flags: PortFlags::from_bits(nr.flags),
                mem_id: (nr.mem_id != 0).then_some(nr.mem_id),
                ..spec
            };
            self.open_device(conn, isolated, &spec, &nr.want, nr.host_rings)?;
        }
        let nr = NrBind {
            want: self.allowed(conn, &nr.want),
            ..listing::nr_bind(nr)
        };
        let (mut reply, fds) = self.open(conn, isolated, |domain, owner| {
            domain.bind(owner, &nr, &is_interface)
        })?;
        if let (Reply::Registered(r), Some(asked)) = (&mut reply, offsets) {
            let largest = self.domain.largest_offset(r.owner);
            r.offsets = largest.map(|max| NrOffsets {
                max: max.into(),
                ..asked
            });
        }
        Ok((reply, fds))
    }

    /// What a client asks for, cut to what it may have.
    fn allowed(&self, conn: &Conn, want: &Wanted) -> Want {
        let mut want = listing::want(want);
        if !conn.trusted_user {
            want.extra_bufs = want.extra_bufs.min(self.config.user_extra_bufs);
        }
        want
    }

    /// Makes a registration, and takes it back if it cannot be completed.
    fn open(
        &mut self,
        conn: &mut Conn,
        isolated: bool,
        bind: impl FnOnce(&mut Domain<FileSource>, u16) -> Result<Registration, DomainError>,
    ) -> Answer {
        let owner = match self.domain.add_owner(conn.pid, isolated) {
            Ok(owner) => owner,
            Err(e) => {
                self.settle_all_devices(); // one may have been opened for it
                return Err(e.into());
            }
        };
        let bound = bind(&mut self.domain, owner)
            .map_err(Refusal::from)
            .and_then(|reg| self.settle_devices(Some(reg.port)).map(|()| reg))
            .and_then(|reg| self.outfit(&reg, conn.uid));
        match bound {
            Ok(answer) => {
                conn.owner = Some(owner);
                self.seated = true;
                Ok(answer)
            }
            Err(refusal) => {
                self.close(owner);
                Err(refusal)
            }
        }
    }

    /// An isolated port's memory is its user's, and so are its frames.
    fn check_fence(&self, conn: &Conn, name: &str, monitor: bool) -> Result<(), Refusal> {
        let denied = |why: &str| Err(Refusal::new(ErrorKind::Denied, format!("{name} {why}")));
        match self.fenced.get(name) {
            Some(port) if port.uid != conn.uid => denied("belongs to another user"),
            None if monitor && !conn.trusted_user => denied("is not yours to monitor"),
            _ => Ok(()),
        }
    }

    /// Gives a registration its bells and, if it needs one, a worker.
    fn outfit(&mut self, reg: &Registration, uid: u32) -> Answer {
        let owner = reg.owner;
        self.regions.enter(&self.domain, krings(reg));
        if !reg.isolated {
            let bell = Doorbell::new().map_err(|e| Refusal::os("make a doorbell", &e))?;
            let bell = Arc::new(bell);
            self.bells.insert(owner, Arc::clone(&bell));
            self.owners.insert(owner, Owner::Trusted { bell });
            return self.outfit_of(reg);
        }
        let os = |e: io::Error| Refusal::os("make a doorbell", &e);
        let (to_client, to_worker) = (BellPair::new().map_err(os)?, BellPair::new().map_err(os)?);
        self.hire()?;
        let fewest = self.workers.iter().enumerate().min_by_key(|(_, w)| w.ports);
        let worker = match (self.fenced.get(&reg.name), fewest) {
            (Some(port), _) => port.worker,
            (None, Some((worker, _))) => worker,
            (None, None) => return Err(Refusal::new(ErrorKind::Other, "the server has no worker")),
        };
        let Some((map, _)) = self.domain.region(reg.region, reg.region_gen) else {
            return Err(Refusal::new(ErrorKind::Other, "the port's region is gone"));
        };
        let client = Client::new(&self.gear(), reg, map, to_client.ring, to_worker.hear);
        let Some(client) = client else {
            return Err(Refusal::new(
                ErrorKind::Other,
                "the port's rings are not in its region",
            ));
        };
        let theirs = Owner::Isolated {
            worker,
            name: reg.name.clone(),
            hear: to_client.hear,
            kick: to_worker.ring,
        };
        self.owners.insert(owner, theirs);
        let port = self.fenced.entry(reg.name.clone()).or_insert(Fenced {
            uid,
            registrations: 0,
            worker,
        });
        port.registrations += 1;
        self.workers[worker].add(client);
        self.outfit_of(reg)
    }

    /// The answer for a registration that has everything.
    fn outfit_of(&self, reg: &Registration) -> Answer {
        let region = self.domain.region(reg.region, reg.region_gen);
        let (Some((_, file)), Some(owner)) = (region, self.owners.get(&reg.owner)) else {
            return Err(Refusal::new(ErrorKind::NotFound, "the port is gone"));
        };
        let mut fds = vec![dup(file)?];
        match owner {
            Owner::Trusted { bell } => fds.push(dup(bell)?),
            Owner::Isolated { hear, kick, .. } => fds.extend([dup(hear)?, dup(kick)?]),
        }
        let registered = Registered {
            drivable: matches!(owner, Owner::Trusted { .. }) && self.is_drivable(reg.owner),
            served: self.devices.opened.iter().any(|o| o.user == reg.port),
            ..listing::registered(reg, file.len() as u64)
        };
        Ok((Reply::Registered(registered), fds))
    }

    pub(super) fn whoami(&self, conn: &Conn) -> Answer {
        let reg = conn.owner.and_then(|o| self.domain.registration(o));
        match reg {
            Some(reg) => self.outfit_of(&reg),
            None => Err(Refusal::new(
                ErrorKind::NotFound,
                "this connection has no port",
            )),
        }
    }

    /// A shared region of the client's own.
    pub(super) fn new_region(
        &mut self,
        conn: &mut Conn,
        context: Context,
        key: &str,
        geom: [u32; 5],
    ) -> Answer {
        trusted_only(context)?;
        if key.len() > MAX_KEY {
            let message = format!("a region's key has at most {MAX_KEY} bytes");
            return Err(Refusal::new(ErrorKind::Invalid, message));
        }
        let made = self
            .domain
            .want_region(key, listing::geom(geom), conn.pid)?;
        let entry = (made.id, made.generation);
        if !conn.wanted.contains(&entry) {
            conn.wanted.push(entry);
        }
        self.region(context, made.id, made.generation)
    }

    /// A connection is over: regions that it asked for and nobody uses go.
    pub(crate) fn forget(&mut self, conn: &Conn) {
        for &(id, generation) in &conn.wanted {
            self.domain.give_up_region(id, generation, conn.pid);
        }
    }
}

fn unbound(conn: &Conn) -> Result<(), Refusal> {
    match conn.owner {
        None => Ok(()),
        Some(_) => Err(Refusal::new(
            ErrorKind::Busy,
            "this connection has a port already",
        )),
    }
}

pub(super) fn krings(reg: &Registration) -> impl Iterator<Item = KringId> {
    reg.tx.iter().chain(&reg.rx).map(|r| r.kring)
}

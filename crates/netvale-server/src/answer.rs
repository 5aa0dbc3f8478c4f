//! What the server does for each request.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;
use std::time::{Instant, SystemTime};

use netvale_ring::kring::KringId;
use netvale_ring::port::PortId;
use netvale_ring::world::Waker;
use netvale_shm::Doorbell;
use netvale_switch::domain::{Domain, DomainError, Registration, Want};
use netvale_switch::end::Gear;
use netvale_wire::name::{MAX_SPEC, PortSpec};
use netvale_wire::proto::{
    Context, ErrorKind, PROTOCOL_VERSION, PortInfo, Reply, Request, StateFile, Status, Wanted,
};

use crate::bells::{BellPair, Bells};
use crate::config::{Config, PortConfig};
use crate::conn::Conn;
use crate::files::FileSource;
use crate::listing::{self, Refusal};
use crate::regions::{SharedRegions, as_source};
use crate::worker::{Client, Worker};

/// An answer and what goes with it.
pub(crate) type Answer = Result<(Reply, Vec<OwnedFd>), Refusal>;

/// Everything that requests are about.
#[derive(Debug)]
pub(crate) struct Core {
    domain: Domain<FileSource>,
    bells: Arc<Bells>,
    regions: Arc<SharedRegions>,
    // Before `domain` goes they must have ended: see `Drop`.
    workers: Vec<Worker>,
    owners: HashMap<u16, Owner>,
    /// Isolated ports by name.
    fenced: HashMap<String, Fenced>,
    config: Config,
    instance: u64,
    started: Instant,
    /// A port may be in a switch: learning tables age.
    pub(crate) seated: bool,
    /// A port stays though nobody has it open.
    pub(crate) persistent: bool,
    /// Told to end.
    pub(crate) ending: bool,
    pub(crate) bad_requests: u64,
    pub(crate) refused: u64,
}

/// An isolated port.
#[derive(Debug)]
struct Fenced {
    /// Whose it is.
    uid: u32,
    registrations: usize,
    /// All registrations of a port are served by one worker: they share its
    /// rings and its bell page.
    worker: usize,
}

/// A bound registration.
#[derive(Debug)]
enum Owner {
    Trusted {
        bell: Arc<Doorbell>,
    },
    Isolated {
        worker: usize,
        name: String,
        /// The client's ends of its bells.
        hear: OwnedFd,
        kick: OwnedFd,
    },
}

impl Core {
    pub(crate) fn new(config: Config) -> Result<Self, DomainError> {
        let domain = Domain::new(config.domain, FileSource::new(config.huge_pages))?;
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let nanos = epoch.map_or(0, |t| t.as_nanos());
        Ok(Self {
            domain,
            bells: Arc::default(),
            regions: Arc::default(),
            workers: Vec::new(),
            owners: HashMap::new(),
            fenced: HashMap::new(),
            config,
            instance: u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or(0),
            started: Instant::now(),
            seated: false,
            persistent: false,
            ending: false,
            bad_requests: 0,
            refused: 0,
        })
    }

    /// Makes the persistent ports of the configuration.
    pub(crate) fn make_ports(&mut self) -> Result<(), DomainError> {
        for port in std::mem::take(&mut self.config.ports) {
            self.make_port(&port)?;
        }
        Ok(())
    }

    fn make_port(&mut self, port: &PortConfig) -> Result<(), DomainError> {
        let want = Want {
            tx_rings: port.rings,
            rx_rings: port.rings,
            tx_slots: port.slots,
            rx_slots: port.slots,
            ..Want::default()
        };
        let id = self.domain.new_interface(&port.name, &want, None)?;
        self.persistent = true;
        self.note_regions(id);
        if let Some(switch) = &port.attach {
            let spec = format!("{switch}:{}", port.name);
            let spec =
                PortSpec::parse(&spec).map_err(|e| DomainError::Invalid(format!("{spec}: {e}")))?;
            self.domain.attach(&spec)?;
            self.seated = true;
        }
        Ok(())
    }

    /// Answers a request of a connection.
    pub(crate) fn answer(
        &mut self,
        conn: &mut Conn,
        connections: usize,
        request: Request,
    ) -> Answer {
        if let Request::Hello {
            version,
            isolated,
            ref client,
        } = request
        {
            tracing::debug!(pid = conn.pid, client, isolated, "hello");
            return self.hello(conn, version, isolated);
        }
        let Some(context) = conn.context else {
            return Err(Refusal::new(
                ErrorKind::Protocol,
                "the first message must be hello",
            ));
        };
        let done = match request {
            Request::Hello { .. } => Reply::Done, // answered above
            Request::Register { spec, want } => return self.register(conn, context, &spec, &want),
            Request::Whoami => return self.whoami(conn),
            Request::Region { id, generation } => return self.region(context, id, generation),
            Request::Doorbell { owner } => return self.doorbell(context, owner),
            Request::List { after } => self.list(after.as_ref()),
            Request::Info { spec } => self.info(conn, &spec)?,
            Request::Stats { name, after } => self.stats(name.as_deref(), after.as_deref()),
            Request::Fdb { switch, after } => self.fdb(&switch, after)?,
            Request::Check { after } => {
                self.domain.reap();
                listing::check(self.domain.check(), after)
            }
            Request::GetHdr { name } => Reply::Hdr {
                len: self.domain.vnet_hdr(&name)?,
            },
            Request::Status => Reply::Status(self.status(connections)),
            change => {
                if !conn.trusted_user {
                    let message = "only the server's own user and root may change the namespace";
                    return Err(Refusal::new(ErrorKind::Denied, message));
                }
                self.change(conn, change)?
            }
        };
        Ok((done, Vec::new()))
    }

    fn hello(&self, conn: &mut Conn, version: u32, isolated: bool) -> Answer {
        if conn.context.is_some() {
            return Err(Refusal::new(ErrorKind::Protocol, "hello was said already"));
        }
        if version != PROTOCOL_VERSION {
            let message = format!(
                "the client speaks version {version} of the protocol, \
                 the server (release {}) version {PROTOCOL_VERSION}",
                env!("CARGO_PKG_VERSION")
            );
            let hint = "end the server once its ports are closed: netvale server stop";
            return Err(Refusal::new(ErrorKind::Unsupported, message).hint(hint));
        }
        let trusted = conn.trusted_user && !isolated && !self.config.isolated;
        let (context, state, fds) = if trusted {
            let file = self.domain.state_file();
            let state = StateFile {
                size: file.len() as u64,
                geom: self.domain.config().state.to_array(),
            };
            (Context::Trusted, Some(state), vec![dup(file)?])
        } else {
            (Context::Isolated, None, Vec::new())
        };
        conn.context = Some(context);
        let hello = Reply::Hello {
            version: PROTOCOL_VERSION,
            server: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            instance: self.instance,
            context,
            state,
        };
        Ok((hello, fds))
    }

    fn register(&mut self, conn: &mut Conn, context: Context, spec: &str, want: &Wanted) -> Answer {
        if conn.owner.is_some() {
            return Err(Refusal::new(
                ErrorKind::Busy,
                "this connection has a port already",
            ));
        }
        let spec = parse(spec)?;
        let mut want = listing::want(want);
        let isolated = context == Context::Isolated;
        if isolated {
            self.check_fence(conn, &spec)?;
        }
        if !conn.trusted_user {
            want.extra_bufs = want.extra_bufs.min(self.config.user_extra_bufs);
        }
        let owner = self.domain.add_owner(conn.pid, isolated)?;
        let bound = self
            .domain
            .register(owner, &spec, &want)
            .map_err(Refusal::from)
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
    fn check_fence(&self, conn: &Conn, spec: &PortSpec) -> Result<(), Refusal> {
        let name = spec.port_name();
        let denied = |why: &str| Err(Refusal::new(ErrorKind::Denied, format!("{name} {why}")));
        match self.fenced.get(&name) {
            Some(port) if port.uid != conn.uid => denied("belongs to another user"),
            None if spec.flags.is_monitor() && !conn.trusted_user => {
                denied("is not yours to monitor")
            }
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
        Ok((
            Reply::Registered(listing::registered(reg, file.len() as u64)),
            fds,
        ))
    }

    fn whoami(&self, conn: &Conn) -> Answer {
        let reg = conn.owner.and_then(|o| self.domain.registration(o));
        match reg {
            Some(reg) => self.outfit_of(&reg),
            None => Err(Refusal::new(
                ErrorKind::NotFound,
                "this connection has no port",
            )),
        }
    }

    /// Starts the workers, when the first isolated port comes.
    fn hire(&mut self) -> Result<(), Refusal> {
        if !self.workers.is_empty() {
            return Ok(());
        }
        for _ in 0..self.config.workers {
            let os = |e: io::Error| Refusal::os("start a worker", &e);
            let bell = Arc::new(Doorbell::new().map_err(os)?);
            let owner = self.domain.add_owner(std::process::id(), false)?;
            let waker = Arc::clone(&self.bells) as Arc<dyn Waker>;
            match Worker::spawn(owner, Arc::clone(&bell), waker) {
                Ok(worker) => {
                    self.bells.insert(owner, bell);
                    self.workers.push(worker);
                }
                Err(e) => {
                    self.domain.owner_gone(owner);
                    if self.workers.is_empty() {
                        return Err(os(e));
                    }
                    tracing::warn!("fewer workers than wanted: {e}");
                    break;
                }
            }
        }
        Ok(())
    }

    fn gear(&self) -> Gear {
        Gear {
            world: self.domain.world().clone(),
            source: as_source(&self.regions),
            waker: Arc::clone(&self.bells) as Arc<dyn Waker>,
        }
    }

    /// A registration is over: everything it had comes back.
    pub(crate) fn close(&mut self, owner: u16) {
        match self.owners.remove(&owner) {
            Some(Owner::Isolated { worker, name, .. }) => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.remove(owner);
                }
                if let Some(port) = self.fenced.get_mut(&name) {
                    port.registrations -= 1;
                    if port.registrations == 0 {
                        self.fenced.remove(&name);
                    }
                }
            }
            Some(Owner::Trusted { .. }) | None => {}
        }
        self.bells.remove(owner);
        let freed = self.domain.owner_gone(owner);
        if freed.repaired_slots > 0 || freed.broken_locks > 0 {
            tracing::info!(
                owner,
                slots = freed.repaired_slots,
                locks = freed.broken_locks,
                "repaired what a dead sender left"
            );
        }
        self.regions.prune(&self.domain);
        self.wake_all();
    }

    /// Wakes those whom the control plane wants woken.
    pub(crate) fn wake_all(&mut self) {
        for (id, said) in self.domain.take_wakes() {
            if let Some(kring) = self.domain.world().kring(id) {
                self.bells.wake(kring.sleep_word().futex(), said);
            }
        }
    }

    /// Frees what nobody writes to any more. Whether something is left.
    pub(crate) fn reap(&mut self) -> bool {
        self.domain.reap()
    }

    /// One eighth of the ageing time is over.
    pub(crate) fn age(&mut self) {
        let forgotten = self.domain.age();
        tracing::debug!(forgotten, "learning tables aged");
        self.seated = self.domain.list().iter().any(|p| p.seat.is_some());
    }

    fn look_for_persistent(&mut self) {
        self.persistent = self.domain.list().iter().any(|p| p.persistent);
    }

    fn region(&self, context: Context, id: u16, generation: u32) -> Answer {
        trusted_only(context)?;
        let (map, file) = self
            .domain
            .region(id, generation)
            .ok_or_else(|| Refusal::new(ErrorKind::NotFound, format!("no memory region {id}")))?;
        Ok((Reply::Region(listing::region(map, file)), vec![dup(file)?]))
    }

    fn doorbell(&self, context: Context, owner: u16) -> Answer {
        trusted_only(context)?;
        let gone = || Refusal::new(ErrorKind::NotFound, format!("no registration {owner}"));
        let bell = self.bells.get(owner).ok_or_else(gone)?;
        let word = self.domain.world().owner(owner).ok_or_else(gone)?;
        let reply = Reply::Doorbell {
            owner,
            tag: word.load(Acquire),
        };
        Ok((reply, vec![dup(&bell)?]))
    }

    fn list(&self, after: Option<&netvale_wire::proto::PortKey>) -> Reply {
        let all = self.domain.list().into_iter().map(listing::port);
        let (ports, more) =
            listing::page(all.filter(|p: &PortInfo| after.is_none_or(|a| p.key() > *a)));
        Reply::Ports { ports, more }
    }

    fn info(&mut self, conn: &Conn, spec: &str) -> Result<Reply, Refusal> {
        let spec = parse(spec)?;
        let name = spec.port_name();
        // Making the port, if only for a moment, takes memory of the trusted.
        if !conn.trusted_user && self.domain.vnet_hdr(&name).is_err() {
            return Err(Refusal::new(
                ErrorKind::NotFound,
                format!("{name}: no such port"),
            ));
        }
        let reg = self.domain.info(&spec)?;
        self.regions.prune(&self.domain);
        Ok(Reply::Info(listing::registered(
            &reg,
            reg.geom.file_len() as u64,
        )))
    }

    fn stats(&self, name: Option<&str>, after: Option<&str>) -> Reply {
        let mut all = self.domain.stats(name);
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let rest = all
            .into_iter()
            .filter(|s| after.is_none_or(|a| s.name.as_str() > a));
        let (ports, more) = listing::page(rest.map(listing::stats));
        Reply::Stats { ports, more }
    }

    fn fdb(
        &self,
        switch: &str,
        after: Option<netvale_wire::proto::StationKey>,
    ) -> Result<Reply, Refusal> {
        let all = self.domain.fdb(switch).ok_or_else(|| {
            Refusal::new(ErrorKind::NotFound, format!("{switch}: no such switch"))
        })?;
        let all = all.into_iter().map(listing::station);
        let rest = all.filter(|s| after.is_none_or(|a| listing::station_key(s) > a));
        let (stations, more) = listing::page(rest);
        Ok(Reply::Fdb { stations, more })
    }

    fn status(&self, connections: usize) -> Status {
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
        }
    }

    /// Requests that change the namespace.
    fn change(&mut self, conn: &Conn, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Attach { spec } => {
                let port_index = self.domain.attach(&parse(&spec)?)?;
                self.seated = true;
                Ok(Reply::Attached { port_index })
            }
            Request::Detach { spec } => Ok(Reply::Attached {
                port_index: self.domain.detach(&parse(&spec)?)?,
            }),
            Request::NewIf { name, want, region } => {
                let id = self
                    .domain
                    .new_interface(&name, &listing::want(&want), region)?;
                self.persistent = true;
                self.note_regions(id);
                Ok(Reply::Done)
            }
            Request::DelIf { name } => {
                self.domain.delete_interface(&name)?;
                self.look_for_persistent();
                Ok(Reply::Done)
            }
            Request::SetHdr { name, len } => {
                self.domain.set_vnet_hdr(&name, len)?;
                Ok(Reply::Done)
            }
            Request::Shutdown { force } => {
                let others = self.owners.len() - usize::from(conn.owner.is_some());
                if others > 0 && !force {
                    let message = format!("{others} ports are open");
                    return Err(
                        Refusal::new(ErrorKind::Busy, message).hint("--force ends it anyway")
                    );
                }
                self.ending = true;
                Ok(Reply::Done)
            }
            _ => Err(Refusal::new(
                ErrorKind::Protocol,
                "not a request that changes anything",
            )),
        }
    }

    fn note_regions(&self, port: PortId) {
        if let Some(rec) = port.rec(self.domain.world()) {
            let krings: Vec<KringId> = rec.rx().iter().collect();
            self.regions.enter(&self.domain, krings.into_iter());
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.workers.clear(); // joins them
    }
}

fn trusted_only(context: Context) -> Result<(), Refusal> {
    match context {
        Context::Trusted => Ok(()),
        Context::Isolated => Err(Refusal::new(
            ErrorKind::Denied,
            "an isolated client gets nothing but its own port",
        )),
    }
}

fn krings(reg: &Registration) -> impl Iterator<Item = KringId> {
    reg.tx.iter().chain(&reg.rx).map(|r| r.kring)
}

fn parse(spec: &str) -> Result<PortSpec, Refusal> {
    if spec.len() > MAX_SPEC {
        return Err(Refusal::new(ErrorKind::Invalid, "port name too long"));
    }
    PortSpec::parse(spec).map_err(|e| Refusal::new(ErrorKind::Invalid, format!("{spec}: {e}")))
}

fn dup(fd: &impl AsFd) -> Result<OwnedFd, Refusal> {
    fd.as_fd()
        .try_clone_to_owned()
        .map_err(|e| Refusal::os("pass a descriptor", &e))
}

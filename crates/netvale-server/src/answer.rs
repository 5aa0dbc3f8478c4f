//! What the server does for each request.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use netvale_ring::kring::KringId;
use netvale_ring::port::PortId;
use netvale_ring::world::Waker;
use netvale_shm::Doorbell;
use netvale_switch::domain::{Domain, DomainError, Want};
use netvale_switch::end::Gear;
use netvale_wire::name::{MAX_SPEC, PortSpec};
use netvale_wire::proto::{
    Context, ErrorKind, PROTOCOL_VERSION, Reply, Request, Seated, StateFile,
};

use crate::bells::Bells;
use crate::config::{Config, PortConfig};
use crate::conn::Conn;
use crate::control::StartError;
use crate::files::FileSource;
use crate::joint::Joint;
use crate::listing::{self, Refusal};
use crate::regions::{SharedRegions, as_source};
use crate::worker::Worker;
use devices::Devices;
use polling::Polling;

mod closing;
mod devices;
mod driven;
mod linked;
mod links;
mod look;
mod open;
mod opened;
mod polling;
mod seats;
mod wire;

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
    /// Persistent ports in two switches, by their name in the second.
    joints: HashMap<String, Joint>,
    pub(crate) devices: Devices,
    config: Config,
    instance: u64,
    /// The network namespace that devices are in, and its cookie.
    net_ns: Option<u64>,
    netns_cookie: Option<u64>,
    started: Instant,
    /// A port may be in a switch: learning tables age.
    pub(crate) seated: bool,
    /// A port stays though nobody has it open.
    pub(crate) persistent: bool,
    /// Whoever asks would rather wait than have less.
    pub(crate) patient: bool,
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
            joints: HashMap::new(),
            devices: Devices::new().map_err(|e| DomainError::NoSpace(e.to_string()))?,
            config,
            net_ns: netvale_shm::process::net_ns(),
            netns_cookie: any_socket()
                .ok()
                .and_then(|any| netvale_backends::netns_cookie(any.as_fd())),
            instance: u64::try_from(nanos & u128::from(u64::MAX)).unwrap_or(0),
            started: Instant::now(),
            seated: false,
            persistent: false,
            patient: false,
            ending: false,
            bad_requests: 0,
            refused: 0,
        })
    }

    /// Makes the persistent ports of the configuration.
    pub(crate) fn make_ports(&mut self) -> Result<(), StartError> {
        for port in std::mem::take(&mut self.config.ports) {
            self.make_port(&port).map_err(|r| StartError::Port {
                port: port.name.clone(),
                line: port.line,
                kind: r.kind,
                message: r.told(),
            })?;
        }
        Ok(())
    }

    fn make_port(&mut self, port: &PortConfig) -> Result<(), Refusal> {
        let want = Want {
            tx_rings: port.rings,
            rx_rings: port.rings,
            tx_slots: port.slots,
            rx_slots: port.slots,
            ..Want::default()
        };
        let link = port.link || self.config.link_ports;
        self.new_interface(&port.name, &want, None, link)?;
        if let Some(switch) = &port.attach {
            let spec = format!("{switch}:{}", port.name);
            let spec = PortSpec::parse(&spec)
                .map_err(|e| Refusal::new(ErrorKind::Invalid, format!("{spec}: {e}")))?;
            self.domain.attach(&spec)?;
            self.serve_linked(&spec.port_name())?;
            self.seated = true;
        }
        Ok(())
    }

    /// Attaches the devices of the configuration.
    pub(crate) fn attach_all(&mut self) -> Result<(), StartError> {
        for a in std::mem::take(&mut self.config.attach) {
            self.attach_configured(&a).map_err(|r| StartError::Device {
                device: a.device.clone(),
                switch: a.switch.clone(),
                line: a.line,
                kind: r.kind,
                message: r.told(),
            })?;
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
            Request::Bind { nr } => return self.bind(conn, context, &nr),
            Request::Describe { nr } => self.describe(conn, &nr)?,
            Request::Memory { id } => Reply::Memory(listing::layout(self.domain.layout(id)?)),
            Request::NewRegion { key, geom } => {
                return self.new_region(conn, context, &key, geom);
            }
            Request::Whoami => return self.whoami(conn),
            Request::Drive { queue, on } => return self.drive(conn, context, queue, on),
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
                len: match self.domain.vnet_hdr(&name) {
                    // An interface of the system has no such header.
                    Err(DomainError::NotFound(_)) if is_interface(&name) => 0,
                    other => other?,
                },
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
        self.close_plain(owner);
        self.settle_all_devices();
    }

    fn close_plain(&mut self, owner: u16) {
        let known = self.owners.remove(&owner);
        let rings = matches!(known, Some(Owner::Trusted { .. }));
        match known {
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
        self.undrive(owner);
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
        if rings {
            // It may have died with somebody's sleep word in its hands, before
            // it rang: nobody else would wake that one any more.
            self.bells.ring_all();
        }
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

    /// The ports of all switches, by name.
    fn seats(&self) -> BTreeMap<String, u16> {
        let all = self.domain.list().into_iter();
        all.filter_map(|p| p.seat.map(|(_, _, index)| (p.name, index)))
            .collect()
    }

    fn look_for_persistent(&mut self) {
        let any = self.domain.list().iter().any(|p| p.persistent);
        self.persistent = any || self.devices.any();
    }

    /// Requests that change the namespace.
    fn change(&mut self, conn: &Conn, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Attach {
                spec,
                nr,
                host,
                mem_id,
                port,
            } => {
                self.domain.layout(mem_id)?;
                self.may_attach(conn, &spec)?;
                let before = self.seats();
                let port_index = self.attach(&spec, nr, host, mem_id, port.as_deref())?;
                self.seated = true;
                let ports = only_in(self.seats(), &before);
                Ok(Reply::Attached { port_index, ports })
            }
            Request::Polling {
                name,
                on,
                mode,
                first_cpu,
                cpus,
            } => {
                let ask = Polling {
                    on,
                    mode,
                    first_cpu,
                    cpus,
                };
                self.poll_device(&name, ask)?;
                Ok(Reply::Done)
            }
            Request::Detach { spec, nr } => {
                let before = self.seats();
                let port_index = self.detach(&spec, nr)?;
                let ports = only_in(before, &self.seats());
                Ok(Reply::Attached { port_index, ports })
            }
            Request::NewIf {
                name,
                want,
                region,
                link,
            } => {
                if link {
                    self.same_net(conn, &name)?;
                }
                let link = link || self.config.link_ports;
                let region = region.filter(|&id| id != 0);
                self.new_interface(&name, &listing::want(&want), region, link)?;
                Ok(Reply::Done)
            }
            Request::DelIf { name } => {
                self.domain.delete_interface(&name).map_err(|e| match e {
                    DomainError::NotFound(_) if is_interface(&name) => {
                        DomainError::Invalid(format!("{name} is a network interface"))
                    }
                    e => e,
                })?;
                self.unlink_port(&name);
                self.look_for_persistent();
                Ok(Reply::Done)
            }
            Request::SetHdr { name, len } => {
                // A linked port is a program's while it is not attached.
                if self.devices.is_attached(&name) {
                    let message = format!("the header of {name} is its device's");
                    return Err(Refusal::new(ErrorKind::Busy, message));
                }
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

    /// Makes a persistent port; `link`: it is an interface of the host too.
    fn new_interface(
        &mut self,
        name: &str,
        want: &Want,
        region: Option<u16>,
        link: bool,
    ) -> Result<(), Refusal> {
        if is_interface(name) {
            let message = format!("{name} is a network interface");
            return Err(Refusal::new(ErrorKind::Exists, message));
        }
        let id = self.domain.new_interface(name, want, region)?;
        self.persistent = true;
        self.note_regions(id);
        let rings = id.rec(self.domain.world());
        let rings = rings.map_or([0, 0], |r| [r.tx().count, r.rx().count]);
        let done = match link {
            true => self.link_port(name, rings),
            false => Ok(()),
        };
        if done.is_err() {
            let _ = self.domain.delete_interface(name); // nobody else knows it
            self.look_for_persistent();
        }
        done
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
        self.joints.clear();
        self.devices.end();
    }
}

/// The ports of `these` that `those` lack.
fn only_in(these: BTreeMap<String, u16>, those: &BTreeMap<String, u16>) -> Vec<Seated> {
    let new = these
        .into_iter()
        .filter(|(name, _)| !those.contains_key(name));
    let seated = new.map(|(name, index)| Seated {
        name,
        port_index: u32::from(index),
    });
    seated.collect()
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

/// Whether the system has a network interface of this name.
fn is_interface(name: &str) -> bool {
    interface(name).is_some()
}

/// The number of the network interface of this name, which may be one of
/// several that it has.
fn interface(name: &str) -> Option<u32> {
    // Not in /sys, which may show another network namespace than ours.
    rustix::net::netdevice::name_to_index(any_socket().ok()?, name).ok()
}

/// A socket of our network namespace.
fn any_socket() -> rustix::io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
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

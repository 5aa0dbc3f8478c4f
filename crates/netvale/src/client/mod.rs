//! The client side of a namespace with a server.
//!
//! A registration is a connection of its own, kept open as long as the port
//! is. Questions go over one more connection, which also keeps an on-demand
//! server alive while somebody holds a [`Namespace`](crate::Namespace).

pub(crate) mod convert;
pub(crate) mod link;
pub(crate) mod session;
mod start;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netvale_ring::world::RegionMap;
use netvale_shm::{Doorbell, Memfd};
use netvale_switch::domain::{
    CheckReport, PortStats, RegionReport, Registration, StationEntry, Want,
};
use netvale_switch::end::Gear;
use netvale_wire::name::PortSpec;
use netvale_wire::proto::{Context, PortKey, Registered, Reply, Request, StationKey};

use crate::backend::{Attach, Attached, Backend, Keep};
use crate::drive::Driven;
use crate::{Error, ErrorKind, PortEntry, Result, RingConfig};
use link::Link;
use session::Session;

/// What this process needs to know of a registration to drive its queues.
#[cfg_attr(
    not(feature = "af-xdp"),
    expect(dead_code, reason = "there is nobody to ask")
)]
pub(crate) struct Of<'a> {
    pub(crate) registered: &'a Registered,
    pub(crate) reg: &'a Registration,
    pub(crate) map: &'a RegionMap,
    /// `None`: the server's worker does the syncs, and drives.
    pub(crate) gear: Option<&'a Gear>,
    pub(crate) bell: BorrowedFd<'a>,
}

/// The user's namespace directory: `NETVALE_NS`, or the one that belongs to
/// the user.
pub(crate) fn default_path() -> PathBuf {
    match std::env::var_os("NETVALE_NS") {
        Some(path) if !path.is_empty() => path.into(),
        _ => own_path(),
    }
}

/// A new connection; starts a server if there is none.
pub(crate) fn open_or_start(dir: &Path, isolated: bool) -> Result<(Link, link::Welcome)> {
    if dir == own_path() {
        check_owner(dir)?;
    }
    start::open_or_start(dir, isolated)
}

fn own_path() -> PathBuf {
    let runtime_dir = std::env::var("XDG_RUNTIME_DIR").ok();
    let uid = rustix::process::geteuid().as_raw();
    netvale_wire::proto::default_dir(runtime_dir.as_deref(), uid).into()
}

/// Connects to the server of the namespace in this directory; with `spawn`,
/// starts one if there is none.
pub(crate) fn connect(path: &Path, spawn: bool) -> Result<Arc<dyn Backend>> {
    let dir =
        std::path::absolute(path).map_err(|e| Error::io(format_args!("{}", path.display()), e))?;
    if dir == own_path() {
        check_owner(&dir)?;
    }
    let served = Served {
        dir,
        spawn,
        link: Mutex::new(None),
    };
    let link = served.connect()?;
    *served.slot() = Some(link);
    Ok(Arc::new(served))
}

/// Where anybody may make a directory in advance (`/tmp`), ours must be ours.
fn check_owner(dir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::symlink_metadata(dir) else {
        return Ok(()); // there is none yet
    };
    let us = rustix::process::geteuid().as_raw();
    if meta.is_dir() && (meta.uid() == us || meta.uid() == 0) {
        return Ok(());
    }
    let message = format!("{} is not a directory of user {us}", dir.display());
    Err(Error::new(ErrorKind::Unavailable, message)
        .with_hint("set NETVALE_NS to a directory of your own"))
}

/// A namespace with a server.
#[derive(Debug)]
struct Served {
    dir: PathBuf,
    spawn: bool,
    /// For questions. Whoever finds that the server has ended is told; the
    /// next one connects to its successor.
    link: Mutex<Option<Link>>,
}

impl Served {
    fn slot(&self) -> MutexGuard<'_, Option<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> Result<Link> {
        let link = if self.spawn {
            start::link_or_start(&self.dir)?
        } else {
            Link::open(&self.dir, true)?.0
        };
        Ok(link.keep())
    }

    /// Asks over the connection for questions.
    fn ask(&self, request: &Request) -> Result<Reply> {
        let mut slot = self.slot();
        // A forked child must not mix its questions with its parent's.
        let mut link = match slot.take().filter(Link::is_ours) {
            Some(link) => link,
            None => self.connect()?,
        };
        let answer = link.ask(request);
        // After a failed exchange the next answer could be to this question.
        if !matches!(&answer, Err(e) if matches!(e.kind(), ErrorKind::Disconnected | ErrorKind::Peer))
        {
            *slot = Some(link);
        }
        Ok(answer?.0)
    }

    /// Asks for a port of this registration, and takes what comes along.
    fn bind(&self, mut link: Link, welcome: link::Welcome, request: &Request) -> Result<Attached> {
        let (reply, fds) = link.ask(request)?;
        let Reply::Registered(registered) = reply else {
            return Err(link::unexpected(&reply));
        };
        let reg = convert::registration(&registered)?;
        if reg.isolated != (welcome.context == Context::Isolated) {
            return Err(Error::new(
                ErrorKind::Peer,
                "the server changed its mind on isolation",
            ));
        }
        let mut fds = fds.into_iter();
        let mut next = || {
            let missing = "the server did not send a descriptor that belongs to its answer";
            fds.next()
                .ok_or_else(|| Error::new(ErrorKind::Peer, missing))
        };
        let (region, bell) = (next()?, Arc::new(Doorbell::from(next()?)));
        let kick = if reg.isolated {
            Some(Arc::new(Doorbell::from(next()?)))
        } else {
            None
        };
        let (map, gear) = match welcome.state {
            Some((file, state)) => {
                let session = Session::of(welcome.instance, &self.dir, file, &state)?;
                let map = session.adopt(&registered.region, region)?;
                (map, Some(session.gear()))
            }
            None => (map_region(&registered, region)?, None),
        };
        check_places(&reg, &map)?;
        let of = Of {
            registered: &registered,
            reg: &reg,
            map: &map,
            gear: gear.as_ref(),
            bell: bell.as_fd(),
        };
        let driven = Driven::by_asking(&of, |request| link.ask(request));
        Ok(Attached {
            driven,
            served: registered.served,
            reg,
            map,
            gear,
            bell,
            kick,
            keep: Arc::new(link),
        })
    }
}

fn map_region(registered: &Registered, fd: std::os::fd::OwnedFd) -> Result<RegionMap> {
    let bad = |e| Error::new(ErrorKind::Peer, format!("the port's region: {e}"));
    let size = convert::size(registered.region.size)?;
    let mem = Memfd::from_fd(fd, size)
        .and_then(|f| f.map())
        .map_err(bad)?;
    convert::region(&registered.region, mem)
}

/// The interface object and the rings must lie in the region: programs of the
/// C interface follow these offsets.
pub(crate) fn check_places(reg: &Registration, map: &RegionMap) -> Result<()> {
    let mut fine = usize::try_from(reg.nif_ofs).is_ok_and(|ofs| {
        map.mem
            .part(ofs, netvale_ring::layout::IF_SIZE as usize)
            .is_some()
    });
    for ring in reg.tx.iter().chain(&reg.rx) {
        let ofs = usize::try_from(ring.ofs).unwrap_or(usize::MAX);
        fine &= map.ring(ofs, u32::from(ring.slots)).is_some();
    }
    if fine {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::Peer,
            "the server described a port outside its region",
        ))
    }
}

/// The text of a specification, if the server will read the same from it.
fn text(spec: &PortSpec) -> Result<String> {
    let text = spec.to_string();
    match PortSpec::parse(&text) {
        Ok(same) if same == *spec => Ok(text),
        _ => Err(Error::new(
            ErrorKind::Usage,
            format!("{text}: a name with such characters cannot be sent to the server"),
        )),
    }
}

impl Backend for Served {
    fn register(&self, spec: &PortSpec, want: &Want, isolated: bool) -> Result<Attached> {
        let request = Request::Register {
            spec: text(spec)?,
            want: convert::wanted(want),
        };
        let (link, welcome) = match Link::open(&self.dir, isolated) {
            // It has ended since we connected; a port may have a new one.
            Err(e) if e.kind() == ErrorKind::Disconnected && self.spawn => {
                *self.slot() = Some(self.connect()?);
                Link::open(&self.dir, isolated)?
            }
            opened => opened?,
        };
        self.bind(link, welcome, &request)
    }

    fn info(&self, spec: &PortSpec) -> Result<Registration> {
        match self.ask(&Request::Info { spec: text(spec)? })? {
            Reply::Info(registered) => convert::registration(&registered),
            other => Err(link::unexpected(&other)),
        }
    }

    fn list(&self) -> Result<Vec<PortEntry>> {
        let mut all = Vec::new();
        let mut after: Option<PortKey> = None;
        loop {
            let request = Request::List {
                after: after.clone(),
            };
            let (ports, more) = match self.ask(&request)? {
                Reply::Ports { ports, more } => (ports, more),
                other => return Err(link::unexpected(&other)),
            };
            let last = ports.last().map(netvale_wire::proto::PortInfo::key);
            all.extend(ports.into_iter().map(convert::port));
            if !more || last <= after {
                return Ok(all);
            }
            after = last;
        }
    }

    fn stats(&self, name: Option<&str>) -> Result<Vec<PortStats>> {
        let mut all = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let request = Request::Stats {
                name: name.map(str::to_owned),
                after: after.clone(),
            };
            let (ports, more) = match self.ask(&request)? {
                Reply::Stats { ports, more } => (ports, more),
                other => return Err(link::unexpected(&other)),
            };
            let last = ports.last().map(|p| p.name.clone());
            all.extend(ports.into_iter().map(convert::stats));
            if !more || last <= after {
                return Ok(all);
            }
            after = last;
        }
    }

    fn fdb(&self, switch: &str) -> Result<Vec<StationEntry>> {
        let mut all = Vec::new();
        let mut after: Option<StationKey> = None;
        loop {
            let request = Request::Fdb {
                switch: switch.into(),
                after,
            };
            let (stations, more) = match self.ask(&request)? {
                Reply::Fdb { stations, more } => (stations, more),
                other => return Err(link::unexpected(&other)),
            };
            let last = stations.last().map(|s| StationKey {
                port_index: s.port_index,
                mac: s.mac,
            });
            all.extend(stations.into_iter().map(|s| StationEntry {
                mac: s.mac,
                port: (s.port_index, s.port),
                age: s.age,
            }));
            if !more || last <= after {
                return Ok(all);
            }
            after = last;
        }
    }

    fn attach(&self, what: &Attach<'_>) -> Result<u32> {
        let (spec, nr, host) = match what {
            Attach::Port { spec, host } => (text(spec)?, false, *host),
            Attach::Device(name) => ((*name).to_owned(), true, false),
        };
        self.index(&Request::Attach {
            spec,
            nr,
            host,
            mem_id: 0,
            port: None,
        })
    }

    fn detach(&self, what: &Attach<'_>) -> Result<u32> {
        let (spec, nr) = match what {
            Attach::Port { spec, .. } => (text(spec)?, false),
            Attach::Device(name) => ((*name).to_owned(), true),
        };
        self.index(&Request::Detach { spec, nr })
    }

    fn new_interface(&self, name: &str, config: &RingConfig) -> Result<()> {
        self.done(&Request::NewIf {
            name: name.into(),
            want: convert::wanted(&Want::from(config)),
            region: (config.mem_id != 0).then_some(config.mem_id),
            link: config.link,
        })
    }

    fn delete_interface(&self, name: &str) -> Result<()> {
        self.done(&Request::DelIf { name: name.into() })
    }

    fn set_vnet_hdr(&self, name: &str, len: u8) -> Result<()> {
        self.done(&Request::SetHdr {
            name: name.into(),
            len,
        })
    }

    fn vnet_hdr(&self, name: &str) -> Result<u8> {
        match self.ask(&Request::GetHdr { name: name.into() })? {
            Reply::Hdr { len } => Ok(len),
            other => Err(link::unexpected(&other)),
        }
    }

    fn check(&self) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        let mut after: Option<u16> = None;
        loop {
            let (regions, problems, more) = match self.ask(&Request::Check { after })? {
                Reply::Check {
                    regions,
                    problems,
                    more,
                } => (regions, problems, more),
                other => return Err(link::unexpected(&other)),
            };
            let last = regions.last().map(|r| r.id);
            report.problems.extend(problems);
            report
                .regions
                .extend(regions.into_iter().map(|r| RegionReport {
                    id: r.id,
                    bufs: r.bufs,
                    free: r.free,
                    in_rings: r.in_rings,
                    extra: r.extra,
                    huge: r.huge,
                }));
            if !more || last <= after {
                return Ok(report);
            }
            after = last;
        }
    }

    fn shutdown(&self, force: bool) -> Result<()> {
        self.done(&Request::Shutdown { force })
    }
}

impl Served {
    fn done(&self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => Err(link::unexpected(&other)),
        }
    }

    fn index(&self, request: &Request) -> Result<u32> {
        match self.ask(request)? {
            Reply::Attached { port_index, .. } => Ok(port_index),
            other => Err(link::unexpected(&other)),
        }
    }
}

impl Keep for Link {
    fn alive(&self) -> bool {
        self.is_open()
    }

    fn undrive(&self, queue: u16) {
        // Two rings of a port may come here at once.
        static ASKING: Mutex<()> = Mutex::new(());
        let _one = ASKING.lock().unwrap_or_else(PoisonError::into_inner);
        let request = Request::Drive { queue, on: false };
        // A server that is gone drives nothing.
        let _ = self.again().and_then(|mut link| link.ask(&request));
    }
}

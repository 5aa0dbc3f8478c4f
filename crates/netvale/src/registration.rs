//! The parts that a port is made of, for those who build another programming
//! interface on them: the C library and the shim for netmap programs.
//!
//! A *registration* is a connected socket. It may have been opened by this
//! process ([`Site::connect`]), or have come from another one by inheritance or
//! through a Unix socket ([`Site::of`]); in both cases [`Greeting::bind`] tells
//! what it is bound to and maps what belongs to it. Closing the last descriptor
//! of the socket, in whatever process, ends it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use netvale_ring::world::RegionMap;
use netvale_shm::{Doorbell, Memfd};
use netvale_switch::domain::Registration;
use netvale_switch::end::Gear;
use netvale_wire::proto::{Context, RegionInfo, Registered, Reply, Request};

use crate::client::{self, link::Link, session::Session};
use crate::drive::Driven;
use crate::{Error, ErrorKind, Result};

static KEEPER: OnceLock<Keeper> = OnceLock::new();

/// What a library does with the descriptors that it keeps open for itself.
#[derive(Debug, Clone, Copy)]
pub struct Keeper {
    /// Looks at every descriptor that is to stay open for longer than a call,
    /// other than registrations: it may move it out of the way of the program.
    pub keep: fn(OwnedFd) -> OwnedFd,
    /// Called before such descriptors are used in the middle of a sync, where
    /// the library does not know of it.
    pub enter: fn(),
    /// Called after that, as often as `enter`.
    pub leave: fn(),
}

/// Sets the keeper of this process. The first one that is set stays.
pub fn keep_descriptors_with(keeper: Keeper) {
    // A second one would see descriptors that the first has moved.
    let _ = KEEPER.set(keeper);
}

/// The descriptor, as the keeper wants it.
pub(crate) fn kept(fd: OwnedFd) -> OwnedFd {
    match KEEPER.get() {
        Some(keeper) => (keeper.keep)(fd),
        None => fd,
    }
}

/// Kept descriptors are in use, until it is dropped.
pub(crate) struct InUse(());

impl InUse {
    pub(crate) fn begin() -> Self {
        if let Some(keeper) = KEEPER.get() {
            (keeper.enter)();
        }
        Self(())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(keeper) = KEEPER.get() {
            (keeper.leave)();
        }
    }
}

/// To be called before this process forks, if registrations are to be used in
/// the child too; [`after_fork`] must follow in the same thread, in both.
///
/// What the child finds of its parent's sessions is left alone: threads that
/// used them are not there any more. It makes its own.
pub fn before_fork() {
    client::session::before_fork();
}

/// See [`before_fork`].
pub fn after_fork() {
    client::session::after_fork();
}

/// A namespace, and the context in which this process takes part in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    dir: PathBuf,
    isolated: bool,
}

/// File that every server of a namespace holds a lock on.
const LOCK_NAME: &str = "lock";

/// Name of the environment variable that, if it is set to other than `0`,
/// keeps [`Site::from_env`] out of the shared memory of others.
pub const ISOLATED_VAR: &str = "NETVALE_ISOLATED";

impl Site {
    /// The namespace that the environment names.
    #[must_use]
    pub fn from_env() -> Self {
        let isolated = std::env::var_os(ISOLATED_VAR).is_some_and(|v| !v.is_empty() && v != "0");
        Self {
            dir: client::default_path(),
            isolated,
        }
    }

    /// The namespace of the server at the other end of a socket; `None` if
    /// it is not the socket of a registration.
    #[must_use]
    pub fn of(socket: BorrowedFd<'_>) -> Option<Self> {
        let peer = rustix::net::getpeername(socket).ok()??;
        let peer = rustix::net::SocketAddrUnix::try_from(peer).ok()?;
        let peer = peer.path()?;
        let path = Path::new(std::ffi::OsStr::from_bytes(peer.to_bytes()));
        // A socket keeps the name it had before it was put in its place.
        let name = path.file_name()?.to_str()?;
        let own = Self::from_env();
        if name.strip_suffix(".new").unwrap_or(name) != netvale_wire::proto::SOCKET_NAME {
            return None;
        }
        let dir = path.parent()?;
        // A long name was reached through a descriptor of the server's.
        let dir = match dir.starts_with("/proc") {
            true => own.dir,
            false => dir.to_owned(),
        };
        // Others may call a socket so: a namespace has a lock beside it.
        dir.join(LOCK_NAME).is_file().then_some(Self {
            dir,
            isolated: own.isolated,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens a socket for a registration; starts a server if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`]: no server, and none could be started.
    pub fn connect(&self) -> Result<(OwnedFd, Greeting)> {
        let (link, welcome) = client::open_or_start(&self.dir, self.isolated)?;
        let greeting = Greeting::new(&self.dir, welcome)?;
        Ok((link.into_fd(), greeting))
    }

    /// What another connection to the same server would be told: for a socket
    /// that this process did not open itself.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Disconnected`]: the server is gone.
    pub fn greet(&self) -> Result<Greeting> {
        let (_link, welcome) = Link::open(&self.dir, self.isolated)?;
        Greeting::new(&self.dir, welcome)
    }

    /// Asks something that needs no registration, over a connection of its own.
    ///
    /// # Errors
    ///
    /// The server's refusal, see [`Error::errno`]; the server is gone.
    pub fn ask(&self, request: &Request) -> Result<(Reply, Vec<OwnedFd>)> {
        // Questions need no shared memory, regions do.
        let plain = !matches!(request, Request::NewRegion { .. } | Request::Region { .. });
        let (mut link, _) = Link::open(&self.dir, self.isolated || plain)?;
        link.ask(request)
    }
}

/// Asks something over a registration that is not bound yet: what the answer
/// gives stays as long as the registration does.
///
/// # Errors
///
/// The server's refusal, see [`Error::errno`]; the server is gone.
pub fn ask_over(socket: BorrowedFd<'_>, request: &Request) -> Result<(Reply, Vec<OwnedFd>)> {
    duplicate(socket)?.ask(request)
}

/// A link over the same socket.
fn duplicate(socket: BorrowedFd<'_>) -> Result<Link> {
    let own = rustix::io::fcntl_dupfd_cloexec(socket, 3)
        .map_err(|e| Error::io("cannot use the registration", e))?;
    Ok(Link::over(own))
}

/// What a server said to a new connection.
#[derive(Debug, Clone)]
pub struct Greeting {
    session: Option<Arc<Session>>,
}

impl Greeting {
    fn new(dir: &Path, welcome: client::link::Welcome) -> Result<Self> {
        let session = match welcome.state {
            Some((file, state)) => Some(Session::of(welcome.instance, dir, file, &state)?),
            None => None,
        };
        Ok(Self { session })
    }

    /// Whether the server moves this process's frames.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.session.is_none()
    }

    /// Sends a request that binds the socket to a port, or asks what it is
    /// bound to ([`Request::Whoami`]), and maps what belongs to it.
    ///
    /// # Errors
    ///
    /// The server's refusal, see [`Error::errno`]; the server is gone.
    pub fn bind(&self, socket: BorrowedFd<'_>, request: &Request) -> Result<Attachment> {
        let (reply, fds) = ask_over(socket, request)?;
        let Reply::Registered(registered) = reply else {
            return Err(client::link::unexpected(&reply));
        };
        let reg = client::convert::registration(&registered)?;
        if reg.isolated != self.is_isolated() {
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
        let (region, bell) = (next()?, Doorbell::from(kept(next()?)));
        let kick = match reg.isolated {
            true => Some(Arc::new(Doorbell::from(kept(next()?)))),
            false => None,
        };
        let clone = || {
            region
                .try_clone()
                .map_err(|e| Error::io("cannot map the region", e))
        };
        let (map, gear) = match &self.session {
            Some(session) => {
                let map = session.adopt(&registered.region, clone()?)?;
                (map, Some(session.gear()))
            }
            None => (map_region(&registered.region, clone()?)?, None),
        };
        client::check_places(&reg, &map)?;
        let of = client::Of {
            registered: &registered,
            reg: &reg,
            map: &map,
            gear: gear.as_ref(),
            bell: bell.as_fd(),
        };
        let driven = Driven::by_asking(&of, |request| ask_over(socket, request));
        Ok(Attachment {
            driven,
            reg,
            registered,
            map,
            gear,
            bell: Arc::new(bell),
            kick,
            region: kept(region),
        })
    }
}

/// Maps a region that came along with an answer.
///
/// # Errors
///
/// It is not what the answer says; out of memory.
pub fn map_region(info: &RegionInfo, file: OwnedFd) -> Result<RegionMap> {
    let bad = |e| Error::new(ErrorKind::Peer, format!("region {}: {e}", info.id));
    let size = client::convert::size(info.size)?;
    let mem = Memfd::from_fd(file, size)
        .and_then(|f| f.map())
        .map_err(bad)?;
    client::convert::region(info, mem)
}

/// A registration in this process, bound to a port.
#[derive(Debug)]
pub struct Attachment {
    /// What it got.
    pub reg: Registration,
    /// The same as the server said it.
    pub registered: Registered,
    /// Its region, mapped.
    pub map: RegionMap,
    /// What running the engine takes; `None` if the server does it.
    pub gear: Option<Gear>,
    /// Rung by whoever wakes this registration.
    pub bell: Arc<Doorbell>,
    /// Isolated: rings the server's worker.
    pub kick: Option<Arc<Doorbell>>,
    /// The region's file.
    pub region: OwnedFd,
    /// Queues that this process drives.
    pub driven: Driven,
}

impl Attachment {
    /// Who does the syncs.
    #[must_use]
    pub fn context(&self) -> Context {
        self.registered.context
    }
}

/// Whether the server still has its end of the socket open. Never waits.
#[must_use]
pub fn is_alive(socket: BorrowedFd<'_>) -> bool {
    netvale_shm::channel::is_open(socket)
}

/// Whether a process is gone, as far as this one may know: also if its parent
/// has not asked yet how it ended. There is none with number 0.
#[must_use]
pub fn is_dead(pid: u32) -> bool {
    netvale_shm::process::is_dead(pid)
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

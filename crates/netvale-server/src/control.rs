//! The control thread: who comes, asks, goes, and what is due.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use netvale_switch::domain::DomainError;
use netvale_wire::proto::{ErrorKind, MAX_MSG, ProtoError, Reply, Request, decode};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Resource, Rlimit};

use crate::answer::{Answer, Core};
use crate::config::Config;
use crate::conn::Conn;
use crate::dir::{DirError, NamespaceDir};
use crate::listing::Refusal;
use crate::params::Parameters;
use crate::timers::Timers;

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    core: Core,
    conns: HashMap<u64, Conn>,
    /// Connections of users who are not trusted.
    strangers: HashMap<u32, usize>,
    next_token: u64,
    listener: OwnedFd,
    // Only watched.
    _stop: Option<OwnedFd>,
    /// Given up to refuse a connection when there are no descriptors left.
    spare: Option<OwnedFd>,
    epoll: OwnedFd,
    links_watched: bool,
    timers: Timers,
    uid: u32,
    buf: Vec<u8>,
    _params: Parameters,
    // Dropped last: the next server may start when nothing of us is left.
    dir: NamespaceDir,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The namespace's directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// Memory or a port of the configuration.
    #[error("cannot make what the configuration asks for")]
    Domain(#[from] DomainError),
    /// A persistent port of the configuration.
    #[error("{}cannot make port {port}: {message}", at_line(*line))]
    Port {
        /// The port.
        port: String,
        /// Line of the configuration, or 0.
        line: usize,
        /// The class of the reason.
        kind: ErrorKind,
        /// Why not.
        message: String,
    },
    /// A device of the configuration.
    #[error("{}cannot attach {device} to {switch}: {message}", at_line(*line))]
    Device {
        /// The device.
        device: String,
        /// The switch.
        switch: String,
        /// Line of the configuration, or 0.
        line: usize,
        /// The class of the reason.
        kind: ErrorKind,
        /// Why not.
        message: String,
    },
    /// The system.
    #[error("cannot wait for events")]
    Os(#[from] io::Error),
}

/// Where in a file something is, if it is from one.
fn at_line(line: usize) -> String {
    match line {
        0 => String::new(),
        n => format!("line {n}: "),
    }
}

const LISTENER: u64 = 0;
const STOP: u64 = 1;
const DEVICES: u64 = 2;
const LINKS: u64 = 3;
const FIRST_CONN: u64 = 4;
/// Events taken at once.
const EVENTS: usize = 64;
/// Requests of one connection, and connections taken, before others get a turn.
const TURN: usize = 16;
/// An on-demand server waits this long for the one who started it.
const FIRST_GRACE: Duration = Duration::from_secs(2);
/// Without descriptors, connections are taken again after this time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What may be granted soon is tried again after this time, and for so long.
const RETRY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);
/// Ageing steps that make up the ageing time.
const AGE_STEPS: u32 = 8;

impl Server {
    /// Takes the namespace and listens. `stop`: ends the server when it
    /// becomes readable.
    ///
    /// # Errors
    ///
    /// [`StartError`]; [`DirError::Taken`] if another server was first.
    pub fn start(config: Config, stop: Option<OwnedFd>) -> Result<Self, StartError> {
        let mut dir = NamespaceDir::take(&config.namespace, config.access.as_ref())?;
        raise_limit();
        let params = dir.make_params(&config.domain)?;
        let mut core = Core::new(config)?;
        core.make_ports()?;
        core.attach_all()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from)?;
        let listener = dir.listen(core.config().access.as_ref())?;
        add(&epoll, &listener, LISTENER)?;
        add(&epoll, &core.devices.bell, DEVICES)?;
        if let Some(stop) = &stop {
            add(&epoll, stop, STOP)?;
        }
        tracing::info!(dir = %dir.path().display(), "listening");
        Ok(Self {
            core,
            conns: HashMap::new(),
            strangers: HashMap::new(),
            next_token: FIRST_CONN,
            listener,
            _stop: stop,
            spare: spare(),
            epoll,
            links_watched: false,
            timers: Timers::default(),
            uid: rustix::process::geteuid().as_raw(),
            buf: vec![0; MAX_MSG],
            _params: params,
            dir,
        })
    }

    /// Serves until told to end, or until nobody needs it any more.
    ///
    /// # Errors
    ///
    /// The kernel refused to wait for events.
    pub fn run(mut self) -> io::Result<()> {
        self.set_timers(FIRST_GRACE);
        self.watch_links(); // of devices that the configuration attached
        let mut events = Vec::with_capacity(EVENTS);
        while !self.core.ending {
            let now = Instant::now();
            let timeout = self
                .timers
                .next(now)
                .and_then(|t| Timespec::try_from(t).ok());
            events.clear();
            let spare = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            for event in &events {
                let (flags, token) = (event.flags, event.data.u64());
                match token {
                    LISTENER => self.accept(),
                    STOP => self.core.ending = true,
                    LINKS => {
                        self.core.hear_of_links();
                        self.look_for_zombies();
                    }
                    DEVICES => {
                        self.core.hear_of_devices();
                        self.look_for_zombies();
                    }
                    _ => self.serve(token, flags),
                }
            }
            self.do_what_is_due();
            self.watch_links();
            let grace = self.core.config().grace;
            self.set_timers(grace);
        }
        self.end();
        Ok(())
    }

    /// Listens for news of interfaces once somebody wants them.
    fn watch_links(&mut self) {
        let Some(links) = &self.core.devices.links else {
            self.links_watched = false;
            return;
        };
        if !self.links_watched {
            match add(&self.epoll, links, LINKS) {
                Ok(()) => self.links_watched = true,
                Err(e) => tracing::warn!("cannot wait for news of interfaces: {e}"),
            }
        }
    }

    fn end(&mut self) {
        tracing::info!("ending");
        self.dir.close();
        // Whoever is connected is told by the end of the connection. Ports are
        // not taken down: between trusted ones traffic goes on, as it does
        // when a server is killed.
    }

    /// Sets those timers that something waits for.
    fn set_timers(&mut self, grace: Duration) {
        let now = Instant::now();
        let config = self.core.config();
        if self.core.seated && !config.ageing.is_zero() {
            let step = (config.ageing / AGE_STEPS).max(Duration::from_millis(1));
            self.timers.age.get_or_insert(now + step);
        } else {
            self.timers.age = None;
        }
        self.timers.linger = self.core.lingers();
        if self.conns.is_empty() && !self.core.persistent && !config.service {
            self.timers.end.get_or_insert(now + grace);
        } else {
            self.timers.end = None;
        }
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        if Timers::due(&mut self.timers.reap, now) {
            let left = self.core.reap();
            self.timers.reap_again(left, now, false);
        }
        if Timers::due(&mut self.timers.age, now) {
            self.core.age();
        }
        if Timers::due(&mut self.timers.linger, now) {
            self.core.linger_no_more(now);
        }
        if Timers::due(&mut self.timers.retry, now) {
            self.grant_waiting();
        }
        if Timers::due(&mut self.timers.accept, now)
            && add(&self.epoll, &self.listener, LISTENER).is_err()
        {
            self.timers.accept = Some(now + ACCEPT_PAUSE);
        }
        if Timers::due(&mut self.timers.end, now) && self.conns.is_empty() {
            self.core.ending = true;
        }
    }

    fn accept(&mut self) {
        for _ in 0..TURN {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.listener, flags) {
                Ok(fd) => self.welcome(fd),
                Err(Errno::WOULDBLOCK) => return,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    self.refuse_one(flags);
                    return;
                }
                // The client is gone again, or a signal.
                Err(_) => {}
            }
        }
    }

    /// No descriptor is left: one client is told, and the others wait a little.
    fn refuse_one(&mut self, flags: SocketFlags) {
        self.core.refused += 1;
        self.spare = None;
        if let Ok(fd) = rustix::net::accept_with(&self.listener, flags) {
            let refusal = Refusal::new(
                ErrorKind::NoMemory,
                "the server has no file descriptors left",
            );
            let mut conn = Conn::new(fd, 0, u32::MAX, false);
            let _ = conn.answer(&refusal.into(), Vec::new()); // it is closed anyway
        }
        self.spare = spare();
        tracing::warn!("out of file descriptors");
        if epoll::delete(&self.epoll, &self.listener).is_ok() {
            self.timers.accept = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    fn welcome(&mut self, fd: OwnedFd) {
        let Ok(cred) = rustix::net::sockopt::socket_peercred(&fd) else {
            return;
        };
        let uid = cred.uid.as_raw();
        let pid = u32::try_from(cred.pid.as_raw_pid()).unwrap_or(0);
        let trusted = uid == self.uid || uid == 0;
        let mut conn = Conn::new(fd, pid, uid, trusted);
        if !trusted {
            let most = self.core.config().user_connections;
            let n = self.strangers.entry(uid).or_insert(0);
            if *n >= most {
                self.core.refused += 1;
                let message = format!("user {uid} has {most} connections already");
                let refusal = Refusal::new(ErrorKind::NoMemory, message);
                let _ = conn.answer(&refusal.into(), Vec::new()); // it is closed anyway
                return;
            }
            *n += 1;
        }
        let token = self.next_token;
        self.next_token += 1;
        match add(&self.epoll, &conn.channel, token) {
            Ok(()) => {
                tracing::debug!(token, pid, uid, "connected");
                self.conns.insert(token, conn);
            }
            Err(e) => {
                tracing::warn!("cannot serve a connection: {e}");
                self.forget_stranger(&conn);
            }
        }
    }

    fn forget_stranger(&mut self, conn: &Conn) {
        if !conn.trusted_user
            && let Some(n) = self.strangers.get_mut(&conn.uid)
        {
            *n -= 1;
            if *n == 0 {
                self.strangers.remove(&conn.uid);
            }
        }
    }

    fn drop_conn(&mut self, token: u64) {
        let Some(conn) = self.conns.remove(&token) else {
            return;
        };
        tracing::debug!(token, owner = conn.owner, "gone");
        self.forget_stranger(&conn);
        if let Some(owner) = conn.owner {
            self.core.close(owner);
            self.look_for_zombies();
        }
        self.core.forget(&conn);
    }

    fn look_for_zombies(&mut self) {
        let left = self.core.reap();
        self.timers.reap_again(left, Instant::now(), true);
    }

    /// Something happened to a connection.
    fn serve(&mut self, token: u64, flags: epoll::EventFlags) {
        let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        let keep = match self.conns.get_mut(&token) {
            None => return, // dropped in this round
            Some(conn) if conn.waiting.is_some() => !gone,
            Some(conn) if conn.is_stuck() => !gone && conn.flush().is_ok(),
            Some(_) => self.read(token),
        };
        self.go_on(token, keep);
    }

    /// What a connection is watched for from now on, if it is kept.
    fn go_on(&mut self, token: u64, keep: bool) {
        if !keep {
            self.drop_conn(token);
        } else if let Some(conn) = self.conns.get(&token) {
            // A stuck connection is only asked whether there is room again.
            let want = if conn.waiting.is_some() {
                epoll::EventFlags::empty()
            } else if conn.is_stuck() {
                epoll::EventFlags::OUT
            } else {
                epoll::EventFlags::IN
            };
            let data = epoll::EventData::new_u64(token);
            if epoll::modify(&self.epoll, &conn.channel, data, want).is_err() {
                self.drop_conn(token);
            }
        }
    }

    /// Answers some requests; `false` if the connection is over.
    fn read(&mut self, token: u64) -> bool {
        for _ in 0..TURN {
            let Some(conn) = self.conns.get_mut(&token) else {
                return false;
            };
            if conn.is_stuck() || conn.waiting.is_some() {
                return true;
            }
            let request = match conn.channel.recv_plain(&mut self.buf) {
                Ok(0) => return false,
                Ok(len) => match self.buf.get(..len) {
                    Some(message) => decode(message),
                    None => Err(ProtoError::TooLong { len }),
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            let kept = match request {
                Ok(request) => self.grant(token, request, Instant::now()),
                Err(e) => {
                    self.core.bad_requests += 1;
                    let refusal = Refusal::new(ErrorKind::Protocol, e.to_string());
                    self.reply(token, Err(refusal))
                }
            };
            if !kept {
                return false;
            }
        }
        true
    }

    /// Answers a request, now or, if it may be granted soon, later; `false` if
    /// the connection is over.
    fn grant(&mut self, token: u64, request: Request, since: Instant) -> bool {
        let connections = self.conns.len();
        let Some(conn) = self.conns.get_mut(&token) else {
            return false;
        };
        let opens = matches!(request, Request::Register { .. } | Request::Bind { .. });
        let again = (opens && since.elapsed() < PATIENCE).then(|| request.clone());
        self.core.patient = again.is_some();
        let answer = self.core.answer(conn, connections, request);
        self.core.patient = false;
        if let (Err(refusal), Some(request)) = (&answer, again)
            && refusal.later
        {
            tracing::debug!(token, "again soon: {}", refusal.message);
            conn.waiting = Some((request, since));
            self.timers.retry.get_or_insert(Instant::now() + RETRY);
            self.core.wake_all();
            return true;
        }
        self.reply(token, answer)
    }

    fn reply(&mut self, token: u64, answer: Answer) -> bool {
        let (reply, fds) = answer.unwrap_or_else(|refusal| {
            tracing::debug!(token, "refused: {}", refusal.message);
            (Reply::from(refusal), Vec::new())
        });
        let sent = self.conns.get_mut(&token).map(|c| c.answer(&reply, fds));
        self.core.wake_all();
        self.look_for_zombies();
        matches!(sent, Some(Ok(())))
    }

    /// Tries again what could not be granted.
    fn grant_waiting(&mut self) {
        let all = self.conns.iter().filter(|(_, c)| c.waiting.is_some());
        let tokens: Vec<u64> = all.map(|(&token, _)| token).collect();
        for token in tokens {
            let waiting = self.conns.get_mut(&token).and_then(|c| c.waiting.take());
            if let Some((request, since)) = waiting {
                let keep = self.grant(token, request, since);
                self.go_on(token, keep);
            }
        }
    }
}

fn add(epoll: &OwnedFd, fd: &impl AsFd, token: u64) -> io::Result<()> {
    let data = epoll::EventData::new_u64(token);
    Ok(epoll::add(epoll, fd, data, epoll::EventFlags::IN)?)
}

fn spare() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// A registration takes up to seven descriptors, and the usual limit is 1024.
fn raise_limit() {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: now.maximum,
        maximum: now.maximum,
    };
    if let Err(e) = rustix::process::setrlimit(Resource::Nofile, most) {
        tracing::warn!("cannot raise the limit of open files: {e}");
    }
}

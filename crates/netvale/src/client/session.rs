//! What the trusted registrations of one process share: the hidden state of a
//! server, the regions mapped so far, and the bells of others.

use std::cell::Cell;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use netvale_ring::kring::sleep;
use netvale_ring::layout::StateGeom;
use netvale_ring::world::{RegionMap, RegionSource, Waker, World};
use netvale_shm::{Doorbell, Memfd, futex};
use netvale_switch::end::Gear;
use netvale_wire::proto::{RegionInfo, Reply, Request, StateFile};

use super::convert;
use super::link::Link;
use crate::registration::{InUse, kept};
use crate::{Error, ErrorKind, Result};

/// One server, as the trusted registrations of this process know it.
#[derive(Debug)]
pub(crate) struct Session {
    instance: u64,
    /// Process that began it: in a forked one, other threads may have left its
    /// locks behind.
    pid: u32,
    dir: PathBuf,
    world: World,
    regions: Mutex<HashMap<u16, RegionMap>>,
    /// Bells of others by registration, with the registration's word in the
    /// hidden state at that time: numbers are used again, words are not.
    bells: Mutex<HashMap<u16, (u64, Arc<Doorbell>)>>,
    /// For questions in the middle of a sync.
    line: Mutex<Line>,
}

/// A connection for questions.
#[derive(Debug, Default)]
struct Line {
    link: Option<Link>,
    /// When questions may be asked again, after one was not answered. Until
    /// then the link is good for messages that need no answer.
    silent_until: Option<Instant>,
}

/// There is no answer; whether the server hears of the question all the same.
struct Unanswered(bool);

/// Longest wait for an answer in the middle of a sync: who sends should not
/// wait at all, but a frame that cannot be delivered is worse.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time without questions after one that was not answered.
const SILENCE: Duration = Duration::from_secs(5);

type Held = MutexGuard<'static, Vec<Weak<Session>>>;
static SESSIONS: Mutex<Vec<Weak<Session>>> = Mutex::new(Vec::new());

thread_local! {
    /// Held over a fork. Without a destructor: a thread may fork as it ends.
    static HELD: Cell<Option<ManuallyDrop<Held>>> = const { Cell::new(None) };
}

/// See [`crate::registration::before_fork`].
pub(crate) fn before_fork() {
    HELD.set(Some(ManuallyDrop::new(lock(&SESSIONS))));
}

/// See [`crate::registration::before_fork`].
pub(crate) fn after_fork() {
    drop(HELD.take().map(ManuallyDrop::into_inner));
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// The session with this instance of a server, begun now if there is none.
    pub(crate) fn of(
        instance: u64,
        dir: &Path,
        state: OwnedFd,
        file: &StateFile,
    ) -> Result<Arc<Self>> {
        let mut all = lock(&SESSIONS);
        all.retain(|s| s.strong_count() > 0);
        let pid = std::process::id();
        let same = |s: &Arc<Self>| s.instance == instance && s.pid == pid && s.dir == dir;
        if let Some(session) = all.iter().filter_map(Weak::upgrade).find(same) {
            return Ok(session);
        }
        let bad = |what: &str| {
            Error::new(
                ErrorKind::Peer,
                format!("the server's hidden state: {what}"),
            )
        };
        let geom = StateGeom::from_array(file.geom).ok_or_else(|| bad("impossible sizes"))?;
        let mem = Memfd::from_fd(state, convert::size(file.size)?)
            .and_then(|f| f.map())
            .map_err(|e| bad(&e.to_string()))?;
        let world = World::attach(mem, geom).ok_or_else(|| bad("not of this version"))?;
        let session = Arc::new(Self {
            instance,
            pid,
            dir: dir.to_owned(),
            world,
            regions: Mutex::default(),
            bells: Mutex::default(),
            line: Mutex::default(),
        });
        all.push(Arc::downgrade(&session));
        Ok(session)
    }

    /// What the engine needs.
    pub(crate) fn gear(self: &Arc<Self>) -> Gear {
        Gear {
            world: self.world.clone(),
            source: Arc::clone(self) as Arc<dyn RegionSource>,
            waker: Arc::clone(self) as Arc<dyn Waker>,
        }
    }

    /// Maps a region that came along with an answer, unless it is mapped.
    pub(crate) fn adopt(&self, info: &RegionInfo, fd: OwnedFd) -> Result<RegionMap> {
        if let Some(map) = self.known(info.id, info.generation) {
            return Ok(map);
        }
        let size = convert::size(info.size)?;
        let mem = Memfd::from_fd(fd, size)
            .and_then(|f| f.map())
            .map_err(|e| Error::new(ErrorKind::Peer, format!("region {}: {e}", info.id)))?;
        let map = convert::region(info, mem)?;
        lock(&self.regions).insert(info.id, map.clone());
        Ok(map)
    }

    fn known(&self, id: u16, generation: u32) -> Option<RegionMap> {
        let map = lock(&self.regions).get(&id)?.clone();
        (map.generation == generation).then_some(map)
    }

    /// Asks on the way. Does not ask a server again and again that has ended or
    /// hangs.
    fn ask(&self, request: &Request) -> Result<(Reply, OwnedFd), Unanswered> {
        let _in_use = InUse::begin();
        let mut line = lock(&self.line);
        if line.silent_until.is_some_and(|at| Instant::now() < at) {
            return Err(line.tell(request));
        }
        let link = line.link.take().filter(Link::is_ours);
        // Its next answer could be to a question from before the silence.
        let stale = line.silent_until.take().is_some();
        let answer = match link.filter(|_| !stale) {
            Some(link) => Ok(link),
            None => self.connect(&mut line),
        }
        .and_then(|mut link| {
            let answer = link.ask(request);
            line.link = Some(link);
            match answer {
                Err(e) if matches!(e.kind(), ErrorKind::Disconnected | ErrorKind::Peer) => Err(e),
                answer => Ok(answer),
            }
        });
        match answer {
            Ok(Ok((reply, fds))) => match fds.into_iter().next() {
                Some(fd) => Ok((reply, fd)),
                None => Err(Unanswered(true)),
            },
            // Refused: what we asked for is gone; or there is no room for it.
            Ok(Err(_)) => Err(Unanswered(true)),
            Err(_) => {
                line.silent_until = Some(Instant::now() + SILENCE);
                Err(line.tell(request))
            }
        }
    }

    /// A new connection; one whose server does not answer is left in the line.
    fn connect(&self, line: &mut Line) -> Result<Link> {
        let mut link = Link::reach(&self.dir, PATIENCE)?.keep();
        match link.hello(false) {
            Ok(welcome) if welcome.instance == self.instance => Ok(link),
            Ok(_) => Err(Error::new(
                ErrorKind::Disconnected,
                "another server is there now",
            )),
            Err(e) => {
                line.link = Some(link);
                Err(e)
            }
        }
    }

    fn bell(&self, owner: u16) -> Result<Arc<Doorbell>, Unanswered> {
        let word = self.world.owner(owner).map(|w| w.load(Ordering::Acquire));
        let word = word.unwrap_or(0);
        if word == 0 {
            return Err(Unanswered(true)); // it is gone
        }
        if let Some((then, bell)) = lock(&self.bells).get(&owner)
            && *then == word
        {
            return Ok(Arc::clone(bell));
        }
        // One that is replaced is closed.
        let _in_use = InUse::begin();
        let (reply, fd) = self.ask(&Request::Doorbell { owner })?;
        let Reply::Doorbell { owner: same, tag } = reply else {
            return Err(Unanswered(true));
        };
        let bell = Arc::new(Doorbell::from(kept(fd)));
        if same == owner {
            lock(&self.bells).insert(owner, (tag, Arc::clone(&bell)));
        }
        Ok(bell)
    }
}

impl Line {
    /// Has the server ring a bell that we cannot have now: it rings those that
    /// it is asked for, as soon as it comes to that.
    fn tell(&mut self, request: &Request) -> Unanswered {
        if !matches!(request, Request::Doorbell { .. }) {
            return Unanswered(false);
        }
        let told = self.link.as_mut().is_some_and(|link| {
            // A server whose answers nobody reads stops reading.
            link.discard();
            link.say(request).is_ok()
        });
        if !told {
            self.link = None; // to one that has ended nothing more is said
        }
        Unanswered(told)
    }
}

impl RegionSource for Session {
    fn map(&self, id: u16, generation: u32) -> Option<RegionMap> {
        if let Some(map) = self.known(id, generation) {
            return Some(map);
        }
        let asked = self.ask(&Request::Region { id, generation });
        let (reply, fd) = asked.ok()?;
        match reply {
            Reply::Region(info) if (info.id, info.generation) == (id, generation) => {
                self.adopt(&info, fd).ok()
            }
            _ => None,
        }
    }
}

impl Waker for Session {
    fn wake(&self, word: &AtomicU32, said: u32) {
        self.try_wake(word, said);
    }

    fn try_wake(&self, word: &AtomicU32, said: u32) -> bool {
        if said == sleep::FUTEX {
            futex::wake(word, u32::MAX);
            return true;
        }
        let Some(Ok(owner)) = said.checked_sub(sleep::BELL).map(u16::try_from) else {
            return true; // nonsense
        };
        match self.bell(owner) {
            Ok(bell) => {
                bell.ring();
                true
            }
            Err(Unanswered(told)) => told,
        }
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn is_gone(&self, process: u32) -> bool {
        crate::registration::is_dead(process)
    }
}

#[cfg(test)]
mod tests {
    use netvale_shm::channel::Channel;
    use netvale_wire::proto::decode;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    use super::*;

    /// A line, and the server's end of it.
    fn line() -> (Line, Channel) {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .unwrap();
        let line = Line {
            link: Some(Link::over(ours)),
            silent_until: None,
        };
        (line, theirs.into())
    }

    fn heard(server: &Channel) -> Request {
        let mut buf = [0; 256];
        let len = server.recv_plain(&mut buf).unwrap();
        decode(&buf[..len]).unwrap()
    }

    #[test]
    fn a_server_that_was_asked_for_a_region_still_rings() {
        let (mut line, server) = line();
        let region = Request::Region {
            id: 1,
            generation: 1,
        };
        assert!(!line.tell(&region).0);
        let bell = Request::Doorbell { owner: 3 };
        assert!(line.tell(&bell).0);
        assert_eq!(heard(&server), bell);
        drop(server);
        assert!(!line.tell(&bell).0);
        assert!(line.link.is_none());
    }

    #[test]
    fn answers_that_nobody_wants_do_not_keep_the_server_from_ringing() {
        let (mut line, server) = line();
        // As a server does, which reads on when its answer is sent.
        while server.send(b"answer", &[]).is_ok() {}
        let bell = Request::Doorbell { owner: 3 };
        assert!(line.tell(&bell).0);
        assert_eq!(heard(&server), bell);
        server.send(b"answer", &[]).unwrap();
    }
}

//! One receiving socket for all networks of an address and port.
//!
//! Whoever of them receives keeps what is his in place, and puts what is
//! another's into that one's box, from which it is copied. So a network that
//! is alone at its port pays nothing, and no thread has to do it for all.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};

use netvale_shm::Doorbell;
use rustix::event::epoll;

use super::endpoint::{Vxlan, bound, os, receive_much};
use super::{Vni, VxlanConfig, VxlanError};

/// Most frames that wait for one network.
const MOST_FRAMES: usize = 4096;
/// Most of their bytes.
const MOST_BYTES: usize = 4 << 20;

/// Opens endpoints of several networks that share UDP ports: those with the
/// same local address have one socket between them, and each gets the frames
/// of its number. They may be used by different threads, and come and go in
/// any order. Clones are the same.
///
/// All of them belong to one network namespace: that of the threads that open
/// them.
#[derive(Debug, Clone, Default)]
pub struct VxlanSockets(Arc<Mutex<Vec<Weak<Shared>>>>);

impl VxlanSockets {
    /// Opens an endpoint.
    ///
    /// # Errors
    ///
    /// [`VxlanError`]; [`VxlanError::Twice`] if one of these has the network
    /// open at that address and port.
    pub fn open(&self, config: VxlanConfig) -> Result<Vxlan, VxlanError> {
        // Held meanwhile: who comes at the same time finds the socket.
        let mut all = hold(&self.0);
        all.retain(|shared| shared.strong_count() > 0);
        let mut live = all.iter().filter_map(Weak::upgrade);
        // Port 0 is another one for each.
        let found = live.find(|s| s.wanted == config.local && config.local.port() != 0);
        let fresh = found.is_none();
        let endpoint = Vxlan::open_at(config, found, true)?;
        if fresh {
            all.push(Arc::downgrade(endpoint.shared()));
        }
        Ok(endpoint)
    }
}

/// A socket, and the networks that receive by it.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) socket: OwnedFd,
    /// Where it was to be bound.
    wanted: SocketAddr,
    networks: Mutex<HashMap<Vni, Inbox>>,
}

/// What others received for a network.
#[derive(Debug)]
struct Inbox {
    frames: VecDeque<Letter>,
    bytes: usize,
    /// Frames for which there was no room, until that is asked for.
    lost: u64,
    /// Rings while there is something.
    bell: Arc<Doorbell>,
}

/// A frame that another one received.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) bytes: Vec<u8>,
    pub(super) from: Option<SocketAddr>,
    pub(super) truncated: bool,
}

/// Who has it receives, alone.
pub(super) struct Turn<'a>(MutexGuard<'a, HashMap<Vni, Inbox>>);

impl Shared {
    pub(super) fn open(config: &VxlanConfig) -> Result<Arc<Self>, VxlanError> {
        let socket = bound(config, config.local)?;
        receive_much(socket.as_fd());
        Ok(Arc::new(Self {
            socket,
            wanted: config.local,
            networks: Mutex::default(),
        }))
    }

    /// Enters a network. What it is to wait for, unless that is the socket:
    /// if there may be `others`.
    pub(super) fn enter(&self, vni: Vni, others: bool) -> Result<Option<OwnedFd>, VxlanError> {
        let why = |e| os("wait at", self.wanted, e);
        let bell = Arc::new(Doorbell::new().map_err(why)?);
        let wait = match others {
            true => Some(self.wait(&bell).map_err(why)?),
            false => None,
        };
        let mut networks = hold(&self.networks);
        if networks.contains_key(&vni) {
            let local = self.wanted;
            return Err(VxlanError::Twice { vni, local });
        }
        let inbox = Inbox {
            frames: VecDeque::new(),
            bytes: 0,
            lost: 0,
            bell,
        };
        networks.insert(vni, inbox);
        Ok(wait)
    }

    /// Readable if the socket is, or the bell rings.
    fn wait(&self, bell: &Doorbell) -> io::Result<OwnedFd> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let fds: [BorrowedFd<'_>; 2] = [self.socket.as_fd(), bell.as_fd()];
        for it in fds {
            epoll::add(&fd, it, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(fd)
    }

    pub(super) fn leave(&self, vni: Vni) {
        hold(&self.networks).remove(&vni);
    }

    /// `None` while another one receives: he gives us what is ours, and the
    /// socket stays readable if he leaves something.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        match self.networks.try_lock() {
            Ok(networks) => Some(Turn(networks)),
            Err(TryLockError::Poisoned(e)) => Some(Turn(e.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Turn<'_> {
    /// Whether addresses of senders matter to anybody else.
    pub(super) fn is_shared(&self) -> bool {
        self.0.len() > 1
    }

    /// The next frame that others received for this network.
    pub(super) fn take(&mut self, vni: Vni) -> Option<Letter> {
        let inbox = self.0.get_mut(&vni)?;
        let letter = inbox.frames.pop_front()?;
        inbox.bytes -= letter.bytes.len();
        if inbox.frames.is_empty() {
            inbox.bell.clear();
        }
        Some(letter)
    }

    /// Frames for this network that were lost since that was last asked.
    pub(super) fn lost(&mut self, vni: Vni) -> u64 {
        let inbox = self.0.get_mut(&vni);
        inbox.map_or(0, |i| std::mem::take(&mut i.lost))
    }

    /// Gives a frame of `len` bytes to another network; `false` if there is
    /// none of that number.
    pub(super) fn give(&mut self, vni: Vni, len: usize, letter: impl FnOnce() -> Letter) -> bool {
        let Some(inbox) = self.0.get_mut(&vni) else {
            return false;
        };
        if inbox.frames.len() >= MOST_FRAMES || inbox.bytes + len > MOST_BYTES {
            inbox.lost += 1;
            return true;
        }
        let letter = letter();
        inbox.bytes += letter.bytes.len();
        inbox.frames.push_back(letter);
        if inbox.frames.len() == 1 {
            inbox.bell.ring();
        }
        true
    }
}

/// What a thread that panicked left is whole: nothing is done by halves.
fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! One end of a VXLAN network, over UDP sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use netvale_wire::mac::MacAddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::share::{Letter, Shared, Turn};
use super::table::{MAX_STATIONS, Station, Table};
use super::{HASHED, HEADER_LEN, SpecError, Vni, VxlanConfig, flow_hash};
use crate::OsError;
use crate::batch::{Batch, BufPool};
use crate::net::mmsg::{Ask, Messages, Out, recv, send};
use crate::net::sys::set_int;

/// Sockets that send, each with a port of its own: flows are spread over them
/// so that routers and receivers on the way can tell flows apart.
const LANES: usize = 16;
/// Most datagrams of one system call.
const PER_CALL: usize = 256;
/// Most other ends of one endpoint.
pub const MAX_REMOTES: usize = 1024;
/// Bytes of received datagrams that may wait.
const RECEIVE_BUFFER: i32 = 4 << 20;

/// Why an endpoint could not be opened or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VxlanError {
    /// The addresses do not fit together.
    #[error(transparent)]
    Config(#[from] SpecError),
    /// Too many other ends.
    #[error("a VXLAN endpoint has at most {MAX_REMOTES} other ends, not {remotes}")]
    Remotes {
        /// Ends wanted.
        remotes: usize,
    },
    /// Somebody else receives there.
    #[error(
        "UDP port {local} is in use; end who holds it (a vxlan device of the kernel? a \
         network with another local address?), or choose another with local=ADDRESS:PORT"
    )]
    InUse {
        /// Address and port.
        local: SocketAddr,
    },
    /// The same network twice.
    #[error("network {vni} is open already at UDP port {local}")]
    Twice {
        /// The network.
        vni: Vni,
        /// Address and port.
        local: SocketAddr,
    },
    /// This machine does not have the local address.
    #[error("this machine has no address {}; see: ip addr", local.ip())]
    NotOurs {
        /// Address and port.
        local: SocketAddr,
    },
    /// Another refusal of the kernel.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// What became of frames that were to be sent. All of them are done with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VxlanSent {
    /// Datagrams that the kernel took; several for a frame to many ends.
    pub datagrams: u64,
    /// Frames dropped: shorter than an Ethernet header or outside the pool.
    pub malformed: u64,
    /// Datagrams dropped: longer than the path allows.
    pub too_long: u64,
    /// Datagrams dropped: the socket's queue was full.
    pub full: u64,
    /// Datagrams dropped: no route, or a firewall.
    pub unreachable: u64,
    /// Frames dropped: no other end is configured.
    pub nowhere: u64,
}

/// Received datagrams that were not frames of the network, and stations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VxlanCounters {
    /// Datagrams without a VXLAN header or of a network that nobody has open.
    /// Those who share a socket count what they received each.
    pub foreign: u64,
    /// Frames shorter than an Ethernet header.
    pub short: u64,
    /// Frames that another network's endpoint received, and that were not
    /// asked for in time.
    pub overrun: u64,
    /// Stations not remembered because the table was full.
    pub not_learned: u64,
}

/// An endpoint. It never blocks: wait with `poll` on its descriptor.
#[derive(Debug)]
pub struct Vxlan {
    config: VxlanConfig,
    shared: Arc<Shared>,
    /// What it waits for besides the socket.
    wait: Option<OwnedFd>,
    lanes: Vec<Lane>,
    table: Table,
    rx: Messages,
    tx: Messages,
    counters: VxlanCounters,
}

#[derive(Debug)]
struct Lane {
    socket: OwnedFd,
    outs: Vec<Out>,
}

impl Vxlan {
    /// Opens an endpoint that has its UDP port to itself. Several networks at
    /// one port: see [`VxlanSockets`](super::VxlanSockets).
    ///
    /// # Errors
    ///
    /// [`VxlanError`].
    pub fn open(config: VxlanConfig) -> Result<Self, VxlanError> {
        Self::open_at(config, None, false)
    }

    /// Opens one at a socket that is there, or at a new one. `others` may join.
    pub(super) fn open_at(
        config: VxlanConfig,
        socket: Option<Arc<Shared>>,
        others: bool,
    ) -> Result<Self, VxlanError> {
        config.check()?;
        if config.remotes.len() > MAX_REMOTES {
            let remotes = config.remotes.len();
            return Err(VxlanError::Remotes { remotes });
        }
        let shared = match socket {
            Some(shared) => shared,
            None => Shared::open(&config)?,
        };
        let mut lanes = Vec::with_capacity(LANES);
        for _ in 0..LANES {
            let socket = bound(&config, SocketAddr::new(config.local.ip(), 0))?;
            send_only(&socket, &config).map_err(|e| os("configure", config.local, e))?;
            lanes.push(Lane {
                socket,
                outs: Vec::new(),
            });
        }
        let mut table = Table::new(config.ageing, MAX_STATIONS);
        for (mac, remote) in &config.stations {
            if !table.set(*mac, *remote) {
                let text = mac.to_string();
                let why = "there are more stations than the table has room for";
                return Err(SpecError { text, why }.into());
            }
        }
        // Last: whoever has entered is given frames.
        let wait = shared.enter(config.vni, others)?;
        Ok(Self {
            table,
            config,
            shared,
            wait,
            lanes,
            rx: Messages::default(),
            tx: Messages::default(),
            counters: VxlanCounters::default(),
        })
    }

    /// Its settings.
    #[must_use]
    pub fn config(&self) -> &VxlanConfig {
        &self.config
    }

    /// Where it receives.
    ///
    /// # Errors
    ///
    /// [`VxlanError::Os`], which a live socket does not give.
    pub fn local(&self) -> Result<SocketAddr, VxlanError> {
        rustix::net::getsockname(&self.shared.socket)
            .and_then(SocketAddr::try_from)
            .map_err(|e| os("ask about", self.config.local, e.into()).into())
    }

    /// Fills chains of `batch` with frames. How many: they come first, in the
    /// order of arrival; the order of the chains may change. `now` is the time.
    ///
    /// # Errors
    ///
    /// [`VxlanError::Os`].
    pub fn recv(
        &mut self,
        pool: &BufPool,
        batch: &mut Batch,
        now: Duration,
    ) -> Result<usize, VxlanError> {
        let shared = Arc::clone(&self.shared);
        let Some(mut turn) = shared.turn() else {
            return Ok(0);
        };
        self.counters.overrun += turn.lost(self.config.vni);
        let mut good = self.open_letters(&mut turn, pool, batch, now);
        let ask = Ask {
            head: HEADER_LEN,
            spill: 0,
            address: self.config.learning || turn.is_shared(),
            control: false,
        };
        let mut next = good;
        while next < batch.len() {
            let range = next..batch.len().min(next + PER_CALL);
            let wanted = range.len();
            let fd = shared.socket.as_fd();
            let n = match recv(fd, &mut self.rx, pool, batch, range, ask) {
                Ok(n) => n,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => continue,
                    _ if good > 0 => break,
                    _ => return Err(os("receive at", self.config.local, e).into()),
                },
            };
            for i in 0..n {
                let Some(got) = self.rx.get(i) else {
                    break;
                };
                let vni = Vni::of(got.head);
                let (len, truncated, from) = (got.len, got.truncated, got.from);
                if vni != Some(self.config.vni) {
                    batch.set_len(next + i, len, truncated);
                    let letter = || Letter::copy(pool, batch, next + i, from);
                    let known = vni.is_some_and(|vni| turn.give(vni, len, letter));
                    self.counters.foreign += u64::from(!known);
                    continue;
                }
                if len < netvale_wire::eth::LEN {
                    self.counters.short += 1;
                    continue;
                }
                batch.set_len(next + i, len, truncated);
                batch.swap(good, next + i);
                self.learn(pool, batch, good, from, now);
                good += 1;
            }
            next += n;
            if n < wanted {
                break;
            }
        }
        Ok(good)
    }

    /// Fills the first chains with what others received for this network; how
    /// many.
    fn open_letters(
        &mut self,
        turn: &mut Turn<'_>,
        pool: &BufPool,
        batch: &mut Batch,
        now: Duration,
    ) -> usize {
        let mut good = 0;
        while good < batch.len() {
            let Some(letter) = turn.take(self.config.vni) else {
                break;
            };
            if letter.bytes.len() < netvale_wire::eth::LEN {
                self.counters.short += 1;
                continue;
            }
            let cut = letter.truncated || letter.bytes.len() > batch.room(good);
            batch.set_len(good, letter.bytes.len(), cut);
            batch.write(pool, good, 0, &letter.bytes);
            self.learn(pool, batch, good, letter.from, now);
            good += 1;
        }
        good
    }

    /// Notes behind which end the source of frame `i` is.
    fn learn(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        i: usize,
        from: Option<SocketAddr>,
        now: Duration,
    ) {
        let Some(from) = from.filter(|_| self.config.learning) else {
            return;
        };
        let mut addresses = [0; 12];
        let _ = batch.read(pool, i, 0, &mut addresses);
        let [_, _, _, _, _, _, a, b, c, d, e, f] = addresses;
        let mac = MacAddr([a, b, c, d, e, f]);
        if !self.table.refresh(mac, from.ip(), now) {
            let Some(remote) = back_to(&self.config, from) else {
                // Not where it was, and nobody knows behind which of several.
                self.table.unlearn(mac);
                return;
            };
            let learned = self.table.learn(mac, remote, now);
            self.counters.not_learned += u64::from(!learned);
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends all frames of `batch` from number `first` on: to the end behind
    /// which the destination was seen, else to all. What finds no room is
    /// dropped and counted. `now` is the time.
    ///
    /// # Errors
    ///
    /// [`VxlanError::Os`]: the sockets cannot be used.
    pub fn send(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
        now: Duration,
    ) -> Result<VxlanSent, VxlanError> {
        let mut sent = VxlanSent::default();
        for frame in first..batch.len() {
            self.sort(pool, batch, frame, now, &mut sent);
        }
        let head = self.config.vni.header();
        for lane in &mut self.lanes {
            let result = lane.flush(&mut self.tx, pool, batch, &head, &mut sent);
            lane.outs.clear();
            result.map_err(|e| os("send from", self.config.local, e))?;
        }
        Ok(sent)
    }

    /// Sets behind which end a station is, for good. `false` if the table is
    /// full or the end's address is of the wrong family.
    pub fn set_station(&mut self, mac: MacAddr, remote: SocketAddr) -> bool {
        remote.is_ipv4() == self.config.local.is_ipv4() && self.table.set(mac, remote)
    }

    /// Forgets a station; whether it was known.
    pub fn forget_station(&mut self, mac: MacAddr) -> bool {
        self.table.forget(mac)
    }

    /// Forgets stations that were not seen for long; how many. Not needed for
    /// correctness: old ones are not used.
    pub fn expire(&mut self, now: Duration) -> usize {
        self.table.expire(now)
    }

    /// The stations that are remembered, in no order.
    pub fn stations(&self) -> impl Iterator<Item = Station> + '_ {
        self.table.iter()
    }

    /// What was received and not given to the caller.
    #[must_use]
    pub fn counters(&self) -> VxlanCounters {
        self.counters
    }

    /// Puts a frame on the list of its lane, once for each end it goes to.
    fn sort(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        frame: usize,
        now: Duration,
        sent: &mut VxlanSent,
    ) {
        let mut head = [0; HASHED];
        let n = batch.read(pool, frame, 0, &mut head);
        let head = head.get(..n).unwrap_or_default();
        let inside = batch
            .pieces(frame)
            .all(|p| p.buf < pool.count() && p.off.saturating_add(p.len) <= pool.stride());
        let Some(dst) = MacAddr::from_slice(head).filter(|_| inside) else {
            sent.malformed += 1;
            return;
        };
        if n < netvale_wire::eth::LEN {
            sent.malformed += 1;
            return;
        }
        let lane = flow_hash(head) as usize % self.lanes.len().max(1);
        let Some(lane) = self.lanes.get_mut(lane) else {
            return;
        };
        let one = match dst.is_multicast() {
            true => None,
            false => self.table.find(dst, now),
        };
        if let Some(to) = one {
            let to = Some(to);
            lane.outs.push(Out { frame, to });
            return;
        }
        if self.config.remotes.is_empty() {
            sent.nowhere += 1;
        }
        let all = self.config.remotes.iter();
        lane.outs.extend(all.map(|&to| Out {
            frame,
            to: Some(to),
        }));
    }
}

impl AsFd for Vxlan {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wait.as_ref().unwrap_or(&self.shared.socket).as_fd()
    }
}

impl Drop for Vxlan {
    fn drop(&mut self) {
        self.shared.leave(self.config.vni);
    }
}

impl Letter {
    /// A received frame.
    fn copy(pool: &BufPool, batch: &Batch, i: usize, from: Option<SocketAddr>) -> Self {
        let mut bytes = vec![0; batch.frame_len(i)];
        let n = batch.read(pool, i, 0, &mut bytes);
        bytes.truncate(n);
        Self {
            bytes,
            from,
            truncated: batch.truncated(i),
        }
    }
}

impl Lane {
    fn flush(
        &mut self,
        messages: &mut Messages,
        pool: &BufPool,
        batch: &Batch,
        head: &[u8],
        sent: &mut VxlanSent,
    ) -> io::Result<()> {
        let mut outs = self.outs.as_slice();
        while !outs.is_empty() {
            let some = outs.get(..PER_CALL).unwrap_or(outs);
            let n = match send(self.socket.as_fd(), messages, pool, batch, some, head) {
                Ok(n) => {
                    sent.datagrams += n as u64;
                    n.max(1)
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EINTR) => 0,
                    Some(libc::EMSGSIZE) => {
                        sent.too_long += 1;
                        1
                    }
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => {
                        sent.full += some.len() as u64;
                        some.len()
                    }
                    // The last: errors that ICMP told of an earlier datagram.
                    Some(
                        libc::ENETUNREACH
                        | libc::EHOSTUNREACH
                        | libc::ENETDOWN
                        | libc::EPERM
                        | libc::EACCES
                        | libc::EINVAL
                        | libc::ECONNREFUSED,
                    ) => {
                        sent.unreachable += 1;
                        1
                    }
                    _ => return Err(e),
                },
            };
            outs = outs.get(n..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Room for what may wait.
pub(super) fn receive_much(fd: BorrowedFd<'_>) {
    if set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
        // Without the privilege, as much as the system allows.
        let _ = set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER);
    }
}

/// A socket of the right family, bound.
pub(super) fn bound(config: &VxlanConfig, local: SocketAddr) -> Result<OwnedFd, VxlanError> {
    let family = match local {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)
        .map_err(|e| os("open a socket for", config.local, e.into()))?;
    if local.is_ipv6() {
        // IPv4 on the same port is somebody else's.
        rustix::net::sockopt::set_ipv6_v6only(&fd, true)
            .map_err(|e| os("configure", config.local, e.into()))?;
    }
    match rustix::net::bind(&fd, &local) {
        Ok(()) => Ok(fd),
        Err(rustix::io::Errno::ADDRINUSE) => Err(VxlanError::InUse { local }),
        Err(rustix::io::Errno::ADDRNOTAVAIL) => Err(VxlanError::NotOurs { local }),
        Err(e) => Err(os("receive at", local, e.into()).into()),
    }
}

/// Options of a sending socket.
fn send_only(socket: &OwnedFd, config: &VxlanConfig) -> io::Result<()> {
    const NEVER: i32 = 2; // IP_PMTUDISC_DO
    const IF_NEEDED: i32 = 1; // IP_PMTUDISC_WANT
    let fd = socket.as_fd();
    let discover = if config.fragment { IF_NEEDED } else { NEVER };
    // Nobody is expected to answer to these ports: do not queue what comes.
    set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 0)?;
    if config.local.is_ipv4() {
        // RFC 7348, section 5: the outer UDP checksum should be zero. IPv6
        // demands one.
        set_int(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1)?;
        set_int(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover)
    } else {
        set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover)
    }
}

/// Where to answer a sender: its datagrams come from changing ports, so the
/// port is that of the configured end with this address, else of the first.
/// `None` if several ends have the address.
fn back_to(config: &VxlanConfig, from: SocketAddr) -> Option<SocketAddr> {
    let mut known = config.remotes.iter().filter(|r| r.ip() == from.ip());
    if let Some(remote) = known.next() {
        return known.all(|other| other == remote).then_some(*remote);
    }
    let port = config.remotes.first().map_or(super::PORT, |r| r.port());
    let mut to = from;
    to.set_port(port);
    Some(to)
}

pub(super) fn os(what: &'static str, local: SocketAddr, e: io::Error) -> OsError {
    OsError::new(what, format!("UDP port {local}"), e)
}

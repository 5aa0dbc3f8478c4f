//! One end of a VXLAN network, over UDP sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netvale_wire::mac::MacAddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

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
        "UDP port {local} is in use; end who holds it (a vxlan device of the kernel?), \
         or choose another with local=ADDRESS:PORT"
    )]
    InUse {
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
    /// Datagrams without a VXLAN header or of another network.
    pub foreign: u64,
    /// Frames shorter than an Ethernet header.
    pub short: u64,
    /// Stations not remembered because the table was full.
    pub not_learned: u64,
}

/// An endpoint. It never blocks: wait with `poll` on its descriptor.
#[derive(Debug)]
pub struct Vxlan {
    config: VxlanConfig,
    socket: OwnedFd,
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
    /// Opens an endpoint.
    ///
    /// # Errors
    ///
    /// [`VxlanError`].
    pub fn open(config: VxlanConfig) -> Result<Self, VxlanError> {
        config.check()?;
        if config.remotes.len() > MAX_REMOTES {
            let remotes = config.remotes.len();
            return Err(VxlanError::Remotes { remotes });
        }
        let socket = bound(&config, config.local)?;
        let fd = socket.as_fd();
        if set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER).is_err() {
            // Without the privilege, as much as the system allows.
            let _ = set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BUFFER);
        }
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
        Ok(Self {
            table,
            config,
            socket,
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
        rustix::net::getsockname(&self.socket)
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
        let ask = Ask {
            head: HEADER_LEN,
            spill: 0,
            address: self.config.learning,
            control: false,
        };
        let (mut good, mut next) = (0, 0);
        while next < batch.len() {
            let range = next..batch.len().min(next + PER_CALL);
            let wanted = range.len();
            let fd = self.socket.as_fd();
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
                if Vni::of(got.head) != Some(self.config.vni) {
                    self.counters.foreign += 1;
                    continue;
                }
                if got.len < netvale_wire::eth::LEN {
                    self.counters.short += 1;
                    continue;
                }
                batch.set_len(next + i, got.len, got.truncated);
                batch.swap(good, next + i);
                if let Some(from) = got.from {
                    let mut addresses = [0; 12];
                    let _ = batch.read(pool, good, 0, &mut addresses);
                    let [_, _, _, _, _, _, a, b, c, d, e, f] = addresses;
                    let mac = MacAddr([a, b, c, d, e, f]);
                    if !self.table.refresh(mac, from.ip(), now) {
                        let remote = back_to(&self.config, from);
                        let learned = self.table.learn(mac, remote, now);
                        self.counters.not_learned += u64::from(!learned);
                    }
                }
                good += 1;
            }
            next += n;
            if n < wanted {
                break;
            }
        }
        Ok(good)
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
        self.socket.as_fd()
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

/// A socket of the right family, bound.
fn bound(config: &VxlanConfig, local: SocketAddr) -> Result<OwnedFd, VxlanError> {
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
fn back_to(config: &VxlanConfig, from: SocketAddr) -> SocketAddr {
    let known = config.remotes.iter().find(|r| r.ip() == from.ip());
    if let Some(remote) = known {
        return *remote;
    }
    let port = config.remotes.first().map_or(super::PORT, |r| r.port());
    let mut to = from;
    to.set_port(port);
    to
}

fn os(what: &'static str, local: SocketAddr, e: io::Error) -> OsError {
    OsError::new(what, format!("UDP port {local}"), e)
}

//! AF_PACKET sockets: whole frames to and from any Ethernet interface.
//!
//! | type | receives by | what for |
//! |---|---|---|
//! | [`PacketSocket`] | `recvmmsg`, in place | frames of up to 64 KiB with a virtio-net header; few frames with low delay |
//! | [`WholeSocket`] | either | frames for those who know no virtio-net header: checksums are finished, long ones segmented |
//! | [`PacketRing`] | a ring of slots shared with the kernel, one copy; `recvmsg` where that is too long | the same, and many small frames: 31 ns each for the receiver instead of 372, measured here |
//!
//! Both send with `sendmmsg`, in place. With a virtio-net header
//! ([`PacketConfig::header`]) every frame begins with one, in both directions,
//! and the kernel neither segments nor completes what passes. Without one, a
//! frame whose checksum was left to the interface arrives with a wrong
//! checksum, except by a [`WholeSocket`].
//!
//! What the interface took out of a frame's VLAN tag is put back. The stack
//! still sees everything that is received here; whoever wants it for himself
//! stops it with a tc program and marks what he injects
//! ([`PacketConfig::leave_out_mark`]).
//!
//! Needs `CAP_NET_RAW`. Minimum kernel: 4.20 for `ignore_outgoing`, 6.4 for a
//! header of 12 bytes; older ones work without.

mod ring;
mod room;
mod sys;
mod tags;
mod way;
mod whole;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netvale_wire::vnet::HdrLen;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::OsError;
use crate::batch::{Batch, BufPool, Sent};
use crate::net::bad_name;
use crate::net::mmsg::{Ask, Messages, Out, recv, send};
use crate::net::sys::set_int;

use room::{Full, Room};
use tags::{Tag, insert_tag, move_back, tag, tag_of};
use way::Way;

pub use ring::{PacketRing, RingConfig};
pub use whole::WholeSocket;

/// Most frames of one system call.
const PER_CALL: usize = 256;
/// Packets in a row that the kernel cannot describe, and drops.
const ODD: usize = 64;

/// How frames are spread over the sockets of a fanout group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// By a hash of addresses and ports: a flow stays on one socket.
    Hash,
    /// In turns.
    RoundRobin,
    /// By the processor that received them.
    Cpu,
    /// By the interface's receive queue.
    Queue,
}

/// Membership in a group of sockets that share an interface's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fanout {
    /// The group's number, the same for all its sockets; they must belong to
    /// one network namespace and one interface.
    pub group: u16,
    /// How frames are spread.
    pub spread: Spread,
}

/// Which interface, and how it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketConfig {
    /// The interface's name.
    pub interface: String,
    /// Length of the virtio-net header in front of each frame.
    pub header: HdrLen,
    /// Whether to receive at all; if not, the kernel does not even copy.
    pub receive: bool,
    /// Whether frames to other addresses are wanted too.
    pub promiscuous: bool,
    /// Whether frames that this host sends are left out. They never come from
    /// this socket itself.
    pub ignore_outgoing: bool,
    /// Frames with this mark are left out.
    pub leave_out_mark: Option<u32>,
    /// Mark of the frames that are sent, for tc programs and others like us.
    pub mark: Option<u32>,
    /// Whether sending goes past the queueing discipline (faster; and a tc
    /// program at the interface's egress does not see it).
    pub qdisc_bypass: bool,
    /// Mark of those that go through the discipline all the same, because only
    /// there are they segmented for an interface that cannot do it.
    pub queue_mark: Option<u32>,
    /// Group of sockets that share the frames.
    pub fanout: Option<Fanout>,
    /// Bytes of received frames that may wait; `None` leaves the default.
    pub receive_buffer: Option<usize>,
}

impl PacketConfig {
    /// Everything the interface receives, without headers.
    #[must_use]
    pub fn new(interface: impl Into<String>) -> Self {
        Self {
            interface: interface.into(),
            header: HdrLen::NONE,
            receive: true,
            promiscuous: true,
            ignore_outgoing: true,
            leave_out_mark: None,
            mark: None,
            qdisc_bypass: true,
            queue_mark: None,
            fanout: None,
            receive_buffer: None,
        }
    }

    /// The same for a socket that only sends.
    fn sender(&self) -> Self {
        Self {
            receive: false,
            fanout: None,
            receive_buffer: None,
            ..self.clone()
        }
    }
}

/// Why an interface cannot be used by a packet socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PacketError {
    /// The name cannot be an interface's.
    #[error("interface name {name:?} is not usable: {why}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There is no such interface.
    #[error("there is no interface {name} in this network namespace; see: ip link")]
    Missing {
        /// The name.
        name: String,
    },
    /// The interface is switched off. Frames come again when it is on.
    #[error("interface {name} is down; switch it on with: ip link set {name} up")]
    Down {
        /// The name.
        name: String,
    },
    /// The interface has been deleted or moved away. Open a new socket if it
    /// comes back.
    #[error("interface {name} has been removed")]
    Gone {
        /// The name.
        name: String,
    },
    /// The kernel knows no header of 12 bytes here.
    #[error(
        "interface {name}: this kernel has no 12-byte virtio-net header for packet sockets; \
         use the 10-byte one, or Linux 6.4"
    )]
    HeaderLen {
        /// The name.
        name: String,
    },
    /// Another refusal of the kernel.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// Frames since the socket was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PacketStats {
    /// Frames that came, dropped ones included.
    pub frames: u64,
    /// Frames dropped because nobody received fast enough.
    pub dropped: u64,
}

/// A packet socket that receives in place.
#[derive(Debug)]
pub struct PacketSocket {
    base: Base,
    rx: Messages,
    tx: Messages,
    outs: Vec<Out>,
    odd: u64,
}

impl PacketSocket {
    /// Opens a socket of an interface. It never blocks: wait with `poll` on
    /// its descriptor.
    ///
    /// # Errors
    ///
    /// [`PacketError`].
    pub fn open(config: &PacketConfig) -> Result<Self, PacketError> {
        let base = Base::open(config)?;
        base.start(config)?;
        Ok(base.into())
    }

    /// Fills the chains of `batch` in order until there is no more frame; how
    /// many were filled. Leave four bytes of room for a VLAN tag.
    ///
    /// # Errors
    ///
    /// [`PacketError::Down`], [`PacketError::Gone`] or [`PacketError::Os`].
    pub fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> Result<usize, PacketError> {
        let ask = Ask {
            head: 0,
            spill: 0,
            address: false,
            control: true,
        };
        let (mut done, mut odd) = (0, 0);
        while done < batch.len() {
            let range = done..batch.len().min(done + PER_CALL);
            let wanted = range.len();
            let fd = self.base.fd.as_fd();
            let n = match recv(fd, &mut self.rx, pool, batch, range, ask) {
                Ok(n) => n,
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => continue,
                    Some(libc::EINVAL) => {
                        self.odd += 1;
                        odd += 1;
                        match odd < ODD {
                            true => continue,
                            false => break,
                        }
                    }
                    _ if done > 0 => break,
                    _ => return Err(self.base.error("receive from", e)),
                },
            };
            for i in 0..n {
                let Some(got) = self.rx.get(i) else {
                    break;
                };
                let tag = got
                    .control(libc::SOL_PACKET, libc::PACKET_AUXDATA)
                    .and_then(tag_of);
                batch.set_len(done + i, got.len, got.truncated);
                if let Some(tag) = tag {
                    insert_tag(pool, batch, done + i, self.base.header, tag);
                }
            }
            done += n;
            if n < wanted {
                break;
            }
        }
        Ok(done)
    }

    /// Sends the frames of `batch` from number `first` on.
    ///
    /// # Errors
    ///
    /// As for [`PacketSocket::recv`]. Frames before the one that met the error
    /// are sent.
    pub fn send(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
    ) -> Result<Sent, PacketError> {
        self.base
            .send(&mut self.tx, &mut self.outs, pool, batch, first)
    }

    /// What came and what was dropped since the socket was opened.
    ///
    /// # Errors
    ///
    /// [`PacketError::Os`].
    pub fn stats(&mut self) -> Result<PacketStats, PacketError> {
        self.base.stats()
    }

    /// Packets that came and that no virtio-net header can describe, so that
    /// the kernel dropped them.
    #[must_use]
    pub fn odd(&self) -> u64 {
        self.odd
    }

    /// The interface's name when the socket was opened.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.base.name
    }
}

impl From<Base> for PacketSocket {
    fn from(base: Base) -> Self {
        Self {
            base,
            rx: Messages::default(),
            tx: Messages::default(),
            outs: Vec::new(),
            odd: 0,
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.base.fd.as_fd()
    }
}

/// What both kinds of socket share.
#[derive(Debug)]
struct Base {
    fd: OwnedFd,
    name: String,
    index: u32,
    header: HdrLen,
    way: Way,
    room: Room,
    stats: PacketStats,
}

impl Base {
    /// A socket with its options that receives nothing yet.
    fn open(config: &PacketConfig) -> Result<Self, PacketError> {
        let name = config.interface.clone();
        if let Some(why) = bad_name(&name) {
            return Err(PacketError::Name { name, why });
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // No protocol before the interface is known: it would receive from all.
        let fd = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(|e| {
                OsError::new("open a packet socket for interface", &name, e)
                    .hint("run as root or with CAP_NET_RAW")
            })?;
        let Ok(index) = rustix::net::netdevice::name_to_index(&fd, &name) else {
            return Err(PacketError::Missing { name });
        };
        let base = Self {
            fd,
            name,
            index,
            header: config.header,
            way: Way::new(
                config.qdisc_bypass,
                config.header,
                config.mark.unwrap_or(0),
                config.queue_mark.or(config.mark).unwrap_or(0),
            ),
            room: Room::default(),
            stats: PacketStats::default(),
        };
        base.set(libc::PACKET_AUXDATA, 1, "ask for VLAN tags of interface")?;
        if config.qdisc_bypass {
            base.set(
                libc::PACKET_QDISC_BYPASS,
                1,
                "bypass the queue of interface",
            )?;
        }
        if config.ignore_outgoing {
            base.set(
                libc::PACKET_IGNORE_OUTGOING,
                1,
                "leave out what is sent on interface",
            )?;
        }
        match config.header {
            HdrLen::NONE => {}
            HdrLen::MERGED => {
                set_int(
                    base.fd.as_fd(),
                    libc::SOL_PACKET,
                    libc::PACKET_VNET_HDR_SZ,
                    12,
                )
                .ok()
                .ok_or_else(|| PacketError::HeaderLen {
                    name: base.name.clone(),
                })?;
            }
            _ => base.set(
                libc::PACKET_VNET_HDR,
                1,
                "use virtio-net headers on interface",
            )?,
        }
        if config.leave_out_mark.is_some() || config.ignore_outgoing {
            let fd = base.fd.as_fd();
            sys::leave_out(fd, config.leave_out_mark, config.ignore_outgoing)
                .map_err(|e| base.os("leave out frames of interface", e))?;
        }
        if let Some(mark) = config.mark {
            let mark = mark.cast_signed();
            set_int(base.fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark)
                .map_err(|e| base.os("mark what is sent on interface", e))?;
        }
        if let Some(bytes) = config.receive_buffer {
            let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            let fd = base.fd.as_fd();
            // Beyond the system's limit if allowed, else up to it.
            if set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, bytes).is_err() {
                set_int(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, bytes)
                    .map_err(|e| base.os("set the receive buffer for interface", e))?;
            }
        }
        Ok(base)
    }

    /// Begins to receive.
    fn start(&self, config: &PacketConfig) -> Result<(), PacketError> {
        let index = i32::try_from(self.index).unwrap_or(-1);
        sys::bind(self.fd.as_fd(), index, config.receive).map_err(|e| self.error("bind to", e))?;
        if config.receive && config.promiscuous {
            sys::promiscuous(self.fd.as_fd(), index)
                .map_err(|e| self.os("receive all frames of interface", e))?;
        }
        if let Some(fanout) = config.fanout {
            let mode = match fanout.spread {
                Spread::Hash => 0,
                Spread::RoundRobin => 1,
                Spread::Cpu => 2,
                Spread::Queue => 5,
            };
            let join = |flags: i32| {
                let value = i32::from(fanout.group) | (mode | flags) << 16;
                let fd = self.fd.as_fd();
                set_int(fd, libc::SOL_PACKET, libc::PACKET_FANOUT, value)
            };
            // The group does not inherit that from its sockets. Kernels before
            // 5.17 do not know it; then the sockets' filters do it.
            const IGNORE_OUTGOING: i32 = 0x4000;
            let joined = match config.ignore_outgoing {
                true => join(IGNORE_OUTGOING).or_else(|_| join(0)),
                false => join(0),
            };
            joined.map_err(|e| {
                self.os("join the fanout group of interface", e)
                    .hint("all its sockets need one interface, one way to spread, and the link up")
            })?;
        }
        Ok(())
    }

    fn send(
        &mut self,
        messages: &mut Messages,
        outs: &mut Vec<Out>,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
    ) -> Result<Sent, PacketError> {
        let mut sent = Sent {
            next: first,
            ..Sent::default()
        };
        // Frames passed over, and whether one is sent without those behind it.
        let (mut over, mut alone) = (0, false);
        while sent.next + over < batch.len() {
            let at = sent.next + over;
            let most = if alone { 1 } else { PER_CALL };
            outs.clear();
            let end = batch.len().min(at + most);
            outs.extend((at..end).map(|frame| Out { frame, to: None }));
            let e = match send(self.fd.as_fd(), messages, pool, batch, outs, &[]) {
                Ok(0) => break,
                Ok(n) => {
                    let lens = (at..at + n).map(|i| batch.frame_len(i));
                    self.room.sent(over, lens);
                    sent.refused += over;
                    sent.next = at + n;
                    (over, alone) = (0, false);
                    let done = self.way.sent(self.fd.as_fd(), n);
                    done.map_err(|e| self.error("send on", e))?;
                    continue;
                }
                Err(e) => e,
            };
            match e.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => {
                    let turned = self.way.turn(self.fd.as_fd(), pool, batch, at);
                    if turned.map_err(|e| self.error("send on", e))? {
                        continue;
                    }
                    let left = batch.len() - sent.next;
                    match self.room.none(over, left, batch.frame_len(at)) {
                        Full::Dropped => {
                            sent.refused += 1;
                            sent.next += 1;
                            (over, alone) = (0, false);
                        }
                        Full::PassOver => over = 1,
                        Full::Wait => {
                            sent.wait = true;
                            break;
                        }
                    }
                }
                Some(libc::EAGAIN) => break,
                Some(libc::EINTR) => {}
                // EFAULT is found before anything is sent, wherever in the
                // batch it is: then only the first is judged.
                Some(libc::EFAULT) if !alone && batch_is_outside(pool, batch, at, &e) => {
                    alone = true;
                }
                Some(libc::EMSGSIZE | libc::EINVAL | libc::EFAULT) if over > 0 => {
                    // It says nothing of the one before.
                    sent.wait = true;
                    break;
                }
                Some(libc::EMSGSIZE | libc::EINVAL | libc::EFAULT) => {
                    sent.refused += 1;
                    sent.next += 1;
                    alone = false;
                }
                _ if sent.next > first => break,
                _ => return Err(self.error("send on", e)),
            }
        }
        Ok(sent)
    }

    fn stats(&mut self) -> Result<PacketStats, PacketError> {
        // The kernel counts from the last question on.
        let [frames, dropped] = sys::statistics(self.fd.as_fd())
            .map_err(|e| self.os("read the statistics of interface", e))?;
        self.stats.frames += u64::from(frames);
        self.stats.dropped += u64::from(dropped);
        Ok(self.stats)
    }

    /// What was dropped since that was last asked.
    fn dropped(&mut self) -> Result<u64, PacketError> {
        let before = self.stats.dropped;
        Ok(self.stats()?.dropped - before)
    }

    fn set(&self, option: i32, value: i32, what: &'static str) -> Result<(), PacketError> {
        set_int(self.fd.as_fd(), libc::SOL_PACKET, option, value)
            .map_err(|e| self.os(what, e).into())
    }

    /// Whether an error waits at the socket, which then is told.
    fn check(&self) -> Result<(), PacketError> {
        match rustix::net::sockopt::socket_error(&self.fd) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) | Err(e) => Err(self.error("receive from", e.into())),
        }
    }

    /// What an error of a call means: the interface may be down or gone.
    fn error(&self, what: &'static str, e: io::Error) -> PacketError {
        let name = self.name.clone();
        match e.raw_os_error() {
            Some(libc::ENETDOWN) => {
                match rustix::net::netdevice::index_to_name(&self.fd, self.index) {
                    Ok(_) => PacketError::Down { name },
                    Err(_) => PacketError::Gone { name },
                }
            }
            Some(libc::ENXIO | libc::ENODEV) => PacketError::Gone { name },
            _ => OsError::new(what, format!("interface {name}"), e).into(),
        }
    }

    fn os(&self, what: &'static str, e: io::Error) -> OsError {
        OsError::new(what, &self.name, e)
    }
}

/// Whether `e` means a chain outside the pool, and not that of frame `i`.
fn batch_is_outside(pool: &BufPool, batch: &Batch, i: usize, e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::EFAULT)
        && batch.pieces(i).all(|p| {
            p.buf < pool.count() && u64::from(p.off) + u64::from(p.len) <= u64::from(pool.stride())
        })
}

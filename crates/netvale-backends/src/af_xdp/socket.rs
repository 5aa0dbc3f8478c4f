//! Sockets: made, bound, passed on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XDP_PGOFF_RX_RING,
    XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpMmapOffsets,
    XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::sys::{self, RingMap};
use super::{CompletionRing, FillRing, RxRing, TxRing, Umem, XskError};
use crate::OsError;
use crate::bpf::interface_name;

const AF_XDP: AddressFamily = AddressFamily::XDP;
/// How often a queue that is still busy is asked for.
const RETRY: Duration = Duration::from_millis(5);
/// The smallest budget that the kernel takes.
const MIN_TX_BUDGET: u32 = 32;
/// As many entries as a ring may have.
const MAX_ENTRIES: u32 = 1 << 16;

/// Entries of the rings: powers of two; 0 for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSizes {
    /// Received descriptors.
    pub rx: u32,
    /// Descriptors to send.
    pub tx: u32,
    /// Buffers to receive into.
    pub fill: u32,
    /// Buffers sent.
    pub completion: u32,
}

impl RingSizes {
    /// All four rings with this many entries.
    #[must_use]
    pub const fn all(entries: u32) -> Self {
        Self {
            rx: entries,
            tx: entries,
            fill: entries,
            completion: entries,
        }
    }

    fn check(self) -> Result<(), XskError> {
        let all = [self.rx, self.tx, self.fill, self.completion];
        let wrong = |why| Err(XskError::Rings { why, sizes: self });
        if all
            .into_iter()
            .any(|n| n > MAX_ENTRIES || n.count_ones() > 1)
        {
            return wrong("sizes are powers of two, at most 65536");
        }
        if self.rx == 0 && self.tx == 0 {
            return wrong("a socket receives or sends");
        }
        Ok(())
    }
}

/// Who moves the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMode {
    /// The kernel copies: every driver can.
    Copy,
    /// The device reads and writes the buffers itself, or the socket fails.
    ZeroCopy,
    /// Zero copy if the driver can and the memory lies in huge pages (in
    /// small ones most buffers are out of a device's reach), else a copy.
    Best,
}

/// How a socket is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XskConfig {
    /// Sizes of the rings.
    pub sizes: RingSizes,
    /// Who moves the bytes. A socket that shares another's registration
    /// follows that.
    pub copy: CopyMode,
    /// Frames may have several descriptors, in both directions (Linux 6.6);
    /// 17 of them can be sent in copy mode.
    pub multi_buffer: bool,
    /// Frames that one kick may send in copy mode: the kernel's default is 32,
    /// which is the least, and the tx ring's size is the most. Kernels that
    /// cannot change it (before 6.17) keep the default.
    pub tx_budget: Option<u32>,
    /// How long to wait for a queue that another socket still has: the kernel
    /// takes a while to give it free after a socket is closed. Zero: one
    /// attempt.
    pub patience: Duration,
}

impl Default for XskConfig {
    /// Rings of 2048, zero copy if it can be, frames in one piece, one second
    /// of patience.
    fn default() -> Self {
        Self {
            sizes: RingSizes::all(2048),
            copy: CopyMode::Best,
            multi_buffer: false,
            tx_budget: None,
            patience: Duration::from_secs(1),
        }
    }
}

/// What the kernel counts for a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames dropped for another reason than those below: too long, say.
    pub rx_dropped: u64,
    /// Words in the fill ring that were no buffers.
    pub rx_invalid: u64,
    /// Descriptors in the tx ring that were not inside the memory.
    pub tx_invalid: u64,
    /// Frames dropped because the rx ring was full.
    pub rx_ring_full: u64,
    /// Times that the fill ring was found empty.
    pub rx_fill_empty: u64,
    /// Times that the tx ring was found empty.
    pub tx_empty: u64,
}

/// The socket itself: what is needed to kick, poll and pass it on.
#[derive(Debug)]
pub struct XskSocket {
    fd: OwnedFd,
    sizes: RingSizes,
}

/// A socket with its rings, to be taken apart at will: each ring keeps the
/// socket. The queue is free again (after some 100 ms) when all are gone.
#[derive(Debug)]
#[non_exhaustive]
pub struct Xsk {
    /// The socket.
    pub socket: Arc<XskSocket>,
    /// Received descriptors.
    pub rx: Option<RxRing>,
    /// Descriptors to send.
    pub tx: Option<TxRing>,
    /// Buffers to receive into.
    pub fill: Option<FillRing>,
    /// Buffers sent.
    pub completion: Option<CompletionRing>,
}

impl Xsk {
    /// Makes a socket for one queue of an interface and registers the memory
    /// for it. Frames move while the interface is up.
    ///
    /// Nothing is received until a program redirects frames to it
    /// ([`super::Redirect`]).
    ///
    /// # Errors
    ///
    /// [`XskError::Busy`]; without CAP_NET_RAW; if there is no such interface
    /// or queue, or too little lockable memory.
    pub fn open(
        umem: &Umem,
        ifindex: u32,
        queue: u32,
        config: &XskConfig,
    ) -> Result<Self, XskError> {
        let sizes = config.sizes;
        if sizes.fill == 0 || sizes.completion == 0 {
            let why = "the first socket of a registration has a fill and a completion ring";
            return Err(XskError::Rings { why, sizes });
        }
        let xsk = Self::make(Some(umem), config)?;
        let mut flags = SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        flags |= match config.copy {
            CopyMode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
            // Without either flag the kernel tries one after the other.
            CopyMode::Best if umem.layout().huge => SocketAddrXdpFlags::empty(),
            CopyMode::Best | CopyMode::Copy => SocketAddrXdpFlags::XDP_COPY,
        };
        if config.multi_buffer {
            flags |= SocketAddrXdpFlags::XDP_USE_SG;
        }
        let addr = SocketAddrXdp::new(flags, ifindex, queue);
        bind(ifindex, queue, config.patience, || {
            rustix::net::bind(&xsk.socket.fd, &addr)
        })?;
        Ok(xsk)
    }

    /// Makes a socket that uses the memory as another has registered it, which
    /// costs nothing. Needs fill and completion rings of its own if it is for
    /// another interface or queue, and must have none for the same.
    ///
    /// # Errors
    ///
    /// As [`Xsk::open`].
    pub fn open_shared(
        first: &XskSocket,
        ifindex: u32,
        queue: u32,
        config: &XskConfig,
    ) -> Result<Self, XskError> {
        let xsk = Self::make(None, config)?;
        let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
        let addr = SocketAddrXdpWithSharedUmem {
            addr: SocketAddrXdp::new(flags, ifindex, queue),
            shared_umem_fd: first.as_fd(),
        };
        bind(ifindex, queue, config.patience, || {
            rustix::net::bind(&xsk.socket.fd, &addr)
        })?;
        Ok(xsk)
    }

    /// The rings of a socket that another process made and passed on, with the
    /// sizes that it gave them. Of the two processes only one at a time may use
    /// a ring, from where the other has come to ([`FillRing::seek`] and the
    /// like). No privilege is needed. The [`Umem`] that finds frames here must be of
    /// the same buffers as the registered one.
    ///
    /// # Errors
    ///
    /// If it is no AF_XDP socket with rings of these sizes.
    pub fn from_fd(fd: OwnedFd, sizes: RingSizes) -> Result<Self, XskError> {
        sizes.check()?;
        Self::map(fd, sizes)
    }

    fn make(umem: Option<&Umem>, config: &XskConfig) -> Result<Self, XskError> {
        let sizes = config.sizes;
        sizes.check()?;
        let fd = rustix::net::socket_with(AF_XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(no_socket)?;
        if let Some(umem) = umem {
            register(fd.as_fd(), umem)?;
        }
        let at = fd.as_fd();
        sized(at, "rx", sizes.rx, sockopt::set_xdp_rx_ring_size)?;
        sized(at, "tx", sizes.tx, sockopt::set_xdp_tx_ring_size)?;
        sized(at, "fill", sizes.fill, sockopt::set_xdp_umem_fill_ring_size)?;
        let set = sockopt::set_xdp_umem_completion_ring_size;
        sized(at, "completion", sizes.completion, set)?;
        if let Some(frames) = config.tx_budget.filter(|_| sizes.tx >= MIN_TX_BUDGET) {
            let frames = frames.clamp(MIN_TX_BUDGET, sizes.tx);
            match sys::set_tx_budget(fd.as_fd(), frames) {
                // An older kernel: it is about speed only.
                Err(e) if e.raw_os_error() != Some(libc::ENOPROTOOPT) => {
                    let object = format!("an AF_XDP tx budget of {frames}");
                    return Err(OsError::new("set", object, e).into());
                }
                _ => {}
            }
        }
        Self::map(fd, sizes)
    }

    fn map(fd: OwnedFd, sizes: RingSizes) -> Result<Self, XskError> {
        let no_rings = |e: io::Error| OsError::new("map", "the rings of an AF_XDP socket", e);
        let XdpMmapOffsets { rx, tx, fr, cr } =
            sockopt::xdp_mmap_offsets(&fd).map_err(|e| no_rings(e.into()))?;
        let socket = Arc::new(XskSocket { fd, sizes });
        let ring = |entries: u32, page, at, words| -> Result<_, OsError> {
            if entries == 0 {
                return Ok(None);
            }
            let map = RingMap::new(socket.as_fd(), page, at, entries, words).map_err(no_rings)?;
            Ok(Some((Arc::clone(&socket), map, entries)))
        };
        let rx = ring(sizes.rx, XDP_PGOFF_RX_RING, rx, 2)?;
        let tx = ring(sizes.tx, XDP_PGOFF_TX_RING, tx, 2)?;
        let fill = ring(sizes.fill, XDP_UMEM_PGOFF_FILL_RING, fr, 1)?;
        let done = ring(sizes.completion, XDP_UMEM_PGOFF_COMPLETION_RING, cr, 1)?;
        Ok(Self {
            rx: rx.map(|(socket, map, n)| RxRing::new(socket, map, n)),
            tx: tx.map(|(socket, map, n)| TxRing::new(socket, map, n)),
            fill: fill.map(|(socket, map, n)| FillRing::new(socket, map, n)),
            completion: done.map(|(socket, map, n)| CompletionRing::new(socket, map, n)),
            socket,
        })
    }
}

impl XskSocket {
    /// A descriptor that is no socket, for tests of the rings.
    #[cfg(test)]
    pub(super) fn fake(fd: OwnedFd, sizes: RingSizes) -> Self {
        Self { fd, sizes }
    }

    /// Sizes of its rings, which whoever gets the descriptor needs too.
    #[must_use]
    pub fn sizes(&self) -> RingSizes {
        self.sizes
    }

    /// Has the kernel send what is in the tx ring. `false` if some is left for
    /// another kick: too many frames for one call, or the device is busy.
    ///
    /// # Errors
    ///
    /// The interface is down or gone.
    pub fn kick_tx(&self) -> io::Result<bool> {
        later(rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT).map(drop))
    }

    /// Tells the driver that there are buffers in the fill ring. `false` if it
    /// must be told again.
    ///
    /// # Errors
    ///
    /// The interface is down or gone.
    pub fn kick_rx(&self) -> io::Result<bool> {
        later(rustix::net::recv(&self.fd, &mut [0_u8; 0], RecvFlags::DONTWAIT).map(drop))
    }

    /// Whether the device uses the buffers without a copy.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn is_zero_copy(&self) -> io::Result<bool> {
        let options = sockopt::xdp_options(&self.fd)?;
        Ok(options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY))
    }

    /// What the kernel has counted since the socket was made.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let s = sockopt::xdp_statistics(&self.fd)?;
        Ok(Statistics {
            rx_dropped: s.rx_dropped,
            rx_invalid: s.rx_invalid_descs,
            tx_invalid: s.tx_invalid_descs,
            rx_ring_full: s.rx_ring_full.unwrap_or(0),
            rx_fill_empty: s.rx_fill_ring_empty_descs.unwrap_or(0),
            tx_empty: s.tx_ring_empty_descs.unwrap_or(0),
        })
    }
}

impl AsFd for XskSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Has a socket make one of its rings, unless it is to have none.
fn sized<'a>(
    fd: BorrowedFd<'a>,
    ring: &'static str,
    entries: u32,
    set: fn(BorrowedFd<'a>, u32) -> rustix::io::Result<()>,
) -> Result<(), OsError> {
    if entries == 0 {
        return Ok(());
    }
    let object = || format!("an AF_XDP {ring} ring of {entries} entries");
    set(fd, entries).map_err(|e| OsError::new("make", object(), e))
}

/// What a kick says: these errors only mean that more is to be done.
fn later(result: rustix::io::Result<()>) -> io::Result<bool> {
    use rustix::io::Errno;
    match result {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn no_socket(e: rustix::io::Errno) -> OsError {
    use rustix::io::Errno;
    let no = OsError::new("make", "an AF_XDP socket", e);
    match e {
        Errno::PERM | Errno::ACCESS => no.hint("run as root or with CAP_NET_RAW"),
        Errno::AFNOSUPPORT => no.hint("the kernel lacks CONFIG_XDP_SOCKETS"),
        _ => no,
    }
}

fn register(fd: BorrowedFd<'_>, umem: &Umem) -> Result<(), OsError> {
    use rustix::io::Errno;
    let mem = umem.pages();
    let registration = XdpUmemReg {
        addr: mem.as_ptr().expose_provenance() as u64,
        len: mem.len() as u64,
        chunk_size: umem.chunk(),
        headroom: 0,
        flags: XdpUmemRegFlags::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
        tx_metadata_len: 0,
    };
    sockopt::set_xdp_umem_reg(fd, registration).map_err(|e| {
        let what = format!("{} bytes for AF_XDP", mem.len());
        let no = OsError::new("register", what, e);
        match e {
            Errno::NOBUFS | Errno::NOMEM => no.hint(
                "raise the limit of locked memory (ulimit -l), give CAP_IPC_LOCK, or use less",
            ),
            _ => no,
        }
    })
}

/// Binds, as often as the queue is busy and the patience lasts.
fn bind(
    ifindex: u32,
    queue: u32,
    patience: Duration,
    bind: impl Fn() -> rustix::io::Result<()>,
) -> Result<(), XskError> {
    use rustix::io::Errno;
    let start = Instant::now();
    let e = loop {
        match bind() {
            Ok(()) => return Ok(()),
            Err(Errno::BUSY) if start.elapsed() < patience => std::thread::sleep(RETRY),
            Err(e) => break e,
        }
    };
    let interface = interface_name(ifindex);
    if e == Errno::BUSY {
        return Err(XskError::Busy {
            interface,
            queue,
            source: e.into(),
        });
    }
    let no = OsError::new("bind", format!("AF_XDP to queue {queue} of {interface}"), e);
    Err(XskError::Os(match e {
        Errno::NODEV => no.hint("there is no such interface in this network namespace"),
        Errno::NETDOWN => no.hint("the interface is down: ip link set up"),
        // Some drivers answer with the kernel's internal ENOTSUPP.
        e if e == Errno::OPNOTSUPP || e.raw_os_error() == 524 => {
            no.hint("its driver cannot do what was asked for (zero copy, several pieces)")
        }
        Errno::INVAL => no
            .hint("there may be no such queue, or its driver cannot do zero copy with this memory"),
        _ => no,
    }))
}

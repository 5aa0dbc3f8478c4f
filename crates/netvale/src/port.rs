//! Ports: opening one, and sleeping until it has something.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netvale_ring::bell::Bell;
use netvale_ring::port::PortKind;
use netvale_ring::world::RegionMap;
use netvale_shm::Doorbell;
use netvale_switch::domain::{Registration, RingInfo, Want};
use netvale_switch::end::{Gear, RxEnd, TxEnd};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::backend::{Attached, Keep};
use crate::drive::{For, Queue, Watch};
use crate::info::{PortInfo, PortStats};
use crate::namespace::{Namespace, parse};
use crate::rx::RxRing;
use crate::spin::Spin;
use crate::tx::TxRing;
use crate::wait::{self, Awaited};
use crate::{Error, ErrorKind, Result};

/// Opens ports with other than default geometry.
#[derive(Debug, Clone)]
pub struct PortBuilder {
    ns: Namespace,
    name: String,
    want: Want,
    keep_buffers: bool,
    isolated: bool,
}

impl PortBuilder {
    pub(crate) fn new(ns: Namespace, name: &str) -> Self {
        Self {
            ns,
            name: name.into(),
            want: Want::default(),
            keep_buffers: false,
            isolated: false,
        }
    }

    /// TX and RX rings, 1 to 16 of each.
    #[must_use]
    pub fn rings(mut self, tx: u16, rx: u16) -> Self {
        (self.want.tx_rings, self.want.rx_rings) = (tx, rx);
        self
    }

    /// Slots of each TX and RX ring, 2 to 4096.
    #[must_use]
    pub fn slots(mut self, tx: u16, rx: u16) -> Self {
        (self.want.tx_slots, self.want.rx_slots) = (tx, rx);
        self
    }

    /// Buffers beside those in the rings.
    #[must_use]
    pub fn extra_bufs(mut self, n: u32) -> Self {
        self.want.extra_bufs = n;
        self
    }

    /// TX buffers keep their contents, because the switch copies frames, as C
    /// programs expect. By default a buffer is given away with its frame and
    /// another comes back, so that nothing is copied inside a region.
    #[must_use]
    pub fn keep_buffers(mut self, yes: bool) -> Self {
        self.keep_buffers = yes;
        self
    }

    /// Frames of this port begin with a virtio-net header of 0, 10 or 12 bytes.
    /// Those of a network interface are the kernel's packets then, up to
    /// 64 KiB long in as many slots as they need, by AF_PACKET.
    #[must_use]
    pub fn vnet_hdr(mut self, len: u8) -> Self {
        self.want.vnet_hdr = Some(len);
        self.want.accepts_vnet_hdr = true;
        self
    }

    /// Accept whatever virtio-net header the port has.
    #[must_use]
    pub fn accept_vnet_hdr(mut self) -> Self {
        self.want.accepts_vnet_hdr = true;
        self
    }

    /// In the isolated context, whatever the user: the server moves the frames
    /// and trusts nothing that this process writes.
    #[must_use]
    pub fn isolated(mut self, yes: bool) -> Self {
        self.isolated = yes;
        self
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] for a bad name or header length,
    /// [`ErrorKind::Busy`] for rings that someone has exclusively,
    /// [`ErrorKind::NoSpace`] if ports, rings, buffers, memory or descriptors
    /// are used up.
    pub fn open(mut self) -> Result<Port> {
        if let Some(len) = self.want.vnet_hdr
            && !matches!(len, 0 | 10 | 12)
        {
            let text = format!("a virtio-net header has 0, 10 or 12 bytes, not {len}");
            return Err(Error::new(ErrorKind::Usage, text));
        }
        self.want.gives_buffers = !self.keep_buffers;
        let spec = parse(&self.name)?;
        let attached = self
            .ns
            .backend()?
            .register(&spec, &self.want, self.isolated)?;
        Port::new(self.ns, attached)
    }
}

/// What all handles of one registration share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) reg: Registration,
    pub(crate) map: RegionMap,
    pub(crate) gear: Option<Gear>,
    pub(crate) bell: Arc<Doorbell>,
    pub(crate) kick: Option<Arc<Doorbell>>,
    /// Of queues that this process drives.
    pub(crate) watch: Option<Watch>,
    /// It is a device's, whose frames the server moves unless we drive it.
    pub(crate) served: bool,
    pub(crate) keep: Arc<dyn Keep>,
}

impl Shared {
    /// Isolated: tells the worker that there is something to do.
    #[inline]
    pub(crate) fn kick(&self) {
        if let (Some(kick), Some(bell)) = (&self.kick, Bell::at(&self.map.mem, &self.map.geom))
            && bell.must_kick()
        {
            kick.ring();
        }
    }

    /// Sleeps until the bell rings or a socket has something (`true`), for this
    /// time at most.
    pub(crate) fn sleep(&self, what: For, most: Duration) -> Result<bool> {
        let no = |e: std::io::Error| Error::io("cannot wait", e);
        let Some(watch) = &self.watch else {
            return self.bell.wait(Some(most)).map_err(no);
        };
        let fd = watch.fd(what);
        let time = Timespec::try_from(most).unwrap_or_default();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&time)) {
            Ok(n) => Ok(n > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(e) => Err(no(e.into())),
        }
    }

    /// Something has ended a sleep, and there was nothing.
    pub(crate) fn woken_in_vain(&self, what: For) {
        if let Some(watch) = &self.watch {
            watch.heed(what);
        }
    }

    /// Leaves a queue that this process drives to the server.
    #[cold]
    pub(crate) fn leave(&self, queue: u16, it: &Queue) {
        // Before the server begins: its other direction is used no more then.
        // That one finds it left, and need not tell the server.
        if self.watch.as_ref().is_some_and(|w| w.leave(it)) {
            self.keep.undrive(queue);
        }
    }

    /// Whether nothing comes or goes without the server.
    pub(crate) fn stands_with_server(&self) -> bool {
        self.gear.is_none() || (self.served && self.watch.is_none())
    }

    /// Whether the server (if there is one) is there.
    pub(crate) fn check_alive(&self) -> Result<()> {
        if self.keep.alive() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Disconnected,
            format!("{}: the server is gone", self.reg.name),
        )
        .with_hint("open the port anew: that starts another server"))
    }
}

/// An open port: its rings, and a way to sleep until they have something.
///
/// Closed when it and everything split from it is dropped.
#[derive(Debug)]
pub struct Port {
    ns: Namespace,
    shared: Arc<Shared>,
    info: PortInfo,
    tx: Vec<TxRing>,
    rx: Vec<RxRing>,
    spin: Spin,
}

impl Port {
    fn new(ns: Namespace, mut a: Attached) -> Result<Self> {
        let info = PortInfo::from(&a.reg);
        let shared = Arc::new(Shared {
            reg: a.reg,
            map: a.map,
            gear: a.gear,
            bell: a.bell,
            kick: a.kick,
            watch: a.driven.watch.take(),
            served: a.served,
            keep: a.keep,
        });
        let driven = &mut a.driven;
        let broken = || Error::new(ErrorKind::Peer, "the server's answer describes no port");
        let lookup = ns.lookup.clone();
        let tx_end = |ring: &RingInfo| match &shared.gear {
            None => Some(None),
            Some(gear) => TxEnd::new(gear, &shared.reg, ring, &shared.map).map(|mut end| {
                if let Some(lookup) = &lookup {
                    end.set_lookup(Arc::clone(&lookup.0));
                }
                Some(end)
            }),
        };
        let rx_end = |ring: &RingInfo| match &shared.gear {
            None => Some(None),
            Some(gear) => RxEnd::new(gear, &shared.reg, ring, &shared.map).map(Some),
        };
        let mut tx = Vec::new();
        for (i, ring) in shared.reg.tx.iter().enumerate() {
            let end = tx_end(ring).ok_or_else(broken)?;
            let lane = driven.outward(i);
            tx.push(TxRing::new(&shared, ring, end, lane).ok_or_else(broken)?);
        }
        let mut rx = Vec::new();
        for (i, ring) in shared.reg.rx.iter().enumerate() {
            let end = rx_end(ring).ok_or_else(broken)?;
            let lane = driven.inward(i);
            rx.push(RxRing::new(&shared, ring, end, lane).ok_or_else(broken)?);
        }
        Ok(Self {
            ns,
            shared,
            info,
            tx,
            rx,
            spin: Spin::default(),
        })
    }

    /// Opens a port of the user's own namespace ([`Namespace::from_env`]).
    ///
    /// # Errors
    ///
    /// As [`PortBuilder::open`], or the server cannot be started.
    pub fn open(name: &str) -> Result<Self> {
        Namespace::from_env()?.open(name)
    }

    /// A builder for a port of the user's own namespace.
    ///
    /// # Errors
    ///
    /// The server cannot be started.
    pub fn builder(name: &str) -> Result<PortBuilder> {
        Ok(Namespace::from_env()?.port(name))
    }

    /// Full name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.reg.name
    }

    /// Actual geometry.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// `embedded`, `trusted` or `isolated`: who moves the frames.
    #[must_use]
    pub fn context(&self) -> &'static str {
        match (self.ns.path(), &self.shared.gear) {
            (None, _) => "embedded",
            (Some(_), Some(_)) => "trusted",
            (Some(_), None) => "isolated",
        }
    }

    /// TX rings that this handle has.
    #[must_use]
    pub fn tx_count(&self) -> usize {
        self.tx.len()
    }

    /// RX rings that this handle has.
    #[must_use]
    pub fn rx_count(&self) -> usize {
        self.rx.len()
    }

    /// TX ring `i`.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn tx(&mut self, i: usize) -> &mut TxRing {
        &mut self.tx[i]
    }

    /// RX ring `i`.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn rx(&mut self, i: usize) -> &mut RxRing {
        &mut self.rx[i]
    }

    /// TX ring `t` and RX ring `r` at once.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn tx_rx(&mut self, t: usize, r: usize) -> (&mut TxRing, &mut RxRing) {
        (&mut self.tx[t], &mut self.rx[r])
    }

    /// Halves for a sending and a receiving thread.
    #[must_use]
    pub fn split(self) -> (TxHalf, RxHalf) {
        let half = RxHalf {
            rings: self.rx,
            shared: Arc::clone(&self.shared),
            spin: self.spin,
        };
        (TxHalf { rings: self.tx }, half)
    }

    /// Every ring on its own, for several threads.
    #[must_use]
    pub fn into_rings(self) -> (Vec<TxRing>, Vec<RxRing>) {
        (self.tx, self.rx)
    }

    /// Sends what is queued, then sleeps until some RX ring has frames
    /// (`true`) or the time is over (`false`). Spins before it sleeps as long
    /// as that has paid lately.
    ///
    /// # Errors
    ///
    /// Isolated ports: the server is gone.
    pub fn wait_rx(&mut self, timeout: Option<Duration>) -> Result<bool> {
        self.send()?;
        if self.tx.iter().any(Awaited::is_due) {
            return self.wait_rx_and_send(timeout);
        }
        wait::until_ready(&self.shared, &mut self.rx, &mut self.spin, timeout)
    }

    fn send(&mut self) -> Result<()> {
        let sends = self.shared.reg.kind != PortKind::Monitor;
        for tx in self.tx.iter_mut().filter(|_| sends) {
            tx.sync()?;
        }
        Ok(())
    }

    /// What the kernel could not send at once it sends later, if it is asked.
    #[cold]
    fn wait_rx_and_send(&mut self, timeout: Option<Duration>) -> Result<bool> {
        let end = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let due = self.tx.iter().any(Awaited::is_due);
            let time = match due {
                true => Some(left.map_or(wait::SOON, |t| t.min(wait::SOON))),
                false => left,
            };
            let came = wait::until_ready(&self.shared, &mut self.rx, &mut self.spin, time)?;
            if came || !due || left.is_some_and(|t| t.is_zero()) {
                return Ok(came);
            }
            self.send()?;
        }
    }

    /// Sends what is queued, then sleeps until some TX ring has space. Only
    /// the rings of pipes ever fill up.
    ///
    /// # Errors
    ///
    /// Isolated ports: the server is gone.
    pub fn wait_tx(&mut self, timeout: Option<Duration>) -> Result<bool> {
        wait::until_ready(&self.shared, &mut self.tx, &mut self.spin, timeout)
    }

    /// Before polling the port's descriptor ([`AsFd`]): syncs the RX rings.
    /// `false` if frames are there, so do not sleep; `true` if the descriptor
    /// will become readable when some arrive.
    ///
    /// ```
    /// # fn main() -> netvale::Result<()> {
    /// use std::os::fd::AsFd;
    ///
    /// let ns = netvale::Namespace::embedded()?;
    /// let (mut a, mut b) = (ns.open("vale0:a")?, ns.open("vale0:b")?);
    /// assert!(b.arm()?);
    /// a.tx(0).push(&[0xff; 60]).expect("an empty ring");
    /// a.tx(0).sync()?;
    /// // Here poll, epoll, mio or tokio would wait for `b.as_fd()`.
    /// let _fd = b.as_fd();
    /// b.disarm();
    /// assert_eq!(b.rx(0).sync()?, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`RxRing::sync`].
    pub fn arm(&mut self) -> Result<bool> {
        wait::announce(&self.shared, &mut self.rx)
    }

    /// After polling the port's descriptor.
    pub fn disarm(&mut self) {
        wait::recall(&self.shared, &self.rx);
    }

    /// Counters.
    ///
    /// # Errors
    ///
    /// The server is gone.
    pub fn stats(&self) -> Result<PortStats> {
        let all = self.ns.backend()?.stats(Some(self.name()))?;
        let mine = all.into_iter().next().map(PortStats::from);
        mine.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("{}: no such port", self.name()),
            )
        })
    }

    /// Whether frames can move between the two ports' rings without a copy.
    #[must_use]
    pub fn same_region(&self, other: &Self) -> bool {
        let (a, b) = (&self.shared.map, &other.shared.map);
        a.id == b.id && a.generation == b.generation && a.mem.as_ptr() == b.mem.as_ptr()
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.shared.watch {
            Some(watch) => watch.fd(For::Rx),
            None => self.shared.bell.as_fd(),
        }
    }
}

/// The sending half of a port.
#[derive(Debug)]
pub struct TxHalf {
    rings: Vec<TxRing>,
}

impl TxHalf {
    /// All TX rings.
    pub fn rings(&mut self) -> &mut [TxRing] {
        &mut self.rings
    }

    /// TX ring `i`.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn ring(&mut self, i: usize) -> &mut TxRing {
        &mut self.rings[i]
    }
}

/// The receiving half of a port.
#[derive(Debug)]
pub struct RxHalf {
    rings: Vec<RxRing>,
    shared: Arc<Shared>,
    spin: Spin,
}

impl RxHalf {
    /// All RX rings.
    pub fn rings(&mut self) -> &mut [RxRing] {
        &mut self.rings
    }

    /// RX ring `i`.
    ///
    /// # Panics
    ///
    /// If there are not that many.
    pub fn ring(&mut self, i: usize) -> &mut RxRing {
        &mut self.rings[i]
    }

    /// Sleeps until some ring has frames (`true`) or the time is over.
    ///
    /// # Errors
    ///
    /// As [`Port::wait_rx`].
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<bool> {
        wait::until_ready(&self.shared, &mut self.rings, &mut self.spin, timeout)
    }
}

//! The rings of a registration, one lane for each direction.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netvale::drive::{Driven, Inward, Outward};
use netvale::registration::{self, Attachment};
use netvale_ring::bell::Bell;
use netvale_ring::kring::{Kring, sleep};
use netvale_ring::port::PortKind;
use netvale_ring::slot::{Ring, RingWindow};
use netvale_ring::world::RegionMap;
use netvale_shm::Doorbell;
use netvale_switch::domain::RingInfo;
use netvale_switch::end::{Gear, Indirect, RxEnd, SyncError, TxEnd};
use netvale_wire::abi;

/// What a sync of a lane found.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// Some ring has slots for the program beyond its wake-up point.
    pub(crate) ready: bool,
    /// Some ring's words were wrong, or its port is gone.
    pub(crate) error: bool,
    /// The port is gone.
    pub(crate) gone: bool,
    /// The server must drive the queues behind the rings.
    pub(crate) is_over: bool,
}

/// What both directions of an isolated registration share: the server's worker
/// does the syncs.
#[derive(Debug, Clone)]
pub(crate) struct Far {
    map: RegionMap,
    kick: Arc<Doorbell>,
}

impl Far {
    fn of(a: &Attachment) -> Option<Self> {
        Some(Self {
            map: a.map.clone(),
            kick: Arc::clone(a.kick.as_ref()?),
        })
    }

    #[inline]
    fn kick(&self) {
        if let Some(bell) = Bell::at(&self.map.mem, &self.map.geom)
            && bell.must_kick()
        {
            // The bell may be a pipe, and the server gone.
            crate::inside::without_sigpipe(|| self.kick.ring());
        }
    }

    fn sleeps(&self, yes: bool) {
        if let Some(bell) = Bell::at(&self.map.mem, &self.map.geom) {
            bell.client_sleeps(yes);
        }
    }
}

/// The rings of one direction, and who syncs them.
#[derive(Debug)]
pub(crate) enum Side<E: End> {
    /// This process runs the engine.
    Near {
        ends: Vec<E>,
        /// Queues of an interface behind the rings, if this process drives
        /// them: by ring.
        lanes: Vec<Option<E::Lane>>,
        gear: Gear,
        /// What it announces in sleep words.
        said: u32,
    },
    /// The server does.
    Far { rings: Vec<RingWindow>, far: Far },
}

/// The end of a ring, in either direction.
pub(crate) trait End: Sized + std::fmt::Debug {
    /// What moves frames between the ring and a queue of an interface.
    type Lane: std::fmt::Debug;
    /// Whether the kernel has to be asked or told again, and soon.
    fn is_due(lane: &Self::Lane) -> bool;
    /// Whether it must be left to the server.
    fn is_over(lane: &Self::Lane) -> bool;
    fn ring(&self) -> Ring<'_>;
    fn kring(&self) -> Kring<'_>;
    fn sync(&mut self) -> Result<u32, SyncError>;
    /// What the driven queues of a registration have for its rings.
    fn lane(driven: &mut Driven, i: usize) -> Option<Self::Lane>;
    /// Moves what there is; whether the ring has to be synced once more.
    fn serve(lane: &mut Self::Lane) -> bool;
}

macro_rules! ends {
    ($($end:ident $lane:ident $of:ident;)*) => {$(
        impl End for $end {
            type Lane = $lane;

            #[inline]
            fn ring(&self) -> Ring<'_> {
                $end::ring(self)
            }

            #[inline]
            fn kring(&self) -> Kring<'_> {
                $end::kring(self)
            }

            #[inline]
            fn sync(&mut self) -> Result<u32, SyncError> {
                $end::sync(self)
            }

            fn lane(driven: &mut Driven, i: usize) -> Option<$lane> {
                driven.$of(i)
            }

            #[inline]
            fn serve(lane: &mut $lane) -> bool {
                lane.serve()
            }

            fn is_due(lane: &$lane) -> bool {
                lane.is_due()
            }

            #[inline]
            fn is_over(lane: &$lane) -> bool {
                lane.is_over()
            }
        }
    )*};
}

ends! {
    TxEnd Outward outward;
    RxEnd Inward inward;
}

/// Syncs ring `i` of a side, and moves what a queue behind it has or takes.
#[inline]
fn sync<E: End>(end: &mut E, lanes: &mut [Option<E::Lane>], i: usize) -> Result<u32, SyncError> {
    let done = end.sync();
    if let Some(Some(lane)) = lanes.get_mut(i)
        && done.is_ok()
        && E::serve(lane)
    {
        return end.sync();
    }
    done
}

impl<E: End> Side<E> {
    fn of(
        a: &Attachment,
        driven: &mut Driven,
        infos: &[RingInfo],
        end: impl Fn(&Gear, &RingInfo) -> Option<E>,
    ) -> Option<Self> {
        let lanes = (0..infos.len()).map(|i| E::lane(driven, i));
        let mut lanes: Vec<_> = lanes.collect();
        if lanes.iter().all(Option::is_none) {
            lanes.clear();
        }
        Some(match &a.gear {
            Some(gear) => Self::Near {
                ends: infos.iter().map(|r| end(gear, r)).collect::<Option<_>>()?,
                lanes,
                gear: gear.clone(),
                said: sleep::BELL + u32::from(a.reg.owner),
            },
            None => Self::Far {
                rings: windows(a, infos)?,
                far: Far::of(a)?,
            },
        })
    }

    /// Announces a sleeper.
    pub(crate) fn arm(&self) {
        match self {
            Self::Near {
                ends, gear, said, ..
            } => {
                for end in ends {
                    end.kring().sleep_word().announce(*said, &*gear.waker);
                }
            }
            Self::Far { far, .. } => {
                far.sleeps(true);
                far.kick();
            }
        }
    }

    /// Takes it back. `false` if another sleeper has taken its place on a ring.
    pub(crate) fn disarm(&self) -> bool {
        match self {
            Self::Near { ends, said, .. } => {
                let mut kept = true;
                for end in ends {
                    kept &= end.kring().sleep_word().disarm(*said);
                }
                kept
            }
            Self::Far { far, .. } => {
                far.sleeps(false);
                true
            }
        }
    }

    /// Whether the kernel could not send frames at once, or hear of buffers,
    /// and must be asked again.
    pub(crate) fn is_due(&self) -> bool {
        match self {
            Self::Near { lanes, .. } => lanes.iter().flatten().any(E::is_due),
            Self::Far { .. } => false,
        }
    }

    /// This process drives no queues any more.
    pub(crate) fn stop_driving(&mut self) {
        if let Self::Near { lanes, .. } = self {
            lanes.clear();
        }
    }

    /// Whether ring `i` has a queue that must be left to the server.
    #[inline]
    fn is_over(lanes: &[Option<E::Lane>], i: usize) -> bool {
        matches!(lanes.get(i), Some(Some(lane)) if E::is_over(lane))
    }

    /// Whether the server is gone without which the rings stand still. `served`:
    /// they are a device's.
    #[cold]
    fn is_orphan(&self, served: bool, receives: bool, socket: BorrowedFd<'_>) -> bool {
        let needs = match self {
            Self::Far { .. } => true,
            // The kernel takes frames from anybody who has a queue's socket,
            // but the program that feeds the queues went with the server.
            Self::Near { lanes, .. } => served && (receives || lanes.iter().all(Option::is_none)),
        };
        needs && !registration::is_alive(socket)
    }

    /// Rings bound.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Near { ends, .. } => ends.len(),
            Self::Far { rings, .. } => rings.len(),
        }
    }

    /// Ring `i`, as the program sees it.
    pub(crate) fn ring(&self, i: usize) -> Option<Ring<'_>> {
        match self {
            Self::Near { ends, .. } => Some(ends.get(i)?.ring()),
            Self::Far { rings, .. } => Some(rings.get(i)?.get()),
        }
    }

    /// The hidden states of all rings, if this process may see them.
    pub(crate) fn krings(&self) -> impl Iterator<Item = Kring<'_>> {
        let ends = match self {
            Self::Near { ends, .. } => &ends[..],
            Self::Far { .. } => &[],
        };
        ends.iter().map(E::kring)
    }

    /// Syncs ring `i` only; whether it has a queue that must be left to the
    /// server.
    pub(crate) fn sync_one(&mut self, i: usize) -> bool {
        match self {
            Self::Near { ends, lanes, .. } => {
                if let Some(end) = ends.get_mut(i) {
                    // What is wrong shows in the ring's words.
                    let _ = sync(end, lanes, i);
                }
                Self::is_over(lanes, i)
            }
            Self::Far { far, .. } => {
                far.kick();
                false
            }
        }
    }
}

fn windows(a: &Attachment, rings: &[RingInfo]) -> Option<Vec<RingWindow>> {
    rings
        .iter()
        .map(|r| {
            let ofs = usize::try_from(r.ofs).ok()?;
            RingWindow::at(&a.map.mem, ofs, u32::from(r.slots))
        })
        .collect()
}

/// A ring whose program waits for something has moved past its wake-up point.
#[inline]
fn is_ready(ring: Ring<'_>) -> bool {
    ring.cur() != ring.tail()
}

/// Longest wait for the server when a registration ends.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Whether its words break the rules, as far as can be told from outside.
fn is_broken(ring: Ring<'_>) -> bool {
    // The worker moves the tail on, never back.
    let (tail, head, cur, n) = (ring.tail(), ring.head(), ring.cur(), ring.count());
    head >= n || cur >= n || (tail < n && ring.span(head, cur) > ring.span(head, tail))
}

impl Found {
    /// Takes down what the sync of a ring gave.
    #[inline]
    fn note(&mut self, done: Result<u32, SyncError>) {
        match done {
            // Whoever is in the middle of it serves us as well.
            Ok(_) | Err(SyncError::Locked) => {}
            Err(SyncError::Gone) => {
                self.gone = true;
                self.error = true;
            }
            Err(_) => self.error = true,
        }
    }
}

/// Transmit rings.
#[derive(Debug)]
pub(crate) struct Tx {
    pub(crate) side: Side<TxEnd>,
    kind: PortKind,
    /// The server is gone, and with it what takes the frames.
    orphan: bool,
    /// They are a device's rings.
    served: bool,
    /// The second in which it was asked whether that is so.
    asked: i64,
}

impl Tx {
    pub(crate) fn of(a: &Attachment, driven: &mut Driven) -> Option<Self> {
        let memory: Arc<dyn Indirect> = Arc::new(crate::user::Own);
        let end = |gear: &Gear, r: &RingInfo| {
            let mut end = TxEnd::new(gear, &a.reg, r, &a.map)?;
            end.set_indirect(Arc::clone(&memory));
            Some(end)
        };
        Some(Self {
            side: Side::of(a, driven, &a.reg.tx, end)?,
            kind: a.reg.kind,
            orphan: false,
            served: a.registered.served,
            asked: 0,
        })
    }

    /// Sends what is queued on all rings. `POLL`: the caller wants to know
    /// what is ready. `socket` is the registration's.
    #[inline]
    pub(crate) fn sync<const POLL: bool>(&mut self, socket: BorrowedFd<'_>) -> Found {
        if self.served || matches!(self.side, Side::Far { .. }) {
            self.ask(socket);
        }
        let mut found = Found {
            error: self.orphan,
            gone: self.orphan,
            ..Found::default()
        };
        let monitor = self.kind == PortKind::Monitor;
        match &mut self.side {
            Side::Near { ends, lanes, .. } => {
                for (i, end) in ends.iter_mut().enumerate() {
                    if monitor {
                        // Nothing can be sent, so only an attempt is an error.
                        found.error |= end.ring().head() != 0;
                        continue;
                    }
                    found.note(sync(end, lanes, i));
                    found.is_over |= Side::<TxEnd>::is_over(lanes, i);
                    found.ready |= POLL && is_ready(end.ring());
                }
            }
            Side::Far { rings, far } => {
                for ring in rings.iter() {
                    found.error |= match monitor {
                        true => ring.get().head() != 0,
                        false => is_broken(ring.get()),
                    };
                }
                far.kick();
                for ring in rings {
                    found.ready |= is_ready(ring.get());
                }
            }
        }
        found
    }

    /// Once a second, asks whether the server is there.
    #[inline]
    fn ask(&mut self, socket: BorrowedFd<'_>) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse).tv_sec;
        if self.asked != now {
            self.asked = now;
            self.orphan = self.side.is_orphan(self.served, false, socket);
        }
    }

    /// Before the end: gives the server the time to send what is queued, which
    /// in this process would have been sent at once.
    pub(crate) fn drain(&self) {
        let (Side::Far { rings, far }, PortKind::Vale) = (&self.side, self.kind) else {
            return;
        };
        let queued = |r: &RingWindow| {
            let ring = r.get();
            ring.next(ring.tail()) != ring.head() && !is_broken(ring)
        };
        let end = Instant::now() + LAST_WORDS;
        while rings.iter().any(queued) && Instant::now() < end {
            far.kick();
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// Receive rings.
#[derive(Debug)]
pub(crate) struct Rx {
    pub(crate) side: Side<RxEnd>,
    /// The server is gone, and with it what brings an interface's or another
    /// device's frames.
    orphan: bool,
    /// They are such rings.
    served: bool,
    /// The second in which it was asked whether that is so.
    asked: i64,
}

impl Rx {
    pub(crate) fn of(a: &Attachment, driven: &mut Driven) -> Option<Self> {
        let end = |gear: &Gear, r: &RingInfo| RxEnd::new(gear, &a.reg, r, &a.map);
        Some(Self {
            side: Side::of(a, driven, &a.reg.rx, end)?,
            orphan: false,
            served: a.registered.served,
            asked: 0,
        })
    }

    /// Gives released slots back and looks for new frames on all rings.
    /// `POLL`: the caller wants to know what is ready. `socket` is the
    /// registration's.
    #[inline]
    pub(crate) fn sync<const POLL: bool>(
        &mut self,
        stamp: &mut Stamp,
        socket: BorrowedFd<'_>,
    ) -> Found {
        let fresh = stamp.look();
        // Whoever looks often and never waits for long must hear of it too.
        if fresh && stamp.now.0 != self.asked {
            self.asked = stamp.now.0;
            self.repair(socket);
        }
        let mut found = Found {
            error: self.orphan,
            gone: self.orphan,
            ..Found::default()
        };
        match &mut self.side {
            Side::Near { ends, lanes, .. } => {
                for (i, end) in ends.iter_mut().enumerate() {
                    found.note(sync(end, lanes, i));
                    found.is_over |= Side::<RxEnd>::is_over(lanes, i);
                    let ring = end.ring();
                    found.ready |= POLL && is_ready(ring);
                    if fresh {
                        stamp.put(ring);
                    }
                }
            }
            Side::Far { rings, far } => {
                for ring in rings.iter() {
                    let ring = ring.get();
                    found.error |= is_broken(ring);
                    found.ready |= is_ready(ring);
                    if fresh {
                        stamp.put(ring);
                    }
                }
                if !found.ready {
                    far.kick();
                }
            }
        }
        found
    }

    /// Asks whether the server is there. Clears the way if a dead sender
    /// stands in it and no server is left to do so.
    #[cold]
    fn repair(&mut self, socket: BorrowedFd<'_>) {
        self.orphan = self.side.is_orphan(self.served, true, socket);
        let Side::Near { ends, .. } = &mut self.side else {
            return;
        };
        for end in ends {
            if end.is_stuck() && !registration::is_alive(socket) {
                end.repair(|_, pid| registration::is_dead(pid));
            }
        }
    }
}

/// Writes timestamps into receive rings.
///
/// A ring's timestamp has microseconds, and looking at the clock costs as much
/// as several frames. Looks that are less than that apart see the same time.
#[derive(Debug, Default)]
pub(crate) struct Stamp {
    /// Only on rings that ask for it.
    pub(crate) on_request: bool,
    #[cfg(target_arch = "x86_64")]
    ticks: u64,
    now: (i64, i64),
}

/// Time-stamp counters run at a gigahertz or more: this is at most 1 µs.
#[cfg(target_arch = "x86_64")]
const TICKS: u64 = 1000;

impl Stamp {
    /// Looks at the clock; whether it shows another time than before.
    #[inline]
    fn look(&mut self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            // SAFETY: reads a counter; every x86-64 processor has it.
            let ticks = unsafe { std::arch::x86_64::_rdtsc() };
            if ticks.wrapping_sub(self.ticks) < TICKS {
                return false;
            }
            self.ticks = ticks;
        }
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        self.now = (now.tv_sec, now.tv_nsec / 1000);
        true
    }

    #[inline]
    fn put(&self, ring: Ring<'_>) {
        if !self.on_request || ring.flags() & abi::ring::TIMESTAMP != 0 {
            ring.set_ts(self.now.0, self.now.1);
        }
    }
}

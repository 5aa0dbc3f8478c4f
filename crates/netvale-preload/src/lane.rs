//! The rings of a registration, one lane for each direction.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netvale::registration::Attachment;
use netvale_ring::bell::Bell;
use netvale_ring::kring::{Kring, sleep};
use netvale_ring::port::PortKind;
use netvale_ring::slot::{Ring, RingWindow};
use netvale_ring::world::RegionMap;
use netvale_shm::{Doorbell, futex};
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

/// Transmit rings.
#[derive(Debug)]
pub(crate) enum Tx {
    /// This process runs the engine.
    Near {
        ends: Vec<TxEnd>,
        gear: Gear,
        owner: u16,
        monitor: bool,
    },
    /// The server does.
    Far {
        rings: Vec<RingWindow>,
        far: Far,
        kind: PortKind,
    },
}

/// Receive rings.
#[derive(Debug)]
pub(crate) enum Rx {
    /// This process runs the engine.
    Near {
        ends: Vec<RxEnd>,
        gear: Gear,
        owner: u16,
    },
    /// The server does.
    Far { rings: Vec<RingWindow>, far: Far },
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

impl Tx {
    pub(crate) fn of(a: &Attachment) -> Option<Self> {
        let Some(gear) = &a.gear else {
            return Some(Self::Far {
                rings: windows(a, &a.reg.tx)?,
                far: Far::of(a)?,
                kind: a.reg.kind,
            });
        };
        let memory: Arc<dyn Indirect> = Arc::new(crate::user::Own);
        let end = |r| {
            let mut end = TxEnd::new(gear, &a.reg, r, &a.map)?;
            end.set_indirect(Arc::clone(&memory));
            Some(end)
        };
        Some(Self::Near {
            ends: a.reg.tx.iter().map(end).collect::<Option<_>>()?,
            gear: gear.clone(),
            owner: a.reg.owner,
            monitor: a.reg.kind == PortKind::Monitor,
        })
    }

    /// Sends what is queued on all rings.
    #[inline]
    pub(crate) fn sync(&mut self) -> Found {
        let mut found = Found::default();
        match self {
            Self::Near { ends, monitor, .. } => {
                for end in ends {
                    if *monitor {
                        // Nothing can be sent, so only an attempt is an error.
                        found.error |= end.ring().head() != 0;
                        continue;
                    }
                    match end.sync() {
                        Ok(_) | Err(SyncError::Locked) => {}
                        Err(SyncError::Gone) => {
                            found.gone = true;
                            found.error = true;
                        }
                        Err(_) => found.error = true,
                    }
                    found.ready |= is_ready(end.ring());
                }
            }
            Self::Far { rings, far, kind } => {
                for ring in rings.iter() {
                    found.error |= match kind {
                        PortKind::Monitor => ring.get().head() != 0,
                        _ => is_broken(ring.get()),
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

    /// Before the end: gives the server the time to send what is queued, which
    /// in this process would have been sent at once.
    pub(crate) fn drain(&self) {
        let Self::Far {
            rings,
            far,
            kind: PortKind::Vale,
        } = self
        else {
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

    /// Announces a sleeper who waits for space.
    pub(crate) fn arm(&self) {
        match self {
            Self::Near {
                ends, gear, owner, ..
            } => ends.iter().for_each(|end| arm(gear, *owner, end.kring())),
            Self::Far { far, .. } => {
                far.sleeps(true);
                far.kick();
            }
        }
    }

    /// Takes it back.
    pub(crate) fn disarm(&self) {
        match self {
            Self::Near { ends, .. } => ends
                .iter()
                .for_each(|end| end.kring().sleep_word().disarm()),
            Self::Far { far, .. } => far.sleeps(false),
        }
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

    /// Syncs ring `i` only.
    pub(crate) fn sync_one(&mut self, i: usize) -> Found {
        let mut found = Found::default();
        match self {
            Self::Near { ends, .. } => {
                if let Some(end) = ends.get_mut(i) {
                    let done = end.sync();
                    found.gone = done == Err(SyncError::Gone);
                    found.error = !matches!(done, Ok(_) | Err(SyncError::Locked));
                }
            }
            Self::Far { far, .. } => far.kick(),
        }
        found
    }
}

impl Rx {
    pub(crate) fn of(a: &Attachment) -> Option<Self> {
        let Some(gear) = &a.gear else {
            return Some(Self::Far {
                rings: windows(a, &a.reg.rx)?,
                far: Far::of(a)?,
            });
        };
        let end = |r| RxEnd::new(gear, &a.reg, r, &a.map);
        Some(Self::Near {
            ends: a.reg.rx.iter().map(end).collect::<Option<_>>()?,
            gear: gear.clone(),
            owner: a.reg.owner,
        })
    }

    /// Gives released slots back and looks for new frames on all rings.
    #[inline]
    pub(crate) fn sync(&mut self, stamp: &mut Stamp) -> Found {
        let mut found = Found::default();
        let fresh = stamp.look();
        match self {
            Self::Near { ends, .. } => {
                for end in ends {
                    match end.sync() {
                        Ok(_) | Err(SyncError::Locked) => {}
                        Err(SyncError::Gone) => {
                            found.gone = true;
                            found.error = true;
                        }
                        Err(_) => found.error = true,
                    }
                    let ring = end.ring();
                    found.ready |= is_ready(ring);
                    if fresh {
                        stamp.put(ring);
                    }
                }
            }
            Self::Far { rings, far } => {
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

    /// Announces a sleeper who waits for frames.
    pub(crate) fn arm(&self) {
        match self {
            Self::Near { ends, gear, owner } => {
                ends.iter().for_each(|end| arm(gear, *owner, end.kring()));
            }
            Self::Far { far, .. } => {
                far.sleeps(true);
                far.kick();
            }
        }
    }

    /// Takes it back.
    pub(crate) fn disarm(&self) {
        match self {
            Self::Near { ends, .. } => ends
                .iter()
                .for_each(|end| end.kring().sleep_word().disarm()),
            Self::Far { far, .. } => far.sleeps(false),
        }
    }

    /// Clears the way if a dead sender stands in it and no server is left to
    /// do so.
    pub(crate) fn repair(&mut self, socket: BorrowedFd<'_>) {
        let Self::Near { ends, .. } = self else {
            return;
        };
        for end in ends {
            if end.is_stuck() && !netvale::registration::is_alive(socket) {
                end.repair(|_, pid| is_dead(pid));
            }
        }
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

    /// Syncs ring `i` only.
    pub(crate) fn sync_one(&mut self, i: usize) -> Found {
        let mut found = Found::default();
        match self {
            Self::Near { ends, .. } => {
                if let Some(end) = ends.get_mut(i) {
                    let done = end.sync();
                    found.gone = done == Err(SyncError::Gone);
                    found.error = !matches!(done, Ok(_) | Err(SyncError::Locked));
                }
            }
            Self::Far { far, .. } => far.kick(),
        }
        found
    }
}

fn is_dead(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
    else {
        return true;
    };
    matches!(
        rustix::process::test_kill_process(pid),
        Err(rustix::io::Errno::SRCH)
    )
}

/// Whoever slept here before is woken in turn: it looks, and comes back.
fn arm(gear: &Gear, owner: u16, kring: Kring<'_>) {
    let word = kring.sleep_word();
    let own = sleep::BELL + u32::from(owner);
    let displaced = word.arm(own);
    if displaced == sleep::FUTEX {
        futex::wake(word.futex(), u32::MAX);
    } else if displaced > sleep::FUTEX && displaced != own {
        gear.waker.wake(word.futex(), displaced);
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

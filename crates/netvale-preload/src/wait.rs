//! Sleeping until a registration, or any other descriptor, has something.
//!
//! Syncs happen inside `poll`, as they do in netmap: before sleeping, after
//! each wake-up, and once more when the time is over. While nothing is ready
//! the kernel waits on the bells of the registrations instead of on their
//! sockets.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, c_short, pollfd, sigset_t, timespec};

use crate::binding::Binding;
use crate::{real, table};

/// A sleeper looks up this often, in case nobody could wake it.
const SLICE: Duration = Duration::from_millis(500);
/// The same if several threads sleep on one registration.
const SHARED_SLICE: Duration = Duration::from_millis(5);
/// Descriptors that are looked after without allocating.
const FEW: usize = 64;

/// A registration among the descriptors of a call.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    /// Its place among them.
    pub(crate) at: usize,
    pub(crate) fd: c_int,
    pub(crate) events: c_short,
    pub(crate) binding: &'static Binding,
    pub(crate) epoch: u32,
}

impl Watched {
    /// Syncs and tells what is ready.
    pub(crate) fn check(&self) -> c_short {
        if self.binding.epoch() != self.epoch {
            return POLLNVAL; // closed meanwhile by another thread
        }
        self.binding.check(self.fd, self.events)
    }
}

/// Until when a call may wait.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Forever,
    /// Does not wait.
    Now,
    At(Instant),
}

impl Until {
    pub(crate) fn after(time: Option<Duration>) -> Self {
        match time {
            None => Self::Forever,
            Some(t) if t.is_zero() => Self::Now,
            Some(t) => Instant::now().checked_add(t).map_or(Self::Forever, Self::At),
        }
    }

    /// What is left, at most `most`; `None` if the time is over.
    pub(crate) fn left(self, most: Duration) -> Option<Duration> {
        match self {
            Self::Forever => Some(most),
            Self::Now => None,
            Self::At(t) => {
                let left = t.saturating_duration_since(Instant::now());
                (!left.is_zero()).then(|| left.min(most))
            }
        }
    }
}

/// Looks for a while before it sleeps. Whether something came.
pub(crate) fn spin(all: &[Watched], until: Until, mut look: impl FnMut() -> bool) -> bool {
    let Some(first) = all.first() else {
        return false;
    };
    let budget = first.binding.spin().lock().budget();
    let Some(budget) = until.left(budget).filter(|b| !b.is_zero()) else {
        return false;
    };
    let start = Instant::now();
    let came = loop {
        for _ in 0..16 {
            std::hint::spin_loop();
        }
        if look() {
            break true;
        }
        if start.elapsed() >= budget {
            break false;
        }
    };
    first.binding.spin().lock().learn(came);
    came
}

/// Announces a sleeper on all; how long it may sleep at once.
pub(crate) fn arm(all: &[Watched]) -> Duration {
    let mut slice = SLICE;
    for w in all {
        if w.binding.arm(w.events) || w.binding.bell().is_none() {
            slice = SHARED_SLICE;
        }
    }
    slice
}

/// Takes it back.
pub(crate) fn disarm(all: &[Watched]) {
    for w in all {
        w.binding.disarm(w.events);
    }
}

pub(crate) fn to_timespec(t: Duration) -> timespec {
    timespec {
        tv_sec: t.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    }
}

/// The registrations among descriptors.
pub(crate) fn watched(fds: &[pollfd], into: &mut Vec<Watched>) {
    for (at, p) in fds.iter().enumerate() {
        if let Some(binding) = table::port(p.fd) {
            into.push(Watched {
                at,
                fd: p.fd,
                events: p.events,
                binding,
                epoch: binding.epoch(),
            });
        }
    }
}

/// Whether any of them is a registration, or an epoll instance with one.
#[inline]
pub(crate) fn any(fds: &[pollfd]) -> bool {
    table::highest() >= 0
        && fds
            .iter()
            .any(|p| !matches!(table::entry(p.fd), table::Entry::Other))
}

/// `poll`, with registrations among the descriptors.
///
/// # Safety
///
/// `mask` is null or a signal mask.
pub(crate) unsafe fn poll(fds: &mut [pollfd], until: Until, mask: *const sigset_t) -> c_int {
    let was = real::errno();
    let mut all = Vec::with_capacity(fds.len().min(FEW));
    watched(fds, &mut all);
    // What the kernel is asked: bells in the place of registrations.
    let mut asked: Vec<pollfd> = fds.to_vec();
    for p in &mut asked {
        if matches!(table::entry(p.fd), table::Entry::Hidden) {
            p.fd = -2 - p.fd; // to the program there is no such descriptor
        }
    }
    let hidden: Vec<bool> = asked.iter().zip(&*fds).map(|(a, p)| a.fd != p.fd).collect();
    loop {
        let mut ready = look(fds, &all);
        if !ready && spin(&all, until, || look(fds, &all)) {
            ready = true;
        }
        let mut wait = Duration::ZERO;
        let mut armed = false;
        if !ready && let Some(left) = until.left(SLICE) {
            wait = left.min(arm(&all));
            armed = true;
            // What came before the announcement.
            if look(fds, &all) {
                ready = true;
                wait = Duration::ZERO;
            }
        }
        for w in &all {
            // A negative number is passed over.
            let bell = if armed && !ready { w.binding.bell() } else { None };
            asked[w.at].fd = bell.unwrap_or(-1);
            asked[w.at].events = POLLIN;
            asked[w.at].revents = 0;
        }
        let t = to_timespec(wait);
        // SAFETY: as many entries as said; the mask is the caller's.
        let n = unsafe { real::ppoll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, &raw const t, mask) };
        let error = real::errno();
        if armed {
            disarm(&all);
        }
        if n < 0 {
            real::set_errno(error);
            return -1;
        }
        // The kernel's own answers, for all others.
        let mut count = 0;
        for (i, (p, a)) in fds.iter_mut().zip(&asked).enumerate() {
            if all.iter().any(|w| w.at == i) {
                continue;
            }
            p.revents = if hidden[i] { POLLNVAL } else { a.revents };
            count += c_int::from(p.revents != 0);
        }
        if count > 0 && !ready {
            look(fds, &all);
        }
        count += all
            .iter()
            .map(|w| c_int::from(fds[w.at].revents != 0))
            .sum::<c_int>();
        if count > 0 {
            real::set_errno(was);
            return count;
        }
        if wait >= SLICE {
            all.iter().for_each(|w| w.binding.repair(w.fd));
        }
        if until.left(SLICE).is_none() {
            // The last look, after the time is over.
            look(fds, &all);
            real::set_errno(was);
            let ready = all.iter().filter(|w| fds[w.at].revents != 0).count();
            return c_int::try_from(ready).unwrap_or(c_int::MAX);
        }
    }
}

/// Syncs all registrations; whether one is ready.
fn look(fds: &mut [pollfd], all: &[Watched]) -> bool {
    let mut ready = false;
    for w in all {
        let revents = w.check() & (w.events | POLLERR | POLLHUP | POLLNVAL);
        fds[w.at].revents = revents;
        ready |= revents != 0;
    }
    ready
}

//! Sleeping until a registration, or any other descriptor, has something.
//!
//! Syncs happen inside `poll`, as they do in netmap: before sleeping, after
//! each wake-up, and once more when the time is over. While nothing is ready
//! the kernel waits on the bells of the registrations instead of on their
//! sockets. Epoll instances among the descriptors are asked for what their
//! registrations have; for the rest the kernel knows.

use std::ffi::c_int;
use std::time::{Duration, Instant};

use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLRDNORM, c_short, pollfd, sigset_t, timespec};

use crate::binding::Binding;
use crate::fdset::Fds;
use crate::hooks::epoll;
use crate::inside::Calm;
use crate::real;
use crate::table::{self, Entry};

/// A sleeper looks up this often, in case nobody could wake it.
pub(crate) const SLICE: Duration = Duration::from_millis(500);
/// The same if others sleep on one of its registrations too.
pub(crate) const SHARED_SLICE: Duration = Duration::from_millis(5);
/// Registrations that are looked after without allocating.
const FEW: usize = 8;

/// A registration among the descriptors of a call.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    /// The place among them of itself, or of the epoll instance that has it.
    pub(crate) at: usize,
    pub(crate) fd: c_int,
    pub(crate) events: c_short,
    pub(crate) binding: &'static Binding,
    pub(crate) epoch: u32,
    /// It is in an epoll instance.
    pub(crate) nested: bool,
}

impl Watched {
    /// Syncs and tells what is ready.
    fn check(&self) -> c_short {
        if self.binding.epoch() != self.epoch {
            return POLLNVAL; // closed meanwhile by another thread
        }
        self.binding.check(self.fd, self.events)
    }
}

/// The registrations of a call.
pub(crate) struct List {
    few: [Option<Watched>; FEW],
    n: usize,
    many: Vec<Option<Watched>>,
}

impl List {
    pub(crate) const fn new() -> Self {
        Self {
            few: [None; FEW],
            n: 0,
            many: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, w: Watched) {
        match self.few.get_mut(self.n) {
            Some(free) => {
                *free = Some(w);
                self.n += 1;
            }
            None => self.many.push(Some(w)),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Watched> {
        self.few[..self.n].iter().chain(&self.many).flatten()
    }
}

/// Until when a call may wait.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Forever,
    /// Does not wait.
    Now,
    /// For this time, which has not begun.
    After(Duration),
    At(Instant),
}

impl Until {
    pub(crate) fn after(time: Option<Duration>) -> Self {
        match time {
            None => Self::Forever,
            Some(t) if t.is_zero() => Self::Now,
            Some(t) => Self::After(t),
        }
    }

    /// The wait begins, if it has not before, and if there is one: then this is
    /// the time now. Who finds something at once need not look at the clock.
    pub(crate) fn begin(&mut self) -> Option<Instant> {
        let now = match self {
            Self::Now => return None,
            _ => Instant::now(),
        };
        if let Self::After(t) = *self {
            *self = now.checked_add(t).map_or(Self::Forever, Self::At);
        }
        Some(now)
    }

    /// What is left, at most `most`; `None` if the time is over.
    pub(crate) fn left(self, most: Duration) -> Option<Duration> {
        match self {
            Self::Forever => Some(most),
            Self::Now => None,
            Self::After(t) => Some(t.min(most)),
            Self::At(t) => {
                let left = t.saturating_duration_since(Instant::now());
                (!left.is_zero()).then(|| left.min(most))
            }
        }
    }
}

/// Looks for a while before it sleeps. Whether something came.
pub(crate) fn spin(
    all: &List,
    until: Until,
    start: Instant,
    mut look: impl FnMut() -> bool,
) -> bool {
    let Some(first) = all.iter().next() else {
        return false;
    };
    let Some(spin) = first.binding.spin().try_lock() else {
        return false; // somebody else does it
    };
    let budget = spin.budget();
    drop(spin);
    let Some(budget) = until.left(budget).filter(|b| !b.is_zero()) else {
        return false;
    };
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
    if came && let Some(mut spin) = first.binding.spin().try_lock() {
        spin.came();
    }
    came
}

/// Notes how long a wait took that looking did not end.
pub(crate) fn slept(all: &List, since: Instant) {
    if let Some(first) = all.iter().next()
        && let Some(mut spin) = first.binding.spin().try_lock()
    {
        spin.slept(since.elapsed());
    }
}

/// A sleeper that is announced on all registrations of a call. Taken back
/// when dropped, be it because the thread is cancelled.
pub(crate) struct Armed<'a> {
    all: &'a List,
    /// How many of them know.
    n: usize,
    /// How long it may sleep at once.
    pub(crate) slice: Duration,
}

impl<'a> Armed<'a> {
    pub(crate) fn on(all: &'a List) -> Self {
        let mut this = Self {
            all,
            n: 0,
            slice: SLICE,
        };
        for w in all.iter() {
            let Some(alone) = w.binding.arm(w.events) else {
                // A handler's call has interrupted whoever could do it.
                this.slice = SHARED_SLICE;
                break;
            };
            this.n += 1;
            if !alone || w.binding.bell().is_none() {
                this.slice = SHARED_SLICE;
            }
        }
        this
    }
}

impl Drop for Armed<'_> {
    fn drop(&mut self) {
        for w in self.all.iter().take(self.n) {
            w.binding.disarm(w.events);
        }
    }
}

pub(crate) fn to_timespec(t: Duration) -> timespec {
    timespec {
        tv_sec: t.as_secs().try_into().unwrap_or(libc::time_t::MAX),
        tv_nsec: t.subsec_nanos().into(),
    }
}

/// What a call is told of, other than what the kernel knows.
struct Scene {
    all: List,
    /// Some descriptor does not exist, as far as the program may know.
    hidden: bool,
    /// Some epoll instance has registrations.
    nested: bool,
}

impl Scene {
    fn of(fds: &[pollfd]) -> Self {
        let mut this = Self {
            all: List::new(),
            hidden: false,
            nested: false,
        };
        for (at, p) in fds.iter().enumerate() {
            match table::entry(p.fd) {
                Entry::Other => {}
                Entry::Hidden => this.hidden = true,
                Entry::Port(i) => {
                    if let Some(binding) = table::binding(i) {
                        this.all.push(Watched {
                            at,
                            fd: p.fd,
                            events: p.events,
                            binding,
                            epoch: binding.epoch(),
                            nested: false,
                        });
                    }
                }
                Entry::Epoll(number) => {
                    this.nested = true;
                    if p.events & (POLLIN | POLLRDNORM) != 0 {
                        epoll::watched(number, at, &mut this.all);
                    }
                }
            }
        }
        this
    }

    /// Syncs all registrations; whether one is ready.
    fn look(&self, fds: &mut [pollfd]) -> bool {
        for w in self.all.iter() {
            fds[w.at].revents = 0;
        }
        let mut ready = false;
        for w in self.all.iter() {
            let revents = w.check() & (w.events | POLLERR | POLLHUP | POLLNVAL);
            let p = &mut fds[w.at];
            p.revents |= match w.nested {
                false => revents,
                true if revents & !POLLNVAL == 0 => 0,
                true => p.events & (POLLIN | POLLRDNORM),
            };
            ready |= p.revents != 0;
        }
        ready
    }
}

/// Whether any of them is a registration, or an epoll instance with one.
#[inline]
pub(crate) fn any(fds: &[pollfd]) -> bool {
    fds.iter().any(|p| table::entry(p.fd) != Entry::Other)
}

/// `poll`, with registrations among the descriptors.
///
/// # Safety
///
/// `mask` is null or a signal mask.
pub(crate) unsafe fn poll(fds: &mut [pollfd], until: &mut Until, mask: *const sigset_t) -> c_int {
    let was = real::errno();
    let scene = Scene::of(fds);
    // What the kernel is asked: bells in the place of registrations.
    let mut asked = Fds::of(fds);
    let asked = asked.as_mut();
    let mut calm: Option<Calm> = None;
    loop {
        let mut ready = scene.look(fds);
        let begin = if ready { None } else { until.begin() };
        if let Some(begin) = begin {
            ready = spin(&scene.all, *until, begin, || scene.look(fds));
        }
        let mut wait = Duration::ZERO;
        let mut armed = None;
        if !ready
            && !scene.hidden
            && let Some(left) = until.left(SLICE)
        {
            calm.get_or_insert_with(Calm::begin);
            let announced = armed.insert(Armed::on(&scene.all));
            wait = left.min(announced.slice);
            // What came before the announcement.
            if scene.look(fds) {
                ready = true;
                wait = Duration::ZERO;
            }
        }
        for (a, p) in asked.iter_mut().zip(&*fds) {
            (a.fd, a.revents) = match table::entry(p.fd) {
                Entry::Hidden => (-1, 0),
                _ => (p.fd, 0),
            };
        }
        for w in scene.all.iter().filter(|w| !w.nested) {
            // A negative number is passed over.
            let bell = armed.as_ref().and_then(|_| w.binding.wake_fd(w.events));
            asked[w.at].fd = bell.filter(|_| !ready).unwrap_or(-1);
            asked[w.at].events = POLLIN;
        }
        let t = to_timespec(wait);
        let mask = match (&calm, mask.is_null()) {
            (Some(calm), true) => calm.before(),
            _ => mask,
        };
        let n = asked.len() as libc::nfds_t;
        // SAFETY: as many entries as said; the mask is the caller's.
        let n = unsafe { real::ppoll(asked.as_mut_ptr(), n, &raw const t, mask) };
        let error = real::errno();
        if let Some(begin) = begin.filter(|_| armed.is_some() && !ready) {
            slept(&scene.all, begin);
        }
        drop(armed);
        if n < 0 {
            if !(ready && error == libc::EINTR) {
                real::set_errno(error);
                return -1;
            }
            asked.iter_mut().for_each(|a| a.revents = 0);
        }
        // The kernel's own answers, for all others.
        let mut others = false;
        let mut next = scene.all.iter().peekable();
        for (at, (p, a)) in fds.iter_mut().zip(&*asked).enumerate() {
            let mut ours = false;
            while let Some(w) = next.next_if(|w| w.at == at) {
                ours |= !w.nested;
            }
            if ours {
                continue;
            }
            match table::entry(p.fd) {
                Entry::Hidden => p.revents = POLLNVAL,
                Entry::Epoll(_) => {
                    let old = if ready { p.revents } else { 0 };
                    p.revents = old | confirmed(a);
                }
                _ => p.revents = a.revents,
            }
            others |= p.revents != 0;
        }
        if !ready && (others || n > 0) {
            let kept = scene.nested.then(|| Fds::of(fds));
            scene.look(fds);
            if let Some(mut kept) = kept {
                // What the kernel said of epoll instances holds as well.
                for (p, k) in fds.iter_mut().zip(kept.as_mut()) {
                    if matches!(table::entry(p.fd), Entry::Epoll(_)) {
                        p.revents |= k.revents;
                    }
                }
            }
        }
        let count = fds.iter().filter(|p| p.revents != 0).count();
        if count > 0 {
            real::set_errno(was);
            return c_int::try_from(count).unwrap_or(c_int::MAX);
        }
        if n > 0 {
            scene.all.iter().for_each(|w| w.binding.heed(w.events));
        }
        if until.left(SLICE).is_none() {
            // The last look, after the time is over.
            scene.look(fds);
            real::set_errno(was);
            let ready = fds.iter().filter(|p| p.revents != 0).count();
            return c_int::try_from(ready).unwrap_or(c_int::MAX);
        }
    }
}

/// What the kernel says of an epoll instance, when the bells that it watches
/// for us are silent again.
fn confirmed(asked: &pollfd) -> c_short {
    if asked.revents == 0 {
        return 0;
    }
    let mut again = [*asked];
    // SAFETY: one entry.
    match unsafe { real::poll(again.as_mut_ptr(), 1, 0) } {
        n if n > 0 => again[0].revents,
        _ => 0,
    }
}

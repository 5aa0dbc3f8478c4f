//! `epoll`: registrations among what an instance watches.
//!
//! The kernel watches their bells instead, under a number that nobody else can
//! have; before and after each wait all registrations of the instance are
//! synced, as `poll` does. Edge-triggered and one-shot events are worked out
//! here, because only a sync can tell what has changed.

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLIN, EPOLLONESHOT, c_short,
    epoll_event, sigset_t, timespec,
};

use netvale_control::UserMem;

use crate::binding::Binding;
use crate::inside::{Calm, Inside};
use crate::lock::Lock;
use crate::real;
use crate::table::{self, Entry};
use crate::user::Own;
use crate::wait::{self, Armed, List, SLICE, Until, Watched};

/// A registration that an instance watches.
struct Member {
    fd: c_int,
    binding: &'static Binding,
    epoch: u32,
    events: u32,
    data: u64,
    /// One-shot, and it has been reported.
    off: bool,
    /// Edge-triggered: what the rings were like when it was last reported.
    seen: Option<(u64, c_short)>,
    /// What the kernel watches for it: its bell, or what stands for that.
    rung: Option<c_int>,
}

/// An epoll instance with registrations in it.
struct Instance {
    number: u32,
    /// Descriptors of this process.
    refs: u32,
    members: Arc<Lock<Vec<Member>>>,
}

static ALL: Lock<Vec<Instance>> = Lock::new(Vec::new());

/// What the kernel is told to say when a bell rings: the address of something
/// that belongs to us cannot be a program's own number by accident.
fn mark() -> u64 {
    std::ptr::from_ref(&ALL).addr() as u64
}

pub(crate) fn before_fork() {
    ALL.hold();
    // SAFETY: held just now.
    let all = unsafe { ALL.peek() };
    all.iter().for_each(|i| i.members.hold());
}

pub(crate) fn after_fork() {
    // SAFETY: held since before the fork.
    let all = unsafe { ALL.peek() };
    all.iter().for_each(|i| i.members.release_held());
    ALL.release_held();
}

fn members(number: u32) -> Option<Arc<Lock<Vec<Member>>>> {
    let all = ALL.lock();
    let i = all.iter().find(|i| i.number == number)?;
    Some(Arc::clone(&i.members))
}

/// Another descriptor of an instance.
pub(crate) fn duplicate(number: u32, fd: c_int) {
    let mut all = ALL.lock();
    if let Some(i) = all.iter_mut().find(|i| i.number == number) {
        i.refs += 1;
        table::set(fd, Entry::Epoll(number));
    }
}

/// A descriptor of an instance is closed.
pub(crate) fn release(number: u32) {
    let mut all = ALL.lock();
    if let Some(at) = all.iter().position(|i| i.number == number) {
        all[at].refs -= 1;
        if all[at].refs == 0 {
            all.swap_remove(at);
        }
    }
}

/// A registration is gone: no instance watches it any more.
pub(crate) fn forget(binding: u32) {
    let lists: Vec<_> = ALL.lock().iter().map(|i| Arc::clone(&i.members)).collect();
    for list in lists {
        list.lock().retain(|m| m.binding.index != binding);
    }
}

/// Members of an instance, which becomes one of ours if it was not.
fn enrol(ep: c_int) -> Option<Arc<Lock<Vec<Member>>>> {
    match table::entry(ep) {
        Entry::Epoll(number) => return members(number),
        Entry::Other if table::holds(ep) => {}
        _ => return None,
    }
    let mut all = ALL.lock();
    let number = (0..).find(|n| all.iter().all(|i| i.number != *n))?;
    let list = Arc::new(Lock::new(Vec::new()));
    all.push(Instance {
        number,
        refs: 1,
        members: Arc::clone(&list),
    });
    table::set(ep, Entry::Epoll(number));
    Some(list)
}

/// Has the kernel watch what wakes a member.
fn watch_bell(ep: c_int, member: &mut Member) {
    let Some(bell) = member.binding.wake_fd(to_poll(member.events)) else {
        return;
    };
    let mut event = epoll_event {
        events: EPOLLIN.cast_unsigned(),
        u64: mark(),
    };
    let was = real::errno();
    // SAFETY: an event of ours.
    let done = unsafe { real::epoll_ctl(ep, EPOLL_CTL_ADD, bell, &raw mut event) };
    // Watched already, for another member of the same registration.
    let watched = done == 0 || real::errno() == libc::EEXIST;
    member.rung = watched.then_some(bell);
    real::set_errno(was);
}

/// Ends that, unless another member needs the same.
fn unwatch_bell(ep: c_int, list: &[Member], member: &mut Member) {
    let Some(bell) = member.rung.take() else {
        return;
    };
    if list.iter().any(|m| m.rung == Some(bell)) {
        return;
    }
    let was = real::errno();
    // SAFETY: removes what there may be.
    unsafe { real::epoll_ctl(ep, EPOLL_CTL_DEL, bell, std::ptr::null_mut()) };
    real::set_errno(was);
}

/// See `epoll_ctl(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_ctl(
    ep: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    let Some(binding) = table::port(fd) else {
        // SAFETY: passed on.
        return unsafe { real::epoll_ctl(ep, op, fd, event) };
    };
    let was = real::errno();
    // Is it an epoll instance at all? Removing what it does not hold tells.
    // SAFETY: changes nothing.
    let probe = unsafe { real::epoll_ctl(ep, EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
    if probe < 0 && real::errno() != libc::ENOENT {
        return -1;
    }
    let Some(list) = enrol(ep) else {
        return real::fail(libc::EBADF);
    };
    let asked = match op {
        EPOLL_CTL_ADD | EPOLL_CTL_MOD => match event_at(event) {
            Some(event) => Some(event),
            None => return real::fail(libc::EFAULT),
        },
        _ => None,
    };
    let _inside = Inside::enter();
    let mut list = list.lock();
    let at = list
        .iter()
        .position(|m| m.fd == fd && m.binding.index == binding.index);
    match (op, at, asked) {
        (EPOLL_CTL_ADD, None, Some(event)) => {
            let mut member = Member {
                fd,
                binding,
                epoch: binding.epoch(),
                events: event.events,
                data: event.u64,
                off: false,
                seen: None,
                rung: None,
            };
            watch_bell(ep, &mut member);
            list.push(member);
        }
        (EPOLL_CTL_ADD, Some(_), Some(_)) => return real::fail(libc::EEXIST),
        (EPOLL_CTL_MOD, Some(at), Some(event)) => {
            let mut member = list.swap_remove(at);
            member.events = event.events;
            member.data = event.u64;
            member.off = false;
            member.seen = None;
            if member.rung != member.binding.wake_fd(to_poll(event.events)) {
                unwatch_bell(ep, &list, &mut member);
                watch_bell(ep, &mut member);
            }
            list.push(member);
        }
        (EPOLL_CTL_DEL, Some(at), _) => {
            let mut member = list.swap_remove(at);
            unwatch_bell(ep, &list, &mut member);
        }
        (EPOLL_CTL_MOD | EPOLL_CTL_DEL, None, _) => return real::fail(libc::ENOENT),
        _ => return real::fail(libc::EINVAL),
    }
    real::set_errno(was);
    0
}

/// The event that the program points to, if it can be read.
fn event_at(event: *mut epoll_event) -> Option<epoll_event> {
    let mut bytes = [0; size_of::<epoll_event>()];
    Own.read(event.addr() as u64, &mut bytes).ok()?;
    // SAFETY: plain numbers, whatever the bytes.
    Some(unsafe { bytes.as_ptr().cast::<epoll_event>().read_unaligned() })
}

/// What can be reported of poll's bits is the same number in epoll's.
#[expect(
    clippy::cast_possible_truncation,
    reason = "poll's bits are the low 16"
)]
fn to_poll(events: u32) -> c_short {
    (events & 0xffff).cast_signed() as c_short
}

/// Syncs all members and writes down who is ready; how many.
fn collect(ep: c_int, list: &Lock<Vec<Member>>, into: &mut [epoll_event]) -> usize {
    let mut n = 0;
    let mut list = list.lock();
    for m in list.iter_mut() {
        if n == into.len() {
            break;
        }
        if m.off || m.binding.epoch() != m.epoch {
            continue;
        }
        // It may have another, since it is driven by somebody else.
        if m.rung.is_none() || m.rung != m.binding.wake_fd(to_poll(m.events)) {
            watch_bell(ep, m);
        }
        let asked = to_poll(m.events);
        let revents = m.binding.check(m.fd, asked) & (asked | libc::POLLERR | libc::POLLHUP);
        if revents == 0 {
            m.seen = None;
            continue;
        }
        if m.events & EPOLLET.cast_unsigned() != 0 {
            let now = Some((m.binding.snapshot(), revents));
            if m.seen == now {
                continue;
            }
            m.seen = now;
        }
        m.off = m.events & EPOLLONESHOT.cast_unsigned() != 0;
        into[n] = epoll_event {
            events: u32::from(revents.cast_unsigned()),
            u64: m.data,
        };
        n += 1;
    }
    // Who was passed over for want of room is first the next time.
    if n > 0 && n < list.len() {
        list.rotate_left(1);
    }
    n
}

/// Who waits for what, for a `poll` that has the instance at place `at`.
pub(crate) fn watched(number: u32, at: usize, into: &mut List) {
    if let Some(list) = members(number) {
        add_watched(&list, at, into);
    }
}

fn add_watched(list: &Lock<Vec<Member>>, at: usize, into: &mut List) {
    let list = list.lock();
    for m in list
        .iter()
        .filter(|m| !m.off && m.binding.epoch() == m.epoch)
    {
        into.push(Watched {
            at,
            fd: m.fd,
            events: to_poll(m.events),
            binding: m.binding,
            epoch: m.epoch,
            nested: true,
        });
    }
}

/// Waits, with registrations among the members.
///
/// # Safety
///
/// `mask` is null or a signal mask.
unsafe fn wait_for(
    ep: c_int,
    list: &Lock<Vec<Member>>,
    into: &mut [epoll_event],
    mut until: Until,
    mask: *const sigset_t,
) -> c_int {
    let was = real::errno();
    let mut calm: Option<Calm> = None;
    loop {
        let mut n = collect(ep, list, into);
        let mut all = List::new();
        add_watched(list, 0, &mut all);
        let begin = if n > 0 { None } else { until.begin() };
        if let Some(begin) = begin {
            wait::spin(&all, until, begin, || {
                n = collect(ep, list, into);
                n > 0
            });
        }
        let mut sleep = Duration::ZERO;
        let mut armed = None;
        let mut rung = false;
        if n == 0
            && let Some(left) = until.left(SLICE)
        {
            calm.get_or_insert_with(Calm::begin);
            let announced = armed.insert(Armed::on(&all));
            sleep = left.min(announced.slice);
            n = collect(ep, list, into);
            if n > 0 {
                sleep = Duration::ZERO;
            }
        }
        if n < into.len() {
            let mask = match (&calm, mask.is_null()) {
                (Some(calm), true) => calm.before(),
                _ => mask,
            };
            // SAFETY: the mask is the caller's.
            let got = unsafe { ask_kernel(ep, &mut into[n..], sleep, mask, &mut rung) };
            let error = real::errno();
            if let Some(begin) = begin.filter(|_| armed.is_some() && n == 0) {
                wait::slept(&all, begin);
            }
            drop(armed);
            match usize::try_from(got) {
                Ok(kept) => {
                    let only_others = n == 0 && kept > 0;
                    n += kept;
                    if only_others {
                        // What woke us need not be all there is.
                        n += collect(ep, list, &mut into[n..]);
                    }
                }
                Err(_) if n == 0 => {
                    real::set_errno(error);
                    return -1;
                }
                Err(_) => {}
            }
        }
        if n == 0 && until.left(SLICE).is_none() {
            n = collect(ep, list, into);
        } else if n == 0 {
            if rung {
                all.iter().for_each(|w| w.binding.heed(w.events));
            }
            continue;
        }
        real::set_errno(was);
        return c_int::try_from(n).unwrap_or(c_int::MAX);
    }
}

/// What the kernel has, other than our bells: whether any of those has rung is
/// put into `rung`.
///
/// # Safety
///
/// `mask` is null or a signal mask.
unsafe fn ask_kernel(
    ep: c_int,
    into: &mut [epoll_event],
    wait: Duration,
    mask: *const sigset_t,
    rung: &mut bool,
) -> c_int {
    // Rounded up: or the last millisecond would be spent looking.
    let ms = c_int::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX);
    let room = c_int::try_from(into.len()).unwrap_or(c_int::MAX);
    // SAFETY: as many as there is room for; the mask is the caller's.
    let got = unsafe { real::epoll_pwait(ep, into.as_mut_ptr(), room, ms, mask) };
    let Ok(got) = usize::try_from(got) else {
        return got;
    };
    // Bells are none of the program's business.
    let mut kept = 0;
    for i in 0..got.min(into.len()) {
        let event = into[i];
        if event.u64 == mark() {
            *rung = true;
        } else {
            into[kept] = event;
            kept += 1;
        }
    }
    c_int::try_from(kept).unwrap_or(c_int::MAX)
}

/// The members of an instance and the room for events, if it is ours and the
/// arguments make sense.
///
/// # Safety
///
/// As `epoll_wait`.
unsafe fn ours<'a>(
    ep: c_int,
    events: *mut epoll_event,
    n: c_int,
) -> Option<(Arc<Lock<Vec<Member>>>, &'a mut [epoll_event])> {
    let Entry::Epoll(number) = table::entry(ep) else {
        return None;
    };
    // More than can lie behind an address is an error for the kernel to find.
    let most = usize::try_from(c_int::MAX).unwrap_or(0) / size_of::<epoll_event>();
    let n = usize::try_from(n)
        .ok()
        .filter(|&n| (1..=most).contains(&n) && !events.is_null())?;
    // SAFETY: as the caller says.
    let events = unsafe { std::slice::from_raw_parts_mut(events, n) };
    Some((members(number)?, events))
}

fn from_ms(ms: c_int) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis)
}

/// See `epoll_wait(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_wait(
    ep: c_int,
    events: *mut epoll_event,
    n: c_int,
    ms: c_int,
) -> c_int {
    if !matches!(table::entry(ep), Entry::Epoll(_)) {
        // SAFETY: passed on.
        return unsafe { real::epoll_wait(ep, events, n, ms) };
    }
    // SAFETY: passed on.
    unsafe { epoll_pwait(ep, events, n, ms, std::ptr::null()) }
}

/// See `epoll_pwait(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_pwait(
    ep: c_int,
    events: *mut epoll_event,
    n: c_int,
    ms: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: passed on.
    match unsafe { ours(ep, events, n) } {
        // SAFETY: the caller's mask.
        Some((list, room)) => unsafe { wait_for(ep, &list, room, Until::after(from_ms(ms)), mask) },
        // SAFETY: passed on.
        None => unsafe { real::epoll_pwait(ep, events, n, ms, mask) },
    }
}

/// See `epoll_pwait2(2)`.
///
/// # Safety
///
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn epoll_pwait2(
    ep: c_int,
    events: *mut epoll_event,
    n: c_int,
    t: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: passed on.
    let Some((list, room)) = (unsafe { ours(ep, events, n) }) else {
        // SAFETY: passed on.
        return unsafe { real::epoll_pwait2(ep, events, n, t, mask) };
    };
    // SAFETY: null or a time, as the caller says.
    let Ok(time) = super::poll::from_timespec(unsafe { t.as_ref() }) else {
        return real::fail(libc::EINVAL);
    };
    // SAFETY: the caller's mask.
    unsafe { wait_for(ep, &list, room, Until::after(time), mask) }
}

const _: () = assert!(EPOLLERR == libc::POLLERR as c_int && EPOLLIN == libc::POLLIN as c_int);

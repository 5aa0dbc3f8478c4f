//! One registration, as this process knows it.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::*};
use std::time::Duration;

use libc::{POLLERR, POLLIN, POLLOUT, POLLRDNORM, POLLWRNORM, c_short};
use netvale::drive::{Driven, For};
use netvale::registration::{Attachment, Greeting, Site};
use netvale::spin::Spin;
use netvale_control::{Errno, Memory, Offsets};
use netvale_wire::proto::Request;

use crate::lane::{Found, Rx, Stamp, Tx};
use crate::lock::Lock;
use crate::{adopt, life};

/// What state a registration is in; above it, the generation of the process
/// ([`life::generation`]) for which that is so.
pub(crate) mod state {
    /// Nobody uses it.
    pub(crate) const FREE: u32 = 0;
    /// Opened by us, not bound to a port.
    pub(crate) const OPEN: u32 = 1;
    /// Came from elsewhere: the server knows what it is.
    pub(crate) const FOREIGN: u32 = 2;
    /// Bound to a port.
    pub(crate) const BOUND: u32 = 3;
    /// Bound, and head, cur and tail are in the program's own memory.
    pub(crate) const CSB: u32 = 4;
    /// Bits of the above.
    pub(crate) const BITS: u32 = 3;
}

/// A registration.
pub(crate) struct Binding {
    /// Its place in the slab.
    pub(crate) index: u32,
    state: AtomicU32,
    /// Descriptors and mappings of this process; changes under the lock of all
    /// lives.
    pub(crate) refs: AtomicU32,
    /// Counts the lives of this object.
    epoch: AtomicU32,
    /// The bell that wakes us; -1 for none.
    bell: AtomicI32,
    /// What to poll in its place to be woken by driven queues too: for frames,
    /// for space, for either ([`WakeFd`]).
    watch: [AtomicI32; 3],
    /// A duplicate of the socket, held while there are mappings; -1 for none.
    pub(crate) spare: AtomicI32,
    /// `poll` for input sends what is queued.
    tx_poll: AtomicBool,
    /// Another process may use the registration too.
    shared: AtomicBool,
    sleepers: Lock<Sleepers>,
    /// The sync loop has been told to end; stays until a loop has seen it.
    pub(crate) kloop_stop: AtomicBool,
    /// A sync loop runs in this process.
    pub(crate) kloop_runs: AtomicBool,
    pub(crate) tx: Lock<Option<Tx>>,
    pub(crate) rx: Lock<RxLane>,
    pub(crate) control: Lock<Control>,
    spin: Lock<Spin>,
}

/// Who sleeps.
#[derive(Default)]
struct Sleepers {
    threads: u32,
    /// They are announced in the sleep words of the rings.
    announced: bool,
    /// The last time, a sleeper of another registration of the same rings took
    /// their place in a sleep word.
    outdone: bool,
}

/// Receive rings and their clock.
#[derive(Default)]
pub(crate) struct RxLane {
    pub(crate) rx: Option<Rx>,
    pub(crate) stamp: Stamp,
}

/// What requests are about.
#[derive(Default)]
pub(crate) struct Control {
    pub(crate) site: Option<Site>,
    pub(crate) greeting: Option<Greeting>,
    pub(crate) attached: Option<Attachment>,
    /// Of the registration, beside what the server keeps.
    pub(crate) offsets: Option<Offsets>,
    pub(crate) extmem: Option<Memory>,
    /// Nobody else has the rings.
    pub(crate) exclusive: bool,
    /// Addresses of the two arrays of control blocks.
    pub(crate) csb: Option<(u64, u64)>,
}

impl Binding {
    pub(crate) fn new(index: u32) -> Self {
        Self {
            index,
            state: AtomicU32::new(state::FREE),
            refs: AtomicU32::new(0),
            epoch: AtomicU32::new(0),
            bell: AtomicI32::new(-1),
            watch: [const { AtomicI32::new(WakeFd::Bell.word()) }; 3],
            spare: AtomicI32::new(-1),
            tx_poll: AtomicBool::new(true),
            shared: AtomicBool::new(false),
            sleepers: Lock::new(Sleepers::default()),
            kloop_stop: AtomicBool::new(false),
            kloop_runs: AtomicBool::new(false),
            tx: Lock::new(None),
            rx: Lock::new(RxLane::default()),
            control: Lock::new(Control::default()),
            spin: Lock::new(Spin::new()),
        }
    }

    pub(crate) fn is_free(&self) -> bool {
        self.state.load(Acquire) & ((1 << state::BITS) - 1) == state::FREE
    }

    /// State in this process; [`state::FOREIGN`] if it was left behind by a
    /// parent.
    #[inline]
    pub(crate) fn state(&self) -> u32 {
        let word = self.state.load(Acquire);
        let kind = word & ((1 << state::BITS) - 1);
        if word >> state::BITS != life::generation() && kind != state::FREE {
            return state::FOREIGN;
        }
        kind
    }

    /// Whether the locks are those of a parent process.
    pub(crate) fn is_stale(&self) -> bool {
        !self.is_free() && self.state.load(Acquire) >> state::BITS != life::generation()
    }

    /// Whether our state is that of the registration: not if it has been left
    /// behind, or another process may have bound it.
    pub(crate) fn is_certain(&self) -> bool {
        match self.state() {
            state::FOREIGN => false,
            state::OPEN => !self.is_shared(),
            _ => true,
        }
    }

    /// Another process has it too, from now on.
    pub(crate) fn share(&self) {
        self.shared.store(true, Release);
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Acquire)
    }

    pub(crate) fn set_state(&self, kind: u32) {
        self.state
            .store(kind | life::generation() << state::BITS, Release);
    }

    /// Which life of the object this is.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Acquire)
    }

    /// The bell's descriptor, if there is a bell.
    pub(crate) fn bell(&self) -> Option<RawFd> {
        let fd = self.bell.load(Acquire);
        (fd >= 0).then_some(fd)
    }

    /// What becomes readable when it is worth looking for these events.
    pub(crate) fn wake_fd(&self, events: c_short) -> Option<RawFd> {
        let word = self.watch.get(awaited(events) as usize)?;
        match WakeFd::of(word.load(Acquire)) {
            WakeFd::Bell => self.bell(),
            WakeFd::Unjoined(fd) | WakeFd::Joined(fd) => Some(fd),
        }
    }

    /// Has that watch the queues, if there are any. `false` if it cannot be
    /// done now.
    fn join(&self, events: c_short) -> bool {
        let what = awaited(events);
        let Some(word) = self.watch.get(what as usize) else {
            return false;
        };
        let said = word.load(Acquire);
        let WakeFd::Unjoined(fd) = WakeFd::of(said) else {
            return true;
        };
        // Not for long: this very thread may be in the middle of a request.
        let Some(control) = self.control.lock_within(PATIENCE) else {
            return false;
        };
        let watch = control.attached.as_ref().map(|a| &a.driven.watch);
        let Some(Some(watch)) = watch else {
            return false; // another thread has changed it
        };
        watch.unjoined_fd(what).as_raw_fd() == fd
            && watch.join(what)
            && word
                .compare_exchange(said, WakeFd::Joined(fd).word(), AcqRel, Relaxed)
                .is_ok()
    }

    fn set_wake_fds(&self, a: Option<&Attachment>) {
        let bell = a.map_or(-1, BellFd::bell_fd);
        let watch = a.and_then(|a| a.driven.watch.as_ref());
        for (word, what) in self.watch.iter().zip([For::Rx, For::Tx, For::Both]) {
            let fd = watch.map(|w| WakeFd::Unjoined(w.unjoined_fd(what).as_raw_fd()));
            word.store(fd.unwrap_or(WakeFd::Bell).word(), Release);
        }
        self.bell.store(bell, Release);
    }

    /// It was woken for nothing: sockets that have failed must not keep it
    /// awake.
    pub(crate) fn heed(&self, events: c_short) {
        let what = awaited(events);
        let word = self.watch.get(what as usize).map(|w| w.load(Relaxed));
        if let Some(WakeFd::Joined(_)) = word.map(WakeFd::of)
            && let Some(control) = self.control.try_lock()
            && let Some(a) = &control.attached
            && let Some(watch) = &a.driven.watch
        {
            watch.heed(what);
        }
    }

    /// A new life: opened here, or come from elsewhere.
    pub(crate) fn begin(&self, kind: u32, control: Control) {
        *self.control.lock() = control;
        self.kloop_stop.store(false, Release);
        self.tx_poll.store(true, Release);
        self.shared.store(kind == state::FOREIGN, Release);
        *self.spin.lock() = Spin::new();
        self.set_state(kind);
    }

    /// Forgets the locks of a parent process and what they guard.
    ///
    /// # Safety
    ///
    /// Called once after a fork, with the lock of all lives held.
    pub(crate) unsafe fn renew(&self) {
        self.set_wake_fds(None);
        self.kloop_runs.store(false, Release);
        // SAFETY: threads that used them stayed in the parent, and those of
        // this process come here first.
        unsafe { self.tx.renew(None) };
        // SAFETY: as above.
        unsafe { self.rx.renew(RxLane::default()) };
        // SAFETY: as above.
        unsafe { self.control.renew(Control::default()) };
        // SAFETY: as above.
        unsafe { self.spin.renew(Spin::new()) };
        // SAFETY: as above.
        unsafe { self.sleepers.renew(Sleepers::default()) };
        self.set_state(state::FOREIGN);
    }

    /// Takes the rings of a registration into use.
    pub(crate) fn attach(
        &self,
        control: &mut Control,
        mut a: Attachment,
        flags: u64,
    ) -> Result<(), Errno> {
        use netvale_wire::abi::regflags;
        let mut driven = std::mem::take(&mut a.driven);
        let (Some(tx), Some(rx)) = (Tx::of(&a, &mut driven), Rx::of(&a, &mut driven)) else {
            return Err(Errno::EIO);
        };
        a.driven = driven;
        *self.tx.lock() = Some(tx);
        let mut lane = self.rx.lock();
        lane.rx = Some(rx);
        lane.stamp = Stamp::default();
        lane.stamp.on_request = control
            .site
            .as_ref()
            .is_some_and(crate::rules::no_timestamp);
        drop(lane);
        self.tx_poll
            .store(flags & regflags::NO_TX_POLL == 0, Release);
        self.set_wake_fds(Some(&a));
        control.attached = Some(a);
        self.set_state(state::BOUND);
        Ok(())
    }

    /// Gives up the rings; what was bound stays bound for the server until the
    /// socket is closed.
    pub(crate) fn detach(&self, control: &mut Control) {
        self.set_state(state::OPEN);
        self.set_wake_fds(None);
        *self.tx.lock() = None;
        self.rx.lock().rx = None;
        control.csb = None;
        control.extmem = None;
        control.offsets = None;
        control.attached = None;
    }

    /// To be called before what may be the last reference goes.
    pub(crate) fn before_last(&self) {
        if self.refs.load(Acquire) != 1 || self.state() != state::BOUND {
            return;
        }
        if let Some(tx) = self.tx.lock_within(PATIENCE)
            && let Some(tx) = &*tx
        {
            tx.drain();
        }
        // Once the socket is closed the server forgets the port.
        if crate::rules::wants_reports() {
            let control = self.control.lock_within(PATIENCE);
            let isolated = control.and_then(|control| crate::rules::isolated(&control));
            if let Some((site, name)) = isolated {
                crate::rules::report_isolated(&site, &name);
            }
        }
    }

    /// The end of this life.
    pub(crate) fn end(&self) {
        let mut control = self.control.lock();
        self.epoch.fetch_add(1, AcqRel);
        self.kloop_stop.store(true, Release);
        if let Some(a) = &control.attached {
            crate::rules::report(&control, self);
            // Who still sleeps on it has to see that it is closed.
            a.bell.ring();
        }
        self.detach(&mut control);
        *control = Control::default();
        self.state.store(state::FREE, Release);
    }

    /// `NIOCTXSYNC`.
    #[inline]
    pub(crate) fn txsync(&self, fd: c_int) -> Result<(), Errno> {
        if self.state() != state::BOUND {
            self.usable(fd)?;
        }
        // A thread that is in the middle of it serves us as well.
        let Some(mut tx) = self.tx.try_lock() else {
            return Ok(());
        };
        // SAFETY: the program is in a call on this descriptor.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let found = tx.as_mut().ok_or(Errno::ENXIO)?.sync::<false>(socket);
        drop(tx);
        if found.is_over {
            self.stop_driving(fd);
        }
        if found.gone { Err(Errno::EIO) } else { Ok(()) }
    }

    /// `NIOCRXSYNC`.
    #[inline]
    pub(crate) fn rxsync(&self, fd: c_int) -> Result<(), Errno> {
        if self.state() != state::BOUND {
            self.usable(fd)?;
        }
        let Some(mut lane) = self.rx.try_lock() else {
            return Ok(());
        };
        let RxLane { rx, stamp } = &mut *lane;
        // SAFETY: the program is in a call on this descriptor.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let found = rx
            .as_mut()
            .ok_or(Errno::ENXIO)?
            .sync::<false>(stamp, socket);
        drop(lane);
        if found.is_over {
            self.stop_driving(fd);
        }
        if found.gone { Err(Errno::EIO) } else { Ok(()) }
    }

    /// Finds out what a registration is that came from elsewhere; an error if
    /// its rings cannot be synced.
    #[cold]
    fn usable(&self, fd: c_int) -> Result<(), Errno> {
        match adopt::resolve(self, fd) {
            state::BOUND => Ok(()),
            state::CSB => Err(Errno::EBUSY),
            _ => Err(Errno::ENXIO),
        }
    }

    /// Syncs as `poll` does and tells what is ready.
    pub(crate) fn check(&self, fd: c_int, events: c_short) -> c_short {
        if self.state() != state::BOUND && self.usable(fd).is_err() {
            return POLLERR;
        }
        let wants_tx = events & (POLLOUT | POLLWRNORM);
        let wants_rx = events & (POLLIN | POLLRDNORM);
        // SAFETY: the program is in a call on this descriptor.
        let socket = unsafe { BorrowedFd::borrow_raw(fd) };
        let mut revents = 0;
        if wants_tx != 0 || self.tx_poll.load(Relaxed) {
            // If it is not to be had, nothing is known, and nothing reported.
            if let Some(mut tx) = self.tx.lock_within(PATIENCE) {
                let found = match &mut *tx {
                    Some(tx) => tx.sync::<true>(socket),
                    None => return POLLERR,
                };
                drop(tx);
                if found.is_over {
                    self.stop_driving(fd);
                }
                revents |= outcome(found, wants_tx);
            }
        }
        if wants_rx != 0
            && let Some(mut lane) = self.rx.lock_within(PATIENCE)
        {
            let RxLane { rx, stamp } = &mut *lane;
            let found = match rx {
                Some(rx) => rx.sync::<true>(stamp, socket),
                None => return POLLERR,
            };
            drop(lane);
            if found.is_over {
                self.stop_driving(fd);
            }
            revents |= outcome(found, wants_rx);
        }
        revents
    }

    /// Leaves the queues of an interface to the server.
    #[cold]
    pub(crate) fn stop_driving(&self, fd: c_int) {
        let was = crate::real::errno();
        let _inside = crate::inside::Inside::enter();
        // If another thread is in a request, the next sync comes here again.
        if let Some(mut control) = self.control.try_lock()
            && let Some(a) = &mut control.attached
            && let Some(mut tx) = self.tx.lock_within(PATIENCE)
            && let Some(mut lane) = self.rx.lock_within(PATIENCE)
        {
            // Before the server begins: nobody else is at the sockets then.
            if let Some(tx) = &mut *tx {
                tx.side.stop_driving();
            }
            if let Some(rx) = &mut lane.rx {
                rx.side.stop_driving();
            }
            a.driven = Driven::default();
            self.set_wake_fds(Some(a));
            // SAFETY: the program is in a call on this descriptor.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            for queue in 0..a.reg.tx_rings.max(a.reg.rx_rings) {
                let back = Request::Drive { queue, on: false };
                // Refused for queues that are not ours; a server that is gone
                // drives nothing.
                let _ = netvale::registration::ask_over(socket, &back);
            }
        }
        crate::real::set_errno(was);
    }

    /// What has changed since, for edge-triggered waiting: the ends of all
    /// rings, mixed.
    pub(crate) fn snapshot(&self) -> u64 {
        let mut mix = 0u64;
        let mut add = |tail: u32| mix = mix.wrapping_mul(0x100_0000_01b3) ^ u64::from(tail) ^ 1;
        if let Some(tx) = &*self.tx.lock() {
            (0..tx.side.count()).for_each(|i| add(tx.side.ring(i).map_or(0, |r| r.tail())));
        }
        if let Some(rx) = &self.rx.lock().rx {
            (0..rx.side.count()).for_each(|i| add(rx.side.ring(i).map_or(0, |r| r.tail())));
        }
        mix
    }

    /// Announces a sleeper; whether it may sleep for long: not if it is not the
    /// only one, so that a wake-up may be for others, nor if nobody would wake
    /// it. `None` if it cannot be announced.
    pub(crate) fn arm(&self, events: c_short) -> Option<bool> {
        let mut sleepers = self.sleepers.lock_within(PATIENCE)?;
        if std::mem::take(&mut sleepers.outdone) {
            // The other has the place for now. If both announced themselves,
            // they would wake each other without end.
            sleepers.threads += 1;
            return Some(false);
        }
        sleepers.announced = true;
        if events & (POLLIN | POLLRDNORM) != 0
            && let Some(rx) = &self.rx.lock_within(PATIENCE)?.rx
        {
            rx.side.arm();
        }
        if events & (POLLOUT | POLLWRNORM) != 0
            && let Some(tx) = &*self.tx.lock_within(PATIENCE)?
        {
            tx.side.arm();
        }
        sleepers.threads += 1;
        let sends = || {
            let tx = self.tx.try_lock();
            tx.is_some_and(|tx| tx.as_ref().is_some_and(|tx| tx.side.is_due()))
        };
        let receives = || {
            let lane = self.rx.try_lock();
            lane.is_some_and(|l| l.rx.as_ref().is_some_and(|rx| rx.side.is_due()))
        };
        let joined = self.join(events);
        let alone = sleepers.threads == 1 && !self.is_shared();
        Some(joined && alone && !sends() && !receives())
    }

    /// Takes it back; silences the bell if nobody else sleeps. To be called
    /// once for every [`Binding::arm`] that succeeded.
    pub(crate) fn disarm(&self, events: c_short) {
        let mut sleepers = self.sleepers.lock();
        sleepers.threads = sleepers.threads.saturating_sub(1);
        if sleepers.threads > 0 {
            return;
        }
        let mut kept = true;
        if events & (POLLIN | POLLRDNORM) != 0
            && let Some(rx) = &self.rx.lock().rx
        {
            kept &= rx.side.disarm();
        }
        if events & (POLLOUT | POLLWRNORM) != 0
            && let Some(tx) = &*self.tx.lock()
        {
            kept &= tx.side.disarm();
        }
        sleepers.outdone = std::mem::take(&mut sleepers.announced) && !kept;
        if let Some(bell) = self.bell() {
            // A counter, or a pipe that has been rung more than once.
            let mut rung = [0u8; 512];
            let was = crate::real::errno();
            // SAFETY: reads no more than there is room for; the bell does not
            // block.
            unsafe { libc::syscall(libc::SYS_read, bell, rung.as_mut_ptr(), rung.len()) };
            crate::real::set_errno(was);
        }
    }

    pub(crate) fn spin(&self) -> &Lock<Spin> {
        &self.spin
    }
}

/// Longest wait for a lane that somebody else is syncing. It may be this very
/// thread, in the middle of a sync when a signal's handler called us.
const PATIENCE: Duration = Duration::from_millis(20);

/// What one waits for who waits for these events.
fn awaited(events: c_short) -> For {
    let rx = events & (POLLIN | POLLRDNORM) != 0;
    let tx = events & (POLLOUT | POLLWRNORM) != 0;
    match (rx, tx) {
        (true, true) => For::Both,
        (false, true) => For::Tx,
        _ => For::Rx,
    }
}

/// A descriptor to poll, in one word with what it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum WakeFd {
    /// There are no driven queues: the bell itself.
    Bell,
    /// It does not watch the queues yet.
    Unjoined(RawFd),
    /// It does.
    Joined(RawFd),
}

impl WakeFd {
    const fn word(self) -> i32 {
        match self {
            Self::Bell => -1,
            Self::Unjoined(fd) => -2 - fd,
            Self::Joined(fd) => fd,
        }
    }

    const fn of(word: i32) -> Self {
        match word {
            0.. => Self::Joined(word),
            -1 => Self::Bell,
            _ => Self::Unjoined(-2 - word),
        }
    }
}

fn outcome(found: Found, wants: c_short) -> c_short {
    let ready = if found.ready { wants } else { 0 };
    ready | if found.error { POLLERR } else { 0 }
}

/// The bell of a registration.
trait BellFd {
    fn bell_fd(&self) -> RawFd;
}

impl BellFd for Attachment {
    fn bell_fd(&self) -> RawFd {
        std::os::fd::AsFd::as_fd(&*self.bell).as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_and_what_it_does_fit_into_a_word() {
        for fd in [0, 1, 1023, i32::MAX - 2] {
            for wake in [WakeFd::Bell, WakeFd::Unjoined(fd), WakeFd::Joined(fd)] {
                assert_eq!(WakeFd::of(wake.word()), wake);
            }
        }
    }
}

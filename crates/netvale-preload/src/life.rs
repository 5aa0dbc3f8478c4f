//! Lives of registrations in this process: who is born, doubled, closed; what
//! a fork leaves behind.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, IntoRawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering::*};

use netvale::registration::{self, Keeper, Site};

use crate::binding::{Binding, Control, state};
use crate::inside::{self, Inside};
use crate::lock::{Guard, Lock};
use crate::table::{self, Entry};
use crate::{adopt, hooks, maps, real};

/// Guards the table, the slab, and the counts of references.
static LIFE: Lock<()> = Lock::new(());
/// Counts forks between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// This process: another number means that the memory is a parent's (`vfork`).
static PID: AtomicI32 = AtomicI32::new(0);
static STARTED: AtomicBool = AtomicBool::new(false);
static STARTING: Lock<()> = Lock::new(());
/// Held while sockets are open that nobody has heard of yet.
static CONNECTING: Lock<()> = Lock::new(());

/// See [`GENERATION`].
#[inline]
pub(crate) fn generation() -> u32 {
    GENERATION.load(Relaxed)
}

/// Whether this is a child that uses its parent's memory until it runs
/// another program: it must not touch what we know.
pub(crate) fn is_borrowed() -> bool {
    // SAFETY: asks for a number.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    STARTED.load(Acquire) && i64::from(PID.load(Acquire)) != pid
}

pub(crate) fn lock() -> Guard<'static, ()> {
    LIFE.lock()
}

extern "C" fn before_fork() {
    // A handler of a signal would find them held by its own thread.
    inside::enter();
    // In this order: who looks at the members of an epoll instance may want
    // the lock of all lives, and not the other way round.
    hooks::epoll::before_fork();
    LIFE.hold();
    maps::before_fork();
    registration::before_fork();
}

extern "C" fn in_parent() {
    // The child may use our registrations as we do.
    table::bindings().for_each(Binding::share);
    release_all();
}

extern "C" fn in_child() {
    GENERATION.fetch_add(1, Relaxed);
    // SAFETY: who held it stayed in the parent, or is about to run another
    // program.
    unsafe { CONNECTING.renew(()) };
    note_pid();
    table::bindings().for_each(Binding::share);
    release_all();
}

fn release_all() {
    registration::after_fork();
    maps::after_fork();
    LIFE.release_held();
    hooks::epoll::after_fork();
    inside::leave();
}

fn note_pid() {
    // SAFETY: asks for a number.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) };
    PID.store(i32::try_from(pid).unwrap_or(0), Release);
}

/// Once, before the first registration.
pub(crate) fn start() {
    if STARTED.load(Acquire) {
        return;
    }
    let _inside = Inside::enter();
    let _starting = STARTING.lock();
    if STARTED.load(Acquire) {
        return;
    }
    note_pid();
    registration::keep_descriptors_with(Keeper {
        keep: table::hide,
        enter: inside::enter,
        leave: inside::leave,
    });
    // SAFETY: three functions that live as long as the process.
    unsafe { libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child)) };
    STARTED.store(true, Release);
}

/// A socket is about to be made that is not in the table, or not for long.
/// Until this is dropped nobody takes it for one that came from elsewhere: a
/// thread that uses a number which it has closed might ask.
pub(crate) fn connecting() -> Guard<'static, ()> {
    CONNECTING.lock()
}

/// Opens `/dev/netmap` with these flags. The error is an `errno`.
pub(crate) fn open(flags: c_int) -> Result<c_int, c_int> {
    start();
    let _inside = Inside::enter();
    let _connecting = connecting();
    let site = Site::from_env();
    let (socket, greeting) = site.connect().map_err(|e| {
        crate::rules::complain(&e);
        // The file exists, says stat: what is missing is behind it.
        match e.errno() {
            2 => libc::ENXIO,
            n => n,
        }
    })?;
    let fd = socket.into_raw_fd();
    if !table::holds(fd) {
        // SAFETY: ours, from above.
        unsafe { real::close(fd) };
        return Err(libc::EMFILE);
    }
    if flags & libc::O_CLOEXEC == 0 {
        // SAFETY: ours, from above.
        unsafe { real::fcntl(fd, libc::F_SETFD, 0) };
    }
    if flags & libc::O_NONBLOCK != 0 {
        // SAFETY: ours, from above.
        unsafe { real::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK.unsigned_abs() as usize) };
    }
    let control = Control {
        site: Some(site),
        greeting: Some(greeting),
        ..Control::default()
    };
    if begin(fd, state::OPEN, control).is_none() {
        // SAFETY: ours, from above.
        unsafe { real::close(fd) };
        return Err(libc::EMFILE);
    }
    Ok(fd)
}

/// A registration begins a life in this process.
pub(crate) fn begin(fd: c_int, kind: u32, control: Control) -> Option<&'static Binding> {
    let _life = LIFE.lock();
    if kind == state::FOREIGN
        && let Entry::Port(i) = table::entry(fd)
    {
        return table::binding(i); // another thread has just found it
    }
    let free = table::bindings().find(|b| b.is_free() && b.refs.load(Acquire) == 0);
    let b = match free {
        Some(b) => b,
        None => table::add(Binding::new)?,
    };
    b.refs.store(1, Release);
    b.begin(kind, control);
    table::set(fd, Entry::Port(b.index));
    Some(b)
}

/// Makes the locks usable that a parent process left behind.
pub(crate) fn refresh(b: &Binding) {
    if b.is_stale() {
        let _inside = Inside::enter();
        let _life = LIFE.lock();
        if b.is_stale() {
            // SAFETY: we hold the lock, and a second one sees it is done.
            unsafe { b.renew() };
        }
    }
}

/// One more descriptor, or mapping.
pub(crate) fn retain(b: &Binding) {
    b.refs.fetch_add(1, AcqRel);
}

/// One less; with the last, the registration's life in this process ends.
/// The lock of all lives must not be held.
pub(crate) fn release(b: &'static Binding) {
    let last = {
        let _inside = Inside::enter();
        let _life = LIFE.lock();
        b.refs.fetch_sub(1, AcqRel) == 1
    };
    if !last {
        return;
    }
    let _inside = Inside::enter();
    refresh(b);
    hooks::epoll::forget(b.index);
    b.end();
}

/// A descriptor is a duplicate of another.
pub(crate) fn duplicate(old: c_int, new: c_int) {
    let _inside = Inside::enter();
    let life = LIFE.lock();
    // Looked at with the lock held: another thread may be closing it.
    match table::entry(old) {
        Entry::Port(i) => {
            if let Some(b) = table::binding(i)
                && table::holds(new)
                && b.refs.load(Acquire) > 0
            {
                retain(b);
                table::set(new, Entry::Port(i));
            }
        }
        Entry::Epoll(i) => {
            drop(life);
            hooks::epoll::duplicate(i, new);
        }
        Entry::Other | Entry::Hidden => {}
    }
}

/// A descriptor is about to be closed or replaced: what must be done after.
#[must_use]
pub(crate) fn part(fd: c_int) -> Parted {
    let was = table::entry(fd);
    if let Entry::Port(i) = was
        && let Some(b) = table::binding(i)
    {
        b.before_last();
    }
    if was != Entry::Other {
        table::set(fd, Entry::Other);
    }
    Parted(was)
}

/// What a closed descriptor was.
pub(crate) struct Parted(Entry);

impl Parted {
    /// It is closed.
    pub(crate) fn done(self) {
        if self.0 == Entry::Other {
            return;
        }
        let was = real::errno();
        let _inside = Inside::enter();
        match self.0 {
            Entry::Port(i) => {
                if let Some(b) = table::binding(i) {
                    release(b);
                }
            }
            Entry::Epoll(i) => hooks::epoll::release(i),
            Entry::Other | Entry::Hidden => {}
        }
        real::set_errno(was);
    }
}

/// Descriptors that came from elsewhere: those of ours are taken in.
pub(crate) fn discover(fd: c_int) -> Option<&'static Binding> {
    match table::entry(fd) {
        Entry::Port(i) => return table::binding(i),
        Entry::Other if table::holds(fd) => {}
        _ => return None,
    }
    // SAFETY: only asked about; a wrong number is an error of the kernel.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    if !adopt::is_unix(socket) {
        return None;
    }
    let was = real::errno();
    start();
    let _inside = Inside::enter();
    let _connecting = connecting();
    if let Entry::Port(i) = table::entry(fd) {
        return table::binding(i); // it has been made meanwhile
    }
    let site = Site::of(socket);
    real::set_errno(was);
    let control = Control {
        site: Some(site?),
        ..Control::default()
    };
    begin(fd, state::FOREIGN, control)
}

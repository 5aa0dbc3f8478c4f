//! Calls of this library's own code, and signals while it runs.

use std::cell::Cell;
use std::ffi::c_int;

use libc::{c_long, sigset_t};

/// Signals that are held back: all but those that report a fault of the
/// running code, and the two that the C library keeps to itself.
const HELD_BACK: u64 = !(bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGFPE)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGSYS)
    | bit(32)
    | bit(33));

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// Bytes of the kernel's signal set.
const SIGSET: usize = 8;

/// Changes the thread's signal mask and returns the old one.
fn change_mask(how: c_int, set: u64) -> u64 {
    let mut old = 0u64;
    let was = crate::real::errno();
    // SAFETY: two signal sets of the kernel's size.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            c_long::from(how),
            &raw const set,
            &raw mut old,
            SIGSET,
        )
    };
    crate::real::set_errno(was);
    old
}

/// Signals are held back until it is dropped. The system call that waits gets
/// the old mask, so that no signal falls between a look and a sleep.
pub(crate) struct Calm {
    old: u64,
}

impl Calm {
    pub(crate) fn begin() -> Self {
        Self {
            old: change_mask(libc::SIG_BLOCK, HELD_BACK),
        }
    }

    /// The mask before, for `ppoll` and its like, which read eight bytes.
    pub(crate) fn before(&self) -> *const sigset_t {
        (&raw const self.old).cast()
    }
}

impl Drop for Calm {
    fn drop(&mut self) {
        change_mask(libc::SIG_SETMASK, self.old);
    }
}

/// Runs this with no `SIGPIPE` for the program, which knows of no pipe.
pub(crate) fn without_sigpipe(f: impl FnOnce()) {
    let set = bit(libc::SIGPIPE);
    let old = change_mask(libc::SIG_BLOCK, set);
    let was = crate::real::errno();
    f();
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // The kernel sends it to this thread, before the call returns.
    // SAFETY: a set of the kernel's size, no room for details, a time.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            std::ptr::null::<libc::siginfo_t>(),
            &raw const now,
            SIGSET,
        )
    };
    crate::real::set_errno(was);
    change_mask(libc::SIG_SETMASK, old);
}

// As in the C library; the numbers are those of Linux.
unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

const CANCEL_DISABLE: c_int = 1;

fn set_cancel_state(state: c_int) -> c_int {
    let mut old = 0;
    // SAFETY: a state, and room for one.
    unsafe { pthread_setcancelstate(state, &raw mut old) };
    old
}

thread_local! {
    /// Calls of this library's own code, in this thread.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Signal mask and cancellation state before the outermost of them.
    static BEFORE: Cell<(u64, c_int)> = const { Cell::new((0, 0)) };
}

/// A number that no other thread has at the same time; not 0.
#[inline]
pub(crate) fn thread() -> usize {
    DEPTH.with(|d| std::ptr::from_ref(d).addr())
}

fn quiet() {
    let mask = change_mask(libc::SIG_BLOCK, HELD_BACK);
    BEFORE.set((mask, set_cancel_state(CANCEL_DISABLE)));
}

fn unquiet() {
    let (mask, cancel) = BEFORE.get();
    set_cancel_state(cancel);
    change_mask(libc::SIG_SETMASK, mask);
}

/// This library's own code runs, until it is dropped: what it does with
/// descriptors is not the program's doing, its thread cannot be cancelled, and
/// no signal handler interrupts it, which might come for the same locks.
pub(crate) struct Inside(());

impl Inside {
    pub(crate) fn enter() -> Self {
        enter();
        Self(())
    }

    pub(crate) fn is() -> bool {
        DEPTH.get() > 0
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        leave();
    }
}

/// [`Inside::enter`] for those who cannot hold one.
pub(crate) fn enter() {
    if DEPTH.get() == 0 {
        quiet();
    }
    DEPTH.set(DEPTH.get() + 1);
}

/// The end of [`enter`].
pub(crate) fn leave() {
    DEPTH.set(DEPTH.get() - 1);
    if DEPTH.get() == 0 {
        unquiet();
    }
}

/// Undoes all that [`Inside`] does, until it is dropped: for a call that waits
/// for the program.
pub(crate) struct Outside(u32);

impl Outside {
    pub(crate) fn enter() -> Self {
        let depth = DEPTH.replace(0);
        if depth > 0 {
            unquiet();
        }
        Self(depth)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if self.0 > 0 {
            quiet();
        }
        DEPTH.set(self.0);
    }
}

//! Contexts: `struct nmctx` and the functions `nmctx_*`.
//!
//! A context says where messages go, where memory comes from and how the list
//! of mapped regions is locked. The one that programs begin with is safe to use
//! from several threads, whether they asked for that or not.

use std::cell::UnsafeCell;
use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Write;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use crate::abi::{Ctx, LockFn};
use crate::refusal::{Refusal, bytes, set_errno};

/// A context in static memory.
struct Shared(UnsafeCell<Ctx>);
// SAFETY: C code owns the contents, which the interface lets any thread read
// and which it changes under the context's lock.
unsafe impl Sync for Shared {}

/// The mutex behind [`default_lock`].
struct Mutex(UnsafeCell<libc::pthread_mutex_t>);
// SAFETY: a mutex is made to be shared; all use is through pthread calls.
unsafe impl Sync for Mutex {}

const fn initial(lock: Option<LockFn>) -> Ctx {
    Ctx {
        verbose: 1,
        error: Some(default_error),
        malloc: Some(default_malloc),
        free: Some(default_free),
        lock,
        mem_descs: ptr::null_mut(),
    }
}

static MUTEX: Mutex = Mutex(UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER));
static FIRST: Shared = Shared(UnsafeCell::new(initial(Some(default_lock))));
/// What `nmctx_set_threadsafe` makes out of a context without a lock.
static LOCKED: Shared = Shared(UnsafeCell::new(initial(Some(default_lock))));
static DEFAULT: AtomicPtr<Ctx> = AtomicPtr::new(FIRST.0.get());

/// Programs compiled against netmap's own header refer to this number to pull
/// in the thread-safe part of its library. Its value has no meaning here.
#[unsafe(no_mangle)]
pub static nmctx_threadsafe: AtomicI32 = AtomicI32::new(1);

/// Prints a message and a newline on standard error.
unsafe extern "C" fn default_error(_: *mut Ctx, text: *const c_char) {
    // SAFETY: the callback's contract: a string for the time of the call.
    let text = unsafe { bytes(text) };
    let mut line = text.to_vec();
    line.push(b'\n');
    // Nobody is left to tell if this fails.
    let _ = std::io::stderr().write_all(&line);
}

unsafe extern "C" fn default_malloc(_: *mut Ctx, size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    unsafe { libc::malloc(size) }
}

unsafe extern "C" fn default_free(_: *mut Ctx, at: *mut c_void) {
    // SAFETY: the callback's contract: from the malloc above, or null.
    unsafe { libc::free(at) };
}

/// One mutex for all contexts that have this callback: a program may copy the
/// default context, and nothing may depend on what lies behind the copy.
unsafe extern "C" fn default_lock(_: *mut Ctx, lock: c_int) {
    let mutex = MUTEX.0.get();
    if lock == 0 {
        // SAFETY: initialised, and locked by this thread by the callback's contract.
        unsafe { libc::pthread_mutex_unlock(mutex) };
    } else {
        // SAFETY: initialised statically and never destroyed.
        unsafe { libc::pthread_mutex_lock(mutex) };
    }
}

/// `struct nmctx *nmctx_get(void)`: the default context.
#[unsafe(no_mangle)]
pub extern "C" fn nmctx_get() -> *mut Ctx {
    DEFAULT.load(Ordering::Acquire)
}

/// `struct nmctx *nmctx_set_default(struct nmctx *ctx)`: makes `ctx` the
/// default, null for the one that programs begin with; returns the one before.
#[unsafe(no_mangle)]
pub extern "C" fn nmctx_set_default(ctx: *mut Ctx) -> *mut Ctx {
    let ctx = if ctx.is_null() { FIRST.0.get() } else { ctx };
    DEFAULT.swap(ctx, Ordering::AcqRel)
}

/// `void nmctx_set_threadsafe(void)`: makes sure that the default context has
/// a lock. If it lacks one, a copy with a lock takes its place; ports made
/// before stay with the old one.
#[unsafe(no_mangle)]
pub extern "C" fn nmctx_set_threadsafe() {
    let old = nmctx_get();
    // SAFETY: the default context is alive, by the contract of nmctx_set_default.
    let mut copy = unsafe { old.read() };
    if copy.lock.is_some() {
        return;
    }
    copy.lock = Some(default_lock);
    copy.mem_descs = ptr::null_mut();
    let new = LOCKED.0.get();
    // SAFETY: static memory; called at the beginning of a program, as its
    // documentation says, so no other thread uses it yet.
    unsafe { new.write(copy) };
    nmctx_set_default(new);
}

/// `void nmctx_error(struct nmctx *ctx, const char *text)`: sends a finished
/// message. The header's `nmctx_ferror` formats and calls this.
///
/// # Safety
///
/// `ctx` is a context or null for the default one, `text` a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmctx_error(ctx: *mut Ctx, text: *const c_char) {
    let ctx = or_default(ctx);
    // SAFETY: a context by the caller's promise.
    let callbacks = unsafe { ctx.read() };
    if callbacks.verbose == 0 {
        return;
    }
    if let Some(error) = callbacks.error {
        // SAFETY: the context's own callback, called as declared.
        unsafe { error(ctx, text) };
    }
}

/// `void *nmctx_malloc(struct nmctx *ctx, size_t size)`: memory from the
/// context, null if there is none.
///
/// # Safety
///
/// `ctx` is a context or null for the default one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmctx_malloc(ctx: *mut Ctx, size: usize) -> *mut c_void {
    let ctx = or_default(ctx);
    // SAFETY: a context by the caller's promise.
    let callbacks = unsafe { ctx.read() };
    match callbacks.malloc {
        // SAFETY: the context's own callback, called as declared.
        Some(malloc) => unsafe { malloc(ctx, size) },
        None => ptr::null_mut(),
    }
}

/// `void nmctx_free(struct nmctx *ctx, void *at)`: gives memory back.
///
/// # Safety
///
/// `ctx` is a context or null for the default one, `at` is null or from
/// [`nmctx_malloc`] of the same context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmctx_free(ctx: *mut Ctx, at: *mut c_void) {
    let ctx = or_default(ctx);
    // SAFETY: a context by the caller's promise.
    let callbacks = unsafe { ctx.read() };
    if let Some(free) = callbacks.free {
        // SAFETY: the context's own callback, and its own memory.
        unsafe { free(ctx, at) };
    }
}

/// `void nmctx_lock(struct nmctx *ctx)`: locks the list of regions.
///
/// # Safety
///
/// `ctx` is a context or null for the default one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmctx_lock(ctx: *mut Ctx) {
    // SAFETY: passed on.
    unsafe { set_lock(or_default(ctx), 1) };
}

/// `void nmctx_unlock(struct nmctx *ctx)`: undoes [`nmctx_lock`].
///
/// # Safety
///
/// `ctx` is a context or null for the default one, locked by this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nmctx_unlock(ctx: *mut Ctx) {
    // SAFETY: passed on.
    unsafe { set_lock(or_default(ctx), 0) };
}

/// # Safety
///
/// `ctx` is a context.
unsafe fn set_lock(ctx: *mut Ctx, lock: c_int) {
    // SAFETY: a context by the caller's promise.
    let callbacks = unsafe { ctx.read() };
    if let Some(callback) = callbacks.lock {
        // SAFETY: the context's own callback, called as declared.
        unsafe { callback(ctx, lock) };
    }
}

fn or_default(ctx: *mut Ctx) -> *mut Ctx {
    if ctx.is_null() { nmctx_get() } else { ctx }
}

/// Sends a text to the context's error callback.
///
/// # Safety
///
/// `ctx` is a context or null for the default one.
pub(crate) unsafe fn say(ctx: *mut Ctx, text: &str) {
    let mut text = text.as_bytes().to_vec();
    text.retain(|&byte| byte != 0);
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: passed on; the text outlives the call.
    unsafe { nmctx_error(ctx, text.as_ptr()) };
}

/// Reports a refusal and sets errno: what a C function does before it
/// returns -1.
///
/// # Safety
///
/// `ctx` is a context or null for the default one.
pub(crate) unsafe fn fail(ctx: *mut Ctx, refusal: &Refusal) {
    if !refusal.text.is_empty() {
        // SAFETY: passed on.
        unsafe { say(ctx, &refusal.text) };
    }
    // Last: the callback may have changed it.
    set_errno(refusal.errno);
}

/// 0 for success; else reports, sets errno, and is -1.
///
/// # Safety
///
/// `ctx` is a context or null for the default one.
pub(crate) unsafe fn status(ctx: *mut Ctx, result: Result<(), Refusal>) -> c_int {
    match result {
        Ok(()) => 0,
        Err(refusal) => {
            // SAFETY: passed on.
            unsafe { fail(ctx, &refusal) };
            -1
        }
    }
}

/// A zeroed object in the context's memory, as C code would make it.
///
/// # Safety
///
/// `ctx` is a context or null for the default one; all bytes zero is a value
/// of `T`.
pub(crate) unsafe fn zeroed<T>(ctx: *mut Ctx, what: &str) -> Result<*mut T, Refusal> {
    // SAFETY: passed on.
    let at = unsafe { nmctx_malloc(ctx, size_of::<T>()) };
    let at = at.cast::<T>();
    if at.is_null() || !at.is_aligned() {
        // SAFETY: just taken from the same context, or null.
        unsafe { nmctx_free(ctx, at.cast()) };
        return Err(Refusal::no_memory(what));
    }
    // SAFETY: big enough, aligned, and nobody else's.
    unsafe { at.write_bytes(0, 1) };
    Ok(at)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::Mutex as StdMutex;

    /// A context that keeps its messages, and can be made to run out of memory.
    #[repr(C)]
    pub(crate) struct Probe {
        up: Ctx,
        pub(crate) messages: StdMutex<Vec<String>>,
        pub(crate) live: AtomicI32,
        /// So many allocations succeed.
        pub(crate) budget: AtomicI32,
    }

    impl Probe {
        pub(crate) fn new() -> Box<Self> {
            Box::new(Self {
                up: Ctx {
                    verbose: 1,
                    error: Some(keep),
                    malloc: Some(count),
                    free: Some(uncount),
                    lock: None,
                    mem_descs: ptr::null_mut(),
                },
                messages: StdMutex::default(),
                live: AtomicI32::new(0),
                budget: AtomicI32::new(i32::MAX),
            })
        }

        pub(crate) fn ctx(&mut self) -> *mut Ctx {
            (&raw mut *self).cast()
        }

        pub(crate) fn last(&self) -> String {
            self.messages
                .lock()
                .unwrap()
                .last()
                .cloned()
                .unwrap_or_default()
        }
    }

    unsafe extern "C" fn keep(ctx: *mut Ctx, text: *const c_char) {
        // SAFETY: the context is a probe's first field.
        let probe = unsafe { &*ctx.cast::<Probe>() };
        // SAFETY: the text is a string.
        let text = unsafe { bytes(text) };
        probe
            .messages
            .lock()
            .unwrap()
            .push(String::from_utf8_lossy(text).into_owned());
        set_errno(libc::EPROTO);
    }

    unsafe extern "C" fn count(ctx: *mut Ctx, size: usize) -> *mut c_void {
        // SAFETY: the context is a probe's first field.
        let probe = unsafe { &*ctx.cast::<Probe>() };
        if probe.budget.fetch_sub(1, Ordering::Relaxed) <= 0 {
            return ptr::null_mut();
        }
        probe.live.fetch_add(1, Ordering::Relaxed);
        // SAFETY: any size may be asked for.
        unsafe { libc::malloc(size) }
    }

    unsafe extern "C" fn uncount(ctx: *mut Ctx, at: *mut c_void) {
        // SAFETY: the context is a probe's first field.
        let probe = unsafe { &*ctx.cast::<Probe>() };
        if !at.is_null() {
            probe.live.fetch_sub(1, Ordering::Relaxed);
        }
        // SAFETY: from the malloc above.
        unsafe { libc::free(at) };
    }

    #[test]
    fn errno_survives_the_message() {
        let mut probe = Probe::new();
        let ctx = probe.ctx();
        // SAFETY: the probe outlives the call.
        unsafe { fail(ctx, &Refusal::new(libc::ENODEV, "gone")) };
        assert_eq!(
            (probe.last().as_str(), crate::refusal::errno()),
            ("gone", libc::ENODEV)
        );
    }

    #[test]
    fn a_quiet_context_gets_no_message() {
        let mut probe = Probe::new();
        probe.up.verbose = 0;
        let ctx = probe.ctx();
        // SAFETY: the probe outlives the call.
        unsafe { say(ctx, "nobody hears") };
        assert!(probe.messages.lock().unwrap().is_empty());
    }

    #[test]
    fn the_default_context_locks_and_can_be_replaced() {
        let first = nmctx_get();
        // SAFETY: static memory.
        let callbacks = unsafe { first.read() };
        assert!(callbacks.lock.is_some(), "thread-safe without being asked");
        // SAFETY: a context; unlocked again below.
        unsafe { nmctx_lock(first) };
        // SAFETY: locked just above.
        unsafe { nmctx_unlock(first) };
        let mut probe = Probe::new();
        let ctx = probe.ctx();
        assert_eq!(nmctx_set_default(ctx), first);
        nmctx_set_threadsafe();
        let locked = nmctx_set_default(ptr::null_mut());
        assert!(locked != ctx && locked != first);
        // SAFETY: static memory.
        let copy = unsafe { locked.read() };
        assert!(copy.lock.is_some());
        assert_eq!(
            copy.error.map(|f| f as usize),
            Some(keep as *const () as usize)
        );
        assert_eq!(nmctx_get(), first);
    }
}

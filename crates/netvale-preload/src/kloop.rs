//! The sync loop: syncs the rings of a registration whose head, cur and tail
//! are in the program's own memory, in the thread that asked for it.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU32, Ordering::*};
use std::time::Duration;

use netvale_control::{Errno, Kloop};
use netvale_wire::abi::csb;

use crate::binding::{Binding, state};
use crate::inside::Outside;
use crate::real;
use crate::wait::{SHARED_SLICE, SLICE, to_timespec};

/// A word of a control block.
///
/// # Safety
///
/// `base` is the address of an array of control blocks that the program keeps
/// mapped, aligned to 64 bytes, with an entry for ring `i`.
unsafe fn word<'a>(base: u64, i: usize, entry: usize, at: usize) -> &'a AtomicU32 {
    let addr = usize::try_from(base).unwrap_or(0) + i * entry + at;
    let p: *mut u32 = std::ptr::with_exposed_provenance_mut(addr);
    // SAFETY: inside the array, says the caller, and a multiple of 4.
    unsafe { AtomicU32::from_ptr(p) }
}

/// The control blocks of one ring.
#[derive(Clone, Copy)]
struct Block<'a> {
    head: &'a AtomicU32,
    cur: &'a AtomicU32,
    wants_kick: &'a AtomicU32,
    hwcur: &'a AtomicU32,
    hwtail: &'a AtomicU32,
    takes_kick: &'a AtomicU32,
}

/// Blocks of rings `0..n`.
///
/// # Safety
///
/// As [`word`], for both arrays and all rings.
unsafe fn blocks<'a>((atok, ktoa): (u64, u64), n: usize) -> Vec<Block<'a>> {
    let block = |i| {
        // SAFETY: as the caller says.
        let atok = |at| unsafe { word(atok, i, csb::SIZE, at) };
        // SAFETY: as the caller says.
        let ktoa = |at| unsafe { word(ktoa, i, csb::SIZE, at) };
        Block {
            head: atok(csb::atok::HEAD),
            cur: atok(csb::atok::CUR),
            wants_kick: atok(csb::atok::APPL_NEED_KICK),
            hwcur: ktoa(csb::ktoa::HWCUR),
            hwtail: ktoa(csb::ktoa::HWTAIL),
            takes_kick: ktoa(csb::ktoa::KERN_NEED_KICK),
        }
    };
    (0..n).map(block).collect()
}

/// Puts the rings' indices into the program's memory.
///
/// # Safety
///
/// As [`word`], for both arrays and all rings of the registration.
pub(crate) unsafe fn enable(b: &Binding, arrays: (u64, u64)) {
    let tx = b.tx.lock();
    let lane = b.rx.lock();
    let (Some(tx), Some(rx)) = (&*tx, &lane.rx) else {
        return;
    };
    let n = tx.side.count() + rx.side.count();
    // SAFETY: as the caller says.
    let blocks = unsafe { blocks(arrays, n) };
    let rings = (0..tx.side.count())
        .map(|i| tx.side.ring(i))
        .chain((0..rx.side.count()).map(|i| rx.side.ring(i)));
    for (block, ring) in blocks.iter().zip(rings) {
        let Some(ring) = ring else { continue };
        block.head.store(ring.head(), Relaxed);
        block.cur.store(ring.cur(), Relaxed);
        block.wants_kick.store(1, Relaxed);
        block.hwcur.store(ring.head(), Relaxed);
        block.hwtail.store(ring.tail(), Relaxed);
        block.takes_kick.store(1, Release);
    }
}

/// Signals that say which ring to look at, and that tell the program.
struct Signals {
    io: c_int,
    irq: c_int,
}

fn check_fd(fd: c_int) -> Result<(), Errno> {
    // SAFETY: asks for flags.
    let ok = unsafe { real::fcntl(fd, libc::F_GETFD, 0) } >= 0;
    if ok { Ok(()) } else { Err(Errno::EBADF) }
}

/// Runs the loop.
pub(crate) fn run(b: &Binding, fd: c_int, arrays: (u64, u64), want: &Kloop) -> Result<(), Errno> {
    let signals = want.eventfds.as_ref().map(|all| {
        all.iter()
            .map(|e| Signals {
                io: e.ioeventfd,
                irq: e.irqfd,
            })
            .collect::<Vec<_>>()
    });
    for s in signals.iter().flatten() {
        if s.io >= 0 {
            check_fd(s.io)?;
        }
        if s.irq >= 0 {
            check_fd(s.irq)?;
        }
    }
    if b.kloop_runs.swap(true, AcqRel) {
        return Err(Errno::EBUSY);
    }
    let running = Running {
        b,
        epoch: b.epoch(),
    };
    // The program's signals and cancellations reach the loop.
    let _outside = Outside::enter();
    rounds(b, fd, running.epoch, arrays, want, signals.as_deref())
}

/// A loop runs, until this is dropped.
struct Running<'a> {
    b: &'a Binding,
    epoch: u32,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if self.b.epoch() == self.epoch {
            // It has been seen.
            self.b.kloop_stop.store(false, Release);
        }
        self.b.kloop_runs.store(false, Release);
    }
}

fn rounds(
    b: &Binding,
    fd: c_int,
    epoch: u32,
    arrays: (u64, u64),
    want: &Kloop,
    signals: Option<&[Signals]>,
) -> Result<(), Errno> {
    let (ntx, nrx) = {
        let tx = b.tx.lock().as_ref().map_or(0, |tx| tx.side.count());
        let rx = b.rx.lock().rx.as_ref().map_or(0, |rx| rx.side.count());
        (tx, rx)
    };
    // SAFETY: checked when they were given; a program that has unmapped them
    // since gets the fault itself.
    let blocks = unsafe { blocks(arrays, ntx + nrx) };
    let event_driven = signals.is_some_and(|all| !all.is_empty() && all.iter().all(|s| s.io >= 0));
    while !b.kloop_stop.load(Acquire) && b.epoch() == epoch {
        if b.state() != state::CSB {
            return Err(Errno::ENXIO);
        }
        let Found { news, is_over } = round(b, &blocks, ntx, signals.unwrap_or_default());
        if is_over {
            b.stop_driving(fd);
        }
        if news {
            continue;
        }
        if event_driven {
            rest(b, &blocks, signals.unwrap_or_default(), ntx);
        } else if want.sleep_us > 0 {
            std::thread::sleep(Duration::from_micros(u64::from(want.sleep_us)));
        } else {
            std::thread::yield_now();
        }
    }
    Ok(())
}

/// What a round found.
#[derive(Default)]
struct Found {
    /// Something moved.
    news: bool,
    /// The server must drive the queues behind the rings.
    is_over: bool,
}

/// Syncs all rings, and tells the program of those where something moved.
fn round(b: &Binding, blocks: &[Block<'_>], ntx: usize, signals: &[Signals]) -> Found {
    let mut all = Found::default();
    for (i, block) in blocks.iter().enumerate() {
        let Found { news, is_over } = serve(b, i, ntx, block);
        all.news |= news;
        all.is_over |= is_over;
        if let Some(s) = signals.get(i)
            && s.irq >= 0
            && news
            && block.wants_kick.load(SeqCst) != 0
        {
            let one = 1u64;
            // SAFETY: writes 8 bytes of ours.
            unsafe { libc::syscall(libc::SYS_write, s.irq, &raw const one, 8usize) };
        }
    }
    all
}

/// Syncs one ring.
fn serve(b: &Binding, i: usize, ntx: usize, block: &Block<'_>) -> Found {
    // The program writes cur after head is valid, so it is read first.
    let cur = block.cur.load(Acquire);
    let head = block.head.load(Acquire);
    let sync = |ring: Option<netvale_ring::Ring<'_>>| {
        let ring = ring?;
        ring.set_head(head);
        ring.set_cur(cur);
        Some(())
    };
    let before = (block.hwcur.load(Relaxed), block.hwtail.load(Relaxed));
    let none = Found::default();
    let (is_over, (hwcur, hwtail)) = if i < ntx {
        let mut tx = b.tx.lock();
        let Some(tx) = &mut *tx else { return none };
        if sync(tx.side.ring(i)).is_none() {
            return none;
        }
        let is_over = tx.side.sync_one(i);
        let ring = tx.side.ring(i);
        (is_over, ring.map_or(before, |r| (r.head(), r.tail())))
    } else {
        let mut lane = b.rx.lock();
        let Some(rx) = &mut lane.rx else { return none };
        if sync(rx.side.ring(i - ntx)).is_none() {
            return none;
        }
        let is_over = rx.side.sync_one(i - ntx);
        let ring = rx.side.ring(i - ntx);
        (is_over, ring.map_or(before, |r| (r.head(), r.tail())))
    };
    // The program reads them in the other order.
    block.hwcur.store(hwcur, Release);
    block.hwtail.store(hwtail, Release);
    Found {
        news: before != (hwcur, hwtail),
        is_over,
    }
}

/// Sleeps until the program signals a ring, or frames arrive.
fn rest(b: &Binding, blocks: &[Block<'_>], signals: &[Signals], ntx: usize) {
    let events = libc::POLLIN | libc::POLLOUT;
    for block in blocks {
        block.takes_kick.store(1, SeqCst);
    }
    let armed = b.arm(events);
    let mut fds: Vec<libc::pollfd> = signals
        .iter()
        .map(|s| s.io)
        .chain(b.wake_fd(events))
        .map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    // What came before the announcement.
    let found = round(b, blocks, ntx, signals);
    if !found.news && !found.is_over {
        let t = to_timespec(match armed {
            Some(true) => SLICE,
            _ => SHARED_SLICE,
        });
        // SAFETY: as many entries as said.
        let _ = unsafe {
            real::ppoll(
                fds.as_mut_ptr(),
                fds.len() as libc::nfds_t,
                &raw const t,
                std::ptr::null(),
            )
        };
        for p in fds.iter().take(signals.len()).filter(|p| p.revents != 0) {
            let mut count = 0u64;
            // SAFETY: reads 8 bytes into ours.
            unsafe { libc::syscall(libc::SYS_read, p.fd, &raw mut count, 8usize) };
        }
    }
    if armed.is_some() {
        b.disarm(events);
    }
    for block in blocks {
        block.takes_kick.store(0, SeqCst);
    }
}

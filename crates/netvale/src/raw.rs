//! The raw limit of this machine: the least that moving frames between rings
//! costs, without any of the engine. Measured beside every figure of ours, so
//! that ratios mean something on a noisy machine.
//!
//! Each loop does what nobody who moves frames between rings can leave out, and
//! nothing else: no checks of what peers wrote, no counters, no ownership, one
//! receiver. Rings have 1024 slots of 16 bytes and buffers 2112 bytes apart, as
//! real ports have.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netvale_ring::Slot;
use netvale_ring::layout::BUF_SIZE;
use netvale_shm::{Bufs, HugePages, Mem, Memfd};

const SLOTS: u32 = 1024;
/// Words of a ring: a slot is two.
const RING_WORDS: usize = SLOTS as usize * 2;
/// Entries of the table in which both addresses are looked up.
const TABLE: usize = 4096;
/// A receiver gives slots back at least this often. Fewer, larger steps make
/// the sender wait, more of them only move the index to and fro.
const GIVE_BACK: u32 = 64;
/// Slots of 16 bytes in a cache line.
const SLOTS_PER_LINE: u32 = 4;
/// A sender asks for the receiver's slots so far ahead. Otherwise each line of
/// them travels twice: to be read, and then to be written.
const AHEAD: u32 = 64;

/// Memory of two rings with their buffers and a table.
#[derive(Debug)]
struct Bed {
    mem: Mem,
}

/// [`Bed`], seen as what it holds.
#[derive(Clone, Copy)]
struct View<'a> {
    /// Slots of the sender and of the receiver.
    rings: [&'a [AtomicU64; RING_WORDS]; 2],
    table: &'a [AtomicU64; TABLE],
    bufs: Bufs<'a>,
    /// The receiver's slots again, as cache lines to be asked for.
    lines: Bufs<'a>,
}

impl Bed {
    const RING: usize = RING_WORDS * 8;
    const TABLE: usize = 2 * Self::RING;
    const BUFS: usize = Self::TABLE + TABLE * 8;
    const LEN: usize = Self::BUFS + 2 * SLOTS as usize * BUF_SIZE as usize;

    fn new(len: u16) -> Option<Self> {
        let mem = Memfd::create("netvale-raw", Self::LEN, HugePages::Auto)
            .and_then(|f| f.map())
            .ok()?;
        let bed = Self { mem };
        let view = bed.view()?;
        // Every page is there before anything is measured.
        let mut frame = [0u8; BUF_SIZE as usize];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        for (ring, first) in view.rings.iter().zip([0, SLOTS]) {
            for i in 0..SLOTS {
                let slot = Slot::new(first + i, len.min(max_len()), 0);
                ring[i as usize * 2].store(slot.bits(), Ordering::Relaxed);
                if !view.bufs.write(first + i, 0, &frame) {
                    return None;
                }
            }
        }
        Some(bed)
    }

    fn view(&self) -> Option<View<'_>> {
        Some(View {
            rings: [self.mem.array(0)?, self.mem.array(Self::RING)?],
            table: self.mem.array(Self::TABLE)?,
            bufs: self.mem.bufs(Self::BUFS, 2 * SLOTS, BUF_SIZE)?,
            lines: self.mem.bufs(Self::RING, SLOTS / SLOTS_PER_LINE, 64)?,
        })
    }
}

fn max_len() -> u16 {
    u16::try_from(BUF_SIZE).unwrap_or(u16::MAX)
}

/// One thread, two rings of 1024 slots: look both addresses of each frame up
/// in a table, copy `len` bytes (in blocks of 64, at most a buffer), write both
/// slots. Frames per second; 0 if there is no memory.
#[must_use]
pub fn one_core_copy(len: u16, batch: u32, time: Duration) -> f64 {
    one_core::<false, true>(len, batch, time).unwrap_or(0.0)
}

/// The same, exchanging buffer indices instead of copying.
#[must_use]
pub fn one_core_swap(len: u16, batch: u32, time: Duration) -> f64 {
    one_core::<true, true>(len, batch, time).unwrap_or(0.0)
}

/// The same without any look-up, as in a pipe: slots only.
#[must_use]
pub fn one_core_ring(batch: u32, time: Duration) -> f64 {
    one_core::<true, false>(60, batch, time).unwrap_or(0.0)
}

fn one_core<const SWAP: bool, const LOOK: bool>(
    len: u16,
    batch: u32,
    time: Duration,
) -> Option<f64> {
    let bed = Bed::new(len)?;
    let view = bed.view()?;
    let batch = batch.max(1);
    // Warm up: twice round the rings.
    let mut at = 0;
    let mut seen = pass::<SWAP, LOOK>(&view, &mut at, SLOTS * 2)?;
    let start = Instant::now();
    let mut frames = 0u64;
    loop {
        let mut done = 0;
        while done < 4096 {
            seen ^= pass::<SWAP, LOOK>(&view, &mut at, batch)?;
            done += batch;
        }
        frames += u64::from(done);
        let took = start.elapsed();
        if took >= time {
            black_box(seen);
            return Some(frames as f64 / took.as_secs_f64());
        }
    }
}

/// Moves `n` frames from the first ring to the second.
#[inline]
fn pass<const SWAP: bool, const LOOK: bool>(v: &View<'_>, at: &mut u32, n: u32) -> Option<u64> {
    let (bufs, [a, b]) = (v.bufs, v.rings);
    let mut seen = 0;
    for _ in 0..n {
        let i = (*at % SLOTS) as usize * 2;
        *at = at.wrapping_add(1);
        let src = Slot::from_bits(a[i].load(Ordering::Relaxed));
        let dst = Slot::from_bits(b[i].load(Ordering::Relaxed));
        if LOOK {
            let (x, y) = bufs.head(src.buf(), 0)?;
            let to = x & 0xffff_ffff_ffff;
            let from = x >> 48 | (y & 0xffff_ffff) << 16;
            seen ^= v.table[hash(to)].load(Ordering::Relaxed);
            seen ^= v.table[hash(from)].load(Ordering::Relaxed);
        }
        let (give, keep) = if SWAP {
            (src, dst)
        } else {
            if !bufs.copy_from(dst.buf(), bufs, src.buf(), usize::from(src.len())) {
                return None;
            }
            (Slot::new(dst.buf(), src.len(), 0), src)
        };
        b[i].store(give.bits(), Ordering::Relaxed);
        a[i].store(keep.bits(), Ordering::Relaxed);
    }
    // Publishes the batch, as a head index would.
    v.rings[1][1].store(u64::from(*at), Ordering::Release);
    Some(seen)
}

#[inline]
fn hash(mac: u64) -> usize {
    (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % TABLE
}

/// One core copies `len` bytes between buffers of 2048 bytes that are all in
/// its cache (16 of each side): bytes per second.
#[must_use]
pub fn memcpy(len: u16, time: Duration) -> f64 {
    memcpy_in(len, time).unwrap_or(0.0)
}

fn memcpy_in(len: u16, time: Duration) -> Option<f64> {
    let bed = Bed::new(len)?;
    let bufs = bed.view()?.bufs;
    let len = usize::from(len.min(max_len()));
    let start = Instant::now();
    let mut copies = 0u64;
    loop {
        for i in 0..4096 {
            let i = black_box(i % 16);
            if !bufs.copy_bytes(SLOTS + i, 0, bufs, i, 0, len) {
                return None;
            }
        }
        copies += 4096;
        let took = start.elapsed();
        if took >= time {
            return Some(copies as f64 * len as f64 / took.as_secs_f64());
        }
    }
}

/// What one of the cheapest system calls costs. Nanoseconds.
#[must_use]
pub fn syscall_ns(time: Duration) -> f64 {
    let start = Instant::now();
    let mut calls = 0u64;
    loop {
        for _ in 0..1024 {
            black_box(rustix::process::getppid());
        }
        calls += 1024;
        let took = start.elapsed();
        if took >= time {
            return took.as_secs_f64() * 1e9 / calls as f64;
        }
    }
}

/// What the receiving core of a two-core loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// Reads the first 8 bytes of each frame.
    Reads,
    /// Reads the slots only: how many frames, and how long.
    Counts,
}

/// Two threads on `cpus`: the first copies `len` bytes into the other's
/// buffers, without any look-up, writes the slot, and publishes `batch` of them
/// at once; slots come back through a second index. Frames per second that
/// arrived.
#[must_use]
pub fn two_core_copy(
    cpus: [usize; 2],
    len: u16,
    batch: u32,
    time: Duration,
    receiver: Receiver,
) -> f64 {
    two_cores::<true>(cpus, len, batch, time, receiver)
}

/// The same without the payload: the sender exchanges indices of buffers that
/// it does not touch.
#[must_use]
pub fn two_core_ring(cpus: [usize; 2], batch: u32, time: Duration, receiver: Receiver) -> f64 {
    two_cores::<false>(cpus, 60, batch, time, receiver)
}

fn two_cores<const COPY: bool>(
    cpus: [usize; 2],
    len: u16,
    batch: u32,
    time: Duration,
    receiver: Receiver,
) -> f64 {
    let Some(bed) = Bed::new(len) else { return 0.0 };
    let Some(view) = bed.view() else { return 0.0 };
    let lines = Lines::default();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let _ = crate::pin_to_cpu(cpus[0]);
            let _end = EndOnDrop(&lines.stop);
            // Measured: where payloads are copied and not read, the copies
            // already keep the way between the cores busy.
            let ask = !COPY || receiver == Receiver::Reads;
            send::<COPY>(view, &lines, batch.clamp(1, SLOTS / 2), time, ask)
        });
        let received = scope.spawn(|| {
            let _ = crate::pin_to_cpu(cpus[1]);
            match receiver {
                Receiver::Reads => receive::<true>(view, &lines),
                Receiver::Counts => receive::<false>(view, &lines),
            }
        });
        let rate = sender.join().ok().flatten().unwrap_or(0.0);
        if received.join().is_ok() { rate } else { 0.0 }
    })
}

/// The words that two cores share, each in lines of its own.
#[derive(Debug, Default)]
struct Lines {
    head: Line,
    tail: Line,
    stop: Flag,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU32);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Flag(AtomicBool);

/// The receiver ends when the sender does, whatever the reason.
struct EndOnDrop<'a>(&'a Flag);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Release);
    }
}

fn send<const COPY: bool>(
    v: View<'_>,
    lines: &Lines,
    batch: u32,
    time: Duration,
    ask: bool,
) -> Option<f64> {
    let (bufs, [a, b]) = (v.bufs, v.rings);
    let start = Instant::now();
    // Frames sent, and of those given back as far as we know.
    let (mut at, mut tail, mut turns) = (0u32, 0u32, 0u32);
    let mut total = 0u64;
    loop {
        turns = turns.wrapping_add(1);
        if turns.is_multiple_of(256) && start.elapsed() >= time {
            break;
        }
        if SLOTS - at.wrapping_sub(tail) < batch {
            tail = lines.tail.0.load(Ordering::Acquire);
            if SLOTS - at.wrapping_sub(tail) < batch {
                std::hint::spin_loop();
                continue;
            }
        }
        for _ in 0..batch {
            if ask && at.is_multiple_of(SLOTS_PER_LINE) {
                let line = (at.wrapping_add(AHEAD) % SLOTS) / SLOTS_PER_LINE;
                v.lines.prefetch_write(line);
            }
            let i = (at % SLOTS) as usize * 2;
            at = at.wrapping_add(1);
            let src = Slot::from_bits(a[i].load(Ordering::Relaxed));
            let dst = Slot::from_bits(b[i].load(Ordering::Relaxed));
            if COPY {
                if !bufs.copy_from(dst.buf(), bufs, src.buf(), usize::from(src.len())) {
                    return None;
                }
                b[i].store(Slot::new(dst.buf(), src.len(), 0).bits(), Ordering::Relaxed);
            } else {
                b[i].store(Slot::new(src.buf(), src.len(), 0).bits(), Ordering::Relaxed);
                a[i].store(Slot::new(dst.buf(), src.len(), 0).bits(), Ordering::Relaxed);
            }
        }
        lines.head.0.store(at, Ordering::Release);
        total += u64::from(batch);
    }
    Some(total as f64 / start.elapsed().as_secs_f64())
}

fn receive<const READS: bool>(v: View<'_>, lines: &Lines) -> Option<u64> {
    let (bufs, b) = (v.bufs, v.rings[1]);
    let (mut at, mut seen) = (0u32, 0u64);
    loop {
        let to = lines.head.0.load(Ordering::Acquire);
        if to == at {
            if lines.stop.0.load(Ordering::Acquire) {
                return Some(black_box(seen));
            }
            std::hint::spin_loop();
            continue;
        }
        while at != to {
            let n = to.wrapping_sub(at).min(GIVE_BACK);
            for k in 0..n {
                let i = (at.wrapping_add(k) % SLOTS) as usize * 2;
                let slot = Slot::from_bits(b[i].load(Ordering::Relaxed));
                seen = seen.wrapping_add(if READS {
                    bufs.head(slot.buf(), 0)?.0
                } else {
                    u64::from(slot.len())
                });
            }
            at = at.wrapping_add(n);
            lines.tail.0.store(at, Ordering::Release);
        }
    }
}

/// How far apart two cores are now: the median time, in nanoseconds, that a
/// cache line takes there and back. The host moves virtual cores about, so
/// this is asked before and after every two-core figure.
#[must_use]
pub fn core_distance_ns(a: usize, b: usize) -> u64 {
    const ROUNDS: u32 = 2000;
    let (ping, pong) = (Line::default(), Line::default());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = crate::pin_to_cpu(b);
            for i in 1..=ROUNDS {
                while ping.0.load(Ordering::Acquire) != i {
                    std::hint::spin_loop();
                }
                pong.0.store(i, Ordering::Release);
            }
        });
        let probe = scope.spawn(|| {
            let _ = crate::pin_to_cpu(a);
            let mut times = Vec::with_capacity(ROUNDS as usize);
            for i in 1..=ROUNDS {
                let start = Instant::now();
                ping.0.store(i, Ordering::Release);
                while pong.0.load(Ordering::Acquire) != i {
                    std::hint::spin_loop();
                }
                times.push(start.elapsed().as_nanos());
            }
            times.sort_unstable();
            times[times.len() / 2]
        });
        probe.join().map_or(0, |ns| u64::try_from(ns).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(5);

    #[test]
    fn every_loop_moves_frames() {
        assert!(one_core_copy(60, 512, TIME) > 0.0);
        assert!(one_core_copy(u16::MAX, 1, TIME) > 0.0);
        assert!(one_core_swap(60, 0, TIME) > 0.0);
        assert!(one_core_ring(16, TIME) > 0.0);
        assert!(memcpy(1514, TIME) > 0.0);
        assert!(syscall_ns(TIME) > 0.0);
    }

    #[test]
    fn two_threads_come_to_an_end() {
        for receiver in [Receiver::Reads, Receiver::Counts] {
            // On a single CPU they take turns, and still end.
            assert!(two_core_copy([0, 0], 60, 64, TIME, receiver) > 0.0);
            assert!(two_core_ring([0, 0], 4096, TIME, receiver) > 0.0);
        }
    }

    #[test]
    fn a_swap_keeps_every_buffer() {
        let bed = Bed::new(60).expect("memory");
        let view = bed.view().expect("as it was made");
        let mut at = 0;
        pass::<true, true>(&view, &mut at, 1500).expect("valid slots");
        let mut bufs: Vec<u32> = view
            .rings
            .iter()
            .flat_map(|ring| ring.iter().step_by(2))
            .map(|word| Slot::from_bits(word.load(Ordering::Relaxed)).buf())
            .collect();
        bufs.sort_unstable();
        assert!(bufs.into_iter().eq(0..2 * SLOTS));
    }
}

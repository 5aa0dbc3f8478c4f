//! The raw limit of this machine: the least that moving frames between rings
//! costs, without any of the engine. Measured beside every figure of ours, so
//! that ratios mean something on a noisy machine.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use netvale_ring::Slot;
use netvale_ring::layout::BUF_SIZE;
use netvale_shm::{HugePages, Mem, Memfd};

const SLOTS: u32 = 1024;
/// Entries of the table in which both addresses are looked up.
const TABLE: usize = 4096;

/// Memory of two rings with their buffers and a table.
#[derive(Debug)]
struct Bed {
    mem: Mem,
}

impl Bed {
    const RINGS: usize = 0;
    const RING: usize = SLOTS as usize * 16;
    const TABLE: usize = Self::RINGS + 2 * Self::RING;
    const BUFS: usize = Self::TABLE + TABLE * 8;
    const LEN: usize = Self::BUFS + 2 * SLOTS as usize * BUF_SIZE as usize;

    fn new(len: u16) -> Option<Self> {
        let mem = Memfd::create("netvale-raw", Self::LEN, HugePages::Auto)
            .and_then(|f| f.map())
            .ok()?;
        let bed = Self { mem };
        for ring in 0..2 {
            let slots = bed.ring(ring)?;
            for i in 0..SLOTS {
                let buf = ring * SLOTS + i;
                slots
                    .get(i as usize * 2)?
                    .store(Slot::new(buf, len, 0).bits(), Ordering::Relaxed);
                let frame = [0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 8, 0];
                if !bed.bufs()?.write(buf, 0, &frame) {
                    return None;
                }
            }
        }
        Some(bed)
    }

    fn ring(&self, i: u32) -> Option<&[AtomicU64]> {
        self.mem
            .words(Self::RINGS + i as usize * Self::RING, SLOTS as usize * 2)
    }

    fn bufs(&self) -> Option<netvale_shm::Bufs<'_>> {
        self.mem.bufs(Self::BUFS, 2 * SLOTS, BUF_SIZE)
    }

    fn table(&self) -> Option<&[AtomicU64]> {
        self.mem.words(Self::TABLE, TABLE)
    }
}

/// What a round of the loop does with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Copy,
    Swap,
}

/// One thread, two rings of 1024 slots: look both addresses of each frame up
/// in a table, copy `len` bytes, write both slots. Frames per second.
#[must_use]
pub fn one_core_copy(len: u16, batch: u32, time: Duration) -> f64 {
    one_core(len, batch, time, Move::Copy)
}

/// The same, exchanging buffer indices instead of copying.
#[must_use]
pub fn one_core_swap(len: u16, batch: u32, time: Duration) -> f64 {
    one_core(len, batch, time, Move::Swap)
}

fn one_core(len: u16, batch: u32, time: Duration, how: Move) -> f64 {
    let Some(bed) = Bed::new(len) else { return 0.0 };
    let (Some(a), Some(b), Some(bufs), Some(table)) =
        (bed.ring(0), bed.ring(1), bed.bufs(), bed.table())
    else {
        return 0.0;
    };
    let start = Instant::now();
    let (mut frames, mut at) = (0u64, 0u32);
    loop {
        for _ in 0..16 {
            for _ in 0..batch {
                let i = at as usize * 2;
                at = (at + 1) % SLOTS;
                let src = Slot::from_bits(a[i].load(Ordering::Relaxed));
                let dst = Slot::from_bits(b[i].load(Ordering::Relaxed));
                let Some((x, y)) = bufs.head(src.buf(), 0) else {
                    return 0.0;
                };
                let mac = x & 0xffff_ffff_ffff;
                let from = x >> 48 | (y & 0xffff_ffff) << 16;
                black_box(table[hash(mac)].load(Ordering::Relaxed));
                black_box(table[hash(from)].load(Ordering::Relaxed));
                match how {
                    Move::Copy => {
                        if !bufs.copy_from(dst.buf(), bufs, src.buf(), usize::from(src.len())) {
                            return 0.0;
                        }
                        let put = Slot::new(dst.buf(), src.len(), 0);
                        b[i].store(put.bits(), Ordering::Relaxed);
                        a[i].store(src.bits(), Ordering::Relaxed);
                    }
                    Move::Swap => {
                        b[i].store(src.bits(), Ordering::Relaxed);
                        a[i].store(dst.with_flags(1).bits(), Ordering::Relaxed);
                    }
                }
            }
            frames += u64::from(batch);
        }
        let took = start.elapsed();
        if took >= time {
            return frames as f64 / took.as_secs_f64();
        }
    }
}

#[inline]
fn hash(mac: u64) -> usize {
    (mac.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % TABLE
}

/// Two threads on two cores: one copies `len` bytes into the other's buffers,
/// which are given back through a second index; the receiver reads the first
/// bytes of each frame if `reads`. Frames per second.
#[must_use]
pub fn two_core_copy(len: u16, batch: u32, time: Duration, reads: bool) -> f64 {
    let Some(bed) = Bed::new(len) else { return 0.0 };
    let (head, tail) = (Line::default(), Line::default());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let _ = crate::pin_to_cpu(1);
            receive(&bed, &head, &tail, &stop, reads)
        });
        let _ = crate::pin_to_cpu(0);
        let rate = send(&bed, &head, &tail, batch, time);
        stop.store(true, Ordering::Relaxed);
        let _ = receiver.join();
        let _ = crate::unpin();
        rate.unwrap_or(0.0)
    })
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line(AtomicU32);

fn send(bed: &Bed, head: &Line, tail: &Line, batch: u32, time: Duration) -> Option<f64> {
    let (a, b, bufs) = (bed.ring(0)?, bed.ring(1)?, bed.bufs()?);
    let start = Instant::now();
    let (mut at, mut sent, mut spins) = (0u32, 0u64, 0u32);
    loop {
        let free = SLOTS - 1 - at.wrapping_sub(tail.0.load(Ordering::Acquire));
        let n = free.min(batch);
        if n < batch.min(64) {
            std::hint::spin_loop();
            spins += 1;
            if spins.is_multiple_of(1024) && start.elapsed() >= time {
                break;
            }
            continue;
        }
        for _ in 0..n {
            let i = (at % SLOTS) as usize * 2;
            at = at.wrapping_add(1);
            let src = Slot::from_bits(a[i].load(Ordering::Relaxed));
            let dst = Slot::from_bits(b[i].load(Ordering::Relaxed));
            if !bufs.copy_from(dst.buf(), bufs, src.buf(), usize::from(src.len())) {
                return None;
            }
            b[i].store(Slot::new(dst.buf(), src.len(), 0).bits(), Ordering::Relaxed);
        }
        head.0.store(at, Ordering::Release);
        sent += u64::from(n);
        spins += 1;
        if spins.is_multiple_of(256) && start.elapsed() >= time {
            break;
        }
    }
    Some(sent as f64 / start.elapsed().as_secs_f64())
}

fn receive(bed: &Bed, head: &Line, tail: &Line, stop: &AtomicBool, reads: bool) -> Option<u64> {
    let (b, bufs) = (bed.ring(1)?, bed.bufs()?);
    let (mut at, mut sum) = (0u32, 0u64);
    while !stop.load(Ordering::Relaxed) {
        let to = head.0.load(Ordering::Acquire);
        if to == at {
            std::hint::spin_loop();
            continue;
        }
        while at != to {
            if reads {
                let slot = Slot::from_bits(b[(at % SLOTS) as usize * 2].load(Ordering::Relaxed));
                sum = sum.wrapping_add(bufs.head(slot.buf(), 0)?.0);
            }
            at = at.wrapping_add(1);
        }
        tail.0.store(at, Ordering::Release);
    }
    Some(black_box(sum))
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

//! A sender and a receiver at full speed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netvale::{Namespace, Port, PushError, RxRing, TxRing};
use netvale_wire::eth::EthHdr;
use netvale_wire::mac::MacAddr;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::{Case, Path, broken};
use crate::failure::{Result, io_error};
use crate::signals::Stop;
use crate::units::per_second;

/// Frames per batch.
const BATCH: u32 = 512;
/// How often the line of progress changes.
const REFRESH: Duration = Duration::from_millis(250);
/// Of this many batches, the first frame of one is compared.
const CHECK_EVERY: u64 = 16;
/// Batches between two looks at the clock.
const CLOCK_EVERY: u64 = 64;
/// Ethertype for local experiments (IEEE 802, 88b5).
const ETHERTYPE: u16 = 0x88b5;
const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const RECEIVER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// What one row measured.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// From the first frame received to the last.
    pub(super) seconds: f64,
    pub(super) checked: u64,
    pub(super) corrupt: u64,
}

impl Measured {
    pub(super) fn pps(&self) -> f64 {
        per_second(self.received, self.seconds)
    }
}

/// The rate of the last moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) pps: f64,
}

/// CPUs that this process may use, at least one.
pub(super) fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None)
        .map_err(|e| io_error("cannot tell which CPUs may be used", &e.into()))?;
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| set.is_set(cpu))
        .collect();
    if cpus.is_empty() {
        return Err(broken("no CPU may be used").into());
    }
    Ok(cpus)
}

/// Measures one row for `time`.
pub(super) fn run(
    case: Case,
    time: Duration,
    cpus: &[usize],
    stop: &Stop,
    show: impl Fn(Progress),
) -> Result<Measured> {
    let namespace = Namespace::embedded()?;
    let (mut tx, mut rx) = open(&namespace, case.path)?;
    let frame = frame(case.len);
    if case.path != Path::Pipe {
        introduce(&mut rx)?;
    }
    fill(&mut tx, &mut rx, &frame)?;
    if let [first, second, ..] = *cpus {
        let run = Shared::default();
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let _end = EndOnDrop(&run);
                netvale::pin_to_cpu(second)?;
                send(tx, &frame, &run)
            });
            let receiver = scope.spawn(|| {
                let _end = EndOnDrop(&run);
                netvale::pin_to_cpu(first)?;
                receive(rx, &frame, &run)
            });
            watch(time, stop, &run, show);
            let sent = join(sender);
            let received = join(receiver);
            Ok(Measured {
                sent: sent?,
                ..received?
            })
        })
    } else {
        take_turns(tx, rx, &frame, time, stop, show)
    }
}

fn open(namespace: &Namespace, path: Path) -> Result<(Port, Port)> {
    let (from, to) = match path {
        Path::Copy | Path::Move => ("vale0:from", "vale0:to"),
        Path::Pipe => ("vale0:p{1", "vale0:p}1"),
    };
    let keep = path == Path::Copy;
    let from = namespace.port(from).keep_buffers(keep).open()?;
    Ok((from, namespace.open(to)?))
}

/// The frame that is sent, again and again.
fn frame(len: u16) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=250u8).cycle().take(usize::from(len)).collect();
    // Every frame of the demo is longer than its header.
    let _ = EthHdr::new(RECEIVER, SENDER, ETHERTYPE).write(&mut frame);
    frame
}

/// Lets the switch learn where the receiver is.
fn introduce(rx: &mut Port) -> Result<()> {
    let mut hello = [0u8; 60];
    let _ = EthHdr::new(SENDER, RECEIVER, ETHERTYPE).write(&mut hello);
    let ring = rx.tx(0);
    ring.push(&hello)
        .map_err(|e: PushError| broken(&format!("the first frame could not be sent: {e}")))?;
    ring.sync()?;
    Ok(())
}

/// Puts the frame into all buffers that will travel, so that a sender who
/// gives buffers away gets such back that hold the frame already.
fn fill(tx: &mut Port, rx: &mut Port, frame: &[u8]) -> Result<()> {
    let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
    // Once round the sender's ring and once round the receiver's.
    for _ in 0..3 {
        let ring = tx.tx(0);
        ring.sync()?;
        ring.fill(frame)
            .map_err(|e: PushError| broken(&format!("buffers cannot be filled: {e}")))?;
        let slots = ring.space();
        ring.push_resident(slots, len);
        ring.sync()?;
        let ring = rx.rx(0);
        let available = ring.sync()?;
        ring.discard(available);
        ring.sync()?;
    }
    tx.tx(0).sync()?;
    Ok(())
}

/// What the threads of a row share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    received: AtomicU64,
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Ends a row when one of its threads does, whatever the reason.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Queues and sends a batch; returns frames sent.
fn send_batch(ring: &mut TxRing, frame: &[u8]) -> Result<u32> {
    let len = u16::try_from(frame.len()).unwrap_or(u16::MAX);
    if ring.space() == 0 {
        ring.sync()?;
    }
    let queued = ring.push_resident(BATCH, len);
    ring.sync()?;
    Ok(queued)
}

fn send(mut port: Port, frame: &[u8], run: &Shared) -> Result<u64> {
    let mut sent = 0;
    while !run.stopped() {
        let queued = send_batch(port.tx(0), frame)?;
        if queued == 0 {
            std::hint::spin_loop();
        }
        sent += u64::from(queued);
    }
    Ok(sent)
}

/// Counts frames, and compares some.
#[derive(Default)]
struct Counter {
    measured: Measured,
    batches: u64,
    first: Option<Instant>,
    bytes: Vec<u8>,
}

impl Counter {
    /// Takes all that is there; returns frames.
    fn take(&mut self, ring: &mut RxRing, frame: &[u8]) -> Result<u32> {
        let available = ring.sync()?;
        if available == 0 {
            return Ok(0);
        }
        let mut frames = 0;
        if self.batches.is_multiple_of(CHECK_EVERY)
            && let Some(received) = ring.next()
        {
            frames += 1;
            received.read_to(&mut self.bytes);
            self.measured.checked += 1;
            self.measured.corrupt += u64::from(self.bytes != frame);
        }
        frames += ring.discard(available - frames).0;
        self.measured.received += u64::from(frames);
        self.first.get_or_insert_with(Instant::now);
        self.batches += 1;
        Ok(frames)
    }

    fn finish(mut self) -> Measured {
        if let Some(first) = self.first {
            self.measured.seconds = first.elapsed().as_secs_f64();
        }
        self.measured
    }
}

fn receive(mut port: Port, frame: &[u8], run: &Shared) -> Result<Measured> {
    let mut counter = Counter::default();
    while !run.stopped() {
        if counter.take(port.rx(0), frame)? == 0 {
            std::hint::spin_loop();
        }
        run.received
            .store(counter.measured.received, Ordering::Relaxed);
    }
    Ok(counter.finish())
}

/// Shows the rate until the time is over, then stops the threads.
fn watch(time: Duration, stop: &Stop, run: &Shared, show: impl Fn(Progress)) {
    let end = Instant::now() + time;
    let mut before = (Instant::now(), 0);
    while !stop.requested() && !run.stopped() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        thread::sleep(left.min(REFRESH));
        before = progress(before, run.received.load(Ordering::Relaxed), &show);
    }
    run.stop.store(true, Ordering::Relaxed);
}

fn progress(before: (Instant, u64), received: u64, show: &impl Fn(Progress)) -> (Instant, u64) {
    let now = Instant::now();
    let seconds = (now - before.0).as_secs_f64();
    show(Progress {
        pps: per_second(received - before.1, seconds),
    });
    (now, received)
}

/// With a single CPU, sending and receiving take turns.
fn take_turns(
    mut tx: Port,
    mut rx: Port,
    frame: &[u8],
    time: Duration,
    stop: &Stop,
    show: impl Fn(Progress),
) -> Result<Measured> {
    let end = Instant::now() + time;
    let mut counter = Counter::default();
    let mut sent = 0;
    let mut before = (Instant::now(), 0);
    while !stop.requested() {
        for _ in 0..CLOCK_EVERY {
            sent += u64::from(send_batch(tx.tx(0), frame)?);
            counter.take(rx.rx(0), frame)?;
        }
        let now = Instant::now();
        if now >= end {
            break;
        }
        if now - before.0 >= REFRESH {
            before = progress(before, counter.measured.received, &show);
        }
    }
    Ok(Measured {
        sent,
        ..counter.finish()
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

//! The sending thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use netvale::{Error, ErrorKind, PushError, Result, TxRing};

use super::config::{Config, Function};
use super::flow::Random;
use super::frame::Frames;
use super::lane::TxLane;
use super::meter::{Meter, Run};
use super::pace::{Pacer, pause};
use crate::signals::{POLL_PERIOD, Stop};

/// How long the end of a run waits for a pipe's receiver to take what is left.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Where the bytes of the packets come from.
enum Source {
    /// The buffers hold the packet already and keep it.
    Resident { len: u16 },
    /// As `Resident`, but a few bytes change from packet to packet.
    Poked { frames: Frames, seq: Option<u32> },
    /// Each packet is written.
    Written { frames: Frames, seq: Option<u32> },
    /// Packets of a file, over and over.
    Replay {
        packets: Arc<[Vec<u8>]>,
        next: usize,
    },
}

/// One thread that sends.
pub(super) struct Sender<'a> {
    config: &'a Config,
    run: &'a Run,
    meter: &'a Meter,
    stop: &'a Stop,
    source: Source,
    random: Random,
    /// Packets left to send; `None`: no end.
    left: Option<u64>,
    pacer: Option<Pacer>,
}

impl<'a> Sender<'a> {
    /// `thread` of `config.threads`; each sends its part.
    pub(super) fn new(
        config: &'a Config,
        run: &'a Run,
        stop: &'a Stop,
        thread: u16,
        frames: Frames,
        replay: Option<Arc<[Vec<u8>]>>,
    ) -> Self {
        let threads = u64::from(config.threads);
        let share = |total: u64| total / threads + u64::from(u64::from(thread) < total % threads);
        let seq = (config.function == Function::TxSeq).then_some(0);
        let source = match replay {
            Some(packets) => Source::Replay { packets, next: 0 },
            None => Source::Written { frames, seq },
        };
        // A rate below one packet per second and thread still sends.
        let rate = config.rate_pps.map(|total| share(total).max(1));
        Self {
            config,
            run,
            meter: &run.meters[usize::from(thread)],
            stop,
            source,
            random: Random::new(u64::from(thread) + 1),
            left: (config.count > 0).then(|| share(config.count)),
            pacer: rate.map(|rate| Pacer::new(rate, config.burst, Instant::now())),
        }
    }

    /// Sends until all is sent or the run has to end.
    pub(super) fn run(mut self, lane: &mut TxLane) -> Result<()> {
        self.prepare(lane)?;
        self.meter.begin(self.run.start.elapsed());
        while !self.stop.requested() && self.left != Some(0) {
            let want = self.wanted();
            if want > 0 && self.batch(lane, want)? == 0 {
                lane.wait(POLL_PERIOD)?;
            }
        }
        drain(lane, self.stop)
    }

    /// Makes packets and sends them nowhere.
    pub(super) fn run_nowhere(mut self) {
        self.meter.begin(self.run.start.elapsed());
        while !self.stop.requested() && self.left != Some(0) {
            let want = self.wanted();
            let mut bytes = 0;
            for _ in 0..want {
                bytes += match &mut self.source {
                    Source::Resident { len } => u64::from(*len),
                    Source::Poked { frames, seq } | Source::Written { frames, seq } => {
                        step(frames, seq, self.config, &mut self.random);
                        frames.len() as u64
                    }
                    Source::Replay { packets, next } => {
                        let len = packets[*next].len();
                        *next = (*next + 1) % packets.len();
                        len as u64
                    }
                };
            }
            self.count(want, bytes);
        }
    }

    /// How many packets to send next; 0 after a pause.
    fn wanted(&mut self) -> u32 {
        let want = match self.left {
            Some(left) => {
                u32::try_from(left).map_or(self.config.burst, |n| n.min(self.config.burst))
            }
            None => self.config.burst,
        };
        if let Some(pacer) = &mut self.pacer {
            let delay = pacer.delay(Instant::now());
            if !delay.is_zero() {
                pause(delay.min(POLL_PERIOD));
                return 0;
            }
        }
        want
    }

    /// Chooses the cheapest way that sends the right bytes.
    fn prepare(&mut self, lane: &mut TxLane) -> Result<()> {
        let config = self.config;
        let Source::Written { frames, seq } = &self.source else {
            return Ok(());
        };
        let len = u16::try_from(frames.len()).ok();
        let fits = len.filter(|&len| u32::from(len) <= lane.ring(0).buf_size());
        // A pipe swaps buffers with its receiver, so they do not stay filled.
        let stays = !config.port.contains(['{', '}']);
        let one_slot = config.frag_size.is_none() && config.size_min == config.size_max;
        let Some(len) = fits.filter(|_| stays && one_slot && !config.copy) else {
            return Ok(());
        };
        if !config.rubbish {
            for i in 0..lane.count() {
                let filled = lane.ring(i).fill(frames.bytes());
                if filled.is_err() {
                    return Ok(());
                }
            }
        }
        if config.rubbish || (frames.is_constant() && seq.is_none()) {
            self.source = Source::Resident { len };
        } else if !frames.hot().is_empty() {
            self.source = Source::Poked {
                frames: frames.clone(),
                seq: *seq,
            };
        }
        Ok(())
    }

    /// Sends up to `want` packets over all rings; returns how many.
    fn batch(&mut self, lane: &mut TxLane, want: u32) -> Result<u32> {
        let mut total = 0;
        for i in 0..lane.count() {
            let ring = lane.ring(i);
            if ring.space() == 0 {
                ring.sync()?;
            }
            self.meter.space(ring.space());
            let (packets, bytes) = self.queue(ring, want - total)?;
            if packets > 0 {
                ring.sync()?;
                self.count(packets, bytes);
                total += packets;
            }
            if total == want {
                break;
            }
        }
        Ok(total)
    }

    fn count(&mut self, packets: u32, bytes: u64) {
        self.meter.batch(packets, bytes, self.run.start.elapsed());
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(u64::from(packets));
        }
        if let Some(pacer) = &mut self.pacer {
            pacer.sent(packets);
        }
    }

    /// Queues up to `want` packets; returns how many, and their bytes.
    fn queue(&mut self, ring: &mut TxRing, want: u32) -> Result<(u32, u64)> {
        let config = self.config;
        match &mut self.source {
            Source::Resident { len } => {
                let packets = ring.push_resident(want, *len);
                Ok((packets, u64::from(packets) * u64::from(*len)))
            }
            Source::Poked { frames, seq } => {
                let hot = frames.hot();
                let mut packets = 0;
                while packets < want.min(ring.space()) {
                    set_seq(frames, *seq);
                    if !ring.poke(packets, hot.start, &frames.bytes()[hot.clone()]) {
                        break;
                    }
                    step(frames, seq, config, &mut self.random);
                    packets += 1;
                }
                let len = u16::try_from(frames.len()).unwrap_or(u16::MAX);
                let queued = ring.push_resident(packets, len);
                Ok((queued, u64::from(queued) * u64::from(len)))
            }
            Source::Written { frames, seq } => {
                let (mut packets, mut bytes) = (0, 0);
                while packets < want {
                    set_seq(frames, *seq);
                    if !push(ring, frames.bytes(), config.frag_size)? {
                        break;
                    }
                    packets += 1;
                    bytes += frames.len() as u64;
                    step(frames, seq, config, &mut self.random);
                }
                Ok((packets, bytes))
            }
            Source::Replay { packets, next } => {
                let (mut count, mut bytes) = (0, 0);
                while count < want && push(ring, &packets[*next], config.frag_size)? {
                    bytes += packets[*next].len() as u64;
                    count += 1;
                    *next = (*next + 1) % packets.len();
                }
                Ok((count, bytes))
            }
        }
    }
}

fn set_seq(frames: &mut Frames, seq: Option<u32>) {
    if let Some(seq) = seq {
        frames.set_seq(seq);
    }
}

/// Moves on to the next packet.
fn step(frames: &mut Frames, seq: &mut Option<u32>, config: &Config, random: &mut Random) {
    frames.advance();
    if config.size_min != config.size_max {
        frames.resize(random.between(config.size_min, config.size_max));
    }
    if let Some(seq) = seq {
        *seq = seq.wrapping_add(1);
    }
}

/// False if the ring is full.
fn push(ring: &mut TxRing, frame: &[u8], frag_size: Option<u32>) -> Result<bool> {
    let pushed = match frag_size {
        Some(size) => ring.push_frags(frame, size as usize),
        None => ring.push(frame),
    };
    match pushed {
        Ok(()) => Ok(true),
        Err(PushError::Full) => Ok(false),
        Err(PushError::Size) => Err(Error::new(
            ErrorKind::Usage,
            format!("this port cannot send a frame of {} bytes", frame.len()),
        )
        .with_hint("a frame takes up to 64 slots; choose smaller frames or larger fragments")),
    }
}

/// Gives a pipe's receiver time to take what was sent.
fn drain(lane: &mut TxLane, stop: &Stop) -> Result<()> {
    let end = Instant::now() + DRAIN_MAX;
    loop {
        let mut pending = 0;
        for i in 0..lane.count() {
            lane.ring(i).sync()?;
            pending += lane.ring(i).pending();
        }
        if pending == 0 || stop.requested() || Instant::now() >= end {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

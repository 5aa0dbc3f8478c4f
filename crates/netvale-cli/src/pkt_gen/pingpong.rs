//! Round trips: ping sends and measures, pong sends everything back.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use netvale::{Error, ErrorKind, Port, PushError};
use serde::Serialize;

use super::config::Config;
use super::frame::{Frames, read_probe, swap_ends};
use super::meter::Run;
use super::pace::{Pacer, pause};
use crate::failure::Result;
use crate::output;
use crate::signals::{POLL_PERIOD, Stop};

/// How long ping waits for an answer before it counts the packet as lost.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Longest round trip the histogram tells apart: answers that come later are
/// not waited for.
const RTT_MAX_NS: u64 = 60_000_000_000;
/// How long `-W` waits.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// Round-trip times and losses of a ping.
#[derive(Debug)]
pub(super) struct Latency {
    histogram: Histogram<u64>,
    lost: u64,
    late: u64,
}

/// [`Latency`] for programs.
#[derive(Debug, Serialize)]
pub(super) struct LatencySummary {
    replies: u64,
    lost: u64,
    late: u64,
    rtt_ns_min: u64,
    rtt_ns_avg: f64,
    rtt_ns_p50: u64,
    rtt_ns_p99: u64,
    rtt_ns_p999: u64,
    rtt_ns_max: u64,
}

impl Latency {
    fn new() -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, RTT_MAX_NS, 3)
            .map_err(|e| Error::new(ErrorKind::Io, format!("no histogram: {e}")))?;
        Ok(Self {
            histogram,
            lost: 0,
            late: 0,
        })
    }

    /// Answers that came in time.
    pub(super) fn replies(&self) -> u64 {
        self.histogram.len()
    }

    pub(super) fn summary(&self) -> LatencySummary {
        let h = &self.histogram;
        LatencySummary {
            replies: h.len(),
            lost: self.lost,
            late: self.late,
            rtt_ns_min: h.min(),
            rtt_ns_avg: h.mean(),
            rtt_ns_p50: h.value_at_quantile(0.5),
            rtt_ns_p99: h.value_at_quantile(0.99),
            rtt_ns_p999: h.value_at_quantile(0.999),
            rtt_ns_max: h.max(),
        }
    }
}

impl LatencySummary {
    pub(super) fn text(&self) -> String {
        let us = |ns: u64| crate::units::float(ns) / 1000.0;
        format!(
            "Round trips: {} replies, {} lost, {} late; \
             min/avg/median/p99/max {:.2}/{:.2}/{:.2}/{:.2}/{:.2} usec",
            self.replies,
            self.lost,
            self.late,
            us(self.rtt_ns_min),
            self.rtt_ns_avg / 1000.0,
            us(self.rtt_ns_p50),
            us(self.rtt_ns_p99),
            us(self.rtt_ns_max),
        )
    }
}

/// One ping run.
pub(super) struct Ping<'a> {
    pub(super) config: &'a Config,
    pub(super) run: &'a Run,
    pub(super) stop: &'a Stop,
    pub(super) frames: Frames,
}

impl Ping<'_> {
    /// Sends batches of pings, each after the answers to the one before.
    pub(super) fn run(mut self, port: &mut Port) -> Result<Latency> {
        let mut latency = Latency::new()?;
        let mut seq = 0u32;
        let mut sent = 0u64;
        let count = self.config.count;
        self.run.meters[0].begin(self.run.start.elapsed());
        let mut pacer = self
            .config
            .rate_pps
            .map(|rate| Pacer::new(rate, self.config.burst, Instant::now()));
        while !self.stop.requested() && (count == 0 || sent < count) {
            if let Some(pacer) = &mut pacer {
                let delay = pacer.delay(Instant::now());
                if !delay.is_zero() {
                    pause(delay.min(POLL_PERIOD));
                    continue;
                }
            }
            let mut batch = self.config.burst;
            if count > 0 {
                batch = u32::try_from(count - sent).map_or(batch, |left| left.min(batch));
            }
            let queued = self.send(port, seq, batch)?;
            if let Some(pacer) = &mut pacer {
                pacer.sent(queued);
            }
            sent += u64::from(queued);
            self.answers(port, seq, queued, &mut latency)?;
            seq = seq.wrapping_add(queued);
        }
        Ok(latency)
    }

    fn send(&mut self, port: &mut Port, first: u32, batch: u32) -> Result<u32> {
        let mut queued = 0;
        while queued < batch {
            let now = self.now_ns();
            self.frames.set_probe(first.wrapping_add(queued), now);
            match port.tx(0).push(self.frames.bytes()) {
                Ok(()) => queued += 1,
                Err(PushError::Full) => break,
                Err(PushError::Size) => {
                    let len = self.frames.len();
                    let message = format!("this port cannot send a frame of {len} bytes");
                    return Err(Error::new(ErrorKind::Usage, message).into());
                }
            }
            self.frames.advance();
        }
        if queued == 0 {
            port.wait_tx(Some(POLL_PERIOD))?;
            port.tx(0).sync()?;
        } else {
            port.tx(0).sync()?;
            let bytes = u64::from(queued) * self.frames.len() as u64;
            self.run.meters[0].batch(queued, bytes, self.run.start.elapsed());
        }
        Ok(queued)
    }

    /// Waits until all of `first..first + batch` are answered or lost.
    fn answers(&self, port: &mut Port, first: u32, batch: u32, l: &mut Latency) -> Result<()> {
        let end = Instant::now() + ANSWER_MAX;
        let mut missing = batch;
        let at = self.frames.payload_offset();
        while missing > 0 {
            for i in 0..port.rx_count() {
                let ring = port.rx(i);
                ring.sync()?;
                while let Some(frame) = ring.next() {
                    let mut payload = [0; super::frame::PROBE_BYTES as usize];
                    let len = frame.read(at, &mut payload);
                    let Some((seq, sent_ns)) = read_probe(&payload[..len]) else {
                        continue;
                    };
                    if seq.wrapping_sub(first) < batch {
                        let rtt = self.now_ns().saturating_sub(sent_ns);
                        l.histogram.saturating_record(rtt);
                        missing = missing.saturating_sub(1);
                    } else {
                        l.late += 1;
                    }
                }
            }
            if missing == 0 || self.stop.requested() {
                break;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            port.wait_rx(Some(left.min(POLL_PERIOD)))?;
        }
        l.lost += u64::from(missing);
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.run.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Sends back what comes in, with the ends of each packet exchanged.
pub(super) fn pong(config: &Config, run: &Run, stop: &Stop, port: &mut Port) -> Result<()> {
    let mut bytes = Vec::new();
    let mut last: Option<Instant> = None;
    let mut answered = 0u64;
    let vnet_hdr = usize::from(config.vnet_hdr);
    while !stop.requested() && (config.count == 0 || answered < config.count) {
        let (mut packets, mut total) = (0, 0);
        if last.is_none() {
            run.meters[0].begin(run.start.elapsed());
        }
        for i in 0..port.rx_count() {
            let (tx, rx) = port.tx_rx(0, i);
            rx.sync()?;
            while tx.space() > 0 && (config.count == 0 || answered < config.count) {
                let Some(frame) = rx.next() else {
                    break;
                };
                frame.read_to(&mut bytes);
                if config.dump {
                    output::line(&super::receiver::dump(&bytes, i, frame.flags()))?;
                }
                if let Some(frame) = bytes.get_mut(vnet_hdr..) {
                    swap_ends(frame);
                }
                // A frame that does not fit is not answered; ping counts it.
                if tx.push(&bytes).is_ok() {
                    packets += 1;
                    answered += 1;
                    total += bytes.len() as u64;
                }
            }
            tx.sync()?;
        }
        if packets > 0 {
            last = Some(Instant::now());
            run.meters[0].batch(packets, total, run.start.elapsed());
        } else if !port.wait_rx(Some(POLL_PERIOD))?
            && config.exit_when_silent
            && last.is_some_and(|at| at.elapsed() >= SILENCE_MAX)
        {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_summed_up() {
        let mut latency = Latency::new().expect("valid bounds");
        for ns in 1..=1000u64 {
            latency.histogram.saturating_record(ns * 1000);
        }
        latency.lost = 2;
        let summary = latency.summary();
        assert_eq!((summary.replies, summary.lost), (1000, 2));
        assert!(summary.rtt_ns_p50.abs_diff(500_000) < 1000);
        assert!(summary.rtt_ns_p99.abs_diff(990_000) < 1000);
        assert!(summary.text().contains("1000 replies, 2 lost"));
    }
}

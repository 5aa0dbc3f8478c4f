//! Counters of the threads, the lines of progress and the summary.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::config::Config;
use crate::failure::Result;
use crate::output;
use crate::signals::Stop;
use crate::units::{FRAMING_BYTES, float, per_second, rate};

/// Counters of one thread, on cache lines of their own. Only their thread
/// writes them; they are statistics, so no ordering is needed.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Meter {
    packets: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
    /// Least free (TX) or most filled (RX) slots since the last line, plus 1;
    /// 0 is none.
    space: AtomicU32,
    /// When work on the first batch began and the last one was done, ns after
    /// `Run::start`, plus 1; 0 is never.
    first_ns: AtomicU64,
    last_ns: AtomicU64,
}

impl Meter {
    /// The first batch begins now. A receiver calls it each time before it
    /// looks, until there is something.
    pub(super) fn begin(&self, since_start: Duration) {
        self.first_ns.store(stamp(since_start), Ordering::Relaxed);
    }

    /// Counts a batch.
    pub(super) fn batch(&self, packets: u32, bytes: u64, since_start: Duration) {
        let add = |counter: &AtomicU64, n: u64| {
            // One writer: a plain add is enough, and cheaper than an atomic one.
            let value = counter.load(Ordering::Relaxed).wrapping_add(n);
            counter.store(value, Ordering::Relaxed);
        };
        add(&self.packets, u64::from(packets));
        add(&self.bytes, bytes);
        add(&self.batches, 1);
        self.last_ns.store(stamp(since_start), Ordering::Relaxed);
    }

    /// Notes how many slots were free before a batch.
    pub(super) fn space(&self, slots: u32) {
        let least = self.space.load(Ordering::Relaxed);
        if least == 0 || slots < least - 1 {
            self.space.store(slots.saturating_add(1), Ordering::Relaxed);
        }
    }

    fn take_space(&self) -> Option<u32> {
        self.space.swap(0, Ordering::Relaxed).checked_sub(1)
    }
}

/// Nanoseconds, plus 1 so that 0 is never.
fn stamp(since_start: Duration) -> u64 {
    u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX - 1) + 1
}

/// What all threads of a run share.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) start: Instant,
    pub(super) meters: Vec<Meter>,
    /// No thread works any more.
    pub(super) done: AtomicBool,
}

/// Totals at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) batches: u64,
}

impl Run {
    pub(super) fn new(threads: usize) -> Self {
        Self {
            start: Instant::now(),
            meters: (0..threads).map(|_| Meter::default()).collect(),
            done: AtomicBool::new(false),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let sum = |counter: fn(&Meter) -> &AtomicU64| {
            let values = self
                .meters
                .iter()
                .map(|m| counter(m).load(Ordering::Relaxed));
            values.sum::<u64>()
        };
        Totals {
            packets: sum(|m| &m.packets),
            bytes: sum(|m| &m.bytes),
            batches: sum(|m| &m.batches),
        }
    }

    /// From the beginning of the first batch to the end of the last.
    fn active(&self) -> Duration {
        let first = self.meters.iter().map(|m| &m.first_ns);
        let first = first.map(|ns| ns.load(Ordering::Relaxed));
        let last = self
            .meters
            .iter()
            .map(|m| m.last_ns.load(Ordering::Relaxed));
        let first = first.filter(|&ns| ns > 0).min().unwrap_or(0);
        Duration::from_nanos(last.max().unwrap_or(0).saturating_sub(first))
    }

    /// Prints a line each period until the threads are done.
    pub(super) fn report_until_done(&self, config: &Config, stop: &Stop) -> Result<()> {
        let mut before = (Instant::now(), Totals::default());
        let mut moments = Moments::default();
        loop {
            let wake = before.0 + config.report;
            while Instant::now() < wake {
                if self.done.load(Ordering::Acquire) {
                    return Ok(());
                }
                let left = wake.saturating_duration_since(Instant::now());
                std::thread::sleep(left.min(Duration::from_millis(20)));
            }
            let now = (Instant::now(), self.totals());
            let line = self.interval(config, before, now, &mut moments);
            before = now;
            if config.json {
                if let Err(failure) = output::json(&line) {
                    stop.request();
                    return Err(failure);
                }
            } else {
                output::note(&line.text(config, &moments));
            }
        }
    }

    fn interval(
        &self,
        config: &Config,
        (then, old): (Instant, Totals),
        (now, new): (Instant, Totals),
        moments: &mut Moments,
    ) -> Interval {
        let time = now.saturating_duration_since(then);
        let packets = new.packets - old.packets;
        let rate_pps = per_second(packets, time.as_secs_f64());
        // The deviation is that of the rate while there is traffic.
        if packets > 0 {
            moments.add(rate_pps);
        }
        let bytes = new.bytes - old.bytes + framing(config, packets);
        let batches = new.batches - old.batches;
        Interval {
            schema: "netvale.pkt-gen.interval.v1",
            t_s: now.saturating_duration_since(self.start).as_secs_f64(),
            interval_us: u64::try_from(time.as_micros()).unwrap_or(u64::MAX),
            packets,
            rate_pps,
            rate_bps: 8.0 * per_second(bytes, time.as_secs_f64()),
            batch_mean_packets: ratio(packets, batches),
            space_min_slots: self.meters.iter().filter_map(Meter::take_space).min(),
        }
    }

    /// The summary of what was done.
    pub(super) fn summary(&self, config: &Config) -> Summary {
        let totals = self.totals();
        let seconds = self.active().as_secs_f64();
        let bytes = totals.bytes + framing(config, totals.packets);
        let raw = totals.bytes + totals.packets * FRAMING_BYTES;
        Summary {
            schema: "netvale.pkt-gen.summary.v1",
            function: config.function.word(),
            port: config.port.clone(),
            packets: totals.packets,
            bytes: totals.bytes,
            batches: totals.batches,
            seconds,
            rate_pps: per_second(totals.packets, seconds),
            rate_bps: 8.0 * per_second(bytes, seconds),
            raw_bps: 8.0 * per_second(raw, seconds),
            packet_mean_bytes: ratio(totals.bytes, totals.packets),
            batch_mean_packets: ratio(totals.packets, totals.batches),
            threads: self.meters.len(),
        }
    }
}

fn framing(config: &Config, packets: u64) -> u64 {
    if config.framing {
        packets * FRAMING_BYTES
    } else {
        0
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 0.0 } else { float(a) / float(b) }
}

/// One line of progress.
#[derive(Debug, Serialize)]
struct Interval {
    schema: &'static str,
    t_s: f64,
    interval_us: u64,
    packets: u64,
    rate_pps: f64,
    rate_bps: f64,
    batch_mean_packets: f64,
    space_min_slots: Option<u32>,
}

impl Interval {
    fn text(&self, config: &Config, moments: &Moments) -> String {
        let number = |value| rate(value, config.scale);
        let spread = if config.rate_stats {
            let (mean, deviation) = moments.get();
            format!("[avg/std {}/{}pps] ", number(mean), number(deviation))
        } else {
            String::new()
        };
        format!(
            "{}pps {spread}({}pkts {}bps in {} usec) {:.2} avg_batch {} min_space",
            number(self.rate_pps),
            number(float(self.packets)),
            number(self.rate_bps),
            self.interval_us,
            self.batch_mean_packets,
            self.space_min_slots
                .map_or_else(|| "-".to_owned(), |slots| slots.to_string()),
        )
    }
}

/// What a run did.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Summary {
    schema: &'static str,
    function: &'static str,
    port: String,
    pub(super) packets: u64,
    bytes: u64,
    batches: u64,
    seconds: f64,
    rate_pps: f64,
    rate_bps: f64,
    raw_bps: f64,
    packet_mean_bytes: f64,
    batch_mean_packets: f64,
    threads: usize,
}

impl Summary {
    /// netmap's last lines.
    pub(super) fn text(&self, config: &Config) -> String {
        let done = if config.function.sends() {
            "Sent"
        } else {
            "Received"
        };
        if self.packets == 0 {
            return format!("{done} nothing.");
        }
        let number = |value| rate(value, config.scale);
        format!(
            "{done} {} packets {} bytes {} events {:.0} bytes each in {:.2} seconds.\n\
             Speed: {}pps Bandwidth: {}bps (raw {}bps). Average batch: {:.2} pkts",
            self.packets,
            self.bytes,
            self.batches,
            self.packet_mean_bytes,
            self.seconds,
            number(self.rate_pps),
            number(self.rate_bps),
            number(self.raw_bps),
            self.batch_mean_packets,
        )
    }
}

/// Running mean and standard deviation (Welford).
#[derive(Debug, Default)]
struct Moments {
    count: u64,
    mean: f64,
    square: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let delta = value - self.mean;
        self.mean += delta / float(self.count);
        self.square += delta * (value - self.mean);
    }

    fn get(&self) -> (f64, f64) {
        let variance = match self.count {
            0 | 1 => 0.0,
            n => self.square / float(n - 1),
        };
        (self.mean, variance.sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::config;
    use super::*;

    #[test]
    fn the_summary_has_the_words_scripts_grep() {
        let config = config("-i vale0:a -f tx").expect("valid");
        let run = Run::new(2);
        assert_eq!(run.summary(&config).text(&config), "Sent nothing.");
        run.meters[0].begin(Duration::from_secs(1));
        run.meters[0].batch(500, 30_000, Duration::from_millis(1500));
        run.meters[1].begin(Duration::from_millis(1200));
        run.meters[1].batch(500, 30_000, Duration::from_secs(2));
        assert_eq!(
            run.summary(&config).text(&config),
            "Sent 1000 packets 60000 bytes 2 events 60 bytes each in 1.00 seconds.\n\
             Speed: 1.000 Kpps Bandwidth: 480.000 Kbps (raw 672.000 Kbps). \
             Average batch: 500.00 pkts"
        );
    }

    #[test]
    fn framing_counts_on_request() {
        let config = config("-i vale0:a -f rx -B -N").expect("valid");
        let run = Run::new(1);
        run.meters[0].begin(Duration::from_secs(1));
        run.meters[0].batch(500, 30_000, Duration::from_millis(1500));
        run.meters[0].batch(500, 30_000, Duration::from_secs(2));
        let text = run.summary(&config).text(&config);
        assert!(text.starts_with("Received 1000 packets"), "{text}");
        assert!(
            text.contains("Speed: 1000.000 pps Bandwidth: 672000.000 bps (raw 672000.000 bps)")
        );
    }

    #[test]
    fn least_space_is_kept_until_read() {
        let meter = Meter::default();
        assert_eq!(meter.take_space(), None);
        for slots in [900, 0, 1023] {
            meter.space(slots);
        }
        assert_eq!(meter.take_space(), Some(0));
        assert_eq!(meter.take_space(), None);
    }

    #[test]
    fn moments_of_a_known_sample() {
        let mut moments = Moments::default();
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            moments.add(value);
        }
        let (mean, deviation) = moments.get();
        assert!((mean - 5.0).abs() < 1e-9);
        assert!((deviation - 2.138).abs() < 1e-3);
    }
}

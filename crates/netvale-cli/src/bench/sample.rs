//! What one measurement gives, and what all of them need.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use netvale::{Error, ErrorKind};
use netvale_wire::eth::EthHdr;
use netvale_wire::mac::MacAddr;

use crate::failure::Result;

/// Ethertype for local experiments (IEEE 802, 88b5).
pub(super) const ETHERTYPE: u16 = 0x88b5;
/// Longest time that a histogram tells apart, nanoseconds.
const MAX_NS: u64 = 10_000_000_000;

/// One measurement.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// In the case's unit.
    pub(super) value: f64,
    pub(super) seconds: f64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) dropped: u64,
    /// Why the figure is worth nothing.
    pub(super) problem: Option<String>,
    pub(super) latency_ns: Option<Histogram<u64>>,
    /// CPU time of those who move the frames, nanoseconds: for a frame, a KiB
    /// or a round trip.
    pub(super) cpu_ns: Option<f64>,
}

impl Sample {
    /// A time or an amount.
    pub(super) fn of(value: f64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }

    /// The median of a histogram.
    pub(super) fn latency(histogram: Histogram<u64>, seconds: f64) -> Self {
        Self {
            value: crate::units::float(histogram.value_at_quantile(0.5)),
            seconds,
            sent: histogram.len(),
            received: histogram.len(),
            latency_ns: Some(histogram),
            ..Self::default()
        }
    }

    /// Notes what is wrong, unless something was already.
    pub(super) fn require(&mut self, good: bool, why: impl FnOnce() -> String) {
        if !good && self.problem.is_none() {
            self.problem = Some(why());
        }
    }
}

pub(super) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, MAX_NS, 3)
        .map_err(|e| broken(&format!("no histogram: {e}")))?)
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// An error of the measurement itself.
pub(super) fn broken(why: &str) -> Error {
    Error::new(ErrorKind::Io, why)
}

/// Address of sender number `i`.
pub(super) fn sender_mac(i: u16) -> MacAddr {
    let [a, b] = i.to_be_bytes();
    MacAddr([0x02, 0, 0, 1, a, b])
}

/// Address of station number `i`, behind a receiver.
pub(super) fn station_mac(i: u32) -> MacAddr {
    let [a, b, c, d] = i.to_be_bytes();
    MacAddr([0x02, 0x10, a, b, c, d])
}

pub(super) const BROADCAST: MacAddr = MacAddr([0xff; 6]);

/// A frame of `len` bytes with a pattern in it.
pub(super) fn frame(to: MacAddr, from: MacAddr, len: u16) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..=250u8).cycle().take(usize::from(len)).collect();
    // Every frame of a case is longer than its header.
    let _ = EthHdr::new(to, from, ETHERTYPE).write(&mut frame);
    frame
}

/// The first 8 bytes, as receivers compare them.
pub(super) fn first_word(frame: &[u8]) -> u64 {
    frame
        .first_chunk::<8>()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Runs `f` on a thread of its own that is pinned to `cpu`, so that nothing
/// that is started later inherits the pinning.
pub(super) fn on_cpu<T: Send>(cpu: usize, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            netvale::pin_to_cpu(cpu)?;
            f()
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Calls `turn` until the time is over, with a look at the clock every
/// `every` calls. Seconds that it took.
pub(super) fn repeat(
    time: Duration,
    every: u32,
    mut turn: impl FnMut() -> Result<()>,
) -> Result<f64> {
    let start = Instant::now();
    loop {
        for _ in 0..every {
            turn()?;
        }
        let took = start.elapsed();
        if took >= time {
            return Ok(took.as_secs_f64());
        }
    }
}

/// Turns between two looks at the clock: some thousand frames.
pub(super) fn turns_for(batch: u32) -> u32 {
    (4096 / batch.max(1)).clamp(1, 512)
}

/// Random numbers that are good enough to miss caches (xorshift64*).
#[derive(Debug, Clone)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// Below `n`.
    #[inline]
    pub(super) fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        u32::try_from((high * u64::from(n)) >> 32).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_numbers_reach_all_of_a_range() {
        let mut rng = Rng::new();
        let mut seen = [false; 64];
        for _ in 0..4096 {
            seen[rng.below(64) as usize] = true;
        }
        assert!(seen.into_iter().all(|s| s));
        assert_eq!(rng.below(1), 0);
    }

    #[test]
    fn stations_and_senders_never_share_an_address() {
        for i in [0, 1, 65_535] {
            assert_ne!(station_mac(u32::from(i)), sender_mac(i));
        }
        assert_ne!(station_mac(1), station_mac(65_537));
    }

    #[test]
    fn only_the_first_problem_is_kept() {
        let mut sample = Sample::of(1.0);
        sample.require(true, || "no".into());
        assert_eq!(sample.problem, None);
        sample.require(false, || "lost".into());
        sample.require(false, || "more".into());
        assert_eq!(sample.problem.as_deref(), Some("lost"));
    }
}

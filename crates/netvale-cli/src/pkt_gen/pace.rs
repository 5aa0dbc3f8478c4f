//! Sends at a given rate, in batches.

use std::time::{Duration, Instant};

/// Waits shorter than this are spun: sleeping takes longer.
const SPIN: Duration = Duration::from_micros(80);
/// Time that a sender who fell behind may catch up; older credit is lost, so
/// that a stopped process does not flood when it goes on.
const CATCH_UP: Duration = Duration::from_millis(100);

/// Credit of packets that grows with time.
#[derive(Debug)]
pub(super) struct Pacer {
    rate_pps: u64,
    burst: u32,
    origin: Instant,
    /// Packets sent or given up since `origin`.
    used: u64,
}

impl Pacer {
    pub(super) fn new(rate_pps: u64, burst: u32, now: Instant) -> Self {
        Self {
            rate_pps,
            burst,
            origin: now,
            used: 0,
        }
    }

    /// How long to wait until a whole batch may be sent; zero: now.
    pub(super) fn delay(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.origin);
        let due = packets_in(self.rate_pps, elapsed);
        let limit = packets_in(self.rate_pps, CATCH_UP).max(u64::from(self.burst));
        if due.saturating_sub(self.used) > limit {
            self.used = due - limit;
        }
        // The first batch goes out at once.
        let at = self.time_of(self.used);
        at.saturating_sub(elapsed)
    }

    /// Takes `packets` off the credit.
    pub(super) fn sent(&mut self, packets: u32) {
        self.used += u64::from(packets);
    }

    /// When packet number `n` is due, from `origin`.
    fn time_of(&self, n: u64) -> Duration {
        let nanos = u128::from(n) * 1_000_000_000 / u128::from(self.rate_pps.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Sleeps, or spins if sleeping would take too long.
pub(super) fn pause(delay: Duration) {
    if delay > SPIN {
        std::thread::sleep(delay - SPIN / 2);
    } else {
        std::hint::spin_loop();
    }
}

fn packets_in(rate_pps: u64, time: Duration) -> u64 {
    let packets = u128::from(rate_pps) * time.as_nanos() / 1_000_000_000;
    u64::try_from(packets).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_rate() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1_000_000, 100, start);
        let mut now = start;
        let mut sent = 0u64;
        while now < start + Duration::from_secs(1) {
            let delay = pacer.delay(now);
            if delay.is_zero() {
                pacer.sent(100);
                sent += 100;
            } else {
                now += delay;
            }
        }
        assert!((999_900..=1_000_200).contains(&sent), "{sent}");
    }

    #[test]
    fn a_pause_is_not_made_up_for() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1000, 1, start);
        let now = start + Duration::from_secs(60);
        let mut burst = 0;
        while pacer.delay(now).is_zero() {
            pacer.sent(1);
            burst += 1;
        }
        assert!((100..=102).contains(&burst), "{burst}");
    }

    #[test]
    fn slow_rates_do_not_stall() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1, 1, start);
        assert!(pacer.delay(start).is_zero());
        pacer.sent(1);
        let delay = pacer.delay(start);
        assert_eq!(delay, Duration::from_secs(1));
    }
}

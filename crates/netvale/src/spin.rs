//! How long a waiter looks before it sleeps.
//!
//! A wake-up across cores costs as much as thousands of copied frames, so
//! looking for a while pays if something comes soon. Whether it does is learned
//! from how long recent waits took, sleep included. Where looking never pays,
//! because whoever has to do something shares the core, it soon stops.

use std::time::Duration;

/// What one waiter has learned.
#[derive(Debug, Clone, Copy)]
pub struct Spin {
    budget: Duration,
    /// Waits since a look has paid.
    failures: u32,
}

/// Longest look: a few wake-ups across cores.
const MAX: Duration = Duration::from_micros(100);
const MIN: Duration = Duration::from_micros(1);
/// Looks in a row that did not pay before they become rare.
const PATIENCE: u32 = 8;
/// Then, one wait in so many tries again.
const RARELY: u32 = 64;

impl Spin {
    /// Nothing learned yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            budget: Duration::from_micros(25),
            failures: 0,
        }
    }

    /// How long to look this time; zero to sleep at once.
    #[must_use]
    pub fn budget(&self) -> Duration {
        if self.failures > PATIENCE && !self.failures.is_multiple_of(RARELY) {
            Duration::ZERO
        } else {
            self.budget
        }
    }

    /// Something came while we looked.
    pub fn came(&mut self) {
        self.failures = 0;
        self.budget = (self.budget * 2).min(MAX);
    }

    /// Nothing came, so we slept; the whole wait took that long.
    pub fn slept(&mut self, waited: Duration) {
        self.failures = self.failures.wrapping_add(1);
        self.budget = if waited <= MAX {
            // A longer look would have seen it.
            (self.budget * 2).min(MAX)
        } else {
            (self.budget / 2).max(MIN)
        };
    }
}

impl Default for Spin {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_micros(60);
    const LATE: Duration = Duration::from_millis(60);

    #[test]
    fn short_gaps_make_longer_looks_and_long_ones_shorter() {
        let mut spin = Spin::new();
        for _ in 0..3 {
            spin.slept(SOON);
        }
        assert_eq!(spin.budget(), MAX);
        spin.came();
        for _ in 0..PATIENCE {
            spin.slept(LATE);
        }
        assert_eq!(spin.budget(), MIN);
    }

    #[test]
    fn looks_that_never_pay_become_rare_and_come_back() {
        let mut spin = Spin::new();
        for _ in 0..=PATIENCE {
            assert!(!spin.budget().is_zero());
            spin.slept(SOON);
        }
        let mut tries = 0;
        for _ in 0..10 * RARELY {
            tries += u32::from(!spin.budget().is_zero());
            spin.slept(SOON);
        }
        assert!((9..=11).contains(&tries), "{tries}");
        spin.came();
        assert!(!spin.budget().is_zero());
    }
}

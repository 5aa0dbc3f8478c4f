//! How long to look for work before sleeping.

use std::time::{Duration, Instant};

/// When a thread that serves others goes to sleep.
#[derive(Debug)]
pub(crate) struct Idle {
    patience: Patience,
    /// The first look and the last one that found nothing, of this gap.
    gap: Option<(Instant, Instant)>,
}

impl Idle {
    pub(crate) fn new() -> Self {
        Self {
            patience: Patience::new(),
            gap: None,
        }
    }

    /// There was something to do.
    pub(crate) fn moved(&mut self) {
        self.gap = None;
    }

    /// There was nothing to do: whether to look again, or else to sleep.
    pub(crate) fn looks_on(&mut self) -> bool {
        let now = Instant::now();
        let (since, _) = self.gap.unwrap_or((now, now));
        self.gap = Some((since, now));
        now.duration_since(since) < self.patience.budget()
    }

    /// A sleep after that is over.
    pub(crate) fn slept(&mut self) {
        if let Some((_, last)) = self.gap.take() {
            self.patience.slept(last.elapsed());
        }
    }
}

/// Learns from recent gaps whether looking a little longer would have saved
/// going to sleep and being woken.
#[derive(Debug)]
struct Patience {
    budget: Duration,
}

/// A wake-up across cores costs up to 20 µs on both sides: looking twice as
/// long as that for work that comes is the most that can pay.
const LONGEST: Duration = Duration::from_micros(50);
const SHORTEST: Duration = Duration::from_micros(1);

impl Patience {
    fn new() -> Self {
        // With one CPU, whoever has work for us cannot run while we look.
        let alone = std::thread::available_parallelism().is_ok_and(|n| n.get() == 1);
        Self {
            budget: if alone { Duration::ZERO } else { LONGEST / 2 },
        }
    }

    /// How long to look.
    fn budget(&self) -> Duration {
        self.budget
    }

    /// A sleep of this length is over.
    fn slept(&mut self, time: Duration) {
        if self.budget.is_zero() {
            return;
        }
        self.budget = if time < LONGEST {
            (self.budget * 2).min(LONGEST)
        } else {
            (self.budget / 2).max(SHORTEST)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_gaps_make_patient() {
        let mut p = Patience {
            budget: LONGEST / 2,
        };
        for _ in 0..20 {
            p.slept(Duration::from_secs(1));
        }
        assert_eq!(p.budget(), SHORTEST);
        for _ in 0..20 {
            p.slept(Duration::from_micros(10));
        }
        assert_eq!(p.budget(), LONGEST);
        let mut alone = Patience {
            budget: Duration::ZERO,
        };
        alone.slept(Duration::ZERO);
        assert_eq!(alone.budget(), Duration::ZERO);
    }
}

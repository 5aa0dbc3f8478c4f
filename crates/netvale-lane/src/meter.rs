//! CPU time of a lane, by samples: a look at the clock costs as much as a ring.

use std::time::Instant;

use netvale_ring::kring::{Counter, Kring};

/// One of so many rounds that move something is measured. Odd, for rounds often
/// alternate: one to the device and one from it.
const SAMPLE: u32 = 13;

#[derive(Debug, Default)]
pub(crate) struct Meter {
    rounds: u32,
}

impl Meter {
    /// When a round began, if it is one to be measured.
    pub(crate) fn begin(&self) -> Option<Instant> {
        self.rounds.is_multiple_of(SAMPLE).then(Instant::now)
    }

    /// The round has moved something, for this ring.
    pub(crate) fn moved(&mut self, began: Option<Instant>, ring: Kring<'_>) {
        self.rounds = self.rounds.wrapping_add(1);
        if let Some(began) = began {
            let ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(0);
            ring.count(Counter::CpuNs, ns.saturating_mul(u64::from(SAMPLE)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Meter, SAMPLE};

    #[test]
    fn one_of_some_rounds_is_measured_and_it_waits_for_one_that_moves() {
        let mut meter = Meter::default();
        assert!(meter.begin().is_some() && meter.begin().is_some());
        for _ in 1..SAMPLE {
            meter.rounds += 1;
            assert!(meter.begin().is_none());
        }
        meter.rounds += 1;
        assert!(meter.begin().is_some());
    }
}

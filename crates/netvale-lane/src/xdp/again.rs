//! When to ask the kernel again for what it had no room for.

use std::time::{Duration, Instant};

/// How soon: the first time, and after many.
const PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(2)];

/// Asks again, less and less often.
#[derive(Debug)]
pub(super) struct Again {
    at: Option<Instant>,
    pause: Duration,
}

impl Default for Again {
    fn default() -> Self {
        Self {
            at: None,
            pause: PAUSES[0],
        }
    }
}

impl Again {
    /// When; `None` if there is nothing to ask for.
    #[inline]
    pub(super) fn due(&self) -> Option<Instant> {
        self.at
    }

    /// Whether it is time.
    #[inline]
    pub(super) fn is_due(&self) -> bool {
        self.at.is_some_and(|at| at <= Instant::now())
    }

    /// At once: whoever was here before may not have asked.
    pub(super) fn now(&mut self) {
        self.at = Some(Instant::now());
    }

    /// It had no room: later.
    pub(super) fn later(&mut self) {
        self.at = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSES[1]);
    }

    /// It had.
    #[inline]
    pub(super) fn done(&mut self) {
        self.at = None;
        self.pause = PAUSES[0];
    }

    /// Asking is of no use before there is something else to ask for.
    pub(super) fn stop(&mut self) {
        self.at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_the_kernel_had_room() {
        let mut again = Again::default();
        assert_eq!((again.due(), again.is_due()), (None, false));
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            again.later();
            let left = again.due().unwrap() + PAUSES[1] - Instant::now();
            assert!(left <= 2 * PAUSES[1]);
            assert!(again.pause > last || again.pause == PAUSES[1]);
            last = again.pause;
        }
        assert_eq!(last, PAUSES[1]);
        again.stop();
        assert_eq!((again.due(), again.pause), (None, PAUSES[1]));
        again.done();
        assert_eq!(again.pause, PAUSES[0]);
        again.now();
        assert!(again.is_due());
    }
}

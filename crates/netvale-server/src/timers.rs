//! What the control thread waits for besides messages.

use std::time::{Duration, Instant};

/// When something is due. An idle server has nothing due, and sleeps.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// Look again at memory that senders were still writing to.
    pub(crate) reap: Option<Instant>,
    reap_every: Duration,
    /// Age the learning tables.
    pub(crate) age: Option<Instant>,
    /// End if still nobody needs us.
    pub(crate) end: Option<Instant>,
    /// Take connections again.
    pub(crate) accept: Option<Instant>,
    /// Free what devices have let go of.
    pub(crate) linger: Option<Instant>,
    /// Try again what could not be granted yet.
    pub(crate) retry: Option<Instant>,
}

/// First and longest time between two looks.
const REAP_FIRST: Duration = Duration::from_millis(1);
const REAP_SLOWEST: Duration = Duration::from_secs(1);

impl Timers {
    /// Time until the next is due.
    pub(crate) fn next(&self, now: Instant) -> Option<Duration> {
        let all = [self.reap, self.age, self.end, self.accept];
        all.into_iter()
            .chain([self.retry, self.linger])
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    /// Takes a timer that is due.
    pub(crate) fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
        timer.take_if(|at| *at <= now).is_some()
    }

    /// Something is left to reap: look again soon, then less and less often.
    pub(crate) fn reap_again(&mut self, left: bool, now: Instant, fresh: bool) {
        if !left {
            self.reap = None;
            return;
        }
        self.reap_every = if fresh {
            REAP_FIRST
        } else {
            (self.reap_every * 2).clamp(REAP_FIRST, REAP_SLOWEST)
        };
        self.reap = Some(now + self.reap_every);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_due_is_no_timeout() {
        let mut t = Timers::default();
        let now = Instant::now();
        assert_eq!(t.next(now), None);
        t.reap_again(true, now, true);
        assert_eq!(t.next(now), Some(REAP_FIRST));
        for _ in 0..40 {
            t.reap_again(true, now, false);
        }
        assert_eq!(t.next(now), Some(REAP_SLOWEST));
        t.age = Some(now);
        assert!(Timers::due(&mut t.age, now));
        assert!(!Timers::due(&mut t.age, now));
        t.reap_again(false, now, false);
        assert_eq!(t.next(now), None);
    }
}

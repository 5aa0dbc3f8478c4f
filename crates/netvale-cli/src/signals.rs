//! SIGINT and SIGTERM end a command cleanly, with its summary.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::exit::Code;
use crate::failure::{Result, io_error};

/// Longest time anything sleeps before it looks at [`Stop`] again.
pub(crate) const POLL_PERIOD: Duration = Duration::from_millis(200);

/// Tells all threads of a command to end. The first signal asks, a second one
/// ends the process at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stop {
    stop: Arc<AtomicBool>,
    /// Signal number, 0 if none came.
    signal: Arc<AtomicUsize>,
    /// True from the first signal on (never set by [`Stop::request`]).
    signalled: Arc<AtomicBool>,
}

impl Stop {
    /// Catches SIGINT and SIGTERM from now on.
    pub(crate) fn on_signals() -> Result<Self> {
        let this = Self::default();
        for (signal, number) in [(SIGINT, 2usize), (SIGTERM, 15)] {
            // Handlers run in this order, so the first signal only sets flags.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                128 + signal,
                Arc::clone(&this.signalled),
            )
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&this.signalled)))
            .and_then(|_| {
                signal_hook::flag::register_usize(signal, Arc::clone(&this.signal), number)
            })
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&this.stop)))
            .map_err(|e| io_error("cannot catch signals", &e))?;
        }
        Ok(this)
    }

    /// True once the command has to end.
    pub(crate) fn requested(&self) -> bool {
        // A flag and nothing else: no data is published through it.
        self.stop.load(Ordering::Relaxed)
    }

    /// Ends the command from inside (work done, or a thread failed).
    pub(crate) fn request(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The exit status if a signal cut short work that had an end of its own.
    pub(crate) fn cut_short(&self) -> Option<Code> {
        u8::try_from(self.signal.load(Ordering::Relaxed))
            .ok()
            .filter(|&n| n != 0)
            .map(Code::Signal)
    }

    /// Sleeps for `duration` or until the command has to end.
    pub(crate) fn sleep(&self, duration: Duration) {
        let end = Instant::now() + duration;
        while !self.requested() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(POLL_PERIOD));
        }
    }
}

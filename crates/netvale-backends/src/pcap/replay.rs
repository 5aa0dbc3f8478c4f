//! When records are due.

use std::io::{Read, Seek};
use std::time::Duration;

use super::{PcapError, Reader, Record};

/// How fast a capture is replayed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many times as fast as it was captured; 1 is as captured. What is no
    /// number above 0 is as fast as possible.
    Times(f64),
    /// Without waiting.
    AtOnce,
}

/// How often a capture is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// So often.
    Count(u64),
    /// Without end.
    Forever,
}

/// Goes through a capture and says when each record is due.
///
/// The first is due at once. A record that was captured before the one in
/// front of it is due together with it. From the last record to the first of
/// the next round is as long as between the last two.
///
/// No clock is read here: compare [`Replay::due`] with the time since the start.
#[derive(Debug)]
pub struct Replay<R> {
    reader: Reader<R>,
    pace: Pace,
    left: Times,
    /// Time of the record in front, if it belongs to this round.
    last_ns: Option<u64>,
    gap_ns: u64,
    /// When the current record is due, in the capture's own time.
    due_ns: u64,
    /// Whether this round had a record: an empty file must not loop for ever.
    any: bool,
    first: bool,
}

impl<R: Read> Replay<R> {
    /// Replays a reader from where it is, so often in all.
    #[must_use]
    pub fn new(reader: Reader<R>, pace: Pace, times: Times) -> Self {
        Self {
            reader,
            pace,
            left: times,
            last_ns: None,
            gap_ns: 0,
            due_ns: 0,
            any: false,
            first: true,
        }
    }

    /// When the current record is due, after the start.
    #[must_use]
    pub fn due(&self) -> Duration {
        match self.pace {
            Pace::Times(speed) if speed > 0.0 && speed.is_finite() => {
                let due = Duration::from_nanos(self.due_ns);
                // Too slow for any clock is never.
                Duration::try_from_secs_f64(due.as_secs_f64() / speed).unwrap_or(Duration::MAX)
            }
            _ => Duration::ZERO,
        }
    }

    /// The current record; `None` before the first [`Replay::advance`] and at
    /// the end.
    #[must_use]
    pub fn record(&self) -> Option<Record<'_>> {
        self.reader.current()
    }
}

impl<R: Read + Seek> Replay<R> {
    /// Goes to the next record; whether there is one.
    ///
    /// # Errors
    ///
    /// [`PcapError`]: the capture is damaged or cannot be rewound.
    #[inline]
    pub fn advance(&mut self) -> Result<bool, PcapError> {
        if matches!(self.left, Times::Count(0)) {
            return Ok(false);
        }
        if !self.reader.advance()? && !self.start_again()? {
            return Ok(false);
        }
        self.any = true;
        // Nobody asks when what is not waited for is due.
        if self.pace != Pace::AtOnce {
            self.reckon();
        }
        Ok(true)
    }

    /// The capture has ended: whether there is another round, and its first
    /// record.
    #[cold]
    fn start_again(&mut self) -> Result<bool, PcapError> {
        let over = match &mut self.left {
            Times::Forever => false,
            Times::Count(n) => {
                *n -= 1;
                *n == 0
            }
        };
        let more = !over && self.any;
        if more {
            self.reader.rewind()?;
            self.last_ns = None;
        }
        if !more || !self.reader.advance()? {
            self.left = Times::Count(0);
            return Ok(false);
        }
        Ok(true)
    }

    /// When the current record is due.
    fn reckon(&mut self) {
        let time_ns = self.reader.current().map_or(0, |r| r.time_ns);
        if let Some(last) = self.last_ns {
            self.gap_ns = time_ns.saturating_sub(last);
        }
        if !self.first {
            self.due_ns = self.due_ns.saturating_add(self.gap_ns);
        }
        self.first = false;
        // The furthest so far: what steps back is due with it, and what
        // follows is measured from it.
        self.last_ns = Some(self.last_ns.map_or(time_ns, |last| last.max(time_ns)));
    }
}

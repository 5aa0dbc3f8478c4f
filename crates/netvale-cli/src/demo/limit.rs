//! What the machine could do at most: the same work on bare memory, without
//! rings, ports and switch.

use std::time::Duration;

use netvale::raw::{self, Receiver};

use super::{Case, Path};

/// Frames per batch, as the rows have it.
const BATCH: u32 = 512;

/// The least that has to be done for a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    /// Copy it; sender and receiver share a core.
    CopyOneCore,
    /// Copy it into memory that another core reads.
    CopyTwoCores,
    /// Exchange two buffer indexes.
    SwapOneCore,
}

impl Work {
    fn of(path: Path, cpus: usize) -> Self {
        match path {
            Path::Copy if cpus > 1 => Self::CopyTwoCores,
            Path::Copy => Self::CopyOneCore,
            Path::Move | Path::Pipe => Self::SwapOneCore,
        }
    }
}

/// Frames per second of bare memory for this row; `None` if there is no memory
/// to measure with.
pub(super) fn pps(case: Case, cpus: usize, time: Duration) -> Option<f64> {
    let rate = match Work::of(case.path, cpus) {
        Work::CopyOneCore => raw::one_core_copy(case.len, BATCH, time),
        Work::SwapOneCore => raw::one_core_swap(case.len, BATCH, time),
        Work::CopyTwoCores => {
            let cpus = super::measure::cpus().ok()?;
            // As in the row itself: the second one sends.
            let pair = [*cpus.get(1)?, *cpus.first()?];
            raw::two_core_copy(pair, case.len, BATCH, time, Receiver::Counts)
        }
    };
    (rate > 0.0).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_compared_with_the_same_work() {
        for (path, cpus, work) in [
            (Path::Copy, 1, Work::CopyOneCore),
            (Path::Copy, 2, Work::CopyTwoCores),
            (Path::Move, 2, Work::SwapOneCore),
            (Path::Pipe, 1, Work::SwapOneCore),
        ] {
            assert_eq!(Work::of(path, cpus), work);
        }
    }
}

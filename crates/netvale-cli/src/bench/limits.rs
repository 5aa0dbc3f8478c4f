//! The raw limits: what cases are compared with.

use std::time::Duration;

use netvale::raw::{self, Receiver};

use super::case::Limit;
use super::latency::eventfds;
use super::onecore::whole_frame;
use super::sample::{Sample, broken, on_cpu};
use crate::failure::Result;

/// Frames per batch of loops on one core, whatever the case's own batch is.
const BATCH: u32 = 512;
/// Bytes of a buffer: longer frames are copied in parts.
const BUF: u16 = 2112;

/// Measures a limit.
pub(super) fn measure(limit: Limit, pair: [usize; 2], time: Duration) -> Result<Sample> {
    let receiver = |reads| {
        if reads {
            Receiver::Reads
        } else {
            Receiver::Counts
        }
    };
    let parts = |len: u16| u32::from(len > BUF) + 1;
    let value = match limit {
        Limit::Copy { frame_bytes } => on_cpu(pair[0], || {
            let each = time / parts(frame_bytes);
            Ok(whole_frame(frame_bytes, BUF, |len| {
                raw::one_core_copy(len, BATCH, each)
            }))
        })?,
        Limit::Swap => on_cpu(pair[0], || Ok(raw::one_core_swap(60, BATCH, time)))?,
        Limit::Ring => on_cpu(pair[0], || Ok(raw::one_core_ring(BATCH, time)))?,
        Limit::TwoCopy {
            frame_bytes,
            batch_frames,
            reads,
        } => {
            let each = time / parts(frame_bytes);
            whole_frame(frame_bytes, BUF, |len| {
                raw::two_core_copy(pair, len, batch_frames, each, receiver(reads))
            })
        }
        Limit::TwoRing {
            batch_frames,
            reads,
        } => raw::two_core_ring(pair, batch_frames, time, receiver(reads)),
        Limit::Memcpy { frame_bytes } => {
            on_cpu(pair[0], || Ok(raw::memcpy(frame_bytes, time) * 8.0))?
        }
        Limit::Syscall => on_cpu(pair[0], || Ok(raw::syscall_ns(time)))?,
        Limit::Eventfd { one_core } => {
            let pair = if one_core { [pair[0]; 2] } else { pair };
            return eventfds(pair, time);
        }
        // Measured where the devices are.
        Limit::Device(_) => f64::NAN,
    };
    if value.is_finite() && value > 0.0 {
        return Ok(Sample {
            seconds: time.as_secs_f64(),
            ..Sample::of(value)
        });
    }
    Err(broken("a raw limit cannot be measured: is there memory?").into())
}

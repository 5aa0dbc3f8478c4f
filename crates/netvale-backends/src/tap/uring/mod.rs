//! A whole batch with one system call, through io_uring.
//!
//! What it saves is the difference between a system call and a request, which
//! depends on the machine: 60-byte frames towards the host in batches of 64
//! took 610 ns of CPU time each instead of 890 where an empty system call takes
//! 170 ns, and 417 instead of 428 where that takes 100. Batches of fewer than
//! [`WORTH`] frames were slower in the second case. From the host no gain was
//! seen: reading needs a list, to notice frames that are too long.

mod sys;

use std::os::fd::AsFd;

use super::TapError;
use super::queue::{TapQueue, Verdict};
use crate::OsError;
use crate::batch::{Batch, BufPool, Sent};

pub(super) use sys::Ring;

/// Most frames in flight at once.
const MAX_ENTRIES: u32 = 1024;
/// Frames from which on a batch is not slower than a system call for each.
pub const WORTH: usize = 16;

/// A queue that has to do without io_uring, and why.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct NoUring {
    /// The queue, as it was.
    pub queue: TapQueue,
    /// Why.
    #[source]
    pub why: OsError,
}

/// A queue that is read and written through a ring of requests.
///
/// Requests are never left waiting in the kernel: a call returns when all of
/// its requests are answered, so the pool is the caller's again.
#[derive(Debug)]
pub struct TapUring {
    queue: TapQueue,
    ring: Ring,
    results: Vec<i32>,
}

impl TapUring {
    /// Puts a queue behind a ring of `entries` requests (a power of two is
    /// made of it, at most 1024).
    ///
    /// # Errors
    ///
    /// [`NoUring`], with the queue: the kernel forbids io_uring, or is older
    /// than 5.9, whose TAPs would wait in the background.
    pub fn new(queue: TapQueue, entries: u32) -> Result<Self, NoUring> {
        let entries = entries.clamp(1, MAX_ENTRIES).next_power_of_two();
        let ring = Ring::new(entries, queue.as_fd()).and_then(|mut ring| {
            ring.try_out()?;
            Ok(ring)
        });
        match ring {
            Ok(ring) => Ok(Self {
                queue,
                ring,
                results: Vec::new(),
            }),
            Err(e) => {
                let why = OsError::new("make an io_uring for", format!("TAP {}", queue.name()), e)
                    .hint("allow it: sysctl kernel.io_uring_disabled=0, or by seccomp");
                Err(NoUring { queue, why })
            }
        }
    }

    /// Whether this process may use io_uring.
    #[must_use]
    pub fn available() -> bool {
        // Any file will do.
        std::fs::File::open("/dev/null").is_ok_and(|f| Ring::new(1, f.as_fd()).is_ok())
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &TapQueue {
        &self.queue
    }

    /// Fills chains of `batch`. How many: they come first, in the order of
    /// arrival; the order of the chains in the batch may change.
    ///
    /// # Errors
    ///
    /// As for [`TapQueue::recv`].
    pub fn recv(&mut self, pool: &BufPool, batch: &mut Batch) -> Result<usize, TapError> {
        let mut filled = 0;
        let mut next = 0;
        while next < batch.len() {
            let n = self.ring.read(pool, batch, next, &mut self.results);
            let mut ended = n == 0;
            let mut error = None;
            for (i, &result) in self.results.iter().enumerate() {
                // A frame may come after an earlier request found none, so that
                // there are holes among the answers.
                match usize::try_from(result) {
                    Ok(len) => {
                        let i = next + i;
                        let room = batch.room(i);
                        batch.set_len(i, len.min(room), len > room);
                        batch.swap(filled, i);
                        filled += 1;
                    }
                    Err(_) => {
                        ended = true;
                        let e = std::io::Error::from_raw_os_error(result.wrapping_neg());
                        match self.queue.verdict(e) {
                            Verdict::Full | Verdict::Again => {}
                            Verdict::Refused => error = Some(self.outside()),
                            Verdict::Error(e) => error = Some(e),
                        }
                    }
                }
            }
            next += n;
            match error {
                Some(e) if filled == 0 => return Err(e),
                _ if ended => break,
                _ => {}
            }
        }
        Ok(filled)
    }

    /// Sends the frames of `batch` from number `first` on.
    ///
    /// A frame that finds no room is refused, not kept: unlike
    /// [`TapQueue::send`] this cannot stop at it, since later ones are under way.
    ///
    /// # Errors
    ///
    /// As for [`TapQueue::send`].
    pub fn send(&mut self, pool: &BufPool, batch: &Batch, first: usize) -> Result<Sent, TapError> {
        let mut sent = Sent {
            next: first,
            ..Sent::default()
        };
        while sent.next < batch.len() {
            let n = self.ring.write(pool, batch, sent.next, &mut self.results);
            if n == 0 {
                break;
            }
            let mut error = None;
            for &result in &self.results {
                if result < 0 {
                    sent.refused += 1;
                    let e = std::io::Error::from_raw_os_error(result.wrapping_neg());
                    if let Verdict::Error(e) = self.queue.verdict(e) {
                        error = Some(e);
                    }
                }
            }
            sent.next += n;
            match error {
                Some(e) if sent.refused == sent.next - first => return Err(e),
                Some(_) => break,
                None => {}
            }
        }
        Ok(sent)
    }

    /// Sends as [`TapQueue::send`] does small batches, and others through the
    /// ring.
    ///
    /// # Errors
    ///
    /// As for [`TapQueue::send`].
    pub fn send_adaptive(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
    ) -> Result<Sent, TapError> {
        match batch.len().saturating_sub(first) < WORTH {
            true => self.queue.send(pool, batch, first),
            false => self.send(pool, batch, first),
        }
    }

    fn outside(&self) -> TapError {
        let e = std::io::Error::from_raw_os_error(libc::EFAULT);
        OsError::new(
            "receive into buffers that are not there, from",
            format!("TAP {}", self.queue.name()),
            e,
        )
        .into()
    }
}

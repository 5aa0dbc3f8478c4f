//! Requests over chains of a pool, and their answers.

#![expect(unsafe_code, reason = "requests carry raw addresses of pool memory")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

use crate::batch::iov::append;
use crate::batch::{Batch, BufPool, Piece};

/// A ring of requests. Between calls none is under way.
pub(in crate::tap) struct Ring {
    ring: IoUring,
    entries: usize,
    iov: Vec<libc::iovec>,
    /// For every request where its list begins and how long it is.
    lists: Vec<(usize, usize)>,
    /// Where the bytes of frames longer than their chains go.
    spill: Box<[u8; 1]>,
}

// SAFETY: the addresses inside are written and used within one call only.
unsafe impl Send for Ring {}
// SAFETY: as above, and a shared reference gives access to nothing.
unsafe impl Sync for Ring {}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Read,
    Write,
}

impl Ring {
    /// A ring of requests to one file.
    pub(super) fn new(entries: u32, fd: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::new(entries)?;
        // Then the kernel need not look it up for each request.
        ring.submitter().register_files(&[fd.as_raw_fd()])?;
        Ok(Self {
            ring,
            entries: entries as usize,
            iov: Vec::new(),
            lists: Vec::new(),
            spill: Box::new([0]),
        })
    }

    /// Whether requests are answered at once: one that can only be refused.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: the kernel would wait for this kind of file elsewhere.
    pub(super) fn try_out(&mut self) -> io::Result<()> {
        // No frame is so short.
        let mut results = Vec::new();
        self.start();
        self.lists.push((0, 1));
        self.iov.push(libc::iovec {
            iov_base: self.spill.as_mut_ptr().cast(),
            iov_len: 1,
        });
        self.run(Way::Write, &mut results);
        match results.first() {
            Some(&e) if e == -libc::EOPNOTSUPP => Err(io::Error::from_raw_os_error(-e)),
            _ => Ok(()),
        }
    }

    /// Reads into the chains from `first` on, as many as fit into the ring.
    /// How many, with their results: bytes (more than the chain holds if the
    /// frame was longer) or negative error numbers.
    pub(super) fn read(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
        results: &mut Vec<i32>,
    ) -> usize {
        let n = self.entries.min(batch.len().saturating_sub(first));
        self.start();
        for i in first..first + n {
            self.list(pool, batch.chain(i).iter().copied());
            if let Some((_, len @ 1..)) = self.lists.last_mut() {
                *len += 1;
                self.iov.push(libc::iovec {
                    iov_base: self.spill.as_mut_ptr().cast(),
                    iov_len: 1,
                });
            }
        }
        self.run(Way::Read, results);
        n
    }

    /// Writes the frames from `first` on, as many as fit into the ring.
    pub(super) fn write(
        &mut self,
        pool: &BufPool,
        batch: &Batch,
        first: usize,
        results: &mut Vec<i32>,
    ) -> usize {
        let n = self.entries.min(batch.len().saturating_sub(first));
        self.start();
        for i in first..first + n {
            self.list(pool, batch.pieces(i));
        }
        self.run(Way::Write, results);
        n
    }

    fn start(&mut self) {
        self.iov.clear();
        self.lists.clear();
    }

    /// The list of a chain; an empty one if it is not inside the pool.
    fn list(&mut self, pool: &BufPool, chain: impl Iterator<Item = Piece>) {
        let start = self.iov.len();
        for piece in chain {
            if append(&mut self.iov, start, pool, piece).is_none() {
                self.iov.truncate(start);
                break;
            }
        }
        self.lists.push((start, self.iov.len() - start));
    }

    /// Submits one request a list and waits until all are answered. The pool
    /// that the lists point into is borrowed by the callers meanwhile.
    fn run(&mut self, way: Way, results: &mut Vec<i32>) {
        results.clear();
        results.resize(self.lists.len(), -libc::EFAULT);
        let mut left = 0;
        let fd = types::Fixed(0);
        let mut requests = self.ring.submission();
        for (i, &(start, len)) in self.lists.iter().enumerate() {
            let iov = self.iov.as_ptr().wrapping_add(start);
            let Ok(len @ 1..) = u32::try_from(len) else {
                continue; // answered with EFAULT
            };
            // On a descriptor that does not block, the kernel would wait in
            // the background for one that can go on, instead of saying that it
            // cannot: RWF_NOWAIT has it say so.
            let nowait = libc::RWF_NOWAIT;
            let request = match (way, len, self.iov.get(start)) {
                (Way::Read, ..) => opcode::Readv::new(fd, iov, len).rw_flags(nowait).build(),
                // Without a list the kernel has less to do.
                (Way::Write, 1, Some(one)) => {
                    let len = u32::try_from(one.iov_len).unwrap_or(0);
                    let at = one.iov_base.cast_const().cast();
                    opcode::Write::new(fd, at, len).rw_flags(nowait).build()
                }
                (Way::Write, ..) => opcode::Writev::new(fd, iov, len).rw_flags(nowait).build(),
            };
            let request: squeue::Entry = request.user_data(i as u64);
            // SAFETY: the list's entries lie inside the pool or are the spill
            // byte; this function returns only when the kernel is done with
            // the request, and until then list and pool stay.
            let pushed = unsafe { requests.push(&request) };
            // There is room: callers make at most `entries` lists.
            assert!(pushed.is_ok(), "the ring of requests is full");
            left += 1;
        }
        drop(requests); // shows them to the kernel
        let mut failures = 0;
        while left > 0 {
            if let Err(e) = self.ring.submit_and_wait(left) {
                // A signal, or too little memory for the moment. The requests
                // may be under way: coming back now would leave the kernel
                // with addresses into the pool.
                failures += 1;
                assert!(failures < 100_000, "io_uring does not answer: {e}");
            }
            for answer in self.ring.completion() {
                left -= 1;
                if let Ok(i) = usize::try_from(answer.user_data())
                    && let Some(result) = results.get_mut(i)
                {
                    *result = answer.result();
                }
            }
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel takes a ring down some time later; the interface should
        // not have to wait for that. If it fails it does.
        let _ = self.ring.submitter().unregister_files();
    }
}

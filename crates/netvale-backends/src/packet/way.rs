//! Past an interface's queueing discipline, or through it.
//!
//! The kernel drops a frame on the direct way, as if the interface were busy,
//! when the interface does not segment and the frame would have to be. So such
//! frames take the other way.

use std::io;
use std::os::fd::BorrowedFd;

use netvale_wire::vnet::{HdrLen, VnetHdr};

use crate::batch::{Batch, BufPool};
use crate::net::sys::set_int;

/// Frames that go through the discipline before the direct way is tried again.
const QUEUED: usize = 4096;

/// The way that a socket's frames take.
#[derive(Debug)]
pub(super) struct Way {
    /// The direct way is wanted.
    bypass: bool,
    header: HdrLen,
    /// Marks on the direct way and on the other.
    marks: [u32; 2],
    /// Frames that still go through the discipline though the direct way is
    /// wanted.
    queued: usize,
}

impl Way {
    pub(super) fn new(bypass: bool, header: HdrLen, mark: u32, queue_mark: u32) -> Self {
        Self {
            bypass,
            header,
            marks: [mark, queue_mark],
            queued: 0,
        }
    }

    /// There was no room for frame `i`: whether another way was taken, so that
    /// it is worth another try.
    pub(super) fn turn(
        &mut self,
        fd: BorrowedFd<'_>,
        pool: &BufPool,
        batch: &Batch,
        i: usize,
    ) -> io::Result<bool> {
        if !self.bypass || self.queued > 0 || !is_large(pool, batch, i, self.header) {
            return Ok(false);
        }
        self.take(fd, false)?;
        self.queued = QUEUED;
        Ok(true)
    }

    /// So many have been sent.
    pub(super) fn sent(&mut self, fd: BorrowedFd<'_>, frames: usize) -> io::Result<()> {
        if self.queued > 0 {
            self.queued = self.queued.saturating_sub(frames);
            if self.queued == 0 {
                self.take(fd, true)?;
            }
        }
        Ok(())
    }

    fn take(&self, fd: BorrowedFd<'_>, direct: bool) -> io::Result<()> {
        let [mark, queue_mark] = self.marks;
        if mark != queue_mark {
            let mark = if direct { mark } else { queue_mark };
            set_int(fd, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
        }
        let bypass = libc::PACKET_QDISC_BYPASS;
        set_int(fd, libc::SOL_PACKET, bypass, direct.into())
    }
}

/// Whether a frame waits for segmentation.
fn is_large(pool: &BufPool, batch: &Batch, i: usize, header: HdrLen) -> bool {
    let mut bytes = [0; 12];
    let bytes = bytes.get_mut(..header.get()).unwrap_or_default();
    !header.is_none()
        && batch.read(pool, i, 0, bytes) == header.get()
        && VnetHdr::parse(bytes, header).is_some_and(|vnet| vnet.gso() != 0)
}

//! One queue of a TAP: a system call per frame.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netvale_wire::vnet::HdrLen;

use super::TapError;
use super::sys::{readv, writev};
use crate::OsError;
use crate::batch::{Batch, BufPool, MAX_PIECES, Piece, Sent};

/// What [`TapQueue::recv_packed`] received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Packed {
    /// Frames.
    pub frames: usize,
    /// Pieces of the list that they took.
    pub pieces: usize,
    /// Whether there was no more.
    pub drained: bool,
}

/// A queue. It never blocks: wait with `poll` on its descriptor.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
    name: String,
    header: HdrLen,
}

impl TapQueue {
    pub(super) fn new(fd: OwnedFd, name: String, header: HdrLen) -> Self {
        Self { fd, name, header }
    }

    /// The interface's name when it was opened.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Length of the header in front of each frame.
    #[must_use]
    pub fn header(&self) -> HdrLen {
        self.header
    }

    /// The same queue by another descriptor, for one that sends while this one
    /// receives.
    ///
    /// # Errors
    ///
    /// [`TapError::Os`]: too many descriptors are open.
    pub fn writer(&self) -> Result<Self, TapError> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0);
        Ok(Self {
            fd: fd.map_err(|e| self.os("duplicate the descriptor of", e))?,
            name: self.name.clone(),
            header: self.header,
        })
    }

    /// Fills the chains of `batch` in order, until there is no more frame. How
    /// many were filled; the others keep their lengths.
    ///
    /// # Errors
    ///
    /// [`TapError::Gone`] if the interface was deleted, [`TapError::Os`] else.
    /// An error after some frames ends the call with those frames; the next
    /// call meets it again.
    pub fn recv(&self, pool: &BufPool, batch: &mut Batch) -> Result<usize, TapError> {
        for i in 0..batch.len() {
            match self.recv_one(pool, batch.chain(i), usize::MAX) {
                Ok(Some((len, truncated))) => batch.set_len(i, len, truncated),
                Ok(None) => return Ok(i),
                Err(_) if i > 0 => return Ok(i),
                Err(e) => return Err(e),
            }
        }
        Ok(batch.len())
    }

    /// Receives into a list of pieces, frame after frame: each takes as many
    /// as it needs, the rest is for the next. Appends a frame to `batch` for
    /// each; ends when there is no more, after `most` frames, or when fewer
    /// than `longest` bytes are left in the list.
    ///
    /// `longest` is the longest frame expected, with header: 65 562 bytes
    /// (12 + 14 + 65 536) where segmentation is left out.
    ///
    /// # Errors
    ///
    /// As for [`TapQueue::recv`].
    pub fn recv_packed(
        &self,
        pool: &BufPool,
        free: &[Piece],
        (longest, most): (usize, usize),
        batch: &mut Batch,
    ) -> Result<Packed, TapError> {
        let mut packed = Packed::default();
        while packed.frames < most
            && let Some(chain) = enough(free.get(packed.pieces..).unwrap_or_default(), longest)
        {
            let (len, truncated) = match self.recv_one(pool, chain, longest + 1) {
                Ok(Some(got)) => got,
                Ok(None) => {
                    packed.drained = true;
                    break;
                }
                Err(_) if packed.frames > 0 => break,
                Err(e) => return Err(e),
            };
            let mut room = 0;
            let n = chain
                .iter()
                .take_while(|p| {
                    let needed = room < len;
                    room += p.len as usize;
                    needed
                })
                .count();
            if batch.push(chain.get(..n).unwrap_or_default()).is_ok() {
                batch.set_len(batch.len() - 1, len, truncated);
            }
            packed.frames += 1;
            packed.pieces += n;
        }
        Ok(packed)
    }

    /// Sends the frames of `batch` from number `first` on.
    ///
    /// # Errors
    ///
    /// [`TapError::Down`] if the host's side is switched off,
    /// [`TapError::Gone`] if the interface was deleted, [`TapError::Os`] else.
    /// Frames before the one that met the error are sent.
    pub fn send(&self, pool: &BufPool, batch: &Batch, first: usize) -> Result<Sent, TapError> {
        let mut sent = Sent {
            next: first,
            ..Sent::default()
        };
        while sent.next < batch.len() {
            match writev(self.fd.as_fd(), pool, batch.pieces(sent.next)) {
                Ok(_) => {}
                Err(e) => match self.verdict(e) {
                    Verdict::Full => break,
                    Verdict::Refused => sent.refused += 1,
                    Verdict::Again => continue,
                    Verdict::Error(_) if sent.next > first => break,
                    Verdict::Error(e) => return Err(e),
                },
            }
            sent.next += 1;
        }
        Ok(sent)
    }

    /// Reads one frame into private memory; `None` if there is none. A frame
    /// longer than `frame` is cut.
    ///
    /// # Errors
    ///
    /// As for [`TapQueue::recv`].
    pub fn read(&self, frame: &mut [u8]) -> Result<Option<usize>, TapError> {
        loop {
            match rustix::io::read(&self.fd, &mut *frame) {
                Ok(n) => return Ok(Some(n)),
                Err(e) => match self.verdict(e.into()) {
                    Verdict::Full => return Ok(None),
                    Verdict::Again => {}
                    Verdict::Refused => return Err(self.os("read", rustix::io::Errno::INVAL)),
                    Verdict::Error(e) => return Err(e),
                },
            }
        }
    }

    /// Sends one frame from private memory. `false` if the kernel refuses it
    /// (see [`Sent::refused`]) or has no room.
    ///
    /// # Errors
    ///
    /// As for [`TapQueue::send`].
    pub fn write(&self, frame: &[u8]) -> Result<bool, TapError> {
        loop {
            match rustix::io::write(&self.fd, frame) {
                Ok(_) => return Ok(true),
                Err(e) => match self.verdict(e.into()) {
                    Verdict::Full | Verdict::Refused => return Ok(false),
                    Verdict::Again => {}
                    Verdict::Error(e) => return Err(e),
                },
            }
        }
    }

    /// Bytes of the next frame and whether it was cut; `None` if there is none.
    /// No frame is expected to have `too_long` bytes.
    fn recv_one(
        &self,
        pool: &BufPool,
        chain: &[Piece],
        too_long: usize,
    ) -> Result<Option<(usize, bool)>, TapError> {
        let room: usize = chain.iter().map(|p| p.len as usize).sum();
        loop {
            match readv(self.fd.as_fd(), pool, chain, too_long) {
                Ok(n) => return Ok(Some((n.min(room), n > room))),
                Err(e) => match self.verdict(e) {
                    Verdict::Full => return Ok(None),
                    Verdict::Again => {}
                    Verdict::Refused => {
                        return Err(self.os("receive from", rustix::io::Errno::FAULT));
                    }
                    Verdict::Error(e) => return Err(e),
                },
            }
        }
    }

    /// What an error of a read or write means.
    pub(super) fn verdict(&self, e: io::Error) -> Verdict {
        let name = || self.name.clone();
        match e.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Verdict::Full,
            Some(libc::EINTR) => Verdict::Again,
            Some(libc::EINVAL | libc::EFAULT | libc::EMSGSIZE | libc::E2BIG) => Verdict::Refused,
            Some(libc::EIO | libc::ENETDOWN) => Verdict::Error(TapError::Down { name: name() }),
            Some(libc::EBADFD | libc::ENODEV | libc::ENXIO) => {
                Verdict::Error(TapError::Gone { name: name() })
            }
            _ => {
                Verdict::Error(OsError::new("use a queue of", format!("TAP {}", name()), e).into())
            }
        }
    }

    fn os(&self, what: &'static str, e: rustix::io::Errno) -> TapError {
        OsError::new(what, format!("TAP {}", self.name), e).into()
    }
}

/// What an error says about a frame and the queue.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Nothing there, or no room: wait.
    Full,
    /// Interrupted: do it again.
    Again,
    /// This frame can never be sent.
    Refused,
    /// The queue cannot be used.
    Error(TapError),
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<TapQueue> for OwnedFd {
    fn from(queue: TapQueue) -> Self {
        queue.fd
    }
}

/// The shortest beginning of `free` that holds `longest` bytes.
fn enough(free: &[Piece], longest: usize) -> Option<&[Piece]> {
    let mut room = 0;
    for (i, piece) in free.iter().take(MAX_PIECES).enumerate() {
        room += piece.len as usize;
        if room >= longest {
            return free.get(..=i);
        }
    }
    None
}

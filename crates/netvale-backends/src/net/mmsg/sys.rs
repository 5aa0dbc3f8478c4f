//! `sendmmsg` and `recvmmsg` over chains of a pool.

#![expect(
    unsafe_code,
    reason = "message headers carry raw addresses of pool memory"
)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{Ask, Got, HEAD, Out, RawAddr};
use crate::batch::iov::{append, outside};
use crate::batch::{Batch, BufPool, Piece};

/// Bytes of control messages that are received with a datagram.
const CONTROL: usize = 64;

/// Message headers, kept between calls so that they need no allocation.
/// Every call fills them anew; what they point at outlives that call only.
#[derive(Default)]
pub(crate) struct Messages {
    msgs: Vec<libc::mmsghdr>,
    iov: Vec<libc::iovec>,
    names: Vec<RawAddr>,
    heads: Vec<[u8; HEAD]>,
    control: Vec<[u64; CONTROL / 8]>,
    /// What does not fit into the chains, message by message.
    spill: Vec<u8>,
    spill_len: usize,
    /// Messages of the last receive.
    got: usize,
    head_len: usize,
}

// SAFETY: the pointers inside are written at the beginning of every call and
// followed by the kernel during it only; between calls they are plain numbers.
unsafe impl Send for Messages {}
// SAFETY: as above; shared references give access to received bytes only.
unsafe impl Sync for Messages {}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl Messages {
    /// Headers for `n` messages, each with a head of this length and a chain.
    /// Nothing that they point at may be touched until the call.
    fn prepare<I: Iterator<Item = Piece>>(
        &mut self,
        pool: &BufPool,
        n: usize,
        head_len: usize,
        mut chain: impl FnMut(usize) -> I,
    ) -> io::Result<()> {
        self.got = 0;
        self.head_len = head_len.min(HEAD);
        self.iov.clear();
        self.msgs.clear();
        self.make_room(n);
        let heads = self.heads.as_mut_ptr();
        for i in 0..n {
            let before = self.iov.len();
            if self.head_len > 0 {
                self.iov.push(libc::iovec {
                    iov_base: heads.wrapping_add(i).cast(),
                    iov_len: self.head_len,
                });
            }
            // What is before is no part of the pool.
            let start = self.iov.len();
            for piece in chain(i) {
                append(&mut self.iov, start, pool, piece).ok_or_else(outside)?;
            }
            if let Some(part) = self.spill.get_mut(i * self.spill_len..) {
                let part = part.get_mut(..self.spill_len).unwrap_or_default();
                if !part.is_empty() {
                    self.iov.push(libc::iovec {
                        iov_base: part.as_mut_ptr().cast(),
                        iov_len: part.len(),
                    });
                }
            }
            // SAFETY: integers and pointers, all of which may be zero.
            let mut msg: libc::mmsghdr = unsafe { std::mem::zeroed() };
            msg.msg_hdr.msg_iovlen = self.iov.len() - before;
            self.msgs.push(msg);
        }
        // Only now does the list stay where it is.
        let mut at = self.iov.as_mut_ptr();
        for msg in &mut self.msgs {
            msg.msg_hdr.msg_iov = at;
            at = at.wrapping_add(msg.msg_hdr.msg_iovlen);
        }
        Ok(())
    }

    fn make_room(&mut self, n: usize) {
        if self.names.len() < n {
            self.names.resize(n, RawAddr::EMPTY);
            self.control.resize(n, [0; CONTROL / 8]);
            self.heads.resize(n, [0; HEAD]);
        }
    }

    /// Room for `len` bytes behind each of `n` chains. Grows, and is not
    /// cleared: memory that no frame reached is never touched.
    fn set_spill(&mut self, n: usize, len: usize) {
        self.spill_len = len;
        if self.spill.len() < n * len {
            self.spill = vec![0; n * len];
        }
    }

    /// What was received as message `i` of the last call.
    pub(crate) fn get(&self, i: usize) -> Option<Got<'_>> {
        let msg = self.msgs.get(..self.got)?.get(i)?;
        let total = msg.msg_len as usize;
        let head = self.heads.get(i)?.get(..self.head_len.min(total))?;
        let control = match msg.msg_hdr.msg_controllen {
            0 => &[],
            len => {
                let words = self.control.get(i)?;
                // SAFETY: the words are initialised, and bytes may be read
                // out of them; CONTROL is their size.
                let bytes =
                    unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), CONTROL) };
                bytes.get(..len.min(CONTROL))?
            }
        };
        Some(Got {
            len: total - head.len(),
            head,
            spill: self
                .spill
                .get(i * self.spill_len..)
                .and_then(|s| s.get(..self.spill_len))
                .unwrap_or_default(),
            truncated: msg.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            from: match msg.msg_hdr.msg_namelen {
                0 => None,
                _ => self.names.get(i)?.get(),
            },
            control,
        })
    }
}

/// Sends `outs`, each `head` and the frame's bytes; how many the kernel took.
///
/// # Errors
///
/// The kernel's for the first of them, or `EFAULT` for a chain that is not
/// inside the pool.
pub(crate) fn send(
    fd: BorrowedFd<'_>,
    messages: &mut Messages,
    pool: &BufPool,
    batch: &Batch,
    outs: &[Out],
    head: &[u8],
) -> io::Result<usize> {
    messages.make_room(outs.len());
    messages.set_spill(0, 0);
    for to in messages.heads.iter_mut().take(outs.len()) {
        for (to, from) in to.iter_mut().zip(head) {
            *to = *from;
        }
    }
    for (name, out) in messages.names.iter_mut().zip(outs) {
        if let Some(to) = out.to {
            *name = RawAddr::new(to);
        }
    }
    messages.prepare(pool, outs.len(), head.len(), |i| {
        batch.pieces(outs.get(i).map_or(usize::MAX, |o| o.frame))
    })?;
    let names = messages.names.as_mut_ptr();
    for (i, (msg, out)) in messages.msgs.iter_mut().zip(outs).enumerate() {
        if let Some(to) = out.to {
            msg.msg_hdr.msg_name = names.wrapping_add(i).cast();
            msg.msg_hdr.msg_namelen = RawAddr::len(to);
        }
    }
    let (fd, flags) = (fd.as_raw_fd(), libc::MSG_DONTWAIT);
    let at = messages.msgs.as_mut_ptr();
    // The C library's functions cost more: a thread can be ended in them.
    let done = match (messages.msgs.first(), messages.iov.first()) {
        // The less the kernel is told, the less it has to look at.
        (Some(msg), Some(only)) if outs.len() == 1 && msg.msg_hdr.msg_iovlen == 1 => {
            let (name, len) = (msg.msg_hdr.msg_name, msg.msg_hdr.msg_namelen);
            let (data, bytes) = (only.iov_base, only.iov_len);
            // SAFETY: the entry is inside the pool, as `prepare` checked, or
            // the head, and the name is in `messages`; both outlive the call.
            let sent =
                unsafe { libc::syscall(libc::SYS_sendto, fd, data, bytes, flags, name, len) };
            sent.min(1) // of messages, not bytes
        }
        // SAFETY: the headers point at entries that `prepare` checked against
        // the pool, which the borrow keeps mapped, and at vectors of `messages`
        // that nothing changes during the call.
        _ => unsafe { libc::syscall(libc::SYS_sendmmsg, fd, at, count(outs.len()), flags) },
    };
    usize::try_from(done)
        .ok()
        .ok_or_else(io::Error::last_os_error)
}

/// Receives into the chains `range` of the batch, whose lengths are for the
/// caller to set from [`Messages::get`]; how many came.
///
/// # Errors
///
/// The kernel's (`EAGAIN` if nothing is there), or `EFAULT` for a chain that is
/// not inside the pool.
pub(crate) fn recv(
    fd: BorrowedFd<'_>,
    messages: &mut Messages,
    pool: &BufPool,
    batch: &Batch,
    range: Range<usize>,
    ask: Ask,
) -> io::Result<usize> {
    let n = range.len();
    messages.set_spill(n, ask.spill);
    messages.prepare(pool, n, ask.head, |i| {
        batch.chain(range.start + i).iter().copied()
    })?;
    let names = messages.names.as_mut_ptr();
    let control = messages.control.as_mut_ptr();
    for (i, msg) in messages.msgs.iter_mut().enumerate() {
        if ask.address {
            msg.msg_hdr.msg_name = names.wrapping_add(i).cast();
            msg.msg_hdr.msg_namelen = RawAddr::ROOM;
        }
        if ask.control {
            msg.msg_hdr.msg_control = control.wrapping_add(i).cast();
            msg.msg_hdr.msg_controllen = CONTROL;
        }
    }
    let (fd, flags) = (fd.as_raw_fd(), libc::MSG_DONTWAIT);
    let at = messages.msgs.as_mut_ptr();
    let forever = std::ptr::null_mut::<libc::timespec>();
    let done = match n {
        // SAFETY: as below; where several are expected, the header of one
        // message comes first.
        1 => unsafe { libc::syscall(libc::SYS_recvmsg, fd, at, flags) },
        // SAFETY: as in `send`; the kernel writes pool memory, to whose bytes
        // no Rust reference exists, and vectors that `messages` lends
        // exclusively. No time limit is given.
        _ => unsafe { libc::syscall(libc::SYS_recvmmsg, fd, at, count(n), flags, forever) },
    };
    if let (1, Ok(bytes)) = (n, u32::try_from(done)) {
        if let Some(msg) = messages.msgs.first_mut() {
            msg.msg_len = bytes;
        }
        messages.got = 1;
        return Ok(1);
    }
    messages.got = usize::try_from(done)
        .ok()
        .ok_or_else(io::Error::last_os_error)?;
    Ok(messages.got)
}

fn count(n: usize) -> libc::c_uint {
    libc::c_uint::try_from(n).unwrap_or(libc::c_uint::MAX)
}

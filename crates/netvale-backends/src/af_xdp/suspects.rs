//! Frames whose checksum a sender may have left to the interface.
//!
//! Whoever receives has to finish such checksums, and nothing but the frame
//! tells. To look at every frame costs a cache line each, from the core that
//! received it. There, in the program that directs frames to sockets, the line
//! is at hand: it counts those that may be such, and as long as it counts none
//! nobody else need look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::sys::Words;
use crate::bpf::{Asm, BpfError, Cell, Label, Reg, Width};

/// Words of a queue: a cache line.
const STRIDE: usize = 8;
/// Most queues: one word says so many.
const MOST: u32 = 1 << 12;

/// The counters of an interface's queues.
#[derive(Debug)]
pub struct Suspects {
    cell: Cell,
    queues: u32,
}

impl Suspects {
    /// For queues `0..queues`.
    ///
    /// # Errors
    ///
    /// Without the privilege or the memory; needs Linux 5.5.
    pub fn new(queues: u32) -> Result<Self, BpfError> {
        let queues = queues.clamp(1, MOST);
        Ok(Self {
            cell: Cell::mapped("nv_suspects", queues as usize * STRIDE)?,
            queues,
        })
    }

    /// Counts the frame in a program: `R2` and `R3` are its beginning and its
    /// end, `R7` its queue, which is kept as `R6` and `R9` are. What is counted
    /// is all that [`netvale_wire::offload::unfinished`] finds, and more:
    /// frames that it takes long to look into.
    pub(super) fn count(&self, asm: &mut Asm) {
        let (suspect, whole) = (asm.label(), asm.label());
        Self::judge(asm, suspect, whole);
        asm.place(suspect);
        let queues = i32::try_from(self.queues).unwrap_or(0);
        asm.jump_from(Reg::R7, queues, whole);
        asm.copy(Reg::R4, Reg::R7);
        asm.shift_left(Reg::R4, 6); // bytes of a queue's words
        self.cell.address(asm, Reg::R1, 0);
        asm.add_reg(Reg::R1, Reg::R4);
        asm.set(Reg::R5, 1);
        asm.atomic_add(Reg::R1, 0, Reg::R5);
        asm.place(whole);
    }

    /// Jumps to `whole`, or to `suspect`, which comes next.
    fn judge(asm: &mut Asm, suspect: Label, whole: Label) {
        const UDP_END: i32 = 14 + 20 + 8;
        const TCP_END: i32 = 14 + 20 + 18;
        // As the bytes are loaded on this machine.
        let net = |n: u16| i32::from(n.to_be());
        let (tcp, sum) = (asm.label(), asm.label());
        let v4 = asm.label();
        asm.copy(Reg::R4, Reg::R2);
        asm.add(Reg::R4, UDP_END);
        asm.jump_above(Reg::R4, Reg::R3, suspect);
        asm.load(Width::Half, Reg::R5, Reg::R2, 12);
        asm.jump_if(Reg::R5, net(0x0800), v4);
        // IPv6 and tags are left to whoever receives.
        asm.jump_if(Reg::R5, net(0x86dd), suspect);
        asm.jump_if(Reg::R5, net(0x8100), suspect);
        asm.jump_if(Reg::R5, net(0x88a8), suspect);
        asm.go(whole);
        asm.place(v4);
        asm.load(Width::Byte, Reg::R5, Reg::R2, 14);
        asm.and(Reg::R5, 15);
        asm.jump_if_not(Reg::R5, 5, suspect); // options
        asm.load(Width::Half, Reg::R5, Reg::R2, 20);
        asm.and(Reg::R5, net(0x3fff));
        asm.jump_if_not(Reg::R5, 0, whole); // a fragment
        asm.load(Width::Byte, Reg::R5, Reg::R2, 23);
        asm.jump_if(Reg::R5, 6, tcp);
        asm.jump_if_not(Reg::R5, 17, whole);
        asm.load(Width::Half, Reg::R8, Reg::R2, 40);
        asm.jump_if(Reg::R8, 0, whole); // it has none
        asm.go(sum);
        asm.place(tcp);
        asm.copy(Reg::R4, Reg::R2);
        asm.add(Reg::R4, TCP_END);
        asm.jump_above(Reg::R4, Reg::R3, suspect);
        asm.load(Width::Half, Reg::R8, Reg::R2, 50);
        asm.place(sum);
        // The pseudo-header: protocol, length, addresses. A sum of 16-bit words
        // is the same in both byte orders.
        asm.net16(Reg::R5);
        asm.load(Width::Half, Reg::R4, Reg::R2, 16);
        asm.net16(Reg::R4);
        asm.add(Reg::R4, -20);
        asm.net16(Reg::R4);
        asm.add_reg(Reg::R5, Reg::R4);
        for at in [26, 28, 30, 32] {
            asm.load(Width::Half, Reg::R4, Reg::R2, at);
            asm.add_reg(Reg::R5, Reg::R4);
        }
        for _ in 0..2 {
            asm.copy(Reg::R4, Reg::R5);
            asm.shift_right(Reg::R4, 16);
            asm.and(Reg::R5, 0xffff);
            asm.add_reg(Reg::R5, Reg::R4);
        }
        asm.jump_unless_same(Reg::R5, Reg::R8, whole);
    }
}

impl AsFd for Suspects {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.cell.as_fd()
    }
}

/// The counter of one queue, in any process.
#[derive(Debug)]
pub struct Suspected {
    words: Words,
    at: usize,
}

impl Suspected {
    /// That of queue `queue` in what [`Suspects`] has made.
    ///
    /// # Errors
    ///
    /// It has fewer queues; the kernel's.
    pub fn of(map: BorrowedFd<'_>, queue: u32) -> io::Result<Self> {
        let at = queue as usize * STRIDE;
        Ok(Self {
            words: Words::new(map, at + STRIDE)?,
            at,
        })
    }

    /// So many frames may lack their checksum, of all that were received so
    /// far and some that are about to be.
    #[inline]
    #[must_use]
    pub fn count(&self) -> u64 {
        self.words.load(self.at).unwrap_or(0)
    }
}

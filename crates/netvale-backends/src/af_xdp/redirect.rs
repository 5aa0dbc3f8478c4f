//! The program that hands frames to sockets.

use std::os::fd::AsFd;

use super::tags::Tags;
use super::{Suspects, XskSocket};
use crate::bpf::{
    Asm, BpfError, Helper, Insn, Link, Program, ProgramKind, Reg, Width, XdpMode, XskMap,
};

/// In `xdp_md`: a frame's beginning, its end, its queue.
pub(super) const DATA: i16 = 0;
pub(super) const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;
pub(super) const XDP_DROP: i32 = 1;
pub(super) const XDP_PASS: i32 = 2;

/// An interface's XDP program: each queue's frames go to the queue's socket,
/// or to the stack where there is none. Detached when dropped, or when the
/// process ends; the stack gets everything again then.
#[derive(Debug)]
pub struct Redirect {
    map: XskMap,
    mode: XdpMode,
    /// Why VLAN tags are not put back, if they are not.
    no_tags: Option<String>,
    _link: Link,
}

impl Redirect {
    /// Attaches it to an interface with this many receive queues. There may
    /// be no other XDP program.
    ///
    /// # Errors
    ///
    /// Those of [`Program::load`] and [`Program::attach_xdp`]. Generic mode is
    /// refused on an interface whose host stack is connected to a TAP
    /// ([`crate::host`]): what is given to the stack would come back here.
    pub fn attach(ifindex: u32, queues: u32, mode: XdpMode) -> Result<Self, BpfError> {
        Self::attach_with(ifindex, queues, mode, None)
    }

    /// The same for one that counts frames which may lack their checksum.
    ///
    /// # Errors
    ///
    /// As [`Redirect::attach`].
    pub fn attach_counting(
        ifindex: u32,
        queues: u32,
        mode: XdpMode,
        counts: &Suspects,
    ) -> Result<Self, BpfError> {
        Self::attach_with(ifindex, queues, mode, Some(counts))
    }

    fn attach_with(
        ifindex: u32,
        queues: u32,
        mode: XdpMode,
        counts: Option<&Suspects>,
    ) -> Result<Self, BpfError> {
        if mode == XdpMode::Generic {
            crate::bpf::refuse_loop(ifindex)?;
        }
        let map = XskMap::new(queues)?;
        let native = mode == XdpMode::Native;
        let tags = match native {
            true => Tags::of(ifindex).map_err(str::to_owned),
            false => Err("XDP in the stack is not told of them".into()),
        };
        // A kernel may tell tags and yet not take such a program, with frames
        // in several pieces for one.
        let tagged = tags.and_then(|tags| {
            let insns = direct(&map, counts, Some(tags));
            let loaded = Program::load(ProgramKind::XdpOf(ifindex), "nv_redirect", &insns);
            loaded.map_err(|e| e.in_a_line())
        });
        let (program, no_tags) = match tagged {
            Ok(program) => (program, None),
            Err(why) => {
                let kind = ProgramKind::Xdp { frags: true };
                let plain = direct(&map, counts, None);
                (Program::load(kind, "nv_redirect", &plain)?, Some(why))
            }
        };
        let link = program.attach_xdp(ifindex, mode)?;
        Ok(Self {
            map,
            mode,
            no_tags,
            _link: link,
        })
    }

    /// Why VLAN tags that the kernel keeps beside frames are not put back into
    /// them, if they are not: then sockets get those frames without.
    #[must_use]
    pub fn why_no_tags(&self) -> Option<&str> {
        self.no_tags.as_deref()
    }

    /// Who runs it.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Queues that it knows.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.map.queues()
    }

    /// Frames of the queue go to this socket, which must be bound to that
    /// queue, until it is closed.
    ///
    /// # Errors
    ///
    /// If there is no such queue.
    pub fn connect(&self, queue: u32, socket: &XskSocket) -> Result<(), BpfError> {
        self.map.set(queue, socket.as_fd())
    }

    /// Frames of the queue go to the stack again; the socket stays bound.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn disconnect(&self, queue: u32) -> Result<(), BpfError> {
        self.map.clear(queue)
    }
}

/// The program.
fn direct(map: &XskMap, counts: Option<&Suspects>, tags: Option<Tags>) -> Vec<Insn> {
    let mut asm = Asm::new();
    asm.copy(Reg::R6, Reg::R1);
    asm.load(Width::Word, Reg::R7, Reg::R6, RX_QUEUE_INDEX);
    // The answer where there is no socket.
    asm.set(Reg::R9, XDP_PASS);
    if let Some(tags) = tags {
        tags.put_back(&mut asm, map);
    }
    if let Some(counts) = counts {
        asm.load(Width::Word, Reg::R2, Reg::R6, DATA);
        asm.load(Width::Word, Reg::R3, Reg::R6, DATA_END);
        counts.count(&mut asm);
    }
    asm.copy(Reg::R2, Reg::R7);
    map.load(&mut asm, Reg::R1);
    asm.copy(Reg::R3, Reg::R9);
    asm.call(Helper::RedirectMap);
    asm.exit();
    asm.finish()
}

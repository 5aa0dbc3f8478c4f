//! VLAN tags that the kernel keeps beside a frame.
//!
//! A device may take a tag out of a frame, and the other end of a veth may
//! never have put it in. A socket gets the frame alone, so the program that
//! directs it there puts the tag back, if the driver tells it: by
//! `bpf_xdp_metadata_rx_vlan_tag`
//! (Documentation/networking/xdp-rx-metadata.rst), since Linux 6.8.

use std::sync::OnceLock;

use super::redirect::{DATA, DATA_END, XDP_DROP};
use crate::bpf::{Asm, Helper, Reg, Width, XdpFeatures, XskMap, kernel_function};

/// Bytes of a tag, and of the addresses before it.
const TAG: i32 = 4;
const ADDRESSES: i16 = 12;
/// Where on the stack the kernel writes the type and the control information,
/// and where the number of the queue is.
const TYPE: i16 = -8;
const CONTROL: i16 = -16;
const QUEUE: i16 = -24;

/// How to learn an interface's tags.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tags {
    function: u32,
}

/// Whether the kernel says how a driver is asked for tags.
pub(crate) fn knows_tags() -> bool {
    function().is_some()
}

fn function() -> Option<u32> {
    // The same until the next kernel; to look for it takes milliseconds.
    static FUNCTION: OnceLock<u32> = OnceLock::new();
    if let Some(&found) = FUNCTION.get() {
        return Some(found);
    }
    // One that cannot be read now (too many open files) can be later.
    let found = kernel_function("bpf_xdp_metadata_rx_vlan_tag")?;
    Some(*FUNCTION.get_or_init(|| found))
}

impl Tags {
    /// Why not: the driver does not tell them, or the kernel does not say how
    /// it is asked.
    pub(super) fn of(ifindex: u32) -> Result<Self, &'static str> {
        if !XdpFeatures::ask(ifindex).is_ok_and(|f| f.tells_tags) {
            return Err("the driver does not tell them");
        }
        let function = function().ok_or("the kernel's type information has no word of them")?;
        Ok(Self { function })
    }

    /// Puts the tag back in a program, if there is one and the queue has a
    /// socket: the stack finds it where it is. `R6` is the context, `R7` the
    /// queue; they and `R8` are kept. `R9`, the answer where there is no
    /// socket after all, becomes another where the frame has changed.
    pub(super) fn put_back(self, asm: &mut Asm, map: &XskMap) {
        let (lost, done) = (asm.label(), asm.label());
        for at in [TYPE, CONTROL] {
            asm.store(Width::Double, Reg::R10, at, 0);
        }
        asm.copy(Reg::R1, Reg::R6);
        for (argument, at) in [(Reg::R2, TYPE), (Reg::R3, CONTROL)] {
            asm.copy(argument, Reg::R10);
            asm.add(argument, at.into());
        }
        asm.call_kernel(self.function);
        asm.jump_if_not(Reg::R0, 0, done);

        asm.store_reg(Width::Word, Reg::R10, QUEUE, Reg::R7);
        map.load(asm, Reg::R1);
        asm.copy(Reg::R2, Reg::R10);
        asm.add(Reg::R2, QUEUE.into());
        asm.call(Helper::MapLookup);
        asm.jump_if(Reg::R0, 0, done);

        asm.copy(Reg::R1, Reg::R6);
        asm.set(Reg::R2, -TAG);
        asm.call(Helper::XdpAdjustHead);
        asm.jump_if_not(Reg::R0, 0, lost);
        asm.set(Reg::R9, XDP_DROP);
        asm.load(Width::Word, Reg::R2, Reg::R6, DATA);
        asm.load(Width::Word, Reg::R3, Reg::R6, DATA_END);
        asm.copy(Reg::R4, Reg::R2);
        asm.add(Reg::R4, i32::from(ADDRESSES) + TAG);
        asm.jump_above(Reg::R4, Reg::R3, lost);
        for (width, to) in [(Width::Double, 0), (Width::Word, 8)] {
            asm.load(width, Reg::R4, Reg::R2, to + 4);
            asm.store_reg(width, Reg::R2, to, Reg::R4);
        }
        asm.load(Width::Half, Reg::R4, Reg::R10, TYPE);
        asm.store_reg(Width::Half, Reg::R2, ADDRESSES, Reg::R4);
        asm.load(Width::Half, Reg::R4, Reg::R10, CONTROL);
        asm.net16(Reg::R4);
        asm.store_reg(Width::Half, Reg::R2, ADDRESSES + 2, Reg::R4);
        asm.go(done);
        // Without its tag it would be another network's.
        asm.place(lost);
        asm.answer(XDP_DROP);
        asm.place(done);
    }
}

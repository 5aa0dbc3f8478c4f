//! Instructions of the kernel's virtual machine, put together in Rust.

/// A register. `R0` holds results, `R1`..`R5` arguments (lost in calls),
/// `R6`..`R9` survive calls, `R10` is the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "said above")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes are loaded or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte = 0x10,
    /// Two bytes.
    Half = 0x08,
    /// Four bytes.
    Word = 0x00,
    /// Eight bytes.
    Double = 0x18,
}

/// One instruction, as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u8,
    regs: u8,
    off: i16,
    imm: i32,
}

/// A place to jump to, forwards only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// Kernel functions that programs call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_map_lookup_elem(map, key)`.
    MapLookup = 1,
    /// `bpf_redirect(ifindex, flags)`.
    Redirect = 23,
    /// `bpf_xdp_adjust_head(ctx, delta)`.
    XdpAdjustHead = 44,
    /// `bpf_redirect_map(map, key, flags)`.
    RedirectMap = 51,
}

const CLASS_LDX: u8 = 0x01;
const CLASS_ST: u8 = 0x02;
const CLASS_STX: u8 = 0x03;
const CLASS_ALU: u8 = 0x04;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const LD_IMM64: u8 = 0x18;
const MODE_MEM: u8 = 0x60;
const MODE_ATOMIC: u8 = 0xc0;
const SRC_REG: u8 = 0x08;
const OP_ADD: u8 = 0x00;
const OP_AND: u8 = 0x50;
const OP_SHL: u8 = 0x60;
const OP_SHR: u8 = 0x70;
const OP_MOV: u8 = 0xb0;
/// To the byte order of networks, or from it.
const OP_END: u8 = 0xd0;
const JMP_ALWAYS: u8 = 0x00;
const JMP_JEQ: u8 = 0x10;
const JMP_JGT: u8 = 0x20;
const JMP_JGE: u8 = 0x30;
const JMP_JNE: u8 = 0x50;
const JMP_CALL: u8 = 0x80;
const JMP_EXIT: u8 = 0x90;
/// In the source field of a 64-bit load: a map, by descriptor.
const PSEUDO_MAP_FD: u8 = 1;
/// The same: the value of an array of one, by descriptor and offset.
const PSEUDO_MAP_VALUE: u8 = 2;

/// In the source field of a call: a kernel function, by its number among the
/// kernel's types.
#[cfg(feature = "af_xdp")]
const PSEUDO_KFUNC: u8 = 2;

/// Collects instructions; jumps are filled in when their label is placed.
///
/// ```
/// use netvale_backends::bpf::{Asm, Reg, Width};
/// // A program that answers 2 when the word at offset 8 of its argument is 7.
/// let mut asm = Asm::new();
/// let other = asm.label();
/// asm.load(Width::Word, Reg::R2, Reg::R1, 8);
/// asm.jump_if_not(Reg::R2, 7, other);
/// asm.answer(2);
/// asm.place(other);
/// asm.answer(0);
/// assert_eq!(asm.finish().len(), 6);
/// ```
#[derive(Debug, Default)]
pub struct Asm {
    insns: Vec<Insn>,
    /// For each label: where it is, and the jumps that wait for it.
    labels: Vec<(Option<usize>, Vec<usize>)>,
}

impl Asm {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A new label, to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push((None, Vec::new()));
        Label(self.labels.len() - 1)
    }

    /// The label stands before the next instruction.
    ///
    /// # Panics
    ///
    /// If it has been placed already.
    pub fn place(&mut self, label: Label) {
        let here = self.insns.len();
        let (at, jumps) = &mut self.labels[label.0];
        assert!(at.replace(here).is_none(), "a label has one place");
        for &jump in &*jumps {
            let Ok(distance) = i16::try_from(here - jump - 1) else {
                panic!("a jump of more than 32767 instructions");
            };
            self.insns[jump].off = distance;
        }
    }

    /// `dst = value`, sign-extended.
    pub fn set(&mut self, dst: Reg, value: i32) {
        self.push(CLASS_ALU64 | OP_MOV, dst, 0, 0, value);
    }

    /// `dst = src`.
    pub fn copy(&mut self, dst: Reg, src: Reg) {
        self.push(CLASS_ALU64 | OP_MOV | SRC_REG, dst, src as u8, 0, 0);
    }

    /// `dst += value`.
    pub fn add(&mut self, dst: Reg, value: i32) {
        self.push(CLASS_ALU64 | OP_ADD, dst, 0, 0, value);
    }

    /// `dst += src`.
    pub fn add_reg(&mut self, dst: Reg, src: Reg) {
        self.push(CLASS_ALU64 | OP_ADD | SRC_REG, dst, src as u8, 0, 0);
    }

    /// `dst &= value`, sign-extended.
    pub fn and(&mut self, dst: Reg, value: i32) {
        self.push(CLASS_ALU64 | OP_AND, dst, 0, 0, value);
    }

    /// `dst <<= bits`.
    pub fn shift_left(&mut self, dst: Reg, bits: i32) {
        self.push(CLASS_ALU64 | OP_SHL, dst, 0, 0, bits);
    }

    /// `dst >>= bits`.
    pub fn shift_right(&mut self, dst: Reg, bits: i32) {
        self.push(CLASS_ALU64 | OP_SHR, dst, 0, 0, bits);
    }

    /// `dst` = its lower 16 bits, from this machine's byte order to that of
    /// networks or back.
    pub fn net16(&mut self, dst: Reg) {
        self.push(CLASS_ALU | OP_END | SRC_REG, dst, 0, 0, 16);
    }

    /// `dst = [src + off]`.
    pub fn load(&mut self, width: Width, dst: Reg, src: Reg, off: i16) {
        self.push(CLASS_LDX | MODE_MEM | width as u8, dst, src as u8, off, 0);
    }

    /// `[dst + off] = value`.
    pub fn store(&mut self, width: Width, dst: Reg, off: i16, value: i32) {
        self.push(CLASS_ST | MODE_MEM | width as u8, dst, 0, off, value);
    }

    /// `[dst + off] = src`.
    pub fn store_reg(&mut self, width: Width, dst: Reg, off: i16, src: Reg) {
        let code = CLASS_STX | MODE_MEM | width as u8;
        self.push(code, dst, src as u8, off, 0);
    }

    /// `[dst + off] += src` in one piece, eight bytes.
    pub fn atomic_add(&mut self, dst: Reg, off: i16, src: Reg) {
        let code = CLASS_STX | MODE_ATOMIC | Width::Double as u8;
        self.push(code, dst, src as u8, off, 0);
    }

    /// Jumps if `reg` is `value`.
    pub fn jump_if(&mut self, reg: Reg, value: i32, to: Label) {
        self.jump(JMP_JEQ, reg, value, to);
    }

    /// Jumps if `reg` is not `value`.
    pub fn jump_if_not(&mut self, reg: Reg, value: i32, to: Label) {
        self.jump(JMP_JNE, reg, value, to);
    }

    /// Jumps if `reg` is `value` or more, both without sign.
    pub fn jump_from(&mut self, reg: Reg, value: i32, to: Label) {
        self.jump(JMP_JGE, reg, value, to);
    }

    /// Jumps if `reg` is more than `other`, both without sign.
    pub fn jump_above(&mut self, reg: Reg, other: Reg, to: Label) {
        self.jump_by(JMP_JGT, reg, other, to);
    }

    /// Jumps if `reg` is not `other`.
    pub fn jump_unless_same(&mut self, reg: Reg, other: Reg, to: Label) {
        self.jump_by(JMP_JNE, reg, other, to);
    }

    /// Jumps.
    pub fn go(&mut self, to: Label) {
        self.jump(JMP_ALWAYS, Reg::R0, 0, to);
    }

    /// `dst` = the map behind a descriptor.
    pub(super) fn load_map(&mut self, dst: Reg, fd: i32) {
        self.wide(dst, PSEUDO_MAP_FD, fd, 0);
    }

    /// `dst` = the address of byte `off` of the only value of an array.
    pub(super) fn load_value(&mut self, dst: Reg, fd: i32, off: i32) {
        self.wide(dst, PSEUDO_MAP_VALUE, fd, off);
    }

    /// Calls a kernel function; the result is in `R0`.
    pub fn call(&mut self, helper: Helper) {
        self.push(CLASS_JMP | JMP_CALL, Reg::R0, 0, 0, helper as i32);
    }

    /// The same for a function that is known by its number among the kernel's
    /// types.
    #[cfg(feature = "af_xdp")]
    pub(crate) fn call_kernel(&mut self, function: u32) {
        let number = function.cast_signed();
        self.push(CLASS_JMP | JMP_CALL, Reg::R0, PSEUDO_KFUNC, 0, number);
    }

    /// Ends the program with `R0` as its answer.
    pub fn exit(&mut self) {
        self.push(CLASS_JMP | JMP_EXIT, Reg::R0, 0, 0, 0);
    }

    /// Ends the program with this answer.
    pub fn answer(&mut self, value: i32) {
        self.set(Reg::R0, value);
        self.exit();
    }

    /// The instructions.
    ///
    /// # Panics
    ///
    /// If a label that is jumped to has no place.
    #[must_use]
    pub fn finish(self) -> Vec<Insn> {
        let placed = |(at, jumps): &(Option<usize>, Vec<usize>)| at.is_some() || jumps.is_empty();
        assert!(self.labels.iter().all(placed), "a jump to nowhere");
        self.insns
    }

    fn jump(&mut self, op: u8, reg: Reg, value: i32, to: Label) {
        self.aim(to);
        self.push(CLASS_JMP | op, reg, 0, 0, value);
    }

    fn jump_by(&mut self, op: u8, reg: Reg, other: Reg, to: Label) {
        self.aim(to);
        self.push(CLASS_JMP | op | SRC_REG, reg, other as u8, 0, 0);
    }

    /// The next instruction is a jump to `to`.
    fn aim(&mut self, to: Label) {
        let (at, jumps) = &mut self.labels[to.0];
        assert!(at.is_none(), "jumps go forwards");
        jumps.push(self.insns.len());
    }

    fn wide(&mut self, dst: Reg, kind: u8, low: i32, high: i32) {
        self.push(LD_IMM64, dst, kind, 0, low);
        self.push(0, Reg::R0, 0, 0, high);
    }

    fn push(&mut self, code: u8, dst: Reg, src: u8, off: i16, imm: i32) {
        self.insns.push(Insn {
            code,
            regs: src << 4 | dst as u8,
            off,
            imm,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u8, regs: u8, off: i16, imm: i32) -> Insn {
        Insn {
            code,
            regs,
            off,
            imm,
        }
    }

    #[test]
    fn instructions_have_the_kernels_bytes() {
        let mut asm = Asm::new();
        let end = asm.label();
        asm.load(Width::Word, Reg::R2, Reg::R1, 16);
        asm.jump_if(Reg::R2, -1, end);
        asm.jump_if_not(Reg::R2, 5, end);
        asm.load_map(Reg::R1, 9);
        asm.load_value(Reg::R3, 9, 8);
        asm.store(Width::Word, Reg::R6, 8, 7);
        asm.store_reg(Width::Half, Reg::R2, 12, Reg::R3);
        asm.atomic_add(Reg::R3, 24, Reg::R4);
        asm.copy(Reg::R6, Reg::R1);
        asm.call(Helper::RedirectMap);
        asm.load(Width::Half, Reg::R2, Reg::R1, 12);
        asm.load(Width::Byte, Reg::R2, Reg::R1, 23);
        asm.add(Reg::R4, 42);
        asm.add_reg(Reg::R4, Reg::R5);
        asm.and(Reg::R4, 0xffff);
        asm.shift_left(Reg::R4, 6);
        asm.shift_right(Reg::R4, 16);
        asm.net16(Reg::R4);
        asm.jump_from(Reg::R7, 4, end);
        asm.jump_above(Reg::R4, Reg::R3, end);
        asm.jump_unless_same(Reg::R4, Reg::R3, end);
        asm.go(end);
        asm.place(end);
        asm.answer(-1);
        let expected = [
            insn(0x61, 0x12, 16, 0),
            insn(0x15, 0x02, 22, -1),
            insn(0x55, 0x02, 21, 5),
            insn(0x18, 0x11, 0, 9),
            insn(0, 0, 0, 0),
            insn(0x18, 0x23, 0, 9),
            insn(0, 0, 0, 8),
            insn(0x62, 0x06, 8, 7),
            insn(0x6b, 0x32, 12, 0),
            insn(0xdb, 0x43, 24, 0),
            insn(0xbf, 0x16, 0, 0),
            insn(0x85, 0, 0, 51),
            insn(0x69, 0x12, 12, 0),
            insn(0x71, 0x12, 23, 0),
            insn(0x07, 0x04, 0, 42),
            insn(0x0f, 0x54, 0, 0),
            insn(0x57, 0x04, 0, 0xffff),
            insn(0x67, 0x04, 0, 6),
            insn(0x77, 0x04, 0, 16),
            insn(0xdc, 0x04, 0, 16),
            insn(0x35, 0x07, 3, 4),
            insn(0x2d, 0x34, 2, 0),
            insn(0x5d, 0x34, 1, 0),
            insn(0x05, 0, 0, 0),
            insn(0xb7, 0, 0, -1),
            insn(0x95, 0, 0, 0),
        ];
        assert_eq!(asm.finish(), expected);
    }

    #[test]
    #[should_panic(expected = "a jump to nowhere")]
    fn a_label_without_place_is_a_mistake() {
        let mut asm = Asm::new();
        let nowhere = asm.label();
        asm.jump_if(Reg::R0, 0, nowhere);
        let _ = asm.finish();
    }
}

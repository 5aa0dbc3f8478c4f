//! The four programs.

use crate::bpf::{Asm, Cell, Helper, Insn, Reg, Width};

/// Words of the control cell: capture, withhold.
pub(super) const CONTROL_WORDS: usize = 2;
const CAPTURE: usize = 0;
const WITHHOLD: usize = 1;

/// Words of the counters: pairs of frames and bytes.
pub(super) const COUNTER_WORDS: usize = 8;
pub(super) const CAPTURED: usize = 0;
pub(super) const INJECTED: usize = 2;
pub(super) const WITHHELD: usize = 4;
pub(super) const FOREIGN: usize = 6;

/// Of `__sk_buff`.
const LEN: i16 = 0;
const MARK: i16 = 8;

/// Answers of tcx programs.
const NEXT: i32 = -1;
const DROP: i32 = 2;

const TO_INGRESS: i32 = 1;

/// What the programs share.
pub(super) struct Parts<'a> {
    pub(super) control: &'a Cell,
    pub(super) counters: &'a Cell,
    pub(super) mark: u32,
}

impl Parts<'_> {
    /// On the interface's egress: to the TAP, if that is wanted.
    pub(super) fn capture(&self, tap: u32) -> Vec<Insn> {
        let mut asm = self.begin();
        let (unmarked, pass) = (asm.label(), asm.label());
        self.unless_marked(&mut asm, unmarked);
        asm.store(Width::Word, Reg::R6, MARK, 0);
        asm.answer(NEXT);
        asm.place(unmarked);
        self.control.address(&mut asm, Reg::R1, CAPTURE);
        asm.load(Width::Double, Reg::R1, Reg::R1, 0);
        asm.jump_if(Reg::R1, 0, pass);
        self.count(&mut asm, CAPTURED);
        asm.store(Width::Word, Reg::R6, MARK, self.mark_imm());
        redirect(&mut asm, tap, 0);
        asm.place(pass);
        asm.answer(NEXT);
        asm.finish()
    }

    /// On the TAP's egress: nothing but what was captured.
    pub(super) fn guard(&self) -> Vec<Insn> {
        let mut asm = self.begin();
        let foreign = asm.label();
        self.unless_marked(&mut asm, foreign);
        asm.answer(NEXT);
        asm.place(foreign);
        self.count(&mut asm, FOREIGN);
        asm.answer(DROP);
        asm.finish()
    }

    /// On the TAP's ingress: into the interface.
    pub(super) fn inject(&self, interface: u32) -> Vec<Insn> {
        let mut asm = self.begin();
        self.count(&mut asm, INJECTED);
        asm.store(Width::Word, Reg::R6, MARK, self.mark_imm());
        redirect(&mut asm, interface, TO_INGRESS);
        asm.finish()
    }

    /// On the interface's ingress: what was injected passes, and what else is
    /// not withheld.
    pub(super) fn gate(&self) -> Vec<Insn> {
        let mut asm = self.begin();
        let (unmarked, pass) = (asm.label(), asm.label());
        self.unless_marked(&mut asm, unmarked);
        asm.store(Width::Word, Reg::R6, MARK, 0);
        asm.answer(NEXT);
        asm.place(unmarked);
        self.control.address(&mut asm, Reg::R1, WITHHOLD);
        asm.load(Width::Double, Reg::R1, Reg::R1, 0);
        asm.jump_if(Reg::R1, 0, pass);
        self.count(&mut asm, WITHHELD);
        asm.answer(DROP);
        asm.place(pass);
        asm.answer(NEXT);
        asm.finish()
    }

    /// The packet is in `R6` from now on.
    fn begin(&self) -> Asm {
        let mut asm = Asm::new();
        asm.copy(Reg::R6, Reg::R1);
        asm
    }

    fn unless_marked(&self, asm: &mut Asm, go: crate::bpf::Label) {
        asm.load(Width::Word, Reg::R2, Reg::R6, MARK);
        asm.jump_if_not(Reg::R2, self.mark_imm(), go);
    }

    fn count(&self, asm: &mut Asm, word: usize) {
        self.counters.address(asm, Reg::R1, word);
        asm.set(Reg::R2, 1);
        asm.atomic_add(Reg::R1, 0, Reg::R2);
        asm.load(Width::Word, Reg::R2, Reg::R6, LEN);
        asm.atomic_add(Reg::R1, 8, Reg::R2);
    }

    /// Below 2^31, so that widening it to a register keeps it.
    fn mark_imm(&self) -> i32 {
        self.mark.cast_signed()
    }
}

fn redirect(asm: &mut Asm, ifindex: u32, flags: i32) {
    asm.set(Reg::R1, ifindex.cast_signed());
    asm.set(Reg::R2, flags);
    asm.call(Helper::Redirect);
    asm.exit();
}

//! An assembler for the few BPF instructions that the programs need.
//!
//! Jumps go to labels and only forward, as do those of all programs without loops. What a mistake
//! here would make is refused by the kernel's verifier, not run.

/// A register. R0 takes results, R1 to R5 are arguments and lost in a call, R6 to R9 are kept, R10
/// is the end of the stack frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
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

/// Width of a load or store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Size {
    /// 4 bytes.
    Word = 0x00,
    /// 2 bytes.
    Half = 0x08,
    /// 8 bytes.
    Double = 0x18,
}

/// When a jump is taken; numbers compare as 64-bit values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum If {
    /// Equal.
    Equal = 0x10,
    /// Unsigned greater.
    Above = 0x20,
    /// Some bit is set in both.
    AnySet = 0x40,
    /// Not equal.
    Differ = 0x50,
    /// Signed greater.
    Greater = 0x60,
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// One instruction as the kernel reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u8,
    /// Destination and source, a nibble each.
    regs: u8,
    offset: i16,
    imm: i32,
}

/// A program in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    insns: Vec<Insn>,
    /// Where each label stands, once it does.
    labels: Vec<Option<usize>>,
    /// Jumps to be completed: instruction, label.
    jumps: Vec<(usize, Label)>,
}

const ALU64: u8 = 0x07;
const JUMP: u8 = 0x05;
const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const STORE_IMM: u8 = 0x62;
/// The operand is a register, not a number.
const FROM_REG: u8 = 0x08;

impl Assembler {
    /// An empty program.
    pub fn new() -> Self {
        Self::default()
    }

    /// A label, to be set later with [`Assembler::place`].
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Sets a label in front of the next instruction.
    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.insns.len());
    }

    /// `to = from`
    pub fn mov(&mut self, to: Reg, from: Reg) {
        self.push(ALU64 | 0xb0 | FROM_REG, to, from, 0, 0);
    }

    /// `to = value`, sign-extended.
    pub fn set(&mut self, to: Reg, value: i32) {
        self.push(ALU64 | 0xb0, to, Reg::R0, 0, value);
    }

    /// `to += value`
    pub fn add(&mut self, to: Reg, value: i32) {
        self.push(ALU64, to, Reg::R0, 0, value);
    }

    /// `to |= value`
    pub fn or(&mut self, to: Reg, value: i32) {
        self.push(ALU64 | 0x40, to, Reg::R0, 0, value);
    }

    /// `to &= value`
    pub fn and(&mut self, to: Reg, value: i32) {
        self.push(ALU64 | 0x50, to, Reg::R0, 0, value);
    }

    /// `to = *(base + offset)`
    pub fn load(&mut self, size: Size, to: Reg, base: Reg, offset: i16) {
        self.push(LOAD | size as u8, to, base, offset, 0);
    }

    /// `*(base + offset) = from`
    pub fn store(&mut self, size: Size, base: Reg, offset: i16, from: Reg) {
        self.push(STORE | size as u8, base, from, offset, 0);
    }

    /// `*(base + offset) = value`
    pub fn store_imm(&mut self, size: Size, base: Reg, offset: i16, value: i32) {
        self.push(STORE_IMM | size as u8, base, Reg::R0, offset, value);
    }

    /// `to` = the map behind a descriptor. Takes the room of two instructions.
    pub fn map(&mut self, to: Reg, fd: i32) {
        const MAP_FD: u8 = 1;
        let regs = nibbles(to as u8, MAP_FD);
        let (code, offset) = (0x18, 0);
        self.insns.push(Insn {
            code,
            regs,
            offset,
            imm: fd,
        });
        self.push(0, Reg::R0, Reg::R0, 0, 0);
    }

    /// Calls the helper of the kernel with this number.
    pub fn call(&mut self, helper: i32) {
        self.push(JUMP | 0x80, Reg::R0, Reg::R0, 0, helper);
    }

    /// Goes to `label`.
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.insns.len(), label));
        self.push(JUMP, Reg::R0, Reg::R0, 0, 0);
    }

    /// Goes to `label` if `a` compares so with the number `b`.
    pub fn jump_if(&mut self, a: Reg, test: If, b: i32, label: Label) {
        self.jumps.push((self.insns.len(), label));
        self.push(JUMP | test as u8, a, Reg::R0, 0, b);
    }

    /// Goes to `label` if `a` compares so with `b`.
    pub fn jump_if_reg(&mut self, a: Reg, test: If, b: Reg, label: Label) {
        self.jumps.push((self.insns.len(), label));
        self.push(JUMP | test as u8 | FROM_REG, a, b, 0, 0);
    }

    /// Ends the program with the result `value`.
    pub fn exit(&mut self, value: i32) {
        self.set(Reg::R0, value);
        self.push(JUMP | 0x90, Reg::R0, Reg::R0, 0, 0);
    }

    /// The finished program.
    ///
    /// # Panics
    /// If a label was never placed, or a jump is too long: mistakes in the program's source, which
    /// takes no input.
    pub fn finish(mut self) -> Vec<Insn> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("every label is placed");
            // Counted from the instruction behind the jump.
            let distance = target as i64 - at as i64 - 1;
            self.insns[at].offset = i16::try_from(distance).expect("programs are short");
        }
        self.insns
    }

    fn push(&mut self, code: u8, to: Reg, from: Reg, offset: i16, imm: i32) {
        let regs = nibbles(to as u8, from as u8);
        self.insns.push(Insn {
            code,
            regs,
            offset,
            imm,
        });
    }
}

/// Bit fields begin at the end that the machine's bytes begin at.
const fn nibbles(to: u8, from: u8) -> u8 {
    if cfg!(target_endian = "little") {
        from << 4 | to
    } else {
        to << 4 | from
    }
}

#[cfg(test)]
mod tests {
    use super::{Assembler, If, Insn, Reg, Size, nibbles};

    fn insn(code: u8, to: u8, from: u8, offset: i16, imm: i32) -> Insn {
        let regs = nibbles(to, from);
        Insn {
            code,
            regs,
            offset,
            imm,
        }
    }

    /// Codes as in the kernel's Documentation/bpf/standardization/instruction-set.rst.
    #[test]
    fn instructions_have_the_kernels_codes() {
        let mut a = Assembler::new();
        a.mov(Reg::R6, Reg::R1);
        a.set(Reg::R2, -1);
        a.add(Reg::R2, 7);
        a.or(Reg::R2, 64);
        a.and(Reg::R2, 2);
        a.load(Size::Word, Reg::R7, Reg::R6, 84);
        a.load(Size::Double, Reg::R7, Reg::R6, 184);
        a.store(Size::Word, Reg::R10, -4, Reg::R3);
        a.store_imm(Size::Half, Reg::R10, -8, 5);
        a.map(Reg::R1, 9);
        a.call(107);
        a.exit(1);
        let expected = [
            insn(0xbf, 6, 1, 0, 0),
            insn(0xb7, 2, 0, 0, -1),
            insn(0x07, 2, 0, 0, 7),
            insn(0x47, 2, 0, 0, 64),
            insn(0x57, 2, 0, 0, 2),
            insn(0x61, 7, 6, 84, 0),
            insn(0x79, 7, 6, 184, 0),
            insn(0x63, 10, 3, -4, 0),
            insn(0x6a, 10, 0, -8, 5),
            insn(0x18, 1, 1, 0, 9),
            insn(0, 0, 0, 0, 0),
            insn(0x85, 0, 0, 0, 107),
            insn(0xb7, 0, 0, 0, 1),
            insn(0x95, 0, 0, 0, 0),
        ];
        assert_eq!(a.finish(), expected);
    }

    #[test]
    fn jumps_count_from_the_next_instruction() {
        let mut a = Assembler::new();
        let (near, far) = (a.label(), a.label());
        a.jump_if(Reg::R1, If::Equal, 3, far);
        a.jump(near);
        a.place(near);
        a.jump_if_reg(Reg::R1, If::Above, Reg::R2, far);
        a.set(Reg::R0, 0);
        a.place(far);
        a.exit(0);
        let program = a.finish();
        assert_eq!(program[0], insn(0x15, 1, 0, 3, 3));
        assert_eq!(program[1], insn(0x05, 0, 0, 0, 0));
        assert_eq!(program[2], insn(0x2d, 1, 2, 1, 0));
    }

    #[test]
    fn an_instruction_takes_eight_bytes() {
        assert_eq!(size_of::<Insn>(), 8);
    }
}

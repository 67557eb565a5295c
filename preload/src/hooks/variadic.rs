//! C functions with a variable argument list, which Rust cannot define.
//!
//! Each is a few instructions that do what a C compiler does at the start of such a function:
//! put the argument registers into memory, describe them by a `va_list`, and pass a pointer to
//! that on, behind the named arguments.

/// A `va_list` of the System V calling convention for x86-64.
#[repr(C)]
pub(super) struct VaList {
    /// Where the next integer lies in `registers`; from 48 on they are on the stack.
    integers: u32,
    _floats: u32,
    stack: *const usize,
    registers: *const u8,
}

impl VaList {
    /// The next argument that is a pointer.
    ///
    /// # Safety
    /// There is one.
    pub(super) unsafe fn pointer(&mut self) -> *const libc::c_char {
        // SAFETY: by this function's contract.
        unsafe {
            let value = if self.integers < 48 {
                let at = self.registers.add(self.integers as usize).cast::<usize>();
                self.integers += 8;
                at.read()
            } else {
                let value = self.stack.read();
                self.stack = self.stack.add(1);
                value
            };
            value as *const libc::c_char
        }
    }
}

/// Defines the C function `$name` with `$named` integer arguments before the list. It calls
/// `$function` with these and a pointer to the list, for which `$register` is the place.
macro_rules! variadic {
    ($name:ident, $named:literal, $register:literal, $function:path) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "sub rsp, 216",
                ".cfi_adjust_cfa_offset 216",
                "mov [rsp + 32], rdi",
                "mov [rsp + 40], rsi",
                "mov [rsp + 48], rdx",
                "mov [rsp + 56], rcx",
                "mov [rsp + 64], r8",
                "mov [rsp + 72], r9",
                // al: whether there may be floating point numbers.
                "test al, al",
                "je 2f",
                "movaps [rsp + 80], xmm0",
                "movaps [rsp + 96], xmm1",
                "movaps [rsp + 112], xmm2",
                "movaps [rsp + 128], xmm3",
                "movaps [rsp + 144], xmm4",
                "movaps [rsp + 160], xmm5",
                "movaps [rsp + 176], xmm6",
                "movaps [rsp + 192], xmm7",
                "2:",
                "mov dword ptr [rsp], {named} * 8",
                "mov dword ptr [rsp + 4], 48",
                // What did not fit into registers lies behind the return address.
                "lea rax, [rsp + 224]",
                "mov [rsp + 8], rax",
                "lea rax, [rsp + 32]",
                "mov [rsp + 16], rax",
                concat!("mov ", $register, ", rsp"),
                "call {function}",
                "add rsp, 216",
                ".cfi_adjust_cfa_offset -216",
                "ret",
                ".cfi_endproc",
                named = const $named,
                function = sym $function,
            )
        }
    };
}
pub(super) use variadic;

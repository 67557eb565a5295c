//! Functions of C that are entered by a few instructions, which decide where to go on and jump
//! there with every argument as it was. So they may return twice, or on another stack; and they
//! learn who called them.

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use libc::{c_int, c_void};

/// libc's function of that name.
pub(super) struct Libc {
    name: &'static std::ffi::CStr,
    found: AtomicPtr<c_void>,
}

impl Libc {
    pub(super) const fn new(name: &'static std::ffi::CStr) -> Self {
        let found = AtomicPtr::new(std::ptr::null_mut());
        Self { name, found }
    }

    pub(super) fn get(&self) -> *mut c_void {
        let known = self.found.load(Ordering::Relaxed);
        if !known.is_null() {
            return known;
        }
        // SAFETY: a C string.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}

/// Where the library's own code lies: its first address, and the one behind its last.
static OURS: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];

/// Finds the library's own code.
pub(super) fn resolve() {
    let mut around = resolve as *const () as usize;
    // SAFETY: the callback gets `around`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut around).cast()) };
}

/// Notes the object's addresses if it contains the one that `around` points to.
unsafe extern "C" fn look(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    around: *mut c_void,
) -> c_int {
    // SAFETY: libc describes an object, and `resolve` passed an address.
    let (info, around) = unsafe { (&*info, *around.cast::<usize>()) };
    // SAFETY: libc says how many headers there are.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    let code = headers.iter().find_map(|header| {
        let first = info.dlpi_addr as usize + header.p_vaddr as usize;
        let code = first..first + header.p_memsz as usize;
        (header.p_type == libc::PT_LOAD && code.contains(&around)).then_some(code)
    });
    if let Some(code) = &code {
        OURS[0].store(code.start, Ordering::Relaxed);
        OURS[1].store(code.end, Ordering::Relaxed);
    }
    c_int::from(code.is_some())
}

/// Whether the library itself called, from this address.
pub(super) fn is_ours(caller: usize) -> bool {
    let [first, end] = &OURS;
    (first.load(Ordering::Relaxed)..end.load(Ordering::Relaxed)).contains(&caller)
}

/// The function `$name` of C: asks `$choose` where to go on, with its first three arguments and the
/// address that it was called from, and goes there with all of them.
macro_rules! jumps {
    ($name:ident, $choose:path) => {
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "push rdi",
                ".cfi_adjust_cfa_offset 8",
                "push rsi",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "push rcx",
                ".cfi_adjust_cfa_offset 8",
                "push r8",
                ".cfi_adjust_cfa_offset 8",
                "push r9",
                ".cfi_adjust_cfa_offset 8",
                "sub rsp, 8",
                ".cfi_adjust_cfa_offset 8",
                // Above the seven words is the caller's address.
                "mov rcx, [rsp + 56]",
                "call {choose}",
                "add rsp, 8",
                ".cfi_adjust_cfa_offset -8",
                "pop r9",
                ".cfi_adjust_cfa_offset -8",
                "pop r8",
                ".cfi_adjust_cfa_offset -8",
                "pop rcx",
                ".cfi_adjust_cfa_offset -8",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rsi",
                ".cfi_adjust_cfa_offset -8",
                "pop rdi",
                ".cfi_adjust_cfa_offset -8",
                "jmp rax",
                ".cfi_endproc",
                choose = sym $choose,
            )
        }
    };
}
pub(super) use jumps;

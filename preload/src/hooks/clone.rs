//! Forks and closes by other names: `syscall(SYS_clone, …)` and the like, and libc's `clone`.
//!
//! `syscall` may return twice, or on another stack: the calls that are not ours are jumped to.

use libc::{c_int, c_long, c_uint, c_void};

use crate::hooks::files;
use crate::hooks::jump::{Libc, jumps};
use crate::ops;

static SYSCALL: Libc = Libc::new(c"syscall");
static CLONE: Libc = Libc::new(c"clone");

/// Finds libc's functions of this module's hooks.
pub(super) fn resolve() {
    SYSCALL.get();
    CLONE.get();
}

/// What makes a child that is no process of its own, or one that shares our memory.
const SHARING: u64 = (libc::CLONE_VM | libc::CLONE_THREAD) as u64;

/// What the kernel reads of clone3's arguments, in front of those that are not of interest.
const CLONE3_FLAGS: usize = 0;
const CLONE3_STACK: usize = 5;
const CLONE3_WORDS: usize = 8;

/// Where `syscall(number, a, b, …)` goes on.
extern "C" fn choose_syscall(number: c_long, a: usize, b: usize, _: usize) -> *mut c_void {
    let is_fork = match number {
        libc::SYS_fork => true,
        // On a stack of its own the child does not come back here.
        libc::SYS_clone => a as u64 & SHARING == 0 && b == 0,
        libc::SYS_clone3 => clone3_is_fork(a, b),
        _ => false,
    };
    // Each is called by the rules for `syscall`, whose first argument is the number.
    match number {
        _ if is_fork && smcr_core::engine::engine().is_some() => forking as *mut c_void,
        libc::SYS_close => close_one as *mut c_void,
        libc::SYS_close_range => close_range as *mut c_void,
        libc::SYS_dup => dup as *mut c_void,
        libc::SYS_dup2 => dup2 as *mut c_void,
        libc::SYS_dup3 => dup3 as *mut c_void,
        _ => SYSCALL.get(),
    }
}

fn clone3_is_fork(args: usize, size: usize) -> bool {
    let mut words = [[0; 8]; CLONE3_WORDS];
    let bytes = words.as_flattened_mut();
    if size < bytes.len() {
        return false;
    }
    // SAFETY: the kernel checks the address.
    let read = unsafe { smcr_core::sys::read_own_memory(args as *const u8, bytes) };
    let word = |at: usize| u64::from_ne_bytes(words[at]);
    read.is_ok() && word(CLONE3_FLAGS) & SHARING == 0 && word(CLONE3_STACK) == 0
}

/// A fork by `syscall`, which runs none of the handlers that fork() runs.
extern "C" fn forking(number: c_long, a: usize, b: usize, c: usize, d: usize, e: usize) -> c_long {
    type Syscall = extern "C" fn(c_long, usize, usize, usize, usize, usize) -> c_long;
    // SAFETY: `syscall` has such arguments, which are passed like unnamed ones.
    let real: Syscall = unsafe { std::mem::transmute(SYSCALL.get()) };
    ops::fork::around(|| real(number, a, b, c, d, e))
}

extern "C" fn close_one(_: c_long, fd: c_int) -> c_long {
    // SAFETY: the program's own call.
    c_long::from(unsafe { files::smcr_close(fd) })
}

extern "C" fn close_range(_: c_long, first: c_uint, last: c_uint, flags: c_int) -> c_long {
    // SAFETY: takes integers.
    c_long::from(unsafe { files::smcr_close_range(first, last, flags) })
}

extern "C" fn dup(_: c_long, fd: c_int) -> c_long {
    // SAFETY: takes an integer.
    c_long::from(unsafe { files::smcr_dup(fd) })
}

extern "C" fn dup2(_: c_long, fd: c_int, new: c_int) -> c_long {
    // SAFETY: takes integers.
    c_long::from(unsafe { files::smcr_dup2(fd, new) })
}

extern "C" fn dup3(_: c_long, fd: c_int, new: c_int, flags: c_int) -> c_long {
    // SAFETY: takes integers.
    c_long::from(unsafe { files::smcr_dup3(fd, new, flags) })
}

/// What `clone` is to run in the child.
struct Start {
    function: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
}

/// Runs in a child that has memory of its own.
extern "C" fn start(start: *mut c_void) -> c_int {
    // SAFETY: `cloned` passed the address of such a value, of which this process has a copy.
    let start = unsafe { &*start.cast::<Start>() };
    ops::fork::in_child();
    (start.function)(start.argument)
}

/// Where `clone(function, stack, flags, …)` goes on.
extern "C" fn choose_clone(_: usize, _: usize, flags: c_int, _: usize) -> *mut c_void {
    if flags as u64 & SHARING == 0 && smcr_core::engine::engine().is_some() {
        cloned as *mut c_void
    } else {
        CLONE.get()
    }
}

/// `clone` of a child that has memory of its own: a fork that goes on in `function`.
extern "C" fn cloned(
    function: Option<extern "C" fn(*mut c_void) -> c_int>,
    stack: *mut c_void,
    flags: c_int,
    argument: *mut c_void,
    parent_tid: usize,
    tls: usize,
    child_tid: usize,
) -> c_int {
    type Clone = extern "C" fn(
        Option<extern "C" fn(*mut c_void) -> c_int>,
        *mut c_void,
        c_int,
        *mut c_void,
        usize,
        usize,
        usize,
    ) -> c_int;
    // SAFETY: `clone` has such arguments, which are passed like unnamed ones.
    let real: Clone = unsafe { std::mem::transmute(CLONE.get()) };
    let Some(function) = function else {
        return real(None, stack, flags, argument, parent_tid, tls, child_tid);
    };
    let mut ours = Start { function, argument };
    let ours = (&raw mut ours).cast();
    ops::fork::around(|| {
        let pid = real(Some(start), stack, flags, ours, parent_tid, tls, child_tid);
        c_long::from(pid)
    }) as c_int
}

jumps!(syscall, choose_syscall);
jumps!(clone, choose_clone);

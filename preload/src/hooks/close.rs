//! close, by the program and by the library itself.
//!
//! What the library closes (by the standard library, which calls `close`, too) comes here like what
//! the program closes; who called tells them apart.

use libc::{c_int, c_void};
use rustix::io::Errno;

use crate::hooks::jump::{Libc, is_ours, jumps};
use crate::ops::fds;
use crate::real;

static CLOSE: Libc = Libc::new(c"close");

/// Finds libc's functions of this module's hooks.
pub(super) fn resolve() {
    CLOSE.get();
}

/// Where `close(fd)` goes on.
extern "C" fn choose(fd: c_int, _: usize, _: usize, caller: usize) -> *mut c_void {
    if smcr_core::fds::is_own(fd) {
        if !is_ours(caller) {
            return refuse as *mut c_void;
        }
        // A vfork child has our memory, and descriptors of its own.
        if !fds::is_other_process() {
            smcr_core::fds::forget(fd);
        }
    } else {
        let _ = std::panic::catch_unwind(|| fds::closing(fd));
    }
    CLOSE.get()
}

/// The program closes all numbers that there are: this one is not among its own.
extern "C" fn refuse(_: c_int) -> c_int {
    real::set_errno(Errno::BADF);
    -1
}

/// `close` for the program, whoever calls.
///
/// # Safety
/// As close(2): the program says that the descriptor is its own.
pub(crate) unsafe fn smcr_close(fd: c_int) -> c_int {
    // SAFETY: both are functions with the arguments and the result of close.
    let go_on: extern "C" fn(c_int) -> c_int = unsafe { std::mem::transmute(choose(fd, 0, 0, 0)) };
    go_on(fd)
}

jumps!(close, choose);

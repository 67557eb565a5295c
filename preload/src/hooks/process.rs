//! fork, unshare, setns, and the end of the process.

use libc::{c_int, pid_t};
use redhook::{hook, real};

use smcr_core::rendezvous::names;

use crate::ops;

super::resolves!(fork, unshare, setns, _exit, _Exit);

hook! {
    unsafe fn _exit(status: c_int) => smcr_exit_now {
        crate::init::process_ends();
        // SAFETY: the program's own call.
        unsafe { real!(_exit)(status) }
    }
}

hook! {
    unsafe fn _Exit(status: c_int) => smcr_exit_now_c99 {
        crate::init::process_ends();
        // SAFETY: as above.
        unsafe { real!(_Exit)(status) }
    }
}

hook! {
    unsafe fn fork() -> pid_t => smcr_fork {
        // SAFETY: takes nothing. What has to happen around it is done by the fork handlers.
        let pid: c_int = unsafe { real!(fork)() };
        if pid != 0 {
            ops::fork::returned(u32::try_from(pid).ok());
        }
        pid
    }
}

hook! {
    unsafe fn unshare(flags: c_int) -> c_int => smcr_unshare {
        if flags & libc::CLONE_NEWNET != 0 {
            names::namespace_changed();
        }
        // SAFETY: takes an integer.
        unsafe { real!(unshare)(flags) }
    }
}

hook! {
    unsafe fn setns(fd: c_int, kind: c_int) -> c_int => smcr_setns {
        if kind == 0 || kind & libc::CLONE_NEWNET != 0 {
            names::namespace_changed();
        }
        // SAFETY: takes integers.
        unsafe { real!(setns)(fd, kind) }
    }
}

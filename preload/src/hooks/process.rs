//! fork.

use libc::{c_int, pid_t};
use redhook::{hook, real};

use crate::ops;

super::resolves!(fork);

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

//! getrlimit, setrlimit and prlimit of RLIMIT_NOFILE, once the library has raised it.

use libc::{pid_t, rlimit};
use rustix::io::Errno;
use smcr_core::{fds, sys};
use syscalls::{Sysno, syscall};

use super::fds::is_other_process;
use crate::real;

/// Whether a call is about this process.
pub(crate) fn is_own(pid: pid_t) -> bool {
    pid == 0 || pid as u32 == sys::getpid()
}

/// The kernel set the soft limit for the program.
pub(crate) fn passed_on(soft: u64) {
    if !is_other_process() {
        fds::limit_set(soft);
    }
}

/// Sets and tells the limit as the program sees it. `None`: it is libc's business.
///
/// # Safety
/// As prlimit(2), except that the pointers may be wrong.
pub(crate) unsafe fn prlimit(new: *const rlimit, old: *mut rlimit) -> Option<Result<(), Errno>> {
    let shown = fds::shown_limit()?;
    let mut now = rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    if let Err(errno) = kernel(std::ptr::null(), &raw mut now) {
        return Some(Err(errno));
    }
    // A vfork child sets limits for the program that it will execute, which is the kernel's
    // business, like what it set.
    if is_other_process() && (!new.is_null() || !fds::is_raised(now.rlim_cur)) {
        return None;
    }
    now.rlim_cur = shown;
    // A pointer to nowhere is an error, not a crash.
    let mut wanted = None;
    if !new.is_null() {
        let mut raw = [0u8; size_of::<rlimit>()];
        // SAFETY: copied by the kernel, which checks it.
        match unsafe { sys::read_own_memory(new.cast(), &mut raw) } {
            Ok(len) if len == raw.len() => {}
            _ => return Some(Err(Errno::FAULT)),
        }
        // SAFETY: two integers.
        wanted = Some(unsafe { raw.as_ptr().cast::<rlimit>().read_unaligned() });
    }
    if let Some(wanted) = wanted {
        if wanted.rlim_cur > wanted.rlim_max {
            return Some(Err(Errno::INVAL));
        }
        let asked = rlimit {
            rlim_cur: fds::limits_asked(wanted.rlim_cur, wanted.rlim_max),
            ..wanted
        };
        if let Err(errno) = kernel(&raw const asked, std::ptr::null_mut()) {
            return Some(Err(errno));
        }
        fds::limits_set(wanted.rlim_cur, wanted.rlim_max, asked.rlim_cur);
    }
    if !old.is_null() {
        // SAFETY: the program's variable.
        unsafe { old.write(now) };
    }
    Some(Ok(()))
}

fn kernel(new: *const rlimit, old: *mut rlimit) -> Result<(), Errno> {
    // SAFETY: null, or our own variables.
    real::check(unsafe { syscall!(Sysno::prlimit64, 0, libc::RLIMIT_NOFILE, new, old) }).map(drop)
}

//! The limit of open descriptors, which the library raises for itself and shows as the program
//! set it.

use libc::{c_int, c_long, pid_t, rlimit, rlimit64};
use redhook::{hook, real};

use crate::ops::limits;
use crate::real;

super::resolves!(
    getrlimit,
    getrlimit64,
    setrlimit,
    setrlimit64,
    prlimit,
    prlimit64,
    getdtablesize,
    sysconf
);

// rlimit and rlimit64 are one on 64-bit systems.
const _: () = assert!(size_of::<rlimit>() == size_of::<rlimit64>());

/// The C result of a call, where the library may have something to do with it.
///
/// # Safety
/// As prlimit(2).
unsafe fn limited(
    pid: pid_t,
    resource: c_int,
    new: *const rlimit,
    old: *mut rlimit,
    pass_on: impl FnOnce() -> c_int,
) -> c_int {
    if resource != libc::RLIMIT_NOFILE as c_int || !limits::is_own(pid) {
        return pass_on();
    }
    // SAFETY: by this function's contract.
    match unsafe { limits::prlimit(new, old) } {
        None => {
            let ret = pass_on();
            if ret == 0 && !new.is_null() {
                // SAFETY: the kernel just read it.
                limits::passed_on(unsafe { (*new).rlim_cur });
            }
            ret
        }
        Some(Ok(())) => 0,
        Some(Err(errno)) => {
            real::set_errno(errno);
            -1
        }
    }
}

hook! {
    unsafe fn getrlimit(resource: c_int, old: *mut rlimit) -> c_int => smcr_getrlimit {
        // SAFETY: the program's arguments, by getrlimit's contract.
        unsafe { limited(0, resource, std::ptr::null(), old, || real!(getrlimit)(resource, old)) }
    }
}

hook! {
    unsafe fn getrlimit64(resource: c_int, old: *mut rlimit) -> c_int => smcr_getrlimit64 {
        // SAFETY: as above.
        unsafe {
            limited(0, resource, std::ptr::null(), old, || real!(getrlimit64)(resource, old))
        }
    }
}

hook! {
    unsafe fn setrlimit(resource: c_int, new: *const rlimit) -> c_int => smcr_setrlimit {
        // SAFETY: as above.
        unsafe {
            limited(0, resource, new, std::ptr::null_mut(), || real!(setrlimit)(resource, new))
        }
    }
}

hook! {
    unsafe fn setrlimit64(resource: c_int, new: *const rlimit) -> c_int => smcr_setrlimit64 {
        // SAFETY: as above.
        unsafe {
            limited(0, resource, new, std::ptr::null_mut(), || real!(setrlimit64)(resource, new))
        }
    }
}

hook! {
    unsafe fn prlimit(pid: pid_t, resource: c_int, new: *const rlimit, old: *mut rlimit) -> c_int
        => smcr_prlimit
    {
        // SAFETY: as above.
        unsafe { limited(pid, resource, new, old, || real!(prlimit)(pid, resource, new, old)) }
    }
}

hook! {
    unsafe fn prlimit64(pid: pid_t, resource: c_int, new: *const rlimit, old: *mut rlimit) -> c_int
        => smcr_prlimit64
    {
        // SAFETY: as above.
        unsafe { limited(pid, resource, new, old, || real!(prlimit64)(pid, resource, new, old)) }
    }
}

hook! {
    unsafe fn getdtablesize() -> c_int => smcr_getdtablesize {
        match smcr_core::fds::shown_limit() {
            Some(limit) => c_int::try_from(limit).unwrap_or(c_int::MAX),
            // SAFETY: takes nothing.
            None => unsafe { real!(getdtablesize)() },
        }
    }
}

hook! {
    unsafe fn sysconf(name: c_int) -> c_long => smcr_sysconf {
        match smcr_core::fds::shown_limit() {
            // -1, without an error: there is none.
            Some(limit) if name == libc::_SC_OPEN_MAX => c_long::try_from(limit).unwrap_or(-1),
            // SAFETY: takes an integer.
            _ => unsafe { real!(sysconf)(name) },
        }
    }
}

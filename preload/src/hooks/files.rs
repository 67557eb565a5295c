//! Descriptors: close, dup, fcntl, ioctl.

use libc::{c_int, c_long, c_uint, c_ulong, c_void};
use redhook::{hook, real};

use crate::ops::{fds, signals};
use crate::{real, table};
use rustix::io::Errno;

super::resolves!(
    close_range,
    closefrom,
    dup,
    dup2,
    dup3,
    fcntl,
    fcntl64,
    ioctl
);

#[cfg(target_arch = "x86_64")]
pub(crate) use super::close::smcr_close;

// Who calls is not known here: what the program closes of the library's own is closed.
#[cfg(not(target_arch = "x86_64"))]
hook! {
    unsafe fn close(fd: c_int) -> c_int => smcr_close {
        smcr_core::fds::forget(fd);
        fds::closing(fd);
        // SAFETY: takes an integer.
        unsafe { real!(close)(fd) }
    }
}

hook! {
    unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int => smcr_close_range {
        const CLOEXEC: c_int = 4;
        if flags & CLOEXEC == 0 {
            fds::closing_range(first, last);
        }
        // SAFETY: takes integers.
        unsafe { fds::close_range(first, last, |first, last| real!(close_range)(first, last, flags)) }
    }
}

hook! {
    unsafe fn closefrom(first: c_int) -> () => smcr_closefrom {
        fds::closing_range(first.max(0) as c_uint, c_uint::MAX);
        // SAFETY: takes integers.
        unsafe {
            fds::close_range(first.max(0) as c_uint, c_uint::MAX, |first, last| {
                real!(close_range)(first, last, 0)
            });
        }
    }
}

hook! {
    unsafe fn dup(fd: c_int) -> c_int => smcr_dup {
        if is_hidden(fd) {
            return -1;
        }
        // SAFETY: takes an integer.
        duplicated(fd, unsafe { real!(dup)(fd) })
    }
}

/// Whether a descriptor is the library's: programs that try numbers must not find one there. Then
/// `errno` says so.
pub(super) fn is_hidden(fd: c_int) -> bool {
    let is_own = smcr_core::fds::is_own(fd);
    if is_own {
        real::set_errno(Errno::BADF);
    }
    is_own
}

fn duplicated(fd: c_int, new: c_int) -> c_int {
    if new >= 0 {
        if !fds::within_limit(new) {
            return -1;
        }
        if table::is_known(fd) {
            fds::duplicated(fd, new);
        }
    }
    new
}

/// dup2 and dup3 onto a number: what was there is closed.
fn replacing(fd: c_int, new: c_int, call: impl FnOnce() -> c_int) -> c_int {
    if new >= smcr_core::fds::program_limit() {
        // Where the library's own descriptors are.
        real::set_errno(Errno::BADF);
        return -1;
    }
    if is_hidden(new) || is_hidden(fd) {
        return -1;
    }
    if fd == new || !(table::is_known(fd) || table::is_known(new)) || !fds::is_open(fd) {
        return call();
    }
    fds::closing(new);
    duplicated(fd, call())
}

hook! {
    unsafe fn dup2(fd: c_int, new: c_int) -> c_int => smcr_dup2 {
        // SAFETY: takes integers.
        replacing(fd, new, || unsafe { real!(dup2)(fd, new) })
    }
}

hook! {
    unsafe fn dup3(fd: c_int, new: c_int, flags: c_int) -> c_int => smcr_dup3 {
        // SAFETY: takes integers.
        let call = || unsafe { real!(dup3)(fd, new, flags) };
        // Refused, then, and nothing is replaced.
        if flags & !libc::O_CLOEXEC != 0 { call() } else { replacing(fd, new, call) }
    }
}

const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;

/// What fcntl does beside the real call. (C declares it with a variable argument list; by the
/// calling convention a third argument, if there is one, is where a fixed one would be.)
fn control(fd: c_int, command: c_int, arg: c_long, call: impl FnOnce() -> c_int) -> c_int {
    if is_hidden(fd) {
        return -1;
    }
    if matches!(command, libc::F_DUPFD | libc::F_DUPFD_CLOEXEC)
        && (arg as c_int) >= smcr_core::fds::program_limit()
    {
        real::set_errno(Errno::INVAL);
        return -1;
    }
    let ret = call();
    if ret >= 0 && table::is_known(fd) {
        match command {
            libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => return duplicated(fd, ret),
            libc::F_SETFL => fds::status_changed(fd, arg as c_int),
            libc::F_SETOWN | F_SETOWN_EX | F_SETSIG => {
                // SAFETY: as it came from the program.
                signals::owner_changed(fd, |tcp| unsafe {
                    let _ = real::fcntl_with(tcp, command, arg);
                });
            }
            _ => {}
        }
    }
    ret
}

hook! {
    unsafe fn fcntl(fd: c_int, command: c_int, arg: c_long) -> c_int => smcr_fcntl {
        // SAFETY: passed on as it came.
        control(fd, command, arg, || unsafe { real!(fcntl)(fd, command, arg) })
    }
}

hook! {
    unsafe fn fcntl64(fd: c_int, command: c_int, arg: c_long) -> c_int => smcr_fcntl64 {
        // SAFETY: passed on as it came.
        control(fd, command, arg, || unsafe { real!(fcntl64)(fd, command, arg) })
    }
}

hook! {
    unsafe fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int => smcr_ioctl {
        // SAFETY: the program's argument, by ioctl's contract.
        unsafe {
            if !table::is_known(fd) {
                return real!(ioctl)(fd, request, arg);
            }
            fds::ioctl(fd, request, arg).or_else(|done| done, || real!(ioctl)(fd, request, arg))
        }
    }
}

//! errno belongs to the program: libibverbs sets it, we read it there and put it back.

use rustix::io::Errno;

/// Puts errno back when dropped.
pub(super) struct KeepErrno(i32);

impl KeepErrno {
    #[inline]
    pub(super) fn new() -> Self {
        // SAFETY: errno's address is valid for the calling thread.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

/// errno after a call that says no more than that it failed.
pub(super) fn last() -> Errno {
    // SAFETY: as above.
    known(unsafe { *libc::__errno_location() })
}

/// The result of a call that returns 0 or an error number.
pub(super) fn check(ret: i32) -> Result<(), Errno> {
    match ret {
        0 => Ok(()),
        // Some providers follow the system calls instead.
        -1 => Err(last()),
        error => Err(known(error.abs())),
    }
}

/// A number that is none (0, too large) becomes EIO: there is an error all the same.
fn known(number: i32) -> Errno {
    if (1..4096).contains(&number) {
        Errno::from_raw_os_error(number)
    } else {
        Errno::IO
    }
}

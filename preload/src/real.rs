//! System calls made directly: what the library does inside hooks must not come back to them.

use std::os::fd::RawFd;

use libc::{epoll_event, pollfd, sigset_t, timespec};
use rustix::io::Errno;
use syscalls::{Sysno, syscall};

/// The kernel's signal sets have 8 bytes, whatever libc's have.
const SIGSET_SIZE: usize = 8;

pub(crate) fn set_errno(errno: Errno) {
    // SAFETY: errno's address is valid for the calling thread.
    unsafe { *libc::__errno_location() = errno.raw_os_error() };
}

/// errno after a call that failed.
pub(crate) fn errno() -> Errno {
    // SAFETY: as above.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Puts errno back when dropped: what the library does inside a call that succeeded is not to be
/// seen there.
pub(crate) struct KeepErrno(i32);

impl KeepErrno {
    pub(crate) fn new() -> Self {
        // SAFETY: as above.
        Self(unsafe { *libc::__errno_location() })
    }
}

impl Drop for KeepErrno {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = self.0 };
    }
}

pub(crate) fn check(ret: Result<usize, syscalls::Errno>) -> Result<usize, Errno> {
    ret.map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}

pub(crate) fn epoll_ctl(epfd: RawFd, op: i32, fd: RawFd, event: &mut epoll_event) {
    // SAFETY: a valid event. The result is of no interest: the set may be gone already.
    let _ = unsafe { syscall!(Sysno::epoll_ctl, epfd, op, fd, std::ptr::from_mut(event)) };
}

/// epoll_pwait2, with plain epoll_pwait on kernels before 5.11.
pub(crate) fn epoll_pwait2(
    epfd: RawFd,
    out: &mut [epoll_event],
    timeout: Option<&timespec>,
    sigmask: *const sigset_t,
) -> Result<usize, Errno> {
    let time = timeout.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `out` is valid for its length, `time` and `sigmask` are null or valid.
    let count = check(unsafe {
        syscall!(
            Sysno::epoll_pwait2,
            epfd,
            out.as_mut_ptr(),
            out.len().min(i32::MAX as usize),
            time,
            sigmask,
            SIGSET_SIZE
        )
    });
    match count {
        Err(Errno::NOSYS) => {
            let ms = timeout.map_or(-1, |t| {
                (t.tv_sec * 1000 + (t.tv_nsec + 999_999) / 1_000_000).min(i64::from(i32::MAX))
            });
            // SAFETY: as above.
            check(unsafe {
                syscall!(
                    Sysno::epoll_pwait,
                    epfd,
                    out.as_mut_ptr(),
                    out.len().min(i32::MAX as usize),
                    ms,
                    sigmask,
                    SIGSET_SIZE
                )
            })
        }
        count => count,
    }
}

pub(crate) fn ppoll(
    fds: &mut [pollfd],
    timeout: Option<&timespec>,
    sigmask: *const sigset_t,
) -> Result<usize, Errno> {
    // The kernel writes the time left: give it a copy.
    let mut copy = timeout.copied();
    let time = copy
        .as_mut()
        .map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: all pointers are valid or null.
    check(unsafe {
        syscall!(
            Sysno::ppoll,
            fds.as_mut_ptr(),
            fds.len(),
            time,
            sigmask,
            SIGSET_SIZE
        )
    })
}

pub(crate) fn close(fd: RawFd) {
    // SAFETY: the caller owns the descriptor.
    let _ = unsafe { syscall!(Sysno::close, fd) };
}

/// # Safety
/// As ioctl(2). A wrong pointer is an error, not a fault.
pub(crate) unsafe fn ioctl(
    fd: RawFd,
    request: libc::Ioctl,
    arg: *mut libc::c_void,
) -> Result<usize, Errno> {
    // SAFETY: by this function's contract.
    check(unsafe { syscall!(Sysno::ioctl, fd, request, arg) })
}

pub(crate) fn fcntl(fd: RawFd, command: i32, arg: i64) -> Result<i32, Errno> {
    // SAFETY: only called with commands that take integers.
    unsafe { fcntl_with(fd, command, arg) }
}

/// fcntl() with any command.
///
/// # Safety
/// `arg` is what the command takes; the kernel checks pointers of the program's.
pub(crate) unsafe fn fcntl_with(fd: RawFd, command: i32, arg: i64) -> Result<i32, Errno> {
    // SAFETY: by this function's contract.
    check(unsafe { syscall!(Sysno::fcntl, fd, command, arg) }).map(|value| value as i32)
}

//! The few system calls that rustix does not offer in the shape we need.
//!
//! Nothing here goes through libc's socket or descriptor functions: inside a preloaded program
//! those names are our own hooks.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

fn check(ret: libc::c_long) -> Result<libc::c_long, Errno> {
    if ret < 0 {
        // SAFETY: errno's address is valid for the calling thread.
        Err(Errno::from_raw_os_error(unsafe {
            *libc::__errno_location()
        }))
    } else {
        Ok(ret)
    }
}

/// `dup3(from, to)`: makes the number `to` another name of `from`, with or without close-on-exec.
pub fn dup_onto(from: BorrowedFd<'_>, to: RawFd, cloexec: bool) -> Result<(), Errno> {
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: dup3 reads no memory; that `to` may be replaced is what the caller asks for.
    check(unsafe { libc::syscall(libc::SYS_dup3, from.as_raw_fd(), to, flags) }).map(drop)
}

/// Duplicates `fd` at the lowest free number that is at least `min`, close-on-exec.
pub fn dup_high(fd: BorrowedFd<'_>, min: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let new = check(unsafe {
        libc::syscall(libc::SYS_fcntl, fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, min)
    })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(new as RawFd) })
}

/// Polls one descriptor; `None` waits for ever. Returns the `revents`, 0 at the time-out.
///
/// # Errors
/// `EINTR` when a signal handler ran.
pub fn poll_one(fd: BorrowedFd<'_>, events: i16, timeout_ms: Option<i32>) -> Result<i16, Errno> {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one valid pollfd.
    check(unsafe { libc::syscall(libc::SYS_poll, &mut entry, 1, timeout_ms.unwrap_or(-1)) })?;
    Ok(entry.revents)
}

/// Reads an `int` socket option.
pub fn get_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, Errno> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `len` are valid for writes and `len` is the size of `value`.
    check(unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_raw_fd(),
            level,
            name,
            &mut value,
            &mut len,
        )
    })?;
    Ok(value)
}

/// Sets an `int` socket option.
pub fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: `value` is valid for reads of its size.
    check(unsafe {
        let len = size_of::<i32>();
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_raw_fd(),
            level,
            name,
            &value,
            len,
        )
    })
    .map(drop)
}

/// Reads a socket option of any size into `buf`; returns the length the kernel wrote.
pub fn get_bytes(
    fd: BorrowedFd<'_>,
    level: i32,
    name: i32,
    buf: &mut [u8],
) -> Result<usize, Errno> {
    let mut len = buf.len() as libc::socklen_t;
    // SAFETY: `buf` is valid for writes of `len` bytes.
    check(unsafe {
        libc::syscall(
            libc::SYS_getsockopt,
            fd.as_raw_fd(),
            level,
            name,
            buf.as_mut_ptr(),
            &mut len,
        )
    })?;
    Ok((len as usize).min(buf.len()))
}

/// Sets a socket option of any size.
pub fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: `value` is valid for reads of its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_setsockopt,
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr(),
            value.len(),
        )
    })
    .map(drop)
}

/// `recv` into `buf`. Not a cancellation point.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: `buf` is valid for writes of its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_recvfrom,
            fd.as_raw_fd(),
            buf.as_mut_ptr(),
            buf.len(),
            flags,
            0usize,
            0usize,
        )
    })
    .map(|n| n as usize)
}

/// `send` of `buf`, never raising SIGPIPE. Not a cancellation point.
pub fn send(fd: BorrowedFd<'_>, buf: &[u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: `buf` is valid for reads of its length.
    check(unsafe {
        libc::syscall(
            libc::SYS_sendto,
            fd.as_raw_fd(),
            buf.as_ptr(),
            buf.len(),
            flags | libc::MSG_NOSIGNAL,
            0usize,
            0usize,
        )
    })
    .map(|n| n as usize)
}

/// Sleeps until `word` is no longer `expected`, a wake-up comes or the time is over. The word may
/// lie in memory shared between processes.
pub fn futex_wait(word: &std::sync::atomic::AtomicU32, expected: u32, timeout_ms: u32) {
    let time = libc::timespec {
        tv_sec: i64::from(timeout_ms / 1000),
        tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000,
    };
    // SAFETY: the word and the time-out live across the call. Every outcome (woken, value
    // changed, time-out, signal) means "look again", so errors are of no interest.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &time,
            0,
            0,
        );
    }
}

/// Wakes up to `count` sleepers of `futex_wait` on this word.
pub fn futex_wake(word: &std::sync::atomic::AtomicU32, count: i32) {
    // SAFETY: FUTEX_WAKE only uses the address as a key.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            count,
            0,
            0,
            0,
        );
    }
}

/// The calling thread's id, from the kernel.
pub fn gettid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::syscall(libc::SYS_gettid) as u32 }
}

/// The calling process's id, from the kernel (right in a vfork child, too).
pub fn getpid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::syscall(libc::SYS_getpid) as u32 }
}

/// Whether a thread with this id exists in our PID namespace.
pub fn thread_exists(tid: u32) -> bool {
    // SAFETY: signal 0 is never delivered.
    let ret = check(unsafe { libc::syscall(libc::SYS_tkill, tid, 0) });
    ret != Err(Errno::SRCH)
}

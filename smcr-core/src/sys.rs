//! The few system calls that rustix does not offer in the shape we need.
//!
//! Nothing here goes through libc: inside a preloaded program the names of its functions are our
//! own hooks, and errno belongs to the program.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use syscalls::{Sysno, syscall};

/// The kernel's answer as rustix would give it. `errno` is not touched: these calls are made inside
/// calls of the program that may succeed.
fn check(ret: Result<usize, syscalls::Errno>) -> Result<usize, Errno> {
    ret.map_err(|errno| Errno::from_raw_os_error(errno.into_raw()))
}

/// `dup3(from, to)`: makes the number `to` another name of `from`, with or without close-on-exec.
pub fn dup_onto(from: BorrowedFd<'_>, to: RawFd, cloexec: bool) -> Result<(), Errno> {
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    // SAFETY: dup3 reads no memory; that `to` may be replaced is what the caller asks for.
    check(unsafe { syscall!(Sysno::dup3, from.as_raw_fd(), to, flags) }).map(drop)
}

/// Duplicates `fd` at the lowest free number that is at least `min`, close-on-exec.
pub fn dup_high(fd: BorrowedFd<'_>, min: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer.
    let new = check(unsafe { syscall!(Sysno::fcntl, fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, min) })?;
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
    let mut time = timeout_ms.map(|ms| libc::timespec {
        tv_sec: i64::from(ms.max(0) / 1000),
        tv_nsec: i64::from(ms.max(0) % 1000) * 1_000_000,
    });
    let time = time
        .as_mut()
        .map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: one valid pollfd, a valid time or none, no signal mask.
    check(unsafe { syscall!(Sysno::ppoll, &raw mut entry, 1, time, 0, 0) })?;
    Ok(entry.revents)
}

/// `epoll_pwait2`, or `epoll_pwait` on kernels before 5.11. `None` waits for ever; `sigmask` is null
/// or points to a `sigset_t`. Not a cancellation point.
///
/// # Errors
/// `EINTR` when a signal handler ran, or the process was stopped and goes on.
pub fn epoll_wait(
    set: BorrowedFd<'_>,
    events: &mut [libc::epoll_event],
    timeout: Option<std::time::Duration>,
    sigmask: *const libc::sigset_t,
) -> Result<usize, Errno> {
    let (set, room) = (set.as_raw_fd(), events.len().min(1024));
    if let Some(timeout) = timeout {
        let time = libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let at = &raw const time;
        // SAFETY: `events` has room for that many; the time lives; the mask is as promised.
        let waited = unsafe {
            syscall!(
                Sysno::epoll_pwait2,
                set,
                events.as_mut_ptr(),
                room,
                at,
                sigmask,
                8
            )
        };
        let waited = check(waited);
        if waited != Err(Errno::NOSYS) {
            return waited;
        }
    }
    let ms = timeout.map_or(-1, |time| {
        time.as_nanos().div_ceil(1_000_000).min(i32::MAX as u128) as i32
    });
    // SAFETY: as above.
    check(unsafe {
        syscall!(
            Sysno::epoll_pwait,
            set,
            events.as_mut_ptr(),
            room,
            ms,
            sigmask,
            8
        )
    })
}

/// Whether this process has a handler for some signal; with `interrupting`: one that is to
/// interrupt system calls, which has no `SA_RESTART`. Not counted are those that programs have for
/// their own faults, which happen in no system call, and libc's own. A system call for each signal.
pub fn has_handler(interrupting: bool) -> bool {
    const FAULTS: [i32; 6] = [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGFPE,
        libc::SIGTRAP,
        libc::SIGSYS,
    ];
    // 32 and 33 are libc's.
    (1..32)
        .chain(34..=64)
        .filter(|signal| !FAULTS.contains(signal))
        .any(|signal| {
            // The kernel's structure begins with the handler and the flags.
            let mut action = [0usize; 8];
            // SAFETY: asks only; there is room for the kernel's structure, with a mask of 8 bytes.
            let asked = unsafe {
                syscall!(
                    Sysno::rt_sigaction,
                    signal,
                    0usize,
                    action.as_mut_ptr(),
                    8usize
                )
            };
            let [handler, flags, ..] = action;
            let counts = !interrupting || flags & libc::SA_RESTART as usize == 0;
            asked.is_ok() && handler > libc::SIG_IGN && counts
        })
}

/// Reads an `int` socket option.
pub fn get_int(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<i32, Errno> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` and `len` are valid for writes and `len` is the size of `value`.
    check(unsafe {
        syscall!(
            Sysno::getsockopt,
            fd.as_raw_fd(),
            level,
            name,
            &raw mut value,
            &raw mut len
        )
    })?;
    Ok(value)
}

/// Sets an `int` socket option.
pub fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> Result<(), Errno> {
    // SAFETY: `value` is valid for reads of its size.
    check(unsafe {
        let len = size_of::<i32>();
        syscall!(
            Sysno::setsockopt,
            fd.as_raw_fd(),
            level,
            name,
            &raw const value,
            len
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
        syscall!(
            Sysno::getsockopt,
            fd.as_raw_fd(),
            level,
            name,
            buf.as_mut_ptr(),
            &raw mut len
        )
    })?;
    Ok((len as usize).min(buf.len()))
}

/// Sets a socket option of any size.
pub fn set_bytes(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: `value` is valid for reads of its length.
    check(unsafe {
        syscall!(
            Sysno::setsockopt,
            fd.as_raw_fd(),
            level,
            name,
            value.as_ptr(),
            value.len()
        )
    })
    .map(drop)
}

/// `shutdown(fd, how)`.
pub fn shutdown(fd: BorrowedFd<'_>, how: i32) -> Result<(), Errno> {
    // SAFETY: takes integers.
    check(unsafe { syscall!(Sysno::shutdown, fd.as_raw_fd(), how) }).map(drop)
}

/// `recv` into `buf`. Not a cancellation point.
pub fn recv(fd: BorrowedFd<'_>, buf: &mut [u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: `buf` is valid for writes of its length.
    check(unsafe {
        syscall!(
            Sysno::recvfrom,
            fd.as_raw_fd(),
            buf.as_mut_ptr(),
            buf.len(),
            flags,
            0usize,
            0usize
        )
    })
}

/// `send` of `buf`, never raising SIGPIPE. Not a cancellation point.
pub fn send(fd: BorrowedFd<'_>, buf: &[u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: `buf` is valid for reads of its length.
    check(unsafe {
        syscall!(
            Sysno::sendto,
            fd.as_raw_fd(),
            buf.as_ptr(),
            buf.len(),
            flags | libc::MSG_NOSIGNAL,
            0usize,
            0usize
        )
    })
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
        let _ = syscall!(
            Sysno::futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const time,
            0,
            0
        );
    }
}

/// Wakes up to `count` sleepers of `futex_wait` on this word.
pub fn futex_wake(word: &std::sync::atomic::AtomicU32, count: i32) {
    // SAFETY: FUTEX_WAKE only uses the address as a key.
    unsafe {
        let _ = syscall!(
            Sysno::futex,
            word.as_ptr(),
            libc::FUTEX_WAKE,
            count,
            0,
            0,
            0
        );
    }
}

/// Copies `to.len()` bytes of this process's own memory from an address that may be wrong.
/// Returns how many could be read.
///
/// # Safety
/// No other thread unmaps the memory meanwhile. Where a filter forbids to ask the kernel: the
/// program's word that the address is valid.
///
/// # Errors
/// `EFAULT` for a wrong address.
pub unsafe fn read_own_memory(from: *const u8, to: &mut [u8]) -> Result<usize, Errno> {
    /// Pages are never smaller.
    const PAGE: usize = 4096;
    let len = to.len();
    let is_in_one_page = from as usize % PAGE + len <= PAGE;
    if len >= size_of::<u64>() && is_in_one_page && is_readable(from) == Some(true) {
        // SAFETY: the kernel has just read from that page.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), len) };
        return Ok(len);
    }
    // SAFETY: by this function's contract.
    unsafe { copy_own_memory(from, to) }
}

/// Whether the kernel can read eight bytes there. `None`: it does not say.
fn is_readable(from: *const u8) -> Option<bool> {
    // No way of changing the mask is called so. The kernel reads the new mask first, and then finds
    // that out.
    const NO_WAY: i32 = -1;
    // SAFETY: reads eight bytes, or says that it cannot; changes nothing.
    let asked =
        check(unsafe { syscall!(Sysno::rt_sigprocmask, NO_WAY, from, 0, size_of::<u64>()) });
    match asked {
        Err(Errno::INVAL) => Some(true),
        Err(Errno::FAULT) => Some(false),
        _ => None,
    }
}

/// See [`read_own_memory`]: byte by byte as far as it can be read, by the kernel.
///
/// # Safety
/// As [`read_own_memory`].
unsafe fn copy_own_memory(from: *const u8, to: &mut [u8]) -> Result<usize, Errno> {
    let local = libc::iovec {
        iov_base: to.as_mut_ptr().cast(),
        iov_len: to.len(),
    };
    let remote = libc::iovec {
        iov_base: from.cast_mut().cast(),
        iov_len: to.len(),
    };
    // SAFETY: `local` is valid for writes; `remote` is checked by the kernel.
    let copied = check(unsafe {
        syscall!(
            Sysno::process_vm_readv,
            getpid(),
            &raw const local,
            1,
            &raw const remote,
            1,
            0
        )
    });
    match copied {
        // Forbidden by a seccomp filter: trust the program, as libc does.
        Err(Errno::PERM | Errno::NOSYS) if !from.is_null() => {
            // SAFETY: the program says that it is valid.
            unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
            Ok(to.len())
        }
        copied => copied,
    }
}

/// The calling thread's id, from the kernel.
pub fn gettid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { syscall!(Sysno::gettid).map_or(0, |id| id as u32) }
}

/// The calling process's id, from the kernel (right in a vfork child, too).
pub fn getpid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { syscall!(Sysno::getpid).map_or(0, |id| id as u32) }
}

/// Whether a child of this process is alive: not a zombie, and not one that somebody waited for.
pub fn child_lives(pid: u32) -> bool {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    let mut info = [0i32; size_of::<libc::siginfo_t>() / 4];
    // SAFETY: `info` has the size of a siginfo_t; WNOWAIT leaves the child to the program.
    let asked =
        check(unsafe { syscall!(Sysno::waitid, libc::P_PID, pid, info.as_mut_ptr(), flags, 0) });
    // Nothing is written about one that lives.
    asked.is_ok() && info[0] == 0
}

/// Whether a thread with this id exists in our PID namespace.
pub fn thread_exists(tid: u32) -> bool {
    // SAFETY: signal 0 is never delivered.
    let ret = check(unsafe { syscall!(Sysno::tkill, tid, 0) });
    ret != Err(Errno::SRCH)
}

//! system(). libc's own makes the child where no hook sees it, and returns only when the command is
//! done: for all that time the process would have to be in the state that the child is to inherit.

use std::mem::MaybeUninit;
use std::ptr::null_mut;

use libc::{c_int, pid_t, posix_spawnattr_t, sigset_t};
use parking_lot::Mutex;
use syscalls::{Sysno, syscall};

use crate::real;

/// What SIGINT and SIGQUIT did before the first of the calls in progress.
static IGNORED: Mutex<(u32, Option<[libc::sigaction; 2]>)> = Mutex::new((0, None));

const SIGNALS: [c_int; 2] = [libc::SIGINT, libc::SIGQUIT];

/// While it lives the process ignores these signals.
struct Ignoring {
    /// Those that it did not ignore before.
    to_default: sigset_t,
}

/// # Safety
/// `new` is a valid action.
unsafe fn exchange(signal: c_int, new: &libc::sigaction) -> libc::sigaction {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: by this function's contract; zeroes are a valid action, too.
    unsafe {
        libc::sigaction(signal, new, old.as_mut_ptr());
        old.assume_init()
    }
}

impl Ignoring {
    fn new() -> Self {
        // SAFETY: plain values; zeroes are an empty set and a default action.
        let (mut to_default, mut ignore): (sigset_t, libc::sigaction) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        ignore.sa_sigaction = libc::SIG_IGN;
        let mut ignored = IGNORED.lock();
        ignored.0 += 1;
        let before = ignored.1.get_or_insert_with(|| {
            // SAFETY: a valid action.
            SIGNALS.map(|signal| unsafe { exchange(signal, &ignore) })
        });
        for (signal, before) in SIGNALS.iter().zip(before) {
            if before.sa_sigaction != libc::SIG_IGN {
                // SAFETY: a valid set.
                unsafe { libc::sigaddset(&mut to_default, *signal) };
            }
        }
        Self { to_default }
    }
}

impl Drop for Ignoring {
    fn drop(&mut self) {
        let mut ignored = IGNORED.lock();
        ignored.0 -= 1;
        if ignored.0 == 0
            && let Some(before) = ignored.1.take()
        {
            for (signal, before) in SIGNALS.iter().zip(&before) {
                // SAFETY: as it was.
                unsafe { exchange(*signal, before) };
            }
        }
    }
}

/// As system(3), for a command that is there. `spawn` starts the shell with these attributes, and
/// returns 0 or an errno.
pub(crate) fn system(spawn: impl FnOnce(*mut pid_t, *const posix_spawnattr_t) -> c_int) -> c_int {
    const COULD_NOT_RUN: c_int = 127 << 8;
    let ignoring = Ignoring::new();
    let mut attributes = MaybeUninit::<posix_spawnattr_t>::uninit();
    let attributes = attributes.as_mut_ptr();
    let mut mask = MaybeUninit::<sigset_t>::zeroed();
    let mut child = 0;
    // SAFETY: initialised here, used, and destroyed; the sets are valid ones.
    let error = unsafe {
        let mut block = MaybeUninit::<sigset_t>::zeroed().assume_init();
        libc::sigaddset(&mut block, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_BLOCK, &block, mask.as_mut_ptr());
        libc::posix_spawnattr_init(attributes);
        libc::posix_spawnattr_setsigmask(attributes, mask.as_ptr());
        libc::posix_spawnattr_setsigdefault(attributes, &ignoring.to_default);
        let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
        libc::posix_spawnattr_setflags(attributes, flags as i16);
        let error = spawn(&raw mut child, attributes);
        libc::posix_spawnattr_destroy(attributes);
        error
    };
    let mut status = COULD_NOT_RUN;
    let mut errno = error;
    if error == 0 {
        errno = wait(child, &mut status);
    }
    drop(ignoring);
    // SAFETY: the set that the call above wrote.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask.as_ptr(), null_mut()) };
    if errno != 0 {
        real::set_errno(rustix::io::Errno::from_raw_os_error(errno));
        return if error == 0 { -1 } else { status };
    }
    status
}

/// Returns an errno, or 0.
fn wait(child: pid_t, status: &mut c_int) -> c_int {
    loop {
        // SAFETY: `status` is valid for writes.
        let waited = unsafe { syscall!(Sysno::wait4, child, std::ptr::from_mut(status), 0, 0) };
        match waited {
            Ok(_) => return 0,
            Err(errno) if errno.into_raw() == libc::EINTR => {}
            Err(errno) => return errno.into_raw(),
        }
    }
}

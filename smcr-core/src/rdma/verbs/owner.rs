//! Ports belong to the process that opened them.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use parking_lot::{Mutex, MutexGuard};

/// Held while a device is opened or closed: libibverbs keeps a list of devices behind a lock, which
/// a fork in the middle would leave locked in the child.
static OPENING: Mutex<()> = Mutex::new(());

/// The descriptors of all open ports, -1 where there is none. Not behind a lock: a child reads them
/// right after the fork. What does not fit is closed by exec only.
static DESCRIPTORS: [AtomicI32; 96] = [const { AtomicI32::new(-1) }; 96];

/// No device is being opened or closed while it lives.
pub type Rest = MutexGuard<'static, ()>;

/// To be called before a fork, and held until after it, in both processes.
pub fn before_fork() -> Rest {
    OPENING.lock()
}

/// To be called in the child of a fork, before anything else of ours opens a descriptor: closes the
/// child's copies of the parent's. With them open, the parent's queue pairs would outlive it, and
/// its peers would not learn of its death.
pub fn after_fork_in_child() {
    if OPENING.is_locked() {
        // SAFETY: held by the thread that forked, whose guard is not dropped in the child.
        unsafe { OPENING.force_unlock() };
    }
    for slot in &DESCRIPTORS {
        let fd = slot.swap(-1, Ordering::Relaxed);
        if fd >= 0 {
            crate::fds::forget(fd);
            // SAFETY: the parent's port had this number open at the time of the fork. The child
            // does not use its copy of the port.
            unsafe { rustix::io::close(fd) };
        }
    }
}

/// Remembers a port's descriptor for [`after_fork_in_child`].
pub(super) fn remember(fd: RawFd) {
    let free = |slot: &&AtomicI32| {
        slot.compare_exchange(-1, fd, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    };
    let _ = DESCRIPTORS.iter().find(free);
}

/// A descriptor is about to be closed.
pub(super) fn forget(fd: RawFd) {
    for slot in &DESCRIPTORS {
        let _ = slot.compare_exchange(fd, -1, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The process that made something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner(u32);

impl Owner {
    pub(super) fn this_process() -> Self {
        Self(crate::sys::getpid())
    }

    /// False in children of the process.
    pub(super) fn is_here(self) -> bool {
        self.0 == crate::sys::getpid()
    }
}

/// Makes a descriptor of libibverbs's close-on-exec and non-blocking.
pub(super) fn prepare(fd: BorrowedFd<'_>) {
    // These cannot fail on an open descriptor.
    let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC);
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd) {
        let _ = rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK);
    }
}

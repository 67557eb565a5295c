//! Where the library keeps its own descriptors: high up, out of the program's way.

use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

/// The lowest number for our own descriptors; 0 until [`reserve`] chose one.
static BASE: AtomicI32 = AtomicI32::new(0);

/// What the program was allowed before we made room, in descriptors.
static PROGRAM_LIMIT: AtomicI32 = AtomicI32::new(i32::MAX);

/// Makes room for our descriptors above the program's own soft limit, so that the program can
/// still open as many as before and sees the same numbers as before. Call once, early.
///
/// Returns false where the hard limit leaves too little room.
pub fn reserve() -> bool {
    use rustix::process::{Resource, getrlimit, setrlimit};
    if BASE.load(Ordering::Relaxed) != 0 {
        return true;
    }
    let mut limit = getrlimit(Resource::Nofile);
    let soft = limit.current.unwrap_or(1 << 20).min(1 << 20);
    let hard = limit.maximum.unwrap_or(1 << 21).min(1 << 21);
    // Two for each connection: the program's own number and the TCP socket behind it.
    let wanted = (soft * 2 + 256).min(hard);
    if wanted < soft + 64 {
        // No room above: share the program's range, from its upper end.
        PROGRAM_LIMIT.store(soft as RawFd, Ordering::Relaxed);
        BASE.store((soft / 2).max(64) as RawFd, Ordering::Relaxed);
        return soft >= 256;
    }
    limit.current = Some(wanted);
    if setrlimit(Resource::Nofile, limit).is_err() {
        return false;
    }
    PROGRAM_LIMIT.store(soft as RawFd, Ordering::Relaxed);
    BASE.store(soft as RawFd, Ordering::Relaxed);
    true
}

/// The number from which on all descriptors are the library's own, if there is one.
pub fn lowest_own() -> Option<RawFd> {
    let base = BASE.load(Ordering::Relaxed);
    (base != 0 && base >= program_limit()).then_some(base)
}

/// The soft limit of open descriptors as the program set it.
pub fn program_limit() -> RawFd {
    PROGRAM_LIMIT.load(Ordering::Relaxed)
}

/// Moves one of our own descriptors up. Where that fails it stays where it is, which is ugly but
/// right.
pub fn raise(fd: OwnedFd) -> OwnedFd {
    let base = BASE.load(Ordering::Relaxed);
    if base == 0 {
        return fd;
    }
    crate::sys::dup_high(fd.as_fd(), base).unwrap_or(fd)
}

/// Duplicates the program's descriptor into our range.
pub fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, rustix::io::Errno> {
    crate::sys::dup_high(fd, BASE.load(Ordering::Relaxed).max(3))
}

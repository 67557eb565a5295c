//! fork: both processes go on with the connections there are; the child becomes a peer of its own
//! for new ones.

use std::os::fd::RawFd;
use std::panic::catch_unwind;

use libc::c_long;
use parking_lot::{Mutex, MutexGuard};
use smcr_core::rendezvous::names;
use smcr_core::{engine, forks};

use super::fds;
use crate::real::KeepErrno;
use crate::stream::StreamRef;
use crate::table::{self, Entry};

/// What is held from just before a fork until just after it, so that the child finds nothing
/// half done.
struct Held {
    table: MutexGuard<'static, ()>,
    rest: Option<engine::Rest>,
}

static HELD: Mutex<Option<Held>> = Mutex::new(None);

/// Runs before fork, in the parent.
extern "C" fn prepare() {
    let rest = engine::before_fork();
    share_sockets();
    let table = table::lock();
    let fork = forks::begin();
    for stream in all_streams() {
        // Counted before the child exists: a parent that closes at once must not be the last.
        stream.connection.forking(fork);
    }
    *HELD.lock() = Some(Held { table, rest });
}

/// Both processes have the TCP sockets that are not connected yet.
fn share_sockets() {
    for fd in table::known(0, RawFd::MAX) {
        // This takes the table's lock for a moment.
        if let Entry::Plain(plain) = table::entry(fd) {
            plain.set_shared();
        }
    }
}

/// Runs after fork, in the parent.
extern "C" fn parent() {
    let held = HELD.lock().take();
    drop(held);
}

/// Runs after fork, in the child.
extern "C" fn child() {
    fds::adopt_process();
    let held = HELD.lock().take();
    engine::after_fork_in_child();
    for stream in all_streams() {
        // SAFETY: the child of a fork has one thread.
        unsafe { stream.connection.relist() };
    }
    if let Some(Held { table, rest }) = held {
        drop(table);
        // Its mutex belongs to the parent's engine, which this process no longer uses.
        std::mem::forget(rest);
    }
}

/// fork() returned in the parent: the child, or none if it failed.
pub(crate) fn returned(child: Option<u32>) {
    forks::done(child);
    if child.is_none() {
        let _guard = table::lock();
        for stream in all_streams() {
            stream.connection.not_forked();
        }
    }
}

/// Runs `fork`, which none of libc's handlers run for; it returns the child in the parent, 0 in the
/// child, and -1 with errno set if there is none.
pub(crate) fn around(fork: impl FnOnce() -> c_long) -> c_long {
    let _ = catch_unwind(|| prepare());
    let pid = fork();
    let _errno = KeepErrno::new();
    if pid == 0 {
        in_child();
    } else {
        let _ = catch_unwind(|| {
            parent();
            returned(u32::try_from(pid).ok());
        });
    }
    pid
}

/// The part of [`around`] in a child that does not return from `fork`.
pub(crate) fn in_child() {
    let _ = catch_unwind(|| {
        child();
        // The new process may be in a network namespace of its own.
        names::namespace_changed();
    });
}

/// Each stream once. The caller holds the table's lock.
pub(crate) fn all_streams() -> impl Iterator<Item = StreamRef> {
    table::known(0, RawFd::MAX).filter_map(|fd| {
        let stream = table::stream(fd)?;
        let first = stream.fds.lock().first().copied();
        (first == Some(fd)).then_some(stream)
    })
}

/// Sees to it that every fork runs the functions above.
pub(crate) fn install() {
    // SAFETY: the functions live as long as the library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
}

//! Who gets SIGIO and SIGURG for a socket.
//!
//! SIGIO comes from the readiness pair's end, SIGURG from the TCP socket behind it (see
//! `Connection::signal_urgent`), so both need the owner that the program set.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::c_int;

use crate::real;

/// Whether the program ever set an owner: asked before system calls that would nearly always find
/// none.
static USED: AtomicBool = AtomicBool::new(false);

const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;
const F_SETOWN_EX: c_int = 15;
const F_GETOWN_EX: c_int = 16;

/// struct f_owner_ex: what kind of id, and the id.
type Owner = [c_int; 2];

/// The program set the owner, or the signal, of a TCP socket or stream. `repeat` does the same to
/// a stream's TCP socket.
pub(crate) fn owner_changed(fd: RawFd, repeat: impl FnOnce(RawFd)) {
    USED.store(true, Ordering::Relaxed);
    let _errno = real::KeepErrno::new();
    if let Some(stream) = crate::table::stream(fd) {
        stream.connection.with_tcp(|tcp| repeat(tcp.as_raw_fd()));
    }
}

/// Whether somebody is to get signals from a TCP socket.
pub(super) fn has_owner(tcp: RawFd) -> bool {
    let mut owner: Owner = [0; 2];
    let pointer = (&raw mut owner) as i64;
    // SAFETY: takes a pointer to such a struct.
    let known = || unsafe { real::fcntl_with(tcp, F_GETOWN_EX, pointer) };
    USED.load(Ordering::Relaxed) && (known().is_err() || owner[1] != 0)
}

/// Gives a readiness pair's end the owner and signal of the socket it replaces.
pub(super) fn copy_owner(from: RawFd, to: BorrowedFd<'_>) {
    if !USED.load(Ordering::Relaxed) {
        return;
    }
    let to = to.as_raw_fd();
    let mut owner: Owner = [0; 2];
    let pointer = (&raw mut owner) as i64;
    // SAFETY: both take a pointer to such a struct.
    unsafe {
        if real::fcntl_with(from, F_GETOWN_EX, pointer).is_ok() && owner[1] != 0 {
            let _ = real::fcntl_with(to, F_SETOWN_EX, pointer);
        }
    }
    if let Ok(signal) = real::fcntl(from, F_GETSIG, 0) {
        let _ = real::fcntl(to, F_SETSIG, i64::from(signal));
    }
}

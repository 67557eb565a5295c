//! Sending and receiving.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use smcr_core::conn::io::{Sink, Slices, Source};
use smcr_core::conn::{Arming, Smc};
use smcr_core::engine::Watcher;
use smcr_core::sys;

use crate::outcome::{Outcome, PassOn};
use crate::stream::StreamRef;

/// The program's descriptor, for the time of one of its calls.
///
/// If another thread closes it meanwhile, the number may come to mean something else: as it may
/// between a program's own look at it and the kernel's.
fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: see above; the kernel checks each use.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

impl Watcher for StreamRef {
    #[inline]
    fn arming(&self, smc: &Smc) -> Arming {
        self.watch.arming(smc, self.connection.is_nonblocking())
    }

    #[inline]
    fn left_unarmed(&self, smc: &Smc) {
        self.watch.left_unarmed(self, smc);
    }
}

fn outcome(done: Result<Option<usize>, Errno>) -> Outcome<usize> {
    match done {
        Ok(Some(bytes)) => Outcome::Done(bytes),
        Ok(None) => Outcome::PassOn(PassOn::OnTcp),
        Err(errno) => Outcome::Failed(errno),
    }
}

/// Any kind of send.
#[inline]
pub(crate) fn send(
    fd: RawFd,
    stream: &StreamRef,
    source: &mut impl Source,
    flags: i32,
) -> Outcome<usize> {
    let sent = stream.connection.send(borrow(fd), source, flags, stream);
    if sent == Err(Errno::PIPE) && flags & libc::MSG_NOSIGNAL == 0 {
        raise_sigpipe();
    }
    outcome(sent)
}

/// Any kind of receive.
#[inline]
pub(crate) fn recv(
    fd: RawFd,
    stream: &StreamRef,
    sink: &mut impl Sink,
    flags: i32,
) -> Outcome<usize> {
    outcome(stream.connection.recv(borrow(fd), sink, flags, stream))
}

/// Runs `with` on the memory an iovec array describes.
///
/// # Safety
/// As readv(2): `iov` points to `count` entries, each of them valid.
pub(crate) unsafe fn with_slices<T>(
    iov: *const libc::iovec,
    count: usize,
    with: impl FnOnce(&mut Slices<'_>) -> Outcome<T>,
) -> Outcome<T> {
    const MOST: usize = 1024;
    if count > MOST {
        return Outcome::Failed(Errno::INVAL);
    }
    let entries = if count == 0 {
        &[]
    } else {
        // SAFETY: by this function's contract.
        unsafe { std::slice::from_raw_parts(iov, count) }
    };
    // SAFETY: by this function's contract.
    match unsafe { Slices::new(entries) } {
        Ok(mut slices) => with(&mut slices),
        Err(errno) => Outcome::Failed(errno),
    }
}

/// SIGPIPE for the calling thread, as the kernel sends it.
pub(crate) fn raise_sigpipe() {
    // SAFETY: takes integers.
    unsafe {
        libc::syscall(
            libc::SYS_tgkill,
            sys::getpid(),
            sys::gettid(),
            libc::SIGPIPE,
        );
    }
}

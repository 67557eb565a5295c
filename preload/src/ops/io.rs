//! Sending and receiving.

use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::Errno;
use smcr_core::conn::io::{Discard, Sink, Slices, Source};
use smcr_core::conn::{Arming, Received};
use smcr_core::engine::{Early, Phase, engine};
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

/// Any kind of send.
#[inline]
pub(crate) fn send(
    fd: RawFd,
    stream: &StreamRef,
    source: &mut impl Source,
    flags: i32,
) -> Outcome<usize> {
    let connection = &stream.connection;
    loop {
        if let Some(smc) = connection.smc() {
            let sent = smc.send(borrow(fd), source, flags);
            connection.note_bytes(smc);
            if sent == Err(Errno::AGAIN) {
                // Space is looked for, too.
                stream.watch.left_unarmed(stream, smc);
            }
            if sent == Err(Errno::PIPE) && flags & libc::MSG_NOSIGNAL == 0 {
                raise_sigpipe();
            }
            if flags & libc::MSG_OOB != 0 && sent.is_ok_and(|bytes| bytes > 0) {
                connection.signal_urgent();
            }
            return sent.into();
        }
        if connection.phase() == Phase::Tcp {
            return Outcome::PassOn(PassOn::OnTcp);
        }
        let Some(engine) = engine() else {
            return Outcome::PassOn(PassOn::OnTcp);
        };
        let nonblocking = flags & libc::MSG_DONTWAIT != 0 || connection.is_nonblocking();
        match connection.send_early(borrow(fd), source, flags, nonblocking, engine) {
            Ok(Early::Sent(n)) => return Outcome::Done(n),
            Ok(Early::Decided) => {}
            Err(errno) => {
                if errno == Errno::PIPE && flags & libc::MSG_NOSIGNAL == 0 {
                    raise_sigpipe();
                }
                return Outcome::Failed(errno);
            }
        }
    }
}

/// Any kind of receive.
#[inline]
pub(crate) fn recv(
    fd: RawFd,
    stream: &StreamRef,
    sink: &mut impl Sink,
    flags: i32,
) -> Outcome<usize> {
    let connection = &stream.connection;
    loop {
        if let Some(smc) = connection.smc() {
            if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_TRUNC) != 0 {
                return recv_special(fd, stream, sink, flags);
            }
            let arming = stream.watch.arming(smc, connection.is_nonblocking());
            let received = smc.recv(borrow(fd), sink, flags, arming);
            connection.note_bytes(smc);
            if arming == Arming::Later
                && matches!(
                    received,
                    Ok(Received { unarmed: true, .. }) | Err(Errno::AGAIN)
                )
            {
                stream.watch.left_unarmed(stream, smc);
            }
            return received.map(|received| received.bytes).into();
        }
        match connection.phase() {
            Phase::Tcp => return Outcome::PassOn(PassOn::OnTcp),
            Phase::Smc => {}
            // A bell comes only from a server that has our Confirm: the switch is a matter of
            // microseconds, and a socket that was reported readable must not say EAGAIN.
            Phase::Committing
                if !would_wait(stream, flags) && !super::fds::is_reported_readable(fd) =>
            {
                return Outcome::Failed(Errno::AGAIN);
            }
            Phase::Committing => connection.wait_decided(),
            Phase::Pending if !would_wait(stream, flags) => return Outcome::Failed(Errno::AGAIN),
            // Nothing can come before the handshake; its end, or the first data, wakes us. The
            // kernel applies SO_RCVTIMEO and the rest.
            Phase::Pending => match sys::recv(borrow(fd), &mut [], libc::MSG_PEEK) {
                Ok(_) if connection.phase() == Phase::Pending => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Ok(_) => {}
                Err(errno) => return Outcome::Failed(errno),
            },
        }
    }
}

fn would_wait(stream: &StreamRef, flags: i32) -> bool {
    flags & libc::MSG_DONTWAIT == 0 && !stream.connection.is_nonblocking()
}

#[cold]
fn recv_special(fd: RawFd, stream: &StreamRef, sink: &mut impl Sink, flags: i32) -> Outcome<usize> {
    let Some(smc) = stream.connection.smc() else {
        return Outcome::PassOn(PassOn::OnTcp);
    };
    if flags & libc::MSG_ERRQUEUE != 0 {
        // SMC queues no errors.
        return Outcome::Failed(Errno::AGAIN);
    }
    if flags & libc::MSG_OOB != 0 {
        stream.connection.forget_urgent_signals();
        return smc.recv_urgent(sink, flags).into();
    }
    // MSG_TRUNC on a stream: the bytes are taken and thrown away.
    let mut discard = Discard(sink.left());
    let received = smc.recv(borrow(fd), &mut discard, flags, Arming::Now);
    stream.connection.note_bytes(smc);
    received.map(|received| received.bytes).into()
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

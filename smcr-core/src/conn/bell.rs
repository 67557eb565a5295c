//! The readiness pair: what makes the kernel report a socket readable, writable or hung up.
//!
//! The program's descriptor is one end of an `AF_UNIX` `SOCK_SEQPACKET` pair, the peer program's
//! descriptor the other. A *bell* is a packet without content:
//!
//! - an unread bell makes the reader's end readable, and each new one is an edge for epoll;
//! - three unread bells make the end they came from unwritable, until they are drained;
//! - `shutdown` and the death of the last holder of one end show at the other as
//!   end-of-file and hang-up, with no help of ours.
//!
//! Bells say when to look; what there is to see is in the ring.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::engine::PUBLISHER;
use crate::shm::RmbeControl;
use crate::stat::Counter;
use crate::sys;

/// `SO_SNDBUF` of both ends (the kernel doubles it): with this value two unread bells leave an
/// end writable, three do not, and a twelfth send blocks.
const SNDBUF: i32 = 4096;

/// Unread bells that make the sending end unwritable.
pub(crate) const BLOCKED: u32 = 3;

/// More bells than can ever be unread; bounds loops whose count a peer can write.
const MANY: u32 = 64;

/// Makes a readiness pair: both ends close-on-exec and blocking.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (a, b) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    for end in [&a, &b] {
        sys::set_int(end.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, SNDBUF)?;
    }
    Ok((a, b))
}

/// Rings the peer.
///
/// # Errors
/// `EPIPE` or `ECONNRESET` when nobody holds the other end any more. A full queue is no error:
/// the peer is readable then.
pub(crate) fn ring(fd: BorrowedFd<'_>, control: &RmbeControl) -> Result<(), Errno> {
    PUBLISHER.count(Counter::Doorbells);
    put(fd, control, &[]).map(drop)
}

/// Puts a packet into the queue. False if it is full, which is no error.
#[inline]
fn put(fd: BorrowedFd<'_>, control: &RmbeControl, content: &[u8]) -> Result<bool, Errno> {
    // Counted first: the reader may drain the packet before this thread runs again.
    control.bells.fetch_add(1, Ordering::Relaxed);
    match sys::send(fd, content, libc::MSG_DONTWAIT) {
        Ok(_) => Ok(true),
        Err(errno) => {
            control.bells.fetch_sub(1, Ordering::Relaxed);
            if errno == Errno::AGAIN {
                Ok(false)
            } else {
                Err(errno)
            }
        }
    }
}

/// Takes `count` bells out of our end, or as many as there are.
#[inline]
pub(crate) fn drain(fd: BorrowedFd<'_>, control: &RmbeControl, count: u32) {
    if count > 0 {
        drain_slow(fd, control, count);
    }
}

#[cold]
fn drain_slow(fd: BorrowedFd<'_>, control: &RmbeControl, count: u32) {
    let unread = control.bells.load(Ordering::Relaxed);
    for _ in 0..count.min(unread).min(MANY) {
        // A bell that is counted but not there yet stays counted and is drained later.
        if sys::recv(fd, &mut [], libc::MSG_DONTWAIT).is_err() {
            break;
        }
        control.bells.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes everything out of our end, whatever the count says: it was readable for no reason.
pub(super) fn drain_all(fd: BorrowedFd<'_>, control: &RmbeControl) {
    for _ in 0..MANY {
        match sys::recv(fd, &mut [], libc::MSG_DONTWAIT) {
            Ok(_) if hung_up(fd) != Hangup::None => break,
            Ok(_) => {
                if control.bells.load(Ordering::Relaxed) > 0 {
                    control.bells.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Err(_) => break,
        }
    }
}

/// Makes our end unwritable until the peer drains: `count` bells are unread afterwards, or as
/// many as fit.
pub(crate) fn block(fd: BorrowedFd<'_>, control: &RmbeControl, count: u32) -> Result<(), Errno> {
    for _ in 0..count {
        if !put(fd, control, &[])? {
            break;
        }
    }
    Ok(())
}

/// As [`block`], but the next send that may wait does so at once: one packet with content fills the
/// queue as eleven without do. Only where the other end is the library's own: no program may ever
/// find bytes there.
pub(super) fn plug(fd: BorrowedFd<'_>, control: &RmbeControl) -> Result<(), Errno> {
    static CONTENT: [u8; SNDBUF as usize] = [0; SNDBUF as usize];
    put(fd, control, &CONTENT).map(drop)
}

/// Takes everything out of our end that [`plug`] or [`block`] put there. Each packet is no longer
/// counted when it goes: the writer whom that wakes, and who finds no room again, must not take it
/// for one that is still there.
pub(crate) fn unplug(fd: BorrowedFd<'_>, control: &RmbeControl) {
    for _ in 0..control.bells.load(Ordering::Relaxed).min(MANY) {
        control.bells.fetch_sub(1, Ordering::SeqCst);
        if sys::recv(fd, &mut [], libc::MSG_DONTWAIT).is_err() {
            // Counted, but not there yet.
            control.bells.fetch_add(1, Ordering::SeqCst);
            break;
        }
    }
}

/// What the kernel knows of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hangup {
    /// It is open.
    None,
    /// It was shut down for sending.
    Half,
    /// Nobody holds it any more (or both directions were shut down).
    Full,
}

/// Asks the kernel whether the other end was shut down or closed.
pub(crate) fn hung_up(fd: BorrowedFd<'_>) -> Hangup {
    match sys::poll_one(fd, libc::POLLRDHUP, Some(0)) {
        Ok(events) if events & libc::POLLHUP != 0 => Hangup::Full,
        Ok(events) if events & libc::POLLRDHUP != 0 => Hangup::Half,
        _ => Hangup::None,
    }
}

/// Whether nobody holds the other end any more.
pub(crate) fn is_hung_up(fd: BorrowedFd<'_>) -> bool {
    hung_up(fd) == Hangup::Full
}

/// Makes an end unwritable before there is a ring: the peer's library empties the queue when it
/// takes the connection over ([`empty`]).
pub(crate) fn fill(fd: BorrowedFd<'_>) {
    for _ in 0..BLOCKED {
        let _ = sys::send(fd, &[], libc::MSG_DONTWAIT);
    }
}

/// Whether a descriptor that a peer passed to us can be an end of a readiness pair. The program
/// will wait on it, so that it must not be just anything.
pub(crate) fn is_end(fd: BorrowedFd<'_>) -> bool {
    let is = |name, value| sys::get_int(fd, libc::SOL_SOCKET, name) == Ok(value);
    is(libc::SO_DOMAIN, libc::AF_UNIX) && is(libc::SO_TYPE, libc::SOCK_SEQPACKET)
}

/// Takes everything out of an end that was just passed to us. False if it is no end: not
/// connected, or listening.
pub(crate) fn empty(fd: BorrowedFd<'_>) -> bool {
    for _ in 0..MANY {
        if let Err(errno) = sys::recv(fd, &mut [], libc::MSG_DONTWAIT) {
            return matches!(errno, Errno::AGAIN | Errno::CONNRESET);
        }
    }
    true
}

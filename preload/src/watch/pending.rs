//! Streams whose handshake is pending, while a poll sleeps on them.
//!
//! When a stream stays on TCP, its descriptor becomes the TCP socket again. A sleeping poll has
//! queued up at the file that the descriptor was before, and looks at the new one only when that
//! file wakes it, which it does once. So the poll is given a duplicate, which keeps its meaning
//! and hangs up when the handshake is decided, and then begins anew.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use libc::pollfd;
use rustix::io::Errno;
use smallvec::SmallVec;
use smcr_core::engine::Phase;
use smcr_core::fds;

use crate::stream::StreamRef;
use crate::table;

/// What a poll fails with to say that a handshake was decided meanwhile: the kernel never shows
/// this number to programs.
pub(super) const DECIDED: Errno = Errno::RESTART;

/// The duplicates, for the time of one sleep.
pub(super) struct Pending(SmallVec<[(OwnedFd, StreamRef); 2]>);

impl Pending {
    /// Nothing held: for a poll that does not sleep.
    pub(super) fn none() -> Self {
        Self(SmallVec::new())
    }

    /// Puts duplicates into the entries of pending streams.
    pub(super) fn hold(entries: &mut [pollfd]) -> Self {
        let mut held = Self::none();
        for entry in entries {
            let Some(stream) = table::stream(entry.fd) else {
                continue;
            };
            if !is_pending(&stream) {
                continue;
            }
            // SAFETY: the program's descriptor, in its call on it.
            let fd = unsafe { BorrowedFd::borrow_raw(entry.fd) };
            // Where there is no room for one, the poll may sleep longer than it should.
            if let Ok(duplicate) = fds::duplicate(fd) {
                entry.fd = duplicate.as_raw_fd();
                if entry.events & libc::POLLPRI != 0 {
                    // A bell tells that it moved to SMC; of urgent bytes the kernel knows nothing.
                    entry.events |= libc::POLLIN;
                }
                held.0.push((duplicate, stream));
            }
        }
        held
    }

    /// Fails with [`DECIDED`] if one of the handshakes is over.
    pub(super) fn check(&self) -> Result<(), Errno> {
        if self.0.iter().all(|(_, stream)| is_pending(stream)) {
            Ok(())
        } else {
            Err(DECIDED)
        }
    }
}

/// The kernel's word on a stream whose handshake was pending when it was asked. What came of the
/// handshake decides what there is to report: a bell, or a hang-up, comes only from a server that
/// knows its end, and then the switch is a matter of microseconds.
///
/// Fails with [`DECIDED`] if it is over.
pub(super) fn correct(entry: &mut pollfd, stream: &StreamRef) -> Result<(), Errno> {
    if entry.revents & INCOMING != 0 {
        stream.connection.wait_decided();
        if !is_pending(stream) {
            return Err(DECIDED);
        }
    }
    // What the program did not ask for, and what a unix socket has and TCP has not.
    let asked = entry.events | libc::POLLERR | libc::POLLHUP | libc::POLLNVAL;
    entry.revents &= asked & !libc::POLLWRBAND;
    Ok(())
}

const INCOMING: i16 = libc::POLLIN | libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR;

fn is_pending(stream: &StreamRef) -> bool {
    matches!(
        stream.connection.phase(),
        Phase::Pending | Phase::Committing
    )
}

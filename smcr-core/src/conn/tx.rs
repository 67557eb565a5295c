//! Sending over SMC.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::io::Source;
use super::smc::{Home, Smc, state};
use super::waiting::Waiting;
use super::{bell, spin};
use crate::sys;

/// A long write is published in pieces of this size, so that the reader copies one piece out
/// while the next is copied in.
pub(super) const PIECE: usize = 32 << 10;

impl Smc {
    /// `send`: `flags` are those of send(2), of which `MSG_DONTWAIT` and `MSG_OOB` matter.
    /// Returns how many bytes were taken.
    ///
    /// # Errors
    /// As send(2) on a TCP socket; for `EPIPE` the caller raises SIGPIPE. Nothing was taken then.
    #[inline]
    pub fn send(
        &self,
        fd: BorrowedFd<'_>,
        source: &mut impl Source,
        flags: i32,
    ) -> Result<usize, Errno> {
        let mut sent = 0;
        loop {
            let some = self.send_some(fd, source, flags);
            if some != Ok(0) {
                self.kick_wire();
            }
            match some {
                Ok(taken) => sent += taken,
                Err(Errno::AGAIN) if flags & libc::MSG_DONTWAIT == 0 && !self.is_nonblocking() => {
                    if let Err(errno) = self.wait_writable(fd) {
                        return if sent > 0 { Ok(sent) } else { Err(errno) };
                    }
                    continue;
                }
                Err(_) if sent > 0 => return Ok(sent),
                Err(errno) => return Err(errno),
            }
            if source.left() == 0 {
                return Ok(sent);
            }
        }
    }

    #[inline]
    pub(crate) fn is_nonblocking(&self) -> bool {
        self.local.nonblocking.load(Ordering::Relaxed) != 0
    }

    /// Takes what fits now.
    #[inline]
    fn send_some(
        &self,
        fd: BorrowedFd<'_>,
        source: &mut impl Source,
        flags: i32,
    ) -> Result<usize, Errno> {
        // Held by this very thread: a signal handler interrupted a send on this socket.
        let _guard = self.local.tx_lock.lock().ok_or(Errno::AGAIN)?;
        self.check_sendable(source.left() == 0)?;
        let mut sent = 0;
        while source.left() > 0 {
            let free = match self.tx.free(&self.local, source.left().min(PIECE)) {
                Ok(free) => free,
                Err(bad) => {
                    self.bad_cursor(bad);
                    return self.take_error().map_or(Err(Errno::CONNRESET), Err);
                }
            };
            if free == 0 {
                if sent > 0 {
                    return Ok(sent);
                }
                if !self.mark_blocked(fd, flags) {
                    continue;
                }
                return Err(Errno::AGAIN);
            }
            let want = source.left().min(free).min(PIECE);
            let mut taken = 0;
            let mut failed = None;
            self.tx.copy_in(&self.local, want, |to, offset, len| {
                if failed.is_none() && offset == taken {
                    // SAFETY: `to` is `len` bytes of the ring that the reader does not look at
                    // before they are published.
                    match unsafe { source.take(to, len) } {
                        Ok(n) => taken += n,
                        Err(errno) => failed = Some(errno),
                    }
                }
            });
            if taken > 0 {
                if flags & libc::MSG_OOB != 0 && source.left() == 0 {
                    let end = self.local.prod.load(Ordering::Relaxed) + taken as u64;
                    self.tx.control().urgent.store(end, Ordering::Release);
                }
                if self.tx.publish(&self.local, taken) && bell::ring(fd, self.tx.control()).is_err()
                {
                    self.see_hangup(fd, taken);
                    if self.state() & state::PEER_CLOSED != 0 {
                        self.dropped();
                    }
                }
                sent += taken;
            }
            match failed {
                Some(errno) if sent == 0 => return Err(errno),
                _ if taken < want => return Ok(sent),
                _ => {}
            }
        }
        Ok(sent)
    }

    /// What forbids sending: shutdown, reset, a peer that is gone. Sending nothing changes nothing.
    #[inline]
    fn check_sendable(&self, nothing: bool) -> Result<(), Errno> {
        use state::*;
        // The line with the peer's flags is the one the receiver of this socket polls anyway.
        self.see_flags();
        let state = self.state();
        if state & (WRITE_SHUT | RESET | DROPPED | PEER_CLOSED) == 0 {
            return Ok(());
        }
        self.check_sendable_slow(state, nothing)
    }

    #[cold]
    fn check_sendable_slow(&self, state: u32, nothing: bool) -> Result<(), Errno> {
        use state::*;
        if state & RESET != 0 {
            return Err(self.take_error().unwrap_or(Errno::PIPE));
        }
        if state & (WRITE_SHUT | DROPPED) != 0 {
            let _ = self.take_error();
            return Err(Errno::PIPE);
        }
        // The peer closed in good order: TCP takes this one send, gets a RST for it, and fails
        // the next.
        if !nothing {
            self.dropped();
        }
        Ok(())
    }

    /// The ring is full: makes our end unwritable, so that the kernel tells when there is space.
    /// False if there is space after all.
    fn mark_blocked(&self, fd: BorrowedFd<'_>, flags: i32) -> bool {
        if self.state() & (state::PEER_CLOSED | state::RESET) != 0 {
            return true;
        }
        if flags & libc::MSG_DONTWAIT == 0 && !self.is_nonblocking() {
            // wait_writable() does it if it has to sleep.
            return true;
        }
        self.arm_writable(fd)
    }

    /// Waits until there is space, awake or asleep.
    #[cold]
    fn wait_writable(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let has_space = || self.tx.free(&self.local, 1) != Ok(0) || self.see_flags_closed();
        if self.spin(has_space) {
            return Ok(());
        }
        // Before the last look, as the flag: what is freed after it is told.
        let _sleep = Waiting::on(self).fall_asleep();
        let control = self.tx.control();
        self.tx.wait_for_space();
        if has_space() {
            return Ok(());
        }
        // Fill our end's queue, then send one more: that send sleeps until the peer drained, and
        // the kernel applies SO_SNDTIMEO, SA_RESTART and O_NONBLOCK to it as it should.
        let began = Instant::now();
        let filled = match self.home {
            Home::Rdma(_) => bell::plug(fd, control),
            Home::Shm(_) => bell::block(fd, control, 16),
        };
        // Whoever made space in between has seen no packet to take out, perhaps.
        self.tx.wait_for_space();
        if has_space() {
            return Ok(());
        }
        let woken = filled.and_then(|()| {
            spin::sleeps();
            control.bells.fetch_add(1, Ordering::Relaxed);
            sys::send(fd, &[], 0).inspect_err(|_| {
                control.bells.fetch_sub(1, Ordering::Relaxed);
            })
        });
        match woken {
            Ok(_) => {
                spin::slept(&self.local.spin_ns, began.elapsed());
                Ok(())
            }
            Err(Errno::PIPE | Errno::CONNRESET) => {
                self.see_hangup(fd, 0);
                Err(self.take_error().unwrap_or(Errno::PIPE))
            }
            Err(errno) => Err(errno),
        }
    }

    fn see_flags_closed(&self) -> bool {
        self.see_flags();
        self.state() & (state::PEER_CLOSED | state::RESET | state::WRITE_SHUT) != 0
    }
}

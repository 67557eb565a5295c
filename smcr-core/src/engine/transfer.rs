//! Sending and receiving on a connection whatever carries it: over TCP while the handshake is
//! pending, over SMC, or (said by `None`) not at all, because the descriptor is TCP itself.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::Errno;

use super::connection::{Connection, Early, Phase};
use crate::conn::io::{Discard, Sink, Source};
use crate::conn::{Arming, Received, Smc};
use crate::sys;

/// Whoever watches a stream for readiness, and has to be told when its ring is left without a
/// request for a bell.
pub trait Watcher {
    /// Whether the next receive asks for a bell itself.
    fn arming(&self, smc: &Smc) -> Arming;
    /// The ring was left empty, or full, and no bell was asked for.
    fn left_unarmed(&self, smc: &Smc);
}

/// Nobody that we know of: every receive asks.
#[derive(Debug, Clone, Copy)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn arming(&self, _: &Smc) -> Arming {
        Arming::Now
    }

    fn left_unarmed(&self, _: &Smc) {}
}

impl Connection {
    /// Sends on the program's descriptor `fd`, with the flags of send(2). `None`: the stream is on
    /// TCP for good, and nothing was taken.
    ///
    /// # Errors
    /// As send(2) on a TCP socket; `EPIPE` raises no signal.
    #[inline]
    pub fn send(
        &self,
        fd: BorrowedFd<'_>,
        source: &mut impl Source,
        flags: i32,
        watcher: &impl Watcher,
    ) -> Result<Option<usize>, Errno> {
        // Of this call, before the handshake was decided.
        let mut early = 0;
        loop {
            if let Some(smc) = self.smc() {
                let sent = smc.send(fd, source, flags);
                self.note_bytes(smc);
                if sent == Err(Errno::AGAIN) {
                    // Space is looked for, too.
                    watcher.left_unarmed(smc);
                }
                if flags & libc::MSG_OOB != 0 && sent.is_ok_and(|bytes| bytes > 0) {
                    self.signal_urgent();
                }
                return total(early, sent).map(Some);
            }
            let (Phase::Pending | Phase::Committing | Phase::Smc, Some(engine)) =
                (self.phase(), super::engine())
            else {
                return match early {
                    0 => Ok(None),
                    _ => total(early, send_rest_over_tcp(fd, source, flags)).map(Some),
                };
            };
            let nonblocking = !self.may_wait(flags);
            match self.send_early(fd, source, flags, nonblocking, engine)? {
                Early::Sent(n) => return Ok(Some(early + n)),
                // A call that may wait takes all that it was given, as over TCP.
                Early::Decided(n) => early += n,
            }
        }
    }

    /// Receives from the program's descriptor `fd`, with the flags of recv(2). `None`: the stream
    /// is on TCP for good.
    ///
    /// # Errors
    /// As recv(2) on a TCP socket.
    #[inline]
    pub fn recv(
        &self,
        fd: BorrowedFd<'_>,
        sink: &mut impl Sink,
        flags: i32,
        watcher: &impl Watcher,
    ) -> Result<Option<usize>, Errno> {
        loop {
            if let Some(smc) = self.smc() {
                if flags & (libc::MSG_OOB | libc::MSG_ERRQUEUE | libc::MSG_TRUNC) != 0 {
                    return self.recv_special(smc, fd, sink, flags).map(Some);
                }
                let arming = watcher.arming(smc);
                let received = smc.recv(fd, sink, flags, arming);
                self.note_bytes(smc);
                if arming == Arming::Later
                    && matches!(
                        received,
                        Ok(Received { unarmed: true, .. }) | Err(Errno::AGAIN)
                    )
                {
                    watcher.left_unarmed(smc);
                }
                return received.map(|received| Some(received.bytes));
            }
            if self.wait_to_receive(fd, flags)? == Phase::Tcp {
                return Ok(None);
            }
        }
    }

    fn may_wait(&self, flags: i32) -> bool {
        flags & libc::MSG_DONTWAIT == 0 && !self.is_nonblocking()
    }

    /// Waits until the handshake is decided, if the program may wait, and returns the phase.
    #[cold]
    fn wait_to_receive(&self, fd: BorrowedFd<'_>, flags: i32) -> Result<Phase, Errno> {
        match self.phase() {
            Phase::Tcp | Phase::Smc => {}
            // A bell comes only from a server that has our Confirm: the switch is a matter of
            // microseconds, and a socket that was reported readable must not say EAGAIN.
            Phase::Committing if !self.may_wait(flags) && !is_reported_readable(fd) => {
                return Err(Errno::AGAIN);
            }
            Phase::Committing => self.wait_decided(),
            Phase::Pending if !self.may_wait(flags) => return Err(Errno::AGAIN),
            // Nothing can come before the handshake; its end, or the first data, wakes us. The
            // kernel applies SO_RCVTIMEO and the rest.
            Phase::Pending => {
                sys::recv(fd, &mut [], libc::MSG_PEEK)?;
                if self.phase() == Phase::Pending {
                    // The peer's library is about to say what this bell was for.
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        Ok(self.phase())
    }

    #[cold]
    fn recv_special(
        &self,
        smc: &Smc,
        fd: BorrowedFd<'_>,
        sink: &mut impl Sink,
        flags: i32,
    ) -> Result<usize, Errno> {
        if flags & libc::MSG_ERRQUEUE != 0 {
            // SMC queues no errors.
            return Err(Errno::AGAIN);
        }
        if flags & libc::MSG_OOB != 0 {
            self.forget_urgent_signals();
            return smc.recv_urgent(sink, flags);
        }
        // MSG_TRUNC on a stream: the bytes are taken and thrown away.
        let mut discard = Discard(sink.left());
        let received = smc.recv(fd, &mut discard, flags, Arming::Now);
        self.note_bytes(smc);
        received.map(|received| received.bytes)
    }
}

/// What send(2) returns for a call of which `early` bytes were sent before this outcome of the rest.
fn total(early: usize, rest: Result<usize, Errno>) -> Result<usize, Errno> {
    match rest {
        Ok(bytes) => Ok(early + bytes),
        Err(_) if early > 0 => Ok(early),
        Err(errno) => Err(errno),
    }
}

/// Sends what a call has left, now that the program's descriptor is the TCP socket again.
#[cold]
fn send_rest_over_tcp(
    fd: BorrowedFd<'_>,
    source: &mut impl Source,
    flags: i32,
) -> Result<usize, Errno> {
    let mut sent = 0;
    let mut piece = vec![0; source.left().min(64 << 10)];
    while source.left() > 0 {
        let len = source.left().min(piece.len());
        // SAFETY: `piece` has room for `len`.
        let taken = unsafe { source.take(piece.as_mut_ptr(), len) };
        let went = taken.and_then(|taken| match sys::send(fd, &piece[..taken], flags) {
            Ok(n) => {
                source.back(taken - n);
                Ok((taken, n))
            }
            Err(errno) => {
                source.back(taken);
                Err(errno)
            }
        });
        match went {
            Ok((taken, n)) => {
                sent += n;
                if n < taken || taken < len {
                    break;
                }
            }
            Err(_) if sent > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(sent)
}

/// Whether the kernel reports the program's end of a readiness pair readable, or hung up.
pub fn is_reported_readable(fd: BorrowedFd<'_>) -> bool {
    matches!(sys::poll_one(fd, libc::POLLIN, Some(0)), Ok(1..))
}

//! Sending and receiving on a connection whatever carries it: over TCP while the handshake is
//! pending, over SMC, or (said by `None`) not at all, because the descriptor is TCP itself.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::io::Errno;

use super::connection::{Connection, Early, Phase};
use crate::conn::io::{Sink, Source};
use crate::conn::{Arming, Received};
use crate::sys;

impl Connection {
    /// Sends on the program's descriptor `fd`, with the flags of send(2). `None`: the stream is on
    /// TCP for good, and nothing was taken.
    ///
    /// # Errors
    /// As send(2) on a TCP socket; `EPIPE` raises no signal.
    pub fn send(
        &self,
        fd: BorrowedFd<'_>,
        source: &mut impl Source,
        flags: i32,
    ) -> Result<Option<usize>, Errno> {
        loop {
            if let Some(smc) = self.smc() {
                let sent = smc.send(fd, source, flags);
                self.note_bytes(smc);
                return sent.map(Some);
            }
            let (Phase::Pending | Phase::Committing | Phase::Smc, Some(engine)) =
                (self.phase(), super::engine())
            else {
                return Ok(None);
            };
            let nonblocking = flags & libc::MSG_DONTWAIT != 0 || self.is_nonblocking();
            match self.send_early(fd, source, flags, nonblocking, engine)? {
                Early::Sent(n) => return Ok(Some(n)),
                Early::Decided => {}
            }
        }
    }

    /// Receives from the program's descriptor `fd`, with the flags of recv(2). `None`: the stream
    /// is on TCP for good.
    ///
    /// # Errors
    /// As recv(2) on a TCP socket.
    pub fn recv(
        &self,
        fd: BorrowedFd<'_>,
        sink: &mut impl Sink,
        flags: i32,
        arming: Arming,
    ) -> Result<Option<Received>, Errno> {
        let waits = flags & libc::MSG_DONTWAIT == 0 && !self.is_nonblocking();
        loop {
            if let Some(smc) = self.smc() {
                let received = smc.recv(fd, sink, flags, arming);
                self.note_bytes(smc);
                return received.map(Some);
            }
            match self.phase() {
                Phase::Tcp => return Ok(None),
                Phase::Smc => {}
                Phase::Pending | Phase::Committing if !waits => return Err(Errno::AGAIN),
                Phase::Committing => self.wait_decided(),
                // Nothing can come before the handshake; its end, or the first data, wakes us.
                // The kernel applies SO_RCVTIMEO.
                Phase::Pending => {
                    let woken = sys::recv(fd, &mut [], libc::MSG_PEEK)?;
                    if woken == 0 && self.phase() == Phase::Pending {
                        // The peer's library is about to say what this bell was for.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        }
    }
}

//! A stream that has moved to SMC: its state, and what the program's calls do with it.
//!
//! Sending is in `tx.rs`, receiving in `rx.rs`, how it ends in `ending.rs`, who is rung for it in
//! `arming.rs`; this file holds what all share: errors, hang-up, and the readiness that poll would
//! report.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;

use super::bell::{self, Hangup};
use super::waiting::Waiting;
use crate::group::LinkGroup;
use crate::rdma::Handle;
use crate::shm::{BadCursor, LocalRef, Rx, Tx, flag};
use crate::stat::Mode;

/// Bits of [`crate::shm::Local::state`].
pub(crate) mod state {
    use std::sync::atomic::Ordering;

    use rustix::io::Errno;

    use crate::shm::Local;

    /// The program shut down sending.
    pub(in crate::conn) const WRITE_SHUT: u32 = 1;
    /// The program shut down receiving.
    pub(in crate::conn) const READ_SHUT: u32 = 2;
    /// The peer will send no more (its FIN, in TCP's words).
    pub(in crate::conn) const PEER_EOF: u32 = 4;
    /// Nobody holds the peer's end any more.
    pub(in crate::conn) const PEER_CLOSED: u32 = 8;
    /// The connection was reset.
    pub(in crate::conn) const RESET: u32 = 16;
    /// Data was sent after the peer had closed: TCP would have got a RST for it.
    pub(in crate::conn) const DROPPED: u32 = 32;

    /// The connection is dead, as after a RST; its next call says `errno`.
    pub(crate) fn reset(local: &Local, errno: Errno) {
        if local.state.load(Ordering::Acquire) & RESET == 0 {
            let raw = errno.raw_os_error() as u32;
            local.error.store(raw, Ordering::Relaxed);
            let bits = RESET | PEER_EOF | PEER_CLOSED;
            local.state.fetch_or(bits, Ordering::AcqRel);
        }
    }
}

/// Who keeps the memory of a connection, and what is at the other end of its rings.
#[derive(Debug, Clone)]
pub enum Home {
    /// The peer process itself.
    Shm(Arc<LinkGroup>),
    /// The wire: the rings are filled and emptied by RDMA.
    Rdma(Handle),
}

/// A connection that moved to SMC: two rings in shared memory.
///
/// `fd` in its methods is the program's descriptor, an end of the readiness pair.
#[derive(Debug)]
pub struct Smc {
    pub(super) tx: Tx,
    pub(super) rx: Rx,
    pub(super) local: LocalRef,
    pub(super) home: Home,
    /// The engine that made the connection; other processes, which got it by fork, have another.
    pub(super) made_by: usize,
    /// The peer wrote something impossible.
    pub(super) bad_cursor: AtomicBool,
    /// Edge-triggered epoll watches this socket: every arrival has to be an edge.
    pub(super) edges: AtomicBool,
    /// The kernel was made to say "unwritable".
    pub(super) blocked: AtomicBool,
    /// It was asked once whether receives have a time-out.
    pub(super) timeout_asked: AtomicBool,
    /// How often this process forked with the connection, and the number of the first time.
    pub(super) forks: AtomicU32,
    pub(super) first_fork: AtomicU64,
}

impl Smc {
    /// Joins the two rings. `sent` bytes went over TCP before the switch (client) or were put
    /// into our ring already (server: they are in `rx`).
    pub fn new(tx: Tx, rx: Rx, local: LocalRef, home: Home, sent: u64) -> Self {
        local.prod.store(sent, Ordering::Relaxed);
        Self {
            tx,
            rx,
            local,
            home,
            made_by: crate::engine::identity(),
            bad_cursor: AtomicBool::new(false),
            edges: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            timeout_asked: AtomicBool::new(false),
            forks: AtomicU32::new(0),
            first_fork: AtomicU64::new(0),
        }
    }

    /// Who keeps its memory.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The number of its link group in this process.
    pub fn group_id(&self) -> u32 {
        match &self.home {
            Home::Shm(group) => group.id(),
            Home::Rdma(handle) => handle.group_id(),
        }
    }

    /// What carries its bytes.
    pub fn mode(&self) -> Mode {
        match &self.home {
            Home::Shm(_) => Mode::Shm,
            Home::Rdma(_) => Mode::Rdma,
        }
    }

    /// The wire, if it is this process that keeps it.
    #[inline]
    pub(super) fn wire(&self) -> Option<&Handle> {
        match &self.home {
            Home::Rdma(handle) if handle.is_local() => Some(handle),
            _ => None,
        }
    }

    /// The end of the TCP connection behind it was seen.
    pub(crate) fn conn_id(&self) -> Option<crate::rdma::ConnId> {
        self.wire().map(Handle::id)
    }

    /// Looks at `ready` for as long as that pays, and at the wire, if there is one here. Returns
    /// whether it became true.
    #[inline]
    pub(super) fn spin(&self, ready: impl FnMut() -> bool) -> bool {
        Waiting::on(self).spin(&self.local.spin_ns, ready)
    }

    /// Has the wire look at what this end did.
    #[inline]
    pub(crate) fn kick_wire(&self) {
        if let Some(wire) = self.wire() {
            wire.kick();
        }
    }

    /// Bytes sent and received since the connection began.
    #[inline]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.local.prod.load(Ordering::Relaxed),
            self.local.cons.load(Ordering::Relaxed),
        )
    }

    /// Whether the connection ended because the peer wrote an impossible cursor.
    pub fn had_bad_cursor(&self) -> bool {
        self.bad_cursor.load(Ordering::Relaxed)
    }

    /// Tells the socket that `O_NONBLOCK` was set or cleared.
    pub fn set_nonblocking(&self, on: bool) {
        self.local
            .nonblocking
            .store(u32::from(on), Ordering::Relaxed);
    }

    /// Tells the socket about `SO_OOBINLINE`.
    pub fn set_oob_inline(&self, on: bool) {
        self.local
            .oob_inline
            .store(u32::from(on), Ordering::Relaxed);
    }

    /// Whether urgent bytes are received in line.
    #[cfg(test)]
    pub(crate) fn is_oob_inline(&self) -> bool {
        self.local.oob_inline.load(Ordering::Relaxed) != 0
    }

    /// Tells the socket about `SO_RCVLOWAT`, in bytes.
    pub fn set_low_water(&self, bytes: u32) {
        self.local.low_water.store(bytes, Ordering::Relaxed);
    }

    /// How many bytes make it readable; never more than the ring can hold.
    #[inline]
    pub(super) fn low_water(&self) -> usize {
        (self.local.low_water.load(Ordering::Relaxed) as usize).min(self.rx.size() / 2)
    }

    /// Whether there is certainly nothing to report but, perhaps, space for sending. Quicker than
    /// [`Self::readiness`], for those who look at many sockets.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        let control = self.rx.control();
        control.prod.load(Ordering::Acquire) == self.local.cons.load(Ordering::Relaxed)
            && control.tx_flags.load(Ordering::Relaxed) == 0
            && self.local.state.load(Ordering::Relaxed) == 0
            && self.local.error.load(Ordering::Relaxed) == 0
    }

    /// Whether another process has the connection, too (by fork).
    #[inline]
    pub fn is_shared(&self) -> bool {
        self.local.processes.load(Ordering::Relaxed) > 1
    }

    #[inline]
    pub(super) fn state(&self) -> u32 {
        self.local.state.load(Ordering::Acquire)
    }

    pub(super) fn add_state(&self, bits: u32) {
        self.local.state.fetch_or(bits, Ordering::AcqRel);
    }

    /// `errno` that waits to be reported, which is cleared (as `SO_ERROR` does).
    pub fn take_error(&self) -> Option<Errno> {
        if self.local.error.load(Ordering::Relaxed) == 0 {
            return None;
        }
        match self.local.error.swap(0, Ordering::Relaxed) {
            0 => None,
            raw => Some(Errno::from_raw_os_error(raw as i32)),
        }
    }

    /// Data was sent to a peer that had closed: TCP would get a RST for it.
    pub(super) fn dropped(&self) {
        if self.state() & state::DROPPED == 0 {
            self.set_error(Errno::PIPE);
            self.add_state(state::DROPPED);
        }
    }

    /// Both directions have ended: TCP's state CLOSED.
    pub fn is_over(&self) -> bool {
        let ended = self.see_flags();
        let state = self.state();
        state & (state::RESET | state::DROPPED) != 0 || ended && state & state::WRITE_SHUT != 0
    }

    /// What `TCP_INFO` would say of a TCP connection in this state.
    pub fn tcp_state(&self, fd: BorrowedFd<'_>) -> u8 {
        const ESTABLISHED: u8 = 1;
        const FIN_WAIT2: u8 = 5;
        const CLOSE: u8 = 7;
        const CLOSE_WAIT: u8 = 8;
        let ended = self.see_hangup(fd, 0);
        if self.is_over() {
            CLOSE
        } else if ended {
            CLOSE_WAIT
        } else if self.state() & state::WRITE_SHUT != 0 {
            FIN_WAIT2
        } else {
            ESTABLISHED
        }
    }

    fn set_error(&self, errno: Errno) {
        self.local
            .error
            .store(errno.raw_os_error() as u32, Ordering::Relaxed);
    }

    /// The connection is dead, as after a RST.
    fn reset(&self, errno: Errno) {
        state::reset(&self.local, errno);
    }

    /// The peer lied about its cursors.
    #[cold]
    pub(super) fn bad_cursor(&self, _: BadCursor) {
        if !self.bad_cursor.swap(true, Ordering::Relaxed) {
            crate::engine::PUBLISHER.fallback(crate::Reason::BadCursor);
        }
        self.reset(Errno::CONNRESET);
    }

    /// Looks at what the peer said about its end (no system call). True if it ended.
    #[inline]
    pub(super) fn see_flags(&self) -> bool {
        let flags = self.rx.control().tx_flags.load(Ordering::Acquire);
        if flags & (flag::SENDING_DONE | flag::CLOSED | flag::ABORT) == 0 {
            return self.state() & (state::PEER_EOF | state::RESET) != 0;
        }
        if flags & flag::ABORT != 0 {
            self.reset(Errno::CONNRESET);
        } else if flags & flag::CLOSED != 0 {
            self.add_state(state::PEER_EOF | state::PEER_CLOSED);
        } else {
            self.add_state(state::PEER_EOF);
        }
        true
    }

    /// Asks the kernel whether the peer's end is gone, and concludes what TCP would have said.
    /// `just_sent` bytes in the peer's ring were written after it could have read them.
    /// True if the peer will send no more.
    #[cold]
    pub(super) fn see_hangup(&self, fd: BorrowedFd<'_>, just_sent: usize) -> bool {
        let hangup = bell::hung_up(fd);
        // The flags were set before the hang-up could be seen, if there are any.
        if self.see_flags() && self.state() & (state::PEER_CLOSED | state::RESET) != 0 {
            return true;
        }
        match hangup {
            Hangup::None => self.state() & state::PEER_EOF != 0,
            Hangup::Half => {
                self.add_state(state::PEER_EOF);
                true
            }
            // With both directions shut down the kernel says the same as for a closed end.
            Hangup::Full if self.state() & state::WRITE_SHUT != 0 => {
                self.add_state(state::PEER_EOF);
                true
            }
            Hangup::Full => {
                // Killed, or closed while another process of its family was killed. The kernel
                // sends a RST for a socket that is closed with data unread, else a FIN.
                let half_closed = self.state() & state::PEER_EOF != 0;
                match self.tx.unread(&self.local) {
                    Ok(unread) if unread > just_sent && !half_closed => {
                        self.reset(Errno::CONNRESET);
                    }
                    Ok(_) => self.add_state(state::PEER_EOF | state::PEER_CLOSED),
                    Err(bad) => self.bad_cursor(bad),
                }
                true
            }
        }
    }

    /// What poll reports for this socket, without asking the kernel: `POLLIN`, `POLLOUT`,
    /// `POLLPRI`, `POLLERR`, `POLLHUP`, `POLLRDHUP` and their NORM variants.
    #[inline]
    pub fn readiness(&self) -> i16 {
        use libc::*;
        use state::*;
        let eof = self.see_flags();
        let mut ready = 0;
        match self.readable() {
            Ok(0) => {}
            Ok(bytes) if bytes < self.low_water() => {}
            Ok(_) => ready |= POLLIN | POLLRDNORM,
            Err(bad) => self.bad_cursor(bad),
        }
        match self.tx.free(&self.local, self.tx.size() / 4) {
            Ok(free) if free >= self.tx.size() / 4 => ready |= POLLOUT | POLLWRNORM,
            Ok(_) => {}
            Err(bad) => self.bad_cursor(bad),
        }
        let state = self.state();
        if eof || state & READ_SHUT != 0 {
            ready |= POLLIN | POLLRDNORM | POLLRDHUP;
        }
        if state & (WRITE_SHUT | DROPPED | RESET) != 0 {
            ready |= POLLOUT | POLLWRNORM;
        }
        if (eof || state & READ_SHUT != 0) && state & WRITE_SHUT != 0
            || state & (RESET | DROPPED) != 0
        {
            ready |= POLLHUP | POLLIN | POLLRDNORM | POLLRDHUP;
        }
        if self.local.error.load(Ordering::Relaxed) != 0 {
            ready |= POLLERR;
        }
        if self.urgent_pending() {
            ready |= POLLPRI;
        }
        ready
    }

    /// Whether the peer's end is known to be closed: the kernel has no more news of it.
    pub fn is_peer_closed(&self) -> bool {
        self.state() & (state::PEER_CLOSED | state::RESET) != 0
    }

    /// How long a spin on this socket may last.
    pub fn spin_budget(&self) -> &AtomicU32 {
        &self.local.spin_ns
    }
}

//! How the program's end is shut down, closed, and had by several processes.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{Home, Smc, state};
use crate::forks;
use crate::group::Holders;
use crate::rdma::Sitter;
use crate::shm::flag;

impl Smc {
    /// `shutdown(fd, how)`.
    ///
    /// # Errors
    /// `ENOTCONN` after a reset, `EINVAL` for an unknown `how`.
    pub fn shutdown(&self, fd: BorrowedFd<'_>, how: i32) -> Result<(), Errno> {
        use rustix::net::Shutdown;
        let (read, write) = match how {
            libc::SHUT_RD => (true, false),
            libc::SHUT_WR => (false, true),
            libc::SHUT_RDWR => (true, true),
            _ => return Err(Errno::INVAL),
        };
        if self.is_over() {
            return Err(Errno::NOTCONN);
        }
        if write && self.state() & state::WRITE_SHUT == 0 {
            // The lock: no byte of another thread may follow the flag.
            let _guard = self.local.tx_lock.lock();
            self.tx
                .control()
                .tx_flags
                .fetch_or(flag::SENDING_DONE, Ordering::AcqRel);
            self.add_state(state::WRITE_SHUT);
        }
        if read {
            self.add_state(state::READ_SHUT);
        }
        self.kick_wire();
        // The kernel tells the peer, and wakes whoever sleeps on our own end. Shutting down our
        // own receiving side also wakes our own sleepers.
        let how = match (read, write) {
            (true, true) => Shutdown::Both,
            (true, false) => Shutdown::Read,
            _ => Shutdown::Write,
        };
        let _ = rustix::net::shutdown(fd, how);
        Ok(())
    }

    /// Whether the program closed it.
    pub(super) fn is_released(&self) -> bool {
        self.tx.control().tx_flags.load(Ordering::SeqCst) & flag::RELEASED != 0
    }

    /// The last descriptor of this process for the connection is about to be closed.
    /// `abort`: the program asked for a reset (`SO_LINGER` with time 0).
    pub fn close(&self, abort: bool) {
        let made_here = self.made_by == crate::engine::identity();
        if let Some(wire) = self.wire() {
            wire.rdma().get_up(Sitter::end(wire.id()));
        }
        if self.local.processes.fetch_sub(1, Ordering::AcqRel) != 1 {
            // Another process of the family goes on with it.
            match &self.home {
                Home::Shm(group) if made_here => {
                    let first = self.first_fork.load(Ordering::Relaxed);
                    let holders = Holders {
                        local: self.local.clone(),
                        peer: Some(self.tx.clone()),
                        count: self.forks.load(Ordering::Relaxed),
                        forks: first..=forks::last(),
                    };
                    group.hand_over(&self.rx, holders);
                }
                Home::Rdma(handle) if handle.is_local() => handle.leave(),
                _ => {}
            }
            return;
        }
        let unread = self.rx.available(&self.local) != Ok(0);
        let flags = if abort || unread {
            flag::ABORT | flag::CLOSED
        } else {
            flag::CLOSED
        };
        if let (true, Home::Shm(group)) = (made_here, &self.home) {
            group.release_peer(&self.tx);
        }
        self.tx
            .control()
            .tx_flags
            .fetch_or(flags | flag::RELEASED, Ordering::AcqRel);
        match &self.home {
            // A child's copy of the group is not the one that hands out RMBEs.
            Home::Shm(group) if made_here => {
                group.release(&self.rx);
                self.local.arena().give_back(&self.local);
            }
            Home::Shm(_) => {}
            // It goes on until the last byte is delivered, and frees everything then.
            Home::Rdma(_) => self.kick_wire(),
        }
    }

    /// Takes back [`Self::inherited`]: no process got it.
    pub fn not_inherited(&self) {
        self.local.passed_on.fetch_sub(1, Ordering::AcqRel);
        self.local.processes.fetch_sub(1, Ordering::AcqRel);
    }

    /// Another process has the connection, too.
    pub fn inherited(&self) {
        self.local.passed_on.fetch_add(1, Ordering::AcqRel);
        self.local.processes.fetch_add(1, Ordering::AcqRel);
        if let Some(wire) = self.wire() {
            wire.share();
        }
    }

    /// A child gets the connection by the fork of this number.
    pub fn forking(&self, fork: u64) {
        if self.forks.fetch_add(1, Ordering::Relaxed) == 0 {
            self.first_fork.store(fork, Ordering::Relaxed);
        }
        self.inherited();
    }

    /// The fork failed that [`Self::forking`] was called for.
    pub fn not_forked(&self) {
        // It goes on to count as passed on: to nobody who lives.
        self.local.processes.fetch_sub(1, Ordering::AcqRel);
    }
}

//! Who is rung, and when: for bytes that arrive, for space, for edges.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use rustix::io::Errno;

use super::{Smc, bell};
use crate::shm::ring;

impl Smc {
    /// Tells the socket that somebody waits for edges in the kernel: each arrival has to ring.
    pub fn set_edges(&self, on: bool) {
        self.edges.store(on, Ordering::Relaxed);
        if on {
            self.arm();
        }
    }

    /// Whether the kernel says "unwritable", which it may still do when there is space again.
    pub fn is_blocked(&self) -> bool {
        let blocked = if self.plugs() { 1 } else { bell::BLOCKED };
        self.tx.control().bells.load(Ordering::Relaxed) >= blocked
    }

    /// Whether unread packets at the other end are there for nothing but to make ours unwritable:
    /// the wire is called, not rung for, as long as it has no other process to serve.
    fn plugs(&self) -> bool {
        self.wire().is_some() && !self.is_shared()
    }

    /// Makes our end unwritable until the other one drains.
    fn block(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        if self.plugs() {
            // Also if one is counted: whoever takes it out does so before it is counted down, and
            // wakes us in between. A queue that is full takes no second one.
            bell::plug(fd, self.tx.control())
        } else {
            bell::block(fd, self.tx.control(), bell::BLOCKED)
        }
    }

    /// Whether the socket was blocked, and is writable again.
    pub fn was_unblocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) && self.readiness() & libc::POLLOUT != 0
    }

    /// Whoever waited for space knows now that there is some.
    pub fn forget_blocked(&self) {
        if self.blocked.load(Ordering::Relaxed) {
            self.blocked.store(false, Ordering::Relaxed);
        }
    }

    #[inline]
    pub(super) fn arming_level(&self) -> u32 {
        if self.edges.load(Ordering::Relaxed) {
            ring::ALWAYS
        } else {
            ring::ONCE
        }
    }

    /// To be called when the kernel reported the descriptor ready although [`Self::readiness`]
    /// says otherwise: finds a hang-up, or removes bells that mean nothing.
    pub fn recheck(&self, fd: BorrowedFd<'_>) {
        if !self.see_hangup(fd, 0) && self.readable() == Ok(0) {
            let _guard = self.local.rx_lock.lock();
            if self.readable() == Ok(0) {
                bell::drain_all(fd, self.rx.control());
                // A late bell: its writer took the flag down after we had put it up again (for
                // an arrival that was consumed before the bell came). Whoever sleeps next
                // relies on the flag.
                self.rx.arm(&self.local, self.arming_level());
            }
        }
    }

    /// The program wants to sleep until the socket is readable: rings are asked for. False if it
    /// is readable already.
    #[inline]
    pub fn arm(&self) -> bool {
        self.rx.arm(&self.local, self.arming_level()) && !self.see_flags()
    }

    /// The program wants to sleep until the socket is writable. False if it is writable already.
    pub fn arm_writable(&self, fd: BorrowedFd<'_>) -> bool {
        self.tx.wait_for_space();
        self.blocked.store(true, Ordering::Relaxed);
        if self.readiness() & libc::POLLOUT != 0 {
            if !self.is_blocked() {
                let waiting = &self.tx.control().writer_waiting;
                waiting.store(0, Ordering::Relaxed);
            }
            self.kick_wire();
            return false;
        }
        if self.block(fd).is_err() {
            self.see_hangup(fd, 0);
        }
        // Whoever made space in between has seen no packet to take out, perhaps.
        self.tx.wait_for_space();
        if self.readiness() & libc::POLLOUT != 0 {
            // Nobody else may find the end unwritable for long.
            self.kick_wire();
            return false;
        }
        true
    }

    /// Whoever was to be rung looks itself from now on, unless it is one of `others` that
    /// [sleep](Self::sleep_begin).
    fn disarm_unless(&self, others: impl Fn(u32) -> bool) {
        let armed = &self.rx.control().armed;
        armed.store(0, Ordering::SeqCst);
        // Whoever sleeps here, too, is counted before it asks for bells: it does so after this, or
        // is seen.
        if others(self.local.sleepers.load(Ordering::SeqCst)) {
            armed.store(self.arming_level(), Ordering::SeqCst);
        }
    }

    /// For the one that sleeps here, which is counted: it looks itself.
    pub(super) fn disarm(&self) {
        self.disarm_unless(|sleepers| sleepers > 1);
    }

    /// The only epoll set that watches the stream looks itself from now on.
    pub fn disarm_for_set(&self) {
        if !self.edges.load(Ordering::Relaxed) {
            self.disarm_unless(|sleepers| sleepers > 0);
        }
    }

    /// Bells that lie at the program's end.
    #[cfg(test)]
    pub(crate) fn unread_bells(&self) -> u32 {
        self.rx.control().bells.load(Ordering::Relaxed)
    }

    /// Counts this thread among those that sleep until the socket is readable; to be called
    /// before [`Self::arm`].
    pub fn sleep_begin(&self) {
        self.local.sleepers.fetch_add(1, Ordering::SeqCst);
    }

    /// The opposite of [`Self::sleep_begin`].
    pub fn sleep_end(&self) {
        self.local.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

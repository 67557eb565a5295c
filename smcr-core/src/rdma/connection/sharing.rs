//! Program's ends in other processes, which cannot call the wire: they ring.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::Connection;
use crate::conn::bell;

impl Connection {
    /// Another process has the program's end, too: it rings for what it does, since it cannot
    /// call.
    pub(in crate::rdma) fn listen(&self) -> BorrowedFd<'_> {
        self.arm();
        self.end.as_fd()
    }

    /// Has others ring for what they write, as long as there are others.
    fn arm(&self) {
        self.arm_for_others();
        // What they read is told by taking bells out, once there is need for it.
        if self.window() < u64::from(self.in_window.capacity()) / 2 {
            self.inbound.wait_for_space();
            let _ = bell::block(self.end.as_fd(), self.inbound.control(), bell::BLOCKED);
        }
    }

    pub(super) fn arm_for_others(&self) {
        let others = self.app.processes.load(Ordering::Relaxed) > 1;
        if others || self.shared.left.load(Ordering::Relaxed) {
            self.outbound.arm(&self.own, crate::shm::ring::ONCE);
        }
    }

    /// The end rang: takes the bells out and asks for more.
    pub(in crate::rdma) fn answer_bell(&mut self) {
        let control = self.outbound.control();
        bell::drain(self.end.as_fd(), control, u32::MAX);
        self.arm();
        if bell::is_hung_up(self.end.as_fd()) {
            self.hung_up();
        }
    }
}

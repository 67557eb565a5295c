//! Streams that go on in another image of the process, or in a spawned child, after exec.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::smc::{Home, Smc};
use crate::group::LinkGroup;
use crate::shm::{LocalRef, Rx, Tx, flag};

impl Smc {
    /// What the stream is made of.
    pub(crate) fn parts(&self) -> (&Tx, &Rx, &LocalRef) {
        (&self.tx, &self.rx, &self.local)
    }

    /// Puts together a stream from the parts that came over exec, as they are.
    pub(crate) fn adopt(tx: Tx, rx: Rx, local: LocalRef, group: Arc<LinkGroup>) -> Self {
        let prod = local.prod.load(Ordering::Relaxed);
        let mut smc = Self::new(tx, rx, local, Home::Shm(group), prod);
        // As in the child of a fork: the books about this RMBE are somebody else's.
        smc.made_by = usize::MAX;
        // The old image may have left that for later.
        smc.arm();
        smc
    }

    /// `O_NONBLOCK` and `SO_OOBINLINE`, as set before.
    pub(crate) fn modes(&self) -> (bool, bool) {
        let is_set = |word: &std::sync::atomic::AtomicU32| word.load(Ordering::Relaxed) != 0;
        (
            is_set(&self.local.nonblocking),
            is_set(&self.local.oob_inline),
        )
    }

    /// This process is about to execute a program that will not have the connection. If others
    /// have it, they are told; if not, the kernel tells the peer, as when a process is killed.
    /// True if it has to be taken back by [`Self::inherited`] where the exec fails.
    pub fn leave(&self) -> bool {
        let one_less = |now: u32| (now > 1).then(|| now - 1);
        let processes = &self.local.processes;
        processes
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_less)
            .is_ok()
    }
}

/// A connection that was counted for this process, which did not get its descriptor: the last
/// one to go closes.
pub(crate) fn not_arrived(tx: &Tx, rx: &Rx, local: &LocalRef) {
    if local.processes.fetch_sub(1, Ordering::AcqRel) != 1 {
        return;
    }
    let unread = rx.available(local) != Ok(0);
    let abort = if unread { flag::ABORT } else { 0 };
    let flags = flag::CLOSED | flag::RELEASED | abort;
    tx.control().tx_flags.fetch_or(flags, Ordering::AcqRel);
}

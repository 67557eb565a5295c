//! The file under test, and what it stands on.

#[path = "../../../src/shm/cursors.rs"]
#[allow(dead_code, unreachable_pub)]
pub(crate) mod cursors;

pub(crate) mod sync {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}
use sync::{AtomicU32, AtomicU64};

/// As `shm::RmbeControl`, without what no model needs.
#[derive(Debug, Default)]
pub(crate) struct RmbeControl {
    pub(crate) prod: AtomicU64,
    pub(crate) cons: AtomicU64,
    pub(crate) armed: AtomicU32,
    pub(crate) writer_waiting: AtomicU32,
    pub(crate) bells: AtomicU32,
}

/// As `shm::Local`.
#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) prod: AtomicU64,
    pub(crate) peer_cons: AtomicU64,
    pub(crate) cons: AtomicU64,
}

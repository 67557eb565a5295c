//! The shared-memory fabric: both ends of a connection on one host.
//!
//! What a real RMB (RFC 7609 §2.1) is to an RNIC, a sealed memfd is here: each process of a link
//! group owns RMBs, cut into RMBEs, and passes them to its peer, which writes into them. The
//! "RDMA WRITE" is one copy into the peer's ring, the CDC message is a store to a cursor that
//! lies beside the ring.

mod arena;
mod cursors;
mod lock;
mod memory;
pub(crate) mod ring;
mod rmb;

pub use arena::{Arena, Local, LocalRef, MOST_CONNECTIONS};
pub(crate) use lock::forget_thread_id;
pub use lock::{Lock, LockGuard};
pub use memory::{Memory, MemoryError};
pub use ring::{BadCursor, Rx, Tx};
pub use rmb::{Geometry, Rmb, RmbeControl, flag};

/// What the cursors stand on; the models of them have other ones.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

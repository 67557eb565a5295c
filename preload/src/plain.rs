//! A TCP socket that is not a stream of ours: fresh, listening, or on TCP for good.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use smcr_core::Reason;
use smcr_core::rendezvous::names::Presence;
use smcr_core::stat::Slot;

/// What we know of such a socket.
#[derive(Debug)]
pub(crate) struct Plain {
    /// The TTL that the program set, -1 if none.
    ttl: AtomicI32,
    /// An option that SMC cannot serve, if the program used one (an index into `Reason::ALL`,
    /// -1 for none).
    forbidden: AtomicI32,
    listening: AtomicBool,
    /// Another process has it, too (by fork).
    shared: AtomicBool,
    presence: Mutex<Option<Presence>>,
    /// When the port was last announced in vain.
    refused: Mutex<Option<Instant>>,
    /// Its line in the statistics.
    slot: Mutex<Slot>,
}

impl Plain {
    /// A socket of which nothing is known.
    pub(crate) fn new() -> Self {
        Self {
            ttl: AtomicI32::new(-1),
            forbidden: AtomicI32::new(-1),
            listening: AtomicBool::new(false),
            shared: AtomicBool::new(false),
            presence: Mutex::new(None),
            refused: Mutex::new(None),
            slot: Mutex::new(Slot::NONE),
        }
    }

    /// A connection that is on TCP, with its line in the statistics.
    pub(crate) fn connected(slot: Slot) -> Self {
        let plain = Self::new();
        *plain.slot.lock() = slot;
        plain
    }

    pub(crate) fn ttl(&self) -> i32 {
        self.ttl.load(Ordering::Relaxed)
    }

    pub(crate) fn set_ttl(&self, ttl: i32) {
        self.ttl.store(ttl, Ordering::Relaxed);
    }

    /// Why this socket must stay on TCP, if the program did something that says so.
    pub(crate) fn forbidden(&self) -> Option<Reason> {
        let index = self.forbidden.load(Ordering::Relaxed);
        u8::try_from(index).ok().and_then(Reason::from_index)
    }

    pub(crate) fn forbid(&self, reason: Reason) {
        self.forbidden.store(reason as i32, Ordering::Relaxed);
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.shared.load(Ordering::Relaxed)
    }

    pub(crate) fn set_shared(&self) {
        self.shared.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    pub(crate) fn set_listening(&self) {
        self.listening.store(true, Ordering::Relaxed);
    }

    /// Whether the port is to be announced: it is not, and was not tried lately. Another listener
    /// may have the name for a long time, and many connections come meanwhile.
    pub(crate) fn lacks_presence(&self) -> bool {
        const AGAIN: Duration = Duration::from_millis(100);
        self.presence.lock().is_none() && self.refused.lock().is_none_or(|at| at.elapsed() >= AGAIN)
    }

    pub(crate) fn set_presence(&self, presence: Option<Presence>) {
        *self.refused.lock() = presence.is_none().then(Instant::now);
        *self.presence.lock() = presence;
    }

    /// Puts it into the statistics, in place of an older line.
    pub(crate) fn set_slot(&self, slot: Slot) {
        std::mem::replace(&mut *self.slot.lock(), slot).remove();
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.slot.get_mut().remove();
    }
}

//! How a thread of the program waits for its streams: awake for a while, then asleep.

use std::sync::atomic::AtomicU32;

use super::{Smc, spin};
use crate::rdma::Rdma;

/// One wait of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// What has to be looked at, and told when the thread goes to sleep.
    wire: Option<&'static Rdma>,
}

/// A thread sleeps, or is about to, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Asleep(Option<&'static Rdma>);

impl Waiting {
    /// A wait for any of several streams, of which it is not known what carries them.
    pub fn for_any() -> Self {
        let wire = crate::engine::engine().map(crate::engine::Engine::rdma);
        Self {
            wire: wire.filter(|wire| wire.is_in_use()),
        }
    }

    /// A wait for any of these streams.
    pub fn for_one_of<'a>(streams: impl IntoIterator<Item = &'a Smc>) -> Self {
        let mut wires = streams.into_iter().filter_map(|smc| Self::on(smc).wire);
        Self { wire: wires.next() }
    }

    /// A wait for one stream.
    pub(super) fn on(smc: &Smc) -> Self {
        Self {
            wire: smc.wire().map(crate::rdma::Handle::rdma),
        }
    }

    /// Looks at `ready`, and at what adapters have to say, for as long as that pays: see
    /// [`spin::spin`]. Returns whether it became true.
    #[inline]
    pub fn spin(self, budget: &AtomicU32, mut ready: impl FnMut() -> bool) -> bool {
        match self.wire {
            Some(wire) => spin::spin_on_adapter(budget, || {
                wire.poll();
                ready()
            }),
            None => spin::spin(budget, ready),
        }
    }

    /// The thread is going to sleep: from here on the wire rings as the streams ask for it. They
    /// have to be looked at once more before it does.
    pub fn fall_asleep(self) -> Asleep {
        if let Some(wire) = self.wire {
            wire.sleep_begins();
        }
        Asleep(self.wire)
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        if let Some(wire) = self.0 {
            wire.sleep_ends();
        }
    }
}

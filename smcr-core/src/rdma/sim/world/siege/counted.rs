//! What the statistics count of attacks.

use crate::Reason;
use crate::engine::PUBLISHER;

/// See the module's description.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) dropped: u64,
    pub(super) cursors: u64,
    pub(super) links: u64,
    pub(super) reused: u64,
    pub(super) eye_catchers: u64,
}

impl Counted {
    pub(super) fn now() -> Self {
        let links = [Reason::LinkLost, Reason::LinkTimeout, Reason::LinkFailed];
        Self {
            dropped: PUBLISHER.fallbacks(Reason::LlcInvalid),
            cursors: PUBLISHER.fallbacks(Reason::BadCursor),
            links: links.map(|reason| PUBLISHER.fallbacks(reason)).iter().sum(),
            reused: PUBLISHER.fallbacks(Reason::RmbeReused),
            eye_catchers: PUBLISHER.fallbacks(Reason::EyeCatcherLost),
        }
    }

    pub(super) fn since(self, before: &Self) -> Self {
        Self {
            dropped: self.dropped - before.dropped,
            cursors: self.cursors - before.cursors,
            links: self.links - before.links,
            reused: self.reused - before.reused,
            eye_catchers: self.eye_catchers - before.eye_catchers,
        }
    }
}

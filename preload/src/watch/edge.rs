//! What a watcher of a stream is told, and what an edge-triggered one was told already.

use smcr_core::conn::Smc;

/// Reported whether asked for or not.
pub(super) const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;

/// The stream takes more.
pub(super) const WRITABLE: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;

/// What the library answers for.
const OURS: u32 = (libc::EPOLLIN
    | libc::EPOLLOUT
    | libc::EPOLLPRI
    | libc::EPOLLERR
    | libc::EPOLLHUP
    | libc::EPOLLRDHUP
    | libc::EPOLLRDNORM
    | libc::EPOLLWRNORM) as u32;

/// What epoll would say of a stream. (The EPOLL bits are the POLL bits.)
#[inline]
pub(super) fn ready(smc: &Smc, events: u32) -> u32 {
    u32::from(smc.readiness() as u16) & (events & OURS | ALWAYS)
}

/// What an edge-triggered watcher was told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Edge {
    /// How many bytes had arrived.
    arrivals: u64,
    /// The peer's end.
    eof: bool,
    /// An error, or the end of both directions.
    fatal: bool,
    /// Anything since the registration.
    any: bool,
}

impl Edge {
    /// Whether `mask` says something that has to be told to the watcher of `events`: anything, if
    /// it is level-triggered; what TCP would give an edge for, if it is edge-triggered.
    #[inline]
    pub(super) fn is_news(&self, events: u32, smc: &Smc, mask: u32) -> bool {
        if events & libc::EPOLLET as u32 == 0 {
            // Writability alone is the kernel's matter, unless it was made to say otherwise.
            return mask & !WRITABLE != 0 || mask != 0 && smc.is_blocked();
        }
        if mask == 0 {
            return false;
        }
        let (_, consumed) = smc.bytes();
        smc.arrivals() > self.arrivals.max(consumed)
            || !self.eof && smc.readiness() & libc::POLLRDHUP != 0
            || !self.fatal && mask & ALWAYS != 0
            || mask & WRITABLE != 0 && (!self.any || smc.was_unblocked())
    }

    /// The watcher is told `mask`.
    #[inline]
    pub(super) fn told(&mut self, smc: &Smc, mask: u32) {
        *self = Self {
            arrivals: smc.arrivals(),
            eof: smc.readiness() & libc::POLLRDHUP != 0,
            fatal: mask & ALWAYS != 0,
            any: true,
        };
        if mask & WRITABLE != 0 {
            smc.forget_blocked();
        }
    }
}

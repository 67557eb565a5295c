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

/// A stream at one moment. What comes while it is looked at is in the next look at the latest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// How many bytes had arrived, at least.
    arrivals: u64,
    readiness: i16,
}

impl Look {
    #[inline]
    pub(super) fn at(smc: &Smc) -> Self {
        // In this order: bytes that are counted are reported, too.
        let arrivals = smc.arrivals();
        Self {
            arrivals,
            readiness: smc.readiness(),
        }
    }

    /// What epoll would say to the watcher of `events`. (The EPOLL bits are the POLL bits.)
    #[inline]
    pub(super) fn mask(self, events: u32) -> u32 {
        u32::from(self.readiness as u16) & (events & OURS | ALWAYS)
    }

    /// Whether the peer's end has been reached, or reading is over.
    #[inline]
    pub(super) fn is_eof(self) -> bool {
        self.readiness & libc::POLLRDHUP != 0
    }
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
    /// Whether `look` has something that has to be told to the watcher of `events`: anything, if it
    /// is level-triggered; what TCP would give an edge for, if it is edge-triggered.
    #[inline]
    pub(super) fn is_news(&self, events: u32, smc: &Smc, look: Look) -> bool {
        let mask = look.mask(events);
        if events & libc::EPOLLET as u32 == 0 {
            // Writability alone is the kernel's matter, unless it was made to say otherwise.
            return mask & !WRITABLE != 0 || mask != 0 && smc.is_blocked();
        }
        if mask == 0 {
            return false;
        }
        let (_, consumed) = smc.bytes();
        look.arrivals > self.arrivals.max(consumed)
            || !self.eof && look.is_eof()
            || !self.fatal && mask & ALWAYS != 0
            || mask & WRITABLE != 0 && (!self.any || smc.was_unblocked())
    }

    /// The watcher of `events` is told what `look` has for it.
    #[inline]
    pub(super) fn told(&mut self, events: u32, smc: &Smc, look: Look) {
        let mask = look.mask(events);
        *self = Self {
            arrivals: look.arrivals,
            eof: look.is_eof(),
            fatal: mask & ALWAYS != 0,
            any: true,
        };
        if mask & WRITABLE != 0 {
            smc.forget_blocked();
        }
    }
}

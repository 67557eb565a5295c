//! Watching streams: epoll, poll and select.
//!
//! The kernel reports the right readiness for a stream's descriptor as long as the peer rings for
//! each arrival. That costs the peer a system call per message, so the hooks of this module look
//! at the rings themselves and ask for bells (*arm*) only when they are about to sleep in the
//! kernel. A socket that is watched in ways we do not see, or by several threads, stays armed.

mod correct;
mod edge;
pub(crate) mod epoll;
mod pending;
pub(crate) mod poll;
pub(crate) mod select;
pub(crate) mod set;

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering};

use smcr_core::conn::{Arming, Smc};

use crate::stream::StreamRef;
use set::Set;

/// How one stream is watched.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// The one epoll set that looks at this stream's ring itself, null if none does.
    looker: AtomicPtr<Set>,
    /// The descriptor it knows the stream by.
    looker_fd: AtomicI32,
    /// The looker knows that the ring was left empty and unarmed.
    pub(crate) in_hot: AtomicBool,
    /// A hooked poll or select watched it: it arms before it sleeps.
    polled: AtomicBool,
    /// The program wants SIGIO: every arrival has to reach the kernel.
    signals: AtomicBool,
    /// Epoll sets that watch it.
    registrations: AtomicU32,
}

impl Watch {
    /// Who arms after a receive.
    #[inline]
    pub(crate) fn arming(&self, smc: &Smc, nonblocking: bool) -> Arming {
        let registrations = self.registrations.load(Ordering::Relaxed);
        let later = if self.is_for_others(smc) {
            false
        } else if registrations > 0 {
            // With a thread of the set asleep in the kernel, arrivals have to ring.
            self.looker().is_some_and(|set| !set.has_sleepers())
        } else {
            // A blocking socket is waited for in its own calls, which arm.
            !nonblocking || self.polled.load(Ordering::Relaxed)
        };
        if later { Arming::Later } else { Arming::Now }
    }

    /// Whether arrivals have to ring for somebody whom we do not see: another process, or who wants
    /// SIGIO.
    #[inline]
    pub(crate) fn is_for_others(&self, smc: &Smc) -> bool {
        self.signals.load(Ordering::Relaxed) || smc.is_shared()
    }

    /// O_ASYNC was set or cleared.
    pub(crate) fn set_signals(&self, on: bool) {
        self.signals.store(on, Ordering::Relaxed);
    }

    /// A hooked poll or select watches the stream.
    #[inline]
    pub(crate) fn set_polled(&self) {
        if !self.polled.load(Ordering::Relaxed) {
            self.polled.store(true, Ordering::Relaxed);
        }
    }

    /// The ring was left empty and nobody asked for bells: the looker will, before it sleeps.
    #[inline]
    pub(crate) fn left_unarmed(&self, stream: &StreamRef, smc: &Smc) {
        if let Some(set) = self.looker()
            && !self.in_hot.load(Ordering::Relaxed)
        {
            set.make_hot(stream, smc, self.looker_fd.load(Ordering::Relaxed));
        }
    }

    /// One more epoll set watches it (`looker`: this one can look at the ring itself).
    pub(crate) fn registered(&self, looker: Option<(&'static Set, RawFd)>, smc: Option<&Smc>) {
        let before = self.registrations.fetch_add(1, Ordering::Relaxed);
        let looker = if before == 0 { looker } else { None };
        self.set_looker(looker, smc);
    }

    /// Whether an epoll set watches it.
    pub(crate) fn is_registered(&self) -> bool {
        self.registrations.load(Ordering::Relaxed) > 0
    }

    /// The registration in one of the sets changed.
    pub(crate) fn reregistered(&self, looker: Option<(&'static Set, RawFd)>, smc: Option<&Smc>) {
        let only = self.registrations.load(Ordering::Relaxed) == 1;
        self.set_looker(if only { looker } else { None }, smc);
    }

    /// One epoll set less watches it. The looker keeps looking if it is the one, since programs
    /// that take a descriptor out of a set often put it back; and whoever watched it by a hooked
    /// function once will again.
    pub(crate) fn unregistered(&self, smc: Option<&Smc>) {
        self.registrations.fetch_sub(1, Ordering::Relaxed);
        self.polled.store(true, Ordering::Relaxed);
        if self.registrations.load(Ordering::Relaxed) > 0 {
            self.set_looker(None, smc);
        }
    }

    /// The descriptor that the looker knows is closed, or the looker is.
    pub(crate) fn forget_looker(&self) {
        self.looker.store(std::ptr::null_mut(), Ordering::Release);
        self.in_hot.store(false, Ordering::Relaxed);
    }

    /// The registration changed.
    pub(crate) fn set_looker(&self, looker: Option<(&'static Set, RawFd)>, smc: Option<&Smc>) {
        let old_fd = self.looker_fd.load(Ordering::Relaxed);
        let old = self.looker();
        let new = looker.map_or(std::ptr::null_mut(), |(set, fd)| {
            self.looker_fd.store(fd, Ordering::Relaxed);
            std::ptr::from_ref(set).cast_mut()
        });
        if std::ptr::eq(new, self.looker.load(Ordering::Relaxed)) && !new.is_null() {
            return;
        }
        self.looker.store(new, Ordering::Release);
        if let Some(set) = old {
            set.cool(old_fd);
        }
        self.in_hot.store(false, Ordering::Relaxed);
        if let (true, Some(smc)) = (new.is_null(), smc) {
            smc.arm();
        }
    }

    /// The set that looks at the ring.
    #[inline]
    pub(crate) fn looker(&self) -> Option<&'static Set> {
        // SAFETY: null, or a set: they are never freed.
        unsafe { self.looker.load(Ordering::Acquire).as_ref() }
    }
}

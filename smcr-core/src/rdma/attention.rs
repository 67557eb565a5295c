//! Who sees what the adapters have to say: the thread, which they wake, or programs that look
//! themselves.
//!
//! An adapter that wakes the thread costs an interrupt, two changes of context and three system
//! calls for each message. While programs find everything themselves because they wait awake, it is
//! not asked to; the thread looks at its ports now and then, in case they stop looking. Whoever
//! goes to sleep has it asked again.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::Rdma;

/// How long what comes may lie there if programs stop looking without going to sleep.
pub(crate) const GLANCE: Duration = Duration::from_micros(500);

/// So many times in a row have programs to find something before they are relied upon.
const ENOUGH: u32 = 16;

/// So many times between two glances, afterwards.
const STILL_ENOUGH: u32 = 4;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Attention {
    /// The adapters were asked to wake the thread, and it has not been woken since.
    asked: AtomicBool,
    /// Threads of programs that are about to sleep until something comes, or do.
    sleepers: AtomicU32,
    /// How often programs have found something since one of them slept, or since the last glance.
    found: AtomicU32,
    /// Programs are relied upon; the thread only glances.
    relies: AtomicBool,
    /// There are connections, or were.
    in_use: AtomicBool,
}

impl Attention {
    pub(super) const fn new() -> Self {
        Self {
            asked: AtomicBool::new(true),
            sleepers: AtomicU32::new(0),
            found: AtomicU32::new(0),
            relies: AtomicBool::new(false),
            in_use: AtomicBool::new(false),
        }
    }

    /// A connection begins.
    pub(super) fn begin(&self) {
        self.in_use.store(true, Ordering::Relaxed);
    }

    /// A program found something. (That one gets lost where two do at a time does not matter.)
    pub(super) fn found(&self) {
        let found = self.found.load(Ordering::Relaxed);
        self.found.store(found.saturating_add(1), Ordering::Relaxed);
    }
}

impl Rdma {
    /// Whether there is, or was, any connection over RDMA in this process.
    #[inline]
    pub(crate) fn is_in_use(&self) -> bool {
        self.attention.in_use.load(Ordering::Relaxed)
    }

    /// For the thread: an adapter has woken it, and has to be asked again.
    pub(crate) fn woken(&self) {
        self.attention.asked.store(false, Ordering::SeqCst);
    }

    /// For the thread, before it [looks](Self::look_after): asks the adapters to wake it, unless
    /// programs do without. If they do, the thread has to look again after a [`GLANCE`].
    pub(crate) fn ask_adapters(&self) {
        let attention = &self.attention;
        if attention.asked.load(Ordering::Relaxed) {
            return;
        }
        let enough = if attention.relies.load(Ordering::Relaxed) {
            STILL_ENOUGH
        } else {
            ENOUGH
        };
        // `asked` is down already: either the sleeper is seen here, or it sees that and wakes us.
        let relies = attention.found.load(Ordering::Relaxed) >= enough
            && attention.sleepers.load(Ordering::SeqCst) == 0;
        attention.relies.store(relies, Ordering::Relaxed);
        if relies {
            attention.found.store(0, Ordering::Relaxed);
            return;
        }
        for port in self.ports_from(0).iter().flatten() {
            port.arm();
        }
        // What completed before is found by the look that follows.
        attention.asked.store(true, Ordering::SeqCst);
    }

    /// How soon the thread has to look again, because nobody else may.
    pub(crate) fn next_glance(&self) -> Option<Duration> {
        let asked = self.attention.asked.load(Ordering::Relaxed);
        (!asked).then_some(GLANCE)
    }

    /// A thread of the program's goes to sleep, unless the look at its rings that has to follow
    /// finds something: from here on it is rung for whatever comes.
    pub(crate) fn sleep_begins(&self) {
        let attention = &self.attention;
        attention.sleepers.fetch_add(1, Ordering::SeqCst);
        attention.found.store(0, Ordering::Relaxed);
        // Either it is seen here that nobody wakes the thread, or the thread sees the sleeper.
        if !attention.asked.load(Ordering::SeqCst) {
            let _ = rustix::io::write(self.wake.as_fd(), &1u64.to_ne_bytes());
        }
    }

    /// The opposite of [`Self::sleep_begins`].
    pub(crate) fn sleep_ends(&self) {
        self.attention.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

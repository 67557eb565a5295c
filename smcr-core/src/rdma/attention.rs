//! Who sees what the adapters have to say: the thread, which they wake, or programs that look
//! themselves.
//!
//! An adapter that wakes the thread costs an interrupt, two changes of context and three system
//! calls for each message. While programs find everything themselves because they wait awake, it is
//! not asked to; the thread looks at its ports now and then, in case they stop looking. Whoever
//! goes to sleep has it asked again.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::Rdma;

/// How long what comes may lie there if programs stop looking without going to sleep.
pub(crate) const GLANCE: Duration = Duration::from_micros(500);

/// So many times in a row have programs to find something before they are relied upon.
const ENOUGH: u32 = 16;

/// So many times between two glances, afterwards.
const STILL_ENOUGH: u32 = 4;

/// The adapters were asked to wake the thread, and have not done so since.
const ASKED: u32 = 0;
/// The thread is awake and will decide.
const OPEN: u32 = 1;
/// Programs are relied upon, and the thread only glances.
const RELIED: u32 = 2;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Attention {
    /// One of the three above. Only the thread changes it.
    whose: AtomicU32,
    /// Threads of programs that are about to sleep until something comes, or do.
    sleepers: AtomicU32,
    /// How often programs have found something since one of them slept, or since the last glance.
    found: AtomicU32,
    /// There are connections, or were.
    in_use: AtomicBool,
}

impl Attention {
    pub(super) const fn new() -> Self {
        Self {
            whose: AtomicU32::new(ASKED),
            sleepers: AtomicU32::new(0),
            found: AtomicU32::new(0),
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

    /// Threads of programs that sleep, or are about to.
    pub(super) fn sleepers(&self) -> u32 {
        self.sleepers.load(Ordering::Relaxed)
    }

    /// Whether the sleeper that was counted just now may sleep without waking the thread.
    fn lets_sleep(&self) -> bool {
        // Either it is seen here that nobody wakes the thread, or the thread, which says so before
        // it looks for sleepers, sees this one.
        self.whose.load(Ordering::SeqCst) != RELIED
    }

    /// For the thread: whether it may leave everything to programs.
    fn rely(&self) -> bool {
        let enough = match self.whose.load(Ordering::Relaxed) {
            RELIED => STILL_ENOUGH,
            _ => ENOUGH,
        };
        if self.found.load(Ordering::Relaxed) < enough {
            return false;
        }
        self.whose.store(RELIED, Ordering::SeqCst);
        // See `lets_sleep`.
        let relies = self.sleepers.load(Ordering::SeqCst) == 0;
        if relies {
            self.found.store(0, Ordering::Relaxed);
        }
        relies
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
        self.attention.whose.store(OPEN, Ordering::Relaxed);
    }

    /// For the thread: asks the adapters to wake it, if need be. True if it did, and has to poll
    /// once more. Where programs do without, it has to look again after a [`GLANCE`].
    pub(super) fn ask_adapters(&self) -> bool {
        let attention = &self.attention;
        if attention.whose.load(Ordering::Relaxed) == ASKED || attention.rely() {
            return false;
        }
        for port in self.ports_from(0).iter().flatten() {
            port.arm();
        }
        attention.whose.store(ASKED, Ordering::SeqCst);
        true
    }

    /// How soon the thread has to look again, because nobody else may.
    pub(crate) fn next_glance(&self) -> Option<Duration> {
        let is_relied = self.attention.whose.load(Ordering::Relaxed) == RELIED;
        is_relied.then_some(GLANCE)
    }

    /// A thread of the program's goes to sleep, unless the look at its rings that has to follow
    /// finds something: from here on it is rung for whatever comes.
    pub(crate) fn sleep_begins(&self) {
        let attention = &self.attention;
        attention.sleepers.fetch_add(1, Ordering::SeqCst);
        attention.found.store(0, Ordering::Relaxed);
        if !attention.lets_sleep() {
            self.wake();
        }
    }

    /// The opposite of [`Self::sleep_begins`].
    pub(crate) fn sleep_ends(&self) {
        self.attention.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::{Attention, ENOUGH, OPEN, STILL_ENOUGH};

    #[test]
    fn programs_are_relied_upon_while_they_find_things_and_nobody_sleeps() {
        let attention = Attention::new();
        assert!(attention.lets_sleep());
        attention.whose.store(OPEN, Ordering::Relaxed);
        for _ in 1..ENOUGH {
            attention.found();
        }
        assert!(!attention.rely(), "too little");
        attention.found();
        assert!(attention.rely());
        assert!(!attention.lets_sleep(), "the thread has to be woken");
        // A glance later.
        for _ in 0..STILL_ENOUGH {
            attention.found();
        }
        assert!(attention.rely());
        assert!(!attention.rely(), "nobody looked since");

        for _ in 0..ENOUGH {
            attention.found();
        }
        attention.sleepers.fetch_add(1, Ordering::SeqCst);
        assert!(!attention.rely(), "somebody sleeps");
    }

    /// A program goes to sleep while the thread decides: one of the two notices.
    #[test]
    fn nobody_sleeps_unseen() {
        let attention = Attention::new();
        for _ in 0..2000 {
            attention.whose.store(OPEN, Ordering::SeqCst);
            attention.sleepers.store(0, Ordering::SeqCst);
            attention.found.store(ENOUGH, Ordering::SeqCst);
            let (relies, lets) = std::thread::scope(|scope| {
                let decides = scope.spawn(|| attention.rely());
                attention.sleepers.fetch_add(1, Ordering::SeqCst);
                let lets = attention.lets_sleep();
                (decides.join().unwrap(), lets)
            });
            assert!(!(relies && lets), "asleep, and nobody wakes the thread");
        }
    }
}

//! A lock whose waiters soon go to sleep.
//!
//! For what is held while system calls are made. A waiter that yields its processor in the hope of
//! getting the lock soon (as `parking_lot`'s do, eight times or so) makes a system call and perhaps
//! a switch of tasks each time, and the holder gets no further if it is the one that has to run.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::lock_api::{self, GuardSend, RawMutex};

use crate::sys;

/// A value under such a lock.
pub(crate) type Mutex<T> = lock_api::Mutex<Raw, T>;
/// Releases it when dropped.
pub(crate) type MutexGuard<'a, T> = lock_api::MutexGuard<'a, Raw, T>;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may sleep.
const WANTED: u32 = 2;

/// Looks at a lock that is held before sleeping: the holder may run on another processor, and be
/// done in a moment.
const LOOKS: u32 = 100;

/// How long to sleep at most before looking again, in ms. Every release wakes a sleeper; this
/// bounds what a fault in that would cost.
const SLEEP_MS: u32 = 1000;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Raw(AtomicU32);

impl Raw {
    #[cold]
    fn lock_slow(&self) {
        for _ in 0..LOOKS {
            if self.try_lock() {
                return;
            }
            std::hint::spin_loop();
        }
        // Whoever was not the first to sleep cannot know of others: it says that there are some.
        while self.0.swap(WANTED, Ordering::Acquire) != FREE {
            sys::futex_wait(&self.0, WANTED, SLEEP_MS);
        }
    }
}

// SAFETY: only one thread at a time finds FREE and makes it something else, and it alone makes it
// FREE again.
unsafe impl RawMutex for Raw {
    // A lock that is made anew for each value.
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicU32::new(FREE));

    type GuardMarker = GuardSend;

    #[inline]
    fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow();
        }
    }

    #[inline]
    fn try_lock(&self) -> bool {
        self.0
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    #[inline]
    unsafe fn unlock(&self) {
        if self.0.swap(FREE, Ordering::Release) == WANTED {
            sys::futex_wake(&self.0, 1);
        }
    }

    #[inline]
    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != FREE
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Mutex;

    #[test]
    fn one_at_a_time() {
        let count = Mutex::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let seen = *count.lock();
                        let mut guard = count.lock();
                        *guard = seen.max(*guard) + 1;
                    }
                });
            }
        });
        assert_eq!(*count.lock(), 80_000);
    }

    #[test]
    fn all_sleepers_get_it() {
        let count = Mutex::new(0);
        let guard = count.lock();
        assert!(count.try_lock().is_none());
        std::thread::scope(|scope| {
            let mut guard = guard;
            let sleepers: Vec<_> = (0..3).map(|_| scope.spawn(|| *count.lock() += 1)).collect();
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(*guard, 0);
            *guard = 10;
            drop(guard);
            let began = std::time::Instant::now();
            for sleeper in sleepers {
                sleeper.join().unwrap();
            }
            assert!(
                began.elapsed() < Duration::from_millis(900),
                "nobody woke them"
            );
        });
        assert_eq!(*count.lock(), 13);
    }
}

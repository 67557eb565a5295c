//! A lock that works between the processes of a fork family and survives the death of its holder.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys;

/// A lock in shared memory: 0 when free, else the holder's thread id, with the highest bit set
/// when somebody sleeps.
///
/// It is held only for copies, never while waiting for a peer. A holder that was killed is
/// noticed by its thread id, and the lock taken over: what it guards is consistent at any moment,
/// since a cursor moves only after the bytes it covers are in place.
#[derive(Debug)]
#[repr(transparent)]
pub struct Lock(AtomicU32);

const WAITERS: u32 = 1 << 31;

thread_local! {
    static TID: Cell<u32> = const { Cell::new(0) };
}

/// The calling thread's id, cached.
fn tid() -> u32 {
    TID.with(|cell| {
        if cell.get() == 0 {
            cell.set(sys::gettid());
        }
        cell.get()
    })
}

/// To be called in the child after a fork: the cached thread id is the parent's.
pub(crate) fn forget_thread_id() {
    TID.with(|cell| cell.set(0));
}

/// Releases the lock when dropped.
#[derive(Debug)]
pub struct LockGuard<'a>(&'a Lock);

impl Lock {
    /// A free lock.
    pub const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Takes the lock. `None` if this very thread holds it already, which happens only in a
    /// signal handler that interrupted the holder: waiting would be for ever.
    #[inline]
    pub fn lock(&self) -> Option<LockGuard<'_>> {
        let me = tid();
        if self
            .0
            .compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
        {
            return Some(LockGuard(self));
        }
        self.lock_slow(me)
    }

    #[cold]
    fn lock_slow(&self, me: u32) -> Option<LockGuard<'_>> {
        for round in 0u32.. {
            let seen = self.0.load(Ordering::Relaxed);
            let holder = seen & !WAITERS;
            if holder == 0 {
                // Others may sleep that we do not know of: keep the bit.
                let mine = if round > 100 {
                    me | WAITERS
                } else {
                    me | (seen & WAITERS)
                };
                if self
                    .0
                    .compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
                {
                    return Some(LockGuard(self));
                }
            } else if holder == me {
                return None;
            } else if round <= 100 {
                std::hint::spin_loop();
            } else {
                let marked = holder | WAITERS;
                if seen == marked
                    || self
                        .0
                        .compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed)
                        .is_ok()
                {
                    sys::futex_wait(&self.0, marked, 50);
                    if self.0.load(Ordering::Relaxed) == marked && !sys::thread_exists(holder) {
                        let stolen = me | WAITERS;
                        if self
                            .0
                            .compare_exchange(marked, stolen, Ordering::Acquire, Ordering::Relaxed)
                            .is_ok()
                        {
                            return Some(LockGuard(self));
                        }
                    }
                }
            }
        }
        None
    }
}

impl Default for Lock {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.0.0.swap(0, Ordering::Release) & WAITERS != 0 {
            sys::futex_wake(&self.0.0, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Lock;

    #[test]
    fn excludes_other_threads_and_refuses_its_own() {
        let lock = Lock::new();
        let count = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let _guard = lock.lock().unwrap();
                        let seen = count.load(Ordering::Relaxed);
                        count.store(seen + 1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 40_000);
        let _guard = lock.lock().unwrap();
        assert!(lock.lock().is_none());
    }

    #[test]
    fn a_dead_holder_is_replaced() {
        let lock = Lock(AtomicU32::new(0x3fff_ffff)); // above every possible thread id
        drop(lock.lock().unwrap());
        assert!(lock.lock().is_some());
    }
}

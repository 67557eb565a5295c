//! Waiting awake, for as long as it pays.
//!
//! Going to sleep and being woken costs some 50 us; a peer that is awake answers in one. So a
//! thread looks at the ring for a while before it sleeps. How long is learnt per connection: a
//! spin that found nothing halves the next one, a sleep that turned out to be short restores it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::engine::PUBLISHER;
use crate::stat::Counter;

/// The longest spin, in ns (set from the configuration).
static LONGEST_NS: AtomicU32 = AtomicU32::new(50_000);

/// How often to look before the time is taken. Some hundred nanoseconds.
const AT_ONCE: u32 = 1000;

/// Sets the longest spin; zero: never spin.
pub fn set_longest(time: Duration) {
    LONGEST_NS.store(time.as_nanos().min(10_000_000) as u32, Ordering::Relaxed);
}

/// Looks at `ready` until it is true or the time in `budget` (ns, 0 = not learnt yet) is over.
/// Returns whether it became true.
#[inline]
pub fn spin(budget: &AtomicU32, mut ready: impl FnMut() -> bool) -> bool {
    // An answer that is on its way already costs no clock, and no pause either: that instruction
    // alone takes as long as half a round trip.
    for _ in 0..AT_ONCE {
        if ready() {
            return true;
        }
    }
    let longest = LONGEST_NS.load(Ordering::Relaxed);
    let learnt = budget.load(Ordering::Relaxed);
    let time = if learnt == 0 {
        longest
    } else {
        learnt.min(longest)
    };
    if time <= longest / 32 {
        // Lately this never paid.
        return false;
    }
    let start = Instant::now();
    for round in 1u32.. {
        for _ in 0..16 {
            if ready() {
                budget.store(longest, Ordering::Relaxed);
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed().as_nanos() >= u128::from(time) {
            break;
        }
        if round % 8 == 0 {
            // Somebody else may need this core, perhaps the peer that we wait for.
            rustix::thread::sched_yield();
        }
    }
    budget.store((time / 2).max(1), Ordering::Relaxed);
    false
}

/// To be told that the calling thread goes to sleep in the kernel.
#[cold]
pub fn sleeps() {
    PUBLISHER.count(Counter::Sleeps);
}

/// To be told how long a sleep was that followed a spin: a short one should have been a spin.
pub fn slept(budget: &AtomicU32, time: Duration) {
    let longest = LONGEST_NS.load(Ordering::Relaxed);
    if time.as_nanos() < u128::from(longest) * 2 {
        budget.store(longest, Ordering::Relaxed);
    }
}

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
    spin_by_the_clock(budget, 16, ready)
}

/// The same where a look is no glance at memory, but asks an adapter: the time counts from the
/// first one on, or a thousand of them would take longer than any budget.
pub fn spin_on_adapter(budget: &AtomicU32, mut ready: impl FnMut() -> bool) -> bool {
    ready() || spin_by_the_clock(budget, 1, ready)
}

/// Looks so many times between two glances at the clock.
#[inline]
fn spin_by_the_clock(budget: &AtomicU32, looks: u32, mut ready: impl FnMut() -> bool) -> bool {
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
        for _ in 0..looks {
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    use super::{spin, spin_on_adapter};

    /// A look that takes as long as one at an adapter.
    fn slow(looks: &mut u32) -> bool {
        let end = Instant::now() + Duration::from_micros(20);
        while Instant::now() < end {}
        *looks += 1;
        false
    }

    #[test]
    fn slow_looks_keep_to_the_budget() {
        let budget = AtomicU32::new(0);
        let mut looks = 0;
        assert!(!spin_on_adapter(&budget, || slow(&mut looks)));
        // 50 us, and what the last one takes beyond them.
        assert!((2..=4).contains(&looks), "{looks} looks");
        // Once it is learnt that waiting awake does not pay, one look is left.
        budget.store(1, std::sync::atomic::Ordering::Relaxed);
        let mut looks = 0;
        assert!(!spin_on_adapter(&budget, || slow(&mut looks)));
        assert_eq!(looks, 1);
    }

    #[test]
    fn the_first_look_is_enough() {
        let budget = AtomicU32::new(0);
        assert!(spin(&budget, || true) && spin_on_adapter(&budget, || true));
    }
}

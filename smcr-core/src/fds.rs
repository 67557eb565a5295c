//! Where the library keeps its own descriptors: high up, out of the program's way.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The lowest number for our own descriptors; 0 until [`reserve`] chose one.
static BASE: AtomicI32 = AtomicI32::new(0);

/// The highest number, and one more, of which we remember whether it is ours.
const NUMBERS: usize = 1 << 21;

/// The numbers that are ours, a bit each. Programs close what they did not open: all numbers from 3
/// on, or those that `/proc/self/fd` lists.
static OWN: [AtomicU64; NUMBERS / 64] = [const { AtomicU64::new(0) }; NUMBERS / 64];

/// The lowest and the highest number that ever was ours, between which to look.
static LOWEST: AtomicI32 = AtomicI32::new(RawFd::MAX);
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

/// Where there is no room above the program's range we have its upper part, from here on at the
/// latest: the kernel's table of descriptors, which each fork copies, is as long as the highest
/// number.
const SHARED_FROM: u64 = 1 << 14;

/// What the program was allowed before we made room, in descriptors.
static PROGRAM_LIMIT: AtomicI32 = AtomicI32::new(i32::MAX);

/// The same as the program set it, which may be more than anybody can have.
static PROGRAM_SOFT: AtomicU64 = AtomicU64::new(0);

/// The soft limit that we gave the process, if the program's is in `PROGRAM_SOFT`; else 0.
static RAISED: AtomicU64 = AtomicU64::new(0);

/// Whether few numbers are left for us; see [`are_short`].
static SHORT: AtomicBool = AtomicBool::new(false);

/// How the numbers are shared out between the program and us.
struct Share {
    /// The soft limit, as far as it matters.
    soft: u64,
    /// The soft limit with room for us.
    wanted: u64,
    /// Whether the hard limit leaves that room.
    has_room: bool,
}

fn share(soft: Option<u64>, hard: Option<u64>) -> Share {
    let soft = soft.unwrap_or(1 << 20).min(1 << 20);
    let hard = hard.unwrap_or(1 << 21).min(1 << 21);
    // Two for each connection: the program's own number and the TCP socket behind it. More for
    // RMBs (one for 64 connections, and the peer's) and while handshakes are pending.
    let wanted = (soft * 2 + soft / 8 + 256).min(hard);
    Share {
        soft,
        wanted,
        has_room: wanted >= soft + 64,
    }
}

/// Makes room for our descriptors above the program's own soft limit, so that the program can
/// still open as many as before and sees the same numbers as before. Call once, early.
///
/// Returns false where the hard limit leaves too little room.
pub fn reserve() -> bool {
    if BASE.load(Ordering::Relaxed) != 0 {
        return true;
    }
    let limit = getrlimit(Resource::Nofile);
    let Share {
        soft,
        wanted,
        has_room,
    } = share(limit.current, limit.maximum);
    if !has_room {
        // No room above: share the program's range, from its upper end.
        PROGRAM_LIMIT.store(soft as RawFd, Ordering::Relaxed);
        BASE.store(
            (soft / 2).clamp(64, SHARED_FROM) as RawFd,
            Ordering::Relaxed,
        );
        return soft >= 256;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        return false;
    }
    PROGRAM_SOFT.store(limit.current.unwrap_or(u64::MAX), Ordering::Relaxed);
    RAISED.store(wanted, Ordering::Relaxed);
    PROGRAM_LIMIT.store(soft as RawFd, Ordering::Relaxed);
    BASE.store(soft as RawFd, Ordering::Relaxed);
    true
}

/// The word and the bit that remember a number.
fn bit(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let number = usize::try_from(fd).ok()?;
    Some((OWN.get(number / 64)?, 1 << (number % 64)))
}

/// Notes that a new descriptor is ours.
fn remember(fd: &OwnedFd) {
    let fd = fd.as_raw_fd();
    if let Some((word, bit)) = bit(fd) {
        word.fetch_or(bit, Ordering::Relaxed);
        LOWEST.fetch_min(fd, Ordering::Relaxed);
        HIGHEST.fetch_max(fd, Ordering::Relaxed);
    }
}

/// Whether a descriptor is one of ours that went up: the program does not know of it.
#[inline]
pub fn is_own(fd: RawFd) -> bool {
    bit(fd).is_some_and(|(word, bit)| word.load(Ordering::Relaxed) & bit != 0)
}

/// To be called before one of ours is closed, or left to somebody else.
#[inline]
pub fn forget(fd: RawFd) {
    if is_own(fd)
        && let Some((word, bit)) = bit(fd)
    {
        word.fetch_and(!bit, Ordering::Relaxed);
    }
}

/// The lowest number from `first` on that is ours.
pub fn next_own(first: u32) -> Option<u32> {
    let lowest = LOWEST.load(Ordering::Relaxed);
    let first = first.max(lowest as u32);
    let words = first as usize / 64..=usize::try_from(HIGHEST.load(Ordering::Relaxed)).ok()? / 64;
    words.into_iter().find_map(|index| {
        // Of the first word, not what is below.
        let skipped = (first as usize).saturating_sub(index * 64);
        let word = OWN.get(index)?.load(Ordering::Relaxed) & u64::MAX << skipped;
        (word != 0).then(|| index as u32 * 64 + word.trailing_zeros())
    })
}

/// The soft limit of open descriptors as the program set it.
pub fn program_limit() -> RawFd {
    PROGRAM_LIMIT.load(Ordering::Relaxed)
}

/// The soft limit as the program set it, to be shown to it, if the process has another one:
/// `u64::MAX` for no limit.
pub fn shown_limit() -> Option<u64> {
    let raised = RAISED.load(Ordering::Relaxed) != 0;
    raised.then(|| PROGRAM_SOFT.load(Ordering::Relaxed))
}

/// Whether a soft limit is the one that we gave the process.
pub fn is_raised(soft: u64) -> bool {
    RAISED.load(Ordering::Relaxed) == soft
}

/// The program asks for new limits, while the process has ours. Returns the soft limit to ask
/// the kernel for in the place of `soft`; [`limits_set`] has to be told if it agreed.
pub fn limits_asked(soft: u64, hard: u64) -> u64 {
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    let share = share(finite(soft), finite(hard));
    let old = getrlimit(Resource::Nofile).current.unwrap_or(1 << 21);
    // What is open above stays open; only where the hard limit forbids it there will be no more.
    share
        .wanted
        .max(old.min(hard))
        .max(soft.min(share.soft))
        .min(hard)
}

/// The kernel agreed to `asked`, which [`limits_asked`] said.
pub fn limits_set(soft: u64, hard: u64, asked: u64) {
    RAISED.store(asked, Ordering::Relaxed);
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    let share = share(finite(soft), finite(hard));
    PROGRAM_SOFT.store(soft, Ordering::Relaxed);
    PROGRAM_LIMIT.store(share.soft as RawFd, Ordering::Relaxed);
    if share.has_room {
        // Never downwards: the program may have descriptors there.
        BASE.fetch_max(share.soft as RawFd, Ordering::Relaxed);
    }
}

/// The program set its soft limit while it is the process's own.
pub fn limit_set(soft: u64) {
    if BASE.load(Ordering::Relaxed) == 0 {
        return;
    }
    PROGRAM_LIMIT.store(soft.min(1 << 20) as RawFd, Ordering::Relaxed);
    // There was no room above; with a lower limit there may be, and what we have is out of reach.
    BASE.store(0, Ordering::Relaxed);
    reserve();
}

/// Gives the process the soft limit that the program set, until the value is dropped: what it
/// executes takes it from there.
#[derive(Debug)]
pub struct ProgramLimit(Option<Rlimit>);

impl ProgramLimit {
    /// Leaves everything as it is.
    pub fn none() -> Self {
        Self(None)
    }

    /// See the type.
    pub fn restore() -> Self {
        let Some(soft) = shown_limit() else {
            return Self(None);
        };
        let ours = getrlimit(Resource::Nofile);
        if ours.current != Some(RAISED.load(Ordering::Relaxed)) {
            // A vfork child that set its own.
            return Self(None);
        }
        let current = (soft != u64::MAX).then_some(soft);
        let program = Rlimit { current, ..ours };
        Self(setrlimit(Resource::Nofile, program).is_ok().then_some(ours))
    }
}

impl Drop for ProgramLimit {
    fn drop(&mut self) {
        if let Some(ours) = self.0.take() {
            let _ = setrlimit(Resource::Nofile, ours);
        }
    }
}

/// The number under which a handover (see `engine::handover`) passes exec: both images can tell
/// it from the limits that the program set, and nobody else uses it.
pub fn handover_number() -> RawFd {
    let limit = getrlimit(Resource::Nofile);
    let soft = match shown_limit() {
        Some(u64::MAX) => None,
        Some(soft) => Some(soft),
        None => limit.current,
    };
    let share = share(soft, limit.maximum);
    let end = if share.has_room {
        share.wanted
    } else {
        share.soft
    };
    end as RawFd - 1
}

/// Moves one of our own descriptors up. Where that fails it stays where it is, which is ugly but
/// right.
pub fn raise(fd: OwnedFd) -> OwnedFd {
    let base = BASE.load(Ordering::Relaxed);
    if base == 0 {
        return fd;
    }
    let Ok(raised) = crate::sys::dup_high(fd.as_fd(), base) else {
        return fd;
    };
    remember(&raised);
    raised
}

/// Duplicates the program's descriptor into our range.
pub fn duplicate(fd: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, rustix::io::Errno> {
    let base = BASE.load(Ordering::Relaxed);
    let duplicate = match crate::sys::dup_high(fd, base.max(3)) {
        // The limit was lowered below our range, behind our back.
        Err(rustix::io::Errno::INVAL) => crate::sys::dup_high(fd, 3),
        result => result,
    };
    if let Ok(duplicate) = &duplicate {
        remember(duplicate);
    }
    // The kernel gives the lowest free number: those below it are in use.
    let number = duplicate.as_ref().map_or(i32::MAX, AsRawFd::as_raw_fd);
    SHORT.store(number >= short_from(base, end()), Ordering::Relaxed);
    duplicate
}

/// The number at which our range ends.
fn end() -> RawFd {
    match RAISED.load(Ordering::Relaxed) {
        0 => PROGRAM_LIMIT.load(Ordering::Relaxed),
        raised => raised as RawFd,
    }
}

/// From which number on less than a quarter of the range is left.
fn short_from(base: RawFd, end: RawFd) -> RawFd {
    end - (end - base) / 4
}

/// Whether less than a quarter of the numbers that the library may use was left when it made the
/// last connection: connections can do without their TCP sockets
/// (`Connection::give_up_tcp`).
#[inline]
pub fn are_short() -> bool {
    SHORT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    #[test]
    fn what_is_ours_is_remembered_until_it_is_closed() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let own = super::duplicate(file.as_fd()).unwrap();
        let number = own.as_raw_fd();
        assert!(super::is_own(number) && !super::is_own(file.as_raw_fd()));
        assert_eq!(super::next_own(number as u32), Some(number as u32));
        assert_ne!(super::next_own(number as u32 + 1), Some(number as u32));
        super::forget(number);
        drop(own);
        assert!(!super::is_own(number));
        assert!(!super::is_own(-1) && !super::is_own(i32::MAX));
        assert_eq!(super::next_own(u32::MAX), None);
    }

    #[test]
    fn the_last_quarter_is_short() {
        assert_eq!(super::short_from(1000, 2000), 1750);
        assert_eq!(super::short_from(64, 128), 112);
    }
}

//! The cursors of a ring, and who has to be woken when one of them moves.
//!
//! Two ends, each with one thread at a time (callers hold the connection's `tx_lock` or `rx_lock`).
//! Nothing here touches the bytes, nor the kernel. `tests/ring_models` takes this file as it is and
//! tries every order in which the two ends can see each other's steps.

use super::sync::{AtomicU64, Ordering, fence};
use super::{Local, RmbeControl};

/// [`RmbeControl::armed`]: ring for the next arrival.
pub(crate) const ONCE: u32 = 1;
/// [`RmbeControl::armed`]: ring for every arrival, as long as few bells are unread.
pub(crate) const ALWAYS: u32 = 2;

/// The peer wrote a cursor that cannot be true. The connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCursor;

/// How far the two cursors of a ring are apart: `own` is this end's, `theirs` reads the peer's.
///
/// Not only the holder of the lock asks. Another thread may move our cursor in between, and the
/// peer follow, so that the two that were read never were true together; only if ours stood still
/// meanwhile, an impossible distance is the peer's lie.
#[inline]
fn distance(
    own: &AtomicU64,
    theirs: impl Fn() -> u64,
    size: usize,
    minus: impl Fn(u64, u64) -> u64,
) -> Result<usize, BadCursor> {
    let mut mine = own.load(Ordering::Acquire);
    loop {
        let far = minus(mine, theirs());
        if far <= size as u64 {
            return Ok(far as usize);
        }
        let now = own.load(Ordering::Acquire);
        if now == mine {
            return Err(BadCursor);
        }
        mine = now;
    }
}

/// Writer: bytes that the peer's program has not read yet.
///
/// # Errors
/// [`BadCursor`] if the peer's consumer cursor went back or overtook us.
#[inline]
pub(crate) fn unread(
    control: &RmbeControl,
    local: &Local,
    size: usize,
) -> Result<usize, BadCursor> {
    distance(
        &local.prod,
        || control.cons.load(Ordering::Acquire),
        size,
        |prod, cons| prod.wrapping_sub(cons),
    )
}

/// Writer: bytes that fit for sure, at least `wanted` if there is room for that many. The reader's
/// cursor lies in a line that the reader writes: it is looked at only when what was seen of it
/// last is not enough.
///
/// # Errors
/// See [`unread`].
#[inline]
pub(crate) fn free(
    control: &RmbeControl,
    local: &Local,
    size: usize,
    wanted: usize,
) -> Result<usize, BadCursor> {
    let prod = local.prod.load(Ordering::Relaxed);
    let seen = local.peer_cons.load(Ordering::Relaxed);
    let free = size.saturating_sub(prod.wrapping_sub(seen) as usize);
    if free >= wanted {
        return Ok(free);
    }
    let unread = unread(control, local, size)?;
    local
        .peer_cons
        .store(prod.wrapping_sub(unread as u64), Ordering::Relaxed);
    Ok(size - unread)
}

/// Writer: publishes `len` copied bytes. True if the reader sleeps and has to be rung.
#[inline]
#[must_use]
pub(crate) fn publish(control: &RmbeControl, local: &Local, len: usize) -> bool {
    let prod = local.prod.load(Ordering::Relaxed) + len as u64;
    local.prod.store(prod, Ordering::Relaxed);
    control.prod.store(prod, Ordering::Release);
    take_bell(control)
}

/// Writer: true if the reader is armed; takes the flag down, so that one caller rings.
#[inline]
#[must_use]
pub(crate) fn take_bell(control: &RmbeControl) -> bool {
    // Either the reader, who armed and then looked at the cursor, sees our bytes, or we see its
    // flag here.
    fence(Ordering::SeqCst);
    match control.armed.load(Ordering::Relaxed) {
        0 => false,
        // Two unread bells leave the sending end writable.
        ALWAYS => control.bells.load(Ordering::Relaxed) < 2,
        _ => control.armed.swap(0, Ordering::AcqRel) != 0,
    }
}

/// Writer: says that it waits for space. To look once more afterwards, and to sleep only if there
/// is still none.
#[inline]
pub(crate) fn wait_for_space(control: &RmbeControl) {
    // Who takes the flag down knows what was published before.
    control.writer_waiting.swap(1, Ordering::AcqRel);
    // Either the reader, who moves its cursor and then looks at the flag, sees that we wait, or we
    // see the space.
    fence(Ordering::SeqCst);
}

/// Reader: bytes ready to be read.
///
/// # Errors
/// [`BadCursor`] if the peer's producer cursor went back or overran the ring.
#[inline]
pub(crate) fn available(
    control: &RmbeControl,
    local: &Local,
    size: usize,
) -> Result<usize, BadCursor> {
    distance(
        &local.cons,
        || control.prod.load(Ordering::Acquire),
        size,
        |cons, prod| prod.wrapping_sub(cons),
    )
}

/// Reader: consumes `len` bytes. True if the writer waits for space and there is enough now to be
/// worth waking it: its flag is down then, and whoever took it down has to wake it.
#[inline]
#[must_use]
pub(crate) fn consume(control: &RmbeControl, local: &Local, size: usize, len: usize) -> bool {
    let cons = local.cons.load(Ordering::Relaxed) + len as u64;
    local.cons.store(cons, Ordering::Relaxed);
    control.cons.store(cons, Ordering::Release);
    // Either the writer, who says that it waits and then looks at the cursor, sees the space, or we
    // see it waiting.
    fence(Ordering::SeqCst);
    if control.writer_waiting.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let is_worth_it = || available(control, local, size).is_ok_and(|left| left <= size / 2);
    if !is_worth_it() || control.writer_waiting.swap(0, Ordering::AcqRel) == 0 {
        return false;
    }
    // A writer that was awake may have filled the ring in between, and wait again.
    let still = is_worth_it();
    if !still {
        control.writer_waiting.swap(1, Ordering::AcqRel);
    }
    still
}

/// Reader: asks the writer to ring (`level` [`ONCE`]: for the next arrival, [`ALWAYS`]: for each),
/// and looks once more: true if the ring is still empty, so that sleeping is safe.
#[inline]
pub(crate) fn arm(control: &RmbeControl, local: &Local, size: usize, level: u32) -> bool {
    if control.armed.load(Ordering::Relaxed) != level {
        control.armed.store(level, Ordering::Relaxed);
    }
    fence(Ordering::SeqCst);
    available(control, local, size) == Ok(0)
}

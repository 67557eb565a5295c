//! The two ends of one RMBE's ring: the writer's ([`Tx`]) and the reader's ([`Rx`]).
//!
//! Neither locks anything: callers hold the connection's `tx_lock` or `rx_lock`.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Local, Rmb, RmbeControl};

/// [`RmbeControl::armed`]: ring for the next arrival.
pub(crate) const ONCE: u32 = 1;
/// [`RmbeControl::armed`]: ring for every arrival, as long as few bells are unread.
pub(crate) const ALWAYS: u32 = 2;

/// The peer wrote a cursor that cannot be true. The connection is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadCursor;

/// An RMBE as one of its two ends uses it.
#[derive(Debug, Clone)]
pub struct Ring {
    rmb: Arc<Rmb>,
    index: u8,
    base: *mut u8,
    control: *const RmbeControl,
    size: usize,
}

// SAFETY: the pointers go into the mapping that `rmb` keeps alive; the memory is shared with
// another process anyway, so every access is an atomic or a raw copy that takes what it finds.
unsafe impl Send for Ring {}
// SAFETY: as above; that only one thread copies at a time is a matter of right bytes, not of
// memory safety, and the connection's locks see to it.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(rmb: Arc<Rmb>, index: u8) -> Self {
        let (base, control) = (
            rmb.ring(index).as_ptr(),
            std::ptr::from_ref(rmb.control(index)),
        );
        let size = rmb.geometry().rmbe_size as usize;
        Self {
            rmb,
            index,
            base,
            control,
            size,
        }
    }

    /// The cursors, shared with the peer.
    #[inline]
    pub fn control(&self) -> &RmbeControl {
        // SAFETY: points into the mapping that `rmb` keeps alive.
        unsafe { &*self.control }
    }

    /// Ring size in bytes.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The RMB, and the index of the RMBE in it, from 0.
    pub fn rmbe(&self) -> (&Arc<Rmb>, u8) {
        (&self.rmb, self.index)
    }
}

/// The writing end: the peer's RMBE.
#[derive(Debug, Clone)]
pub struct Tx(Ring);

/// The reading end: our own RMBE.
#[derive(Debug)]
pub struct Rx(Ring);

impl Deref for Tx {
    type Target = Ring;

    #[inline]
    fn deref(&self) -> &Ring {
        &self.0
    }
}

impl Deref for Rx {
    type Target = Ring;

    #[inline]
    fn deref(&self) -> &Ring {
        &self.0
    }
}

/// Copies `len` bytes between a ring and linear memory, in two pieces where the ring wraps.
/// Calls `piece(ring_pointer, offset_in_linear, len)`.
#[inline]
fn pieces(
    base: *mut u8,
    size: usize,
    cursor: u64,
    len: usize,
    mut piece: impl FnMut(*mut u8, usize, usize),
) {
    debug_assert!(len <= size);
    let at = cursor as usize & (size - 1);
    let first = len.min(size - at);
    // SAFETY: `at < size`, and the ring is `size` bytes.
    piece(unsafe { base.add(at) }, 0, first);
    if first < len {
        piece(base, first, len - first);
    }
}

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

impl Tx {
    /// The writing end for RMBE `index` (from 0) of the peer's `rmb`.
    pub fn new(rmb: Arc<Rmb>, index: u8) -> Self {
        Self(Ring::new(rmb, index))
    }

    /// Bytes that the peer's program has not read yet.
    ///
    /// # Errors
    /// [`BadCursor`] if the peer's consumer cursor went back or overtook us.
    #[inline]
    pub fn unread(&self, local: &Local) -> Result<usize, BadCursor> {
        let cons = &self.control().cons;
        distance(
            &local.prod,
            || cons.load(Ordering::Acquire),
            self.size,
            |prod, cons| prod.wrapping_sub(cons),
        )
    }

    /// Bytes that fit for sure, at least `wanted` if there is room for that many. The reader's
    /// cursor lies in a line that the reader writes: it is looked at only when what was seen of
    /// it last is not enough.
    ///
    /// # Errors
    /// See [`Self::unread`].
    #[inline]
    pub fn free(&self, local: &Local, wanted: usize) -> Result<usize, BadCursor> {
        let prod = local.prod.load(Ordering::Relaxed);
        let seen = local.peer_cons.load(Ordering::Relaxed);
        let free = self.size.saturating_sub(prod.wrapping_sub(seen) as usize);
        if free >= wanted {
            return Ok(free);
        }
        let unread = self.unread(local)?;
        local
            .peer_cons
            .store(prod.wrapping_sub(unread as u64), Ordering::Relaxed);
        Ok(self.size - unread)
    }

    /// Copies `len` bytes to the ring behind what is there, without publishing them: `fill` is
    /// given each piece (pointer, offset, length).
    ///
    /// The caller holds `tx_lock` and knows from [`Self::free`] that they fit.
    #[inline]
    pub fn copy_in(&self, local: &Local, len: usize, fill: impl FnMut(*mut u8, usize, usize)) {
        pieces(
            self.base,
            self.size,
            local.prod.load(Ordering::Relaxed),
            len,
            fill,
        );
    }

    /// Publishes `len` copied bytes. True if the reader sleeps and has to be rung.
    #[inline]
    #[must_use]
    pub fn publish(&self, local: &Local, len: usize) -> bool {
        let prod = local.prod.load(Ordering::Relaxed) + len as u64;
        local.prod.store(prod, Ordering::Relaxed);
        self.control().prod.store(prod, Ordering::Release);
        self.take_bell()
    }

    /// True if the reader is armed; takes the flag down, so that one caller rings.
    #[inline]
    #[must_use]
    pub fn take_bell(&self) -> bool {
        let armed = &self.control().armed;
        // Either the reader, who armed and then looked at the cursor, sees our bytes, or we see
        // its flag here.
        fence(Ordering::SeqCst);
        match armed.load(Ordering::Relaxed) {
            0 => false,
            // Two unread bells leave the sending end writable.
            ALWAYS => self.control().bells.load(Ordering::Relaxed) < 2,
            _ => armed.swap(0, Ordering::AcqRel) != 0,
        }
    }
}

impl Rx {
    /// The reading end for RMBE `index` (from 0) of our own `rmb`.
    pub fn new(rmb: Arc<Rmb>, index: u8) -> Self {
        Self(Ring::new(rmb, index))
    }

    /// Bytes ready to be read.
    ///
    /// # Errors
    /// [`BadCursor`] if the peer's producer cursor went back or overran the ring.
    #[inline]
    pub fn available(&self, local: &Local) -> Result<usize, BadCursor> {
        let prod = &self.control().prod;
        distance(
            &local.cons,
            || prod.load(Ordering::Acquire),
            self.size,
            |cons, prod| prod.wrapping_sub(cons),
        )
    }

    /// Hands `len` bytes, starting `skip` bytes behind the consumer cursor, to `drain` piece by
    /// piece (pointer, offset, length) without consuming them.
    ///
    /// The caller holds `rx_lock` and knows from [`Self::available`] that they are there.
    #[inline]
    pub fn copy_out(
        &self,
        local: &Local,
        skip: usize,
        len: usize,
        drain: impl FnMut(*mut u8, usize, usize),
    ) {
        let from = local.cons.load(Ordering::Relaxed) + skip as u64;
        pieces(self.base, self.size, from, len, drain);
    }

    /// Consumes `len` bytes. True if the writer waits for space and there is enough now to be
    /// worth waking it.
    #[inline]
    #[must_use]
    pub fn consume(&self, local: &Local, len: usize) -> bool {
        let cons = local.cons.load(Ordering::Relaxed) + len as u64;
        local.cons.store(cons, Ordering::Relaxed);
        let control = self.control();
        control.cons.store(cons, Ordering::Release);
        // Either the writer, who says that it waits and then looks at the cursor, sees the space,
        // or we see it waiting.
        fence(Ordering::SeqCst);
        control.writer_waiting.load(Ordering::Relaxed) != 0
            && self
                .available(local)
                .is_ok_and(|left| left <= self.size / 2)
    }

    /// Puts bytes into our own ring at position `at`, before the peer begins to write: they came
    /// another way. The peer's cursor starts behind them.
    pub fn preload(&self, at: usize, bytes: &[u8]) {
        pieces(
            self.base,
            self.size,
            at as u64,
            bytes.len(),
            |to, offset, len| {
                // SAFETY: `to` is `len` bytes of the ring, which nobody else uses yet.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().add(offset), to, len) };
            },
        );
        self.control()
            .prod
            .store((at + bytes.len()) as u64, Ordering::Release);
    }

    /// Asks the writer to ring (`level` 1: for the next arrival, 2: for each), and looks once
    /// more: true if the ring is still empty, so that sleeping is safe.
    #[inline]
    pub fn arm(&self, local: &Local, level: u32) -> bool {
        let control = self.control();
        if control.armed.load(Ordering::Relaxed) != level {
            control.armed.store(level, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.available(local) == Ok(0)
    }
}

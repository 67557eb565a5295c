//! The two ends of one RMBE's ring: the writer's ([`Tx`]) and the reader's ([`Rx`]).
//!
//! The ring is all of the RMBE, or what follows the eye catcher that RMBEs have in link groups of
//! peers that want one.
//!
//! Neither locks anything: callers hold the connection's `tx_lock` or `rx_lock`.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use super::cursors::BadCursor;
pub(crate) use super::cursors::{ALWAYS, ONCE};
use super::{Local, Rmb, RmbeControl, cursors};
use crate::cdc::EyeCatcher;

/// An RMBE as one of its two ends uses it.
#[derive(Debug, Clone)]
pub struct Ring {
    rmb: Arc<Rmb>,
    index: u8,
    eye_catcher: EyeCatcher,
    /// Behind the eye catcher, if there is one.
    base: *mut u8,
    control: *const RmbeControl,
    /// A power of two; with an eye catcher, four bytes less.
    size: usize,
}

// SAFETY: the pointers go into the mapping that `rmb` keeps alive; the memory is shared with
// another process anyway, so every access is an atomic or a raw copy that takes what it finds.
unsafe impl Send for Ring {}
// SAFETY: as above; that only one thread copies at a time is a matter of right bytes, not of
// memory safety, and the connection's locks see to it.
unsafe impl Sync for Ring {}

impl Ring {
    fn new(rmb: Arc<Rmb>, index: u8, eye_catcher: EyeCatcher) -> Self {
        let skipped = eye_catcher.base() as usize;
        // SAFETY: an RMBE has far more than four bytes.
        let base = unsafe { rmb.ring(index).add(skipped) }.as_ptr();
        let control = std::ptr::from_ref(rmb.control(index));
        let size = rmb.geometry().rmbe_size as usize - skipped;
        Self {
            rmb,
            index,
            eye_catcher,
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

    /// Ring size in bytes: how much data it holds.
    #[inline]
    pub fn size(&self) -> usize {
        self.size
    }

    /// The RMB, and the index of the RMBE in it, from 0.
    pub fn rmbe(&self) -> (&Arc<Rmb>, u8) {
        (&self.rmb, self.index)
    }

    /// Whether an eye catcher is in front of it in the RMBE.
    pub fn eye_catcher(&self) -> EyeCatcher {
        self.eye_catcher
    }

    /// Copies `len` bytes between the ring and linear memory, in two pieces where the ring wraps.
    /// Calls `piece(ring_pointer, offset_in_linear, len)`.
    #[inline]
    fn pieces(&self, cursor: u64, len: usize, mut piece: impl FnMut(*mut u8, usize, usize)) {
        let Self { base, size, .. } = *self;
        debug_assert!(len <= size);
        let at = match self.eye_catcher {
            // Spares the division.
            EyeCatcher::None => cursor as usize & (size - 1),
            EyeCatcher::FourBytes => (cursor % size as u64) as usize,
        };
        let first = len.min(size - at);
        // SAFETY: `at < size`, and the ring is `size` bytes.
        piece(unsafe { base.add(at) }, 0, first);
        if first < len {
            piece(base, first, len - first);
        }
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

impl Tx {
    /// The writing end for RMBE `index` (from 0) of the peer's `rmb`.
    pub fn new(rmb: Arc<Rmb>, index: u8, eye_catcher: EyeCatcher) -> Self {
        Self(Ring::new(rmb, index, eye_catcher))
    }

    /// Bytes that the peer's program has not read yet.
    ///
    /// # Errors
    /// [`BadCursor`] if the peer's consumer cursor went back or overtook us.
    #[inline]
    pub fn unread(&self, local: &Local) -> Result<usize, BadCursor> {
        cursors::unread(self.control(), local, self.size)
    }

    /// Bytes that fit for sure, at least `wanted` if there is room for that many. The reader's
    /// cursor lies in a line that the reader writes: it is looked at only when what was seen of
    /// it last is not enough.
    ///
    /// # Errors
    /// See [`Self::unread`].
    #[inline]
    pub fn free(&self, local: &Local, wanted: usize) -> Result<usize, BadCursor> {
        cursors::free(self.control(), local, self.size, wanted)
    }

    /// Copies `len` bytes to the ring behind what is there, without publishing them: `fill` is
    /// given each piece (pointer, offset, length).
    ///
    /// The caller holds `tx_lock` and knows from [`Self::free`] that they fit.
    #[inline]
    pub fn copy_in(&self, local: &Local, len: usize, fill: impl FnMut(*mut u8, usize, usize)) {
        self.pieces(local.prod.load(Ordering::Relaxed), len, fill);
    }

    /// Publishes `len` copied bytes. True if the reader sleeps and has to be rung.
    #[inline]
    #[must_use]
    pub fn publish(&self, local: &Local, len: usize) -> bool {
        cursors::publish(self.control(), local, len)
    }

    /// True if the reader is armed; takes the flag down, so that one caller rings.
    #[inline]
    #[must_use]
    pub fn take_bell(&self) -> bool {
        cursors::take_bell(self.control())
    }

    /// Says that this end waits for space. To look once more afterwards, and to sleep only if
    /// there is still none.
    #[inline]
    pub fn wait_for_space(&self) {
        cursors::wait_for_space(self.control());
    }
}

impl Rx {
    /// The reading end for RMBE `index` (from 0) of our own `rmb`.
    pub fn new(rmb: Arc<Rmb>, index: u8, eye_catcher: EyeCatcher) -> Self {
        Self(Ring::new(rmb, index, eye_catcher))
    }

    /// Bytes ready to be read.
    ///
    /// # Errors
    /// [`BadCursor`] if the peer's producer cursor went back or overran the ring.
    #[inline]
    pub fn available(&self, local: &Local) -> Result<usize, BadCursor> {
        cursors::available(self.control(), local, self.size)
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
        self.pieces(from, len, drain);
    }

    /// Consumes `len` bytes. True if the writer waits for space and there is enough now to be
    /// worth waking it.
    #[inline]
    #[must_use]
    pub fn consume(&self, local: &Local, len: usize) -> bool {
        cursors::consume(self.control(), local, self.size, len)
    }

    /// Puts bytes into our own ring at position `at`, before the peer begins to write: they came
    /// another way. The peer's cursor starts behind them.
    pub fn preload(&self, at: usize, bytes: &[u8]) {
        self.pieces(at as u64, bytes.len(), |to, offset, len| {
            // SAFETY: `to` is `len` bytes of the ring, which nobody else uses yet.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr().add(offset), to, len) };
        });
        self.control()
            .prod
            .store((at + bytes.len()) as u64, Ordering::Release);
    }

    /// Asks the writer to ring (`level` 1: for the next arrival, 2: for each), and looks once
    /// more: true if the ring is still empty, so that sleeping is safe.
    #[inline]
    pub fn arm(&self, local: &Local, level: u32) -> bool {
        cursors::arm(self.control(), local, self.size, level)
    }
}

//! A descriptor's stream: the engine's connection, the descriptors that name it, and how it is
//! watched.

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use smcr_core::engine::Connection;
use smcr_core::engine::handover::socket_inode;

use crate::watch::Watch;

/// A stream, as the table points to it.
///
/// Look-ups take no lock, so a look-up may hold a pointer to a stream whose last descriptor is
/// closed at that moment. Streams are therefore never freed, only reused: the memory stays a
/// `Stream`, and the look-up finds out by looking at the table again.
#[derive(Debug)]
pub(crate) struct Stream {
    /// One for each table entry, one for each call in progress.
    refs: AtomicUsize,
    inner: UnsafeCell<Option<Inner>>,
}

// SAFETY: `inner` is only written while nobody has a reference (`refs` went to zero, or the
// stream is fresh from the pool), and Inner itself is Sync.
unsafe impl Sync for Stream {}
// SAFETY: as above.
unsafe impl Send for Stream {}

/// What a stream is made of.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) connection: Arc<Connection>,
    /// The descriptors of this process that name it. Changed under the table's lock.
    pub(crate) fds: Mutex<Vec<RawFd>>,
    pub(crate) watch: Watch,
    /// Inode of the readiness pair's end; 0 until somebody asks.
    inode: AtomicU64,
}

impl Inner {
    /// Inode of the readiness pair's end, by which it is known again after exec.
    pub(crate) fn inode(&self) -> u64 {
        let known = self.inode.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let first = self.fds.lock().first().copied();
        let inode = first.and_then(socket_inode).unwrap_or(0);
        self.inode.store(inode, Ordering::Relaxed);
        inode
    }
}

static POOL: Mutex<Vec<&'static Stream>> = Mutex::new(Vec::new());

/// A counted reference to a living stream.
#[derive(Debug)]
pub(crate) struct StreamRef(&'static Stream);

impl StreamRef {
    /// Makes a stream.
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        let pooled = POOL.lock().pop();
        let stream: &'static Stream = pooled.unwrap_or_else(|| {
            Box::leak(Box::new(Stream {
                refs: AtomicUsize::new(0),
                inner: UnsafeCell::new(None),
            }))
        });
        // First of all: a look-up that comes and goes must not take itself for the last.
        stream.refs.fetch_add(1, Ordering::AcqRel);
        let inner = Inner {
            connection,
            fds: Mutex::default(),
            watch: Watch::default(),
            inode: AtomicU64::new(0),
        };
        // SAFETY: nobody else uses it: it is new, or was put into the pool by the last reference
        // (a look-up that holds the pointer does not touch `inner` before it saw the table).
        unsafe { *stream.inner.get() = Some(inner) };
        Self(stream)
    }

    /// Takes a reference to what may be a dead stream; the caller has to find out whether it
    /// lives, and drop the reference without using it if not.
    ///
    /// # Safety
    /// `stream` was made by [`Self::new`] at some time.
    #[inline]
    pub(crate) unsafe fn acquire(stream: *const Stream) -> Self {
        // SAFETY: never freed.
        let stream: &'static Stream = unsafe { &*stream };
        stream.refs.fetch_add(1, Ordering::AcqRel);
        Self(stream)
    }

    pub(crate) fn into_raw(self) -> *const Stream {
        let raw = std::ptr::from_ref(self.0);
        std::mem::forget(self);
        raw
    }

    /// # Safety
    /// `raw` came from [`Self::into_raw`], once.
    pub(crate) unsafe fn from_raw(raw: *const Stream) -> Self {
        // SAFETY: never freed.
        Self(unsafe { &*raw })
    }
}

impl StreamRef {
    pub(crate) fn same(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Clone for StreamRef {
    fn clone(&self) -> Self {
        self.0.refs.fetch_add(1, Ordering::AcqRel);
        Self(self.0)
    }
}

impl Deref for StreamRef {
    type Target = Inner;

    #[inline]
    fn deref(&self) -> &Inner {
        // SAFETY: we hold a reference to a living stream, so `inner` is not written.
        let inner = unsafe { &*self.0.inner.get() };
        // Living streams have one; `acquire` demands to check before use.
        match inner {
            Some(inner) => inner,
            None => unreachable!("a dead stream was used"),
        }
    }
}

impl Drop for StreamRef {
    #[inline]
    fn drop(&mut self) {
        if self.0.refs.fetch_sub(1, Ordering::AcqRel) == 1 {
            retire(self.0);
        }
    }
}

#[cold]
fn retire(stream: &'static Stream) {
    let mut pool = POOL.lock();
    // A look-up may have come and gone in between, and be here, too.
    if stream.refs.load(Ordering::Acquire) != 0 {
        return;
    }
    // SAFETY: no reference is left; one that a look-up takes now is not used.
    let inner = unsafe { (*stream.inner.get()).take() };
    if inner.is_some() {
        pool.push(stream);
    }
    drop(pool);
    drop(inner);
}

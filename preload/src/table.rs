//! The descriptor table: what each of the program's descriptors is to the library.
//!
//! A descriptor that is not ours costs one load and one branch per call. The table is a plain
//! array of words, each a pointer with a tag in its low bits. Changes are made under one lock
//! ([`lock`]); look-ups take none.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::plain::Plain;
use crate::stream::{Stream, StreamRef};
use crate::watch::set::Set;

/// Descriptors from this number on are never ours.
const SIZE: usize = 1 << 20;

static TABLE: [AtomicUsize; SIZE] = [const { AtomicUsize::new(0) }; SIZE];

/// The highest descriptor that ever had an entry.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);

static LOCK: Mutex<()> = Mutex::new(());

const TAG: usize = 7;
const STREAM: usize = 1;
const PLAIN: usize = 2;
const SET: usize = 3;

/// What an entry says.
#[derive(Debug)]
pub(crate) enum Entry {
    /// Nothing of ours.
    None,
    /// A stream that is on SMC, or may come to be.
    Stream(StreamRef),
    /// A TCP socket: not connected, listening, or on TCP for good.
    Plain(Arc<Plain>),
    /// An epoll set.
    Set(&'static Set),
}

/// Held while entries change.
pub(crate) fn lock() -> MutexGuard<'static, ()> {
    LOCK.lock()
}

#[inline]
fn word(fd: RawFd) -> Option<&'static AtomicUsize> {
    TABLE.get(fd as usize)
}

/// The stream behind a descriptor. The one question that every read and write asks.
#[inline]
pub(crate) fn stream(fd: RawFd) -> Option<StreamRef> {
    let word = word(fd)?;
    loop {
        let value = word.load(Ordering::Acquire);
        if value & TAG != STREAM {
            return None;
        }
        // SAFETY: Streams are never freed, only reused (see `Stream`).
        let stream = unsafe { StreamRef::acquire((value & !TAG) as *const Stream) };
        // Still there: the entry's own reference keeps it alive until the entry changes.
        if word.load(Ordering::Acquire) == value {
            return Some(stream);
        }
    }
}

/// The epoll set behind a descriptor.
#[inline]
pub(crate) fn set(fd: RawFd) -> Option<&'static Set> {
    let value = word(fd)?.load(Ordering::Acquire);
    // SAFETY: sets are never freed.
    (value & TAG == SET).then(|| unsafe { &*((value & !TAG) as *const Set) })
}

/// Whether a descriptor is a TCP socket that is no stream.
#[inline]
pub(crate) fn is_plain(fd: RawFd) -> bool {
    word(fd).is_some_and(|word| word.load(Ordering::Relaxed) & TAG == PLAIN)
}

/// Whether a descriptor has an entry at all.
#[inline]
pub(crate) fn is_known(fd: RawFd) -> bool {
    word(fd).is_some_and(|word| word.load(Ordering::Relaxed) != 0)
}

/// What a descriptor is.
pub(crate) fn entry(fd: RawFd) -> Entry {
    let Some(word) = word(fd) else {
        return Entry::None;
    };
    if word.load(Ordering::Relaxed) == 0 {
        return Entry::None;
    }
    if let Some(stream) = stream(fd) {
        return Entry::Stream(stream);
    }
    let _guard = lock();
    let value = word.load(Ordering::Acquire);
    match value & TAG {
        PLAIN => {
            let plain = (value & !TAG) as *const Plain;
            // SAFETY: made by Arc::into_raw in `put`, and the entry cannot change now.
            Entry::Plain(unsafe {
                Arc::increment_strong_count(plain);
                Arc::from_raw(plain)
            })
        }
        // SAFETY: sets are never freed.
        SET => Entry::Set(unsafe { &*((value & !TAG) as *const Set) }),
        _ => Entry::None,
    }
}

/// Sets a descriptor's entry and returns the old one. The caller holds [`lock`].
pub(crate) fn put(fd: RawFd, entry: Entry, _guard: &MutexGuard<'_, ()>) -> Entry {
    let Some(word) = word(fd) else {
        return Entry::None;
    };
    let value = match entry {
        Entry::None => 0,
        Entry::Stream(stream) => stream.into_raw() as usize | STREAM,
        Entry::Plain(plain) => Arc::into_raw(plain) as usize | PLAIN,
        Entry::Set(set) => std::ptr::from_ref(set) as usize | SET,
    };
    if value & TAG == SET {
        let mut fds = EPOLL_FDS.lock();
        if !fds.contains(&fd) {
            fds.push(fd);
        }
    }
    if value != 0 {
        HIGHEST.fetch_max(fd, Ordering::Relaxed);
    }
    let old = word.swap(value, Ordering::AcqRel);
    let pointer = old & !TAG;
    // SAFETY: each variant's pointer was made by the corresponding into_raw above, and the swap
    // made its reference ours.
    unsafe {
        match old & TAG {
            STREAM => Entry::Stream(StreamRef::from_raw(pointer as *const Stream)),
            PLAIN => Entry::Plain(Arc::from_raw(pointer as *const Plain)),
            SET => Entry::Set(&*(pointer as *const Set)),
            _ => Entry::None,
        }
    }
}

/// The highest descriptor that ever had an entry; -1 if none had.
pub(crate) fn highest() -> RawFd {
    HIGHEST.load(Ordering::Relaxed)
}

/// All descriptors from `first` to `last` that have an entry.
pub(crate) fn known(first: RawFd, last: RawFd) -> impl Iterator<Item = RawFd> {
    let end = last.min(highest());
    (first.max(0)..=end).filter(|&fd| is_known(fd))
}

/// The descriptors that were epoll sets when last looked at.
static EPOLL_FDS: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// All epoll sets. The caller holds [`lock`].
pub(crate) fn sets(_guard: &MutexGuard<'_, ()>) -> Vec<(RawFd, &'static Set)> {
    let mut found = Vec::new();
    EPOLL_FDS.lock().retain(|&fd| {
        let value = word(fd).map_or(0, |word| word.load(Ordering::Acquire));
        if value & TAG != SET {
            return false;
        }
        // SAFETY: sets are never freed.
        found.push((fd, unsafe { &*((value & !TAG) as *const Set) }));
        true
    });
    found
}

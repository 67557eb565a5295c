//! The page of this process, as its owner writes it.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed,
    Ordering::Release,
};

use rustix::fs::AtFlags;

use super::dir::{BASE, Directory, page_name};
use super::identity::{Identity, own_pid};
use super::mapping::Mapping;
use super::page::{MAX_SLOTS, Page};
use super::slot::{ConnInfo, Slot};
use super::words::{Counter, reason_counter};
use crate::Reason;

/// Counters of publishers without a page, so that counting needs no question.
static NOWHERE: Page = Page::new();

/// What this process tells of itself.
///
/// Made to live in a `static`: it begins unpublished, when its slots stand for nothing and its
/// counters are seen by nobody, and [`Publisher::publish`] makes the page. All methods take
/// `&self`, never block and, but for those that make or remove the file, never allocate.
///
/// Files and memory are handled by raw system calls, which neither touch `errno` nor pass through
/// hooks. No descriptor stays open. Mappings are never unmapped, not even on drop, because
/// [`Slot`] handles may outlive everything.
#[derive(Debug)]
pub struct Publisher {
    base: &'static str,
    /// The mapped page, null while there is none.
    page: AtomicPtr<Page>,
    len: AtomicUsize,
    capacity: AtomicU32,
    /// Slots, from 0, that are backed with memory.
    populated: AtomicU32,
    /// Taken by the first [`Publisher::publish`].
    claimed: AtomicBool,
    /// Whose file it is: process id (0 for no file), start time and directory's owner.
    pid: AtomicU32,
    start_time: AtomicU64,
    uid: AtomicU32,
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Publisher {
    /// A publisher without a page.
    pub const fn new() -> Self {
        Self::below(BASE)
    }

    /// A publisher without a page whose directory will be below `base`.
    pub(super) const fn below(base: &'static str) -> Self {
        Self {
            base,
            page: AtomicPtr::new(std::ptr::null_mut()),
            len: AtomicUsize::new(0),
            capacity: AtomicU32::new(0),
            populated: AtomicU32::new(0),
            claimed: AtomicBool::new(false),
            pid: AtomicU32::new(0),
            start_time: AtomicU64::new(0),
            uid: AtomicU32::new(0),
        }
    }

    /// A publisher with its page.
    ///
    /// # Errors
    /// See [`Publisher::publish`].
    pub fn open() -> io::Result<Self> {
        let publisher = Self::new();
        publisher.publish()?;
        Ok(publisher)
    }

    /// Makes the page of this process, and sweeps those of dead ones. Does nothing if it was
    /// called before.
    ///
    /// # Errors
    /// `PermissionDenied` if the directory cannot be trusted, `StorageFull` if /dev/shm has no
    /// room, others as from open(2) and mmap(2). The message is for the log; the publisher stays
    /// usable, its connections are just not listed.
    pub fn publish(&self) -> io::Result<()> {
        if self.claimed.swap(true, Acquire) {
            return Ok(());
        }
        let own = Identity::own()?;
        let directory = Directory::create(self.base)?;
        directory.sweep_if_due(&own);
        let mapping = Mapping::create(&directory, &own, MAX_SLOTS)?;
        mapping.finish();
        self.adopt(&mapping);
        self.adopt_file(&own, &directory);
        Ok(())
    }

    /// To be called in the child after a fork, before another thread runs in it: gives it a page
    /// of its own, which lists the inherited connections. The parent's page is not touched, and
    /// the child's copies of [`Slot`] handles stand for lines of the child's page from now on.
    /// Bytes that were counted before the fork stay with the parent in the totals.
    ///
    /// Does nothing if the parent published nothing.
    ///
    /// # Errors
    /// As [`Publisher::publish`]. The handles are safe to use then, too: what they write is seen
    /// by nobody.
    pub fn after_fork(&self) -> io::Result<()> {
        let Some(parent) = self.mapping() else {
            return Ok(());
        };
        self.pid.store(0, Relaxed);
        match self.fork_page(&parent) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.fork_unpublished(parent)?;
                Err(error)
            }
        }
    }

    /// Lists a connection. Never fails: when there is no page or no room, the connection is
    /// counted ([`Counter::Unlisted`]) and the slot stands for nothing.
    pub fn add(&self, info: &ConnInfo) -> Slot {
        let slot = self.mapping().and_then(|mapping| self.take_slot(mapping));
        match slot {
            Some(slot) => {
                slot.start(info);
                slot
            }
            None => {
                self.count(Counter::Unlisted);
                Slot::NONE
            }
        }
    }

    /// Adds one to a counter.
    #[inline]
    pub fn count(&self, counter: Counter) {
        self.count_by(counter, 1);
    }

    /// Adds to a counter.
    #[inline]
    pub fn count_by(&self, counter: Counter, by: u64) {
        self.page().counters[counter as usize].fetch_add(by, Relaxed);
    }

    /// Counts a connection that fell back to TCP.
    pub fn fallback(&self, reason: Reason) {
        self.page().counters[reason_counter(reason)].fetch_add(1, Relaxed);
    }

    /// The value of a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.page().counters[counter as usize].load(Relaxed)
    }

    /// How many connections fell back for this reason.
    pub fn fallbacks(&self, reason: Reason) -> u64 {
        self.page().counters[reason_counter(reason)].load(Relaxed)
    }

    /// Whether other processes can see the page.
    pub fn is_published(&self) -> bool {
        self.pid.load(Relaxed) != 0
    }

    /// Removes the file, at the end of the process or before it executes another program. The
    /// page stays usable, unseen. Does nothing in a forked child that has no page of its own.
    pub fn close(&self) {
        let pid = self.pid.swap(0, Relaxed);
        if pid == 0 || pid != own_pid() {
            return;
        }
        // Gone, or out of reach after a setuid(): then a sweep removes it.
        if let Ok(directory) = Directory::open(self.base, self.uid.load(Relaxed)) {
            let name = page_name(pid, self.start_time.load(Relaxed));
            let _ = rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty());
        }
    }

    fn adopt(&self, mapping: &Mapping) {
        self.len.store(mapping.len, Relaxed);
        self.capacity.store(mapping.capacity, Relaxed);
        self.populated.store(mapping.populated, Relaxed);
        self.page.store(mapping.page.as_ptr(), Release);
    }

    fn adopt_file(&self, own: &Identity, directory: &Directory) {
        self.start_time.store(own.start_time, Relaxed);
        self.uid.store(directory.uid(), Relaxed);
        self.pid.store(own.pid, Release);
    }

    fn fork_page(&self, parent: &Mapping) -> io::Result<()> {
        let own = Identity::own()?;
        let directory = Directory::create(self.base)?;
        let mut page = Mapping::create(&directory, &own, parent.max_slots())?;
        let moved = page.inherit(parent).and_then(|()| {
            // SAFETY: the parent's mapping was made here, and the caller promises that no other
            // thread runs.
            unsafe { page.replace(parent) }
        });
        if let Err(e) = moved {
            page.unmap();
            let name = page_name(own.pid, own.start_time);
            let _ = rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty());
            return Err(e.into());
        }
        page.finish();
        self.adopt(&page);
        self.adopt_file(&own, &directory);
        Ok(())
    }

    /// Puts memory of this process alone in the place of the parent's page.
    fn fork_unpublished(&self, parent: Mapping) -> io::Result<()> {
        let mut page = Mapping::private(parent.max_slots())?;
        let moved = page.inherit(&parent).and_then(|()| {
            // SAFETY: as in `fork_page`.
            unsafe { page.replace(&parent) }
        });
        if let Err(e) = moved {
            page.unmap();
            return Err(e.into());
        }
        self.adopt(&page);
        Ok(())
    }

    fn mapping(&self) -> Option<Mapping> {
        let page = NonNull::new(self.page.load(Acquire))?;
        Some(Mapping {
            page,
            len: self.len.load(Relaxed),
            capacity: self.capacity.load(Relaxed),
            populated: self.populated.load(Acquire),
        })
    }

    #[inline]
    fn page(&self) -> &Page {
        // SAFETY: null or a mapping of at least a `Page` that is never unmapped.
        unsafe { self.page.load(Acquire).as_ref() }.unwrap_or(&NOWHERE)
    }

    fn take_slot(&self, mapping: Mapping) -> Option<Slot> {
        let index = match self.pop_free(&mapping) {
            Some(index) => index,
            None => self.take_unused(&mapping)?,
        };
        // SAFETY: the page is never unmapped, both sources give indices below the populated
        // number of slots.
        Some(unsafe { Slot::new(mapping.page, index) })
    }

    /// Takes a slot that was used before.
    fn pop_free(&self, mapping: &Mapping) -> Option<u32> {
        let list = &mapping.page().header.free_list;
        let mut head = list.load(Acquire);
        loop {
            // The page is writable by other processes of this user: an index is not believed.
            let index = (head as u32).checked_sub(1)?;
            if index >= self.populated.load(Acquire) {
                return None;
            }
            // SAFETY: below the populated number of slots, and the page stays.
            let next = unsafe { mapping.cell(index) }.next.load(Relaxed);
            let tag = (head >> 32).wrapping_add(1) << 32;
            match list.compare_exchange_weak(head, tag | u64::from(next), Acquire, Acquire) {
                Ok(_) => return Some(index),
                Err(now) => head = now,
            }
        }
    }

    /// Takes a slot that was never used.
    fn take_unused(&self, mapping: &Mapping) -> Option<u32> {
        let high_water = &mapping.page().header.high_water;
        let mut index = high_water.load(Relaxed);
        loop {
            if index >= mapping.capacity {
                return None;
            }
            if index >= self.populated.load(Acquire) {
                let populated = mapping.populate(index).ok()?;
                self.populated.fetch_max(populated, Release);
            }
            match high_water.compare_exchange_weak(index, index + 1, Release, Relaxed) {
                Ok(_) => return Some(index),
                Err(now) => index = now,
            }
        }
    }
}

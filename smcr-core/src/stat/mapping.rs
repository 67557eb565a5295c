//! The memory of a page: making the file, backing it piece by piece, copying it at a fork.
//!
//! The library is a guest in the program, so nothing here may kill it:
//! - Storing into a hole of a tmpfs file that has no room left raises SIGBUS (containers often
//!   have 64 MiB of /dev/shm). Every piece is therefore populated by a system call, which
//!   reports an error instead, before anything is stored into it.
//! - Growing a file beyond RLIMIT_FSIZE raises SIGXFSZ; the limit is looked at first.
//! - No descriptor is kept: programs close descriptors that they did not open.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MremapFlags, ProtFlags};
use rustix::process::{Resource, getrlimit};

use super::dir::{Directory, page_name, unix_time};
use super::identity::Identity;
use super::page::{MAGIC, Page, SLOT_LEN, SLOTS_OFFSET, SlotCell, VERSION, store_text};
use super::words::COUNTERS;
use crate::rawfs;

/// Bytes of slots that are populated at once: a system call for each 128 connections more, and
/// little memory in each of a thousand processes with one connection.
const CHUNK_LEN: usize = 16384;
/// Slots of a page where memory can only be populated through the descriptor, that is in advance
/// (kernels before 5.14).
const PREFIX_SLOTS: u32 = 4096;

/// A mapped page. It is never unmapped: [`super::Slot`] handles may live anywhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) page: NonNull<Page>,
    /// Bytes mapped.
    pub(super) len: usize,
    /// Slots there is room for.
    pub(super) capacity: u32,
    /// Slots, from 0, that are backed with memory.
    pub(super) populated: u32,
}

impl Mapping {
    /// Makes the page of the process `own` in `directory`, with room for at most `max_slots`, and
    /// fills in its header. The page is not valid for readers until [`Mapping::finish`].
    ///
    /// # Errors
    /// Those of open(2), ftruncate(2), mmap(2); `StorageFull` if there is no memory for it.
    pub(super) fn create(
        directory: &Directory,
        own: &Identity,
        max_slots: u32,
    ) -> Result<Self, Errno> {
        let name = page_name(own.pid, own.start_time);
        let file = create_file(directory.fd(), &name)?;
        Self::map_file(&file, max_slots)
            .inspect(|mapping| mapping.describe(own))
            .inspect_err(|_| {
                let _ = rustix::fs::unlinkat(directory.fd(), &name, AtFlags::empty());
            })
    }

    /// A page that only this process sees, with room for `slots`.
    ///
    /// # Errors
    /// Those of mmap(2).
    pub(super) fn private(slots: u32) -> Result<Self, Errno> {
        let len = file_len(slots);
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE)
        };
        Ok(Self {
            page: NonNull::new(memory?.cast()).ok_or(Errno::NOMEM)?,
            len,
            capacity: slots,
            // Private memory cannot raise SIGBUS.
            populated: slots,
        })
    }

    /// How many slots to ask for to get a mapping of this length.
    pub(super) fn max_slots(&self) -> u32 {
        ((self.len - SLOTS_OFFSET) / SLOT_LEN) as u32
    }

    fn map_file(file: &OwnedFd, max_slots: u32) -> Result<Self, Errno> {
        let slots = max_slots.min(slots_within_file_limit()?);
        let len = file_len(slots);
        rustix::fs::ftruncate(file, len as u64)?;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let memory =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, file, 0) };
        let mut mapping = Self {
            page: NonNull::new(memory?.cast()).ok_or(Errno::NOMEM)?,
            len,
            capacity: slots,
            populated: 0,
        };
        let populated = mapping
            .populate_bytes(0, size_of::<Page>())
            .or_else(|e| match e {
                Errno::INVAL => mapping.populate_prefix(file.as_fd()),
                e => Err(e),
            });
        if let Err(e) = populated {
            mapping.unmap();
            return Err(e);
        }
        Ok(mapping)
    }

    /// Backs all the slots there will ever be, for kernels that cannot do so later.
    pub(super) fn populate_prefix(&mut self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        self.capacity = self.capacity.min(PREFIX_SLOTS);
        let len = file_len(self.capacity) as u64;
        rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len)?;
        self.populated = self.capacity;
        Ok(())
    }

    /// Backs the slot `index`, and those around it. Returns how many slots, from 0, are backed if
    /// all before `index` were.
    ///
    /// # Errors
    /// Those of madvise(2); `StorageFull` if there is no memory.
    pub(super) fn populate(&self, index: u32) -> Result<u32, Errno> {
        let chunk = (CHUNK_LEN.max(page_size()) / SLOT_LEN) as u32;
        let first = index / chunk * chunk;
        let end = (first + chunk).min(self.capacity);
        let offset = SLOTS_OFFSET + first as usize * SLOT_LEN;
        self.populate_bytes(offset, (end - first) as usize * SLOT_LEN)?;
        Ok(end)
    }

    fn populate_bytes(&self, offset: usize, len: usize) -> Result<(), Errno> {
        debug_assert!(offset + len <= self.len);
        let advice = Advice::LinuxPopulateWrite;
        // SAFETY: the range lies within the mapping; populating changes no content.
        let done =
            unsafe { rustix::mm::madvise(self.page.as_ptr().byte_add(offset).cast(), len, advice) };
        done.map_err(|e| match e {
            // "Would have raised SIGBUS."
            Errno::FAULT => Errno::NOSPC,
            e => e,
        })
    }

    fn describe(&self, own: &Identity) {
        let header = &self.page().header;
        header.version.store(VERSION, Ordering::Relaxed);
        header.pid.store(own.pid, Ordering::Relaxed);
        header.start_time.store(own.start_time, Ordering::Relaxed);
        header.pid_ns.store(own.pid_ns, Ordering::Relaxed);
        header.time_ns.store(own.time_ns, Ordering::Relaxed);
        header.counters.store(COUNTERS as u32, Ordering::Relaxed);
        header.capacity.store(self.capacity, Ordering::Relaxed);
        header.slot_len.store(SLOT_LEN as u32, Ordering::Relaxed);
        header.opened_at.store(unix_time(), Ordering::Relaxed);
        store_text(&header.library, env!("CARGO_PKG_VERSION").as_bytes());

        let mut buf = [0; 2048];
        if let Ok(comm) = rawfs::read_into("/proc/self/comm", &mut buf) {
            store_text(&header.comm, comm.trim_ascii_end());
        }
        if let Ok(exe) = rustix::fs::readlink("/proc/self/exe", Vec::new()) {
            // A link's own name says more: Debian's redis-server is one to redis-check-rdb.
            let exe = match crate::config::started_as() {
                [] => exe.to_bytes(),
                started_as => started_as,
            };
            let name = exe.rsplit(|byte| *byte == b'/').next();
            store_text(&header.exe, name.unwrap_or_default());
        }
        if let Ok(command) = rawfs::read_into("/proc/self/cmdline", &mut buf) {
            let len = command.len();
            for byte in &mut buf[..len] {
                if *byte == 0 {
                    *byte = b' ';
                }
            }
            store_text(&header.command, buf[..len].trim_ascii_end());
        }
    }

    /// Declares the page valid.
    pub(super) fn finish(&self) {
        self.page().header.magic.store(MAGIC, Ordering::Release);
    }

    /// Takes over the slots of `parent`, which this process inherited by a fork: they keep their
    /// indices. A connection that another thread of the parent was just adding or removing may be
    /// missing, or stay listed until the child ends.
    ///
    /// # Errors
    /// Those of [`Mapping::populate`].
    pub(super) fn inherit(&mut self, parent: &Self) -> Result<(), Errno> {
        let used = parent.page().header.high_water.load(Ordering::Acquire);
        let used = used.min(parent.populated).min(self.capacity);
        while self.populated < used {
            self.populated = self.populate(self.populated)?;
        }
        let mut free = 0;
        for index in (0..used).rev() {
            // SAFETY: `index` is below the populated number of slots of both pages, which stay
            // mapped while the references live.
            let (cell, parent) = unsafe { (self.cell(index), parent.cell(index)) };
            if !cell.inherit(parent) {
                cell.next.store(free, Ordering::Relaxed);
                free = index + 1;
            }
        }
        let header = &self.page().header;
        header.free_list.store(u64::from(free), Ordering::Relaxed);
        header.high_water.store(used, Ordering::Relaxed);
        Ok(())
    }

    /// Moves this page to the address of `old`, so that handles to the slots of the one stand
    /// for those of the other.
    ///
    /// # Errors
    /// Those of mremap(2).
    ///
    /// # Safety
    /// `old` is a mapping of the same length made here, and no other thread uses it.
    pub(super) unsafe fn replace(&mut self, old: &Self) -> Result<(), Errno> {
        if self.len != old.len {
            return Err(Errno::INVAL);
        }
        // SAFETY: both ranges are whole mappings that belong to this module. References into the
        // old one see other values of the same atomics, nothing else.
        let moved = unsafe {
            rustix::mm::mremap_fixed(
                self.page.as_ptr().cast(),
                self.len,
                old.len,
                MremapFlags::MAYMOVE,
                old.page.as_ptr().cast(),
            )
        };
        moved?;
        self.page = old.page;
        Ok(())
    }

    /// Unmaps a page that nobody has seen yet.
    pub(super) fn unmap(self) {
        // SAFETY: a whole mapping made here; the caller gave no slot of it away.
        let _ = unsafe { rustix::mm::munmap(self.page.as_ptr().cast(), self.len) };
    }

    /// # Safety
    /// `index` is below [`Mapping::populated`], and the page is not unmapped while the reference
    /// lives.
    pub(super) unsafe fn cell(&self, index: u32) -> &SlotCell {
        let offset = SLOTS_OFFSET + index as usize * SLOT_LEN;
        // SAFETY: within the mapping, backed with memory, a multiple of the alignment, atomics.
        unsafe { &*self.page.as_ptr().byte_add(offset).cast() }
    }

    pub(super) fn page(&self) -> &Page {
        // SAFETY: mappings hold at least a `Page`, are made of atomics, and stay (see the type).
        unsafe { self.page.as_ref() }
    }
}

/// Length of a file with this many slots, a multiple of every page size.
fn file_len(slots: u32) -> usize {
    (SLOTS_OFFSET + slots as usize * SLOT_LEN).next_multiple_of(SLOTS_OFFSET)
}

/// How many slots a file may have room for under RLIMIT_FSIZE.
fn slots_within_file_limit() -> Result<u32, Errno> {
    let Some(limit) = getrlimit(Resource::Fsize).current else {
        return Ok(u32::MAX);
    };
    let blocks = (limit / SLOTS_OFFSET as u64).saturating_sub(1);
    match blocks.saturating_mul((SLOTS_OFFSET / SLOT_LEN) as u64) {
        0 => Err(Errno::FBIG),
        slots => Ok(u32::try_from(slots).unwrap_or(u32::MAX)),
    }
}

/// Makes the file, in place of one that this process left under the same name before it executed
/// another program.
fn create_file(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = match rustix::fs::openat(directory, name, flags, mode) {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
            rustix::fs::openat(directory, name, flags, mode)
        }
        other => other,
    }?;
    // The umask may have taken away what the reader needs.
    rustix::fs::fchmod(&file, mode)?;
    Ok(file)
}

/// Bytes of a page of memory. (By way of the C library, as [`unix_time`].)
fn page_size() -> usize {
    // SAFETY: takes an integer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}

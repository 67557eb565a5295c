//! Registered memory.

use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys::{ibv_access_flags, ibv_mr};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::domain::Pd;
use super::errno::{self, KeepErrno};
use crate::clc::Rkey;
use crate::rdma::fabric::{Access, Region};

/// A memory region of a protection domain.
#[derive(Debug)]
pub(super) struct Registered {
    /// Freed after the region, which `drop` has given back by then.
    pd: Arc<Pd>,
    mr: NonNull<ibv_mr>,
}

// SAFETY: the region is only read, and given back once.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl Registered {
    /// # Safety
    /// As [`crate::rdma::fabric::Domain::register`].
    pub(super) unsafe fn new(
        pd: &Arc<Pd>,
        base: NonNull<u8>,
        len: usize,
        access: Access,
    ) -> Result<Self, Errno> {
        // Local write in any case: without it the kernel would take pages as they are for
        // reading, which need not be those that a later write goes to. No relaxed ordering: a
        // message must not overtake the WRITEs before it.
        let access = match access {
            Access::Local => ibv_access_flags::IBV_ACCESS_LOCAL_WRITE,
            Access::RemoteWrite => {
                ibv_access_flags::IBV_ACCESS_LOCAL_WRITE | ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            }
        };
        let _errno = KeepErrno::new();
        // SAFETY: the protection domain is open; the memory is valid by the contract.
        let mr = unsafe {
            (pd.adapter.library.reg_mr)(pd.as_ptr(), base.as_ptr().cast(), len, access.0 as i32)
        };
        let mr = NonNull::new(mr).ok_or_else(errno::last)?;
        Ok(Self {
            pd: Arc::clone(pd),
            mr,
        })
    }
}

impl Region for Registered {
    fn lkey(&self) -> u32 {
        // SAFETY: valid until drop.
        unsafe { self.mr.as_ref() }.lkey
    }

    fn rkey(&self) -> Rkey {
        // SAFETY: as above.
        Rkey(unsafe { self.mr.as_ref() }.rkey)
    }

    fn address(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.mr.as_ref() }.addr as u64
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.pd.adapter.owner.is_here() {
            let _errno = KeepErrno::new();
            // SAFETY: registered, and given back once. It fails only if the device is gone.
            unsafe { (self.pd.adapter.library.dereg_mr)(self.mr.as_ptr()) };
        }
    }
}

/// Zeroed pages of our own, registered for this end's use only. A child of a fork does not have
/// them.
#[derive(Debug)]
pub(super) struct Slab {
    base: NonNull<u8>,
    len: usize,
    /// `None` once it is given back, which is before the pages are.
    registered: Option<Registered>,
}

// SAFETY: plain memory that lives as long as the value.
unsafe impl Send for Slab {}
// SAFETY: as above; who may touch which part is up to the users.
unsafe impl Sync for Slab {}

impl Slab {
    pub(super) fn new(pd: &Arc<Pd>, len: usize) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Shared, so that a fork makes no copy of a page that the adapter writes to.
        // SAFETY: new pages, nowhere in particular.
        let base = unsafe {
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), len, access, MapFlags::SHARED)?
        };
        let mut slab = Self {
            base: NonNull::new(base.cast()).ok_or(Errno::NOMEM)?,
            len,
            registered: None,
        };
        // SAFETY: our own pages, which no child is to use.
        let _ = unsafe { rustix::mm::madvise(base, len, Advice::LinuxDontFork) };
        // SAFETY: the pages live as long as the slab, which drops the region first.
        let registered = unsafe { Registered::new(pd, slab.base, len, Access::Local)? };
        slab.registered = Some(registered);
        Ok(slab)
    }

    pub(super) fn lkey(&self) -> u32 {
        self.registered.as_ref().map_or(0, Region::lkey)
    }

    /// The address of a byte.
    ///
    /// # Panics
    /// Beyond the end.
    pub(super) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len);
        // SAFETY: inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let Some(registered) = self.registered.take() else {
            // SAFETY: our own pages, never used.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
            return;
        };
        let is_here = registered.pd.adapter.owner.is_here();
        drop(registered);
        if is_here {
            // SAFETY: our own pages, which the adapter no longer knows. In a child something else
            // may lie there.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
        }
    }
}

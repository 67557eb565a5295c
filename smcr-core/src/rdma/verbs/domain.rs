//! A protection domain: what one peer may reach (RFC 7609 §2.1).

use std::ptr::NonNull;
use std::sync::Arc;

use rdma_sys::ibv_pd;
use rustix::io::Errno;

use super::adapter::Adapter;
use super::errno::{self, KeepErrno};
use super::link::VerbsLink;
use super::memory::Registered;
use super::port::VerbsPort;
use crate::clc::Psn;
use crate::rdma::fabric::{Access, Domain, Link, LocalGid, Region};

/// A protection domain of an adapter. Memory regions and queue pairs hold it, since the kernel frees
/// none that is in use. It does not hold the port, which knows its links' memory.
#[derive(Debug)]
pub(super) struct Pd {
    pub(super) adapter: Arc<Adapter>,
    pd: NonNull<ibv_pd>,
}

// SAFETY: libibverbs' objects may be used by all threads; this one is freed once.
unsafe impl Send for Pd {}
// SAFETY: as above.
unsafe impl Sync for Pd {}

impl Pd {
    fn new(adapter: &Arc<Adapter>) -> Result<Self, Errno> {
        let _errno = KeepErrno::new();
        // SAFETY: the context is open.
        let pd = unsafe { (adapter.library.alloc_pd)(adapter.context) };
        Ok(Self {
            adapter: Arc::clone(adapter),
            pd: NonNull::new(pd).ok_or_else(errno::last)?,
        })
    }

    /// For libibverbs. Valid as long as `self`.
    pub(super) fn as_ptr(&self) -> *mut ibv_pd {
        self.pd.as_ptr()
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        if self.adapter.owner.is_here() {
            let _errno = KeepErrno::new();
            // SAFETY: made by alloc_pd, freed once, and everything in it, which holds it, is gone.
            // It fails only if the device is gone.
            unsafe { (self.adapter.library.dealloc_pd)(self.pd.as_ptr()) };
        }
    }
}

/// See [`crate::rdma::fabric::Domain`].
#[derive(Debug)]
pub(super) struct VerbsDomain {
    pd: Arc<Pd>,
    port: Arc<VerbsPort>,
}

impl VerbsDomain {
    pub(super) fn new(port: Arc<VerbsPort>) -> Result<Arc<Self>, Errno> {
        let pd = Arc::new(Pd::new(port.adapter())?);
        Ok(Arc::new(Self { pd, port }))
    }
}

impl Domain for VerbsDomain {
    unsafe fn register(
        self: Arc<Self>,
        base: NonNull<u8>,
        len: usize,
        access: Access,
    ) -> Result<Box<dyn Region>, Errno> {
        // SAFETY: by the contract.
        let region = unsafe { Registered::new(&self.pd, base, len, access)? };
        Ok(Box::new(region))
    }

    fn link(
        self: Arc<Self>,
        gid: LocalGid,
        psn: Psn,
        receive_size: usize,
    ) -> Result<Box<dyn Link>, Errno> {
        let port = Arc::clone(&self.port);
        let link = VerbsLink::new(port, &self.pd, gid, psn, receive_size)?;
        Ok(Box::new(link))
    }
}

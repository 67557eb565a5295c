//! An open device: its context, completion channel and queue.

use std::ffi::{CStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::Arc;

use rdma_sys::*;
use rustix::io::Errno;

use super::errno::{self, check};
use super::library::Library;
use super::owner::{self, Owner};
use super::states::Patience;
use super::{OpenError, provider, sysfs};
use crate::clc::{Mac, MtuCode};
use crate::fds;

/// Completions that a new queue has room for: those of ten links. It grows with them.
pub(super) const FIRST_CQE: usize = 2048;

/// The handles of a device. Pointers are null until they are made.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) library: &'static Library,
    pub(super) context: *mut ibv_context,
    channel: *mut ibv_comp_channel,
    pub(super) cq: *mut ibv_cq,
    /// The most completions that a queue of the device can hold.
    pub(super) max_cqe: usize,
    /// A file of the kernel's that can be read as long as the device is not removed.
    witness: Option<OwnedFd>,
    pub(super) patience: Patience,
    pub(super) owner: Owner,
}

// SAFETY: libibverbs' objects may be used by all threads (libibverbs locks where needed).
unsafe impl Send for Adapter {}
// SAFETY: as above.
unsafe impl Sync for Adapter {}

/// What is asked of a port when it is opened.
#[derive(Debug)]
pub(super) struct PortFacts {
    pub(super) mac: Mac,
    pub(super) mtu: MtuCode,
}

impl Adapter {
    /// Opens a device by its name.
    pub(super) fn open(library: &'static Library, device: &str) -> Result<Arc<Self>, OpenError> {
        let rest = owner::before_fork();
        let copies = library.kernel_copies_on_fork();
        if !copies.unwrap_or_else(sysfs::kernel_is_5_12) {
            return Err(OpenError::OldKernel);
        }
        if library.is_ours {
            provider::load(device, library.get_device_list as *const c_void);
        }
        let mut adapter = Self {
            library,
            context: open_context(library, device)?,
            channel: ptr::null_mut(),
            cq: ptr::null_mut(),
            max_cqe: FIRST_CQE,
            witness: None,
            patience: Patience::with(0),
            owner: Owner::this_process(),
        };
        let result = adapter.set_up();
        // Dropping the adapter takes it, too.
        drop(rest);
        result.map(|()| Arc::new(adapter))
    }

    fn set_up(&mut self) -> Result<(), OpenError> {
        // SAFETY: the context is open and nobody else knows it yet. Its descriptors belong to
        // libibverbs, which looks at these two fields at each use and closes them with the
        // context; no provider keeps a copy.
        unsafe {
            raise(&mut (*self.context).cmd_fd);
            raise(&mut (*self.context).async_fd);
        }
        owner::prepare(self.event_fd());
        let device = self.query_device()?;
        self.max_cqe = usize::try_from(device.max_cqe).unwrap_or(0);
        self.patience = Patience::with(device.vendor_id);
        // SAFETY: a context's device lives as long as it, and its name ends with 0.
        let name = unsafe { CStr::from_ptr((*(*self.context).device).dev_name.as_ptr()) };
        self.witness = sysfs::witness(name).map(fds::raise);
        // SAFETY: the context is open; each object is made of those before it.
        unsafe {
            self.channel = made(
                "ibv_create_comp_channel",
                (self.library.create_comp_channel)(self.context),
            )?;
            raise(&mut (*self.channel).fd);
        }
        owner::prepare(self.completion_fd());
        let entries = FIRST_CQE.min(self.max_cqe) as c_int;
        // SAFETY: as above.
        self.cq = made("ibv_create_cq", unsafe {
            (self.library.create_cq)(self.context, entries, ptr::null_mut(), self.channel, 0)
        })?;
        Ok(())
    }

    fn query_device(&self) -> Result<ibv_device_attr, OpenError> {
        let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
        // SAFETY: the context is open, and the structure is the library's to fill.
        check(unsafe { (self.library.query_device)(self.context, attributes.as_mut_ptr()) })
            .map_err(|errno| OpenError::of("ibv_query_device", errno))?;
        // SAFETY: filled, and all zero is valid.
        Ok(unsafe { attributes.assume_init() })
    }

    /// The port's attributes, those of them that every version of libibverbs fills.
    fn query_port(&self, port: u8) -> Result<ibv_port_attr, Errno> {
        let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
        // SAFETY: the exported function fills the first part of the structure (what is behind it
        // takes a call through a table whose layout grows with the versions, and is not needed).
        check(unsafe {
            (self.library.query_port)(self.context, port, attributes.as_mut_ptr().cast())
        })?;
        // SAFETY: all zero is valid, and so is what the library filled in.
        Ok(unsafe { attributes.assume_init() })
    }

    /// What SMC-R has to know of a port.
    pub(super) fn port(&self, device: &str, port: u8) -> Result<PortFacts, OpenError> {
        const ETHERNET: u8 = 2;
        let attributes = self.query_port(port).map_err(|errno| match errno {
            Errno::INVAL => OpenError::NoPort,
            errno => OpenError::of("ibv_query_port", errno),
        })?;
        // SAFETY: a context's device lives as long as it.
        let transport = unsafe { (*(*self.context).device).transport_type };
        if transport != ibv_transport_type::IBV_TRANSPORT_IB || attributes.link_layer != ETHERNET {
            return Err(OpenError::NotRoce);
        }
        if attributes.state != ibv_port_state::IBV_PORT_ACTIVE {
            return Err(OpenError::PortDown);
        }
        Ok(PortFacts {
            mac: sysfs::mac(device, port, attributes.gid_tbl_len).ok_or(OpenError::NoInterface)?,
            mtu: mtu_code(attributes.active_mtu)
                .ok_or(OpenError::Failed("ibv_query_port", Errno::PROTO))?,
        })
    }

    /// The port's path MTU now.
    pub(super) fn mtu(&self, port: u8) -> Option<MtuCode> {
        mtu_code(self.query_port(port).ok()?.active_mtu)
    }

    /// The GID at a place of the port's table.
    pub(super) fn gid(&self, port: u8, index: u8) -> Result<[u8; 16], Errno> {
        let mut gid = ibv_gid { raw: [0; 16] };
        // SAFETY: the context is open, and the GID is the library's to fill.
        check(unsafe { (self.library.query_gid)(self.context, port, index.into(), &raw mut gid) })?;
        // SAFETY: bytes in any case.
        Ok(unsafe { gid.raw })
    }

    /// Completions that the queue has room for.
    pub(super) fn completion_entries(&self) -> usize {
        // SAFETY: alive.
        usize::try_from(unsafe { (*self.cq).cqe }).unwrap_or(0)
    }

    /// Readable when a completion came for which it was armed.
    pub(super) fn completion_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the channel.
        unsafe { BorrowedFd::borrow_raw((*self.channel).fd) }
    }

    /// Readable when there is an asynchronous event.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open as long as the context.
        unsafe { BorrowedFd::borrow_raw((*self.context).async_fd) }
    }

    /// Takes one event out of the completion channel, if there is one.
    pub(super) fn take_completion_event(&self) {
        let (mut cq, mut cq_context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: channel and queue are open; the channel does not block.
        unsafe {
            if (self.library.get_cq_event)(self.channel, &raw mut cq, &raw mut cq_context) == 0 {
                (self.library.ack_cq_events)(self.cq, 1);
            }
        }
    }

    /// Asks for an event with the next completion.
    pub(super) fn arm(&self) {
        // SAFETY: context and queue are open.
        unsafe {
            // Not only for solicited ones: who waits for room waits for our own posts.
            if let Some(request) = (*self.context).ops.req_notify_cq {
                // A device that is gone refuses. Its event descriptor tells.
                request(self.cq, 0);
            }
        }
    }

    /// Whether the kernel has taken the device's files away. A driver that cannot take the device
    /// itself away while it is open tells nobody, and waits.
    pub(super) fn is_removed(&self) -> bool {
        let read = self
            .witness
            .as_ref()
            .map(|file| rustix::io::pread(file, &mut [0; 1], 0));
        matches!(read, Some(Err(Errno::NODEV)))
    }

    /// The descriptors of the device.
    fn descriptors(&self) -> [Option<RawFd>; 3] {
        // SAFETY: open, or null.
        unsafe {
            let context = self.context.as_ref();
            [
                context.map(|context| context.cmd_fd),
                context.map(|context| context.async_fd),
                self.channel.as_ref().map(|channel| channel.fd),
            ]
        }
    }
}

impl Drop for Adapter {
    fn drop(&mut self) {
        if !self.owner.is_here() {
            // The kernel and the adapter know only the parent. What is left here is memory.
            return;
        }
        let _rest = owner::before_fork();
        let _errno = errno::KeepErrno::new();
        self.descriptors()
            .into_iter()
            .flatten()
            .for_each(owner::forget);
        // SAFETY: each is open or null, and protection domains, which hold the adapter, are gone.
        // Errors would mean that the device is gone; libibverbs frees its memory all the same.
        unsafe {
            if !self.cq.is_null() {
                (self.library.destroy_cq)(self.cq);
            }
            if !self.channel.is_null() {
                (self.library.destroy_comp_channel)(self.channel);
            }
            (self.library.close_device)(self.context);
        }
    }
}

/// Opens the device of that name.
fn open_context(library: &Library, device: &str) -> Result<*mut ibv_context, OpenError> {
    let missing = |errno| OpenError::NoDevice {
        device: device.to_owned(),
        errno,
    };
    let mut count = 0;
    // SAFETY: the list is valid until it is freed; a device that was opened lives on with its
    // context.
    unsafe {
        let list = (library.get_device_list)(&raw mut count);
        if list.is_null() {
            return Err(missing(Some(errno::last())));
        }
        let found = (0..usize::try_from(count).unwrap_or(0))
            .map(|index| *list.add(index))
            .find(|&entry| {
                let name = (library.get_device_name)(entry);
                !name.is_null() && CStr::from_ptr(name).to_bytes() == device.as_bytes()
            });
        let opened = match found {
            None => Err(missing(None)),
            Some(entry) => made("ibv_open_device", (library.open_device)(entry)),
        };
        (library.free_device_list)(list);
        opened
    }
}

/// What a function that makes an object returned.
fn made<T>(call: &'static str, object: *mut T) -> Result<*mut T, OpenError> {
    if object.is_null() {
        Err(OpenError::of(call, errno::last()))
    } else {
        Ok(object)
    }
}

/// Moves a descriptor of libibverbs's among our own, out of the program's sight: programs rely on
/// getting the lowest free number.
///
/// # Safety
/// `fd` is open, and nobody but its field knows the number.
unsafe fn raise(fd: &mut c_int) {
    // SAFETY: by the contract.
    let raised = fds::raise(unsafe { OwnedFd::from_raw_fd(*fd) });
    // Where it could not be moved it must not go to what the program executes, either.
    let _ = rustix::io::fcntl_setfd(&raised, rustix::io::FdFlags::CLOEXEC);
    owner::remember(raised.as_raw_fd());
    // libibverbs closes it.
    fds::forget(raised.as_raw_fd());
    *fd = raised.into_raw_fd();
}

fn mtu_code(mtu: ibv_mtu::Type) -> Option<MtuCode> {
    let code = u8::try_from(mtu).ok().and_then(MtuCode::new)?;
    code.bytes().is_some().then_some(code)
}

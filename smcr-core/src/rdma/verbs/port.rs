//! A port.

use std::mem::{MaybeUninit, offset_of};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use rdma_sys::{ibv_async_event, ibv_event_type};
use rustix::io::Errno;

use super::OpenError;
use super::adapter::Adapter;
use super::completions::Completions;
use super::domain::VerbsDomain;
use super::errno::{self, KeepErrno};
use super::library;
use crate::clc::{Mac, MtuCode};
use crate::rdma::fabric::{Completion, Counts, Domain, LinkId, Port, PortEvent};

/// See [`crate::rdma::fabric::Port`].
#[derive(Debug)]
pub(super) struct VerbsPort {
    name: String,
    number: u8,
    mac: Mac,
    /// The code of the path MTU.
    mtu: AtomicU8,
    completions: Completions,
    /// That the device is gone was told.
    gone: AtomicBool,
    adapter: Arc<Adapter>,
}

impl VerbsPort {
    pub(super) fn open(device: &str, number: u8) -> Result<Arc<Self>, OpenError> {
        let _errno = KeepErrno::new();
        let library = library::load().map_err(|reason| OpenError::NoLibrary(reason.to_owned()))?;
        let adapter = Adapter::open(library, device)?;
        let facts = adapter.port(device, number)?;
        Ok(Arc::new(Self {
            name: format!("{device}/{number}"),
            number,
            mac: facts.mac,
            mtu: AtomicU8::new(facts.mtu.code()),
            completions: Completions::new(adapter.completion_entries()),
            gone: AtomicBool::new(false),
            adapter,
        }))
    }

    pub(super) fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    pub(super) fn number(&self) -> u8 {
        self.number
    }

    pub(super) fn completions(&self) -> &Completions {
        &self.completions
    }

    /// What an asynchronous event means for SMC-R, if anything.
    fn port_event(&self, event: &Event) -> Option<PortEvent> {
        const CQ_ERR: u32 = ibv_event_type::IBV_EVENT_CQ_ERR as u32;
        const QP_FATAL: u32 = ibv_event_type::IBV_EVENT_QP_FATAL as u32;
        const QP_REQ_ERR: u32 = ibv_event_type::IBV_EVENT_QP_REQ_ERR as u32;
        const QP_ACCESS_ERR: u32 = ibv_event_type::IBV_EVENT_QP_ACCESS_ERR as u32;
        const DEVICE_FATAL: u32 = ibv_event_type::IBV_EVENT_DEVICE_FATAL as u32;
        const PORT_ACTIVE: u32 = ibv_event_type::IBV_EVENT_PORT_ACTIVE as u32;
        const PORT_ERR: u32 = ibv_event_type::IBV_EVENT_PORT_ERR as u32;
        log::debug!("{}: asynchronous event {}", self.name, event.kind);
        let is_ours = event.port == i32::from(self.number);
        match event.kind {
            // The completion queue carries all links: without it nothing works.
            CQ_ERR | DEVICE_FATAL => {
                self.gone.store(true, Ordering::Relaxed);
                Some(PortEvent::Gone)
            }
            QP_FATAL | QP_REQ_ERR | QP_ACCESS_ERR => event
                .link
                .filter(|&link| self.completions.is_link(link))
                .map(PortEvent::LinkFailed),
            PORT_ACTIVE if is_ours => {
                if let Some(mtu) = self.adapter.mtu(self.number) {
                    self.mtu.store(mtu.code(), Ordering::Relaxed);
                }
                Some(PortEvent::Up)
            }
            PORT_ERR if is_ours => Some(PortEvent::Down),
            _ => None,
        }
    }

    /// The next asynchronous event of the device, without waiting.
    fn read_event(&self) -> Result<Event, Errno> {
        let library = self.adapter.library;
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: the context is open; its event descriptor does not block.
        if unsafe { (library.get_async_event)(self.adapter.context, event.as_mut_ptr()) } != 0 {
            return Err(errno::last());
        }
        let start = event.as_ptr().cast::<u8>();
        // SAFETY: the structure is filled. Its type is read as a number: a newer kernel has more
        // types than the headers. A queue pair that is named stays until the event is acknowledged.
        let read = unsafe {
            let kind = start
                .add(offset_of!(ibv_async_event, event_type))
                .cast::<u32>()
                .read();
            let element = start.add(offset_of!(ibv_async_event, element));
            let is_qp = (1..=7).contains(&kind) || kind == 16;
            let qp = is_qp.then(|| element.cast::<*const rdma_sys::ibv_qp>().read());
            Event {
                kind,
                link: qp.and_then(|qp| qp.as_ref()).map(|qp| LinkId(qp.qp_num)),
                port: element.cast::<i32>().read(),
            }
        };
        // SAFETY: got above, acknowledged once. The type is one that the library knows, or it
        // does nothing.
        unsafe { (library.ack_async_event)(event.as_mut_ptr()) };
        Ok(read)
    }
}

/// An asynchronous event.
struct Event {
    /// As numbered by libibverbs.
    kind: u32,
    /// The queue pair, if it is about one.
    link: Option<LinkId>,
    /// The port, if it is about one; else meaningless.
    port: i32,
}

impl Port for VerbsPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn mtu(&self) -> MtuCode {
        MtuCode::new(self.mtu.load(Ordering::Relaxed)).expect("it was made from an MtuCode")
    }

    fn domain(self: Arc<Self>) -> Result<Arc<dyn Domain>, Errno> {
        Ok(VerbsDomain::new(self)?)
    }

    fn poll(&self, found: &mut dyn FnMut(Completion<'_>)) -> usize {
        self.completions.poll(&self.adapter, found)
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.adapter.completion_fd()
    }

    fn take_event(&self) {
        let _errno = KeepErrno::new();
        self.adapter.take_completion_event();
    }

    fn arm(&self) {
        let _errno = KeepErrno::new();
        self.adapter.arm();
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.adapter.event_fd()
    }

    fn event(&self) -> Option<PortEvent> {
        let _errno = KeepErrno::new();
        loop {
            match self.read_event() {
                Ok(event) => {
                    if let Some(event) = self.port_event(&event) {
                        return Some(event);
                    }
                }
                Err(Errno::AGAIN) => return None,
                Err(Errno::INTR) => {}
                // The kernel has taken the device away. Told once: the descriptor stays readable.
                Err(_) => {
                    let was_told = self.gone.swap(true, Ordering::Relaxed);
                    return (!was_told).then_some(PortEvent::Gone);
                }
            }
        }
    }

    fn is_removed(&self) -> bool {
        if self.adapter.is_removed() {
            self.gone.store(true, Ordering::Relaxed);
        }
        self.is_gone()
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    fn counts(&self) -> Counts {
        self.completions.counts()
    }
}

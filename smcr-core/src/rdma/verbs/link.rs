//! A queue pair.

use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdma_sys::*;
use rustix::io::Errno;

use super::domain::Pd;
use super::errno::{self, KeepErrno};
use super::port::VerbsPort;
use super::queue::{LONG_MESSAGES, Layout, Queue, RECEIVE_DEPTH, Request, SEND_DEPTH, SHORT};
use super::states;
use crate::clc::{Psn, QpNumber};
use crate::rdma::fabric::{Link, LinkAddress, LinkId, LocalGid, Port, Write};

/// Inline bytes worth having: a CDC or LLC message of 44 bytes, and small WRITEs.
const INLINE_WISHED: [u32; 3] = [64, 44, 0];

/// Every message that is this many requests behind the last signalled one is signalled.
const SIGNAL_EVERY: usize = SEND_DEPTH / 4;

/// Requests are numbered modulo 2^31.
const NUMBER: u32 = (1 << 31) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Init,
    ReadyToReceive,
    ReadyToSend,
}

/// See [`crate::rdma::fabric::Link`].
#[derive(Debug)]
pub(super) struct VerbsLink {
    port: Arc<VerbsPort>,
    /// Freed after the queue pair, which `drop` has destroyed by then.
    _pd: Arc<Pd>,
    qp: NonNull<ibv_qp>,
    queue: Arc<Queue>,
    address: LinkAddress,
    gid_index: u8,
    state: State,
    layout: Layout,
    max_inline: usize,
    /// Requests posted so far, modulo 2^31.
    posted: u32,
    /// How many of them came after the last signalled one.
    unsignalled: usize,
    /// The message that each long buffer was last used for.
    long: [Option<u32>; LONG_MESSAGES],
    chain: Box<Chain>,
}

/// A chain of requests, built anew in each post. Too large for the stack of a small thread.
struct Chain {
    requests: [ibv_send_wr; SEND_DEPTH],
    elements: [ibv_sge; SEND_DEPTH],
}

impl std::fmt::Debug for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chain")
    }
}

// SAFETY: libibverbs' objects may be used by any thread; the pointers in the chain are set anew
// before each use.
unsafe impl Send for VerbsLink {}

impl VerbsLink {
    /// Makes a queue pair in INIT, with its receives posted.
    pub(super) fn new(
        port: Arc<VerbsPort>,
        pd: &Arc<Pd>,
        gid: LocalGid,
        psn: Psn,
        receive_size: usize,
    ) -> Result<Self, Errno> {
        let _errno = KeepErrno::new();
        if receive_size == 0 || u32::try_from(receive_size).is_err() {
            return Err(Errno::INVAL);
        }
        let adapter = port.adapter();
        // The table of GIDs may have changed since somebody looked there.
        if adapter.gid(port.number(), gid.index)? != gid.gid.0 {
            return Err(Errno::ADDRNOTAVAIL);
        }
        let reserved = port.completions().reserve(adapter)?;
        let (qp, max_inline) = create(pd)?;
        // Until the link exists, this destroys the queue pair when something fails.
        let guard = QueuePair { port: &port, qp };
        let slab = Queue::make_slab(pd, receive_size, max_inline >= 44)?;
        // SAFETY: the queue pair is alive.
        let number = unsafe { qp.as_ref() }.qp_num;
        let qpn = QpNumber::new(number).ok_or(Errno::PROTO)?;
        // SAFETY: the queue pair is alive; the link closes the queue before it destroys it, and
        // so does the guard.
        let queue = port.completions().enter(reserved, |tag| unsafe {
            Queue::new(tag, qp, slab, receive_size)
        })?;
        let link = Self {
            address: LinkAddress {
                gid: gid.gid,
                mac: port.mac(),
                qpn,
                psn,
                mtu: port.mtu(),
            },
            qp,
            queue,
            gid_index: gid.index,
            state: State::Init,
            layout: Layout::new(receive_size, max_inline >= 44),
            max_inline,
            posted: 0,
            unsignalled: 0,
            long: [None; LONG_MESSAGES],
            // SAFETY: numbers and raw pointers, for which 0 is valid.
            chain: unsafe { Box::<Chain>::new_zeroed().assume_init() },
            port: port.clone(),
            _pd: Arc::clone(pd),
        };
        // From here on dropping the link does it.
        std::mem::forget(guard);
        // SAFETY: alive.
        unsafe { states::init(port.adapter().library, qp, port.number())? };
        link.queue.post_receives()?;
        Ok(link)
    }

    /// Puts the WRITEs into the chain, as the requests from `self.posted` on.
    fn chain_writes(&mut self, writes: &[Write]) {
        for (slot, write) in writes.iter().enumerate() {
            let number = self.posted.wrapping_add(slot as u32) & NUMBER;
            let element = &mut self.chain.elements[slot];
            *element = ibv_sge {
                addr: write.from.as_ptr() as u64,
                length: write.len,
                lkey: write.lkey,
            };
            let is_small = write.len as usize <= self.max_inline;
            let request = &mut self.chain.requests[slot];
            request.wr_id = Request::Send(number).id(self.queue.tag);
            request.sg_list = element;
            request.num_sge = 1;
            request.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE;
            request.send_flags = if is_small {
                ibv_send_flags::IBV_SEND_INLINE.0
            } else {
                0
            };
            request.wr = wr_t {
                rdma: rdma_t {
                    remote_addr: write.to,
                    rkey: write.rkey.0,
                },
            };
        }
    }

    /// Puts the message behind them. Returns the long buffer that it lies in, if it needs one.
    fn chain_message(&mut self, slot: usize, message: &[u8]) -> Result<Option<usize>, Errno> {
        let number = self.posted.wrapping_add(slot as u32) & NUMBER;
        let (mut addr, mut lkey) = (message.as_ptr(), 0);
        let mut flags = ibv_send_flags::IBV_SEND_SOLICITED.0;
        let mut long = None;
        if message.len() <= self.max_inline {
            flags |= ibv_send_flags::IBV_SEND_INLINE.0;
        } else {
            let offset = if self.max_inline < 44 && message.len() <= SHORT {
                self.layout.short(number)
            } else {
                let index = self.free_long()?;
                long = Some(index);
                self.layout.long(index)
            };
            let buffer = self.queue.slab.at(offset);
            // SAFETY: the buffer is as long as such messages can be, and the adapter has sent
            // what it held before.
            unsafe { ptr::copy_nonoverlapping(message.as_ptr(), buffer, message.len()) };
            (addr, lkey) = (buffer, self.queue.slab.lkey());
        }
        let element = &mut self.chain.elements[slot];
        *element = ibv_sge {
            addr: addr as u64,
            length: message.len() as u32,
            lkey,
        };
        let request = &mut self.chain.requests[slot];
        request.wr_id = Request::Send(number).id(self.queue.tag);
        request.sg_list = element;
        request.num_sge = 1;
        request.opcode = ibv_wr_opcode::IBV_WR_SEND;
        request.send_flags = flags;
        Ok(long)
    }

    /// A long buffer whose message has been sent.
    fn free_long(&mut self) -> Result<usize, Errno> {
        let is_free = |last: &Option<u32>| last.is_none_or(|n| self.queue.is_done(n, self.posted));
        self.long.iter().position(is_free).ok_or(Errno::AGAIN)
    }

    /// Links the first `count` requests of the chain and hands them to the adapter.
    fn post_chain(&mut self, count: usize) -> Result<(), Errno> {
        let requests = self.chain.requests.as_mut_ptr();
        // SAFETY: `count` is at most the array's length; the requests and their elements are
        // valid during the call, which copies them. The queue pair is alive.
        let (ret, bad) = unsafe {
            for slot in 0..count - 1 {
                (*requests.add(slot)).next = requests.add(slot + 1);
            }
            (*requests.add(count - 1)).next = ptr::null_mut();
            let mut bad = ptr::null_mut();
            let post = (*self.qp.as_ref().context).ops.post_send;
            let post = post.ok_or(Errno::NOSYS)?;
            (post(self.qp.as_ptr(), requests, &raw mut bad), bad)
        };
        let Err(error) = errno::check(ret) else {
            return Ok(());
        };
        if bad == requests && error == Errno::NOMEM {
            // The adapter's queue is fuller than we know. Nothing was posted.
            return Err(Errno::AGAIN);
        }
        // Perhaps a part of it was posted: what the peer sees of it must be the last of this link.
        self.queue.set_broken();
        // SAFETY: alive. If that fails, too, the device is gone.
        let _ = unsafe { states::error(self.port.adapter().library, self.qp) };
        Err(Errno::NOTCONN)
    }
}

impl Link for VerbsLink {
    fn id(&self) -> LinkId {
        self.queue.link
    }

    fn address(&self) -> LinkAddress {
        self.address
    }

    fn connect(&mut self, peer: &LinkAddress) -> Result<(), Errno> {
        if self.state != State::Init {
            return Err(Errno::ISCONN);
        }
        let _errno = KeepErrno::new();
        let (number, mtu) = (self.port.number(), self.address.mtu);
        let library = self.port.adapter().library;
        // SAFETY: alive.
        unsafe { states::ready_to_receive(library, self.qp, number, self.gid_index, mtu, peer)? };
        self.state = State::ReadyToReceive;
        Ok(())
    }

    fn ready_to_send(&mut self) -> Result<(), Errno> {
        match self.state {
            State::Init => return Err(Errno::NOTCONN),
            State::ReadyToReceive => {}
            State::ReadyToSend => return Ok(()),
        }
        let _errno = KeepErrno::new();
        let adapter = self.port.adapter();
        let (psn, patience) = (self.address.psn, adapter.patience);
        // SAFETY: alive.
        unsafe { states::ready_to_send(adapter.library, self.qp, psn, patience)? };
        self.state = State::ReadyToSend;
        Ok(())
    }

    fn room(&self) -> usize {
        SEND_DEPTH - self.queue.in_flight(self.posted).min(SEND_DEPTH)
    }

    unsafe fn post(
        &mut self,
        writes: &[Write],
        message: &[u8],
        id: u64,
        signal: bool,
    ) -> Result<(), Errno> {
        if self.state != State::ReadyToSend || self.queue.is_broken() {
            return Err(Errno::NOTCONN);
        }
        let count = writes.len() + 1;
        // A length of 0 means 2 GiB to some adapters.
        if count > SEND_DEPTH || message.is_empty() || writes.iter().any(|write| write.len == 0) {
            return Err(Errno::INVAL);
        }
        if message.len() > self.layout.longest() {
            return Err(Errno::MSGSIZE);
        }
        if count > self.room() {
            return Err(Errno::AGAIN);
        }
        let _errno = KeepErrno::new();
        let long = self.chain_message(count - 1, message)?;
        self.chain_writes(writes);
        let is_signalled = signal || long.is_some() || self.unsignalled + count >= SIGNAL_EVERY;
        if is_signalled {
            self.chain.requests[count - 1].send_flags |= ibv_send_flags::IBV_SEND_SIGNALED.0;
        }
        let number = self.posted.wrapping_add(count as u32 - 1) & NUMBER;
        self.queue.set_id(number, id);
        self.post_chain(count)?;
        if let Some(index) = long {
            self.long[index] = Some(number);
        }
        self.posted = self.posted.wrapping_add(count as u32) & NUMBER;
        self.unsignalled = if is_signalled {
            0
        } else {
            self.unsignalled + count
        };
        self.queue.count_post(writes.len());
        Ok(())
    }
}

impl Drop for VerbsLink {
    fn drop(&mut self) {
        if !self.port.adapter().owner.is_here() {
            return;
        }
        self.port.completions().leave(&self.queue);
        self.queue.close();
        drop(QueuePair {
            port: &self.port,
            qp: self.qp,
        });
    }
}

/// Destroys a queue pair when dropped.
struct QueuePair<'a> {
    port: &'a VerbsPort,
    qp: NonNull<ibv_qp>,
}

impl Drop for QueuePair<'_> {
    fn drop(&mut self) {
        let _errno = KeepErrno::new();
        // SAFETY: alive, and not used afterwards. The kernel waits until nobody reads an event of
        // it, which `Port::event` does without stopping in between.
        unsafe { (self.port.adapter().library.destroy_qp)(self.qp.as_ptr()) };
    }
}

/// Creates a queue pair with as many inline bytes as can be had of [`INLINE_WISHED`].
fn create(pd: &Pd) -> Result<(NonNull<ibv_qp>, usize), Errno> {
    let adapter = &pd.adapter;
    let mut error = Errno::INVAL;
    for max_inline in INLINE_WISHED {
        // SAFETY: numbers and raw pointers, for which 0 is valid.
        let mut wish: ibv_qp_init_attr = unsafe { MaybeUninit::zeroed().assume_init() };
        wish.send_cq = adapter.cq;
        wish.recv_cq = adapter.cq;
        wish.qp_type = ibv_qp_type::IBV_QPT_RC;
        wish.cap.max_send_wr = SEND_DEPTH as u32;
        wish.cap.max_recv_wr = RECEIVE_DEPTH as u32;
        wish.cap.max_send_sge = 1;
        wish.cap.max_recv_sge = 1;
        wish.cap.max_inline_data = max_inline;
        // SAFETY: the protection domain and the queue are alive; the library fills in what we got.
        let qp = unsafe { (adapter.library.create_qp)(pd.as_ptr(), &raw mut wish) };
        if let Some(qp) = NonNull::new(qp) {
            return Ok((qp, wish.cap.max_inline_data as usize));
        }
        error = errno::last();
        if error != Errno::INVAL {
            break;
        }
    }
    Err(error)
}

//! What a queue pair's owner and the one who polls share: which requests are under way, and the
//! receive buffers.

use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rdma_sys::{ibv_qp, ibv_recv_wr, ibv_sge, ibv_wc_status};
use rustix::io::Errno;

use super::domain::Pd;
use super::memory::Slab;
use crate::rdma::fabric::{Counts, LinkError, LinkId};

/// Work requests that a send queue holds.
pub(super) const SEND_DEPTH: usize = 128;

/// Receive buffers of a queue pair.
pub(super) const RECEIVE_DEPTH: usize = 64;

/// So many used receive buffers are posted again at a time; three quarters are posted always.
const REPOST: usize = 16;

/// Completions that a queue pair can have outstanding: in error all requests complete, signalled
/// or not.
pub(super) const COMPLETIONS: usize = SEND_DEPTH + RECEIVE_DEPTH;

/// Buffers for messages that do not fit inline, if the device has inline at all.
pub(super) const LONG_MESSAGES: usize = 4;

/// Bytes of a buffer for a short message, where the device has no inline.
pub(super) const SHORT: usize = 64;

/// Send requests are numbered modulo 2^31, receive buffers have this bit.
const RECEIVE: u32 = 1 << 31;
const NUMBER: u32 = RECEIVE - 1;

/// What a work request's id says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// The nth request of the send queue.
    Send(u32),
    /// This receive buffer.
    Receive(usize),
}

impl Request {
    /// The id of a work request: the queue's tag tells which queue pair it belongs to, even if
    /// that one is gone and its number was given to another.
    pub(super) fn id(self, tag: u32) -> u64 {
        let low = match self {
            Self::Send(number) => number & NUMBER,
            Self::Receive(index) => RECEIVE | index as u32,
        };
        u64::from(tag) << 32 | u64::from(low)
    }

    pub(super) fn parse(id: u64) -> (u32, Self) {
        let low = id as u32;
        let request = if low & RECEIVE == 0 {
            Self::Send(low)
        } else {
            Self::Receive((low & NUMBER) as usize)
        };
        ((id >> 32) as u32, request)
    }
}

/// Receive buffers that are not posted.
#[derive(Debug)]
struct Receives {
    /// Null once the queue pair is destroyed.
    qp: *mut ibv_qp,
    waiting: [u8; RECEIVE_DEPTH],
    count: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) tag: u32,
    pub(super) link: LinkId,
    /// Receive buffers, then those of messages.
    pub(super) slab: Slab,
    pub(super) receive_size: usize,
    receives: Mutex<Receives>,
    /// Requests of the send queue that are done, modulo 2^31.
    completed: AtomicU32,
    /// What each request's message was called, by its number modulo the depth.
    ids: [AtomicU64; SEND_DEPTH],
    /// Nothing can be posted any more.
    broken: AtomicBool,
    /// Which kinds of failure were told.
    told: AtomicU8,
    writes: AtomicU64,
    sends: AtomicU64,
    doorbells: AtomicU64,
}

// SAFETY: the queue pair is used under the lock of `receives`, and the slab's parts by one side
// each: receive buffers by who polls, message buffers by the link.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// Bookkeeping of a new queue pair.
    ///
    /// # Safety
    /// `qp` is a queue pair that lives until [`Self::close`].
    pub(super) unsafe fn new(
        tag: u32,
        qp: NonNull<ibv_qp>,
        slab: Slab,
        receive_size: usize,
    ) -> Self {
        Self {
            tag,
            // SAFETY: by the contract.
            link: LinkId(unsafe { qp.as_ref() }.qp_num),
            slab,
            receive_size,
            receives: Mutex::new(Receives {
                qp: qp.as_ptr(),
                waiting: std::array::from_fn(|index| index as u8),
                count: RECEIVE_DEPTH,
            }),
            completed: AtomicU32::new(0),
            ids: [const { AtomicU64::new(0) }; SEND_DEPTH],
            broken: AtomicBool::new(false),
            told: AtomicU8::new(0),
            writes: AtomicU64::new(0),
            sends: AtomicU64::new(0),
            doorbells: AtomicU64::new(0),
        }
    }

    /// Posts all receive buffers.
    pub(super) fn post_receives(&self) -> Result<(), Errno> {
        let mut receives = self.receives.lock();
        while receives.count > 0 {
            self.repost(&mut receives)?;
        }
        Ok(())
    }

    /// The queue pair is about to be destroyed.
    pub(super) fn close(&self) {
        self.receives.lock().qp = ptr::null_mut();
    }

    /// A buffer was received into, and is free again.
    pub(super) fn received(&self, index: usize) {
        let mut receives = self.receives.lock();
        let count = receives.count;
        if count == RECEIVE_DEPTH {
            // More than were posted: no device does that.
            return;
        }
        receives.waiting[count] = index as u8;
        receives.count += 1;
        if receives.count >= REPOST && self.repost(&mut receives).is_err() {
            self.set_broken();
        }
    }

    /// Posts up to [`REPOST`] waiting buffers as one chain.
    fn repost(&self, receives: &mut Receives) -> Result<(), Errno> {
        if receives.qp.is_null() {
            receives.count = 0;
            return Ok(());
        }
        let count = receives.count.min(REPOST);
        let first = receives.count - count;
        let mut elements = [ibv_sge {
            addr: 0,
            length: self.receive_size as u32,
            lkey: self.slab.lkey(),
        }; REPOST];
        let mut requests = [ibv_recv_wr {
            wr_id: 0,
            next: ptr::null_mut(),
            sg_list: ptr::null_mut(),
            num_sge: 1,
        }; REPOST];
        let mut next = ptr::null_mut();
        // From the last to the first, each in front of the one before.
        for slot in (0..count).rev() {
            let index = usize::from(receives.waiting[first + slot]);
            elements[slot].addr = self.slab.at(index * self.receive_size) as u64;
            requests[slot] = ibv_recv_wr {
                wr_id: Request::Receive(index).id(self.tag),
                next,
                sg_list: &raw mut elements[slot],
                num_sge: 1,
            };
            next = &raw mut requests[slot];
        }
        receives.count = first;
        let mut bad = ptr::null_mut();
        // SAFETY: the queue pair lives (it is not null, under the lock), and the chain is valid
        // during the call, which copies it. The buffers are inside the slab.
        let ret = unsafe {
            let post = (*(*receives.qp).context)
                .ops
                .post_recv
                .ok_or(Errno::NOSYS)?;
            post(receives.qp, next, &raw mut bad)
        };
        super::errno::check(ret)
    }

    /// A received message. Valid until [`Self::received`] is called for the buffer.
    pub(super) fn message(&self, index: usize, len: usize) -> &[u8] {
        let len = len.min(self.receive_size);
        if index >= RECEIVE_DEPTH || len == 0 {
            return &[];
        }
        // SAFETY: inside the slab; the adapter is done with the buffer, and nobody else may write
        // there.
        unsafe { std::slice::from_raw_parts(self.slab.at(index * self.receive_size), len) }
    }

    /// How many requests are under way, of the link that has posted `posted`.
    pub(super) fn in_flight(&self, posted: u32) -> usize {
        (posted.wrapping_sub(self.completed.load(Ordering::Acquire)) & NUMBER) as usize
    }

    /// Whether the request with this number is done.
    pub(super) fn is_done(&self, number: u32, posted: u32) -> bool {
        let age = posted.wrapping_sub(number) & NUMBER;
        self.in_flight(posted) < age as usize
    }

    /// The message with this number is about to be posted.
    pub(super) fn set_id(&self, number: u32, id: u64) {
        self.ids[number as usize % SEND_DEPTH].store(id, Ordering::Release);
    }

    /// A message is done, and everything before it. Returns what it was called.
    pub(super) fn sent(&self, number: u32) -> u64 {
        let id = self.ids[number as usize % SEND_DEPTH].load(Ordering::Acquire);
        self.completed
            .store(number.wrapping_add(1) & NUMBER, Ordering::Release);
        id
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// A request failed. Returns what to tell of it: a cause once, and before it once that
    /// requests came back.
    pub(super) fn failed(&self, status: ibv_wc_status::Type) -> Option<LinkError> {
        const FLUSH: u8 = 1;
        const CAUSE: u8 = 2;
        self.set_broken();
        let error = link_error(status);
        let (bit, enough) = match error {
            LinkError::Flushed => (FLUSH, FLUSH | CAUSE),
            _ => (CAUSE, CAUSE),
        };
        (self.told.fetch_or(bit, Ordering::Relaxed) & enough == 0).then_some(error)
    }

    /// Counts a post. Only the link's owner calls this.
    pub(super) fn count_post(&self, writes: usize) {
        let add = |counter: &AtomicU64, more: u64| {
            counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        };
        add(&self.writes, writes as u64);
        add(&self.sends, 1);
        add(&self.doorbells, 1);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            writes: self.writes.load(Ordering::Relaxed),
            sends: self.sends.load(Ordering::Relaxed),
            doorbells: self.doorbells.load(Ordering::Relaxed),
        }
    }

    /// Bytes of a slab: receive buffers, buffers for short messages where the device has no
    /// inline, and those for longer messages.
    pub(super) fn make_slab(
        pd: &Arc<Pd>,
        receive_size: usize,
        has_inline: bool,
    ) -> Result<Slab, Errno> {
        let layout = Layout::new(receive_size, has_inline);
        Slab::new(pd, layout.end)
    }
}

/// Where things lie in a slab.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    short: usize,
    long: usize,
    long_size: usize,
    end: usize,
}

impl Layout {
    pub(super) fn new(receive_size: usize, has_inline: bool) -> Self {
        let short = (RECEIVE_DEPTH * receive_size).next_multiple_of(SHORT);
        let long = short + if has_inline { 0 } else { SEND_DEPTH * SHORT };
        let long_size = receive_size.max(SHORT);
        Self {
            short,
            long,
            long_size,
            end: long + LONG_MESSAGES * long_size,
        }
    }

    /// The offset of the buffer for a short message with this number.
    pub(super) fn short(&self, number: u32) -> usize {
        self.short + number as usize % SEND_DEPTH * SHORT
    }

    /// The offset of a buffer for a long message.
    pub(super) fn long(&self, index: usize) -> usize {
        self.long + index * self.long_size
    }

    /// The longest message.
    pub(super) fn longest(&self) -> usize {
        self.long_size
    }
}

fn link_error(status: ibv_wc_status::Type) -> LinkError {
    use ibv_wc_status::*;
    match status {
        IBV_WC_WR_FLUSH_ERR => LinkError::Flushed,
        IBV_WC_RETRY_EXC_ERR | IBV_WC_RNR_RETRY_EXC_ERR | IBV_WC_RESP_TIMEOUT_ERR => {
            LinkError::Unreachable
        }
        IBV_WC_REM_INV_REQ_ERR
        | IBV_WC_REM_ACCESS_ERR
        | IBV_WC_REM_OP_ERR
        | IBV_WC_REM_ABORT_ERR => LinkError::Refused,
        _ => LinkError::Local,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_requests() {
        for (tag, request) in [
            (0, Request::Send(0)),
            (7, Request::Send(NUMBER)),
            (u32::MAX, Request::Receive(63)),
            (1, Request::Receive(0)),
        ] {
            assert_eq!(Request::parse(request.id(tag)), (tag, request));
        }
    }

    #[test]
    fn numbers_wrap_where_a_buffer_begins_again() {
        assert_eq!((NUMBER as usize + 1) % SEND_DEPTH, 0);
    }

    #[test]
    fn parts_of_a_slab_do_not_overlap() {
        for (receive_size, has_inline) in [(44, true), (44, false), (8192, true), (8192, false)] {
            let layout = Layout::new(receive_size, has_inline);
            assert!(layout.short >= RECEIVE_DEPTH * receive_size);
            if !has_inline {
                assert_eq!(layout.short(0), layout.short);
                assert_eq!(layout.short(128), layout.short);
                assert!(layout.short(127) + SHORT <= layout.long(0));
            }
            assert!(layout.longest() >= receive_size);
            assert_eq!(
                layout.long(LONG_MESSAGES - 1) + layout.longest(),
                layout.end
            );
        }
    }

    #[test]
    fn every_status_is_a_failure_of_some_kind() {
        use ibv_wc_status::*;
        let kinds = [
            (IBV_WC_LOC_LEN_ERR, LinkError::Local),
            (IBV_WC_LOC_PROT_ERR, LinkError::Local),
            (IBV_WC_WR_FLUSH_ERR, LinkError::Flushed),
            (IBV_WC_REM_ACCESS_ERR, LinkError::Refused),
            (IBV_WC_REM_INV_REQ_ERR, LinkError::Refused),
            (IBV_WC_RETRY_EXC_ERR, LinkError::Unreachable),
            (IBV_WC_GENERAL_ERR, LinkError::Local),
            (4711, LinkError::Local),
        ];
        for (status, error) in kinds {
            assert_eq!(link_error(status), error, "{status}");
        }
    }
}

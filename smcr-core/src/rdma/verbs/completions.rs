//! The completion queue of a port and the queue pairs that share it.

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rdma_sys::{ibv_wc, ibv_wc_opcode, ibv_wc_status};
use rustix::io::Errno;

use super::adapter::Adapter;
use super::errno::{KeepErrno, check};
use super::queue::{COMPLETIONS, Queue, Request};
use crate::rdma::fabric::{Completion, Counts, LinkId};

/// Completions taken from the adapter at a time.
const BATCH: usize = 32;

/// Links of a port, at most.
const SLOTS: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Completions {
    /// One at a time: what is found has to be handed out in order.
    polling: Mutex<()>,
    slots: RwLock<Slots>,
    room: Mutex<Room>,
    /// Completions that destroyed links may have left behind.
    leaving: AtomicUsize,
}

#[derive(Debug)]
struct Slots {
    /// By the tag modulo [`SLOTS`].
    queues: Vec<Option<Arc<Queue>>>,
    /// Of the tags given out so far.
    serial: u32,
    /// What links that are gone have posted.
    retired: Counts,
}

/// How full the completion queue can get.
#[derive(Debug)]
struct Room {
    size: usize,
    used: usize,
}

/// Room in the completion queue for one link; given back on drop, if no link took it.
pub(super) struct Reserved<'a>(&'a Completions);

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.0.room.lock().used -= COMPLETIONS;
    }
}

impl Completions {
    /// For a completion queue of that many entries.
    pub(super) fn new(size: usize) -> Self {
        Self {
            polling: Mutex::new(()),
            slots: RwLock::new(Slots {
                queues: Vec::new(),
                serial: 0,
                retired: Counts::default(),
            }),
            room: Mutex::new(Room { size, used: 0 }),
            leaving: AtomicUsize::new(0),
        }
    }

    /// Makes room for the completions of one more link: a completion queue that overflows takes all
    /// links with it.
    pub(super) fn reserve(&self, adapter: &Adapter) -> Result<Reserved<'_>, Errno> {
        let mut room = self.room.lock();
        let wanted = room.used + self.leaving.load(Ordering::Acquire) + COMPLETIONS;
        if wanted > room.size {
            let size = wanted.next_power_of_two().min(adapter.max_cqe);
            if wanted > size {
                return Err(Errno::NOBUFS);
            }
            // SAFETY: the queue is alive; libibverbs locks it against who polls meanwhile.
            check(unsafe { (adapter.library.resize_cq)(adapter.cq, size as c_int) })?;
            room.size = size;
        }
        room.used += COMPLETIONS;
        Ok(Reserved(self))
    }

    /// Adds a queue pair, which `make` wraps with its tag.
    pub(super) fn enter(
        &self,
        reserved: Reserved<'_>,
        make: impl FnOnce(u32) -> Queue,
    ) -> Result<Arc<Queue>, Errno> {
        let mut slots = self.slots.write();
        let slot = match slots.queues.iter().position(Option::is_none) {
            Some(slot) => slot,
            None if slots.queues.len() < SLOTS => {
                slots.queues.push(None);
                slots.queues.len() - 1
            }
            None => return Err(Errno::NOBUFS),
        };
        slots.serial = slots.serial.wrapping_add(1);
        // Another tag than all that had this slot before, for four million links.
        let tag = slots
            .serial
            .wrapping_mul(SLOTS as u32)
            .wrapping_add(slot as u32);
        let queue = Arc::new(make(tag));
        slots.queues[slot] = Some(queue.clone());
        std::mem::forget(reserved);
        Ok(queue)
    }

    /// A link is about to be destroyed: its completions mean nothing any more.
    pub(super) fn leave(&self, queue: &Queue) {
        let mut slots = self.slots.write();
        slots.queues[queue.tag as usize % SLOTS] = None;
        let counts = queue.counts();
        slots.retired = sum(slots.retired, counts);
        drop(slots);
        let mut room = self.room.lock();
        room.used -= COMPLETIONS;
        self.leaving.fetch_add(COMPLETIONS, Ordering::AcqRel);
    }

    /// The queue with this tag.
    fn queue(&self, tag: u32) -> Option<Arc<Queue>> {
        let slots = self.slots.read();
        let queue = slots.queues.get(tag as usize % SLOTS)?.as_ref()?;
        (queue.tag == tag).then(|| queue.clone())
    }

    /// See [`crate::rdma::fabric::Port::poll`].
    pub(super) fn poll(&self, adapter: &Adapter, found: &mut dyn FnMut(Completion<'_>)) -> usize {
        let _errno = KeepErrno::new();
        let _turn = self.polling.lock();
        let leaving = self.leaving.load(Ordering::Acquire);
        let mut completions = [const { MaybeUninit::<ibv_wc>::uninit() }; BATCH];
        // SAFETY: the queue is alive, and there is room for that many.
        let count = unsafe {
            let Some(poll) = (*adapter.context).ops.poll_cq else {
                return 0;
            };
            poll(adapter.cq, BATCH as c_int, completions.as_mut_ptr().cast())
        };
        // Below 0: the device is gone, which its event descriptor tells.
        let count = usize::try_from(count).unwrap_or(0).min(BATCH);
        for completion in &completions[..count] {
            // SAFETY: the adapter filled the first `count`.
            self.hand_out(unsafe { completion.assume_init_ref() }, found);
        }
        if count < BATCH && leaving > 0 {
            // The queue was empty, so what was in it of those links has been dropped.
            self.leaving.fetch_sub(leaving, Ordering::AcqRel);
        }
        count
    }

    fn hand_out(&self, completion: &ibv_wc, found: &mut dyn FnMut(Completion<'_>)) {
        let (tag, request) = Request::parse(completion.wr_id);
        let Some(queue) = self.queue(tag) else {
            return;
        };
        let link = queue.link;
        if completion.status != ibv_wc_status::IBV_WC_SUCCESS {
            if let Some(error) = queue.failed(completion.status) {
                log::debug!(
                    "queue pair {}: {request:?} failed with status {} ({error:?})",
                    link.0,
                    completion.status
                );
                found(Completion::Failed { link, error });
            }
            return;
        }
        match request {
            Request::Send(number) => {
                let id = queue.sent(number);
                found(Completion::Sent { link, id });
            }
            Request::Receive(index) => {
                // A WRITE with immediate data uses up a buffer and puts nothing there. SMC-R has
                // none (RFC 7609 §4.7).
                if completion.opcode == ibv_wc_opcode::IBV_WC_RECV {
                    let message = queue.message(index, completion.byte_len as usize);
                    found(Completion::Received { link, message });
                }
                queue.received(index);
            }
        }
    }

    /// Whether a queue pair with that number is one of ours, and lives.
    pub(super) fn is_link(&self, link: LinkId) -> bool {
        let slots = self.slots.read();
        slots
            .queues
            .iter()
            .flatten()
            .any(|queue| queue.link == link)
    }

    /// What all links have posted.
    pub(super) fn counts(&self) -> Counts {
        let slots = self.slots.read();
        slots
            .queues
            .iter()
            .flatten()
            .fold(slots.retired, |total, queue| sum(total, queue.counts()))
    }
}

fn sum(a: Counts, b: Counts) -> Counts {
    Counts {
        writes: a.writes + b.writes,
        sends: a.sends + b.sends,
        doorbells: a.doorbells + b.doorbells,
    }
}

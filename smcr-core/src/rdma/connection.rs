//! The wire's end of one connection: it stands where the peer process stands when two processes
//! share memory.
//!
//! The program's end ([`crate::conn::Smc`]) writes into a ring, the *send buffer*, and reads from
//! another, the *RMBE*. This end takes what is in the send buffer to the peer's RMBE by RDMA
//! WRITE, straight from the ring's memory, and tells what the peer wrote into ours, which the
//! adapter put there. Both rings lie in shared memory with their cursors, so that a child of a
//! fork can be the program's end while its parent keeps the queue pair.
//!
//! No clock is read here and no queue pair is touched but through the [`Link`] given.

mod ending;
mod receive;
mod send;
mod sharing;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::buffers::Element;
use super::handle::Shared;
use crate::cdc::{CdcSeq, ConnState, EyeCatcher, ProducerFlags, Window};
use crate::clc::{Rkey, RmbeSize, Token};
use crate::close::{Close, CloseEvent, CloseTimeouts};
use crate::shm::{Local, LocalRef, Rx, Tx, flag};

/// The peer's RMBE, as its Accept or Confirm named it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerElement {
    /// Address of the element's first byte.
    pub(crate) address: u64,
    pub(crate) rkey: Rkey,
    pub(crate) size: RmbeSize,
    /// What our CDC messages carry.
    pub(crate) token: Token,
}

impl PeerElement {
    fn overlaps(&self, other: &Self) -> bool {
        let end = |of: &Self| u128::from(of.address) + of.size.bytes() as u128;
        self.rkey == other.rkey
            && u128::from(self.address) < end(other)
            && u128::from(other.address) < end(self)
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    /// Our RMBE, from its writer's side.
    inbound: Tx,
    /// The send buffer, from its reader's side.
    outbound: Rx,
    pub(super) rmbe: Element,
    pub(super) send_buffer: Element,
    /// The cursors of this end: `prod` in our RMBE, `cons` in the send buffer (what is behind it
    /// was delivered).
    own: Box<Local>,
    /// The state of the program's end.
    app: LocalRef,
    /// This end of the readiness pair.
    end: OwnedFd,
    peer: PeerElement,
    /// What the peer's CDC messages carry.
    pub(super) token: Token,
    /// Our RMBE and the peer's, in cursors. Our send buffer is nobody else's business: it has no eye
    /// catcher.
    in_window: Window,
    out_window: Window,
    /// The peer has written up to here: one byte more than the program was told of, at most, where
    /// an urgent byte that it did not step over still has its place.
    arrived: u64,
    /// What the peer said when that last byte was still to be told.
    late_end: ConnState,
    /// WRITEs are posted up to here.
    sent: u64,
    /// The peer has read up to here.
    peer_cons: u64,
    /// The last CDC message out, and in.
    seq_out: CdcSeq,
    seq_in: CdcSeq,
    /// Said in every message from now on.
    out_state: ConnState,
    in_state: ConnState,
    /// As in the last message.
    out_flags: ProducerFlags,
    in_flags: ProducerFlags,
    /// The last urgent position that was told, and how far the peer knows that it is coming.
    urgent_told: u64,
    /// Behind the peer's last urgent byte: it waits to hear that we have read that far.
    urgent_in: u64,
    /// Messages posted and not completed.
    pub(super) in_flight: u32,
    /// Where the data end whose delivery will be told, and how many messages came after them.
    told_to: u64,
    untold: u32,
    /// Delivery of everything so far has to be told.
    must_hear: bool,
    /// Something has to be told although there are no data.
    must_tell: bool,
    /// How it ends (RFC 7609 §4.8).
    close: Close,
    /// What the close machine wants said as soon as everything else is.
    to_say: ConnState,
    /// What the program's end said when it was last looked at.
    heard: u32,
    /// The link is gone: nothing can be sent any more.
    broken: bool,
    tcp_ended: bool,
    /// The close machine wants the memory back.
    free: bool,
}

/// What a connection is made of.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) rmbe: Element,
    pub(super) send_buffer: Element,
    pub(super) app: LocalRef,
    pub(super) end: OwnedFd,
    pub(super) peer: PeerElement,
    pub(super) token: Token,
    /// Of the RMBEs, ours and the peer's.
    pub(super) eye_catcher: EyeCatcher,
}

/// How [`Connection::pump`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Everything is on its way that can be.
    Idle,
    /// The link is full: again when something completed.
    NoRoom,
}

/// A message that is posted: what its completion frees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    /// Where its data end in the stream.
    pub(super) up_to: u64,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, parts: Parts, now: Instant) -> Option<Self> {
        let Parts {
            rmbe,
            send_buffer,
            app,
            end,
            peer,
            token,
            eye_catcher,
        } = parts;
        let own_size = RmbeSize::holding(rmbe.rmb.geometry().rmbe_size as usize)?;
        let outbound = send_buffer.reader(EyeCatcher::None);
        let mut close = Close::new(CloseTimeouts::default());
        close.handle(CloseEvent::Established, now);
        // The program's end calls; it rings only once another process has it, too.
        outbound.control().armed.store(0, Ordering::Relaxed);
        Some(Self {
            shared,
            inbound: rmbe.writer(eye_catcher),
            outbound,
            rmbe,
            send_buffer,
            own: Box::default(),
            app,
            end,
            in_window: Window::new(own_size, eye_catcher),
            out_window: Window::new(peer.size, eye_catcher),
            peer,
            token,
            arrived: 0,
            late_end: ConnState::NONE,
            sent: 0,
            peer_cons: 0,
            seq_out: CdcSeq::BEFORE_FIRST,
            seq_in: CdcSeq::BEFORE_FIRST,
            out_state: ConnState::NONE,
            in_state: ConnState::NONE,
            out_flags: ProducerFlags::NONE,
            in_flags: ProducerFlags::NONE,
            urgent_told: 0,
            urgent_in: 0,
            in_flight: 0,
            told_to: 0,
            untold: 0,
            must_hear: false,
            must_tell: false,
            close,
            to_say: ConnState::NONE,
            heard: 0,
            broken: false,
            tcp_ended: false,
            free: false,
        })
    }

    /// Both ends said their last word, the program let go, and the memory is nobody's: what was
    /// posted is completed, or the queue pair is gone that could still read from it.
    pub(super) fn is_over(&self, is_unlinked: bool) -> bool {
        let is_read = self.in_flight == 0 || is_unlinked;
        self.free && is_read && self.heard & flag::RELEASED != 0
    }

    /// When [`Self::timed_out`] has to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.close.poll_timeout()
    }

    /// What the program's end keeps.
    pub(super) fn app(&self) -> &LocalRef {
        &self.app
    }
}

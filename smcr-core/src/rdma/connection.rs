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

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::buffers::Element;
use super::fabric::{Link, Write};
use super::handle::Shared;
use crate::Reason;
use crate::cdc::{
    CdcMessage, CdcSeq, ConnState, Cursor, CursorError, EyeCatcher, ProducerFlags, Window,
};
use crate::clc::{Rkey, RmbeSize, Token};
use crate::close::{Actions, Close, CloseEvent, CloseTimeouts, CloseTimer};
use crate::conn::bell;
use crate::conn::state;
use crate::shm::{Local, LocalRef, Rx, Tx, flag};

/// A WRITE is at most this long, so that the peer can begin to read while more is on its way.
const LONGEST_WRITE: usize = 128 << 10;

/// Work requests that are left to LLC messages, whatever the connections want.
const LLC_ROOM: usize = 8;

/// So much of the send buffer may be on its way without anybody asking to hear of its delivery: a
/// completion wakes the thread, and what it frees is of no use while the program has room. A writer
/// that waits needs half of the ring, which is more than what is left then.
const UNTOLD: usize = 4;

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
    /// Our RMBE and the peer's, in cursors.
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
        } = parts;
        let own_size = RmbeSize::holding(rmbe.rmb.geometry().rmbe_size as usize)?;
        let outbound = Rx::new(Arc::clone(&send_buffer.rmb), send_buffer.index);
        let mut close = Close::new(CloseTimeouts::default());
        close.handle(CloseEvent::Established, now);
        // The program's end calls; it rings only once another process has it, too.
        outbound.control().armed.store(0, Ordering::Relaxed);
        Some(Self {
            shared,
            inbound: Tx::new(Arc::clone(&rmbe.rmb), rmbe.index),
            outbound,
            rmbe,
            send_buffer,
            own: Box::default(),
            app,
            end,
            in_window: Window::new(own_size, EyeCatcher::None),
            out_window: Window::new(peer.size, EyeCatcher::None),
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
}

impl Connection {
    /// Looks at what the program's end did, and posts what can be posted on `link`. `posted` is
    /// told of each message and gives it its number.
    ///
    /// # Errors
    /// The link is broken.
    pub(super) fn pump(
        &mut self,
        link: &mut dyn Link,
        now: Instant,
        posted: &mut dyn FnMut(Posted) -> u64,
    ) -> Result<Pumped, Errno> {
        loop {
            self.see_program(now);
            if self.publish() {
                self.ring();
            }
            let Some(next) = self.next_message() else {
                return Ok(Pumped::Idle);
            };
            // A range of the stream wraps in our ring and in the peer's, not at the same place.
            if link.room() < LLC_ROOM + 4 {
                return Ok(Pumped::NoRoom);
            }
            let writes = self.writes(next.len);
            let up_to = self.sent + next.len as u64;
            let seq = self.seq_out.next();
            let consumed = self.confirmed();
            let message = CdcMessage {
                seq,
                token: self.peer.token,
                producer: Cursor::from_position(up_to, self.out_window),
                consumer: Cursor::from_position(consumed, self.in_window),
                flags: next.flags,
                state: next.state,
            };
            let id = posted(Posted { up_to });
            let signal = self.wants_completion(up_to, &next);
            // SAFETY: the bytes lie in the send buffer beyond its consumer cursor, which moves
            // past them only when the post is completed; the program's end does not touch them.
            unsafe { link.post(&writes, &message.emit(), id, signal)? };
            self.in_flight += 1;
            if signal {
                self.told_to = up_to;
                self.untold = 0;
                self.must_hear = false;
            } else {
                self.untold += 1;
            }
            self.sent = up_to;
            self.seq_out = seq;
            self.out_state = next.state;
            self.out_flags = next.flags;
            self.must_tell = false;
            self.shared.announced.store(consumed, Ordering::Relaxed);
            self.shared.eager.store(self.is_eager(), Ordering::Relaxed);
            if next.flags.contains(ProducerFlags::URGENT_PRESENT) {
                self.urgent_told = up_to;
            }
            if self.to_say != ConnState::NONE && self.out_state.contains(self.to_say) {
                self.to_say = ConnState::NONE;
                self.happened(CloseEvent::Sent, now);
            }
        }
    }

    /// Whether the delivery of a message has to be told, and of all before it: it frees so much of
    /// the send buffer that it matters to whoever waits for room, now or later; or it is a last
    /// word, on which the end of the connection waits.
    ///
    /// No writer sleeps for good: one that finds the ring full has less than a quarter of it
    /// [untold](UNTOLD); the rest is on its way with completions to come, or was not posted yet and
    /// will have some.
    fn wants_completion(&self, up_to: u64, next: &Next) -> bool {
        let untold = (up_to - self.told_to) as usize;
        self.must_hear || next.state != self.out_state || untold >= self.outbound.size() / UNTOLD
    }

    /// What has to be said next, if anything.
    fn next_message(&mut self) -> Option<Next> {
        const LAST_WORD: ConnState = ConnState::CLOSED.with(ConnState::ABORTED);
        if self.broken || self.out_state.intersects(LAST_WORD) {
            return None;
        }
        let mut next = Next {
            len: 0,
            flags: ProducerFlags::NONE,
            state: self.out_state,
        };
        let control = self.outbound.control();
        let Ok(undelivered) = self.outbound.available(&self.own) else {
            // Only a bug, or a program that writes where it should not, does that.
            self.shut(Errno::CONNRESET);
            return None;
        };
        let produced = self.own.cons.load(Ordering::Relaxed) + undelivered as u64;
        if self.to_say.contains(ConnState::ABORTED) {
            // At once: what was not sent is thrown away (RFC 7609 §4.8.2).
            next.state = next.state | self.to_say;
            return Some(next);
        }
        let waiting = (produced - self.sent) as usize;
        let window = self.out_window.capacity() as u64 - (self.sent - self.peer_cons);
        let urgent = control.urgent.load(Ordering::Acquire).min(produced);
        let mut len = waiting.min(window as usize).min(LONGEST_WRITE);
        if self.urgent_told > self.peer_cons {
            // No WRITE until the urgent byte was read (RFC 7609 §4.7.5).
            len = 0;
        } else if urgent > self.urgent_told {
            next.flags = next.flags | ProducerFlags::URGENT_PENDING;
            let to_urgent = urgent.saturating_sub(self.sent) as usize;
            if to_urgent > 0 && to_urgent <= len {
                // The urgent byte is the one before the producer cursor.
                len = to_urgent;
                next.flags = next.flags | ProducerFlags::URGENT_PRESENT;
            }
        }
        if waiting > len && len == window as usize {
            next.flags = next.flags | ProducerFlags::WRITER_BLOCKED;
        }
        next.len = len;
        if waiting == 0 {
            next.state = next.state | self.to_say;
        }
        let needed = next.len > 0
            || next.state != self.out_state
            || next.flags.bits() & !self.out_flags.bits() != 0
            || self.must_tell
            || self.must_hear
            || self.owes_update();
        needed.then_some(next)
    }

    /// The pieces of our ring and of the peer's element that the next `len` bytes are in.
    fn writes(&self, len: usize) -> smallvec::SmallVec<[Write; 4]> {
        let mut writes = smallvec::SmallVec::new();
        if len == 0 {
            return writes;
        }
        let skip = (self.sent - self.own.cons.load(Ordering::Relaxed)) as usize;
        let mut position = self.sent;
        self.outbound
            .copy_out(&self.own, skip, len, |from, _, len| {
                let mut from = from;
                for piece in self.out_window.pieces(position, len as u32) {
                    if piece.len == 0 {
                        continue;
                    }
                    let Some(start) = std::ptr::NonNull::new(from) else {
                        return;
                    };
                    writes.push(Write {
                        from: start,
                        lkey: self.send_buffer.lkey,
                        len: piece.len,
                        to: self.peer.address.wrapping_add(u64::from(piece.offset)),
                        rkey: self.peer.rkey,
                    });
                    from = from.wrapping_add(piece.len as usize);
                }
                position += len as u64;
            });
        writes
    }

    /// How far the program has read.
    fn consumed(&self) -> u64 {
        let prod = self.own.prod.load(Ordering::Relaxed);
        let unread = self.inbound.unread(&self.own).unwrap_or(0);
        prod - unread as u64
    }

    /// How far the peer may take the program to have read. An urgent byte that is next counts: it
    /// is remembered, and the peer writes nothing more until it has heard that (RFC 7609 §4.7.5,
    /// §4.7.6), while a program that stands before it may wait for more to come. Not in line: there
    /// it is read like any other, and its place must not be written to before.
    fn confirmed(&self) -> u64 {
        let consumed = self.consumed();
        let inline = self.app.oob_inline.load(Ordering::Relaxed) != 0;
        let is_next = !inline && self.urgent_in == consumed + 1;
        let told = self.shared.announced.load(Ordering::Relaxed);
        (consumed + u64::from(is_next)).max(told)
    }

    /// Remembers the urgent byte before `position`, for `recv(MSG_OOB)`. The program's end has not
    /// been told of it yet.
    fn remember_urgent(&self, position: u64) {
        let Element { rmb, index, .. } = &self.rmbe;
        let size = u64::from(self.in_window.capacity());
        let offset = ((position - 1) % size) as usize;
        // SAFETY: a byte of our element. The peer wrote it, and has no right to write there again
        // before it has heard that the byte was seen; if it does, any value will do.
        let byte = unsafe { rmb.ring(*index).add(offset).read_volatile() };
        let byte = Local::URGENT_VALID | u32::from(byte);
        self.app.urgent_byte.store(byte, Ordering::Relaxed);
        self.app.urgent_seen.store(position, Ordering::Release);
    }

    /// Tells the program of what arrived, as far as its ring has room. True if it has to be woken.
    fn publish(&mut self) -> bool {
        let told = self.own.prod.load(Ordering::Relaxed);
        let limit = self.consumed() + u64::from(self.in_window.capacity());
        let upto = self.arrived.min(limit);
        // Behind an error or its own end there is nothing for the program to read.
        if upto <= told || !self.close.state().can_receive() {
            return false;
        }
        let mut ring = self.inbound.publish(&self.own, (upto - told) as usize);
        if self.late_end != ConnState::NONE && upto == self.arrived {
            let late = std::mem::replace(&mut self.late_end, ConnState::NONE);
            self.tell_program_of_end(late);
            ring = true;
        }
        ring
    }

    /// Whether the peer has to hear how far the program has read (RFC 7609 §4.5.1): when its
    /// window is under half the element and this opens a tenth of it; at once if it asked for
    /// that, or is blocked.
    fn owes_update(&self) -> bool {
        let announced = self.shared.announced.load(Ordering::Relaxed);
        let gain = self.confirmed() - announced;
        gain > 0 && {
            let size = u64::from(self.in_window.capacity());
            let window = self.window();
            self.is_eager() || window < size / 2 && gain >= size / 10
        }
    }

    /// Whether the peer wants to hear of every byte read. One that sent urgent data writes nothing
    /// more until it has heard that they were read (RFC 7609 §4.7.5), whatever its later messages
    /// say.
    fn is_eager(&self) -> bool {
        let asked = ProducerFlags::WRITER_BLOCKED
            | ProducerFlags::CURSOR_REQUESTED
            | ProducerFlags::URGENT_PENDING;
        self.in_flags.intersects(asked)
            || self.arrived > self.own.prod.load(Ordering::Relaxed)
            || self.urgent_in > self.shared.announced.load(Ordering::Relaxed)
    }

    /// Takes note of what the program's end did besides reading and writing.
    fn see_program(&mut self, now: Instant) {
        let said = self.outbound.control().tx_flags.load(Ordering::Acquire);
        let new = said & !self.heard;
        if new == 0 {
            return;
        }
        self.heard = said;
        if new & flag::ABORT != 0 {
            // Unread data, or SO_LINGER with time 0: a reset in both cases.
            self.happened(CloseEvent::CloseUnread, now);
        } else if new & flag::CLOSED != 0 {
            self.happened(CloseEvent::Close, now);
        } else if new & flag::SENDING_DONE != 0 {
            self.happened(CloseEvent::ShutdownWrite, now);
        }
    }

    /// Has the close machine decide what an event means, and does it.
    fn happened(&mut self, event: CloseEvent, now: Instant) {
        let actions = self.close.handle(event, now);
        self.act(actions);
        // An abort that cannot be said any more needs no waiting for it.
        if actions.has(Actions::SEND_ABORTED) && (self.broken || self.said_last_word()) {
            self.to_say = ConnState::NONE;
            self.happened(CloseEvent::Sent, now);
        }
    }

    fn act(&mut self, actions: Actions) {
        if actions.has(Actions::SEND_DONE) {
            self.to_say = self.to_say | ConnState::DONE_WRITING;
        }
        if actions.has(Actions::SEND_CLOSED) {
            self.to_say = self.to_say | ConnState::CLOSED;
        }
        if actions.has(Actions::SEND_ABORTED) {
            self.to_say = ConnState::ABORTED;
        }
        if actions.has(Actions::FAIL_RESET) {
            self.shut(Errno::CONNRESET);
        }
        if actions.has(Actions::FAIL_ABORTED) {
            self.shut(Errno::CONNABORTED);
        }
        if actions.has(Actions::FREE) || actions.has(Actions::FREE_UNCONFIRMED) {
            self.free = true;
        }
    }

    fn said_last_word(&self) -> bool {
        self.out_state
            .intersects(ConnState::CLOSED | ConnState::ABORTED)
    }

    /// A message that was posted is completed: the memory of its data can be used again.
    pub(super) fn completed(&mut self, posted: Posted) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let freed = posted.up_to - self.own.cons.load(Ordering::Relaxed).min(posted.up_to);
        if freed == 0 {
            return;
        }
        if self.outbound.consume(&self.own, freed as usize) {
            // All of them: the program's end may have been filled a moment ago. What else they
            // told, another process' bell for data, is looked at before the lock is left; the next
            // one has to be asked for.
            bell::drain(self.end.as_fd(), self.outbound.control(), u32::MAX);
            self.arm_for_others();
        }
    }

    /// A CDC message of the peer came.
    ///
    /// # Errors
    /// The peer says what cannot be: the connection is aborted.
    pub(super) fn receive(&mut self, message: CdcMessage, now: Instant) -> Result<(), Reason> {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if message.seq.is_older_than(self.seq_in) || self.in_state.intersects(last_word) {
            return Ok(());
        }
        self.seq_in = message.seq;
        let size = u64::from(self.in_window.capacity());
        let known = self.arrived;
        let limit = self.confirmed() + size;
        let produced = position(
            self.in_window.advance(known, limit, message.producer),
            known,
        )?;
        let consumed = self
            .out_window
            .advance(self.peer_cons, self.sent, message.consumer);
        self.peer_cons = position(consumed, self.peer_cons)?;
        self.close.restart_timer(now);
        self.in_flags = message.flags;
        self.arrived = produced;
        if message.flags.contains(ProducerFlags::URGENT_PRESENT) {
            let control = self.inbound.control();
            if produced > self.consumed() && self.urgent_in != produced {
                self.remember_urgent(produced);
            }
            control.urgent.store(produced, Ordering::Release);
            self.urgent_in = produced;
        }
        let mut ring = self.publish();
        self.shared.eager.store(self.is_eager(), Ordering::Relaxed);
        let added = message.state.without(self.in_state);
        if added != ConnState::NONE {
            self.in_state = self.in_state | message.state;
            let all_told = self.arrived == self.own.prod.load(Ordering::Relaxed);
            if all_told || !self.close.state().can_receive() || added.contains(ConnState::ABORTED) {
                self.tell_program_of_end(added);
            } else {
                self.late_end = self.late_end | added;
            }
            ring = true;
            let unsent = self.produced() > self.peer_cons;
            if let Some(event) = CloseEvent::of_peer(added, unsent) {
                self.happened(event, now);
            }
        }
        if ring {
            self.ring();
        }
        Ok(())
    }

    /// The peer will send no more, closed, or gave up.
    fn tell_program_of_end(&self, added: ConnState) {
        let mut flags = flag::SENDING_DONE;
        if added.contains(ConnState::CLOSED) {
            flags |= flag::CLOSED;
        }
        if added.contains(ConnState::ABORTED) {
            flags |= flag::CLOSED | flag::ABORT;
        }
        let control = self.inbound.control();
        control.tx_flags.fetch_or(flags, Ordering::AcqRel);
        // For those that ask the kernel.
        let _ = rustix::net::shutdown(&self.end, rustix::net::Shutdown::Write);
        if flags & flag::CLOSED != 0 {
            // There will be no room any more: whoever waits for some has to find that out.
            let control = self.outbound.control();
            control.writer_waiting.store(0, Ordering::Relaxed);
            bell::drain(self.end.as_fd(), control, u32::MAX);
        }
    }

    fn ring(&self) {
        let _ = bell::ring(self.end.as_fd(), self.inbound.control());
    }

    /// How far the program has written.
    fn produced(&self) -> u64 {
        let undelivered = self.outbound.available(&self.own).unwrap_or(0);
        self.own.cons.load(Ordering::Relaxed) + undelivered as u64
    }

    /// The program's end finds `errno`, behind what it may still read.
    fn shut(&self, errno: Errno) {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if !self.in_state.intersects(last_word) {
            state::reset(&self.app, errno);
            self.tell_program_of_end(ConnState::ABORTED);
        }
        self.ring();
    }

    /// The link is gone, which the program's end finds as `errno`; if TCP said before that the
    /// peer is gone, as what TCP would have said then: the end of the stream, or a reset if the
    /// peer left something unread.
    pub(super) fn link_lost(&mut self, errno: Errno, now: Instant) {
        if std::mem::replace(&mut self.broken, true) {
            return;
        }
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if !self.tcp_ended {
            self.shut(errno);
        } else if self.produced() > self.peer_cons {
            self.shut(Errno::CONNRESET);
        } else if !self.in_state.intersects(last_word) {
            self.tell_program_of_end(ConnState::CLOSED);
            self.ring();
        }
        self.in_state = self.in_state | ConnState::CLOSED;
        self.happened(CloseEvent::LinkLost, now);
    }

    /// The TCP connection ended at the peer's end: it closed, or its process died.
    pub(super) fn tcp_ended(&mut self) {
        self.tcp_ended = true;
    }

    /// Whether there is something of the program's that the peer does not have, or does not know.
    pub(super) fn has_work(&self) -> bool {
        !self.broken
            && !self.said_last_word()
            && (self.produced() > self.own.cons.load(Ordering::Relaxed)
                || self.to_say != ConnState::NONE)
            || !self.broken && self.in_flight > 0
    }

    /// Somebody waits until everything that was sent is delivered, and has to hear of it.
    pub(super) fn ask_for_delivery(&mut self) {
        self.must_hear |= self.untold > 0;
    }

    /// The process ends: its end of the connection is closed, unless another one has it, too.
    pub(super) fn process_ends(&mut self) {
        if self.app.processes.load(Ordering::Relaxed) <= 1
            && !self.shared.left.load(Ordering::Relaxed)
        {
            self.hung_up();
        }
    }

    /// Whether neither end has said its last word.
    pub(super) fn is_open(&self) -> bool {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        !self.broken && !self.in_state.intersects(last_word) && !self.said_last_word()
    }

    /// Whether we may still write to memory of the peer's that is in `element`, too. Not after our
    /// last word: the peer may have used it again before its own reached us.
    pub(super) fn writes_to(&self, element: &PeerElement) -> bool {
        !self.broken && !self.said_last_word() && self.peer.overlaps(element)
    }

    /// Whether we may still write to memory that the peer gave this key.
    pub(super) fn writes_by(&self, rkey: Rkey) -> bool {
        !self.broken && !self.said_last_word() && self.peer.rkey == rkey
    }

    /// The peer took our right to write away, or gave it to another connection: it has given this
    /// one up (RFC 7609 §4.4.2). Nothing is written there any more.
    pub(super) fn given_up(&mut self, now: Instant) {
        self.shut(Errno::CONNRESET);
        self.in_state = self.in_state | ConnState::ABORTED;
        self.happened(CloseEvent::PeerAborted, now);
    }

    /// The peer does not keep to the protocol.
    pub(super) fn abort(&mut self, now: Instant) {
        self.shut(Errno::CONNRESET);
        self.happened(CloseEvent::Abort, now);
    }

    /// The time is looked at. True if something came of it. `is_alive`: the link works, which is
    /// tested far more often than this timer comes.
    pub(super) fn timed_out(&mut self, now: Instant, is_alive: bool) -> bool {
        let due = self.close.poll_timeout().is_some_and(|at| at <= now);
        let waits_for_reader = self.close.state().timer() == Some(CloseTimer::Closed)
            && self.produced() > self.peer_cons;
        if due && is_alive && waits_for_reader {
            // The program closed, and its peer is slow to read. TCP waits as long as somebody
            // answers its probes.
            self.close.restart_timer(now);
            return false;
        }
        if due {
            let actions = self.close.handle_timeout(now);
            self.act(actions);
        }
        due
    }

    /// Without a link there is nothing to send, but the program may have let go.
    pub(super) fn idle(&mut self, now: Instant) -> Result<Pumped, Errno> {
        self.see_program(now);
        Ok(Pumped::Idle)
    }

    /// The program's end is gone without a word: its last holder was killed. Ends the connection
    /// as the kernel ends TCP: by a reset if something was not read.
    pub(super) fn hung_up(&mut self) {
        let said = self.outbound.control();
        if said.tx_flags.load(Ordering::Acquire) & flag::RELEASED != 0 {
            return;
        }
        let unread = self.inbound.unread(&self.own) != Ok(0);
        let abort = if unread { flag::ABORT } else { 0 };
        let flags = flag::CLOSED | flag::RELEASED | abort;
        said.tx_flags.fetch_or(flags, Ordering::AcqRel);
    }

    /// Another process has the program's end, too: it rings for what it does, since it cannot
    /// call.
    pub(super) fn listen(&self) -> std::os::fd::BorrowedFd<'_> {
        self.arm();
        self.end.as_fd()
    }

    /// Has others ring for what they write, as long as there are others.
    fn arm(&self) {
        self.arm_for_others();
        // What they read is told by taking bells out, once there is need for it.
        if self.window() < u64::from(self.in_window.capacity()) / 2 {
            self.inbound.wait_for_space();
            let _ = bell::block(self.end.as_fd(), self.inbound.control(), bell::BLOCKED);
        }
    }

    fn arm_for_others(&self) {
        let others = self.app.processes.load(Ordering::Relaxed) > 1;
        if others || self.shared.left.load(Ordering::Relaxed) {
            self.outbound.arm(&self.own, crate::shm::ring::ONCE);
        }
    }

    /// The window as the peer knows it.
    fn window(&self) -> u64 {
        let announced = self.shared.announced.load(Ordering::Relaxed);
        let unread = self.arrived.saturating_sub(announced);
        u64::from(self.in_window.capacity()).saturating_sub(unread)
    }

    /// The end rang: takes the bells out and asks for more.
    pub(super) fn answer_bell(&mut self) {
        let control = self.outbound.control();
        bell::drain(self.end.as_fd(), control, u32::MAX);
        self.arm();
        if bell::is_hung_up(self.end.as_fd()) {
            self.hung_up();
        }
    }

    /// What the program's end keeps.
    pub(super) fn app(&self) -> &LocalRef {
        &self.app
    }
}

/// A message to be posted.
struct Next {
    len: usize,
    flags: ProducerFlags,
    state: ConnState,
}

/// The position a cursor stands for. One that goes back is old news, as Linux sees it; any other
/// that cannot be true ends the connection.
fn position(advanced: Result<u64, CursorError>, known: u64) -> Result<u64, Reason> {
    match advanced {
        Ok(position) => Ok(position),
        Err(CursorError::GoesBack { .. }) => Ok(known),
        Err(_) => Err(Reason::BadCursor),
    }
}

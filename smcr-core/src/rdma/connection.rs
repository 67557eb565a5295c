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
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::buffers::Element;
use super::fabric::{Link, Write};
use super::handle::Shared;
use crate::Reason;
use crate::cdc::{
    CdcMessage, CdcSeq, ConnState, Cursor, CursorError, EyeCatcher, ProducerFlags, Window,
};
use crate::clc::{Rkey, RmbeSize, Token};
use crate::conn::bell;
use crate::conn::state;
use crate::shm::{Local, LocalRef, Rx, Tx, flag};

/// A WRITE is at most this long, so that the peer can begin to read while more is on its way.
const LONGEST_WRITE: usize = 128 << 10;

/// Work requests that are left to LLC messages, whatever the connections want.
const LLC_ROOM: usize = 8;

/// How long a closed connection tries to get rid of its last bytes, and how long it waits for the
/// peer's last word (RFC 7609 §4.8.1: every wait needs a timer).
const CLOSE_WAIT: Duration = Duration::from_secs(60);

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
    /// Messages posted and not completed: their number and where their data end.
    pub(super) in_flight: u32,
    /// Something has to be told although there are no data.
    must_tell: bool,
    /// When to give up waiting.
    pub(super) deadline: Option<Instant>,
    /// The program closed its end.
    app_closed: bool,
    /// Nothing more will be sent.
    pub(super) broken: bool,
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
    pub(super) fn new(shared: Arc<Shared>, parts: Parts) -> Option<Self> {
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
            sent: 0,
            peer_cons: 0,
            seq_out: CdcSeq::BEFORE_FIRST,
            seq_in: CdcSeq::BEFORE_FIRST,
            out_state: ConnState::NONE,
            in_state: ConnState::NONE,
            out_flags: ProducerFlags::NONE,
            in_flags: ProducerFlags::NONE,
            urgent_told: 0,
            in_flight: 0,
            must_tell: false,
            deadline: None,
            app_closed: false,
            broken: false,
        })
    }

    /// Both ends said their last word, and the memory is nobody's.
    pub(super) fn is_over(&self) -> bool {
        let over = ConnState::CLOSED | ConnState::ABORTED;
        self.app_closed
            && self.in_flight == 0
            && (self.broken
                || self.in_state.intersects(over) && self.out_state.intersects(over))
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
            let consumed = self.consumed();
            let message = CdcMessage {
                seq,
                token: self.peer.token,
                producer: Cursor::from_position(up_to, self.out_window),
                consumer: Cursor::from_position(consumed, self.in_window),
                flags: next.flags,
                state: next.state,
            };
            let id = posted(Posted { up_to });
            // The last one of a burst tells when all of it is delivered.
            let signal = next.is_last;
            // SAFETY: the bytes lie in the send buffer beyond its consumer cursor, which moves
            // past them only when the post is completed; the program's end does not touch them.
            unsafe { link.post(&writes, &message.emit(), id, signal)? };
            self.in_flight += 1;
            self.sent = up_to;
            self.seq_out = seq;
            self.out_state = next.state;
            self.out_flags = next.flags;
            self.must_tell = false;
            self.shared.announced.store(consumed, Ordering::Relaxed);
            if next.flags.contains(ProducerFlags::URGENT_PRESENT) {
                self.urgent_told = up_to;
            }
            if next.state.intersects(ConnState::CLOSED | ConnState::ABORTED) {
                self.deadline = Some(now + CLOSE_WAIT);
            }
        }
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
            is_last: true,
        };
        let control = self.outbound.control();
        let said = control.tx_flags.load(Ordering::Acquire);
        let Ok(undelivered) = self.outbound.available(&self.own) else {
            // Only a bug, or a program that writes where it should not, does that.
            self.fail(Errno::CONNRESET);
            return None;
        };
        let produced = self.own.cons.load(Ordering::Relaxed) + undelivered as u64;
        let aborted = said & flag::ABORT != 0 || self.in_state.contains(ConnState::ABORTED);
        if aborted {
            // What was not sent is thrown away (RFC 7609 §4.8.2).
            next.state = next.state | ConnState::ABORTED;
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
        next.is_last = waiting == len || window as usize == len;
        if waiting == 0 {
            if said & flag::CLOSED != 0 {
                next.state = next.state | ConnState::CLOSED;
            } else if said & flag::SENDING_DONE != 0 {
                next.state = next.state | ConnState::DONE_WRITING;
            }
        }
        let needed = next.len > 0
            || next.state != self.out_state
            || next.flags.bits() & !self.out_flags.bits() != 0
            || self.must_tell
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

    /// Whether the peer has to hear how far the program has read (RFC 7609 §4.5.1): when its
    /// window is under half the element and this opens a tenth of it; at once if it asked for
    /// that, or is blocked.
    fn owes_update(&self) -> bool {
        let announced = self.shared.announced.load(Ordering::Relaxed);
        let gain = self.consumed() - announced;
        gain > 0 && {
            let size = u64::from(self.in_window.capacity());
            let window = size - (self.own.prod.load(Ordering::Relaxed) - announced);
            let asked = ProducerFlags::WRITER_BLOCKED
                | ProducerFlags::CURSOR_REQUESTED
                | ProducerFlags::URGENT_PENDING;
            self.in_flags.intersects(asked) || window < size / 2 && gain >= size / 10
        }
    }

    /// Takes note of what the program's end did besides reading and writing.
    fn see_program(&mut self, now: Instant) {
        let said = self.outbound.control().tx_flags.load(Ordering::Acquire);
        if said & flag::RELEASED != 0 && !self.app_closed {
            self.app_closed = true;
            self.deadline = Some(now + CLOSE_WAIT);
        }
    }

    /// A message that was posted is completed: the memory of its data can be used again.
    pub(super) fn completed(&mut self, posted: Posted) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let freed = posted.up_to - self.own.cons.load(Ordering::Relaxed).min(posted.up_to);
        if freed == 0 {
            return;
        }
        let control = self.outbound.control();
        let bells = control.bells.load(Ordering::Acquire);
        if self.outbound.consume(&self.own, freed as usize) {
            control.writer_waiting.store(0, Ordering::Relaxed);
            bell::drain(self.end.as_fd(), control, bells);
        }
    }

    /// A CDC message of the peer came.
    ///
    /// # Errors
    /// The peer says what cannot be: the connection is aborted.
    pub(super) fn receive(&mut self, message: CdcMessage) -> Result<(), Reason> {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if message.seq.is_older_than(self.seq_in) || self.in_state.intersects(last_word) {
            return Ok(());
        }
        self.seq_in = message.seq;
        let size = u64::from(self.in_window.capacity());
        let known = self.own.prod.load(Ordering::Relaxed);
        let limit = self.consumed() + size;
        let produced = position(
            self.in_window.advance(known, limit, message.producer),
            known,
        )?;
        let consumed = self
            .out_window
            .advance(self.peer_cons, self.sent, message.consumer);
        self.peer_cons = position(consumed, self.peer_cons)?;
        self.in_flags = message.flags;
        self.shared.eager.store(
            message.flags.intersects(
                ProducerFlags::WRITER_BLOCKED
                    | ProducerFlags::CURSOR_REQUESTED
                    | ProducerFlags::URGENT_PENDING,
            ),
            Ordering::Relaxed,
        );
        if message.flags.contains(ProducerFlags::URGENT_PRESENT) {
            let control = self.inbound.control();
            control.urgent.store(produced, Ordering::Release);
        }
        let mut ring = false;
        if produced > known {
            ring = self.inbound.publish(&self.own, (produced - known) as usize);
        }
        let added = message.state.without(self.in_state);
        if added != ConnState::NONE {
            self.in_state = self.in_state | message.state;
            self.tell_program_of_end(added);
            ring = true;
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
    }

    fn ring(&self) {
        let _ = bell::ring(self.end.as_fd(), self.inbound.control());
    }

    /// The connection is dead: the program's end finds `errno`, and nothing is sent any more.
    pub(super) fn fail(&mut self, errno: Errno) {
        if self.broken {
            return;
        }
        self.broken = true;
        self.in_flight = 0;
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if !self.in_state.intersects(last_word) {
            state::reset(&self.app, errno);
            self.tell_program_of_end(ConnState::ABORTED);
            self.ring();
        }
    }

    /// A wait was too long. True if the connection is to be forgotten.
    pub(super) fn timed_out(&mut self, now: Instant) -> bool {
        let due = self.deadline.is_some_and(|at| at <= now);
        if due {
            self.deadline = None;
            self.fail(Errno::TIMEDOUT);
        }
        due
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
        self.outbound.arm(&self.own, crate::shm::ring::ONCE);
        self.end.as_fd()
    }

    /// The end rang: takes the bells out and asks for more.
    pub(super) fn answer_bell(&mut self) {
        let control = self.outbound.control();
        bell::drain(self.end.as_fd(), control, u32::MAX);
        self.outbound.arm(&self.own, crate::shm::ring::ONCE);
        if bell::is_hung_up(self.end.as_fd()) {
            self.hung_up();
        }
    }

    /// What the program's end keeps.
    pub(super) fn app(&self) -> &LocalRef {
        &self.app
    }

    /// The rings, from the program's side: for sending, for receiving.
    pub(super) fn rings(&self) -> (Tx, Rx) {
        let Element { rmb, index, .. } = &self.send_buffer;
        let tx = Tx::new(Arc::clone(rmb), *index);
        let Element { rmb, index, .. } = &self.rmbe;
        (tx, Rx::new(Arc::clone(rmb), *index))
    }
}

/// A message to be posted.
struct Next {
    len: usize,
    flags: ProducerFlags,
    state: ConnState,
    /// Nothing follows at once.
    is_last: bool,
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

//! What comes in: CDC messages of the peer, and what they tell of bytes that its adapter wrote.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::Connection;
use crate::Reason;
use crate::cdc::{CdcMessage, ConnState, CursorError, EyeCatcher, ProducerFlags};
use crate::close::CloseEvent;
use crate::conn::bell;
use crate::rdma::buffers::Element;
use crate::shm::{Local, flag};

impl Connection {
    /// A CDC message of the peer came.
    ///
    /// # Errors
    /// The peer says what cannot be, or wrote where it must not: the connection is aborted.
    pub(in crate::rdma) fn receive(
        &mut self,
        message: CdcMessage,
        now: Instant,
    ) -> Result<(), Reason> {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if message.seq.is_older_than(self.seq_in) || self.in_state.intersects(last_word) {
            return Ok(());
        }
        if !self.is_intact() {
            return Err(Reason::EyeCatcherLost);
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
        if produced > known && self.heard & flag::CLOSED != 0 {
            // Nobody will read it. TCP answers such bytes by a reset, too.
            self.happened(CloseEvent::Abort, now);
        }
        Ok(())
    }

    /// Whether our eye catcher, if the group has them, is where it was (RFC 7609 §4.4.1). Looked at
    /// for each message, before any byte is believed that it tells of: a peer that writes from
    /// offset 0 on, as if there were none, is found out at its first one.
    fn is_intact(&self) -> bool {
        match self.in_window.eye_catcher() {
            EyeCatcher::None => true,
            EyeCatcher::FourBytes => self.rmbe.rmb.has_eye_catcher(self.rmbe.index),
        }
    }

    /// Whether something came that the program did not read. (An urgent byte that is next need not
    /// be.)
    pub(super) fn is_unread(&self) -> bool {
        self.arrived > self.confirmed()
    }

    /// Tells the program of what arrived, as far as its ring has room. True if it has to be woken.
    pub(super) fn publish(&mut self) -> bool {
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

    /// Remembers the urgent byte before `position`, for `recv(MSG_OOB)`. The program's end has not
    /// been told of it yet.
    fn remember_urgent(&self, position: u64) {
        let Element { rmb, index, .. } = &self.rmbe;
        let offset = self.in_window.offset(position - 1) as usize;
        // SAFETY: a byte of our element. The peer wrote it, and has no right to write there again
        // before it has heard that the byte was seen; if it does, any value will do.
        let byte = unsafe { rmb.ring(*index).add(offset).read_volatile() };
        let byte = Local::URGENT_VALID | u32::from(byte);
        self.app.urgent_byte.store(byte, Ordering::Relaxed);
        self.app.urgent_seen.store(position, Ordering::Release);
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
    pub(super) fn confirmed(&self) -> u64 {
        let consumed = self.consumed();
        let inline = self.app.oob_inline.load(Ordering::Relaxed) != 0;
        let is_next = !inline && self.urgent_in == consumed + 1;
        let told = self.shared.announced.load(Ordering::Relaxed);
        (consumed + u64::from(is_next)).max(told)
    }

    /// The window as the peer knows it.
    pub(super) fn window(&self) -> u64 {
        let announced = self.shared.announced.load(Ordering::Relaxed);
        let unread = self.arrived.saturating_sub(announced);
        u64::from(self.in_window.capacity()).saturating_sub(unread)
    }

    /// Whether the peer has to hear how far the program has read (RFC 7609 §4.5.1): when its
    /// window is under half the element and this opens a tenth of it; at once if it asked for
    /// that, or is blocked.
    pub(super) fn owes_update(&self) -> bool {
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
    pub(super) fn is_eager(&self) -> bool {
        let asked = ProducerFlags::WRITER_BLOCKED
            | ProducerFlags::CURSOR_REQUESTED
            | ProducerFlags::URGENT_PENDING;
        self.in_flags.intersects(asked)
            || self.arrived > self.own.prod.load(Ordering::Relaxed)
            || self.urgent_in > self.shared.announced.load(Ordering::Relaxed)
    }

    pub(super) fn ring(&self) {
        if self.is_released() {
            return;
        }
        let _ = bell::ring(self.end.as_fd(), self.inbound.control());
    }
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

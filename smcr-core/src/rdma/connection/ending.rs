//! How a connection ends (RFC 7609 §4.8): by either program, by its link, or by the peer's lies.

use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::{Connection, Pumped};
use crate::cdc::{ConnState, ProducerFlags};
use crate::close::{Actions, CloseEvent, CloseTimer};
use crate::conn::state;
use crate::shm::flag;

impl Connection {
    /// Takes note of what the program's end did besides reading and writing.
    pub(super) fn see_program(&mut self, now: Instant) {
        let said = self.outbound.control().tx_flags.load(Ordering::Acquire);
        let new = said & !self.heard;
        if new == 0 {
            return;
        }
        self.heard = said;
        // What came just when the program closed is not seen there.
        let is_late = new & flag::CLOSED != 0 && self.is_unread();
        if new & flag::ABORT != 0 || is_late {
            // Unread data, or SO_LINGER with time 0: a reset in both cases.
            self.happened(CloseEvent::CloseUnread, now);
        } else if new & flag::CLOSED != 0 {
            self.happened(CloseEvent::Close, now);
        } else if new & flag::SENDING_DONE != 0 {
            self.happened(CloseEvent::ShutdownWrite, now);
        }
    }

    /// Has the close machine decide what an event means, and does it.
    pub(super) fn happened(&mut self, event: CloseEvent, now: Instant) {
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

    pub(super) fn said_last_word(&self) -> bool {
        self.out_state
            .intersects(ConnState::CLOSED | ConnState::ABORTED)
    }

    /// The peer will send no more, closed, or gave up.
    pub(super) fn tell_program_of_end(&self, added: ConnState) {
        let mut flags = flag::SENDING_DONE;
        if added.contains(ConnState::CLOSED) {
            flags |= flag::CLOSED;
        }
        if added.contains(ConnState::ABORTED) {
            flags |= flag::CLOSED | flag::ABORT;
        }
        let control = self.inbound.control();
        control.tx_flags.fetch_or(flags, Ordering::AcqRel);
        if self.is_released() {
            return;
        }
        // For those that ask the kernel.
        let _ = rustix::net::shutdown(&self.end, rustix::net::Shutdown::Write);
        if flags & flag::CLOSED != 0 {
            // There will be no room any more: whoever waits for some has to find that out.
            self.wake_writer();
        }
    }

    /// Whether no program has its end any more: nobody is there to be told anything.
    pub(super) fn is_released(&self) -> bool {
        self.heard & flag::RELEASED != 0
    }

    /// The program's end finds `errno`, behind what it may still read.
    pub(super) fn shut(&self, errno: Errno) {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if !self.in_state.intersects(last_word) {
            state::reset(&self.app, errno);
            self.tell_program_of_end(ConnState::ABORTED);
        }
        self.ring();
    }

    /// The link is gone, which the program's end finds as `errno`; if TCP said before that the
    /// peer is gone, as what TCP would have said then: the end of the stream, or a reset if the
    /// peer left something unread. A reset as well if the peer took something along that it had
    /// no room for here: TCP's kernel would still have sent it, and a stream that ends early must
    /// not look whole.
    pub(in crate::rdma) fn link_lost(&mut self, errno: Errno, now: Instant) {
        if std::mem::replace(&mut self.broken, true) {
            return;
        }
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        if !self.tcp_ended {
            self.shut(errno);
        } else if self.produced() > self.peer_cons
            || self.in_flags.contains(ProducerFlags::WRITER_BLOCKED)
        {
            self.shut(Errno::CONNRESET);
        } else if !self.in_state.intersects(last_word) {
            self.tell_program_of_end(ConnState::CLOSED);
            self.ring();
        }
        self.in_state = self.in_state | ConnState::CLOSED;
        self.happened(CloseEvent::LinkLost, now);
    }

    /// The TCP connection ended at the peer's end: it closed, or its process died.
    pub(in crate::rdma) fn tcp_ended(&mut self) {
        self.tcp_ended = true;
    }

    /// Whether neither end has said its last word.
    pub(in crate::rdma) fn is_open(&self) -> bool {
        let last_word = ConnState::CLOSED | ConnState::ABORTED;
        !self.broken && !self.in_state.intersects(last_word) && !self.said_last_word()
    }

    /// The peer took our right to write away, or gave it to another connection: it has given this
    /// one up (RFC 7609 §4.4.2). Nothing is written there any more.
    pub(in crate::rdma) fn given_up(&mut self, now: Instant) {
        self.shut(Errno::CONNRESET);
        self.in_state = self.in_state | ConnState::ABORTED;
        self.happened(CloseEvent::PeerAborted, now);
    }

    /// The peer does not keep to the protocol.
    pub(in crate::rdma) fn abort(&mut self, now: Instant) {
        self.shut(Errno::CONNRESET);
        self.happened(CloseEvent::Abort, now);
    }

    /// The time is looked at. True if something came of it. `is_alive`: the link works, which is
    /// tested far more often than this timer comes.
    pub(in crate::rdma) fn timed_out(&mut self, now: Instant, is_alive: bool) -> bool {
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
    pub(in crate::rdma) fn idle(&mut self, now: Instant) -> Result<Pumped, Errno> {
        self.see_program(now);
        Ok(Pumped::Idle)
    }

    /// The program's end is gone without a word: its last holder was killed. Ends the connection
    /// as the kernel ends TCP: by a reset if something was not read.
    pub(in crate::rdma) fn hung_up(&mut self) {
        let said = self.outbound.control();
        if said.tx_flags.load(Ordering::Acquire) & flag::RELEASED != 0 {
            return;
        }
        let unread = self.inbound.unread(&self.own) != Ok(0);
        let abort = if unread { flag::ABORT } else { 0 };
        let flags = flag::CLOSED | flag::RELEASED | abort;
        said.tx_flags.fetch_or(flags, Ordering::AcqRel);
    }

    /// The process ends: its end of the connection is closed, unless another one has it, too.
    pub(in crate::rdma) fn process_ends(&mut self) {
        if self.app.processes.load(Ordering::Relaxed) <= 1
            && !self.shared.left.load(Ordering::Relaxed)
        {
            self.hung_up();
        }
    }
}

//! What both sides do alike.

use std::collections::VecDeque;
use std::time::Instant;

use super::inbox::Inbox;
use super::link::{LinkPhase, Next};
use super::{CallError, Event, Fabric, HandshakeError, Objection, Peeked, Phase, Timeouts};
use crate::Reason;
use crate::clc::{Decline, Kind, Message, PeerId, Version};

/// One side of a handshake: a [`ClientHandshake`](super::ClientHandshake) or a
/// [`ServerHandshake`](super::ServerHandshake).
///
/// The [module](super) tells how to drive it.
#[derive(Debug)]
pub struct Handshake<F: Fabric, S> {
    /// What only this side has.
    pub(super) side: S,
    pub(super) channel: Channel<F>,
    pub(super) state: State<F>,
}

/// What the two sides do differently.
pub trait Side<F: Fabric>: Sized {
    /// Takes the message that was due; no other comes here, and no Decline.
    #[doc(hidden)]
    fn handle(
        machine: &mut Handshake<F, Self>,
        message: Message,
        now: Instant,
    ) -> Result<(), HandshakeError>;
}

#[derive(Clone, Debug)]
pub(super) enum State<F: Fabric> {
    /// The peer's first message is due.
    Opening(Kind),
    /// The owner has it in hands.
    Deciding(F::Agreed),
    /// Server: the Accept is out, or about to be.
    Confirming(F::Agreed),
    /// The Confirm is out, or about to be; the link is being confirmed.
    Linking(LinkPhase),
    Done,
    Tcp,
    Failed(HandshakeError),
}

impl<F: Fabric, S: Side<F>> Handshake<F, S> {
    /// Takes bytes from the stream and tells how many: never more than [`Self::needed`] says at
    /// each point, whatever is offered. The rest belongs to whoever reads the stream next.
    ///
    /// # Errors
    /// The connection has to end. The same error comes again from then on.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<usize, HandshakeError> {
        let Some(expected) = self.expected() else {
            return self.check_alive().map(|()| 0);
        };
        let is_all = bytes.len() >= self.channel.inbox.needed();
        let mut rest = bytes;
        match self.channel.inbox.take(&mut rest, expected) {
            Ok(Some(Message::Decline(decline))) => {
                self.channel.declined(&decline);
                self.state = State::Tcp;
            }
            Ok(Some(message)) => S::handle(self, message, now)?,
            // The header is whole, and the rest may be in the stream, too: perhaps it came in time,
            // and this process slept. If it is not, the owner has nothing to hand in, and looks at
            // the clock.
            Ok(None) if is_all => {}
            // A peer that sends one byte at a time does not get more time for it.
            Ok(None) => self.handle_timeout(now)?,
            Err(error) => return Err(self.fail(error)),
        }
        Ok(bytes.len() - rest.len())
    }

    /// Looks at what the stream holds, in [`Phase::Crossing`] only; takes nothing. Hand in all of
    /// it from its start, or the first [`MAX_PEEKED`](super::MAX_PEEKED) bytes.
    pub fn handle_peeked(&mut self, bytes: &[u8]) -> Peeked {
        let State::Linking(phase) = &self.state else {
            return Peeked::Leave;
        };
        let peeked = phase.peek(bytes, &mut self.channel);
        if peeked != Peeked::Wait && phase.is_crossing() {
            self.state = State::Tcp;
        }
        peeked
    }

    /// To be called when [`Self::poll_timeout`] has come; earlier calls do nothing.
    ///
    /// # Errors
    /// The message that was due did not come in time: the connection has to end (RFC 7609 §C.5).
    /// Or the link was not confirmed in time, after the last moment for a Decline (§C.3).
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), HandshakeError> {
        if self.channel.is_late(now) {
            if let State::Linking(phase) = &mut self.state {
                let next = phase.timeout(&mut self.channel, now);
                return self.go(next);
            }
            if let Some(expected) = self.expected() {
                return Err(self.fail(HandshakeError::Timeout(expected)));
            }
        }
        self.check_alive()
    }

    /// The peer ended the stream.
    ///
    /// # Errors
    /// A message was still due, or the link is not confirmed.
    pub fn handle_end(&mut self) -> Result<(), HandshakeError> {
        if let State::Linking(phase) = &mut self.state {
            let next = phase.end(&mut self.channel);
            return self.go(next);
        }
        match self.expected() {
            Some(expected) => Err(self.fail(HandshakeError::Ended(expected))),
            None => self.check_alive(),
        }
    }

    /// Stays on TCP: at once if a message of the peer is to be answered, or if a message of ours
    /// was not taken out of [`Self::poll_transmit`] yet; else when the peer's first message comes.
    /// [`Event::Refused`] tells when. A second call changes nothing.
    ///
    /// # Errors
    /// Too late: the server's Accept or the client's Confirm is out (RFC 7609 §C.1; see
    /// [`Self::llc_failed`] for first contact over RDMA), or the handshake is over.
    pub fn decline(&mut self, reason: Reason) -> Result<(), CallError> {
        match self.state {
            State::Opening(_) | State::Confirming(_) if self.channel.outbox.is_some() => {
                self.refuse(reason, None);
            }
            State::Opening(_) => {
                self.channel.held_decline.get_or_insert(reason);
            }
            State::Deciding(_) => self.refuse(reason, None),
            State::Confirming(_)
            | State::Linking(_)
            | State::Done
            | State::Tcp
            | State::Failed(_) => return Err(CallError::Phase),
        }
        Ok(())
    }

    /// First contact over RDMA: our CONFIRM LINK (the server's request, the client's response) was
    /// sent, and the adapter says that it arrived. From here on no Decline of ours goes out (RFC
    /// 7609 §C.2).
    ///
    /// # Errors
    /// No link is being confirmed.
    pub fn confirm_link_sent(&mut self) -> Result<(), CallError> {
        self.running()?.confirm_link_sent();
        Ok(())
    }

    /// First contact over RDMA: the LLC exchange is over, ADD LINK included (RFC 7609 §C.3). The
    /// next event is [`Event::Done`].
    ///
    /// # Errors
    /// No link is being confirmed.
    pub fn llc_done(&mut self) -> Result<(), CallError> {
        self.running()?;
        self.done();
        Ok(())
    }

    /// First contact over RDMA: the LLC exchange failed, [`Reason::LinkTimeout`] if by a timer. What
    /// follows is [`Event::Refused`], [`Event::Declined`], or an error of
    /// [`Self::handle_timeout`], after [`Timeouts::decline`] or twice that at the latest.
    ///
    /// # Errors
    /// No link is being confirmed.
    pub fn llc_failed(&mut self, reason: Reason, now: Instant) -> Result<(), CallError> {
        self.running()?;
        if let State::Linking(phase) = &mut self.state
            && let Next::Tcp = phase.failed(reason, &mut self.channel, now)
        {
            self.state = State::Tcp;
        }
        Ok(())
    }

    /// Bytes to write to the stream, all of them and in this order.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.channel.outbox.take()
    }

    /// News.
    pub fn poll_event(&mut self) -> Option<Event<F>> {
        self.channel.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.channel.deadline
    }

    /// How many bytes to read next, at most [`MAX_NEEDED`](super::MAX_NEEDED).
    pub fn needed(&self) -> usize {
        if self.expected().is_some() {
            self.channel.inbox.needed()
        } else {
            0
        }
    }

    /// What was wrong with the peer's message, if that is why it was refused.
    pub const fn objection(&self) -> Option<Objection> {
        self.channel.objection
    }

    /// Where the handshake stands.
    pub const fn phase(&self) -> Phase {
        match &self.state {
            State::Opening(kind) => Phase::Expecting(*kind),
            State::Deciding(_) => Phase::Deciding,
            State::Confirming(_) => Phase::Expecting(Kind::Confirm),
            State::Linking(phase) if phase.is_crossing() => Phase::Crossing,
            State::Linking(_) => Phase::Linking,
            State::Done => Phase::Done,
            State::Tcp => Phase::Tcp,
            State::Failed(_) => Phase::Failed,
        }
    }

    pub(super) fn new_in(side: S, state: State<F>, channel: Channel<F>) -> Self {
        Self {
            side,
            channel,
            state,
        }
    }

    pub(super) fn done(&mut self) {
        self.channel.over();
        self.channel.events.push_back(Event::Done);
        self.state = State::Done;
    }

    pub(super) fn refuse(&mut self, reason: Reason, objection: Option<Objection>) {
        self.channel.objection = objection;
        self.channel.refuse(reason);
        self.state = State::Tcp;
    }

    pub(super) fn fail(&mut self, error: HandshakeError) -> HandshakeError {
        self.channel.fail();
        self.state = State::Failed(error);
        error
    }

    /// The message that is due; a Decline may come in its place.
    pub(super) const fn expected(&self) -> Option<Kind> {
        match &self.state {
            State::Opening(kind) => Some(*kind),
            State::Confirming(_) => Some(Kind::Confirm),
            State::Linking(phase) if phase.listens() => Some(Kind::Decline),
            _ => None,
        }
    }

    const fn check_alive(&self) -> Result<(), HandshakeError> {
        match self.state {
            State::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn running(&mut self) -> Result<&mut LinkPhase, CallError> {
        match &mut self.state {
            State::Linking(phase) if phase.is_running() => Ok(phase),
            _ => Err(CallError::Phase),
        }
    }

    fn go(&mut self, next: Next) -> Result<(), HandshakeError> {
        match next {
            Next::Stay => {}
            Next::Tcp => self.state = State::Tcp,
            Next::Fail(error) => return Err(self.fail(error)),
        }
        Ok(())
    }
}

/// A message coming in, one going out, and news.
#[derive(Debug)]
pub(super) struct Channel<F: Fabric> {
    pub(super) peer_id: PeerId,
    pub(super) timeouts: Timeouts,
    /// The layout of the peer's first message, and of a Decline of ours; 1 before it came.
    pub(super) version: Version,
    pub(super) inbox: Inbox,
    pub(super) outbox: Option<Vec<u8>>,
    pub(super) events: VecDeque<Event<F>>,
    pub(super) deadline: Option<Instant>,
    /// Decline as soon as a message of ours is due.
    pub(super) held_decline: Option<Reason>,
    pub(super) objection: Option<Objection>,
}

impl<F: Fabric> Channel<F> {
    pub(super) fn new(peer_id: PeerId, timeouts: Timeouts, deadline: Option<Instant>) -> Self {
        Self {
            peer_id,
            timeouts,
            version: Version::V1,
            inbox: Inbox::default(),
            outbox: None,
            events: VecDeque::new(),
            deadline,
            held_decline: None,
            objection: None,
        }
    }

    /// Takes the peer's Decline.
    fn declined(&mut self, decline: &Decline) {
        self.over();
        self.events.push_back(Event::Declined {
            code: decline.diagnosis,
            out_of_sync: decline.out_of_sync,
        });
    }

    /// Sends ours. It takes the place of a message of ours that is still in the outbox: that one
    /// was never sent.
    pub(super) fn refuse(&mut self, reason: Reason) {
        self.send_decline(reason);
        self.refused(reason);
    }

    pub(super) fn send_decline(&mut self, reason: Reason) {
        self.outbox = Some(Decline::new(self.version, self.peer_id, reason).emit());
    }

    pub(super) fn refused(&mut self, reason: Reason) {
        self.over();
        self.events.push_back(Event::Refused { reason });
    }

    /// After an error nothing is said any more.
    fn fail(&mut self) {
        self.over();
        self.outbox = None;
        self.events.clear();
    }

    pub(super) fn over(&mut self) {
        self.deadline = None;
        self.held_decline = None;
    }

    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

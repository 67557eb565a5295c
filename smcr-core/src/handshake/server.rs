//! The server's side.

use std::time::Instant;

use super::link::{LinkPhase, SERVER_DECLINES};
use super::machine::{Channel, Side, State};
use super::{CallError, Event, Fabric, Handshake, HandshakeError, Objection, Timeouts};
use crate::clc::{Accept, Confirm, Kind, Message, Proposal};

/// What only the server has: what it can take.
#[derive(Debug)]
pub struct Server<F: Fabric>(pub(super) F::Server);

/// The handshake of the side that listened.
pub type ServerHandshake<F> = Handshake<F, Server<F>>;

impl<F: Fabric> ServerHandshake<F> {
    /// Starts: the time for the Proposal runs.
    pub fn new(server: F::Server, timeouts: Timeouts, now: Instant) -> Self {
        let deadline = now.checked_add(timeouts.proposal);
        let channel = Channel::new(F::server(&server), timeouts, deadline);
        Self::new_in(Server(server), State::Opening(Kind::Proposal), channel)
    }

    /// A Proposal begins to come that the owner still wants, though its time may be over
    /// ([`Self::handle_timeout`] was not called for it): then it has that time once more to come
    /// whole. In time, and with any other message, nothing changes.
    pub fn proposal_begins(&mut self, now: Instant) {
        if matches!(self.state, State::Opening(_)) && self.channel.is_late(now) {
            self.channel.deadline = now.checked_add(self.channel.timeouts.proposal);
        }
    }

    /// What a fabric's `accept` is made of: the Accept goes out, and the time for the Confirm runs.
    pub(super) fn answer(
        &mut self,
        now: Instant,
        accept: impl FnOnce(&F::Server, F::Agreed) -> Result<(Accept, F::Agreed), CallError>,
    ) -> Result<(), CallError> {
        let State::Deciding(agreed) = &self.state else {
            return Err(CallError::Phase);
        };
        let (message, agreed) = accept(&self.side.0, agreed.clone())?;
        self.channel.outbox = Some(message.emit());
        self.channel.deadline = now.checked_add(self.channel.timeouts.confirm);
        self.state = State::Confirming(agreed);
        Ok(())
    }

    fn handle_proposal(&mut self, proposal: &Proposal) {
        self.channel.version = proposal.offer.version();
        if let Some(reason) = self.channel.held_decline {
            return self.refuse(reason, None);
        }
        match F::check_proposal(&self.side.0, proposal) {
            Ok((proposed, agreed)) => {
                self.channel.over();
                self.channel.events.push_back(Event::Proposed(proposed));
                self.state = State::Deciding(agreed);
            }
            Err(objection) => self.refuse(objection.reason(), Some(objection)),
        }
    }

    fn handle_confirm(
        &mut self,
        agreed: &F::Agreed,
        confirm: &Confirm,
        now: Instant,
    ) -> Result<(), HandshakeError> {
        match F::check_confirm(&self.side.0, agreed, confirm) {
            Ok(confirmed) => {
                self.channel.over();
                self.channel.events.push_back(Event::Confirmed(confirmed));
                self.state = if F::has_link_phase(agreed) {
                    State::Linking(LinkPhase::start(
                        &mut self.channel,
                        Some(now),
                        SERVER_DECLINES,
                    ))
                } else {
                    State::Done
                };
                Ok(())
            }
            Err(Objection::Contradiction(field)) => Err(self.fail(HandshakeError::Mismatch(field))),
            Err(objection) if F::has_link_phase(agreed) => {
                self.channel.objection = Some(objection);
                let phase = LinkPhase::refuse(objection.reason(), &mut self.channel, now);
                self.state = State::Linking(phase);
                Ok(())
            }
            // No message of ours is due, so it is too late for a Decline.
            Err(objection) => Err(self.fail(HandshakeError::Unusable(objection))),
        }
    }
}

impl<F: Fabric> Side<F> for Server<F> {
    fn handle(
        machine: &mut ServerHandshake<F>,
        message: Message,
        now: Instant,
    ) -> Result<(), HandshakeError> {
        match (&machine.state, message) {
            (State::Opening(_), Message::Proposal(proposal)) => {
                machine.handle_proposal(&proposal);
                Ok(())
            }
            (State::Confirming(agreed), Message::Confirm(confirm)) => {
                let agreed = agreed.clone();
                machine.handle_confirm(&agreed, &confirm, now)
            }
            (_, message) => {
                let expected = machine.expected().unwrap_or(Kind::Proposal);
                let got = message.kind();
                Err(machine.fail(HandshakeError::Unexpected { expected, got }))
            }
        }
    }
}

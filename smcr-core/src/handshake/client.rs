//! The client's side.

use std::time::Instant;

use super::link::{CLIENT_DECLINES, LinkPhase};
use super::machine::{Channel, Side, State};
use super::{CallError, Event, Fabric, Handshake, HandshakeError, Timeouts};
use crate::clc::{Confirm, Kind, Message};

/// What only the client has: its offer.
#[derive(Debug)]
pub struct Client<F: Fabric>(pub(super) F::Offer);

/// The handshake of the side that connected.
pub type ClientHandshake<F> = Handshake<F, Client<F>>;

impl<F: Fabric> ClientHandshake<F> {
    /// Starts: the Proposal is in [`Self::poll_transmit`], and the time for the Accept runs. With
    /// nothing to offer there is a Decline, and all is over.
    pub fn new(offer: F::Offer, timeouts: Timeouts, now: Instant) -> Self {
        let deadline = now.checked_add(timeouts.accept);
        let channel = Channel::new(F::client(&offer), timeouts, deadline);
        let proposal = F::propose(&offer);
        let mut this = Self::new_in(Client(offer), State::Opening(Kind::Accept), channel);
        match proposal {
            Ok(proposal) => this.channel.outbox = Some(proposal.emit()),
            Err(reason) => this.refuse(reason, None),
        }
        this
    }

    /// What a fabric's `confirm` is made of: the Confirm goes out, and if the link is new it is to
    /// be confirmed. `now` is for that; `None` in fabrics that have no links.
    pub(super) fn answer(
        &mut self,
        now: Option<Instant>,
        confirm: impl FnOnce(&F::Offer, &F::Agreed) -> Result<Confirm, CallError>,
    ) -> Result<(), CallError> {
        let State::Deciding(agreed) = &self.state else {
            return Err(CallError::Phase);
        };
        self.channel.outbox = Some(confirm(&self.side.0, agreed)?.emit());
        if F::has_link_phase(agreed) {
            self.state = State::Linking(LinkPhase::start(&mut self.channel, now, CLIENT_DECLINES));
        } else {
            self.done();
        }
        Ok(())
    }
}

impl<F: Fabric> Side<F> for Client<F> {
    fn handle(
        machine: &mut ClientHandshake<F>,
        message: Message,
        _now: Instant,
    ) -> Result<(), HandshakeError> {
        let Message::Accept(accept) = message else {
            return Err(machine.fail(HandshakeError::Unexpected {
                expected: Kind::Accept,
                got: message.kind(),
            }));
        };
        machine.channel.version = accept.terms.version();
        if let Some(reason) = machine.channel.held_decline {
            machine.refuse(reason, None);
            return Ok(());
        }
        match F::check_accept(&machine.side.0, &accept) {
            Ok((accepted, agreed)) => {
                machine.channel.over();
                machine.channel.events.push_back(Event::Accepted(accepted));
                machine.state = State::Deciding(agreed);
            }
            Err(objection) => machine.refuse(objection.reason(), Some(objection)),
        }
        Ok(())
    }
}

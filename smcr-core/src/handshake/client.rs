//! The client's side.

use std::time::Instant;

use super::shm::{self, Agreed, ShmLocal, ShmOffer};
use super::{CallError, Channel, Event, HandshakeError, Phase, Timeouts};
use crate::Reason;
use crate::clc::{Accept, Kind, Message, Version};

/// The handshake of the side that connected.
///
/// The [module](super) tells how to drive it.
#[derive(Debug)]
pub struct ClientHandshake {
    offer: ShmOffer,
    channel: Channel,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// The Proposal is out, or about to be.
    ExpectAccept,
    /// The owner has the Accept in hands.
    Deciding(Agreed),
    Done,
    Tcp,
    Failed(HandshakeError),
}

impl ClientHandshake {
    /// Starts: the Proposal is in [`Self::poll_transmit`], and the time for the Accept runs.
    pub fn new(offer: ShmOffer, timeouts: Timeouts, now: Instant) -> Self {
        let mut channel = Channel::new(offer.identity.peer_id, now.checked_add(timeouts.accept));
        channel.outbox = Some(shm::proposal(&offer).emit());
        Self {
            offer,
            channel,
            state: State::ExpectAccept,
        }
    }

    /// Takes bytes from the stream and tells how many: never more than [`Self::needed`] says at
    /// each point, whatever is offered. The rest belongs to whoever reads the stream next.
    ///
    /// # Errors
    /// The connection has to end. The same error comes again from then on.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<usize, HandshakeError> {
        let mut rest = bytes;
        match self.state {
            State::ExpectAccept => match self.channel.inbox.take(&mut rest, Kind::Accept) {
                Ok(Some(message)) => self.handle_message(message)?,
                // A peer that sends one byte at a time does not get more time for it.
                Ok(None) => self.handle_timeout(now)?,
                Err(error) => return Err(self.fail(error)),
            },
            State::Failed(error) => return Err(error),
            State::Deciding(_) | State::Done | State::Tcp => {}
        }
        Ok(bytes.len() - rest.len())
    }

    /// To be called when [`Self::poll_timeout`] has come; earlier calls do nothing.
    ///
    /// # Errors
    /// The Accept did not come in time: the connection has to end (RFC 7609 §C.5).
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), HandshakeError> {
        match self.state {
            State::ExpectAccept if self.channel.is_late(now) => {
                Err(self.fail(HandshakeError::Timeout(Kind::Accept)))
            }
            State::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// The peer ended the stream.
    ///
    /// # Errors
    /// The Accept was still due.
    pub fn handle_end(&mut self) -> Result<(), HandshakeError> {
        match self.state {
            State::ExpectAccept => Err(self.fail(HandshakeError::Ended(Kind::Accept))),
            State::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Answers the Accept with our buffer; the next event is [`Event::Done`].
    ///
    /// # Errors
    /// No Accept to answer, or a buffer of another GID than the Proposal's.
    pub fn confirm(&mut self, local: ShmLocal) -> Result<(), CallError> {
        let State::Deciding(agreed) = &self.state else {
            return Err(CallError::Phase);
        };
        if local.gid != self.offer.identity.gid {
            return Err(CallError::Gid);
        }
        self.channel.outbox = Some(shm::confirm(&self.offer.identity, agreed, &local).emit());
        self.channel.events.push_back(Event::Done);
        self.state = State::Done;
        Ok(())
    }

    /// Stays on TCP: at once if the Proposal was not taken out of [`Self::poll_transmit`] yet or if
    /// the Accept is there, else when the Accept comes. [`Event::Refused`] tells when. A second call
    /// changes nothing.
    ///
    /// # Errors
    /// Too late: the Confirm is out (RFC 7609 §C.1), or the handshake is over.
    pub fn decline(&mut self, reason: Reason) -> Result<(), CallError> {
        match self.state {
            // Nobody knows yet what the server speaks.
            State::ExpectAccept if self.channel.outbox.is_some() => {
                self.refuse(Version::V1, reason)
            }
            State::ExpectAccept => {
                self.channel.held_decline.get_or_insert(reason);
            }
            State::Deciding(_) => self.refuse(Version::V2, reason),
            State::Done | State::Tcp | State::Failed(_) => return Err(CallError::Phase),
        }
        Ok(())
    }

    /// Bytes to write to the stream, all of them and in this order.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.channel.outbox.take()
    }

    /// News.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.channel.events.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.channel.deadline
    }

    /// How many bytes to read next, at most [`MAX_NEEDED`](super::MAX_NEEDED).
    pub fn needed(&self) -> usize {
        if matches!(self.state, State::ExpectAccept) {
            self.channel.inbox.needed()
        } else {
            0
        }
    }

    /// Where the handshake stands.
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::ExpectAccept => Phase::Expecting(Kind::Accept),
            State::Deciding(_) => Phase::Deciding,
            State::Done => Phase::Done,
            State::Tcp => Phase::Tcp,
            State::Failed(_) => Phase::Failed,
        }
    }

    fn handle_message(&mut self, message: Message) -> Result<(), HandshakeError> {
        match message {
            Message::Accept(accept) => self.handle_accept(&accept),
            Message::Decline(decline) => {
                self.channel.declined(&decline);
                self.state = State::Tcp;
            }
            Message::Proposal(_) | Message::Confirm(_) => {
                return Err(self.fail(HandshakeError::Unexpected {
                    expected: Kind::Accept,
                    got: message.kind(),
                }));
            }
        }
        Ok(())
    }

    fn handle_accept(&mut self, accept: &Accept) {
        let version = accept.terms.version();
        if let Some(reason) = self.channel.held_decline {
            return self.refuse(version, reason);
        }
        match shm::check_accept(&self.offer, accept) {
            Ok((peer, agreed)) => {
                self.channel.over();
                self.channel.events.push_back(Event::Accepted {
                    peer,
                    first_contact: agreed.first_contact,
                    eid: agreed.eid,
                });
                self.state = State::Deciding(agreed);
            }
            Err(reason) => self.refuse(version, reason),
        }
    }

    fn refuse(&mut self, version: Version, reason: Reason) {
        self.channel.refuse(version, reason);
        self.state = State::Tcp;
    }

    fn fail(&mut self, error: HandshakeError) -> HandshakeError {
        self.channel.fail();
        self.state = State::Failed(error);
        error
    }
}

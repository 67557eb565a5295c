//! The server's side.

use std::time::{Duration, Instant};

use super::shm::{self, Agreed, Identity, ShmEids, ShmGid, ShmLocal};
use super::{CallError, Channel, Event, HandshakeError, Phase, Timeouts};
use crate::Reason;
use crate::clc::{Confirm, Kind, Message, Proposal, Version};

/// The handshake of the side that listened.
///
/// The [module](super) tells how to drive it.
#[derive(Debug)]
pub struct ServerHandshake {
    identity: Identity,
    eids: ShmEids,
    confirm_timeout: Duration,
    channel: Channel,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    ExpectProposal,
    /// The owner has the Proposal in hands. The contact is not known before the owner's answer.
    Deciding {
        client: ShmGid,
        agreed: Agreed,
    },
    /// The Accept is out, or about to be.
    ExpectConfirm {
        client: ShmGid,
        agreed: Agreed,
    },
    Done,
    Tcp,
    Failed(HandshakeError),
}

impl ServerHandshake {
    /// Starts: the time for the Proposal runs.
    pub fn new(identity: Identity, eids: ShmEids, timeouts: Timeouts, now: Instant) -> Self {
        let channel = Channel::new(identity.peer_id, now.checked_add(timeouts.proposal));
        Self {
            identity,
            eids,
            confirm_timeout: timeouts.confirm,
            channel,
            state: State::ExpectProposal,
        }
    }

    /// Takes bytes from the stream and tells how many: never more than [`Self::needed`] says at
    /// each point, whatever is offered. The rest belongs to whoever reads the stream next.
    ///
    /// # Errors
    /// The connection has to end. The same error comes again from then on.
    pub fn handle_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<usize, HandshakeError> {
        let mut rest = bytes;
        match self.expected() {
            Some(expected) => match self.channel.inbox.take(&mut rest, expected) {
                Ok(Some(message)) => self.handle_message(message)?,
                // A peer that sends one byte at a time does not get more time for it.
                Ok(None) => self.handle_timeout(now)?,
                Err(error) => return Err(self.fail(error)),
            },
            None => self.check_alive()?,
        }
        Ok(bytes.len() - rest.len())
    }

    /// To be called when [`Self::poll_timeout`] has come; earlier calls do nothing.
    ///
    /// # Errors
    /// The message that was due did not come in time: the connection has to end (RFC 7609 §C.5).
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), HandshakeError> {
        match self.expected() {
            Some(expected) if self.channel.is_late(now) => {
                Err(self.fail(HandshakeError::Timeout(expected)))
            }
            _ => self.check_alive(),
        }
    }

    /// The peer ended the stream.
    ///
    /// # Errors
    /// A message was still due.
    pub fn handle_end(&mut self) -> Result<(), HandshakeError> {
        match self.expected() {
            Some(expected) => Err(self.fail(HandshakeError::Ended(expected))),
            None => self.check_alive(),
        }
    }

    /// Answers the Proposal with our buffer; the time for the Confirm runs from now.
    ///
    /// # Errors
    /// No Proposal to answer, or a buffer of another GID than this handshake's.
    pub fn accept(
        &mut self,
        local: ShmLocal,
        first_contact: bool,
        now: Instant,
    ) -> Result<(), CallError> {
        let State::Deciding { client, agreed } = &self.state else {
            return Err(CallError::Phase);
        };
        if local.gid != self.identity.gid {
            return Err(CallError::Gid);
        }
        let agreed = Agreed {
            first_contact,
            ..*agreed
        };
        self.channel.outbox = Some(shm::accept(&self.identity, &agreed, &local).emit());
        self.channel.deadline = now.checked_add(self.confirm_timeout);
        self.state = State::ExpectConfirm {
            client: *client,
            agreed,
        };
        Ok(())
    }

    /// Stays on TCP: at once if a Proposal is to be answered, or if the Accept was not taken out of
    /// [`Self::poll_transmit`] yet; before the Proposal, when it comes. [`Event::Refused`] tells
    /// when. A second call changes nothing.
    ///
    /// # Errors
    /// Too late: the Accept is out (RFC 7609 §C.1), or the handshake is over.
    pub fn decline(&mut self, reason: Reason) -> Result<(), CallError> {
        match self.state {
            State::ExpectProposal => {
                self.channel.held_decline.get_or_insert(reason);
            }
            State::Deciding { .. } => self.refuse(Version::V2, reason),
            State::ExpectConfirm { .. } if self.channel.outbox.is_some() => {
                self.refuse(Version::V2, reason)
            }
            State::ExpectConfirm { .. } | State::Done | State::Tcp | State::Failed(_) => {
                return Err(CallError::Phase);
            }
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
        if self.expected().is_some() {
            self.channel.inbox.needed()
        } else {
            0
        }
    }

    /// Where the handshake stands.
    pub const fn phase(&self) -> Phase {
        match self.state {
            State::ExpectProposal => Phase::Expecting(Kind::Proposal),
            State::Deciding { .. } => Phase::Deciding,
            State::ExpectConfirm { .. } => Phase::Expecting(Kind::Confirm),
            State::Done => Phase::Done,
            State::Tcp => Phase::Tcp,
            State::Failed(_) => Phase::Failed,
        }
    }

    const fn expected(&self) -> Option<Kind> {
        match self.phase() {
            Phase::Expecting(kind) => Some(kind),
            _ => None,
        }
    }

    const fn check_alive(&self) -> Result<(), HandshakeError> {
        match self.state {
            State::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn handle_message(&mut self, message: Message) -> Result<(), HandshakeError> {
        match message {
            Message::Proposal(proposal) => self.handle_proposal(&proposal),
            Message::Confirm(confirm) => return self.handle_confirm(&confirm),
            Message::Decline(decline) => {
                self.channel.declined(&decline);
                self.state = State::Tcp;
            }
            Message::Accept(_) => {
                let expected = self.expected().unwrap_or(Kind::Proposal);
                return Err(self.fail(HandshakeError::Unexpected {
                    expected,
                    got: Kind::Accept,
                }));
            }
        }
        Ok(())
    }

    fn handle_proposal(&mut self, proposal: &Proposal) {
        let version = proposal.offer.version();
        if let Some(reason) = self.channel.held_decline {
            return self.refuse(version, reason);
        }
        match shm::check_proposal(&self.eids, proposal) {
            Ok((client, agreed)) => {
                self.channel.over();
                self.channel.events.push_back(Event::Proposed {
                    gid: client,
                    eid: agreed.eid,
                    peer_id: proposal.peer_id,
                });
                self.state = State::Deciding { client, agreed };
            }
            Err(reason) => self.refuse(version, reason),
        }
    }

    fn handle_confirm(&mut self, confirm: &Confirm) -> Result<(), HandshakeError> {
        let State::ExpectConfirm { client, agreed } = &self.state else {
            let error = HandshakeError::Unexpected {
                expected: Kind::Proposal,
                got: Kind::Confirm,
            };
            return Err(self.fail(error));
        };
        match shm::check_confirm(*client, agreed, confirm) {
            Ok(peer) => {
                self.channel.over();
                self.channel.events.push_back(Event::Confirmed { peer });
                self.state = State::Done;
                Ok(())
            }
            // No message of ours is due, so it is too late for a Decline.
            Err(field) => Err(self.fail(HandshakeError::Mismatch(field))),
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

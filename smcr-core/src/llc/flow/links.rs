//! Links that come: first contact, ADD LINK.

use std::time::Instant;

use super::{CallError, EndReason, Event, Group, LinkConfig, LinkFailure, LinkId, Role, Violation};
use crate::cdc::EyeCatcher;
use crate::clc::{Bounded, MtuCode, Psn, QpNumber, Version};
use crate::llc::{
    AddLink, AddLinkKind, ConfirmLink, DeleteReason, LinkEnd, LinkNumber, Llc, RejectReason,
    RequestAddLink,
};

/// One link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) number: LinkNumber,
    pub(super) state: LinkState,
    config: LinkConfig,
    /// When something came last.
    pub(super) heard: Instant,
    pub(super) test: Option<Test>,
    /// How many tests there were; makes the data of each its own.
    pub(super) tests: u64,
    /// How many of the last ones were given up without a response, which may still come.
    pub(super) late: u64,
}

/// How far a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Client: CONFIRM LINK has to come until then.
    AwaitConfirm { deadline: Instant },
    /// Client: the owner makes the queue pair ready; then the response goes out, in this form.
    Activating {
        deadline: Instant,
        request: ConfirmLink,
        version: Version,
    },
    /// Server: the response has to come until then. The request is repeated once.
    ConfirmSent {
        deadline: Instant,
        again: Option<Instant>,
    },
    /// Data may flow.
    Active,
}

/// An open TEST LINK.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) data: [u8; 16],
    pub(super) deadline: Instant,
    /// The peer's adapter acknowledged something since.
    pub(super) delivered: bool,
}

impl Test {
    /// What the test of that number says.
    pub(super) fn data(number: u64) -> [u8; 16] {
        let mut data = *b"smcr    --------";
        data[8..].copy_from_slice(&number.to_be_bytes());
        data
    }
}

/// What changes the links of a group; only one at a time (RFC 7609 §3.5.5.3).
#[derive(Clone, Copy, Debug)]
pub(super) enum Exchange {
    /// Client, first contact: ADD LINK has to come.
    AwaitAddLink { deadline: Instant },
    /// Server: ADD LINK that offers no link, only something to reject.
    AddLinkSent {
        number: LinkNumber,
        deadline: Instant,
    },
    /// Server: DELETE LINK of one link. Client: the question for it. What ends it is the response,
    /// or the server's DELETE LINK.
    Delete {
        delete: PendingDelete,
        /// The link that carries the message.
        carrier: LinkId,
        deadline: Instant,
    },
    /// Client: the question for DELETE LINK of all.
    EndAsked {
        reason: DeleteReason,
        deadline: Instant,
    },
}

impl Exchange {
    pub(super) const fn deadline(&self) -> Instant {
        match self {
            Self::AwaitAddLink { deadline }
            | Self::AddLinkSent { deadline, .. }
            | Self::Delete { deadline, .. }
            | Self::EndAsked { deadline, .. } => *deadline,
        }
    }
}

/// A link that has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PendingDelete {
    pub(super) number: LinkNumber,
    pub(super) reason: DeleteReason,
    pub(super) orderly: bool,
}

impl Link {
    pub(super) fn is_active(&self) -> bool {
        self.state == LinkState::Active
    }

    /// Whether this is the response to a test that was given up: the peer was stopped.
    pub(super) fn takes_late_response(&mut self, data: [u8; 16]) -> bool {
        let [.., n0, n1, n2, n3, n4, n5, n6, n7] = data;
        let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        let newest = self.tests - u64::from(self.test.is_some());
        let is_late = data == Test::data(number) && number <= newest && newest - number < self.late;
        if is_late {
            // They come in order: those before it will not come any more.
            self.late = newest - number;
        }
        is_late
    }

    /// A client learns the number with CONFIRM LINK.
    pub(super) const fn has_number(&self) -> bool {
        !matches!(self.state, LinkState::AwaitConfirm { .. })
    }
}

impl Group {
    pub(super) fn begin(&mut self, config: LinkConfig, now: Instant) {
        let timeouts = self.config.timeouts;
        let (number, state) = match self.config.role {
            Role::Client => (
                LinkNumber(0),
                LinkState::AwaitConfirm {
                    deadline: now + timeouts.confirm_link,
                },
            ),
            Role::Server => (
                self.next_number(),
                LinkState::ConfirmSent {
                    deadline: now + timeouts.confirm_link_response,
                    again: Some(now + timeouts.confirm_link_again),
                },
            ),
        };
        self.links.push(Link {
            id: config.id,
            number,
            state,
            config,
            heard: now,
            test: None,
            tests: 0,
            late: 0,
        });
        if self.config.role == Role::Server {
            self.ask_to_confirm(now, config.id);
        }
    }

    /// Server: CONFIRM LINK.
    pub(super) fn ask_to_confirm(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.link(id) else { return };
        let (config, number) = (link.config, link.number);
        let request = self.our_confirm(config, number);
        self.send(now, id, &Llc::ConfirmLink(request));
    }

    /// Server: one that is not in use, and not the last one again before all others had their turn
    /// (RFC 7609 §2.2.4). Never 0, which only old kernels use.
    pub(super) fn next_number(&mut self) -> LinkNumber {
        loop {
            self.last_number = LinkNumber(self.last_number.0.checked_add(1).unwrap_or(1));
            if self.numbered(self.last_number).is_none() {
                return self.last_number; // far more numbers than links
            }
        }
    }

    fn our_confirm(&self, link: LinkConfig, number: LinkNumber) -> ConfirmLink {
        ConfirmLink {
            response: false,
            no_eye_catcher: self.eye_catcher() == EyeCatcher::None,
            end: link.local,
            link: number,
            user_id: link.user_id,
            max_links: self.config.max_links,
            max_conns: self.config.max_conns,
        }
    }

    /// None only if both ends say so: see [`EyeCatcher`]. What further links say changes nothing.
    fn agree(&mut self, peer: &ConfirmLink) -> EyeCatcher {
        let wanted = match peer.no_eye_catcher {
            true => self.config.eye_catcher,
            false => EyeCatcher::FourBytes,
        };
        *self.eye_catcher.get_or_insert(wanted)
    }

    /// As it was agreed on, or as we want it before that.
    fn eye_catcher(&self) -> EyeCatcher {
        self.eye_catcher.unwrap_or(self.config.eye_catcher)
    }

    pub(super) fn confirm_link_came(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        message: ConfirmLink,
    ) {
        let Some(link) = self.link(id) else { return };
        // The MAC address may be a router's, or one of several.
        let same_end = link.config.peer.gid == message.end.gid
            && link.config.peer.qp_number == message.end.qp_number;
        let taken = self
            .numbered(message.link)
            .is_some_and(|other| other.id != id);
        match (link.state, message.response) {
            (LinkState::AwaitConfirm { deadline }, false) => {
                if !same_end || taken {
                    return self.wrong_link(now, id);
                }
                self.take_max_links(message.max_links);
                if let Some(link) = self.link_mut(id) {
                    link.number = message.link;
                    link.state = LinkState::Activating {
                        deadline,
                        request: message,
                        version,
                    };
                }
                self.events.push_back(Event::Activate { link: id });
            }
            (LinkState::ConfirmSent { .. }, true) => {
                if !same_end || message.link != link.number {
                    return self.wrong_link(now, id);
                }
                self.take_max_links(message.max_links);
                self.confirmed(id, &message);
                self.offer_no_link(now, id);
            }
            (_, true) => self.violation(now, id, Violation::UnexpectedResponse),
            (_, false) => self.violation(now, id, Violation::OutOfPlace),
        }
    }

    /// RFC 7609 §C.7.1: a protocol error; the owner declines if this is the first contact.
    fn wrong_link(&mut self, now: Instant, id: LinkId) {
        self.violation(now, id, Violation::WrongLink);
        self.fail(now, id, LinkFailure::WrongLink);
    }

    /// The smaller number counts; 0 is not told.
    fn take_max_links(&mut self, peer: u8) {
        if self.settling && peer != 0 {
            self.max_links = self.max_links.min(peer);
        }
    }

    pub(super) fn activate(&mut self, now: Instant, id: LinkId) -> Result<(), CallError> {
        let link = self.link(id).ok_or(CallError::Link)?;
        let LinkState::Activating {
            request, version, ..
        } = link.state
        else {
            return Err(CallError::Link);
        };
        let (config, number) = (link.config, link.number);
        // The server has said what it wants: the response says what will be.
        self.agree(&request);
        let response = ConfirmLink {
            response: true,
            max_links: self.max_links,
            ..self.our_confirm(config, number)
        };
        self.send_as(now, id, version, &Llc::ConfirmLink(response));
        self.confirmed(id, &request);
        if self.config.add_link_follows {
            self.exchange = Some(Exchange::AwaitAddLink {
                deadline: now + self.config.timeouts.add_link,
            });
        } else {
            self.settle();
        }
        Ok(())
    }

    fn confirmed(&mut self, id: LinkId, peer: &ConfirmLink) {
        if let Some(link) = self.link_mut(id) {
            link.state = LinkState::Active;
        }
        let eye_catcher = self.agree(peer);
        self.events.push_back(Event::LinkConfirmed {
            link: id,
            number: peer.link,
            eye_catcher,
            max_conns: peer.max_conns,
        });
    }

    pub(super) fn settle(&mut self) {
        self.exchange = None;
        if std::mem::replace(&mut self.settling, false) && !self.ended {
            self.events.push_back(Event::Settled);
        }
    }

    /// Server, first contact: an ADD LINK without a usable MTU. A Linux client waits three seconds
    /// for an ADD LINK, and rejects this one whatever devices it has. Address and port have to be
    /// real, since Linux takes a body of zeros for something of its own.
    fn offer_no_link(&mut self, now: Instant, id: LinkId) {
        if !self.config.add_link_follows {
            return self.settle();
        }
        let Some(local) = self.link(id).map(|link| link.config.local) else {
            return;
        };
        let number = self.next_number();
        let offer = Llc::AddLink(AddLink {
            kind: AddLinkKind::Request,
            end: LinkEnd {
                qp_number: QpNumber::default(),
                ..local
            },
            link: number,
            mtu: MtuCode::new(0).expect("not above 15"),
            psn: Psn::default(),
            extension: None,
        });
        self.send(now, id, &offer);
        self.exchange = Some(Exchange::AddLinkSent {
            number,
            deadline: now + self.config.timeouts.add_link,
        });
    }

    pub(super) fn add_link_came(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        message: AddLink,
    ) {
        match (self.config.role, message.kind, self.exchange) {
            // Later offers are rejected as well.
            (Role::Client, AddLinkKind::Request, exchange) => {
                let reason = match message.mtu.bytes() {
                    Some(_) => RejectReason::NO_ALTERNATE_PATH,
                    None => RejectReason::INVALID_MTU,
                };
                let rejection = Llc::AddLink(AddLink {
                    kind: AddLinkKind::Rejected(reason),
                    extension: None,
                    ..message
                });
                self.send_as(now, id, version, &rejection);
                if let Some(Exchange::AwaitAddLink { .. }) = exchange {
                    self.settle();
                }
            }
            (
                Role::Server,
                AddLinkKind::Rejected(_),
                Some(Exchange::AddLinkSent { number, .. }),
            ) if number == message.link => self.settle(),
            // It took what was none. It has to forget that link again (RFC 7609 §C.7.1).
            (Role::Server, AddLinkKind::Accepted, Some(Exchange::AddLinkSent { number, .. }))
                if number == message.link =>
            {
                self.violation(now, id, Violation::OutOfPlace);
                self.settle();
                self.deletes.push_back(PendingDelete {
                    number,
                    reason: DeleteReason::PROTOCOL_VIOLATION,
                    orderly: false,
                });
            }
            // The client's hint that it has another device (RFC 7609 §3.5.5.1.2).
            (Role::Server, AddLinkKind::Request, _) => {
                self.violation(now, id, Violation::NotSupported);
            }
            _ => self.violation(now, id, Violation::UnexpectedResponse),
        }
    }

    /// Linux sends it when it finds another device; an answer of zeros means no.
    pub(super) fn request_add_link_came(
        &mut self,
        now: Instant,
        id: LinkId,
        message: &RequestAddLink,
    ) {
        if self.config.role == Role::Client || message.response {
            return self.violation(now, id, Violation::OutOfPlace);
        }
        let response = Llc::RequestAddLink(RequestAddLink {
            response: true,
            gids: Bounded::default(),
        });
        self.send(now, id, &response);
    }

    /// The time of what changes the links is up.
    pub(super) fn exchange_timed_out(&mut self, now: Instant, exchange: Exchange) {
        self.exchange = None;
        match exchange {
            // RFC 7609 §C.7.1 has a RST here, §C.8 and Linux go on with one link.
            Exchange::AwaitAddLink { .. } | Exchange::AddLinkSent { .. } => self.settle(),
            // The link that carried the message is no good either.
            Exchange::Delete {
                delete, carrier, ..
            } => {
                self.remove_deleted(delete);
                self.fail(now, carrier, LinkFailure::NoResponse);
            }
            Exchange::EndAsked { reason, .. } => self.finish(EndReason::Local(reason)),
        }
    }

    /// A link as it will be when further ones can be made, for tests of what is there already.
    #[cfg(test)]
    pub(super) fn insert_active(&mut self, config: LinkConfig, number: LinkNumber, now: Instant) {
        assert!(self.links.len() < super::MAX_LINKS);
        self.last_number = self.last_number.max(number);
        self.links.push(Link {
            id: config.id,
            number,
            state: LinkState::Active,
            config,
            heard: now,
            test: None,
            tests: 0,
            late: 0,
        });
    }
}

//! Links: first contact, ADD LINK, DELETE LINK, failure.

use std::time::Instant;

use super::{CallError, EndReason, Event, Group, LinkConfig, LinkFailure, LinkId, Role, Violation};
use crate::cdc::EyeCatcher;
use crate::clc::{Bounded, MtuCode, Psn, QpNumber, Version};
use crate::llc::{
    AddLink, AddLinkKind, ConfirmLink, DeleteLink, DeleteReason, DeleteTarget, LinkEnd, LinkNumber,
    Llc, RejectReason, RequestAddLink,
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
    /// Server: the response has to come until then.
    ConfirmSent { deadline: Instant },
    /// Data may flow.
    Active,
}

/// An open TEST LINK.
#[derive(Debug)]
pub(super) struct Test {
    pub(super) data: [u8; 16],
    pub(super) deadline: Instant,
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
        });
        if self.config.role == Role::Server {
            let request = self.our_confirm(config, number, self.config.max_links, false);
            self.send(now, config.id, &request);
        }
    }

    /// Server: one that is not in use, and not the last one again before all others had their turn
    /// (RFC 7609 §2.2.4). Never 0, which only old kernels use.
    fn next_number(&mut self) -> LinkNumber {
        loop {
            self.last_number = LinkNumber(self.last_number.0.checked_add(1).unwrap_or(1));
            if self.numbered(self.last_number).is_none() {
                return self.last_number; // far more numbers than links
            }
        }
    }

    fn our_confirm(
        &self,
        link: LinkConfig,
        number: LinkNumber,
        max_links: u8,
        response: bool,
    ) -> Llc {
        Llc::ConfirmLink(ConfirmLink {
            response,
            no_eye_catcher: true,
            end: link.local,
            link: number,
            user_id: link.user_id,
            max_links,
            max_conns: self.config.max_conns,
        })
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
        let response = self.our_confirm(link.config, link.number, self.max_links, true);
        self.send_as(now, id, version, &response);
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
        self.events.push_back(Event::LinkConfirmed {
            link: id,
            number: peer.link,
            // A peer that does not know these bits builds its elements as the RFC has it.
            eye_catcher: if peer.no_eye_catcher {
                EyeCatcher::None
            } else {
                EyeCatcher::FourBytes
            },
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

    pub(super) fn delete_link_came(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        message: DeleteLink,
    ) {
        match (self.config.role, message.target) {
            (_, DeleteTarget::All) => {
                // The server's own message is the client's answer (RFC 7609 §3.5.4). A client has
                // nothing to answer.
                if self.config.role == Role::Server && !message.response {
                    self.send(now, id, &delete_all(message.reason, false));
                }
                let reason = match self.exchange {
                    Some(Exchange::EndAsked { reason, .. }) => EndReason::Local(reason),
                    _ => EndReason::Peer(message.reason),
                };
                self.finish(reason);
            }
            (Role::Server, DeleteTarget::One(number)) if message.response => {
                self.delete_response(now, id, number);
            }
            (Role::Server, DeleteTarget::One(number)) => {
                self.delete_asked(now, id, version, number, message);
            }
            (Role::Client, DeleteTarget::One(_)) if message.response => {
                self.violation(now, id, Violation::UnexpectedResponse);
            }
            (Role::Client, DeleteTarget::One(number)) => {
                self.delete_ordered(now, id, version, number, message.reason);
            }
        }
    }

    /// Server: the client is through with the link that we deleted.
    fn delete_response(&mut self, now: Instant, id: LinkId, number: LinkNumber) {
        match self.exchange {
            Some(Exchange::Delete { delete, .. }) if delete.number == number => {
                self.exchange = None;
                self.remove_deleted(delete);
            }
            _ => self.violation(now, id, Violation::UnexpectedResponse),
        }
    }

    /// Server: the client wants a link to go. That binds us, after what is under way.
    fn delete_asked(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        number: LinkNumber,
        message: DeleteLink,
    ) {
        let is_going = |delete: &PendingDelete| delete.number == number;
        let going = self.deletes.iter().any(is_going)
            || matches!(self.exchange, Some(Exchange::Delete { delete, .. }) if is_going(&delete));
        if going {
            return; // a timing window, not an error (RFC 7609 §C.7.1)
        }
        if self.numbered(number).is_none() {
            let response = delete_one(number, DeleteReason::UNKNOWN_LINK, message.orderly, true);
            return self.send_as(now, id, version, &response);
        }
        self.deletes.push_back(PendingDelete {
            number,
            reason: message.reason,
            orderly: message.orderly,
        });
    }

    /// Client: the server takes a link down; that cannot be refused.
    fn delete_ordered(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        number: LinkNumber,
        reason: DeleteReason,
    ) {
        let asked = match self.exchange {
            Some(Exchange::Delete { delete, .. }) => delete.number == number,
            _ => false,
        };
        let known = self.numbered(number).is_some();
        let told = if known || asked {
            DeleteReason::NONE
        } else {
            DeleteReason::UNKNOWN_LINK
        };
        self.send_as(now, id, version, &delete_one(number, told, false, true));
        if asked {
            self.exchange = None;
        }
        if known {
            self.remove_deleted(PendingDelete {
                number,
                reason,
                orderly: false,
            });
        }
    }

    pub(super) fn ask_to_delete(
        &mut self,
        now: Instant,
        id: LinkId,
        reason: DeleteReason,
    ) -> Result<(), CallError> {
        let link = self.link(id).filter(|link| link.is_active());
        let number = link.ok_or(CallError::Link)?.number;
        self.begin_delete(
            now,
            PendingDelete {
                number,
                reason,
                orderly: true,
            },
        );
        Ok(())
    }

    /// Both sides queue it; a client's question may be sent at any time, but it has one answer to
    /// wait for as well.
    fn begin_delete(&mut self, now: Instant, delete: PendingDelete) {
        if !self
            .deletes
            .iter()
            .any(|other| other.number == delete.number)
        {
            self.deletes.push_back(delete);
        }
        if !self.settling && self.exchange.is_none() {
            self.start_delete(now);
        }
    }

    pub(super) fn start_delete(&mut self, now: Instant) {
        // Our own CONFIRM RKEY lists links; let it end first.
        if self.exchange.is_some() || self.own.is_running() {
            return;
        }
        let Some(delete) = self.deletes.pop_front() else {
            return;
        };
        // Rather over another link than over the one that goes.
        let going = self.numbered(delete.number).map(|link| link.id);
        let others = self.active_links().map(|(id, _)| id);
        let Some(carrier) = others.filter(|id| Some(*id) != going).chain(going).next() else {
            return;
        };
        let message = delete_one(delete.number, delete.reason, delete.orderly, false);
        self.send(now, carrier, &message);
        if self.ended {
            return;
        }
        self.exchange = Some(Exchange::Delete {
            delete,
            carrier,
            deadline: now + self.config.timeouts.exchange,
        });
    }

    pub(super) fn end_by_us(&mut self, now: Instant, reason: DeleteReason) {
        if matches!(self.exchange, Some(Exchange::EndAsked { .. })) {
            return; // it is on its way
        }
        let Some(carrier) = self.any_active() else {
            return self.finish(EndReason::Local(reason)); // nobody to tell
        };
        self.send(now, carrier, &delete_all(reason, true));
        match self.config.role {
            Role::Server => self.finish(EndReason::Local(reason)),
            Role::Client if self.ended => {}
            Role::Client => {
                self.exchange = Some(Exchange::EndAsked {
                    reason,
                    deadline: now + self.config.timeouts.exchange,
                });
            }
        }
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

    fn remove_deleted(&mut self, delete: PendingDelete) {
        let Some(id) = self.numbered(delete.number).map(|link| link.id) else {
            return; // it failed before, or never was
        };
        self.events.push_back(Event::LinkDeleted {
            link: id,
            reason: delete.reason,
        });
        self.remove(id);
        if self.links.is_empty() {
            self.finish(EndReason::LastLinkDeleted(delete.reason));
        }
    }

    /// The link does not work (RFC 7609 §3.5.5.1.3, §3.5.5.1.4).
    pub(super) fn fail(&mut self, now: Instant, id: LinkId, reason: LinkFailure) {
        let Some(link) = self.link(id) else { return };
        let (number, was_active) = (link.number, link.is_active());
        self.events
            .push_back(Event::LinkFailed { link: id, reason });
        self.remove(id);
        self.transmit.retain(|transmit| transmit.link != id);
        if self.any_active().is_none() {
            return self.finish(EndReason::LastLinkFailed(reason));
        }
        match self.exchange {
            // Its end was to come over this link.
            Some(Exchange::Delete {
                delete, carrier, ..
            }) if carrier == id => {
                self.exchange = None;
                self.begin_delete(now, delete);
            }
            Some(Exchange::AwaitAddLink { .. } | Exchange::AddLinkSent { .. }) => self.settle(),
            _ => {}
        }
        if was_active {
            self.begin_delete(
                now,
                PendingDelete {
                    number,
                    reason: DeleteReason::LOST_PATH,
                    orderly: false,
                },
            );
        }
    }

    fn remove(&mut self, id: LinkId) {
        self.links.retain(|link| link.id != id);
        self.peer.forget_link(id);
        self.own.forget_link(id);
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
        });
    }
}

fn delete_one(number: LinkNumber, reason: DeleteReason, orderly: bool, response: bool) -> Llc {
    Llc::DeleteLink(DeleteLink {
        response,
        orderly,
        target: DeleteTarget::One(number),
        reason,
    })
}

fn delete_all(reason: DeleteReason, orderly: bool) -> Llc {
    Llc::DeleteLink(DeleteLink {
        response: false,
        orderly,
        target: DeleteTarget::All,
        reason,
    })
}

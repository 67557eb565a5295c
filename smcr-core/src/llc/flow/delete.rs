//! Links that go: DELETE LINK, and failure.

use std::time::Instant;

use super::links::{Exchange, PendingDelete};
use super::{CallError, EndReason, Event, Group, LinkFailure, LinkId, Role, Violation};
use crate::clc::Version;
use crate::llc::{DeleteLink, DeleteReason, DeleteTarget, LinkNumber, Llc};

impl Group {
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
            // To a client, the server only responds if it does not know the link.
            (_, DeleteTarget::One(number)) if message.response => {
                self.delete_response(now, id, number);
            }
            (Role::Server, DeleteTarget::One(number)) => {
                self.delete_asked(now, id, version, number, message);
            }
            (Role::Client, DeleteTarget::One(number)) => {
                self.delete_ordered(now, id, version, number, message.reason);
            }
        }
    }

    /// The peer is through with the link.
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

    pub(super) fn remove_deleted(&mut self, delete: PendingDelete) {
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

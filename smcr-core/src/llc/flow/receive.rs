//! Who takes which message.

use std::time::Instant;

use super::links::{Exchange, LinkState};
use super::{Event, Group, LinkFailure, LinkId, LinkNumber, Role, Violation};
use crate::clc::Version;
use crate::llc::{DeleteLink, DeleteTarget, Llc, TestLink, Verdict};

impl Group {
    pub(super) fn receive(&mut self, now: Instant, id: LinkId, version: Version, message: Llc) {
        let Some(link) = self.link(id) else { return };
        let can_answer = match link.state {
            LinkState::AwaitConfirm { .. } | LinkState::Activating { .. } => false,
            LinkState::ConfirmSent { .. } | LinkState::Active => true,
        };
        match message {
            Llc::ConfirmLink(message) => self.confirm_link_came(now, id, version, message),
            // The end of the group needs no answer from a client.
            Llc::DeleteLink(
                message @ DeleteLink {
                    target: DeleteTarget::All,
                    ..
                },
            ) => self.delete_link_came(now, id, version, message),
            Llc::TestLink(message) if can_answer => {
                self.test_link_came(now, id, version, message);
            }
            Llc::TestLink(_) => self.violation(now, id, Violation::OutOfPlace),
            _ if !link.is_active() => self.violation(now, id, Violation::OutOfPlace),
            // Crossed with our question to delete the link (RFC 7609 §C.7.1).
            Llc::AddLink(_) | Llc::ConfirmRkey(_) | Llc::DeleteRkey(_)
                if self.asked_to_delete(link.number) && !message.is_response() => {}
            Llc::AddLink(message) => self.add_link_came(now, id, version, message),
            Llc::DeleteLink(message) => self.delete_link_came(now, id, version, message),
            Llc::RequestAddLink(message) => self.request_add_link_came(now, id, &message),
            // Part of an exchange that is never begun, since every ADD LINK is rejected.
            Llc::AddLinkContinuation(_) => self.violation(now, id, Violation::OutOfPlace),
            Llc::ConfirmRkey(message) => match message.verdict {
                Verdict::Request => self.peer_confirms(now, id, version, message),
                verdict => self.confirm_answered(now, id, verdict, Some(&message.rtoken)),
            },
            Llc::ConfirmRkeyContinuation(message) => match message.verdict {
                Verdict::Request => self.peer_continues(now, id, message),
                verdict => self.confirm_answered(now, id, verdict, None),
            },
            Llc::DeleteRkey(message) => match message.failed {
                None => self.peer_deletes(now, id, version, &message),
                Some(_) => self.delete_answered(now, id, &message),
            },
        }
    }

    /// Client: the server has not taken note yet that the link has to go.
    fn asked_to_delete(&self, number: LinkNumber) -> bool {
        self.config.role == Role::Client
            && matches!(self.exchange, Some(Exchange::Delete { delete, .. }) if delete.number == number)
    }

    fn test_link_came(&mut self, now: Instant, id: LinkId, version: Version, message: TestLink) {
        if !message.response {
            let response = Llc::TestLink(TestLink {
                response: true,
                ..message
            });
            return self.send_as(now, id, version, &response);
        }
        let Some(link) = self.link_mut(id) else {
            return;
        };
        if link.takes_late_response(message.data) {
            return;
        }
        let test = link.test.take();
        match test {
            Some(test) if test.data == message.data => {
                self.events.push_back(Event::LinkTested { link: id });
            }
            // RFC 7609 §C.7.1: a protocol error, and the link has failed.
            Some(_) => self.fail(now, id, LinkFailure::WrongTestResponse),
            None => self.violation(now, id, Violation::UnexpectedResponse),
        }
    }
}

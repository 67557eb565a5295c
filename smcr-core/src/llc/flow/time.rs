//! What is due when.

use std::time::Instant;

use super::links::{LinkState, Test};
use super::{CallError, Group, LinkFailure, LinkId};
use crate::llc::{Llc, TestLink};

impl Group {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let may_start = !self.settling && self.exchange.is_none();
        let exchange = self.exchange.map(|exchange| exchange.deadline());
        self.links
            .iter()
            .map(|link| self.link_deadline(link))
            .chain([exchange, self.own.deadline(may_start)])
            .flatten()
            .min()
    }

    fn link_deadline(&self, link: &super::Link) -> Option<Instant> {
        match (link.state, &link.test) {
            (LinkState::AwaitConfirm { deadline }, _)
            | (LinkState::Activating { deadline, .. }, _) => Some(deadline),
            (LinkState::ConfirmSent { deadline, again }, _) => {
                Some(again.map_or(deadline, |again| again.min(deadline)))
            }
            (LinkState::Active, Some(test)) => Some(test.deadline),
            (LinkState::Active, None) => self
                .config
                .timeouts
                .test_interval
                .map(|interval| link.heard + interval),
        }
    }

    pub(super) fn timeouts(&mut self, now: Instant) {
        let due: Vec<LinkId> = self
            .links
            .iter()
            .filter(|link| self.link_deadline(link).is_some_and(|at| at <= now))
            .map(|link| link.id)
            .collect();
        for id in due {
            self.link_timed_out(now, id);
        }
        // One that ends may have started another, whose time is not up.
        if let Some(exchange) = self.exchange.filter(|exchange| exchange.deadline() <= now) {
            self.exchange_timed_out(now, exchange);
        }
        if self.own.is_running() && self.own.deadline(false).is_some_and(|at| at <= now) {
            self.own_timed_out(now);
        }
    }

    fn link_timed_out(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.link_mut(id) else {
            return; // went with another one
        };
        match (&mut link.state, &link.test) {
            // A Linux client drops a request that comes before it waits for one, in the moment
            // after it has sent its Confirm.
            (LinkState::ConfirmSent { deadline, again }, _) if now < *deadline => {
                *again = None;
                self.ask_to_confirm(now, id);
            }
            (LinkState::Active, None) => {
                let _ = self.start_test(now, id); // the link is active
            }
            (LinkState::Active, Some(test)) if test.delivered => {
                // Whoever is stopped does not answer, and is not gone: TCP would wait as well.
                link.test = None;
                link.late += 1;
                link.heard = now;
            }
            (LinkState::Active, Some(_)) => self.fail(now, id, LinkFailure::NoTestResponse),
            _ => self.fail(now, id, LinkFailure::NotConfirmed),
        }
    }

    pub(super) fn start_test(&mut self, now: Instant, id: LinkId) -> Result<(), CallError> {
        let deadline = now + self.config.timeouts.test_response;
        let Some(link) = self.link_mut(id).filter(|link| link.is_active()) else {
            return Err(CallError::Link);
        };
        if link.test.is_some() {
            return Ok(());
        }
        link.tests += 1;
        let data = Test::data(link.tests);
        link.test = Some(Test {
            data,
            deadline,
            delivered: false,
        });
        let message = Llc::TestLink(TestLink {
            response: false,
            data,
        });
        self.send(now, id, &message);
        Ok(())
    }
}

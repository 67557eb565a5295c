//! Our RMBs: CONFIRM RKEY and DELETE RKEY, one at a time.

use std::collections::VecDeque;
use std::time::Instant;

use super::{
    CallError, Event, Group, LinkFailure, LinkId, LinkRtoken, RmbDeletion, RmbId, Rtoken, Violation,
};
use crate::clc::Bounded;
use crate::llc::{
    Batch, ConfirmRkey, ConfirmRkeyContinuation, DeleteRkey, LinkNumber, Llc, Verdict,
};

/// Most RMBs of ours that wait to be confirmed or deleted: all that a group can have, of each.
pub const MAX_OWN_JOBS: usize = 2 * 255;

/// How often a CONFIRM RKEY is sent, if it is refused with the hint to try again.
const MAX_ATTEMPTS: u8 = 5;

/// What the peer has to be told about our RMBs.
#[derive(Debug, Default)]
pub(super) struct OwnRmbs {
    queue: VecDeque<Job>,
    running: Option<Running>,
    /// A refused CONFIRM RKEY is first in the queue, and is not sent again before.
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Job {
    rmb: RmbId,
    rtokens: Vec<(LinkId, Rtoken)>,
    kind: JobKind,
}

#[derive(Clone, Copy, Debug)]
enum JobKind {
    Confirm { attempts: u8 },
    Delete,
}

#[derive(Debug)]
struct Running {
    job: Job,
    carrier: LinkId,
    deadline: Instant,
    /// For continuations that have not been sent.
    left: Vec<LinkRtoken>,
    /// A continuation was sent last.
    continued: bool,
}

impl OwnRmbs {
    pub(super) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// When something is due.
    pub(super) fn deadline(&self, may_start: bool) -> Option<Instant> {
        match &self.running {
            Some(running) => Some(running.deadline),
            None if may_start => self.not_before,
            None => None,
        }
    }

    /// What ran over that link begins anew (RFC 7609 §4.6: exchanges are not replayed).
    pub(super) fn forget_link(&mut self, link: LinkId) {
        if let Some(running) = self.running.take_if(|running| running.carrier == link) {
            self.queue.push_front(running.job);
        }
    }
}

impl Group {
    pub(super) fn queue_confirm(
        &mut self,
        rmb: RmbId,
        rtokens: &[(LinkId, Rtoken)],
    ) -> Result<(), CallError> {
        // Each link has to be listed, or the peer takes it for failed. (A link that is still to be
        // confirmed counts: the message waits for it.)
        let lists = |link: LinkId| rtokens.iter().any(|(id, _)| *id == link);
        if !self.links.iter().all(|link| lists(link.id)) {
            return Err(CallError::Rtokens);
        }
        self.queue(rmb, rtokens, JobKind::Confirm { attempts: 0 })
    }

    pub(super) fn queue_delete(
        &mut self,
        rmb: RmbId,
        rtokens: &[(LinkId, Rtoken)],
    ) -> Result<(), CallError> {
        let lists = |link: LinkId| rtokens.iter().any(|(id, _)| *id == link);
        if !self.links.iter().any(|link| lists(link.id)) {
            return Err(CallError::Rtokens);
        }
        self.queue(rmb, rtokens, JobKind::Delete)
    }

    fn queue(
        &mut self,
        rmb: RmbId,
        rtokens: &[(LinkId, Rtoken)],
        kind: JobKind,
    ) -> Result<(), CallError> {
        if self.own.queue.len() >= MAX_OWN_JOBS {
            return Err(CallError::Busy);
        }
        let job = Job {
            rmb,
            rtokens: rtokens.to_vec(),
            kind,
        };
        // A new RMB holds up somebody's connect(), an old one nobody.
        let at = match kind {
            JobKind::Delete => self.own.queue.len(),
            JobKind::Confirm { .. } => self
                .own
                .queue
                .iter()
                .position(|job| matches!(job.kind, JobKind::Delete) && job.rmb != rmb)
                .filter(|_| self.own.queue.iter().all(|job| job.rmb != rmb))
                .unwrap_or(self.own.queue.len()),
        };
        self.own.queue.insert(at, job);
        Ok(())
    }

    /// Starts the next one, unless links come or go: their list would be wrong, and Linux would
    /// accept it all the same.
    pub(super) fn start_own(&mut self, now: Instant) {
        while !self.ended && !self.settling && self.exchange.is_none() && !self.own.is_running() {
            if self.own.not_before.is_some_and(|at| now < at) {
                return;
            }
            self.own.not_before = None;
            let Some(job) = self.own.queue.pop_front() else {
                return;
            };
            self.start_job(now, job);
        }
    }

    fn start_job(&mut self, now: Instant, mut job: Job) {
        let active: Vec<_> = self.active_links().collect();
        // The first one that the RMB is reached over; the owner lists that of the connection first.
        let carrier = job
            .rtokens
            .iter()
            .find(|(id, _)| active.iter().any(|(link, _)| link == id))
            .copied();
        let Some((carrier, rtoken)) = carrier else {
            return self.give_up(&job);
        };
        let mut left = Vec::new();
        let message = match &mut job.kind {
            JobKind::Delete => Llc::DeleteRkey(DeleteRkey {
                failed: None,
                rkeys: Bounded::new(vec![rtoken.rkey]).expect("one is not too many"),
            }),
            JobKind::Confirm { attempts } => {
                *attempts += 1;
                // Links may have been added since.
                let Some(list) = others(&job.rtokens, carrier, &active) else {
                    return self.give_up(&job);
                };
                let first = Batch::first_of(&list);
                left = list[first.items().len()..].to_vec();
                Llc::ConfirmRkey(ConfirmRkey {
                    verdict: Verdict::Request,
                    rtoken,
                    others: first,
                })
            }
        };
        self.own.running = Some(Running {
            job,
            carrier,
            deadline: now + self.config.timeouts.exchange,
            left,
            continued: false,
        });
        self.send(now, carrier, &message);
    }

    fn give_up(&mut self, job: &Job) {
        self.events.push_back(match job.kind {
            JobKind::Confirm { .. } => Event::RmbRefused { rmb: job.rmb },
            JobKind::Delete => Event::RmbDeleted {
                rmb: job.rmb,
                outcome: RmbDeletion::NoResponse,
            },
        });
    }

    /// The response to CONFIRM RKEY (it repeats `rtoken`), or to a continuation.
    pub(super) fn confirm_answered(
        &mut self,
        now: Instant,
        id: LinkId,
        verdict: Verdict,
        rtoken: Option<&Rtoken>,
    ) {
        let is_answer = |running: &mut Running| {
            running.carrier == id
                && matches!(running.job.kind, JobKind::Confirm { .. })
                && running.continued == rtoken.is_none()
                && rtoken.is_none_or(|rtoken| running.job.rtokens.contains(&(id, *rtoken)))
        };
        let Some(mut running) = self.own.running.take_if(is_answer) else {
            return self.violation(now, id, Violation::UnexpectedResponse);
        };
        let rmb = running.job.rmb;
        let attempts = match running.job.kind {
            JobKind::Confirm { attempts } => attempts,
            JobKind::Delete => 0,
        };
        match verdict {
            Verdict::Confirmed if running.left.is_empty() => {
                self.events.push_back(Event::RmbConfirmed { rmb });
            }
            Verdict::Confirmed | Verdict::Request => {
                let part = Batch::first_of(&running.left);
                running.left.drain(..part.items().len());
                running.continued = true;
                running.deadline = now + self.config.timeouts.exchange;
                self.own.running = Some(running);
                let message = Llc::ConfirmRkeyContinuation(ConfirmRkeyContinuation {
                    verdict: Verdict::Request,
                    others: part,
                });
                self.send(now, id, &message);
            }
            Verdict::Refused { retry: true } if attempts < MAX_ATTEMPTS => {
                self.own.not_before = Some(now + self.config.timeouts.rkey_retry);
                self.own.queue.push_front(running.job);
            }
            Verdict::Refused { .. } => self.events.push_back(Event::RmbRefused { rmb }),
        }
    }

    /// The response to DELETE RKEY. Linux does not repeat the list in version 2.
    pub(super) fn delete_answered(&mut self, now: Instant, id: LinkId, message: &DeleteRkey) {
        let repeats = |running: &Running| {
            message.rkeys.iter().all(|rkey| {
                let is_it = |(link, rtoken): &(LinkId, Rtoken)| *link == id && rtoken.rkey == *rkey;
                rkey.0 == 0 || running.job.rtokens.iter().any(is_it)
            })
        };
        let is_answer = |running: &mut Running| {
            running.carrier == id && matches!(running.job.kind, JobKind::Delete) && repeats(running)
        };
        let Some(running) = self.own.running.take_if(is_answer) else {
            return self.violation(now, id, Violation::UnexpectedResponse);
        };
        self.events.push_back(Event::RmbDeleted {
            rmb: running.job.rmb,
            outcome: if message.failed == Some(0) {
                RmbDeletion::Done
            } else {
                RmbDeletion::Unknown
            },
        });
    }

    /// No response came.
    pub(super) fn own_timed_out(&mut self, now: Instant) {
        let Some(running) = self.own.running.take() else {
            return;
        };
        match running.job.kind {
            // RFC 7609 §C.7.1; over another link it is tried again.
            JobKind::Confirm { attempts } => {
                if attempts < MAX_ATTEMPTS {
                    self.own.queue.push_front(running.job);
                } else {
                    self.give_up(&running.job);
                }
                self.fail(now, running.carrier, LinkFailure::NoResponse);
            }
            // The RFC names no action. Linux goes on, and so does this.
            JobKind::Delete => self.give_up(&running.job),
        }
    }
}

/// How an RMB is reached over each active link but the carrier; `None` if one is missing.
fn others(
    rtokens: &[(LinkId, Rtoken)],
    carrier: LinkId,
    active: &[(LinkId, LinkNumber)],
) -> Option<Vec<LinkRtoken>> {
    let of = |link: LinkId| rtokens.iter().find(|(id, _)| *id == link);
    active
        .iter()
        .filter(|(id, _)| *id != carrier)
        .map(|(id, number)| {
            of(*id).map(|(_, rtoken)| LinkRtoken {
                link: *number,
                rtoken: *rtoken,
            })
        })
        .collect()
}

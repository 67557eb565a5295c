//! The link group that serves a connection (RFC 7609 §3.5): found or started, and what our CLC
//! messages say of it.

use std::time::Instant;

use rustix::io::Errno;

use super::super::Engine;
use super::pending::{AnswerTo, Machine, RdmaPending, Step, either};
use super::setup::Outcome;
use crate::Reason;
use crate::clc::RdmaEndpoint;
use crate::handshake::rdma::{Accepted, Confirmed, Contact, Proposed, Settled};
use crate::rdma::fabric::LinkAddress;
use crate::rdma::{GroupKey, News, PeerElement, Prepared, State};
use crate::stat::Role;

impl Engine {
    /// Server: a Proposal came. Finds the link group, or starts one.
    pub(super) fn proposed_link(
        &'static self,
        rdma: &mut RdmaPending,
        proposed: Proposed,
        now: Instant,
    ) -> Result<Option<Outcome>, Reason> {
        let key = GroupKey {
            peer: proposed.peer_id,
            gid: proposed.gid,
            role: Role::Server,
        };
        let mut state = self.wire.rdma.lock();
        if let Some(group) = state.group_for(&key) {
            rdma.prepared = Some(state.prepare(group)?);
            return self.with_rkey(&mut state, rdma, AnswerTo::Proposal(proposed), now);
        }
        if state.is_starting(&key) {
            // One first contact with a peer at a time: this one will use the group that the other
            // makes.
            drop(state);
            rdma.answer_to = Some(AnswerTo::Proposal(proposed));
            rdma.step = Step::Queued;
            rdma.deadline = Some(now + self.rdma_timeouts().link);
            return Ok(Some(Outcome::Waits));
        }
        self.first_contact(&mut state, rdma, key, &proposed.settled)?;
        self.answer_proposal(&state, rdma, now)?;
        Ok(Some(Outcome::Waits))
    }

    /// Starts a link group, with what its first connection needs. The message that goes out next
    /// tells the peer of the RMB.
    fn first_contact(
        &self,
        state: &mut State,
        rdma: &mut RdmaPending,
        key: GroupKey,
        settled: &Settled,
    ) -> Result<(), Reason> {
        let chosen = rdma.chosen.as_ref().ok_or(Reason::NoRdmaDevice)?;
        let served = chosen.served(settled.version)?;
        let size = self.config.ring_size();
        let group = state.start_group(&served.port, served.gid, key, settled, size)?;
        let prepared = state.prepare(group).inspect_err(|reason| {
            // Nobody has it, and others would wait for it.
            state.end_group(group, Errno::CONNABORTED, *reason, Instant::now());
        })?;
        state.rmb_told(&prepared);
        rdma.is_first = true;
        rdma.prepared = Some(prepared);
        Ok(())
    }

    fn answer_proposal(
        &'static self,
        state: &State,
        rdma: &mut RdmaPending,
        now: Instant,
    ) -> Result<(), Reason> {
        let end = self.endpoint(state, rdma)?;
        let contact = if rdma.is_first {
            Contact::First { direct: true }
        } else {
            Contact::Later
        };
        let Some(Machine::Server(machine)) = &mut rdma.machine else {
            return Err(Reason::Internal);
        };
        rdma.step = Step::Clc;
        rdma.deadline = None;
        machine.accept(&end, contact, now).map_err(|error| {
            log::error!("accept: {error}");
            Reason::Internal
        })
    }

    /// Client: the server accepted. Finds the link group that it means, or connects a new link.
    pub(super) fn accepted_link(
        &'static self,
        rdma: &mut RdmaPending,
        accepted: &Accepted,
        now: Instant,
    ) -> Result<Option<Outcome>, Reason> {
        let peer = &accepted.peer;
        let key = GroupKey {
            peer: peer.peer_id,
            gid: peer.gid,
            role: Role::Client,
        };
        rdma.peer = Some(element(peer));
        let mut state = self.wire.rdma.lock();
        if !accepted.first_contact {
            let group = state
                .group_with(&key, peer.qp_number)
                .ok_or(Reason::OutOfSync)?;
            rdma.prepared = Some(state.prepare(group)?);
            return self.with_rkey(&mut state, rdma, AnswerTo::Accept, now);
        }
        self.first_contact(&mut state, rdma, key, &accepted.settled)?;
        let group = rdma.prepared.as_ref().ok_or(Reason::Internal)?.group;
        state.connect(group, &link_address(peer), now)?;
        self.answer_accept(&state, rdma, now)?;
        Ok(Some(Outcome::Waits))
    }

    fn answer_accept(
        &'static self,
        state: &State,
        rdma: &mut RdmaPending,
        now: Instant,
    ) -> Result<(), Reason> {
        let end = self.endpoint(state, rdma)?;
        let Some(Machine::Client(machine)) = &mut rdma.machine else {
            return Err(Reason::Internal);
        };
        rdma.step = if rdma.is_first { Step::Link } else { Step::Clc };
        rdma.deadline = None;
        machine.confirm(&end, now).map_err(|error| {
            log::error!("confirm: {error}");
            Reason::Internal
        })
    }

    /// Goes on once the peer knows the RMB.
    fn with_rkey(
        &'static self,
        state: &mut State,
        rdma: &mut RdmaPending,
        answer_to: AnswerTo,
        now: Instant,
    ) -> Result<Option<Outcome>, Reason> {
        let prepared = rdma.prepared.as_ref().ok_or(Reason::Internal)?;
        if state.tell_rmb(prepared, now)? {
            rdma.answer_to = Some(answer_to);
            rdma.step = Step::Rkey;
            rdma.deadline = Some(now + self.rdma_timeouts().link);
        } else {
            match answer_to {
                AnswerTo::Proposal(_) => self.answer_proposal(state, rdma, now)?,
                AnswerTo::Accept => self.answer_accept(state, rdma, now)?,
            }
        }
        Ok(Some(Outcome::Waits))
    }

    /// Server: the client confirmed.
    pub(super) fn confirmed_link(
        &'static self,
        rdma: &mut RdmaPending,
        confirmed: &Confirmed,
        now: Instant,
    ) -> Result<Option<Outcome>, Reason> {
        let peer = &confirmed.peer;
        rdma.peer = Some(element(peer));
        let group = rdma.prepared.as_ref().ok_or(Reason::Internal)?.group;
        let mut state = self.wire.rdma.lock();
        if !confirmed.first_contact {
            let is_known = state.is_linked_to(group, peer.gid, peer.qp_number);
            return Ok(Some(match is_known {
                true => Outcome::Done,
                // It is too late to decline.
                false => Outcome::Broken(Reason::OutOfSync),
            }));
        }
        rdma.step = Step::Link;
        state.connect(group, &link_address(peer), now)?;
        Ok(Some(Outcome::Waits))
    }

    /// Something that the handshake may wait for. `None`: go on.
    pub(super) fn hear(
        &'static self,
        rdma: &mut RdmaPending,
        news: News,
        now: Instant,
    ) -> Option<Outcome> {
        let group = rdma.prepared.as_ref().map(|prepared| prepared.group);
        match (rdma.step, news) {
            (Step::Link, News::Ready(of)) if group == Some(of) => {
                let machine = rdma.machine.as_mut()?;
                let _ = either!(machine, m => m.llc_done());
            }
            (Step::Link, News::ConfirmLinkSent(of)) if group == Some(of) => {
                let machine = rdma.machine.as_mut()?;
                let _ = either!(machine, m => m.confirm_link_sent());
            }
            (Step::Link, News::Ended(of, reason)) if group == Some(of) => {
                let machine = rdma.machine.as_mut()?;
                let _ = either!(machine, m => m.llc_failed(reason, now));
            }
            (Step::Rkey, News::RkeyAnswered(of, rmb, known))
                if group == Some(of) && rdma.prepared.as_ref().map(Prepared::rmb) == Some(rmb) =>
            {
                let answer_to = rdma.answer_to.take()?;
                let state = self.wire.rdma.lock();
                let answered = if !known {
                    Err(Reason::Registration)
                } else if matches!(answer_to, AnswerTo::Proposal(_)) {
                    self.answer_proposal(&state, rdma, now)
                } else {
                    self.answer_accept(&state, rdma, now)
                };
                drop(state);
                if let Err(reason) = answered {
                    self.decline(rdma, reason, now);
                }
            }
            (Step::Rkey, News::Ended(of, reason)) if group == Some(of) => {
                self.decline(rdma, reason, now);
            }
            (Step::Queued, News::Ready(_) | News::Ended(..)) => {
                let Some(AnswerTo::Proposal(proposed)) = rdma.answer_to.take() else {
                    return None;
                };
                if let Err(reason) = self.proposed_link(rdma, proposed, now) {
                    self.decline(rdma, reason, now);
                }
            }
            (Step::Clc, News::Ended(of, reason)) if group == Some(of) => {
                // Before the last CLC message; declining is still possible, or the end.
                self.decline(rdma, reason, now);
            }
            _ => {}
        }
        None
    }

    /// How our end of a connection is named in CLC messages.
    fn endpoint(&self, state: &State, rdma: &RdmaPending) -> Result<RdmaEndpoint, Reason> {
        let prepared = rdma.prepared.as_ref().ok_or(Reason::Internal)?;
        let link = state.link_address(prepared.group);
        let link = link.ok_or(Reason::LinkFailed)?;
        let (rkey, address, rmbe_index, rmbe_size) = prepared.rmbe();
        Ok(RdmaEndpoint {
            peer_id: self.wire.choice.peer_id(),
            gid: link.gid,
            mac: link.mac,
            qp_number: link.qpn,
            rkey,
            rmbe_index,
            token: prepared.token,
            rmbe_size: rmbe_size.ok_or(Reason::Internal)?,
            mtu: link.mtu,
            address,
            psn: link.psn,
        })
    }
}

/// The peer's RMBE.
fn element(peer: &RdmaEndpoint) -> PeerElement {
    let size = peer.rmbe_size.bytes() as u64;
    let offset = u64::from(peer.rmbe_index.get() - 1) * size;
    PeerElement {
        address: peer.address.wrapping_add(offset),
        rkey: peer.rkey,
        size: peer.rmbe_size,
        token: peer.token,
    }
}

/// The peer's end of a new link.
fn link_address(peer: &RdmaEndpoint) -> LinkAddress {
    LinkAddress {
        gid: peer.gid,
        mac: peer.mac,
        qpn: peer.qp_number,
        psn: peer.psn,
        mtu: peer.mtu,
    }
}

//! The handshake of a connection over RDMA, from the first CLC message to the first byte.
//!
//! Everything here runs in the thread, one step at a time, with the connection's pending lock
//! held. The order of locks: a connection's, then the wire's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::client::{Pending, is_established};
use super::super::helper::{disconnect, transmit};
use super::super::{Connection, Engine};
use super::pending::{AnswerTo, Machine, RdmaPending, Step, either};
use crate::clc::{RdmaEndpoint, may_be_clc};
use crate::conn::{Home, Smc, bell};
use crate::handshake::rdma::{Accepted, Confirmed, Contact, Proposed, Settled};
use crate::handshake::{
    Event, HandshakeError, MAX_NEEDED, MAX_PEEKED, Peeked, Phase as ClcPhase, RdmaClient,
    RdmaServer,
};
use crate::rdma::fabric::LinkAddress;
use crate::rdma::{GroupKey, News, PeerElement, Prepared, State};
use crate::signal::option::{self as signal, Verdict};
use crate::stat::{Counter, Role};
use crate::{Reason, sys};

use super::super::PUBLISHER;

/// How often to look whether the program of a server, whose client says nothing, speaks first.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What came of a step.
enum Outcome {
    /// It waits for the peer.
    Waits,
    /// SMC: to be joined.
    Done,
    /// TCP, untouched or given back by both ends.
    Tcp(Reason),
    /// Neither: the connection ends.
    Broken(Reason),
}

impl Engine {
    /// Something happened to a connection whose handshake is pending: its TCP socket is readable
    /// or writable, a deadline came, or `news` of the wire concern it.
    pub(super) fn step(&'static self, connection: &Arc<Connection>, news: Option<News>) {
        let mut guard = connection.lock_pending();
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let Some(mut rdma) = pending.rdma.take() else {
            return;
        };
        let outcome = match connection.tcp() {
            Some(tcp) => self.advance(connection, &mut rdma, pending, tcp, news),
            None => Outcome::Broken(Reason::Internal),
        };
        match outcome {
            Outcome::Waits => pending.rdma = Some(rdma),
            Outcome::Done => self.move_stream(connection, &mut guard, *rdma),
            Outcome::Tcp(reason) => self.stay_on_tcp(connection, &mut guard, *rdma, reason),
            Outcome::Broken(reason) => {
                if let Some(tcp) = connection.tcp() {
                    disconnect(tcp);
                }
                self.stay_on_tcp(connection, &mut guard, *rdma, reason);
            }
        }
    }

    fn advance(
        &'static self,
        connection: &Connection,
        rdma: &mut RdmaPending,
        pending: &Pending,
        tcp: BorrowedFd<'_>,
        news: Option<News>,
    ) -> Outcome {
        let now = Instant::now();
        if let Some(news) = news
            && let Some(outcome) = self.hear(rdma, news, now)
        {
            return outcome;
        }
        let waits_for_others = matches!(rdma.step, Step::Queued | Step::Rkey);
        if waits_for_others && rdma.deadline.is_some_and(|at| at <= now) {
            self.decline(rdma, Reason::LinkTimeout, now);
        }
        if rdma.step == Step::Connecting {
            match connected(tcp) {
                None => return Outcome::Waits,
                Some(false) => return Outcome::Tcp(Reason::Ended),
                Some(true) => {}
            }
            if let Some(end) = &rdma.end {
                // From here on the program may send.
                bell::empty(end.as_fd());
            }
            rdma.step = if rdma.signal.is_some() {
                Step::Asking
            } else if signal::verdict(tcp) == Verdict::PeerSmc {
                Step::Begin
            } else {
                return Outcome::Tcp(Reason::PeerNoSmc);
            };
        }
        if rdma.step == Step::Asking {
            match self.go_on_asking(connection, rdma, pending, tcp, now) {
                Ok(true) => rdma.step = Step::Begin,
                Ok(false) => return Outcome::Waits,
                Err(reason) => return Outcome::Tcp(reason),
            }
        }
        if rdma.step == Step::Begin
            && let Some(outcome) = self.begin(rdma, pending, tcp, now)
        {
            return outcome;
        }
        self.talk(rdma, tcp, now)
    }

    /// The first thing that is said or expected.
    fn begin(
        &'static self,
        rdma: &mut RdmaPending,
        pending: &Pending,
        tcp: BorrowedFd<'_>,
        now: Instant,
    ) -> Option<Outcome> {
        let chosen = self.wire.choice.choose(&self.config, tcp, pending.local);
        // With nothing to offer the machines say Decline: the peer counts on a CLC message.
        let end = match &chosen {
            Ok(chosen) => chosen.end.clone(),
            Err(_) => self.wire.choice.nothing(),
        };
        rdma.chosen = chosen.ok();
        let timeouts = self.rdma_timeouts();
        rdma.machine = Some(match rdma.role {
            Role::Client => Machine::Client(RdmaClient::new(end, timeouts, now)),
            Role::Server => Machine::Server(RdmaServer::new(end, timeouts, now)),
        });
        rdma.step = Step::Clc;
        PUBLISHER.count(Counter::HandshakesStarted);
        None
    }

    /// Goes on with the CLC handshake as far as the bytes in the TCP stream allow.
    fn talk(&'static self, rdma: &mut RdmaPending, tcp: BorrowedFd<'_>, now: Instant) -> Outcome {
        let mut bytes = [0u8; MAX_NEEDED];
        loop {
            let Some(machine) = &mut rdma.machine else {
                return Outcome::Broken(Reason::Internal);
            };
            transmit(tcp, either!(machine, m => m.poll_transmit()));
            match self.next_event(rdma, now) {
                Ok(Some(Outcome::Waits)) => continue,
                Ok(Some(outcome)) => {
                    if let Some(machine) = &mut rdma.machine {
                        transmit(tcp, either!(machine, m => m.poll_transmit()));
                    }
                    return outcome;
                }
                Ok(None) => {}
                Err(reason) => {
                    self.decline(rdma, reason, now);
                    continue;
                }
            }
            let Some(machine) = &mut rdma.machine else {
                return Outcome::Broken(Reason::Internal);
            };
            if either!(machine, m => m.phase()) == ClcPhase::Crossing {
                let mut peeked = [0; MAX_PEEKED];
                let seen = sys::recv(tcp, &mut peeked, libc::MSG_DONTWAIT | libc::MSG_PEEK);
                if let Ok(seen @ 1..) = seen {
                    match either!(machine, m => m.handle_peeked(&peeked[..seen])) {
                        Peeked::Discard(len) => {
                            let _ = sys::recv(tcp, &mut peeked[..len], libc::MSG_DONTWAIT);
                        }
                        Peeked::Wait | Peeked::Leave => {}
                    }
                    if either!(machine, m => m.phase()) != ClcPhase::Crossing {
                        continue;
                    }
                }
                if let Err(error) = either!(machine, m => m.handle_timeout(now)) {
                    return broken(error);
                }
                if either!(machine, m => m.phase()) != ClcPhase::Crossing {
                    continue;
                }
                return Outcome::Waits;
            }
            let needed = either!(machine, m => m.needed()).min(bytes.len());
            if needed == 0 {
                return match either!(machine, m => m.handle_timeout(now)) {
                    Ok(()) => Outcome::Waits,
                    Err(error) => broken(error),
                };
            }
            if rdma.role == Role::Server && !rdma.has_begun {
                if let Some(outcome) = self.await_proposal(rdma, tcp, now) {
                    return outcome;
                }
                rdma.has_begun = true;
            }
            let Some(machine) = &mut rdma.machine else {
                return Outcome::Broken(Reason::Internal);
            };
            let fed = match sys::recv(tcp, &mut bytes[..needed], libc::MSG_DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => {
                    match either!(machine, m => m.handle_timeout(now)) {
                        Ok(()) if either!(machine, m => m.needed()) == needed => {
                            return Outcome::Waits;
                        }
                        fed => fed,
                    }
                }
                Ok(0) | Err(_) => either!(machine, m => m.handle_end()),
                Ok(n) => either!(machine, m => m.handle_bytes(&bytes[..n], now)).map(drop),
            };
            if let Err(error) = fed {
                return broken(error);
            }
        }
    }

    /// Server: looks at what comes first. `None`: it may be CLC.
    fn await_proposal(
        &self,
        rdma: &mut RdmaPending,
        tcp: BorrowedFd<'_>,
        now: Instant,
    ) -> Option<Outcome> {
        if rdma.is_stopped(now) {
            return Some(Outcome::Tcp(Reason::PeerNoSmc));
        }
        match look_first(tcp) {
            Some(Outcome::Waits) => Some(wait_longer(rdma, now)),
            Some(outcome) => Some(outcome),
            None => {
                if std::mem::take(&mut rdma.is_overdue) {
                    rdma.deadline = None;
                }
                if let Some(Machine::Server(machine)) = &mut rdma.machine {
                    machine.proposal_begins(now);
                }
                self.end_signal(rdma);
                None
            }
        }
    }

    /// Acts on the machine's next event. `Some(Waits)`: there may be more.
    fn next_event(
        &'static self,
        rdma: &mut RdmaPending,
        now: Instant,
    ) -> Result<Option<Outcome>, Reason> {
        match &mut rdma.machine {
            Some(Machine::Client(machine)) => match machine.poll_event() {
                None => Ok(None),
                Some(Event::Accepted(accepted)) => self.accepted_link(rdma, &accepted, now),
                Some(event) => Ok(ended(&event)),
            },
            Some(Machine::Server(machine)) => match machine.poll_event() {
                None => Ok(None),
                Some(Event::Proposed(proposed)) => self.proposed_link(rdma, proposed, now),
                Some(Event::Confirmed(confirmed)) => self.confirmed_link(rdma, &confirmed, now),
                Some(event) => Ok(ended(&event)),
            },
            None => Ok(None),
        }
    }

    /// Server: a Proposal came. Finds the link group, or starts one.
    fn proposed_link(
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
    fn accepted_link(
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
    fn confirmed_link(
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
    fn hear(&'static self, rdma: &mut RdmaPending, news: News, now: Instant) -> Option<Outcome> {
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

    /// Says no where that is possible.
    fn decline(&self, rdma: &mut RdmaPending, reason: Reason, now: Instant) {
        log::debug!("declined: {reason}");
        rdma.deadline = None;
        rdma.step = Step::Clc;
        self.give_back(rdma);
        let Some(machine) = &mut rdma.machine else {
            return;
        };
        if either!(machine, m => m.decline(reason)).is_err() {
            let _ = either!(machine, m => m.llc_failed(reason, now));
        }
    }

    /// Returns what was taken for a connection that does not come to be.
    fn give_back(&self, rdma: &mut RdmaPending) {
        if let Some(prepared) = rdma.prepared.take() {
            let mut state = self.wire.rdma.lock();
            state.give_back(&prepared);
            if rdma.is_first {
                state.end_group(
                    prepared.group,
                    Errno::CONNABORTED,
                    Reason::Ended,
                    Instant::now(),
                );
            }
        }
    }

    /// A handshake is given up from outside.
    pub(in crate::engine) fn forget_rdma(&self, connection: &Connection, rdma: &mut RdmaPending) {
        self.end_signal(rdma);
        self.give_back(rdma);
        self.wire.thread.forget(connection, connection.tcp());
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

    /// The handshake succeeded: the stream moves.
    fn move_stream(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        mut rdma: RdmaPending,
    ) {
        // What the peer sent already rings as soon as the rings are joined: a program that is told
        // so, by an edge perhaps, and finds nothing would not look again.
        connection.set_committing();
        let joined = self.establish(&mut rdma);
        let smc = match joined {
            Ok(smc) => smc,
            Err(reason) => {
                self.give_back(&mut rdma);
                if let Some(tcp) = connection.tcp() {
                    disconnect(tcp);
                }
                return self.stay_on_tcp(connection, guard, rdma, reason);
            }
        };
        if let Some(pending) = guard.as_ref() {
            log::debug!("{} - {}: rdma", pending.local(), pending.peer);
        }
        self.wire.thread.forget(connection, connection.tcp());
        #[cfg(test)]
        super::tests::joined(connection);
        connection.set_smc(smc, || {});
        self.watch_witness(connection);
        *guard = None;
        if let (Some(abort), Some(smc)) = (rdma.closed, connection.smc()) {
            smc.close(abort);
        } else if let Some(smc) = connection.smc() {
            smc.kick_wire();
        }
    }

    fn establish(&'static self, rdma: &mut RdmaPending) -> Result<Smc, Reason> {
        let local = self.arena.take().ok_or(Reason::Memory)?;
        let (Some(prepared), Some(peer), Some(end)) =
            (rdma.prepared.take(), rdma.peer, rdma.end.take())
        else {
            return Err(Reason::Internal);
        };
        // What was sent so far is the first content of the send buffer.
        bell::empty(end.as_fd());
        let sent = rdma.held.len() as u64;
        prepared.preload(&rdma.held);
        let (tx, rx) = prepared.rings();
        let (shared, group) = {
            let mut state = self.wire.rdma.lock();
            let group = prepared.group;
            let now = Instant::now();
            let app = local.clone();
            (state.establish(prepared, peer, app, end, now)?, group)
        };
        let handle = self.wire.rdma.handle(shared, group);
        Ok(Smc::new(tx, rx, local, Home::Rdma(handle), sent))
    }

    /// The stream goes on over TCP, with what the program sent so far.
    pub(super) fn stay_on_tcp(
        &'static self,
        connection: &Connection,
        guard: &mut Option<Pending>,
        mut rdma: RdmaPending,
        reason: Reason,
    ) {
        self.end_signal(&mut rdma);
        self.give_back(&mut rdma);
        if let (Some(tcp), false) = (connection.tcp(), rdma.held.is_empty()) {
            // At most EARLY_MAX: any socket's send buffer takes it at once.
            transmit(tcp, Some(std::mem::take(&mut rdma.held)));
        }
        self.wire.thread.forget(connection, connection.tcp());
        connection.to_tcp(guard, reason);
        // The end goes last: whoever sleeps on the program's descriptor wakes up, and finds TCP.
        drop(rdma);
    }
}

/// Whether a connect() that was under way has come to an end, and a good one.
fn connected(tcp: BorrowedFd<'_>) -> Option<bool> {
    match sys::poll_one(tcp, libc::POLLOUT, Some(0)) {
        Ok(0) | Err(_) => None,
        Ok(events) => Some(events & (libc::POLLERR | libc::POLLHUP) == 0 && is_established(tcp)),
    }
}

/// Server: what comes first may not be CLC at all, if something on the way took the option out of
/// our SYN-ACK: then the client knows nothing of SMC. `None`: it may be CLC.
fn look_first(tcp: BorrowedFd<'_>) -> Option<Outcome> {
    let mut first = [0u8; 8];
    match sys::recv(tcp, &mut first, libc::MSG_DONTWAIT | libc::MSG_PEEK) {
        Err(Errno::AGAIN | Errno::INTR) => Some(Outcome::Waits),
        Ok(n @ 1..) if !may_be_clc(&first[..n]) => Some(Outcome::Tcp(Reason::PeerNoSmc)),
        // Closed at once: there is nothing to move.
        Ok(0) => Some(Outcome::Tcp(Reason::Ended)),
        _ => None,
    }
}

/// Server: nothing came yet. A client that says nothing for longer than the Proposal may take is
/// plain TCP, as far as can be told: our program may speak first then. Until it does we go on
/// looking, since the Proposal may be late.
fn wait_longer(rdma: &mut RdmaPending, now: Instant) -> Outcome {
    let machine = rdma.machine.as_ref();
    let until = machine.and_then(|machine| either!(machine, m => m.poll_timeout()));
    if until.is_some_and(|until| until <= now) {
        if rdma.held() > 0 || rdma.closed.is_some() {
            return Outcome::Tcp(Reason::PeerNoSmc);
        }
        rdma.is_overdue = true;
        rdma.deadline = Some(now + LOOK_AGAIN);
    }
    Outcome::Waits
}

fn broken(error: HandshakeError) -> Outcome {
    log::debug!("handshake: {error}");
    Outcome::Broken(error.reason())
}

/// Events that end a handshake, alike at both ends.
fn ended<F: crate::handshake::Fabric>(event: &Event<F>) -> Option<Outcome> {
    match event {
        Event::Done => Some(Outcome::Done),
        Event::Declined { code, .. } => {
            log::debug!("the peer declined: {code:?}");
            Some(Outcome::Tcp(Reason::PeerDeclined))
        }
        Event::Refused { reason } => Some(Outcome::Tcp(*reason)),
        _ => None,
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

//! The handshake of a connection over RDMA, from the first CLC message to the first byte: its steps.
//! [`super::contact`] finds the link group, [`super::verdict`] does what came of it.
//!
//! Everything here runs in the thread, one step at a time, with the connection's pending lock
//! held. The order of locks: a connection's, then the wire's.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::client::{Pending, is_established};
use super::super::helper::{disconnect, transmit};
use super::super::{Connection, Engine, PUBLISHER};
use super::choice::Chosen;
use super::pending::{Machine, RdmaPending, Step, either};
use crate::clc::may_be_clc;
use crate::conn::bell;
use crate::handshake::{
    Event, HandshakeError, MAX_NEEDED, MAX_PEEKED, Peeked, Phase as ClcPhase, RdmaClient,
    RdmaServer,
};
use crate::rdma::News;
use crate::signal::option::{self as signal, Verdict};
use crate::stat::{Counter, Role};
use crate::{Reason, sys};

/// How often to look whether the program of a server, whose client says nothing, speaks first.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What came of a step.
pub(super) enum Outcome {
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
        if rdma.step == Step::Begin {
            let addresses = (pending.local, pending.peer);
            let chosen = self.wire.choice.choose(&self.config, tcp, addresses);
            self.begin(rdma, chosen, now);
        }
        self.talk(rdma, tcp, now)
    }

    /// Does, in the program's call, what can be done at once for a connection that nobody else
    /// knows yet. True if the thread has nothing to do before the peer says something.
    ///
    /// A client sends its Proposal. A server's handshake begins with the client's Proposal, and
    /// mostly that is on its way. Where a port would have to be opened first all is left to the
    /// thread: that takes long, and a client's call must not take longer than TCP's.
    ///
    /// A signal handler of the program may come in between and make another connection: no lock
    /// is taken here beyond those that a connect() takes anyway.
    pub(super) fn begin_at_once(&self, connection: &Connection, now: Instant) -> bool {
        let mut guard = connection.lock_pending();
        let (Some(pending), Some(tcp)) = (guard.as_mut(), connection.tcp()) else {
            return false;
        };
        let addresses = (pending.local, pending.peer);
        let Some(rdma) = pending
            .rdma
            .as_mut()
            .filter(|rdma| rdma.step == Step::Begin)
        else {
            return false;
        };
        if !self.wire.choice.has_open() {
            return false;
        }
        match rdma.role {
            Role::Client => match self.wire.choice.choose_open(&self.config, tcp, addresses) {
                Ok(chosen) => {
                    self.begin(rdma, Ok(chosen), now);
                    if let Some(machine) = &mut rdma.machine {
                        transmit(tcp, either!(machine, m => m.poll_transmit()));
                    }
                    true
                }
                Err(_) => false,
            },
            Role::Server => {
                rdma.since = Some(now);
                // At the latest, for a client that says nothing.
                rdma.deadline = Some(now + LOOK_AGAIN);
                true
            }
        }
    }

    /// The first thing that is said or expected.
    fn begin(&self, rdma: &mut RdmaPending, chosen: Result<Chosen, Reason>, now: Instant) {
        // With nothing to offer the machines say Decline: the peer counts on a CLC message.
        let end = match &chosen {
            Ok(chosen) => chosen.end.clone(),
            Err(_) => self.wire.choice.nothing(),
        };
        rdma.chosen = chosen.ok();
        let timeouts = self.rdma_timeouts();
        let now = rdma.since.take().unwrap_or(now);
        rdma.deadline = None;
        rdma.machine = Some(match rdma.role {
            Role::Client => Machine::Client(RdmaClient::new(end, timeouts, now)),
            Role::Server => Machine::Server(RdmaServer::new(end, timeouts, now)),
        });
        rdma.step = Step::Clc;
        PUBLISHER.count(Counter::HandshakesStarted);
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

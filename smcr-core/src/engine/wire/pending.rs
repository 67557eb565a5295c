//! What a connection has while its handshake for RDMA is not decided.

use std::os::fd::OwnedFd;
use std::time::Instant;

use crate::handshake::{RdmaClient, RdmaServer};
use crate::rdma::{PeerElement, Prepared};
use crate::stat::Role;

use super::ask::Signal;
use super::choice::Chosen;

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Step {
    /// The TCP connection is not there yet.
    Connecting,
    /// It is; the two ends ask each other over UDP.
    Asking,
    /// Nothing was said on it.
    Begin,
    /// CLC messages go back and forth.
    Clc,
    /// Server: another first contact with this client is under way; the Proposal is kept.
    Queued,
    /// The peer has to learn of a new RMB first.
    Rkey,
    /// The new link is being confirmed.
    Link,
}

/// Either side's machine.
#[derive(Debug)]
pub(super) enum Machine {
    Client(RdmaClient),
    Server(RdmaServer),
}

/// Both sides' machines have most of their calls in common.
macro_rules! either {
    ($machine:expr, $m:ident => $call:expr) => {
        match $machine {
            $crate::engine::wire::pending::Machine::Client($m) => $call,
            $crate::engine::wire::pending::Machine::Server($m) => $call,
        }
    };
}
pub(super) use either;

/// See the module's description.
#[derive(Debug)]
pub(in crate::engine) struct RdmaPending {
    pub(super) role: Role,
    pub(super) step: Step,
    /// Where the TCP option is not there; a server's until CLC has come.
    pub(super) signal: Option<Signal>,
    /// The wire's end of the readiness pair.
    pub(super) end: Option<OwnedFd>,
    /// What the program sent so far.
    pub(super) held: Vec<u8>,
    /// The program closed its descriptor: the value says whether by a reset.
    pub(super) closed: Option<bool>,
    pub(super) machine: Option<Machine>,
    /// Server: what came first was looked at, and may be CLC.
    pub(super) has_begun: bool,
    /// Server: nothing came in time, and the client may be plain TCP.
    pub(super) is_overdue: bool,
    pub(super) chosen: Option<Chosen>,
    pub(super) prepared: Option<Prepared>,
    pub(super) peer: Option<PeerElement>,
    /// The peer's end, while [`Step::Rkey`] or [`Step::Queued`] keep us from answering.
    pub(super) answer_to: Option<AnswerTo>,
    /// The group is new, and ours alone.
    pub(super) is_first: bool,
    /// When to look again, besides the machine's own deadline.
    pub(super) deadline: Option<Instant>,
    /// When the peer's time began to run, if that was before the machine was there.
    pub(super) since: Option<Instant>,
}

/// What is to be answered.
#[derive(Debug, Clone)]
pub(super) enum AnswerTo {
    Proposal(crate::handshake::rdma::Proposed),
    Accept,
}

impl RdmaPending {
    pub(super) fn new(role: Role, step: Step, signal: Option<Signal>, end: OwnedFd) -> Self {
        Self {
            role,
            step,
            signal,
            end: Some(end),
            held: Vec::new(),
            closed: None,
            machine: None,
            has_begun: false,
            is_overdue: false,
            chosen: None,
            prepared: None,
            peer: None,
            answer_to: None,
            is_first: false,
            deadline: None,
            since: None,
        }
    }

    /// The program closed its descriptor before it was decided what carries the stream: what it
    /// sent is still to be delivered.
    pub(in crate::engine) fn close(&mut self, abort: bool) {
        self.closed = Some(abort);
    }

    /// Keeps what the program sends until it can go out. False if it may go over TCP.
    pub(in crate::engine) fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Bytes held so far.
    pub(in crate::engine) fn held(&self) -> usize {
        self.held.len()
    }

    /// When something has to happen.
    pub(in crate::engine) fn poll_timeout(&self) -> Option<Instant> {
        let machine = self.machine.as_ref();
        let of_machine = machine.and_then(|machine| either!(machine, m => m.poll_timeout()));
        let of_signal = self.signal.as_ref().and_then(Signal::poll_timeout);
        if self.is_overdue {
            return self.deadline;
        }
        let all = [self.deadline, of_machine, of_signal];
        all.into_iter().flatten().min()
    }
}

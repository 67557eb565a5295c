//! The network's state and its events: ports, queue pairs, and when what arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::config::SimConfig;
use super::fault::Fault;
use super::memory::Memory;
use super::random::Random;
use super::record::Record;
use crate::clc::{Gid, Mac, Psn};
use crate::rdma::fabric::{Counts, LinkAddress, LinkError, PortEvent};

/// Everything, behind one lock.
#[derive(Debug)]
pub(super) struct Net {
    pub(super) config: SimConfig,
    pub(super) random: Random,
    /// Nanoseconds since the beginning.
    pub(super) now: u64,
    pub(super) ports: Vec<PortState>,
    pub(super) qps: BTreeMap<u32, Qp>,
    pub(super) memory: Memory,
    /// Protection domains, each with its port.
    pub(super) domains: BTreeMap<u64, usize>,
    next_domain: u64,
    pub(super) record: Record,
    /// Ports between which nothing passes: (from, to).
    pub(super) blocked: BTreeSet<(usize, usize)>,
    events: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    next_qpn: u32,
}

#[derive(Debug)]
pub(super) enum Event {
    /// The oldest packet of this queue pair is due.
    Arrive {
        qpn: u32,
        turn: u64,
    },
    /// The oldest acknowledgement for this queue pair is due.
    Acknowledge {
        qpn: u32,
        turn: u64,
    },
    /// Whatever this queue pair began to repeat, and was to give up now, was never answered.
    GiveUp {
        qpn: u32,
    },
    /// A completion becomes visible.
    Complete {
        port: usize,
        completion: Cqe,
    },
    Fault(Fault),
}

/// A completion in a port's queue.
#[derive(Debug)]
pub(super) enum Cqe {
    Sent { qpn: u32, id: u64, frees: usize },
    Received { qpn: u32, message: Vec<u8> },
    Failed { qpn: u32, error: LinkError },
}

#[derive(Debug)]
pub(super) struct PortState {
    pub(super) mac: Mac,
    pub(super) gids: [Gid; 2],
    pub(super) is_up: bool,
    pub(super) is_gone: bool,
    pub(super) is_stalled: bool,
    pub(super) is_deaf: bool,
    pub(super) completions: VecDeque<Cqe>,
    pub(super) is_armed: bool,
    pub(super) completion_bell: std::sync::Arc<super::port::Bell>,
    pub(super) events: VecDeque<PortEvent>,
    pub(super) event_bell: std::sync::Arc<super::port::Bell>,
    pub(super) counts: Counts,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Init,
    Rtr,
    Rts,
    Error,
    /// Dropped by its owner; only what had left the port before is still on its way.
    Destroyed,
}

/// A queue pair and what it has on the wire.
#[derive(Debug)]
pub(super) struct Qp {
    pub(super) port: usize,
    pub(super) domain: u64,
    pub(super) gid: Gid,
    pub(super) psn: Psn,
    pub(super) receive_size: usize,
    pub(super) state: State,
    pub(super) peer: Option<LinkAddress>,
    /// Bytes of a packet.
    pub(super) mtu: usize,
    /// What has not arrived, oldest first.
    pub(super) wire: Lane<Packet>,
    /// What has arrived and is not acknowledged, oldest first, with the port that says so.
    pub(super) acks: Lane<(Ack, usize)>,
    /// What is not acknowledged.
    pub(super) posts: VecDeque<Post>,
    /// Work requests whose completion was not polled.
    pub(super) used: usize,
    /// Acknowledged ones that the next signalled completion will give free.
    pub(super) silent: usize,
    /// Work requests since the last signalled one.
    pub(super) unsignalled: usize,
    pub(super) free_receives: usize,
    pub(super) last_sent: u64,
    pub(super) last_received: u64,
}

/// Things that happen in order, each at its time, and wait for each other.
#[derive(Debug)]
pub(super) struct Lane<T> {
    pub(super) queue: VecDeque<(u64, T)>,
    /// When the last one was scheduled for.
    pub(super) last: u64,
    /// Events of other turns are stale.
    pub(super) turn: u64,
    /// The first one is due, but its way is blocked; repeated until something changes.
    pub(super) is_stuck: bool,
    /// When that will have taken too long.
    pub(super) deadline: Option<u64>,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            last: 0,
            turn: 0,
            is_stuck: false,
            deadline: None,
        }
    }
}

impl<T> Lane<T> {
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.turn += 1;
        self.is_stuck = false;
        self.deadline = None;
    }

    /// The first one cannot go on for now. Returns when to give up, if that was not known before.
    pub(super) fn wait(&mut self, now: u64, patience: Option<Duration>) -> Option<u64> {
        self.is_stuck = true;
        let Some(patience) = patience else {
            self.deadline = None;
            return None;
        };
        if self.deadline.is_some() {
            return None;
        }
        self.deadline = Some(now + patience.as_nanos() as u64);
        self.deadline
    }
}

#[derive(Debug)]
pub(super) struct Post {
    pub(super) id: u64,
    pub(super) requests: usize,
    pub(super) is_signalled: bool,
}

#[derive(Debug)]
pub(super) enum Packet {
    /// A piece of a WRITE.
    Piece {
        from: Source,
        len: usize,
        to: u64,
        rkey: u32,
    },
    Message(Vec<u8>),
}

/// Where a piece's bytes are.
#[derive(Debug)]
pub(super) enum Source {
    /// In the sender's memory until they arrive, so that a sender that changes them too early is
    /// found out.
    Memory { address: usize, lkey: u32 },
    /// They left the sender before its queue pair ended.
    Departed(Vec<u8>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    /// The next post has arrived.
    Done,
    /// The receiver refused it.
    Refused,
}

impl Net {
    pub(super) fn new(config: SimConfig, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let next_qpn = 0x100 + random.below(0x8000) as u32;
        Self {
            config,
            now: 0,
            ports: Vec::new(),
            qps: BTreeMap::new(),
            memory: Memory::default(),
            domains: BTreeMap::new(),
            next_domain: 0,
            record: Record::default(),
            blocked: BTreeSet::new(),
            events: BTreeMap::new(),
            scheduled: 0,
            next_qpn,
            random,
        }
    }

    pub(super) fn schedule(&mut self, at: u64, event: Event) {
        self.events
            .insert((at.max(self.now), self.scheduled), event);
        self.scheduled += 1;
    }

    pub(super) fn next_event(&self) -> Option<u64> {
        self.events.first_key_value().map(|((at, _), _)| *at)
    }

    /// Does what is due next, if that is not later than `limit`.
    pub(super) fn step(&mut self, limit: u64) -> bool {
        if self.next_event().is_none_or(|at| at > limit) {
            return false;
        }
        let Some(((at, _), event)) = self.events.pop_first() else {
            return false;
        };
        self.now = at;
        match event {
            Event::Arrive { qpn, turn } => self.arrive(qpn, turn),
            Event::Acknowledge { qpn, turn } => self.acknowledge(qpn, turn),
            Event::GiveUp { qpn } => self.give_up(qpn),
            Event::Complete { port, completion } => {
                self.ports[port].completions.push_back(completion);
                self.ring(port);
            }
            Event::Fault(fault) => self.apply(fault),
        }
        true
    }

    /// Tells a port that asked for it of completions.
    pub(super) fn ring(&mut self, port: usize) {
        let port = &mut self.ports[port];
        if port.is_armed && !port.is_stalled && !port.completions.is_empty() {
            port.is_armed = false;
            port.completion_bell.ring();
        }
    }

    pub(super) fn tell(&mut self, port: usize, event: PortEvent) {
        self.ports[port].events.push_back(event);
        self.ports[port].event_bell.ring();
    }

    pub(super) fn qps_of(&self, port: usize) -> Vec<u32> {
        let of_port = self.qps.iter().filter(|(_, qp)| qp.port == port);
        of_port.map(|(qpn, _)| *qpn).collect()
    }

    /// Returns its number, which is never used again.
    pub(super) fn add_domain(&mut self, port: usize) -> u64 {
        self.next_domain += 1;
        self.domains.insert(self.next_domain, port);
        self.next_domain
    }

    /// # Panics
    /// If something is left in it: an adapter would refuse, and keep it.
    pub(super) fn remove_domain(&mut self, number: u64) {
        let is_used = |qp: &Qp| qp.domain == number && qp.state != State::Destroyed;
        assert!(
            !self.qps.values().any(is_used) && !self.memory.has_domain(number),
            "domain {number} is in use"
        );
        self.domains.remove(&number);
    }

    /// `domain`: the port, and the domain's number.
    pub(super) fn add_qp(
        &mut self,
        (port, domain): (usize, u64),
        gid: Gid,
        psn: Psn,
        receive_size: usize,
    ) -> u32 {
        let qpn = self.next_qpn;
        self.next_qpn += 1 + self.random.below(7) as u32;
        let qp = Qp {
            port,
            domain,
            gid,
            psn,
            receive_size,
            state: State::Init,
            peer: None,
            mtu: 256,
            wire: Lane::default(),
            acks: Lane::default(),
            posts: VecDeque::new(),
            used: 0,
            silent: 0,
            unsignalled: 0,
            free_receives: self.config.receives,
            last_sent: 0,
            last_received: 0,
        };
        self.qps.insert(qpn, qp);
        qpn
    }
}

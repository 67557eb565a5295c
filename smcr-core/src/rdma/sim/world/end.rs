//! One engine: what the library has in one process, without its thread.

use std::sync::Arc;
use std::time::Instant;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::stream::Program;
use super::{SimNet, SimPort};
use crate::Reason;
use crate::cdc::EyeCatcher;
use crate::clc::{PeerId, Version};
use crate::conn::{Home, Smc, bell};
use crate::futex::MutexGuard;
use crate::handshake::rdma::{Limits, Settled};
use crate::rdma::fabric::{Counts, LinkAddress, LinkId, Port};
use crate::rdma::state::{Established, News, Prepared, State};
use crate::rdma::{GroupKey, PeerElement, Rdma};
use crate::shm::Arena;
use crate::stat::Role;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Endpoint {
    // Held all the time, so that programs leave notes and never act by the real clock.
    pub(super) state: MutexGuard<'static, State>,
    rdma: &'static Rdma,
    arena: Arc<Arena>,
    pub(super) port: Arc<SimPort>,
    role: Role,
    element_size: u32,
    /// What it wants in its elements.
    wanted: EyeCatcher,
    group: Phase,
    /// RMBs that the peer confirmed.
    known: Vec<u32>,
    /// News of other groups than the world's own.
    pub(super) others: Vec<News>,
    lost: u32,
    /// Why the last group ended.
    reason: Option<Reason>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    None,
    Starting(u32),
    Ready(u32),
    Ended(u32),
}

/// A connection that the peer does not know of yet.
#[derive(Debug)]
pub(super) struct Opening {
    side: usize,
    prepared: Prepared,
    /// The peer has to confirm its RMB first.
    waits: bool,
}

impl Opening {
    pub(super) fn side(&self) -> usize {
        self.side
    }

    /// What CLC would tell the peer.
    pub(super) fn element(&self) -> PeerElement {
        let (rkey, address, index, size) = self.prepared.rmbe();
        let size = size.expect("sizes of elements are those of CLC");
        PeerElement {
            address: address + u64::from(index.get() - 1) * size.bytes() as u64,
            rkey,
            size,
            token: self.prepared.token,
        }
    }
}

impl Endpoint {
    pub(super) fn new(net: &SimNet, role: Role, element_size: u32, wanted: EyeCatcher) -> Self {
        let name = match role {
            Role::Client => "sim0/1",
            Role::Server => "sim1/1",
        };
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd");
        // As in a process, where it is never freed: programs' ends refer to it.
        let rdma: &'static Rdma = Box::leak(Box::new(Rdma::new(wake, u64::MAX)));
        Self {
            state: rdma.state.lock(),
            rdma,
            arena: Arena::create().expect("memory for connections"),
            port: net.port(name),
            role,
            element_size,
            wanted,
            group: Phase::None,
            known: Vec::new(),
            others: Vec::new(),
            lost: 0,
            reason: None,
        }
    }

    fn side(&self) -> usize {
        usize::from(self.role == Role::Server)
    }

    fn peer_id(&self) -> PeerId {
        PeerId([self.side() as u8 + 1; 8])
    }

    pub(super) fn counts(&self) -> Counts {
        self.port.counts()
    }

    /// Its link group works, as far as it knows.
    pub(super) fn is_alive(&self) -> bool {
        matches!(self.group, Phase::Ready(_))
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.group, Phase::None | Phase::Ended(_))
    }

    /// The queue pair is still there.
    pub(super) fn is_ending(&self) -> bool {
        !self.port.links().is_empty()
    }

    pub(super) fn links(&self) -> Vec<LinkId> {
        self.port.links()
    }

    /// Why the last group ended.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.reason
    }

    pub(super) fn take_lost(&mut self) -> u32 {
        std::mem::take(&mut self.lost)
    }

    /// Connections that the wire still keeps something for.
    pub(super) fn connections(&self) -> usize {
        self.state
            .groups
            .values()
            .map(|group| group.tokens.len())
            .sum()
    }

    /// Begins a link group with `peer`.
    pub(super) fn start(&mut self, peer: &Self, now: Instant) -> bool {
        let gid = self.port.gids()[1];
        let key = GroupKey {
            peer: peer.peer_id(),
            gid: peer.port.gids()[1].gid,
            role: self.role,
        };
        let settled = Settled {
            version: Version::V2,
            eid: None,
            release: 1,
            limits: Some(Limits {
                max_conns: 32,
                max_links: 1,
            }),
        };
        let port: Arc<dyn Port> = self.port.clone();
        self.state.timeouts(now);
        let group = self
            .state
            .start_group(&port, gid, key, &settled, self.element_size);
        let Ok(group) = group else {
            return false;
        };
        if let Some(group) = self.state.groups.get_mut(&group) {
            group.eye_catcher = self.wanted;
        }
        self.group = Phase::Starting(group);
        self.known.clear();
        true
    }

    pub(super) fn address(&self) -> Option<LinkAddress> {
        match self.group {
            Phase::Starting(group) => self.state.link_address(group),
            _ => None,
        }
    }

    pub(super) fn connect(&mut self, peer: &LinkAddress, now: Instant) -> bool {
        let Phase::Starting(group) = self.group else {
            return false;
        };
        self.state.connect(group, peer, now).is_ok()
    }

    /// What the elements of its link group have in front of the data, once that works.
    pub(super) fn eye_catcher(&self) -> Option<EyeCatcher> {
        match self.group {
            Phase::Ready(group) => Some(self.state.groups.get(&group)?.eye_catcher),
            _ => None,
        }
    }

    /// Gives up a first contact.
    pub(super) fn cancel(&mut self, now: Instant) {
        if let Phase::Starting(group) | Phase::Ready(group) = self.group {
            self.state
                .end_group(group, Errno::CONNRESET, Reason::LinkFailed, now);
        }
        self.look_after(now);
    }

    /// Our side of a new connection.
    pub(super) fn prepare(&mut self, now: Instant) -> Option<Opening> {
        let Phase::Ready(group) = self.group else {
            return None;
        };
        let prepared = self.state.prepare(group).ok()?;
        let Ok(waits) = self.state.tell_rmb(&prepared, now) else {
            self.state.give_back(&prepared);
            return None;
        };
        self.look_after(now);
        Some(Opening {
            side: self.side(),
            prepared,
            waits,
        })
    }

    pub(super) fn is_known(&self, opening: &Opening) -> bool {
        !opening.waits || self.known.contains(&opening.prepared.rmb())
    }

    pub(super) fn give_back(&mut self, opening: Opening) {
        self.state.give_back(&opening.prepared);
    }

    /// The connection begins. `None` if the group is gone.
    pub(super) fn establish(
        &mut self,
        opening: Opening,
        peer: PeerElement,
        now: Instant,
    ) -> Option<Program> {
        self.join(opening.prepared, peer, now)
    }

    /// The same, for a connection of any group.
    pub(super) fn join(
        &mut self,
        prepared: Prepared,
        peer: PeerElement,
        now: Instant,
    ) -> Option<Program> {
        let group = prepared.group;
        let local = self.arena.take().expect("there are not that many");
        let (fd, end) = bell::pair().expect("descriptors");
        let app = local.clone();
        let established = self.state.establish(prepared, peer, app, end, now);
        let Established { shared, tx, rx } = established.ok()?;
        let handle = self.rdma.handle(shared, group);
        let smc = Smc::new(tx, rx, local, Home::Rdma(handle), 0);
        smc.set_oob_inline(true);
        Some(Program::new(smc, fd))
    }

    /// Reads the notes that programs left.
    pub(super) fn attend(&mut self, now: Instant) {
        self.state.attend(&self.rdma.kicked, now);
        self.hear();
    }

    /// What the thread does when something happened.
    pub(super) fn look_after(&mut self, now: Instant) {
        self.others.clear();
        self.look(now);
    }

    /// The same; news of other groups are kept.
    pub(super) fn look(&mut self, now: Instant) {
        while self.state.poll(now) > 0 {}
        self.state.attend(&self.rdma.kicked, now);
        self.state.port_events(now);
        if self.state.next_timeout().is_some_and(|at| at <= now) {
            self.state.timeouts(now);
        }
        self.hear();
    }

    fn hear(&mut self) {
        for news in self.state.take_news().0 {
            match news {
                News::Ready(group) if self.group == Phase::Starting(group) => {
                    self.group = Phase::Ready(group);
                }
                News::RkeyAnswered(group, rmb, true) if self.is_current(group) => {
                    self.known.push(rmb);
                }
                News::Ended(group, reason) if self.is_current(group) => {
                    self.group = Phase::Ended(group);
                    self.lost += 1;
                    self.reason = Some(reason);
                }
                other => self.others.push(other),
            }
        }
    }

    fn is_current(&self, group: u32) -> bool {
        matches!(self.group, Phase::Starting(id) | Phase::Ready(id) if id == group)
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.state.next_timeout()
    }
}

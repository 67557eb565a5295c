//! A port of the simulated network.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::ReentrantMutex;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::domain::SimDomain;
use super::fault::PortId;
use super::net::{Cqe, Net, State};
use super::{Fault, SimNet};
use crate::clc::{Gid, Mac, MtuCode};
use crate::rdma::fabric::{Completion, Counts, Domain, LinkId, LocalGid, Port, PortEvent};

/// An eventfd that is readable or not.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(eventfd(0, flags)?))
    }

    pub(super) fn ring(&self) {
        // It fails only if nobody has listened for 2^64 rings.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn silence(&self) {
        // It fails only if it is silent.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// A port. Made by [`SimNet::port`].
#[derive(Debug)]
pub struct SimPort {
    pub(super) net: SimNet,
    pub(super) id: PortId,
    name: String,
    mac: Mac,
    gids: [Gid; 2],
    completion_bell: Arc<Bell>,
    event_bell: Arc<Bell>,
    told_gone: AtomicBool,
    /// True during a poll of this thread.
    polling: ReentrantMutex<Cell<bool>>,
}

impl SimPort {
    /// A new port.
    ///
    /// # Errors
    /// What `eventfd` says: no descriptors are left.
    pub(super) fn new(net: &SimNet, name: &str) -> Result<Arc<Self>, Errno> {
        let (completion_bell, event_bell) = (Arc::new(Bell::new()?), Arc::new(Bell::new()?));
        let mut inner = net.lock();
        let number = inner.ports.len() as u8 + 1;
        let mac = Mac([0x02, 0x51, 0x4d, 0, 0, number]);
        let v1 = [
            0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x51, 0x4d, 0xff, 0xfe, 0, 0, number,
        ];
        let v2 = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, number];
        let gids = [Gid(v1), Gid(v2)];
        let id = PortId(inner.ports.len());
        inner.ports.push(super::net::PortState {
            mac,
            gids,
            is_up: true,
            is_gone: false,
            is_stalled: false,
            is_deaf: false,
            completions: std::collections::VecDeque::new(),
            is_armed: false,
            completion_bell: Arc::clone(&completion_bell),
            events: std::collections::VecDeque::new(),
            event_bell: Arc::clone(&event_bell),
            counts: Counts::default(),
        });
        drop(inner);
        Ok(Arc::new(Self {
            net: net.clone(),
            id,
            name: name.to_owned(),
            mac,
            gids,
            completion_bell,
            event_bell,
            told_gone: AtomicBool::new(false),
            polling: ReentrantMutex::new(Cell::new(false)),
        }))
    }

    /// Names it in faults.
    pub fn id(&self) -> PortId {
        self.id
    }

    /// Its GIDs: index 0 is of RoCEv1, index 1 of RoCEv2.
    pub fn gids(&self) -> [LocalGid; 2] {
        let [v1, v2] = self.gids;
        [
            LocalGid { index: 0, gid: v1 },
            LocalGid { index: 1, gid: v2 },
        ]
    }

    /// Regions that are registered now, and the bytes in them.
    pub fn registered(&self) -> (usize, usize) {
        let net = self.net.lock();
        (
            net.memory.regions(self.id.0),
            net.memory.registered(self.id.0),
        )
    }

    /// Protection domains that exist now.
    pub fn domains(&self) -> usize {
        self.count_domains(&self.net.lock())
    }

    pub(super) fn count_domains(&self, net: &Net) -> usize {
        let of_port = net.domains.values().filter(|port| **port == self.id.0);
        of_port.count()
    }

    /// Links that exist now, broken ones included.
    pub fn links(&self) -> Vec<LinkId> {
        let net = self.net.lock();
        let alive = net
            .qps
            .iter()
            .filter(|(_, qp)| qp.port == self.id.0 && qp.state != State::Destroyed);
        alive.map(|(qpn, _)| LinkId(*qpn)).collect()
    }

    /// Stops or starts the polling of its owner; see [`Fault::Stall`].
    pub fn stall(&self, is_stalled: bool) {
        self.net.inject(if is_stalled {
            Fault::Stall(self.id)
        } else {
            Fault::Wake(self.id)
        });
    }

    /// From now on (or no more) what is received stays where it is: the receives run out, and
    /// whoever sends is held up, while this end can go on sending.
    pub fn deafen(&self, is_deaf: bool) {
        self.net.lock().ports[self.id.0].is_deaf = is_deaf;
    }

    fn hand_out(&self, completion: &Cqe, found: &mut dyn FnMut(Completion<'_>)) {
        match completion {
            Cqe::Sent { qpn, id, frees } => {
                if let Some(qp) = self.net.lock().qps.get_mut(qpn) {
                    qp.used -= frees;
                }
                let (link, id) = (LinkId(*qpn), *id);
                found(Completion::Sent { link, id });
            }
            Cqe::Received { qpn, message } => {
                let link = LinkId(*qpn);
                found(Completion::Received { link, message });
                let mut net = self.net.lock();
                let delay = net.config.rnr_delay;
                if net.ports[self.id.0].is_deaf {
                    return;
                }
                if let Some(qp) = net.qps.get_mut(qpn) {
                    qp.free_receives += 1;
                    if qp.free_receives == 1 {
                        net.receives_posted(*qpn, delay);
                    }
                }
            }
            Cqe::Failed { qpn, error } => {
                let (link, error) = (LinkId(*qpn), *error);
                found(Completion::Failed { link, error });
            }
        }
    }
}

impl Port for SimPort {
    fn name(&self) -> &str {
        &self.name
    }

    fn mac(&self) -> Mac {
        self.mac
    }

    fn mtu(&self) -> MtuCode {
        self.net.lock().config.mtu
    }

    fn domain(self: Arc<Self>) -> Result<Arc<dyn Domain>, Errno> {
        Ok(SimDomain::new(self)?)
    }

    fn poll(&self, found: &mut dyn FnMut(Completion<'_>)) -> usize {
        let turn = self.polling.lock();
        assert!(
            !turn.replace(true),
            "{}: polled from within a poll",
            self.name
        );
        let batch = {
            let mut net = self.net.lock();
            let most = net.config.poll_batch;
            let port = &mut net.ports[self.id.0];
            let count = if port.is_stalled {
                0
            } else {
                port.completions.len().min(most)
            };
            port.completions.drain(..count).collect::<Vec<_>>()
        };
        for completion in &batch {
            self.hand_out(completion, found);
        }
        turn.set(false);
        batch.len()
    }

    fn completion_fd(&self) -> BorrowedFd<'_> {
        self.completion_bell.0.as_fd()
    }

    fn take_event(&self) {
        let _net = self.net.lock();
        self.completion_bell.silence();
    }

    fn arm(&self) {
        self.net.lock().ports[self.id.0].is_armed = true;
    }

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.event_bell.0.as_fd()
    }

    fn event(&self) -> Option<PortEvent> {
        let mut net = self.net.lock();
        let events = &mut net.ports[self.id.0].events;
        let event = events.pop_front();
        if event == Some(PortEvent::Gone) {
            self.told_gone.store(true, Ordering::Relaxed);
        }
        if events.is_empty() {
            self.event_bell.silence();
        }
        event
    }

    fn is_gone(&self) -> bool {
        self.told_gone.load(Ordering::Relaxed)
    }

    fn counts(&self) -> Counts {
        self.net.lock().ports[self.id.0].counts
    }
}

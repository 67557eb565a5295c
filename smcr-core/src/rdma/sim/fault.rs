//! What can break, by script or by chance.

use std::time::Duration;

use super::net::{Event, Net, State};
use super::random::Random;
use crate::rdma::fabric::{LinkError, LinkId, PortEvent};

/// Names a port of a [`SimNet`](super::SimNet), in the order they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub usize);

/// A fault, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing from one port reaches the other any more. What the other sends still arrives, but
    /// is not acknowledged.
    Block {
        /// The sender.
        from: PortId,
        /// The receiver.
        to: PortId,
    },
    /// Ends [`Fault::Block`]. What was sent meanwhile is repeated, if no link gave up.
    Unblock {
        /// The sender.
        from: PortId,
        /// The receiver.
        to: PortId,
    },
    /// The queue pair breaks; the port tells of it by an event as well.
    Break {
        /// Which one.
        link: LinkId,
        /// What its completions say.
        error: LinkError,
    },
    /// The oldest packet that the queue pair has on its way is lost, and everything behind it waits
    /// until it is repeated. Other links go on.
    Lose(LinkId),
    /// The port goes down: as if blocked in both directions with everybody.
    Down(PortId),
    /// The port comes back. Links that did not give up go on.
    Up(PortId),
    /// The device goes away: all its links break, nothing can be made any more.
    Gone(PortId),
    /// The port's owner stops polling: its receives run out, what it waits for does not come.
    Stall(PortId),
    /// The port's owner polls again.
    Wake(PortId),
}

impl Fault {
    /// A fault of any kind but [`Fault::Gone`], with what ends it, if it has an end. `links` are
    /// those that may break.
    pub fn random(
        random: &mut Random,
        ports: &[PortId],
        links: &[LinkId],
    ) -> Option<(Self, Option<Self>)> {
        let from = *ports.get(random.index(ports.len()))?;
        let others: Vec<PortId> = ports.iter().copied().filter(|port| *port != from).collect();
        let to = *others.get(random.index(others.len()))?;
        Some(match random.below(6) {
            0 => (Self::Block { from, to }, Some(Self::Unblock { from, to })),
            1 => (Self::Down(from), Some(Self::Up(from))),
            2 => (Self::Stall(from), Some(Self::Wake(from))),
            3 => (Self::Lose(*links.get(random.index(links.len()))?), None),
            _ => {
                let link = *links.get(random.index(links.len()))?;
                let error = [LinkError::Unreachable, LinkError::Refused, LinkError::Local];
                let error = error[random.index(error.len())];
                (Self::Break { link, error }, None)
            }
        })
    }
}

impl Net {
    pub(super) fn schedule_fault(&mut self, after: Duration, fault: Fault) {
        let at = self.now + after.as_nanos() as u64;
        self.schedule(at, Event::Fault(fault));
    }

    pub(super) fn apply(&mut self, fault: Fault) {
        match fault {
            Fault::Block { from, to } => {
                self.blocked.insert((from.0, to.0));
            }
            Fault::Unblock { from, to } => {
                self.blocked.remove(&(from.0, to.0));
                self.retry_all();
            }
            Fault::Break { link, error } => {
                if let Some(qp) = self.qps.get(&link.0)
                    && !matches!(qp.state, State::Error | State::Destroyed)
                {
                    let port = qp.port;
                    self.fail(link.0, error);
                    self.tell(port, PortEvent::LinkFailed(link));
                }
            }
            Fault::Lose(LinkId(qpn)) => self.lose(qpn),
            Fault::Down(PortId(port)) => {
                if self.ports[port].is_up {
                    self.ports[port].is_up = false;
                    self.tell(port, PortEvent::Down);
                }
            }
            Fault::Up(PortId(port)) => {
                if !self.ports[port].is_up && !self.ports[port].is_gone {
                    self.ports[port].is_up = true;
                    self.tell(port, PortEvent::Up);
                    self.retry_all();
                }
            }
            Fault::Gone(PortId(port)) => {
                if !self.ports[port].is_gone {
                    self.ports[port].is_gone = true;
                    self.ports[port].is_up = false;
                    self.tell(port, PortEvent::Gone);
                    for qpn in self.qps_of(port) {
                        self.fail(qpn, LinkError::Flushed);
                    }
                }
            }
            Fault::Stall(PortId(port)) => self.ports[port].is_stalled = true,
            Fault::Wake(PortId(port)) => {
                self.ports[port].is_stalled = false;
                self.ring(port);
            }
        }
    }
}

//! What happens to packets and their acknowledgements, and how queue pairs end.

use std::time::Duration;

use super::net::{Ack, Cqe, Event, Net, Packet, Qp, Source, State};
use crate::clc::QpNumber;
use crate::rdma::fabric::{LinkError, LinkId, PortEvent};

/// Why the first packet of a wire did not arrive.
enum Obstacle {
    /// Nobody answers.
    Silence,
    /// No receive is posted.
    NotReady,
    /// The sender's own memory is not what it was posted as.
    Local,
    /// The receiver refuses it, and fails like this.
    Refused(LinkError),
}

impl Net {
    /// The queue pair at the other end, if it is there, answers, and knows this one.
    fn peer_of(&self, qpn: u32) -> Option<u32> {
        let qp = &self.qps[&qpn];
        let address = qp.peer?;
        let peer_qpn = address.qpn.get();
        let peer = self.qps.get(&peer_qpn)?;
        let known = peer.peer.as_ref()?;
        let answers = matches!(peer.state, State::Rtr | State::Rts)
            && peer.gid == address.gid
            && peer.psn == address.psn
            && known.qpn == QpNumber::new(qpn)?
            && known.gid == qp.gid
            && known.psn == qp.psn;
        answers.then_some(peer_qpn)
    }

    fn is_open(&self, from: usize, to: usize) -> bool {
        self.ports[from].is_up && self.ports[to].is_up && !self.blocked.contains(&(from, to))
    }

    fn delay(&mut self) -> u64 {
        let jitter = self.config.jitter.as_nanos() as u64;
        self.config.latency.as_nanos() as u64 + self.random.below(jitter + 1)
    }

    /// The oldest packet on the wire does not arrive, but is repeated.
    pub(super) fn lose(&mut self, qpn: u32) {
        let at = self.now + self.config.retransmit.as_nanos() as u64;
        let Some(qp) = self.qps.get_mut(&qpn) else {
            return;
        };
        let is_alive = matches!(qp.state, State::Rtr | State::Rts);
        if is_alive && !qp.wire.is_stuck && !qp.wire.queue.is_empty() {
            qp.wire.turn += 1;
            let turn = qp.wire.turn;
            self.schedule(at, Event::Arrive { qpn, turn });
        }
    }

    /// Puts a post's packets on the wire.
    pub(super) fn transmit(&mut self, qpn: u32, packets: Vec<Packet>) {
        let gap = self.config.packet_gap.as_nanos() as u64;
        let at = self.now + self.delay();
        let qp = self.qps.get_mut(&qpn).expect("the poster's own");
        let mut at = at.max(qp.wire.last + gap);
        let is_first = qp.wire.queue.is_empty();
        let first = at;
        for packet in packets {
            qp.wire.queue.push_back((at, packet));
            qp.wire.last = at;
            at += gap;
        }
        if is_first {
            let turn = qp.wire.turn;
            self.schedule(first, Event::Arrive { qpn, turn });
        }
    }

    pub(super) fn arrive(&mut self, qpn: u32, turn: u64) {
        let Some(qp) = self.qps.get_mut(&qpn).filter(|qp| qp.wire.turn == turn) else {
            return;
        };
        // Whatever was stuck is tried again now.
        qp.wire.turn += 1;
        qp.wire.is_stuck = false;
        let Some((at, packet)) = qp.wire.queue.pop_front() else {
            return;
        };
        match self.deliver(qpn, &packet) {
            Ok(receiver) => {
                self.qps.get_mut(&qpn).expect("as above").wire.deadline = None;
                if matches!(packet, Packet::Message(_)) {
                    self.answer(qpn, receiver, Ack::Done);
                }
                self.arrive_next(qpn);
            }
            Err(Obstacle::Local) => self.fail(qpn, LinkError::Local),
            Err(Obstacle::Refused(receiver)) => self.refuse(qpn, receiver),
            Err(obstacle) => {
                let patience = match obstacle {
                    Obstacle::NotReady => self.config.rnr_time,
                    _ => Some(self.config.retry_time),
                };
                let qp = self.qps.get_mut(&qpn).expect("looked at above");
                if matches!(qp.state, State::Error | State::Destroyed) {
                    // Nobody is left to repeat it.
                    qp.wire.clear();
                    self.forget_if_done(qpn);
                    return;
                }
                qp.wire.queue.push_front((at, packet));
                if let Some(at) = qp.wire.wait(self.now, patience) {
                    self.schedule(at, Event::GiveUp { qpn });
                }
            }
        }
    }

    fn arrive_next(&mut self, qpn: u32) {
        let qp = &self.qps[&qpn];
        if let Some((at, _)) = qp.wire.queue.front() {
            let (at, turn) = (*at, qp.wire.turn);
            self.schedule(at, Event::Arrive { qpn, turn });
        } else {
            self.forget_if_done(qpn);
        }
    }

    /// Lets a packet take effect at the peer. Returns the peer's port.
    fn deliver(&mut self, qpn: u32, packet: &Packet) -> Result<usize, Obstacle> {
        let peer = self.peer_of(qpn).ok_or(Obstacle::Silence)?;
        let (from, to) = (self.qps[&qpn].port, self.qps[&peer].port);
        if !self.is_open(from, to) {
            return Err(Obstacle::Silence);
        }
        match packet {
            Packet::Piece {
                from: source,
                len,
                to: address,
                rkey,
            } => {
                self.record.write(self.now, qpn, *address, *len, *rkey);
                let domains = [qpn, peer].map(|qpn| self.qps[&qpn].domain);
                let place = self.memory.remote(domains[1], *rkey, *address, *len);
                let place = place.ok_or(Obstacle::Refused(LinkError::Flushed))?;
                self.memory
                    .copy(domains[0], source, *len, place)
                    .ok_or(Obstacle::Local)?;
            }
            Packet::Message(message) => {
                let receiver = self.qps.get_mut(&peer).expect("peer_of found it");
                if receiver.free_receives == 0 {
                    return Err(Obstacle::NotReady);
                }
                if message.len() > receiver.receive_size {
                    return Err(Obstacle::Refused(LinkError::Local));
                }
                receiver.free_receives -= 1;
                let message = message.clone();
                self.record.message(self.now, qpn, &message);
                let completion = Cqe::Received { qpn: peer, message };
                self.complete(peer, completion);
            }
        }
        Ok(to)
    }

    /// The receiver of `qpn`'s packets refuses one, and fails as `receiver` says.
    fn refuse(&mut self, qpn: u32, receiver: LinkError) {
        self.qps.get_mut(&qpn).expect("it sent").wire.clear();
        let Some(peer) = self.peer_of(qpn) else {
            return;
        };
        let port = self.qps[&peer].port;
        self.answer(qpn, port, Ack::Refused);
        if receiver == LinkError::Flushed {
            // A refused WRITE uses no receive: only the event says what happened.
            self.tell(port, PortEvent::LinkFailed(LinkId(peer)));
        }
        self.fail(peer, receiver);
    }

    /// Sends `qpn` an acknowledgement from a port.
    fn answer(&mut self, qpn: u32, from: usize, ack: Ack) {
        let at = self.now + self.delay();
        let qp = self.qps.get_mut(&qpn).expect("it sent");
        if matches!(qp.state, State::Error | State::Destroyed) {
            return;
        }
        let at = at.max(qp.acks.last);
        qp.acks.last = at;
        let is_first = qp.acks.queue.is_empty();
        qp.acks.queue.push_back((at, (ack, from)));
        if is_first {
            let turn = qp.acks.turn;
            self.schedule(at, Event::Acknowledge { qpn, turn });
        }
    }

    pub(super) fn acknowledge(&mut self, qpn: u32, turn: u64) {
        let Some(qp) = self.qps.get_mut(&qpn).filter(|qp| qp.acks.turn == turn) else {
            return;
        };
        qp.acks.turn += 1;
        qp.acks.is_stuck = false;
        let Some((_, (ack, from))) = qp.acks.queue.front() else {
            return;
        };
        let (ack, from, port) = (*ack, *from, qp.port);
        // The first time it is under way already; repeated it is only by a peer that still can.
        let is_first = qp.acks.deadline.is_none();
        let is_open = self.is_open(from, port) && (is_first || self.peer_of(qpn).is_some());
        let now = self.now;
        let qp = self.qps.get_mut(&qpn).expect("looked at above");
        let turn = qp.acks.turn;
        if !is_open {
            let patience = Some(self.config.retry_time);
            if let Some(at) = qp.acks.wait(now, patience) {
                self.schedule(at, Event::GiveUp { qpn });
            }
            return;
        }
        let qp = self.qps.get_mut(&qpn).expect("as above");
        qp.acks.deadline = None;
        qp.acks.queue.pop_front();
        if ack == Ack::Refused {
            self.fail(qpn, LinkError::Refused);
            return;
        }
        if let Some((at, _)) = qp.acks.queue.front() {
            let at = *at;
            self.schedule(at, Event::Acknowledge { qpn, turn });
        }
        let qp = self.qps.get_mut(&qpn).expect("as above");
        let Some(post) = qp.posts.pop_front() else {
            return;
        };
        qp.silent += post.requests;
        if post.is_signalled {
            let frees = std::mem::take(&mut qp.silent);
            let id = post.id;
            self.complete(qpn, Cqe::Sent { qpn, id, frees });
        }
    }

    /// Makes a completion visible after a while, in order with those of its queue.
    fn complete(&mut self, qpn: u32, completion: Cqe) {
        let spread = self.config.completion_delay.as_nanos() as u64;
        let at = self.now + self.random.below(spread + 1);
        let qp = self.qps.get_mut(&qpn).expect("it completes something");
        let last = match completion {
            Cqe::Received { .. } => &mut qp.last_received,
            _ => &mut qp.last_sent,
        };
        let at = at.max(*last);
        *last = at;
        let port = qp.port;
        self.schedule(at, Event::Complete { port, completion });
    }

    pub(super) fn give_up(&mut self, qpn: u32) {
        let Some(qp) = self.qps.get(&qpn) else {
            return;
        };
        // Deadlines that were put off meanwhile have events of their own.
        let is_due = |deadline| deadline == Some(self.now);
        if is_due(qp.wire.deadline) || is_due(qp.acks.deadline) {
            self.fail(qpn, LinkError::Unreachable);
        }
    }

    /// The queue pair goes into error. Everything posted comes back.
    pub(super) fn fail(&mut self, qpn: u32, error: LinkError) {
        self.depart(qpn);
        let qp = self.qps.get_mut(&qpn).expect("its callers know it");
        if matches!(qp.state, State::Error | State::Destroyed) {
            return;
        }
        qp.state = State::Error;
        let mut flushed = qp.posts.len().min(3);
        qp.posts.clear();
        if error != LinkError::Flushed {
            self.complete(qpn, Cqe::Failed { qpn, error });
        }
        // The receives come back, too: there is at least one.
        flushed += 1;
        for _ in 0..flushed {
            let error = LinkError::Flushed;
            self.complete(qpn, Cqe::Failed { qpn, error });
        }
        // Nobody waits for an answer any more, and those that sent here see silence.
        let qp = self.qps.get_mut(&qpn).expect("as above");
        qp.acks.clear();
    }

    /// The owner drops the queue pair.
    pub(super) fn destroy(&mut self, qpn: u32) {
        self.depart(qpn);
        if let Some(qp) = self.qps.get_mut(&qpn) {
            qp.state = State::Destroyed;
            qp.posts.clear();
            qp.acks.clear();
        }
        self.forget_if_done(qpn);
    }

    /// What has left the port goes on without its memory; the rest never leaves.
    fn depart(&mut self, qpn: u32) {
        let latency = self.config.latency.as_nanos() as u64;
        let now = self.now;
        let Some(qp) = self.qps.get_mut(&qpn) else {
            return;
        };
        if matches!(qp.state, State::Error | State::Destroyed) {
            return;
        }
        if qp.wire.is_stuck {
            // It was to be repeated, and that ends here.
            qp.wire.clear();
            return;
        }
        qp.wire
            .queue
            .retain(|(at, _)| at.saturating_sub(latency) <= now);
        for (_, packet) in &mut qp.wire.queue {
            let Packet::Piece { from, len, .. } = packet else {
                continue;
            };
            let bytes = self.memory.read(qp.domain, from, *len);
            *from = Source::Departed(bytes.unwrap_or_default());
        }
    }

    fn forget_if_done(&mut self, qpn: u32) {
        let is_done = |qp: &Qp| qp.state == State::Destroyed && qp.wire.queue.is_empty();
        if self.qps.get(&qpn).is_some_and(is_done) {
            self.qps.remove(&qpn);
        }
    }

    /// Tries everything that was stuck again.
    pub(super) fn retry_all(&mut self) {
        let now = self.now;
        let stuck: Vec<u32> = self.qps.keys().copied().collect();
        for qpn in stuck {
            self.retry(qpn, now);
        }
    }

    /// Tries what `qpn` has stuck again at a time.
    fn retry(&mut self, qpn: u32, at: u64) {
        let qp = &self.qps[&qpn];
        let wire = qp.wire.is_stuck.then_some(qp.wire.turn);
        let acks = qp.acks.is_stuck.then_some(qp.acks.turn);
        if let Some(turn) = wire {
            self.schedule(at, Event::Arrive { qpn, turn });
        }
        if let Some(turn) = acks {
            self.schedule(at, Event::Acknowledge { qpn, turn });
        }
    }

    /// Receives of `qpn` were posted, or it became able to receive: its peer tries again.
    pub(super) fn receives_posted(&mut self, qpn: u32, delay: Duration) {
        let Some(peer) = self.qps.get(&qpn).and_then(|qp| qp.peer) else {
            return;
        };
        if self.qps.contains_key(&peer.qpn.get()) {
            let at = self.now + delay.as_nanos() as u64;
            self.retry(peer.qpn.get(), at);
        }
    }
}

//! Link groups and connections as they come to be: first contact, later contact, and what is given
//! back where nothing comes of it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::{OpenPort, Place, State, earlier, memory};
use crate::Reason;
use crate::cdc::{Cdc, EyeCatcher};
use crate::clc::{Gid, Psn, QpNumber, Rkey, RmbeIndex, RmbeSize, Token};
use crate::engine::PUBLISHER;
use crate::handshake::rdma::Settled;
use crate::rdma::buffers::{Element, Pools};
use crate::rdma::connection::{Connection, Parts, PeerElement};
use crate::rdma::fabric::{LinkAddress, LocalGid, Port};
use crate::rdma::group::{Group, GroupKey, Target, receive_size};
use crate::rdma::handle::{ConnId, Shared};
use crate::shm::{LocalRef, Rx, Tx};
use crate::stat::Counter;

/// What a connection needs of our side before the peer is told.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) group: u32,
    pub(in crate::rdma) rmbe: Element,
    pub(in crate::rdma) send_buffer: Element,
    pub(crate) token: Token,
}

impl Prepared {
    /// The number of our RMB.
    pub(crate) fn rmb(&self) -> u32 {
        self.rmbe.buffer
    }

    /// Our RMBE as CLC messages have it: key and address of the RMB, index, size.
    pub(crate) fn rmbe(&self) -> (Rkey, u64, RmbeIndex, Option<RmbeSize>) {
        let size = self.rmbe.rmb.geometry().rmbe_size as usize;
        (
            self.rmbe.rkey,
            self.rmbe.address,
            self.rmbe.clc_index(),
            RmbeSize::holding(size),
        )
    }

    /// Makes `bytes` the first content of the send buffer.
    pub(crate) fn preload(&self, bytes: &[u8]) {
        self.send_buffer.reader(EyeCatcher::None).preload(0, bytes);
    }
}

/// A connection that was established, for its program.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) shared: Arc<Shared>,
    /// The program's ends of the rings: for sending, for receiving.
    pub(crate) tx: Tx,
    pub(crate) rx: Rx,
}

impl State {
    /// The port's place, opened now if it was not yet.
    fn add_port(&mut self, port: Arc<dyn Port>) -> usize {
        // Not by the name: a device that was removed and comes back has the same.
        let is = |open: &OpenPort| open.port.as_ref().is_some_and(|it| Arc::ptr_eq(it, &port));
        if let Some(place) = self.ports.iter().position(is) {
            return place;
        }
        self.ports.push(OpenPort {
            port: Some(port),
            links: HashMap::new(),
        });
        self.ports.len() - 1
    }

    /// A new link group with a protection domain of its own: no other peer can write to what is
    /// registered there (RFC 7609 §2.1). Its link is in INIT.
    ///
    /// # Errors
    /// [`Reason::LinkFailed`]: the domain or the queue pair cannot be made.
    pub(crate) fn start_group(
        &mut self,
        port: &Arc<dyn Port>,
        gid: LocalGid,
        key: GroupKey,
        settled: &Settled,
        element_size: u32,
    ) -> Result<u32, Reason> {
        let failed = |errno| {
            log::debug!("{}: no link: {errno}", port.name());
            Reason::LinkFailed
        };
        let no_domain = |errno| {
            log::debug!(
                "{}: no protection domain for this peer: {errno} (`ibv_devinfo -v` says how many \
                 the device has: max_pd)",
                port.name()
            );
            Reason::LinkFailed
        };
        let mut random = [0u8; 8];
        let flags = rustix::rand::GetRandomFlags::empty();
        rustix::rand::getrandom(&mut random, flags).map_err(failed)?;
        let [p0, p1, p2, _, token @ ..] = random;
        let psn = Psn::new(u32::from_be_bytes([0, p0, p1, p2])).unwrap_or_default();
        let place = self.add_port(Arc::clone(port));
        let size = receive_size(settled.version);
        let domain = Arc::clone(port).domain().map_err(no_domain)?;
        let link = Arc::clone(&domain).link(gid, psn, size).map_err(failed)?;
        let memory = Pools::new(domain, element_size, self.max_memory);
        self.next_group += 1;
        let id = self.next_group;
        let token = u32::from_ne_bytes(token);
        let group = Group::new(id, place, key, *settled, link, memory, token);
        self.ports[place].links.insert(group.link_id(), id);
        self.groups.insert(id, group);
        PUBLISHER.count(Counter::LinkGroups);
        Ok(id)
    }

    /// A group with this peer that has room for one more connection.
    pub(crate) fn group_for(&self, key: &GroupKey) -> Option<u32> {
        let fits = |group: &&Group| group.is_ready() && group.serves(key) && group.has_room();
        self.groups.values().find(fits).map(|group| group.id)
    }

    /// The group with this peer whose link ends at its queue pair `qpn`.
    pub(crate) fn group_with(&self, key: &GroupKey, qpn: QpNumber) -> Option<u32> {
        let is = |g: &&Group| {
            g.is_ready() && g.serves(key) && g.is_linked_to(key.gid, qpn) && g.has_room()
        };
        self.groups.values().find(is).map(|group| group.id)
    }

    /// Whether the link of a group ends there (RFC 7609 §3.5.2.3).
    pub(crate) fn is_linked_to(&self, group: u32, gid: Gid, qpn: QpNumber) -> bool {
        let group = self.groups.get(&group);
        group.is_some_and(|group| group.is_linked_to(gid, qpn))
    }

    /// Whether a first contact with this peer is under way.
    pub(crate) fn is_starting(&self, key: &GroupKey) -> bool {
        let mut groups = self.groups.values();
        groups.any(|group| group.is_starting() && group.serves(key))
    }

    /// Our end of a group's link.
    pub(crate) fn link_address(&self, group: u32) -> Option<LinkAddress> {
        self.groups.get(&group)?.address()
    }

    /// First contact: connects the group's link, and begins the LLC exchange.
    ///
    /// # Errors
    /// [`Reason::NoRoute`]: the peer's end cannot be reached.
    pub(crate) fn connect(
        &mut self,
        id: u32,
        peer: &LinkAddress,
        now: Instant,
    ) -> Result<(), Reason> {
        let group = self.groups.get_mut(&id).ok_or(Reason::LinkFailed)?;
        group.connect(peer, now).map_err(|errno| {
            log::debug!("group {id}: link cannot be connected: {errno}");
            Reason::NoRoute
        })?;
        self.after_llc(id, now);
        Ok(())
    }

    /// The RMB of a connection is named in Accept or Confirm of a first contact.
    pub(crate) fn rmb_told(&mut self, prepared: &Prepared) {
        if let Some(group) = self.groups.get_mut(&prepared.group) {
            group.memory.rmbs.told(prepared.rmb(), true);
        }
    }

    /// Has the peer learn of the RMB of a connection. False if it knows; else
    /// [`News::RkeyAnswered`] follows.
    ///
    /// # Errors
    /// The peer cannot be told.
    pub(crate) fn tell_rmb(&mut self, prepared: &Prepared, now: Instant) -> Result<bool, Reason> {
        let group = self.groups.get_mut(&prepared.group);
        let asked = group.ok_or(Reason::LinkLost)?.tell_rmb(&prepared.rmbe, now);
        self.after_llc(prepared.group, now);
        asked
    }

    /// Takes memory and a token for a connection.
    ///
    /// # Errors
    /// [`Reason::Memory`].
    pub(crate) fn prepare(&mut self, id: u32) -> Result<Prepared, Reason> {
        let group = self.groups.get_mut(&id).ok_or(Reason::Internal)?;
        let (rmbe, send_buffer) = group.memory.take().map_err(memory)?;
        let token = group.new_token();
        Ok(Prepared {
            group: id,
            rmbe,
            send_buffer,
            token,
        })
    }

    /// The connection never came to be.
    pub(crate) fn give_back(&mut self, prepared: &Prepared) {
        let Some(group) = self.groups.get_mut(&prepared.group) else {
            return;
        };
        group.tokens.remove(&prepared.token);
        group
            .memory
            .give_back(&prepared.rmbe, &prepared.send_buffer);
        if group.tokens.is_empty() {
            group.became_idle(Instant::now());
            self.due = earlier(self.due, group.next_timeout());
        }
    }

    /// The connection is agreed on: from here on its bytes flow.
    pub(crate) fn establish(
        &mut self,
        prepared: Prepared,
        peer: PeerElement,
        app: LocalRef,
        end: OwnedFd,
        now: Instant,
    ) -> Result<Established, Reason> {
        let group = self.groups.get(&prepared.group);
        if !group.is_some_and(|group| group.is_starting() || group.is_ready()) {
            // One that ended meanwhile would never tell the connection so.
            self.give_back(&prepared);
            return Err(Reason::LinkLost);
        }
        self.given_up(
            prepared.group,
            |connection| connection.writes_to(&peer),
            now,
        );
        // Their last words go out before anything of this one.
        self.pump_all(now);
        let id = self.place();
        let shared = Shared::new(id);
        let Prepared {
            group: group_id,
            rmbe,
            send_buffer,
            token,
        } = prepared;
        let group = self.groups.get_mut(&group_id).ok_or(Reason::LinkLost)?;
        // Known since CONFIRM LINK, which comes before any connection.
        let eye_catcher = group.eye_catcher;
        let tx = send_buffer.writer(EyeCatcher::None);
        let rx = rmbe.reader(eye_catcher);
        let parts = Parts {
            rmbe,
            send_buffer,
            app,
            end,
            peer,
            token,
            eye_catcher,
        };
        let connection =
            Connection::new(Arc::clone(&shared), parts, now).ok_or(Reason::Internal)?;
        let early = group.tokens.insert(token, Target::Live(id));
        self.connections[id.index as usize].connection = Some((group_id, connection));
        if let Some(Target::Early(messages)) = early {
            for message in messages {
                self.cdc(group_id, Cdc::Message(message), now);
            }
        }
        self.dirty.push(id);
        self.pump_all(now);
        Ok(Established { shared, tx, rx })
    }

    pub(super) fn place(&mut self) -> ConnId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(Place {
                generation: 0,
                connection: None,
            });
            self.connections.len() as u32 - 1
        });
        ConnId {
            index,
            generation: self.connections[index as usize].generation,
        }
    }
}

//! What the wire of a process consists of: ports, link groups, connections. Everything here
//! happens under the one lock of [`super::Rdma`].

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::buffers::{Buffers, Element};
use super::connection::{Connection, Parts, PeerElement, Posted, Pumped};
use super::fabric::{
    Access, Completion, Counts, LinkAddress, LinkError, LinkId, LocalGid, Port, PortEvent,
};
use super::group::{Group, GroupKey, Target, receive_size};
use super::handle::{ConnId, Kicked, Shared};
use crate::Reason;
use crate::cdc::Cdc;
use crate::clc::{Psn, QpNumber, Rkey, RmbeIndex, RmbeSize, Token};
use crate::engine::PUBLISHER;
use crate::handshake::rdma::Settled;
use crate::shm::{LocalRef, Rx, Tx};
use crate::stat::Counter;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct State {
    ports: Vec<OpenPort>,
    pub(super) groups: HashMap<u32, Group>,
    next_group: u32,
    connections: Vec<Place>,
    free: Vec<u32>,
    /// Connections to be pumped before the lock is left.
    dirty: Vec<ConnId>,
    /// What the handshakes have to hear; taken by the thread.
    news: Vec<News>,
    /// Ends that the thread has to watch: other processes ring there.
    to_watch: Vec<ConnId>,
    /// What the statistics know of the ports' work.
    published: Counts,
    published_at: Option<Instant>,
    /// CDC messages that the statistics do not know of.
    cdc_sent: u64,
}

#[derive(Debug)]
struct OpenPort {
    /// `None`: it is gone. Its place is not used again.
    port: Option<Arc<dyn Port>>,
    send_buffers: Buffers,
    links: HashMap<LinkId, u32>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    connection: Option<(u32, Connection)>,
}

/// Something that a handshake waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Our CONFIRM LINK, or the response to it, arrived.
    ConfirmLinkSent(u32),
    /// First contact of the group is over: its link works.
    Ready(u32),
    /// The peer knows (or refuses) the RMB of that number.
    RkeyAnswered(u32, u32, bool),
    /// The group is gone.
    Ended(u32, Reason),
}

/// What a connection needs of our side before the peer is told.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) group: u32,
    pub(super) rmbe: Element,
    pub(super) send_buffer: Element,
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

    /// The rings from the program's side: for sending, for receiving.
    pub(crate) fn rings(&self) -> (Tx, Rx) {
        let Element { rmb, index, .. } = &self.send_buffer;
        let tx = Tx::new(Arc::clone(rmb), *index);
        let Element { rmb, index, .. } = &self.rmbe;
        (tx, Rx::new(Arc::clone(rmb), *index))
    }

    /// Makes `bytes` the first content of the send buffer.
    pub(crate) fn preload(&self, bytes: &[u8]) {
        let Element { rmb, index, .. } = &self.send_buffer;
        Rx::new(Arc::clone(rmb), *index).preload(0, bytes);
    }
}

/// How old the statistics of the ports may be.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

impl State {
    /// The port's place, opened now if it was not yet.
    fn add_port(&mut self, port: Arc<dyn Port>, element_size: u32) -> usize {
        // Not by the name: a device that was removed and comes back has the same.
        let is = |open: &OpenPort| open.port.as_ref().is_some_and(|it| Arc::ptr_eq(it, &port));
        if let Some(place) = self.ports.iter().position(is) {
            return place;
        }
        let send_buffers = Buffers::new(Arc::clone(&port), Access::Local, element_size);
        self.ports.push(OpenPort {
            port: Some(port),
            send_buffers,
            links: HashMap::new(),
        });
        self.ports.len() - 1
    }

    /// A new link group, whose link is in INIT.
    ///
    /// # Errors
    /// The queue pair cannot be made.
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
        let mut random = [0u8; 8];
        let flags = rustix::rand::GetRandomFlags::empty();
        rustix::rand::getrandom(&mut random, flags).map_err(failed)?;
        let [p0, p1, p2, _, token @ ..] = random;
        let psn = Psn::new(u32::from_be_bytes([0, p0, p1, p2])).unwrap_or_default();
        let place = self.add_port(Arc::clone(port), element_size);
        let size = receive_size(settled.version);
        let link = Arc::clone(port).link(gid, psn, size).map_err(failed)?;
        let rmbs = Buffers::new(Arc::clone(port), Access::RemoteWrite, element_size);
        self.next_group += 1;
        let id = self.next_group;
        let token = u32::from_ne_bytes(token);
        let group = Group::new(id, place, key, *settled, link, rmbs, token);
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
        let is = |g: &&Group| g.is_ready() && g.serves(key) && g.is_linked_to(qpn) && g.has_room();
        self.groups.values().find(is).map(|group| group.id)
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
            group.rmbs.told(prepared.rmb(), true);
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
        let send_buffers = &mut self.ports[group.port].send_buffers;
        let send_buffer = send_buffers.take().map_err(memory)?;
        let rmbe = match group.rmbs.take() {
            Ok(rmbe) => rmbe,
            Err(errno) => {
                send_buffers.give_back(&send_buffer);
                return Err(memory(errno));
            }
        };
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
        group.rmbs.give_back(&prepared.rmbe);
        if group.tokens.is_empty() {
            group.became_idle(Instant::now());
        }
        self.ports[group.port]
            .send_buffers
            .give_back(&prepared.send_buffer);
    }

    /// The connection is agreed on: from here on its bytes flow.
    pub(crate) fn establish(
        &mut self,
        prepared: Prepared,
        peer: PeerElement,
        app: LocalRef,
        end: OwnedFd,
        now: Instant,
    ) -> Result<Arc<Shared>, Reason> {
        let group = self.groups.get(&prepared.group);
        if !group.is_some_and(|group| group.is_starting() || group.is_ready()) {
            // One that ended meanwhile would never tell the connection so.
            self.give_back(&prepared);
            return Err(Reason::LinkLost);
        }
        let id = self.place();
        let shared = Shared::new(id);
        let Prepared {
            group: group_id,
            rmbe,
            send_buffer,
            token,
        } = prepared;
        let group = self.groups.get_mut(&group_id).ok_or(Reason::LinkLost)?;
        let parts = Parts {
            rmbe,
            send_buffer,
            app,
            end,
            peer,
            token,
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
        Ok(shared)
    }

    fn place(&mut self) -> ConnId {
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

    /// The connection of that name, if it still is.
    pub(super) fn connection(&mut self, id: ConnId) -> Option<&mut Connection> {
        let place = self.connections.get_mut(id.index as usize)?;
        let is_current = place.generation == id.generation;
        let (_, connection) = place.connection.as_mut().filter(|_| is_current)?;
        Some(connection)
    }

    /// Takes care of what the programs did.
    pub(super) fn attend(&mut self, kicked: &Kicked, now: Instant) {
        kicked.take(|id| self.dirty.push(id));
        self.pump_all(now);
    }

    /// Takes what came from the wire. Returns how many completions there were.
    pub(super) fn poll(&mut self, now: Instant) -> usize {
        let mut count = 0;
        for place in 0..self.ports.len() {
            let Some(port) = self.ports[place].port.clone() else {
                continue;
            };
            count += port.poll(&mut |completion| self.complete(place, completion, now));
        }
        if count > 0 {
            self.pump_all(now);
        }
        count
    }

    fn complete(&mut self, place: usize, completion: Completion<'_>, now: Instant) {
        let (Completion::Sent { link, .. }
        | Completion::Received { link, .. }
        | Completion::Failed { link, .. }) = &completion;
        let Some(&id) = self.ports[place].links.get(link) else {
            return;
        };
        match completion {
            Completion::Sent { id: post, .. } => self.sent(id, post),
            Completion::Received { message, .. } => self.received(id, message, now),
            Completion::Failed { error, .. } => self.link_failed(id, error, now),
        }
    }

    /// Everything posted on the group's link up to `post` is completed.
    fn sent(&mut self, group: u32, post: u64) {
        let Some(group) = self.groups.get_mut(&group) else {
            return;
        };
        group.delivered();
        while let Some((number, conn, up_to)) = group.posts.completed(post) {
            if conn.is_none() {
                group.llc_arrived(number, &mut self.news);
            }
            let place = conn.and_then(|id| {
                let place = self.connections.get_mut(id.index as usize)?;
                (place.generation == id.generation).then_some((id, place))
            });
            if let Some((id, place)) = place
                && let Some((_, connection)) = &mut place.connection
            {
                connection.completed(Posted { up_to });
                self.dirty.push(id);
            }
        }
        // There is room on the link again.
        group.flush();
        self.dirty.append(&mut group.blocked);
    }

    fn received(&mut self, group_id: u32, message: &[u8], now: Instant) {
        if message.first() == Some(&crate::cdc::TYPE) {
            match Cdc::parse(message) {
                Ok(cdc) => self.cdc(group_id, cdc, now),
                Err(error) => self.dropped(group_id, &error),
            }
        } else if let Some(group) = self.groups.get_mut(&group_id) {
            group.received_llc(message, now);
            self.after_llc(group_id, now);
        }
    }

    fn dropped(&mut self, group: u32, error: &dyn std::fmt::Display) {
        log::debug!("group {group}: dropped a message: {error}");
        PUBLISHER.fallback(Reason::LlcInvalid);
    }

    fn cdc(&mut self, group_id: u32, cdc: Cdc, now: Instant) {
        let Some(group) = self.groups.get_mut(&group_id) else {
            return;
        };
        group.heard(now);
        let id = match group.tokens.get_mut(&cdc.token()) {
            Some(Target::Live(id)) => *id,
            Some(early @ Target::Early(_)) => return early.keep(cdc),
            None => return self.dropped(group_id, &"no connection has its token"),
        };
        let Some(connection) = self.connection(id) else {
            return;
        };
        // With one link a group nothing moves to another one: what a validation is about has
        // been seen.
        if let Cdc::Message(message) = cdc
            && let Err(reason) = connection.receive(message, now)
        {
            log::debug!("group {group_id}: connection aborted: {reason}");
            PUBLISHER.fallback(reason);
            connection.abort(now);
        }
        self.dirty.push(id);
    }

    fn link_failed(&mut self, group: u32, error: LinkError, now: Instant) {
        log::debug!("group {group}: link failed: {error:?}");
        let errno = match error {
            LinkError::Unreachable => Errno::TIMEDOUT,
            LinkError::Refused | LinkError::Local | LinkError::Flushed => Errno::CONNRESET,
        };
        self.end_group(group, errno, Reason::LinkLost, now);
    }

    /// The group is over, and all its connections with it.
    pub(crate) fn end_group(&mut self, id: u32, errno: Errno, reason: Reason, now: Instant) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if !group.end(now) {
            return;
        }
        self.news.push(News::Ended(id, reason));
        for index in 0..self.connections.len() {
            let place = &mut self.connections[index];
            if let Some((of, connection)) = &mut place.connection
                && *of == id
            {
                connection.link_lost(errno, now);
                self.dirty.push(ConnId {
                    index: index as u32,
                    generation: place.generation,
                });
            }
        }
    }

    /// Pumps every connection that something happened to, and forgets those that are over.
    fn pump_all(&mut self, now: Instant) {
        while let Some(id) = self.dirty.pop() {
            let Some(place) = self.connections.get_mut(id.index as usize) else {
                continue;
            };
            let Some((group_id, connection)) = &mut place.connection else {
                continue;
            };
            if place.generation != id.generation {
                continue;
            }
            let group_id = *group_id;
            let Some(group) = self.groups.get_mut(&group_id) else {
                continue;
            };
            let pumped = match group.sending() {
                Some((link, posts)) => {
                    let cdc_sent = &mut self.cdc_sent;
                    connection.pump(link, now, &mut |posted| {
                        *cdc_sent += 1;
                        posts.push(Some(id), posted.up_to)
                    })
                }
                None => connection.idle(now),
            };
            match pumped {
                Ok(Pumped::Idle) => {}
                Ok(Pumped::NoRoom) if group.blocked.contains(&id) => {}
                Ok(Pumped::NoRoom) => group.blocked.push(id),
                Err(errno) => {
                    log::debug!("group {group_id}: post failed: {errno}");
                    self.end_group(group_id, Errno::CONNRESET, Reason::LinkLost, now);
                }
            }
            self.reap(id, now);
        }
    }

    /// Frees what a connection held, if both ends are done with it.
    fn reap(&mut self, id: ConnId, now: Instant) {
        let place = &mut self.connections[id.index as usize];
        let groups = &self.groups;
        let over = place.connection.take_if(|(group, connection)| {
            connection.is_over(groups.get(group).is_none_or(Group::is_unlinked))
        });
        let Some((group_id, connection)) = over else {
            return;
        };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index);
        self.publish();
        connection.app().arena().give_back(connection.app());
        if let Some(group) = self.groups.get_mut(&group_id) {
            group.tokens.remove(&connection.token);
            group.rmbs.give_back(&connection.rmbe);
            self.ports[group.port]
                .send_buffers
                .give_back(&connection.send_buffer);
            if group.tokens.is_empty() {
                group.became_idle(now);
            }
        }
    }

    /// Deadlines: connections that close, groups that are idle or wait for an answer.
    pub(super) fn timeouts(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            let place = &mut self.connections[index];
            if let Some((_, connection)) = &mut place.connection
                && connection.timed_out(now)
            {
                self.dirty.push(ConnId {
                    index: index as u32,
                    generation: place.generation,
                });
            }
        }
        let ids: Vec<u32> = self.groups.keys().copied().collect();
        for id in ids {
            if let Some(group) = self.groups.get_mut(&id) {
                let was_unlinked = group.is_unlinked();
                group.timeout(now);
                if group.is_unlinked() && !was_unlinked {
                    // What its connections sent from is free now.
                    self.touch_all(id);
                }
                self.after_llc(id, now);
            }
        }
        self.pump_all(now);
        self.forget_groups();
    }

    /// Has all connections of a group looked at.
    fn touch_all(&mut self, group: u32) {
        for (index, place) in self.connections.iter().enumerate() {
            if place
                .connection
                .as_ref()
                .is_some_and(|(of, _)| *of == group)
            {
                self.dirty.push(ConnId {
                    index: index as u32,
                    generation: place.generation,
                });
            }
        }
    }

    /// The next deadline.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let connections = self.connections.iter();
        let of_connections =
            connections.filter_map(|place| place.connection.as_ref()?.1.deadline());
        let of_groups = self.groups.values().filter_map(Group::next_timeout);
        of_connections.chain(of_groups).min()
    }

    /// Groups that ended and have no connection any more; ports that are gone.
    fn forget_groups(&mut self) {
        self.forget_ports();
        let Self { groups, ports, .. } = self;
        groups.retain(|_, group| {
            let over = group.is_over();
            if over {
                ports[group.port].links.retain(|_, id| *id != group.id);
            }
            !over
        });
    }

    /// What the LLC machine of a group wants done.
    fn after_llc(&mut self, id: u32, now: Instant) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        if let Some((errno, reason)) = group.run_llc(now, &mut self.news) {
            self.end_group(id, errno, reason, now);
        }
    }

    /// Brings the statistics up to date, if that was not done lately.
    pub(super) fn publish_now_and_then(&mut self, now: Instant) {
        let is_due = |at: Instant| now.saturating_duration_since(at) >= PUBLISH_EVERY;
        if self.published_at.is_none_or(is_due) {
            self.published_at = Some(now);
            self.publish();
        }
    }

    fn publish(&mut self) {
        let mut now = Counts::default();
        for open in &self.ports {
            let Some(port) = &open.port else { continue };
            let counts = port.counts();
            now.writes += counts.writes;
            now.sends += counts.sends;
            now.doorbells += counts.doorbells;
        }
        let before = std::mem::replace(&mut self.published, now);
        for (counter, now, before) in [
            (Counter::RdmaWrites, now.writes, before.writes),
            (Counter::RdmaSends, now.sends, before.sends),
            (Counter::RdmaDoorbells, now.doorbells, before.doorbells),
            (Counter::CdcSent, std::mem::take(&mut self.cdc_sent), 0),
        ] {
            if now > before {
                PUBLISHER.count_by(counter, now - before);
            }
        }
    }

    /// Events of the ports.
    pub(super) fn port_events(&mut self, now: Instant) {
        for place in 0..self.ports.len() {
            let Some(port) = self.ports[place].port.clone() else {
                continue;
            };
            while let Some(event) = port.event() {
                log::debug!("{}: {event:?}", port.name());
                match event {
                    // A cable that is out may be back before anybody misses it, as with TCP. Links
                    // over which something is to go fail by themselves.
                    PortEvent::Up | PortEvent::Down => {}
                    PortEvent::LinkFailed(link) => {
                        if let Some(&group) = self.ports[place].links.get(&link) {
                            self.end_group(group, Errno::CONNRESET, Reason::LinkLost, now);
                        }
                    }
                    PortEvent::Gone => self.port_gone(place, now),
                }
            }
        }
    }

    /// Looks whether ports are to go: not every kernel tells.
    pub(super) fn look_for_ports(&mut self, now: Instant) {
        for place in 0..self.ports.len() {
            if let Some(port) = &self.ports[place].port
                && !port.is_gone()
                && port.is_removed()
            {
                log::debug!("{}: removed", port.name());
                self.port_gone(place, now);
            }
        }
    }

    /// The groups of a port end. Where it still works, their peers are told.
    fn port_gone(&mut self, place: usize, now: Instant) {
        let groups: Vec<u32> = self.ports[place].links.values().copied().collect();
        for id in groups {
            if let Some(group) = self.groups.get_mut(&id) {
                group.close(now);
            }
            self.after_llc(id, now);
            self.end_group(id, Errno::CONNRESET, Reason::LinkLost, now);
        }
    }

    /// Lets go of ports that are gone: as long as anything of theirs is held, `rdma link del` may
    /// wait, and a device that comes back is another one.
    fn forget_ports(&mut self) {
        for (place, open) in self.ports.iter_mut().enumerate() {
            let of_port = |group: &Group| group.port == place;
            if !open.port.as_ref().is_some_and(|port| port.is_gone())
                || self.groups.values().any(|g| of_port(g) && g.has_link())
            {
                continue;
            }
            for group in self.groups.values_mut().filter(|group| of_port(group)) {
                group.rmbs.lose_port();
            }
            open.send_buffers.lose_port();
            open.port = None;
        }
    }

    /// The ports, by their places; `None` where one is gone.
    pub(super) fn ports(&self) -> Vec<Option<Arc<dyn Port>>> {
        self.ports.iter().map(|open| open.port.clone()).collect()
    }

    /// Has the thread watch the end of a connection.
    pub(super) fn watch(&mut self, id: ConnId) {
        self.to_watch.push(id);
    }

    /// Whether there is something that only the thread can do.
    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty() || !self.to_watch.is_empty()
    }

    /// Takes what only the thread can do: what handshakes have to hear, ends to be watched.
    pub(super) fn take_news(&mut self) -> (Vec<News>, Vec<ConnId>) {
        (
            std::mem::take(&mut self.news),
            std::mem::take(&mut self.to_watch),
        )
    }

    /// The TCP connection of that connection ended: is its peer still there?
    pub(super) fn tcp_ended(&mut self, id: ConnId, now: Instant) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.tcp_ended();
        let group = self.connections[id.index as usize].connection.as_ref();
        let Some(&(group, _)) = group else { return };
        if let Some(group) = self.groups.get_mut(&group) {
            group.test(now);
        }
        self.after_llc(group, now);
    }

    /// The process ends, or (with `close` off) only its image. Returns whether there is anything
    /// left to deliver.
    pub(super) fn finish(&mut self, close: bool, now: Instant) -> bool {
        let mut has_work = false;
        for (index, place) in self.connections.iter_mut().enumerate() {
            let Some((_, connection)) = &mut place.connection else {
                continue;
            };
            if close {
                connection.process_ends();
            }
            self.dirty.push(ConnId {
                index: index as u32,
                generation: place.generation,
            });
            has_work |= connection.has_work();
        }
        self.pump_all(now);
        has_work
    }

    /// Tells the peers that all groups end.
    pub(super) fn close_groups(&mut self, now: Instant) {
        let ids: Vec<u32> = self.groups.keys().copied().collect();
        for id in ids {
            if let Some(group) = self.groups.get_mut(&id) {
                group.close(now);
            }
            self.after_llc(id, now);
        }
    }

    /// Another process rang for this connection.
    pub(super) fn answer_bell(&mut self, id: ConnId) {
        if let Some(connection) = self.connection(id) {
            connection.answer_bell();
            self.dirty.push(id);
        }
    }
}

fn memory(errno: Errno) -> Reason {
    log::debug!("memory for RDMA: {errno}");
    Reason::Memory
}

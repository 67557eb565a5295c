//! What the wire of a process consists of: ports, link groups, connections. Everything here
//! happens under the one lock of [`super::Rdma`].

mod contact;
mod ports;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::connection::{Connection, Posted, Pumped};
use super::fabric::{Completion, Counts, LinkError, LinkId, Port};
use super::group::{Group, Target};
use super::handle::{ConnId, Kicked};
use crate::Reason;
use crate::cdc::Cdc;
use crate::engine::PUBLISHER;
use crate::stat::Counter;
pub(crate) use contact::{Established, Prepared};

/// Groups without connections that are kept for the next one. Those of peers that end go by
/// themselves; a hostile one may have any number.
const IDLE_GROUPS: usize = 64;

/// How old the statistics of the ports may be.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

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
    /// No deadline of a connection or a group is before this: looking at all of them for each
    /// message would take long where they are many.
    due: Option<Instant>,
    /// What the handshakes have to hear; taken by the thread.
    news: Vec<News>,
    /// Ends that the thread has to watch: other processes ring there.
    to_watch: Vec<ConnId>,
    /// What the statistics know of the ports' work.
    published: Counts,
    published_at: Option<Instant>,
    /// CDC messages that the statistics do not know of.
    cdc_sent: u64,
    /// Bytes that the process may have in rings, all together.
    max_memory: u64,
}

#[derive(Debug)]
struct OpenPort {
    /// `None`: it is gone. Its place is not used again.
    port: Option<Arc<dyn Port>>,
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

impl State {
    /// Without ports. `max_memory`: bytes that the process may have in rings, all together.
    pub(super) fn new(max_memory: u64) -> Self {
        Self {
            max_memory,
            ..Self::default()
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
        self.due = earlier(self.due, group.next_timeout());
        self.news.push(News::Ended(id, reason));
        let mut is_felt = false;
        for index in 0..self.connections.len() {
            let place = &mut self.connections[index];
            if let Some((of, connection)) = &mut place.connection
                && *of == id
            {
                is_felt |= connection.is_open();
                connection.link_lost(errno, now);
                self.dirty.push(ConnId {
                    index: index as u32,
                    generation: place.generation,
                });
            }
        }
        if is_felt {
            PUBLISHER.fallback(reason);
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
            let deadline = connection.deadline();
            self.due = earlier(self.due, deadline);
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
            let (rmbe, send_buffer) = (&connection.rmbe, &connection.send_buffer);
            group.memory.give_back(rmbe, send_buffer);
            if group.tokens.is_empty() {
                group.became_idle(now);
                self.due = earlier(self.due, group.next_timeout());
            }
        }
    }

    /// Deadlines: connections that close, groups that are idle or wait for an answer.
    pub(super) fn timeouts(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.look_at_deadlines(now);
        }
        if self.groups.len() > IDLE_GROUPS {
            self.end_spare_groups(now);
        }
        self.forget_groups();
    }

    fn look_at_deadlines(&mut self, now: Instant) {
        for index in 0..self.connections.len() {
            let place = &mut self.connections[index];
            if let Some((group, connection)) = &mut place.connection
                && let is_alive = self.groups.get(group).is_some_and(Group::is_ready)
                && connection.timed_out(now, is_alive)
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
        self.due = self.first_deadline();
    }

    /// Ends those idle groups that are too many: the ones that were so for longest.
    fn end_spare_groups(&mut self, now: Instant) {
        let idle = self.groups.values();
        let mut idle: Vec<_> = idle
            .filter_map(|group| Some((group.idle_since()?, group.id)))
            .collect();
        let spare = idle.len().saturating_sub(IDLE_GROUPS);
        idle.sort_unstable();
        for (_, id) in idle.drain(..spare) {
            if let Some(group) = self.groups.get_mut(&id) {
                group.close(now);
            }
            self.after_llc(id, now);
        }
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

    /// When [`Self::timeouts`] has to be called: at the next deadline, or before.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        debug_assert!(
            self.first_deadline()
                .is_none_or(|first| self.due.is_some_and(|due| due <= first)),
            "a deadline that nobody noted"
        );
        self.due
    }

    fn first_deadline(&self) -> Option<Instant> {
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
        let over = group.run_llc(now, &mut self.news);
        for rkey in std::mem::take(&mut group.deleted) {
            self.given_up(id, |connection| connection.writes_by(rkey), now);
        }
        if let Some((errno, reason)) = over {
            self.end_group(id, errno, reason, now);
        }
        let deadline = self.groups.get(&id).and_then(Group::next_timeout);
        self.due = earlier(self.due, deadline);
    }

    /// The peer has other plans with the memory that some of its connections write to.
    fn given_up(&mut self, group: u32, which: impl Fn(&Connection) -> bool, now: Instant) {
        for (index, place) in self.connections.iter_mut().enumerate() {
            if let Some((of, connection)) = &mut place.connection
                && *of == group
                && which(connection)
            {
                log::debug!("group {group}: the peer gave up a connection whose RMBE it reuses");
                PUBLISHER.fallback(Reason::RmbeReused);
                connection.given_up(now);
                self.dirty.push(ConnId {
                    index: index as u32,
                    generation: place.generation,
                });
            }
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
            connection.ask_for_delivery();
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

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

fn memory(errno: Errno) -> Reason {
    log::debug!("memory for RDMA: {errno}");
    Reason::Memory
}

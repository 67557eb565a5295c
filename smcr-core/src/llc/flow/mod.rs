//! The LLC exchanges of one link group (RFC 7609 §3.3, §3.5, §C.7) as a state machine without I/O and
//! without a clock.
//!
//! ```text
//! client                                     server
//!   Event::Activate ◀──── CONFIRM LINK ─────── Group::new()
//!   activated() ───────── response ──────────▶ Event::LinkConfirmed
//!   Event::LinkConfirmed
//!   (no second link) ◀─── ADD LINK ───────────
//!   Event::Settled ────── rejection ─────────▶ Event::Settled
//!
//! either                                     the other
//!   confirm_rkey() ────── CONFIRM RKEY ──────▶ Event::PeerAddedRmb
//!   Event::RmbConfirmed ◀ response ───────────
//!   (idle) ────────────── TEST LINK ─────────▶
//!   Event::LinkTested ◀── response ───────────
//!   delete_rkey() ─────── DELETE RKEY ───────▶ Event::PeerDeletedRmb
//!   Event::RmbDeleted ◀── response ───────────
//!   end() ─────────────── DELETE LINK (all) ─▶ Event::Ended
//!   Event::Ended ◀─────── DELETE LINK (all) ──
//! ```
//!
//! # How to drive one
//!
//! 1. Make it when the queue pair of the first link is ready: the server when it is ready to send,
//!    the client when it is ready to receive, before it sends its Confirm.
//! 2. Hand what comes over a link to [`handle_message`](Group::handle_message), and tell of every
//!    other sign of life (a CDC message) by [`handle_activity`](Group::handle_activity).
//! 3. Call [`handle_timeout`](Group::handle_timeout) when [`poll_timeout`](Group::poll_timeout) has
//!    come, and [`link_failed`](Group::link_failed) when a send failed or the port went down (RFC
//!    7609 §C.7.1: as good as a time-out).
//! 4. After each of these and of the other calls that take `&mut self`, carry out what
//!    [`poll_event`](Group::poll_event) gives, and send what [`poll_transmit`](Group::poll_transmit)
//!    gives. A link that an event takes away may have a last message to send.
//!
//! # What it holds
//!
//! One link can be made. Table, numbers and the exchanges that concern links that exist are written
//! for [`MAX_LINKS`]; a client rejects every ADD LINK, and a server sends one only to spare a Linux
//! client its wait for it.
//!
//! Whatever the peer sends, memory is bounded: [`MAX_PEER_RMBS`], [`MAX_QUEUED`] messages, one
//! exchange of each kind. What does not fit the state is dropped and counted
//! ([`Event::Violation`]), as Linux does; [`Config::strict`] takes the link down as RFC 7609 §C.7.1
//! has it.

mod config;
mod delete;
mod event;
mod links;
mod peer;
mod receive;
mod rkeys;
mod time;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Instant;

pub use config::{Config, LinkConfig, Role, Timeouts};
pub use event::{EndReason, Event, LinkFailure, RmbDeletion, Violation};
pub use peer::{MAX_PEER_RMBS, PeerRmbError};
pub use rkeys::MAX_OWN_JOBS;

use super::{DeleteReason, LinkNumber, LinkRtoken, Llc, Rtoken};
use crate::cdc::EyeCatcher;
use crate::clc::Version;
use links::{Exchange, Link, PendingDelete};
use peer::PeerRmbs;
use rkeys::OwnRmbs;

/// Most links of a group: eight symmetric ones and an asymmetric one (RFC 7609 §2.2.2).
pub const MAX_LINKS: usize = 9;

/// Most messages that wait to be sent. A peer that asks faster than it takes the answers loses the
/// link.
pub const MAX_QUEUED: usize = 64;

/// A link, by the name that its owner gave to it; never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// An RMB of ours, by the name that its owner gave to it; never on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RmbId(pub u32);

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Over this link.
    pub link: LinkId,
    /// 44 bytes, or up to [`MAX_LEN`](super::MAX_LEN) in a group of version 2.
    pub bytes: Vec<u8>,
}

/// A call that cannot be obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CallError {
    /// The group has ended.
    Ended,
    /// No such link, or not in the right state.
    Link,
    /// The RMB is not reached over any link of the group.
    Rtokens,
    /// [`MAX_OWN_JOBS`] wait already.
    Busy,
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "the link group has ended",
            Self::Link => "no such link, or not in the right state",
            Self::Rtokens => "the RMB is not reached over any link of the group",
            Self::Busy => "too many RMBs wait to be confirmed or deleted",
        })
    }
}

impl std::error::Error for CallError {}

/// One link group.
#[derive(Debug)]
pub struct Group {
    config: Config,
    links: Vec<Link>,
    /// Server: the number that was given last.
    last_number: LinkNumber,
    /// The most links that both want (RFC 7609 §2.2.2).
    max_links: u8,
    /// What the first CONFIRM LINK exchange came to.
    eye_catcher: Option<EyeCatcher>,
    /// What changes the links, one at a time (RFC 7609 §3.5.5.3).
    exchange: Option<Exchange>,
    /// The first contact is not through.
    settling: bool,
    /// Server: links that have to go as soon as nothing else runs.
    deletes: VecDeque<PendingDelete>,
    own: OwnRmbs,
    peer: PeerRmbs,
    transmit: VecDeque<Transmit>,
    events: VecDeque<Event>,
    violations: u64,
    ended: bool,
}

impl Group {
    /// A group whose first link is `link`. The server's CONFIRM LINK is due at once; the client
    /// waits for it.
    pub fn new(config: Config, link: LinkConfig, now: Instant) -> Self {
        let mut group = Self {
            links: Vec::with_capacity(1),
            last_number: LinkNumber(0),
            max_links: config.max_links,
            eye_catcher: None,
            exchange: None,
            settling: true,
            deletes: VecDeque::new(),
            own: OwnRmbs::default(),
            peer: PeerRmbs::default(),
            transmit: VecDeque::new(),
            events: VecDeque::new(),
            violations: 0,
            ended: false,
            config,
        };
        group.begin(link, now);
        group
    }

    /// Takes a message that came over `link`.
    pub fn handle_message(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        if self.ended || self.link(link).is_none() {
            return; // crossed with the end
        }
        self.handle_activity(now, link);
        match Llc::parse(bytes) {
            Ok((version, message)) => self.receive(now, link, version, message),
            Err(error) => self.violation(now, link, Violation::Malformed(error)),
        }
        self.start_next(now);
    }

    /// Something else came over `link`: the peer is alive.
    pub fn handle_activity(&mut self, now: Instant, link: LinkId) {
        if let Some(link) = self.link_mut(link) {
            link.heard = link.heard.max(now);
        }
    }

    /// The peer's adapter acknowledged something that was sent over `link`: it is there, and so is
    /// the peer's process, which may be stopped and not answer.
    pub fn handle_delivery(&mut self, link: LinkId) {
        if let Some(test) = self.link_mut(link).and_then(|link| link.test.as_mut()) {
            test.delivered = true;
        }
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.timeouts(now);
        self.start_next(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do. Ask again after every call
    /// that takes `&mut self`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_deadline()
    }

    /// The next message to send, in order.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmit.pop_front()
    }

    /// What the owner has to know or do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Client, after [`Event::Activate`]: the queue pair is ready to send.
    ///
    /// # Errors
    /// [`CallError::Link`] if that was not asked for.
    pub fn activated(&mut self, now: Instant, link: LinkId) -> Result<(), CallError> {
        self.check_running()?;
        self.activate(now, link)?;
        self.start_next(now);
        Ok(())
    }

    /// A send over `link` failed, or its port or queue pair did.
    pub fn link_failed(&mut self, now: Instant, link: LinkId) {
        self.fail(now, link, LinkFailure::Reported);
        self.start_next(now);
    }

    /// Takes one link down, in order: connections that use it have moved. The server tells the
    /// client, the client asks the server.
    ///
    /// # Errors
    /// [`CallError::Link`] if there is no such link.
    pub fn delete_link(
        &mut self,
        now: Instant,
        link: LinkId,
        reason: DeleteReason,
    ) -> Result<(), CallError> {
        self.check_running()?;
        self.ask_to_delete(now, link, reason)?;
        self.start_next(now);
        Ok(())
    }

    /// Ends the group, for `reason`. The server's DELETE LINK is its last word. The client asks for
    /// it and waits a little.
    ///
    /// # Errors
    /// [`CallError::Ended`].
    pub fn end(&mut self, now: Instant, reason: DeleteReason) -> Result<(), CallError> {
        self.check_running()?;
        self.end_by_us(now, reason);
        Ok(())
    }

    /// Tells the peer of a new RMB, and how it is reached over each link of the group. No Accept or
    /// Confirm may name it before [`Event::RmbConfirmed`] (RFC 7609 §3.5.5.2.1).
    ///
    /// # Errors
    /// [`CallError::Rtokens`] if a link is missing in `rtokens`, [`CallError::Busy`].
    pub fn confirm_rkey(
        &mut self,
        now: Instant,
        rmb: RmbId,
        rtokens: &[(LinkId, Rtoken)],
    ) -> Result<(), CallError> {
        self.check_running()?;
        self.queue_confirm(rmb, rtokens)?;
        self.start_next(now);
        Ok(())
    }

    /// Tells the peer that an RMB is not used any more. Its memory may go at [`Event::RmbDeleted`]
    /// (RFC 7609 §3.5.5.2.2).
    ///
    /// # Errors
    /// As [`confirm_rkey`](Self::confirm_rkey).
    pub fn delete_rkey(
        &mut self,
        now: Instant,
        rmb: RmbId,
        rtokens: &[(LinkId, Rtoken)],
    ) -> Result<(), CallError> {
        self.check_running()?;
        self.queue_delete(rmb, rtokens)?;
        self.start_next(now);
        Ok(())
    }

    /// The peer's Accept or Confirm named an RMB. Nothing happens if it is known.
    ///
    /// # Errors
    /// The RMB cannot be the group's; the connection has to be declined.
    pub fn add_peer_rmb(&mut self, link: LinkId, rtoken: Rtoken) -> Result<(), PeerRmbError> {
        self.peer.add(&[(link, rtoken)]).map(drop)
    }

    /// Is that an RMB of the peer?
    pub fn knows_peer_rmb(&self, link: LinkId, rtoken: Rtoken) -> bool {
        self.peer.knows(link, rtoken)
    }

    /// How many RMBs of the peer the group has, at most [`MAX_PEER_RMBS`].
    pub fn peer_rmbs(&self) -> usize {
        self.peer.len()
    }

    /// Asks whether the peer is there, without waiting for the link to be idle for long. Nothing
    /// happens while a question is open.
    ///
    /// # Errors
    /// [`CallError::Link`] unless the link is confirmed.
    pub fn test_link(&mut self, now: Instant, link: LinkId) -> Result<(), CallError> {
        self.check_running()?;
        self.start_test(now, link)
    }

    /// The links that can carry data, with their numbers.
    pub fn active_links(&self) -> impl Iterator<Item = (LinkId, LinkNumber)> {
        let active = self.links.iter().filter(|link| link.is_active());
        active.map(|link| (link.id, link.number))
    }

    /// Is nothing under way that changes the links?
    pub const fn is_settled(&self) -> bool {
        !self.settling && self.exchange.is_none()
    }

    /// Has the group ended? Nothing but what [`poll_transmit`](Self::poll_transmit) and
    /// [`poll_event`](Self::poll_event) still have comes from it then.
    pub const fn is_ended(&self) -> bool {
        self.ended
    }

    /// The most links that both ends want.
    pub const fn max_links(&self) -> u8 {
        self.max_links
    }

    /// How many messages were dropped because they did not fit.
    pub const fn violations(&self) -> u64 {
        self.violations
    }

    const fn check_running(&self) -> Result<(), CallError> {
        if self.ended {
            Err(CallError::Ended)
        } else {
            Ok(())
        }
    }

    fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.iter().find(|link| link.id == id)
    }

    fn link_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.iter_mut().find(|link| link.id == id)
    }

    fn numbered(&self, number: LinkNumber) -> Option<&Link> {
        self.links
            .iter()
            .find(|link| link.number == number && link.has_number())
    }

    /// The link for what may take any.
    fn any_active(&self) -> Option<LinkId> {
        self.active_links().map(|(id, _)| id).next()
    }

    /// Queues a message of ours.
    fn send(&mut self, now: Instant, link: LinkId, message: &Llc) {
        self.send_as(now, link, self.config.version, message);
    }

    /// Queues an answer in the form of the question.
    fn send_as(&mut self, now: Instant, link: LinkId, version: Version, message: &Llc) {
        if self.transmit.len() >= MAX_QUEUED {
            return self.fail(now, link, LinkFailure::Flood);
        }
        self.transmit.push_back(Transmit {
            link,
            bytes: message.emit(version),
        });
    }

    /// The peer sent something that it should not have sent.
    fn violation(&mut self, now: Instant, link: LinkId, violation: Violation) {
        self.violations += 1;
        self.events.push_back(Event::Violation { link, violation });
        if self.config.strict && violation.takes_link_down() {
            self.fail(now, link, LinkFailure::Violation(violation));
        }
    }

    fn finish(&mut self, reason: EndReason) {
        if !self.ended {
            self.ended = true;
            self.links.clear();
            self.exchange = None;
            self.deletes.clear();
            self.own = OwnRmbs::default();
            self.events.push_back(Event::Ended { reason });
        }
    }

    /// Starts what waits for its turn.
    fn start_next(&mut self, now: Instant) {
        if self.ended || self.settling || self.exchange.is_some() {
            return;
        }
        self.start_delete(now);
        self.start_own(now);
    }
}

//! A link group (RFC 7609 §2.2): one link, the RMBs that the peer writes to, and the connections
//! that share them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::buffers::{Element, Pools};
use super::fabric::{Link, LinkAddress, LinkId};
use super::handle::ConnId;
use super::state::News;
use crate::Reason;
use crate::cdc::{Cdc, CdcMessage, EyeCatcher};
use crate::clc::{Gid, PeerId, QpNumber, Rkey, Token, Version};
use crate::engine::PUBLISHER;
use crate::handshake::rdma::Settled;
use crate::llc::flow::{self, EndReason, Event, LinkFailure, RmbId};
use crate::llc::{DeleteReason, LinkEnd, LinkUserId, Rtoken};
use crate::stat::Role;

/// How many CDC messages of one connection are kept that overtake its Confirm (RFC 7609 §3.5.2.4).
/// Each says all that those before it said.
const EARLY: usize = 16;

/// How long a group is kept without connections, in the hope of another one: as long as Linux
/// keeps its own (600 s at the server, 610 s at the client).
const IDLE_SERVER: Duration = Duration::from_secs(600);
const IDLE_CLIENT: Duration = Duration::from_secs(610);

/// How long the queue pair stays for the last words of a group that ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The only link, as the LLC machine calls it.
const LINK: flow::LinkId = flow::LinkId(0);

/// What makes two connections share a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupKey {
    /// As the peer's CLC messages have it; zero from Linux clients of version 2.
    pub(crate) peer: PeerId,
    /// The peer's end of the link.
    pub(crate) gid: Gid,
    pub(crate) role: Role,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) id: u32,
    /// Its port's place among those that are open.
    pub(super) port: usize,
    key: GroupKey,
    settled: Settled,
    link: Option<Box<dyn Link>>,
    link_id: LinkId,
    /// The peer's end of it, once it is connected.
    peer_end: Option<LinkAddress>,
    llc: Option<flow::Group>,
    pub(super) memory: Pools,
    /// Of the RMBEs at both ends: what we want until CONFIRM LINK, and then what both agreed on.
    pub(super) eye_catcher: EyeCatcher,
    pub(super) posts: Posts,
    pub(super) tokens: HashMap<Token, Target>,
    next_token: u32,
    /// Connections that wait for room on the link.
    pub(super) blocked: Vec<ConnId>,
    /// First contact is over: other connections may join.
    ready: bool,
    /// Since when there has been no connection.
    idle_since: Option<Instant>,
    /// It is over; its queue pair goes then.
    ended: Option<Instant>,
    /// The number of our first LLC message, while nobody knows whether it arrived.
    first_llc: Option<u64>,
    /// It did.
    first_arrived: bool,
    /// Keys that the peer took back, and whose connections do not know it yet.
    pub(super) deleted: Vec<Rkey>,
}

/// Where CDC messages with some token go.
#[derive(Debug)]
pub(super) enum Target {
    /// The peer may have learnt the token already, but its Confirm was not processed.
    Early(Vec<CdcMessage>),
    Live(ConnId),
}

impl Target {
    /// Keeps a message for later.
    pub(super) fn keep(&mut self, cdc: Cdc) {
        if let (Self::Early(kept), Cdc::Message(message)) = (self, cdc) {
            if kept.len() == EARLY {
                kept.remove(0);
            }
            kept.push(message);
        }
    }
}

/// What was posted and is not completed, in order.
#[derive(Debug, Default)]
pub(super) struct Posts {
    next: u64,
    open: VecDeque<(u64, Option<ConnId>, u64)>,
}

impl Posts {
    /// Numbers a post: of a connection, up to there in its stream; or (`None`) of an LLC message.
    pub(super) fn push(&mut self, connection: Option<ConnId>, up_to: u64) -> u64 {
        self.next += 1;
        self.open.push_back((self.next, connection, up_to));
        self.next
    }

    /// How many there are.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// The oldest one, if it is not newer than `number`.
    pub(super) fn completed(&mut self, number: u64) -> Option<(u64, Option<ConnId>, u64)> {
        self.open.pop_front_if(|(oldest, ..)| *oldest <= number)
    }
}

impl Group {
    pub(super) fn new(
        id: u32,
        port: usize,
        key: GroupKey,
        settled: Settled,
        link: Box<dyn Link>,
        memory: Pools,
        first_token: u32,
    ) -> Self {
        Self {
            id,
            port,
            key,
            settled,
            link_id: link.id(),
            link: Some(link),
            peer_end: None,
            llc: None,
            memory,
            eye_catcher: EyeCatcher::None,
            posts: Posts::default(),
            tokens: HashMap::new(),
            next_token: first_token,
            blocked: Vec::new(),
            ready: false,
            idle_since: None,
            ended: None,
            first_llc: None,
            first_arrived: false,
            deleted: Vec::new(),
        }
    }

    /// Whether its queue pair still is.
    pub(super) fn has_link(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn link_id(&self) -> LinkId {
        self.link_id
    }

    /// Our end of the link, until it is over.
    pub(super) fn address(&self) -> Option<LinkAddress> {
        self.link.as_ref().map(|link| link.address())
    }

    /// Connections may use it, also further ones.
    pub(super) fn is_ready(&self) -> bool {
        self.ready && self.ended.is_none()
    }

    /// First contact is under way.
    pub(super) fn is_starting(&self) -> bool {
        !self.ready && self.ended.is_none()
    }

    pub(super) fn serves(&self, key: &GroupKey) -> bool {
        self.key == *key
    }

    /// Whether the link ends at that queue pair of the peer.
    pub(super) fn is_linked_to(&self, gid: Gid, qpn: QpNumber) -> bool {
        let is = |end: LinkAddress| (end.gid, end.qpn) == (gid, qpn);
        self.peer_end.is_some_and(is)
    }

    /// Whether one more connection may join.
    pub(super) fn has_room(&self) -> bool {
        let most = self
            .settled
            .limits
            .map_or(u8::MAX, |limits| limits.max_conns);
        self.tokens.len() < usize::from(most)
    }

    /// A name for a connection that is in nobody's use (RFC 7609 §A.2.3).
    pub(super) fn new_token(&mut self) -> Token {
        loop {
            self.next_token = self.next_token.wrapping_add(1);
            let token = Token(self.next_token);
            if token.0 != 0 && !self.tokens.contains_key(&token) {
                self.tokens.insert(token, Target::Early(Vec::new()));
                self.idle_since = None;
                return token;
            }
        }
    }

    /// First contact: the peer's end of the link is known.
    ///
    /// # Errors
    /// It cannot be reached.
    pub(super) fn connect(&mut self, peer: &LinkAddress, now: Instant) -> Result<(), Errno> {
        let link = self.link.as_mut().ok_or(Errno::NOTCONN)?;
        link.connect(peer)?;
        if self.key.role == Role::Server {
            link.ready_to_send()?;
        }
        self.peer_end = Some(*peer);
        let limits = self.settled.limits;
        let config = flow::Config {
            role: match self.key.role {
                Role::Client => flow::Role::Client,
                Role::Server => flow::Role::Server,
            },
            version: self.settled.version,
            max_links: limits.map_or(2, |limits| limits.max_links),
            max_conns: limits.map_or(0, |limits| limits.max_conns),
            add_link_follows: limits.is_none_or(|limits| limits.max_links > 1),
            eye_catcher: self.eye_catcher,
            strict: false,
            timeouts: flow::Timeouts::default(),
        };
        let link = flow::LinkConfig {
            id: LINK,
            user_id: LinkUserId(self.id << 8 | 1),
            local: end(&link.address()),
            peer: end(peer),
        };
        self.llc = Some(flow::Group::new(config, link, now));
        Ok(())
    }

    /// Where posts go, while the link works.
    pub(super) fn sending(&mut self) -> Option<(&mut dyn Link, &mut Posts)> {
        if self.ended.is_some() {
            return None;
        }
        let link = self.link.as_deref_mut()?;
        Some((link, &mut self.posts))
    }

    pub(super) fn received_llc(&mut self, message: &[u8], now: Instant) {
        if let Some(llc) = &mut self.llc {
            llc.handle_message(now, LINK, message);
        }
    }

    /// Something else came: the peer is there.
    pub(super) fn heard(&mut self, now: Instant) {
        if let Some(llc) = &mut self.llc {
            llc.handle_activity(now, LINK);
        }
    }

    /// The peer's adapter acknowledged something.
    pub(super) fn delivered(&mut self) {
        if let Some(llc) = &mut self.llc {
            llc.handle_delivery(LINK);
        }
    }

    /// Asks whether the peer is there.
    pub(super) fn test(&mut self, now: Instant) {
        if let Some(llc) = &mut self.llc {
            let _ = llc.test_link(now, LINK);
        }
    }

    /// Tells the peer of the RMB of `element`, unless it knows. False if it does.
    pub(super) fn tell_rmb(&mut self, element: &Element, now: Instant) -> Result<bool, Reason> {
        if self.memory.rmbs.is_known(element) {
            return Ok(false);
        }
        if !self.memory.rmbs.start_telling(element) {
            // Another connection asked already.
            return Ok(true);
        }
        let rtoken = Rtoken {
            rkey: element.rkey,
            address: element.address,
        };
        let llc = self.llc.as_mut().ok_or(Reason::LinkFailed)?;
        llc.confirm_rkey(now, RmbId(element.buffer), &[(LINK, rtoken)])
            .map(|()| true)
            .map_err(|error| {
                log::debug!("CONFIRM RKEY: {error}");
                Reason::Registration
            })
    }

    /// A post of ours that was an LLC message is completed.
    pub(super) fn llc_arrived(&mut self, number: u64, news: &mut Vec<News>) {
        if self.first_llc.is_some_and(|first| first <= number) {
            self.first_llc = None;
            self.first_arrived = true;
            news.push(News::ConfirmLinkSent(self.id));
            if self.ready {
                news.push(News::Ready(self.id));
            }
        }
    }

    /// Does what the LLC machine wants. `Some`: the group is over, and what that means to the
    /// program's calls and to handshakes.
    pub(super) fn run_llc(
        &mut self,
        now: Instant,
        news: &mut Vec<News>,
    ) -> Option<(Errno, Reason)> {
        let id = self.id;
        let mut over = None;
        let llc = self.llc.as_mut()?;
        while let Some(event) = llc.poll_event() {
            log::trace!("group {id}: {event:?}");
            match event {
                Event::Activate { link } => {
                    let ready = self.link.as_mut().map(|link| link.ready_to_send());
                    if ready != Some(Ok(())) || llc.activated(now, link).is_err() {
                        over = Some((Errno::CONNRESET, Reason::LinkFailed));
                    }
                }
                Event::LinkConfirmed { eye_catcher, .. } => self.eye_catcher = eye_catcher,
                Event::Settled => {
                    self.ready = true;
                    // Its first connection may go back to TCP until our part of the exchange has
                    // arrived (RFC 7609 §C.2). The peer may have more of them use it before.
                    if self.first_arrived {
                        news.push(News::Ready(id));
                    }
                }
                Event::RmbConfirmed { rmb } => {
                    self.memory.rmbs.told(rmb.0, true);
                    news.push(News::RkeyAnswered(id, rmb.0, true));
                }
                Event::RmbRefused { rmb } => {
                    self.memory.rmbs.told(rmb.0, false);
                    news.push(News::RkeyAnswered(id, rmb.0, false));
                }
                Event::PeerDeletedRmb { rtokens } => {
                    self.deleted
                        .extend(rtokens.iter().map(|(_, token)| token.rkey));
                }
                Event::LinkFailed { reason, .. } => {
                    log::debug!("group {id}: {reason}");
                    over = Some(failure(reason));
                }
                Event::Ended { reason } => {
                    log::debug!("group {id} ended: {reason:?}");
                    over.get_or_insert_with(|| match reason {
                        EndReason::LastLinkFailed(reason) => failure(reason),
                        _ => (Errno::CONNRESET, Reason::LinkLost),
                    });
                }
                Event::LinkDeleted { .. } => {
                    over.get_or_insert((Errno::CONNRESET, Reason::LinkLost));
                }
                Event::Violation { violation, .. } => {
                    log::debug!("group {id}: dropped: {violation:?}");
                    PUBLISHER.fallback(Reason::LlcInvalid);
                }
                _ => {}
            }
        }
        self.flush();
        over
    }

    /// Posts the LLC messages that there is room for. The others wait in the machine, which ends
    /// the link if they become too many: a peer may ask without end, and take no answer.
    pub(super) fn flush(&mut self) {
        let (Some(link), Some(llc)) = (&mut self.link, &mut self.llc) else {
            return;
        };
        while link.room() > 0
            && let Some(transmit) = llc.poll_transmit()
        {
            let number = self.posts.push(None, 0);
            if number == 1 {
                self.first_llc = Some(number);
            }
            // SAFETY: no memory is named.
            if let Err(errno) = unsafe { link.post(&[], &transmit.bytes, number, true) } {
                log::debug!("group {}: LLC message not sent: {errno}", self.id);
                return;
            }
        }
    }

    /// Since when there has been no connection, if it is not about to end.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle_since.filter(|_| self.ended.is_none())
    }

    /// The last connection is gone.
    pub(super) fn became_idle(&mut self, now: Instant) {
        self.idle_since = Some(now);
    }

    /// The group is over. False if it was already.
    pub(super) fn end(&mut self, now: Instant) -> bool {
        if self.ended.is_some() {
            return false;
        }
        self.ended = Some(now + LAST_WORDS);
        true
    }

    /// Ends an orderly life: the peer is told.
    pub(super) fn close(&mut self, now: Instant) {
        if let Some(llc) = &mut self.llc {
            let _ = llc.end(now, DeleteReason::PROGRAM);
        }
    }

    /// Does what is due.
    pub(super) fn timeout(&mut self, now: Instant) {
        if let Some(llc) = &mut self.llc {
            llc.handle_timeout(now);
        }
        if self.idle_deadline().is_some_and(|at| at <= now) {
            self.idle_since = None;
            self.close(now);
        }
        if self.ended.is_some_and(|at| at <= now) {
            self.link = None;
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let of_llc = self.llc.as_ref().and_then(flow::Group::poll_timeout);
        let of_link = self.ended.filter(|_| self.link.is_some());
        of_llc
            .into_iter()
            .chain(self.idle_deadline())
            .chain(of_link)
            .min()
    }

    fn idle_deadline(&self) -> Option<Instant> {
        let wait = match self.key.role {
            Role::Server => IDLE_SERVER,
            Role::Client => IDLE_CLIENT,
        };
        self.idle_since.map(|since| since + wait)
    }

    /// The queue pair is gone: nothing that was posted there happens any more.
    pub(super) fn is_unlinked(&self) -> bool {
        self.link.is_none()
    }

    /// Nothing of it is needed any more.
    pub(super) fn is_over(&self) -> bool {
        self.ended.is_some() && self.link.is_none() && self.tokens.is_empty()
    }
}

/// Bytes of each receive: LLC messages of version 2 can be long.
pub(super) fn receive_size(version: Version) -> usize {
    match version {
        Version::V1 => crate::llc::LEN,
        Version::V2 => crate::llc::MAX_LEN,
    }
}

fn end(address: &LinkAddress) -> LinkEnd {
    LinkEnd {
        mac: address.mac,
        gid: address.gid,
        qp_number: address.qpn,
    }
}

fn failure(reason: LinkFailure) -> (Errno, Reason) {
    match reason {
        LinkFailure::NotConfirmed => (Errno::TIMEDOUT, Reason::LinkTimeout),
        LinkFailure::WrongLink => (Errno::CONNRESET, Reason::LinkFailed),
        LinkFailure::NoTestResponse | LinkFailure::NoResponse => {
            (Errno::TIMEDOUT, Reason::LinkLost)
        }
        _ => (Errno::CONNRESET, Reason::LinkLost),
    }
}

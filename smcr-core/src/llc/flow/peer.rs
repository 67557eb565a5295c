//! The peer's RMBs.

use std::time::Instant;

use super::links::Exchange;
use super::{Event, Group, LinkFailure, LinkId, Rtoken, Violation};
use crate::clc::{Rkey, Version};
use crate::llc::{ConfirmRkey, ConfirmRkeyContinuation, DeleteRkey, LinkRtoken, Llc, Verdict};

/// Most RMBs of the peer in one group (RFC 7609 §2.1).
pub const MAX_PEER_RMBS: usize = 255;

/// Why an RMB cannot be one of the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRmbError {
    /// The peer has [`MAX_PEER_RMBS`] already.
    Full,
    /// Its key is that of another one.
    Conflict,
}

impl std::fmt::Display for PeerRmbError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full => "the peer has as many RMBs in the group as there can be",
            Self::Conflict => "another RMB of the peer has the same rkey",
        })
    }
}

impl std::error::Error for PeerRmbError {}

type Rtokens = Vec<(LinkId, Rtoken)>;

/// What is known of the peer's RMBs: how each is reached over each link.
#[derive(Debug, Default)]
pub(super) struct PeerRmbs {
    rmbs: Vec<Rtokens>,
    /// A CONFIRM RKEY whose continuation has to come next.
    partial: Option<Partial>,
    /// Active links that its last CONFIRM RKEY did not list.
    missing: Vec<LinkId>,
}

#[derive(Debug)]
struct Partial {
    carrier: LinkId,
    rtoken: Rtoken,
    others: Vec<LinkRtoken>,
    /// What the next continuation announces.
    more: u8,
}

impl PeerRmbs {
    pub(super) fn len(&self) -> usize {
        self.rmbs.len()
    }

    pub(super) fn knows(&self, link: LinkId, rtoken: Rtoken) -> bool {
        self.rmbs.iter().any(|rmb| rmb.contains(&(link, rtoken)))
    }

    /// Adds an RMB, or what is new about one; `false` if nothing is.
    pub(super) fn add(&mut self, rtokens: &[(LinkId, Rtoken)]) -> Result<bool, PeerRmbError> {
        let is_same = |(link, rtoken): &(LinkId, Rtoken), other: &(LinkId, Rtoken)| {
            (*link, rtoken.rkey) == (other.0, other.1.rkey)
        };
        let mut related = self.rmbs.iter_mut().filter(|rmb| {
            rmb.iter()
                .any(|known| rtokens.iter().any(|new| is_same(known, new)))
        });
        let Some(rmb) = related.next() else {
            if self.rmbs.len() >= MAX_PEER_RMBS {
                return Err(PeerRmbError::Full);
            }
            self.rmbs.push(rtokens.to_vec());
            return Ok(true);
        };
        let differs =
            |new: &(LinkId, Rtoken)| rmb.iter().any(|known| known.0 == new.0 && known.1 != new.1);
        if related.next().is_some() || rtokens.iter().any(differs) {
            return Err(PeerRmbError::Conflict);
        }
        let before = rmb.len();
        for new in rtokens {
            if !rmb.contains(new) {
                rmb.push(*new);
            }
        }
        Ok(rmb.len() > before)
    }

    fn remove(&mut self, link: LinkId, rkey: Rkey) -> Option<Rtokens> {
        let index = self.rmbs.iter().position(|rmb| {
            rmb.iter()
                .any(|(id, token)| (*id, token.rkey) == (link, rkey))
        })?;
        Some(self.rmbs.swap_remove(index))
    }

    pub(super) fn forget_link(&mut self, link: LinkId) {
        for rmb in &mut self.rmbs {
            rmb.retain(|(id, _)| *id != link);
        }
        self.rmbs.retain(|rmb| !rmb.is_empty());
        if self.partial.as_ref().is_some_and(|p| p.carrier == link) {
            self.partial = None;
        }
    }
}

impl Group {
    /// CONFIRM RKEY from the peer. Independent of ours (RFC 7609 §3.5.5.3).
    pub(super) fn peer_confirms(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        message: ConfirmRkey,
    ) {
        let verdict = if self.links_are_changing() {
            // The set of links in it may be wrong by the time that it counts (RFC 7609 §3.5.5.3.1).
            Verdict::Refused { retry: true }
        } else if message.others.more() > 0 {
            self.peer.partial = Some(Partial {
                carrier: id,
                rtoken: message.rtoken,
                others: message.others.items().to_vec(),
                more: message.others.more(),
            });
            Verdict::Confirmed
        } else {
            self.peer.partial = None;
            self.take_peer_rmb(now, id, message.rtoken, message.others.items())
        };
        let response = Llc::ConfirmRkey(ConfirmRkey { verdict, ..message });
        self.send_as(now, id, version, &response);
        self.fail_missing_links(now);
    }

    /// More of it.
    pub(super) fn peer_continues(
        &mut self,
        now: Instant,
        id: LinkId,
        message: ConfirmRkeyContinuation,
    ) {
        let fits = |partial: &mut Partial| {
            partial.carrier == id && partial.more == message.others.announced()
        };
        // What does not fit ends the exchange either way.
        let taken = self.peer.partial.take_if(fits);
        let verdict = match taken {
            None => {
                self.peer.partial = None;
                self.violation(now, id, Violation::WrongRkey);
                Verdict::Refused { retry: false }
            }
            Some(mut partial) => {
                partial.others.extend(message.others.items());
                partial.more = message.others.more();
                if partial.more > 0 {
                    self.peer.partial = Some(partial);
                    Verdict::Confirmed
                } else {
                    self.take_peer_rmb(now, id, partial.rtoken, &partial.others)
                }
            }
        };
        let response = Llc::ConfirmRkeyContinuation(ConfirmRkeyContinuation { verdict, ..message });
        self.send(now, id, &response);
        self.fail_missing_links(now);
    }

    /// Would a list of links be wrong soon? An ADD LINK that offers nothing changes nothing.
    fn links_are_changing(&self) -> bool {
        matches!(self.exchange, Some(Exchange::Delete { .. }))
    }

    fn take_peer_rmb(
        &mut self,
        now: Instant,
        id: LinkId,
        rtoken: Rtoken,
        others: &[LinkRtoken],
    ) -> Verdict {
        let refused = Verdict::Refused { retry: false };
        let mut rtokens = vec![(id, rtoken)];
        for other in others {
            let known = self
                .active_links()
                .find(|(_, number)| *number == other.link);
            // A link that is not there, or one twice.
            let Some((link, _)) =
                known.filter(|(link, _)| rtokens.iter().all(|(listed, _)| listed != link))
            else {
                self.violation(now, id, Violation::WrongRkey);
                return refused;
            };
            rtokens.push((link, other.rtoken));
        }
        match self.peer.add(&rtokens) {
            Ok(is_new) => {
                let listed = |link: &LinkId| rtokens.iter().any(|(id, _)| id == link);
                let missing: Vec<_> = self
                    .active_links()
                    .map(|(link, _)| link)
                    .filter(|link| !listed(link))
                    .collect();
                self.peer.missing = missing;
                if is_new {
                    self.events.push_back(Event::PeerAddedRmb { rtokens });
                }
                Verdict::Confirmed
            }
            // No room: the peer keeps to what it has, or opens another group.
            Err(PeerRmbError::Full) => refused,
            Err(PeerRmbError::Conflict) => {
                self.violation(now, id, Violation::WrongRkey);
                refused
            }
        }
    }

    /// Links over which the peer's new RMB cannot be reached count as failed (RFC 7609 §C.7.1).
    fn fail_missing_links(&mut self, now: Instant) {
        for link in std::mem::take(&mut self.peer.missing) {
            self.fail(now, link, LinkFailure::NotInConfirmRkey);
        }
    }

    /// DELETE RKEY from the peer.
    pub(super) fn peer_deletes(
        &mut self,
        now: Instant,
        id: LinkId,
        version: Version,
        message: &DeleteRkey,
    ) {
        let mut failed = 0;
        for (index, rkey) in message.rkeys.iter().enumerate() {
            match self.peer.remove(id, *rkey) {
                Some(rtokens) => self.events.push_back(Event::PeerDeletedRmb { rtokens }),
                None => failed |= 0x80 >> index,
            }
        }
        let response = Llc::DeleteRkey(DeleteRkey {
            failed: Some(failed),
            ..message.clone()
        });
        self.send_as(now, id, version, &response);
    }
}

//! What the messages of a handshake say for SMC-R (RFC 7609 §3.5, §A.2; Linux for version 2).
//!
//! ```text
//! client: RdmaEnd ── Proposal ──▶ Event::Proposed    find the group with this peer, or a device
//!                                 accept(endpoint of the chosen link and RMBE, Contact)
//! Event::Accepted ◀── Accept ────                    find the group, or connect a new link (RTR)
//! confirm(endpoint) ─ Confirm ──▶ Event::Confirmed   connect the new link (RTS), CONFIRM LINK
//! ```
//!
//! The owner finds the groups and the devices; here is decided which version is spoken, whether two
//! ends may meet, and whether what the peer says of its end can be used.
//!
//! # Versions
//!
//! A client offers version 1 (RoCEv1, one subnet), version 2 (RoCEv2, an enterprise ID in common) or
//! both; a server takes version 2 where both can, else version 1. In release 1 of version 2 the two
//! settle how many connections and links a group may have, the lower numbers count; before, each
//! has its own limits.
//!
//! # First and later contact
//!
//! The server says whether the connection gets a new link group. A client that does not have the
//! group of a later contact declines with [`Reason::OutOfSync`], which
//! makes the server forget it (RFC 7609 §C.4).
//!
//! After a later contact's Confirm nobody may decline any more. Linux does so nevertheless when its
//! table of rkeys is full: whoever sees bytes in the stream of such a connection should reset it.

mod check;
mod end;
mod messages;

pub use end::{Contact, MAX_UEIDS, RdmaEnd, RdmaIdentity, Subnets, V1, V2};

use std::time::Instant;

use super::{CallError, Fabric, Objection, RdmaClient, RdmaServer};
use crate::Reason;
use crate::clc::{
    Accept, Confirm, Eid, FirstContact, Gid, Mac, MtuCode, PeerId, Proposal, RdmaEndpoint, Version,
};

/// SMC-R.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rdma;

/// What the two ends settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settled {
    /// The version of SMC-R.
    pub version: Version,
    /// The enterprise ID in common; version 2 only.
    pub eid: Option<Eid>,
    /// The release of version 2, 0 or 1; 0 in version 1.
    pub release: u8,
    /// Release 1: what the two ends can do together. Before, each has its own limits.
    pub limits: Option<Limits>,
}

/// What a link group may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections, 16..=255.
    pub max_conns: u8,
    /// Links, 1..=2.
    pub max_links: u8,
}

/// A client made an offer that can be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The client. Zero from a Linux client that offers version 2 only; link groups are found by
    /// this and the GID nevertheless, as Linux does.
    pub peer_id: PeerId,
    /// Version 2: the GID that the client's link will have, or has. Version 1: the one that it
    /// prefers; its Confirm may name another. Nothing of it was checked.
    pub gid: Gid,
    /// The client's MAC; zero from a Linux client that offers version 2 only.
    pub mac: Mac,
    /// What is settled by this offer.
    pub settled: Settled,
}

/// A server accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The server's end: a new link's at first contact, else that of a link both know.
    pub peer: RdmaEndpoint,
    /// The server starts a new link group. If not, `peer` must name a link that we have
    /// ([`names_link`]), else decline with [`Reason::OutOfSync`].
    pub first_contact: bool,
    /// What is settled; at a later contact release and limits are those of the group.
    pub settled: Settled,
    /// Version 2, first contact: the server's host. With `direct` off it says that a router is in
    /// between.
    pub extension: Option<FirstContact>,
}

/// A client confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The client's end: a new link's at first contact, else that of a link both know, which is to
    /// be verified ([`names_link`]); it need not be the link of the Accept.
    pub peer: RdmaEndpoint,
    /// A new link group. The handshake goes on with its first link.
    pub first_contact: bool,
    /// What is settled.
    pub settled: Settled,
    /// Version 2, first contact: the client's host.
    pub extension: Option<FirstContact>,
    /// Version 2, first contact: the GIDs over which the client can have links, at most 8.
    pub link_gids: Vec<Gid>,
}

/// Does what a peer says of its end of a link in an Accept or Confirm name the end that is `known`
/// of an earlier contact (RFC 7609 §3.5.2.2, §3.5.2.3)? Peer ID, GID and queue pair number count, in
/// version 1 the MAC, too; RMB, token and MTU are the connection's.
pub fn names_link(version: Version, said: &RdmaEndpoint, known: &RdmaEndpoint) -> bool {
    said.peer_id == known.peer_id
        && said.gid == known.gid
        && said.qp_number == known.qp_number
        && (version == Version::V2 || said.mac == known.mac)
}

/// What is agreed so far.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    settled: Settled,
    contact: Contact,
    /// Server: who proposed. Client: who accepted.
    peer: Peer,
}

/// What the peer's first message said of it.
#[derive(Clone, Copy, Debug)]
struct Peer {
    id: PeerId,
    gid: Gid,
    /// Client only.
    mtu: Option<MtuCode>,
}

impl Fabric for Rdma {
    type Offer = RdmaEnd;
    type Server = RdmaEnd;
    type Proposed = Proposed;
    type Accepted = Accepted;
    type Confirmed = Confirmed;
    type Agreed = Agreed;

    fn client(offer: &RdmaEnd) -> PeerId {
        offer.identity.peer_id
    }

    fn server(server: &RdmaEnd) -> PeerId {
        server.identity.peer_id
    }

    fn propose(offer: &RdmaEnd) -> Result<Proposal, Reason> {
        messages::proposal(offer)
    }

    fn check_proposal(
        server: &RdmaEnd,
        proposal: &Proposal,
    ) -> Result<(Proposed, Agreed), Objection> {
        check::proposal(server, proposal)
    }

    fn check_accept(offer: &RdmaEnd, accept: &Accept) -> Result<(Accepted, Agreed), Objection> {
        check::accept(offer, accept)
    }

    fn check_confirm(
        _server: &RdmaEnd,
        agreed: &Agreed,
        confirm: &Confirm,
    ) -> Result<Confirmed, Objection> {
        check::confirm(agreed, confirm)
    }

    fn has_link_phase(agreed: &Agreed) -> bool {
        agreed.contact.is_first()
    }
}

impl RdmaClient {
    /// Answers the Accept with our end. At first contact the queue pair must be able to receive
    /// already (RTR, receives posted): the server's CONFIRM LINK may come as soon as the Confirm is
    /// there. The MTU that goes out is the smaller one of the two.
    ///
    /// # Errors
    /// No Accept to answer; an endpoint that the server would not take, or whose peer ID or (first
    /// contact) GID is not that of the Proposal.
    pub fn confirm(&mut self, local: &RdmaEndpoint, now: Instant) -> Result<(), CallError> {
        self.answer(Some(now), |end, agreed| {
            messages::confirm(end, agreed, local)
        })
    }
}

impl RdmaServer {
    /// Answers the Proposal with our end; the time for the Confirm runs from now. The RMBE has to be
    /// ready for data: with [`Contact::Later`] they may overtake the Confirm (RFC 7609 §3.5.2.4).
    ///
    /// # Errors
    /// No Proposal to answer; an endpoint that the client would not take, or whose peer ID or (first
    /// contact) GID is not that of this handshake.
    pub fn accept(
        &mut self,
        local: &RdmaEndpoint,
        contact: Contact,
        now: Instant,
    ) -> Result<(), CallError> {
        self.answer(now, |end, agreed| {
            let agreed = Agreed { contact, ..agreed };
            Ok((messages::accept(end, &agreed, local)?, agreed))
        })
    }
}

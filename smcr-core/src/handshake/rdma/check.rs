//! What we take of what the peer says.

use super::{
    Accepted, Agreed, Confirmed, Contact, Limits, Peer, Proposed, RdmaEnd, Settled, V1, V2,
};
use crate::clc::{
    self, Capabilities, Eid, Endpoint, Field, FirstContact, Gid, OfferV1, OfferV2, PeerId,
    RdmaEndpoint, Terms, Version,
};
use crate::handshake::Objection;

/// Code of 512 KiB, the largest RMBE of RFC 7609 §A.2.3.
pub(super) const MAX_V1_SIZE: u8 = 5;

/// The fewest connections per link group that release 1 allows.
const MIN_CONNS: u8 = 16;
/// The most links per link group that release 1 allows.
const MAX_LINKS: u8 = 2;

/// The server: which version, and may the two meet? The higher version comes first; what was
/// wrong with it is what the peer is told if the lower one does not work either.
pub(super) fn proposal(
    end: &RdmaEnd,
    proposal: &clc::Proposal,
) -> Result<(Proposed, Agreed), Objection> {
    let (v1, v2) = match &proposal.offer {
        clc::Offer::V1 { v1, .. } => (Some(v1), None),
        clc::Offer::V2 { v1, v2, .. } => (v1.as_ref(), v2.as_ref()),
    };
    let v1 = v1.filter(|v1| v1.fabrics.has_r());
    let v2 = v2.filter(|v2| v2.fabrics.has_r());
    if v1.is_none() && v2.is_none() {
        return Err(Objection::NothingInCommon);
    }
    if end.v1.is_none() && end.v2.is_none() {
        return Err(Objection::NoDevice);
    }
    let by_v2 = end.v2.as_ref().zip(v2).map(|(ours, v2)| offer_v2(ours, v2));
    let (settled, gid) = match by_v2 {
        Some(Ok(settled)) => settled,
        not_v2 => match (end.v1.as_ref().zip(v1), not_v2) {
            (Some((ours, v1)), not_v2) => offer_v1(ours, v1)
                .map(|settled| (settled, proposal.gid))
                .map_err(|not_v1| not_v2.and_then(Result::err).unwrap_or(not_v1))?,
            (None, Some(Err(objection))) => return Err(objection),
            (None, _) => return Err(Objection::NoCommonVersion),
        },
    };
    let proposed = Proposed {
        peer_id: proposal.peer_id,
        gid,
        mac: proposal.mac,
        settled,
    };
    let agreed = Agreed {
        settled,
        contact: Contact::Later, // until the owner says
        peer: Peer {
            id: proposal.peer_id,
            gid,
            mtu: None,
        },
    };
    Ok((proposed, agreed))
}

fn offer_v1(ours: &V1, theirs: &OfferV1) -> Result<Settled, Objection> {
    if !ours.subnets.hold(&theirs.ip) {
        return Err(Objection::OtherSubnet);
    }
    Ok(VERSION_1)
}

fn offer_v2(ours: &V2, theirs: &OfferV2) -> Result<(Settled, Gid), Objection> {
    let extension = theirs.extension.as_ref().ok_or(Objection::NoV2Extension)?;
    // The first one in the client's order.
    let eid = extension
        .eids
        .iter()
        .find_map(|theirs| ours.ueids.iter().find(|ours| *theirs == **ours))
        .ok_or(Objection::NoCommonEid)?;
    let theirs = extension.capabilities;
    let limits = match limits(&ours.capabilities) {
        Some(ours) if theirs.release() > 0 => {
            if theirs.max_conns < MIN_CONNS {
                return Err(Objection::MaxConns(theirs.max_conns));
            }
            if theirs.max_links == 0 {
                return Err(Objection::MaxLinks(0));
            }
            Some(Limits {
                max_conns: ours.max_conns.min(theirs.max_conns),
                max_links: ours.max_links.min(theirs.max_links),
            })
        }
        _ => None,
    };
    Ok((version_2(*eid, limits), extension.roce_gid))
}

/// The client: is it what was offered, and can its end be used?
pub(super) fn accept(end: &RdmaEnd, accept: &clc::Accept) -> Result<(Accepted, Agreed), Objection> {
    let Endpoint::Rdma(peer) = &accept.endpoint else {
        return Err(Objection::NotOffered);
    };
    let (settled, contact, extension) = match &accept.terms {
        Terms::V1 { first_contact } => {
            if end.v1.as_ref().and_then(|v1| v1.subnets.area()).is_none() {
                return Err(Objection::NotOffered);
            }
            let contact = match first_contact {
                true => Contact::First { direct: true },
                false => Contact::Later,
            };
            (VERSION_1, contact, None)
        }
        Terms::V2(terms) => {
            let ours = end.v2.as_ref().ok_or(Objection::NotOffered)?;
            let eid = ours.ueids.iter().find(|eid| terms.eid == **eid);
            let eid = eid.ok_or(Objection::NoCommonEid)?;
            let (limits, contact) = match &terms.first_contact {
                Some(extension) => (
                    chosen(limits(&ours.capabilities), &extension.capabilities)?,
                    Contact::First {
                        direct: extension.direct,
                    },
                ),
                None => (None, Contact::Later),
            };
            let settled = version_2(*eid, limits);
            (settled, contact, terms.first_contact.clone())
        }
    };
    endpoint(peer, contact.is_first())?;
    let accepted = Accepted {
        peer: peer.clone(),
        first_contact: contact.is_first(),
        settled,
        extension,
    };
    let agreed = Agreed {
        settled,
        contact,
        peer: Peer {
            id: peer.peer_id,
            gid: peer.gid,
            mtu: Some(peer.mtu),
        },
    };
    Ok((accepted, agreed))
}

/// The server's choice must not go beyond what we offered.
fn chosen(offered: Option<Limits>, theirs: &Capabilities) -> Result<Option<Limits>, Objection> {
    match (offered, theirs.release()) {
        (_, 0) => Ok(None),
        (None, release) | (Some(_), release @ 2..) => Err(Objection::Release(release)),
        (Some(offered), _) => {
            if !(MIN_CONNS..=offered.max_conns).contains(&theirs.max_conns) {
                return Err(Objection::MaxConns(theirs.max_conns));
            }
            if !(1..=offered.max_links).contains(&theirs.max_links) {
                return Err(Objection::MaxLinks(theirs.max_links));
            }
            Ok(Some(Limits {
                max_conns: theirs.max_conns,
                max_links: theirs.max_links,
            }))
        }
    }
}

/// The server: is this the client of the Proposal, on the terms of the Accept?
pub(super) fn confirm(agreed: &Agreed, confirm: &clc::Confirm) -> Result<Confirmed, Objection> {
    let contradiction = |field| Err(Objection::Contradiction(field));
    let settled = agreed.settled;
    let first_contact = agreed.contact.is_first();
    let Endpoint::Rdma(peer) = &confirm.endpoint else {
        return contradiction(Field::Path);
    };
    if confirm.terms.version() != settled.version {
        return contradiction(Field::Version);
    }
    if agreed.peer.id != PeerId::default() && peer.peer_id != agreed.peer.id {
        return contradiction(Field::PeerId);
    }
    let mut extension = None;
    if let Terms::V2(terms) = &confirm.terms {
        if settled.eid.is_none_or(|eid| terms.eid != eid) {
            return contradiction(Field::Eid);
        }
        if terms.first_contact.is_some() != first_contact {
            return contradiction(Field::FirstContact);
        }
        // A Linux server connects its link to the GID of the Proposal and never looks at this one.
        if first_contact && agreed.peer.gid != Gid::default() && peer.gid != agreed.peer.gid {
            return contradiction(Field::Gid);
        }
        extension = terms.first_contact.clone();
    }
    if let Some(extension) = &extension {
        same(&settled, extension)?;
    }
    endpoint(peer, first_contact)?;
    Ok(Confirmed {
        peer: peer.clone(),
        first_contact,
        settled,
        extension,
        link_gids: confirm.link_gids.to_vec(),
    })
}

/// The client must repeat what the Accept settled, as Linux insists.
fn same(settled: &Settled, extension: &FirstContact) -> Result<(), Objection> {
    let theirs = extension.capabilities;
    if theirs.release() != settled.release {
        return Err(Objection::Release(theirs.release()));
    }
    if let Some(limits) = settled.limits {
        if theirs.max_conns != limits.max_conns {
            return Err(Objection::MaxConns(theirs.max_conns));
        }
        if theirs.max_links != limits.max_links {
            return Err(Objection::MaxLinks(theirs.max_links));
        }
    }
    Ok(())
}

/// Can an end be used? The MTU counts at first contact only (RFC 7609 §A.2.3).
pub(super) fn endpoint(endpoint: &RdmaEndpoint, first_contact: bool) -> Result<(), Objection> {
    let value = |field| Err(Objection::Value(field));
    if endpoint.peer_id == PeerId::default() {
        return value(Field::PeerId);
    }
    // Zero names nothing, and a multicast group is no queue pair's.
    if endpoint.gid == Gid::default() || endpoint.gid.0[0] == 0xff {
        return value(Field::Gid);
    }
    // The first two are every port's own, the last one stands for multicast.
    if !(2..0x00ff_ffff).contains(&endpoint.qp_number.get()) {
        return value(Field::QpNumber);
    }
    if endpoint.token.0 == 0 {
        return value(Field::Token);
    }
    let size = endpoint.rmbe_size.bytes() as u64;
    let end = size * u64::from(endpoint.rmbe_index.get());
    if endpoint.address.checked_add(end).is_none() {
        return value(Field::Address);
    }
    if first_contact && endpoint.mtu.bytes().is_none() {
        return Err(Objection::ReservedMtu(endpoint.mtu.code()));
    }
    Ok(())
}

const VERSION_1: Settled = Settled {
    version: Version::V1,
    eid: None,
    release: 0,
    limits: None,
};

fn version_2(eid: Eid, limits: Option<Limits>) -> Settled {
    Settled {
        version: Version::V2,
        eid: Some(eid),
        release: limits.is_some().into(),
        limits,
    }
}

/// What this end offers in release 1, kept within what that can say; `None` in release 0.
pub(super) fn limits(capabilities: &Capabilities) -> Option<Limits> {
    (capabilities.release() > 0).then(|| Limits {
        max_conns: capabilities.max_conns.max(MIN_CONNS),
        max_links: capabilities.max_links.clamp(1, MAX_LINKS),
    })
}

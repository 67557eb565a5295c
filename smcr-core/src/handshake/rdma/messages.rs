//! What we say.

use super::check;
use super::{Agreed, Contact, Limits, RdmaEnd};
use crate::Reason;
use crate::clc::{
    Accept, Bounded, Capabilities, Chid, Confirm, Endpoint, Fabrics, Field, FirstContact, Gid,
    IsmGid, Offer, OfferV1, OfferV2, OsType, Proposal, RdmaEndpoint, Terms, TermsV2, V2Extension,
    Version,
};
use crate::handshake::{CallError, Objection};

/// Version 2 in the header only if version 2 is offered: a peer built from the RFC knows no other
/// layout than version 1's.
pub(super) fn proposal(end: &RdmaEnd) -> Result<Proposal, Reason> {
    let v1 = end.v1.as_ref().and_then(|v1| {
        let ip = v1.subnets.area()?;
        Some(OfferV1 {
            fabrics: Fabrics::R,
            ip,
        })
    });
    let gid = match (&end.v1, &v1) {
        (Some(ours), Some(_)) => ours.gid,
        _ => Gid::default(),
    };
    let v2 = end.v2.as_ref().filter(|v2| !v2.ueids.is_empty());
    let offer = match (v1, v2) {
        (v1, Some(v2)) => {
            let eids = v2.ueids.iter().copied().map(Into::into).collect();
            Offer::V2 {
                v1,
                native_ism: (IsmGid(0), Chid(0)),
                v2: Some(OfferV2 {
                    fabrics: Fabrics::R,
                    extension: Some(V2Extension {
                        eids: Bounded::new(eids).unwrap_or_default(),
                        capabilities: capabilities(check::limits(&v2.capabilities)),
                        roce_gid: v2.gid,
                        smcd: None,
                    }),
                }),
            }
        }
        (Some(v1), None) => Offer::V1 {
            v1,
            native_ism: None,
        },
        (None, None) if end.v1.is_some() => return Err(Reason::NoSubnet),
        (None, None) => return Err(Reason::NoRdmaDevice),
    };
    Ok(Proposal {
        peer_id: end.identity.peer_id,
        gid,
        mac: end.mac,
        offer,
    })
}

pub(super) fn accept(
    end: &RdmaEnd,
    agreed: &Agreed,
    local: &RdmaEndpoint,
) -> Result<Accept, CallError> {
    let endpoint = endpoint(end, agreed, local.clone())?;
    Ok(Accept {
        endpoint: Endpoint::Rdma(endpoint),
        terms: terms(end, agreed, agreed.contact.is_first()),
    })
}

pub(super) fn confirm(
    end: &RdmaEnd,
    agreed: &Agreed,
    local: &RdmaEndpoint,
) -> Result<Confirm, CallError> {
    let mut endpoint = endpoint(end, agreed, local.clone())?;
    // At a later contact the peer's MTU is not looked at (RFC 7609 §A.2.3).
    if let (true, Some(theirs)) = (agreed.contact.is_first(), agreed.peer.mtu)
        && theirs.code() < endpoint.mtu.code()
    {
        endpoint.mtu = theirs;
    }
    let link_gids = vec![endpoint.gid];
    Ok(Confirm {
        endpoint: Endpoint::Rdma(endpoint),
        // Linux repeats the first contact flag of version 1 here, where the RFC has none.
        terms: terms(end, agreed, false),
        link_gids: Bounded::new(link_gids).unwrap_or_default(),
    })
}

/// Says nothing that a peer would refuse, nor anything else than was said before.
fn endpoint(
    end: &RdmaEnd,
    agreed: &Agreed,
    local: RdmaEndpoint,
) -> Result<RdmaEndpoint, CallError> {
    let first = agreed.contact.is_first();
    let gid = match agreed.settled.version {
        Version::V1 => end.v1.as_ref().map(|v1| v1.gid),
        Version::V2 => end.v2.as_ref().map(|v2| v2.gid),
    };
    if local.peer_id != end.identity.peer_id {
        return Err(CallError::Endpoint(Field::PeerId));
    }
    if first && gid != Some(local.gid) {
        return Err(CallError::Endpoint(Field::Gid));
    }
    // RFC 7609 §A.2.3 stops there.
    if agreed.settled.version == Version::V1 && local.rmbe_size.code() > check::MAX_V1_SIZE {
        return Err(CallError::Endpoint(Field::RmbeSize));
    }
    check::endpoint(&local, first).map_err(|objection| match objection {
        Objection::Value(field) => CallError::Endpoint(field),
        _ => CallError::Endpoint(Field::Mtu),
    })?;
    Ok(local)
}

fn terms(end: &RdmaEnd, agreed: &Agreed, first_contact_v1: bool) -> Terms {
    let Some(eid) = agreed.settled.eid else {
        return Terms::V1 {
            first_contact: first_contact_v1,
        };
    };
    let first_contact = match agreed.contact {
        Contact::First { direct } => Some(FirstContact {
            direct,
            os: OsType::LINUX,
            host_name: end.identity.host_name,
            capabilities: capabilities(agreed.settled.limits),
        }),
        Contact::Later => None,
    };
    Terms::V2(TermsV2 {
        eid: eid.into(),
        first_contact,
    })
}

fn capabilities(limits: Option<Limits>) -> Capabilities {
    limits.map_or(Capabilities::RELEASE_0, |limits| {
        Capabilities::release_1(limits.max_conns, limits.max_links, 0)
    })
}

//! What the messages of a handshake say for memory shared between two processes of one host.
//!
//! It is negotiated the way Linux negotiates its SMC-D loopback device: version 2, SMC-D only, an
//! emulated ISM device with a 128-bit GID (which takes two entries in the Proposal, the second with
//! the upper half), release 1 with the "emulated ISM" feature.
//!
//! # Not to be taken for Linux, nor Linux for us
//!
//! A kernel's loopback device and this fabric share no memory, so their peers must not agree by
//! accident. Two things keep them apart, each enough by itself: our device's channel is
//! [`SHM_CHID`], which is emulated but is not Linux's 0xffff, and the enterprise IDs are those of
//! [`ShmEids`], all of which begin with [`SHM_EID`]. Neither side accepts anything else.

use std::time::Instant;

use super::{CallError, Fabric, Objection, ShmClient, ShmServer};
use crate::Reason;
use crate::clc::{
    Accept, Bounded, Capabilities, Chid, Confirm, DmbToken, Eid, Endpoint, Fabrics, Field,
    FirstContact, Gid, HostName, IsmEndpoint, IsmGid, Mac, Offer, OfferV2, OsType, PeerId,
    Proposal, RmbeIndex, RmbeSize, SmcdV2Extension, Terms, TermsV2, V2Extension,
};

/// The channel of this fabric's device: among the emulated ones (0xff00..=0xffff), and not Linux's
/// loopback device (0xffff).
pub const SHM_CHID: Chid = Chid(0xff53);

/// The enterprise ID of this fabric. The number is the version of what is in the shared memory.
pub const SHM_EID: &str = "SMCR-SHM-1";

/// The GID of a process: 64 bits, and 64 bits of extension. Random, so that no two processes of a
/// host have the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShmGid(pub [u8; 16]);

impl ShmGid {
    fn to_wire(self) -> (IsmGid, IsmGid) {
        let all = u128::from_be_bytes(self.0);
        (IsmGid((all >> 64) as u64), IsmGid(all as u64))
    }

    fn from_wire(gid: IsmGid, extension: IsmGid) -> Self {
        Self((u128::from(gid.0) << 64 | u128::from(extension.0)).to_be_bytes())
    }
}

impl std::fmt::Debug for ShmGid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// Where one end of a connection receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShmBuffer {
    /// The process.
    pub gid: ShmGid,
    /// The buffer.
    pub token: DmbToken,
    /// The element of the buffer, 1..=255.
    pub index: RmbeIndex,
    /// The size of the element.
    pub size: RmbeSize,
}

/// Our end.
pub type ShmLocal = ShmBuffer;
/// The peer's end.
pub type ShmPeer = ShmBuffer;

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The process, for Proposal and Decline.
    pub peer_id: PeerId,
    /// The process, for the fabric.
    pub gid: ShmGid,
    /// The host's name, for people.
    pub host_name: HostName,
}

/// The enterprise IDs of one end, in its order of preference: [`SHM_EID`], alone or followed by the
/// name of a group, so that groups of programs can be kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmEids(Vec<Eid>);

impl ShmEids {
    /// As many as Linux sends at most.
    pub const MAX: usize = 4;

    /// The enterprise IDs of these groups: [`SHM_EID`], a dash, and the name of the group, which is
    /// 1 to 21 of `A-Z 0-9 . -`. `None` if a name has other characters or another length, and for
    /// no group or more than [`Self::MAX`].
    pub fn groups<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let eid = |name: &str| match name {
            "" => None,
            _ => Eid::new(&format!("{SHM_EID}-{name}")).ok(),
        };
        let eids: Vec<_> = names.into_iter().map(eid).collect::<Option<_>>()?;
        (1..=Self::MAX).contains(&eids.len()).then_some(Self(eids))
    }

    /// The enterprise IDs.
    pub fn as_slice(&self) -> &[Eid] {
        &self.0
    }
}

impl Default for ShmEids {
    /// [`SHM_EID`] alone.
    fn default() -> Self {
        const EID: Eid = match Eid::new(SHM_EID) {
            Ok(eid) => eid,
            Err(_) => panic!("the constant is an enterprise ID"),
        };
        Self(vec![EID])
    }
}

/// What a client offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmOffer {
    /// The client.
    pub identity: Identity,
    /// Its enterprise IDs.
    pub eids: ShmEids,
}

/// What a server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShmHost {
    /// The server.
    pub identity: Identity,
    /// Its enterprise IDs.
    pub eids: ShmEids,
}

/// A client made an offer that can be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The client's GID; its Confirm will name the same one.
    pub gid: ShmGid,
    /// The enterprise ID in common.
    pub eid: Eid,
    /// The client.
    pub peer_id: PeerId,
}

/// A server accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The server's buffer.
    pub peer: ShmPeer,
    /// The server knows of no earlier connection with this process.
    pub first_contact: bool,
    /// The enterprise ID in common.
    pub eid: Eid,
}

/// A client confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The client's buffer.
    pub peer: ShmPeer,
}

/// What the two ends have agreed on so far.
#[derive(Clone, Copy, Debug)]
pub struct Agreed {
    client: ShmGid,
    eid: Eid,
    first_contact: bool,
    capabilities: Capabilities,
}

/// Memory shared between two processes of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shm;

impl Fabric for Shm {
    type Offer = ShmOffer;
    type Server = ShmHost;
    type Proposed = Proposed;
    type Accepted = Accepted;
    type Confirmed = Confirmed;
    type Agreed = Agreed;

    fn client(offer: &ShmOffer) -> PeerId {
        offer.identity.peer_id
    }

    fn server(server: &ShmHost) -> PeerId {
        server.identity.peer_id
    }

    fn propose(offer: &ShmOffer) -> Result<Proposal, Reason> {
        Ok(proposal(offer))
    }

    fn check_proposal(
        server: &ShmHost,
        proposal: &Proposal,
    ) -> Result<(Proposed, Agreed), Objection> {
        let agreed = check_proposal(&server.eids, proposal).ok_or(Objection::NoCommonEid)?;
        let proposed = Proposed {
            gid: agreed.client,
            eid: agreed.eid,
            peer_id: proposal.peer_id,
        };
        Ok((proposed, agreed))
    }

    fn check_accept(offer: &ShmOffer, accept: &Accept) -> Result<(Accepted, Agreed), Objection> {
        let (peer, agreed) = check_accept(offer, accept).ok_or(Objection::NoCommonEid)?;
        let accepted = Accepted {
            peer,
            first_contact: agreed.first_contact,
            eid: agreed.eid,
        };
        Ok((accepted, agreed))
    }

    fn check_confirm(
        _server: &ShmHost,
        agreed: &Agreed,
        confirm: &Confirm,
    ) -> Result<Confirmed, Objection> {
        check_confirm(agreed, confirm)
            .map(|peer| Confirmed { peer })
            .map_err(Objection::Contradiction)
    }

    /// A mapping works or fails at once.
    fn has_link_phase(_agreed: &Agreed) -> bool {
        false
    }
}

impl ShmClient {
    /// Answers the Accept with our buffer; the next event is [`Event::Done`](super::Event::Done).
    ///
    /// # Errors
    /// No Accept to answer, or a buffer of another GID than the Proposal's.
    pub fn confirm(&mut self, local: ShmLocal) -> Result<(), CallError> {
        self.answer(None, |offer, agreed| {
            if local.gid == offer.identity.gid {
                Ok(confirm(&offer.identity, agreed, &local))
            } else {
                Err(CallError::Gid)
            }
        })
    }
}

impl ShmServer {
    /// Answers the Proposal with our buffer; the time for the Confirm runs from now.
    ///
    /// # Errors
    /// No Proposal to answer, or a buffer of another GID than this handshake's.
    pub fn accept(
        &mut self,
        local: ShmLocal,
        first_contact: bool,
        now: Instant,
    ) -> Result<(), CallError> {
        self.answer(now, |server, agreed| {
            if local.gid != server.identity.gid {
                return Err(CallError::Gid);
            }
            let agreed = Agreed {
                first_contact,
                ..agreed
            };
            Ok((accept(&server.identity, &agreed, &local), agreed))
        })
    }
}

/// SMC-D has no limits on connections and links to announce.
const CAPABILITIES: Capabilities = Capabilities::release_1(0, 0, Capabilities::EMULATED_ISM);

fn proposal(offer: &ShmOffer) -> Proposal {
    let (gid, extension) = offer.identity.gid.to_wire();
    let gids = vec![(gid, SHM_CHID), (extension, SHM_CHID)];
    let eids = offer.eids.0.iter().copied().map(Into::into).collect();
    Proposal {
        peer_id: offer.identity.peer_id,
        gid: Gid::default(),
        mac: Mac::default(),
        offer: Offer::V2 {
            v1: None,
            native_ism: (IsmGid(0), Chid(0)),
            v2: Some(OfferV2 {
                fabrics: Fabrics::D,
                extension: Some(V2Extension {
                    eids: Bounded::new(eids).expect("ShmEids::MAX is below the limit"),
                    capabilities: CAPABILITIES,
                    roce_gid: Gid::default(),
                    smcd: Some(SmcdV2Extension {
                        system_eid: None,
                        gids: Bounded::new(gids).expect("two are below the limit"),
                    }),
                }),
            }),
        },
    }
}

/// The server: can this be accepted? The first enterprise ID in the client's order wins.
fn check_proposal(eids: &ShmEids, proposal: &Proposal) -> Option<Agreed> {
    let Offer::V2 {
        v2: Some(OfferV2 {
            extension: Some(extension),
            ..
        }),
        ..
    } = &proposal.offer
    else {
        return None;
    };
    let client = extension.smcd.as_ref().and_then(find_device)?;
    let eid = common_eid(extension, eids)?;
    let capabilities = if extension.capabilities.release() == 0 {
        Capabilities::RELEASE_0
    } else {
        CAPABILITIES
    };
    Some(Agreed {
        client,
        eid,
        first_contact: true,
        capabilities,
    })
}

fn common_eid(extension: &V2Extension, ours: &ShmEids) -> Option<Eid> {
    extension
        .eids
        .iter()
        .find_map(|theirs| ours.0.iter().copied().find(|eid| *theirs == *eid))
}

/// Finds our device among those of the client. The second entry of an emulated device repeats the
/// CHID of the first one; an entry without its second is passed over, as in Linux.
fn find_device(smcd: &SmcdV2Extension) -> Option<ShmGid> {
    let mut gids = smcd.gids.iter();
    while let Some((gid, chid)) = gids.next() {
        if !chid.is_emulated() {
            continue;
        }
        let Some((extension, second)) = gids.as_slice().first() else {
            break;
        };
        if second != chid {
            continue;
        }
        gids.next();
        if *chid == SHM_CHID {
            return Some(ShmGid::from_wire(*gid, *extension));
        }
    }
    None
}

fn accept(identity: &Identity, agreed: &Agreed, local: &ShmLocal) -> Accept {
    let (endpoint, terms) = answer(identity, agreed, local);
    Accept { endpoint, terms }
}

fn confirm(identity: &Identity, agreed: &Agreed, local: &ShmLocal) -> Confirm {
    let (endpoint, terms) = answer(identity, agreed, local);
    Confirm {
        endpoint,
        terms,
        link_gids: Bounded::default(),
    }
}

fn answer(identity: &Identity, agreed: &Agreed, local: &ShmLocal) -> (Endpoint, Terms) {
    let (gid, gid_extension) = local.gid.to_wire();
    let endpoint = Endpoint::Ism(IsmEndpoint {
        gid,
        gid_extension,
        chid: SHM_CHID,
        token: local.token,
        index: local.index,
        size: local.size,
        link_id: 0,
    });
    let first_contact = agreed.first_contact.then_some(FirstContact {
        direct: false,
        os: OsType::LINUX,
        host_name: identity.host_name,
        capabilities: agreed.capabilities,
    });
    (
        endpoint,
        Terms::V2(TermsV2 {
            eid: agreed.eid.into(),
            first_contact,
        }),
    )
}

/// The client: did the server choose what we offered? If not, the Confirm that is due is replaced
/// by a Decline, as Linux does.
fn check_accept(offer: &ShmOffer, accept: &Accept) -> Option<(ShmPeer, Agreed)> {
    let (Endpoint::Ism(ism), Terms::V2(terms)) = (&accept.endpoint, &accept.terms) else {
        return None;
    };
    let eid = offer.eids.0.iter().copied().find(|eid| terms.eid == *eid)?;
    if ism.chid != SHM_CHID {
        return None;
    }
    let capabilities = match &terms.first_contact {
        // Release 1 is what we offered; a server takes the lower one of the two.
        Some(first_contact) if first_contact.capabilities.release() > CAPABILITIES.release() => {
            return None;
        }
        Some(first_contact) => first_contact.capabilities,
        None => CAPABILITIES,
    };
    let agreed = Agreed {
        client: offer.identity.gid,
        eid,
        first_contact: terms.first_contact.is_some(),
        capabilities,
    };
    Some((buffer(ism), agreed))
}

/// The server: does the Confirm come from the client of the Proposal, on the terms of the Accept?
fn check_confirm(agreed: &Agreed, confirm: &Confirm) -> Result<ShmPeer, Field> {
    let (Endpoint::Ism(ism), Terms::V2(terms)) = (&confirm.endpoint, &confirm.terms) else {
        return Err(Field::Path);
    };
    if ism.chid != SHM_CHID {
        return Err(Field::Chid);
    }
    if terms.eid != agreed.eid {
        return Err(Field::Eid);
    }
    let release = |first_contact: &FirstContact| first_contact.capabilities.release();
    if terms.first_contact.as_ref().map(release)
        != agreed
            .first_contact
            .then_some(agreed.capabilities.release())
    {
        return Err(Field::FirstContact);
    }
    let peer = buffer(ism);
    if peer.gid != agreed.client {
        return Err(Field::Gid);
    }
    Ok(peer)
}

fn buffer(ism: &IsmEndpoint) -> ShmPeer {
    ShmPeer {
        gid: ShmGid::from_wire(ism.gid, ism.gid_extension),
        token: ism.token,
        index: ism.index,
        size: ism.size,
    }
}

//! Messages that parse and should not be believed, and messages that end too soon.

use super::pair::refused;
use super::*;
use crate::clc::{FirstContact, OsType};

/// A peer's Accept of version 1 or 2, after a change.
pub(super) fn accept(
    version: Version,
    contact: Contact,
    change: impl FnOnce(&mut RdmaEndpoint, &mut Terms),
) -> Vec<u8> {
    let (mut peer, mut terms) = said(SERVER_ID, version, contact);
    change(&mut peer, &mut terms);
    Message::Accept(crate::clc::Accept {
        endpoint: Endpoint::Rdma(peer),
        terms,
    })
    .emit()
}

/// The same for a Confirm.
fn confirm(
    version: Version,
    contact: Contact,
    change: impl FnOnce(&mut RdmaEndpoint, &mut Terms),
) -> Vec<u8> {
    let (mut peer, mut terms) = said(CLIENT_ID, version, contact);
    change(&mut peer, &mut terms);
    let gid = peer.gid;
    Message::Confirm(crate::clc::Confirm {
        endpoint: Endpoint::Rdma(peer),
        terms,
        link_gids: Bounded::new(vec![gid]).unwrap(),
    })
    .emit()
}

fn said(peer: PeerId, version: Version, contact: Contact) -> (RdmaEndpoint, Terms) {
    let terms = match version {
        Version::V1 => Terms::V1 {
            first_contact: contact.is_first(),
        },
        Version::V2 => Terms::V2(crate::clc::TermsV2 {
            eid: Eid::new("TEAM-A").unwrap().into(),
            first_contact: contact.is_first().then(|| FirstContact {
                direct: true,
                os: OsType::LINUX,
                host_name: HostName::default(),
                capabilities: RELEASE_1,
            }),
        }),
    };
    (endpoint(peer, version), terms)
}

fn extension(terms: &mut Terms) -> &mut FirstContact {
    match terms {
        Terms::V2(terms) => terms.first_contact.as_mut().unwrap(),
        Terms::V1 { .. } => panic!(),
    }
}

fn set_eid(terms: &mut Terms, name: &str) {
    match terms {
        Terms::V2(terms) => terms.eid = Eid::new(name).unwrap().into(),
        Terms::V1 { .. } => panic!(),
    }
}

fn release(release: u8, max_conns: u8, max_links: u8) -> Capabilities {
    match release {
        0 => Capabilities::RELEASE_0,
        _ => Capabilities::release_1(max_conns, max_links, 0),
    }
}

type Change = fn(&mut RdmaEndpoint, &mut Terms);

/// Values that lead nowhere, in either message.
const ENDPOINTS: [(Change, Objection); 13] = [
    (
        |e, _| e.peer_id = PeerId([0; 8]),
        Objection::Value(Field::PeerId),
    ),
    (|e, _| e.gid = Gid([0; 16]), Objection::Value(Field::Gid)),
    (|e, _| e.gid = Gid([0xff; 16]), Objection::Value(Field::Gid)),
    (
        |e, _| e.qp_number = QpNumber::new(0).unwrap(),
        Objection::Value(Field::QpNumber),
    ),
    (
        |e, _| e.qp_number = QpNumber::new(1).unwrap(),
        Objection::Value(Field::QpNumber),
    ),
    (
        |e, _| e.qp_number = QpNumber::MAX,
        Objection::Value(Field::QpNumber),
    ),
    (|e, _| e.token = Token(0), Objection::Value(Field::Token)),
    (
        |e, _| e.address = u64::MAX,
        Objection::Value(Field::Address),
    ),
    (
        |e, _| {
            e.address = u64::MAX - 0xff_ffff;
            e.rmbe_index = RmbeIndex::new(255).unwrap();
            e.rmbe_size = RmbeSize::new(3).unwrap();
        },
        Objection::Value(Field::Address),
    ),
    (
        |e, _| {
            e.address = u64::MAX - (512 << 20) + 2;
            e.rmbe_size = RmbeSize::MAX;
        },
        Objection::Value(Field::Address),
    ),
    (
        |e, _| e.mtu = MtuCode::new(0).unwrap(),
        Objection::ReservedMtu(0),
    ),
    (
        |e, _| e.mtu = MtuCode::new(6).unwrap(),
        Objection::ReservedMtu(6),
    ),
    (
        |e, _| e.mtu = MtuCode::new(15).unwrap(),
        Objection::ReservedMtu(15),
    ),
];

/// The limits of what is allowed, in either message.
const FINE: [Change; 10] = [
    |e, _| e.address = 0,
    |e, _| {
        e.address = u64::MAX - (512 << 20);
        e.rmbe_size = RmbeSize::MAX;
    },
    |e, _| e.rmbe_index = RmbeIndex::new(255).unwrap(),
    |e, _| e.rkey = Rkey(0),
    |e, _| e.mac = Mac([0; 6]),
    |e, _| e.psn = Psn::MAX,
    |e, _| e.qp_number = QpNumber::new(0x00ff_fffe).unwrap(),
    |e, _| e.token = Token(u32::MAX),
    |e, _| e.mtu = MtuCode::new(1).unwrap(),
    |e, _| e.mtu = MtuCode::new(5).unwrap(),
];

fn is_mtu(objection: Objection) -> bool {
    matches!(objection, Objection::ReservedMtu(_))
}

/// A client declines what it cannot use: its Confirm is due.
#[test]
fn accepts_that_lead_nowhere() {
    let now = Instant::now();
    for version in [Version::V1, Version::V2] {
        for contact in [FIRST, Contact::Later] {
            for (change, objection) in ENDPOINTS {
                let mut client = client_of(end(CLIENT_ID), now);
                let bytes = accept(version, contact, change);
                assert_eq!(client.handle_bytes(&bytes, now), Ok(bytes.len()));
                // RFC 7609 §A.2.3: the MTU is looked at in first contact only.
                if is_mtu(objection) && !contact.is_first() {
                    assert_eq!(client.phase(), Phase::Deciding);
                    continue;
                }
                assert_eq!(client.poll_event(), Some(refused(objection.reason())));
                assert_eq!(client.objection(), Some(objection));
                let decline = client.poll_transmit().unwrap();
                assert_eq!(decline.len(), [28, 44][version as usize - 1]);
                assert_eq!(decline_of(&decline).diagnosis, objection.reason().into());
                assert_eq!((client.phase(), client.needed()), (Phase::Tcp, 0));
            }
            for change in FINE {
                let mut client = client_of(end(CLIENT_ID), now);
                let bytes = accept(version, contact, change);
                client.handle_bytes(&bytes, now).unwrap();
                assert_eq!(client.phase(), Phase::Deciding);
            }
        }
    }
}

/// An Accept of something that was not offered.
#[test]
fn accepts_of_what_was_not_offered() {
    let now = Instant::now();
    let v2_only = || only_v2(CLIENT_ID, RELEASE_1);
    let offering = |conns, links| only_v2(CLIENT_ID, Capabilities::release_1(conns, links, 0));
    let of_v1 = accept(Version::V1, FIRST, |_, _| {});
    let of_v2 = accept(Version::V2, FIRST, |_, _| {});
    let other_eid = accept(Version::V2, FIRST, |_, terms| set_eid(terms, "TEAM-B"));
    let later_eid = accept(Version::V2, Contact::Later, |_, t| set_eid(t, "TEAM-B"));
    let limits = |conns, links| {
        accept(Version::V2, FIRST, |_, terms| {
            extension(terms).capabilities = release(1, conns, links);
        })
    };
    let mut release_2 = of_v2.clone();
    release_2[105] = 0x22;
    let release_0 = || only_v2(CLIENT_ID, Capabilities::RELEASE_0);
    let cases: &[(RdmaEnd, &[u8], Objection)] = &[
        (v2_only(), &of_v1, Objection::NotOffered),
        (only_v1(CLIENT_ID), &of_v2, Objection::NotOffered),
        (v2_only(), ACCEPT_SHM, Objection::NotOffered),
        (end(CLIENT_ID), ACCEPT_ISM_V1, Objection::NotOffered),
        (end(CLIENT_ID), &other_eid, Objection::NoCommonEid),
        (end(CLIENT_ID), &later_eid, Objection::NoCommonEid),
        (v2_only(), &release_2, Objection::Release(2)),
        (release_0(), &of_v2, Objection::Release(1)),
        (v2_only(), &limits(15, 2), Objection::MaxConns(15)),
        (v2_only(), &limits(0, 2), Objection::MaxConns(0)),
        (offering(100, 2), &limits(101, 2), Objection::MaxConns(101)),
        (v2_only(), &limits(255, 0), Objection::MaxLinks(0)),
        (v2_only(), &limits(255, 3), Objection::MaxLinks(3)),
        (offering(255, 1), &limits(255, 2), Objection::MaxLinks(2)),
    ];
    for (end, bytes, objection) in cases {
        let mut client = client_of(end.clone(), now);
        client.handle_bytes(bytes, now).unwrap();
        assert_eq!(client.poll_event(), Some(refused(objection.reason())));
        assert_eq!(client.objection(), Some(*objection));
        assert_eq!(client.phase(), Phase::Tcp);
    }
    for (end, bytes) in [
        (offering(100, 1), limits(100, 1)),
        (offering(100, 2), limits(16, 1)),
        (
            v2_only(),
            accept(Version::V2, FIRST, |_, terms| {
                extension(terms).capabilities = release(0, 0, 0);
            }),
        ),
    ] {
        let mut client = client_of(end, now);
        client.handle_bytes(&bytes, now).unwrap();
        assert_eq!(client.phase(), Phase::Deciding);
    }
}

/// At first contact a server may decline a Confirm still (RFC 7609 §C.2), later it may not.
#[test]
fn confirms_that_lead_nowhere() {
    let now = Instant::now();
    let ends = |version| match version {
        Version::V1 => (only_v1(SERVER_ID), only_v1(CLIENT_ID)),
        Version::V2 => (end(SERVER_ID), end(CLIENT_ID)),
    };
    for version in [Version::V1, Version::V2] {
        for contact in [FIRST, Contact::Later] {
            for (change, objection) in ENDPOINTS {
                let (server, client) = ends(version);
                let mut server = server_at_confirm(server, client, contact);
                let bytes = confirm(version, contact, change);
                let result = server.handle_bytes(&bytes, now);
                if is_mtu(objection) && !contact.is_first() {
                    assert_eq!((result, server.phase()), (Ok(bytes.len()), Phase::Done));
                    continue;
                }
                // These two contradict the Proposal as well.
                let field = match objection {
                    Objection::Value(field @ Field::PeerId) => Some(field),
                    Objection::Value(field @ Field::Gid)
                        if version == Version::V2 && contact.is_first() =>
                    {
                        Some(field)
                    }
                    _ => None,
                };
                if let Some(field) = field {
                    assert_eq!(result, Err(HandshakeError::Mismatch(field)));
                    continue;
                }
                if !contact.is_first() {
                    let error = HandshakeError::Unusable(objection);
                    assert_eq!(result, Err(error));
                    assert_eq!(error.reason(), objection.reason());
                    assert_eq!(error.errno(), libc::EPROTO);
                    assert_eq!(error.fault(), Fault::Peer);
                    assert_eq!(server.poll_transmit(), None);
                    continue;
                }
                assert_eq!(result, Ok(bytes.len()));
                assert_eq!(server.phase(), Phase::Crossing);
                assert_eq!(server.objection(), Some(objection));
                let decline = decline_of(&server.poll_transmit().unwrap());
                assert_eq!(decline.diagnosis, objection.reason().into());
                assert_eq!(server.handle_peeked(b"GET"), Peeked::Leave);
                assert_eq!(server.poll_event(), Some(refused(objection.reason())));
            }
            for change in FINE {
                let (server, client) = ends(version);
                let mut server = server_at_confirm(server, client, contact);
                let bytes = confirm(version, contact, change);
                server.handle_bytes(&bytes, now).unwrap();
                assert!(matches!(server.poll_event(), Some(Event::Confirmed(_))));
            }
        }
    }
}

/// A Confirm that does not go with the Proposal or the Accept.
#[test]
fn contradicting_confirms() {
    let now = Instant::now();
    let v2 = |change: Change| confirm(Version::V2, FIRST, change);
    let fatal: &[(Contact, &[u8], Field)] = &[
        (FIRST, CONFIRM_SHM, Field::Path),
        (
            FIRST,
            &confirm(Version::V1, FIRST, |_, _| {}),
            Field::Version,
        ),
        (FIRST, &v2(|e, _| e.peer_id.0[0] ^= 1), Field::PeerId),
        (FIRST, &v2(|_, t| set_eid(t, "TEAM-B")), Field::Eid),
        (FIRST, &v2(|e, _| e.gid.0[15] ^= 1), Field::Gid),
        (
            FIRST,
            &confirm(Version::V2, Contact::Later, |_, _| {}),
            Field::FirstContact,
        ),
        (Contact::Later, &v2(|_, _| {}), Field::FirstContact),
    ];
    for (contact, bytes, field) in fatal {
        let mut server = server_at_confirm(end(SERVER_ID), end(CLIENT_ID), *contact);
        let error = HandshakeError::Mismatch(*field);
        assert_eq!(server.handle_bytes(bytes, now), Err(error));
        assert_eq!(
            (error.reason(), error.fault()),
            (Reason::ClcInvalid, Fault::Peer)
        );
        assert_eq!(
            (server.poll_event(), server.poll_transmit(), server.needed()),
            (None, None, 0)
        );
    }
    let limits = |r, conns, links| {
        confirm(Version::V2, FIRST, move |_, terms| {
            extension(terms).capabilities = release(r, conns, links);
        })
    };
    for (bytes, objection) in [
        (limits(0, 0, 0), Objection::Release(0)),
        (limits(1, 254, 2), Objection::MaxConns(254)),
        (limits(1, 255, 1), Objection::MaxLinks(1)),
    ] {
        let mut server = server_at_confirm(end(SERVER_ID), end(CLIENT_ID), FIRST);
        server.handle_bytes(&bytes, now).unwrap();
        assert_eq!(server.phase(), Phase::Crossing);
        assert_eq!(server.objection(), Some(objection));
        let decline = decline_of(&server.poll_transmit().unwrap());
        assert_eq!(decline.diagnosis, objection.reason().into());
    }
    // Another link of the group may be named at a later contact (RFC 7609 §3.5.2.3), and in version
    // 1 the GID of the Proposal is no promise (§3.5.2.1).
    let other = confirm(Version::V2, Contact::Later, |e, _| e.gid.0[15] ^= 1);
    let mut server = server_at_confirm(end(SERVER_ID), end(CLIENT_ID), Contact::Later);
    server.handle_bytes(&other, now).unwrap();
    assert_eq!(server.phase(), Phase::Done);
    let other = confirm(Version::V1, FIRST, |e, _| e.gid.0[15] ^= 1);
    let mut server = server_at_confirm(only_v1(SERVER_ID), only_v1(CLIENT_ID), FIRST);
    server.handle_bytes(&other, now).unwrap();
    assert_eq!(server.phase(), Phase::Linking);
}

/// Proposals that offer nothing we can take, and what is wrong with them.
#[test]
fn proposals_that_cannot_be_accepted() {
    let now = Instant::now();
    let proposal = |change: fn(&mut crate::clc::Proposal)| {
        let Ok(Message::Proposal(mut proposal)) = Message::parse(PROPOSAL_V2) else {
            panic!()
        };
        change(&mut proposal);
        Message::Proposal(proposal).emit()
    };
    fn v2(proposal: &mut crate::clc::Proposal) -> &mut crate::clc::OfferV2 {
        match &mut proposal.offer {
            crate::clc::Offer::V2 { v2: Some(v2), .. } => v2,
            _ => panic!(),
        }
    }
    fn set(proposal: &mut crate::clc::Proposal, max_conns: u8, max_links: u8) {
        let extension = v2(proposal).extension.as_mut().unwrap();
        extension.capabilities = Capabilities::release_1(max_conns, max_links, 0);
    }
    let mut nothing = PROPOSAL_V2.to_vec();
    nothing.drain(80..152);
    nothing[6] = 84;
    nothing[7] = 0x2a;
    nothing[50..52].fill(0);
    let cases: &[(Vec<u8>, Objection, Fault)] = &[
        (nothing, Objection::NothingInCommon, Fault::Setup),
        (
            PROPOSAL_SHM.to_vec(),
            Objection::NothingInCommon,
            Fault::Setup,
        ),
        (
            proposal(|p| v2(p).extension = None),
            Objection::NoV2Extension,
            Fault::Peer,
        ),
        (
            proposal(|p| v2(p).extension.as_mut().unwrap().eids = Bounded::default()),
            Objection::NoCommonEid,
            Fault::Setup,
        ),
        (
            proposal(|p| set(p, 15, 2)),
            Objection::MaxConns(15),
            Fault::Peer,
        ),
        (
            proposal(|p| set(p, 0, 2)),
            Objection::MaxConns(0),
            Fault::Peer,
        ),
        (
            proposal(|p| set(p, 255, 0)),
            Objection::MaxLinks(0),
            Fault::Peer,
        ),
    ];
    for (bytes, objection, fault) in cases {
        let mut end = only_v2(SERVER_ID, RELEASE_1);
        end.v2.as_mut().unwrap().ueids = eids(&["LIBSMCR-TEST"]);
        let mut server = RdmaServer::new(end, Timeouts::default(), now);
        assert_eq!(server.handle_bytes(bytes, now), Ok(bytes.len()));
        assert_eq!(server.poll_event(), Some(refused(objection.reason())));
        assert_eq!(server.objection(), Some(*objection));
        assert_eq!(objection.fault(), *fault);
        assert_eq!(server.poll_transmit().unwrap().len(), 44);
    }
    // More links than release 1 knows: the lower number counts. A later release: 1 counts.
    let mut end = only_v2(SERVER_ID, RELEASE_1);
    end.v2.as_mut().unwrap().ueids = eids(&["LIBSMCR-TEST"]);
    let mut later = proposal(|p| set(p, 255, 200));
    later[83] = 0xf0;
    let mut server = RdmaServer::new(end, Timeouts::default(), now);
    server.handle_bytes(&later, now).unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    assert_eq!(proposed.settled.release, 1);
    assert_eq!(proposed.settled.limits.unwrap().max_links, 2);
}

/// A message cut off at any length: the machine waits for the rest, and no longer than it may.
#[test]
fn cut_off_at_every_length() {
    let now = Instant::now();
    let late = now + Timeouts::default().accept;
    for accept in [
        accept(Version::V1, FIRST, |_, _| {}),
        accept(Version::V2, FIRST, |_, _| {}),
        accept(Version::V2, Contact::Later, |_, _| {}),
    ] {
        for len in 0..accept.len() {
            let mut client = client_of(end(CLIENT_ID), now);
            assert_eq!(client.handle_bytes(&accept[..len], now), Ok(len));
            assert!(client.needed() > 0 && len + client.needed() <= accept.len());
            assert_eq!((client.poll_event(), client.poll_transmit()), (None, None));
            let error = HandshakeError::Timeout(Kind::Accept);
            assert_eq!(client.handle_timeout(late), Err(error));
            assert_eq!(error.fault(), Fault::Network);
        }
    }
    for (bytes, is_proposal) in [
        (PROPOSAL_V1.to_vec(), true),
        (PROPOSAL_V2.to_vec(), true),
        (confirm(Version::V2, FIRST, |_, _| {}), false),
        (confirm(Version::V2, Contact::Later, |_, _| {}), false),
    ] {
        let contact = match bytes.len() {
            108 => Contact::Later,
            _ => FIRST,
        };
        for len in 0..bytes.len() {
            let (mut server, kind) = if is_proposal {
                let server = RdmaServer::new(end(SERVER_ID), Timeouts::default(), now);
                (server, Kind::Proposal)
            } else {
                let server = server_at_confirm(end(SERVER_ID), end(CLIENT_ID), contact);
                (server, Kind::Confirm)
            };
            assert_eq!(server.handle_bytes(&bytes[..len], now), Ok(len));
            assert_eq!((server.poll_event(), server.poll_transmit()), (None, None));
            assert_eq!(server.handle_end(), Err(HandshakeError::Ended(kind)));
        }
    }
}

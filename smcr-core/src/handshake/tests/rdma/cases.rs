//! Versions, releases, contacts.

use super::pair::*;
use super::*;

/// A client, a server, and the version, release and limits they settle, or why not.
type Case = (
    RdmaEnd,
    RdmaEnd,
    Result<(Version, Option<(u8, u8)>), Objection>,
);

fn cases() -> Vec<Case> {
    let (c, s) = (CLIENT_ID, SERVER_ID);
    let release_0 = Capabilities::RELEASE_0;
    let with_eids = |peer, names: &[&str]| {
        let mut end = end(peer);
        end.v2.as_mut().unwrap().ueids = eids(names);
        end
    };
    let elsewhere = |mut end: RdmaEnd| {
        end.v1.as_mut().unwrap().subnets = Subnets::V4(vec![([198, 51, 100, 1].into(), 24)]);
        end
    };
    let limited = |peer, conns, links| only_v2(peer, Capabilities::release_1(conns, links, 0));
    let both = Ok((Version::V2, Some((255, 2))));
    let first = Ok((Version::V1, None));
    vec![
        (end(c), end(s), both),
        (end(c), only_v1(s), first),
        (end(c), only_v2(s, RELEASE_1), both),
        (only_v1(c), end(s), first),
        (only_v1(c), only_v1(s), first),
        (
            only_v1(c),
            only_v2(s, RELEASE_1),
            Err(Objection::NoCommonVersion),
        ),
        (only_v2(c, RELEASE_1), end(s), both),
        (
            only_v2(c, RELEASE_1),
            only_v1(s),
            Err(Objection::NoCommonVersion),
        ),
        (
            only_v2(c, release_0),
            only_v2(s, RELEASE_1),
            Ok((Version::V2, None)),
        ),
        (
            only_v2(c, RELEASE_1),
            only_v2(s, release_0),
            Ok((Version::V2, None)),
        ),
        (
            only_v2(c, release_0),
            only_v2(s, release_0),
            Ok((Version::V2, None)),
        ),
        (
            limited(c, 16, 2),
            limited(s, 255, 1),
            Ok((Version::V2, Some((16, 1)))),
        ),
        (
            limited(c, 255, 1),
            limited(s, 17, 2),
            Ok((Version::V2, Some((17, 1)))),
        ),
        // What cannot be said is not said: a server would decline it.
        (
            limited(c, 3, 0),
            limited(s, 255, 2),
            Ok((Version::V2, Some((16, 1)))),
        ),
        (
            end(c),
            RdmaEnd {
                v1: None,
                v2: None,
                ..end(s)
            },
            Err(Objection::NoDevice),
        ),
        // No enterprise ID in common: version 1 if that is possible.
        (with_eids(c, &["B"]), end(s), first),
        (end(c), with_eids(s, &[]), first),
        (
            with_eids(c, &["B"]),
            elsewhere(end(s)),
            Err(Objection::NoCommonEid),
        ),
        (elsewhere(end(c)), end(s), both),
        (elsewhere(only_v1(c)), end(s), Err(Objection::OtherSubnet)),
        (only_v1(c), elsewhere(end(s)), Err(Objection::OtherSubnet)),
    ]
}

#[test]
fn versions_releases_and_limits() {
    for (client, server, expected) in cases() {
        let mut pair = Pair::new(client, server, 7);
        pair.run();
        let (version, limits) = match expected {
            Ok(settled) => settled,
            Err(objection) => {
                assert_eq!(pair.server_events, [refused(objection.reason())]);
                assert_eq!(pair.client_events, [declined(objection.reason())]);
                assert_eq!(pair.server.objection(), Some(objection));
                assert_eq!(objection.fault(), Fault::Setup);
                pair.assert_tcp();
                continue;
            }
        };
        let settled = Settled {
            version,
            eid: (version == Version::V2).then(|| Eid::new("TEAM-A").unwrap()),
            release: limits.is_some().into(),
            limits: limits.map(|(max_conns, max_links)| Limits {
                max_conns,
                max_links,
            }),
        };
        let proposed = Proposed {
            peer_id: CLIENT_ID,
            gid: endpoint(CLIENT_ID, version).gid,
            mac: end(CLIENT_ID).mac,
            settled,
        };
        assert_eq!(pair.server_events, [Event::Proposed(proposed)]);
        pair.accept(FIRST);
        let Some(Event::Accepted(accepted)) = pair.client_events.first() else {
            panic!("{:?}", pair.client_events)
        };
        assert_eq!(accepted.peer, endpoint(SERVER_ID, version));
        assert!(accepted.first_contact);
        assert_eq!(accepted.settled, settled);
        assert_eq!(accepted.extension.is_some(), version == Version::V2);
        pair.confirm();
        let Some(Event::Confirmed(confirmed)) = pair.server_events.get(1) else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!(confirmed.peer, endpoint(CLIENT_ID, version));
        assert!(confirmed.first_contact);
        assert_eq!(confirmed.settled, settled);
        let gids: &[Gid] = match version {
            Version::V1 => &[],
            Version::V2 => &[gid_v2(CLIENT_ID)],
        };
        assert_eq!(confirmed.link_gids, gids);
        assert_eq!(pair.phases(), (Phase::Linking, Phase::Linking));
        pair.client.confirm_link_sent().unwrap();
        pair.server.confirm_link_sent().unwrap();
        pair.client.llc_done().unwrap();
        pair.server.llc_done().unwrap();
        pair.run();
        assert_eq!(pair.last_events(), (&Event::Done, &Event::Done));
        assert_eq!(pair.phases(), (Phase::Done, Phase::Done));
        assert_eq!(
            (pair.client.poll_timeout(), pair.server.poll_timeout()),
            (None, None)
        );
        assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
    }
}

#[test]
fn later_contacts_have_no_link_phase() {
    for (client, server, expected) in cases() {
        let Ok((version, _)) = expected else { continue };
        let mut pair = Pair::new(client, server, usize::MAX);
        pair.run();
        pair.accept(Contact::Later);
        let Some(Event::Accepted(accepted)) = pair.client_events.first() else {
            panic!("{:?}", pair.client_events)
        };
        assert!(!accepted.first_contact);
        assert_eq!(
            (&accepted.extension, accepted.settled.limits),
            (&None, None)
        );
        pair.confirm();
        assert_eq!(pair.client_events[1..], [Event::Done]);
        let Some(Event::Confirmed(confirmed)) = pair.server_events.get(1) else {
            panic!("{:?}", pair.server_events)
        };
        assert_eq!(confirmed.peer, endpoint(CLIENT_ID, version));
        assert!(!confirmed.first_contact);
        assert_eq!(
            (&confirmed.extension, &confirmed.link_gids),
            (&None, &vec![])
        );
        assert_eq!(pair.phases(), (Phase::Done, Phase::Done));
        // RFC 7609 §C.1: nobody may decline now.
        let now = pair.now;
        for result in [
            pair.client.decline(Reason::Memory),
            pair.client.llc_failed(Reason::LinkFailed, now),
            pair.client.confirm_link_sent(),
            pair.client.llc_done(),
            pair.server.decline(Reason::Memory),
            pair.server.llc_failed(Reason::LinkFailed, now),
            pair.server.confirm_link_sent(),
            pair.server.llc_done(),
        ] {
            assert_eq!(result, Err(CallError::Phase));
        }
        assert_eq!((pair.client.needed(), pair.server.needed()), (0, 0));
    }
}

#[test]
fn the_smaller_mtu_is_confirmed_at_first_contact() {
    for (ours, theirs, contact, confirmed) in [
        (3, 5, FIRST, 3),
        (5, 3, FIRST, 3),
        (1, 1, FIRST, 1),
        (5, 3, Contact::Later, 5),
        (5, 0, Contact::Later, 5),
        (5, 15, Contact::Later, 5),
    ] {
        for version in [Version::V1, Version::V2] {
            let now = Instant::now();
            let end = match version {
                Version::V1 => only_v1(CLIENT_ID),
                Version::V2 => only_v2(CLIENT_ID, RELEASE_1),
            };
            let mut client = client_of(end, now);
            let mut local = endpoint(CLIENT_ID, version);
            local.mtu = MtuCode::new(ours).unwrap();
            let accept = hostile::accept(version, contact, |peer, _| {
                peer.mtu = MtuCode::new(theirs).unwrap();
            });
            client.handle_bytes(&accept, now).unwrap();
            client.confirm(&local, now).unwrap();
            let bytes = client.poll_transmit().unwrap();
            let Ok(Message::Confirm(confirm)) = Message::parse(&bytes) else {
                panic!()
            };
            let Endpoint::Rdma(said) = confirm.endpoint else {
                panic!()
            };
            assert_eq!(said.mtu.code(), confirmed);
        }
    }
}

#[test]
fn nothing_to_offer_is_a_decline_in_the_place_of_the_proposal() {
    let link_local: Ipv6Addr = "fe80::1".parse().unwrap();
    let without = |subnets| {
        let mut end = only_v1(CLIENT_ID);
        end.v1.as_mut().unwrap().subnets = subnets;
        end
    };
    let nothing = RdmaEnd {
        v1: None,
        v2: None,
        ..end(CLIENT_ID)
    };
    let no_eids = RdmaEnd {
        v2: Some(V2 {
            ueids: eids(&[]),
            ..v2(CLIENT_ID, RELEASE_1)
        }),
        ..nothing.clone()
    };
    for (end, reason) in [
        (nothing, Reason::NoRdmaDevice),
        (no_eids, Reason::NoRdmaDevice),
        (without(Subnets::V4(vec![])), Reason::NoSubnet),
        (
            without(Subnets::V6(vec![(link_local, 64)])),
            Reason::NoSubnet,
        ),
    ] {
        let mut pair = Pair::new(end, self::end(SERVER_ID), 3);
        pair.run();
        assert_eq!(pair.client_events, [refused(reason)]);
        assert_eq!(pair.server_events, [declined(reason)]);
        pair.assert_tcp();
    }
}

/// RFC 7609 §A.2.2, §3.5.1.2; Linux compares the length, too.
#[test]
fn subnets() {
    let v4 = |address: [u8; 4], bits| Subnets::V4(vec![(address.into(), bits)]);
    let v6 = |subnets: &[(&str, u8)]| {
        let subnets = subnets.iter().map(|(a, bits)| (a.parse().unwrap(), *bits));
        Subnets::V6(subnets.collect())
    };
    let several = Subnets::V4(vec![
        ([10, 0, 0, 1].into(), 8),
        ([192, 0, 2, 200].into(), 24),
    ]);
    let nine: Vec<_> = (1..=9).map(|i| format!("2001:db8:{i}::1")).collect();
    let nine: Vec<_> = nine.iter().map(|a| (&a[..], 48)).collect();
    let cases = [
        (v4([192, 0, 2, 1], 24), v4([192, 0, 2, 254], 24), true),
        (v4([192, 0, 2, 1], 24), v4([192, 0, 2, 254], 25), false),
        (v4([192, 0, 2, 1], 24), v4([192, 0, 2, 2], 25), false),
        (v4([192, 0, 2, 1], 24), v4([192, 0, 3, 1], 24), false),
        (v4([192, 0, 2, 1], 24), several.clone(), true),
        (several, v4([192, 0, 2, 1], 24), false),
        (v4([1, 2, 3, 4], 0), v4([5, 6, 7, 8], 0), true),
        (v4([1, 2, 3, 4], 32), v4([1, 2, 3, 4], 32), true),
        (v4([1, 2, 3, 4], 32), v4([1, 2, 3, 5], 32), false),
        (v4([127, 0, 0, 1], 8), v6(&[("::1", 128)]), false),
        (v6(&[("2001:db8::1", 64)]), v4([192, 0, 2, 1], 24), false),
        (
            v6(&[("2001:db8::1", 64)]),
            v6(&[("2001:db8::ffff", 64)]),
            true,
        ),
        (
            v6(&[("2001:db8::1", 64)]),
            v6(&[("2001:db8::2", 48)]),
            false,
        ),
        (
            v6(&[("2001:db8::1", 64)]),
            v6(&[("2001:db8:1::1", 64)]),
            false,
        ),
        (
            v6(&[("fe80::1", 64), ("2001:db8::1", 64)]),
            v6(&[("fe80::2", 64)]),
            false,
        ),
        (
            v6(&[("fe80::1", 64), ("2001:db8:9::1", 48), ("::1", 128)]),
            v6(&[("fe80::2", 64), ("2001:db8:9::2", 48)]),
            true,
        ),
        // Eight fit into a Proposal.
        (v6(&nine), v6(&[("2001:db8:8::9", 48)]), true),
        (v6(&nine), v6(&[("2001:db8:9::9", 48)]), false),
    ];
    for (client, server, same) in cases {
        let mut ends = [only_v1(CLIENT_ID), only_v1(SERVER_ID)];
        ends[0].v1.as_mut().unwrap().subnets = client.clone();
        ends[1].v1.as_mut().unwrap().subnets = server.clone();
        let [c, s] = ends;
        let mut pair = Pair::new(c, s, usize::MAX);
        pair.run();
        let proposed = matches!(pair.server_events[..], [Event::Proposed(_)]);
        assert_eq!(proposed, same, "{client:?} {server:?}");
        if !same {
            assert_eq!(pair.server_events, [refused(Reason::OtherSubnet)]);
        }
    }
}

/// Every interface has the link-local prefix: a client that names it says nothing.
#[test]
fn link_local_prefixes_do_not_count() {
    let now = Instant::now();
    let mut message = Message::parse(PROPOSAL_V1).unwrap();
    let Message::Proposal(proposal) = &mut message else {
        panic!()
    };
    let crate::clc::Offer::V1 { v1, .. } = &mut proposal.offer else {
        panic!()
    };
    let mut prefix = [0; 16];
    prefix[..2].copy_from_slice(&[0xfe, 0x80]);
    let prefix = crate::clc::Ipv6Prefix { prefix, bits: 64 };
    v1.ip = crate::clc::IpArea {
        prefixes: Bounded::new(vec![prefix]).unwrap(),
        ..Default::default()
    };
    let mut end = only_v1(SERVER_ID);
    let address = "fe80::2".parse().unwrap();
    end.v1.as_mut().unwrap().subnets = Subnets::V6(vec![(address, 64)]);
    let mut server = RdmaServer::new(end, Timeouts::default(), now);
    server.handle_bytes(&message.emit(), now).unwrap();
    assert_eq!(server.poll_event(), Some(refused(Reason::OtherSubnet)));
}

/// Each field varied; what belongs to the connection does not count.
#[test]
fn links_are_recognised() {
    let known = endpoint(SERVER_ID, Version::V2);
    let differs: [(Change, bool, bool); 9] = [
        (|_| {}, true, true),
        (|e| e.peer_id.0[7] ^= 1, false, false),
        (|e| e.gid.0[15] ^= 1, false, false),
        (|e| e.qp_number = QpNumber::new(9).unwrap(), false, false),
        (|e| e.mac.0[5] ^= 1, false, true),
        (|e| e.rkey.0 ^= 1, true, true),
        (|e| e.token.0 ^= 1, true, true),
        (|e| e.address ^= 1, true, true),
        (|e| e.mtu = MtuCode::new(0).unwrap(), true, true),
    ];
    for (change, in_v1, in_v2) in differs {
        let mut said = known.clone();
        change(&mut said);
        assert_eq!(names_link(Version::V1, &said, &known), in_v1);
        assert_eq!(names_link(Version::V2, &said, &known), in_v2);
    }
}

/// Of several enterprise IDs the first one in the client's order counts.
#[test]
fn the_clients_first_ueid_wins() {
    let mut ends = [
        only_v2(CLIENT_ID, RELEASE_1),
        only_v2(SERVER_ID, Capabilities::RELEASE_0),
    ];
    ends[0].v2.as_mut().unwrap().ueids = eids(&["A", "B", "C"]);
    ends[1].v2.as_mut().unwrap().ueids = eids(&["X", "C", "B"]);
    let [c, s] = ends;
    let mut pair = Pair::new(c, s, usize::MAX);
    pair.run();
    pair.accept(FIRST);
    let Some(Event::Accepted(accepted)) = pair.client_events.first() else {
        panic!()
    };
    assert_eq!(accepted.settled.eid, Some(Eid::new("B").unwrap()));
}

type Change = fn(&mut RdmaEndpoint);

/// What we say of ourselves has to fit: nothing goes out that a peer would refuse.
#[test]
fn our_own_endpoint_is_checked() {
    let changes: [(Change, Field); 9] = [
        (|e| e.peer_id.0[0] ^= 1, Field::PeerId),
        (|e| e.gid.0[15] ^= 1, Field::Gid),
        (|e| e.qp_number = QpNumber::new(1).unwrap(), Field::QpNumber),
        (|e| e.qp_number = QpNumber::MAX, Field::QpNumber),
        (|e| e.token = Token(0), Field::Token),
        (|e| e.address = u64::MAX - 1, Field::Address),
        (|e| e.mtu = MtuCode::new(0).unwrap(), Field::Mtu),
        (|e| e.mtu = MtuCode::new(6).unwrap(), Field::Mtu),
        // RFC 7609 §A.2.3: 512 KiB.
        (|e| e.rmbe_size = RmbeSize::new(6).unwrap(), Field::RmbeSize),
    ];
    for (change, field) in changes {
        let mut pair = Pair::new(only_v1(CLIENT_ID), only_v1(SERVER_ID), usize::MAX);
        pair.run();
        let mut bad = endpoint(SERVER_ID, Version::V1);
        change(&mut bad);
        let error = Err(CallError::Endpoint(field));
        assert_eq!(pair.server.accept(&bad, FIRST, pair.now), error);
        pair.accept(FIRST);
        let mut bad = endpoint(CLIENT_ID, Version::V1);
        change(&mut bad);
        assert_eq!(pair.client.confirm(&bad, pair.now), error);
        pair.confirm();
        assert_eq!(pair.phases(), (Phase::Linking, Phase::Linking));
    }
    // Version 2 can say more.
    let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), usize::MAX);
    pair.run();
    let mut big = endpoint(SERVER_ID, Version::V2);
    big.rmbe_size = RmbeSize::MAX;
    pair.server.accept(&big, FIRST, pair.now).unwrap();
    // A later contact may be over any link, and does not look at the MTU.
    let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), usize::MAX);
    pair.run();
    let mut other = endpoint(SERVER_ID, Version::V2);
    other.gid.0[15] ^= 1;
    other.mtu = MtuCode::new(0).unwrap();
    pair.server
        .accept(&other, Contact::Later, pair.now)
        .unwrap();
}

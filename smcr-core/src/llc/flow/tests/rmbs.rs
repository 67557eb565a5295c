//! RMBs of two groups of one link.

use super::*;
use Role::{Client, Server};

#[test]
fn rmbs_of_both_sides() {
    for version in [Version::V1, Version::V2] {
        let mut pair = Pair::settled(version);
        let now = pair.now;
        // Both at once is no collision.
        for (role, rkey) in [(Client, 1), (Server, 2)] {
            pair.group(role)
                .confirm_rkey(now, RmbId(rkey), &[(A, rtoken(rkey))])
                .unwrap();
        }
        pair.drive();
        for (role, own, peer) in [(Client, 1, 2), (Server, 2, 1)] {
            let mut events = pair.events_of(role);
            events.sort_by_key(|event| matches!(event, Event::RmbConfirmed { .. }));
            assert_eq!(
                events,
                [
                    Event::PeerAddedRmb {
                        rtokens: vec![(A, rtoken(peer))]
                    },
                    Event::RmbConfirmed { rmb: RmbId(own) }
                ]
            );
            assert!(pair.group(role).knows_peer_rmb(A, rtoken(peer)));
        }
        // Once more is nothing new; then it goes, and then it is unknown.
        pair.events.clear();
        let tokens = [(A, rtoken(1))];
        pair.client.confirm_rkey(now, RmbId(1), &tokens).unwrap();
        pair.client.delete_rkey(now, RmbId(1), &tokens).unwrap();
        pair.client.delete_rkey(now, RmbId(1), &tokens).unwrap();
        pair.drive();
        assert_eq!(
            pair.events_of(Server),
            [Event::PeerDeletedRmb {
                rtokens: tokens.to_vec()
            }]
        );
        let deleted = |outcome| Event::RmbDeleted {
            rmb: RmbId(1),
            outcome,
        };
        assert_eq!(
            pair.events_of(Client),
            [
                Event::RmbConfirmed { rmb: RmbId(1) },
                deleted(RmbDeletion::Done),
                deleted(RmbDeletion::Unknown)
            ]
        );
        assert_eq!(pair.server.peer_rmbs(), 0);
    }
}

#[test]
fn one_exchange_of_ours_at_a_time_and_new_rmbs_first() {
    let mut pair = Pair::settled(Version::V1);
    let now = pair.now;
    let tokens = |rkey| [(A, rtoken(rkey))];
    pair.client.delete_rkey(now, RmbId(1), &tokens(1)).unwrap();
    pair.client.delete_rkey(now, RmbId(2), &tokens(2)).unwrap();
    pair.client.confirm_rkey(now, RmbId(3), &tokens(3)).unwrap();
    // This one is about an RMB that has to go first.
    pair.client.confirm_rkey(now, RmbId(2), &tokens(2)).unwrap();
    let mut order = Vec::new();
    while let Some(message) = pair.client.poll_transmit() {
        assert_eq!(pair.client.poll_transmit(), None);
        order.push(message.bytes[0]);
        pair.server.handle_message(now, A, &message.bytes);
        let response = pair.server.poll_transmit().unwrap();
        pair.client.handle_message(now, A, &response.bytes);
    }
    assert_eq!(order, [9, 6, 9, 6]);
}

#[test]
fn too_many_wait() {
    let mut pair = Pair::settled(Version::V1);
    let now = pair.now;
    let tokens = [(A, rtoken(1))];
    for _ in 0..=MAX_OWN_JOBS {
        pair.client.delete_rkey(now, RmbId(1), &tokens).unwrap();
    }
    assert_eq!(
        pair.client.delete_rkey(now, RmbId(1), &tokens),
        Err(CallError::Busy)
    );
    assert_eq!(
        pair.client.confirm_rkey(now, RmbId(1), &[]),
        Err(CallError::Rtokens)
    );
    assert_eq!(
        pair.client.delete_rkey(now, RmbId(1), &[(B, rtoken(1))]),
        Err(CallError::Rtokens)
    );
}

#[test]
fn the_peer_has_its_255_rmbs() {
    let mut pair = Pair::settled(Version::V1);
    pair.server.add_peer_rmb(A, rtoken(0)).unwrap();
    for rkey in 1..=255 {
        let now = pair.now;
        pair.client
            .confirm_rkey(now, RmbId(rkey), &[(A, rtoken(rkey))])
            .unwrap();
        pair.drive();
    }
    assert_eq!(pair.server.peer_rmbs(), 255);
    let events = pair.events_of(Client);
    assert_eq!(events.len(), 255);
    assert_eq!(events[253], Event::RmbConfirmed { rmb: RmbId(254) });
    assert_eq!(events[254], Event::RmbRefused { rmb: RmbId(255) });
    assert_eq!(
        pair.server.add_peer_rmb(A, rtoken(255)),
        Err(PeerRmbError::Full)
    );
    assert_eq!(pair.server.add_peer_rmb(A, rtoken(9)), Ok(()));
    let elsewhere = Rtoken {
        address: 1,
        ..rtoken(9)
    };
    assert_eq!(
        pair.server.add_peer_rmb(A, elsewhere),
        Err(PeerRmbError::Conflict)
    );
}

/// A peer that says "try again" is believed a few times.
#[test]
fn refused_with_a_hint_to_try_again() {
    for (flags, sends) in [(0xb0, 5), (0xa0, 1)] {
        let mut pair = Pair::settled(Version::V1);
        let start = pair.now;
        pair.client
            .confirm_rkey(start, RmbId(1), &[(A, rtoken(1))])
            .unwrap();
        let mut count = 0;
        while let Some(mut message) = pair.client.poll_transmit() {
            count += 1;
            message.bytes[3] = flags;
            let now = pair.now;
            pair.client.handle_message(now, A, &message.bytes);
            // Not at once.
            assert_eq!(pair.client.poll_transmit(), None);
            let Some(due) = pair.client.poll_timeout() else {
                break;
            };
            if !drain(&mut pair.client).is_empty() {
                break;
            }
            assert_eq!(due, now + Duration::from_millis(100));
            pair.now = due;
            pair.client.handle_timeout(due);
        }
        assert_eq!(count, sends, "{flags:#x}");
    }
}

#[test]
fn no_answer_about_an_rmb() {
    // A new one: the link has failed.
    let mut pair = Pair::settled(Version::V2);
    pair.cut.push(A);
    let now = pair.now;
    pair.client
        .confirm_rkey(now, RmbId(1), &[(A, rtoken(1))])
        .unwrap();
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.events_of(Client),
        [
            Event::LinkFailed {
                link: A,
                reason: LinkFailure::NoResponse
            },
            Event::Ended {
                reason: EndReason::LastLinkFailed(LinkFailure::NoResponse)
            }
        ]
    );
    // An old one: that is all.
    let mut pair = Pair::settled(Version::V2);
    pair.cut.push(A);
    let now = pair.now;
    pair.client
        .delete_rkey(now, RmbId(1), &[(A, rtoken(1))])
        .unwrap();
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.events_of(Client),
        [Event::RmbDeleted {
            rmb: RmbId(1),
            outcome: RmbDeletion::NoResponse
        }]
    );
}

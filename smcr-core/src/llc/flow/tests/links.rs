//! Two links: what is there already for the day when the second one can be made.

use super::*;
use Role::{Client, Server};

const BOTH: [(LinkId, Rtoken); 2] = [
    (
        A,
        Rtoken {
            rkey: Rkey(1),
            address: 0x1000,
        },
    ),
    (
        B,
        Rtoken {
            rkey: Rkey(2),
            address: 0x2000,
        },
    ),
];

#[test]
fn rmbs_are_listed_for_both() {
    let mut pair = Pair::with_two_links(Version::V2);
    let now = pair.now;
    assert_eq!(
        pair.client.confirm_rkey(now, RmbId(1), &BOTH[..1]),
        Err(CallError::Rtokens)
    );
    pair.client.confirm_rkey(now, RmbId(1), &BOTH).unwrap();
    pair.drive();
    assert_eq!(
        pair.events_of(Server),
        [Event::PeerAddedRmb {
            rtokens: BOTH.to_vec()
        }]
    );
    assert_eq!(
        pair.events_of(Client),
        [Event::RmbConfirmed { rmb: RmbId(1) }]
    );
    // Its key on either link names it.
    let turned = [BOTH[1], BOTH[0]];
    pair.client.delete_rkey(now, RmbId(1), &turned).unwrap();
    pair.drive();
    assert_eq!(pair.wire.last().unwrap().1, B);
    assert_eq!(pair.server.peer_rmbs(), 0);
}

#[test]
fn an_rmb_that_is_not_reached_over_a_link_takes_it_down() {
    let mut pair = Pair::with_two_links(Version::V1);
    pair.server.links.retain(|link| link.id == A); // it has lost one, and not said so
    let now = pair.now;
    pair.server.confirm_rkey(now, RmbId(1), &BOTH[..1]).unwrap();
    pair.drive();
    assert_eq!(
        pair.events_of(Client)[1],
        Event::LinkFailed {
            link: B,
            reason: LinkFailure::NotInConfirmRkey
        }
    );
    assert_eq!(
        pair.events_of(Server),
        [Event::RmbConfirmed { rmb: RmbId(1) }]
    );
    assert!(pair.client.is_settled() && pair.server.is_settled());
}

#[test]
fn one_link_is_deleted_and_the_other_lives() {
    for role in [Client, Server] {
        let mut pair = Pair::with_two_links(Version::V2);
        let now = pair.now;
        pair.group(role)
            .delete_link(now, A, DeleteReason::OPERATOR)
            .unwrap();
        pair.drive();
        // All of it over the link that stays.
        assert!(pair.wire.iter().all(|(_, link, _)| *link == B));
        for role in [Client, Server] {
            assert_eq!(
                pair.events_of(role),
                [Event::LinkDeleted {
                    link: A,
                    reason: DeleteReason::OPERATOR
                }]
            );
            let group = pair.group(role);
            assert!(group.is_settled());
            assert_eq!(
                group.active_links().collect::<Vec<_>>(),
                [(B, LinkNumber(2))]
            );
        }
    }
}

#[test]
fn a_failure_is_told_over_the_other_link() {
    for role in [Client, Server] {
        let mut pair = Pair::with_two_links(Version::V2);
        pair.cut.push(A);
        let now = pair.now;
        pair.group(role).link_failed(now, A);
        pair.drive();
        assert_eq!(
            pair.events_of(role),
            [Event::LinkFailed {
                link: A,
                reason: LinkFailure::Reported
            }]
        );
        assert!(pair.client.is_settled() && pair.server.is_settled());
        if role == Server {
            assert_eq!(
                pair.events_of(Client),
                [Event::LinkDeleted {
                    link: A,
                    reason: DeleteReason::LOST_PATH
                }]
            );
        }
        assert_eq!(pair.group(other(role)).active_links().count(), 1);
    }
}

#[test]
fn an_rmb_is_confirmed_over_the_other_link_instead() {
    let mut pair = Pair::with_two_links(Version::V2);
    pair.cut.push(A);
    let now = pair.now;
    pair.client.confirm_rkey(now, RmbId(1), &BOTH).unwrap();
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.events_of(Client),
        [
            Event::LinkFailed {
                link: A,
                reason: LinkFailure::NoResponse
            },
            Event::RmbConfirmed { rmb: RmbId(1) }
        ]
    );
    assert!(pair.server.knows_peer_rmb(B, BOTH[1].1));
}

/// RFC 7609 §3.5.5.3.2: the server answers no list of links while it deletes one.
#[test]
fn an_rmb_that_crosses_the_deletion_of_a_link() {
    let mut pair = Pair::with_two_links(Version::V2);
    let now = pair.now;
    pair.server
        .delete_link(now, B, DeleteReason::OPERATOR)
        .unwrap();
    pair.client.confirm_rkey(now, RmbId(1), &BOTH).unwrap();
    pair.drive();
    let refused = |(role, head): &(Role, [u8; 4])| *role == Server && *head == [0x26, 0, 44, 0xb0];
    assert!(pair.heads().iter().any(refused));
    assert_eq!(
        pair.events_of(Client),
        [Event::LinkDeleted {
            link: B,
            reason: DeleteReason::OPERATOR
        }]
    );
    // The client does it again, and lists what is left.
    pair.pass(Duration::from_millis(100));
    assert_eq!(
        pair.events_of(Client).last(),
        Some(&Event::RmbConfirmed { rmb: RmbId(1) })
    );
    assert!(pair.server.knows_peer_rmb(A, BOTH[0].1));
}

#[test]
fn our_rmbs_wait_while_a_link_goes() {
    let mut pair = Pair::with_two_links(Version::V2);
    let now = pair.now;
    pair.server
        .delete_link(now, B, DeleteReason::OPERATOR)
        .unwrap();
    pair.server.confirm_rkey(now, RmbId(1), &BOTH).unwrap();
    assert_eq!(sent(&mut pair.server).len(), 1);
    assert!(!pair.server.is_settled());
    // And a link waits while an RMB is confirmed.
    let mut pair = Pair::with_two_links(Version::V2);
    pair.server.confirm_rkey(now, RmbId(1), &BOTH).unwrap();
    pair.server
        .delete_link(now, B, DeleteReason::OPERATOR)
        .unwrap();
    pair.drive();
    let kinds: Vec<_> = pair.heads().iter().map(|(_, head)| head[0]).collect();
    assert_eq!(kinds, [0x26, 0x26, 0x24, 0x24]);
}

#[test]
fn a_deletion_without_an_answer_costs_its_carrier() {
    let mut pair = Pair::with_two_links(Version::V2);
    pair.cut.push(B);
    let now = pair.now;
    pair.server
        .delete_link(now, A, DeleteReason::OPERATOR)
        .unwrap();
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.events_of(Server),
        [
            Event::LinkDeleted {
                link: A,
                reason: DeleteReason::OPERATOR
            },
            Event::LinkFailed {
                link: B,
                reason: LinkFailure::NoResponse
            },
            Event::Ended {
                reason: EndReason::LastLinkFailed(LinkFailure::NoResponse)
            }
        ]
    );
}

/// More links than fit into CONFIRM RKEY: the rest follows, part by part.
#[test]
fn continuations() {
    let mut pair = Pair::settled(Version::V1);
    let mut rtokens = vec![(A, rtoken(1))];
    for number in 2..=8 {
        let id = LinkId(number.into());
        for role in [Client, Server] {
            let now = pair.now;
            let config = link(role, id, 0x10 + u32::from(number));
            pair.group(role)
                .insert_active(config, LinkNumber(number), now);
        }
        rtokens.push((id, rtoken(number.into())));
    }
    let now = pair.now;
    pair.client.confirm_rkey(now, RmbId(1), &rtokens).unwrap();
    pair.drive();
    // Seven others: two, three, two.
    let requests: Vec<_> = pair
        .wire
        .iter()
        .filter(|(role, ..)| *role == Client)
        .map(|(_, _, bytes)| (bytes[0], bytes[4]))
        .collect();
    assert_eq!(requests, [(6, 7), (8, 5), (8, 2)]);
    assert_eq!(pair.events_of(Server), [Event::PeerAddedRmb { rtokens }]);
    assert_eq!(
        pair.events_of(Client),
        [Event::RmbConfirmed { rmb: RmbId(1) }]
    );

    // A part that does not fit is refused, and so is what would follow it.
    let message = |kind, count| {
        let mut bytes = vec![0; 44];
        bytes[..2].copy_from_slice(&[kind, 44]);
        bytes[4] = count;
        bytes
    };
    for (kind, count, flags) in [(6, 7, 0x80), (8, 4, 0xa0), (8, 1, 0xa0)] {
        pair.server.handle_message(now, A, &message(kind, count));
        assert_eq!(sent(&mut pair.server)[0][3], flags);
    }
    assert_eq!(pair.server.peer_rmbs(), 1);
}

#[test]
fn numbers_are_not_used_again_soon() {
    let mut pair = Pair::with_two_links(Version::V1);
    let numbers: Vec<_> = (0..300).map(|_| pair.server.next_number().0).collect();
    assert_eq!(numbers[..253], (3..=255).collect::<Vec<_>>());
    // 1 and 2 are still in use.
    assert_eq!(numbers[253..256], [3, 4, 5]);
}

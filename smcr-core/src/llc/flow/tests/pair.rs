//! Two groups of one link.

use super::*;
use crate::cdc::EyeCatcher;
use crate::llc::TestLink;
use Role::{Client, Server};

const CONFIRMED: Event = Event::LinkConfirmed {
    link: A,
    number: LinkNumber(1),
    eye_catcher: EyeCatcher::None,
    max_conns: 255,
};

#[test]
fn first_contact() {
    for (version, heads) in [
        (
            Version::V2,
            [
                (Server, [0x21, 0, 44, 0x03]),
                (Client, [0x21, 0, 44, 0x83]),
                (Server, [0x22, 0, 44, 0x00]),
                (Client, [0x22, 0, 44, 0xc0]),
            ],
        ),
        (
            Version::V1,
            [
                (Server, [0x01, 44, 0, 0x03]),
                (Client, [0x01, 44, 0, 0x83]),
                (Server, [0x02, 44, 0, 0x00]),
                (Client, [0x02, 44, 2, 0xc0]), // reason 2: the MTU
            ],
        ),
    ] {
        let mut pair = Pair::new(version);
        pair.drive();
        assert_eq!(pair.heads(), heads);
        assert_eq!(
            pair.events_of(Client),
            [Event::Activate { link: A }, CONFIRMED, Event::Settled]
        );
        assert_eq!(pair.events_of(Server), [CONFIRMED, Event::Settled]);
        for group in [&pair.client, &pair.server] {
            assert!(group.is_settled());
            assert_eq!(
                group.active_links().collect::<Vec<_>>(),
                [(A, LinkNumber(1))]
            );
        }
    }
}

#[test]
fn first_contact_of_one_link() {
    let of = |role| Config {
        max_links: 1,
        add_link_follows: false,
        ..config(role, Version::V2)
    };
    let mut pair = Pair::with(of(Client), of(Server));
    pair.drive();
    assert_eq!(
        pair.heads(),
        [(Server, [0x21, 0, 44, 0x03]), (Client, [0x21, 0, 44, 0x83])]
    );
    assert!(pair.client.is_settled() && pair.server.is_settled());
    assert_eq!((pair.client.max_links(), pair.server.max_links()), (1, 1));
}

/// There are none only if neither end wants them; who answers says what will be.
#[test]
fn eye_catchers_that_one_end_wants() {
    use EyeCatcher::{FourBytes, None};
    for (client, server, flags, expected) in [
        (None, None, [0x03, 0x83], None),
        (FourBytes, None, [0x03, 0x80], FourBytes),
        (None, FourBytes, [0x00, 0x80], FourBytes),
        (FourBytes, FourBytes, [0x00, 0x80], FourBytes),
    ] {
        let of = |role, eye_catcher| Config {
            eye_catcher,
            ..config(role, Version::V2)
        };
        let mut pair = Pair::with(of(Client, client), of(Server, server));
        pair.drive();
        let heads = pair.heads();
        assert_eq!([heads[0].1[3], heads[1].1[3]], flags);
        for role in [Client, Server] {
            let events = pair.events_of(role).into_iter();
            let agreed: Vec<_> = events
                .filter_map(|event| match event {
                    Event::LinkConfirmed { eye_catcher, .. } => Some(eye_catcher),
                    _ => Option::None,
                })
                .collect();
            assert_eq!(agreed, [expected], "{role:?}");
        }
    }
}

#[test]
fn the_smaller_maximum_counts() {
    for (client, server, expected) in [(2, 8, 2), (8, 2, 2), (3, 3, 3), (2, 1, 1)] {
        let of = |role, max_links| Config {
            max_links,
            ..config(role, Version::V1)
        };
        let mut pair = Pair::with(of(Client, client), of(Server, server));
        pair.drive();
        assert_eq!(pair.client.max_links(), expected);
        assert_eq!(pair.server.max_links(), expected);
    }
}

#[test]
fn nothing_comes_at_first_contact() {
    for (role, wait) in [
        (Client, Duration::from_secs(4)),
        (Server, Duration::from_secs(2)),
    ] {
        let mut pair = Pair::new(Version::V2);
        pair.cut.push(A);
        let start = pair.now;
        pair.pass(wait - Duration::from_nanos(1));
        assert_eq!(pair.group(role).poll_timeout(), Some(start + wait));
        assert!(pair.events_of(role).is_empty());
        pair.pass(Duration::from_nanos(1));
        assert_eq!(
            pair.events_of(role),
            [
                Event::LinkFailed {
                    link: A,
                    reason: LinkFailure::NotConfirmed
                },
                Event::Ended {
                    reason: EndReason::LastLinkFailed(LinkFailure::NotConfirmed)
                }
            ]
        );
        assert!(pair.group(role).is_ended());
        assert_eq!(pair.group(role).poll_timeout(), None);
    }
}

/// A Linux client may lose the first request.
#[test]
fn the_server_asks_twice() {
    let mut pair = Pair::new(Version::V2);
    pair.cut.push(A);
    pair.drive();
    pair.cut.clear();
    pair.pass(Duration::from_secs(1));
    assert!(pair.client.is_settled() && pair.server.is_settled());
    let requests = pair.heads();
    let requests = requests.iter().filter(|(_, head)| head[0] == 0x21);
    assert_eq!(requests.count(), 3);
}

/// The owner has to make its queue pair ready; if it does not, the link fails like any other.
#[test]
fn an_owner_that_does_nothing() {
    let now = Instant::now();
    let mut pair = Pair::new(Version::V2);
    let request = pair.server.poll_transmit().unwrap();
    pair.client.handle_message(now, A, &request.bytes);
    assert_eq!(drain(&mut pair.client), [Event::Activate { link: A }]);
    assert_eq!(pair.client.poll_transmit(), None);
    let due = pair.client.poll_timeout().unwrap();
    pair.client.handle_timeout(due);
    assert!(pair.client.is_ended());
    assert_eq!(pair.client.activated(due, A), Err(CallError::Ended));
}

#[test]
fn the_client_goes_on_without_add_link() {
    let server = Config {
        add_link_follows: false,
        ..config(Server, Version::V2)
    };
    let mut pair = Pair::with(config(Client, Version::V2), server);
    pair.drive();
    assert!(!pair.client.is_settled());
    // Data may flow already; RMBs wait.
    let (rmb, now) = (RmbId(7), pair.now);
    pair.client
        .confirm_rkey(now, rmb, &[(A, rtoken(7))])
        .unwrap();
    assert_eq!(pair.client.poll_transmit(), None);
    pair.pass(Duration::from_secs(2));
    let events = pair.events_of(Client);
    assert_eq!(events[2..], [Event::Settled, Event::RmbConfirmed { rmb }]);
}

#[test]
fn the_server_goes_on_without_an_answer_to_add_link() {
    let mut pair = Pair::new(Version::V2);
    let request = pair.server.poll_transmit().unwrap();
    let now = pair.now;
    pair.client.handle_message(now, A, &request.bytes);
    pair.client.activated(now, A).unwrap();
    let response = pair.client.poll_transmit().unwrap();
    pair.server.handle_message(now, A, &response.bytes);
    assert_eq!(sent(&mut pair.server).len(), 1);
    drain(&mut pair.server);
    let due = pair.server.poll_timeout().unwrap();
    assert_eq!(due, now + Duration::from_secs(2));
    pair.server.handle_timeout(due);
    assert_eq!(drain(&mut pair.server), [Event::Settled]);
    assert_eq!(pair.server.active_links().count(), 1);
}

#[test]
fn idle_links_are_tested() {
    let mut pair = Pair::settled(Version::V2);
    pair.pass(Duration::from_secs(29));
    assert!(pair.wire.is_empty());
    // A sign of life puts it off, at that end.
    let now = pair.now;
    pair.server.handle_activity(now, A);
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.heads(),
        [(Client, [0x27, 0, 44, 0x00]), (Server, [0x27, 0, 44, 0x80])]
    );
    assert_eq!(pair.events_of(Client), [Event::LinkTested { link: A }]);
    // The question is a sign of life, too.
    pair.pass(Duration::from_secs(28));
    assert_eq!(pair.wire.len(), 2);
    // For ever, if nobody says anything else.
    pair.pass(Duration::from_secs(3600));
    assert!(pair.wire.len() > 200, "{}", pair.wire.len());
    assert!(!pair.client.is_ended() && !pair.server.is_ended());
}

#[test]
fn a_dead_peer_is_noticed() {
    let mut pair = Pair::settled(Version::V2);
    pair.cut.push(A);
    pair.pass(Duration::from_millis(31_999));
    assert!(pair.events.is_empty());
    pair.pass(Duration::from_millis(1));
    for role in [Client, Server] {
        assert_eq!(
            pair.events_of(role)[1],
            Event::Ended {
                reason: EndReason::LastLinkFailed(LinkFailure::NoTestResponse)
            }
        );
    }
}

/// Its adapter acknowledges what it does not answer, as when its process is stopped.
#[test]
fn a_stopped_peer_is_kept() {
    let mut pair = Pair::settled(Version::V2);
    pair.cut.push(A);
    let begin = pair.now;
    for _ in 0..3 {
        pair.pass(Duration::from_secs(30));
        pair.client.handle_delivery(A);
        pair.server.handle_delivery(A);
        pair.pass(Duration::from_secs(2));
    }
    assert!(pair.events.is_empty(), "{:?}", pair.events);
    // It goes on: what it has not answered yet comes late, and is no violation.
    pair.cut.clear();
    let late = |number: u64| {
        let mut data = *b"smcr    --------";
        data[8..].copy_from_slice(&number.to_be_bytes());
        Llc::TestLink(TestLink {
            response: true,
            data,
        })
    };
    let now = pair.now;
    for number in [1, 3] {
        let bytes = late(number).emit(Version::V2);
        pair.client.handle_message(now, A, &bytes);
    }
    assert!(pair.client.poll_event().is_none());
    // Each once; and then a peer that is not there any more.
    let bytes = late(2).emit(Version::V2);
    pair.client.handle_message(now, A, &bytes);
    assert!(matches!(
        pair.client.poll_event(),
        Some(Event::Violation { .. })
    ));
    pair.cut.push(A);
    pair.pass(Duration::from_secs(32));
    assert!(pair.client.is_ended(), "{:?}", pair.now - begin);
}

#[test]
fn no_tests_if_not_wanted() {
    let of = |role| {
        let mut config = config(role, Version::V2);
        config.timeouts.test_interval = None;
        config
    };
    let mut pair = Pair::with(of(Client), of(Server));
    pair.drive();
    assert_eq!(pair.client.poll_timeout(), None);
    // But on demand; and only one at a time.
    let now = pair.now;
    pair.client.test_link(now, A).unwrap();
    pair.client.test_link(now, A).unwrap();
    assert_eq!(sent(&mut pair.client).len(), 1);
    assert_eq!(
        pair.client.poll_timeout(),
        Some(now + Duration::from_secs(2))
    );
}

#[test]
fn either_side_ends_the_group() {
    for (role, heads) in [
        (
            Client,
            &[(Client, [0x24, 0, 44, 0x60]), (Server, [0x24, 0, 44, 0x40])][..],
        ),
        (Server, &[(Server, [0x24, 0, 44, 0x60])]),
    ] {
        let mut pair = Pair::settled(Version::V2);
        let now = pair.now;
        pair.group(role).end(now, DeleteReason::PROGRAM).unwrap();
        pair.drive();
        assert_eq!(pair.heads(), heads);
        let ended = |reason| [Event::Ended { reason }];
        assert_eq!(
            pair.events_of(role),
            ended(EndReason::Local(DeleteReason::PROGRAM))
        );
        assert_eq!(
            pair.events_of(other(role)),
            ended(EndReason::Peer(DeleteReason::PROGRAM))
        );
        assert_eq!(
            pair.group(role).end(now, DeleteReason::PROGRAM),
            Err(CallError::Ended)
        );
    }
}

#[test]
fn a_client_does_not_wait_for_ever_for_the_end() {
    let mut pair = Pair::settled(Version::V2);
    pair.cut.push(A);
    let now = pair.now;
    pair.client.end(now, DeleteReason::PROGRAM).unwrap();
    // Asking again prolongs nothing.
    pair.client
        .end(now + Duration::from_secs(1), DeleteReason::PROGRAM)
        .unwrap();
    pair.pass(Duration::from_secs(2));
    assert_eq!(
        pair.events_of(Client),
        [Event::Ended {
            reason: EndReason::Local(DeleteReason::PROGRAM)
        }]
    );
    assert_eq!(pair.wire.len(), 1);
}

#[test]
fn the_last_link_is_deleted() {
    for role in [Client, Server] {
        let mut pair = Pair::settled(Version::V1);
        let now = pair.now;
        pair.group(role)
            .delete_link(now, A, DeleteReason::OPERATOR)
            .unwrap();
        pair.drive();
        // The client only asks; the exchange is the server's.
        let mut heads = vec![(Server, [0x04, 44, 0, 0x20]), (Client, [0x04, 44, 0, 0x80])];
        if role == Client {
            heads.insert(0, (Client, [0x04, 44, 0, 0x20]));
        }
        assert_eq!(pair.heads(), heads);
        for role in [Client, Server] {
            assert_eq!(
                pair.events_of(role),
                [
                    Event::LinkDeleted {
                        link: A,
                        reason: DeleteReason::OPERATOR
                    },
                    Event::Ended {
                        reason: EndReason::LastLinkDeleted(DeleteReason::OPERATOR)
                    }
                ]
            );
        }
    }
}

#[test]
fn the_owner_reports_a_failure() {
    let mut pair = Pair::settled(Version::V2);
    let now = pair.now;
    pair.client.link_failed(now, B); // not ours
    assert!(drain(&mut pair.client).is_empty());
    pair.client.test_link(now, A).unwrap();
    pair.client.link_failed(now, A);
    // What was to go over it goes nowhere.
    assert!(sent(&mut pair.client).is_empty());
    assert_eq!(
        drain(&mut pair.client)[1],
        Event::Ended {
            reason: EndReason::LastLinkFailed(LinkFailure::Reported)
        }
    );
    pair.client.handle_message(now, A, &[0; 44]);
    pair.client.handle_timeout(now + Duration::from_secs(99));
    assert!(drain(&mut pair.client).is_empty());
}

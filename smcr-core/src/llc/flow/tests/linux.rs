//! What two Linux kernels said to each other, and what this side has to say in their place.

use super::*;
use crate::cdc::EyeCatcher;
use crate::llc::golden;

/// Linux is the server of a first contact; it offers a second link over its only port.
#[test]
fn as_client() {
    let now = Instant::now();
    let mut group = Group::new(
        config(Role::Client, Version::V2),
        link(Role::Client, A, 0x11),
        now,
    );
    assert_eq!(
        group.poll_timeout(),
        Some(now + group.config.timeouts.confirm_link)
    );
    group.handle_message(now, A, golden::CONFIRM_LINK_LINUX);
    assert_eq!(drain(&mut group), [Event::Activate { link: A }]);
    group.activated(now, A).unwrap();
    assert_eq!(
        drain(&mut group),
        [Event::LinkConfirmed {
            link: A,
            number: LinkNumber(1),
            eye_catcher: EyeCatcher::None,
            max_conns: 255
        }]
    );
    // Byte for byte what a Linux client answered, but for the order of the length.
    let mut expected = golden::CONFIRM_LINK_RESPONSE_LINUX.to_vec();
    expected.swap(1, 2);
    assert_eq!(sent(&mut group), [expected]);
    group.handle_message(now, A, golden::ADD_LINK_LINUX);
    let mut expected = golden::ADD_LINK_REJECTED_LINUX.to_vec();
    expected.swap(1, 2);
    assert_eq!(sent(&mut group), [expected]);
    assert_eq!(drain(&mut group), [Event::Settled]);

    // A second connection: its RMB comes before the Accept.
    let mut request = golden::CONFIRM_RKEY.to_vec();
    request[1..5].copy_from_slice(&[0x2c, 0, 0, 0]); // no other link
    group.handle_message(now, A, &request);
    let mut expected = request.clone();
    expected[1..4].copy_from_slice(&[0, 0x2c, 0x80]);
    expected[17..].fill(0);
    assert_eq!(sent(&mut group), [expected]);
    let rtokens = vec![(
        A,
        Rtoken {
            rkey: Rkey(0x36e),
            address: 0xffff_8aff_043c_0000,
        },
    )];
    assert_eq!(drain(&mut group), [Event::PeerAddedRmb { rtokens }]);

    // Our RMB goes: the answer of Linux has an empty list.
    group
        .delete_rkey(now, RmbId(1), &[(A, rtoken(0x372))])
        .unwrap();
    assert_eq!(
        sent(&mut group)[0][..12],
        [0x29, 0, 0x2c, 0, 1, 0, 0, 0, 0, 0, 3, 0x72]
    );
    group.handle_message(now, A, golden::DELETE_RKEY_RESPONSE_LINUX);
    assert_eq!(
        drain(&mut group),
        [Event::RmbDeleted {
            rmb: RmbId(1),
            outcome: RmbDeletion::Done
        }]
    );

    // Half a minute later.
    let mut test = golden::TEST_LINK_RESPONSE.to_vec();
    test[1..4].copy_from_slice(&[0x2c, 0, 0]);
    group.handle_message(now, A, &test);
    assert_eq!(sent(&mut group), [golden::TEST_LINK_RESPONSE]);

    // Ten minutes later: no answer, the queue pair is as good as gone.
    group.handle_message(now, A, golden::DELETE_LINK_ALL);
    assert!(sent(&mut group).is_empty());
    assert_eq!(
        drain(&mut group),
        [Event::Ended {
            reason: EndReason::Peer(DeleteReason::PROGRAM)
        }]
    );
}

/// Linux is the client.
#[test]
fn as_server() {
    let now = Instant::now();
    let mut group = Group::new(
        config(Role::Server, Version::V2),
        link(Role::Server, A, 0x11),
        now,
    );
    let mut expected = golden::CONFIRM_LINK_LINUX.to_vec();
    expected.swap(1, 2);
    assert_eq!(sent(&mut group), [expected]);
    group.handle_message(now, A, golden::CONFIRM_LINK_RESPONSE_LINUX);
    assert!(matches!(
        drain(&mut group)[..],
        [Event::LinkConfirmed {
            link: A,
            eye_catcher: EyeCatcher::None,
            ..
        }]
    ));
    let messages = sent(&mut group);
    let [offer] = &messages[..] else { panic!() };
    assert_eq!(offer.len(), 44);
    assert_eq!(offer[..4], [0x22, 0, 0x2c, 0]);
    assert_eq!(offer[4..10], golden::ADD_LINK_LINUX[4..10]); // MAC
    assert_eq!(offer[12..28], golden::ADD_LINK_LINUX[12..28]); // GID
    assert_eq!(
        offer[28..44],
        [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    ); // link 2, MTU 0
    // Linux returns it with two flags, and the length in its order.
    let mut rejection = offer.clone();
    rejection[1..4].copy_from_slice(&[0x2c, 0, 0xc0]);
    group.handle_message(now, A, &rejection);
    assert_eq!(drain(&mut group), [Event::Settled]);

    // It has found another device.
    let mut request = golden::REQUEST_ADD_LINK.to_vec();
    request.swap(1, 2);
    group.handle_message(now, A, &request);
    let mut expected = vec![0; 44];
    expected[..4].copy_from_slice(&[0x25, 0, 0x2c, 0x80]);
    assert_eq!(sent(&mut group), [expected]);

    // The group is not kept.
    group.end(now, DeleteReason::PROGRAM).unwrap();
    let mut expected = golden::DELETE_LINK_ALL.to_vec();
    expected.swap(1, 2);
    assert_eq!(sent(&mut group), [expected]);
    assert!(group.is_ended());
    assert_eq!(group.violations(), 0);
}

/// A client of version 1, whose server does not know the bits for "no eye catcher": the answer does
/// without them.
#[test]
fn a_peer_as_in_the_rfc() {
    let now = Instant::now();
    let mut local = link(Role::Client, A, 0x1a7);
    let mut gid = [0; 16];
    gid.copy_from_slice(&golden::CONFIRM_LINK_V1[10..26]);
    local.peer.gid = Gid(gid);
    let mut group = Group::new(config(Role::Client, Version::V1), local, now);
    let mut request = golden::CONFIRM_LINK_V1.to_vec();
    request[3] = 0;
    group.handle_message(now, A, &request);
    group.activated(now, A).unwrap();
    assert_eq!(
        drain(&mut group)[1],
        Event::LinkConfirmed {
            link: A,
            number: LinkNumber(1),
            eye_catcher: EyeCatcher::FourBytes,
            max_conns: 0
        }
    );
    assert_eq!(sent(&mut group)[0][..4], [0x01, 0x2c, 0, 0x80]);
    group.handle_message(now, A, golden::ADD_LINK_V1);
    assert_eq!(sent(&mut group), [golden::ADD_LINK_REJECTED_V1]);
}

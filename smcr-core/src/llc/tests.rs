use super::golden::*;
use super::*;
use crate::clc::{Bounded, Gid, Mac, MtuCode, Psn, QpNumber, Rkey};

mod hostile;

fn parse(bytes: &[u8]) -> Llc {
    Llc::parse(bytes).unwrap().1
}

/// `bytes` with another byte at `at`.
fn with(bytes: &[u8], at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = byte;
    bytes
}

/// As this library would have sent it: 16-bit numbers big-endian.
fn big_endian(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes[0] & 0x20 != 0 {
        let len = bytes.len() as u16;
        bytes[1..3].copy_from_slice(&len.to_be_bytes());
    }
    if bytes.len() == 88 {
        bytes[70..72].copy_from_slice(&1u16.to_be_bytes());
    }
    bytes
}

fn end(mac: [u8; 6], gid: [u8; 16], qp_number: u32) -> LinkEnd {
    LinkEnd {
        mac: Mac(mac),
        gid: Gid(gid),
        qp_number: QpNumber::new(qp_number).unwrap(),
    }
}

/// An IPv4 address, mapped.
fn ipv4(address: [u8; 4]) -> [u8; 16] {
    let mut gid = [0; 16];
    gid[10..12].fill(0xff);
    gid[12..].copy_from_slice(&address);
    gid
}

const V1_GID: [u8; 16] = [
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0x5e, 0xff, 0xfe, 0, 0x53, 0x1a,
];

fn rtoken(rkey: u32, address: u64) -> Rtoken {
    Rtoken {
        rkey: Rkey(rkey),
        address,
    }
}

#[test]
fn golden_bytes_come_back() {
    for bytes in ALL {
        let (version, message) = Llc::parse(bytes).unwrap();
        assert_eq!(message.emit(version), big_endian(bytes), "{message:?}");
    }
}

#[test]
fn confirm_link_fields() {
    let expected = ConfirmLink {
        response: false,
        no_eye_catcher: true,
        end: end([2, 0, 0x5e, 0, 0x53, 0x1a], V1_GID, 0x1a7),
        link: LinkNumber(1),
        user_id: LinkUserId(0x101),
        max_links: 2,
        max_conns: 0,
    };
    assert_eq!(
        Llc::parse(CONFIRM_LINK_V1),
        Ok((Version::V1, Llc::ConfirmLink(expected)))
    );
    let (version, Llc::ConfirmLink(request)) = Llc::parse(CONFIRM_LINK_LINUX).unwrap() else {
        panic!()
    };
    assert_eq!(version, Version::V2);
    assert_eq!(
        request.end,
        end([0x52, 0x54, 0, 0, 0, 1], ipv4([10, 0, 0, 1]), 0x11)
    );
    assert_eq!((request.max_links, request.max_conns), (2, 255));
    let Llc::ConfirmLink(response) = parse(CONFIRM_LINK_RESPONSE_LINUX) else {
        panic!()
    };
    assert!(response.response && response.no_eye_catcher);
    // The kernel looks for either bit.
    for (flags, no_eye_catcher) in [(0, false), (1, true), (2, true), (0x83, true)] {
        let Llc::ConfirmLink(message) = parse(&with(CONFIRM_LINK_V1, 3, flags)) else {
            panic!()
        };
        assert_eq!(message.no_eye_catcher, no_eye_catcher);
    }
}

#[test]
fn add_link_fields() {
    assert_eq!(
        parse(ADD_LINK_LINUX),
        Llc::AddLink(AddLink {
            kind: AddLinkKind::Request,
            end: end([0x52, 0x54, 0, 0, 0, 1], ipv4([10, 0, 0, 1]), 0x12),
            link: LinkNumber(2),
            mtu: MtuCode::new(3).unwrap(),
            psn: Psn::new(0x5a_81e7).unwrap(),
            extension: Some(AddLinkExtension {
                direct: true,
                target_gid: Gid(ipv4([10, 0, 0, 1])),
                rtokens: Bounded::new(vec![MovedRtoken {
                    known: Rkey(0x36e),
                    new: rtoken(0x5c4, 0xffff_8aff_043c_0000),
                }])
                .unwrap(),
            }),
        })
    );
    let kind = |bytes: &[u8]| match parse(bytes) {
        Llc::AddLink(message) => message.kind,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        kind(ADD_LINK_REJECTED_V1),
        AddLinkKind::Rejected(RejectReason::NO_ALTERNATE_PATH)
    );
    // The reason's place is taken by the length.
    assert_eq!(
        kind(ADD_LINK_REJECTED_LINUX),
        AddLinkKind::Rejected(RejectReason::NONE)
    );
    assert_eq!(kind(&with(ADD_LINK_V1, 3, 0x80)), AddLinkKind::Accepted);
    // Only an answer can reject.
    assert_eq!(kind(&with(ADD_LINK_V1, 3, 0x40)), AddLinkKind::Request);
}

#[test]
fn add_link_continuation_fields() {
    let Llc::AddLinkContinuation(message) = parse(ADD_LINK_CONTINUATION) else {
        panic!()
    };
    assert!(message.response);
    assert_eq!(message.link, LinkNumber(2));
    assert_eq!(
        message.rtokens.items(),
        [
            MovedRtoken {
                known: Rkey(0x36e),
                new: rtoken(0x5c4, 0xffff_8aff_043c_0000)
            },
            MovedRtoken {
                known: Rkey(0x36f),
                new: rtoken(0x5c5, 0xffff_8aff_043d_0000)
            }
        ]
    );
    assert_eq!(
        (message.rtokens.more(), message.rtokens.announced()),
        (1, 3)
    );
}

#[test]
fn delete_link_fields() {
    let expected = DeleteLink {
        response: false,
        orderly: true,
        target: DeleteTarget::One(LinkNumber(2)),
        reason: DeleteReason::ASYMMETRIC,
    };
    assert_eq!(parse(DELETE_LINK_V1), Llc::DeleteLink(expected));
    let expected = DeleteLink {
        target: DeleteTarget::All,
        reason: DeleteReason::PROGRAM,
        ..expected
    };
    assert_eq!(parse(DELETE_LINK_ALL), Llc::DeleteLink(expected));
    // With "all", the number says nothing.
    assert_eq!(
        parse(&with(DELETE_LINK_ALL, 4, 7)),
        Llc::DeleteLink(expected)
    );
}

#[test]
fn request_add_link_fields() {
    for (bytes, gids) in [
        (REQUEST_ADD_LINK, vec![Gid(ipv4([10, 0, 1, 2]))]),
        (
            REQUEST_ADD_LINK_TWO,
            vec![Gid(ipv4([10, 0, 1, 2])), Gid(ipv4([10, 0, 2, 2]))],
        ),
    ] {
        let expected = RequestAddLink {
            response: false,
            gids: Bounded::new(gids).unwrap(),
        };
        assert_eq!(parse(bytes), Llc::RequestAddLink(expected));
    }
}

#[test]
fn confirm_rkey_fields() {
    let other = |link, rkey, address| LinkRtoken {
        link: LinkNumber(link),
        rtoken: rtoken(rkey, address),
    };
    assert_eq!(
        parse(CONFIRM_RKEY),
        Llc::ConfirmRkey(ConfirmRkey {
            verdict: Verdict::Request,
            rtoken: rtoken(0x36e, 0xffff_8aff_043c_0000),
            others: Batch::first_of(&[other(2, 0x5c4, 0xffff_8aff_043d_0000)]),
        })
    );
    let Llc::ConfirmRkey(message) = parse(CONFIRM_RKEY_REFUSED_V1) else {
        panic!()
    };
    assert_eq!(message.verdict, Verdict::Refused { retry: true });
    assert_eq!(
        (message.others.items().len(), message.others.more()),
        (2, 1)
    );
    let Llc::ConfirmRkeyContinuation(message) = parse(CONFIRM_RKEY_CONTINUATION) else {
        panic!()
    };
    assert_eq!(
        (message.others.items().len(), message.others.more()),
        (3, 1)
    );
    assert_eq!(
        message.others.items()[2],
        other(6, 0x5c8, 0xffff_8aff_043f_0000)
    );
    for (flags, verdict) in [
        (0x00, Verdict::Request),
        (0x30, Verdict::Request),
        (0x80, Verdict::Confirmed),
        (0x90, Verdict::Confirmed),
        (0xa0, Verdict::Refused { retry: false }),
        (0xb0, Verdict::Refused { retry: true }),
    ] {
        let Llc::ConfirmRkey(message) = parse(&with(CONFIRM_RKEY, 3, flags)) else {
            panic!()
        };
        assert_eq!(message.verdict, verdict);
    }
}

#[test]
fn delete_rkey_fields() {
    let message = DeleteRkey {
        failed: Some(0x40),
        rkeys: Bounded::new(vec![Rkey(0x36e), Rkey(0x36f)]).unwrap(),
    };
    assert_eq!(parse(DELETE_RKEY_V1), Llc::DeleteRkey(message));
    let message = DeleteRkey {
        failed: Some(0),
        rkeys: Bounded::new(vec![Rkey(0)]).unwrap(),
    };
    assert_eq!(parse(DELETE_RKEY_RESPONSE_LINUX), Llc::DeleteRkey(message));
    // A negative answer stays one, even if it names no RMB.
    let Llc::DeleteRkey(message) = parse(&with(DELETE_RKEY_V1, 5, 0)) else {
        panic!()
    };
    assert_ne!(message.failed, Some(0));
}

#[test]
fn test_link_fields() {
    let data = std::array::from_fn(|index| index as u8);
    for (bytes, version, response) in [
        (TEST_LINK_V1, Version::V1, false),
        (TEST_LINK_RESPONSE, Version::V2, true),
    ] {
        assert_eq!(
            Llc::parse(bytes),
            Ok((version, Llc::TestLink(TestLink { response, data })))
        );
    }
}

#[test]
fn answers_are_told_from_questions() {
    for bytes in ALL {
        let request = parse(&with(bytes, 3, bytes[3] & 0x7f));
        let response = parse(&with(bytes, 3, bytes[3] | 0x80));
        assert!(!request.is_response() && response.is_response());
    }
}

#[test]
fn both_byte_orders() {
    for bytes in ALL.iter().filter(|bytes| bytes[0] & 0x20 != 0) {
        let mut swapped = bytes.to_vec();
        swapped.swap(1, 2);
        assert_eq!(parse(&swapped), parse(bytes));
    }
    for (a, b) in [(0, 1), (1, 0)] {
        let bytes = with(&with(ADD_LINK_LINUX, 70, a), 71, b);
        assert_eq!(parse(&bytes), parse(ADD_LINK_LINUX));
    }
    // Where both orders are possible, the number of bytes at hand decides; else big-endian.
    let number = |bytes| frame::either_order(bytes, 0x1001, |number| number <= 0x2000);
    assert_eq!(number([0x10, 0x01]), Some(0x1001));
    assert_eq!(number([0x01, 0x10]), Some(0x1001));
    assert_eq!(number([0x02, 0x10]), Some(0x210));
    assert_eq!(number([0x21, 0x10]), Some(0x1021));
    assert_eq!(number([0x21, 0x21]), None);
}

#[test]
fn a_receive_may_complete_with_more_bytes() {
    for bytes in ALL {
        let mut longer = bytes.to_vec();
        longer.resize(bytes.len() + 20, 0xa5);
        assert_eq!(parse(&longer), parse(bytes));
    }
}

#[test]
fn lists_in_parts() {
    let list: Vec<_> = (0..7)
        .map(|rkey| MovedRtoken {
            known: Rkey(rkey),
            new: rtoken(rkey, 0),
        })
        .collect();
    let mut announced = Vec::new();
    let mut left = &list[..];
    while !left.is_empty() {
        let batch = Batch::<_, 2>::first_of(left);
        announced.push((batch.announced(), batch.items().len(), batch.more()));
        left = &left[batch.items().len()..];
    }
    assert_eq!(announced, [(7, 2, 5), (5, 2, 3), (3, 2, 1), (1, 1, 0)]);
    let many = vec![MovedRtoken::default(); 1000];
    assert_eq!(Batch::<_, 2>::first_of(&many).announced(), 255);
}

#[test]
fn reserved_fields_are_not_looked_at() {
    let reserved: &[(&[u8], &[usize])] = &[
        (CONFIRM_LINK_V1, &[2, 36, 43]),
        (ADD_LINK_V1, &[2, 10, 11, 36, 43]),
        (ADD_LINK_LINUX, &[10, 11, 36, 43, 45, 62, 69]),
        (ADD_LINK_REJECTED_LINUX, &[10, 11, 36, 43]),
        (ADD_LINK_CONTINUATION, &[2, 6, 7, 40, 43]),
        (DELETE_LINK_V1, &[2, 9, 43]),
        (REQUEST_ADD_LINK, &[4, 23, 25, 27]),
        (CONFIRM_RKEY, &[30, 42, 43]),
        (CONFIRM_RKEY_REFUSED_V1, &[2, 43]),
        (DELETE_RKEY_V1, &[2, 6, 7, 16, 39, 40, 43]),
        (TEST_LINK_V1, &[2, 20, 43]),
    ];
    for (bytes, offsets) in reserved {
        for at in *offsets {
            assert_eq!(parse(&with(bytes, *at, 0xa5)), parse(bytes), "offset {at}");
        }
    }
    // Bits beside those that mean something.
    for bytes in [ADD_LINK_V1, ADD_LINK_LINUX] {
        assert_eq!(parse(&with(bytes, 32, 0xf3)), parse(bytes));
    }
    assert_eq!(
        parse(&with(ADD_LINK_LINUX, 44, 0xff)),
        parse(ADD_LINK_LINUX)
    );
    assert_eq!(parse(&with(TEST_LINK_V1, 3, 0x7f)), parse(TEST_LINK_V1));
}

//! Every message in every state, floods, and noise.

use std::fmt::Write as _;

use super::*;
use crate::clc::{Bounded, MtuCode, Psn};
use crate::llc::{
    AddLink, AddLinkContinuation, AddLinkKind, Batch, ConfirmLink, ConfirmRkey,
    ConfirmRkeyContinuation, DeleteLink, DeleteRkey, DeleteTarget, LlcError, RejectReason,
    RequestAddLink, TestLink, Verdict,
};
use Role::{Client, Server};

/// A group of `role` and how it came to be where it is.
fn states(role: Role) -> Vec<(&'static str, Group)> {
    let now = Instant::now();
    let settled = || {
        let mut pair = Pair::settled(Version::V2);
        std::mem::replace(
            pair.group(role),
            Group::new(config(role, Version::V2), link(role, A, 0x11), now),
        )
    };
    let with = |does: &dyn Fn(&mut Group)| {
        let mut group = settled();
        does(&mut group);
        sent(&mut group);
        group
    };
    let rtokens = [(A, rtoken(5))];
    let mut states = vec![
        ("settled", settled()),
        (
            "CONFIRM RKEY open",
            with(&|group| group.confirm_rkey(now, RmbId(5), &rtokens).unwrap()),
        ),
        (
            "DELETE RKEY open",
            with(&|group| group.delete_rkey(now, RmbId(5), &rtokens).unwrap()),
        ),
        (
            "TEST LINK open",
            with(&|group| group.test_link(now, A).unwrap()),
        ),
        (
            "DELETE LINK open",
            with(&|group| group.delete_link(now, A, DeleteReason::OPERATOR).unwrap()),
        ),
        (
            "ended or ending",
            with(&|group| group.end(now, DeleteReason::PROGRAM).unwrap()),
        ),
    ];
    let mut early = Group::new(config(role, Version::V2), link(role, A, 0x11), now);
    sent(&mut early);
    states.insert(0, ("link not confirmed", early));
    let mut pair = Pair::new(Version::V2);
    let request = pair.server.poll_transmit().unwrap();
    pair.client.handle_message(now, A, &request.bytes);
    drain(&mut pair.client);
    if role == Client {
        let Pair { client, .. } = pair;
        states.insert(1, ("queue pair not ready", client));
        let mut pair = Pair::with(
            config(Client, Version::V2),
            Config {
                add_link_follows: false,
                ..config(Server, Version::V2)
            },
        );
        pair.drive();
        states.insert(2, ("ADD LINK awaited", pair.client));
    } else {
        pair.client.activated(now, A).unwrap();
        let response = pair.client.poll_transmit().unwrap();
        pair.server.handle_message(now, A, &response.bytes);
        drain(&mut pair.server);
        sent(&mut pair.server);
        let Pair { server, .. } = pair;
        states.insert(1, ("ADD LINK open", server));
    }
    states
}

/// What the peer of `role` may say.
fn messages(role: Role) -> Vec<(&'static str, Vec<u8>)> {
    let peer = other(role);
    let confirm = |response, link, qp_number| {
        Llc::ConfirmLink(ConfirmLink {
            response,
            no_eye_catcher: true,
            end: end(peer, qp_number),
            link: LinkNumber(link),
            user_id: LinkUserId(0),
            max_links: 2,
            max_conns: 255,
        })
    };
    let add = |kind, link, mtu| {
        Llc::AddLink(AddLink {
            kind,
            end: end(peer, 0x12),
            link: LinkNumber(link),
            mtu: MtuCode::new(mtu).unwrap(),
            psn: Psn::default(),
            extension: None,
        })
    };
    let delete = |response, target| {
        Llc::DeleteLink(DeleteLink {
            response,
            orderly: false,
            target,
            reason: DeleteReason::NONE,
        })
    };
    let one = |number| DeleteTarget::One(LinkNumber(number));
    let confirm_rkey = |verdict, rkey, others: &[LinkRtoken]| {
        Llc::ConfirmRkey(ConfirmRkey {
            verdict,
            rtoken: rtoken(rkey),
            others: Batch::first_of(others),
        })
    };
    let delete_rkey = |failed, rkey| {
        Llc::DeleteRkey(DeleteRkey {
            failed,
            rkeys: Bounded::new(vec![Rkey(rkey)]).unwrap(),
        })
    };
    let test = |response, number: u64| {
        let mut data = *b"smcr    --------";
        data[8..].copy_from_slice(&number.to_be_bytes());
        Llc::TestLink(TestLink { response, data })
    };
    let rejected = AddLinkKind::Rejected(RejectReason::NONE);
    let unknown = LinkRtoken {
        link: LinkNumber(9),
        rtoken: rtoken(9),
    };
    let mut messages: Vec<_> = [
        ("CONFIRM LINK", confirm(false, 1, 0x11)),
        ("CONFIRM LINK, other queue pair", confirm(false, 1, 0x99)),
        ("CONFIRM LINK response", confirm(true, 1, 0x11)),
        (
            "CONFIRM LINK response, other number",
            confirm(true, 7, 0x11),
        ),
        ("ADD LINK", add(AddLinkKind::Request, 2, 3)),
        ("ADD LINK, reserved MTU", add(AddLinkKind::Request, 2, 0)),
        ("ADD LINK response", add(AddLinkKind::Accepted, 2, 3)),
        ("ADD LINK rejection", add(rejected, 2, 0)),
        ("ADD LINK rejection, other number", add(rejected, 7, 0)),
        (
            "ADD LINK CONTINUATION",
            Llc::AddLinkContinuation(AddLinkContinuation {
                response: false,
                link: LinkNumber(2),
                rtokens: Batch::default(),
            }),
        ),
        (
            "REQUEST ADD LINK",
            Llc::RequestAddLink(RequestAddLink {
                response: false,
                gids: Bounded::default(),
            }),
        ),
        ("DELETE LINK, this one", delete(false, one(1))),
        ("DELETE LINK, unknown", delete(false, one(9))),
        ("DELETE LINK response", delete(true, one(1))),
        ("DELETE LINK, all", delete(false, DeleteTarget::All)),
        ("CONFIRM RKEY", confirm_rkey(Verdict::Request, 6, &[])),
        (
            "CONFIRM RKEY, unknown link",
            confirm_rkey(Verdict::Request, 6, &[unknown]),
        ),
        (
            "CONFIRM RKEY response",
            confirm_rkey(Verdict::Confirmed, 5, &[]),
        ),
        (
            "CONFIRM RKEY response, other RMB",
            confirm_rkey(Verdict::Confirmed, 6, &[]),
        ),
        (
            "CONFIRM RKEY refused",
            confirm_rkey(Verdict::Refused { retry: false }, 5, &[]),
        ),
        (
            "CONFIRM RKEY CONTINUATION",
            Llc::ConfirmRkeyContinuation(ConfirmRkeyContinuation {
                verdict: Verdict::Request,
                others: Batch::first_of(&[unknown]),
            }),
        ),
        ("DELETE RKEY, unknown", delete_rkey(None, 6)),
        ("DELETE RKEY response", delete_rkey(Some(0), 5)),
        ("DELETE RKEY response, other RMB", delete_rkey(Some(0), 6)),
        ("TEST LINK", test(false, 77)),
        ("TEST LINK response", test(true, 1)),
        ("TEST LINK response, other data", test(true, 2)),
    ]
    .into_iter()
    .map(|(name, message)| (name, message.emit(Version::V2)))
    .collect();
    let byte = |first| {
        let mut bytes = vec![0; 44];
        bytes[..3].copy_from_slice(&[first, 0, 44]);
        bytes
    };
    messages.push(("unknown type", byte(0x2a)));
    messages.push(("unknown type, optional", byte(0x8a)));
    messages.push(("CDC message", byte(0xfe)));
    messages.push(("short", byte(0x27)[..43].to_vec()));
    messages
}

/// What follows from every message in every state; `table.txt` beside this file is what it has to
/// be. Set `SMCR_WRITE_SNAPSHOTS` to write it anew, and read the difference before you take it.
#[test]
fn every_message_in_every_state() {
    let mut text = String::new();
    for role in [Client, Server] {
        let names: Vec<_> = states(role).iter().map(|(name, _)| *name).collect();
        for (index, name) in names.into_iter().enumerate() {
            writeln!(text, "{role:?}, {name}").unwrap();
            for (message, bytes) in messages(role) {
                let (_, mut group) = states(role).swap_remove(index);
                drain(&mut group);
                group.handle_message(Instant::now(), A, &bytes);
                write!(text, "  {message}:").unwrap();
                for event in drain(&mut group) {
                    write!(text, " {event:?}").unwrap();
                }
                for bytes in sent(&mut group) {
                    write!(text, " > {:02x} {:02x}", bytes[0], bytes[3]).unwrap();
                }
                writeln!(text).unwrap();
                // Whatever happened, the end is near or somebody waits for something.
                assert_eq!(group.is_ended(), group.poll_timeout().is_none());
            }
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/llc/flow/tests/table.txt");
    if std::env::var_os("SMCR_WRITE_SNAPSHOTS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap();
    for (line, (found, expected)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(found, expected, "line {} of table.txt", line + 1);
    }
    assert_eq!(text.lines().count(), expected.lines().count());
}

/// The same as the RFC has it: what makes no sense takes the link down.
#[test]
fn strictness() {
    for role in [Client, Server] {
        for (message, bytes) in messages(role) {
            let mut pair = Pair::settled(Version::V2);
            let now = pair.now;
            let group = pair.group(role);
            group.config.strict = true;
            group.handle_message(now, A, &bytes);
            let events = drain(group);
            let violation = events.iter().find_map(|event| match event {
                Event::Violation { violation, .. } => Some(*violation),
                _ => None,
            });
            let Some(violation) = violation else { continue };
            let tolerated = matches!(
                violation,
                Violation::NotSupported | Violation::Malformed(LlcError::UnknownType(_))
            );
            assert_eq!(group.is_ended(), !tolerated, "{role:?}: {message}");
        }
    }
}

#[test]
fn a_flood_of_questions_costs_the_link() {
    let mut pair = Pair::settled(Version::V2);
    let now = pair.now;
    let question = crate::llc::golden::TEST_LINK_V1;
    for _ in 0..MAX_QUEUED {
        pair.client.handle_message(now, A, question);
    }
    assert!(!pair.client.is_ended());
    pair.client.handle_message(now, A, question);
    assert_eq!(
        drain(&mut pair.client)[0],
        Event::LinkFailed {
            link: A,
            reason: LinkFailure::Flood
        }
    );
    assert!(sent(&mut pair.client).is_empty());
}

/// A peer that answers everything but what was asked keeps nobody waiting.
#[test]
fn noise_does_not_prolong_anything() {
    let mut pair = Pair::settled(Version::V2);
    let now = pair.now;
    pair.client.test_link(now, A).unwrap();
    pair.client
        .confirm_rkey(now, RmbId(1), &[(A, rtoken(1))])
        .unwrap();
    let due = pair.client.poll_timeout();
    for (_, bytes) in messages(Client) {
        if matches!(bytes[0] & 0x0f, 4 | 7) && bytes.len() == 44 {
            continue; // these end something
        }
        pair.client
            .handle_message(now + Duration::from_secs(1), A, &bytes);
        assert_eq!(pair.client.poll_timeout(), due);
    }
}

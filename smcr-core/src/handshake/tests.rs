use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::shm::{Identity, SHM_CHID, ShmEids, ShmGid, ShmHost, ShmLocal, ShmOffer};
use super::*;
use crate::clc::golden::*;
use crate::clc::{
    Chid, ClcError, Decline, DmbToken, Eid, Endpoint, Field, HostName, Message, PeerId, RmbeIndex,
    RmbeSize, Terms,
};

mod pair;
mod rdma;
mod table;

pub(crate) fn identity(start: u8) -> Identity {
    Identity {
        peer_id: PeerId([0x5a, 0xc3, 2, 0, 0, 0, 0, 7]),
        gid: ShmGid(std::array::from_fn(|i| start + i as u8)),
        host_name: HostName::new(b"host-a"),
    }
}

/// The client of the golden messages.
pub(crate) fn offer() -> ShmOffer {
    ShmOffer {
        identity: identity(0x11),
        eids: ShmEids::default(),
    }
}

pub(crate) fn buffer(identity: &Identity, index: u8) -> ShmLocal {
    ShmLocal {
        gid: identity.gid,
        token: DmbToken(0x0123_4567_89ab_cdef),
        index: RmbeIndex::new(index).unwrap(),
        size: RmbeSize::new(3).unwrap(),
    }
}

fn client(now: Instant) -> ShmClient {
    ShmClient::new(offer(), Timeouts::default(), now)
}

fn host(identity: Identity, eids: ShmEids) -> ShmHost {
    ShmHost { identity, eids }
}

fn server(now: Instant) -> ShmServer {
    let host = host(identity(0x11), ShmEids::default());
    ShmServer::new(host, Timeouts::default(), now)
}

/// A client whose Proposal is on the wire.
fn waiting_client(now: Instant) -> ShmClient {
    let mut client = client(now);
    client.poll_transmit().unwrap();
    client
}

/// A server that has read the golden Proposal.
fn deciding_server(now: Instant) -> ShmServer {
    let mut server = server(now);
    assert_eq!(
        server.handle_bytes(PROPOSAL_SHM, now),
        Ok(PROPOSAL_SHM.len())
    );
    assert!(matches!(server.poll_event(), Some(Event::Proposed(_))));
    server
}

/// A server whose Accept is on the wire.
fn accepted_server(now: Instant) -> ShmServer {
    let mut server = deciding_server(now);
    server
        .accept(buffer(&identity(0x11), 1), true, now)
        .unwrap();
    server.poll_transmit().unwrap();
    server
}

fn decline_of(bytes: &[u8]) -> Decline {
    match Message::parse(bytes) {
        Ok(Message::Decline(decline)) => decline,
        other => panic!("{other:?}"),
    }
}

/// `bytes`, a golden message, after a change of its fields.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Endpoint, &mut Terms)) -> Vec<u8> {
    let mut message = Message::parse(bytes).unwrap();
    match &mut message {
        Message::Accept(accept) => change(&mut accept.endpoint, &mut accept.terms),
        Message::Confirm(confirm) => change(&mut confirm.endpoint, &mut confirm.terms),
        _ => panic!("{message:?}"),
    }
    message.emit()
}

fn ism(endpoint: &mut Endpoint) -> &mut crate::clc::IsmEndpoint {
    match endpoint {
        Endpoint::Ism(ism) => ism,
        Endpoint::Rdma(_) => panic!(),
    }
}

#[test]
fn says_the_golden_bytes() {
    let now = Instant::now();
    assert_eq!(client(now).poll_transmit().unwrap(), PROPOSAL_SHM);
    let mut server = deciding_server(now);
    server
        .accept(buffer(&identity(0x11), 1), true, now)
        .unwrap();
    assert_eq!(server.poll_transmit().unwrap(), ACCEPT_SHM);
    let mut client = waiting_client(now);
    let accept = changed(ACCEPT_SHM, |_, terms| {
        let Terms::V2(terms) = terms else { panic!() };
        terms.first_contact = None;
    });
    client.handle_bytes(&accept, now).unwrap();
    client.confirm(buffer(&identity(0x11), 255)).unwrap();
    assert_eq!(client.poll_transmit().unwrap(), CONFIRM_SHM);
}

#[test]
fn the_fabric_is_not_linux() {
    assert!(SHM_CHID.is_emulated());
    assert_ne!(SHM_CHID, Chid(0xffff));
    let groups = ShmEids::groups(["TEAM-A", "B"]).unwrap();
    assert_eq!(groups.as_slice()[0].name(), "SMCR-SHM-1-TEAM-A");
    for names in [
        &[][..],
        &[""],
        &["a"],
        &["A B"],
        &["A", "B", "C", "D", "E"],
        &["ABCDEFGHIJKLMNOPQRSTUV"],
    ] {
        assert_eq!(ShmEids::groups(names.iter().copied()), None, "{names:?}");
    }
}

/// What a server declines by itself, and in which version.
#[test]
fn offers_of_others_are_declined() {
    let now = Instant::now();
    let chid = |first: [u8; 2], second: [u8; 2]| {
        let mut bytes = PROPOSAL_SHM.to_vec();
        bytes[208..210].copy_from_slice(&first);
        bytes[218..220].copy_from_slice(&second);
        bytes
    };
    let mut other_eid = PROPOSAL_SHM.to_vec();
    other_eid[120] = b'X';
    let cases: &[(&[u8], usize)] = &[
        (PROPOSAL_V1, 28),
        (PROPOSAL_V2, 44),
        (PROPOSAL_V2_HEADER, 44),
        (PROPOSAL_ALL, 44),
        (&chid([0xff, 0xff], [0xff, 0xff]), 44),
        (&chid([0xff, 0x53], [0xff, 0x54]), 44),
        (&chid([0x12, 0x53], [0xff, 0x53]), 44),
        (&other_eid, 44),
    ];
    for (bytes, len) in cases {
        let mut server = server(now);
        server.handle_bytes(bytes, now).unwrap();
        assert_eq!(
            server.poll_event(),
            Some(Event::Refused {
                reason: Reason::NoCommonEid
            })
        );
        let answer = server.poll_transmit().unwrap();
        assert_eq!(answer.len(), *len);
        assert_eq!(decline_of(&answer).diagnosis, Reason::NoCommonEid.into());
        assert_eq!(server.phase(), Phase::Tcp);
        assert_eq!(server.poll_timeout(), None);
    }
}

#[test]
fn our_device_is_found_among_others() {
    let now = Instant::now();
    let Message::Proposal(mut proposal) = Message::parse(PROPOSAL_SHM).unwrap() else {
        panic!()
    };
    let crate::clc::Offer::V2 { v2: Some(v2), .. } = &mut proposal.offer else {
        panic!()
    };
    let smcd = v2.extension.as_mut().unwrap().smcd.as_mut().unwrap();
    let entry = |gid, chid| (crate::clc::IsmGid(gid), Chid(chid));
    let mut gids = vec![
        entry(1, 0x1234),
        entry(2, 0xff01),
        entry(3, 0xffff),
        entry(4, 0xffff),
    ];
    gids.extend_from_slice(&smcd.gids);
    smcd.gids = crate::clc::Bounded::new(gids).unwrap();
    let mut server = server(now);
    server
        .handle_bytes(&Message::Proposal(proposal).emit(), now)
        .unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    assert_eq!(proposed.gid, identity(0x11).gid);
    assert_eq!(proposed.peer_id, offer().identity.peer_id);
}

#[test]
fn the_clients_first_eid_wins() {
    let now = Instant::now();
    let mut offer = offer();
    offer.eids = ShmEids::groups(["A", "B", "C"]).unwrap();
    let mut client = ShmClient::new(offer, Timeouts::default(), now);
    let eids = ShmEids::groups(["X", "C", "B"]).unwrap();
    let mut server = ShmServer::new(host(identity(0x11), eids), Timeouts::default(), now);
    server
        .handle_bytes(&client.poll_transmit().unwrap(), now)
        .unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    assert_eq!(proposed.eid.name(), "SMCR-SHM-1-B");
}

/// An Accept of something that was not offered: Decline instead of Confirm.
#[test]
fn foreign_accepts_are_declined() {
    let now = Instant::now();
    let chid = changed(ACCEPT_SHM, |endpoint, _| ism(endpoint).chid = Chid(0xffff));
    let eid = changed(ACCEPT_SHM, |_, terms| {
        let Terms::V2(terms) = terms else { panic!() };
        terms.eid = Eid::new("SMCR-SHM-1-OTHER").unwrap().into();
    });
    let mut release = ACCEPT_SHM.to_vec();
    release[75] = 0x22;
    let cases: &[(&[u8], usize)] = &[
        (&chid, 44),
        (&eid, 44),
        (&release, 44),
        (ACCEPT_V1, 28),
        (ACCEPT_V2, 44),
        (ACCEPT_ISM_R0, 44),
        (ACCEPT_ISM_V1, 28),
    ];
    for (bytes, len) in cases {
        let mut client = waiting_client(now);
        client.handle_bytes(bytes, now).unwrap();
        assert_eq!(
            client.poll_event(),
            Some(Event::Refused {
                reason: Reason::NoCommonEid
            })
        );
        assert_eq!(client.poll_transmit().unwrap().len(), *len);
        assert_eq!(client.phase(), Phase::Tcp);
    }
}

/// A Confirm that contradicts the Accept comes too late for a Decline.
#[test]
fn contradicting_confirms_end_the_connection() {
    let now = Instant::now();
    let good = {
        let mut bytes = ACCEPT_SHM.to_vec();
        bytes[4] = 3;
        bytes
    };
    assert_eq!(
        accepted_server(now).handle_bytes(&good, now),
        Ok(good.len())
    );
    let eid = changed(&good, |_, terms| {
        let Terms::V2(terms) = terms else { panic!() };
        terms.eid = Eid::new("SMCR-SHM-1-OTHER").unwrap().into();
    });
    let cases: &[(&[u8], Field)] = &[
        (
            &changed(&good, |endpoint, _| ism(endpoint).chid = Chid(0xffff)),
            Field::Chid,
        ),
        (
            &changed(&good, |endpoint, _| ism(endpoint).gid.0 += 1),
            Field::Gid,
        ),
        (
            &changed(&good, |endpoint, _| ism(endpoint).gid_extension.0 += 1),
            Field::Gid,
        ),
        (&eid, Field::Eid),
        (CONFIRM_SHM, Field::FirstContact),
        (CONFIRM_V2, Field::Path),
    ];
    for (bytes, field) in cases {
        let mut server = accepted_server(now);
        let error = HandshakeError::Mismatch(*field);
        assert_eq!(server.handle_bytes(bytes, now), Err(error));
        assert_eq!(
            (error.reason(), error.errno()),
            (Reason::ClcInvalid, libc::EPROTO)
        );
        assert_eq!(
            (server.poll_event(), server.poll_transmit(), server.needed()),
            (None, None, 0)
        );
        assert_eq!(server.handle_bytes(b"x", now), Err(error));
    }
}

#[test]
fn a_linux_like_release_0_client_gets_a_release_0_answer() {
    let now = Instant::now();
    let mut bytes = PROPOSAL_SHM.to_vec();
    bytes[83] = 0;
    let mut server = server(now);
    server.handle_bytes(&bytes, now).unwrap();
    server
        .accept(buffer(&identity(0x11), 1), true, now)
        .unwrap();
    let accept = server.poll_transmit().unwrap();
    assert_eq!(accept.len(), 114);
    let mut client = waiting_client(now);
    client.handle_bytes(&accept, now).unwrap();
    client.confirm(buffer(&identity(0x11), 1)).unwrap();
    server
        .handle_bytes(&client.poll_transmit().unwrap(), now)
        .unwrap();
    assert_eq!(server.phase(), Phase::Done);
}

#[test]
fn timeouts_end_the_connection() {
    let now = Instant::now();
    let wait = Duration::from_secs(6);
    let just_before = now + wait - Duration::from_nanos(1);

    let mut client = waiting_client(now);
    assert_eq!(client.poll_timeout(), Some(now + wait));
    assert_eq!(client.handle_timeout(just_before), Ok(()));
    let error = HandshakeError::Timeout(Kind::Accept);
    assert_eq!(client.handle_timeout(now + wait), Err(error));
    assert_eq!(
        (error.reason(), error.errno()),
        (Reason::ClcTimeout, libc::ETIMEDOUT)
    );
    assert_eq!(
        (client.poll_timeout(), client.phase()),
        (None, Phase::Failed)
    );

    let mut server = server(now);
    assert_eq!(server.poll_timeout(), Some(now + wait));
    assert_eq!(
        server.handle_timeout(now + wait),
        Err(HandshakeError::Timeout(Kind::Proposal))
    );

    // The owner may take its time.
    let mut server = deciding_server(now);
    assert_eq!(server.poll_timeout(), None);
    assert_eq!(server.handle_timeout(now + 10 * wait), Ok(()));
    server
        .accept(buffer(&identity(0x11), 1), true, now + 10 * wait)
        .unwrap();
    assert_eq!(server.poll_timeout(), Some(now + 11 * wait));
    assert_eq!(
        server.handle_timeout(now + 11 * wait),
        Err(HandshakeError::Timeout(Kind::Confirm))
    );
}

#[test]
fn slow_bytes_gain_no_time_but_a_whole_message_is_never_too_late() {
    let now = Instant::now();
    let late = now + Duration::from_secs(7);
    let (half, rest) = ACCEPT_SHM.split_at(60);
    let mut slow = waiting_client(now);
    slow.handle_bytes(half, now).unwrap();
    assert_eq!(
        slow.handle_bytes(&rest[..1], late),
        Err(HandshakeError::Timeout(Kind::Accept))
    );
    let mut client = waiting_client(now);
    client.handle_bytes(half, now).unwrap();
    assert_eq!(client.handle_bytes(rest, late), Ok(rest.len()));
    assert_eq!(client.phase(), Phase::Deciding);
}

#[test]
fn the_end_of_the_stream() {
    let now = Instant::now();
    let mut client = waiting_client(now);
    client.handle_bytes(&ACCEPT_SHM[..20], now).unwrap();
    let error = HandshakeError::Ended(Kind::Accept);
    assert_eq!(client.handle_end(), Err(error));
    assert_eq!(
        (error.reason(), error.errno()),
        (Reason::Ended, libc::ECONNRESET)
    );
    assert_eq!(
        server(now).handle_end(),
        Err(HandshakeError::Ended(Kind::Proposal))
    );
    assert_eq!(
        accepted_server(now).handle_end(),
        Err(HandshakeError::Ended(Kind::Confirm))
    );
    assert_eq!(deciding_server(now).handle_end(), Ok(()));
}

/// The first wrong byte is enough: no waiting for eight of them.
#[test]
fn garbage_is_seen_at_once() {
    let now = Instant::now();
    let error = HandshakeError::Invalid(ClcError::EyeCatcher(Field::EyeCatcher));
    assert_eq!(
        (error.reason(), error.errno()),
        (Reason::ClcInvalid, libc::EPROTO)
    );
    for bytes in [
        &b"S"[..],
        b"SSH-2.0-x",
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xe2, 0xd4, 0],
        &[0; 8],
    ] {
        assert_eq!(waiting_client(now).handle_bytes(bytes, now), Err(error));
        assert_eq!(server(now).handle_bytes(bytes, now), Err(error));
    }
    let mut oversized = PROPOSAL_SHM.to_vec();
    oversized[5] = 0x10;
    let mut server = server(now);
    assert!(matches!(
        server.handle_bytes(&oversized[..8], now),
        Err(HandshakeError::Invalid(ClcError::Length {
            kind: Kind::Proposal,
            ..
        }))
    ));
    assert_eq!(server.needed(), 0);
}

#[test]
fn calls_out_of_turn_change_nothing() {
    let now = Instant::now();
    let mut client = waiting_client(now);
    let local = buffer(&identity(0x11), 1);
    assert_eq!(client.confirm(local), Err(CallError::Phase));
    client.handle_bytes(ACCEPT_SHM, now).unwrap();
    assert_eq!(
        client.confirm(buffer(&identity(0x12), 1)),
        Err(CallError::Gid)
    );
    client.confirm(local).unwrap();
    assert_eq!(client.confirm(local), Err(CallError::Phase));
    assert_eq!(client.decline(Reason::Memory), Err(CallError::Phase));
    assert_eq!(client.poll_transmit().unwrap()[4], Kind::Confirm as u8);

    let mut server = server(now);
    assert_eq!(server.accept(local, true, now), Err(CallError::Phase));
    let mut server = deciding_server(now);
    assert_eq!(
        server.accept(buffer(&identity(0x12), 1), true, now),
        Err(CallError::Gid)
    );
    let mut server = accepted_server(now);
    assert_eq!(server.decline(Reason::Memory), Err(CallError::Phase));
    assert_eq!(server.phase(), Phase::Expecting(Kind::Confirm));
}

proptest! {
    /// Whatever comes, in whatever pieces: no panic, no over-read, no unbounded read.
    #[test]
    fn any_bytes(data in proptest::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzzing::clc_handshake(&data);
    }

    #[test]
    fn changed_golden_bytes(which in 0..ALL.len(), at in any::<usize>(), value: u8, first in any::<[u8; 4]>()) {
        let mut data = first.to_vec();
        data.extend_from_slice(ALL[which]);
        let at = at % data.len();
        data[at] = value;
        crate::fuzzing::clc_handshake(&data);
    }
}

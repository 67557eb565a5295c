//! Against messages that two Linux kernels sent each other, and those of the documents.

use super::pair::{declined, refused};
use super::*;

/// The end that sent a golden message of version 2, as far as the message tells.
fn linux(peer_id: [u8; 8], host: u8) -> RdmaEnd {
    RdmaEnd {
        identity: RdmaIdentity {
            peer_id: PeerId(peer_id),
            host_name: HostName::new(b"(none)"),
        },
        mac: Mac([0x52, 0x54, 0, 0, 0, host]),
        v1: None,
        v2: Some(V2 {
            gid: Gid(std::net::Ipv4Addr::new(10, 0, 0, host)
                .to_ipv6_mapped()
                .octets()),
            ueids: eids(&["LIBSMCR-TEST"]),
            capabilities: RELEASE_1,
        }),
    }
}

fn linux_client() -> RdmaEnd {
    linux([0xc2, 0xc9, 0x52, 0x54, 0, 0, 0, 2], 2)
}

fn linux_server() -> RdmaEnd {
    linux([0x46, 0x61, 0x52, 0x54, 0, 0, 0, 1], 1)
}

/// The sender's end in a golden Accept or Confirm.
fn endpoint_of(bytes: &[u8]) -> RdmaEndpoint {
    let endpoint = match Message::parse(bytes) {
        Ok(Message::Accept(accept)) => accept.endpoint,
        Ok(Message::Confirm(confirm)) => confirm.endpoint,
        other => panic!("{other:?}"),
    };
    match endpoint {
        Endpoint::Rdma(endpoint) => endpoint,
        Endpoint::Ism(_) => panic!(),
    }
}

/// Linux says that it knows emulated ISM devices, which is no matter of SMC-R.
fn without_feature(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    assert_eq!(bytes[at], Capabilities::EMULATED_ISM as u8);
    bytes[at] = 0;
    bytes
}

#[test]
fn we_serve_a_linux_client() {
    let now = Instant::now();
    let mut server = RdmaServer::new(linux_server(), Timeouts::default(), now);
    server.handle_bytes(PROPOSAL_V2, now).unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    // Linux leaves peer ID, GID and MAC zero if it offers version 2 only.
    assert_eq!((proposed.peer_id, proposed.mac), Default::default());
    assert_eq!(proposed.gid, linux_client().v2.unwrap().gid);
    let limits = Limits {
        max_conns: 255,
        max_links: 2,
    };
    assert_eq!(proposed.settled.limits, Some(limits));
    server.accept(&endpoint_of(ACCEPT_V2), FIRST, now).unwrap();
    assert_eq!(
        server.poll_transmit().unwrap(),
        without_feature(ACCEPT_V2, 143)
    );
    server.handle_bytes(CONFIRM_V2, now).unwrap();
    let Some(Event::Confirmed(confirmed)) = server.poll_event() else {
        panic!()
    };
    assert_eq!(confirmed.peer, endpoint_of(CONFIRM_V2));
    assert_eq!(confirmed.link_gids, [linux_client().v2.unwrap().gid]);
    assert_eq!(confirmed.extension.unwrap().os, crate::clc::OsType::LINUX);
    assert_eq!(server.phase(), Phase::Linking);
}

#[test]
fn we_are_a_linux_servers_client() {
    let now = Instant::now();
    let mut client = RdmaClient::new(linux_client(), Timeouts::default(), now);
    let mut proposal = client.poll_transmit().unwrap();
    // We fill in what Linux leaves zero here.
    let (client_id, mac) = (linux_client().identity.peer_id, linux_client().mac);
    assert_eq!(
        (&proposal[8..16], &proposal[16..32], &proposal[32..38]),
        (&client_id.0[..], &[0; 16][..], &mac.0[..])
    );
    proposal[8..38].fill(0);
    assert_eq!(proposal, without_feature(PROPOSAL_V2, 107));
    client.handle_bytes(ACCEPT_V2, now).unwrap();
    let Some(Event::Accepted(accepted)) = client.poll_event() else {
        panic!()
    };
    assert_eq!(accepted.peer, endpoint_of(ACCEPT_V2));
    assert!(accepted.first_contact);
    assert!(accepted.extension.unwrap().direct);
    client.confirm(&endpoint_of(CONFIRM_V2), now).unwrap();
    assert_eq!(
        client.poll_transmit().unwrap(),
        without_feature(CONFIRM_V2, 143)
    );
    assert_eq!(client.phase(), Phase::Linking);
}

/// RFC 7609 §A.2.2, §A.2.3.
#[test]
fn version_1_as_in_the_rfc() {
    let now = Instant::now();
    let mut client = RdmaClient::new(only_v1(CLIENT_ID), Timeouts::default(), now);
    assert_eq!(client.poll_transmit().unwrap(), PROPOSAL_V1);
    let mut server = RdmaServer::new(only_v1(SERVER_ID), Timeouts::default(), now);
    server.handle_bytes(PROPOSAL_V1, now).unwrap();
    assert!(matches!(server.poll_event(), Some(Event::Proposed(_))));
    let local = endpoint(SERVER_ID, Version::V1);
    server.accept(&local, FIRST, now).unwrap();
    assert_eq!(server.poll_transmit().unwrap(), ACCEPT_V1);
    client.handle_bytes(ACCEPT_V1, now).unwrap();
    assert!(matches!(client.poll_event(), Some(Event::Accepted(_))));
    let local = endpoint(CLIENT_ID, Version::V1);
    client.confirm(&local, now).unwrap();
    let confirm = client.poll_transmit().unwrap();
    // The first contact flag is reserved in a Confirm (§A.2.4).
    assert_eq!((confirm.len(), confirm[7]), (68, 0x10));
    server.handle_bytes(&confirm, now).unwrap();
    assert!(matches!(server.poll_event(), Some(Event::Confirmed(_))));
    assert_eq!(server.phase(), Phase::Linking);

    // Linux sets it.
    let mut server = server_at_confirm(only_v1(SERVER_ID), only_v1(CLIENT_ID), FIRST);
    let mut flagged = confirm;
    flagged[7] = 0x18;
    server.handle_bytes(&flagged, now).unwrap();
    assert_eq!(server.phase(), Phase::Linking);
}

#[test]
fn golden_declines() {
    let now = Instant::now();
    // No device: the answer to a Proposal of version 1.
    let mut server = RdmaServer::new(only_v1(SERVER_ID), Timeouts::default(), now);
    server.decline(Reason::NoRdmaDevice).unwrap();
    server.handle_bytes(PROPOSAL_V1, now).unwrap();
    assert_eq!(server.poll_transmit().unwrap(), DECLINE_V1);
    // Out of sync: the answer to an Accept of version 2 for a link that is gone.
    let mut client = client_of(end(CLIENT_ID), now);
    let accept = hostile::accept(Version::V2, Contact::Later, |_, _| {});
    client.handle_bytes(&accept, now).unwrap();
    client.decline(Reason::OutOfSync).unwrap();
    assert_eq!(client.poll_transmit().unwrap(), DECLINE_V2);
    // And what they are taken for.
    let mut client = client_of(end(CLIENT_ID), now);
    client.handle_bytes(DECLINE_V1, now).unwrap();
    assert_eq!(client.poll_event(), Some(declined(Reason::NoRdmaDevice)));
    for contact in [FIRST, Contact::Later] {
        let mut server = server_at_confirm(end(SERVER_ID), end(CLIENT_ID), contact);
        server.handle_bytes(DECLINE_V2, now).unwrap();
        assert_eq!(server.poll_event(), Some(declined(Reason::OutOfSync)));
    }
}

/// A Proposal in the layout of version 2 that offers version 1: a Linux without enterprise IDs.
#[test]
fn a_linux_without_enterprise_ids() {
    let now = Instant::now();
    let mut server = RdmaServer::new(end(SERVER_ID), Timeouts::default(), now);
    server.handle_bytes(PROPOSAL_V2_HEADER, now).unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    assert_eq!(proposed.settled.version, Version::V1);
    let local = endpoint(SERVER_ID, Version::V1);
    server.accept(&local, FIRST, now).unwrap();
    assert_eq!(server.poll_transmit().unwrap(), ACCEPT_V1);
    // A Decline takes the layout of the Proposal.
    let mut server = RdmaServer::new(only_v2(SERVER_ID, RELEASE_1), Timeouts::default(), now);
    server.handle_bytes(PROPOSAL_V2_HEADER, now).unwrap();
    assert_eq!(server.poll_event(), Some(refused(Reason::VersionMismatch)));
    assert_eq!(server.poll_transmit().unwrap().len(), 44);
}

/// All fabrics in all versions on offer: ours is found among them.
#[test]
fn smc_r_among_others() {
    let now = Instant::now();
    for (eid, version) in [("A", Version::V2), ("B.2-C", Version::V2)] {
        let mut end = end(SERVER_ID);
        end.v2.as_mut().unwrap().ueids = eids(&[eid]);
        let mut server = RdmaServer::new(end, Timeouts::default(), now);
        server.handle_bytes(PROPOSAL_ALL, now).unwrap();
        let Some(Event::Proposed(proposed)) = server.poll_event() else {
            panic!()
        };
        assert_eq!(proposed.settled.version, version);
        // The client of that message speaks release 0.
        assert_eq!(
            (proposed.settled.release, proposed.settled.limits),
            (0, None)
        );
    }
    // None of the enterprise IDs, but an IPv6 prefix.
    let mut end = end(SERVER_ID);
    let address = "2001:db8::77".parse().unwrap();
    end.v1.as_mut().unwrap().subnets = Subnets::V6(vec![(address, 64)]);
    let mut server = RdmaServer::new(end, Timeouts::default(), now);
    server.handle_bytes(PROPOSAL_ALL, now).unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    assert_eq!(proposed.settled.version, Version::V1);
    // Our own shared memory is nothing for this machine, nor SMC-R for the other one.
    let mut server = RdmaServer::new(linux_server(), Timeouts::default(), now);
    server.handle_bytes(PROPOSAL_SHM, now).unwrap();
    assert_eq!(server.poll_event(), Some(refused(Reason::NoCommonFabric)));
}

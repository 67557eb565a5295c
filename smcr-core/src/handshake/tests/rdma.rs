//! SMC-R.

use std::net::Ipv6Addr;

use super::super::rdma::*;
use super::super::{Fault, Objection, Peeked, RdmaClient, RdmaServer};
use super::*;
use crate::clc::{
    Bounded, Capabilities, Gid, Mac, MtuCode, Psn, QpNumber, RdmaEndpoint, Rkey, Token, Version,
};

mod cases;
mod golden_bytes;
mod hostile;
mod link;
mod pair;

const CLIENT_ID: PeerId = PeerId([0xa1, 0xb2, 2, 0, 0x5e, 0, 0x53, 0x0a]);
const SERVER_ID: PeerId = PeerId([0xc3, 0xd4, 2, 0, 0x5e, 0, 0x53, 0x1a]);

fn eids(names: &[&str]) -> Bounded<Eid, MAX_UEIDS> {
    let eids = names.iter().map(|name| Eid::new(name).unwrap());
    Bounded::new(eids.collect()).unwrap()
}

fn gid_v1(peer: PeerId) -> Gid {
    let mut gid = [0; 16];
    gid[..2].copy_from_slice(&[0xfe, 0x80]);
    gid[8..].copy_from_slice(&[0, 0, 0x5e, 0xff, 0xfe, 0, peer.0[6], peer.0[7]]);
    Gid(gid)
}

fn gid_v2(peer: PeerId) -> Gid {
    Gid(std::net::Ipv4Addr::new(10, 0, 0, peer.0[7])
        .to_ipv6_mapped()
        .octets())
}

fn v1(peer: PeerId) -> V1 {
    V1 {
        gid: gid_v1(peer),
        subnets: Subnets::V4(vec![([192, 0, 2, peer.0[7]].into(), 24)]),
    }
}

fn v2(peer: PeerId, capabilities: Capabilities) -> V2 {
    V2 {
        gid: gid_v2(peer),
        ueids: eids(&["TEAM-A"]),
        capabilities,
    }
}

const RELEASE_1: Capabilities = Capabilities::release_1(255, 2, 0);

/// An end that can do all there is.
fn end(peer: PeerId) -> RdmaEnd {
    let mut mac = [0; 6];
    mac.copy_from_slice(&peer.0[2..]);
    RdmaEnd {
        identity: RdmaIdentity {
            peer_id: peer,
            host_name: HostName::new(b"host"),
        },
        mac: Mac(mac),
        v1: Some(v1(peer)),
        v2: Some(v2(peer, RELEASE_1)),
    }
}

fn only_v1(peer: PeerId) -> RdmaEnd {
    RdmaEnd {
        v2: None,
        ..end(peer)
    }
}

fn only_v2(peer: PeerId, capabilities: Capabilities) -> RdmaEnd {
    RdmaEnd {
        v1: None,
        v2: Some(v2(peer, capabilities)),
        ..end(peer)
    }
}

/// One end of a link and an RMBE.
fn endpoint(peer: PeerId, version: Version) -> RdmaEndpoint {
    RdmaEndpoint {
        peer_id: peer,
        gid: match version {
            Version::V1 => gid_v1(peer),
            Version::V2 => gid_v2(peer),
        },
        mac: end(peer).mac,
        qp_number: QpNumber::new(0x1a7).unwrap(),
        rkey: Rkey(0x12345),
        rmbe_index: RmbeIndex::new(1).unwrap(),
        token: Token(0x51),
        rmbe_size: RmbeSize::new(2).unwrap(),
        mtu: MtuCode::new(3).unwrap(),
        address: 0x7f3a_4001_0000,
        psn: Psn::new(0x5a_17c3).unwrap(),
    }
}

const FIRST: Contact = Contact::First { direct: true };

/// A client whose Proposal is on the wire.
fn client_of(end: RdmaEnd, now: Instant) -> RdmaClient {
    let mut client = RdmaClient::new(end, Timeouts::default(), now);
    client.poll_transmit().unwrap();
    client
}

/// A server that waits for the Confirm to a message of `client`'s.
fn server_at_confirm(server: RdmaEnd, client: RdmaEnd, contact: Contact) -> RdmaServer {
    let now = Instant::now();
    let mut server = RdmaServer::new(server, Timeouts::default(), now);
    let mut client = RdmaClient::new(client, Timeouts::default(), now);
    let proposal = client.poll_transmit().unwrap();
    server.handle_bytes(&proposal, now).unwrap();
    let Some(Event::Proposed(proposed)) = server.poll_event() else {
        panic!()
    };
    let local = endpoint(SERVER_ID, proposed.settled.version);
    server.accept(&local, contact, now).unwrap();
    server.poll_transmit().unwrap();
    server
}

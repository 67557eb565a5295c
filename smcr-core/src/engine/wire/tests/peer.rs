//! The other end, played by hand.

use std::io::{Read, Write};
use std::net::TcpStream;

use super::*;
use crate::clc::{
    Accept, Bounded, Capabilities, Confirm, Eid, Header, HostName, PeerId, Psn, RmbeIndex,
    RmbeSize, Terms, Token,
};
use crate::handshake::rdma::{RdmaEnd, RdmaIdentity, Subnets, V1, V2};
use crate::handshake::{RdmaClient, RdmaServer, Timeouts};
use crate::llc::{ConfirmLink, LinkEnd, LinkUserId, Llc, flow};
use crate::rdma::GroupKey;
use crate::rdma::fabric::{LinkAddress, Port};
use crate::rdma::sim::{FarEnd, Manners, Place, RawPeer, SimPort};

/// Elements in its memory.
const ELEMENTS: usize = 8;

/// A peer process, with one link.
pub(super) struct Peer {
    id: PeerId,
    port: Arc<SimPort>,
    version: Version,
    pub(super) manners: Manners,
    next_token: u32,
}

/// A TCP connection, from the peer's side.
pub(super) struct Talk {
    tcp: TcpStream,
}

/// What a peer has of a connection that moved, or is about to.
pub(super) struct Far {
    pub(super) ours: RdmaEndpoint,
    pub(super) end: FarEnd,
}

impl Peer {
    /// `role` is the peer's.
    pub(super) fn new(bench: &Bench, number: u8, role: Role, version: Version) -> Self {
        let port = bench.net.port(&format!("sim{number}/1"));
        Self::at(&port, number, role, version)
    }

    /// Another one at a port.
    pub(super) fn at(port: &Arc<SimPort>, number: u8, role: Role, version: Version) -> Self {
        let gid = usize::from(version == Version::V2);
        let receive_size = if gid == 0 { 44 } else { 8192 };
        let raw = RawPeer::new(port, gid, receive_size, ELEMENTS * RmbeSize::MIN.bytes());
        let role = match role {
            Role::Client => flow::Role::Client,
            Role::Server => flow::Role::Server,
        };
        Self {
            id: PeerId([number; 8]),
            port: Arc::clone(port),
            version,
            manners: Manners::new(raw.unwrap(), role, version),
            next_token: 100,
        }
    }

    /// How the engine knows it; `role` is the engine's.
    pub(super) fn key(&self, role: Role) -> GroupKey {
        GroupKey {
            peer: self.id,
            gid: self.manners.raw.address().gid,
            role,
        }
    }

    pub(super) fn answer(&mut self) {
        self.manners.answer();
    }

    fn end(&self) -> RdmaEnd {
        let [v1, v2] = self.port.gids();
        let is_v2 = self.version == Version::V2;
        RdmaEnd {
            identity: RdmaIdentity {
                peer_id: self.id,
                host_name: HostName::new(b"peer"),
            },
            mac: self.port.mac(),
            v1: (!is_v2).then_some(V1 {
                gid: v1.gid,
                subnets: Subnets::V4(vec![([127, 0, 0, 1].into(), 8)]),
            }),
            v2: is_v2.then(|| V2 {
                gid: v2.gid,
                ueids: Bounded::new(vec![Eid::new("TEST").unwrap()]).unwrap(),
                capabilities: Capabilities::release_1(255, 1, 0),
            }),
        }
    }

    /// A client's Proposal.
    pub(super) fn propose(&self, talk: &mut Talk) {
        let mut machine = RdmaClient::new(self.end(), Timeouts::default(), Instant::now());
        talk.say(&machine.poll_transmit().unwrap());
    }

    /// What it says of its end of a connection: element `index`, from 1.
    pub(super) fn element(&mut self, index: u8) -> RdmaEndpoint {
        let address = self.manners.raw.address();
        let (rkey, memory) = self.manners.raw.rtoken();
        self.next_token += 1;
        RdmaEndpoint {
            peer_id: self.id,
            gid: address.gid,
            mac: address.mac,
            qp_number: address.qpn,
            rkey,
            rmbe_index: RmbeIndex::new(index).unwrap(),
            token: Token(self.next_token),
            rmbe_size: RmbeSize::MIN,
            mtu: address.mtu,
            address: memory,
            psn: address.psn,
        }
    }

    /// Its side of a connection whose two ends are named.
    pub(super) fn far(&self, ours: RdmaEndpoint, theirs: &RdmaEndpoint) -> Far {
        let at = usize::from(ours.rmbe_index.get() - 1) * RmbeSize::MIN.bytes();
        let eye_catcher = self.manners.eye_catcher;
        let end = FarEnd::new(Place::of(theirs), at, ours.rmbe_size, eye_catcher);
        Far { ours, end }
    }

    /// Connects its link to the end that an Accept or Confirm names.
    pub(super) fn connect(&mut self, end: &RdmaEndpoint) {
        self.reach(end);
        self.manners.begin();
    }

    /// The same, and says nothing yet.
    pub(super) fn reach(&mut self, end: &RdmaEndpoint) {
        let address = LinkAddress {
            gid: end.gid,
            mac: end.mac,
            qpn: end.qp_number,
            psn: end.psn,
            mtu: end.mtu,
        };
        self.manners.raw.connect(&address).unwrap();
    }

    /// As a client: a whole handshake with element `index`.
    pub(super) fn dial(&mut self, bench: &mut Bench, index: u8) -> (Far, Talk, Conn) {
        let (mut talk, conn) = bench.connect(Role::Server);
        self.propose(&mut talk);
        let accept = talk.accept(bench, self);
        let ours = self.element(index);
        let far = self.confirm(&mut talk, &accept, ours);
        let phase = || conn.phase() == crate::engine::Phase::Smc;
        bench.until(&mut [self], phase);
        (far, talk, conn)
    }

    /// As a client: the answer to an Accept.
    pub(super) fn confirm(&mut self, talk: &mut Talk, accept: &Accept, ours: RdmaEndpoint) -> Far {
        let Endpoint::Rdma(theirs) = &accept.endpoint else {
            panic!("not RDMA");
        };
        let first = match &accept.terms {
            Terms::V1 { first_contact } => *first_contact,
            Terms::V2(terms) => terms.first_contact.is_some(),
        };
        if first {
            self.connect(theirs);
        }
        talk.say(&self.confirmation(accept, &ours).emit());
        self.far(ours, theirs)
    }

    /// The Confirm for an Accept.
    pub(super) fn confirmation(&self, accept: &Accept, ours: &RdmaEndpoint) -> Confirm {
        Confirm {
            endpoint: Endpoint::Rdma(ours.clone()),
            terms: match &accept.terms {
                Terms::V1 { .. } => Terms::V1 {
                    first_contact: false,
                },
                terms => terms.clone(),
            },
            link_gids: Bounded::new(vec![ours.gid]).unwrap(),
        }
    }

    /// CONFIRM LINK, or the response to it, of a link that is connected, about another end.
    pub(super) fn say_confirm_link(&mut self, response: bool, spoil: fn(&mut LinkEnd)) {
        let mut end = self.manners.end();
        spoil(&mut end);
        let message = Llc::ConfirmLink(ConfirmLink {
            response,
            no_eye_catcher: true,
            end,
            link: self.manners.link(),
            user_id: LinkUserId(1),
            max_links: 1,
            max_conns: 255,
        });
        self.manners.raw.say(&message.emit(self.version)).unwrap();
    }

    /// As a server: the answer to a Proposal.
    pub(super) fn accept(
        &mut self,
        proposal: &[u8],
        ours: &RdmaEndpoint,
        contact: Contact,
    ) -> Accept {
        let mut machine = RdmaServer::new(self.end(), Timeouts::default(), Instant::now());
        machine.handle_bytes(proposal, Instant::now()).unwrap();
        // A good one, whatever `ours` says: that takes its place.
        let good = RdmaEndpoint {
            psn: Psn::default(),
            ..self.element(1)
        };
        machine.accept(&good, contact, Instant::now()).unwrap();
        let Ok(Message::Accept(accept)) = Message::parse(&machine.poll_transmit().unwrap()) else {
            panic!("no Accept");
        };
        Accept {
            endpoint: Endpoint::Rdma(ours.clone()),
            ..accept
        }
    }

    /// As a server: a whole handshake with element `index`.
    pub(super) fn serve(
        &mut self,
        bench: &mut Bench,
        index: u8,
        contact: Contact,
    ) -> (Far, Talk, Conn) {
        let (mut talk, conn) = bench.connect(Role::Client);
        let ours = self.element(index);
        let theirs = self.welcome(&mut talk, bench, &ours, contact);
        let phase = || conn.phase() == crate::engine::Phase::Smc;
        bench.until(&mut [self], phase);
        (self.far(ours, &theirs), talk, conn)
    }

    /// As a server: answers the Proposal, and takes the Confirm.
    pub(super) fn welcome(
        &mut self,
        talk: &mut Talk,
        bench: &mut Bench,
        ours: &RdmaEndpoint,
        contact: Contact,
    ) -> RdmaEndpoint {
        let theirs = self.confirmed(talk, bench, ours, contact);
        if contact.is_first() {
            self.connect(&theirs);
        }
        theirs
    }

    /// The same, and does not touch its link.
    pub(super) fn confirmed(
        &mut self,
        talk: &mut Talk,
        bench: &mut Bench,
        ours: &RdmaEndpoint,
        contact: Contact,
    ) -> RdmaEndpoint {
        let proposal = talk.hear(bench, self);
        let accept = self.accept(&proposal.emit(), ours, contact);
        talk.say(&accept.emit());
        let Message::Confirm(confirm) = talk.hear(bench, self) else {
            panic!("no Confirm");
        };
        let Endpoint::Rdma(theirs) = confirm.endpoint else {
            panic!("not RDMA");
        };
        theirs
    }
}

impl Talk {
    pub(super) fn new(tcp: TcpStream) -> Self {
        tcp.set_nonblocking(true).unwrap();
        Self { tcp }
    }

    /// Whether a Proposal lies there, which stays.
    pub(super) fn has_proposal(&self) -> bool {
        let mut bytes = [0; 5];
        matches!(self.tcp.peek(&mut bytes), Ok(5)) && bytes[4] == 1
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.tcp.write_all(bytes).unwrap();
    }

    /// Says what it has heard: to a Decline, another one is the answer.
    pub(super) fn echo(&mut self) {
        let mut bytes = [0; 512];
        if let Ok(count) = self.tcp.read(&mut bytes) {
            // The connection may be over already.
            let _ = self.tcp.write_all(&bytes[..count]);
        }
    }

    /// The next CLC message.
    pub(super) fn hear(&mut self, bench: &mut Bench, peer: &mut Peer) -> Message {
        self.hear_or_end(bench, peer)
            .expect("the connection goes on")
    }

    /// The next CLC message; `None` if the connection ends.
    pub(super) fn hear_or_end(&mut self, bench: &mut Bench, peer: &mut Peer) -> Option<Message> {
        let end = Instant::now() + Duration::from_secs(5);
        let mut bytes = Vec::new();
        let mut wanted = Header::LEN;
        loop {
            let mut piece = vec![0; wanted - bytes.len()];
            match self.tcp.read(&mut piece) {
                Ok(0) => return None,
                Ok(count) => bytes.extend(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    assert!(Instant::now() < end, "no message");
                    bench.run(&mut [&mut *peer]);
                }
                Err(_) => return None,
            }
            if bytes.len() == wanted {
                let Some((header, rest)) = bytes.split_first_chunk() else {
                    continue;
                };
                wanted = Header::parse(header).unwrap().len();
                if rest.len() + Header::LEN == wanted {
                    return Some(Message::parse(&bytes).unwrap());
                }
            }
        }
    }

    pub(super) fn accept(&mut self, bench: &mut Bench, peer: &mut Peer) -> Accept {
        match self.hear(bench, peer) {
            Message::Accept(accept) => accept,
            other => panic!("{other:?}"),
        }
    }

    /// The reason of the Decline that has to come now.
    pub(super) fn declined(&mut self, bench: &mut Bench, peer: &mut Peer) -> Option<Reason> {
        match self.hear(bench, peer) {
            Message::Decline(decline) => decline.diagnosis.reason(),
            other => panic!("{other:?}"),
        }
    }
}

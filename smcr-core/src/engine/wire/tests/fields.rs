//! Accept and Confirm with one field out of place: the handshake is over soon, one way or the
//! other, what it took is given back, and the neighbours do not notice.

use super::*;
use crate::clc::{Gid, Mac, MtuCode, PeerId, Psn, QpNumber, Rkey, RmbeIndex, RmbeSize, Token};
use crate::engine::Phase;
use crate::rdma::sim::{SimConfig, SimPort};

/// Spoils one field of an endpoint.
type Spoil = fn(&mut RdmaEndpoint);

/// What becomes of a connection whose peer says such a thing of its end, at first contact and
/// later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It does not move.
    Refused,
    /// It moves, and works: the value says nothing that is used.
    Works,
    /// It moves; the first WRITE is refused by the peer's own adapter, and the link is lost.
    Breaks,
}
use Fate::{Breaks, Refused, Works};

const FIELDS: &[(&str, Spoil, Fate, Fate)] = &[
    (
        "peer ID 0",
        |e| e.peer_id = PeerId([0; 8]),
        Refused,
        Refused,
    ),
    ("GID 0", |e| e.gid = Gid([0; 16]), Refused, Refused),
    ("multicast GID", |e| e.gid.0[0] = 0xff, Refused, Refused),
    ("GID of nobody", |e| e.gid.0[15] ^= 0x40, Refused, Refused),
    ("MAC of nobody", |e| e.mac = Mac([2; 6]), Refused, Works),
    ("QP number 0", |e| e.qp_number = qpn(0), Refused, Refused),
    ("QP number 1", |e| e.qp_number = qpn(1), Refused, Refused),
    (
        "multicast QP number",
        |e| e.qp_number = qpn(0x00ff_ffff),
        Refused,
        Refused,
    ),
    (
        "QP number of nobody",
        |e| e.qp_number = qpn(e.qp_number.get() ^ 0x10_0000),
        Refused,
        Refused,
    ),
    ("rkey 0", |e| e.rkey = Rkey(0), Breaks, Breaks),
    (
        "rkey of nobody",
        |e| e.rkey = Rkey(!e.rkey.0),
        Breaks,
        Breaks,
    ),
    (
        "index beyond the RMB",
        |e| e.rmbe_index = RmbeIndex::new(9).unwrap(),
        Breaks,
        Breaks,
    ),
    (
        "last index",
        |e| e.rmbe_index = RmbeIndex::new(255).unwrap(),
        Breaks,
        Breaks,
    ),
    ("token 0", |e| e.token = Token(0), Refused, Refused),
    (
        "more than the RMB",
        |e| e.rmbe_size = RmbeSize::MAX,
        Works,
        Breaks,
    ),
    (
        "index 255 of 512 MiB",
        |e| {
            e.rmbe_size = RmbeSize::MAX;
            e.rmbe_index = RmbeIndex::new(255).unwrap();
        },
        Breaks,
        Breaks,
    ),
    (
        "MTU 0",
        |e| e.mtu = MtuCode::new(0).unwrap(),
        Refused,
        Works,
    ),
    (
        "MTU 15",
        |e| e.mtu = MtuCode::new(15).unwrap(),
        Refused,
        Works,
    ),
    ("address 0", |e| e.address = 0, Breaks, Breaks),
    (
        "address before the RMB",
        |e| e.address -= 1 << 20,
        Breaks,
        Breaks,
    ),
    (
        "address that wraps",
        |e| e.address = u64::MAX - 100,
        Refused,
        Refused,
    ),
    ("last address", |e| e.address = u64::MAX, Refused, Refused),
    (
        "PSN of nobody",
        |e| e.psn = Psn::new(e.psn.get() ^ 1).unwrap(),
        Refused,
        Works,
    ),
];

fn qpn(number: u32) -> QpNumber {
    QpNumber::new(number).unwrap()
}

/// A connection of another peer, which has to work on.
struct Bystander {
    peer: Peer,
    far: peer::Far,
    conn: Conn,
    _talk: Talk,
}

impl Bystander {
    fn new(bench: &mut Bench) -> Self {
        let mut peer = Peer::new(bench, 9, Role::Client, Version::V2);
        let (far, talk, conn) = peer.dial(bench, 3);
        Self {
            peer,
            far,
            conn,
            _talk: talk,
        }
    }

    fn works(&mut self, bench: &mut Bench, name: &str) {
        let Self {
            peer, far, conn, ..
        } = self;
        far.end.write(&mut peer.manners.raw, name.as_bytes());
        bench.until(&mut [&mut *peer], || {
            conn.receive() == Ok(name.as_bytes().to_vec())
        });
        assert_eq!(conn.send(name.as_bytes()), Ok(name.len()));
        let mut read = Vec::new();
        while read.len() < name.len() {
            bench.run(&mut [&mut *peer]);
            for message in peer.manners.take_heard() {
                far.end.take(&message);
            }
            read.extend(far.end.read(&peer.manners.raw));
        }
        assert_eq!(read, name.as_bytes());
        far.end.tell(&mut peer.manners.raw);
    }
}

/// One handshake whose peer, in that role, spoils a field.
fn spoiled(
    bench: &mut Bench,
    peer: &mut Peer,
    role: Role,
    contact: Contact,
    spoil: Spoil,
) -> (Talk, Conn) {
    let index = if contact.is_first() { 1 } else { 2 };
    let mut said = peer.element(index);
    spoil(&mut said);
    match role {
        Role::Client => {
            let (mut talk, conn) = bench.connect(Role::Server);
            peer.propose(&mut talk);
            let accept = talk.accept(bench, peer);
            peer.confirm(&mut talk, &accept, said);
            (talk, conn)
        }
        Role::Server => {
            let (mut talk, conn) = bench.connect(Role::Client);
            let proposal = talk.hear(bench, peer).emit();
            let accept = peer.accept(&proposal, &said, contact);
            talk.say(&accept.emit());
            if let Some(Message::Confirm(confirm)) = talk.hear_or_end(bench, peer)
                && let Endpoint::Rdma(theirs) = &confirm.endpoint
                && contact.is_first()
            {
                peer.connect(theirs);
            }
            (talk, conn)
        }
    }
}

/// Waits until it is decided what carries the stream. The clocks of the wire go fast, and the peer
/// answers a Decline by its own.
fn decided(bench: &mut Bench, peers: &mut [&mut Peer], talk: &mut Talk, conn: &Conn) -> Phase {
    let end = Instant::now() + Duration::from_secs(5);
    for round in 0.. {
        if let phase @ (Phase::Smc | Phase::Tcp) = conn.phase() {
            return phase;
        }
        assert!(Instant::now() < end, "never decided");
        bench.run(peers);
        if round > 10 {
            talk.echo();
            bench.net.advance_by(Duration::from_millis(100));
            bench.later += Duration::from_millis(500);
        }
    }
    unreachable!("it has come to an end")
}

fn try_fields(role: Role, version: Version, contact: Contact) {
    let mut bench = Bench::new(SimConfig::new());
    let mut bystander = Bystander::new(&mut bench);
    let at: Arc<SimPort> = bench.net.port("sim1/1");
    bystander.works(&mut bench, "before");
    let before = (bench.port.links(), bench.port.registered());
    for &(name, spoil, first, later) in FIELDS {
        let mut peer = Peer::at(&at, 1, role, version);
        bench.later = Duration::ZERO;
        let good = (!contact.is_first()).then(|| {
            let first = Contact::First { direct: true };
            match role {
                Role::Client => peer.dial(&mut bench, 1),
                Role::Server => peer.serve(&mut bench, 1, first),
            }
        });
        let (mut talk, conn) = spoiled(&mut bench, &mut peer, role, contact, spoil);
        let peers = &mut [&mut peer, &mut bystander.peer];
        let phase = decided(&mut bench, peers, &mut talk, &conn);
        let fate = if contact.is_first() { first } else { later };
        match fate {
            Refused => {
                assert_eq!(phase, Phase::Tcp, "{name}");
                assert!(conn.connection.fallback_reason().is_some());
            }
            Works | Breaks => {
                assert_eq!(phase, Phase::Smc, "{name}");
                assert_eq!(conn.send(b"hello"), Ok(5));
                for _ in 0..10 {
                    bench.run(peers);
                }
                let again = conn.send(b"you");
                match fate {
                    Works => assert_eq!(again, Ok(3), "{name}"),
                    _ => assert_eq!(again, Err(Errno::CONNRESET), "{name}"),
                }
            }
        }
        bystander.works(&mut bench, name);
        conn.connection.close(true);
        if let Some((_, _, good)) = good {
            let survives = fate != Breaks;
            assert_eq!(good.send(b"x").is_ok(), survives, "{name}");
            good.connection.close(true);
        }
        // The peer's end of the link goes; what is asked about it finds that out.
        peer.manners.raw.die();
        bench.later += Duration::from_secs(40);
        for _ in 0..20 {
            bench.run(&mut [&mut bystander.peer]);
            bench.net.advance_by(Duration::from_millis(100));
        }
        bench.later += Duration::from_secs(10);
        bench.run(&mut [&mut bystander.peer]);
        bench.wait_for_the_end();
        let now = (bench.port.links(), bench.port.registered());
        assert_eq!(now, before, "{name}: something is left");
    }
    bystander.works(&mut bench, "after");
}

const FIRST: Contact = Contact::First { direct: true };

#[test]
fn of_a_confirm_at_first_contact() {
    try_fields(Role::Client, Version::V2, FIRST);
    try_fields(Role::Client, Version::V1, FIRST);
}

#[test]
fn of_a_confirm_later() {
    try_fields(Role::Client, Version::V2, Contact::Later);
}

#[test]
fn of_an_accept_at_first_contact() {
    try_fields(Role::Server, Version::V2, FIRST);
    try_fields(Role::Server, Version::V1, FIRST);
}

#[test]
fn of_an_accept_later() {
    try_fields(Role::Server, Version::V2, Contact::Later);
}

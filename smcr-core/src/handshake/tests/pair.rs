//! Two machines and the stream between them.

use super::super::shm::{Accepted, Confirmed, Proposed, Shm};
use super::*;

/// Client, server, and what is under way in each direction.
struct Pair {
    client: ShmClient,
    server: ShmServer,
    to_server: Vec<u8>,
    to_client: Vec<u8>,
    client_events: Vec<Event<Shm>>,
    server_events: Vec<Event<Shm>>,
    now: Instant,
    /// The sizes of the pieces in which the stream delivers, over and over.
    pieces: Vec<usize>,
    next_piece: usize,
}

impl Pair {
    fn new(pieces: &[usize]) -> Self {
        let now = Instant::now();
        let offer = ShmOffer {
            identity: identity(0x40),
            eids: ShmEids::default(),
        };
        Self {
            client: ShmClient::new(offer, Timeouts::default(), now),
            server: ShmServer::new(
                host(identity(0x80), ShmEids::default()),
                Timeouts::default(),
                now,
            ),
            to_server: Vec::new(),
            to_client: Vec::new(),
            client_events: Vec::new(),
            server_events: Vec::new(),
            now,
            pieces: pieces.to_vec(),
            next_piece: 0,
        }
    }

    /// Moves bytes until neither side wants any more of what is there.
    fn run(&mut self) {
        loop {
            self.to_server
                .extend(self.client.poll_transmit().unwrap_or_default());
            self.to_client
                .extend(self.server.poll_transmit().unwrap_or_default());
            self.client_events
                .extend(std::iter::from_fn(|| self.client.poll_event()));
            self.server_events
                .extend(std::iter::from_fn(|| self.server.poll_event()));
            let piece = self.pieces[self.next_piece % self.pieces.len()];
            self.next_piece += 1;
            let to_server = piece.min(self.server.needed()).min(self.to_server.len());
            let to_client = piece.min(self.client.needed()).min(self.to_client.len());
            let pieces = (
                self.to_server.drain(..to_server).collect::<Vec<_>>(),
                self.to_client.drain(..to_client).collect::<Vec<_>>(),
            );
            assert_eq!(self.server.handle_bytes(&pieces.0, self.now), Ok(to_server));
            assert_eq!(self.client.handle_bytes(&pieces.1, self.now), Ok(to_client));
            if to_server + to_client == 0 {
                return;
            }
        }
    }

    fn accept(&mut self) {
        self.server
            .accept(buffer(&identity(0x80), 1), true, self.now)
            .unwrap();
        self.run();
    }

    /// Both ways the application's data come out right behind what the handshake took.
    fn assert_tcp(&mut self) {
        assert_eq!(
            (self.client.phase(), self.server.phase()),
            (Phase::Tcp, Phase::Tcp)
        );
        assert_eq!(
            (self.client.poll_timeout(), self.server.poll_timeout()),
            (None, None)
        );
        self.to_server.extend(b"request");
        self.to_client.extend(b"response");
        self.run();
        assert_eq!(
            (&self.to_server[..], &self.to_client[..]),
            (&b"request"[..], &b"response"[..])
        );
    }
}

fn declined(reason: Reason) -> Event<Shm> {
    Event::Declined {
        code: reason.into(),
        out_of_sync: false,
    }
}

fn handshake(pieces: &[usize]) {
    let mut pair = Pair::new(pieces);
    pair.run();
    let proposed = Event::Proposed(Proposed {
        gid: identity(0x40).gid,
        eid: ShmEids::default().as_slice()[0],
        peer_id: identity(0x40).peer_id,
    });
    assert_eq!(pair.server_events, [proposed]);
    pair.accept();
    let accepted = Event::Accepted(Accepted {
        peer: buffer(&identity(0x80), 1),
        first_contact: true,
        eid: ShmEids::default().as_slice()[0],
    });
    assert_eq!(pair.client_events, [accepted]);
    pair.client.confirm(buffer(&identity(0x40), 9)).unwrap();
    pair.run();
    assert_eq!(pair.client_events[1..], [Event::Done]);
    assert_eq!(
        pair.server_events[1..],
        [Event::Confirmed(Confirmed {
            peer: buffer(&identity(0x40), 9)
        })]
    );
    assert_eq!(
        (pair.client.phase(), pair.server.phase()),
        (Phase::Done, Phase::Done)
    );
    assert_eq!((pair.client.needed(), pair.server.needed()), (0, 0));
    assert_eq!(
        (pair.client.poll_timeout(), pair.server.poll_timeout()),
        (None, None)
    );
    assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
}

#[test]
fn in_whole_messages() {
    handshake(&[usize::MAX]);
}

#[test]
fn byte_by_byte() {
    handshake(&[1]);
}

#[test]
fn needed_is_exact() {
    let now = Instant::now();
    let mut server = server(now);
    for (at, byte) in PROPOSAL_SHM.iter().enumerate() {
        let end = if at < 8 { 8 } else { PROPOSAL_SHM.len() };
        assert_eq!(server.needed(), end - at);
        server.handle_bytes(&[*byte], now).unwrap();
    }
    assert_eq!(server.needed(), 0);
}

/// A reader that offers more than was asked for loses nothing.
#[test]
fn data_right_behind_a_decline() {
    let now = Instant::now();
    for decline in [DECLINE_V1, DECLINE_V2] {
        let bytes = [decline, b"SSH-2.0-server\r\n"].concat();
        let mut client = waiting_client(now);
        assert_eq!(client.handle_bytes(&bytes, now), Ok(decline.len()));
        assert_eq!(client.handle_bytes(&bytes[decline.len()..], now), Ok(0));
        let Some(Event::Declined { code, out_of_sync }) = client.poll_event() else {
            panic!()
        };
        assert_eq!(
            (code, out_of_sync),
            (decline_of(decline).diagnosis, decline == DECLINE_V2)
        );
        assert_eq!(client.poll_transmit(), None);
    }
}

#[test]
fn client_declines_instead_of_proposal() {
    let mut pair = Pair::new(&[5]);
    pair.client.decline(Reason::Descriptors).unwrap();
    pair.run();
    assert_eq!(
        pair.client_events,
        [Event::Refused {
            reason: Reason::Descriptors
        }]
    );
    assert_eq!(pair.server_events, [declined(Reason::Descriptors)]);
    pair.assert_tcp();
}

#[test]
fn server_declines_instead_of_accept() {
    let mut pair = Pair::new(&[5]);
    pair.run();
    pair.server.decline(Reason::OtherUser).unwrap();
    pair.run();
    assert_eq!(pair.client_events, [declined(Reason::OtherUser)]);
    assert_eq!(
        pair.server_events[1..],
        [Event::Refused {
            reason: Reason::OtherUser
        }]
    );
    pair.assert_tcp();
}

#[test]
fn server_declines_while_the_accept_is_not_yet_sent() {
    let mut pair = Pair::new(&[5]);
    pair.run();
    pair.server
        .accept(buffer(&identity(0x80), 1), true, pair.now)
        .unwrap();
    pair.server.decline(Reason::Memory).unwrap();
    pair.run();
    assert_eq!(pair.client_events, [declined(Reason::Memory)]);
    pair.assert_tcp();
}

#[test]
fn client_declines_instead_of_confirm() {
    let mut pair = Pair::new(&[5]);
    pair.run();
    pair.accept();
    pair.client.decline(Reason::BadMemory).unwrap();
    pair.run();
    assert_eq!(pair.server_events[1..], [declined(Reason::BadMemory)]);
    pair.assert_tcp();
}

/// RFC 7609 §C.1: a Decline does not chase a Proposal.
#[test]
fn client_declines_after_the_proposal() {
    let mut pair = Pair::new(&[5]);
    pair.run();
    pair.client.decline(Reason::Forked).unwrap();
    pair.client.decline(Reason::Memory).unwrap();
    pair.run();
    assert!(pair.client_events.is_empty() && pair.to_server.is_empty());
    pair.accept();
    pair.run();
    assert_eq!(
        pair.client_events,
        [Event::Refused {
            reason: Reason::Forked
        }]
    );
    assert_eq!(pair.server_events[1..], [declined(Reason::Forked)]);
    pair.assert_tcp();
}

#[test]
fn server_declines_before_the_proposal() {
    let mut pair = Pair::new(&[5]);
    pair.server.decline(Reason::Rule).unwrap();
    assert_eq!(pair.server.poll_transmit(), None);
    pair.run();
    assert_eq!(
        pair.server_events,
        [Event::Refused {
            reason: Reason::Rule
        }]
    );
    assert_eq!(pair.client_events, [declined(Reason::Rule)]);
    pair.assert_tcp();
}

/// Both want out at the same time; each takes the other's Decline, nobody answers it.
#[test]
fn crossing_declines() {
    let mut pair = Pair::new(&[5]);
    pair.run();
    pair.client.decline(Reason::Forked).unwrap();
    pair.server.decline(Reason::Memory).unwrap();
    pair.run();
    assert_eq!(pair.client_events, [declined(Reason::Memory)]);
    assert_eq!(
        pair.server_events[1..],
        [Event::Refused {
            reason: Reason::Memory
        }]
    );
    pair.assert_tcp();

    let mut pair = Pair::new(&[5]);
    pair.client.decline(Reason::Forked).unwrap();
    pair.server.decline(Reason::Memory).unwrap();
    pair.run();
    assert_eq!(
        pair.client_events,
        [Event::Refused {
            reason: Reason::Forked
        }]
    );
    assert_eq!(pair.server_events, [declined(Reason::Forked)]);
    pair.assert_tcp();
}

#[test]
fn a_held_decline_does_not_stop_the_clock() {
    let now = Instant::now();
    let mut client = waiting_client(now);
    client.decline(Reason::Forked).unwrap();
    assert_eq!(
        client.poll_timeout(),
        Some(now + Timeouts::default().accept)
    );
    assert_eq!(
        client.handle_timeout(now + Timeouts::default().accept),
        Err(HandshakeError::Timeout(Kind::Accept))
    );
}

/// Whoever took the silence for plain TCP looks again when CLC comes after all.
#[test]
fn a_late_proposal_has_its_time_once_more() {
    let begun = Instant::now();
    let wait = Timeouts::default().proposal;
    let late = begun + wait * 2;
    let whole = client(begun).poll_transmit().unwrap();
    let (head, rest) = whole.split_at(Header::LEN);

    // Without a word from its owner it takes one that is there already.
    for is_there in [true, false] {
        let mut hurried = server(begun);
        assert_eq!(hurried.handle_bytes(head, late), Ok(head.len()));
        if is_there {
            assert_eq!(hurried.handle_bytes(rest, late), Ok(rest.len()));
            assert!(matches!(hurried.poll_event(), Some(Event::Proposed(_))));
        } else {
            assert_eq!(
                hurried.handle_timeout(late),
                Err(HandshakeError::Timeout(Kind::Proposal))
            );
        }
    }
    let mut hurried = server(begun);
    assert_eq!(
        hurried.handle_bytes(&head[..1], late),
        Err(HandshakeError::Timeout(Kind::Proposal))
    );

    let mut patient = server(begun);
    patient.proposal_begins(begun);
    assert_eq!(patient.poll_timeout(), Some(begun + wait), "it is in time");
    patient.proposal_begins(late);
    assert_eq!(patient.handle_bytes(head, late), Ok(head.len()));
    let last = late + wait;
    assert_eq!(patient.poll_timeout(), Some(last));
    let mut endless = patient;
    assert_eq!(
        endless.handle_timeout(last),
        Err(HandshakeError::Timeout(Kind::Proposal))
    );

    let mut patient = server(begun);
    patient.proposal_begins(late);
    for piece in [head, rest] {
        assert_eq!(patient.handle_bytes(piece, late), Ok(piece.len()));
    }
    assert!(matches!(patient.poll_event(), Some(Event::Proposed(_))));
    patient.proposal_begins(last);
    assert_eq!(patient.poll_timeout(), None, "nothing is awaited");
}

proptest! {
    #[test]
    fn in_any_pieces(pieces in proptest::collection::vec(1..100usize, 1..20)) {
        handshake(&pieces);
    }
}

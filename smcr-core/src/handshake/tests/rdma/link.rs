//! First contact after the Confirm: LLC is under way, and the stream carries a Decline or nothing.

use super::pair::*;
use super::*;
use crate::handshake::link::{CLIENT_DECLINES, SERVER_DECLINES};

const SECOND: Duration = Duration::from_secs(1);

/// Which side does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

const SIDES: [Side; 2] = [Side::Client, Side::Server];

impl Pair {
    fn sent(&mut self, side: Side) {
        match side {
            Side::Client => self.client.confirm_link_sent(),
            Side::Server => self.server.confirm_link_sent(),
        }
        .unwrap();
    }

    fn failed(&mut self, side: Side, reason: Reason) {
        let now = self.now;
        match side {
            Side::Client => self.client.llc_failed(reason, now),
            Side::Server => self.server.llc_failed(reason, now),
        }
        .unwrap();
    }

    fn end(&mut self, side: Side) -> Result<(), HandshakeError> {
        match side {
            Side::Client => self.client.handle_end(),
            Side::Server => self.server.handle_end(),
        }
    }

    fn timeout(&mut self, side: Side) -> Result<(), HandshakeError> {
        match side {
            Side::Client => self.client.handle_timeout(self.now),
            Side::Server => self.server.handle_timeout(self.now),
        }
    }

    fn phase(&self, side: Side) -> Phase {
        match side {
            Side::Client => self.client.phase(),
            Side::Server => self.server.phase(),
        }
    }

    fn needed(&self, side: Side) -> usize {
        match side {
            Side::Client => self.client.needed(),
            Side::Server => self.server.needed(),
        }
    }

    fn deadline(&self, side: Side) -> Option<Instant> {
        match side {
            Side::Client => self.client.poll_timeout(),
            Side::Server => self.server.poll_timeout(),
        }
    }

    fn last_event(&self, side: Side) -> &Event<Rdma> {
        match side {
            Side::Client => self.client_events.last().unwrap(),
            Side::Server => self.server_events.last().unwrap(),
        }
    }

    fn bytes(&mut self, side: Side, bytes: &[u8]) -> Result<usize, HandshakeError> {
        let now = self.now;
        match side {
            Side::Client => self.client.handle_bytes(bytes, now),
            Side::Server => self.server.handle_bytes(bytes, now),
        }
    }
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// RFC 7609 §C.2: until our own CONFIRM LINK was sent a failed link means TCP.
#[test]
fn a_link_that_fails_early_means_tcp() {
    for side in SIDES {
        for piece in [1, 5, usize::MAX] {
            let mut pair = Pair::linking(piece);
            pair.failed(side, Reason::LinkFailed);
            pair.run();
            assert_eq!(*pair.last_event(side.other()), declined(Reason::LinkFailed));
            assert_eq!(pair.phase(side), Phase::Crossing);
            assert_eq!(pair.deadline(side), Some(pair.now + SECOND));
            pair.wait(SECOND);
            assert_eq!(*pair.last_event(side), refused(Reason::LinkFailed));
            pair.assert_tcp();
        }
    }
}

/// §C.3: the peer's Decline is taken until the LLC exchange is over, whatever we have sent.
#[test]
fn the_peers_decline_is_taken_to_the_end() {
    for side in SIDES {
        let mut pair = Pair::linking(usize::MAX);
        pair.sent(side.other());
        pair.failed(side, Reason::LinkFailed);
        pair.run();
        assert_eq!(*pair.last_event(side.other()), declined(Reason::LinkFailed));
        pair.wait(SECOND);
        pair.assert_tcp();
        // Figure 42: our side has noticed the failure, too, and leaves it to the peer.
        let mut pair = Pair::linking(usize::MAX);
        pair.sent(side.other());
        pair.failed(side.other(), Reason::LinkFailed);
        pair.wait(SECOND / 2);
        assert_eq!(pair.phase(side.other()), Phase::Linking);
        pair.failed(side, Reason::LinkFailed);
        pair.run();
        assert_eq!(*pair.last_event(side.other()), declined(Reason::LinkFailed));
        pair.wait(SECOND);
        pair.assert_tcp();
    }
}

/// After the own CONFIRM LINK nothing but the peer's Decline leads back to TCP.
#[test]
fn a_link_that_fails_late_ends_the_connection() {
    for side in SIDES {
        for reason in [Reason::LinkFailed, Reason::LinkTimeout] {
            let mut pair = Pair::linking(usize::MAX);
            pair.sent(side);
            pair.failed(side, reason);
            pair.run();
            assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
            assert_eq!(pair.deadline(side), Some(pair.now + SECOND));
            pair.now += SECOND;
            let error = HandshakeError::Link(reason);
            assert_eq!(pair.timeout(side), Err(error));
            assert_eq!((error.reason(), error.fault()), (reason, Fault::Network));
            let errno = match reason {
                Reason::LinkTimeout => libc::ETIMEDOUT,
                _ => libc::ECONNRESET,
            };
            assert_eq!(error.errno(), errno);
            assert_eq!((pair.phase(side), pair.needed(side)), (Phase::Failed, 0));
            assert_eq!(pair.bytes(side, DECLINE_V2), Err(error));
            pair.run_one(side);
        }
    }
}

impl Pair {
    /// After an error nothing is said.
    fn run_one(&mut self, side: Side) {
        match side {
            Side::Client => assert_eq!(
                (self.client.poll_transmit(), self.client.poll_event()),
                (None, None)
            ),
            Side::Server => assert_eq!(
                (self.server.poll_transmit(), self.server.poll_event()),
                (None, None)
            ),
        }
    }
}

/// A timer that ran out may have run out at the peer, too: it is left some time to decline first,
/// so that two Declines seldom cross. Linux does the same.
#[test]
fn after_a_timeout_the_peer_goes_first() {
    for side in SIDES {
        let mut pair = Pair::linking(usize::MAX);
        pair.failed(side, Reason::LinkTimeout);
        pair.wait(SECOND / 2);
        assert_eq!(pair.phase(side), Phase::Linking);
        pair.failed(side.other(), Reason::LinkFailed);
        pair.run();
        assert_eq!(*pair.last_event(side), declined(Reason::LinkFailed));
        pair.wait(SECOND);
        pair.assert_tcp();
        // It says nothing: ours goes out.
        let mut pair = Pair::linking(usize::MAX);
        pair.failed(side, Reason::LinkTimeout);
        pair.wait(SECOND);
        assert_eq!(
            *pair.last_event(side.other()),
            declined(Reason::LinkTimeout)
        );
        assert_eq!(pair.phase(side), Phase::Crossing);
        pair.wait(SECOND);
        assert_eq!(*pair.last_event(side), refused(Reason::LinkTimeout));
        pair.assert_tcp();
    }
}

/// Linux declines by itself when its own timers have run out, and its program would get a Decline
/// of ours that crosses that one: a late one never goes out. The peer's is taken for longer.
#[test]
fn a_late_decline_is_never_sent() {
    let link = Timeouts::default().link;
    for (side, last) in [
        (Side::Client, CLIENT_DECLINES),
        (Side::Server, SERVER_DECLINES),
    ] {
        for reason in [Reason::LinkFailed, Reason::LinkTimeout] {
            for late in [Duration::ZERO, SECOND, 3 * SECOND] {
                let late_pair = || {
                    let mut pair = Pair::linking(usize::MAX);
                    let give_up = pair.now + link;
                    pair.now += last + late;
                    pair.failed(side, reason);
                    assert_eq!(pair.deadline(side), Some(give_up));
                    pair.now = give_up - SECOND;
                    pair.timeout(side).unwrap();
                    pair.send();
                    assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
                    pair
                };
                let mut pair = late_pair();
                assert_eq!(pair.bytes(side, DECLINE_V2), Ok(DECLINE_V2.len()));
                assert_eq!(pair.phase(side), Phase::Tcp);
                let mut pair = late_pair();
                pair.now += SECOND;
                let error = HandshakeError::Link(reason);
                assert_eq!(pair.timeout(side), Err(error));
                pair.run_one(side);
            }
        }
        // A timer that runs out early, and a peer that then says nothing while we might decline.
        let mut pair = Pair::linking(usize::MAX);
        let give_up = pair.now + link;
        pair.now += last - SECOND / 2;
        pair.failed(side, Reason::LinkTimeout);
        pair.now += SECOND;
        pair.timeout(side).unwrap();
        pair.send();
        assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
        assert_eq!(pair.deadline(side), Some(give_up));
        // And in time.
        let mut pair = Pair::linking(usize::MAX);
        pair.now += last - SECOND / 2;
        pair.failed(side, Reason::LinkFailed);
        pair.run();
        assert_eq!(*pair.last_event(side.other()), declined(Reason::LinkFailed));
    }
}

/// An owner that never tells how LLC went does not hang the connection.
#[test]
fn the_link_phase_is_bounded() {
    let link = Timeouts::default().link;
    for side in SIDES {
        let mut pair = Pair::linking(usize::MAX);
        assert_eq!(pair.deadline(side), Some(pair.now + link));
        pair.sent(side);
        pair.now += link;
        let error = HandshakeError::Link(Reason::LinkTimeout);
        assert_eq!(pair.timeout(side), Err(error));
    }
    for side in SIDES {
        // A Decline would come too late by far.
        let mut pair = Pair::linking(usize::MAX);
        pair.now += link;
        let error = HandshakeError::Link(Reason::LinkTimeout);
        assert_eq!(pair.timeout(side), Err(error));
        pair.run_one(side);
    }
    // Half a Decline prolongs it once, and leaves no way back.
    let mut pair = Pair::linking(usize::MAX);
    assert_eq!(pair.bytes(Side::Client, &DECLINE_V2[..20]), Ok(20));
    pair.now += link;
    assert_eq!(pair.bytes(Side::Client, &DECLINE_V2[20..21]), Ok(1));
    pair.now += SECOND;
    let error = HandshakeError::Link(Reason::LinkTimeout);
    assert_eq!(pair.bytes(Side::Client, &DECLINE_V2[21..22]), Err(error));
}

/// Both decline before they have read the other's: neither Decline gets to an application.
#[test]
fn crossing_declines() {
    for pieces in [1, 7, usize::MAX] {
        let mut pair = Pair::linking(pieces);
        pair.failed(Side::Client, Reason::LinkFailed);
        pair.failed(Side::Server, Reason::Registration);
        pair.send();
        pair.to_client.extend(b"hello from the server");
        pair.run();
        let (client, server) = pair.last_events();
        assert_eq!(*client, refused(Reason::LinkFailed));
        assert_eq!(*server, refused(Reason::Registration));
        assert_eq!(pair.to_client, b"hello from the server");
        pair.to_client.clear();
        pair.assert_tcp();
    }
}

/// What the stream may hold behind a Decline of ours.
#[test]
fn what_is_peeked() {
    let after = |bytes: &[u8]| {
        let mut pair = Pair::linking(usize::MAX);
        pair.failed(Side::Client, Reason::LinkFailed);
        pair.send();
        let peeked = pair.client.handle_peeked(bytes);
        pair.send();
        let settled = *pair.last_event(Side::Client) == refused(Reason::LinkFailed);
        assert_eq!(settled, peeked != Peeked::Wait);
        let phase = match settled {
            true => Phase::Tcp,
            false => Phase::Crossing,
        };
        assert_eq!((pair.client.phase(), pair.client.needed()), (phase, 0));
        assert_eq!(pair.client.poll_timeout().is_none(), settled);
        peeked
    };
    for decline in [DECLINE_V1, DECLINE_V2] {
        for len in 0..decline.len() {
            assert_eq!(after(&decline[..len]), Peeked::Wait);
        }
        assert_eq!(after(decline), Peeked::Discard(decline.len()));
        let more = [decline, b"data"].concat();
        assert_eq!(after(&more), Peeked::Discard(decline.len()));
        let mut damaged = decline.to_vec();
        *damaged.last_mut().unwrap() = 0;
        assert_eq!(after(&damaged), Peeked::Leave);
    }
    assert!(DECLINE_V2.len() <= MAX_PEEKED);
    for data in [
        &b"G"[..],
        &[0xe2, 0],
        b"HTTP/1.1 200 OK\r\n",
        ACCEPT_V2,
        &[0xe2, 0xd4, 0xc3, 0xd9, 4, 0, 29, 0x10],
    ] {
        assert_eq!(after(data), Peeked::Leave);
    }
    // Elsewhere there is nothing to be looked at.
    let mut pair = Pair::linking(usize::MAX);
    assert_eq!(pair.client.handle_peeked(DECLINE_V1), Peeked::Leave);
    assert_eq!(pair.client.phase(), Phase::Linking);
}

/// The end of the stream behind our Decline is the application's to see.
#[test]
fn an_end_while_declines_may_cross() {
    for side in SIDES {
        let mut pair = Pair::linking(usize::MAX);
        pair.failed(side, Reason::LinkFailed);
        pair.send();
        assert_eq!(pair.end(side), Ok(()));
        pair.send();
        assert_eq!(*pair.last_event(side), refused(Reason::LinkFailed));
        assert_eq!(pair.phase(side), Phase::Tcp);
    }
}

#[test]
fn the_end_of_the_stream_while_linking() {
    for side in SIDES {
        // It may have done all it had to, before we know that ours has arrived: LLC will tell.
        for knows in [false, true] {
            let mut pair = Pair::linking(usize::MAX);
            let deadline = pair.deadline(side);
            if knows {
                pair.sent(side);
            }
            assert_eq!(pair.end(side), Ok(()));
            assert_eq!((pair.phase(side), pair.needed(side)), (Phase::Linking, 0));
            assert_eq!(pair.deadline(side), deadline);
            pair.sent(side);
            match side {
                Side::Client => pair.client.llc_done(),
                Side::Server => pair.server.llc_done(),
            }
            .unwrap();
            assert_eq!(pair.phase(side), Phase::Done);
        }
        // LLC tells that it failed: nobody is left to decline.
        let mut pair = Pair::linking(usize::MAX);
        pair.sent(side);
        assert_eq!(pair.end(side), Ok(()));
        pair.failed(side, Reason::LinkFailed);
        assert_eq!(pair.deadline(side), Some(pair.now));
        assert_eq!(
            pair.timeout(side),
            Err(HandshakeError::Link(Reason::LinkFailed))
        );
        // The end comes while the peer's Decline is awaited.
        let mut pair = Pair::linking(usize::MAX);
        pair.failed(side, Reason::LinkTimeout);
        assert_eq!(
            pair.end(side),
            Err(HandshakeError::Link(Reason::LinkTimeout))
        );
    }
}

/// A peer that is in the middle of its own Decline does not get ours behind it.
#[test]
fn half_a_decline_is_waited_for() {
    for side in SIDES {
        let mut pair = Pair::linking(usize::MAX);
        assert_eq!(pair.bytes(side, &DECLINE_V2[..9]), Ok(9));
        pair.failed(side, Reason::LinkFailed);
        pair.send();
        assert!(pair.to_client.is_empty() && pair.to_server.is_empty());
        assert_eq!(pair.bytes(side, &DECLINE_V2[9..]), Ok(DECLINE_V2.len() - 9));
        pair.send();
        assert_eq!(*pair.last_event(side), declined(Reason::OutOfSync));
        assert_eq!(pair.phase(side), Phase::Tcp);
    }
}

/// The Confirm was not taken yet: the Decline goes out in its place.
#[test]
fn a_confirm_that_was_never_sent() {
    for reason in [Reason::LinkFailed, Reason::LinkTimeout] {
        let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), 3);
        pair.run();
        pair.accept(FIRST);
        let local = endpoint(CLIENT_ID, Version::V2);
        pair.client.confirm(&local, pair.now).unwrap();
        pair.client.llc_failed(reason, pair.now).unwrap();
        pair.run();
        assert_eq!(pair.last_events(), (&refused(reason), &declined(reason)));
        pair.assert_tcp();
    }
}

/// Nothing but a Decline is due (RFC 7609 §C.6).
#[test]
fn other_bytes_while_linking_end_the_connection() {
    for side in SIDES {
        for bytes in [PROPOSAL_V2, ACCEPT_V2, CONFIRM_V2] {
            let mut pair = Pair::linking(usize::MAX);
            let got = Message::parse(bytes).unwrap().kind();
            let error = HandshakeError::Unexpected {
                expected: Kind::Decline,
                got,
            };
            assert_eq!(pair.bytes(side, bytes), Err(error));
            assert_eq!(pair.phase(side), Phase::Failed);
        }
        let mut pair = Pair::linking(usize::MAX);
        let error = HandshakeError::Invalid(ClcError::EyeCatcher(Field::EyeCatcher));
        assert_eq!(pair.bytes(side, b"GET /"), Err(error));
    }
}

/// Declines before the link phase, in both directions, and the S bit with the reason it belongs to.
#[test]
fn declines_before_the_link_phase() {
    for reason in [Reason::NoRoute, Reason::OutOfSync] {
        for contact in [FIRST, Contact::Later] {
            for piece in [1, usize::MAX] {
                let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), piece);
                pair.client.decline(reason).unwrap();
                pair.run();
                assert_eq!(pair.last_events(), (&refused(reason), &declined(reason)));
                pair.assert_tcp();

                let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), piece);
                pair.server.decline(reason).unwrap();
                pair.run();
                assert_eq!(pair.last_events(), (&declined(reason), &refused(reason)));
                pair.assert_tcp();

                let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), piece);
                pair.run();
                pair.server.decline(reason).unwrap();
                pair.run();
                assert_eq!(pair.last_events(), (&declined(reason), &refused(reason)));
                pair.assert_tcp();

                let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), piece);
                pair.run();
                pair.accept(contact);
                pair.client.decline(reason).unwrap();
                pair.run();
                assert_eq!(pair.last_events(), (&refused(reason), &declined(reason)));
                pair.assert_tcp();

                // No chasing: the Proposal is out, so the Accept is waited for.
                let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), piece);
                pair.run();
                pair.client.decline(reason).unwrap();
                pair.run();
                assert!(pair.client_events.is_empty());
                pair.accept(contact);
                assert_eq!(pair.last_events(), (&refused(reason), &declined(reason)));
                pair.assert_tcp();

                // Nor does a server chase its Accept.
                let mut pair = Pair::new(end(CLIENT_ID), end(SERVER_ID), piece);
                pair.run();
                pair.accept(contact);
                assert_eq!(pair.server.decline(reason), Err(CallError::Phase));
            }
        }
    }
}

/// The calls of the link phase are for the link phase.
#[test]
fn calls_out_of_turn() {
    let now = Instant::now();
    let mut client = client_of(end(CLIENT_ID), now);
    assert_eq!(client.confirm_link_sent(), Err(CallError::Phase));
    assert_eq!(client.llc_done(), Err(CallError::Phase));
    assert_eq!(
        client.llc_failed(Reason::LinkFailed, now),
        Err(CallError::Phase)
    );
    let local = endpoint(CLIENT_ID, Version::V2);
    assert_eq!(client.confirm(&local, now), Err(CallError::Phase));
    for side in SIDES {
        let mut pair = Pair::linking(usize::MAX);
        let now = pair.now;
        pair.failed(side, Reason::LinkTimeout);
        let results = match side {
            Side::Client => [
                pair.client.confirm_link_sent(),
                pair.client.llc_done(),
                pair.client.llc_failed(Reason::LinkFailed, now),
                pair.client.decline(Reason::Memory),
            ],
            Side::Server => [
                pair.server.confirm_link_sent(),
                pair.server.llc_done(),
                pair.server.llc_failed(Reason::LinkFailed, now),
                pair.server.decline(Reason::Memory),
            ],
        };
        assert_eq!(results, [Err(CallError::Phase); 4]);
    }
}

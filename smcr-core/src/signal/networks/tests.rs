//! Both ends in memory, with time and losses made up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{self, Client};
use super::message::{Message, Nonces, SIZE};
use super::server::{self, Server};
use super::{CALL_WAIT, HEARD_WAIT, Silent};
use crate::rendezvous::syn::Window;

const PORT: u16 = 8080;
const TSVAL: u32 = 5_000;
const STEP: Duration = Duration::from_micros(500);

fn window() -> Window {
    Window::of(TSVAL + 2, 8)
}

/// Two ends and what is on its way between them.
struct Pair {
    began: Instant,
    now: Instant,
    client: Client,
    server: Option<Server>,
    to_client: Vec<[u8; SIZE]>,
    to_server: Vec<[u8; SIZE]>,
    client_said: Option<client::Event>,
    server_said: Option<server::Event>,
    /// Datagrams sent so far, by both.
    sent: usize,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            now,
            client: Client::new(PORT, window(), 0xc11e, Duration::ZERO),
            server: None,
            to_client: Vec::new(),
            to_server: Vec::new(),
            client_said: None,
            server_said: None,
            sent: 0,
        }
    }

    fn accept(&mut self) {
        let server = Server::new(PORT, TSVAL, 0x5e4e, Duration::ZERO, self.now);
        self.server = Some(server);
    }

    /// Lets both ends act until nothing happens at this moment; `arrives` says of each datagram,
    /// by its number, whether it does.
    fn settle(&mut self, arrives: &impl Fn(usize) -> bool) {
        loop {
            let mut quiet = true;
            let mut carry = |datagram: Option<[u8; SIZE]>, to: &mut Vec<[u8; SIZE]>| {
                if let Some(datagram) = datagram {
                    if arrives(self.sent) {
                        to.push(datagram);
                    }
                    self.sent += 1;
                }
            };
            carry(self.client.poll_transmit(), &mut self.to_server);
            if let Some(server) = &mut self.server {
                carry(server.poll_transmit(), &mut self.to_client);
            }
            for datagram in std::mem::take(&mut self.to_server) {
                // Before accept() nobody takes it.
                if let Some(server) = &mut self.server {
                    server.handle(&datagram, self.now);
                    quiet = false;
                    if let Some(answer) = server.poll_transmit() {
                        carry(Some(answer), &mut self.to_client);
                    }
                }
            }
            for datagram in std::mem::take(&mut self.to_client) {
                self.client.handle(&datagram);
                quiet = false;
                if let Some(answer) = self.client.poll_transmit() {
                    carry(Some(answer), &mut self.to_server);
                }
            }
            match self.client.poll_event() {
                Some(client::Event::Called) => {
                    self.client.commit(7, self.now);
                    quiet = false;
                }
                Some(event) => self.client_said = Some(event),
                None => {}
            }
            if let Some(event) = self.server.as_mut().and_then(Server::poll_event) {
                self.server_said = Some(event);
            }
            if quiet {
                return;
            }
        }
    }

    fn run(&mut self, time: Duration, arrives: impl Fn(usize) -> bool) {
        let until = self.now + time;
        while self.now < until {
            self.settle(&arrives);
            self.now += STEP;
            if self.client.poll_timeout().is_some_and(|at| at <= self.now) {
                self.client.handle_timeout(self.now);
            }
            if let Some(server) = &mut self.server
                && server.poll_timeout().is_some_and(|at| at <= self.now)
            {
                server.handle_timeout(self.now);
            }
        }
        self.settle(&arrives);
    }

    fn agreed(&self) -> (bool, bool) {
        (
            self.client_said == Some(client::Event::Agreed),
            self.server_said == Some(server::Event::Agreed { early: 7 }),
        )
    }

    /// What has to hold however much is lost: the client never speaks CLC to a server that does
    /// not look for it, and nobody waits for ever.
    fn check(&mut self) {
        let (client, server) = self.agreed();
        assert!(!client || server, "CLC to a server that takes it for data");
        assert_eq!(self.client.poll_timeout(), None, "decided, or uncalled");
        assert_eq!(self.server.as_ref().and_then(Server::poll_timeout), None);
    }
}

/// More than both ends may take together.
const ENOUGH: Duration = Duration::from_secs(1);

#[test]
fn two_ends_agree_in_three_messages() {
    let mut pair = Pair::new();
    pair.accept();
    pair.run(STEP, |_| true);
    assert_eq!(pair.agreed(), (true, true));
    assert!(pair.now - pair.began <= 2 * STEP);
    // Ask, Call (twice, since the Ask came), Commit, Go.
    assert_eq!(pair.sent, 5);
}

#[test]
fn a_late_accept_is_as_good() {
    let mut pair = Pair::new();
    pair.run(ENOUGH, |_| true);
    assert_eq!(pair.client_said, None, "no deadline of its own");
    pair.accept();
    pair.run(STEP, |_| true);
    assert_eq!(pair.agreed(), (true, true));
}

#[test]
fn every_pattern_of_loss() {
    let mut agreements = 0;
    for pattern in 0u32..1 << 12 {
        for late in [false, true] {
            let mut pair = Pair::new();
            if late {
                pair.run(STEP, |_| true);
            }
            pair.accept();
            pair.run(ENOUGH, |number| pattern >> number.min(31) & 1 == 0);
            pair.check();
            let (client, server) = pair.agreed();
            assert_eq!(
                client, server,
                "{pattern:012b}: nothing was lost in the end"
            );
            agreements += u32::from(client);
        }
    }
    // A server of whose client nothing is heard gives up soon; most patterns leave time enough.
    assert!(agreements > 7_000, "{agreements}");
}

#[test]
fn a_path_that_dies_at_any_moment() {
    for last in 0..30 {
        let mut pair = Pair::new();
        pair.accept();
        pair.run(ENOUGH, |number| number < last);
        pair.check();
    }
}

/// One direction only: the client sends, and hears nothing.
#[test]
fn a_deaf_client_stays_on_tcp() {
    let mut pair = Pair::new();
    let mut server = Server::new(PORT, TSVAL, 1, Duration::ZERO, pair.now);
    server.handle(&Message::Ask.emit(PORT), pair.now);
    assert!(server.has_heard());
    let mut calls = 0;
    let began = pair.now;
    while let Some(at) = server.poll_timeout() {
        calls += usize::from(server.poll_transmit().is_some());
        server.handle_timeout(at);
        pair.now = at;
    }
    assert!(calls < 20, "{calls}");
    assert!(pair.now - began <= HEARD_WAIT);
    assert_eq!(server.poll_event(), Some(server::Event::Ended));
}

#[test]
fn a_silent_client_costs_little() {
    let began = Instant::now();
    let mut server = Server::new(PORT, TSVAL, 1, Duration::ZERO, began);
    let mut last = began;
    while let Some(at) = server.poll_timeout() {
        server.handle_timeout(at);
        last = at;
    }
    assert!(!server.has_heard());
    assert!(last - began <= CALL_WAIT);
}

/// The client gives up while Go is on its way.
#[test]
fn stop_and_go_cross() {
    let mut pair = Pair::new();
    pair.accept();
    pair.run(STEP, |number| number < 4);
    assert_eq!(pair.agreed(), (false, true), "Go was lost");
    assert!(pair.client.stop());
    pair.run(STEP, |_| true);
    assert_eq!(pair.client_said, Some(client::Event::Ended));
    assert_eq!(pair.server_said, Some(server::Event::Ended));
    let go = Message::Go(Nonces {
        server: 0x5e4e,
        client: 0xc11e,
    });
    pair.client.handle(&go.emit(PORT));
    assert_eq!(pair.client.poll_event(), None, "it said it would not");
}

#[test]
fn what_is_agreed_is_not_stopped() {
    let mut pair = Pair::new();
    pair.accept();
    pair.run(STEP, |_| true);
    assert!(!pair.client.stop());
    assert!(!pair.server.as_mut().unwrap().stop());
    let stop = Message::Stop(Nonces {
        server: 0x5e4e,
        client: 0,
    });
    pair.client.handle(&stop.emit(PORT));
    assert_eq!(pair.client.poll_event(), None);
}

#[test]
fn who_does_not_know_the_time_stamp_is_not_heard() {
    for tsval in [TSVAL + 3, TSVAL - 7, 0, u32::MAX] {
        let mut pair = Pair::new();
        let call = Message::Call { tsval, server: 9 };
        pair.client.handle(&call.emit(PORT));
        assert_eq!(pair.client.poll_event(), None, "{tsval}");
    }
    let mut pair = Pair::new();
    let call = Message::Call {
        tsval: TSVAL,
        server: 9,
    };
    pair.client.handle(&call.emit(PORT + 1));
    assert_eq!(pair.client.poll_event(), None, "another port");
}

#[test]
fn who_does_not_know_the_nonces_changes_nothing() {
    let (mut pair, now) = (Pair::new(), Instant::now());
    pair.accept();
    let right = Nonces {
        server: 0x5e4e,
        client: 0xc11e,
    };
    let wrong = [
        Nonces { server: 1, ..right },
        Nonces {
            server: 0,
            client: 0,
        },
    ];
    let server = pair.server.as_mut().unwrap();
    for nonces in wrong {
        for message in [
            Message::Commit { early: 0, nonces },
            Message::Go(right),
            Message::Stop(nonces),
            Message::Call {
                tsval: TSVAL,
                server: 1,
            },
        ] {
            server.handle(&message.emit(PORT), now);
            assert_eq!(server.poll_event(), None);
        }
    }
    // A Commit's nonce of the client is what binds the rest.
    let early = 7;
    let commit = Message::Commit {
        early,
        nonces: right,
    };
    server.handle(&commit.emit(PORT), now);
    assert_eq!(server.poll_event(), Some(server::Event::Agreed { early }));
    let other = Nonces { client: 2, ..right };
    for message in [
        Message::Stop(other),
        Message::Commit {
            early: 8,
            nonces: other,
        },
    ] {
        server.handle(&message.emit(PORT), now);
        assert_eq!(server.poll_event(), None);
    }

    let client = &mut pair.client;
    let go = |nonces| Message::Go(nonces).emit(PORT);
    client.handle(&go(right));
    assert_eq!(client.poll_event(), None, "not committed");
    client.handle(
        &Message::Call {
            tsval: TSVAL,
            server: right.server,
        }
        .emit(PORT),
    );
    assert_eq!(client.poll_event(), Some(client::Event::Called));
    client.commit(early, now);
    for nonces in [wrong[0], wrong[1], other] {
        client.handle(&go(nonces));
        if nonces.server != right.server {
            client.handle(&Message::Stop(nonces).emit(PORT));
        }
        assert_eq!(client.poll_event(), None);
    }
    client.handle(&go(right));
    assert_eq!(client.poll_event(), Some(client::Event::Agreed));
}

#[test]
fn messages_round_trip_and_refuse_truncation() {
    let nonces = Nonces {
        server: 0x0102_0304_0506_0708,
        client: 0x1112_1314_1516_1718,
    };
    for message in [
        Message::Ask,
        Message::Call {
            tsval: 5,
            server: 9,
        },
        Message::Commit { early: 3, nonces },
        Message::Go(nonces),
        Message::Stop(nonces),
    ] {
        let raw = message.emit(PORT);
        assert_eq!(Message::parse(&raw, PORT), Some(message));
        for len in 0..SIZE {
            assert_eq!(Message::parse(&raw[..len], PORT), None);
        }
        assert_eq!(Message::parse(&[&raw[..], &[0]].concat(), PORT), None);
        for at in (0..9).chain(10..12) {
            let mut bad = raw;
            bad[at] ^= 0x80;
            assert_eq!(Message::parse(&bad, PORT), None, "{at}");
        }
    }
    let commit = Message::Commit { early: 3, nonces };
    let golden = b"SMCRASK\x01\x03\0\x1f\x90\0\0\0\x03\
        \x01\x02\x03\x04\x05\x06\x07\x08\x11\x12\x13\x14\x15\x16\x17\x18";
    assert_eq!(&commit.emit(PORT), golden);
}

#[test]
fn the_silent_are_remembered_for_a_while() {
    let peer = |n: u8, port| SocketAddr::from(([10, 0, 0, n], port));
    let now = Instant::now();
    let mut silent = Silent::new();
    silent.insert(peer(1, 80), now);
    assert!(silent.contains(peer(1, 80), now + Duration::from_secs(59)));
    assert!(!silent.contains(peer(1, 80), now + Duration::from_secs(60)));
    assert!(!silent.contains(peer(1, 81), now) && !silent.contains(peer(2, 80), now));
    let mapped: SocketAddr = "[::ffff:10.0.0.1]:80".parse().unwrap();
    assert!(silent.contains(mapped, now));
    silent.remove(mapped);
    assert!(!silent.contains(peer(1, 80), now));
    // However many there are, the latest are kept.
    for n in 0..200 {
        silent.insert(peer(n, 80), now);
    }
    assert!(silent.contains(peer(199, 80), now) && silent.contains(peer(150, 80), now));
    assert!(!silent.contains(peer(100, 80), now));
}

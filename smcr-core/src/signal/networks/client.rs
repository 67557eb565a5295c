//! The client's end as a state machine.
//!
//! Feed it datagrams and the time; after each call send what [`Client::poll_transmit`] has, and
//! ask [`Client::poll_event`] and [`Client::poll_timeout`] again.

use std::time::{Duration, Instant};

use super::message::{Message, Nonces, SIZE};
use super::{FIRST_REPEAT, HEARD_WAIT, LAST_REPEAT};
use crate::rendezvous::syn::Window;

/// What became of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The server's library has the connection: [`Client::commit`] or [`Client::stop`].
    Called,
    /// The peer understands CLC and expects it: it has to come, and soon.
    Agreed,
    /// The connection is TCP, for good.
    Ended,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// For the Call.
    Waiting,
    /// For the owner's decision.
    Called {
        server: u64,
    },
    /// For Go.
    Committed {
        nonces: Nonces,
        early: u32,
        repeat_at: Instant,
        pause: Duration,
        until: Instant,
    },
    Agreed,
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Client {
    port: u16,
    window: Window,
    nonce: u64,
    /// How long to wait for Go.
    patience: Duration,
    state: State,
    event: Option<Event>,
    output: Option<[u8; SIZE]>,
}

impl Client {
    /// `port` is the server's TCP port, `window` the time stamps that the SYN may have had,
    /// `nonce` random, `round_trip` that of the TCP connection.
    pub fn new(port: u16, window: Window, nonce: u64, round_trip: Duration) -> Self {
        Self {
            port,
            window,
            nonce,
            patience: HEARD_WAIT + 3 * round_trip.min(HEARD_WAIT),
            state: State::Waiting,
            event: None,
            output: Some(Message::Ask.emit(port)),
        }
    }

    /// A datagram came. What is not a message of the peer, or not for this connection or moment, is
    /// passed over.
    pub fn handle(&mut self, datagram: &[u8]) {
        let Some(message) = Message::parse(datagram, self.port) else {
            return;
        };
        match (self.state, message) {
            (State::Waiting, Message::Call { tsval, server }) if self.window.contains(tsval) => {
                self.state = State::Called { server };
                self.event = Some(Event::Called);
            }
            // The Commit was lost, or is on its way.
            (State::Committed { nonces, early, .. }, Message::Call { server, .. })
                if server == nonces.server =>
            {
                self.transmit(Message::Commit { early, nonces });
            }
            (State::Committed { nonces, .. }, Message::Go(theirs)) if theirs == nonces => {
                self.state = State::Agreed;
                self.event = Some(Event::Agreed);
            }
            (State::Called { server }, Message::Stop(theirs)) if theirs.server == server => {
                self.end();
            }
            (State::Committed { nonces, .. }, Message::Stop(theirs))
                if theirs.server == nonces.server =>
            {
                self.end();
            }
            _ => {}
        }
    }

    /// Answers the Call: CLC will follow, after `early` bytes that the program has sent. The
    /// program must not send more until it is decided. Without a Call this does nothing.
    pub fn commit(&mut self, early: u32, now: Instant) {
        let State::Called { server } = self.state else {
            return;
        };
        let nonces = Nonces {
            server,
            client: self.nonce,
        };
        self.state = State::Committed {
            nonces,
            early,
            repeat_at: now + FIRST_REPEAT,
            pause: FIRST_REPEAT * 2,
            until: now + self.patience,
        };
        self.transmit(Message::Commit { early, nonces });
    }

    /// The connection stays on TCP. Too late once it is agreed: false.
    pub fn stop(&mut self) -> bool {
        let server = match self.state {
            State::Agreed => return false,
            State::Ended => return true,
            State::Waiting => None,
            State::Called { server } => Some(server),
            State::Committed { nonces, .. } => Some(nonces.server),
        };
        if let Some(server) = server {
            self.transmit(Message::Stop(Nonces {
                server,
                client: self.nonce,
            }));
        }
        self.end();
        true
    }

    /// The time that [`Client::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let State::Committed {
            nonces,
            early,
            repeat_at,
            pause,
            until,
        } = &mut self.state
        else {
            return;
        };
        if now >= *until {
            self.stop();
        } else if now >= *repeat_at {
            *repeat_at = now + *pause;
            *pause = (*pause * 2).min(LAST_REPEAT);
            let again = Message::Commit {
                early: *early,
                nonces: *nonces,
            };
            self.transmit(again);
        }
    }

    /// When to call [`Client::handle_timeout`]. How long to wait for the Call is the owner's to
    /// say: until the server's data come, or too much of the program's own.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Committed {
                repeat_at, until, ..
            } => Some(repeat_at.min(until)),
            _ => None,
        }
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<[u8; SIZE]> {
        self.output.take()
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.event.take()
    }

    fn transmit(&mut self, message: Message) {
        self.output = Some(message.emit(self.port));
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.event = Some(Event::Ended);
    }
}

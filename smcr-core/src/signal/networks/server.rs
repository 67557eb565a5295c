//! The server's end as a state machine. To be driven as [`super::client`] is.

use std::time::{Duration, Instant};

use super::message::{Message, Nonces, SIZE};
use super::{CALL_WAIT, FIRST_REPEAT, HEARD_WAIT, LAST_REPEAT};

/// What became of calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The client understands CLC, and was told to send it: look for it, after the `early` bytes
    /// that the program at the other end sent before. Look before taking: it may still be that
    /// Go does not arrive.
    Agreed {
        /// Bytes of the stream in front of the Proposal.
        early: u32,
    },
    /// The connection is TCP, for good: no CLC byte was sent or will be.
    Ended,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// For the Commit.
    Calling {
        repeat_at: Instant,
        pause: Duration,
        until: Instant,
    },
    /// For CLC, which the owner sees; Commits are answered.
    Agreed {
        client: u64,
    },
    Ended,
}

/// See the module.
#[derive(Debug)]
pub struct Server {
    port: u16,
    tsval: u32,
    nonce: u64,
    heard: bool,
    state: State,
    event: Option<Event>,
    output: Option<[u8; SIZE]>,
}

impl Server {
    /// `port` is the server's TCP port, `tsval` the time stamp of the connection's SYN, `nonce`
    /// random, `round_trip` that of the TCP connection.
    pub fn new(port: u16, tsval: u32, nonce: u64, round_trip: Duration, now: Instant) -> Self {
        let mut server = Self {
            port,
            tsval,
            nonce,
            heard: false,
            state: State::Calling {
                repeat_at: now + FIRST_REPEAT,
                pause: FIRST_REPEAT * 2,
                until: now + CALL_WAIT + 3 * round_trip.min(HEARD_WAIT / 4),
            },
            event: None,
            output: None,
        };
        server.call();
        server
    }

    /// A datagram came. What is not a message of the peer, or not for this connection or moment, is
    /// passed over.
    pub fn handle(&mut self, datagram: &[u8], now: Instant) {
        let Some(message) = Message::parse(datagram, self.port) else {
            return;
        };
        match (&mut self.state, message) {
            // It is there, and perhaps was not when we called first.
            (State::Calling { until, .. }, Message::Ask) if !self.heard => {
                self.heard = true;
                *until = now + HEARD_WAIT;
                self.call();
            }
            (State::Calling { .. }, Message::Commit { early, nonces })
                if nonces.server == self.nonce =>
            {
                self.state = State::Agreed {
                    client: nonces.client,
                };
                self.event = Some(Event::Agreed { early });
                self.transmit(Message::Go(nonces));
            }
            // Go was lost.
            (State::Agreed { client }, Message::Commit { nonces, .. })
                if nonces.server == self.nonce && nonces.client == *client =>
            {
                self.transmit(Message::Go(nonces));
            }
            (State::Calling { .. }, Message::Stop(nonces)) if nonces.server == self.nonce => {
                self.end();
            }
            (State::Agreed { client }, Message::Stop(nonces))
                if nonces.server == self.nonce && nonces.client == *client =>
            {
                self.end();
            }
            _ => {}
        }
    }

    /// The time that [`Server::poll_timeout`] named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let State::Calling {
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
            self.call();
        }
    }

    /// The connection stays on TCP. Too late once it is agreed: false.
    pub fn stop(&mut self) -> bool {
        match self.state {
            State::Agreed { .. } => return false,
            State::Ended => {}
            State::Calling { .. } => {
                // The client need not wait for a Go.
                self.transmit(Message::Stop(Nonces {
                    server: self.nonce,
                    client: 0,
                }));
                self.end();
            }
        }
        true
    }

    /// When to call [`Server::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Calling {
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

    /// Whether a message of the client came.
    pub fn has_heard(&self) -> bool {
        self.heard || matches!(self.state, State::Agreed { .. })
    }

    fn call(&mut self) {
        self.transmit(Message::Call {
            tsval: self.tsval,
            server: self.nonce,
        });
    }

    fn transmit(&mut self, message: Message) {
        self.output = Some(message.emit(self.port));
    }

    fn end(&mut self) {
        self.state = State::Ended;
        self.event = Some(Event::Ended);
    }
}

//! The CLC handshake (RFC 7609 §3.5, §C.1–§C.6) as two state machines without I/O and without a
//! clock: [`ClientHandshake`] and [`ServerHandshake`].
//!
//! ```text
//! client                                  server
//!   new() ───────────── Proposal ──────────▶ Event::Proposed
//!   Event::Accepted ◀── Accept ───────────── accept()
//!   confirm() ───────── Confirm ───────────▶ Event::Confirmed
//!   Event::Done
//! ```
//!
//! Either side may say Decline where a message of its own is due, and only there; both then go on
//! over TCP.
//!
//! # How to drive one
//!
//! 1. Write what `poll_transmit` gives to the TCP stream, and act on what `poll_event` gives. Do
//!    both after every call that takes `&mut self`.
//! 2. Read at most `needed()` bytes from the stream and hand them to `handle_bytes`. `needed` is 0
//!    while it is the owner's turn to decide and once the handshake is over; what is in the stream
//!    then is not the machine's. So not a byte of the application's data is ever taken, not even
//!    where it follows a Decline in the same segment.
//! 3. Call `handle_timeout` when `poll_timeout` has come, and `handle_end` when the stream ended.
//! 4. An `Err` of any of them means that the TCP connection has to end; nothing more is sent. There
//!    is no fallback from garbage or silence (RFC 7609 §C.5, §C.6), since nobody knows what the
//!    peer has taken for what.
//!
//! After [`Event::Refused`], [`Event::Declined`] or the last event of a successful handshake
//! ([`Event::Done`], [`Event::Confirmed`]) the machine can be dropped as soon as `poll_transmit`
//! has nothing left.
//!
//! # When a Decline goes out
//!
//! A Decline never follows a message of the same side that is still unanswered (RFC 7609 §C.1: no
//! chasing). `decline` may be called at any time before the own last message nevertheless; if no
//! message is due it is kept until one is. Should the peer decline meanwhile, its Decline is taken
//! out of the stream and ours is dropped, for it needs no answer.
//!
//! # Fabrics
//!
//! The machines know the order of messages and nothing of what is in them; that is in one module
//! per fabric. There is one so far, [`shm`]: memory shared between two processes of a host. The
//! messages of SMC-R are in [`clc`](crate::clc) already; its module would stand beside `shm`, and
//! what follows the CLC exchange there (CONFIRM LINK and the longer Decline window of first contact,
//! RFC 7609 §C.2, §C.3) does not go over TCP and is not the business of these machines.

mod client;
mod error;
mod inbox;
mod server;
pub mod shm;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use client::ClientHandshake;
pub use error::{CallError, HandshakeError};
pub use server::ServerHandshake;

use crate::Reason;
use crate::clc::{Decline, Diagnosis, Eid, Header, Kind, MAX_LEN, PeerId, Version};
use inbox::Inbox;
use shm::{ShmGid, ShmPeer};

/// How long to wait for the peer's next message, whole; each is counted from when it is due. RFC
/// 7609 §C.5 leaves the values open and forbids to have
/// none; so do not use values that no clock can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Server: for the Proposal.
    pub proposal: Duration,
    /// Client: for the Accept. Includes the time that the server's owner takes to decide.
    pub accept: Duration,
    /// Server: for the Confirm. Includes the time that the client's owner takes to decide.
    pub confirm: Duration,
}

impl Default for Timeouts {
    /// Linux's: 6 seconds each.
    fn default() -> Self {
        let wait = Duration::from_secs(6);
        Self {
            proposal: wait,
            accept: wait,
            confirm: wait,
        }
    }
}

/// What a handshake tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Server: a Proposal came that can be accepted. Call `accept` or `decline`.
    Proposed {
        /// The client's GID; its Confirm will name the same one.
        gid: ShmGid,
        /// The enterprise ID in common.
        eid: Eid,
        /// The client.
        peer_id: PeerId,
    },
    /// Client: the server accepted. Call `confirm` or `decline`.
    Accepted {
        /// The server's buffer.
        peer: ShmPeer,
        /// The server knows of no earlier connection with this process.
        first_contact: bool,
        /// The enterprise ID in common.
        eid: Eid,
    },
    /// Client: the Confirm is in `poll_transmit`; with that the handshake is over, and the stream
    /// belongs to SMC.
    Done,
    /// Server: the client confirmed; the handshake is over, and the stream belongs to SMC.
    Confirmed {
        /// The client's buffer.
        peer: ShmPeer,
    },
    /// The peer declined. The stream goes on with the application's data from the next byte.
    Declined {
        /// The peer's reason.
        code: Diagnosis,
        /// The peer wants the link group of this connection forgotten (RFC 7609 §A.2.5).
        out_of_sync: bool,
    },
    /// Our Decline is in `poll_transmit`; behind it the stream belongs to the application, both
    /// ways.
    Refused {
        /// Why.
        reason: Reason,
    },
}

/// Where a handshake stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The peer has to send this message, or a Decline.
    Expecting(Kind),
    /// The owner has to decide.
    Deciding,
    /// Over: SMC.
    Done,
    /// Over: TCP.
    Tcp,
    /// Over: the connection has to end.
    Failed,
}

/// The most that `needed` ever asks for, in bytes.
pub const MAX_NEEDED: usize = MAX_LEN - Header::LEN;

/// What client and server have in common: a message coming in, one going out, and news.
#[derive(Debug)]
struct Channel {
    peer_id: PeerId,
    inbox: Inbox,
    outbox: Option<Vec<u8>>,
    events: VecDeque<Event>,
    deadline: Option<Instant>,
    /// Decline as soon as a message of ours is due.
    held_decline: Option<Reason>,
}

impl Channel {
    fn new(peer_id: PeerId, deadline: Option<Instant>) -> Self {
        Self {
            peer_id,
            inbox: Inbox::default(),
            outbox: None,
            events: VecDeque::new(),
            deadline,
            held_decline: None,
        }
    }

    /// Takes the peer's Decline.
    fn declined(&mut self, decline: &Decline) {
        self.over();
        self.events.push_back(Event::Declined {
            code: decline.diagnosis,
            out_of_sync: decline.out_of_sync,
        });
    }

    /// Sends ours. It takes the place of a message of ours that is still in the outbox: that one
    /// was never sent.
    fn refuse(&mut self, version: Version, reason: Reason) {
        self.over();
        self.outbox = Some(Decline::new(version, self.peer_id, reason).emit());
        self.events.push_back(Event::Refused { reason });
    }

    /// After an error nothing is said any more.
    fn fail(&mut self) {
        self.over();
        self.outbox = None;
        self.events.clear();
    }

    fn over(&mut self) {
        self.deadline = None;
        self.held_decline = None;
    }

    fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

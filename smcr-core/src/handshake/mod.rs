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
//! over TCP. First contact over RDMA has one phase more, below.
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
//! ([`Event::Done`], or [`Event::Confirmed`] where no link has to be confirmed) the machine can be
//! dropped as soon as `poll_transmit` has nothing left.
//!
//! # When a Decline goes out
//!
//! A Decline never follows a message of the same side that is still unanswered (RFC 7609 §C.1: no
//! chasing). `decline` may be called at any time before the own last message nevertheless; if no
//! message is due it is kept until one is. Should the peer decline meanwhile, its Decline is taken
//! out of the stream and ours is dropped, for it needs no answer.
//!
//! # First contact over RDMA
//!
//! A new link is confirmed by LLC messages on the link itself, which are not the business of these
//! machines; but while that goes on the stream may carry a Decline. So after the Confirm both
//! machines are in [`Phase::Linking`], and want to be driven as before:
//!
//! ```text
//! client                                  server
//!   confirm() ───────── Confirm ───────────▶ Event::Confirmed
//!                    ◀═ CONFIRM LINK ════════ confirm_link_sent() when the adapter says it arrived
//!   confirm_link_sent() ═ response ═════════▶
//!                    ◀═ ADD LINK ════════════
//!   llc_done() ════════ answer ════════════▶ llc_done()
//!   Event::Done                              Event::Done
//! ```
//!
//! `llc_failed` says that the LLC exchange failed. Before `confirm_link_sent` our Decline goes out
//! (§C.2): at once, or with [`Reason::LinkTimeout`] when the peer had some time to say its own, which
//! is taken until `llc_done` (§C.3). After `confirm_link_sent`, and if the peer says nothing, the
//! connection has to end with a reset. No data may go over the link before `llc_done`: a Decline
//! would lose them.
//!
//! In this phase two Declines can cross. After one of ours the machine is in [`Phase::Crossing`]:
//! what the stream holds then is most likely the application's, so it is looked at before it is
//! taken. Peek (`MSG_PEEK`) up to [`MAX_PEEKED`] bytes when the stream is readable, and hand them to
//! `handle_peeked`. [`Event::Refused`] comes when the question is settled, after
//! [`Timeouts::decline`] at the latest.
//!
//! # Fabrics
//!
//! The machines know the order of messages and nothing of what is in them; that is in one module
//! per [`Fabric`]: [`shm`] for memory shared between two processes of a host, and [`rdma`] for
//! SMC-R, which Linux speaks, too. A connection is offered to one of them.

mod client;
mod error;
mod fabric;
mod inbox;
mod link;
mod machine;
pub mod rdma;
mod server;
pub mod shm;

#[cfg(test)]
mod tests;

use std::time::Duration;

pub use client::{Client, ClientHandshake};
pub use error::{CallError, Fault, HandshakeError, Objection};
pub use fabric::Fabric;
pub use link::Peeked;
pub use machine::{Handshake, Side};
pub use server::{Server, ServerHandshake};

use crate::Reason;
use crate::clc::{Diagnosis, Header, Kind, MAX_LEN};
use rdma::Rdma;
use shm::Shm;

/// A client that shares memory.
pub type ShmClient = ClientHandshake<Shm>;
/// A server that shares memory.
pub type ShmServer = ServerHandshake<Shm>;
/// A client of SMC-R.
pub type RdmaClient = ClientHandshake<Rdma>;
/// A server of SMC-R.
pub type RdmaServer = ServerHandshake<Rdma>;

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
    /// Both, first contact over RDMA: for the whole LLC exchange. The LLC messages have timers of
    /// their own, shorter ones; this is for an owner that lost sight of them.
    pub link: Duration,
    /// Both, first contact over RDMA: for a Decline of the peer, after the LLC exchange failed or
    /// across a Decline of ours.
    pub decline: Duration,
}

impl Default for Timeouts {
    /// Linux's: 6 seconds for each message, 1 for the Decline. The 10 seconds for LLC are above
    /// the sum of what Linux's timers there can take (4 + 1 + 2 + 1).
    fn default() -> Self {
        Self::of(Duration::from_secs(6))
    }
}

impl Timeouts {
    /// `wait` for each CLC message, the rest as in [`Self::default`].
    pub const fn of(wait: Duration) -> Self {
        Self {
            proposal: wait,
            accept: wait,
            confirm: wait,
            link: Duration::from_secs(10),
            decline: Duration::from_secs(1),
        }
    }
}

/// What a handshake tells its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<F: Fabric> {
    /// Server: a Proposal came that can be accepted. Call `accept` or `decline`.
    Proposed(F::Proposed),
    /// Client: the server accepted. Call `confirm` or `decline`.
    Accepted(F::Accepted),
    /// The handshake is over, and the stream belongs to SMC. At a client without a link to confirm
    /// the Confirm is in `poll_transmit` still.
    Done,
    /// Server: the client confirmed. Unless a link has to be confirmed, the handshake is over, and
    /// the stream belongs to SMC.
    Confirmed(F::Confirmed),
    /// The peer declined. The stream goes on with the application's data from the next byte.
    Declined {
        /// The peer's reason.
        code: Diagnosis,
        /// The peer wants the link group of this connection forgotten (RFC 7609 §A.2.5).
        out_of_sync: bool,
    },
    /// Our Decline is in `poll_transmit`, or was; behind it the stream belongs to the application,
    /// both ways. What we had against the peer's message, if that was it, is in `objection`.
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
    /// First contact over RDMA: the owner confirms the link; the peer may send a Decline.
    Linking,
    /// Our Decline is out, the peer's may be in the stream: peek.
    Crossing,
    /// Over: SMC.
    Done,
    /// Over: TCP.
    Tcp,
    /// Over: the connection has to end.
    Failed,
}

/// The most that `needed` ever asks for, in bytes.
pub const MAX_NEEDED: usize = MAX_LEN - Header::LEN;

/// The most that `handle_peeked` ever needs to see, in bytes: the longest Decline.
pub const MAX_PEEKED: usize = 44;

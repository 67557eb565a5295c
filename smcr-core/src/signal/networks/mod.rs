//! The signal without privileges, between hosts of configured networks (`ask_networks`): a short
//! exchange over UDP beside the TCP connection. It is our own; only this library speaks it.
//!
//! # The exchange
//!
//! ```text
//! client                                                            server
//! connect(), SYN with the hint in its TTL ------------------------> kernel
//! opens its flow, Ask --------------------------------------------> (nobody yet)
//!                                              accept(): sees the hint, opens its flow
//! <---------------------------------------- Call: the SYN's time stamp, a nonce
//! Commit: both nonces, bytes sent so far -------------------------> will look for CLC
//! <---------------------------------------- Go: both nonces
//! CLC Proposal on the TCP connection -----------------------------> CLC
//! ```
//!
//! - Each connection has a UDP flow of its own: between the two addresses of the TCP connection,
//!   with the *client's port number at both ends*. Both know it, so that nothing has to be
//!   announced, and the kernel brings each datagram to the process that has the connection: no
//!   daemon, no thread that listens, and no confusion between processes that share a listening
//!   port by fork or `SO_REUSEPORT`. The server's own port number is not used, since the program
//!   may serve UDP there (DNS, HTTP/3).
//! - The Call comes from whoever accepted the connection, and proves that by the SYN's time stamp,
//!   which only the two ends know (as the rendezvous on one host does).
//! - **A CLC byte goes only after Go**, and Go only after the server has a Commit: from then on it
//!   looks at what comes before it takes it for data. If Go is lost, Commit is repeated; if all
//!   are lost, the client says Stop and stays on TCP, and the server finds that what comes is not
//!   CLC, or nothing comes until its deadline.
//! - Datagrams are repeated after 1, 2, 4, ... ms. A server waits 20 ms and three round trips
//!   for a client of which it hears nothing, and 200 ms for one that it heard; a client waits as
//!   long for Go. Who does not answer is remembered for a minute ([`Silent`]) and not asked.
//!
//! # Who can do what
//!
//! Both ends are named by 64-bit nonces, so that somebody off the path has to guess one of them, or
//! the time stamp, within milliseconds. On the path everything can be forged, as can the TCP option.
//! Other users of either host are kept out since both flows are bound exclusively: who binds the
//! port first, or is in the way, keeps a connection on TCP.
//!
//! # What it takes
//!
//! - Both ends list each other's networks in their configuration. Without that, nothing is sent.
//! - No address translation between them: the flows then do not meet, and the connection is TCP.
//! - Filters that let UDP pass between the two hosts, from and to unprivileged ports. A stateful
//!   one passes it if it allows outgoing UDP: Ask opens the client's side, Call the server's.
//! - TCP time stamps, and less than 31 hops.
//!
//! # Why not otherwise
//!
//! - *A TCP connection on the side*: the server would have to connect to its clients, or listen on
//!   another port, which it would share with other processes of the host. Its only advantage, that
//!   nothing is lost, three messages and a deadline have, too.
//! - *A responder on the listening port's number*: it is the program's to use; and with several
//!   processes behind one port, the wrong one is asked.
//! - *A daemon on each host*: one more thing to run; who can do that can run `smcr-option`.
//!
//! # Parts
//!
//! This library's client keeps what the program sends until it is decided, so it says of no bytes
//! that they come before; and it waits a quarter of a second for the Call.
//!
//! [`client`] and [`server`] are the two ends as state machines, without sockets or clocks;
//! [`message`] the format; [`flow`] the sockets; [`Silent`] who did not answer.

#[forbid(unsafe_code)]
pub mod client;
pub mod flow;
#[forbid(unsafe_code)]
pub mod message;
#[forbid(unsafe_code)]
pub mod server;
#[forbid(unsafe_code)]
mod silent;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use flow::{Asking, Calling, Refusal};
pub use silent::Silent;

/// How long an end waits for one of which it has heard, as long as nothing is lost a moment; the
/// other's library may wait for a core.
pub const HEARD_WAIT: Duration = Duration::from_millis(200);

/// How long a server waits for a client of which it has heard nothing, beside three round trips.
pub const CALL_WAIT: Duration = Duration::from_millis(20);

/// How long a client waits for the Call, with what its program sends in its hands. A busy server
/// takes its time to accept.
pub const ASK_WAIT: Duration = Duration::from_millis(250);

/// When a datagram is repeated first; each time the wait is doubled.
const FIRST_REPEAT: Duration = Duration::from_millis(1);

/// The longest wait between two.
const LAST_REPEAT: Duration = Duration::from_millis(32);

//! How two processes on one host, in one network namespace, find out that both run the library,
//! before a single CLC byte is sent.
//!
//! 1. The library of a listening program keeps each SYN (`TCP_SAVE_SYN`) and binds a *presence*
//!    name for the port. The name promises nothing; it only tells clients that asking pays.
//! 2. The library of a connecting program finds the name, sends its SYN with an unusual TTL
//!    ([`syn`]), and when TCP is connected binds a *call* name made of the connection's addresses
//!    and ports.
//! 3. The library of whoever accepts the connection sees the TTL and calls that name, proving by
//!    the SYN's time stamp, which only the two ends know, that it speaks for this connection.
//! 4. The client's library commits, and the CLC handshake follows on the TCP connection. Until
//!    then the connection is plain TCP, and stays so if nobody calls.
//!
//! Memory and descriptors travel over the call's channel.

pub mod messages;
pub mod names;
pub mod syn;

//! How the two ends of a TCP connection between hosts learn that both can do SMC, before a single
//! CLC byte is sent.
//!
//! - [`option`]: by the TCP option of RFC 7609 §3.1, where an administrator ran `smcr-option
//!   attach`. Peers that are Linux kernels know it, too.
//!
//! - [`networks`]: by a few datagrams beside the connection, between hosts whose configurations
//!   name each other's networks. It takes no privileges.
//!
//! Processes of one host and network namespace need none of this: see [`crate::rendezvous`].

pub mod networks;
pub mod option;

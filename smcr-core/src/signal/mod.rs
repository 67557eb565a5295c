//! How the two ends of a TCP connection between hosts learn that both can do SMC, before a single
//! CLC byte is sent.
//!
//! - [`option`]: by the TCP option of RFC 7609 §3.1, where an administrator ran `smcr-option
//!   attach`. Peers that are Linux kernels know it, too.
//!
//! Processes of one host and network namespace need none of this: see [`crate::rendezvous`].

pub mod option;

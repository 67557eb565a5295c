//! SMC-R over RDMA (RFC 7609): link groups whose links are RC queue pairs.
//!
//! [`fabric`] says what the engine needs of a network adapter. There are two: libibverbs, and a
//! simulation for tests.

pub mod fabric;

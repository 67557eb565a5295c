//! SMC-R (RFC 7609) in user space: the protocol, the fabrics that carry it, the engine that joins
//! them, and the native socket API.

#[forbid(unsafe_code)]
pub mod cdc;
#[forbid(unsafe_code)]
pub mod clc;
#[forbid(unsafe_code)]
pub mod close;
pub mod config;
pub mod conn;
pub mod engine;
pub mod fds;
pub mod forks;
mod futex;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod fuzzing;
pub mod group;
#[forbid(unsafe_code)]
pub mod handshake;
#[forbid(unsafe_code)]
pub mod llc;
pub mod net;
mod rawfs;
pub mod rdma;
pub mod reason;
pub mod rendezvous;
pub mod shm;
pub mod signal;
pub mod stat;
pub mod sys;

pub use reason::Reason;

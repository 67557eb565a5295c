//! SMC-R (RFC 7609) in user space: the protocol, the fabrics that carry it, the engine that joins
//! them, and the native socket API.

pub mod conn;
pub mod fds;
pub mod group;
pub mod reason;
pub mod rendezvous;
pub mod shm;
pub mod sys;

pub use reason::Reason;
mod rawfs;
pub mod stat;

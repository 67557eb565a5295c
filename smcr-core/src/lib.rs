//! SMC-R (RFC 7609) in user space: the protocol, the fabrics that carry it, the engine that joins
//! them, and the native socket API.

pub mod reason;
pub use reason::Reason;
pub mod config;
mod rawfs;
pub mod stat;

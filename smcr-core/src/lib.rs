//! SMC-R (RFC 7609) in user space: the protocol, the fabrics that carry it, the engine that joins
//! them, and the native socket API.

#[forbid(unsafe_code)]
pub mod clc;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod fuzzing;
#[forbid(unsafe_code)]
pub mod handshake;
pub mod reason;
pub use reason::Reason;

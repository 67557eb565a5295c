//! `libsmcr.so`: moves the TCP streams of an unmodified program onto SMC.
//!
//! - `hooks`: the C functions that take the place of libc's. They convert arguments, call an
//!   operation, and convert its result.
//! - `ops`: the operations, in Rust's terms.
//! - `watch`: epoll, poll and select.
//! - `table`, `stream`, `plain`: what the program's descriptors are to us.
//!
//! The engine behind all of it is the crate `smcr-core`, which programs may also use directly.

mod hooks;
mod init;
mod ops;
mod outcome;
mod plain;
mod real;
mod stream;
mod table;
mod watch;

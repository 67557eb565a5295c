//! The native face: TCP streams in the shapes of [`std::net`], over SMC where the peer speaks it.
//!
//! A program that uses [`SmcListener`] and [`SmcStream`] in place of `TcpListener` and `TcpStream`
//! gets what the preload library gives to unmodified programs, and talks to them: to programs
//! under the library over SMC, to all others over TCP. It can ask what came of it
//! ([`SmcStream::mode`], [`SmcStream::fallback_reason`]).
//!
//! ```
//! use std::io::{Read, Write};
//! use smcr_core::net::{Mode, SmcListener, SmcStream};
//!
//! let listener = SmcListener::bind("127.0.0.1:0")?;
//! let addr = listener.local_addr()?;
//! let client = std::thread::spawn(move || -> std::io::Result<Vec<u8>> {
//!     let mut stream = SmcStream::connect(addr)?;
//!     stream.write_all(b"hello")?;
//!     stream.shutdown(std::net::Shutdown::Write)?;
//!     let mut answer = Vec::new();
//!     stream.read_to_end(&mut answer)?;
//!     Ok(answer)
//! });
//! let (mut stream, _peer) = listener.accept()?;
//! let mut request = Vec::new();
//! stream.read_to_end(&mut request)?;
//! stream.write_all(&request)?;
//! drop(stream);
//! assert_eq!(client.join().unwrap()?, b"hello");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Starting
//!
//! The engine starts by itself with the first listener or stream, with the configuration that
//! [`Config::load`](crate::config::Config::load) finds. A program that wants another one calls
//! [`engine::start`](crate::engine::start) first. Where the configuration cannot be used, or
//! `SMCR_DISABLE` is set, everything is plain TCP and says so.
//!
//! # When a stream moves
//!
//! `connect` returns as soon as TCP is connected, with a stream in [`Mode::Pending`]; it moves to
//! SMC when the peer accepts, or becomes TCP when the peer turns out not to speak SMC. What is
//! written meanwhile arrives in order, whatever comes of it. On the accepting side the handshake
//! is part of `accept`, which bounds it by deadlines.
//!
//! # Readiness
//!
//! The descriptor of a stream ([`AsFd`](std::os::fd::AsFd)) can be watched by poll, epoll and what
//! is built on them: it is readable, writable or hung up when the stream is. It is not the TCP
//! socket, and **must not be read or written** but through [`SmcStream`]. Reads through this API
//! keep the peer told to ring for whatever arrives after they found the stream empty, since they
//! cannot know who watches the descriptor. So the usual rules apply: level-triggered watchers
//! need nothing, edge-triggered ones read until `WouldBlock`.
//!
//! # Forks
//!
//! Starting programs ([`std::process::Command`]) is fine. A child that goes on without `exec` must
//! not use streams of its parent.

mod listener;
mod start;
mod stream;
mod stream_io;

pub use listener::{Incoming, SmcListener};
pub use stream::SmcStream;

/// What carries a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// SMC over memory shared with a process of this host.
    Shm,
    /// SMC-R over RDMA.
    Rdma,
    /// TCP, for good: see [`SmcStream::fallback_reason`].
    Tcp,
    /// TCP until the peer has accepted the connection; then one of the others.
    Pending,
}

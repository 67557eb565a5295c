//! Listening.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};

use super::{SmcStream, start};
use crate::Reason;
use crate::engine;
use crate::rendezvous::names::Presence;
use crate::stat::Slot;

/// Connections that may wait to be accepted (the kernel cuts it to its own limit).
const BACKLOG: i32 = 4096;

/// A TCP listener whose connections move to SMC where the client speaks it: as
/// [`std::net::TcpListener`].
///
/// Its descriptor is the TCP socket; it becomes readable when there is something to accept.
#[derive(Debug)]
pub struct SmcListener {
    tcp: TcpListener,
    local: SocketAddr,
    /// Why all connections will be TCP, if they will.
    refused: Option<Reason>,
    presence: Mutex<Option<Presence>>,
    slot: Slot,
}

impl SmcListener {
    /// Listens on the first of the addresses that can be had. Port 0 asks for any free port.
    ///
    /// # Errors
    /// As [`TcpListener::bind`].
    pub fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to bind to");
        for addr in addr.to_socket_addrs()? {
            match Self::bind_one(addr) {
                Ok(listener) => return Ok(listener),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn bind_one(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&addr.into())?;
        // Before the first SYN: the kernel keeps those that come later.
        let refused = match start::engine() {
            Ok(engine) => engine.listening(socket.as_fd()).err(),
            Err(reason) => Some(reason),
        };
        socket.listen(BACKLOG)?;
        Self::listening(socket.into(), refused)
    }

    /// Takes over a listener that was made elsewhere, by a supervisor for instance.
    ///
    /// # Errors
    /// If it has no address.
    pub fn from_std(tcp: TcpListener) -> io::Result<Self> {
        let refused = match start::engine() {
            Ok(engine) => engine.listening(tcp.as_fd()).err(),
            Err(reason) => Some(reason),
        };
        Self::listening(tcp, refused)
    }

    fn listening(tcp: TcpListener, refused: Option<Reason>) -> io::Result<Self> {
        let local = tcp.local_addr()?;
        let listener = Self {
            tcp,
            local,
            refused,
            presence: Mutex::new(None),
            slot: engine::list_listener(local),
        };
        listener.announce();
        Ok(listener)
    }

    /// Tells clients that asking pays. Whoever announced the port first may be gone by now.
    fn announce(&self) {
        if self.refused.is_some() {
            return;
        }
        let mut presence = self.presence.lock();
        if let (None, Ok(engine)) = (presence.as_ref(), start::engine()) {
            *presence = engine.announce(self.local.port());
        }
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// As [`TcpListener::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Waits for a connection. If the client speaks SMC the handshake is done when this returns;
    /// its deadlines bound the time that takes (`handshake_timeout_ms` of the configuration).
    ///
    /// # Errors
    /// As [`TcpListener::accept`]. A connection whose handshake fails is no error here: it is
    /// returned, and its first use tells.
    pub fn accept(&self) -> io::Result<(SmcStream, SocketAddr)> {
        let (tcp, peer) = self.tcp.accept()?;
        self.announce();
        let accepted = match (self.refused, start::engine()) {
            (None, Ok(engine)) => {
                let admitted = engine.accepted(tcp.as_fd(), Some(self.tcp.as_fd()));
                admitted.map(|admitted| (admitted, engine))
            }
            (Some(reason), _) | (None, Err(reason)) => Err(reason),
        };
        let local = tcp.local_addr().unwrap_or(self.local);
        let stream = SmcStream::from_accepted(accepted, OwnedFd::from(tcp), local, peer);
        Ok((stream, peer))
    }

    /// The connections that come, without end.
    pub fn incoming(&self) -> Incoming<'_> {
        Incoming(self)
    }

    /// Makes `accept` return at once, with `WouldBlock` if nothing waits. Accepted streams are
    /// blocking in either case.
    ///
    /// # Errors
    /// As [`TcpListener::set_nonblocking`].
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.tcp.set_nonblocking(nonblocking)
    }

    /// Another handle of the same listener.
    ///
    /// # Errors
    /// As [`TcpListener::try_clone`].
    pub fn try_clone(&self) -> io::Result<Self> {
        let refused = self.refused;
        Ok(Self {
            tcp: self.tcp.try_clone()?,
            local: self.local,
            refused,
            presence: Mutex::new(None),
            slot: Slot::NONE,
        })
    }

    /// The error that waits on the socket, which is cleared.
    ///
    /// # Errors
    /// As [`TcpListener::take_error`].
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.tcp.take_error()
    }
}

impl Drop for SmcListener {
    fn drop(&mut self) {
        self.slot.remove();
    }
}

impl AsFd for SmcListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}

impl AsRawFd for SmcListener {
    fn as_raw_fd(&self) -> RawFd {
        self.tcp.as_raw_fd()
    }
}

/// See [`SmcListener::incoming`].
#[derive(Debug)]
pub struct Incoming<'a>(&'a SmcListener);

impl Iterator for Incoming<'_> {
    type Item = io::Result<SmcStream>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.accept().map(|(stream, _)| stream))
    }
}

impl<'a> IntoIterator for &'a SmcListener {
    type Item = io::Result<SmcStream>;
    type IntoIter = Incoming<'a>;

    fn into_iter(self) -> Incoming<'a> {
        self.incoming()
    }
}

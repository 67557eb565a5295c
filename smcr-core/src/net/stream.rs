//! A stream: how it comes to be, its options, its end.

use std::io;
use std::net::{Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::{Mode, start};
use crate::Reason;
use crate::engine::{self, Admitted, Connection, Phase};
use crate::stat::{Role, Slot};
use crate::sys;

/// How long [`SmcStream::as_fd`] waits for the outcome of a pending handshake.
const SETTLE: Duration = Duration::from_millis(20);

/// A stream over SMC or TCP: as [`std::net::TcpStream`].
///
/// Like it, it can be read and written through a shared reference, by several threads.
#[derive(Debug)]
pub struct SmcStream {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// An end of a readiness pair while the stream is on SMC or may come to be, else the TCP
    /// socket. The number stays the same.
    fd: OwnedFd,
    /// `None` for a stream that was TCP from the first.
    pub(super) connection: Option<Arc<Connection>>,
    reason: Option<Reason>,
    slot: Slot,
    local: SocketAddr,
    peer: SocketAddr,
}

impl SmcStream {
    /// Connects to the first of the addresses that answers.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::connect`]: of the last address tried.
    pub fn connect(addr: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to");
        for addr in addr.to_socket_addrs()? {
            match Self::connect_one(addr, None) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to one address within a time.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::connect_timeout`]: `TimedOut` when the time is over.
    pub fn connect_timeout(addr: &SocketAddr, timeout: Duration) -> io::Result<Self> {
        Self::connect_one(*addr, Some(timeout))
    }

    fn connect_one(addr: SocketAddr, timeout: Option<Duration>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        let planned = start::engine()
            .and_then(|engine| Ok((engine, engine.plan_connect(socket.as_fd(), addr, -1)?)));
        let connected = match timeout {
            Some(timeout) => socket.connect_timeout(&addr.into(), timeout),
            None => connect_through_signals(&socket, addr),
        };
        let outcome = connected
            .as_ref()
            .copied()
            .map_err(|error| Errno::from_io_error(error).unwrap_or(Errno::TIMEDOUT));
        let refusal = match &planned {
            Err(reason) => Some(*reason),
            Ok((engine, plan)) => match engine.connected(plan, socket.as_fd(), outcome) {
                Ok(connecting) => return Ok(Self::from_connecting(connecting, engine, addr)),
                Err(reason) => reason,
            },
        };
        connected?;
        let local = socket.local_addr()?.as_socket().unwrap_or(addr);
        let fd = OwnedFd::from(socket);
        Ok(Self::on_tcp(
            fd,
            Role::Client,
            refusal.unwrap_or(Reason::Internal),
            local,
            addr,
        ))
    }

    /// TCP is connected, and the server's library may call.
    fn from_connecting(
        connecting: engine::Connecting,
        engine: &'static engine::Engine,
        addr: SocketAddr,
    ) -> Self {
        let engine::Connecting {
            connection,
            mut pending,
            end,
        } = connecting;
        let number = end.as_raw_fd();
        let local = pending.local();
        pending.on_tcp = Box::new(move |tcp| replace(number, tcp));
        connection.begin(pending);
        let stream = Self::new(end, connection, local, addr);
        if let Some(connection) = &stream.inner.connection {
            // `Inner` closes the connection before the descriptor, so `number` is ours whenever
            // `on_tcp` is called.
            engine.watch(connection);
        }
        stream
    }

    pub(super) fn from_accepted(
        accepted: Result<(Admitted, &'static engine::Engine), Reason>,
        tcp: OwnedFd,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Self {
        match accepted {
            // The engine keeps a copy of the TCP socket.
            Ok((Admitted::Moved(accepted), _)) => {
                Self::new(accepted.end, Arc::new(accepted.connection), local, peer)
            }
            Ok((Admitted::Pending(connecting), engine)) => {
                Self::from_connecting(*connecting, engine, peer)
            }
            Err(reason) => Self::on_tcp(tcp, Role::Server, reason, local, peer),
        }
    }

    fn new(end: OwnedFd, connection: Arc<Connection>, local: SocketAddr, peer: SocketAddr) -> Self {
        // Ends that came from the peer are as the peer left them.
        let _ = rustix::io::ioctl_fionbio(&end, false);
        connection.set_nonblocking(false);
        Self {
            inner: Arc::new(Inner {
                fd: end,
                slot: connection.slot(),
                connection: Some(connection),
                reason: None,
                local,
                peer,
            }),
        }
    }

    fn on_tcp(
        fd: OwnedFd,
        role: Role,
        reason: Reason,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Self {
        let slot = engine::list_tcp(role, reason, Some(local), Some(peer));
        Self {
            inner: Arc::new(Inner {
                fd,
                connection: None,
                reason: Some(reason),
                slot,
                local,
                peer,
            }),
        }
    }

    /// What carries the stream now.
    pub fn mode(&self) -> Mode {
        match self.inner.connection.as_ref().map(|c| c.phase()) {
            Some(Phase::Smc) => Mode::Shm,
            Some(Phase::Pending | Phase::Committing) => Mode::Pending,
            Some(Phase::Tcp) | None => Mode::Tcp,
        }
    }

    /// Why the stream is on TCP; `None` while it is not, or while that is not decided.
    pub fn fallback_reason(&self) -> Option<Reason> {
        match &self.inner.connection {
            Some(connection) => connection.fallback_reason(),
            None => self.inner.reason,
        }
    }

    /// The address of this end.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.inner.local)
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::peer_addr`]: `NotConnected` after a reset.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let smc = self.inner.smc();
        if smc.is_some_and(|smc| smc.is_over()) {
            return Err(Errno::NOTCONN.into());
        }
        Ok(self.inner.peer)
    }

    /// Ends one direction, or both, for all handles of the stream. A stream that is still
    /// [`Mode::Pending`] becomes TCP by it.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::shutdown`].
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if let Some(connection) = &self.inner.connection {
            connection.withdraw(Reason::EarlyData);
        }
        let Some(smc) = self.inner.smc() else {
            return self.inner.socket().shutdown(how);
        };
        let raw = match how {
            Shutdown::Read => libc::SHUT_RD,
            Shutdown::Write => libc::SHUT_WR,
            Shutdown::Both => libc::SHUT_RDWR,
        };
        Ok(smc.shutdown(self.inner.fd.as_fd(), raw)?)
    }

    /// Makes calls return `WouldBlock` instead of waiting, on all handles of the stream.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::set_nonblocking`].
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        if let Some(connection) = &self.inner.connection {
            connection.set_nonblocking(nonblocking);
        }
        // Twice where the TCP socket may have come into its place in between.
        for _ in 0..2 {
            self.inner.socket().set_nonblocking(nonblocking)?;
        }
        Ok(())
    }

    /// How long a read may wait; `None` for ever. Then it fails with `WouldBlock`.
    ///
    /// # Errors
    /// `InvalidInput` for a zero time.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        refuse_zero(timeout)?;
        self.inner.option(|socket| socket.set_read_timeout(timeout))
    }

    /// How long a write may wait; `None` for ever. Then it fails with `WouldBlock`.
    ///
    /// # Errors
    /// `InvalidInput` for a zero time.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        refuse_zero(timeout)?;
        self.inner
            .option(|socket| socket.set_write_timeout(timeout))
    }

    /// See [`Self::set_read_timeout`].
    ///
    /// # Errors
    /// As [`std::net::TcpStream::read_timeout`].
    pub fn read_timeout(&self) -> io::Result<Option<Duration>> {
        self.inner.socket().read_timeout()
    }

    /// See [`Self::set_write_timeout`].
    ///
    /// # Errors
    /// As [`std::net::TcpStream::write_timeout`].
    pub fn write_timeout(&self) -> io::Result<Option<Duration>> {
        self.inner.socket().write_timeout()
    }

    /// `TCP_NODELAY`. Matters while the stream is on TCP: SMC holds nothing back.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::set_nodelay`].
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.inner
            .tcp_option(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// See [`Self::set_nodelay`].
    ///
    /// # Errors
    /// As [`std::net::TcpStream::nodelay`].
    pub fn nodelay(&self) -> io::Result<bool> {
        self.inner.tcp_option(|socket| socket.tcp_nodelay())
    }

    /// The time to live of packets on TCP.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::set_ttl`].
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.inner.tcp_option(|socket| socket.set_ttl_v4(ttl))
    }

    /// See [`Self::set_ttl`].
    ///
    /// # Errors
    /// As [`std::net::TcpStream::ttl`].
    pub fn ttl(&self) -> io::Result<u32> {
        self.inner.tcp_option(|socket| socket.ttl_v4())
    }

    /// The error that waits on the stream, which is cleared.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::take_error`].
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self.inner.smc() {
            Some(smc) => Ok(smc.take_error().map(io::Error::from)),
            None => self.inner.socket().take_error(),
        }
    }

    /// Another handle of the same stream: same descriptor, same options. The connection ends with
    /// its last handle.
    ///
    /// # Errors
    /// None so far.
    pub fn try_clone(&self) -> io::Result<Self> {
        let inner = Arc::clone(&self.inner);
        Ok(Self { inner })
    }
}

impl Inner {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn smc(&self) -> Option<&crate::conn::Smc> {
        self.connection.as_ref()?.smc()
    }

    /// The descriptor, whatever it is, for calls of the C library. (Not for direct system calls:
    /// the program may itself run under the preload library, which has its hooks there.)
    pub(super) fn socket(&self) -> SockRef<'_> {
        SockRef::from(&self.fd)
    }

    /// Reads or sets an option of the TCP socket.
    fn tcp_option<T>(&self, option: impl Fn(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        // A duplicate: the engine closes its own when the stream becomes TCP.
        let tcp = self.connection.as_ref().and_then(|c| c.duplicate_tcp());
        match tcp {
            Some(tcp) => option(SockRef::from(&tcp)),
            None => option(self.socket()),
        }
    }

    /// Sets an option that both the readiness pair and the TCP socket need.
    fn option(&self, set: impl Fn(SockRef<'_>) -> io::Result<()>) -> io::Result<()> {
        self.tcp_option(&set)?;
        set(self.socket())
    }

    /// Makes the descriptor final: until the handshake is decided it may still be replaced, which
    /// whoever watches it would not notice.
    fn settle(&self) {
        if let Some(connection) = &self.connection
            && connection.smc().is_none()
            && !connection.is_over_rdma()
        {
            connection.wait_for_peer(SETTLE);
            connection.withdraw(Reason::NoAnswer);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.connection {
            Some(connection) => connection.close(false),
            None => self.slot.remove(),
        }
    }
}

impl AsFd for SmcStream {
    /// The descriptor to watch for readiness; see the [module](super) for what it is. If the
    /// handshake is pending this waits for its outcome, up to 20 ms, and gives SMC up after that:
    /// the descriptor that is returned keeps its meaning. A handshake for RDMA cannot be given up:
    /// should it end on TCP, whoever watches the descriptor has to begin anew.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.settle();
        self.inner.fd.as_fd()
    }
}

impl AsRawFd for SmcStream {
    /// As [`Self::as_fd`].
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Puts the TCP socket in the place of the readiness pair's end.
fn replace(number: RawFd, tcp: BorrowedFd<'_>) {
    // SAFETY: called only while `Inner` holds the descriptor (see `from_connecting`).
    let end = unsafe { BorrowedFd::borrow_raw(number) };
    if let Ok(flags) = rustix::fs::fcntl_getfl(end) {
        let _ = rustix::fs::fcntl_setfl(tcp, flags);
    }
    if let Err(errno) = sys::dup_onto(tcp, number, true) {
        log::error!("a stream on TCP lost its socket: {errno}");
    }
}

/// As std: a connect that a signal interrupts goes on, and is waited for.
fn connect_through_signals(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    match socket.connect(&addr.into()) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        outcome => return outcome,
    }
    loop {
        match sys::poll_one(socket.as_fd(), libc::POLLOUT, None) {
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return socket.take_error()?.map_or(Ok(()), Err),
        }
    }
}

fn refuse_zero(timeout: Option<Duration>) -> io::Result<()> {
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        let kind = io::ErrorKind::InvalidInput;
        return Err(io::Error::new(kind, "cannot set a 0 duration timeout"));
    }
    Ok(())
}

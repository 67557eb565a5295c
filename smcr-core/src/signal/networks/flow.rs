//! The two ends with their sockets.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::client::{self, Client};
use super::message::SIZE;
use super::server::{self, Server};
use crate::Reason;
use crate::rendezvous::syn::{Syn, Window};
use crate::sys;

/// Datagrams that are read in one go; what floods us beyond that waits.
const MOST_AT_ONCE: usize = 16;

/// A UDP socket with the client's TCP port number at both ends, ours bound exclusively.
#[derive(Debug)]
struct Flow(OwnedFd);

impl Flow {
    fn open(local: SocketAddr, peer: SocketAddr, client_port: u16) -> Result<Self, Errno> {
        let (local, peer) = (at_port(local, client_port), at_port(peer, client_port));
        if local == peer {
            // One host: the two would be one socket.
            return Err(Errno::ADDRINUSE);
        }
        let family = match local {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        let socket = crate::fds::raise(socket);
        rustix::net::bind(&socket, &local)?;
        rustix::net::connect(&socket, &peer)?;
        Ok(Self(socket))
    }

    /// Sends, and never minds: what is lost is sent again.
    fn send(&self, datagram: &[u8; SIZE]) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // The first error may be that of an earlier datagram, which nobody was there to take.
        if rustix::net::send(&self.0, datagram, flags) == Err(Errno::CONNREFUSED) {
            let _ = rustix::net::send(&self.0, datagram, flags);
        }
    }

    /// What has come, one after the other. True if somebody says that nobody is there (yet).
    fn receive(&self, mut take: impl FnMut(&[u8])) -> bool {
        let mut is_refused = false;
        let mut buffer = [0; SIZE + 1];
        for _ in 0..MOST_AT_ONCE {
            match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((n, _)) => take(&buffer[..n]),
                // An ICMP message: anybody could send one.
                Err(Errno::CONNREFUSED) => is_refused = true,
                Err(Errno::INTR) => {}
                Err(_) => break,
            }
        }
        is_refused
    }
}

/// An address with another port; IPv4 addresses in IPv6 clothes as what they are.
fn at_port(addr: SocketAddr, port: u16) -> SocketAddr {
    match (addr.ip().to_canonical(), addr) {
        (IpAddr::V6(ip), SocketAddr::V6(addr)) => {
            // Link-local addresses are nothing without their interface.
            SocketAddrV6::new(ip, port, 0, addr.scope_id()).into()
        }
        (ip, _) => SocketAddr::new(ip, port),
    }
}

fn nonce() -> Result<u64, Errno> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_ne_bytes(random))
}

/// The smoothed round trip of a TCP connection, 0 if unknown.
fn round_trip(tcp: BorrowedFd<'_>) -> Duration {
    /// Offset of `tcpi_rtt`, in µs, in `struct tcp_info`.
    const RTT: usize = 68;
    let mut info = [0; RTT + 4];
    match sys::get_bytes(tcp, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info) {
        Ok(len) if len == info.len() => {
            let rtt = info[RTT..]
                .first_chunk()
                .map_or(0, |us| u32::from_ne_bytes(*us));
            Duration::from_micros(rtt.into())
        }
        _ => Duration::ZERO,
    }
}

/// The client's end. Poll its descriptor for reading, and call [`Asking::handle`] when it is
/// readable or [`Asking::poll_timeout`] has come.
#[derive(Debug)]
pub struct Asking {
    flow: Flow,
    client: Client,
}

impl Asking {
    /// To be made as soon as TCP is connected, if the SYN carried
    /// [`syn::NETWORK_HINT_TTL`](crate::rendezvous::syn::NETWORK_HINT_TTL).
    ///
    /// # Errors
    /// Those of the socket: `EADDRINUSE` if the port number is used for UDP, `EACCES` for
    /// privileged ports. The connection is TCP then.
    pub fn begin(
        tcp: BorrowedFd<'_>,
        local: SocketAddr,
        peer: SocketAddr,
        window: Window,
    ) -> Result<Self, Errno> {
        let flow = Flow::open(local, peer, local.port())?;
        let client = Client::new(peer.port(), window, nonce()?, round_trip(tcp));
        let mut asking = Self { flow, client };
        asking.transmit();
        Ok(asking)
    }

    /// Takes what has come and sends what is due. To be called until it returns `None`.
    pub fn handle(&mut self, now: Instant) -> Option<client::Event> {
        if let Some(event) = self.client.poll_event() {
            return Some(event);
        }
        let (flow, client) = (&self.flow, &mut self.client);
        flow.receive(|datagram| {
            client.handle(datagram);
            if let Some(answer) = client.poll_transmit() {
                flow.send(&answer);
            }
        });
        if client.poll_timeout().is_some_and(|at| at <= now) {
            client.handle_timeout(now);
        }
        self.transmit();
        self.client.poll_event()
    }

    /// See [`Client::commit`].
    pub fn commit(&mut self, early: u32, now: Instant) {
        self.client.commit(early, now);
        self.transmit();
    }

    /// See [`Client::stop`].
    pub fn stop(&mut self) -> bool {
        let stopped = self.client.stop();
        self.transmit();
        stopped
    }

    /// See [`Client::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.client.poll_timeout()
    }

    fn transmit(&mut self) {
        if let Some(datagram) = self.client.poll_transmit() {
            self.flow.send(&datagram);
        }
    }
}

impl AsFd for Asking {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flow.0.as_fd()
    }
}

/// Why an accepted connection is TCP. Nothing of it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing was heard of the client: is UDP filtered? Worth remembering.
    Unheard,
    /// The client was heard, and did not commit in time; or its host says that it is not there, for
    /// it has given up waiting.
    NoAnswer,
    /// The client said Stop, or TCP ended.
    Stopped,
    /// The socket could not be made.
    System(Errno),
}

impl Refusal {
    /// As it is counted.
    pub fn reason(self) -> Reason {
        match self {
            Self::Unheard | Self::NoAnswer => Reason::NoAnswer,
            Self::Stopped => Reason::PeerNoSmc,
            Self::System(Errno::MFILE | Errno::NFILE) => Reason::Descriptors,
            Self::System(Errno::ADDRINUSE | Errno::ACCESS) => Reason::Unsupported,
            Self::System(_) => Reason::Internal,
        }
    }
}

/// The server's end: calls the client of a connection just accepted, whose SYN had the hint for
/// networks ([`Syn::is_from_network`]). To be driven as [`Asking`] is, until it is decided: at most
/// 20 ms and three round trips if nothing is heard of the client, else 200 ms.
///
/// Once agreed, keep it until the first byte of CLC has been seen: it answers a client that did not
/// hear Go.
#[derive(Debug)]
pub struct Calling {
    flow: Flow,
    server: Server,
    /// The client's host has been heard.
    is_refused: bool,
}

impl Calling {
    /// Calls for the first time.
    ///
    /// # Errors
    /// Those of the socket, as [`Asking::begin`]. `EADDRINUSE` may also be another client that has
    /// the same port number, and is gone in a moment.
    pub fn begin(
        tcp: BorrowedFd<'_>,
        local: SocketAddr,
        peer: SocketAddr,
        syn: Syn,
        now: Instant,
    ) -> Result<Self, Errno> {
        let flow = Flow::open(local, peer, peer.port())?;
        let server = Server::new(local.port(), syn.tsval, nonce()?, round_trip(tcp), now);
        let mut calling = Self {
            flow,
            server,
            is_refused: false,
        };
        calling.transmit();
        Ok(calling)
    }

    /// Takes what has come and sends what is due. Says, once, what became of it: the bytes of the
    /// stream in front of the Proposal, or why the connection is TCP.
    pub fn handle(&mut self, tcp: BorrowedFd<'_>, now: Instant) -> Option<Result<u32, Refusal>> {
        self.receive(now);
        if is_over(tcp) {
            self.stop();
        }
        let was_decided = self.server.poll_event();
        let is_due = self.server.poll_timeout().is_some_and(|at| at <= now);
        if was_decided.is_none() && is_due {
            self.server.handle_timeout(now);
            self.transmit();
            if self.server.poll_event().is_some() {
                return Some(Err(match self.server.has_heard() || self.is_refused {
                    true => Refusal::NoAnswer,
                    false => Refusal::Unheard,
                }));
            }
        }
        match was_decided? {
            server::Event::Agreed { early } => Some(Ok(early)),
            server::Event::Ended => Some(Err(Refusal::Stopped)),
        }
    }

    /// Whether the client stays on TCP after all, once it is agreed: no CLC will come, and nothing
    /// needs to be looked for. To be asked when the descriptor is readable.
    pub fn is_stopped(&mut self, now: Instant) -> bool {
        self.receive(now);
        self.server.poll_event() == Some(server::Event::Ended)
    }

    /// See [`Server::stop`].
    pub fn stop(&mut self) -> bool {
        let stopped = self.server.stop();
        self.transmit();
        stopped
    }

    /// See [`Server::poll_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.server.poll_timeout()
    }

    fn receive(&mut self, now: Instant) {
        let (flow, server) = (&self.flow, &mut self.server);
        self.is_refused |= flow.receive(|datagram| {
            server.handle(datagram, now);
            if let Some(answer) = server.poll_transmit() {
                flow.send(&answer);
            }
        });
    }

    fn transmit(&mut self) {
        if let Some(datagram) = self.server.poll_transmit() {
            self.flow.send(&datagram);
        }
    }
}

impl AsFd for Calling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flow.0.as_fd()
    }
}

/// Whether the TCP connection was reset or closed by the peer: nobody waits at the other end.
fn is_over(tcp: BorrowedFd<'_>) -> bool {
    let events = libc::POLLRDHUP;
    sys::poll_one(tcp, events, Some(0)).is_ok_and(|ready| ready != 0)
}

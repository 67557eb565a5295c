//! The client's side: from connect() to the moment when the server's library calls.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;

use super::wire::RdmaPending;
use super::{Connection, Engine, addresses, on_this_host};
use crate::conn::bell;
use crate::handshake::ShmClient;
use crate::rendezvous::names::{self, CallListener};
use crate::rendezvous::syn::{self, Window};
use crate::shm::Rx;
use crate::stat::{ConnInfo, Mode, Role, State};
use crate::{Reason, fds, sys};

/// A connect() that may lead to SMC: the SYN says so.
#[derive(Debug)]
pub struct ConnectPlan {
    peer: SocketAddr,
    how: How,
}

#[derive(Debug)]
pub(super) enum How {
    /// By the hint for a listener on this host.
    Shm { began: Instant, ttl: i32 },
    /// By the TCP option of RFC 7609.
    Option,
    /// By the hint for hosts of configured networks.
    Networks { began: Instant, ttl: i32 },
}

/// A connection that is TCP, and becomes SMC if the server's library calls.
#[derive(Debug)]
pub struct Connecting {
    /// The connection. Give it `pending`, complete with `on_tcp`, and [`Engine::watch`] it as
    /// soon as `end` is in its place.
    pub connection: Arc<Connection>,
    /// What the handshake needs.
    pub pending: Pending,
    /// The end of the readiness pair that takes the place of the program's TCP socket.
    pub end: OwnedFd,
}

/// What a connection needs while its handshake is pending.
pub struct Pending {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Bytes that the program sent over TCP so far.
    pub(super) early: u32,
    /// Called, from any thread, if the connection stays TCP after all: has to put the TCP socket
    /// it is given in the place of the readiness pair.
    pub on_tcp: Box<dyn Fn(BorrowedFd<'_>) + Send + Sync>,
    /// What there is only for RDMA.
    pub(super) rdma: Option<Box<RdmaPending>>,
    /// The rest there is only for shared memory.
    pub(super) window: Option<Window>,
    pub(super) listener: Option<CallListener>,
    pub(super) channel: Option<OwnedFd>,
    /// The server's end of the readiness pair, until it is on its way.
    pub(super) server_end: Option<OwnedFd>,
    pub(super) handshake: Option<ShmClient>,
    pub(super) buffer: Option<(Arc<crate::group::LinkGroup>, Rx)>,
}

impl Pending {
    /// The address of this end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether our SYN can have carried this time stamp.
    pub(super) fn knows(&self, tsval: u32) -> bool {
        self.window.is_some_and(|window| window.contains(tsval))
    }

    pub(super) fn over_rdma(local: SocketAddr, peer: SocketAddr, rdma: Box<RdmaPending>) -> Self {
        Self {
            local,
            peer,
            early: 0,
            on_tcp: Box::new(|_| {}),
            rdma: Some(rdma),
            window: None,
            listener: None,
            channel: None,
            server_end: None,
            handshake: None,
            buffer: None,
        }
    }
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pending({} -> {}, {} bytes early)",
            self.local, self.peer, self.early
        )
    }
}

impl Engine {
    /// A program is about to connect `fd` to `peer`. If SMC is possible, the SYN will say so.
    /// `ttl` is what the program set with IP_TTL, -1 if nothing.
    ///
    /// # Errors
    /// Why the connection will be TCP; nothing was changed.
    pub fn plan_connect(
        &self,
        fd: BorrowedFd<'_>,
        peer: SocketAddr,
        ttl: i32,
    ) -> Result<ConnectPlan, Reason> {
        self.allow(peer.port(), peer.ip())?;
        // Somebody on this host may listen on the same port as a server far away.
        let is_loopback = peer.ip().to_canonical().is_loopback();
        if !is_loopback || !names::is_present(peer.port()) {
            match self.ask_for_rdma(fd, peer, ttl) {
                Ok(how) => return Ok(ConnectPlan { peer, how }),
                Err(reason) if is_loopback || !names::is_present(peer.port()) => {
                    return Err(reason);
                }
                Err(_) => {}
            }
        }
        let ipv6 = peer.is_ipv6();
        if !syn::set_hint(fd, ipv6) {
            return Err(Reason::Unsupported);
        }
        Ok(ConnectPlan {
            peer,
            how: How::Shm {
                began: Instant::now(),
                ttl,
            },
        })
    }

    /// The program's connect() returned `outcome`. If the TCP connection is established, makes
    /// what SMC needs.
    ///
    /// # Errors
    /// Why the connection is TCP; `None` if it failed or is not connected.
    pub fn connected(
        &'static self,
        plan: &ConnectPlan,
        fd: BorrowedFd<'_>,
        outcome: Result<(), Errno>,
    ) -> Result<Connecting, Option<Reason>> {
        let (began, ttl) = match plan.how {
            How::Shm { began, ttl } => (began, ttl),
            ref how @ (How::Option | How::Networks { .. }) => {
                return self.connecting_rdma(fd, plan.peer, how, outcome);
            }
        };
        syn::clear_hint(fd, plan.peer.is_ipv6(), ttl);
        match outcome {
            Ok(()) => {}
            Err(Errno::INPROGRESS) if is_established(fd) => {}
            Err(Errno::INPROGRESS) => return Err(Some(Reason::SlowConnect)),
            Err(_) => return Err(None),
        }
        let internal = |errno: Errno| {
            log::debug!("connect: {errno}");
            Some(if errno == Errno::MFILE {
                Reason::Descriptors
            } else {
                Reason::Internal
            })
        };
        let (local, peer) = match plan.peer {
            // Where we went is where we are.
            SocketAddr::V4(v4) if !v4.ip().is_unspecified() => {
                let local = rustix::net::getsockname(fd).map_err(internal)?;
                let local = local.try_into().map_err(|_| Some(Reason::Internal))?;
                (local, plan.peer)
            }
            _ => addresses(fd).map_err(internal)?,
        };
        if !on_this_host(peer, local) {
            // Somebody on this host listens on the same port, but this is not where we went.
            return Err(Some(Reason::PeerNoSmc));
        }
        let window = Window::now(fd, began).ok_or(Some(Reason::Unsupported))?;
        let listener = CallListener::bind(local, peer).map_err(internal)?;
        if !fds::reserve() {
            return Err(Some(Reason::Descriptors));
        }
        let (end, server_end) = bell::pair().map_err(internal)?;
        let server_end = fds::raise(server_end);
        let tcp = fds::duplicate(fd).map_err(internal)?;
        let info = ConnInfo {
            state: State::Init,
            mode: Mode::Tcp,
            role: Role::Client,
            reason: None,
            local: Some(local),
            peer: Some(peer),
            group: 0,
        };
        self.connections.fetch_add(1, Ordering::Relaxed);
        let pending = Pending {
            local,
            peer,
            early: 0,
            on_tcp: Box::new(|_| {}),
            rdma: None,
            window: Some(window),
            listener: Some(listener),
            channel: None,
            server_end: Some(server_end),
            handshake: None,
            buffer: None,
        };
        let connection = Arc::new(Connection::pending(tcp, info));
        Ok(Connecting {
            connection,
            pending,
            end,
        })
    }
}

pub(super) fn is_established(fd: BorrowedFd<'_>) -> bool {
    const ESTABLISHED: u8 = 1;
    let mut info = [0u8; 8];
    // The first byte of tcp_info is the state.
    sys::get_bytes(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).is_ok()
        && info[0] == ESTABLISHED
}

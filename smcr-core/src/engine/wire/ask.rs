//! The step before CLC where the TCP option is not there: the two ends ask each other over UDP.
//!
//! What the program sends meanwhile is held, at both ends. Nothing was said on the TCP connection
//! yet, so that either end can go on over TCP at any time.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::super::client::Pending;
use super::super::helper::disconnect;
use super::super::{Connection, Engine};
use super::failed;
use super::pending::{RdmaPending, Step};
use crate::Reason;
use crate::rendezvous::syn::{self, Syn, Window};
use crate::signal::networks::client::Event;
use crate::signal::networks::{ASK_WAIT, Asking, CALL_WAIT, Calling, Refusal};
use crate::sys;

/// When to try again where another connection has the port.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// How the two ends learn of each other.
#[derive(Debug)]
pub(in crate::engine) enum Signal {
    /// Client.
    Ask {
        /// The time stamps that the SYN may have had.
        window: Window,
        /// There as soon as TCP is connected.
        asking: Option<Asking>,
    },
    /// Server.
    Call {
        syn: Syn,
        /// How long to try to get the port.
        until: Instant,
        calling: Option<Calling>,
    },
}

impl Signal {
    /// For a socket that connects since `began`, with the hint in its SYN.
    ///
    /// # Errors
    /// There are no time stamps.
    pub(super) fn ask(tcp: BorrowedFd<'_>, began: Instant) -> Result<Self, Reason> {
        let window = Window::now(tcp, began).ok_or(Reason::Unsupported)?;
        let asking = None;
        Ok(Self::Ask { window, asking })
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Ask { asking, .. } => asking.as_ref()?.poll_timeout(),
            Self::Call { calling, .. } => calling.as_ref()?.poll_timeout(),
        }
    }

    fn flow(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Ask { asking, .. } => asking.as_ref().map(AsFd::as_fd),
            Self::Call { calling, .. } => calling.as_ref().map(AsFd::as_fd),
        }
    }

    /// Tells the other end that this one stays on TCP, if it has not been decided.
    fn stop(&mut self) {
        match self {
            Self::Ask { asking, .. } => asking.as_mut().map(Asking::stop),
            Self::Call { calling, .. } => calling.as_mut().map(Calling::stop),
        };
    }
}

impl Engine {
    /// Whether `peer` is asked over UDP; if so, the SYN of `fd` will say so.
    pub(super) fn hint_at_asking(&self, fd: BorrowedFd<'_>, peer: SocketAddr) -> bool {
        self.config.asks(peer.ip())
            && !self.wire.silent.lock().contains(peer, Instant::now())
            && syn::set_network_hint(fd, peer.is_ipv6())
    }

    /// How to call the client of a connection just accepted, if it asks.
    ///
    /// # Errors
    /// It does not, or is not to be called.
    pub(super) fn may_call(&self, fd: BorrowedFd<'_>, peer: SocketAddr) -> Result<Signal, Reason> {
        let now = Instant::now();
        if !self.config.asks(peer.ip()) || self.wire.silent.lock().contains(any_of(peer), now) {
            return Err(Reason::PeerNoSmc);
        }
        let syn = syn::saved(fd).filter(|syn| syn.is_from_network());
        Ok(Signal::Call {
            syn: syn.ok_or(Reason::PeerNoSmc)?,
            until: now + CALL_WAIT,
            calling: None,
        })
    }

    /// Goes on with asking, or calling. True once CLC is to follow.
    ///
    /// # Errors
    /// Why the connection is TCP.
    pub(super) fn go_on_asking(
        &self,
        connection: &Connection,
        rdma: &mut RdmaPending,
        pending: &Pending,
        tcp: BorrowedFd<'_>,
        now: Instant,
    ) -> Result<bool, Reason> {
        match rdma.signal {
            None => Err(Reason::Internal),
            Some(Signal::Ask { .. }) => self.go_on_as_client(connection, rdma, pending, tcp, now),
            Some(Signal::Call { .. }) => self.go_on_as_server(connection, rdma, pending, tcp, now),
        }
    }

    fn go_on_as_client(
        &self,
        connection: &Connection,
        rdma: &mut RdmaPending,
        pending: &Pending,
        tcp: BorrowedFd<'_>,
        now: Instant,
    ) -> Result<bool, Reason> {
        let Some(Signal::Ask { window, asking }) = &mut rdma.signal else {
            return Err(Reason::Internal);
        };
        let asking = match asking {
            Some(asking) => asking,
            None => {
                let (local, peer) = (pending.local, pending.peer);
                let begun = Asking::begin(tcp, local, peer, *window).map_err(refused)?;
                let thread = &self.wire.thread;
                thread
                    .watch_flow(connection, begun.as_fd())
                    .map_err(failed)?;
                rdma.deadline = Some(now + ASK_WAIT);
                asking.insert(begun)
            }
        };
        let decided = loop {
            match asking.handle(now) {
                Some(Event::Called) => {
                    asking.commit(0, now);
                    // It has deadlines of its own from here on.
                    rdma.deadline = None;
                }
                Some(Event::Agreed) => break Ok(()),
                Some(Event::Ended) => break Err(Reason::NoAnswer),
                // It was accepted, and nobody called or will.
                None if has_come(tcp) => break Err(Reason::PeerNoSmc),
                None if rdma.deadline.is_some_and(|at| at <= now) => {
                    break Err(Reason::PeerNoSmc);
                }
                None => return Ok(false),
            }
        };
        let mut silent = self.wire.silent.lock();
        match decided {
            Ok(()) => silent.remove(pending.peer),
            Err(_) => silent.insert(pending.peer, now),
        }
        drop(silent);
        decided?;
        self.end_signal(rdma);
        Ok(true)
    }

    fn go_on_as_server(
        &self,
        connection: &Connection,
        rdma: &mut RdmaPending,
        pending: &Pending,
        tcp: BorrowedFd<'_>,
        now: Instant,
    ) -> Result<bool, Reason> {
        let Some(Signal::Call {
            syn,
            until,
            calling,
        }) = &mut rdma.signal
        else {
            return Err(Reason::Internal);
        };
        let calling = match calling {
            Some(calling) => calling,
            None => match Calling::begin(tcp, pending.local, pending.peer, *syn, now) {
                Ok(begun) => {
                    let thread = &self.wire.thread;
                    thread
                        .watch_flow(connection, begun.as_fd())
                        .map_err(failed)?;
                    rdma.deadline = None;
                    calling.insert(begun)
                }
                // Perhaps for another client that has the same port number.
                Err(Errno::ADDRINUSE) if now < *until => {
                    rdma.deadline = Some(now + BUSY_PAUSE);
                    return Ok(false);
                }
                Err(errno) => return Err(refused(errno)),
            },
        };
        match calling.handle(tcp, now) {
            None => Ok(false),
            // The flow stays until CLC comes: Go may have been lost.
            Some(Ok(0)) => {
                self.wire.silent.lock().remove(any_of(pending.peer));
                Ok(true)
            }
            Some(Ok(early)) => {
                // Our clients hold what comes early. CLC follows, so there is no way back to TCP.
                log::warn!("a client sent {early} bytes early: it is of another version");
                disconnect(tcp);
                Err(Reason::ClcInvalid)
            }
            Some(Err(refusal)) => {
                if refusal == Refusal::Unheard {
                    self.wire.silent.lock().insert(any_of(pending.peer), now);
                }
                Err(refusal.reason())
            }
        }
    }

    /// The flow has done its work, or the connection stays on TCP.
    pub(super) fn end_signal(&self, rdma: &mut RdmaPending) {
        let Some(mut signal) = rdma.signal.take() else {
            return;
        };
        signal.stop();
        if let Some(flow) = signal.flow() {
            // A child of a fork may keep it open.
            self.wire.thread.forget_flow(flow);
        }
    }

    /// Connections that are being asked about go on over TCP: all of them, or clients' only.
    pub(super) fn stop_asking(&self, servers_too: bool, reason: Reason) {
        for connection in self.wire.thread.pending_connections() {
            if servers_too || !connection.is_server() {
                connection.stop_asking(reason);
            }
        }
    }
}

impl Connection {
    /// Nobody wants to wait: if nothing was said on the TCP connection yet, it stays TCP. False if
    /// CLC is under way, or there is nothing pending.
    pub(in crate::engine) fn stop_asking(&self, reason: Reason) -> bool {
        let mut guard = self.lock_pending();
        let (Some(pending), Some(engine)) = (guard.as_mut(), super::super::engine()) else {
            return false;
        };
        let asks = |rdma: &RdmaPending| {
            rdma.signal.is_some() && matches!(rdma.step, Step::Connecting | Step::Asking)
        };
        if !pending.rdma.as_deref().is_some_and(asks) {
            return false;
        }
        let Some(rdma) = pending.rdma.take() else {
            return false;
        };
        engine.stay_on_tcp(self, &mut guard, *rdma, reason);
        true
    }
}

impl RdmaPending {
    /// Server: whether the client says that it stays on TCP after all.
    pub(super) fn is_stopped(&mut self, now: Instant) -> bool {
        match &mut self.signal {
            Some(Signal::Call {
                calling: Some(calling),
                ..
            }) => calling.is_stopped(now),
            _ => false,
        }
    }
}

/// A client, whatever its port.
fn any_of(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip(), 0)
}

fn refused(errno: Errno) -> Reason {
    log::debug!("no UDP flow: {errno}");
    Refusal::System(errno).reason()
}

/// Whether anything came on the TCP connection: data, or its end.
fn has_come(tcp: BorrowedFd<'_>) -> bool {
    let looked = sys::recv(tcp, &mut [0], libc::MSG_DONTWAIT | libc::MSG_PEEK);
    !matches!(looked, Err(Errno::AGAIN | Errno::INTR))
}

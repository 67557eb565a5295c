//! Connections over RDMA: their handshakes, and the thread that the wire needs.
//!
//! The thread starts with the first connection that may use RDMA and stays as long as the process:
//! peers want their LLC requests answered also where the program sleeps. It carries out both
//! sides' handshakes, so that neither connect() nor accept() waits for a peer.

mod ask;
mod choice;
mod contact;
mod pending;
mod setup;
#[cfg(test)]
mod tests;
mod thread;
mod verdict;

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

pub(super) use pending::RdmaPending;
pub(super) use thread::Thread;

use super::client::{Connecting, How, Pending};
use super::{Connection, Engine};
use crate::conn::bell;
use crate::handshake::Timeouts;
use crate::rendezvous::syn;
use crate::signal::networks::Silent;
use crate::signal::option::{self as signal, Verdict};
use crate::stat::{ConnInfo, Mode, Role, State};
use crate::{Reason, fds};

use ask::Signal;
use choice::Choice;
use pending::Step;

/// What an engine has for RDMA.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) rdma: crate::rdma::Rdma,
    choice: Choice,
    pub(super) thread: Thread,
    /// Who did not answer over UDP.
    silent: Mutex<Silent>,
}

/// Keeps the thread at rest until it is dropped.
#[derive(Debug)]
pub(super) struct Rest {
    _busy: Option<MutexGuard<'static, ()>>,
}

impl Wire {
    pub(super) fn new(config: &crate::config::Config, random: [u8; 8]) -> Result<Self, Errno> {
        let thread = Thread::new()?;
        Ok(Self {
            rdma: crate::rdma::Rdma::new(thread.wake_fd()?, config.max_memory()),
            choice: Choice::new(config, random),
            thread,
            silent: Mutex::default(),
        })
    }
}

/// How long a process that ends may take to deliver what it sent; what TCP's kernel does by itself
/// after the end, nobody does here.
const LAST_DELIVERY: Duration = Duration::from_secs(10);

/// The same where it only becomes another program.
const EXEC_DELIVERY: Duration = Duration::from_secs(2);

impl Engine {
    /// The process is about to end: delivers what its program sent over RDMA, and tells its peers.
    /// Does nothing in a child that shares its parent's memory (vfork).
    pub fn process_ends(&self) {
        if crate::sys::getpid() == self.pid {
            self.stop_asking(true, Reason::Ended);
            self.wire.thread.settle_held(LAST_DELIVERY);
            self.wire.rdma.finish(true, LAST_DELIVERY);
        }
    }

    /// This image of the process is about to end, and its queue pairs with it.
    pub(super) fn image_ends(&self) {
        self.wire.rdma.finish(false, EXEC_DELIVERY);
    }

    /// Whether a connection to `peer` may go over RDMA; if so, its SYN will say so. `ttl` is as for
    /// [`Engine::plan_connect`].
    ///
    /// # Errors
    /// Why not.
    pub(super) fn ask_for_rdma(
        &self,
        fd: BorrowedFd<'_>,
        peer: SocketAddr,
        ttl: i32,
    ) -> Result<How, Reason> {
        if !self.config.rdma() {
            return Err(Reason::PeerNoSmc);
        }
        self.wire.choice.may_serve(peer.ip())?;
        if signal::ask(fd) {
            return Ok(How::Option);
        }
        let began = Instant::now();
        if self.hint_at_asking(fd, peer) {
            Ok(How::Networks { began, ttl })
        } else {
            // Without `smcr-option`, or networks that are configured, nobody can be asked.
            Err(Reason::PeerNoSmc)
        }
    }

    /// A listening socket is to answer clients that ask.
    pub(super) fn answer_for_rdma(&self, fd: BorrowedFd<'_>) -> bool {
        self.config.rdma() && signal::ask(fd)
    }

    /// connect() on a socket that asked for RDMA returned `outcome`.
    ///
    /// # Errors
    /// Why it stays TCP; `None` if it failed.
    pub(super) fn connecting_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        peer: SocketAddr,
        how: &How,
        outcome: Result<(), Errno>,
    ) -> Result<Connecting, Option<Reason>> {
        let asks = match *how {
            How::Networks { began, ttl } => {
                syn::clear_hint(fd, peer.is_ipv6(), ttl);
                Some(began)
            }
            _ => None,
        };
        let is_there = match outcome {
            Ok(()) => true,
            Err(Errno::INPROGRESS) => false,
            Err(_) => return Err(None),
        };
        let signal = asks.map(|began| Signal::ask(fd, began)).transpose()?;
        let connecting = self.connected_rdma(fd, peer, is_there, signal);
        connecting.map_err(Some)
    }

    fn connected_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        peer: SocketAddr,
        is_there: bool,
        signal: Option<Signal>,
    ) -> Result<Connecting, Reason> {
        if is_there && signal.is_none() && signal::verdict(fd) != Verdict::PeerSmc {
            return Err(Reason::PeerNoSmc);
        }
        let local = rustix::net::getsockname(fd).map_err(|_| Reason::Ended)?;
        let local = local.try_into().map_err(|_| Reason::Unsupported)?;
        let step = match (is_there, &signal) {
            (false, _) => Step::Connecting,
            (true, None) => Step::Begin,
            (true, Some(_)) => Step::Asking,
        };
        self.pending_rdma(fd, Role::Client, (local, peer), step, signal)
    }

    /// The program accepted a connection. If its client asked for SMC-R, and we answered, it is
    /// expected to send a Proposal. `listener` is as for [`Engine::accepted`].
    ///
    /// # Errors
    /// Why it stays TCP.
    pub(super) fn accepted_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        local: SocketAddr,
        peer: SocketAddr,
        listener: Option<BorrowedFd<'_>>,
    ) -> Result<Connecting, Reason> {
        let verdict = signal::verdict(fd);
        if let (Verdict::NotAsked | Verdict::NoSignal, Some(listener)) = (verdict, listener) {
            // The programs may have been attached again, or for the first time.
            self.answer_for_rdma(listener);
        }
        let (step, signal) = match verdict {
            Verdict::PeerSmc => (Step::Begin, None),
            Verdict::Plain | Verdict::NotAsked | Verdict::NoSignal => {
                (Step::Asking, Some(self.may_call(fd, peer)?))
            }
            Verdict::NoSyn => return Err(Reason::SynCookies),
        };
        self.allow(local.port(), peer.ip())?;
        self.pending_rdma(fd, Role::Server, (local, peer), step, signal)
    }

    fn pending_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        role: Role,
        (local, peer): (SocketAddr, SocketAddr),
        step: Step,
        signal: Option<Signal>,
    ) -> Result<Connecting, Reason> {
        if !fds::reserve() {
            return Err(Reason::Descriptors);
        }
        let (end, wire_end) = bell::pair().map_err(failed)?;
        let wire_end = fds::raise(wire_end);
        let tcp: OwnedFd = fds::duplicate(fd).map_err(failed)?;
        if step == Step::Connecting {
            // Not writable before the connection is there.
            bell::fill(std::os::fd::AsFd::as_fd(&end));
        }
        let info = ConnInfo {
            state: State::Init,
            mode: Mode::Tcp,
            role,
            reason: None,
            local: Some(local),
            peer: Some(peer),
            group: 0,
        };
        self.connections
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let rdma = RdmaPending::new(role, step, signal, wire_end);
        Ok(Connecting {
            connection: Arc::new(Connection::pending(tcp, info)),
            pending: Pending::over_rdma(local, peer, Box::new(rdma)),
            end,
        })
    }

    /// How long each side of a handshake for RDMA waits for the other's messages.
    pub(super) fn rdma_timeouts(&self) -> Timeouts {
        let wait = self.config.handshake_timeout().max(LINUX_WAITS);
        Timeouts {
            accept: ACCEPT_WAIT.max(wait),
            ..Timeouts::of(wait)
        }
    }

    /// How long whoever has to know waits for a handshake to be decided: all its timers end
    /// before.
    pub(super) fn longest_handshake(&self) -> Duration {
        let timeouts = self.rdma_timeouts();
        timeouts.accept + timeouts.confirm + timeouts.link + timeouts.decline
    }
}

/// How long Linux waits for each CLC message, and thinks that we do, too.
const LINUX_WAITS: Duration = Duration::from_secs(6);

/// How long a client waits for the Accept. A server that runs under this library answers when its
/// program accepts the connection, and TCP sets no limit to that.
const ACCEPT_WAIT: Duration = Duration::from_secs(600);

fn failed(errno: Errno) -> Reason {
    log::debug!("no descriptors of our own: {errno}");
    if errno == Errno::MFILE {
        Reason::Descriptors
    } else {
        Reason::Internal
    }
}

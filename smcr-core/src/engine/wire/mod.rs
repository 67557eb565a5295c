//! Connections over RDMA: their handshakes, and the thread that the wire needs.
//!
//! The thread starts with the first connection that may use RDMA and stays as long as the process:
//! peers want their LLC requests answered also where the program sleeps. It carries out both
//! sides' handshakes, so that neither connect() nor accept() waits for a peer.

mod choice;
mod pending;
mod setup;
mod thread;

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;
use rustix::io::Errno;

pub(super) use pending::RdmaPending;
pub(super) use thread::Thread;

use super::client::{Connecting, Pending};
use super::{Connection, Engine};
use crate::conn::bell;
use crate::handshake::Timeouts;
use crate::signal::option::{self as signal, Verdict};
use crate::stat::{ConnInfo, Mode, Role, State};
use crate::{Reason, fds};

use choice::Choice;
use pending::Step;

/// What an engine has for RDMA.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) rdma: crate::rdma::Rdma,
    choice: Choice,
    pub(super) thread: Thread,
}

/// Keeps the thread at rest until it is dropped.
#[derive(Debug)]
pub(super) struct Rest {
    _busy: MutexGuard<'static, ()>,
}

impl Wire {
    pub(super) fn new(config: &crate::config::Config, random: [u8; 8]) -> Result<Self, Errno> {
        let thread = Thread::new()?;
        Ok(Self {
            rdma: crate::rdma::Rdma::new(thread.wake_fd()?),
            choice: Choice::new(config, random),
            thread,
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
            self.wire.rdma.finish(true, LAST_DELIVERY);
        }
    }

    /// This image of the process is about to end, and its queue pairs with it.
    pub(super) fn image_ends(&self) {
        self.wire.rdma.finish(false, EXEC_DELIVERY);
    }

    /// Whether a connection to `peer` may go over RDMA; if so, its SYN will say so.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn ask_for_rdma(&self, fd: BorrowedFd<'_>, peer: SocketAddr) -> Result<(), Reason> {
        if !self.config.rdma() {
            return Err(Reason::PeerNoSmc);
        }
        self.wire.choice.may_serve(peer.ip())?;
        // Without `smcr-option` nobody can be asked.
        signal::ask(fd).then_some(()).ok_or(Reason::PeerNoSmc)
    }

    /// A listening socket is to answer clients that ask.
    pub(super) fn answer_for_rdma(&self, fd: BorrowedFd<'_>) -> bool {
        self.config.rdma() && signal::ask(fd)
    }

    /// connect() on a socket that asked for RDMA returned; the connection is there, or on its way.
    ///
    /// # Errors
    /// Why it stays TCP.
    pub(super) fn connecting_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        peer: SocketAddr,
        is_there: bool,
    ) -> Result<Connecting, Reason> {
        if is_there && signal::verdict(fd) != Verdict::PeerSmc {
            return Err(Reason::PeerNoSmc);
        }
        let local = rustix::net::getsockname(fd).map_err(|_| Reason::Ended)?;
        let local = local.try_into().map_err(|_| Reason::Unsupported)?;
        let step = if is_there {
            Step::Begin
        } else {
            Step::Connecting
        };
        self.pending_rdma(fd, Role::Client, local, peer, step)
    }

    /// The program accepted a connection. If its client asked for SMC-R, and we answered, it is
    /// expected to send a Proposal.
    ///
    /// # Errors
    /// Why it stays TCP.
    pub(super) fn accepted_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Connecting, Reason> {
        match signal::verdict(fd) {
            Verdict::PeerSmc => {}
            Verdict::Plain | Verdict::NotAsked | Verdict::NoSignal => {
                return Err(Reason::PeerNoSmc);
            }
            Verdict::NoSyn => return Err(Reason::SynCookies),
        }
        self.allow(local.port(), peer.ip())?;
        self.pending_rdma(fd, Role::Server, local, peer, Step::Begin)
    }

    fn pending_rdma(
        &'static self,
        fd: BorrowedFd<'_>,
        role: Role,
        local: SocketAddr,
        peer: SocketAddr,
        step: Step,
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
        let rdma = RdmaPending::new(role, step, wire_end);
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
    log::debug!("no readiness pair: {errno}");
    if errno == Errno::MFILE {
        Reason::Descriptors
    } else {
        Reason::Internal
    }
}

//! The engine: what a process has once for all its connections, and the ways in: connect
//! ([`Engine::plan_connect`], [`Engine::connected`]), listen ([`Engine::listening`]) and accept
//! ([`Engine::accepted`]).
//!
//! The preload library and the native API both stand on these; neither does more than turn its
//! callers' arguments into calls of this module and of [`Connection`].

mod client;
mod connection;
pub mod handover;
mod helper;
pub mod passing;
mod record;
mod server;
mod tcp;
mod transfer;
mod wire;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

pub use client::{ConnectPlan, Connecting, Pending};
pub use connection::{Connection, Early, Phase};
pub use server::{Accepted, Admitted};
pub use tcp::Options;
pub use transfer::{Unwatched, Watcher, is_reported_readable};

use crate::Reason;
use crate::clc::{HostName, PeerId};
use crate::config::{Config, Query, Verdict};
use crate::group::{self, LinkGroup};
use crate::handshake::Timeouts;
use crate::handshake::shm::{Identity, ShmEids, ShmGid};
use crate::rdma::verbs;
use crate::rendezvous::names::Presence;
use crate::rendezvous::syn;
use crate::shm::Arena;
use crate::stat::{ConnInfo, Counter, Mode, Publisher, Role, Slot, State};

/// What this process tells `smcr-stat`.
pub static PUBLISHER: Publisher = Publisher::new();

/// The engine of this process; replaced in a child after fork, never freed.
static ENGINE: AtomicPtr<Engine> = AtomicPtr::new(std::ptr::null_mut());

/// Idle link groups that are kept for the next connection with the same process.
const IDLE_GROUPS: usize = 4;

/// See the module's description.
#[derive(Debug)]
pub struct Engine {
    config: Arc<Config>,
    identity: Identity,
    eids: ShmEids,
    arena: Arc<Arena>,
    groups: Mutex<HashMap<ShmGid, Arc<LinkGroup>>>,
    next_group: AtomicU32,
    connections: AtomicUsize,
    helper: helper::Helper,
    wire: wire::Wire,
    /// The process it was made in.
    pid: u32,
}

/// Keeps the library's threads at rest until it is dropped.
#[derive(Debug)]
pub struct Rest {
    _wire: Option<wire::Rest>,
    _helper: helper::Rest,
    _verbs: verbs::Rest,
}

/// The engine of this process, if SMC is to be used at all.
#[inline]
pub fn engine() -> Option<&'static Engine> {
    // SAFETY: null, or a leaked box.
    unsafe { ENGINE.load(Ordering::Acquire).as_ref() }
}

/// What tells this process's engine from those of its parent and its children. (Not the process's
/// number, which is a system call away.)
pub(crate) fn identity() -> usize {
    ENGINE.load(Ordering::Acquire) as usize
}

/// Starts the engine of this process. To be called once, before other threads use the library.
///
/// # Errors
/// A system call failed; the process stays on TCP.
pub fn start(config: Config) -> Result<&'static Engine, Errno> {
    crate::conn::spin::set_longest(config.spin());
    // Before the first descriptor of our own is made: the program is to see its usual numbers.
    crate::fds::reserve();
    install(Arc::new(config))
}

fn install(config: Arc<Config>) -> Result<&'static Engine, Errno> {
    let engine = Box::leak(Box::new(Engine::new(config)?));
    ENGINE.store(engine, Ordering::Release);
    Ok(engine)
}

/// To be called before `fork`. A handshake cannot be in two processes: those of shared memory are
/// given up, and the connections go on over TCP; those of RDMA, where there is no way back to TCP,
/// are waited for. Then the library's threads are brought to rest.
/// The returned guard is to be dropped after the fork, in the parent.
pub fn before_fork() -> Option<Rest> {
    engine().map(|engine| Rest {
        _wire: engine.rest_wire(),
        _helper: engine.helper.rest(),
        _verbs: verbs::before_fork(),
    })
}

/// To be called in the child after `fork`, before anything else of the library: the child becomes
/// a peer of its own. Connections it inherited stay usable; see [`Connection::inherited`].
pub fn after_fork_in_child() {
    crate::shm::forget_thread_id();
    crate::rdma::forget_wires();
    verbs::after_fork_in_child();
    crate::forks::forget();
    if let Err(error) = PUBLISHER.after_fork() {
        log::debug!("no statistics for this child: {error}");
    }
    let Some(old) = engine() else { return };
    if let Err(errno) = install(Arc::clone(&old.config)) {
        log::warn!("the child of a fork stays on TCP: {errno}");
        ENGINE.store(std::ptr::null_mut(), Ordering::Release);
    }
}

impl Engine {
    fn new(config: Arc<Config>) -> Result<Self, Errno> {
        let mut random = [0u8; 32];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let (gid, peers) = random.split_at(16);
        let (peer, wire_peer) = peers.split_at(8);
        let invalid = |_| Errno::INVAL;
        let wire_peer = wire_peer.try_into().map_err(invalid)?;
        Ok(Self {
            wire: wire::Wire::new(&config, wire_peer)?,
            pid: crate::sys::getpid(),
            config,
            identity: Identity {
                peer_id: PeerId(peer.try_into().map_err(invalid)?),
                gid: ShmGid(gid.try_into().map_err(invalid)?),
                host_name: HostName::new(rustix::system::uname().nodename().to_bytes()),
            },
            eids: ShmEids::default(),
            arena: Arena::create()?,
            groups: Mutex::default(),
            next_group: AtomicU32::new(1),
            connections: AtomicUsize::new(0),
            helper: helper::Helper::new()?,
        })
    }

    /// The wire of this process.
    pub(crate) fn rdma(&self) -> &crate::rdma::Rdma {
        &self.wire.rdma
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts::of(self.config.handshake_timeout())
    }

    /// Whether the rules let a connection use SMC, and the limits leave room for it.
    fn allow(&self, port: u16, peer: IpAddr) -> Result<(), Reason> {
        if self.config.verdict(&Query { port, peer }) == Verdict::Tcp {
            return Err(match self.config.is_confined() {
                true => Reason::Confined,
                false => Reason::Rule,
            });
        }
        let most = self
            .config
            .max_connections()
            .min(crate::shm::MOST_CONNECTIONS);
        if self.connections.load(Ordering::Relaxed) >= most
            || group::rmb_bytes() + 2 * u64::from(self.config.ring_size())
                > self.config.max_memory()
        {
            return Err(Reason::Memory);
        }
        Ok(())
    }

    /// Whether a process with this uid may share memory with us.
    fn trusts(&self, uid: u32) -> bool {
        self.config.any_user() || uid == rustix::process::geteuid().as_raw()
    }

    /// A program began to listen (or was found to listen) on `fd`. The returned value is to be
    /// kept while it does: it tells clients that asking pays. Call before `listen` if possible:
    /// the kernel keeps only SYNs that come later.
    ///
    /// # Errors
    /// Why its connections will be TCP.
    pub fn listening(&self, fd: BorrowedFd<'_>) -> Result<(), Reason> {
        self.answer_for_rdma(fd);
        if syn::keep(fd) {
            Ok(())
        } else {
            Err(Reason::Unsupported)
        }
    }

    /// Announces a listening port; `None` if somebody else does already.
    pub fn announce(&self, port: u16) -> Option<Presence> {
        Presence::announce(port).ok()
    }

    /// The link group with a peer process, made when there is none.
    fn group(&self, peer: ShmGid) -> Arc<LinkGroup> {
        let mut groups = self.groups.lock();
        if let Some(group) = groups.get(&peer) {
            return Arc::clone(group);
        }
        // Peers come and go; groups without connections go when there are many.
        if groups.len() >= IDLE_GROUPS {
            let mut spare = groups.values().filter(|g| g.connections() == 0).count();
            groups.retain(|_, group| {
                let drop = group.connections() == 0 && spare >= IDLE_GROUPS;
                spare -= usize::from(drop);
                !drop
            });
        }
        let id = self.next_group.fetch_add(1, Ordering::Relaxed);
        let group = LinkGroup::new(id, peer.0, self.config.ring_size());
        groups.insert(peer, Arc::clone(&group));
        PUBLISHER.count(Counter::LinkGroups);
        group
    }
}

/// Counts a connection that is on TCP, and lists it with the reason. The line is the caller's to
/// remove.
pub fn list_tcp(
    role: Role,
    reason: Reason,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
) -> Slot {
    PUBLISHER.fallback(reason);
    PUBLISHER.count(Counter::ConnectionsTcp);
    PUBLISHER.add(&ConnInfo {
        state: State::Active,
        mode: Mode::Tcp,
        role,
        reason: Some(reason),
        local,
        peer,
        group: 0,
    })
}

/// Lists a listening socket. The line is the caller's to remove.
pub fn list_listener(local: SocketAddr) -> Slot {
    PUBLISHER.add(&ConnInfo {
        state: State::Listen,
        mode: Mode::Tcp,
        role: Role::Server,
        reason: None,
        local: Some(local),
        peer: None,
        group: 0,
    })
}

/// The addresses of both ends of a connected TCP socket: ours, the peer's.
///
/// # Errors
/// `ENOTCONN`, or `EAFNOSUPPORT` for a socket of another family.
pub fn addresses(fd: BorrowedFd<'_>) -> Result<(SocketAddr, SocketAddr), Errno> {
    let local = rustix::net::getsockname(fd)?
        .try_into()
        .map_err(|_| Errno::AFNOSUPPORT)?;
    let peer = rustix::net::getpeername(fd)?
        .ok_or(Errno::NOTCONN)?
        .try_into()
        .map_err(|_| Errno::AFNOSUPPORT)?;
    Ok((local, peer))
}

/// Whether a connection between these addresses surely stays on this host. Two different
/// addresses may both be ours, but that takes a look at the interfaces to know.
fn on_this_host(server: SocketAddr, client: SocketAddr) -> bool {
    let server = server.ip().to_canonical();
    server == client.ip().to_canonical() || server.is_loopback()
}

//! The abstract unix names, which are scoped to the network namespace.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::sync::OnceCell;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

fn socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    brief_socket(kind).map(crate::fds::raise)
}

/// One that is closed before the program's call returns.
fn brief_socket(kind: SocketType) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

fn presence_name(port: u16) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(format!("smcr-l-{port}").as_bytes())
}

/// An address as both ends write it: v4-mapped IPv6 addresses as IPv4, no scope.
fn canonical(addr: SocketAddr) -> (std::net::IpAddr, u16) {
    (addr.ip().to_canonical(), addr.port())
}

fn call_name(client: SocketAddr, server: SocketAddr) -> Result<SocketAddrUnix, Errno> {
    let (client, server) = (canonical(client), canonical(server));
    let name = format!("smcr-c-{}-{}-{}-{}", client.0, client.1, server.0, server.1);
    SocketAddrUnix::new_abstract_name(name.as_bytes())
}

/// The presence name of a listening port, for as long as the value lives. It survives fork, and
/// is not inherited over exec.
#[derive(Debug)]
pub struct Presence {
    _socket: OwnedFd,
}

impl Presence {
    /// Takes the name.
    ///
    /// # Errors
    /// `EADDRINUSE` when somebody has it: another listener on the port (fine), or a stranger
    /// (who gains nothing by it).
    pub fn announce(port: u16) -> Result<Self, Errno> {
        let socket = socket(SocketType::DGRAM)?;
        rustix::net::bind(&socket, &presence_name(port)?)?;
        Ok(Self { _socket: socket })
    }
}

/// Whether some listener on this port runs under the library. Costs less than a microsecond.
pub fn is_present(port: u16) -> bool {
    // Connecting a datagram socket leaves no trace at the other end, and may be repeated on one
    // socket, by several threads: only the answer matters.
    static PROBE: OnceCell<OwnedFd> = OnceCell::new();
    let Ok(name) = presence_name(port) else {
        return false;
    };
    let ask = |probe: &OwnedFd| rustix::net::connect(probe, &name).is_ok();
    if may_be_elsewhere() {
        // Which namespace this thread is in is not known: one that a new socket is in.
        return brief_socket(SocketType::DGRAM).is_ok_and(|probe| ask(&probe));
    }
    PROBE
        .get_or_try_init(|| socket(SocketType::DGRAM))
        .is_ok_and(ask)
}

/// A thread of this process has entered another network namespace: a socket stays in the one that
/// it was made in.
static NAMESPACE_CHANGED: AtomicBool = AtomicBool::new(false);

/// To be called when a thread of this process may have entered another network namespace.
pub fn namespace_changed() {
    NAMESPACE_CHANGED.store(true, Ordering::Relaxed);
}

/// Whether a thread of this process may be in another network namespace than the process was.
pub fn may_be_elsewhere() -> bool {
    NAMESPACE_CHANGED.load(Ordering::Relaxed)
}

/// The client's end: a name on which the accepting library can call for one TCP connection.
#[derive(Debug)]
pub struct CallListener(OwnedFd);

impl CallListener {
    /// Takes the name of a connection; `local` is the client's address.
    pub fn bind(local: SocketAddr, peer: SocketAddr) -> Result<Self, Errno> {
        let socket = socket(SocketType::SEQPACKET)?;
        rustix::net::bind(&socket, &call_name(local, peer)?)?;
        rustix::net::listen(&socket, 1)?;
        Ok(Self(socket))
    }

    /// Takes the call, if there is one: the channel, and the uid of the caller.
    pub fn accept(&self) -> Result<(OwnedFd, u32), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let channel = crate::fds::raise(rustix::net::accept_with(&self.0, flags)?);
        let uid = peer_uid(&channel)?;
        Ok((channel, uid))
    }
}

impl AsFd for CallListener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The server's end: calls the client of an accepted connection; `local` is the server's address.
/// Returns the channel, which is for the time of one accept(), and the uid of the client's library.
///
/// # Errors
/// `ECONNREFUSED` when there is no such name (yet).
pub fn call(local: SocketAddr, peer: SocketAddr) -> Result<(OwnedFd, u32), Errno> {
    let channel = brief_socket(SocketType::SEQPACKET)?;
    rustix::net::connect(&channel, &call_name(peer, local)?)?;
    let uid = peer_uid(&channel)?;
    Ok((channel, uid))
}

fn peer_uid(channel: &OwnedFd) -> Result<u32, Errno> {
    Ok(rustix::net::sockopt::socket_peercred(channel)?.uid.as_raw())
}

//! What the kernel's choice of a route depends on.

use std::net::{IpAddr, SocketAddr};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::io::Errno;
use rustix::net::{getpeername, getsockname};
use syscalls::{Sysno, syscall};

/// A TCP connection, as far as its route goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The own address.
    pub local: SocketAddr,
    /// The peer's address.
    pub peer: SocketAddr,
    /// The interface that the socket is bound to (`SO_BINDTODEVICE`), 0 for none.
    pub bound: u32,
    /// The socket's mark (`SO_MARK`).
    pub mark: u32,
    /// Type of service of IPv4 packets (`IP_TOS`).
    pub tos: u8,
}

impl Flow {
    /// A flow between two addresses, without particulars.
    pub fn between(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local: canonical(local),
            peer: canonical(peer),
            bound: 0,
            mark: 0,
            tos: 0,
        }
    }

    /// The flow of a connected socket. Five system calls, by which neither `errno` nor the socket
    /// is touched.
    ///
    /// # Errors
    /// ENOTCONN without a peer; EAFNOSUPPORT if it is no socket of IPv4 or IPv6.
    pub fn of_socket(socket: impl AsFd) -> Result<Self, Errno> {
        let socket = socket.as_fd();
        let ip = |any: rustix::net::SocketAddrAny| {
            SocketAddr::try_from(any).map_err(|_| Errno::AFNOSUPPORT)
        };
        let peer = getpeername(socket)?.ok_or(Errno::NOTCONN)?;
        let mut flow = Self::between(ip(getsockname(socket)?)?, ip(peer)?);
        flow.look_at(socket);
        Ok(flow)
    }

    /// As [`Flow::of_socket`], of a socket whose addresses are known: three system calls.
    pub fn of_connected(socket: impl AsFd, local: SocketAddr, peer: SocketAddr) -> Self {
        let socket = socket.as_fd();
        let mut flow = Self::between(local, peer);
        flow.look_at(socket);
        flow
    }

    /// Takes over what the socket's options say of its route.
    fn look_at(&mut self, socket: BorrowedFd<'_>) {
        // Kernels that lack one of these have nothing of the kind to take into account.
        let get = |level, name| get_u32(socket, level, name).unwrap_or(0);
        self.bound = get(libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX);
        self.mark = get(libc::SOL_SOCKET, libc::SO_MARK);
        if self.peer.is_ipv4() {
            self.tos = get(libc::IPPROTO_IP, libc::IP_TOS) as u8;
        }
    }

    /// The same without ports.
    pub(super) fn without_ports(&self) -> Self {
        let mut flow = *self;
        flow.local.set_port(0);
        flow.peer.set_port(0);
        flow
    }

    /// The interface that the route has to take, 0 for any: the bound one, or the one of a
    /// link-local address.
    pub(super) fn interface(&self) -> u32 {
        match self.peer {
            SocketAddr::V6(peer) if self.bound == 0 => peer.scope_id(),
            _ => self.bound,
        }
    }
}

/// IPv4 addresses in the clothes of IPv6 are routed as what they are.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Reads an `int` socket option.
fn get_u32(socket: BorrowedFd<'_>, level: i32, name: i32) -> Option<u32> {
    let mut value = 0u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: `value` and `length` are valid for writes, and `length` is the size of `value`.
    let done = unsafe {
        syscall!(
            Sysno::getsockopt,
            socket.as_raw_fd(),
            level,
            name,
            &raw mut value,
            &raw mut length
        )
    };
    done.ok().map(|_| value)
}

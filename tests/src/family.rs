//! Stream sockets over TCP, or over Linux's own SMC, which the standard library knows nothing of.

use std::net::SocketAddrV4;

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// The address family of SMC. Addresses themselves are those of IP.
const AF_SMC: i32 = 43;

/// What a stream socket is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `AF_INET`, which the library may move.
    Tcp,
    /// `AF_SMC`, in its variant for IPv4.
    Smc,
}

impl Family {
    /// Connects.
    ///
    /// # Errors
    /// What the calls say. `EAFNOSUPPORT`: the kernel has no SMC.
    pub fn connect(self, to: SocketAddrV4) -> Result<Socket> {
        let socket = self.socket()?;
        socket.connect(&to.into()).context("connect")?;
        Ok(socket)
    }

    /// Listens.
    ///
    /// # Errors
    /// As of [`Self::connect`].
    pub fn listen(self, at: SocketAddrV4) -> Result<Socket> {
        let socket = self.socket()?;
        socket.set_reuse_address(true).context("SO_REUSEADDR")?;
        socket.bind(&at.into()).context("bind")?;
        socket.listen(512).context("listen")?;
        Ok(socket)
    }

    fn socket(self) -> Result<Socket> {
        let domain = match self {
            Self::Tcp => Domain::IPV4,
            Self::Smc => Domain::from(AF_SMC),
        };
        Socket::new(domain, Type::STREAM, None).context("socket: is the module smc loaded?")
    }
}

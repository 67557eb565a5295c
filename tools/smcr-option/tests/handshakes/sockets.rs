//! Both ends of a connection, step by step.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use smcr_core::signal::option::{self, Verdict};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::{Namespace, Path};

/// By which addresses the two ends meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
    /// A listener for both, an IPv4 client.
    Mapped,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
            Self::Mapped => "v6_listener_v4_client",
        }
    }

    fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 | Self::Mapped => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The server's address at the other end of a [`Path`].
    pub(crate) fn server(self) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => Path::SERVER_V4,
            Self::V6 => Path::SERVER_V6,
        }
    }

    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

/// Sockets of this process from before it came into the cgroup.
pub(crate) struct Outside {
    pub(crate) client: Socket,
    pub(crate) listener: Socket,
}

impl Outside {
    pub(crate) fn make() -> Self {
        let listener = bound(Family::V4, 0);
        Self {
            client: tcp(Ipv4Addr::LOCALHOST.into()),
            listener,
        }
    }
}

/// A TCP socket to connect to `peer` with.
pub(crate) fn tcp(peer: IpAddr) -> Socket {
    let domain = match peer {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    Socket::new(domain, Type::STREAM, None).unwrap()
}

/// A TCP socket bound to `port` (0: any) of all addresses.
pub(crate) fn bound(family: Family, port: u16) -> Socket {
    let socket = tcp(family.any());
    socket.set_reuse_port(true).unwrap();
    let addr = SocketAddr::new(family.any(), port);
    socket.bind(&SockAddr::from(addr)).unwrap();
    socket
}

pub(crate) fn port(socket: &Socket) -> u16 {
    let addr = socket.local_addr().unwrap().as_socket();
    addr.unwrap().port()
}

/// A listener in this thread's namespace; asks before `listen` if `asks`.
pub(crate) fn listener(family: Family, asks: bool) -> Socket {
    let socket = bound(family, 0);
    if asks {
        assert!(option::ask(socket.as_fd()));
    }
    socket.listen(128).unwrap();
    socket
}

/// Two ends that a connection is to be made between.
pub(crate) struct Ends<'a> {
    pub(crate) client: &'a Namespace,
    pub(crate) peer: SocketAddr,
    pub(crate) listener: &'a Socket,
}

impl<'a> Ends<'a> {
    pub(crate) fn on(path: &'a Path, listener: &'a Socket, family: Family) -> Self {
        Self {
            client: &path.client,
            peer: SocketAddr::new(family.server(), port(listener)),
            listener,
        }
    }

    /// Makes a connection; asks if `asks`.
    pub(crate) fn connect(&self, asks: bool) -> Pair {
        let client = self.client.enter(|| tcp(self.peer.ip()));
        if asks {
            assert!(option::ask(client.as_fd()));
        }
        self.connect_with(client)
    }

    pub(crate) fn connect_with(&self, client: Socket) -> Pair {
        client.connect(&SockAddr::from(self.peer)).unwrap();
        // Before the program has accepted.
        let early = option::verdict(client.as_fd());
        let (server, _) = self.listener.accept().unwrap();
        let pair = Pair { client, server };
        assert_eq!(early, pair.client());
        pair
    }
}

/// A connection.
pub(crate) struct Pair {
    pub(crate) client: Socket,
    pub(crate) server: Socket,
}

impl Pair {
    pub(crate) fn client(&self) -> Verdict {
        option::verdict(self.client.as_fd())
    }

    pub(crate) fn server(&self) -> Verdict {
        option::verdict(self.server.as_fd())
    }

    /// The verdicts of client and server.
    pub(crate) fn verdicts(&self) -> (Verdict, Verdict) {
        (self.client(), self.server())
    }

    /// The stream works as streams do.
    pub(crate) fn carries_data(&mut self) {
        let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7) as u8).collect();
        for (from, to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            let (mut from, mut to) = (from, to);
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&data).unwrap());
                let mut got = vec![0; data.len()];
                to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                to.read_exact(&mut got).unwrap();
                assert!(got == data);
            });
        }
    }
}

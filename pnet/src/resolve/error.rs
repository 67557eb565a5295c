//! Why a connection has no RoCE port.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;

use rustix::io::Errno;

use super::candidate::{PortState, Version};
use crate::error::TableError;
use crate::names::{PnetId, RocePort};

/// Why a connection has no RoCE port. A peer that asked for one is told that there is no SMC-R
/// device (diagnosis code 0x03030000 of the CLC Decline).
#[derive(Debug)]
#[non_exhaustive]
pub enum Unresolved {
    /// The host has no RDMA device, or this process does not see it.
    NoDevices,
    /// The kernel has no route for the connection.
    NoRoute(Errno),
    /// The kernel cannot be asked.
    Asking {
        /// What for.
        what: &'static str,
        /// Its answer.
        errno: Errno,
    },
    /// The table cannot be read or understood.
    Table(TableError),
    /// No RoCE port serves the network.
    NoPort {
        /// The interface that the connection leaves by.
        netdev: String,
        /// The one below VLANs and bonds.
        base: String,
        /// Its PNETID; `None` if it has none, and no GID belongs to it.
        id: Option<PnetId>,
    },
    /// Ports serve the network, but none is active.
    Inactive(
        /// All of them.
        Vec<(RocePort, PortState)>,
    ),
    /// Ports are active, but none has a GID that fits.
    NoGid {
        /// These ports.
        ports: Vec<RocePort>,
        /// What it was to fit.
        version: Version,
        /// The VLAN of the connection.
        vlan: Option<u16>,
        /// The own address of the connection.
        local: IpAddr,
    },
}

impl Unresolved {
    pub(super) fn asking(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Asking { what, errno }
    }
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevices => f.write_str(
                "there is no RDMA device: see `rdma link`; for soft RoCE, \
                 `rdma link add rxe0 type rxe netdev NAME`",
            ),
            Self::NoRoute(errno) => {
                write!(f, "no route: {}", std::io::Error::from(*errno))
            }
            Self::Asking { what, errno } => write!(
                f,
                "cannot ask the kernel for {what}: {}",
                std::io::Error::from(*errno)
            ),
            Self::Table(error) => write!(f, "the PNET table is refused: {error}"),
            Self::NoPort {
                netdev,
                base,
                id: Some(id),
            } => write!(
                f,
                "no RoCE port has the PNETID {id} of {}: \
                 add one by `smcr-pnet -a {id} -D DEVICE -P PORT`",
                Under(netdev, base)
            ),
            Self::NoPort {
                netdev,
                base,
                id: None,
            } => write!(
                f,
                "{} has no PNETID, and no GID of a RoCE port belongs to it: give it and a RoCE \
                 port the same PNETID by `smcr-pnet -a PNETID -I {base} -D DEVICE -P PORT`",
                Under(netdev, base)
            ),
            Self::Inactive(ports) => {
                f.write_str("no port can be used:")?;
                for (n, (port, state)) in ports.iter().enumerate() {
                    write!(f, "{} {port}: {state}", if n == 0 { "" } else { ";" })?;
                }
                Ok(())
            }
            Self::NoGid {
                ports,
                version,
                vlan,
                local,
            } => {
                let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                write!(f, "{} has no GID for {version}", ports.join(", "))?;
                if let Some(vlan) = vlan {
                    write!(f, " on VLAN {vlan}")?;
                }
                match (version, local) {
                    (Version::V1, _) => f.write_str(": it takes one of type `IB/RoCE v1`"),
                    (Version::V2, IpAddr::V4(_)) => write!(
                        f,
                        ": it takes one of type `RoCE v2` and an IPv4 address, on a netdev that \
                         has a subnet with {local}"
                    ),
                    (Version::V2, IpAddr::V6(_)) => f.write_str(": it works over IPv4 only"),
                }
            }
        }
    }
}

/// An interface with its base, where that is another one.
struct Under<'a>(&'a str, &'a str);

impl fmt::Display for Under<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(netdev, base) if netdev == base => write!(f, "{netdev}"),
            Self(netdev, base) => write!(f, "{base} (below {netdev})"),
        }
    }
}

impl Error for Unresolved {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Table(error) => Some(error),
            _ => None,
        }
    }
}

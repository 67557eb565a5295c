//! Which RoCE port serves a connection, and what we can offer over it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use pnet::resolve::{self, Flow, Resolver, Unresolved};

use crate::clc::{Gid, HostName, Mac, PeerId, Version};
use crate::config::Config;
use crate::handshake::rdma::{RdmaEnd, RdmaIdentity as Identity, Subnets, V1, V2};
use crate::rdma::fabric::{LocalGid, Port};
use crate::rdma::verbs;
use crate::rendezvous::names;
use crate::{Reason, fds};

/// One link per group is what this library makes.
const LINKS: u8 = 1;

/// Finds ports and opens them.
#[derive(Debug)]
pub(super) struct Choice {
    resolver: Mutex<Resolver>,
    identity: Identity,
    open: Mutex<Vec<Arc<dyn Port>>>,
    /// What serves every connection, in tests.
    #[cfg(test)]
    fixed: Option<Chosen>,
}

/// What serves a connection.
#[derive(Debug, Clone)]
pub(super) struct Chosen {
    /// What to say in CLC messages.
    pub(super) end: RdmaEnd,
    v1: Option<Served>,
    v2: Option<Served>,
}

#[derive(Debug, Clone)]
pub(super) struct Served {
    pub(super) port: Arc<dyn Port>,
    pub(super) gid: LocalGid,
}

impl Choice {
    pub(super) fn new(config: &Config, random: [u8; 8]) -> Self {
        Self {
            resolver: Mutex::new(Resolver::new(config.pnet_table()).watching(fds::raise)),
            identity: Identity {
                peer_id: peer_id(random),
                host_name: HostName::new(rustix::system::uname().nodename().to_bytes()),
            },
            open: Mutex::default(),
            #[cfg(test)]
            fixed: None,
        }
    }

    /// Has this port serve every connection over IPv4 loopback, whatever device there is. `gids`
    /// are those of RoCEv1 and RoCEv2.
    #[cfg(test)]
    pub(super) fn fix(&mut self, port: &Arc<dyn Port>, gids: [LocalGid; 2], config: &Config) {
        let [v1, v2] = gids;
        let end = RdmaEnd {
            identity: self.identity,
            mac: port.mac(),
            v1: Some(V1 {
                gid: v1.gid,
                subnets: Subnets::V4(vec![(Ipv4Addr::LOCALHOST, 8)]),
            }),
            v2: Some(V2 {
                gid: v2.gid,
                ueids: config.ueids().clone(),
                capabilities: config.smcr_capabilities(LINKS),
            }),
        };
        let [v1, v2] = [v1, v2].map(|gid| {
            let port = Arc::clone(port);
            Some(Served { port, gid })
        });
        self.fixed = Some(Chosen { end, v1, v2 });
    }

    /// Whether a connection to `peer` may find a port: not wherever there is no RDMA device, at
    /// the cost of a failing open() a second.
    ///
    /// # Errors
    /// [`Reason::NoRdmaDevice`]; [`Reason::PeerNoSmc`] on the way to ourselves, which needs none.
    pub(super) fn may_serve(&self, peer: IpAddr) -> Result<(), Reason> {
        let any = SocketAddr::new(unspecified(peer), 0);
        let flow = Flow::between(any, SocketAddr::new(peer, 0));
        match self.resolver().resolve(&flow) {
            Ok(resolution) if !resolution.ports.is_empty() => Ok(()),
            Ok(_) => Err(Reason::NoRdmaDevice),
            Err(Unresolved::NoPort { netdev, .. }) if netdev == "lo" => Err(Reason::PeerNoSmc),
            Err(_) if peer.is_loopback() => Err(Reason::PeerNoSmc),
            Err(error) => {
                log::debug!("{peer}: {error}");
                Err(Reason::NoRdmaDevice)
            }
        }
    }

    fn resolver(&self) -> MutexGuard<'_, Resolver> {
        let mut resolver = self.resolver.lock();
        if names::may_be_elsewhere() {
            // What it knows, and is told of, is of the network namespace that it was made in.
            resolver.forget();
        }
        resolver
    }

    /// What serves the socket `tcp`, which is connected between these addresses. May open a port.
    ///
    /// # Errors
    /// [`Reason::NoRdmaDevice`].
    pub(super) fn choose(
        &self,
        config: &Config,
        tcp: BorrowedFd<'_>,
        (local, peer): (SocketAddr, SocketAddr),
    ) -> Result<Chosen, Reason> {
        self.choose_of(config, tcp, (local, peer), |device, port| {
            self.open(device, port)
        })
    }

    /// The same, of ports that are open.
    ///
    /// # Errors
    /// [`Reason::NoRdmaDevice`], also where one would have to be opened.
    pub(super) fn choose_open(
        &self,
        config: &Config,
        tcp: BorrowedFd<'_>,
        (local, peer): (SocketAddr, SocketAddr),
    ) -> Result<Chosen, Reason> {
        self.choose_of(config, tcp, (local, peer), |device, port| {
            find(&mut self.open.lock(), device, port)
        })
    }

    fn choose_of(
        &self,
        config: &Config,
        tcp: BorrowedFd<'_>,
        (local, peer): (SocketAddr, SocketAddr),
        port: impl Fn(&str, u8) -> Option<Arc<dyn Port>>,
    ) -> Result<Chosen, Reason> {
        #[cfg(test)]
        if let Some(fixed) = &self.fixed {
            return Ok(fixed.clone());
        }
        let flow = Flow::of_connected(tcp, local, peer);
        let explain = |error: &Unresolved| log::debug!("{local}: {error}");
        let mut resolver = self.resolver();
        // The kernel is asked for the route once for both versions.
        let resolved = resolver.resolve(&flow).inspect_err(explain);
        let resolution = resolved.map_err(|_| Reason::NoRdmaDevice)?;
        let served = |wanted: bool, version| {
            if !wanted {
                return None;
            }
            let found = resolution
                .endpoint(version, flow.local.ip())
                .inspect_err(explain)
                .ok()?;
            let port = port(&found.port.device, found.port.port)?;
            let gid = LocalGid {
                index: u8::try_from(found.gid_index).ok()?,
                gid: Gid(found.gid.octets()),
            };
            Some((Served { port, gid }, found))
        };
        let v1 = served(config.smcr_v1(), resolve::Version::V1);
        let v2 = served(config.smcr_v2(), resolve::Version::V2);
        let mac = v2.as_ref().or(v1.as_ref()).map(|(_, found)| Mac(found.mac));
        let end = RdmaEnd {
            identity: self.identity,
            mac: mac.ok_or(Reason::NoRdmaDevice)?,
            v1: v1.as_ref().map(|(served, found)| V1 {
                gid: served.gid.gid,
                subnets: subnets(local.ip(), &found.subnets),
            }),
            v2: v2.as_ref().map(|(served, _)| V2 {
                gid: served.gid.gid,
                ueids: config.ueids().clone(),
                capabilities: config.smcr_capabilities(LINKS),
            }),
        };
        let of = |served: Option<(Served, _)>| served.map(|(served, _)| served);
        Ok(Chosen {
            end,
            v1: of(v1),
            v2: of(v2),
        })
    }

    /// Names this process to its peers.
    pub(super) fn peer_id(&self) -> PeerId {
        self.identity.peer_id
    }

    /// What to say where nothing serves.
    pub(super) fn nothing(&self) -> RdmaEnd {
        RdmaEnd {
            identity: self.identity,
            mac: Mac::default(),
            v1: None,
            v2: None,
        }
    }

    /// Lets go of ports that are gone.
    pub(super) fn forget_gone(&self) {
        self.open.lock().retain(|port| !port.is_gone());
    }

    /// Whether some port is open: then the next connection is probably served at once.
    pub(super) fn has_open(&self) -> bool {
        #[cfg(test)]
        if self.fixed.is_some() {
            return true;
        }
        self.open.lock().iter().any(|port| !port.is_gone())
    }

    /// The port of that name, opened once.
    fn open(&self, device: &str, port: u8) -> Option<Arc<dyn Port>> {
        let mut open = self.open.lock();
        if let Some(known) = find(&mut open, device, port) {
            return Some(known);
        }
        match verbs::open(device, port) {
            Ok(port) => {
                open.push(Arc::clone(&port));
                Some(port)
            }
            Err(error) => {
                log::warn!("{device}/{port}: {error}");
                None
            }
        }
    }
}

impl Chosen {
    /// The port and GID for a version that was settled.
    pub(super) fn served(&self, version: Version) -> Result<&Served, Reason> {
        let served = match version {
            Version::V1 => &self.v1,
            Version::V2 => &self.v2,
        };
        served.as_ref().ok_or(Reason::NoRdmaDevice)
    }
}

/// The port of that name, if it is open. Lets go of one that is gone.
fn find(open: &mut Vec<Arc<dyn Port>>, device: &str, port: u8) -> Option<Arc<dyn Port>> {
    let name = format!("{device}/{port}");
    open.retain(|known| !known.is_gone() || known.name() != name);
    open.iter().find(|known| known.name() == name).cloned()
}

/// Names this process to its peers. RFC 7609 §A.2.1 makes it of two free bytes and a MAC, which
/// is one name for a host; here it is the process, and a child of a fork is another peer. So the
/// MAC is one that belongs to nobody (locally administered, RFC 7042 §2.1), at random.
fn peer_id(mut random: [u8; 8]) -> PeerId {
    random[2] = random[2] & !0x03 | 0x02;
    PeerId(random)
}

/// The subnets of a connection's own address' family, its own one first.
fn subnets(local: IpAddr, all: &[(IpAddr, u8)]) -> Subnets {
    match local.to_canonical() {
        IpAddr::V4(local) => {
            let mut found: Vec<(Ipv4Addr, u8)> = Vec::new();
            for (address, bits) in all {
                if let IpAddr::V4(address) = *address {
                    found.push((address, *bits));
                }
            }
            let common = |(address, bits): &(Ipv4Addr, u8)| {
                let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
                (address.to_bits() ^ local.to_bits()) & mask != 0
            };
            found.sort_by_key(common);
            Subnets::V4(found)
        }
        IpAddr::V6(_) => Subnets::V6(
            all.iter()
                .filter_map(|(address, bits)| match address {
                    IpAddr::V6(address) => Some((*address, *bits)),
                    IpAddr::V4(_) => None,
                })
                .collect(),
        ),
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

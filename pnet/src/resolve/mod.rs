//! Which RoCE port serves a connection.
//!
//! As Linux does it: the route of the connection says by which interface it leaves; below VLANs,
//! bonds and bridges is the base interface; its PNETID (its hardware's, else that of the table for
//! the base, else for the interface itself) names the RoCE ports; the first one that is active and
//! has a fitting address is taken. An interface without a PNETID is served by the RoCE devices
//! whose addresses belong to it.
//!
//! Made to run inside other programs: system calls are raw ones, nothing waits, nothing is kept
//! open, and all that is read is bounded.

mod base;
mod candidate;
mod error;
mod flow;
mod netlink;
mod network;
mod sysfs;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

pub use candidate::{Candidate, Gid, Misfit, PortState, Subnets, Version};
pub use error::Unresolved;
pub use flow::Flow;
pub use network::Netdev;

use crate::names::{PnetId, RocePort};
use crate::table::Table;
use candidate::Survey;
use network::{Kernel, Network};
use sysfs::Sysfs;

/// How long an answer is taken for true. Ports that fail, and edits of the table, are noticed
/// after that.
const LIFE: Duration = Duration::from_secs(1);
/// Answers that are kept, one for each interface that connections leave by.
const MAX_KNOWN: usize = 32;

/// Answers the question for many connections, and remembers.
///
/// The first connection over an interface costs some ten requests to the kernel and three short
/// files for each address of the RoCE ports in question; others, for a second, one request for
/// their route. Where there is no RDMA device, it is one failing `open` a second.
#[derive(Debug)]
pub struct Resolver {
    table: PathBuf,
    sysfs: Sysfs,
    life: Duration,
    known: Vec<Known>,
    /// Until when there are no RDMA devices.
    none_until: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    egress: u32,
    until: Instant,
    resolution: Resolution,
}

/// What serves the connections that leave by one interface, and how that was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// From the interface that connections leave by down to the base interface. Never empty.
    pub path: Vec<Netdev>,
    /// The VLAN that connections are on.
    pub vlan: Option<u16>,
    /// What led to the ports.
    pub mapping: Mapping,
    /// The RoCE ports that come into question, best first.
    pub ports: Vec<Candidate>,
    /// All RDMA devices of the host.
    pub devices: Vec<String>,
}

/// What leads from an interface to RoCE ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// The PNETID that the hardware of the base interface has.
    Hardware(PnetId),
    /// The PNETID that the table has for the netdev of this name.
    Table(PnetId, String),
    /// No PNETID: the netdev that the GIDs belong to.
    Gids,
}

/// The RoCE port for a connection, and its address there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Device and port.
    pub port: RocePort,
    /// Place of the GID in the port's table.
    pub gid_index: u32,
    /// The GID: for version 2 an IPv4-mapped address.
    pub gid: Ipv6Addr,
    /// Ethernet address of the netdev that the GID belongs to.
    pub mac: [u8; 6],
    /// Subnets of that netdev: an address in each, and the length of the prefix.
    pub subnets: Subnets,
    /// The VLAN that it is on, which is that of the connection.
    pub vlan: Option<u16>,
}

impl Resolver {
    /// With the table at this path, which need not exist.
    pub fn new(table: &Path) -> Self {
        Self::with_sysfs(table, Path::new("/sys"))
    }

    /// As [`Resolver::new`], with another tree in place of `/sys`.
    pub fn with_sysfs(table: &Path, sysfs: &Path) -> Self {
        Self {
            table: table.to_owned(),
            sysfs: Sysfs::new(sysfs),
            life: LIFE,
            known: Vec::new(),
            none_until: None,
        }
    }

    /// The RoCE port for a connection.
    ///
    /// # Errors
    /// [`Unresolved`] says why there is none.
    pub fn endpoint(&mut self, flow: &Flow, version: Version) -> Result<Endpoint, Unresolved> {
        self.resolve(flow)?.endpoint(version, flow.local.ip())
    }

    /// The RoCE ports that may serve a connection.
    ///
    /// # Errors
    /// If there are no RDMA devices at all, the connection has no route, the table is refused, or
    /// the kernel cannot be asked. That no port is found is not an error yet.
    pub fn resolve(&mut self, flow: &Flow) -> Result<&Resolution, Unresolved> {
        let now = Instant::now();
        let is_none = match self.none_until {
            Some(until) if now < until => true,
            // The kernel need not be asked for the route where there is nothing to find.
            _ => self.known.is_empty() && self.devices()?.is_empty(),
        };
        if is_none {
            return Err(self.none(now));
        }
        let mut kernel = Kernel::open().map_err(Unresolved::asking("a netlink socket"))?;
        let egress = kernel.egress(flow).map_err(Unresolved::NoRoute)?;
        self.known.retain(|known| now < known.until);
        if let Some(at) = self.known.iter().position(|known| known.egress == egress) {
            return Ok(&self.known[at].resolution);
        }
        let resolution = self.look_up(&mut kernel, egress)?;
        if resolution.devices.is_empty() {
            return Err(self.none(now));
        }
        if self.known.len() == MAX_KNOWN {
            self.known.remove(0);
        }
        self.known.push(Known {
            egress,
            until: now + self.life,
            resolution,
        });
        let at = self.known.len() - 1;
        Ok(&self.known[at].resolution)
    }

    /// As [`Resolver::resolve`], but looks at everything anew, and goes all the way also where
    /// there is no RDMA device.
    ///
    /// # Errors
    /// If the connection has no route, the table is refused, or the kernel cannot be asked.
    pub fn explain(&self, flow: &Flow) -> Result<Resolution, Unresolved> {
        let mut kernel = Kernel::open().map_err(Unresolved::asking("a netlink socket"))?;
        let egress = kernel.egress(flow).map_err(Unresolved::NoRoute)?;
        self.look_up(&mut kernel, egress)
    }

    /// Forgets all answers, so that the next ones are fresh.
    pub fn forget(&mut self) {
        self.known.clear();
        self.none_until = None;
    }

    /// Finds out what serves the connections that leave by the interface `egress`.
    fn look_up(&self, network: &mut impl Network, egress: u32) -> Result<Resolution, Unresolved> {
        let asking = Unresolved::asking("the interfaces");
        let table = Table::load(&self.table).map_err(Unresolved::Table)?;
        let egress = network.by_index(egress).map_err(&asking)?;
        let egress = egress.ok_or(Unresolved::NoRoute(Errno::NODEV))?;
        let path = base::descend(network, &self.sysfs, egress).map_err(&asking)?;
        let mapping = mapping(&self.sysfs, &table, &path);
        let devices = self.devices()?;
        let survey = Survey::new(network, &self.sysfs);
        let mut survey = survey.map_err(Unresolved::asking("the addresses"))?;
        let ports = match &mapping {
            Mapping::Hardware(id) | Mapping::Table(id, _) => {
                let listed: Vec<RocePort> = table.roce_ports(id).cloned().collect();
                candidate::by_id(&mut survey, &devices, id, &listed)
            }
            Mapping::Gids => candidate::by_netdev(&mut survey, &devices, &path),
        };
        Ok(Resolution {
            // Linux: the first VLAN on the way down.
            vlan: path.iter().find_map(|netdev| netdev.vlan),
            ports: ports.map_err(asking)?,
            path,
            mapping,
            devices,
        })
    }

    fn devices(&self) -> Result<Vec<String>, Unresolved> {
        let devices = self.sysfs.devices();
        devices.map_err(Unresolved::asking("the RDMA devices in sysfs"))
    }

    fn none(&mut self, now: Instant) -> Unresolved {
        if self.none_until.is_none_or(|until| until <= now) {
            self.none_until = Some(now + self.life);
        }
        Unresolved::NoDevices
    }
}

impl Resolution {
    /// The interface that connections leave by.
    pub fn egress(&self) -> &Netdev {
        &self.path[0]
    }

    /// The interface whose hardware carries the connections.
    pub fn base(&self) -> &Netdev {
        &self.path[self.path.len() - 1]
    }

    /// The PNETID, if there is one.
    pub fn id(&self) -> Option<&PnetId> {
        match &self.mapping {
            Mapping::Hardware(id) | Mapping::Table(id, _) => Some(id),
            Mapping::Gids => None,
        }
    }

    /// The first port that is active and has a GID for `version`: on the connection's VLAN, and for
    /// version 2 with `local`, the own address, in a subnet of its netdev.
    ///
    /// # Errors
    /// [`Unresolved::NoDevices`], [`Unresolved::NoPort`], [`Unresolved::Inactive`] or
    /// [`Unresolved::NoGid`].
    pub fn endpoint(&self, version: Version, local: IpAddr) -> Result<Endpoint, Unresolved> {
        if self.devices.is_empty() {
            return Err(Unresolved::NoDevices);
        }
        if let Some(endpoint) = self.endpoints(version, local).next() {
            return Ok(endpoint);
        }
        if self.ports.is_empty() {
            return Err(Unresolved::NoPort {
                netdev: self.egress().name.clone(),
                base: self.base().name.clone(),
                id: self.id().cloned(),
            });
        }
        let active: Vec<RocePort> = self.active().map(|c| c.port.clone()).collect();
        if active.is_empty() {
            let states = self.ports.iter().map(|c| (c.port.clone(), c.state.clone()));
            return Err(Unresolved::Inactive(states.collect()));
        }
        Err(Unresolved::NoGid {
            ports: active,
            version,
            vlan: self.vlan,
            local: local.to_canonical(),
        })
    }

    /// One endpoint for each port that [`Resolution::endpoint`] might take, best first: further
    /// links of a link group go by other devices than the first one.
    pub fn endpoints(&self, version: Version, local: IpAddr) -> impl Iterator<Item = Endpoint> {
        self.active().filter_map(move |candidate| {
            let (gid, mac, subnets) = candidate.choose(version, self.vlan, local)?;
            Some(Endpoint {
                port: candidate.port.clone(),
                gid_index: gid.index,
                gid: gid.gid,
                mac,
                subnets,
                vlan: self.vlan,
            })
        })
    }

    fn active(&self) -> impl Iterator<Item = &Candidate> {
        let is_active = |c: &&Candidate| c.state == PortState::Active;
        self.ports.iter().filter(is_active)
    }
}

/// The PNETID of an interface.
fn mapping(sysfs: &Sysfs, table: &Table, path: &[Netdev]) -> Mapping {
    // The base interface, then the one that connections leave by; not those between, as in Linux.
    let (Some(egress), Some(base)) = (path.first(), path.last()) else {
        return Mapping::Gids;
    };
    let hardware = base.hardware.as_ref();
    if let Some(id) = hardware.and_then(|hardware| sysfs.netdev_id(&base.name, hardware)) {
        return Mapping::Hardware(id);
    }
    let mut listed = [base, egress].into_iter().filter_map(|netdev| {
        let id = table.lookup_netdev(&netdev.name)?;
        Some(Mapping::Table(id.clone(), netdev.name.clone()))
    });
    listed.next().unwrap_or(Mapping::Gids)
}

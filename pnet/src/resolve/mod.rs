//! Which RoCE port serves a connection.
//!
//! As Linux does it: the route of the connection says by which interface it leaves; below VLANs,
//! bonds and bridges is the base interface; its PNETID (its hardware's, else that of the table for
//! the base, else for the interface itself) names the RoCE ports; the first one that is active and
//! has a fitting address is taken. An interface without a PNETID is served by the RoCE devices
//! whose addresses belong to it.
//!
//! Made to run inside other programs: system calls are raw ones, nothing waits, all that is read
//! is bounded, and nothing is kept open unless it is asked for ([`Resolver::watching`]).

mod base;
mod candidate;
mod error;
mod flow;
mod netlink;
mod network;
mod sysfs;
#[cfg(test)]
mod tests;
mod watch;

use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
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
use watch::Watch;

/// How long an answer is taken for true. Ports that fail, and edits of the table, are noticed
/// after that.
const LIFE: Duration = Duration::from_secs(1);
/// How long at most it is taken for true again after a short look, which finds all changes that we
/// know of.
const LONGEST_LIFE: Duration = Duration::from_secs(10);
/// How long after a change of the network the tables of RoCE ports, which follow it in their own
/// time, may still change.
const SETTLES: Duration = Duration::from_secs(1);
/// Routes that are kept, of one destination each.
const MAX_ROUTES: usize = 64;
/// Answers that are kept, one for each interface that connections leave by.
const MAX_KNOWN: usize = 32;

/// Answers the question for many connections, and remembers.
///
/// The first connection over an interface costs some ten requests to the kernel and three short
/// files for each address of the RoCE ports in question; others, for a second, one request for
/// their route. Where there is no RDMA device, it is one failing `open` a second.
///
/// One that is [watching](Resolver::watching) asks for the route once for each destination, and
/// then only whether anything changed, which is one request. It looks whether ports are as they
/// were by some ten requests a second, and at everything anew every ten seconds.
#[derive(Debug)]
pub struct Resolver {
    table: PathBuf,
    sysfs: Sysfs,
    life: Duration,
    known: Vec<Known>,
    /// Until when there are no RDMA devices.
    none_until: Option<Instant>,
    /// What is done with a socket that stays open, if one may.
    keep: Option<fn(OwnedFd) -> OwnedFd>,
    watch: Option<Watch>,
    routes: Vec<Route>,
}

#[derive(Debug)]
struct Known {
    egress: u32,
    until: Instant,
    /// When everything was looked at.
    looked: Instant,
    marks: Marks,
    resolution: Resolution,
}

/// By which interface connections leave that are alike but for their ports.
#[derive(Debug)]
struct Route {
    flow: Flow,
    egress: u32,
    asked: Instant,
}

type TableMark = Option<(u64, u64, i64, (i64, u64))>;

/// What else than the network a resolution was made of, as far as a short look tells.
#[derive(Debug, PartialEq, Eq)]
struct Marks {
    devices: Vec<String>,
    /// Of the PNET table: device, inode, size, and when it was changed.
    table: TableMark,
    /// Of each port that came into question: whether it is active, and the number of its GID table.
    ports: Vec<(bool, Option<u64>)>,
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
            keep: None,
            watch: None,
            routes: Vec::new(),
        }
    }

    /// Has it keep a socket open by which the kernel tells of changes of the network. `keep` is
    /// given the socket, and may give back another descriptor of it. In another network namespace
    /// than before, [`Resolver::forget`] first.
    #[must_use]
    pub fn watching(mut self, keep: fn(OwnedFd) -> OwnedFd) -> Self {
        self.keep = Some(keep);
        self
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
        let changed = self.last_change(now);
        let mut kernel = None;
        let egress = match self.known_egress(flow) {
            Some(egress) => egress,
            None => self.ask_egress(open(&mut kernel)?, flow, now)?,
        };
        self.prolong(egress, changed, now);
        self.known.retain(|known| now < known.until);
        if let Some(at) = self.known.iter().position(|known| known.egress == egress) {
            return Ok(&self.known[at].resolution);
        }
        let table = self.table_mark();
        let resolution = self.look_up(open(&mut kernel)?, egress)?;
        if resolution.devices.is_empty() {
            return Err(self.none(now));
        }
        if self.known.len() == MAX_KNOWN {
            self.known.remove(0);
        }
        self.known.push(Known {
            egress,
            until: now + self.life,
            looked: now,
            marks: Marks {
                devices: resolution.devices.clone(),
                table,
                ports: self.port_marks(&resolution.ports, |candidate| {
                    candidate.state == PortState::Active
                }),
            },
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
        self.routes.clear();
        self.watch = None;
    }

    /// When the network changed last, as far as that is known. Begins to watch it, and forgets the
    /// routes that were asked for before a change.
    fn last_change(&mut self, now: Instant) -> Option<Instant> {
        let keep = self.keep?;
        if self.watch.is_none() {
            self.watch = Watch::begin(keep, now).ok();
        }
        let changed = self
            .watch
            .as_mut()
            .and_then(|watch| watch.last_change(now).ok());
        if changed.is_none() {
            self.watch = None;
        }
        self.routes.retain(|route| {
            changed.is_some_and(|changed| changed <= route.asked)
                && now.saturating_duration_since(route.asked) < LONGEST_LIFE
        });
        changed
    }

    fn known_egress(&self, flow: &Flow) -> Option<u32> {
        let flow = flow.without_ports();
        let known = self.routes.iter().find(|route| route.flow == flow);
        known.map(|route| route.egress)
    }

    /// Asks the kernel, and remembers what holds for all connections to the same destination.
    fn ask_egress(
        &mut self,
        kernel: &mut Kernel,
        flow: &Flow,
        now: Instant,
    ) -> Result<u32, Unresolved> {
        let egress = kernel.egress(flow).map_err(Unresolved::NoRoute)?;
        if self.watch.is_some() && kernel.is_plain(flow) == Ok(true) {
            if self.routes.len() == MAX_ROUTES {
                self.routes.remove(0);
            }
            self.routes.push(Route {
                flow: flow.without_ports(),
                egress,
                asked: now,
            });
        }
        Ok(egress)
    }

    /// Takes an answer whose time is over for true again, if the network is and was at rest and
    /// a short look finds everything else as it was.
    fn prolong(&mut self, egress: u32, changed: Option<Instant>, now: Instant) {
        let Some(changed) = changed else { return };
        let Some(at) = self.known.iter().position(|known| known.egress == egress) else {
            return;
        };
        let known = &self.known[at];
        if now < known.until
            || changed + SETTLES > known.looked
            || now.saturating_duration_since(known.looked) >= LONGEST_LIFE
            || self.marks(&known.resolution.ports) != known.marks
        {
            return;
        }
        self.known[at].until = now + self.life;
    }

    /// What a short look sees.
    fn marks(&self, ports: &[Candidate]) -> Marks {
        Marks {
            devices: self.sysfs.devices().unwrap_or_default(),
            table: self.table_mark(),
            ports: self.port_marks(ports, |candidate| {
                let RocePort { device, port } = &candidate.port;
                self.sysfs.state(device, *port).as_deref() == Some("ACTIVE")
            }),
        }
    }

    fn table_mark(&self) -> TableMark {
        let stat = rustix::fs::stat(&self.table).ok()?;
        let changed = (stat.st_mtime, stat.st_mtime_nsec);
        Some((stat.st_dev, stat.st_ino, stat.st_size, changed))
    }

    fn port_marks(
        &self,
        ports: &[Candidate],
        is_active: impl Fn(&Candidate) -> bool,
    ) -> Vec<(bool, Option<u64>)> {
        let mark = |candidate: &Candidate| {
            let RocePort { device, port } = &candidate.port;
            let number = self.sysfs.table_number(device, *port);
            (is_active(candidate), number)
        };
        ports.iter().map(mark).collect()
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

/// The kernel, asked only where it has to be.
fn open(kernel: &mut Option<Kernel>) -> Result<&mut Kernel, Unresolved> {
    match kernel {
        Some(kernel) => Ok(kernel),
        None => {
            let opened = Kernel::open().map_err(Unresolved::asking("a netlink socket"))?;
            Ok(kernel.insert(opened))
        }
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

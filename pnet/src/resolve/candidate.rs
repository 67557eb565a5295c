//! RoCE ports that come into question, and which of their addresses fits a connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;

use super::network::{Address, Netdev, Network};
use super::sysfs::{RawGid, Sysfs};
use crate::names::{PnetId, RocePort};

/// Version of SMC-R: which kind of GID it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// RoCEv1, on the VLAN of the connection.
    V1,
    /// RoCEv2, over IPv4.
    V2,
}

/// A RoCE port that serves the network of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Device and port.
    pub port: RocePort,
    /// Whether it can be used.
    pub state: PortState,
    /// Its addresses, in the order of the adapter's table.
    pub gids: Vec<Gid>,
}

/// Whether a port can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortState {
    /// It can.
    Active,
    /// It has no link, or is being set up: the kernel's word for it.
    Inactive(String),
    /// There is no such device or port.
    Missing,
    /// It is InfiniBand or iWARP, which SMC-R does not run on.
    NotRoce(String),
}

/// An address of a RoCE port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Place in the table of the port.
    pub index: u32,
    /// The address; for RoCEv2 over IPv4 an IPv4-mapped one.
    pub gid: Ipv6Addr,
    /// The kernel's name of its type, `RoCE v2` or `IB/RoCE v1`.
    pub kind: String,
    /// Name of the netdev that it belongs to.
    pub netdev: String,
    /// That netdev; `None` if it is in another network namespace.
    here: Option<Here>,
}

/// The netdev of a GID.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Here {
    index: u32,
    vlan: Option<u16>,
    mac: [u8; 6],
    addresses: Vec<Address>,
}

/// Why an address does not fit a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It belongs to another network namespace.
    Elsewhere,
    /// It is for another version of RoCE.
    Kind,
    /// Version 2 needs an IPv4 address.
    NotIpv4,
    /// It is on another VLAN, or on one at all.
    Vlan(
        /// The one it is on.
        Option<u16>,
    ),
    /// Its netdev has no subnet with the connection's own address.
    Subnet,
}

/// Subnets of a netdev: an address in each, and the length of the prefix.
pub type Subnets = Vec<(IpAddr, u8)>;

impl Candidate {
    /// The first address that fits, with the netdev's Ethernet address and subnets, as Linux
    /// chooses.
    pub(super) fn choose(
        &self,
        version: Version,
        vlan: Option<u16>,
        local: IpAddr,
    ) -> Option<(&Gid, [u8; 6], Subnets)> {
        self.gids.iter().find_map(|gid| {
            let here = gid.check(version, vlan, local).ok()?;
            let subnets = here.addresses.iter().map(|a| (a.subnet, a.prefix));
            Some((gid, here.mac, subnets.collect()))
        })
    }
}

impl Gid {
    /// Why the address does not fit a connection on `vlan` from the address `local`; `None` if it
    /// does.
    pub fn misfit(&self, version: Version, vlan: Option<u16>, local: IpAddr) -> Option<Misfit> {
        self.check(version, vlan, local).err()
    }

    fn check(&self, version: Version, vlan: Option<u16>, local: IpAddr) -> Result<&Here, Misfit> {
        let wanted = match version {
            Version::V1 => "IB/RoCE v1",
            Version::V2 => "RoCE v2",
        };
        if self.kind != wanted {
            return Err(Misfit::Kind);
        }
        if version == Version::V2 && self.gid.to_ipv4_mapped().is_none() {
            return Err(Misfit::NotIpv4);
        }
        let here = self.here.as_ref().ok_or(Misfit::Elsewhere)?;
        if here.vlan != vlan {
            return Err(Misfit::Vlan(here.vlan));
        }
        if version == Version::V2 {
            let IpAddr::V4(local) = local.to_canonical() else {
                return Err(Misfit::Subnet);
            };
            if !here.addresses.iter().any(|a| a.contains(local)) {
                return Err(Misfit::Subnet);
            }
        }
        Ok(here)
    }

    /// Whether it belongs to the netdev with this number, in the namespace of the process.
    pub(super) fn is_on(&self, index: u32) -> bool {
        self.here.as_ref().is_some_and(|here| here.index == index)
    }
}

/// Reads ports, and what their addresses belong to.
pub(super) struct Survey<'a, N> {
    network: &'a mut N,
    sysfs: &'a Sysfs,
    addresses: Vec<Address>,
    /// Netdevs by name, each asked for once. They are few.
    netdevs: Vec<(String, Option<Netdev>)>,
}

impl<'a, N: Network> Survey<'a, N> {
    pub(super) fn new(network: &'a mut N, sysfs: &'a Sysfs) -> Result<Self, Errno> {
        Ok(Self {
            addresses: network.addresses()?,
            network,
            sysfs,
            netdevs: Vec::new(),
        })
    }

    /// A port with its state and addresses.
    pub(super) fn look(&mut self, device: &str, port: u8) -> Result<Candidate, Errno> {
        let state = self.state(device, port);
        let gids = match state {
            PortState::Active | PortState::Inactive(_) => self.gids(device, port)?,
            PortState::Missing | PortState::NotRoce(_) => Vec::new(),
        };
        Ok(Candidate {
            port: RocePort {
                device: device.to_owned(),
                port,
            },
            state,
            gids,
        })
    }

    fn state(&self, device: &str, port: u8) -> PortState {
        let Some(state) = self.sysfs.state(device, port) else {
            return PortState::Missing;
        };
        let node = self.sysfs.node_type(device).unwrap_or_default();
        let layer = self.sysfs.link_layer(device, port).unwrap_or_default();
        if node != "CA" {
            PortState::NotRoce(node)
        } else if layer != "Ethernet" {
            PortState::NotRoce(layer)
        } else if state != "ACTIVE" {
            PortState::Inactive(state)
        } else {
            PortState::Active
        }
    }

    fn gids(&mut self, device: &str, port: u8) -> Result<Vec<Gid>, Errno> {
        let raw = self.sysfs.gids(device, port);
        raw.into_iter().map(|gid| self.place(gid)).collect()
    }

    fn place(&mut self, raw: RawGid) -> Result<Gid, Errno> {
        let netdev = self.netdev(&raw.netdev)?;
        let here = netdev.and_then(|netdev| self.here(raw.gid, &netdev));
        Ok(Gid {
            index: raw.index,
            gid: raw.gid,
            kind: raw.kind,
            netdev: raw.netdev,
            here,
        })
    }

    fn netdev(&mut self, name: &str) -> Result<Option<Netdev>, Errno> {
        if let Some((_, netdev)) = self.netdevs.iter().find(|(known, _)| known == name) {
            return Ok(netdev.clone());
        }
        let netdev = self.network.by_name(name)?;
        self.netdevs.push((name.to_owned(), netdev.clone()));
        Ok(netdev)
    }

    /// The netdev is the GID's, if it has that address: RDMA devices are seen from all network
    /// namespaces, and the name that the kernel gives may be that of a netdev in another one.
    fn here(&self, gid: Ipv6Addr, netdev: &Netdev) -> Option<Here> {
        let mac = netdev.mac?;
        let of_netdev = self.addresses.iter().filter(|a| a.index == netdev.index);
        let address = gid.to_ipv4_mapped().map_or(IpAddr::V6(gid), IpAddr::V4);
        let is_its = of_netdev.clone().any(|a| a.own == address);
        (is_its || is_made_of(gid, mac)).then(|| Here {
            index: netdev.index,
            vlan: netdev.vlan,
            mac,
            addresses: of_netdev.copied().collect(),
        })
    }
}

/// Whether `gid` is the link-local address that adapters make of an Ethernet address themselves.
/// The two bytes in the middle differ for adapters with several ports, as does one bit.
fn is_made_of(gid: Ipv6Addr, mac: [u8; 6]) -> bool {
    let bytes = gid.octets();
    bytes[..8] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0]
        && bytes[8] | 2 == mac[0] | 2
        && bytes[9..11] == mac[1..3]
        && bytes[13..] == mac[3..]
}

/// The ports that have a PNETID: those of the table in its order, then those whose hardware says so.
/// The hardware's word is the stronger one.
pub(super) fn by_id<N: Network>(
    survey: &mut Survey<'_, N>,
    devices: &[String],
    id: &PnetId,
    listed: &[RocePort],
) -> Result<Vec<Candidate>, Errno> {
    let mut found: Vec<Candidate> = Vec::new();
    let sysfs = survey.sysfs;
    for entry in listed {
        let is_meant = |device: &&String| {
            **device == entry.device || sysfs.parent(device).as_ref() == Some(&entry.device)
        };
        let device = devices.iter().find(is_meant).unwrap_or(&entry.device);
        if sysfs.roce_id(device, entry.port).is_none() {
            found.push(survey.look(device, entry.port)?);
        }
    }
    for device in devices {
        for port in sysfs.ports(device) {
            if sysfs.roce_id(device, port).as_ref() == Some(id) {
                found.push(survey.look(device, port)?);
            }
        }
    }
    Ok(found)
}

/// The ports of which an address belongs to one of the netdevs, those of the base netdev first.
pub(super) fn by_netdev<N: Network>(
    survey: &mut Survey<'_, N>,
    devices: &[String],
    path: &[Netdev],
) -> Result<Vec<Candidate>, Errno> {
    let mut found = Vec::new();
    for device in devices {
        for port in survey.sysfs.ports(device) {
            let candidate = survey.look(device, port)?;
            let on = |gid: &Gid| path.iter().rev().position(|netdev| gid.is_on(netdev.index));
            if let Some(height) = candidate.gids.iter().filter_map(on).min() {
                found.push((height, candidate));
            }
        }
    }
    // Stable: devices keep their order.
    found.sort_by_key(|(height, _)| *height);
    Ok(found.into_iter().map(|(_, candidate)| candidate).collect())
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "SMC-R v1",
            Self::V2 => "SMC-R v2",
        })
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Active => f.write_str("active"),
            Self::Inactive(state) => write!(f, "not active ({state})"),
            Self::Missing => f.write_str("there is no such device or port"),
            Self::NotRoce(what) => write!(f, "no RoCE port ({what})"),
        }
    }
}

/// As `RoCE v2 GID 1, 192.0.2.1, eth0`.
impl fmt::Display for Gid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GID {}, {}, ", self.index, self.kind)?;
        match self.gid.to_ipv4_mapped() {
            Some(ip) => Ipv4Addr::fmt(&ip, f)?,
            None => Ipv6Addr::fmt(&self.gid, f)?,
        }
        write!(f, ", {}", self.netdev)
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elsewhere => f.write_str("its netdev is not in this network namespace"),
            Self::Kind => f.write_str("another kind of GID"),
            Self::NotIpv4 => f.write_str("no IPv4 address"),
            Self::Vlan(Some(id)) => write!(f, "on VLAN {id}"),
            Self::Vlan(None) => f.write_str("not on the VLAN of the connection"),
            Self::Subnet => f.write_str("its netdev has no subnet with the connection's address"),
        }
    }
}

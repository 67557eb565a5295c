//! The kernel's routes, interfaces and addresses.
//!
//! They come from rtnetlink, not from sysfs: what is mounted on `/sys` may belong to another
//! network namespace than the process.

use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use super::flow::Flow;
use super::netlink::{Netlink, Request, attributes, read_text, read_u16, read_u32};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_MARK: u16 = 16;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
const RTA_MULTIPATH: u16 = 9;
const RTA_NH_ID: u16 = 30;
const ROUTE_FIXED: usize = 12;
/// RTM_F_FIB_MATCH: the entry of the table is asked for, not what came of it.
const FIB_MATCH: u32 = 0x2000;

const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
const FRA_UID_RANGE: u16 = 20;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
const RULE_FIXED: usize = 12;
/// The bits of the type of service that routes may depend on.
const TOS_MASK: u8 = 0x1c;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PARENT_DEV_NAME: u16 = 56;
const IFLA_PARENT_DEV_BUS_NAME: u16 = 57;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const LINK_FIXED: usize = 16;
/// RTEXT_FILTER_SKIP_STATS: the counters would be most of the answer.
const WITHOUT_COUNTERS: u32 = 8;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const ADDRESS_FIXED: usize = 8;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// Most interfaces of a bond or bridge, and most addresses, that are looked at.
const MAX_ITEMS: usize = 4096;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netdev {
    /// Number in its network namespace, from 1.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What kind of virtual interface it is (`vlan`, `bond`, ...), `None` for most others.
    pub kind: Option<String>,
    /// Of a VLAN, its id.
    pub vlan: Option<u16>,
    /// Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// The interface that it is on top of or linked to, if that is in the same namespace.
    pub(super) link: Option<u32>,
    /// The bond, bridge or team that it is a port of.
    pub(super) master: Option<u32>,
    /// Bus and name of the hardware.
    pub(super) hardware: Option<(String, String)>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// The interface.
    pub(super) index: u32,
    /// The own address.
    pub(super) own: IpAddr,
    /// An address of the subnet: the own one, or the peer's on a point-to-point interface.
    pub(super) subnet: IpAddr,
    /// Length of the subnet's prefix.
    pub(super) prefix: u8,
}

/// Where facts about the network come from.
pub(super) trait Network {
    /// The interface that packets of `flow` leave by.
    fn egress(&mut self, flow: &Flow) -> Result<u32, Errno>;
    /// Whether all connections that are like `flow` but for their ports take the same route.
    fn is_plain(&mut self, flow: &Flow) -> Result<bool, Errno>;
    /// The interface of this number; `None` if it is gone.
    fn by_index(&mut self, index: u32) -> Result<Option<Netdev>, Errno>;
    /// The interface of this name; `None` if there is none.
    fn by_name(&mut self, name: &str) -> Result<Option<Netdev>, Errno>;
    /// The ports of a bond, bridge or team, by number.
    fn ports_of(&mut self, master: u32) -> Result<Vec<Netdev>, Errno>;
    /// All addresses of all interfaces.
    fn addresses(&mut self) -> Result<Vec<Address>, Errno>;
}

/// The kernel, as it answers on rtnetlink.
pub(super) struct Kernel(Netlink);

impl Kernel {
    pub(super) fn open() -> Result<Self, Errno> {
        Netlink::open().map(Self)
    }

    fn one(&mut self, request: Request) -> Result<Option<Netdev>, Errno> {
        let mut found = None;
        let asked = self.0.ask(request, RTM_NEWLINK, |body| {
            found = parse_link(body);
        });
        match asked {
            Ok(()) => Ok(found),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl Network for Kernel {
    fn egress(&mut self, flow: &Flow) -> Result<u32, Errno> {
        let mut egress = None;
        self.0.ask(route_request(flow), RTM_NEWROUTE, |body| {
            egress = attributes(body, ROUTE_FIXED)
                .find(|(kind, _)| *kind == RTA_OIF)
                .and_then(|(_, value)| read_u32(value));
        })?;
        // A route without an interface: unreachable, prohibit, blackhole.
        egress.ok_or(Errno::NETUNREACH)
    }

    fn is_plain(&mut self, flow: &Flow) -> Result<bool, Errno> {
        let mut is_plain = true;
        self.0.ask(
            Request::dump(RTM_GETRULE, &[0; RULE_FIXED]),
            RTM_NEWRULE,
            |body| is_plain &= !is_choosy_rule(body),
        )?;
        if !is_plain {
            return Ok(false);
        }
        let mut request = route_request(flow);
        request.set_fixed(8, FIB_MATCH);
        self.0.ask(request, RTM_NEWROUTE, |body| {
            is_plain &= !has_several_ways(body);
        })?;
        Ok(is_plain)
    }

    fn by_index(&mut self, index: u32) -> Result<Option<Netdev>, Errno> {
        let mut fixed = [0; LINK_FIXED];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        self.one(link_options(Request::get(RTM_GETLINK, &fixed)))
    }

    fn by_name(&mut self, name: &str) -> Result<Option<Netdev>, Errno> {
        let mut name = name.as_bytes().to_vec();
        name.push(0);
        let request = link_options(Request::get(RTM_GETLINK, &[0; LINK_FIXED]));
        self.one(request.with(IFLA_IFNAME, &name))
    }

    fn ports_of(&mut self, master: u32) -> Result<Vec<Netdev>, Errno> {
        let request = link_options(Request::dump(RTM_GETLINK, &[0; LINK_FIXED]));
        let request = request.with(IFLA_MASTER, &master.to_ne_bytes());
        let mut ports = Vec::new();
        self.0.ask(request, RTM_NEWLINK, |body| {
            // Kernels may not know the filter.
            let port = parse_link(body).filter(|port| port.master == Some(master));
            ports.extend(port.filter(|_| ports.len() < MAX_ITEMS));
        })?;
        ports.sort_by_key(|port| port.index);
        Ok(ports)
    }

    fn addresses(&mut self) -> Result<Vec<Address>, Errno> {
        let mut addresses = Vec::new();
        let request = Request::dump(RTM_GETADDR, &[0; ADDRESS_FIXED]);
        self.0.ask(request, RTM_NEWADDR, |body| {
            let address = parse_address(body);
            addresses.extend(address.filter(|_| addresses.len() < MAX_ITEMS));
        })?;
        Ok(addresses)
    }
}

/// Whether a rule looks at more of a connection than its addresses, mark and type of service.
pub(super) fn is_choosy_rule(body: &[u8]) -> bool {
    let choosy = [FRA_UID_RANGE, FRA_SPORT_RANGE, FRA_DPORT_RANGE];
    attributes(body, RULE_FIXED).any(|(kind, _)| choosy.contains(&kind))
}

/// Whether packets may leave by several interfaces.
pub(super) fn has_several_ways(body: &[u8]) -> bool {
    // What is behind the number of a next hop may be several.
    attributes(body, ROUTE_FIXED).any(|(kind, _)| [RTA_MULTIPATH, RTA_NH_ID].contains(&kind))
}

fn link_options(request: Request) -> Request {
    request.with(IFLA_EXT_MASK, &WITHOUT_COUNTERS.to_ne_bytes())
}

fn route_request(flow: &Flow) -> Request {
    let family = if flow.peer.is_ipv4() {
        AF_INET
    } else {
        AF_INET6
    };
    let bits = if flow.peer.is_ipv4() { 32 } else { 128 };
    let mut fixed = [0; ROUTE_FIXED];
    fixed[..4].copy_from_slice(&[family, bits, bits, flow.tos & TOS_MASK]);
    let mut request = Request::get(RTM_GETROUTE, &fixed)
        .with(RTA_DST, &octets(flow.peer.ip()))
        .with(RTA_SRC, &octets(flow.local.ip()));
    let ports = [(RTA_SPORT, flow.local), (RTA_DPORT, flow.peer)];
    if ports.iter().all(|(_, end)| end.port() != 0) {
        // They decide between the ways of a multipath route.
        request = request.with(RTA_IP_PROTO, &[IPPROTO_TCP]);
        for (kind, end) in ports {
            request = request.with(kind, &end.port().to_be_bytes());
        }
    }
    if flow.interface() != 0 {
        request = request.with(RTA_OIF, &flow.interface().to_ne_bytes());
    }
    if flow.mark != 0 {
        request = request.with(RTA_MARK, &flow.mark.to_ne_bytes());
    }
    request
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

pub(super) fn parse_link(body: &[u8]) -> Option<Netdev> {
    let mut name = None;
    let mut link = None;
    let mut is_link_elsewhere = false;
    let (mut bus, mut parent) = (None, None);
    let mut netdev = Netdev {
        index: read_u32(body.get(4..)?)?,
        name: String::new(),
        kind: None,
        vlan: None,
        mac: None,
        link: None,
        master: None,
        hardware: None,
    };
    for (kind, value) in attributes(body, LINK_FIXED) {
        match kind {
            IFLA_IFNAME => name = read_text(value),
            IFLA_ADDRESS => netdev.mac = value.try_into().ok(),
            IFLA_LINK => link = read_u32(value),
            IFLA_LINK_NETNSID => is_link_elsewhere = true,
            IFLA_MASTER => netdev.master = read_u32(value),
            IFLA_PARENT_DEV_NAME => parent = read_text(value),
            IFLA_PARENT_DEV_BUS_NAME => bus = read_text(value),
            IFLA_LINKINFO => (netdev.kind, netdev.vlan) = parse_info(value),
            _ => {}
        }
    }
    netdev.name = name?;
    netdev.link = link.filter(|link| !is_link_elsewhere && *link != 0 && *link != netdev.index);
    netdev.hardware = bus.zip(parent);
    Some(netdev)
}

fn parse_info(info: &[u8]) -> (Option<String>, Option<u16>) {
    let (mut name, mut data) = (None, &[][..]);
    for (kind, value) in attributes(info, 0) {
        match kind {
            IFLA_INFO_KIND => name = read_text(value),
            IFLA_INFO_DATA => data = value,
            _ => {}
        }
    }
    let vlan = match name.as_deref() {
        Some("vlan") => attributes(data, 0)
            .find(|(kind, _)| *kind == IFLA_VLAN_ID)
            .and_then(|(_, value)| read_u16(value)),
        _ => None,
    };
    (name, vlan)
}

pub(super) fn parse_address(body: &[u8]) -> Option<Address> {
    let (mut own, mut subnet) = (None, None);
    for (kind, value) in attributes(body, ADDRESS_FIXED) {
        match kind {
            IFA_LOCAL => own = read_ip(value),
            IFA_ADDRESS => subnet = read_ip(value),
            _ => {}
        }
    }
    Some(Address {
        index: read_u32(body.get(4..)?)?,
        // IPv6 has no IFA_LOCAL, and IPv4 no IFA_ADDRESS where they are the same.
        own: own.or(subnet)?,
        subnet: subnet.or(own)?,
        prefix: *body.get(1)?,
    })
}

fn read_ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

impl Address {
    /// Whether it is one of IPv4 and `ip` is in its subnet.
    pub(super) fn contains(&self, ip: Ipv4Addr) -> bool {
        let IpAddr::V4(subnet) = self.subnet else {
            return false;
        };
        let host_bits = 32 - u32::from(self.prefix.min(32));
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        (u32::from(subnet) ^ u32::from(ip)) & mask == 0
    }
}

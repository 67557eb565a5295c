//! From the interface that a connection leaves by down to the one whose hardware carries it.

use rustix::io::Errno;

use super::network::{Netdev, Network};
use super::sysfs::Sysfs;

/// Interfaces on top of each other that are followed; Linux allows no more (MAX_NEST_DEV).
const MAX_DEPTH: usize = 8;

/// Kinds whose link is the interface below. For others it is something else: the other end of a
/// veth pair, or where a tunnel's packets go, which is another network.
const ON_TOP: [&str; 7] = [
    "vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec", "dsa",
];
/// Kinds that have ports.
const MASTERS: [&str; 3] = ["bond", "team", "bridge"];

/// The interfaces from `egress` down to the base one, which is last: that below a VLAN and its
/// like, and the first port of a bond, team or bridge (as Linux does). Ends at the border of the
/// network namespace.
pub(super) fn descend(
    network: &mut impl Network,
    sysfs: &Sysfs,
    egress: Netdev,
) -> Result<Vec<Netdev>, Errno> {
    let mut path = vec![egress];
    while path.len() <= MAX_DEPTH {
        // Never empty.
        let Some(top) = path.last() else { break };
        let Some(below) = below(network, sysfs, top)? else {
            break;
        };
        if path.iter().any(|netdev| netdev.index == below.index) {
            break;
        }
        path.push(below);
    }
    Ok(path)
}

fn below(
    network: &mut impl Network,
    sysfs: &Sysfs,
    netdev: &Netdev,
) -> Result<Option<Netdev>, Errno> {
    let kind = netdev.kind.as_deref().unwrap_or_default();
    if ON_TOP.contains(&kind) {
        return match netdev.link {
            Some(link) => network.by_index(link),
            None => Ok(None),
        };
    }
    if !MASTERS.contains(&kind) {
        return Ok(None);
    }
    let mut ports = network.ports_of(netdev.index)?;
    // Linux takes the one that joined first, which sysfs alone tells, and of bonds only. Its names
    // may be those of another namespace: one that is no port here does not count.
    let joined = sysfs.bond_ports(&netdev.name);
    let first = joined
        .iter()
        .find_map(|name| ports.iter().position(|port| port.name == *name));
    Ok((!ports.is_empty()).then(|| ports.swap_remove(first.unwrap_or(0))))
}

//! What one end of a connection can do.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::clc::{
    Bounded, Capabilities, Eid, Gid, HostName, IpArea, Ipv6Prefix, MAX_PREFIXES, Mac, PeerId,
};

/// Most enterprise IDs of one end, as in Linux.
pub const MAX_UEIDS: usize = 4;

/// Who we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RdmaIdentity {
    /// This process: two free bytes and the MAC of an RDMA port (RFC 7609 §A.2.1), not shared with
    /// any other process, lest peers take the link groups of one for those of the other. Not zero.
    pub peer_id: PeerId,
    /// The host's name, for people.
    pub host_name: HostName,
}

/// What one end can do for one TCP connection, whose addresses say which port of which device
/// serves it. A client offers it, a server takes what fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RdmaEnd {
    /// Who we are.
    pub identity: RdmaIdentity,
    /// The port's MAC. Sent in any version: a Linux server addresses its link to it.
    pub mac: Mac,
    /// Version 1, if the port has a RoCEv1 GID and the configuration allows it.
    pub v1: Option<V1>,
    /// Version 2, if the port has a RoCEv2 GID for the connection's IPv4 address, enterprise IDs
    /// are configured and the configuration allows it.
    pub v2: Option<V2>,
}

/// What version 1 needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1 {
    /// The port's RoCEv1 GID.
    pub gid: Gid,
    /// Where the network interface of the TCP connection is.
    pub subnets: Subnets,
}

/// What version 2 needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V2 {
    /// The port's RoCEv2 GID, an IPv4 address mapped to IPv6.
    pub gid: Gid,
    /// The enterprise IDs, in the order of preference (the client's counts).
    pub ueids: Bounded<Eid, MAX_UEIDS>,
    /// The highest release (0 or 1) and, for release 1, connections (16..=255) and links (1..=2)
    /// per link group.
    pub capabilities: Capabilities,
}

/// The subnets of a network interface, each an address in it and the length of its prefix, for the
/// family of the TCP connection (an IPv4 address mapped to IPv6 is IPv4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subnets {
    /// IPv4, prefixes of 0..=32 bits; a client's first one is that of the connection's own address.
    V4(Vec<(Ipv4Addr, u8)>),
    /// IPv6, prefixes of 0..=128 bits.
    V6(Vec<(Ipv6Addr, u8)>),
}

/// Does a connection get a new link group?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Yes.
    First {
        /// No router is between the two devices. Travels in version 2 only.
        direct: bool,
    },
    /// No, a group is there.
    Later,
}

impl Contact {
    /// Is the link group new?
    pub const fn is_first(self) -> bool {
        matches!(self, Self::First { .. })
    }
}

impl Subnets {
    /// What a client's Proposal says (RFC 7609 §A.2.2). `None` if there is nothing to say: without
    /// it no server agrees to version 1.
    pub(super) fn area(&self) -> Option<IpArea> {
        match self {
            Self::V4(subnets) => subnets.first().map(|(address, bits)| IpArea {
                subnet: (address.to_bits() & mask4(*bits)).to_be_bytes(),
                mask_bits: (*bits).min(32),
                prefixes: Bounded::default(),
            }),
            Self::V6(subnets) => {
                let prefixes: Vec<_> = subnets
                    .iter()
                    // Every interface has the link-local one, so it says nothing.
                    .filter(|(address, _)| !address.is_unicast_link_local())
                    .map(|(address, bits)| prefix(address, *bits))
                    .take(MAX_PREFIXES)
                    .collect();
                if prefixes.is_empty() {
                    return None;
                }
                Some(IpArea {
                    prefixes: Bounded::new(prefixes)?,
                    ..IpArea::default()
                })
            }
        }
    }

    /// Is the client whose Proposal says this in one of the subnets? As in Linux: the same IPv4
    /// subnet with the same length, or one of the client's IPv6 prefixes.
    pub(super) fn hold(&self, area: &IpArea) -> bool {
        match self {
            Self::V4(subnets) => {
                let theirs = u32::from_be_bytes(area.subnet);
                subnets.iter().any(|(address, bits)| {
                    *bits == area.mask_bits && address.to_bits() & mask4(*bits) == theirs
                })
            }
            Self::V6(subnets) => subnets.iter().any(|(address, bits)| {
                let ours = prefix(address, *bits);
                !address.is_unicast_link_local() && area.prefixes.contains(&ours)
            }),
        }
    }
}

fn mask4(bits: u8) -> u32 {
    u32::MAX
        .checked_shl(32u32.saturating_sub(bits.into()))
        .unwrap_or(0)
}

fn prefix(address: &Ipv6Addr, bits: u8) -> Ipv6Prefix {
    let mask = u128::MAX
        .checked_shl(128u32.saturating_sub(bits.into()))
        .unwrap_or(0);
    Ipv6Prefix {
        prefix: (address.to_bits() & mask).to_be_bytes(),
        bits: bits.min(128),
    }
}

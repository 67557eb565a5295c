//! `--resolve`: which RoCE port would serve a connection, step by step.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;

use pnet::Table;
use pnet::resolve::{Candidate, Flow, Mapping, Netdev, PortState, Resolution, Resolver, Version};

use crate::Failure;
use crate::args::Question;

/// Width of the first column.
const LABEL: usize = 10;

/// The explanation, and whether there is a port for any version of SMC-R.
pub(crate) fn explain(table: &Path, question: &Question) -> Result<(String, bool), Failure> {
    let flow = flow(question)?;
    let listed = Table::load(table)?.entries().count();
    let resolver = Resolver::new(table);
    let found = resolver.explain(&flow);
    let found = found.map_err(|error| Failure::Resolve(error.to_string()))?;

    let mut page = Page(String::new());
    page.line("table", &entries(table, listed));
    page.line(
        "route",
        &format!(
            "from {} to {} leaves by {}",
            flow.local.ip(),
            flow.peer.ip(),
            found.egress().name
        ),
    );
    page.line("base", &path(&found.path));
    if let Some(vlan) = found.vlan {
        page.line("VLAN", &vlan.to_string());
    }
    page.line("PNETID", &mapping(&found));
    page.line("devices", &devices(&found));
    for candidate in &found.ports {
        describe(&mut page, candidate, &found, &flow);
    }
    let mut is_served = false;
    for version in [Version::V1, Version::V2] {
        let text = match found.endpoint(version, flow.local.ip()) {
            Ok(endpoint) => {
                is_served = true;
                let gid = endpoint.gid.to_ipv4_mapped();
                let gid = gid.map_or_else(|| endpoint.gid.to_string(), |ip| ip.to_string());
                format!("{}, GID {} ({gid})", endpoint.port, endpoint.gid_index)
            }
            Err(error) => format!("none: {error}"),
        };
        page.line(&version.to_string(), &text);
    }
    Ok((page.0, is_served))
}

/// The flow, with the own address that the kernel would take.
fn flow(question: &Question) -> Result<Flow, Failure> {
    let mut peer = question.peer;
    let local = match question.from {
        Some(from) => SocketAddr::new(from, 0),
        None => {
            let any: SocketAddr = match peer {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            // Connecting sends nothing, but chooses an address; it wants some port.
            let port = peer.port();
            peer.set_port(port.max(1));
            let chosen = UdpSocket::bind(any).and_then(|socket| {
                socket.connect(peer)?;
                socket.local_addr()
            });
            peer.set_port(port);
            let no_route = |e| Failure::Resolve(format!("no route to {}: {e}", peer.ip()));
            let mut local = chosen.map_err(no_route)?;
            local.set_port(0);
            local
        }
    };
    Ok(Flow::between(local, peer))
}

fn entries(table: &Path, listed: usize) -> String {
    let path = table.display();
    match listed {
        0 if !table.exists() => format!("{path} does not exist"),
        0 => format!("{path}, empty"),
        1 => format!("{path}, 1 entry"),
        n => format!("{path}, {n} entries"),
    }
}

fn path(path: &[Netdev]) -> String {
    let names: Vec<String> = path
        .iter()
        .map(|netdev| match (&netdev.kind, netdev.vlan) {
            (_, Some(id)) => format!("{} (VLAN {id})", netdev.name),
            (Some(kind), None) => format!("{} ({kind})", netdev.name),
            (None, None) => netdev.name.clone(),
        })
        .collect();
    names.join(" -> ")
}

fn mapping(found: &Resolution) -> String {
    match &found.mapping {
        Mapping::Hardware(id) => format!("{id}, of the hardware of {}", found.base().name),
        Mapping::Table(id, netdev) => format!("{id}, which the table has for {netdev}"),
        Mapping::Gids => {
            let (egress, base) = (&found.egress().name, &found.base().name);
            let names = match egress == base {
                true => base.clone(),
                false => format!("{base} and {egress}"),
            };
            format!("none: the table does not list {names}, so RDMA ports with their GIDs serve")
        }
    }
}

fn devices(found: &Resolution) -> String {
    match found.devices.is_empty() {
        true => "none on this host".to_owned(),
        false => found.devices.join(" "),
    }
}

/// A port and what is to be said of each of its GIDs.
fn describe(page: &mut Page, candidate: &Candidate, found: &Resolution, flow: &Flow) {
    page.line("port", &format!("{}: {}", candidate.port, candidate.state));
    if candidate.state != PortState::Active {
        return;
    }
    for gid in &candidate.gids {
        // Of the two versions it can only be for that of its type.
        let fits = |version| gid.misfit(version, found.vlan, flow.local.ip());
        let version = match gid.kind.as_str() {
            "IB/RoCE v1" => Version::V1,
            _ => Version::V2,
        };
        let verdict = match fits(version) {
            None => format!("fits {version}"),
            Some(misfit) => misfit.to_string(),
        };
        page.line("", &format!("{gid}: {verdict}"));
    }
}

/// Lines with a label in front.
struct Page(String);

impl Page {
    fn line(&mut self, label: &str, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{label:LABEL$}{text}");
    }
}

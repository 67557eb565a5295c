//! A directory in the form of `/sys`, with RDMA devices that the machine need not have.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

pub(crate) const V1: &str = "IB/RoCE v1";
pub(crate) const V2: &str = "RoCE v2";

pub(crate) struct Tree(TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn root(&self) -> &Path {
        self.0.path()
    }

    /// An RDMA device, not on any bus, with one active RoCE port.
    pub(crate) fn device(&self, name: &str) -> Device<'_> {
        self.write(&format!("class/infiniband/{name}/node_type"), "1: CA\n");
        let device = Device {
            tree: self,
            name: name.to_owned(),
        };
        device.port(1)
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

pub(crate) struct Device<'a> {
    tree: &'a Tree,
    name: String,
}

impl Device<'_> {
    /// Gives it an active port with room for four GIDs.
    pub(crate) fn port(self, port: u8) -> Self {
        let this = self.attribute(port, "state", "4: ACTIVE\n").attribute(
            port,
            "link_layer",
            "Ethernet\n",
        );
        (0..4).fold(this, |this, index| {
            // As the kernel shows an empty place; its type and netdev cannot be read.
            let none = segments(Ipv6Addr::UNSPECIFIED);
            this.attribute(port, &format!("gids/{index}"), &none)
        })
    }

    pub(crate) fn attribute(self, port: u8, name: &str, value: &str) -> Self {
        let path = format!("class/infiniband/{}/ports/{port}/{name}", self.name);
        self.tree.write(&path, value);
        self
    }

    pub(crate) fn node_type(self, value: &str) -> Self {
        let path = format!("class/infiniband/{}/node_type", self.name);
        self.tree.write(&path, value);
        self
    }

    /// Makes it a function of a PCI device, with the string that mainframes give it.
    pub(crate) fn on_pci(self, address: &str, util_string: Option<&[u8]>) -> Self {
        let directory = format!("bus/pci/devices/{address}");
        self.tree.write(&format!("{directory}/vendor"), "0x15b3\n");
        if let Some(string) = util_string {
            self.tree.write(&format!("{directory}/util_string"), string);
        }
        let link = format!("class/infiniband/{}/device", self.name);
        symlink(format!("../../../{directory}"), self.tree.root().join(link)).unwrap();
        self
    }

    /// Puts a GID into the table of a port.
    pub(crate) fn gid(self, port: u8, index: u32, gid: &str, kind: &str, netdev: &str) -> Self {
        let gid = match gid.parse().unwrap() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        self.attribute(port, &format!("gids/{index}"), &segments(gid))
            .attribute(
                port,
                &format!("gid_attrs/types/{index}"),
                &format!("{kind}\n"),
            )
            .attribute(
                port,
                &format!("gid_attrs/ndevs/{index}"),
                &format!("{netdev}\n"),
            )
    }
}

/// All eight groups with all their digits, as sysfs has it.
fn segments(ip: Ipv6Addr) -> String {
    let groups: Vec<String> = ip.segments().iter().map(|s| format!("{s:04x}")).collect();
    groups.join(":") + "\n"
}

#[test]
fn a_long_table_is_read_as_far_as_it_is_used() {
    let tree = Tree::new();
    let mut device = tree.device("rxe0");
    for index in 0..300 {
        device = device.attribute(
            1,
            &format!("gids/{index}"),
            &segments(Ipv6Addr::UNSPECIFIED),
        );
    }
    // Addresses between them were given back; the last one lies beyond all reason.
    for index in [1, 60, 124, 189] {
        device = device.gid(1, index, "10.0.0.1", V2, "eth0");
    }
    let gids = crate::resolve::sysfs::Sysfs::new(tree.root()).gids("rxe0", 1);
    let found: Vec<u32> = gids.iter().map(|gid| gid.index).collect();
    assert_eq!(found, [1, 60, 124]);
}

use std::net::{IpAddr, Ipv4Addr};

use rustix::io::Errno;

use super::super::candidate::{Misfit, PortState, Version};
use super::super::flow::Flow;
use super::super::network::{Address, Netdev, Network};
use super::super::{Endpoint, Mapping, Resolution, Resolver, Unresolved};
use super::tree::{Tree, V1, V2};
use crate::names::PnetId;

/// Interfaces and addresses of a host.
#[derive(Default)]
struct Host {
    netdevs: Vec<Netdev>,
    addresses: Vec<Address>,
}

impl Host {
    /// Adds an interface; the next number is its own.
    fn netdev(&mut self, name: &str, kind: Option<&str>) -> &mut Netdev {
        let index = self.netdevs.len() as u32 + 1;
        self.netdevs.push(Netdev {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            vlan: None,
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            link: None,
            master: None,
            hardware: None,
        });
        self.netdevs.last_mut().unwrap()
    }

    fn vlan(&mut self, name: &str, id: u16, on: u32) -> u32 {
        let netdev = self.netdev(name, Some("vlan"));
        (netdev.vlan, netdev.link) = (Some(id), Some(on));
        netdev.index
    }

    fn address(&mut self, index: u32, own: &str, prefix: u8) {
        let own = own.parse().unwrap();
        self.addresses.push(Address {
            index,
            own,
            subnet: own,
            prefix,
        });
    }
}

impl Network for Host {
    fn egress(&mut self, _: &Flow) -> Result<u32, Errno> {
        unreachable!("tests name the interface")
    }

    fn is_plain(&mut self, _: &Flow) -> Result<bool, Errno> {
        unreachable!("nobody watches")
    }

    fn by_index(&mut self, index: u32) -> Result<Option<Netdev>, Errno> {
        Ok(self.netdevs.iter().find(|n| n.index == index).cloned())
    }

    fn by_name(&mut self, name: &str) -> Result<Option<Netdev>, Errno> {
        Ok(self.netdevs.iter().find(|n| n.name == name).cloned())
    }

    fn ports_of(&mut self, master: u32) -> Result<Vec<Netdev>, Errno> {
        let ports = self.netdevs.iter().filter(|n| n.master == Some(master));
        Ok(ports.cloned().collect())
    }

    fn addresses(&mut self) -> Result<Vec<Address>, Errno> {
        Ok(self.addresses.clone())
    }
}

/// A host with `eth0` (1) and `eth1` (2) in `bond0` (3), which VLAN 5 (`bond0.5`, 4) is on, and
/// `eth2` (5) by itself.
fn host() -> Host {
    let mut host = Host::default();
    host.netdev("eth0", None).master = Some(3);
    host.netdev("eth1", None).master = Some(3);
    host.netdev("bond0", Some("bond"));
    host.vlan("bond0.5", 5, 3);
    host.netdev("eth2", None);
    host.address(3, "10.3.0.1", 24);
    host.address(4, "10.4.0.1", 24);
    host.address(5, "10.5.0.1", 24);
    host
}

fn look_up(host: &mut Host, tree: &Tree, table: &str, egress: u32) -> Resolution {
    tree.write("table", table);
    let resolver = Resolver::with_sysfs(&tree.root().join("table"), tree.root());
    resolver.look_up(host, egress).unwrap()
}

fn names(resolution: &Resolution) -> Vec<&str> {
    resolution.path.iter().map(|n| n.name.as_str()).collect()
}

fn ports(resolution: &Resolution) -> Vec<String> {
    resolution
        .ports
        .iter()
        .map(|c| c.port.to_string())
        .collect()
}

fn v2(resolution: &Resolution, local: &str) -> Result<Endpoint, Unresolved> {
    resolution.endpoint(Version::V2, local.parse().unwrap())
}

fn id(text: &str) -> PnetId {
    text.parse().unwrap()
}

const NET1: &str = "NET1 netdev eth0\nNET1 roce mlx5_0 1\n";

#[test]
fn a_vlan_over_a_bond_is_served_by_its_first_port() {
    let tree = Tree::new();
    // eth1 joined first, eth9 is a name of another namespace.
    tree.write("class/net/bond0/bonding/slaves", "eth9 eth1 eth0\n");
    tree.device("mlx5_0")
        .gid(1, 0, "fe80::ff:fe00:1", V2, "eth0")
        .gid(1, 1, "10.3.0.1", V2, "bond0")
        .gid(1, 3, "10.4.0.1", V2, "bond0.5");
    let table = "NET1 netdev eth1\nNET1 roce mlx5_0 1\n";
    let found = look_up(&mut host(), &tree, table, 4);
    assert_eq!(names(&found), ["bond0.5", "bond0", "eth1"]);
    assert_eq!(found.vlan, Some(5));
    assert_eq!(found.mapping, Mapping::Table(id("NET1"), "eth1".into()));
    let endpoint = v2(&found, "10.4.0.1").unwrap();
    assert_eq!((endpoint.gid_index, endpoint.vlan), (3, Some(5)));
    assert_eq!(
        endpoint.gid.to_ipv4_mapped(),
        Some(Ipv4Addr::new(10, 4, 0, 1))
    );
    assert_eq!(endpoint.mac, [2, 0, 0, 0, 0, 4]);
    // Without the VLAN, the address of the bond itself.
    let found = look_up(&mut host(), &tree, table, 3);
    assert_eq!(names(&found), ["bond0", "eth1"]);
    assert_eq!(v2(&found, "10.3.0.1").unwrap().gid_index, 1);
    // sysfs does not know the order: the lowest number.
    let found = look_up(&mut host(), &Tree::new(), NET1, 3);
    assert_eq!(names(&found), ["bond0", "eth0"]);
}

#[test]
fn the_base_counts_before_the_interface_itself_and_nothing_between() {
    let tree = Tree::new();
    let mut host = host();
    let mapping = |host: &mut Host, table: &str| look_up(host, &tree, table, 4).mapping;
    let table = "A netdev bond0.5\nB netdev bond0\n";
    assert_eq!(
        mapping(&mut host, table),
        Mapping::Table(id("A"), "bond0.5".into())
    );
    let table = "A netdev bond0.5\nB netdev bond0\nC netdev eth0\n";
    assert_eq!(
        mapping(&mut host, table),
        Mapping::Table(id("C"), "eth0".into())
    );
    assert_eq!(mapping(&mut host, "B netdev bond0\n"), Mapping::Gids);
    // What the hardware says counts most.
    host.netdevs[0].hardware = Some(("pci".into(), "0000:01:00.0".into()));
    let string = [[0xd5, 0xc5, 0xe3, 0xf1].as_slice(), &[0x40; 12]].concat();
    tree.write("bus/pci/devices/0000:01:00.0/util_string", &string);
    assert_eq!(mapping(&mut host, table), Mapping::Hardware(id("NET1")));
    // It has an id for each port of the adapter.
    tree.write("bus/pci/devices/0000:01:00.0/net/eth0/dev_port", "1\n");
    assert!(matches!(mapping(&mut host, table), Mapping::Table(..)));
    let string = [[0x40; 16].as_slice(), &[0xe9; 4], &[0; 12]].concat();
    tree.write("bus/pci/devices/0000:01:00.0/util_string", &string);
    assert_eq!(mapping(&mut host, table), Mapping::Hardware(id("ZZZZ")));
}

#[test]
fn ports_come_in_the_order_of_the_table_then_those_whose_hardware_says_so() {
    let tree = Tree::new();
    let net1 = [[0xd5, 0xc5, 0xe3, 0xf1].as_slice(), &[0x40; 12]].concat();
    let net2 = [[0xd5, 0xc5, 0xe3, 0xf2].as_slice(), &[0x40; 12]].concat();
    tree.device("mlx5_0").port(2);
    tree.device("mlx5_1").on_pci("0000:02:00.0", None);
    tree.device("mlx5_2").on_pci("0000:03:00.0", Some(&net1));
    tree.device("mlx5_10").on_pci("0000:04:00.0", Some(&net1));
    tree.device("mlx5_3").on_pci("0000:05:00.0", Some(&net2));
    // mlx5_3 has an id already, which the table cannot change; mlx5_9 does not exist.
    let table = "NET1 netdev eth0\nNET1 roce mlx5_0 2\nNET1 roce 0000:02:00.0 1\n\
                 NET1 roce mlx5_3 1\nNET1 roce mlx5_9 1\nNET1 roce mlx5_0 1\n";
    let found = look_up(&mut host(), &tree, table, 1);
    assert_eq!(
        ports(&found),
        [
            "mlx5_0 port 2",
            "mlx5_1 port 1",
            "mlx5_9 port 1",
            "mlx5_0 port 1",
            "mlx5_2 port 1",
            "mlx5_10 port 1",
        ]
    );
    assert_eq!(found.ports[2].state, PortState::Missing);
    assert!(found.ports.iter().all(|c| c.gids.is_empty()));
}

#[test]
fn without_a_table_the_netdev_of_the_gids_decides() {
    let tree = Tree::new();
    tree.device("rxe0").gid(1, 1, "10.5.0.1", V2, "eth2");
    tree.device("rxe1").gid(1, 1, "10.3.0.1", V2, "bond0");
    tree.device("rxe2").gid(1, 0, "fe80::ff:fe00:1", V2, "eth0");
    tree.device("rxe3")
        .port(2)
        .gid(2, 2, "10.5.0.1", V2, "eth2");
    let found = look_up(&mut host(), &tree, "", 5);
    assert_eq!(found.mapping, Mapping::Gids);
    assert_eq!(ports(&found), ["rxe0 port 1", "rxe3 port 2"]);
    assert_eq!(v2(&found, "10.5.0.1").unwrap().port.device, "rxe0");
    let local = "10.5.0.1".parse().unwrap();
    let all: Vec<u32> = found
        .endpoints(Version::V2, local)
        .map(|endpoint| endpoint.gid_index)
        .collect();
    assert_eq!(all, [1, 2]);
    // Of the bond, first the device of its base interface; but only the other has the address.
    let found = look_up(&mut host(), &tree, "", 3);
    assert_eq!(ports(&found), ["rxe2 port 1", "rxe1 port 1"]);
    assert_eq!(v2(&found, "10.3.0.1").unwrap().port.device, "rxe1");
    // A table that lists other interfaces changes nothing.
    let found = look_up(&mut host(), &tree, NET1, 5);
    assert_eq!(ports(&found), ["rxe0 port 1", "rxe3 port 2"]);
}

#[test]
fn inactive_and_other_ports_are_passed_over() {
    let tree = Tree::new();
    let table = "NET1 netdev eth2\nNET1 roce a 1\nNET1 roce b 1\nNET1 roce c 1\n\
                 NET1 roce d 1\nNET1 roce e 1\n";
    let gid = |name: &str| tree.device(name).gid(1, 0, "10.5.0.1", V2, "eth2");
    gid("a").attribute(1, "state", "1: DOWN\n");
    gid("b").attribute(1, "link_layer", "InfiniBand\n");
    gid("c").node_type("4: RNIC\n");
    let found = look_up(&mut host(), &tree, table, 5);
    let error = v2(&found, "10.5.0.1").unwrap_err();
    assert!(matches!(error, Unresolved::Inactive(_)));
    assert_eq!(
        error.to_string(),
        "no port can be used: a port 1: not active (DOWN); b port 1: no RoCE port (InfiniBand); \
         c port 1: no RoCE port (RNIC); d port 1: there is no such device or port; \
         e port 1: there is no such device or port"
    );
    gid("d");
    let found = look_up(&mut host(), &tree, table, 5);
    assert_eq!(v2(&found, "10.5.0.1").unwrap().port.device, "d");
}

#[test]
fn version_2_takes_the_first_gid_with_a_subnet_of_the_address() {
    let tree = Tree::new();
    let mut host = host();
    host.address(5, "10.6.0.1", 16);
    host.address(5, "2001:db8::1", 64);
    tree.device("mlx5_0")
        .gid(1, 0, "10.5.0.1", V1, "eth2")
        .gid(1, 1, "2001:db8::1", V2, "eth2")
        .gid(1, 2, "10.6.0.1", V2, "eth2")
        .gid(1, 3, "10.5.0.1", V2, "eth2");
    let table = "NET1 netdev eth2\nNET1 roce mlx5_0 1\n";
    let found = look_up(&mut host, &tree, table, 5);
    // As in Linux: the netdev's subnets count, not those of the GID's own address.
    for local in ["10.5.0.1", "10.5.0.77", "10.6.200.1", "::ffff:10.5.0.1"] {
        assert_eq!(v2(&found, local).unwrap().gid_index, 2, "{local}");
    }
    for local in ["10.5.1.1", "10.7.0.1", "127.0.0.1"] {
        let error = v2(&found, local).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "mlx5_0 port 1 has no GID for SMC-R v2: it takes one of type `RoCE v2` and an IPv4 \
                 address, on a netdev that has a subnet with {local}"
            )
        );
    }
    let error = v2(&found, "2001:db8::1").unwrap_err().to_string();
    assert!(error.ends_with("it works over IPv4 only"), "{error}");
    let local: IpAddr = "10.9.9.9".parse().unwrap();
    let misfits: Vec<_> = found.ports[0]
        .gids
        .iter()
        .map(|gid| gid.misfit(Version::V2, found.vlan, local).unwrap())
        .collect();
    assert_eq!(
        misfits,
        [
            Misfit::Kind,
            Misfit::NotIpv4,
            Misfit::Subnet,
            Misfit::Subnet
        ]
    );
}

#[test]
fn version_1_takes_the_first_gid_on_the_vlan() {
    let tree = Tree::new();
    tree.device("mlx5_0")
        .gid(1, 0, "fe80::ff:fe00:1", V2, "eth0")
        .gid(1, 1, "fe80::ff:fe00:1", V1, "eth0")
        .gid(1, 2, "fe80::ff:fe00:4", V1, "bond0.5");
    let v1 = |found: &Resolution| {
        let local = "10.4.0.1".parse().unwrap();
        let endpoint = found.endpoint(Version::V1, local).unwrap();
        (endpoint.gid_index, endpoint.vlan)
    };
    assert_eq!(v1(&look_up(&mut host(), &tree, NET1, 4)), (2, Some(5)));
    assert_eq!(v1(&look_up(&mut host(), &tree, NET1, 3)), (1, None));
    let mut host = host();
    let vlan_7 = host.vlan("bond0.7", 7, 3);
    let found = look_up(&mut host, &tree, NET1, vlan_7);
    let local = "10.4.0.1".parse().unwrap();
    let error = found.endpoint(Version::V1, local).unwrap_err();
    assert_eq!(
        error.to_string(),
        "mlx5_0 port 1 has no GID for SMC-R v1 on VLAN 7: it takes one of type `IB/RoCE v1`"
    );
    let misfits = found.ports[0].gids[1..]
        .iter()
        .map(|gid| gid.misfit(Version::V1, Some(7), local));
    assert_eq!(
        misfits.collect::<Vec<_>>(),
        [Some(Misfit::Vlan(None)), Some(Misfit::Vlan(Some(5)))]
    );
}

#[test]
fn gids_of_other_namespaces_do_not_count() {
    let tree = Tree::new();
    // The netdev of the same name here has neither this address nor this Ethernet address.
    tree.device("rxe0")
        .gid(1, 0, "fe80::ff:fe00:99", V1, "eth2")
        .gid(1, 1, "10.5.0.2", V2, "eth2")
        .gid(1, 2, "10.5.0.1", V2, "eth7");
    let found = look_up(&mut host(), &tree, "", 5);
    assert!(found.ports.is_empty());
    let error = v2(&found, "10.5.0.1").unwrap_err().to_string();
    assert!(
        error.contains("smcr-pnet -a PNETID -I eth2 -D DEVICE"),
        "{error}"
    );
    let table = "NET1 netdev eth2\nNET1 roce rxe0 1\n";
    let found = look_up(&mut host(), &tree, table, 5);
    let local = "10.5.0.1".parse().unwrap();
    for (gid, version) in found.ports[0].gids.iter().zip([Version::V1, Version::V2]) {
        assert_eq!(gid.misfit(version, None, local), Some(Misfit::Elsewhere));
    }
    assert!(matches!(
        v2(&found, "10.5.0.1").unwrap_err(),
        Unresolved::NoGid { .. }
    ));
}

#[test]
fn adapters_with_several_ports_make_other_link_local_gids() {
    let tree = Tree::new();
    tree.device("mlx4_0")
        .gid(1, 0, "fe80::1:5", V1, "eth2")
        .gid(1, 1, "fe80::200:0:200:5", V1, "eth2");
    let found = look_up(&mut host(), &tree, "", 5);
    let local = "10.5.0.1".parse().unwrap();
    assert_eq!(
        found.endpoint(Version::V1, local).unwrap().gid_index,
        1,
        "{found:?}"
    );
}

#[test]
fn every_failure_says_what_to_do() {
    let tree = Tree::new();
    let found = look_up(&mut host(), &tree, NET1, 3);
    assert!(matches!(
        v2(&found, "10.3.0.1").unwrap_err(),
        Unresolved::NoDevices
    ));
    tree.device("mlx5_1");
    let found = look_up(&mut host(), &tree, "NET1 netdev eth0\n", 3);
    assert_eq!(
        v2(&found, "10.3.0.1").unwrap_err().to_string(),
        "no RoCE port has the PNETID NET1 of eth0 (below bond0): add one by \
         `smcr-pnet -a NET1 -D DEVICE -P PORT`"
    );
    tree.write("table", "NET1\n");
    let table = tree.root().join("table");
    let resolver = Resolver::with_sysfs(&table, tree.root());
    let error = resolver.look_up(&mut host(), 3).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "the PNET table is refused: {}:1: expected `PNETID netdev NAME` or `PNETID roce \
             DEVICE PORT`",
            table.display()
        )
    );
    // The interface went away after the route was asked for.
    tree.write("table", "");
    let error = resolver.look_up(&mut host(), 99).unwrap_err();
    assert!(matches!(error, Unresolved::NoRoute(Errno::NODEV)));
}

#[test]
fn interfaces_that_go_round_in_circles_end() {
    let mut host = Host::default();
    host.netdev("a", Some("macvlan")).link = Some(2);
    host.netdev("b", Some("vlan")).link = Some(1);
    // A tunnel's link and a veth's other end are not below it.
    host.netdev("v", Some("veth")).link = Some(1);
    let tree = Tree::new();
    assert_eq!(names(&look_up(&mut host, &tree, "", 1)), ["a", "b"]);
    assert_eq!(names(&look_up(&mut host, &tree, "", 3)), ["v"]);
    let mut host = Host::default();
    for n in 1..=20 {
        host.netdev(&format!("d{n}"), Some("macvlan")).link = Some(n + 1);
    }
    assert_eq!(look_up(&mut host, &tree, "", 1).path.len(), 9);
    // A bond without ports is its own base.
    host.netdev("bond0", Some("bond"));
    assert_eq!(names(&look_up(&mut host, &tree, "", 21)), ["bond0"]);
}

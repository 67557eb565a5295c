//! Resolution with the real kernel: routes and interfaces made by `ip` in network namespaces, real
//! sockets, and RDMA devices in a directory in the form of sysfs.
//!
//! Takes root, and a kernel that has the interfaces; where one cannot be made the test says so and
//! leaves it out. Bonds and VLANs over real devices are tested in the lab.

#[path = "../src/resolve/tests/tree.rs"]
#[allow(dead_code)]
mod tree;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::Duration;

use pnet::resolve::{Flow, Mapping, Resolution, Resolver, Unresolved, Version};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tree::{Tree, V2};

/// Runs `work` in a thread with a network namespace of its own, in which `lo` is up.
fn in_namespace(work: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        // SAFETY: only this thread moves, which has no descriptors of the old namespace in use.
        if let Err(errno) = unsafe { unshare_unsafe(UnshareFlags::NEWNET) } {
            eprintln!("LEFT OUT: no network namespace can be made ({errno}): run it as root");
            return;
        }
        ip("link set lo up");
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` in the namespace of this thread, which a child inherits.
fn try_ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn ip(words: &str) {
    try_ip(words).unwrap_or_else(|error| panic!("ip {words}: {error}"));
}

/// Whether `ip` could do it; says so if not.
fn can(words: &str) -> bool {
    try_ip(words)
        .inspect_err(|error| eprintln!("LEFT OUT: ip {words}: {}", error.trim()))
        .is_ok()
}

/// `eth1` (10.1.0.1/24) and `eth2` (10.2.0.1/24), each with its other end.
fn two_interfaces() {
    for (name, subnet) in [("eth1", 1), ("eth2", 2)] {
        ip(&format!("link add {name} type veth peer name {name}-end"));
        ip(&format!("link set {name}-end up"));
        ip(&format!("addr add 10.{subnet}.0.1/24 dev {name}"));
        ip(&format!("link set {name} up"));
    }
}

fn flow(local: &str, peer: &str) -> Flow {
    let end = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 4791);
    Flow::between(end(local), end(peer))
}

fn resolver(tree: &Tree, table: &str) -> Resolver {
    tree.write("table", table);
    Resolver::with_sysfs(&tree.root().join("table"), tree.root())
}

fn explain(flow: &Flow) -> Resolution {
    resolver(&Tree::new(), "").explain(flow).unwrap()
}

fn names(resolution: &Resolution) -> Vec<&str> {
    resolution.path.iter().map(|n| n.name.as_str()).collect()
}

#[test]
fn routes_are_those_of_the_kernel() {
    in_namespace(|| {
        two_interfaces();
        ip("route add default via 10.2.0.9");
        for (local, peer, egress) in [
            ("10.1.0.1", "10.1.0.2", "eth1"),
            ("10.2.0.1", "10.2.0.2", "eth2"),
            ("10.2.0.1", "192.0.2.1", "eth2"),
            // As Linux has it: the way to oneself is `lo`.
            ("10.1.0.1", "10.1.0.1", "lo"),
            ("127.0.0.1", "127.0.0.1", "lo"),
            ("::ffff:10.1.0.1", "::ffff:10.1.0.2", "eth1"),
        ] {
            let found = explain(&flow(local, peer));
            assert_eq!(names(&found), [egress], "{local} {peer}");
        }
        ip("route add unreachable 203.0.113.0/24");
        let unreachable = flow("10.1.0.1", "203.0.113.1");
        let error = resolver(&Tree::new(), "").explain(&unreachable);
        assert!(matches!(error, Err(Unresolved::NoRoute(_))), "{error:?}");
        // An address that the host does not have.
        let error = resolver(&Tree::new(), "").explain(&flow("10.9.0.1", "10.1.0.2"));
        assert!(matches!(error, Err(Unresolved::NoRoute(_))), "{error:?}");
    });
}

#[test]
fn marks_and_bound_interfaces_decide() {
    in_namespace(|| {
        two_interfaces();
        let to = flow("10.1.0.1", "10.1.0.2");
        if can("rule add fwmark 7 table 100") {
            ip("route add default dev eth2 table 100");
            assert_eq!(explain(&to).egress().name, "eth1");
            assert_eq!(explain(&Flow { mark: 7, ..to }).egress().name, "eth2");
        }
        let b = explain(&flow("10.2.0.1", "10.2.0.2")).egress().index;
        assert_eq!(explain(&Flow { bound: b, ..to }).egress().name, "eth2");
    });
}

#[test]
fn a_real_socket_tells_its_flow() {
    in_namespace(|| {
        two_interfaces();
        let listener = TcpListener::bind("10.1.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let client = TcpStream::connect(to).unwrap();
        let socket = socket2::SockRef::from(&client);
        socket.set_mark(7).unwrap();
        socket.set_tos_v4(0x10).unwrap();
        let flow = Flow::of_socket(&client).unwrap();
        assert_eq!(flow.local, client.local_addr().unwrap());
        assert_eq!(flow.peer, to);
        assert_eq!((flow.bound, flow.mark, flow.tos), (0, 7, 0x10));
        let (server, _) = listener.accept().unwrap();
        assert_eq!(Flow::of_socket(&server).unwrap().peer, flow.local);
        assert_eq!(explain(&flow).egress().name, "lo");
        socket.bind_device(Some(b"eth1")).unwrap();
        let a = explain(&Flow {
            bound: 0,
            ..self::flow("10.1.0.1", "10.1.0.2")
        });
        assert_eq!(Flow::of_socket(&client).unwrap().bound, a.egress().index);
        // No peer, and no address.
        Flow::of_socket(&listener).unwrap_err();
        Flow::of_socket(std::os::unix::net::UnixStream::pair().unwrap().0).unwrap_err();
    });
}

#[test]
fn link_local_addresses_have_their_interface() {
    in_namespace(|| {
        two_interfaces();
        ip("addr add fe80::7/64 dev eth2 nodad");
        let b = explain(&flow("10.2.0.1", "10.2.0.2")).egress().index;
        let end = |ip: &str| format!("[{ip}%{b}]:1").parse().unwrap();
        let found = explain(&Flow::between(end("fe80::7"), end("fe80::8")));
        assert_eq!(names(&found), ["eth2"]);
    });
}

#[test]
fn what_is_below_is_found() {
    in_namespace(|| {
        two_interfaces();
        if can("link add br0 type bridge") {
            ip("addr add 10.3.0.1/24 dev br0");
            ip("link set br0 up");
            assert_eq!(names(&explain(&flow("10.3.0.1", "10.3.0.2"))), ["br0"]);
            ip("link set eth2-end master br0");
            ip("link set eth1-end master br0");
            let found = explain(&flow("10.3.0.1", "10.3.0.2"));
            assert_eq!(found.egress().kind.as_deref(), Some("bridge"));
            // The first, not the one that was added first: no kernel interface tells that.
            let first = explain(&flow("10.1.0.1", "10.1.0.2")).egress().index - 1;
            assert_eq!(
                (found.base().name.as_str(), found.base().index),
                ("eth1-end", first)
            );
            assert_eq!(found.vlan, None);
        }
        if can("link add link eth1 name m0 type macvlan") {
            ip("addr add 10.4.0.1/24 dev m0");
            ip("link set m0 up");
            let found = explain(&flow("10.4.0.1", "10.4.0.2"));
            assert_eq!(names(&found), ["m0", "eth1"]);
        }
        if can("link add link eth1 name eth1.5 type vlan id 5") {
            ip("addr add 10.5.0.1/24 dev eth1.5");
            ip("link set eth1.5 up");
            let found = explain(&flow("10.5.0.1", "10.5.0.2"));
            assert_eq!(
                (names(&found), found.vlan),
                (vec!["eth1.5", "eth1"], Some(5))
            );
        }
        if can("link add bond0 type bond mode active-backup") {
            ip("link set eth2 down");
            ip("link set eth2 master bond0");
            ip("addr add 10.6.0.1/24 dev bond0");
            ip("link set bond0 up");
            let found = explain(&flow("10.6.0.1", "10.6.0.2"));
            assert_eq!(names(&found), ["bond0", "eth2"]);
        }
    });
}

/// An interface whose lower one is in another namespace, as containers have them.
#[test]
fn the_way_down_ends_at_the_namespace() {
    in_namespace(|| {
        two_interfaces();
        if !can("link add link eth1 name m0 type macvlan") {
            return;
        }
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (moved, is_moved) = std::sync::mpsc::channel();
        let inside = thread::spawn(move || {
            // SAFETY: as in `in_namespace`.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            // Interfaces with the numbers that those outside have.
            two_interfaces();
            ready.send(rustix::thread::gettid()).unwrap();
            is_moved.recv().unwrap();
            ip("addr add 10.4.0.1/24 dev m0");
            ip("link set m0 up");
            names(&explain(&flow("10.4.0.1", "10.4.0.2"))).join(" ")
        });
        let tid = is_ready.recv().unwrap().as_raw_nonzero();
        ip(&format!("link set m0 netns {tid}"));
        moved.send(()).unwrap();
        assert_eq!(inside.join().unwrap(), "m0");
    });
}

#[test]
fn gids_are_matched_with_real_addresses() {
    in_namespace(|| {
        two_interfaces();
        let tree = Tree::new();
        // As names they are right; as addresses only one is.
        tree.device("rxe0").gid(1, 0, "10.1.0.77", V2, "eth1");
        tree.device("rxe1").gid(1, 2, "10.1.0.1", V2, "eth1");
        let to = flow("10.1.0.1", "10.1.0.2");
        let mut resolver = resolver(&tree, "");
        let endpoint = resolver.endpoint(&to, Version::V2).unwrap();
        assert_eq!(
            (endpoint.port.device.as_str(), endpoint.gid_index),
            ("rxe1", 2)
        );
        let mac = endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
        // `ip` finds the interface that has this address.
        let shown = Command::new("ip")
            .args(["-o", "link", "show", "eth1"])
            .output();
        let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
        assert!(
            shown.contains(&format!("link/ether {mac} ")),
            "{mac}: {shown}"
        );

        // For a second the answer is kept, then a change of the table counts.
        tree.write("table", "NET1 netdev eth1\n");
        resolver.endpoint(&to, Version::V2).unwrap();
        thread::sleep(Duration::from_millis(1100));
        let error = resolver.endpoint(&to, Version::V2).unwrap_err();
        assert!(matches!(error, Unresolved::NoPort { .. }), "{error}");
        tree.write("table", "NET1 netdev eth1\nNET1 roce rxe1 1\n");
        resolver.forget();
        let found = resolver.resolve(&to).unwrap();
        assert!(matches!(found.mapping, Mapping::Table(..)));
        resolver.endpoint(&to, Version::V2).unwrap();
    });
}

#[test]
fn hosts_without_rdma_are_left_alone() {
    let tree = Tree::new();
    let mut resolver = resolver(&tree, "");
    let to = flow("127.0.0.1", "127.0.0.1");
    for _ in 0..2 {
        let error = resolver.resolve(&to).unwrap_err();
        assert!(matches!(error, Unresolved::NoDevices), "{error}");
    }
    // One that appears is seen after a second.
    tree.device("rxe0");
    resolver.resolve(&to).unwrap_err();
    thread::sleep(Duration::from_millis(1100));
    resolver.resolve(&to).unwrap();
}

/// One that watches, with a device, so that it has a reason to ask.
fn watching(tree: &Tree) -> Resolver {
    tree.device("mlx5_0").gid(1, 1, "10.1.0.1", V2, "eth1");
    resolver(tree, "").watching(|socket| socket)
}

/// The interface that it finds, when the last look at the news is no longer fresh.
fn egress(resolver: &mut Resolver, flow: &Flow) -> String {
    thread::sleep(Duration::from_millis(2));
    let found = resolver.resolve(flow).unwrap();
    found.egress().name.clone()
}

#[test]
fn changes_of_routes_are_noticed_at_once() {
    in_namespace(|| {
        two_interfaces();
        let tree = Tree::new();
        let mut resolver = watching(&tree);
        let far = flow("10.1.0.1", "192.0.2.1");
        ip("route add default via 10.1.0.9");
        for _ in 0..3 {
            assert_eq!(egress(&mut resolver, &far), "eth1");
        }
        ip("route replace default via 10.2.0.9");
        for _ in 0..3 {
            assert_eq!(egress(&mut resolver, &far), "eth2");
        }
        ip("link set eth2 down");
        thread::sleep(Duration::from_millis(2));
        let error = resolver.resolve(&far);
        assert!(matches!(error, Err(Unresolved::NoRoute(_))), "{error:?}");
        // Without any change the answer for one destination is none for another.
        let near = flow("10.1.0.1", "10.1.0.2");
        assert_eq!(egress(&mut resolver, &near), "eth1");
        resolver.resolve(&far).unwrap_err();
    });
}

/// More of them than the kernel keeps.
#[test]
fn many_changes_are_noticed_too() {
    in_namespace(|| {
        two_interfaces();
        let tree = Tree::new();
        let mut resolver = watching(&tree);
        let far = flow("10.1.0.1", "192.0.2.1");
        ip("route add default via 10.1.0.9");
        assert_eq!(egress(&mut resolver, &far), "eth1");
        for number in 0..60 {
            ip(&format!("route add 198.51.100.{number}/32 via 10.1.0.9"));
        }
        ip("route replace default via 10.2.0.9");
        assert_eq!(egress(&mut resolver, &far), "eth2");
        ip("route replace default via 10.1.0.9");
        assert_eq!(egress(&mut resolver, &far), "eth1");
    });
}

#[test]
fn ports_decide_where_rules_look_at_them() {
    in_namespace(|| {
        two_interfaces();
        let tree = Tree::new();
        let mut resolver = watching(&tree);
        let to = flow("10.1.0.1", "10.1.0.2");
        assert_eq!(egress(&mut resolver, &to), "eth1");
        let mut other = to;
        other.peer.set_port(4000);
        if can("rule add dport 4000 table 100") {
            ip("route add default dev eth2 table 100");
            for _ in 0..2 {
                assert_eq!(egress(&mut resolver, &to), "eth1");
                assert_eq!(egress(&mut resolver, &other), "eth2");
            }
        }
    });
}

#[test]
fn ports_that_fail_are_noticed_though_nothing_else_changes() {
    in_namespace(|| {
        two_interfaces();
        let tree = Tree::new();
        let mut resolver = watching(&tree);
        let to = flow("10.1.0.1", "10.1.0.2");
        let second = Duration::from_millis(1100);
        let local = to.local.ip();
        // The second look is the first one after the network has come to rest; it is prolonged.
        for _ in 0..3 {
            let found = resolver.resolve(&to).unwrap().endpoint(Version::V2, local);
            assert_eq!(found.unwrap().port.device, "mlx5_0");
            thread::sleep(second);
        }
        tree.write("class/infiniband/mlx5_0/ports/1/state", "1: DOWN\n");
        let found = resolver.resolve(&to).unwrap().endpoint(Version::V2, local);
        assert!(matches!(found, Err(Unresolved::Inactive(_))), "{found:?}");
        tree.write("table", "NET1 netdev eth1\n");
        thread::sleep(second);
        let found = resolver.resolve(&to).unwrap();
        assert!(matches!(found.mapping, Mapping::Table(..)), "{found:?}");
    });
}

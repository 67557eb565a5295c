//! Resolution on hosts with many kinds of interfaces and devices, which no test machine has all of:
//! sysfs is a directory, and the network a list. The real kernel is asked in `tests/namespaces.rs`.

mod hosts;
mod messages;
mod tree;

use tree::{Tree, V2};

#[test]
fn a_long_table_is_read_as_far_as_it_is_used() {
    let tree = Tree::new();
    let mut device = tree.device("rxe0");
    for index in 0..300 {
        device = device.attribute(
            1,
            &format!("gids/{index}"),
            &format!("{}\n", ["0000"; 8].join(":")),
        );
    }
    // Addresses between them were given back; the last one lies beyond all reason.
    for index in [1, 60, 124, 189] {
        device = device.gid(1, index, "10.0.0.1", V2, "eth0");
    }
    let gids = super::sysfs::Sysfs::new(tree.root()).gids("rxe0", 1);
    let found: Vec<u32> = gids.iter().map(|gid| gid.index).collect();
    assert_eq!(found, [1, 60, 124]);
}

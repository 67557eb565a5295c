use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use proptest::prelude::*;

use crate::{Device, PnetId, Problem, RocePort, Table, TableError};

const TEXT: &str = "# ours\n\nNET1  netdev eth0 # first\nnet1 roce\tmlx5_0 1\r\n\
                    NET1 roce mlx5_0 2\nNET2 netdev eth1\nNET2 roce mlx5_1 1\n";

fn id(text: &str) -> PnetId {
    text.parse().unwrap()
}

fn netdev(name: &str) -> Device {
    Device::netdev(name).unwrap()
}

fn roce(name: &str, port: u8) -> Device {
    Device::roce(name, port).unwrap()
}

#[test]
fn table_is_understood() {
    let table: Table = TEXT.parse().unwrap();
    assert_eq!(table.entries().count(), 5);
    assert_eq!(table.lookup_netdev("eth0"), Some(&id("NET1")));
    assert_eq!(table.lookup_netdev("eth1"), Some(&id("NET2")));
    assert_eq!(table.lookup_netdev("eth2"), None);
    assert_eq!(table.lookup_netdev("mlx5_0"), None);
    let net1 = id("Net1");
    let ports: Vec<_> = table.roce_ports(&net1).cloned().collect();
    let port = |port| RocePort {
        device: "mlx5_0".to_owned(),
        port,
    };
    assert_eq!(ports, [port(1), port(2)]);
}

#[test]
fn ids_follow_linux() {
    for text in ["a", "NET1", "0123456789abcdef", " x ", "Z9"] {
        assert_eq!(id(text).as_str(), text.trim().to_uppercase());
    }
    for text in [
        "",
        " ",
        "0123456789abcdefg",
        "a b",
        "a-b",
        "a_b",
        "\u{fc}",
        "a\0",
    ] {
        assert!(
            matches!(text.parse::<PnetId>(), Err(Problem::BadId(_))),
            "{text:?}"
        );
    }
}

#[test]
fn every_bad_line_is_refused_with_its_number() {
    for (line, hint) in [
        ("NET1", "expected `PNETID netdev NAME`"),
        ("NET1 netdev", "expected `PNETID netdev NAME`"),
        ("netdev eth9", "unknown kind of device `eth9`"),
        ("NET1 netdev a b", "expected"),
        ("NET1 roce mlx5_9", "expected"),
        (
            "NET1 ib mlx5_9 1",
            "unknown kind of device `ib`: use `netdev` or `roce`",
        ),
        (
            "NET_1 netdev eth9",
            "`NET_1` is no PNETID: use 1 to 16 letters",
        ),
        ("NET1 netdev 0123456789abcdef", "1 to 15 bytes"),
        ("NET1 netdev a/b", "cannot be a device"),
        ("NET1 netdev a:b", "cannot be a device"),
        ("NET1 netdev ..", "cannot be a device"),
        ("NET1 netdev a\u{7f}b", "cannot be a device"),
        ("NET1 netdev .", "cannot be a device"),
        ("NET1 netdev a\u{a0}b", "cannot be a device"),
        ("NET1 roce a/b 1", "cannot be a device"),
        ("NET1 roce .. 1", "cannot be a device"),
        ("NET1 roce mlx5_9 0", "`0` is no port"),
        ("NET1 roce mlx5_9 3", "`3` is no port"),
        ("NET1 roce mlx5_9 x", "`x` is no port"),
        ("NET1 roce mlx5_9 256", "`256` is no port"),
        ("NET1 netdev eth0", "listed under NET1 already"),
        ("NET2 netdev eth0", "listed under NET1 already"),
        ("NET2 roce mlx5_0 1", "listed under NET1 already"),
        ("NET1 roce mlx5_1 2", "listed under NET2 already"),
    ] {
        let error = format!("{TEXT}{line}\n").parse::<Table>().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("line 8: ") && text.contains(hint),
            "{line}: {text}"
        );
    }
}

#[test]
fn edits_leave_the_other_lines_alone() {
    let mut table: Table = TEXT.parse().unwrap();
    table.add(id("net3"), netdev("mlx5_0")).unwrap();
    assert_eq!(
        table.add(id("NET3"), netdev("eth0")),
        Err(Problem::Listed(id("NET1")))
    );
    assert_eq!(
        table.remove(&id("NET2"), &netdev("eth0")),
        Err(Problem::NotListed)
    );
    assert_eq!(
        table.remove(&id("NET1"), &roce("mlx5_1", 1)),
        Err(Problem::NotListed)
    );
    table.remove(&id("NET2"), &netdev("eth1")).unwrap();
    let text = TEXT.replace('\r', "").replace("NET2 netdev eth1\n", "");
    assert_eq!(
        table.to_string(),
        text + "NET3              netdev  mlx5_0\n"
    );
}

/// A directory that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pnet-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn whole_ids_are_removed_and_comments_stay() {
    let mut table: Table = TEXT.parse().unwrap();
    assert_eq!(table.remove_id(&id("NET9")), 0);
    assert_eq!(table.remove_id(&id("net1")), 3);
    assert_eq!(
        table.to_string(),
        "# ours\n\nNET2 netdev eth1\nNET2 roce mlx5_1 1\n"
    );
    assert_eq!(table.clear(), 2);
    assert!(table.is_empty());
    assert_eq!(table.to_string(), "# ours\n\n");
}

#[test]
fn functions_of_pci_devices_are_names_of_roce_devices() {
    let text = "NET1 roce 0000:01:00.0 2\n";
    let table: Table = text.parse().unwrap();
    let expected = roce("0000:01:00.0", 2);
    assert_eq!(table.entries().next(), Some((&id("NET1"), &expected)));
    Device::netdev("0000:01:00.0").unwrap_err();
}

#[test]
fn files_are_replaced_whole() {
    let dir = Dir::new("replace");
    let file = dir.0.join("table");
    assert_eq!(Table::load(&file).unwrap(), Table::new());
    let mut table: Table = TEXT.parse().unwrap();
    table.save(&file).unwrap();
    assert_eq!(Table::load(&file).unwrap(), table);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let link = dir.0.join("link");
    symlink("table", &link).unwrap();
    table.add(id("NET4"), netdev("eth4")).unwrap();
    table.save(&link).unwrap();
    assert!(link.is_symlink());
    assert_eq!(Table::load(&file).unwrap(), table);
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o640
    );
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 2);
}

#[test]
fn failures_name_the_file_and_leave_nothing_behind() {
    let dir = Dir::new("fail");
    let error = Table::load(&dir.0).unwrap_err();
    assert!(
        error.to_string().starts_with(dir.0.to_str().unwrap()),
        "{error}"
    );
    let nowhere = dir.0.join("no/such/table");
    assert!(matches!(
        Table::new().save(&nowhere),
        Err(TableError::Io { .. })
    ));
    // A directory cannot be replaced by a file.
    let inner = dir.0.join("inner");
    fs::create_dir(&inner).unwrap();
    Table::new().save(&inner).unwrap_err();
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1);
    let long = dir.0.join("long");
    fs::write(&long, vec![b'#'; (1 << 20) + 1]).unwrap();
    Table::load(&long).unwrap_err();
    fs::write(&long, b"\xff").unwrap();
    Table::load(&long).unwrap_err();
}

#[test]
fn errors_in_files_name_file_and_line() {
    let dir = Dir::new("lines");
    let file = dir.0.join("table");
    for (content, hint) in [
        (&b"\nNET1 netdev\n"[..], ":2: expected `PNETID netdev NAME`"),
        (b"NET1 netdev eth0\n# \xff\n", ":2: not UTF-8 text"),
    ] {
        fs::write(&file, content).unwrap();
        let error = Table::load(&file).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}{hint}", file.display())),
            "{error}"
        );
    }
    // Such a file is not replaced by what was understood of it.
    let edited = Table::edit(&file, |table| {
        table.add(id("NET2"), netdev("eth2")).unwrap();
        Ok::<_, TableError>(())
    });
    assert!(matches!(edited, Err(TableError::Line { .. })));
    assert!(fs::read(&file).unwrap().contains(&0xff));
    // Files without a length are read, and those without an end are not.
    let error = Table::load("/proc/version".as_ref())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(":1: unknown kind of device `version`"),
        "{error}"
    );
    let error = Table::load("/dev/zero".as_ref()).unwrap_err();
    assert!(matches!(error, TableError::Io { .. }), "{error}");
}

#[test]
fn an_edit_that_fails_or_changes_nothing_writes_nothing() {
    let dir = Dir::new("nothing");
    let file = dir.0.join("table");
    fs::write(&file, TEXT).unwrap();
    let inode = || fs::metadata(&file).unwrap().ino();
    let before = inode();
    let failed: Result<(), Box<dyn std::error::Error>> = Table::edit(&file, |table| {
        table.clear();
        Err("no".into())
    });
    failed.unwrap_err();
    let read: Result<usize, TableError> = Table::edit(&file, |table| Ok(table.entries().count()));
    assert_eq!(read.unwrap(), 5);
    assert_eq!(
        (inode(), fs::read_to_string(&file).unwrap()),
        (before, TEXT.into())
    );
    let lock = dir.0.join(".table.lock");
    assert_eq!(
        fs::metadata(lock).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn owner_and_mode_stay_and_links_that_lead_nowhere_are_followed() {
    let dir = Dir::new("owner");
    let file = dir.0.join("table");
    let link = dir.0.join("link");
    symlink("table", &link).unwrap();
    let add = |n: u32| {
        let name = format!("eth{n}");
        Table::edit(&link, |table| {
            table.add(id("NET1"), netdev(&name)).unwrap();
            Ok::<_, TableError>(())
        })
    };
    add(0).unwrap();
    assert!(link.is_symlink() && file.is_file());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    // Only root can give files away.
    let owner = match rustix::process::geteuid().is_root() {
        true => 4711,
        false => rustix::process::geteuid().as_raw(),
    };
    std::os::unix::fs::chown(&file, Some(owner), Some(owner)).unwrap();
    add(1).unwrap();
    let kept = fs::metadata(&file).unwrap();
    assert_eq!(
        (kept.uid(), kept.gid(), kept.mode() & 0o7777),
        (owner, owner, 0o640)
    );
    assert_eq!(Table::load(&file).unwrap().entries().count(), 2);
    assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 3);
}

fn some_device() -> impl Strategy<Value = Device> {
    prop_oneof![
        "[a-z][a-z0-9._@-]{0,14}".prop_map(|name| netdev(&name)),
        ("[a-z0-9][a-z0-9_:.]{0,62}", 1u8..=2).prop_map(|(name, port)| roce(&name, port)),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        entries in prop::collection::vec(("[A-Za-z0-9]{1,16}", some_device()), 0..20),
    ) {
        let mut table = Table::new();
        for (name, device) in entries {
            // Some are refused as listed already.
            let _ = table.add(id(&name), device);
        }
        let read: Table = table.to_string().parse().unwrap();
        prop_assert_eq!(&read, &table);
        let all: Vec<_> = read.entries().map(|(i, d)| (i.clone(), d.clone())).collect();
        for (name, device) in all {
            if let Device::Netdev(netdev) = &device {
                prop_assert_eq!(table.lookup_netdev(netdev), Some(&name));
            }
            table.remove(&name, &device).unwrap();
        }
        prop_assert_eq!(table.entries().count(), 0);
    }

    #[test]
    fn no_text_makes_it_panic(text in "([A-Za-z0-9#/ \t\r]{0,20}(netdev|roce|\\PC)? ?[0-9]?\n?){0,8}") {
        if let Ok(table) = text.parse::<Table>() {
            let again: Table = table.to_string().parse().unwrap();
            prop_assert_eq!(again, table);
        }
    }

    /// An edit by words keeps every line that it is not about, whatever the file looks like.
    #[test]
    fn other_lines_outlive_any_edit(
        lines in prop::collection::vec(
            prop_oneof![
                "[ \t]{0,2}(#\\PC{0,20})?",
                "(A|b|C1)[ \t]{1,3}netdev[ \t]eth[0-9]{1,2}[ ]{0,2}(# .{0,9})?",
                "(A|b|C1) roce mlx5_[0-9] [12]",
            ],
            0..12,
        ),
        gone in "(A|B|C1)",
    ) {
        if let Ok(mut table) = lines.join("\n").parse::<Table>() {
            let is_gone = |line: &&String| {
                let word = line.split_ascii_whitespace().next();
                word.is_some_and(|word| word.eq_ignore_ascii_case(&gone))
            };
            let kept: Vec<String> = lines.join("\n").lines()
                .map(|line| line.trim_end_matches('\r').to_owned()).filter(|line| !is_gone(&line)).collect();
            table.remove_id(&id(&gone));
            let text = table.to_string();
            prop_assert_eq!(text.lines().collect::<Vec<_>>(), kept);
        }
    }
}

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::{Config, ConfigError, Environment, ErrorKind, Query, SmcrVersion, Users, Verdict};
use crate::clc::{Bounded, Capabilities, Eid};
use crate::handshake::rdma::MAX_UEIDS;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("test.conf"))
}

fn ueids(names: &[&str]) -> Bounded<Eid, MAX_UEIDS> {
    let eids = names.iter().map(|name| Eid::new(name).unwrap());
    Bounded::new(eids.collect()).unwrap()
}

fn error(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn verdict(config: &Config, port: u16, peer: &str) -> Verdict {
    let peer: IpAddr = peer.parse().unwrap();
    config.verdict(&Query { port, peer })
}

fn is_smc(config: &str, program: &str, port: u16, peer: &str) -> bool {
    let config = parse(config).unwrap().for_program(&[program.as_bytes()]);
    verdict(&config, port, peer) == Verdict::Smc
}

#[test]
fn nothing_means_the_defaults() {
    for text in ["", "\n\n", "# a comment\n  # another\r\n"] {
        assert_eq!(parse(text).unwrap(), Config::default());
    }
    assert_eq!(verdict(&Config::default(), 80, "10.0.0.1"), Verdict::Smc);
}

#[test]
fn every_setting_is_read() {
    let text = "ring_size=1M # inline\nmax_connections =10\r\nmax_memory\t= 2g\nspin_us = 0\n\
                handshake_timeout_ms = 10\n  users = any\ndefault = tcp\n\
                 ueid = TEAM-A, B.2\nsmcr_version = 2\nsmcr_release=0\nmax_group_connections=16\n\
                 pnet_table = /run/my nets # odd, but a name";
    let expected = Config {
        ring_size: 1 << 20,
        max_connections: 10,
        max_memory: 2 << 30,
        spin_us: 0,
        handshake_timeout_ms: 10,
        users: Users::Any,
        ueids: ueids(&["TEAM-A", "B.2"]),
        smcr_version: SmcrVersion::V2,
        smcr_release: 0,
        max_group_connections: 16,
        default: Verdict::Tcp,
        pnet_table: "/run/my nets".into(),
        ..Config::default()
    };
    let config = parse(text).unwrap();
    assert_eq!(config, expected);
    assert_eq!(parse(&config.to_string()).unwrap(), expected);
    assert_eq!(
        (config.ring_size(), config.max_memory()),
        (1 << 20, 2 << 30)
    );
    assert_eq!((config.max_connections(), config.any_user()), (10, true));
    assert_eq!(
        (config.spin(), config.users()),
        (Duration::ZERO, Users::Any)
    );
    assert_eq!(config.handshake_timeout(), Duration::from_millis(10));
    assert_eq!(config.ueids().len(), 2);
    assert_eq!(config.max_group_connections(), 16);
    assert_eq!(config.smcr_capabilities(1), Capabilities::RELEASE_0);
}

#[test]
fn versions_of_smcr() {
    for (text, v1, v2) in [
        ("", true, false), // as in Linux: no enterprise ID, no version 2
        ("ueid = A", true, true),
        ("ueid = A\nsmcr_version = 1", true, false),
        ("ueid = A\nsmcr_version = 2", false, true),
        ("smcr_version = 2", false, false),
    ] {
        let config = parse(text).unwrap();
        assert_eq!((config.smcr_v1(), config.smcr_v2()), (v1, v2), "{text}");
    }
    let config = parse("max_group_connections = 20").unwrap();
    let capabilities = Capabilities::release_1(20, 2, 0);
    assert_eq!(config.smcr_capabilities(2), capabilities);
}

#[test]
fn enterprise_ids_are_checked() {
    let long = "A".repeat(33);
    for value in ["", "a", "-A", "A B", "A,", "A,A", "A,B,C,D,E", &long, "Ä"] {
        let message = error(&format!("ueid = {value}"));
        assert!(message.contains("enterprise IDs"), "{message}");
    }
    assert!(parse(&format!("ueid = {}", "A".repeat(32))).is_ok());
}

#[test]
fn networks_that_are_asked() {
    let asks = |text: &str, peer: &str| {
        let peer: IpAddr = peer.parse().unwrap();
        parse(text).unwrap().asks(peer)
    };
    assert!(!asks("", "10.1.2.3"), "nobody, unless told so");
    let text = "ask_networks = 10.1.0.0/16, fd00::/8,192.0.2.7";
    for peer in ["10.1.2.3", "::ffff:10.1.2.3", "fd12::1", "192.0.2.7"] {
        assert!(asks(text, peer), "{peer}");
    }
    for peer in ["10.2.2.3", "::1", "127.0.0.1", "192.0.2.8"] {
        assert!(!asks(text, peer), "{peer}");
    }
    let config = parse(text).unwrap();
    assert_eq!(parse(&config.to_string()).unwrap(), config);
    for text in ["", "10.1.0.0/16,", "10.1.0.1/16", "x"] {
        error(&format!("ask_networks = {text}"));
    }
}

#[test]
fn sizes_may_be_written_in_any_unit() {
    for (text, size) in [("16384", 1 << 14), ("16K", 1 << 14), ("512m", 512 << 20)] {
        let config = parse(&format!("ring_size = {text}")).unwrap();
        assert_eq!(config.ring_size, size);
    }
}

#[test]
fn first_matching_rule_decides() {
    let text = "rule tcp port=22-23,443\n\
                rule tcp program=/usr/bin/curl network=::1\n\
                rule smc program=redis-* port=6379 network=127.0.0.0/8,10.1.2.3\n\
                default = tcp\n\
                rule smc port=443 # never reached\n\
                rule smc network=2001:db8::/32\n";
    let redis = "/usr/bin/redis-server";
    for (program, port, peer, expected) in [
        (redis, 6379, "127.0.0.1", true),
        (redis, 6379, "::ffff:127.0.0.1", true),
        (redis, 6379, "10.1.2.3", true),
        (redis, 6379, "10.1.2.4", false),
        (redis, 6380, "127.0.0.1", false),
        ("/opt/redis-x (deleted)", 6379, "127.0.0.1", true),
        ("/usr/bin/not-redis-server", 6379, "127.0.0.1", false),
        (redis, 443, "2001:db8::1", false),
        (redis, 23, "2001:db8::1", false),
        (redis, 24, "2001:db8::1", true),
        (redis, 24, "2001:db9::1", false),
        ("/usr/bin/curl", 80, "::1", false),
    ] {
        assert_eq!(
            is_smc(text, program, port, peer),
            expected,
            "{program} {port} {peer}"
        );
    }
}

#[test]
fn a_program_that_confines_itself_needs_a_rule_of_its_own() {
    for (config, program, expected) in [
        ("", "/usr/sbin/sshd", false),
        ("", "/usr/bin/ssh", true),
        ("rule smc", "/usr/sbin/sshd", false),
        ("rule smc program=sshd", "/usr/sbin/sshd", true),
        ("rule smc program=*", "/usr/sbin/vsftpd", true),
        ("rule smc program=sshd port=81", "/usr/sbin/sshd", false),
    ] {
        assert_eq!(
            is_smc(config, program, 80, "::1"),
            expected,
            "{config} {program}"
        );
    }
    let config = Config::default().for_program(&[b"/usr/lib/openssh/sshd-session"]);
    assert!(config.is_confined() && !Config::default().is_confined());
}

#[test]
fn rules_about_programs_wait_for_a_program() {
    let config = parse("rule tcp program=*").unwrap();
    assert_eq!(verdict(&config, 80, "::1"), Verdict::Smc);
    assert_eq!(
        verdict(&config.for_program(&[b"/bin/x"]), 80, "::1"),
        Verdict::Tcp
    );
    assert!(!is_smc("rule tcp", "/bin/x", 80, "::1"));
}

#[test]
fn globs_match_as_in_a_shell() {
    for (pattern, program, expected) in [
        ("nginx", "/usr/sbin/nginx", true),
        ("nginx", "/usr/sbin/nginx2", false),
        ("python3*", "/usr/bin/python3.11", true),
        ("*.so", "/lib/ld.so", true),
        ("a*b*c", "/x/a1b2b3c", true),
        ("a*b*c", "/x/a1b2b3", false),
        ("**", "/x", true),
        ("/usr/*/nginx", "/usr/sbin/nginx", true),
        ("/usr/*", "/usr/local/bin/x", true),
        ("/usr/*", "/opt/usr/x", false),
        ("/nginx", "/usr/sbin/nginx", false),
        ("*", "", true),
    ] {
        let text = format!("default=tcp\nrule smc program={pattern}");
        assert_eq!(
            is_smc(&text, program, 80, "::1"),
            expected,
            "{pattern} {program}"
        );
    }
}

#[test]
fn networks_match_by_prefix_and_family() {
    for (network, peer, expected) in [
        ("0.0.0.0/0", "1.2.3.4", true),
        ("0.0.0.0/0", "::1", false),
        ("::/0", "::1", true),
        ("::/0", "1.2.3.4", false),
        ("10.0.0.0/7", "11.255.0.1", true),
        ("10.0.0.0/7", "12.0.0.0", false),
        ("::ffff:10.0.0.0/104", "10.9.9.9", true),
        ("::ffff:10.0.0.1", "10.0.0.1", true),
        ("fe80::/10", "febf::1", true),
        ("fe80::/10", "fec0::1", false),
        ("::1", "::2", false),
        ("1.2.3.4/32", "1.2.3.4", true),
    ] {
        let text = format!("default=tcp\nrule smc network={network}");
        assert_eq!(is_smc(&text, "/x", 80, peer), expected, "{network} {peer}");
    }
}

#[test]
fn every_error_says_where_and_what_to_do() {
    for (text, message) in [
        (
            "\nring_sise = 1M",
            "test.conf:2: unknown setting `ring_sise`: did you mean `ring_size`?",
        ),
        ("ring-size = 1M", "did you mean `ring_size`?"),
        ("Users = any", "did you mean `users`?"),
        (
            "rulle smc port=1",
            "unknown setting `rulle`: did you mean `rule`?",
        ),
        (
            "xyzzy = 1",
            "unknown setting `xyzzy`: valid are ring_size, max_connections",
        ),
        ("xyzzy", "unknown setting `xyzzy`"),
        ("users any", "expected `key = value`"),
        ("= 5", "expected `key = value`"),
        ("users any = 5", "expected `key = value`"),
        ("rule = smc", "expected `key = value` or `rule"),
        ("rule", "or `rule smc|tcp"),
        (
            "users = any\n\nusers = same",
            "test.conf:3: `users` was set in line 1 already",
        ),
        ("users = some", "unknown users `some`: did you mean `same`?"),
        ("users = root", "unknown users `root`: valid are same, any"),
        ("default =", "unknown default ``: valid are smc, tcp"),
        ("rule smd", "unknown verdict `smd`: did you mean `smc`?"),
        (
            "rule smc prt=5",
            "unknown condition `prt`: did you mean `port`?",
        ),
        (
            "rule smc port = 5",
            "expected `condition=value` without blanks, found `port`",
        ),
        ("rule smc port=5 port=6", "`port` is given twice"),
        (
            "spin_us = fast",
            "`spin_us` is `fast`, expected a whole number",
        ),
        ("spin_us = -1", "expected a whole number"),
        ("spin_us = 1001", "`spin_us` is 1001, valid: 0..=1000"),
        ("max_connections = 0", "valid: 1..=1048576"),
        (
            "max_connections = 99999999999999999999",
            "valid: 1..=1048576",
        ),
        ("handshake_timeout_ms = 9", "valid: 10..=60000"),
        ("ring_size = 100K", "`ring_size` is 100K, valid: 16K, 32K"),
        ("ring_size = 8K", "valid: 16K"),
        ("ring_size = 1G", "valid: 16K"),
        ("ring_size = 1T", "expected a size"),
        ("ring_size = M", "expected a size"),
        ("ring_size = 1 M", "expected a size"),
        ("max_memory = 1K", "valid: 16K..=1048576G"),
        ("max_memory = 999999999999999999999999999999G", "valid: 16K"),
        (
            "max_memory = 64K",
            "test.conf:1: `max_memory` is less than one `ring_size`",
        ),
        (
            "max_memory=1M\nring_size=2M",
            "test.conf:2: `max_memory` is less",
        ),
        ("rule smc port=0", "`0` is no port"),
        ("rule smc port=65536", "`65536` is no port"),
        ("rule smc port=5-4", "`5-4` is no port"),
        ("rule smc port=1,,2", "`` is no port"),
        ("rule smc port=+5", "`+5` is no port"),
        ("rule smc network=localhost", "`localhost` is no network"),
        ("rule smc network=1.2.3.4/33", "no network"),
        ("rule smc network=::1/129", "no network"),
        ("rule smc network=::1/+1", "no network"),
        ("rule smc network=::1/", "no network"),
        (
            "rule smc network=10.0.0.1/8",
            "beyond its prefix: write `10.0.0.0/8`",
        ),
        ("rule smc program=bin/x", "`bin/x` is no program"),
        ("rule smc program=", "`` is no program"),
    ] {
        let error = error(text);
        assert!(error.contains(message), "{text:?}: {error}");
        assert!(error.starts_with("test.conf:"), "{error}");
    }
}

/// A file in the system's directory for such, removed at the end.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &[u8]) -> Self {
        let name = format!("smcr-config-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn load(&self, disable: Option<&str>, secure: bool) -> Result<Config, ConfigError> {
        let environment = Environment {
            disable: disable.map(OsString::from),
            config: Some(self.0.clone().into()),
            secure,
        };
        Config::load_from(environment, "/nonexistent/smcr.conf", &[b"/bin/x"])
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_environment_names_the_file() {
    let file = File::new(
        "named",
        b"spin_us = 7\nrule tcp program=x\nrule smc program=y",
    );
    let config = file.load(None, false).unwrap();
    assert_eq!(config.spin_us, 7);
    assert_eq!(config.rules.len(), 1);
    assert_eq!(file.load(None, true).unwrap(), Config::default());
    for disable in ["1", "yes"] {
        let config = file.load(Some(disable), false).unwrap();
        assert!(config.disabled);
        assert_eq!(config.spin_us, 50);
    }
    for disable in ["", "0"] {
        assert!(!file.load(Some(disable), false).unwrap().disabled);
    }
}

#[test]
fn only_the_default_file_may_be_missing() {
    let load = |config: &str, default| {
        let environment = Environment {
            disable: None,
            config: Some(config.into()),
            secure: false,
        };
        Config::load_from(environment, default, &[])
    };
    let gone = "/nonexistent/smcr.conf";
    assert_eq!(load("", gone).unwrap(), Config::default());
    let error = load(gone, "/etc/passwd").unwrap_err();
    assert_eq!(error.line, None);
    assert!(
        error
            .to_string()
            .starts_with("/nonexistent/smcr.conf: cannot be read: No such")
    );
    assert!(load("", "/").is_err());
}

#[test]
fn unreadable_contents_are_refused() {
    let file = File::new("latin1", b"users = any\n\ndefault = \xfc");
    let error = file.load(None, false).unwrap_err();
    assert_eq!((error.line, &error.kind), (Some(3), &ErrorKind::NotUtf8));
    assert!(error.to_string().contains(":3: not UTF-8"));
    let file = File::new("long", &[b'#'; (1 << 20) + 1]);
    assert!(
        file.load(None, false)
            .unwrap_err()
            .to_string()
            .contains("longer than 1 MiB")
    );
    let file = File::new("longest", &[b'#'; 1 << 20]);
    file.load(None, false).unwrap();
}

fn some_line() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("rule".to_owned()),
        Just("ring_size".to_owned()),
        Just("max_memory".to_owned()),
        Just("smc".to_owned()),
        Just("port=".to_owned()),
        Just("network=".to_owned()),
        Just("program=".to_owned()),
        Just("=".to_owned()),
        Just("::/0".to_owned()),
        "[0-9]{1,40}[KMG]?",
        "\\PC{0,8}",
    ];
    let gap = prop_oneof![
        Just(""),
        Just(" "),
        Just("\t"),
        Just("#"),
        Just("/"),
        Just(",")
    ];
    prop::collection::vec((word, gap), 0..8).prop_map(|parts| {
        parts
            .into_iter()
            .flat_map(|(word, gap)| [word, gap.to_owned()])
            .collect()
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(lines in prop::collection::vec(some_line(), 0..6)) {
        if let Err(error) = parse(&lines.join("\n")) {
            prop_assert!(error.line.is_some());
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn no_bytes_make_it_panic(text in any::<String>()) {
        let _ = parse(&text);
    }

    #[test]
    fn what_is_shown_says_the_same(
        ring in 0u32..16, connections in 1u32..=1 << 20, memory in (512u64 << 20)..=1 << 50,
        spin in 0u32..=1000, timeout in 10u32..=60000, any_user: bool, tcp: bool,
        ports in prop::collection::vec((1u16.., 1u16..), 0..4),
        networks in prop::collection::vec((any::<IpAddr>(), 0u8..=32), 0..4),
        program in "(/?[a-z*]{1,9})?",
    ) {
        let list = |name: &str, values: Vec<String>| match values.is_empty() {
            true => String::new(),
            false => format!(" {name}={}", values.join(",")),
        };
        let ports = ports.iter().map(|(a, b)| format!("{}-{}", a.min(b), a.max(b))).collect();
        let networks = networks.iter().map(|(address, prefix)| match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(*prefix)).unwrap_or(0);
                format!("{}/{prefix}", std::net::Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => a.to_string(),
        });
        let text = format!(
            "ring_size={}\nmax_connections={connections}\nmax_memory={memory}\nspin_us={spin}\n\
             handshake_timeout_ms={timeout}\nusers={}\ndefault={}\nrule smc{}{}{}\n",
            16384u64 << ring,
            if any_user { "any" } else { "same" },
            if tcp { "tcp" } else { "smc" },
            list("program", Some(program).filter(|p| !p.is_empty()).into_iter().collect()),
            list("port", ports),
            list("network", networks.collect()),
        );
        let config = parse(&text).unwrap();
        prop_assert_eq!(parse(&config.to_string()).unwrap(), config);
    }
}

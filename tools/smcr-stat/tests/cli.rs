//! The binary, run next to a process (this one) that publishes a page.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use smcr_core::Reason;
use smcr_core::stat::{ConnInfo, Counter, Mode, Publisher, Role, State};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_smcr-stat"));
    command.args(args).env_remove("SMCR_CONFIG");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn connections_are_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut server, _) = listener.accept().unwrap();
    std::io::Write::write_all(&mut &client, b"hello").unwrap();
    server.read_exact(&mut [0; 5]).unwrap();

    let publisher = Publisher::open().unwrap();
    let shm = publisher.add(&ConnInfo {
        state: State::Active,
        mode: Mode::Shm,
        role: Role::Server,
        reason: None,
        local: Some("10.0.0.1:6379".parse().unwrap()),
        peer: Some("10.0.0.2:40000".parse().unwrap()),
        group: 3,
    });
    shm.set_tx(111_111);
    shm.set_rx(222_222);
    publisher.add(&ConnInfo {
        state: State::Active,
        mode: Mode::Tcp,
        role: Role::Server,
        reason: Some(Reason::PeerNoSmc),
        local: Some(server.local_addr().unwrap()),
        peer: Some(server.peer_addr().unwrap()),
        group: 0,
    });
    // A connection that the kernel does not know.
    publisher.add(&ConnInfo {
        state: State::Init,
        mode: Mode::Tcp,
        role: Role::Client,
        reason: None,
        local: Some("192.0.2.1:1".parse().unwrap()),
        peer: Some("192.0.2.2:2".parse().unwrap()),
        group: 0,
    });
    publisher.fallback(Reason::PeerNoSmc);
    publisher.fallback(Reason::PeerNoSmc);
    publisher.fallback(Reason::Rule);
    publisher.count(Counter::HandshakesStarted);
    publisher.count(Mode::Tcp.counter());
    let pid = std::process::id().to_string();

    let output = run(&["--pid", &pid]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = stdout(&output);
    let row = |word: &str| -> Vec<&str> {
        let line = text.lines().find(|line| line.contains(word));
        line.unwrap_or_else(|| panic!("{word}: {text}"))
            .split_whitespace()
            .collect()
    };
    assert_eq!(row("State")[..4], ["State", "Local", "Address", "Peer"]);
    let shown = row("10.0.0.1:6379");
    assert_eq!(
        shown[..9],
        [
            "ACTIVE",
            "10.0.0.1:6379",
            "10.0.0.2:40000",
            "shm",
            "server",
            "-",
            "111111",
            "222222",
            &pid
        ]
    );
    let shown = row(&server.peer_addr().unwrap().to_string());
    assert_eq!(
        shown[3..9],
        ["tcp", "server", "peer-no-smc", "(0x03010000)", "0", "5"]
    );
    let shown = row("192.0.2.1:1");
    assert_eq!(shown[3..8], ["tcp", "client", "-", "-", "-"]);
    assert!(text.contains(Reason::PeerNoSmc.advice()));
    assert!(text.contains(Reason::Rule.advice()));

    let output = run(&["--json", "--pid", &pid]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let process = &all["processes"][0];
    assert_eq!(process["pid"], std::process::id());
    assert_eq!(process["alive"], true);
    assert_eq!(process["counters"]["handshakes-started"], 1);
    let connections = process["connections"].as_array().unwrap();
    assert_eq!(connections.len(), 3);
    let of = |local: &str| connections.iter().find(|c| c["local"] == local).unwrap();
    assert_eq!(of("10.0.0.1:6379")["sent"], 111_111);
    assert_eq!(of("10.0.0.1:6379")["group"], 3);
    assert_eq!(of("192.0.2.1:1")["sent"], Value::Null);
    let server = of(&server.local_addr().unwrap().to_string());
    assert_eq!(server["received"], 5);
    assert_eq!(server["fallback"]["name"], "peer-no-smc");
    assert_eq!(server["fallback"]["code"], "0x03010000");
    assert_eq!(all["totals"]["shm"]["sent"], 111_111);
    assert_eq!(all["totals"]["shm"]["open"], 1);
    assert_eq!(all["totals"]["tcp"]["made"], 1);
    assert_eq!(all["fallbacks"][0]["name"], "peer-no-smc");
    assert_eq!(all["fallbacks"][0]["count"], 2);
    assert_eq!(all["fallbacks"][1]["name"], "rule");

    // A reader that goes away at once.
    let mut child = command(&["--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.as_mut().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut complaints = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut complaints)
        .unwrap();
    assert!(!complaints.contains("panic"), "{complaints}");

    publisher.close();
    let output = run(&["--pid", &pid]);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_full_disk_is_reported() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = command(&["--help"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
}

#[test]
fn help_version_and_usage() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("--check-config"));
    assert_eq!(
        stdout(&run(&["-V"])),
        concat!("smcr-stat ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for args in [
        &["--frobnicate"][..],
        &["--pid"],
        &["--pid", "x"],
        &["stray"],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"));
    }
    assert_eq!(run(&["--pid", "0"]).status.code(), Some(3));
}

#[test]
fn configuration_is_checked() {
    let name = format!("smcr-stat-cli-{}.conf", std::process::id());
    let file = std::env::temp_dir().join(name);
    let path = file.to_str().unwrap();
    std::fs::write(&file, "spin_us = 7\nrule tcp port=22\n").unwrap();
    let by_name = run(&["--check-config", path]);
    assert_eq!(by_name.status.code(), Some(0));
    let text = stdout(&by_name);
    for line in ["spin_us = 7", "ring_size = 256K", "rule tcp port=22"] {
        assert!(text.lines().any(|l| l == line), "{text}");
    }
    let by_environment = command(&["--check-config"])
        .env("SMCR_CONFIG", path)
        .output()
        .unwrap();
    assert_eq!(stdout(&by_environment), text);

    std::fs::write(&file, "\nspin_ms = 7\n").unwrap();
    let output = run(&["--check-config", path]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let error = String::from_utf8(output.stderr).unwrap();
    let expected = format!("{path}:2: unknown setting `spin_ms`: did you mean `spin_us`?");
    assert_eq!(error.trim(), format!("smcr-stat: {expected}"));
    std::fs::remove_file(&file).unwrap();
    assert_eq!(run(&["--check-config", path]).status.code(), Some(1));
}

/// Not a test by itself: the process that the next test starts and that kills itself.
#[test]
fn publish_and_die() {
    if std::env::var_os("SMCR_STAT_TEST_DIE").is_none() {
        return;
    }
    let publisher = Publisher::open().unwrap();
    publisher.fallback(Reason::NoAnswer);
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
        .unwrap();
}

#[test]
fn the_dead_are_shown_on_request() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "publish_and_die"])
        .env("SMCR_STAT_TEST_DIE", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = child.id().to_string();
    child.wait().unwrap();
    assert_eq!(run(&["--pid", &pid]).status.code(), Some(3));
    let output = run(&["--all", "--pid", &pid]);
    assert_eq!(output.status.code(), Some(0));
    let text = stdout(&output);
    assert!(
        text.contains(" (dead)") && text.contains("no-answer"),
        "{text}"
    );
    let output = run(&["--all", "--json", "--pid", &pid]);
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(all["processes"][0]["alive"], false);
}

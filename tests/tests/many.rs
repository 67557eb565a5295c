//! Ten thousand connections open at once between two processes: each of them works, and what one
//! costs is known.

mod common;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use common::Peer;
use smcr_tests::scenario::{Preload, paths, stat};

const COUNT: usize = 10_000;

/// Connections made in one go, so that neither end waits long for the other.
const BATCH: usize = 500;

/// Makes room for two descriptors per connection at each end, if this process may.
fn raise_limit() -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: 4096,
        rlim_max: 40_000,
    };
    // SAFETY: a valid struct.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    let mut now = limit;
    // SAFETY: a valid struct.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut now) };
    ensure!(
        raised == 0 || now.rlim_max >= 24_000,
        "the hard limit of descriptors is {}: 24000 are needed",
        now.rlim_max
    );
    Ok(())
}

type Numbers = BTreeMap<String, i64>;

/// What each connection adds.
fn each(before: &Numbers, after: &Numbers, name: &str) -> f64 {
    (after[name] - before[name]) as f64 / COUNT as f64
}

fn report(end: &str, before: &Numbers, after: &Numbers) {
    println!(
        "{end}: {} -> {} descriptors ({:.2} each), anonymous memory {:.2} KiB each, shared {:.2} KiB \
         each, {} mappings",
        before["fds"],
        after["fds"],
        each(before, after, "fds"),
        each(before, after, "anon"),
        each(before, after, "shmem"),
        after["maps"],
    );
}

fn talk(server: &mut Peer, client: &mut Peer, round: u32) -> Result<()> {
    server.say(&format!("talk {round}"))?;
    client.say(&format!("talk {round}"))?;
    client.hear().context("client")?;
    server.hear().context("server")?;
    Ok(())
}

#[test]
fn ten_thousand_connections_at_once() -> Result<()> {
    paths::ensure_built()?;
    raise_limit()?;
    let dir = tempfile::tempdir()?;
    let mut server = Peer::start(dir.path(), "many-server", "", Preload::Library)?;
    let port = server.ask("port")?;
    let mut client = Peer::start(dir.path(), "many-client", &port, Preload::Library)?;
    let before = [server.numbers("usage")?, client.numbers("usage")?];
    let began = std::time::Instant::now();
    for _ in 0..COUNT / BATCH {
        server.say(&format!("accept {BATCH}"))?;
        client.ask(&format!("connect {BATCH}"))?;
        server.hear()?;
    }
    println!("{COUNT} connections in {:?}", began.elapsed());
    for round in 0..3 {
        talk(&mut server, &mut client, round)?;
    }
    let after = [server.numbers("usage")?, client.numbers("usage")?];

    let port: u16 = port.parse()?;
    let snapshot = stat::snapshot()?;
    for (end, peer) in [("server", &server), ("client", &client)] {
        let pid = peer.running.group();
        let process = snapshot.processes.iter().find(|process| process.pid == pid);
        let process = process.with_context(|| format!("smcr-stat does not show the {end}"))?;
        let connections = process.connections.iter();
        let ours = connections.filter(|c| c.has_port(port) && c.is_decided());
        let shm = ours.filter(|c| c.mode == "shm").count();
        let lost: Vec<_> = process
            .fallbacks
            .iter()
            .map(|f| (&f.name, f.count))
            .collect();
        ensure!(shm == COUNT, "{end}: {shm} in mode shm, fallbacks {lost:?}");
    }

    for (i, end) in ["server", "client"].into_iter().enumerate() {
        let (before, after) = (&before[i], &after[i]);
        report(end, before, after);
        // The program's own descriptor and the TCP socket behind it, and few for all together.
        ensure!(each(before, after, "fds") < 2.1, "{end}: descriptors");
        ensure!(each(before, after, "anon") < 4.0, "{end}: anonymous memory");
        // A page of each ring, and the control blocks of both.
        ensure!(each(before, after, "shmem") < 12.0, "{end}: shared memory");
    }

    client.ask("close")?;
    server.ask("close")?;
    for (peer, before) in [&mut server, &mut client].into_iter().zip(&before) {
        let closed = peer.numbers("usage")?;
        println!("closed: {closed:?}");
        // RMBs of one link group are kept for the next connections.
        ensure!(closed["fds"] < before["fds"] + 500, "descriptors left");
    }
    Ok(())
}

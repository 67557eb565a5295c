//! Ten thousand connections open at once between two processes: each of them works, and what one
//! costs is known.

mod common;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use common::Peer;
use smcr_tests::scenario::{Preload, paths, stat};

/// As many as are wanted; fewer where the hard limit of descriptors is far below [`LIMIT`].
const MOST: usize = 10_000;

/// The hard limit of descriptors for each end: too few to keep two for each connection.
const LIMIT: u64 = 20_000;

/// Descriptors that are not connections: RMBs, and a quarter of the library's share, at which it
/// begins to save.
const OTHERS: usize = 1_500;

/// Connections made in one go, so that neither end waits long for the other.
const BATCH: usize = 100;

/// Sets the hard limit for the ends, and says for how many connections it is enough.
fn connections() -> usize {
    let mut limit = libc::rlimit {
        rlim_cur: 4096,
        rlim_max: LIMIT,
    };
    // SAFETY: a valid struct.
    unsafe {
        if libc::setrlimit(libc::RLIMIT_NOFILE, &limit) != 0 {
            // It is lower already.
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        }
    }
    MOST.min(limit.rlim_max as usize - OTHERS)
}

type Numbers = BTreeMap<String, i64>;

/// What each connection adds.
fn each(before: &Numbers, after: &Numbers, name: &str) -> f64 {
    (after[name] - before[name]) as f64 / after["connections"] as f64
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
    let count = connections();
    if count < MOST {
        println!("the hard limit of descriptors allows {count} connections, not {MOST}");
    }
    let dir = tempfile::tempdir()?;
    let mut server = Peer::start(
        dir.path(),
        "many-server",
        &count.to_string(),
        Preload::Library,
    )?;
    let port = server.ask("port")?;
    let mut client = Peer::start(
        dir.path(),
        "many-client",
        &format!("{port} {count}"),
        Preload::Library,
    )?;
    let before = [server.numbers("usage")?, client.numbers("usage")?];
    let began = std::time::Instant::now();
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        server.say(&format!("accept {batch}"))?;
        client.ask(&format!("connect {batch}"))?;
        server.hear()?;
        left -= batch;
    }
    println!("{count} connections in {:?}", began.elapsed());
    for round in 0..3 {
        talk(&mut server, &mut client, round)?;
    }
    let mut after = [server.numbers("usage")?, client.numbers("usage")?];

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
        ensure!(shm == count, "{end}: {shm} in mode shm, fallbacks {lost:?}");
    }

    for (i, end) in ["server", "client"].into_iter().enumerate() {
        let (before, after) = (&before[i], &mut after[i]);
        after.insert("connections".into(), count as i64);
        report(end, before, after);
        // The program's own descriptor, the TCP socket behind most, and few for all together.
        let fds = each(before, after, "fds");
        ensure!((1.0..1.9).contains(&fds), "{end}: descriptors");
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

//! One end is killed in the middle of random traffic, over and over. The other ends as over TCP,
//! and nothing is left behind, neither in the survivor nor on the machine.

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use common::Peer;
use smcr_tests::scenario::{Preload, paths, stat};

/// Rounds if `SMCR_KILL_ROUNDS` does not say otherwise; some 30 a second.
const ROUNDS: u64 = 1000;

/// Rounds after which the survivor has all the caches and pools that it will ever have.
const WARM: u64 = 100;

/// What came of it.
struct Report {
    victims: Vec<u32>,
    ends: BTreeMap<String, i64>,
    survivor: u32,
    port: u16,
}

fn rounds() -> u64 {
    let asked = std::env::var("SMCR_KILL_ROUNDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(ROUNDS)
}

/// The same numbers at each run: what differs is when the machine does what.
fn random(round: u64, most: u64) -> u64 {
    let mut x = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) % most
}

fn run(rounds: u64, preload: Preload) -> Result<Report> {
    let dir = tempfile::tempdir()?;
    let mut survivor = Peer::start(dir.path(), "survivor", "", preload)?;
    let port: u16 = survivor.ask("port")?.parse()?;
    let mut victims = Vec::new();
    let mut ends = BTreeMap::new();
    let mut warm = None;
    for round in 0..rounds {
        let seed = random(round, 1 << 40) << 8;
        let connections = 1 + random(round * 5 + 1, 4);
        // Some in the handshake or close to it, most while data flows.
        let longest = if round / 2 % 4 == 0 { 2_000 } else { 40_000 };
        let kill_us = random(round * 7 + 2, longest);
        let role = if round % 2 == 0 { "client" } else { "server" };
        let mut command = Command::new(env!("CARGO_BIN_EXE_smcr-peer"));
        command
            .args(["victim", role])
            .args([port.into(), seed, connections, kill_us].map(|n: u64| n.to_string()))
            .stdout(Stdio::piped());
        if preload == Preload::Library {
            command.env("LD_PRELOAD", paths::library());
        }
        let mut victim = command.spawn()?;
        victims.push(victim.id());
        if role == "server" {
            let mut line = String::new();
            if let Some(stdout) = victim.stdout.take() {
                BufReader::new(stdout).read_line(&mut line)?;
            }
            survivor.ask(&format!("connect {} {seed} {connections}", line.trim()))?;
        }
        let status = victim.wait()?;
        ensure!(status.signal() == Some(libc::SIGKILL), "victim: {status}");
        ends = survivor.numbers("settle").with_context(|| {
            format!("round {round}, {role} killed after {kill_us} us, seed {seed}")
        })?;
        ensure!(
            ends["wrong"] == 0,
            "round {round}: {ends:?}: {}",
            survivor.running.stop()
        );
        if round == WARM {
            warm = Some(survivor.numbers("usage")?);
        }
    }
    // The library's helper thread goes when it had nothing to do for two seconds.
    std::thread::sleep(Duration::from_millis(2500));
    let last = survivor.numbers("usage")?;
    println!("{rounds} rounds: {ends:?}\nafter {WARM}: {warm:?}\nin the end: {last:?}");
    if let Some(warm) = warm {
        ensure!(
            last["fds"] <= warm["fds"] + 8,
            "descriptors: {warm:?} -> {last:?}"
        );
        ensure!(
            last["maps"] <= warm["maps"] + 60,
            "mappings: {warm:?} -> {last:?}"
        );
        ensure!(
            last["anon"] <= warm["anon"] + 8192,
            "memory: {warm:?} -> {last:?}"
        );
        ensure!(
            last["shmem"] <= warm["shmem"] + 16384,
            "memory: {warm:?} -> {last:?}"
        );
    }
    let group = survivor.running.group();
    let made = made(group)?;
    println!("connections of the survivor, by mode: {made:?}");
    ensure!(
        preload == Preload::None || made.0 >= rounds / 4,
        "few rounds were over SMC"
    );
    survivor.running.stop();
    Ok(Report {
        victims,
        ends,
        survivor: group,
        port,
    })
}

/// How many connections a process ever had over shared memory, and over TCP.
fn made(pid: u32) -> Result<(u64, u64)> {
    let snapshot = stat::snapshot()?;
    let process = snapshot.processes.iter().find(|process| process.pid == pid);
    if let Some(process) = process {
        let fallbacks = process.fallbacks.iter().map(|f| (&f.name, f.count));
        println!("fallbacks: {:?}", fallbacks.collect::<Vec<_>>());
    }
    Ok(process.map_or((0, 0), |process| (process.made("shm"), process.made("tcp"))))
}

/// Pages of these processes in /dev/shm.
fn pages(pids: &[u32]) -> Result<Vec<PathBuf>> {
    // SAFETY: takes nothing.
    let uid = unsafe { libc::geteuid() };
    let dir = PathBuf::from(format!("/dev/shm/smcr-{uid}"));
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pid = name.split('-').next().and_then(|pid| pid.parse().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            found.push(path);
        }
    }
    Ok(found)
}

#[test]
fn the_survivor_ends_as_over_tcp_and_nothing_is_left() -> Result<()> {
    paths::ensure_built()?;
    let began = Instant::now();
    let report = run(rounds(), Preload::Library)?;
    println!("took {:?}", began.elapsed());
    ensure!(report.ends["eofs"] > 0 && report.ends["resets"] > 0);

    // Names of the survivor's port, and of connections to it.
    let names = std::fs::read_to_string("/proc/net/unix")?;
    let port = report.port.to_string();
    let stray: Vec<&str> = names
        .lines()
        .filter_map(|line| line.split_once("@smcr-"))
        .map(|(_, name)| name)
        .filter(|name| name.split('-').any(|part| part == port))
        .collect();
    ensure!(stray.is_empty(), "rendezvous names left: {stray:?}");

    // Pages of dead processes are kept for ten seconds from the first look at them.
    let until = Instant::now() + Duration::from_secs(20);
    let mut pids = report.victims;
    pids.push(report.survivor);
    while !pages(&pids)?.is_empty() {
        ensure!(Instant::now() < until, "left: {:?}", pages(&pids)?);
        stat::snapshot()?;
        std::thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// The test is fair: TCP itself passes it.
#[test]
fn tcp_does_the_same() -> Result<()> {
    paths::ensure_built()?;
    run(100, Preload::None).map(drop)
}

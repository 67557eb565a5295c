//! Processes that end with bytes on their way, that fork, and that become another program.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Both, GONE, new_port, next_works, run_cases};
use crate::lab::actor::PROMPT;
use crate::lab::{Actor, Pair, Under};

pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    run_cases(
        pair,
        &[
            ("the process ends behind its bytes", last_bytes),
            ("ended by a signal behind its bytes", signalled),
            ("a child for each connection", |pair| served(pair, "fork")),
            ("workers that share a listener", |pair| {
                served(pair, "prefork")
            }),
            ("a program that becomes another one", |pair| {
                served(pair, "exec")
            }),
            ("a child killed while it works", child_killed),
        ],
    )
}

/// Sends and ends: everything arrives, and then the end of the stream.
fn last_bytes(pair: &mut Pair) -> Result<()> {
    for how in ["exit", "_exit", "return"] {
        for stream in ["close", "open"] {
            for size in [1usize, 200_000, 1 << 20] {
                let what = format!("{size} bytes, {stream}, {how}");
                let mut both = Both::over_rdma(pair)?;
                // Slow: all that fits is on its way when the process ends.
                let end = format!("end {size} {stream} {how}");
                both.client.tell(&end)?;
                std::thread::sleep(Duration::from_millis(500));
                let received = both.server.ask("until-end").context(what.clone())?;
                let expected = format!("END {}", size + 10_000);
                ensure!(received.text == expected, "{what}: {received}");
                let ended = both.client.process().wait_a_while(PROMPT)?;
                ensure!(ended.is_some(), "{what}: the process stays");
            }
        }
    }
    next_works(pair)
}

/// Nothing of the library runs when a signal ends the process: what its peer had no room for is
/// lost, and the peer finds a reset, so that a stream that ends early does not look whole.
fn signalled(pair: &mut Pair) -> Result<()> {
    const SENT: usize = 1 << 20;
    let mut both = Both::over_rdma(pair)?;
    let send = both.client.tell(&format!("send {SENT}"))?;
    // The other does not read yet: the buffers of both ends are full.
    std::thread::sleep(Duration::from_secs(2));
    both.client.process().kill(libc::SIGTERM)?;
    let received = both.server.ask("until-end")?;
    let sent = both.client.look(send, Duration::ZERO)?;
    let sent = sent.map_or_else(|| "send() was blocked".to_owned(), |sent| sent.to_string());
    pair.note("ended by SIGTERM", format!("{received}; {sent}"));
    ensure!(received.is_one_of(&["ECONNRESET"]), "{received}");
    next_works(pair)
}

/// Some connections one after the other, to a server that has other processes serve them.
fn served(pair: &mut Pair, how: &str) -> Result<()> {
    let mut server = Actor::start(&pair.server, Under::Library)?;
    let port = new_port();
    server.ask(&format!("listen {port}"))?.expect("ok")?;
    server.tell(&format!("serve {how}"))?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Actor::start(&pair.client, Under::Library)?;
        let address = pair.server.address();
        client
            .ask(&format!("connect {address} {port}"))?
            .expect("ok")?;
        let echoed = client.ask("echoed 300000")?;
        ensure!(echoed.text == "echoed 300000", "{echoed}");
        let seen = client.seen(&pair.client)?;
        ensure!(
            seen.made("rdma") == 1,
            "not over RDMA: {}",
            crate::lab::actor::reasons(&seen)
        );
        clients.push(client);
    }
    for client in &mut clients {
        let echoed = client.ask("echoed 100000")?;
        ensure!(echoed.text == "echoed 400000", "{echoed}");
        client.ask("close")?.expect("ok")?;
    }
    drop(clients);
    drop(server);
    next_works(pair)
}

/// As over TCP: the stream of the killed child ends, and the others go on.
fn child_killed(pair: &mut Pair) -> Result<()> {
    let mut server = Actor::start(&pair.server, Under::Library)?;
    let port = new_port();
    server.ask(&format!("listen {port}"))?.expect("ok")?;
    server.tell("serve fork")?;
    let connect = format!("connect {} {port}", pair.server.address());
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Actor::start(&pair.client, Under::Library)?;
        client.ask(&connect)?.expect("ok")?;
        let echoed = client.ask("echoed 1000")?;
        ensure!(echoed.text == "echoed 1000", "{echoed}");
        clients.push(client);
    }
    // The first one serves the first client.
    let children = pair.server.sh(format!("pgrep -P {}", server.pid()))?;
    let children: Vec<&str> = children.lines().collect();
    ensure!(children.len() == 2, "{children:?}");
    let busy = clients[0].tell("echoed 400000000")?;
    std::thread::sleep(Duration::from_secs(1));
    pair.server.sh(format!("kill -9 {}", children[0]))?;
    let began = std::time::Instant::now();
    let mut ended = clients[0].answer(busy, PROMPT)?;
    ended.seconds = began.elapsed().as_secs_f64();
    pair.note("the killed child's peer", ended.to_string());
    let words: Vec<&str> = [&["END"], GONE].concat();
    ensure!(ended.is_one_of(&words), "{ended}");
    ensure!(ended.seconds < 6.0, "{ended}");
    let echoed = clients[1].ask("echoed 100000")?;
    ensure!(echoed.text == "echoed 101000", "{echoed}");
    let mut client = Actor::start(&pair.client, Under::Library)?;
    client.ask(&connect)?.expect("ok")?;
    let echoed = client.ask("echoed 100000")?;
    ensure!(echoed.text == "echoed 100000", "{echoed}");
    drop((clients, client, server));
    next_works(pair)
}

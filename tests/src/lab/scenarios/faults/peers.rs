//! The peer's process is killed, or stopped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Both, gone_within, next_works, run_cases};
use crate::lab::Pair;
use crate::lab::actor::PROMPT;

/// A peer that is gone is noticed within this: the TCP connection says so, and the link does not
/// answer any more.
const KILLED: Duration = Duration::from_secs(6);

const BYTES: usize = 40 << 20;
const LONG: Duration = Duration::from_secs(90);

pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    run_cases(
        pair,
        &[
            ("killed while idle", killed_idle),
            ("killed while it sends", killed_sending),
            ("killed while the other sends", killed_receiving),
            ("stopped for 1 s", stopped_shortly),
            ("stopped for 40 s, idle", |pair| stopped(pair, false)),
            ("stopped for 40 s while the other sends", |pair| {
                stopped(pair, true)
            }),
        ],
    )
}

fn killed_idle(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.client.tell("recv 1")?;
    both.server.process().kill(libc::SIGKILL)?;
    let began = std::time::Instant::now();
    let mut received = both.client.answer(receive, PROMPT)?;
    received.seconds = began.elapsed().as_secs_f64();
    pair.note("killed while idle", format!("recv(): {received}"));
    // As TCP: nothing was unread, so it is the end of the stream.
    ensure!(received.is_one_of(&["END"]), "recv: {received}");
    ensure!(received.seconds <= KILLED.as_secs_f64(), "{received}");
    next_works(pair)
}

fn killed_sending(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.client.tell("until-end")?;
    both.server.tell(&format!("send {}", 100 * BYTES))?;
    std::thread::sleep(Duration::from_secs(1));
    both.server.process().kill(libc::SIGKILL)?;
    let began = std::time::Instant::now();
    let mut received = both.client.answer(receive, PROMPT)?;
    received.seconds = began.elapsed().as_secs_f64();
    pair.note("killed while it sends", format!("recv(): {received}"));
    ensure!(
        received.is_one_of(&["END", "ECONNRESET"]),
        "recv: {received}"
    );
    ensure!(received.seconds <= KILLED.as_secs_f64(), "{received}");
    next_works(pair)
}

/// The receiver does not read: the sender is blocked.
fn killed_receiving(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let send = both.client.tell(&format!("send {BYTES}"))?;
    std::thread::sleep(Duration::from_secs(1));
    both.server.process().kill(libc::SIGKILL)?;
    let began = std::time::Instant::now();
    let mut sent = both.client.answer(send, PROMPT)?;
    sent.seconds = began.elapsed().as_secs_f64();
    pair.note("killed while the other sends", format!("send(): {sent}"));
    gone_within(&sent, KILLED, "send()")?;
    next_works(pair)
}

fn stopped_shortly(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.server.tell(&format!("recv {BYTES}"))?;
    let send = both.client.tell(&format!("send {BYTES}"))?;
    std::thread::sleep(Duration::from_millis(300));
    both.server.process().kill(libc::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(1));
    both.server.process().kill(libc::SIGCONT)?;
    let sent = both.client.answer(send, LONG)?;
    let received = both.server.answer(receive, LONG)?;
    ensure!(sent.is_one_of(&["sent"]), "send: {sent}");
    ensure!(received.is_one_of(&["received"]), "recv: {received}");
    both.exchange()?;
    next_works(pair)
}

/// Longer than TEST LINK waits: its adapter answers, so it is there, as over TCP.
fn stopped(pair: &mut Pair, sending: bool) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let transfer = if sending { 4 << 20 } else { 1 };
    let receive = both.server.tell(&format!("recv {transfer}"))?;
    std::thread::sleep(Duration::from_millis(300));
    both.server.process().kill(libc::SIGSTOP)?;
    let wait = sending.then(|| both.client.tell(&format!("send {transfer}")));
    std::thread::sleep(Duration::from_secs(40));
    let wait = match wait {
        Some(wait) => wait?,
        None => both.client.tell("send 1")?,
    };
    both.server.process().kill(libc::SIGCONT)?;
    let sent = both.client.answer(wait, LONG).context("the sender")?;
    let received = both
        .server
        .answer(receive, LONG)
        .context("the stopped one")?;
    super::note_both(pair, "stopped", &received, &sent);
    ensure!(sent.is_one_of(&["sent"]), "send: {sent}");
    ensure!(received.is_one_of(&["received"]), "recv: {received}");
    both.exchange()?;
    next_works(pair)
}

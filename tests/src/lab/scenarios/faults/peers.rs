//! The peer's process is killed, or stopped.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

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
            ("stopped for 40 s, idle", stopped_idle),
            ("stopped for 120 s while the other sends", stopped_full),
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
fn stopped_idle(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.server.tell("recv 1")?;
    std::thread::sleep(Duration::from_millis(300));
    both.server.process().kill(libc::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(40));
    let send = both.client.tell("send 1")?;
    goes_on(pair, both, send, receive)
}

/// More is sent than the buffers take. Nobody gives up by itself, as over TCP.
fn stopped_full(pair: &mut Pair) -> Result<()> {
    const WAITING: usize = 4 << 20;
    let mut both = Both::over_rdma(pair)?;
    let receive = both.server.tell(&format!("recv {WAITING}"))?;
    std::thread::sleep(Duration::from_millis(300));
    both.server.process().kill(libc::SIGSTOP)?;
    let send = both.client.tell(&format!("send {WAITING}"))?;
    if let Some(sent) = both.client.look(send, Duration::from_secs(120))? {
        bail!("send() to a stopped peer: {sent}");
    }
    goes_on(pair, both, send, receive)
}

fn goes_on(pair: &mut Pair, mut both: Both, send: usize, receive: usize) -> Result<()> {
    both.server.process().kill(libc::SIGCONT)?;
    let sent = both.client.answer(send, LONG).context("the sender")?;
    let received = both
        .server
        .answer(receive, LONG)
        .context("the stopped one")?;
    super::note_both(pair, "stopped", &received, &sent);
    ensure!(sent.is_one_of(&["sent"]), "send: {sent}");
    ensure!(received.is_one_of(&["received"]), "recv: {received}");
    both.exchange()?;
    both.expect_mode(pair, "rdma")?;
    next_works(pair)
}

//! The network fails, or a machine stands still.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Both, gone_within, guests, next_works, note_both, run_cases};
use crate::lab::{Answer, Counters, Pair};

/// What is moved while the network fails.
const BYTES: usize = 40 << 20;

/// How long emulated machines may take for that.
const LONG: Duration = Duration::from_secs(90);

/// A link that is written to is given up after this; at the other end, TEST LINK finds it 32 s
/// after the last sign of life.
const WRITING: Duration = Duration::from_secs(6);
const READING: Duration = Duration::from_secs(36);

/// Where the own cable is out, packets wait for an answer to ARP before they are lost, and soft RoCE
/// for them.
const WITHOUT_CARRIER: Duration = Duration::from_secs(20);

pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    run_cases(
        pair,
        &[
            ("cable out for 1 s at the server", |pair| {
                short_cut(pair, true)
            }),
            ("cable out for 1 s at the client", |pair| {
                short_cut(pair, false)
            }),
            ("everything lost for 1 s", short_loss),
            ("cable out at the server", |pair| long_cut(pair, true)),
            ("cable out at the client", |pair| long_cut(pair, false)),
            ("guest paused for 1 s", paused_shortly),
            ("guest paused for 60 s, idle", paused_idle),
            ("guest paused for 60 s while the peer sends", paused_sending),
        ],
    )
}

/// A cable further away, or a switch: neither end sees anything of it.
fn short_loss(pair: &mut Pair) -> Result<()> {
    // Without traffic: while one queue takes the place of another the interface refuses packets.
    in_both(pair, "tc qdisc add dev eth0 root netem loss 0%")?;
    let ended = during(pair, |pair| {
        in_both(pair, "tc qdisc change dev eth0 root netem loss 100%")?;
        std::thread::sleep(Duration::from_secs(1));
        in_both(pair, "tc qdisc change dev eth0 root netem loss 0%")
    });
    in_both(pair, "tc qdisc del dev eth0 root")?;
    let (sent, received) = ended?;
    note_both(pair, "a short loss", &received, &sent);
    ensure!(received.is_one_of(&["received"]), "recv: {received}");
    next_works(pair)
}

fn in_both(pair: &mut Pair, command: &str) -> Result<()> {
    for guest in pair.guests() {
        guest.sh(command)?;
    }
    Ok(())
}

/// Soft RoCE since Linux 6.10 gives a link up for good when it wants to send and the interface
/// refuses the packet, as one without carrier does. It depends on the moment whether it does, and nobody can mend it from here.
fn short_cut(pair: &mut Pair, at_server: bool) -> Result<()> {
    let before = Counters::read(guests(pair, at_server))?;
    let (sent, received) = during(pair, |pair| cut(pair, at_server, Duration::from_secs(1)))?;
    let now = Counters::read(guests(pair, at_server))?;
    let refused = now.since(&before).get("send_err").copied().unwrap_or(0);
    let what = format!("a short cut ({refused} packets refused)");
    note_both(pair, &what, &received, &sent);
    if !received.is_one_of(&["received"]) {
        ensure!(refused > 0, "recv: {received}");
        let (here, there) = if at_server {
            (&received, &sent)
        } else {
            (&sent, &received)
        };
        ensure!(here.is_one_of(&["ECONNRESET"]), "at the cable: {here}");
        // A receiver learns of it by a question.
        let deadline = if at_server { WRITING } else { READING };
        gone_within(there, deadline, "at the other end")?;
    }
    next_works(pair)
}

/// The client sends and the server receives while something happens. If all arrives, the connection
/// works afterwards.
fn during(
    pair: &mut Pair,
    happens: impl FnOnce(&mut Pair) -> Result<()>,
) -> Result<(Answer, Answer)> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.server.tell(&format!("recv {BYTES}"))?;
    let send = both.client.tell(&format!("send {BYTES}"))?;
    std::thread::sleep(Duration::from_millis(300));
    happens(pair)?;
    let sent = both.client.answer(send, LONG)?;
    let received = both.server.answer(receive, LONG)?;
    if received.is_one_of(&["received"]) {
        both.exchange()?;
        both.expect_mode(pair, "rdma")?;
    }
    Ok((sent, received))
}

fn cut(pair: &mut Pair, at_server: bool, time: Duration) -> Result<()> {
    guests(pair, at_server).set_link(false)?;
    std::thread::sleep(time);
    guests(pair, at_server).set_link(true)
}

fn long_cut(pair: &mut Pair, at_server: bool) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.server.tell(&format!("recv {}", 100 * BYTES))?;
    let send = both.client.tell(&format!("send {}", 100 * BYTES))?;
    std::thread::sleep(Duration::from_secs(1));
    guests(pair, at_server).set_link(false)?;
    let began = std::time::Instant::now();
    let ended = (|| {
        let mut sent = both.client.answer(send, LONG)?;
        sent.seconds = began.elapsed().as_secs_f64();
        let mut received = both.server.answer(receive, LONG)?;
        received.seconds = began.elapsed().as_secs_f64();
        anyhow::Ok((received, sent))
    })();
    guests(pair, at_server).set_link(true)?;
    let (received, sent) = ended?;
    note_both(pair, "a long cut", &received, &sent);
    let deadline = if at_server { WRITING } else { WITHOUT_CARRIER };
    gone_within(&sent, deadline, "send()")?;
    gone_within(&received, READING, "recv()")?;
    next_works(pair)
}

fn paused_shortly(pair: &mut Pair) -> Result<()> {
    let (sent, received) = during(pair, |pair| {
        pair.server.pause()?;
        std::thread::sleep(Duration::from_secs(1));
        pair.server.resume()
    })?;
    note_both(pair, "a short pause", &received, &sent);
    ensure!(received.is_one_of(&["received"]), "recv: {received}");
    next_works(pair)
}

/// Nobody sends: after 30 s the peer of the paused guest asks, and is not answered.
fn paused_idle(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let client = both.client.tell("recv 1")?;
    let server = both.server.tell("recv 1")?;
    pair.server.pause()?;
    let answered = both.client.answer(client, Duration::from_secs(60));
    std::thread::sleep(Duration::from_secs(20));
    pair.server.resume()?;
    let client = answered.context("the peer of the paused guest")?;
    let server = both
        .server
        .answer(server, LONG)
        .context("in the paused guest")?;
    note_both(pair, "a long pause, idle", &server, &client);
    gone_within(&client, READING, "recv() at the peer")?;
    gone_within(&server, READING, "recv() in the paused guest")?;
    next_works(pair)
}

fn paused_sending(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let receive = both.server.tell(&format!("recv {}", 100 * BYTES))?;
    let send = both.client.tell(&format!("send {}", 100 * BYTES))?;
    std::thread::sleep(Duration::from_secs(1));
    pair.server.pause()?;
    let began = std::time::Instant::now();
    let sent = both.client.answer(send, LONG);
    let took = began.elapsed();
    std::thread::sleep(Duration::from_secs(60).saturating_sub(took));
    pair.server.resume()?;
    let mut sent = sent.context("the sender")?;
    sent.seconds = took.as_secs_f64();
    let resumed = std::time::Instant::now();
    let mut received = both.server.answer(receive, LONG).context("the receiver")?;
    received.seconds = resumed.elapsed().as_secs_f64();
    note_both(pair, "a long pause, sending", &received, &sent);
    // The emulated network stands still, and with it the sender's interface: its adapter waits.
    gone_within(&sent, READING, "send()")?;
    gone_within(&received, READING, "recv()")?;
    next_works(pair)
}

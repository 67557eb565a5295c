//! The RoCE device goes, and comes back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Both, gone_within, guests, next_works, note_both, run_cases};
use crate::lab::actor::PROMPT;
use crate::lab::{Guest, Pair, Under};

/// At the guest that lost it: the thread looks every second.
const HERE: Duration = Duration::from_secs(4);

/// At the other one: its own retries, or the question whether the peer is there.
const THERE: Duration = Duration::from_secs(6);

const REMOVE: &str = "rdma link del rxe0";

const ADD: &str = "rdma link add rxe0 type rxe netdev eth0 && \
    for _ in $(seq 100); do \
    grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state && \
    grep -q 0000:0000:0000:0000:0000:ffff:0a4d /sys/class/infiniband/rxe0/ports/1/gids/1 && \
    exit 0; sleep 0.1; done; exit 1";

pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    run_cases(
        pair,
        &[
            ("no device at the server", |pair| absent(pair, true)),
            ("no device at the client", |pair| absent(pair, false)),
            ("device removed at the server", |pair| removed(pair, true)),
            ("device removed at the client", |pair| removed(pair, false)),
            ("interface down and up", interface),
        ],
    )
}

fn absent(pair: &mut Pair, at_server: bool) -> Result<()> {
    remove(guests(pair, at_server))?;
    let connected = Both::connect(pair, Under::Library, Under::Library);
    let reasons = connected.and_then(|both| {
        both.expect_mode(pair, "tcp")?;
        both.reasons(pair)
    });
    guests(pair, at_server).sh(ADD)?;
    let [server, client] = reasons?;
    pair.note("reasons", format!("server: {server}; client: {client}"));
    // A client that has none does not ask.
    let (here, there) = if at_server {
        (server, client)
    } else {
        (client, server)
    };
    ensure!(here == "no-rdma-device", "{here}");
    let declined = if at_server {
        "peer-declined"
    } else {
        "peer-no-smc"
    };
    ensure!(there == declined, "{there}");
    next_works(pair)
}

/// For how long a process takes it that there is no device, and a little more.
const REMEMBERED: Duration = Duration::from_millis(1200);

/// Both ends sleep in recv(). The same programs go on afterwards.
fn removed(pair: &mut Pair, at_server: bool) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    let server = both.server.tell("recv 1")?;
    let client = both.client.tell("recv 1")?;
    let removed = remove(guests(pair, at_server));
    let answers = removed.and_then(|()| {
        let server = both.server.answer(server, PROMPT).context("the server")?;
        let client = both.client.answer(client, PROMPT).context("the client")?;
        Ok((server, client))
    });
    let again = answers.and_then(|answers| {
        both.connect_again(pair).context("over TCP")?;
        both.expect_mode(pair, "tcp")?;
        Ok(answers)
    });
    guests(pair, at_server).sh(ADD)?;
    let (server, client) = again?;
    note_both(pair, "recv()", &server, &client);
    let (here, there) = if at_server {
        (&server, &client)
    } else {
        (&client, &server)
    };
    gone_within(here, HERE + Duration::from_secs(2), "at the device")?;
    gone_within(there, THERE + Duration::from_secs(2), "at the other end")?;
    // That there was none is remembered for a second.
    std::thread::sleep(REMEMBERED);
    both.connect_again(pair).context("with the device back")?;
    both.expect_mode(pair, "rdma")
        .context("with the device back")?;
    next_works(pair)
}

fn remove(guest: &Guest) -> Result<()> {
    let removed = guest.run(REMOVE, Duration::from_secs(15));
    removed.context("rdma link del")?.success().map(drop)
}

/// `ip link set eth0 down`: TCP would survive it, a queue pair cannot send.
fn interface(pair: &mut Pair) -> Result<()> {
    let mut both = Both::over_rdma(pair)?;
    pair.client.sh("ip link set eth0 down")?;
    std::thread::sleep(Duration::from_millis(300));
    pair.client.sh(
        "ip link set eth0 up; ip address add fd77::2/64 dev eth0 nodad 2>/dev/null; \
         for _ in $(seq 100); do \
         grep -q ACTIVE /sys/class/infiniband/rxe0/ports/1/state && exit 0; \
         sleep 0.1; done; exit 1",
    )?;
    both.exchange().context("after 0.3 s without interface")?;
    next_works(pair)
}

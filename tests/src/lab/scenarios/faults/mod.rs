//! What can go wrong between two machines: each case ends as `rfc7609-notes/failures.md` says, and
//! the next connection works.

pub(super) mod device;
pub(super) mod network;
pub(super) mod peers;
pub(super) mod processes;
pub(super) mod refused;

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::actor::{PROMPT, reasons};
use crate::lab::{Actor, Answer, Guest, Library, Pair, Under};

/// What calls fail with when a link is gone.
const GONE: &[&str] = &["ECONNRESET", "ETIMEDOUT", "EPIPE"];

/// Ports are not used twice: an old connection would be found in TIME_WAIT.
static PORT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(7000);

fn new_port() -> u16 {
    PORT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Both ends of one connection.
struct Both {
    server: Actor,
    client: Actor,
}

impl Both {
    /// Starts two programs and connects them. A few bytes go both ways.
    fn connect(pair: &Pair, server: Under, client: Under) -> Result<Self> {
        let mut both = Self {
            server: Actor::start(&pair.server, server)?,
            client: Actor::start(&pair.client, client)?,
        };
        both.connect_again(pair)?;
        Ok(both)
    }

    /// Under the library at both ends, and over RDMA.
    fn over_rdma(pair: &Pair) -> Result<Self> {
        let both = Self::connect(pair, Under::Library, Under::Library)?;
        both.expect_mode(pair, "rdma")?;
        Ok(both)
    }

    /// One more connection between the same programs.
    fn connect_again(&mut self, pair: &Pair) -> Result<()> {
        let port = new_port();
        let Self { server, client } = self;
        server.ask(&format!("listen {port}"))?.expect("ok")?;
        let accept = server.tell("accept")?;
        let address = pair.server.address();
        client
            .ask(&format!("connect {address} {port}"))?
            .expect("ok")?;
        server.answer(accept, PROMPT)?.expect("ok")?;
        self.exchange()
    }

    /// Some bytes go both ways.
    fn exchange(&mut self) -> Result<()> {
        const BYTES: usize = 10_000;
        for to_server in [true, false] {
            let (from, to) = match to_server {
                true => (&mut self.client, &mut self.server),
                false => (&mut self.server, &mut self.client),
            };
            let receive = to.tell(&format!("recv {BYTES}"))?;
            let sent = from.ask(&format!("send {BYTES}"))?;
            ensure!(sent.is_one_of(&["sent"]), "send: {sent}");
            let received = to.answer(receive, PROMPT)?;
            ensure!(received.is_one_of(&["received"]), "recv: {received}");
        }
        Ok(())
    }

    /// An error unless both ends had connections in this mode, and the newest is.
    fn expect_mode(&self, pair: &Pair, mode: &str) -> Result<()> {
        for (actor, guest) in [(&self.server, &pair.server), (&self.client, &pair.client)] {
            let seen = actor.seen(guest)?;
            let connections = seen.connections.iter();
            let decided = connections.filter(|c| c.is_decided() && !c.state.contains("CLOSE"));
            let modes: Vec<String> = decided
                .map(|c| format!("{} {} {}", c.mode, c.state, c.reason()))
                .collect();
            ensure!(
                modes.iter().any(|found| found.starts_with(mode)),
                "no connection over {mode} at the {}, but {modes:?}; {}",
                guest.name(),
                reasons(&seen)
            );
        }
        Ok(())
    }

    /// Both ends' reasons: the server's, the client's.
    fn reasons(&self, pair: &Pair) -> Result<[String; 2]> {
        Ok([
            reasons(&self.server.seen(&pair.server)?),
            reasons(&self.client.seen(&pair.client)?),
        ])
    }
}

/// Waits for two answers, and notes both.
fn note_both(pair: &mut Pair, what: &str, server: &Answer, client: &Answer) {
    pair.note(what, format!("server: {server}; client: {client}"));
}

/// An error unless a call failed as on a link that is gone, within so many seconds.
fn gone_within(answer: &Answer, deadline: Duration, what: &str) -> Result<()> {
    ensure!(answer.is_one_of(GONE), "{what}: {answer}");
    ensure!(
        answer.seconds <= deadline.as_secs_f64(),
        "{what}: {answer}, not within {} s",
        deadline.as_secs()
    );
    Ok(())
}

/// New programs connect, over RDMA.
fn next_works(pair: &Pair) -> Result<()> {
    Both::over_rdma(pair)
        .context("the next connection")
        .map(drop)
}

/// Soft RoCE tells what fails, but not each step of each packet.
const RXE_TELLS: &str = "echo 'module rdma_rxe +p; module rdma_rxe format state -p' \
    >/sys/kernel/debug/dynamic_debug/control";

/// What goes wrong, and how it is tried.
type Case = (&'static str, fn(&mut Pair) -> Result<()>);

/// Runs cases under the library, and says which one failed. `SMCR_LAB_CASE` is part of the names of
/// those to run, `SMCR_LAB_REPEAT` how often each.
fn run_cases(pair: &mut Pair, cases: &[Case]) -> Result<()> {
    Library::start(pair)?;
    let only = std::env::var("SMCR_LAB_CASE").unwrap_or_default();
    let repeat = std::env::var("SMCR_LAB_REPEAT").ok();
    let repeat = repeat.and_then(|times| times.parse().ok()).unwrap_or(1);
    for guest in [&pair.server, &pair.client] {
        guest.sh(RXE_TELLS)?;
    }
    let mut failed = Vec::new();
    let wanted = cases.iter().filter(|(name, _)| name.contains(&only));
    for (name, case) in wanted.flat_map(|case| std::iter::repeat_n(case, repeat)) {
        let began = std::time::Instant::now();
        for guest in [&pair.server, &pair.client] {
            Library::begin_log(guest)?;
            guest.sh("dmesg --clear")?;
        }
        let ran = case(pair);
        let ran = Library::explain(pair, explain_by_kernel(pair, ran));
        println!("  case {name:?}: {:.0} s", began.elapsed().as_secs_f64());
        if let Err(error) = ran {
            println!("  {name} FAILED: {error:#}");
            failed.push(*name);
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Adds to an error what soft RoCE has to say.
fn explain_by_kernel<T>(pair: &Pair, outcome: Result<T>) -> Result<T> {
    outcome.map_err(|error| {
        let mut text = String::new();
        for guest in [&pair.server, &pair.client] {
            let log = guest.sh("dmesg | grep -v timer | tail -n 20");
            text += &format!(
                "-- the kernel in the {}:\n{}\n",
                guest.name(),
                log.unwrap_or_default()
            );
        }
        error.context(text)
    })
}

/// The guest at this end.
fn guests(pair: &mut Pair, is_server: bool) -> &mut Guest {
    match is_server {
        true => &mut pair.server,
        false => &mut pair.client,
    }
}

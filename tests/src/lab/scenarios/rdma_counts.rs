//! What the library asks of the adapter and of the kernel for so many bytes.

use anyhow::{Result, ensure};

use crate::lab::apps::iperf3::{self, Way};
use crate::lab::apps::{Ran, load, strace};
use crate::lab::{Library, Pair, Sight, Under};

/// No ring is smaller.
const SMALLEST_RING: u64 = 16 << 10;

/// CDC messages that say how a connection ends, at both ends.
const ENDS: u64 = 8;

/// Small messages, then bulk data; with their system calls in runs of their own, since being
/// traced takes time.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    let counted = messages(pair).and_then(|()| bulk(pair));
    Library::explain(pair, counted)
}

/// What both processes of a run did.
struct Work {
    /// Of the client and the server together.
    writes: u64,
    sends: u64,
    doorbells: u64,
    cdc: u64,
    /// Bytes that programs sent.
    bytes: u64,
}

impl Work {
    /// The work of processes that were not there `before`.
    fn since(pair: &Pair, before: &Sight) -> Result<Self> {
        let sight = Sight::of(pair)?.without(before);
        sight.expect_only("rdma")?;
        let sum = |name: &str| sight.server.counter(name) + sight.client.counter(name);
        Ok(Self {
            writes: sum("rdma-writes"),
            sends: sum("rdma-sends"),
            doorbells: sum("rdma-doorbells"),
            cdc: sum("cdc-sent"),
            bytes: sum("closed-sent-rdma"),
        })
    }

    fn per(&self, units: f64) -> String {
        let per = |count: u64| count as f64 / units;
        format!(
            "{:.2} WRITEs, {:.2} SENDs ({:.2} CDC), {:.2} doorbells",
            per(self.writes),
            per(self.sends),
            per(self.cdc),
            per(self.doorbells)
        )
    }
}

/// A message is one WRITE (two where the peer's ring wraps) and one CDC message, in one doorbell.
fn messages(pair: &mut Pair) -> Result<()> {
    let before = Sight::of(pair)?;
    load::ping(pair, Under::Library, 2, false)?;
    let work = Work::since(pair, &before)?;
    let messages = work.bytes / load::MESSAGE;
    pair.note("for each message of 64 B", work.per(messages as f64));
    ensure!(messages > 40, "{messages} messages say little");
    let wraps = work.bytes / SMALLEST_RING + 2;
    ensure!(
        work.writes <= messages + wraps,
        "{} WRITEs for {messages} messages",
        work.writes
    );
    ensure!(
        work.cdc <= messages + ENDS,
        "{} CDC messages for {messages} messages",
        work.cdc
    );
    ensure!(
        work.doorbells == work.sends,
        "{} doorbells for {} posts",
        work.doorbells,
        work.sends
    );
    for under in [Under::Tcp, Under::Library] {
        let before = Sight::of(pair)?;
        load::ping(pair, under, 2, true)?;
        let calls = strace::calls(&pair.client)?;
        // Under the library it is known how many went out.
        let sent = match under {
            Under::Tcp | Under::Linux => calls_of(&calls, "sendto") + calls_of(&calls, "write"),
            Under::Library => {
                let client = Sight::of(pair)?.without(&before).client;
                client.counter("closed-sent-rdma") / load::MESSAGE
            }
        };
        note_calls(pair, "64 B there and back", under, &calls, sent as f64);
    }
    Ok(())
}

/// Bulk data, as iperf3 sends and receives them.
fn bulk(pair: &mut Pair) -> Result<()> {
    for way in [Way::Up, Way::Down] {
        let load = iperf3::Load {
            way,
            ..iperf3::Load::default()
        };
        let before = Sight::of(pair)?;
        let (ran, _) = load.run(pair, Under::Library)?;
        let work = Work::since(pair, &before)?;
        let name = match way {
            Way::Down => "receiving",
            _ => "sending",
        };
        if way == Way::Up {
            pair.note("for each MiB", work.per(mebibytes(&ran)));
            ensure!(
                work.bytes >= ran.bytes,
                "{} bytes are counted, {} came",
                work.bytes,
                ran.bytes
            );
        }
        for under in [Under::Tcp, Under::Library] {
            let counted = iperf3::Load {
                counted: true,
                ..load
            };
            let (ran, _) = counted.run(pair, under)?;
            let calls = strace::calls(&pair.client)?;
            let title = format!("{name} a MiB");
            note_calls(pair, &title, under, &calls, mebibytes(&ran));
        }
    }
    Ok(())
}

fn mebibytes(ran: &Ran) -> f64 {
    ran.bytes as f64 / f64::from(1 << 20)
}

fn calls_of(calls: &[(String, u64)], name: &str) -> u64 {
    let of = calls.iter().filter(|(called, _)| called == name);
    of.map(|(_, count)| count).sum()
}

/// All calls for each unit, and the most frequent ones.
fn note_calls(pair: &mut Pair, what: &str, under: Under, calls: &[(String, u64)], units: f64) {
    let per = |count: u64| format!("{:.2}", count as f64 / units);
    let mut text = per(calls_of(calls, "total"));
    let mut most: Vec<_> = calls.iter().filter(|(name, _)| name != "total").collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (name, count) in most.iter().take(5) {
        text += &format!(", {name} {}", per(*count));
    }
    let under = match under {
        Under::Tcp => "TCP",
        Under::Library => "the library",
        Under::Linux => "Linux's SMC-R",
    };
    pair.note(format!("system calls, {what}, {under}"), text);
}

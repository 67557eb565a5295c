//! smcr-load: plain blocking calls, and nothing else that takes time.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Ran, drive, megabits, strace};
use crate::lab::{Cmd, Ends, Guest, Pair, Process, Sight, quote};
use crate::scenario::paths;
use crate::scenario::process::Finished;

/// One that tshark takes for nobody else's.
const PORT: u16 = 21_800;

/// Bytes of a message.
pub const MESSAGE: u64 = 64;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Messages of 64 bytes back and forth: the median round trip, in seconds.
    Ping,
    /// One way, in calls of so many bytes: bytes per second.
    Stream(u32),
    /// Connect, one byte each way, close, again, in so many threads: connections per second. What
    /// the first one of a link group takes is not in it.
    Rate(u32),
}

impl Work {
    /// What it is, for reports.
    pub fn name(self) -> String {
        match self {
            Self::Ping => format!("round trip of {MESSAGE} bytes"),
            Self::Stream(bytes) => format!("calls of {} KiB", bytes >> 10),
            Self::Rate(1) => "connections, one after the other".to_owned(),
            Self::Rate(threads) => format!("connections, {threads} at a time"),
        }
    }

    /// A figure of it, for reports.
    pub fn text(self, figure: f64) -> String {
        match self {
            Self::Ping => format!("{:.0} us", figure * 1e6),
            Self::Stream(_) => megabits(figure),
            Self::Rate(_) => format!("{figure:.0} /s"),
        }
    }

    /// How many connections a run has to make for that.
    fn connections(self) -> u32 {
        match self {
            Self::Ping | Self::Stream(_) => 1,
            Self::Rate(threads) => threads,
        }
    }

    fn words(self) -> (&'static str, String) {
        match self {
            Self::Ping => ("ping", String::new()),
            Self::Stream(bytes) => ("stream", bytes.to_string()),
            Self::Rate(_) => ("rate", String::new()),
        }
    }
}

/// Messages of 64 bytes back and forth for some seconds. Returns the median round trip in seconds,
/// too. `counted`: the client's system calls are counted.
pub fn ping(
    pair: &Pair,
    under: impl Into<Ends>,
    seconds: u32,
    counted: bool,
) -> Result<(Ran, f64)> {
    run(pair, under, Work::Ping, seconds, counted)
}

/// From the start of a program that makes two connections, one after the other, to its end.
pub fn once(pair: &Pair, under: impl Into<Ends>) -> Result<Duration> {
    let ends = under.into();
    let mut server = serve(pair, ends, Work::Rate(1), str::to_owned)?;
    // By the guest's own clock: to start a program takes the host's time, too.
    let client = ends.client.line(&client(pair, Work::Rate(1), 0));
    let line =
        format!("began=$(date +%s%N); {client} >/dev/null && echo $(( $(date +%s%N) - began ))");
    let (finished, _) = drive(
        pair,
        ends,
        &mut server,
        Cmd::new(line),
        Duration::from_secs(40),
    )?;
    let nanoseconds = finished.stdout.trim().parse();
    nanoseconds
        .map(Duration::from_nanos)
        .with_context(|| format!("the time is missing: {finished}"))
}

/// As [`run`], with all system calls of both ends traced: what ran, and the traces of the server
/// and of the client.
pub fn traced(
    pair: &Pair,
    under: impl Into<Ends>,
    work: Work,
    seconds: u32,
) -> Result<(Ran, String, String)> {
    const TRACE: &str = "/tmp/smcr-load.strace";
    let ends = under.into();
    let trace = |line: &str| strace::trace_line(line, TRACE);
    let mut server = serve(pair, ends, work, trace)?;
    let client = Cmd::new(trace(&ends.client.line(&client(pair, work, seconds))));
    let deadline = Duration::from_secs(u64::from(seconds) * 3 + 40);
    let (finished, sight) = drive(pair, ends, &mut server, client, deadline)?;
    let (ran, _) = figure(work, seconds, &finished, sight)?;
    let read = |guest: &Guest| {
        let text = guest.read_file(TRACE)?;
        anyhow::Ok(String::from_utf8_lossy(&text).into_owned())
    };
    Ok((ran, read(&pair.server)?, read(&pair.client)?))
}

/// Works for some seconds. Returns the figure, too.
pub fn run(
    pair: &Pair,
    under: impl Into<Ends>,
    work: Work,
    seconds: u32,
    counted: bool,
) -> Result<(Ran, f64)> {
    let ends = under.into();
    let mut server = serve(pair, ends, work, str::to_owned)?;
    let client = ends.client.line(&client(pair, work, seconds));
    let client = if counted {
        strace::line(&client)
    } else {
        client
    };
    let deadline = Duration::from_secs(u64::from(seconds) * 3 + 40);
    let (finished, sight) = drive(pair, ends, &mut server, Cmd::new(client), deadline)?;
    figure(work, seconds, &finished, sight)
}

/// Starts a server; `around` is what its command line is put into.
fn serve(
    pair: &Pair,
    ends: Ends,
    work: Work,
    around: impl FnOnce(&str) -> String,
) -> Result<Process> {
    let tool = quote(&paths::load_tool().display().to_string());
    let (place, threads) = (place(pair), work.connections());
    let (word, _) = work.words();
    let line = format!("{tool} serve {word} {place} {threads}");
    let server = pair.server.spawn(around(&ends.server.line(&line)))?;
    pair.server.wait_for_listener(PORT)?;
    Ok(server)
}

/// The client's command line.
fn client(pair: &Pair, work: Work, seconds: u32) -> String {
    let tool = quote(&paths::load_tool().display().to_string());
    let (place, threads) = (place(pair), work.connections());
    let (word, more) = work.words();
    format!("{tool} {word} {place} {threads} {seconds} {more}")
}

fn place(pair: &Pair) -> String {
    format!("{}:{PORT}", pair.server.address())
}

/// What a client printed.
fn figure(
    work: Work,
    seconds: u32,
    finished: &Finished,
    sight: Option<Sight>,
) -> Result<(Ran, f64)> {
    let figure: f64 = finished
        .stdout
        .trim()
        .parse()
        .with_context(|| format!("smcr-load prints no number: {finished}"))?;
    let bytes = match work {
        Work::Ping => MESSAGE,
        Work::Stream(_) => (figure * f64::from(seconds)) as u64,
        Work::Rate(_) => 1,
    };
    let ran = Ran {
        figures: vec![(work.name(), work.text(figure))],
        bytes,
        sight,
    };
    Ok((ran, figure))
}

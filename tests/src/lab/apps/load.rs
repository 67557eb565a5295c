//! smcr-load: plain blocking calls, and nothing else that takes time.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Ran, drive, megabits, strace};
use crate::lab::{Cmd, Ends, Pair, quote};
use crate::scenario::paths;

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

/// Works for some seconds. Returns the figure, too.
pub fn run(
    pair: &Pair,
    under: impl Into<Ends>,
    work: Work,
    seconds: u32,
    counted: bool,
) -> Result<(Ran, f64)> {
    let ends = under.into();
    let tool = quote(&paths::load_tool().display().to_string());
    let place = format!("{}:{PORT}", pair.server.address());
    let (word, more) = work.words();
    let threads = work.connections();
    let server = ends
        .server
        .line(&format!("{tool} serve {word} {place} {threads}"));
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let client = ends
        .client
        .line(&format!("{tool} {word} {place} {threads} {seconds} {more}"));
    let client = if counted {
        strace::line(&client)
    } else {
        client
    };
    let deadline = Duration::from_secs(u64::from(seconds) * 3 + 40);
    let (finished, sight) = drive(pair, ends, &mut server, Cmd::new(client), deadline)?;
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

//! `smcr-load`, the load program of this package: what no packaged tool measures, and what the
//! packaged tools cannot do over unix sockets.

use anyhow::{Context, Result};

use super::scratch;
use crate::scenario::{Address, Outcome, Setup, Transport, drive, paths, ports};

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Connect, one byte each way, close, again. Figure: `connections_per_second`.
    Rate,
    /// 64 bytes there and back. Figure: `round_trip`, in seconds.
    Ping,
    /// One way in calls of 128 KiB. Figure: `bytes_per_second`.
    Stream,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Ping => "ping",
            Self::Stream => "stream",
        }
    }

    fn figure(self) -> &'static str {
        match self {
            Self::Rate => "connections_per_second",
            Self::Ping => "round_trip",
            Self::Stream => "bytes_per_second",
        }
    }
}

/// Runs it with as many threads at each end.
pub fn run(setup: &Setup, work: Work, threads: u32) -> Result<Outcome> {
    let directory = scratch()?;
    let address = match setup.transport {
        Transport::Tcp => Address::Port(ports::free()?),
        Transport::Unix => Address::Path(directory.path().join("socket")),
    };
    let place = match &address {
        Address::Port(port) => port.to_string(),
        Address::Path(path) => path.display().to_string(),
    };
    let tool = paths::load_tool().display().to_string();
    let mut server = setup
        .server_program(&tool)?
        .args(&format!("serve {} {place} {threads}", work.word()))
        .start()?;
    let port = match &address {
        Address::Port(port) => {
            ports::wait_for_listener(&mut server, *port)?;
            Some(*port)
        }
        Address::Path(path) => {
            ports::wait_for_path(&mut server, path)?;
            None
        }
    };
    let client = setup.client_program(&tool)?.args(&format!(
        "{} {place} {threads} {}",
        work.word(),
        setup.seconds
    ));
    let (mut outcome, finished) = drive(setup, server, client, port)?;
    let value = finished.stdout.trim().parse();
    let value = value.with_context(|| format!("no figure: {finished}"))?;
    outcome.figures.insert(work.figure(), value);
    Ok(outcome)
}

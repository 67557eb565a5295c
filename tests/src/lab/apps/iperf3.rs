//! iperf3: bulk data.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Ran, drive, megabits, strace};
use crate::lab::{Cmd, Ends, Pair};

const PORT: u16 = 5201;

/// Which way the data go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// Both, at the same time.
    Both,
}

/// Sends for some seconds over some streams, from the client to the server. Figure: the rate.
pub fn run(pair: &Pair, under: impl Into<Ends>, seconds: u32, streams: u32) -> Result<Ran> {
    let load = Load {
        seconds,
        streams,
        ..Load::default()
    };
    Ok(load.run(pair, under)?.0)
}

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// For so long.
    pub seconds: u32,
    /// Over so many connections.
    pub streams: u32,
    /// In this direction.
    pub way: Way,
    /// Bytes of each call.
    pub call: u32,
    /// The client's system calls are counted.
    pub counted: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            seconds: 2,
            streams: 1,
            way: Way::Up,
            call: 128 << 10,
            counted: false,
        }
    }
}

impl Load {
    /// Sends it. Figure: the rate of each direction. Returns the first one's in bytes per second,
    /// too.
    pub fn run(self, pair: &Pair, under: impl Into<Ends>) -> Result<(Ran, f64)> {
        let ends = under.into();
        let Self {
            seconds,
            streams,
            way,
            call,
            counted,
        } = self;
        let server = ends
            .server
            .line(&format!("iperf3 --server --one-off --port {PORT}"));
        let mut server = pair.server.spawn(server)?;
        pair.server.wait_for_listener(PORT)?;
        let flag = match way {
            Way::Up => "",
            Way::Down => "--reverse",
            Way::Both => "--bidir",
        };
        let client = ends.client.line(&format!(
            "iperf3 --json --client {} --port {PORT} --time {seconds} --parallel {streams} \
         --length {call} {flag}",
            pair.server.address()
        ));
        let client = if counted {
            strace::line(&client)
        } else {
            client
        };
        let deadline = Duration::from_secs(u64::from(seconds) * 3 + 40);
        let (finished, sight) = drive(pair, ends, &mut server, Cmd::new(client), deadline)?;
        let title = match (way, streams) {
            (Way::Up, 1) => "iperf3".to_owned(),
            (Way::Up, _) => format!("iperf3 -P {streams}"),
            (Way::Down, _) => "iperf3 -R".to_owned(),
            (Way::Both, _) => "iperf3 --bidir".to_owned(),
        };
        let (moved, rate) = parse(&finished.stdout, "sum_received")?;
        let mut ran = Ran {
            figures: vec![(title.clone(), megabits(rate))],
            bytes: moved,
            sight,
        };
        if way == Way::Both {
            let (moved, rate) = parse(&finished.stdout, "sum_received_bidir_reverse")?;
            ran.figures.push((format!("{title}, back"), megabits(rate)));
            ran.bytes += moved;
        }
        Ok((ran, rate))
    }
}

/// Bytes, and bytes per second, as received.
fn parse(json: &str, sum: &str) -> Result<(u64, f64)> {
    let report: Value = serde_json::from_str(json).context("iperf3 does not print valid JSON")?;
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    let received = &report["end"][sum];
    let number = |name: &str| received[name].as_f64().filter(|number| *number > 0.0);
    let bytes = number("bytes").context("iperf3 moved nothing")?;
    let seconds = number("seconds").context("iperf3 took no time")?;
    Ok((bytes as u64, bytes / seconds))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_the_rate_and_refuses_nothing() {
        let json = r#"{"end":{"sum_received":{"bytes":200,"seconds":2.0}}}"#;
        assert_eq!(parse(json, "sum_received").unwrap(), (200, 100.0));
        assert!(parse(json, "sum_sent").is_err());
        assert!(parse(&json.replace("200", "0"), "sum_received").is_err());
        assert!(parse(r#"{"error":"no"}"#, "sum_received").is_err());
    }
}

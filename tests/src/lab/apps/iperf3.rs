//! iperf3: bulk data.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Ran, drive, megabits};
use crate::lab::{Cmd, Pair, Under};

const PORT: u16 = 5201;

/// Sends for some seconds over some streams, from the client to the server. Figure: the rate.
pub fn run(pair: &Pair, under: Under, seconds: u32, streams: u32) -> Result<Ran> {
    let server = under.line(&format!("iperf3 --server --one-off --port {PORT}"));
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let client = under.line(&format!(
        "iperf3 --json --client {} --port {PORT} --time {seconds} --parallel {streams}",
        pair.server.address()
    ));
    let deadline = Duration::from_secs(u64::from(seconds) * 3 + 40);
    let (finished, sight) = drive(pair, under, &mut server, Cmd::new(client), deadline)?;
    let rate = parse(&finished.stdout)?;
    Ok(Ran {
        figures: vec![("iperf3".to_owned(), megabits(rate))],
        sight,
    })
}

/// Bytes per second, as received.
fn parse(json: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(json).context("iperf3 does not print valid JSON")?;
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    let received = &report["end"]["sum_received"];
    let number = |name: &str| received[name].as_f64().filter(|number| *number > 0.0);
    let bytes = number("bytes").context("iperf3 moved nothing")?;
    let seconds = number("seconds").context("iperf3 took no time")?;
    Ok(bytes / seconds)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_the_rate_and_refuses_nothing() {
        let json = r#"{"end":{"sum_received":{"bytes":200,"seconds":2.0}}}"#;
        assert_eq!(parse(json).unwrap(), 100.0);
        assert!(parse(&json.replace("200", "0")).is_err());
        assert!(parse(r#"{"error":"no"}"#).is_err());
    }
}

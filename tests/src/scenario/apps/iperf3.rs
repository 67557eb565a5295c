//! iperf3: bulk data over one or several streams.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::scenario::{Outcome, Setup, drive, ports};

/// Which way the data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// From the client to the server.
    Forward,
    /// From the server to the client (`-R`).
    Reverse,
    /// Both ways at once (`--bidir`).
    Both,
}

/// Runs iperf3. Figures: `bytes_per_second` as received, both ways added up.
pub fn run(setup: &Setup, streams: u32, flow: Flow) -> Result<Outcome> {
    setup.tcp_only("iperf3")?;
    let port = ports::free()?;
    let mut server = setup
        .server_program("iperf3")?
        .args(&format!(
            "--server --one-off --bind 127.0.0.1 --port {port}"
        ))
        .start()?;
    ports::wait_for_listener(&mut server, port)?;
    let flow_flag = match flow {
        Flow::Forward => "",
        Flow::Reverse => "--reverse",
        Flow::Both => "--bidir",
    };
    let client = setup.client_program("iperf3")?.args(&format!(
        "--json --client 127.0.0.1 --port {port} --time {} --parallel {streams} {flow_flag}",
        setup.seconds
    ));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let rate = parse(&finished.stdout, streams, flow)?;
    outcome.figures.insert("bytes_per_second", rate);
    Ok(outcome)
}

/// Reads the received bytes per second, and checks that what was received is what was sent: as
/// much in every stream, but for what was on its way when the clock stopped.
fn parse(json: &str, streams: u32, flow: Flow) -> Result<f64> {
    let report: Value = serde_json::from_str(json).context("iperf3 does not print valid JSON")?;
    if let Some(error) = report.get("error") {
        bail!("iperf3: {error}");
    }
    let end = &report["end"];
    let expected = streams as usize * if flow == Flow::Both { 2 } else { 1 };
    let found = end["streams"].as_array().map_or(0, Vec::len);
    if found != expected {
        bail!("iperf3 reports {found} streams, not {expected}");
    }
    let mut rate = 0.0;
    for suffix in ["", "_bidir_reverse"] {
        let received = &end[format!("sum_received{suffix}")];
        if received.is_null() {
            continue;
        }
        let sent = end[format!("sum_sent{suffix}")]["bytes"]
            .as_f64()
            .context("iperf3: no bytes sent")?;
        let bytes = received["bytes"].as_f64().context("iperf3: no bytes")?;
        let seconds = received["seconds"].as_f64().context("iperf3: no time")?;
        if bytes > sent || bytes < sent * 0.5 {
            bail!("iperf3: {sent} bytes were sent, {bytes} received");
        }
        rate += bytes / seconds;
    }
    if rate <= 0.0 {
        bail!("iperf3 moved nothing");
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::{Flow, parse};

    #[test]
    fn adds_both_ways() {
        let json = r#"{"end":{"streams":[{},{}],
            "sum_sent":{"bytes":200},"sum_received":{"bytes":200,"seconds":2.0},
            "sum_sent_bidir_reverse":{"bytes":80},
            "sum_received_bidir_reverse":{"bytes":80,"seconds":2.0}}}"#;
        assert_eq!(parse(json, 1, Flow::Both).unwrap(), 140.0);
    }

    #[test]
    fn refuses_errors_and_losses() {
        assert!(parse(r#"{"error":"no"}"#, 1, Flow::Forward).is_err());
        let json = r#"{"end":{"streams":[{}],
            "sum_sent":{"bytes":200},"sum_received":{"bytes":20,"seconds":2.0}}}"#;
        assert!(parse(json, 1, Flow::Forward).is_err());
    }
}

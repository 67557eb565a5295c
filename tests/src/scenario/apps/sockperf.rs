//! sockperf: round trips of small messages.

use anyhow::{Context, Result, bail};

use crate::scenario::{Outcome, Setup, drive, ports};

/// Messages per second that sockperf makes room for, which also paces it: a round trip of
/// 0.25 us. Left alone it takes 600,000 for the most that a ping-pong can do, and gives up
/// ("_seqN > m_maxSequenceNo") with a connection that is faster than that.
const MESSAGES_PER_SECOND: u32 = 4_000_000;

/// Runs `sockperf ping-pong --tcp` with messages of `bytes`, whose content is checked where
/// `verify` is set. Figures: `round_trip` (the median) and `round_trip_p99` in seconds.
pub fn run(setup: &Setup, bytes: u32, verify: bool) -> Result<Outcome> {
    // Its list of endpoints knows only IPv4 in the versions that distributions ship.
    setup.tcp_only("sockperf")?;
    let port = ports::free()?;
    let mut server = setup
        .server_program("sockperf")?
        .args(&format!("server --tcp -i 127.0.0.1 -p {port}"))
        .start()?;
    ports::wait_for_listener(&mut server, port)?;
    let verify = if verify { "--data-integrity" } else { "" };
    let client = setup.client_program("sockperf")?.args(&format!(
        "ping-pong --tcp -i 127.0.0.1 -p {port} -m {bytes} -t {} --mps {MESSAGES_PER_SECOND} --full-rtt {verify}",
        setup.seconds
    ));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let (median, p99) = parse(&finished.stdout)?;
    outcome.figures.insert("round_trip", median);
    outcome.figures.insert("round_trip_p99", p99);
    Ok(outcome)
}

/// The median and the 99th percentile, in seconds.
fn parse(text: &str) -> Result<(f64, f64)> {
    if text.contains("ERROR") || text.contains("data integrity test failed") {
        bail!("sockperf reports an error:\n{text}");
    }
    let losses = text
        .lines()
        .find(|line| line.contains("# dropped messages"));
    let losses = losses.context("sockperf shows no statistics")?;
    let lost: u64 = losses
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse::<u64>().ok())
        .sum();
    if lost != 0 {
        bail!("sockperf lost messages or saw them out of order: {losses}");
    }
    let percentile = |name: &str| -> Result<f64> {
        let line = text.lines().find(|line| line.contains(name));
        let number = line.and_then(|line| line.rsplit('=').next()?.trim().parse::<f64>().ok());
        Ok(number.with_context(|| format!("sockperf shows no {name}"))? * 1e-6)
    };
    Ok((
        percentile("percentile 50.000")?,
        percentile("percentile 99.000")?,
    ))
}

#[cfg(test)]
mod tests {
    const TEXT: &str = "sockperf: # dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0\n\
        sockperf: ---> percentile 99.000 =   44.5\n\
        sockperf: ---> percentile 50.000 =   17.5\n";

    #[test]
    fn reads_percentiles() {
        let (median, p99) = super::parse(TEXT).unwrap();
        assert!((median - 17.5e-6).abs() < 1e-12 && (p99 - 44.5e-6).abs() < 1e-12);
    }

    #[test]
    fn refuses_losses() {
        assert!(
            super::parse(&TEXT.replace("duplicated messages = 0", "duplicated messages = 2"))
                .is_err()
        );
    }
}

//! redis-server with redis-benchmark: small requests.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Ran, drive};
use crate::lab::{Cmd, Ends, Pair};

const PORT: u16 = 6379;

/// Bytes of each value.
const VALUE: u32 = 64;

/// So many SETs, then as many GETs, from so many clients. Figures: operations per second.
pub fn run(pair: &Pair, under: impl Into<Ends>, requests: u32, clients: u32) -> Result<Ran> {
    pipelined(pair, under, requests, clients, 1)
}

/// The same with so many requests under way at a time for each client.
pub fn pipelined(
    pair: &Pair,
    under: impl Into<Ends>,
    requests: u32,
    clients: u32,
    pipeline: u32,
) -> Result<Ran> {
    let ends = under.into();
    let server = ends.server.line(&format!(
        "redis-server --save '' --appendonly no --protected-mode no --bind {} --port {PORT}",
        pair.server.address()
    ));
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let client = ends.client.line(&format!(
        "redis-benchmark -h {} -p {PORT} --csv -t set,get -n {requests} -c {clients} \
         -P {pipeline} -d {VALUE}",
        pair.server.address()
    ));
    let deadline = Duration::from_secs(120);
    let (finished, sight) = drive(pair, ends, &mut server, Cmd::new(client), deadline)?;
    let mut figures = Vec::new();
    for test in ["SET", "GET"] {
        let rate = rate(&finished.stdout, test)?;
        let title = match pipeline {
            1 => format!("redis {test}"),
            _ => format!("redis {test}, -P {pipeline}"),
        };
        figures.push((title, format!("{rate:.0} /s")));
    }
    Ok(Ran {
        figures,
        bytes: 2 * u64::from(requests) * u64::from(VALUE),
        sight,
    })
}

fn rate(csv: &str, test: &str) -> Result<f64> {
    let prefix = format!("\"{test}\",\"");
    let line = csv.lines().find_map(|line| line.strip_prefix(&prefix));
    let number = line.and_then(|rest| rest.split('"').next()?.parse().ok());
    number.with_context(|| format!("redis-benchmark shows no rate of {test}:\n{csv}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_rates() {
        let csv = "\"test\",\"rps\"\n\"SET\",\"100.50\",\"0.2\"\n";
        assert_eq!(super::rate(csv, "SET").unwrap(), 100.5);
        assert!(super::rate(csv, "GET").is_err());
    }
}

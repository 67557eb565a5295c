//! redis-server with redis-benchmark: small requests.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Ran, drive};
use crate::lab::{Cmd, Pair, Under};

const PORT: u16 = 6379;

/// So many SETs, then as many GETs, from so many clients. Figures: operations per second.
pub fn run(pair: &Pair, under: Under, requests: u32, clients: u32) -> Result<Ran> {
    let server = under.line(&format!(
        "redis-server --save '' --appendonly no --protected-mode no --bind {} --port {PORT}",
        pair.server.address()
    ));
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let client = under.line(&format!(
        "redis-benchmark -h {} -p {PORT} --csv -t set,get -n {requests} -c {clients} -d 64",
        pair.server.address()
    ));
    let deadline = Duration::from_secs(120);
    let (finished, sight) = drive(pair, under, &mut server, Cmd::new(client), deadline)?;
    let mut figures = Vec::new();
    for test in ["SET", "GET"] {
        let rate = rate(&finished.stdout, test)?;
        figures.push((format!("redis {test}"), format!("{rate:.0} /s")));
    }
    Ok(Ran { figures, sight })
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

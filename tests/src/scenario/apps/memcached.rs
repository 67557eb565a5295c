//! memcached with memcslap, and with a small client that checks every value.

use anyhow::{Context, Result, bail};

use super::is_root;
use crate::scenario::process::Running;
use crate::scenario::{Outcome, Setup, drive, paths, ports};

/// Runs memcslap with 8 threads. Figures: `get_per_second`.
pub fn load(setup: &Setup) -> Result<Outcome> {
    let (server, port) = serve(setup)?;
    let each = setup.seconds * 12_000;
    let client = setup.client_program("memcslap")?.args(&format!(
        "--servers=127.0.0.1:{port} --test=get --concurrency=8 --execute-number={each}"
    ));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let rate = parse(&finished.stdout)?;
    outcome.figures.insert("get_per_second", rate);
    Ok(outcome)
}

/// Sets and gets values of many sizes over many connections, and compares each.
/// Figures: `values_checked`.
pub fn check(setup: &Setup) -> Result<Outcome> {
    let (server, port) = serve(setup)?;
    let client = setup
        .client_program(paths::python().to_str().unwrap_or("python3"))?
        .arg(paths::app("memcached_check.py"))
        .args(&format!("{port} 20 {}", setup.seconds));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let checked: f64 = finished.stdout.trim().parse()?;
    if checked <= 0.0 {
        bail!("no value was checked");
    }
    outcome.figures.insert("values_checked", checked);
    Ok(outcome)
}

fn serve(setup: &Setup) -> Result<(Running, u16)> {
    setup.tcp_only("this scenario")?;
    let port = ports::free()?;
    let user = if is_root() { "-u root" } else { "" };
    let mut server = setup
        .server_program("memcached")?
        .args(&format!("-l 127.0.0.1 -p {port} -U 0 -t 2 -m 256 {user}"))
        .start()?;
    ports::wait_for_listener(&mut server, port)?;
    Ok((server, port))
}

/// `Time to get  156893 keys by    8 threads:     1.414 seconds.`
fn parse(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.contains("keys by"));
    let line = line.with_context(|| format!("memcslap shows no time:\n{text}"))?;
    let numbers: Vec<f64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [keys, _threads, seconds] = numbers[..] else {
        bail!("memcslap: cannot read {line:?}");
    };
    if keys <= 0.0 || seconds <= 0.0 {
        bail!("memcslap got no key: {line}");
    }
    Ok(keys / seconds)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_rate() {
        let line = "Time to get          100 keys by    8 threads:     0.500 seconds.\n";
        assert_eq!(super::parse(line).unwrap(), 200.0);
        assert!(super::parse("Time total: 1 seconds").is_err());
    }
}

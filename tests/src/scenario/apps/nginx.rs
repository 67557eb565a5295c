//! nginx with wrk (small file, connections kept) and curl (large file by sendfile).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{fill, is_root, scratch};
use crate::scenario::process::{Program, Running};
use crate::scenario::{Outcome, Setup, drive, ports};

/// Runs wrk with `connections` on a small file. Figures: `requests_per_second`.
pub fn small_file(setup: &Setup, connections: u32) -> Result<Outcome> {
    setup.tcp_only("wrk")?;
    let directory = scratch()?;
    let (server, port) = serve(setup, directory.path())?;
    fill(&directory.path().join("small"), 612)?;
    let client = setup.client_program("wrk")?.args(&format!(
        "-t 1 -c {connections} -d {}s http://127.0.0.1:{port}/small",
        setup.seconds
    ));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let rate = parse(&finished.stdout)?;
    outcome.figures.insert("requests_per_second", rate);
    no_trouble(directory.path())?;
    Ok(outcome)
}

/// Fetches a file of `bytes` with curl and compares the checksums.
/// Figures: `bytes_per_second` as curl measured it.
pub fn large_file(setup: &Setup, bytes: usize) -> Result<Outcome> {
    setup.tcp_only("this scenario")?;
    let directory = scratch()?;
    let (server, port) = serve(setup, directory.path())?;
    let source = directory.path().join("large");
    let copy = directory.path().join("copy");
    fill(&source, bytes)?;
    // As fast as it can it would be gone before smcr-stat has looked.
    let rate = if setup.watch { "--limit-rate 100M" } else { "" };
    let client = setup
        .client_program("curl")?
        .args(rate)
        .arg("--noproxy")
        .arg("*")
        .args("--silent --show-error --fail --write-out %{speed_download} --output")
        .arg(&copy)
        .arg(format!("http://127.0.0.1:{port}/large"));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let speed = finished.stdout.trim().parse();
    outcome
        .figures
        .insert("bytes_per_second", speed.context("curl shows no speed")?);
    if sha256(&source)? != sha256(&copy)? {
        bail!("curl received another file than nginx sent");
    }
    no_trouble(directory.path())?;
    Ok(outcome)
}

fn serve(setup: &Setup, directory: &Path) -> Result<(Running, u16)> {
    let port = ports::free()?;
    let config = directory.join("nginx.conf");
    std::fs::write(&config, configuration(directory, port))?;
    let mut server = setup
        .server_program("nginx")?
        .arg("-e")
        .arg(directory.join("error.log"))
        .arg("-p")
        .arg(directory)
        .arg("-c")
        .arg(&config)
        .start()?;
    ports::wait_for_listener(&mut server, port)?;
    Ok((server, port))
}

fn configuration(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    // Workers of another user would be another user's processes to the library.
    let user = if is_root() { "user root;" } else { "" };
    format!(
        "daemon off; worker_processes 1; {user}\n\
         pid {directory}/pid; error_log {directory}/error.log;\n\
         events {{ worker_connections 1024; }}\n\
         http {{\n\
         access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000;\n\
         client_body_temp_path {directory}/t1; proxy_temp_path {directory}/t2;\n\
         fastcgi_temp_path {directory}/t3; uwsgi_temp_path {directory}/t4;\n\
         scgi_temp_path {directory}/t5; default_type application/octet-stream;\n\
         server {{ listen 127.0.0.1:{port}; root {directory}; }}\n\
         }}\n"
    )
}

/// nginx reports what it cannot send in its error log.
fn no_trouble(directory: &Path) -> Result<()> {
    let log = std::fs::read_to_string(directory.join("error.log")).unwrap_or_default();
    let trouble = ["[error]", "[alert]", "[crit]", "[emerg]"];
    match log.lines().find(|l| trouble.iter().any(|t| l.contains(t))) {
        Some(line) => bail!("nginx: {line}"),
        None => Ok(()),
    }
}

fn sha256(path: &Path) -> Result<String> {
    let finished = Program::new("sha256sum")?
        .arg(path)
        .run(Duration::from_secs(60))?
        .success()?;
    let sum = finished.stdout.split_whitespace().next();
    Ok(sum.context("sha256sum prints nothing")?.to_owned())
}

fn parse(text: &str) -> Result<f64> {
    for complaint in ["Socket errors", "Non-2xx"] {
        if let Some(line) = text.lines().find(|line| line.contains(complaint)) {
            bail!("wrk: {}", line.trim());
        }
    }
    let line = text.lines().find_map(|l| l.strip_prefix("Requests/sec:"));
    let rate: f64 = line
        .and_then(|rest| rest.trim().parse().ok())
        .with_context(|| format!("wrk shows no rate:\n{text}"))?;
    if rate <= 0.0 {
        bail!("wrk got no answer");
    }
    Ok(rate)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_rate() {
        assert_eq!(super::parse("Requests/sec:  1234.50\n").unwrap(), 1234.5);
        assert!(super::parse("  Socket errors: connect 0, read 3\nRequests/sec: 1.0\n").is_err());
    }
}

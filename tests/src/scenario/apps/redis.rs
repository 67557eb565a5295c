//! redis-server with redis-benchmark and redis-cli.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{fill, scratch};
use crate::scenario::process::{Program, Running};
use crate::scenario::{Address, Outcome, Setup, Transport, drive, ports};

const CLIENTS: u32 = 50;

/// Runs redis-benchmark. Figures: `get_per_second`, `set_per_second`.
pub fn run(setup: &Setup, pipeline: u32) -> Result<Outcome> {
    let directory = scratch()?;
    let (server, address) = serve(setup, directory.path())?;
    // The tool counts requests, not seconds: half of the time for SET, half for GET, at rates
    // that plain TCP reaches here.
    let per_second = if pipeline > 1 { 400_000 } else { 50_000 };
    let requests = setup.seconds * per_second;
    let client = to(setup.client_program("redis-benchmark")?, &address).args(&format!(
        "--csv -t set,get -c {CLIENTS} -n {requests} -P {pipeline}"
    ));
    let (mut outcome, finished) = drive(setup, server, client, port(&address))?;
    let [set, get] = parse(&finished.stdout)?;
    outcome.figures.insert("set_per_second", set);
    outcome.figures.insert("get_per_second", get);
    Ok(outcome)
}

/// Stores a value of 4 MiB with redis-cli and reads it back; both must be equal.
pub fn round_trip(setup: &Setup) -> Result<()> {
    let directory = scratch()?;
    let (_server, address) = serve(setup, directory.path())?;
    let blob = directory.path().join("blob");
    fill(&blob, 4 << 20)?;
    let deadline = Duration::from_secs(30);
    let cli = || -> Result<Program> { Ok(to(setup.client_program("redis-cli")?, &address)) };
    cli()?
        .args("-x set blob")
        .stdin(&blob)?
        .run(deadline)?
        .success()?;
    // The bytes are not text: let redis itself tell what it holds, and compare there.
    let script = "return redis.sha1hex(redis.call('get','blob'))";
    let stored = cli()?
        .arg("eval")
        .arg(script)
        .arg("0")
        .run(deadline)?
        .success()?;
    let wanted = Program::new("sha1sum")?
        .arg(&blob)
        .run(deadline)?
        .success()?;
    let wanted = wanted.stdout.split_whitespace().next().unwrap_or_default();
    if stored.stdout.trim() != wanted {
        bail!("redis holds {}, it was sent {wanted}", stored.stdout.trim());
    }
    let shell = format!(
        "\"$0\" {} --raw get blob | head -c {} | cmp - \"$1\"",
        flags(&address).join(" "),
        4 << 20
    );
    Program::new("sh")?
        .args("-c")
        .arg(shell)
        .arg(crate::scenario::process::find("redis-cli".as_ref()).context("redis-cli")?)
        .arg(&blob)
        .preload(setup.client)
        .run(deadline)?
        .success()?;
    Ok(())
}

fn serve(setup: &Setup, directory: &Path) -> Result<(Running, Address)> {
    let mut program = setup
        .server_program("redis-server")?
        .args("--save")
        .arg("")
        .args("--appendonly no --daemonize no --bind 127.0.0.1 --protected-mode no --dir")
        .arg(directory)
        .arg("--logfile")
        .arg(directory.join("log"));
    let address = match setup.transport {
        Transport::Tcp => Address::Port(ports::free()?),
        Transport::Unix => Address::Path(directory.join("socket")),
    };
    program = match &address {
        Address::Port(port) => program.args(&format!("--port {port}")),
        Address::Path(path) => program.args("--port 0 --unixsocket").arg(path),
    };
    let mut server = program.start()?;
    match &address {
        Address::Port(port) => ports::wait_for_listener(&mut server, *port)?,
        Address::Path(path) => ports::wait_for_path(&mut server, path)?,
    }
    Ok((server, address))
}

fn flags(address: &Address) -> [String; 2] {
    match address {
        Address::Port(port) => ["-p".into(), port.to_string()],
        Address::Path(path) => ["-s".into(), path.display().to_string()],
    }
}

fn to(program: Program, address: &Address) -> Program {
    let [flag, value] = flags(address);
    program.arg(flag).arg(value)
}

fn port(address: &Address) -> Option<u16> {
    match address {
        Address::Port(port) => Some(*port),
        Address::Path(_) => None,
    }
}

/// Requests per second of SET and GET.
fn parse(csv: &str) -> Result<[f64; 2]> {
    let rate = |test: &str| -> Result<f64> {
        let prefix = format!("\"{test}\",\"");
        let line = csv.lines().find_map(|line| line.strip_prefix(&prefix));
        let number = line.and_then(|rest| rest.split('"').next()?.parse().ok());
        number.with_context(|| format!("redis-benchmark shows no rate of {test}:\n{csv}"))
    };
    Ok([rate("SET")?, rate("GET")?])
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_rates() {
        let csv =
            "\"test\",\"rps\",\"avg\"\n\"SET\",\"100.50\",\"0.2\"\n\"GET\",\"118.00\",\"0.1\"\n";
        assert_eq!(super::parse(csv).unwrap(), [100.5, 118.0]);
        assert!(super::parse("Error").is_err());
    }
}

//! The RDMA fabric alone, between two processes in two guests, beside rdma-core's own programs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Pair;
use crate::lab::cmd::quote;
use crate::lab::guest::{Guest, Process};
use crate::scenario::paths;

const PORT: u16 = 7601;

/// What goes on over one server, in this order. The last words are the test's.
const TESTS: [&str; 14] = [
    "descriptors",
    "pattern 1 300",
    "pattern 2 300",
    "full 5",
    "long 200",
    "many 20 4",
    "fork",
    "refused",
    "trespass",
    "too-long",
    "sleep 2000",
    "latency 1000 64",
    "throughput 8 65536",
    "throughput 4 4096",
];

/// The program, see `smcr-core/examples/verbs`.
fn program() -> String {
    quote(&paths::fabric_tool().display().to_string())
}

fn serve(guest: &Guest, port: u16) -> Result<Process> {
    let server = guest.spawn(format!("{} serve {port} rxe0 1", program()))?;
    guest.wait_for_listener(port)?;
    Ok(server)
}

fn client(pair: &Pair, port: u16, test: &str) -> String {
    let address = pair.server.address();
    // As low a limit of descriptors as programs usually have: the library's lie above.
    format!(
        "ulimit -Sn 1024; {} {address}:{port} rxe0 1 {test}",
        program()
    )
}

/// Puts what a test found into the report.
fn note(pair: &mut Pair, stdout: &str) {
    for line in stdout.lines().filter(|line| !line.contains(": ok")) {
        if let Some((name, value)) = line.split_once(": ") {
            pair.note(name, value);
        }
    }
}

/// Under the library, whose hooks libibverbs comes through.
fn preloaded(pair: &Pair, port: u16, test: &str) -> String {
    let library = quote(&paths::library().display().to_string());
    client(pair, port, test).replacen("; ", &format!("; LD_PRELOAD={library} "), 1)
}

/// Traffic of all kinds, failures that concern one link (a WRITE with the key of another link's
/// memory is refused, and that one goes on), and numbers.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let mut server = serve(&pair.server, PORT)?;
    for test in TESTS {
        let line = client(pair, PORT, test);
        let finished = pair.client.run(line, Duration::from_secs(120))?.success();
        let finished = finished.with_context(|| test)?;
        for line in finished
            .stdout
            .lines()
            .filter(|line| !line.contains(": ok"))
        {
            if let Some((name, value)) = line.split_once(": ") {
                pair.note(name, value);
            }
        }
        ensure!(
            server.exited()?.is_none(),
            "{test}: the server ended: {}",
            server.wait(Duration::from_secs(1))?
        );
    }
    for test in ["pattern 3 200", "fork"] {
        let line = preloaded(pair, PORT, test);
        let finished = pair.client.run(line, Duration::from_secs(120))?.success()?;
        ensure!(finished.stderr.is_empty(), "preloaded: {finished}");
    }
    let finished = server.stop()?;
    ensure!(finished.stderr.is_empty(), "the server: {finished}");
    rivals(pair)?;
    killed(pair)
}

/// The same by perftest, in the same guests.
fn rivals(pair: &mut Pair) -> Result<()> {
    for (name, arguments, column) in [
        ("ib_write_lat", "-s 64 -n 1000", 4),
        ("ib_write_bw", "-s 65536 -n 100", 3),
        ("ib_write_bw", "-s 4096 -n 1000", 3),
    ] {
        let line = format!("{name} -d rxe0 -x 1 -F {arguments}");
        let mut server = pair.server.spawn(line.as_str())?;
        pair.server.wait_for_listener(18515)?;
        let line = format!("{line} {}", pair.server.address());
        let finished = pair.client.run(line, Duration::from_secs(120))?.success()?;
        server.wait(Duration::from_secs(20))?.success()?;
        let row = finished.stdout.lines().rev().find(|line| {
            let first = line.split_whitespace().next();
            first.is_some_and(|word| word.parse::<u64>().is_ok())
        });
        let value = row.and_then(|row| row.split_whitespace().nth(column));
        let value = value.with_context(|| format!("{name} said: {}", finished.stdout))?;
        let unit = if name == "ib_write_lat" {
            "us, median, one way"
        } else {
            "MiB/s"
        };
        pair.note(format!("{name} {arguments}"), format!("{value} {unit}"));
    }
    Ok(())
}

/// The peer dies.
fn killed(pair: &mut Pair) -> Result<()> {
    let mut server = serve(&pair.server, PORT + 1)?;
    let line = client(pair, PORT + 1, "killed");
    let finished = pair.client.run(line, Duration::from_secs(90))?.success()?;
    if let Some((name, value)) = finished
        .stdout
        .lines()
        .find_map(|line| line.split_once(": "))
    {
        pair.note(name, value);
    }
    server.wait(Duration::from_secs(5))?;
    Ok(())
}

/// The interface goes down under traffic and comes back; and the device is taken away, for which
/// the kernel waits until its last user has left (rxe cannot do without).
pub(super) fn down(pair: &mut Pair) -> Result<()> {
    let mut server = serve(&pair.server, PORT)?;
    let line = client(pair, PORT, "down");
    let mut client = pair.client.spawn(line)?;
    client.wait_for("running", Duration::from_secs(20))?;
    // While traffic runs.
    pair.client.sh("sleep 1; ip link set eth0 down")?;
    client.wait_for("waiting", Duration::from_secs(60))?;
    let mut removal = pair.client.spawn("rdma link del rxe0")?;
    pair.client.sh("sleep 1")?;
    ensure!(
        removal.exited()?.is_none(),
        "the device went under its user"
    );
    pair.client.sh("ip link set eth0 up")?;
    let finished = client.wait(Duration::from_secs(60))?.success()?;
    note(pair, &finished.stdout);
    removal.wait(Duration::from_secs(20))?.success()?;
    server.stop()?;
    Ok(())
}

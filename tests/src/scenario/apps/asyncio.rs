//! Python's asyncio: an echo server and a client with hundreds of connections.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::scenario::process::{self, Program, Running};
use crate::scenario::watch::Watch;
use crate::scenario::{Outcome, Setup, drive, paths, ports};

/// Echoes random messages over all connections at once for the set-up's time and compares them.
/// Figures: `echoes_per_second`.
pub fn echo(setup: &Setup, connections: u32) -> Result<Outcome> {
    let (server, port) = serve(setup)?;
    let client = python(setup.client_program(&interpreter())?)
        .args(&format!("client {port} {connections} {}", setup.seconds));
    let (mut outcome, finished) = drive(setup, server, client, Some(port))?;
    let echoes: f64 = finished
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("echoes "))
        .and_then(|number| number.parse().ok())
        .with_context(|| format!("the client counts no echoes: {finished}"))?;
    let rate = echoes / f64::from(setup.seconds);
    outcome.figures.insert("echoes_per_second", rate);
    Ok(outcome)
}

/// Opens connections, uses each once and then leaves them alone for the set-up's time.
/// Figures: `server_cpu` and `client_cpu`, in seconds of CPU time per second.
pub fn idle(setup: &Setup, connections: u32) -> Result<Outcome> {
    let (mut server, port) = serve(setup)?;
    // It stays for longer than we measure; we end it.
    let mut client = python(setup.client_program(&interpreter())?)
        .args(&format!("hold {port} {connections} 600"))
        .start()?;
    ports::wait_for_connections(&mut client, port, connections as usize)?;
    let watch = (setup.watch && setup.uses_library())
        .then(|| Watch::start(server.group(), client.group(), Some(port)));
    // Let handshakes and spinning come to rest; what happens once is not idle time.
    std::thread::sleep(Duration::from_secs(2));
    let seen = watch.map(Watch::finish).unwrap_or_default();
    let before = [server.group(), client.group()].map(process::cpu_time);
    std::thread::sleep(Duration::from_secs(u64::from(setup.seconds)));
    let after = [server.group(), client.group()].map(process::cpu_time);
    let used = |end: usize| {
        after[end].saturating_sub(before[end]).as_secs_f64() / f64::from(setup.seconds)
    };
    let alive = client.exited().is_none() && server.exited().is_none();
    let (served, held) = (server.stop(), client.stop());
    anyhow::ensure!(alive, "an end did not stay: {served} {held}");
    Ok(Outcome {
        figures: [("server_cpu", used(0)), ("client_cpu", used(1))].into(),
        seen,
        stderr: format!("{}{}", served.stderr, held.stderr),
        stdout: held.stdout,
    })
}

fn serve(setup: &Setup) -> Result<(Running, u16)> {
    setup.tcp_only("this scenario")?;
    let port = ports::free()?;
    let mut server = python(setup.server_program(&interpreter())?)
        .args(&format!("server {port}"))
        .start()?;
    ports::wait_for_listener(&mut server, port)?;
    Ok((server, port))
}

fn interpreter() -> String {
    paths::python().display().to_string()
}

fn python(program: Program) -> Program {
    program.arg(paths::app("asyncio_echo.py"))
}

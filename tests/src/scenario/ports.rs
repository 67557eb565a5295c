//! Free ports, and waiting for a listener without connecting to it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::process::Running;

/// Below the kernel's range for outgoing connections, so that no client is given the port
/// between our look and the server's bind.
const FIRST: u16 = 21_000;
const COUNT: u16 = 11_000;

/// A port of 127.0.0.1 on which nobody listens.
pub fn free() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (u32::from(offset) + u32::from(step) * 7) as u16 % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port between {FIRST} and {}", FIRST + COUNT)
}

/// Waits until something listens on the port. Looks it up in /proc: a connection made for the
/// sake of looking would be the first client of a one-shot server.
pub fn wait_for_listener(server: &mut Running, port: u16) -> Result<()> {
    wait(
        server,
        || sockets(port, LISTEN, false) > 0,
        &format!("a listener on port {port}"),
    )
}

/// Waits until the unix socket is there.
pub fn wait_for_path(server: &mut Running, path: &Path) -> Result<()> {
    wait(
        server,
        || path.exists(),
        &format!("a socket at {}", path.display()),
    )
}

/// Waits until so many connections to the port are established (in either mode of a connection
/// the TCP connection stays, as the witness of its peer).
pub fn wait_for_connections(client: &mut Running, port: u16, count: usize) -> Result<()> {
    let enough = || sockets(port, ESTABLISHED, true) >= count;
    wait(
        client,
        enough,
        &format!("{count} connections to port {port}"),
    )
}

fn wait(program: &mut Running, ready: impl Fn() -> bool, what: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        if program.exited().is_some() {
            bail!("ended before it had {what}: {}", program.stop());
        }
        if Instant::now() > deadline {
            bail!("20 s without {what}: {}", program.stop());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// Counts the kernel's TCP sockets in a state whose local (or remote) port is this one.
fn sockets(port: u16, state: &str, remote: bool) -> usize {
    let ending = format!(":{port:04X}");
    let count = |text: String| {
        let matches = |line: &&str| {
            let fields: Vec<&str> = line.split_whitespace().take(4).collect();
            fields.get(3) == Some(&state) && fields[if remote { 2 } else { 1 }].ends_with(&ending)
        };
        text.lines().skip(1).filter(matches).count()
    };
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .map(count)
        .sum()
}

//! What `smcr-stat --json` says.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use super::paths;
use super::process::Program;

/// One answer of `smcr-stat --json`. Fields that it does not have are left empty, so that an
/// older or newer tool still tells what it knows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The processes that run under the library.
    pub processes: Vec<Process>,
}

/// One process under the library.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// Its TCP connections.
    pub connections: Vec<Connection>,
}

/// One connection as one process sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// The state, in the words of smcss.
    pub state: Value,
    /// The local address and port.
    pub local: Value,
    /// The peer's address and port.
    pub peer: Value,
    /// `shm`, `rdma` or `tcp`.
    pub mode: Value,
    /// Who started it.
    pub role: Value,
    /// Why it is TCP.
    pub reason: Value,
    /// Bytes sent.
    pub sent: Value,
    /// Bytes received.
    pub received: Value,
}

impl Connection {
    /// The mode's name, empty where none is decided.
    pub fn mode_name(&self) -> String {
        plain(&self.mode)
    }

    /// The reason's name, empty where there is none.
    pub fn reason_name(&self) -> String {
        match &self.reason {
            Value::Object(fields) => fields.get("name").map(plain).unwrap_or_default(),
            other => plain(other),
        }
    }

    /// True where one of its ends has this port.
    pub fn has_port(&self, port: u16) -> bool {
        let ending = format!(":{port}");
        [&self.local, &self.peer]
            .iter()
            .any(|address| plain(address).ends_with(&ending))
    }

    /// Both addresses, which name the connection within a process.
    pub fn name(&self) -> String {
        format!("{} {}", plain(&self.local), plain(&self.peer))
    }

    /// True for a socket that only listens.
    pub fn listens(&self) -> bool {
        plain(&self.state).eq_ignore_ascii_case("listen")
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Asks `smcr-stat` now.
pub fn snapshot() -> Result<Snapshot> {
    let finished = Program::new(paths::stat_tool())?
        .arg("--json")
        .run(Duration::from_secs(10))?
        .success()?;
    if finished.stdout.trim().is_empty() {
        return Ok(Snapshot::default());
    }
    serde_json::from_str(&finished.stdout).context("smcr-stat --json does not print valid JSON")
}

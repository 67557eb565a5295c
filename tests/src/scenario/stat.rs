//! What `smcr-stat --json` says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::paths;
use super::process::Program;

/// One answer of `smcr-stat --json`, as far as scenarios need it. What is missing is left empty,
/// so that a tool that knows less still tells what it knows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// The processes that run under the library, or did so seconds ago.
    pub processes: Vec<Process>,
}

impl Snapshot {
    /// How many connections all of them ever had in this mode.
    pub fn made(&self, mode: &str) -> u64 {
        self.processes
            .iter()
            .map(|process| process.made(mode))
            .sum()
    }

    /// The sum of this counter over all of them.
    pub fn counter(&self, name: &str) -> u64 {
        let of = |process: &Process| process.counters.get(name).copied().unwrap_or(0);
        self.processes.iter().map(of).sum()
    }
}

/// One process under the library.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its TCP connections that are open now.
    pub connections: Vec<Connection>,
    /// Numbers that only grow, by name.
    pub counters: BTreeMap<String, u64>,
    /// How many connections fell back to TCP, by reason.
    pub fallbacks: Vec<Fallback>,
}

impl Process {
    /// How many connections it ever had in this mode.
    pub fn made(&self, mode: &str) -> u64 {
        let name = format!("connections-{mode}");
        self.counters.get(&name).copied().unwrap_or(0)
    }
}

/// One connection as one process sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// The state, in the words of smcss.
    pub state: String,
    /// The local address and port.
    pub local: Option<String>,
    /// The peer's address and port.
    pub peer: Option<String>,
    /// `shm`, `rdma` or `tcp`.
    pub mode: String,
    /// Why it is TCP.
    pub fallback: Option<Fallback>,
}

/// Why connections are TCP.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fallback {
    /// The reason's short name.
    pub name: String,
    /// How many connections, where connections are counted.
    pub count: u64,
}

impl Connection {
    /// The reason's name, empty where there is none.
    pub fn reason(&self) -> &str {
        self.fallback.as_ref().map_or("", |fallback| &fallback.name)
    }

    /// True where one of its ends has this port.
    pub fn has_port(&self, port: u16) -> bool {
        let ending = format!(":{port}");
        [&self.local, &self.peer]
            .into_iter()
            .flatten()
            .any(|address| address.ends_with(&ending))
    }

    /// Both addresses, which name the connection within a process.
    pub fn name(&self) -> String {
        let text = |address: &Option<String>| address.clone().unwrap_or_default();
        format!("{} {}", text(&self.local), text(&self.peer))
    }

    /// True for a connection whose mode is decided: neither a listening socket nor one whose
    /// handshake is not done.
    pub fn is_decided(&self) -> bool {
        !["LISTEN", "INIT"].contains(&self.state.as_str())
    }
}

/// Asks `smcr-stat` now.
pub fn snapshot() -> Result<Snapshot> {
    let finished = Program::new(paths::stat_tool())?
        .args("--json --all")
        .run(Duration::from_secs(10))?
        .success()?;
    if finished.stdout.trim().is_empty() {
        return Ok(Snapshot::default());
    }
    serde_json::from_str(&finished.stdout).context("smcr-stat --json does not print valid JSON")
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    const TEXT: &str = r#"{"version":"0.1.0","processes":[{"pid":7,"alive":true,
        "connections":[
          {"state":"ACTIVE","local":"127.0.0.1:80","peer":"127.0.0.1:5000","mode":"tcp",
           "role":"server","fallback":{"name":"peer-no-smc","code":"0x03010000"},
           "group":0,"sent":null,"received":null},
          {"state":"LISTEN","local":"127.0.0.1:80","peer":null,"mode":"tcp","role":"server",
           "fallback":null,"group":0,"sent":null,"received":null}],
        "counters":{"connections-tcp":1,"connections-shm":0},
        "fallbacks":[{"name":"peer-no-smc","code":"0x03010000","count":1}]}]}"#;

    #[test]
    fn reads_what_the_tool_prints() {
        let snapshot: Snapshot = serde_json::from_str(TEXT).unwrap();
        let process = &snapshot.processes[0];
        assert_eq!((process.made("tcp"), process.made("shm")), (1, 0));
        assert_eq!(process.fallbacks[0].count, 1);
        let [connection, listener] = &process.connections[..] else {
            panic!("two connections");
        };
        assert_eq!(connection.reason(), "peer-no-smc");
        assert!(connection.has_port(5000) && !connection.has_port(8));
        assert!(connection.is_decided() && !listener.is_decided());
    }
}

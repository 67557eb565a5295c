//! Asking `smcr-stat` again and again while a scenario runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};

use super::process::group_members;
use super::stat::{self, Connection, Process};

const INTERVAL: Duration = Duration::from_millis(250);

const MODES: [&str; 3] = ["shm", "rdma", "tcp"];

/// What was seen of one end.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// The last record of each connection that was listed when we looked.
    listed: BTreeMap<(u32, String), Connection>,
    /// The last record of each process, whose counters know also what we did not see listed.
    processes: BTreeMap<u32, Process>,
}

impl End {
    /// How many connections there were in this mode.
    pub fn count(&self, mode: &str) -> u64 {
        let listed = self.listed.values().filter(|c| c.mode == mode).count() as u64;
        let made: u64 = self.processes.values().map(|p| p.made(mode)).sum();
        listed.max(made)
    }

    /// The reasons for which connections were on TCP; an empty one stands for none given.
    pub fn reasons(&self) -> BTreeSet<&str> {
        let listed = self.listed.values().filter(|c| c.mode == "tcp");
        let counted = self.processes.values().flat_map(|p| &p.fallbacks);
        listed
            .map(Connection::reason)
            .chain(counted.filter(|f| f.count > 0).map(|f| f.name.as_str()))
            .collect()
    }

    fn add(&mut self, mut process: Process, port: Option<u16>) {
        for connection in std::mem::take(&mut process.connections) {
            let ours = port.is_none_or(|port| connection.has_port(port));
            if ours && connection.is_decided() {
                let key = (process.pid, connection.name());
                self.listed.insert(key, connection);
            }
        }
        self.processes.insert(process.pid, process);
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = MODES
            .iter()
            .map(|mode| (mode, self.count(mode)))
            .filter(|(_, count)| *count > 0)
            .map(|(mode, count)| format!("{count} {mode}"))
            .collect();
        let reasons: Vec<&str> = self
            .reasons()
            .into_iter()
            .filter(|r| !r.is_empty())
            .collect();
        if !reasons.is_empty() {
            parts.push(format!("({})", reasons.join(", ")));
        }
        match (parts.is_empty(), self.processes.is_empty()) {
            (false, _) => f.write_str(&parts.join(" ")),
            (true, false) => f.write_str("no connection"),
            (true, true) => f.write_str("nothing"),
        }
    }
}

/// What was seen of a scenario.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The server's connections.
    pub server: End,
    /// The client's connections.
    pub client: End,
    /// Why smcr-stat could not be asked, if it could not.
    pub trouble: Option<String>,
}

impl Seen {
    /// The mode of most connections: `shm`, `tcp`, ... or `none` where nothing was seen.
    pub fn main_mode(&self) -> &'static str {
        let count = |mode: &str| self.server.count(mode) + self.client.count(mode);
        let most = MODES.into_iter().max_by_key(|mode| count(mode));
        most.filter(|mode| count(mode) > 0).unwrap_or("none")
    }

    /// Checks that every connection at both ends has this mode, and that there were some.
    pub fn expect_mode(&self, mode: &str) -> Result<()> {
        self.trouble()?;
        for (name, end) in [("server", &self.server), ("client", &self.client)] {
            if end.count(mode) == 0 {
                bail!("the {name} should have connections in mode {mode}, but has: {end}");
            }
            // A connection that its client closed at once (wrk tries the server first) is no
            // fallback: there was nothing to move.
            let reasons = end.reasons();
            let closed_at_once = !reasons.is_empty() && reasons.iter().all(|r| *r == "ended");
            let others = MODES.iter().any(|other| {
                *other != mode && end.count(other) > 0 && !(*other == "tcp" && closed_at_once)
            });
            if others || !(reasons.is_empty() || closed_at_once) {
                bail!("the {name} should have only {mode}, but has: {end}");
            }
        }
        Ok(())
    }

    /// Checks that every connection that was seen is TCP for this reason, and that there were
    /// some.
    pub fn expect_tcp(&self, reason: &str) -> Result<()> {
        self.trouble()?;
        if self.server.count("tcp") + self.client.count("tcp") == 0 {
            bail!("smcr-stat showed no connection");
        }
        for (name, end) in [("server", &self.server), ("client", &self.client)] {
            let moved = ["shm", "rdma"].iter().any(|mode| end.count(mode) > 0);
            if moved || end.reasons().iter().any(|seen| *seen != reason) {
                bail!("the {name} should have only tcp ({reason}), but has: {end}");
            }
        }
        Ok(())
    }

    fn trouble(&self) -> Result<()> {
        match &self.trouble {
            Some(trouble) => bail!("smcr-stat: {trouble}"),
            None => Ok(()),
        }
    }
}

/// A thread that asks `smcr-stat` until it is told to finish.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Watch {
    /// Watches the processes of two groups; of their connections those with `port`.
    pub(super) fn start(server: u32, client: u32, port: Option<u16>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut watcher = Watcher {
                port,
                groups: [(server, BTreeSet::new()), (client, BTreeSet::new())],
                seen: Seen::default(),
            };
            // Not at once: the client is still being loaded.
            std::thread::park_timeout(INTERVAL / 2);
            loop {
                let last = stopped.load(Ordering::Relaxed);
                watcher.look();
                if last {
                    return watcher.seen;
                }
                std::thread::park_timeout(INTERVAL);
            }
        });
        Self { stop, thread }
    }

    /// Asks a last time (the page of a program that just ended can still be read) and says what
    /// was seen.
    pub(super) fn finish(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        self.thread.join().unwrap_or_else(|_| Seen {
            trouble: Some("the watching thread failed".into()),
            ..Seen::default()
        })
    }
}

struct Watcher {
    port: Option<u16>,
    groups: [(u32, BTreeSet<u32>); 2],
    seen: Seen,
}

impl Watcher {
    fn look(&mut self) {
        for (group, pids) in &mut self.groups {
            pids.insert(*group);
            pids.extend(group_members(*group));
        }
        let snapshot = match stat::snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => {
                self.seen.trouble = Some(format!("{error:#}"));
                return;
            }
        };
        for process in snapshot.processes {
            let [(_, server), (_, client)] = &self.groups;
            let end = if server.contains(&process.pid) {
                &mut self.seen.server
            } else if client.contains(&process.pid) {
                &mut self.seen.client
            } else {
                continue;
            };
            end.add(process, self.port);
        }
    }
}

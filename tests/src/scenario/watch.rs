//! Asking `smcr-stat` again and again while a scenario runs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, bail};

use super::process::group_members;
use super::stat::{self, Connection};

const INTERVAL: Duration = Duration::from_millis(250);

/// What was seen of one end's connections: the last record of each.
#[derive(Clone, Debug, Default)]
pub struct End {
    connections: BTreeMap<(u32, String), Connection>,
}

impl End {
    /// How many connections were seen.
    pub fn count(&self) -> usize {
        self.connections.len()
    }

    /// How many connections were in each mode, and for what reason.
    pub fn modes(&self) -> BTreeMap<(String, String), usize> {
        let mut modes = BTreeMap::new();
        for connection in self.connections.values() {
            let key = (connection.mode_name(), connection.reason_name());
            *modes.entry(key).or_default() += 1;
        }
        modes
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.connections.is_empty() {
            return f.write_str("nothing");
        }
        let modes = self.modes();
        for (i, ((mode, reason), count)) in modes.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            let mode = if mode.is_empty() { "undecided" } else { mode };
            write!(f, "{comma}{count} {mode}")?;
            if !reason.is_empty() {
                write!(f, " ({reason})")?;
            }
        }
        Ok(())
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
    pub fn main_mode(&self) -> String {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for end in [&self.server, &self.client] {
            for ((mode, _), count) in end.modes() {
                *counts.entry(mode).or_default() += count;
            }
        }
        counts
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .map_or_else(|| "none".into(), |(mode, _)| mode)
    }

    /// Checks that every connection at both ends has this mode, and that there were some.
    pub fn expect_mode(&self, mode: &str) -> Result<()> {
        self.trouble()?;
        for (name, end) in [("server", &self.server), ("client", &self.client)] {
            if end.count() == 0 {
                bail!("smcr-stat showed no connection of the {name}");
            }
            if end.modes().keys().any(|(seen, _)| seen != mode) {
                bail!("the {name} should have only {mode}, but has: {end}");
            }
        }
        Ok(())
    }

    /// Checks that every connection that was seen is TCP for this reason, and that there were
    /// some.
    pub fn expect_tcp(&self, reason: &str) -> Result<()> {
        self.trouble()?;
        if self.server.count() + self.client.count() == 0 {
            bail!("smcr-stat showed no connection");
        }
        for (name, end) in [("server", &self.server), ("client", &self.client)] {
            let wanted = ("tcp".to_owned(), reason.to_owned());
            if end.modes().keys().any(|seen| *seen != wanted) {
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
            // Look at the members of the groups often, so that workers are known by then.
            std::thread::sleep(INTERVAL);
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
            for connection in process.connections {
                let ours = self.port.is_none_or(|port| connection.has_port(port));
                if ours && !connection.listens() {
                    let key = (process.pid, connection.name());
                    end.connections.insert(key, connection);
                }
            }
        }
    }
}

//! Two guests on one wire.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::emulator::{Emulator, Hardware};
use super::guest::Guest;
use super::kernel::Kernel;

/// A guest powers off after this, should nobody do it.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Two guests: the first is called server, the second client.
pub struct Pair {
    /// 10.77.0.1, fd77::1.
    pub server: Guest,
    /// 10.77.0.2, fd77::2.
    pub client: Guest,
    boot_logs: PathBuf,
    logs: PathBuf,
    notes: Vec<(String, String)>,
    sockets: tempfile::TempDir,
}

impl Pair {
    /// Boots both, and sets up their network and RDMA devices. What they say on their consoles
    /// goes to files in `logs`.
    pub fn boot(kernel: &Kernel, logs: &Path, lifetime: Option<Duration>) -> Result<Self> {
        std::fs::create_dir_all(logs).with_context(|| logs.display().to_string())?;
        // Not in the target directory: the names of sockets have to be short.
        let sockets = tempfile::Builder::new().prefix("smcr-lab-").tempdir()?;
        let hardware = ["server", "client"].map(|name| Hardware {
            kernel,
            number: if name == "server" { 1 } else { 2 },
            name,
            memory_mib: 1536,
            lifetime: lifetime.unwrap_or(LIFETIME),
            logs,
            sockets: sockets.path(),
        });
        let [first, second] = &hardware;
        let (one, two) = (Emulator::start(first)?, Emulator::start(second)?);
        let server = Guest::boot(one, first).context("guest 1 (server) did not come up")?;
        let client = Guest::boot(two, second).context("guest 2 (client) did not come up")?;
        for hardware in &hardware {
            // They have been read.
            let _ = std::fs::remove_file(hardware.initramfs());
        }
        Ok(Self {
            server,
            client,
            boot_logs: logs.to_path_buf(),
            logs: logs.to_path_buf(),
            notes: Vec::new(),
            sockets,
        })
    }

    /// The server, then the client.
    pub fn guests(&mut self) -> [&mut Guest; 2] {
        [&mut self.server, &mut self.client]
    }

    /// Adds a line to the scenario's report.
    pub fn note(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.notes.push((name.into(), value.into()));
    }

    pub(super) fn take_notes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.notes)
    }

    /// Where the running scenario's logs go, and its captures, `server.pcap` and `client.pcap`.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The running scenario's capture at one guest (`server` or `client`). It can be read at any
    /// time: what has gone over the wire is in it.
    pub fn capture(&self, guest: &str) -> PathBuf {
        self.logs.join(format!("{guest}.pcap"))
    }

    pub(super) fn set_logs(&mut self, logs: &Path) {
        self.logs = logs.to_path_buf();
    }

    /// Where the sockets of both are.
    pub fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    /// Powers both off. Names those that had to be forced.
    pub fn power_off(mut self) -> Vec<String> {
        let logs = self.boot_logs.clone();
        let mut forced = Vec::new();
        for guest in self.guests() {
            let kernel_log = logs.join(format!("{}.dmesg", guest.name()));
            if !guest.power_off(&kernel_log) {
                forced.push(guest.name().to_owned());
            }
        }
        forced
    }
}

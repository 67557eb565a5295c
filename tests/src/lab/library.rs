//! Running programs of the guests under the library, or not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::guest::Guest;
use super::pair::Pair;
use super::{kernel_peer, quote};
use crate::scenario::paths;
use crate::scenario::stat::{Process, Snapshot};

/// Where the configuration lies in a guest.
const CONFIGURATION: &str = "/tmp/smcr.conf";

/// What is in it where two machines are to talk SMC-R: an enterprise ID in common.
pub const CONFIGURED: &str = "ueid = SMCR-LAB\n";

/// Where the library logs in a guest.
const LOG: &str = "/tmp/smcr.log";

/// What stands under the programs of both guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// Nothing: plain TCP.
    Tcp,
    /// The library, with what [`Library::install`] has put there.
    Library,
    /// Linux's own SMC-R ([`kernel_peer::line`]).
    Linux,
}

impl Under {
    /// The same command line under the library, or as it was. It has to be one simple command.
    pub fn line(self, line: &str) -> String {
        match self {
            Self::Tcp => line.to_owned(),
            Self::Library => Library::line(line),
            Self::Linux => kernel_peer::line(line),
        }
    }
}

/// What stands under a server and under its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// In the server's guest.
    pub server: Under,
    /// In the client's.
    pub client: Under,
}

impl Ends {
    /// Whether one of them is this.
    pub fn have(self, under: Under) -> bool {
        self.server == under || self.client == under
    }
}

impl From<Under> for Ends {
    fn from(both: Under) -> Self {
        Self {
            server: both,
            client: both,
        }
    }
}

/// The library in the guests.
pub struct Library;

impl Library {
    /// Gives both guests this configuration; refused if the library would refuse it.
    pub fn install(pair: &Pair, configuration: &str) -> Result<()> {
        for guest in [&pair.server, &pair.client] {
            // What ended processes of other scenarios counted is still there.
            guest.sh("rm -rf /dev/shm/smcr-*")?;
            Self::install_in(guest, configuration)?;
        }
        Ok(())
    }

    /// Gives one guest this configuration.
    pub fn install_in(guest: &Guest, configuration: &str) -> Result<()> {
        guest.write_file(CONFIGURATION, configuration)?;
        let tool = quote(&paths::stat_tool().display().to_string());
        guest
            .sh(format!("{tool} --check-config {CONFIGURATION}"))
            .map(drop)
    }

    /// Gives both guests what two machines need that are to talk SMC-R: the TCP option, and an
    /// enterprise ID in common.
    pub fn start(pair: &Pair) -> Result<()> {
        for guest in [&pair.server, &pair.client] {
            let tool = quote(&paths::option_tool().display().to_string());
            guest.sh(format!("{tool} attach"))?;
        }
        Self::start_with(pair, CONFIGURED)
    }

    /// Gives them another way to learn of each other in the option's place: they ask over UDP.
    pub fn start_asking(pair: &Pair) -> Result<()> {
        for guest in [&pair.server, &pair.client] {
            let tool = quote(&paths::option_tool().display().to_string());
            // Scenarios before this one may have attached it.
            guest.sh(format!("! {tool} status >/dev/null || {tool} detach"))?;
        }
        Self::start_with(pair, &format!("{CONFIGURED}ask_networks = 10.77.0.0/24\n"))
    }

    fn start_with(pair: &Pair, configuration: &str) -> Result<()> {
        for guest in [&pair.server, &pair.client] {
            // Programs of several users write there, each of which may be the first.
            guest.sh(format!(
                "echo 0 >/proc/sys/fs/protected_regular; : >{LOG}; chmod 666 {LOG}"
            ))?;
        }
        Self::install(pair, configuration)
    }

    /// The same command line under the library. `env` starts the program: not even the shell
    /// that reads the line runs under it.
    pub fn line(line: &str) -> String {
        let library = quote(&paths::library().display().to_string());
        format!(
            "env LD_PRELOAD={library} SMCR_CONFIG={CONFIGURATION} SMCR_LOG=debug@{LOG} \
             SMCR_STAT_KEEP=1 {line}"
        )
    }

    /// From here on the log is about what follows.
    pub fn begin_log(guest: &Guest) -> Result<()> {
        guest.sh(format!("test ! -e {LOG} || : >{LOG}")).map(drop)
    }

    /// Adds to an error what the library logged lately at both ends.
    pub fn explain<T>(pair: &Pair, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| {
            let mut text = String::new();
            for guest in [&pair.server, &pair.client] {
                let log = guest.sh(format!("tail -n 80 {LOG}")).unwrap_or_default();
                text += &format!("-- the library's log in the {}:\n{log}\n", guest.name());
            }
            error.context(text)
        })
    }
}

/// What `smcr-stat` shows in both guests.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// In the server's.
    pub server: Snapshot,
    /// In the client's.
    pub client: Snapshot,
}

impl Sight {
    /// Looks at both.
    pub fn of(pair: &Pair) -> Result<Self> {
        Ok(Self {
            server: snapshot(&pair.server)?,
            client: snapshot(&pair.client)?,
        })
    }

    /// Without the processes that were seen before.
    #[must_use]
    pub fn without(mut self, before: &Self) -> Self {
        for (now, before) in [
            (&mut self.server, &before.server),
            (&mut self.client, &before.client),
        ] {
            let is_new = |process: &Process| before.processes.iter().all(|p| p.pid != process.pid);
            now.processes.retain(is_new);
        }
        self
    }

    /// An error unless both ends had connections in this mode (`rdma`, `tcp`, `shm`), and none in
    /// another.
    pub fn expect_only(&self, mode: &str) -> Result<()> {
        self.expect_server(mode)?;
        self.expect_client(mode)
    }

    /// The same for the server's guest alone.
    pub fn expect_server(&self, mode: &str) -> Result<()> {
        only(&self.server, mode).context("the server's guest")
    }

    /// The same for the client's guest alone.
    pub fn expect_client(&self, mode: &str) -> Result<()> {
        only(&self.client, mode).context("the client's guest")
    }

    /// The modes that connections were seen in, for the report.
    pub fn modes(&self) -> String {
        let seen = |mode: &&str| self.server.made(mode) + self.client.made(mode) > 0;
        let modes: Vec<&str> = MODES.into_iter().filter(seen).collect();
        modes.join(" and ")
    }
}

/// What can carry a connection.
const MODES: [&str; 3] = ["rdma", "shm", "tcp"];

fn only(snapshot: &Snapshot, mode: &str) -> Result<()> {
    let others = MODES.into_iter().filter(|other| *other != mode);
    let others: u64 = others.map(|other| snapshot.made(other)).sum();
    let count = snapshot.made(mode);
    ensure!(
        count > 0 && others == 0,
        "{count} connections over {mode}, {others} over something else; {}",
        reasons(&snapshot.processes)
    );
    Ok(())
}

/// What `smcr-stat --json` shows in one guest, also of processes that have just ended.
pub fn snapshot(guest: &Guest) -> Result<Snapshot> {
    let tool = quote(&paths::stat_tool().display().to_string());
    let finished = guest
        .run(format!("{tool} --json --all"), Duration::from_secs(20))?
        .success()?;
    if finished.stdout.trim().is_empty() {
        return Ok(Snapshot::default());
    }
    serde_json::from_str(&finished.stdout).context("smcr-stat --json does not print valid JSON")
}

fn reasons(processes: &[Process]) -> String {
    let reasons = processes.iter().flat_map(|process| &process.fallbacks);
    let reasons: Vec<String> = reasons
        .map(|reason| format!("{} x {}", reason.count, reason.name))
        .collect();
    match reasons.is_empty() {
        true => "no reasons are given".to_owned(),
        false => format!("reasons: {}", reasons.join(", ")),
    }
}

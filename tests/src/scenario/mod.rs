//! Real programs, a server and a client, each with or without the library under it.
//!
//! A scenario starts both ends on loopback with free ports and its own temporary directory, waits
//! for the client under a deadline, asks `smcr-stat` in between, and reads figures from what the
//! client prints. Every program runs in a process group of its own, and only these groups are
//! ever signalled.

pub mod apps;
pub mod leftovers;
pub mod paths;
pub mod ports;
pub mod process;
pub mod stat;
pub mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use process::{Program, Running};
use watch::{Seen, Watch};

/// What stands under one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preload {
    /// Nothing: the program uses the kernel's TCP.
    None,
    /// `LD_PRELOAD=libsmcr.so`.
    Library,
    /// `LD_PRELOAD=libsmcr.so` with `SMCR_DISABLE=1`.
    Disabled,
}

/// What the two programs talk over when no library is involved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP on 127.0.0.1.
    Tcp,
    /// A unix stream socket, for tools that know how.
    Unix,
}

/// How one run of a scenario is set up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What stands under the server.
    pub server: Preload,
    /// What stands under the client.
    pub client: Preload,
    /// What they talk over.
    pub transport: Transport,
    /// Give each end a core of its own (if there are two).
    pub pinned: bool,
    /// About how long the client should work.
    pub seconds: u32,
    /// Ask `smcr-stat` while the client works.
    pub watch: bool,
}

impl Setup {
    /// TCP, with these preloads.
    pub fn new(server: Preload, client: Preload) -> Self {
        Self {
            server,
            client,
            transport: Transport::Tcp,
            pinned: false,
            seconds: 2,
            watch: false,
        }
    }

    /// No library at either end.
    pub fn plain() -> Self {
        Self::new(Preload::None, Preload::None)
    }

    /// No library, over a unix stream socket.
    pub fn unix() -> Self {
        Self {
            transport: Transport::Unix,
            ..Self::plain()
        }
    }

    /// The library at both ends.
    pub fn library() -> Self {
        Self::new(Preload::Library, Preload::Library)
    }

    /// The same with a core per end.
    #[must_use]
    pub fn pinned(mut self, pinned: bool) -> Self {
        self.pinned = pinned;
        self
    }

    /// The same for about this many seconds.
    #[must_use]
    pub fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// The same, with `smcr-stat` asked in between.
    #[must_use]
    pub fn watched(mut self) -> Self {
        self.watch = true;
        self
    }

    /// True where at least one end runs under the library.
    pub fn uses_library(&self) -> bool {
        self.server != Preload::None || self.client != Preload::None
    }

    /// Refuses unix sockets, for tools that have none.
    fn tcp_only(&self, tool: &str) -> Result<()> {
        if self.transport == Transport::Unix {
            bail!("{tool} cannot use unix stream sockets");
        }
        Ok(())
    }

    fn server_cpu(&self) -> Option<usize> {
        self.pinned.then(|| process::two_cpus()?.0.into()).flatten()
    }

    fn client_cpu(&self) -> Option<usize> {
        self.pinned.then(|| process::two_cpus()?.1.into()).flatten()
    }

    /// The server's program, ready for its arguments.
    fn server_program(&self, name: &str) -> Result<Program> {
        Ok(Program::new(name)?
            .preload(self.server)
            .cpu(self.server_cpu()))
    }

    /// The client's program, ready for its arguments.
    fn client_program(&self, name: &str) -> Result<Program> {
        Ok(Program::new(name)?
            .preload(self.client)
            .cpu(self.client_cpu()))
    }

    /// A generous deadline for a client that works for `seconds`: machines are shared.
    fn client_deadline(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds) * 4 + 40)
    }
}

/// Where a server listens.
#[derive(Clone, Debug)]
pub enum Address {
    /// A port of 127.0.0.1.
    Port(u16),
    /// The path of a unix socket.
    Path(PathBuf),
}

/// What came out of one run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Named figures, in base units (bytes/s, seconds, 1/s, counts).
    pub figures: BTreeMap<&'static str, f64>,
    /// What `smcr-stat` showed (empty unless asked for).
    pub seen: Seen,
    /// Everything the two programs wrote to stderr.
    pub stderr: String,
    /// What the client wrote to stdout.
    pub stdout: String,
}

impl Outcome {
    /// A figure by its name.
    pub fn figure(&self, name: &str) -> Result<f64> {
        self.figures.get(name).copied().with_context(|| {
            format!(
                "no figure {name:?} among {:?}",
                self.figures.keys().collect::<Vec<_>>()
            )
        })
    }

    /// Lines on stderr that come from the library or from loading it.
    pub fn library_noise(&self) -> Vec<&str> {
        self.stderr
            .lines()
            .filter(|line| {
                let line = line.to_ascii_lowercase();
                ["smcr", "panicked", "ld_preload", "rust_backtrace"]
                    .iter()
                    .any(|word| line.contains(word))
            })
            .collect()
    }
}

/// Runs `client` against a server that is up already, watching both if asked; then stops the
/// server. `port` tells the scenario's connections from others of the same processes.
fn drive(
    setup: &Setup,
    mut server: Running,
    client: Program,
    port: Option<u16>,
) -> Result<(Outcome, process::Finished)> {
    let mut client = client.start()?;
    let watch = (setup.watch && setup.uses_library())
        .then(|| Watch::start(server.group(), client.group(), port));
    let finished = client.wait(setup.client_deadline());
    let seen = watch.map(Watch::finish).unwrap_or_default();
    drop(client);
    let finished = match finished {
        Ok(finished) => finished,
        Err(error) => {
            let server = server.stop();
            return Err(error.context(format!("the server's side: {server}")));
        }
    };
    if let Some(status) = server.exited() {
        // One-shot servers (iperf3 -1) end by themselves; they must end well.
        if !status.success() {
            bail!("the server ended early: {}", server.stop());
        }
    }
    let served = server.stop();
    if !finished.status.success() {
        bail!("the client failed: {finished}\nthe server's side: {served}");
    }
    let outcome = Outcome {
        figures: BTreeMap::new(),
        seen,
        stderr: format!("{}{}", served.stderr, finished.stderr),
        stdout: finished.stdout.clone(),
    };
    Ok((outcome, finished))
}

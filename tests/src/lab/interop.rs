//! The library and Linux's own SMC-R as peers: one case at a time, and what is left of it.
//!
//! Guest 1 (`server`) has net/smc and no library; guest 2 (`client`) has the library and the TCP
//! option of `smcr-option`. Either may be the one that listens.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::guest::{Guest, Process};
use super::library::{Library, snapshot};
use super::pair::Pair;
use super::{kernel_peer, quote};
use crate::scenario::paths;
use crate::scenario::stat;

/// The configuration of the library that net/smc can be a peer of.
pub const CONFIGURATION: &str = "ueid = SMCR-LAB\n";

/// Ports that tshark takes for nobody else's.
const FIRST_PORT: u16 = 21_710;

/// How long net/smc may take to forget a connection that both ends closed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The library; net/smc listens.
    Library,
    /// net/smc; the library listens.
    Kernel,
}

impl Caller {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Library, Self::Kernel];

    /// `library connects`, for reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Library => "library connects",
            Self::Kernel => "kernel connects",
        }
    }
}

/// What the two ends of a case do, in the words of `smcr-talk`.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name in reports.
    pub name: &'static str,
    /// The end that calls.
    pub connect: &'static str,
    /// The end that is called.
    pub listen: &'static str,
    /// How many connections.
    pub connections: u32,
    /// All open before the first does anything; else one after the other.
    pub together: bool,
    /// Seconds until it has to be over.
    pub seconds: u64,
}

impl Case {
    /// One connection.
    pub const fn new(name: &'static str, connect: &'static str, listen: &'static str) -> Self {
        Self {
            name,
            connect,
            listen,
            connections: 1,
            together: false,
            seconds: 60,
        }
    }

    /// So many, one after the other.
    #[must_use]
    pub const fn times(mut self, connections: u32) -> Self {
        self.connections = connections;
        self
    }

    /// All at once.
    #[must_use]
    pub const fn together(mut self) -> Self {
        self.together = true;
        self
    }

    /// It may take so long.
    #[must_use]
    pub const fn within(mut self, seconds: u64) -> Self {
        self.seconds = seconds;
        self
    }

    fn count(&self) -> String {
        let together = if self.together { " together" } else { "" };
        format!("{}{together}", self.connections)
    }
}

/// How a case went.
#[derive(Debug)]
pub struct Seen {
    /// From the first call to the end of both programs.
    pub time: Duration,
    /// What the two programs wrote.
    pub said: String,
    /// What `smcr-stat` knows of the library's process.
    pub library: stat::Process,
}

impl Seen {
    /// An error unless all connections were SMC over RDMA.
    pub fn expect_rdma(&self, connections: u32) -> Result<()> {
        let (rdma, tcp) = (self.library.made("rdma"), self.library.made("tcp"));
        ensure!(
            rdma == u64::from(connections) && tcp == 0,
            "{rdma} connections over RDMA and {tcp} over TCP of {connections}: {:?}",
            self.library.fallbacks
        );
        Ok(())
    }
}

/// The two programs of a case, which run.
pub struct Running {
    /// The library's.
    pub library: Process,
    /// The kernel's.
    pub kernel: Process,
    begun: Instant,
}

/// Runs cases.
pub struct Bench<'a> {
    /// The guests.
    pub pair: &'a mut Pair,
    /// Family of the kernel's sockets: `smc`, or `tcp` where there is no net/smc.
    pub family: &'static str,
    /// What the shell does before it becomes the library's program: commands, each with a `;`.
    pub prologue: &'static str,
    port: u16,
    failed: Vec<String>,
    stuck: bool,
}

impl<'a> Bench<'a> {
    /// Sets both guests up; the module `smc` has to be loaded, in guest 1 at least.
    pub fn new(pair: &'a mut Pair) -> Result<Self> {
        kernel_peer::configure(&pair.server)?;
        let bench = Self::without_smc(pair)?;
        Ok(Self {
            family: "smc",
            ..bench
        })
    }

    /// The same with a kernel that is only TCP.
    pub fn without_smc(pair: &'a mut Pair) -> Result<Self> {
        Library::install(pair, CONFIGURATION)?;
        let option = quote(&paths::option_tool().display().to_string());
        pair.client.sh(format!("{option} attach"))?;
        // What earlier programs logged is of no interest.
        pair.client.sh("rm -f /tmp/smcr.log")?;
        Ok(Self {
            pair,
            family: "tcp",
            prologue: "",
            port: FIRST_PORT,
            failed: Vec::new(),
            stuck: false,
        })
    }

    /// Starts both ends.
    pub fn start(&mut self, caller: Caller, case: &Case) -> Result<Running> {
        self.port += 1;
        let port = self.port;
        let (listening, calling) = match caller {
            Caller::Library => (&self.pair.server, &self.pair.client),
            Caller::Kernel => (&self.pair.client, &self.pair.server),
        };
        let address = listening.address();
        let line = |role: &str, steps: &str, library: bool| {
            let talk = paths::programs().join("smcr-talk");
            let talk = quote(&talk.display().to_string());
            let family = if library { "tcp" } else { self.family };
            let count = case.count();
            let line = format!("{talk} {role} {family} {address} {port} {steps} {count}");
            match library {
                true => {
                    let line = Library::line(&line);
                    let prologue = self.prologue;
                    format!("{prologue} echo pid $$; export SMCR_TALK_HOLD=1; exec {line}")
                }
                false => format!("exec {line}"),
            }
        };
        let library_listens = caller == Caller::Kernel;
        let listener = listening.spawn(line("listen", case.listen, library_listens))?;
        listening.wait_for_listener(port)?;
        let begun = Instant::now();
        let connector = calling.spawn(line("connect", case.connect, !library_listens))?;
        let (library, kernel) = match caller {
            Caller::Library => (connector, listener),
            Caller::Kernel => (listener, connector),
        };
        Ok(Running {
            library,
            kernel,
            begun,
        })
    }

    /// Runs both ends to their end; both have to succeed.
    pub fn talk(&mut self, caller: Caller, case: &Case) -> Result<Seen> {
        let running = self.start(caller, case)?;
        self.end(running, case)
    }

    /// The same with ends that run already.
    pub fn end(&mut self, mut running: Running, case: &Case) -> Result<Seen> {
        let deadline = Duration::from_secs(case.seconds);
        let library = running.library.wait_for(" done, ", deadline);
        let left = deadline.saturating_sub(running.begun.elapsed());
        let kernel = running.kernel.wait(left.max(Duration::from_secs(5)));
        let time = running.begun.elapsed();
        let (kernel, library) = match (kernel, library) {
            (Ok(kernel), Ok(())) => (kernel, running.library.stdout()),
            (kernel, library) => {
                let library = match library {
                    Ok(()) => running.library.stdout(),
                    Err(error) => format!("{error:#}"),
                };
                let kernel = match kernel {
                    Ok(finished) => format!("{finished}"),
                    Err(error) => format!("{error:#}"),
                };
                bail!("library: {library}; kernel: {kernel}");
            }
        };
        // While the library's process lives: its end would clean up for it.
        let clean = self.expect_clean();
        let process = self.process(&library);
        running.library.close_stdin()?;
        let library = running.library.wait(Duration::from_secs(20))?;
        ensure!(
            library.status.success() && kernel.status.success(),
            "library: {library}; kernel: {kernel}"
        );
        clean?;
        Ok(Seen {
            time,
            said: format!(
                "library: {}; kernel: {}",
                short(&library.stdout),
                short(&kernel.stdout)
            ),
            library: process?,
        })
    }

    /// Net/smc at both ends, without the library: what Linux does by itself. Says how the two ended,
    /// stopped after `patience` if need be.
    pub fn both_kernels(&mut self, case: &Case, patience: Duration) -> Result<String> {
        kernel_peer::configure(&self.pair.client)?;
        self.port += 1;
        let (address, port) = (self.pair.server.address(), self.port);
        let talk = paths::programs().join("smcr-talk");
        let talk = quote(&talk.display().to_string());
        let line = |role, steps| format!("exec {talk} {role} smc {address} {port} {steps}");
        let mut listener = self.pair.server.spawn(line("listen", case.listen))?;
        self.pair.server.wait_for_listener(port)?;
        let mut caller = self.pair.client.spawn(line("connect", case.connect))?;
        caller.wait_a_while(patience)?;
        let (caller, listener) = (caller.stop()?, listener.stop()?);
        Ok(format!("caller: {caller}; listener: {listener}"))
    }

    /// What `smcr-stat` says of the process that wrote this.
    pub fn process(&self, stdout: &str) -> Result<stat::Process> {
        let pid = stdout.lines().find_map(|line| line.strip_prefix("pid "));
        let pid: u32 = pid.context("the program did not say its pid")?.parse()?;
        let processes = snapshot(&self.pair.client)?.processes;
        let process = processes.into_iter().find(|process| process.pid == pid);
        process.with_context(|| format!("smcr-stat does not show process {pid}"))
    }

    /// What net/smc has not let go of; empty if there is nothing.
    pub fn left(&self) -> Result<String> {
        leftovers(&self.pair.server)
    }

    /// An error unless net/smc has forgotten all its connections, soon.
    pub fn expect_clean(&mut self) -> Result<()> {
        let clean = expect_clean(&self.pair.server);
        self.stuck |= clean.is_err();
        clean
    }

    /// Runs a case in one role, with what has to hold for all of them: everything goes over RDMA,
    /// nothing is left of it in the kernel, and the next connection works. The outcome is noted;
    /// [`Self::finish`] tells whether all were good.
    pub fn case(
        &mut self,
        caller: Caller,
        case: &Case,
        check: impl FnOnce(&mut Self, &Seen) -> Result<String>,
    ) {
        self.cell(case.name, caller, |bench| {
            let seen = bench.talk(caller, case)?;
            seen.expect_rdma(case.connections)?;
            let more = check(bench, &seen)?;
            Ok(format!(
                "{:.2} s; {}{more}",
                seen.time.as_secs_f64(),
                seen.said
            ))
        });
    }

    /// The same for a case that is a function.
    pub fn cell(
        &mut self,
        name: &str,
        caller: Caller,
        run: impl FnOnce(&mut Self) -> Result<String>,
    ) {
        let name = format!("{name}, {}", caller.name());
        if !wanted(&name) {
            return;
        }
        if self.stuck {
            self.pair.note(name.clone(), "not run");
            self.failed.push(format!("{name}: not run"));
            return;
        }
        let start = self.log_size();
        let outcome = run(self).and_then(|said| {
            self.next_works(caller).context("the next connection")?;
            Ok(said)
        });
        match outcome {
            Ok(said) => self.pair.note(name, format!("ok, {said}")),
            Err(error) => {
                let log = self
                    .pair
                    .client
                    .sh(format!("tail -c +{} /tmp/smcr.log | tail -n 60", start + 1))
                    .unwrap_or_default();
                let text = format!("{error:#}");
                self.pair.note(name.clone(), format!("FAILED: {text}"));
                self.failed
                    .push(format!("{name}: {text}\n-- the library's log:\n{log}"));
                // The others shall not suffer from it, if that can be.
                let _ = self.expect_clean();
            }
        }
    }

    fn log_size(&self) -> usize {
        let line = "wc -c </tmp/smcr.log 2>/dev/null || echo 0";
        let size = self.pair.client.sh(line).unwrap_or_default();
        size.trim().parse().unwrap_or(0)
    }

    fn next_works(&mut self, caller: Caller) -> Result<()> {
        const NEXT: Case = Case::new("next", "both:1000,shut,eof", "both:1000,eof").within(30);
        let seen = self.talk(caller, &NEXT)?;
        if self.family == "smc" {
            seen.expect_rdma(1)?;
        }
        self.expect_clean()
    }

    /// An error if a case failed.
    pub fn finish(self) -> Result<()> {
        ensure!(
            self.failed.is_empty(),
            "{} failed:\n{}",
            self.failed.len(),
            self.failed.join("\n")
        );
        Ok(())
    }
}

/// A program's lines as one, without its pid.
fn short(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("pid "));
    lines.collect::<Vec<_>>().join(", ")
}

/// Only cells with this text in their name are run.
pub const CELLS: &str = "SMCR_CELLS";

fn wanted(name: &str) -> bool {
    std::env::var(CELLS).is_ok_and(|text| name.contains(&text)) || std::env::var_os(CELLS).is_none()
}

/// An error unless net/smc of a guest has forgotten all its connections, soon.
pub fn expect_clean(guest: &Guest) -> Result<()> {
    let start = Instant::now();
    loop {
        let left = leftovers(guest)?;
        if left.is_empty() {
            return Ok(());
        }
        ensure!(
            start.elapsed() < PATIENCE,
            "the kernel is not clean after {PATIENCE:?}: {left}"
        );
    }
}

/// What net/smc has not let go of: sockets, programs that cannot be killed, complaints. Empty if
/// there is nothing.
fn leftovers(guest: &Guest) -> Result<String> {
    // Few processes: each costs an emulated machine a tenth of a second.
    let line = "grep -E '^SMC6? +[0-9]+ +[1-9]' /proc/net/protocols; \
        pgrep -x -l smcr-talk; dmesg | grep -m 3 -E 'BUG:|WARNING:|blocked for more'; true";
    Ok(guest.sh(line)?.trim().replace('\n', "; "))
}

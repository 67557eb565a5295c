//! A guest stands still for a while, its clock too, with bytes on their way in both directions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::faults::ended;
use crate::lab::interop::{Bench, Caller, Case, Running};
use crate::lab::{Guest, Pair, Process};

/// 1 MB and more are under way when the guest stops, whichever it is.
const BUSY: Case = Case::new(
    "busy",
    "both:1000,say:open,both:8000000,shut,eof",
    "both:1000,say:open,both:8000000,shut,eof",
);

/// How long both may take to find out, or to go on, once the guest does.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose guest stands still.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Kernel,
    Library,
}

impl Whose {
    fn name(self) -> &'static str {
        match self {
            Self::Kernel => "the kernel's guest",
            Self::Library => "the library's guest",
        }
    }

    fn guest(self, pair: &mut Pair) -> &mut Guest {
        match self {
            Self::Kernel => &mut pair.server,
            Self::Library => &mut pair.client,
        }
    }
}

/// For 1 s, which RDMA may survive, and for 60 s, which it cannot.
pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    for seconds in [1, 60] {
        for whose in [Whose::Kernel, Whose::Library] {
            for caller in Caller::BOTH {
                let name = format!("{} stands still for {seconds} s", whose.name());
                bench.cell(&name, caller, |bench| paused(bench, caller, whose, seconds));
            }
        }
    }
    bench.finish()
}

fn paused(bench: &mut Bench<'_>, caller: Caller, whose: Whose, seconds: u64) -> Result<String> {
    let mut running = bench.start(caller, &BUSY)?;
    let soon = Duration::from_secs(20);
    running.library.wait_for("open", soon).context("library")?;
    running.kernel.wait_for("open", soon).context("kernel")?;
    whose.guest(bench.pair).pause()?;
    let found = other_end(&mut running, whose, Duration::from_secs(seconds));
    // Whatever came of it, the guest has to go on.
    whose.guest(bench.pair).resume()?;
    let found = found?;
    let resumed = Instant::now();
    let kernel = running.kernel.wait(PATIENCE).context("kernel")?;
    let library = ended(&mut running.library, PATIENCE).context("library")?;
    let time = resumed.elapsed().as_secs_f64();
    let went_on = [&kernel, &library].map(|end| end.status.success());
    let said = match went_on {
        [true, true] => format!("went on, all there {time:.1} s later"),
        [false, false] => {
            let found = match found {
                Some(after) => {
                    format!("the other end found out after {:.1} s", after.as_secs_f64())
                }
                None => "the other end found out afterwards".to_owned(),
            };
            format!(
                "{found}, both ended {time:.1} s later; kernel: {}; library: {}",
                trouble(&kernel.stderr),
                trouble(&library.stderr)
            )
        }
        // Bytes that one end believes delivered are not.
        _ => bail!("one end went on alone: kernel: {kernel}; library: {library}"),
    };
    ensure!(
        seconds > 1 || went_on == [true, true],
        "a second was too long: {said}"
    );
    group_ends(&bench.pair.server)?;
    Ok(said)
}

/// Waits so long; says when the end that does not stand still ended, if it did.
fn other_end(running: &mut Running, whose: Whose, time: Duration) -> Result<Option<Duration>> {
    let begun = Instant::now();
    let ended = |running: &mut Running| match whose {
        Whose::Kernel => Ok(running.library.stdout().contains(" done, ")),
        Whose::Library => anyhow::Ok(running.kernel.exited()?.is_some()),
    };
    let mut found = None;
    while begun.elapsed() < time {
        let process: &mut Process = match whose {
            Whose::Kernel => &mut running.library,
            Whose::Library => &mut running.kernel,
        };
        process.wait_a_while(Duration::from_millis(100))?;
        if found.is_none() && ended(running)? {
            found = Some(begun.elapsed());
        }
    }
    Ok(found)
}

/// What went wrong, without where.
pub(super) fn trouble(stderr: &str) -> &str {
    let line = stderr.lines().rfind(|line| line.starts_with("connection "));
    line.and_then(|line| line.rsplit(": ").next())
        .unwrap_or("nothing said")
}

/// The library's process is gone: the kernel's link group has to go, too, and does so once its
/// queue pair finds nobody.
fn group_ends(guest: &Guest) -> Result<()> {
    let begun = Instant::now();
    loop {
        let pairs = guest.sh("rdma resource show qp | grep -c 'type RC' || true")?;
        if pairs.trim() == "0" {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the kernel has {} queue pairs left",
            pairs.trim()
        );
        std::thread::sleep(Duration::from_millis(500));
    }
}

//! Ends that are killed, and RDMA devices that are taken away.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::lab::interop::{Bench, Caller, Case, Running};
use crate::lab::{Guest, Pair, Process};
use crate::scenario::process::Finished;

/// A connection that would stay.
const HELD: Case = Case::new("held", "both:1000,say:open,gone", "both:1000,say:open,gone");

/// How long the survivor may take to find out.
const PATIENCE: Duration = Duration::from_secs(60);

/// One end is killed; the other one finds the end of the connection.
pub(in super::super) fn kill(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    for caller in Caller::BOTH {
        bench.cell("the library's end is killed", caller, |bench| {
            let mut running = open(bench, caller, &HELD)?;
            running.library.kill(libc::SIGKILL)?;
            let begun = Instant::now();
            let finished = running.kernel.wait(PATIENCE)?.success()?;
            let time = begun.elapsed().as_secs_f64();
            Ok(format!(
                "kernel: {} after {time:.1} s",
                found(&finished.stdout)?
            ))
        });
        bench.cell("the kernel's end is killed", caller, |bench| {
            let mut running = open(bench, caller, &HELD)?;
            running.kernel.kill(libc::SIGKILL)?;
            let begun = Instant::now();
            let finished = ended(&mut running.library, PATIENCE)?.success()?;
            let time = begun.elapsed().as_secs_f64();
            Ok(format!(
                "library: {} after {time:.1} s",
                found(&finished.stdout)?
            ))
        });
    }
    bench.finish()
}

/// A RoCE device goes away under a connection.
pub(in super::super) fn device(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    for caller in Caller::BOTH {
        bench.cell("RoCE device removed at the kernel", caller, |bench| {
            let mut running = open(bench, caller, &HELD)?;
            remove(&bench.pair.server)?;
            both_end(&mut running, || bring_back(&bench.pair.server))
        });
    }
    for caller in Caller::BOTH {
        bench.cell("RoCE device removed at the library", caller, |bench| {
            let mut running = open(bench, caller, &HELD)?;
            // Not every driver can take a device from those who have it open; rxe waits for them.
            let mut removal = bench.pair.client.spawn("rdma link delete rxe0")?;
            both_end(&mut running, || {
                removal.wait(Duration::from_secs(20)).context("removal")?;
                bring_back(&bench.pair.client)
            })
        });
    }
    bench.finish()
}

/// What both ends find within a bounded time, and when. `mend` makes the next connection possible,
/// whatever they found.
fn both_end(running: &mut Running, mend: impl FnOnce() -> Result<()>) -> Result<String> {
    let begun = Instant::now();
    let library = ended(&mut running.library, PATIENCE);
    let library_time = begun.elapsed().as_secs_f64();
    let kernel = running.kernel.wait(PATIENCE);
    let kernel_time = begun.elapsed().as_secs_f64();
    mend()?;
    let library = library.context("library")?.success()?;
    let kernel = kernel.context("kernel")?.success()?;
    Ok(format!(
        "library: {} after {library_time:.1} s; kernel: {} after at most {kernel_time:.1} s",
        found(&library.stdout)?,
        found(&kernel.stdout)?
    ))
}

fn open(bench: &mut Bench<'_>, caller: Caller, case: &Case) -> Result<Running> {
    let mut running = bench.start(caller, case)?;
    let soon = Duration::from_secs(20);
    running.library.wait_for("open", soon).context("library")?;
    running.kernel.wait_for("open", soon).context("kernel")?;
    let process = bench.process(&running.library.stdout())?;
    ensure!(
        process.made("rdma") == 1,
        "not over RDMA: {:?}",
        process.fallbacks
    );
    let left = bench.left()?;
    ensure!(
        left.contains("SMC"),
        "the kernel's sockets are not seen: {left:?}"
    );
    Ok(running)
}

pub(super) fn remove(guest: &Guest) -> Result<()> {
    guest.sh("rdma link delete rxe0").map(drop)
}

pub(super) fn bring_back(guest: &Guest) -> Result<()> {
    let line = "rdma link add rxe0 type rxe netdev eth0; \
                for _ in $(seq 100); do \
                rdma link show rxe0/1 | grep -q ACTIVE && exit 0; sleep 0.1; done; exit 1";
    guest.sh(line).map(drop)
}

/// The end of the library's program, which waits to be let go.
pub(super) fn ended(library: &mut Process, patience: Duration) -> Result<Finished> {
    library.wait_for(" done, ", patience)?;
    library.close_stdin()?;
    library.wait(Duration::from_secs(20))
}

fn found(stdout: &str) -> Result<&str> {
    let found = stdout.lines().find_map(|line| line.strip_prefix("found: "));
    found.context("nothing was found")
}

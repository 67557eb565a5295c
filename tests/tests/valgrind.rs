//! Preloaded programs under valgrind: the library reads and writes nothing that is not its own or
//! the program's, uses nothing that was never set, and loses no memory; and they work there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::paths;
use smcr_tests::scenario::process::Program;

/// Of each kind of call one: a bulk transfer, readiness, threads, forks, control messages, vectors,
/// urgent bytes, resets; and whether lost memory counts. Not in a child of a fork, which does not
/// free what belongs to threads that it has not.
const SCENARIOS: [(&str, bool); 8] = [
    ("large_both_ways_two_processes", false),
    ("wake_epoll_by_data", true),
    ("two_blocked_pollers", true),
    ("accept_then_fork", false),
    ("pass_a_connection", false),
    ("readv_writev", true),
    ("urgent_byte_skipped", true),
    ("reset_by_linger_zero", true),
];

const DEADLINE: Duration = Duration::from_secs(60);

/// The scenarios of `tests/scenarios`, compiled.
fn compiled() -> Result<PathBuf> {
    let sources = paths::workspace().join("tests/scenarios");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("valgrind-scenarios");
    let files = std::fs::read_dir(&sources).with_context(|| sources.display().to_string())?;
    let files = files.filter_map(|entry| Some(entry.ok()?.path()));
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "c"));
    let output = Command::new("gcc")
        .args(["-std=gnu11", "-g", "-O0", "-pthread", "-w", "-o"])
        .arg(&program)
        .args(files)
        .output()
        .context("gcc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "gcc: {said}");
    Ok(program)
}

#[test]
fn nothing_is_read_that_is_not_there() -> Result<()> {
    paths::ensure_built()?;
    let program = compiled()?;
    let suppressions = paths::workspace().join("tests/valgrind.supp");
    for (scenario, counts_leaks) in SCENARIOS {
        let leaks = if counts_leaks { "full" } else { "no" };
        let logs = tempfile::tempdir()?;
        let ran = Program::new("valgrind")?
            .args("-q --trace-children=yes --show-leak-kinds=definite")
            .arg(format!("--leak-check={leaks}"))
            .arg(format!("--suppressions={}", suppressions.display()))
            .arg(format!("--log-file={}/%p", logs.path().display()))
            // Only under the program: valgrind itself makes calls of its own.
            .arg("env")
            .arg(format!("LD_PRELOAD={}", paths::library().display()))
            .arg(&program)
            .args("run")
            .arg(scenario)
            .run(DEADLINE)?;
        ensure!(ran.status.success(), "{scenario}: {ran}");
        ensure!(ran.stdout.contains("end"), "{scenario}: {ran}");
        for entry in std::fs::read_dir(logs.path())? {
            let log = std::fs::read_to_string(entry?.path())?;
            // Of system calls that are newer than it valgrind says so, and no more.
            let found = log.lines().filter(|line| line.starts_with("==")).count();
            ensure!(found == 0, "{scenario}:\n{log}");
        }
    }
    Ok(())
}

//! Running cargo.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::paths;

/// cargo at the root of the workspace. Standard input is closed: nothing here may ask.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo
        .args(arguments)
        .current_dir(paths::workspace())
        .stdin(Stdio::null());
    cargo
}

/// Runs cargo; true if it succeeded.
pub(crate) fn run(arguments: &[&str]) -> Result<bool> {
    println!("cargo {}", arguments.join(" "));
    let status = command(arguments).status().context("cannot run cargo")?;
    Ok(status.success())
}

/// Builds what scenarios run: the library, smcr-stat and the programs of the tests.
/// Does nothing where [`paths::PREBUILT`] is set.
pub(crate) fn build_for_scenarios() -> Result<()> {
    if std::env::var_os(paths::PREBUILT).is_some() {
        return Ok(());
    }
    let profile = paths::profile();
    let mut arguments = vec!["build", "--profile", &profile, "--lib", "--bins"];
    for package in paths::PACKAGES {
        arguments.extend(["--package", package]);
    }
    ensure!(run(&arguments)?, "the build failed");
    for (package, kind, target) in [
        ("smcr-core", "--example", paths::FABRIC_TOOL),
        ("smcr-option", "--test", paths::OPTION_CASES),
    ] {
        let target = [
            "build",
            "--profile",
            &profile,
            "--package",
            package,
            kind,
            target,
        ];
        ensure!(run(&target)?, "the build failed");
    }
    Ok(())
}

/// The packages of the workspace.
pub(crate) fn packages() -> Result<Vec<String>> {
    let output = command(&["metadata", "--no-deps", "--format-version", "1"])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array();
    let packages = packages.context("cargo metadata lists no packages")?;
    let name = |package: &serde_json::Value| Some(package["name"].as_str()?.to_owned());
    Ok(packages.iter().filter_map(name).collect())
}

/// Runs a command, shows its stdout and gives each line to `line`. At the deadline the command
/// and all its descendants are ended. True if it succeeded.
pub(crate) fn stream(
    mut command: Command,
    deadline: Duration,
    mut line: impl FnMut(&str),
) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let pid = child.id();
    let (finished, alarm) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let start = Instant::now();
        if alarm.recv_timeout(deadline) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            println!("no end after {} s: stopping it", start.elapsed().as_secs());
            stop_tree(pid);
        }
    });
    for text in BufReader::new(stdout).lines() {
        let text = text?;
        println!("{text}");
        line(&text);
    }
    let status = child.wait()?;
    drop(finished);
    let _ = watchdog.join();
    Ok(status.success())
}

/// Ends a child of ours that we have not waited for yet, and what descends from it.
fn stop_tree(pid: u32) {
    // Children first: they are found by their parent.
    for child in children(pid) {
        stop_tree(child);
    }
    // SAFETY: plain system call; the process descends from a child that is not reaped yet.
    unsafe { libc::kill(pid as libc::pid_t, libc::SIGTERM) };
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|text| {
            let pids = text.split_whitespace().filter_map(|word| word.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

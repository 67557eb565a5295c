//! cargo-deny: licences, sources and known advisories of what we depend on.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use smcr_tests::scenario::{paths, process};

use crate::cargo;

/// Kept fixed so that a new release of the tool cannot fail an old commit.
const VERSION: &str = "0.20.2";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    Failed,
    /// It could not be made here; the reason has been printed.
    Skipped,
}

/// Checks licences, bans and sources, which needs no network once all crates are there.
pub(crate) fn check() -> Result<Verdict> {
    let Some(tool) = tool()? else {
        println!("skipped: cargo-deny could not be installed");
        return Ok(Verdict::Skipped);
    };
    // Those, too, that no build here needs: for other platforms, or with other settings.
    if !cargo::run(&["fetch", "--locked"])? {
        return Ok(Verdict::Failed);
    }
    let status = Command::new(tool)
        .args(["--offline", "check", "bans", "licenses", "sources"])
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo-deny")?;
    Ok(if status.success() {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

/// Checks for security advisories, whose database is fetched from the network.
pub(crate) fn advisories() -> Result<Verdict> {
    let Some(tool) = tool()? else {
        return Ok(Verdict::Skipped);
    };
    let output = Command::new(tool)
        .args(["check", "advisories"])
        .current_dir(paths::workspace())
        .stdin(Stdio::null())
        .output()
        .context("cannot run cargo-deny")?;
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(Verdict::Passed);
    }
    if text.contains("failed to fetch advisory database") {
        println!("skipped: the advisory database cannot be reached from here");
        return Ok(Verdict::Skipped);
    }
    print!("{text}");
    Ok(Verdict::Failed)
}

/// The tool: the machine's, or our own under the target directory, which is installed once (it
/// takes some minutes to build).
fn tool() -> Result<Option<PathBuf>> {
    if let Some(installed) = process::find(OsStr::new("cargo-deny")) {
        return Ok(Some(installed));
    }
    let root = paths::target().join("xtask-tools");
    let tool = root.join("bin/cargo-deny");
    if tool.exists() {
        return Ok(Some(tool));
    }
    println!(
        "building cargo-deny {VERSION} once, into {}",
        root.display()
    );
    let root = root.display().to_string();
    let built = cargo::run(&[
        "install",
        "cargo-deny",
        "--locked",
        "--version",
        VERSION,
        "--root",
        &root,
    ])?;
    Ok((built && tool.exists()).then_some(tool))
}

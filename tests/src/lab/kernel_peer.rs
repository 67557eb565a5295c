//! Linux's net/smc in a guest, as a peer. The scenario has to ask for the modules [`MODULES`].

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::guest::Guest;
use super::{kernel, quote};
use crate::scenario::paths;

/// The modules that it takes.
pub const MODULES: &[&str] = &["smc", "smc_diag"];

/// The UEID that all guests share.
pub const UEID: &str = "SMCR-LAB";

/// A command line of `smcr-afsmc`, the program that configures net/smc and talks through its
/// sockets.
pub fn tool(arguments: &str) -> String {
    let tool = paths::programs().join("smcr-afsmc");
    format!("{} {arguments}", quote(&tool.display().to_string()))
}

/// Makes a guest offer and accept SMC-Rv2, which is off until there is a UEID.
pub fn configure(guest: &Guest) -> Result<()> {
    guest.sh(tool(&format!("ueid {UEID}"))).map(drop)
}

/// Takes that back. Link groups that there are stay.
pub fn forget(guest: &Guest) -> Result<()> {
    guest.sh(tool(&format!("no-ueid {UEID}"))).map(drop)
}

/// The same command line with its TCP sockets made Linux's SMC ones; [`build_preload`] comes first.
/// It has to be one simple command.
pub fn line(line: &str) -> String {
    let preload = quote(&preload().display().to_string());
    format!("env LD_PRELOAD={preload} {line}")
}

/// Compiles what [`line`] preloads, unless it is there.
pub fn build_preload() -> Result<()> {
    let (source, made) = (paths::app("af_smc.c"), preload());
    let time = |path: &Path| path.metadata().and_then(|metadata| metadata.modified());
    let source_time = time(&source).with_context(|| source.display().to_string())?;
    if time(&made).is_ok_and(|time| time > source_time) {
        return Ok(());
    }
    // Compiled aside and renamed: guests may be running the old one.
    let fresh = made.with_extension(format!("new-{}", std::process::id()));
    let status = Command::new("gcc")
        .args(["-std=gnu11", "-Wall", "-Werror", "-O2", "-shared", "-fPIC"])
        .arg(&source)
        .arg("-o")
        .arg(&fresh)
        .status()
        .context("gcc: run `cargo xtask deps`")?;
    ensure!(status.success(), "gcc cannot compile {}", source.display());
    std::fs::rename(&fresh, &made).with_context(|| made.display().to_string())
}

fn preload() -> PathBuf {
    kernel::directory().join("libaf-smc.so")
}

/// Where a guest's kernel says why connections fell back to TCP, once it is asked to.
const TRACE: &str = "/sys/kernel/tracing";

/// From here on it is about what follows.
pub fn begin_fallbacks(guest: &Guest) -> Result<()> {
    let event = format!("{TRACE}/events/smc/smc_switch_to_fallback/enable");
    guest
        .sh(format!("echo 1 >{event}; echo >{TRACE}/trace"))
        .map(drop)
}

/// The reasons for which connections have fallen back since, in the codes of Decline and of Linux.
pub fn fallbacks(guest: &Guest) -> Result<Vec<u32>> {
    let trace = guest.sh(format!("grep -v '^#' {TRACE}/trace; true"))?;
    let codes = trace
        .lines()
        .filter_map(|line| line.split_once("rsn=").map(|(_, code)| code.trim()));
    codes
        .map(|code| code.parse().with_context(|| format!("rsn={code}")))
        .collect()
}

/// How [`Decoded::smc`](super::Decoded::smc) shows a first contact of two Linux peers.
pub const FIRST_CONTACT: [&str; 8] = [
    "SMC-Rv2-Proposal",
    "SMC-Rv2-Accept",
    "SMC-Rv2-Confirm",
    "CONFIRM LINK request",
    "CONFIRM LINK response",
    "ADD LINK request",
    "ADD LINK response",
    "CDC Message",
];

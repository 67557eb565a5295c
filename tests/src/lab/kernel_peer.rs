//! Linux's net/smc in a guest, as a peer. The scenario has to ask for the modules [`MODULES`].

use anyhow::Result;

use super::guest::Guest;
use super::quote;
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

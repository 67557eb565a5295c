//! Real programs between the guests, over plain TCP or under the library.
//!
//! Every runner takes an [`Under`], so that the same work is one argument away from the library.
//! The sizes are for emulated processors: TCP carries some 200 Mbit/s there.

pub mod iperf3;
pub mod nginx;
pub mod perftest;
pub mod postgresql;
pub mod redis;
pub mod rsockets;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::library::{Sight, Under};
use super::pair::Pair;
use super::{Cmd, Process};
use crate::scenario::process::Finished;

/// When smcr-stat is run while a client works: it takes time from emulated processors.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LATER_LOOKS: Duration = Duration::from_secs(2);

/// What one run of a pair of programs found out.
#[derive(Debug)]
pub struct Ran {
    /// Named figures, for the report.
    pub figures: Vec<(String, String)>,
    /// What `smcr-stat` showed in the guests, if the library was there.
    pub sight: Option<Sight>,
}

/// Runs a client against a server that is up already, looks at both, and stops the server.
fn drive(
    pair: &Pair,
    under: Under,
    server: &mut Process,
    client: Cmd,
    deadline: Duration,
) -> Result<(Finished, Option<Sight>)> {
    let end = Instant::now() + deadline;
    let mut client = pair.client.spawn(client)?;
    let mut sight = None;
    if under == Under::Library {
        // What a process counts goes when it goes, so it has to be seen while it runs.
        let mut seen = Sight::default();
        let mut pause = FIRST_LOOK;
        while client.wait_a_while(pause)?.is_none() && Instant::now() < end {
            seen.update(Sight::of(pair)?);
            pause = LATER_LOOKS;
        }
        seen.update(Sight::of(pair)?);
        sight = Some(seen);
    }
    let finished = client.wait(end.saturating_duration_since(Instant::now()))?;
    let served = server.stop()?;
    if !finished.status.success() {
        bail!("the client failed: {finished}\nthe server's side: {served}");
    }
    Ok((finished, sight))
}

/// The number behind a word, as in `total 5.2 s`.
fn number_after(text: &str, word: &str) -> Option<f64> {
    let rest = &text[text.find(word)? + word.len()..];
    let rest = rest.trim_start_matches(|c: char| !c.is_ascii_digit() && c != '\n');
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.');
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

/// A rate for the report.
fn megabits(bytes_per_second: f64) -> String {
    format!("{:.0} Mbit/s", bytes_per_second * 8e-6)
}

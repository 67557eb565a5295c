//! Real programs between the guests, over plain TCP or under the library.
//!
//! Every runner takes an [`Under`](super::Under), or one for each end ([`Ends`]), so that the same work
//! is one argument away from the library, and from Linux's own SMC-R.
//! The sizes are for emulated processors: TCP carries some 200 Mbit/s there.

pub mod iperf3;
pub mod load;
pub mod nginx;
pub mod perftest;
pub mod postgresql;
pub mod redis;
pub mod rsockets;
pub mod strace;

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::counters::Traffic;
use super::library::{Ends, Sight, Under};
use super::pair::Pair;
use super::{Cmd, Process};
use crate::scenario::process::Finished;

/// What one run of a pair of programs found out.
#[derive(Debug)]
pub struct Ran {
    /// Named figures, for the report.
    pub figures: Vec<(String, String)>,
    /// So many bytes at least went from one guest to the other.
    pub bytes: u64,
    /// What `smcr-stat` showed in the guests, if the library was there.
    pub sight: Option<Sight>,
}

impl Ran {
    /// An error unless all of it went over RDMA, since `before`. Notes the figures.
    pub fn expect_rdma(self, pair: &mut Pair, before: &Traffic) -> Result<()> {
        for (name, value) in &self.figures {
            pair.note(name.as_str(), value.as_str());
        }
        let sight = self.sight.context("nothing was seen")?;
        sight.expect_only("rdma")?;
        let packets = before.expect_rdma(pair, &sight, self.bytes)?;
        pair.note("packets", packets);
        Ok(())
    }
}

/// Runs a client against a server that is up already, looks at both, and stops the server.
fn drive(
    pair: &Pair,
    ends: Ends,
    server: &mut Process,
    client: Cmd,
    deadline: Duration,
) -> Result<(Finished, Option<Sight>)> {
    let finished = pair.client.run(client, deadline)?;
    // What a process counted is kept for some seconds.
    let sight = match ends.have(Under::Library) {
        true => Some(Sight::of(pair)?),
        false => None,
    };
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

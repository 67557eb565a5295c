//! iperf3 under the library at both ends.

use anyhow::{Context, Result};

use crate::lab::apps::iperf3;
use crate::lab::{Library, Pair, Under};

/// One stream; four; the other way round.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    let ran = streams(pair);
    Library::explain(pair, ran)
}

fn streams(pair: &mut Pair) -> Result<()> {
    let under = Under::Library;
    let ran = iperf3::run(pair, under, 2, 1)?;
    for (name, value) in ran.figures {
        pair.note(name, value);
    }
    ran.sight.context("nothing was seen")?.expect_only("rdma")
}

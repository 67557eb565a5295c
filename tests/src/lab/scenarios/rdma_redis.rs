//! redis under the library at both ends: one thread with many connections in one epoll.

use anyhow::Result;

use crate::lab::apps::redis;
use crate::lab::{Library, Pair, Traffic, Under};

/// One request at a time for each client, and sixteen.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    for (requests, pipeline) in [(2000, 1), (8000, 16)] {
        let before = Traffic::read(pair)?;
        let ran = redis::pipelined(pair, Under::Library, requests, 10, pipeline);
        let right = ran.and_then(|ran| ran.expect_rdma(pair, &before));
        Library::explain(pair, right)?;
    }
    Ok(())
}

//! PostgreSQL under the library at both ends: the postmaster accepts, its children serve.

use anyhow::Result;

use crate::lab::apps::postgresql;
use crate::lab::{Library, Pair, Traffic, Under};

/// Some clients, each with a server process of its own.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    let before = Traffic::read(pair)?;
    let ran = postgresql::run(pair, Under::Library, 100, 4);
    let right = ran.and_then(|ran| ran.expect_rdma(pair, &before));
    Library::explain(pair, right)
}

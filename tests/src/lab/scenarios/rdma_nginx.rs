//! nginx and curl under the library: one file by sendfile(), whose checksum has to be right.

use anyhow::Result;

use crate::lab::apps::nginx;
use crate::lab::{Library, Pair, Traffic, Under};

/// A file that emulated processors move in some seconds.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    fetch(pair, 32)
}

/// The size at which cursors have wrapped often.
pub(super) fn large(pair: &mut Pair) -> Result<()> {
    fetch(pair, 1024)
}

fn fetch(pair: &mut Pair, mebibytes: usize) -> Result<()> {
    Library::start(pair)?;
    let before = Traffic::read(pair)?;
    let ran = nginx::run(pair, Under::Library, mebibytes);
    let right = ran.and_then(|ran| ran.expect_rdma(pair, &before));
    Library::explain(pair, right)
}

//! iperf3 under the library at both ends.

use anyhow::Result;

use crate::lab::apps::iperf3::{Load, Way};
use crate::lab::{Library, Pair, Traffic, Under};

/// One stream; four; the other way round; both ways.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    for (streams, way) in [(1, Way::Up), (4, Way::Up), (1, Way::Down), (1, Way::Both)] {
        let before = Traffic::read(pair)?;
        let load = Load {
            streams,
            way,
            ..Load::default()
        };
        let ran = load.run(pair, Under::Library);
        let right = ran.and_then(|(ran, _)| ran.expect_rdma(pair, &before));
        Library::explain(pair, right)?;
    }
    Ok(())
}

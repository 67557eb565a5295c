//! The figures that RDMA through sockets has to be seen beside, in the same boot.

use anyhow::Result;

use crate::lab::apps::{iperf3, perftest, rsockets};
use crate::lab::{Pair, Under};

/// Plain TCP, plain RDMA, and rsockets between them.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let tcp = iperf3::run(pair, Under::Tcp, 3, 1)?;
    for (name, value) in tcp.figures {
        pair.note(format!("{name} over TCP"), value);
    }
    for (name, value) in perftest::figures(pair)? {
        pair.note(name, value);
    }
    for (name, value) in rsockets::figures(pair)? {
        pair.note(name, value);
    }
    Ok(())
}

//! The programs that later run under the library, over plain TCP.

use anyhow::Result;

use crate::lab::apps::{iperf3, nginx, postgresql, redis};
use crate::lab::{Pair, Under};

/// Each of them once, with small sizes.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let under = Under::Tcp;
    for ran in [
        iperf3::run(pair, under, 2, 2)?,
        redis::run(pair, under, 2000, 10)?,
        nginx::run(pair, under, 32)?,
        postgresql::run(pair, under, 100, 4)?,
    ] {
        for (name, value) in ran.figures {
            pair.note(name, value);
        }
    }
    Ok(())
}

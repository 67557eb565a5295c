//! Is there RDMA between the guests?

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{Counters, Pair};

/// A ping-pong by ibverbs-utils over the GID that smcr uses.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    for guest in pair.guests() {
        let gid = guest.sh("cat /sys/class/infiniband/rxe0/ports/1/gids/1")?;
        ensure!(
            gid.starts_with("0000:0000:0000:0000:0000:ffff:0a4d:000"),
            "{}: GID 1 is {gid}",
            guest.name()
        );
        let kind = guest.sh("cat /sys/class/infiniband/rxe0/ports/1/gid_attrs/types/1")?;
        ensure!(
            kind.trim() == "RoCE v2",
            "{}: GID 1 is of type {kind}",
            guest.name()
        );
    }
    let before = [Counters::read(&pair.server)?, Counters::read(&pair.client)?];
    let mut server = pair.server.spawn("ibv_rc_pingpong -d rxe0 -g 1 -n 500")?;
    pair.server.wait_for_listener(18515)?;
    let line = format!(
        "ibv_rc_pingpong -d rxe0 -g 1 -n 500 {}",
        pair.server.address()
    );
    pair.client.run(line, Duration::from_secs(30))?.success()?;
    server.wait(Duration::from_secs(10))?.success()?;
    for (guest, before) in [&pair.server, &pair.client].into_iter().zip(&before) {
        let now = Counters::read(guest)?;
        for name in ["sent_pkts", "rcvd_pkts"] {
            let packets = now.grown(before, name)?;
            // A message of 4096 bytes is four packets.
            ensure!(
                packets >= 2000,
                "{}: {name} grew by {packets}",
                guest.name()
            );
        }
    }
    Ok(())
}

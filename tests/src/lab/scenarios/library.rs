//! The library in a guest: what it does there on one host, and that nothing is lost between two.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::apps::{iperf3, redis};
use crate::lab::{Library, Pair, Sight, Under};

const PORT: u16 = 6400;

/// Within a guest connections move to shared memory. Between guests they work; the report says over
/// what.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::install(pair, "")?;
    let guest = &pair.server;
    let mut server = guest.spawn(Library::line(&format!(
        "redis-server --save '' --appendonly no --bind 127.0.0.1 --port {PORT}"
    )))?;
    guest.wait_for_listener(PORT)?;
    let client = Library::line(&format!(
        "redis-benchmark -h 127.0.0.1 -p {PORT} --csv -t set,get -n 500 -c 5"
    ));
    guest.run(client, Duration::from_secs(60))?.success()?;
    let sight = Sight::of(pair)?;
    server.stop()?;
    sight.expect_server("shm").context("within one guest")?;

    for ran in [
        redis::run(pair, Under::Library, 1000, 5)?,
        iperf3::run(pair, Under::Library, 2, 1)?,
    ] {
        let sight = ran.sight.context("the library was there")?;
        for (name, value) in ran.figures {
            pair.note(
                format!("{name} between guests, over {}", sight.modes()),
                value,
            );
        }
    }
    Ok(())
}

//! Is there a network between the guests, and how fast is it?

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::apps::iperf3;
use crate::lab::{Pair, Under};

/// iperf3 over plain TCP; a connection over IPv6; a cable that is pulled and put back.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let ran = iperf3::run(pair, Under::Tcp, 3, 1)?;
    for (name, value) in ran.figures {
        pair.note(name, value);
    }
    let ping = format!("busybox ping -c 2 -W 2 {}", pair.server.address6());
    pair.client.sh(ping)?;

    let ping = format!("busybox ping -c 1 -W 1 {}", pair.server.address());
    pair.client.sh(ping.as_str())?;
    pair.server.set_link(false)?;
    let cut = pair.client.run(ping.as_str(), Duration::from_secs(10))?;
    pair.server.set_link(true)?;
    ensure!(
        !cut.status.success(),
        "an answer came over a cable that was pulled"
    );
    // The carrier comes back at once; the addresses were never gone.
    pair.client
        .sh(format!("busybox ping -c 5 -W 2 {}", pair.server.address()))?;

    pair.server.pause()?;
    let paused = pair.client.run(ping.as_str(), Duration::from_secs(10))?;
    pair.server.resume()?;
    ensure!(
        !paused.status.success(),
        "an answer came from a guest that stands still"
    );
    pair.client
        .sh(format!("busybox ping -c 5 -W 2 {}", pair.server.address()))?;
    Ok(())
}

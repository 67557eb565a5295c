//! Linux's own SMC-R between the guests: what smcr has to be able to talk to.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::{Counters, Decoded, Pair, kernel_peer};

/// One that tshark takes for nobody else's.
const PORT: u16 = 21_700;
const BYTES: usize = 300_000;

/// An echo through `AF_SMC` sockets goes over RDMA, and the capture shows the protocol.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    for guest in [&pair.server, &pair.client] {
        kernel_peer::configure(guest)?;
    }
    let before = Counters::read(&pair.client)?;
    let address = pair.server.address();
    let mut server = pair
        .server
        .spawn(kernel_peer::tool(&format!("echo-server {address} {PORT}")))?;
    pair.server.wait_for_listener(PORT)?;
    let client = kernel_peer::tool(&format!("echo-client {address} {PORT} {BYTES}"));
    pair.client
        .run(client, Duration::from_secs(60))?
        .success()?;
    server.wait(Duration::from_secs(20))?.success()?;

    let packets = Counters::read(&pair.client)?.grown(&before, "sent_pkts")?;
    ensure!(
        packets > BYTES as u64 / 4096,
        "only {packets} RDMA packets were sent: the kernel fell back to TCP"
    );
    pair.note("RDMA packets sent by the client", packets.to_string());

    for guest in ["server", "client"] {
        let shown = Decoded::smc(&pair.capture(guest))?;
        shown.expect_in_order(&kernel_peer::FIRST_CONTACT)?;
        shown.expect_none("Decline")?;
    }
    Ok(())
}

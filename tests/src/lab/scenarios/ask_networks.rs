//! Hosts without the TCP option: they learn of each other over UDP, and go on over RDMA.

use anyhow::{Context, Result, ensure};

use crate::lab::apps::iperf3::{Load, Way};
use crate::lab::{Decoded, Library, Pair, Traffic, Under};

/// How often each load is tried.
const ATTEMPTS: u32 = 3;

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    for (streams, way) in [(1, Way::Up), (4, Way::Up), (1, Way::Both)] {
        let load = Load {
            streams,
            way,
            ..Load::default()
        };
        // A busy emulated machine may take longer than the other waits: TCP, and rightly so.
        let mut attempts = 1;
        while let Err(error) = over_rdma(pair, load) {
            if attempts == ATTEMPTS {
                return Err(error);
            }
            pair.note(
                format!("attempt {attempts}"),
                error.root_cause().to_string(),
            );
            attempts += 1;
        }
        pair.note("attempts", attempts.to_string());
    }
    for guest in ["server", "client"] {
        asked(pair, guest).with_context(|| format!("the {guest}'s capture"))?;
    }
    Ok(())
}

fn over_rdma(pair: &mut Pair, load: Load) -> Result<()> {
    Library::start_asking(pair)?;
    let before = Traffic::read(pair)?;
    let ran = load.run(pair, Under::Library);
    let right = ran.and_then(|(ran, _)| ran.expect_rdma(pair, &before));
    Library::explain(pair, right)
}

/// No SYN has the option, and there are datagrams of the exchange: `SMCRASK` and the version.
fn asked(pair: &mut Pair, guest: &str) -> Result<()> {
    let capture = pair.capture(guest);
    let syns = Decoded::full(&capture, "tcp.flags.syn == 1")?;
    syns.expect_none("Shared Memory communications over RMDA protocol (0xe2d4)")?;
    let exchange = "udp contains 53:4d:43:52:41:53:4b:01 && !icmp";
    let asked = Decoded::short(&capture, exchange)?;
    let datagrams = asked.lines().len();
    // Four for each of ten connections, if none is repeated.
    ensure!(datagrams >= 4 * 10, "{datagrams} datagrams");
    pair.note(format!("datagrams at the {guest}"), datagrams.to_string());
    Ok(())
}

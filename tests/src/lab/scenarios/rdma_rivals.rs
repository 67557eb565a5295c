//! The library, TCP, rsockets and plain RDMA side by side in one boot. Emulated processors say
//! nothing about the figures themselves, but something about their ratios.

use anyhow::Result;

use crate::lab::apps::{iperf3, load, perftest, rsockets};
use crate::lab::{Library, Pair, Traffic, Under};

const CHUNK: u32 = 64 << 10;

/// Round trips of 64 bytes, and rates with calls of 64 KiB.
pub(super) fn run(pair: &mut Pair) -> Result<()> {
    Library::start(pair)?;
    let compared = latencies(pair).and_then(|()| rates(pair));
    Library::explain(pair, compared)
}

fn latencies(pair: &mut Pair) -> Result<()> {
    let bytes = load::MESSAGE as u32;
    let verbs = 2.0 * perftest::sleeping_latency(pair, bytes, 200)?;
    let polling = 2.0 * perftest::write_latency(pair, bytes, 50)?;
    let (_, tcp) = load::ping(pair, Under::Tcp, 2, false)?;
    let before = Traffic::read(pair)?;
    let (ran, library) = load::ping(pair, Under::Library, 2, false)?;
    ran.expect_rdma(pair, &before)?;
    let rsockets = rsockets::transfer(pair, bytes, 100)?;
    let text = |value: f64| format!("{:.0} us, {:.2} x verbs", value * 1e6, value / verbs);
    let rsockets = rsockets.map_or_else(|trouble| trouble, |seconds| text(2.0 * seconds));
    for (name, value) in [
        ("verbs, asleep", text(verbs)),
        ("verbs, polling", text(polling)),
        ("the library", text(library)),
        ("TCP", text(tcp)),
        ("rsockets", rsockets),
    ] {
        pair.note(format!("64 B round trip, {name}"), value);
    }
    Ok(())
}

fn rates(pair: &mut Pair) -> Result<()> {
    let verbs = perftest::write_bandwidth(pair, CHUNK, 100)?;
    let load = iperf3::Load {
        seconds: 3,
        call: CHUNK,
        ..iperf3::Load::default()
    };
    let (_, tcp) = load.run(pair, Under::Tcp)?;
    let before = Traffic::read(pair)?;
    let (ran, library) = load.run(pair, Under::Library)?;
    ran.expect_rdma(pair, &before)?;
    let rsockets = rsockets::transfer(pair, CHUNK, 100)?;
    let rsockets = rsockets.map(|seconds| f64::from(CHUNK) / seconds);
    let text = |value: f64| format!("{:.0} Mbit/s, {:.2} x verbs", value * 8e-6, value / verbs);
    pair.note("64 KiB calls, verbs", text(verbs));
    pair.note("64 KiB calls, the library", text(library));
    pair.note("64 KiB calls, TCP", text(tcp));
    let rsockets = rsockets.map_or_else(|trouble| trouble, text);
    pair.note("64 KiB calls, rsockets", rsockets);
    Ok(())
}

//! Where SMC cannot be: plain TCP, with the reason named at both ends.

use anyhow::{Context, Result, ensure};

use super::faults::{bring_back, remove};
use crate::lab::interop::{Bench, CONFIGURATION, Caller, Case};
use crate::lab::{Library, Pair, kernel_peer};

pub(super) const ECHO: Case = Case::new("echo", "both:300000,shut,eof", "echo");

/// Reasons with net/smc loaded: no UEID in common, no device, another release.
pub(in super::super) fn no_device(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    for caller in Caller::BOTH {
        bench.cell("no UEID in common", caller, |bench| {
            Library::install(bench.pair, "ueid = SOMETHING-ELSE\n")?;
            let seen = over_tcp(bench, caller);
            Library::install(bench.pair, CONFIGURATION)?;
            seen
        });
        bench.cell("no RDMA device at the library", caller, |bench| {
            remove(&bench.pair.client)?;
            let seen = over_tcp(bench, caller);
            bring_back(&bench.pair.client)?;
            seen
        });
        bench.cell("no RDMA device at the kernel", caller, |bench| {
            remove(&bench.pair.server)?;
            let seen = over_tcp(bench, caller);
            bring_back(&bench.pair.server)?;
            seen
        });
        bench.cell("release 0", caller, |bench| {
            Library::install(bench.pair, &format!("{CONFIGURATION}smcr_release = 0\n"))?;
            let seen = bench.talk(caller, &ECHO);
            Library::install(bench.pair, CONFIGURATION)?;
            let seen = seen?;
            seen.expect_rdma(1)?;
            Ok(format!("{:.2} s; {}", seen.time.as_secs_f64(), seen.said))
        });
    }
    bench.finish()
}

/// A kernel without net/smc: nothing but TCP.
pub(in super::super) fn no_smc(pair: &mut Pair) -> Result<()> {
    let loaded = pair.server.sh("grep -c '^smc ' /proc/modules || true")?;
    ensure!(loaded.trim() == "0", "the module smc is loaded");
    let mut bench = Bench::without_smc(pair)?;
    for caller in Caller::BOTH {
        bench.cell("no module smc", caller, |bench| {
            let seen = bench.talk(caller, &ECHO)?;
            let reason = reason(&seen)?;
            ensure!(reason == "peer-no-smc", "the library says {reason}");
            Ok(format!(
                "{:.2} s; library: {reason}",
                seen.time.as_secs_f64()
            ))
        });
    }
    bench.finish()
}

/// An echo that has to go over TCP; says what both ends give as the reason.
pub(super) fn over_tcp(bench: &mut Bench<'_>, caller: Caller) -> Result<String> {
    kernel_peer::begin_fallbacks(&bench.pair.server)?;
    let seen = bench.talk(caller, &ECHO)?;
    let reason = reason(&seen)?;
    let kernel = kernel_peer::fallbacks(&bench.pair.server)?;
    let kernel = kernel.first().context("the kernel traced no fallback")?;
    Ok(format!(
        "{:.2} s; library: {reason}; kernel: {kernel:#010x}",
        seen.time.as_secs_f64()
    ))
}

fn reason(seen: &crate::lab::interop::Seen) -> Result<String> {
    let (rdma, tcp) = (seen.library.made("rdma"), seen.library.made("tcp"));
    ensure!(rdma == 0 && tcp == 1, "{rdma} over RDMA, {tcp} over TCP");
    let reason = seen.library.fallbacks.first().context("no reason")?;
    Ok(reason.name.clone())
}

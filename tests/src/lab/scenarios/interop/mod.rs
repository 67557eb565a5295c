//! Linux's own SMC-R as the library's peer. `rfc7609-notes/interop.md` has the matrix.

mod cases;
mod declines;
mod fallback;
mod faults;
mod pause;
mod programs;
mod rates;
mod side_by_side;

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::interop::{Bench, Caller, Case};
use crate::lab::{Decoded, Pair};

pub(super) use declines::run as declines;
pub(super) use fallback::{no_device, no_smc};
pub(super) use faults::{device, kill};
pub(super) use pause::run as pause;
pub(super) use programs::run as programs;
pub(super) use rates::run as rates;

/// The first contact of the capture: the library calls. Linux' LLC messages are shown in capitals,
/// since tshark does not know them, and ours as tshark has them. No second link is offered.
const FIRST_CONTACT: [&str; 6] = [
    "SMC-Rv2-Proposal",
    "SMC-Rv2-Accept",
    "SMC-Rv2-Confirm",
    "CONFIRM LINK request",
    "Confirm Link (v2)(Resp)",
    "CDC Message",
];

/// The quick part: first and later contacts, data, close, in both roles.
pub(super) fn quick(pair: &mut Pair) -> Result<()> {
    run(pair, cases::QUICK)?;
    let shown = Decoded::smc(&pair.capture("client"))?;
    shown.expect_in_order(&FIRST_CONTACT)?;
    shown.expect_none("Decline")?;
    shown.expect_none("Malformed")
}

/// Data in all ways.
pub(super) fn data(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    each(&mut bench, cases::DATA);
    let [by_caller, by_listener] = &cases::URGENT_LAST;
    bench.case(Caller::Kernel, by_caller, |_, _| Ok(String::new()));
    bench.case(Caller::Library, by_listener, |_, _| Ok(String::new()));
    let linux = bench.both_kernels(by_caller, Duration::from_secs(20));
    bench
        .pair
        .note("urgent byte alone, Linux at both ends", linux?);
    bench.finish()
}

/// Data for minutes.
pub(super) fn bulk(pair: &mut Pair) -> Result<()> {
    run(pair, cases::BULK)
}

/// The ends of connections in all orders.
pub(super) fn close(pair: &mut Pair) -> Result<()> {
    run(pair, cases::CLOSE)
}

/// Idle links, and many connections.
pub(super) fn group(pair: &mut Pair) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    bench
        .pair
        .server
        .sh("sysctl -w net.smc.smcr_testlink_time=5")?;
    let mut before = [0, 0];
    for caller in Caller::BOTH {
        bench.case(caller, &cases::IDLE, |bench, _| {
            let shown = Decoded::smc(&bench.pair.capture("client"))?;
            let all = ["TEST LINK request", "Test Link (v2)(Resp)"].map(|text| shown.count(text));
            let [asked, answered] = [all[0] - before[0], all[1] - before[1]];
            before = all;
            ensure!(
                asked >= 2 && answered >= 2,
                "{asked} TEST LINK, {answered} answers"
            );
            Ok(format!("; {asked} TEST LINK, {answered} answers"))
        });
    }
    bench
        .pair
        .server
        .sh("sysctl -w net.smc.smcr_testlink_time=30")?;
    for caller in Caller::BOTH {
        bench.case(caller, &cases::MANY, |_, seen| {
            let groups = groups(seen);
            ensure!(groups > 1, "all in {groups} group");
            Ok(format!("; {groups} groups"))
        });
    }
    bench.finish()
}

fn run(pair: &mut Pair, cases: &[Case]) -> Result<()> {
    let mut bench = Bench::new(pair)?;
    each(&mut bench, cases);
    bench.finish()
}

fn each(bench: &mut Bench<'_>, cases: &[Case]) {
    for case in cases {
        for caller in Caller::BOTH {
            bench.case(caller, case, |_, seen| {
                let groups = groups(seen);
                ensure!(groups == 1, "{groups} groups");
                Ok(String::new())
            });
        }
    }
}

/// How many link groups the library's process had.
fn groups(seen: &crate::lab::interop::Seen) -> u64 {
    seen.library
        .counters
        .get("link-groups")
        .copied()
        .unwrap_or(0)
}

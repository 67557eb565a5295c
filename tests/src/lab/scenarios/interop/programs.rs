//! Real programs, one end under the library and the other one over Linux's own SMC-R.

use anyhow::{Context, Result};

use super::side_by_side::{Before, LIBRARY_CALLS, LINUX_CALLS};
use crate::lab::apps::iperf3::{Load, Way};
use crate::lab::apps::{Ran, nginx, redis};
use crate::lab::interop::expect_clean;
use crate::lab::{Ends, Library, Pair};

/// What is run.
type Program = (&'static str, fn(&Pair, Ends) -> Result<Ran>);

const PROGRAMS: [Program; 6] = [
    ("iperf3", |pair, ends| iperf3(pair, ends, 1, Way::Up)),
    ("iperf3 -P 4", |pair, ends| iperf3(pair, ends, 4, Way::Up)),
    ("iperf3 -R", |pair, ends| iperf3(pair, ends, 1, Way::Down)),
    ("redis", |pair, ends| {
        redis::pipelined(pair, ends, 2000, 10, 1)
    }),
    ("redis, pipelined", |pair, ends| {
        redis::pipelined(pair, ends, 4000, 10, 16)
    }),
    ("nginx and curl", |pair, ends| nginx::run(pair, ends, 16)),
];

/// Each of them in both roles.
pub(in super::super) fn run(pair: &mut Pair) -> Result<()> {
    for (role, ends) in [
        ("the library calls", LIBRARY_CALLS),
        ("Linux calls", LINUX_CALLS),
    ] {
        for (name, run) in PROGRAMS {
            let figures = one(pair, ends, run);
            let figures = Library::explain(pair, figures);
            pair.note(
                format!("{name}, {role}"),
                figures.with_context(|| format!("{name}, {role}"))?,
            );
        }
    }
    Ok(())
}

fn iperf3(pair: &Pair, ends: Ends, streams: u32, way: Way) -> Result<Ran> {
    let load = Load {
        streams,
        way,
        ..Load::default()
    };
    Ok(load.run(pair, ends)?.0)
}

fn one(pair: &Pair, ends: Ends, run: fn(&Pair, Ends) -> Result<Ran>) -> Result<String> {
    let before = Before::prepare(pair, ends)?;
    let ran = run(pair, ends)?;
    let packets = before.expect(pair, &ran)?;
    for guest in [&pair.server, &pair.client] {
        expect_clean(guest).with_context(|| guest.name().to_owned())?;
    }
    let figures = ran.figures.iter().map(|(_, figure)| figure.as_str());
    let figures: Vec<&str> = figures.collect();
    Ok(format!(
        "ok, {}; {packets} RDMA packets",
        figures.join(", ")
    ))
}

//! The TCP option between us and Linux's own SMC-R, both ways.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::{Pair, quote};
use crate::scenario::paths;

const SMALL: Duration = Duration::from_secs(60);

/// For the cases of one kernel, all together.
const ALL: Duration = Duration::from_secs(400);

/// Who listens, who connects; what the two print. `e2d4c3d9` is how a CLC message begins,
/// `64617461` what the program sends.
const CASES: [(&str, &str, &str, &str); 7] = [
    (
        "asks",
        "plain",
        "verdict 2 first 64617461",
        "verdict 0 first -",
    ),
    ("plain", "asks", "verdict 0 first ", "verdict 2 first -"),
    ("asks", "asks", "verdict 1 first ", "verdict 1 first -"),
    // Linux sends CLC to us, and nothing but the program's data to one that did not ask.
    (
        "asks",
        "kernel",
        "verdict 1 first e2d4c3d9",
        "verdict - first -",
    ),
    (
        "plain",
        "kernel",
        "verdict 0 first 64617461",
        "verdict - first -",
    ),
    // Linux confirms the option to us, and keeps the connection from its program since no CLC comes.
    ("kernel", "asks", "", "verdict 1 first -"),
    ("kernel", "plain", "verdict - first -", "verdict 0 first -"),
];

pub(super) fn run(pair: &mut Pair) -> Result<()> {
    let tool = quote(&paths::option_tool().display().to_string());
    let attached = pair.guests().into_iter().try_for_each(|guest| {
        guest.sh(format!("{tool} attach && {tool} status"))?;
        Ok::<_, anyhow::Error>(())
    });
    let result = attached.and_then(|()| cases(pair));
    for guest in pair.guests() {
        guest.sh(format!("{tool} detach"))?;
    }
    result
}

/// The tests of `smcr-option` in a kernel of the lab.
pub(super) fn all_cases(pair: &mut Pair) -> Result<()> {
    let tests = quote(&paths::option_cases()?.display().to_string());
    let tool = quote(&paths::option_tool().display().to_string());
    // Scenarios before this one may have attached the programs; the tests bring their own.
    let detach = format!("! {tool} status >/dev/null || {tool} detach");
    pair.server.sh(detach)?;
    let finished = pair.server.run(tests, ALL)?.success()?;
    let result = finished.stdout.lines().rfind(|l| l.starts_with("test "));
    let result = result.context("it says nothing")?;
    // Where the programs cannot be loaded it skips all, and succeeds.
    ensure!(
        result.contains(" 0 failed; 0 ignored") && !result.contains(" 0 passed"),
        "{finished}"
    );
    pair.note("cases", result);
    Ok(())
}

fn cases(pair: &mut Pair) -> Result<()> {
    for (port, (listens, connects, server_says, client_says)) in (7000..).zip(CASES) {
        let case = format!("{connects} to {listens}");
        let mut server = pair
            .server
            .spawn(peer(&format!("listen {listens} {port}")))?;
        pair.server.wait_for_listener(port)?;
        let address = pair.server.address();
        let line = peer(&format!("connect {connects} {address} {port}"));
        let client = pair.client.run(line, SMALL)?;
        let client = client.success().with_context(|| case.clone())?.stdout;
        let server = match server_says {
            "" => server.stop()?.stdout,
            _ => {
                let server = server.wait(SMALL)?;
                server.success().with_context(|| case.clone())?.stdout
            }
        };
        ensure!(
            server.starts_with(server_says) && client.starts_with(client_says),
            "{case}: the server says {server:?}, the client {client:?}"
        );
        pair.note(case, format!("{} / {}", server.trim(), client.trim()));
    }
    Ok(())
}

fn peer(arguments: &str) -> String {
    let python = quote(&paths::python().display().to_string());
    let script = quote(&paths::app("option_peer.py").display().to_string());
    format!("exec timeout 30 {python} {script} {arguments}")
}

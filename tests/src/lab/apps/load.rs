//! smcr-load: plain blocking calls, and nothing else that takes time.

use std::time::Duration;

use anyhow::{Context, Result};

use super::{Ran, drive, strace};
use crate::lab::{Cmd, Pair, Under, quote};
use crate::scenario::paths;

/// One that tshark takes for nobody else's.
const PORT: u16 = 21_800;

/// Bytes of a message.
pub const MESSAGE: u64 = 64;

/// Messages of 64 bytes back and forth for some seconds. Returns the median round trip in seconds,
/// too. `counted`: the client's system calls are counted.
pub fn ping(pair: &Pair, under: Under, seconds: u32, counted: bool) -> Result<(Ran, f64)> {
    let tool = quote(&paths::load_tool().display().to_string());
    let place = format!("{}:{PORT}", pair.server.address());
    let server = under.line(&format!("{tool} serve ping {place} 1"));
    let mut server = pair.server.spawn(server)?;
    pair.server.wait_for_listener(PORT)?;
    let client = under.line(&format!("{tool} ping {place} 1 {seconds}"));
    let client = if counted {
        strace::line(&client)
    } else {
        client
    };
    let deadline = Duration::from_secs(u64::from(seconds) * 3 + 40);
    let (finished, sight) = drive(pair, under, &mut server, Cmd::new(client), deadline)?;
    let median: f64 = finished
        .stdout
        .trim()
        .parse()
        .with_context(|| format!("smcr-load prints no number: {finished}"))?;
    let ran = Ran {
        figures: vec![(
            "round trip of 64 bytes".to_owned(),
            format!("{:.0} us", median * 1e6),
        )],
        bytes: MESSAGE,
        sight,
    };
    Ok((ran, median))
}

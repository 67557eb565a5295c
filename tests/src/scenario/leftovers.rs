//! Does anything stay behind in /dev/shm?

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{process, stat};

/// Pages of dead processes stay readable for ten seconds and are then swept by whoever looks.
const PATIENCE: Duration = Duration::from_secs(20);

/// Names in /dev/shm that belong to the library and to a process that scenarios have started.
/// Others may run programs under the library on this machine at the same time.
pub fn ours() -> Vec<String> {
    let pids = process::started_pids();
    let Ok(entries) = std::fs::read_dir("/dev/shm") else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("smcr"))
        .filter(|name| {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|digits| digits.parse::<u32>().ok())
                .any(|number| pids.contains(&number))
        })
        .collect()
}

/// Waits until nothing is left, and names what is.
pub fn expect_none() -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = ours();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("left behind in /dev/shm: {left:?}");
        }
        stat::snapshot()?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

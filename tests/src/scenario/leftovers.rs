//! Does anything stay behind in /dev/shm?

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{process, stat};

/// Pages of dead processes stay readable for ten seconds counted from the first look that found them
/// dead, and are then swept by whoever looks.
const PATIENCE: Duration = Duration::from_secs(20);

/// Files in /dev/shm that belong to the library and to a process that scenarios have started.
/// Others may run programs under the library on this machine at the same time.
pub fn ours() -> Vec<PathBuf> {
    let pids = process::started_pids();
    let mut files = Vec::new();
    collect(Path::new("/dev/shm"), &mut files);
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.split(|c: char| !c.is_ascii_digit())
            .filter_map(|digits| digits.parse::<u32>().ok())
            .any(|number| pids.contains(&number))
    });
    files
}

/// All files below entries whose name begins as the library's do.
fn collect(base: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(base) else {
        return;
    };
    let ours = |path: &PathBuf| path.to_string_lossy().contains("/smcr");
    for path in entries.flatten().map(|entry| entry.path()).filter(ours) {
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
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

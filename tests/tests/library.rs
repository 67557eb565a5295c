//! The library as a file.

use std::time::Duration;

use anyhow::{Result, ensure};
use smcr_tests::scenario::paths;
use smcr_tests::scenario::process::Program;

/// What comes with glibc. libgcc_s belongs to it in practice: glibc itself loads it to cancel
/// threads, and distributions install both together.
const GLIBC: [&str; 5] = [
    "linux-vdso.",
    "ld-linux",
    "libc.so.",
    "libm.so.",
    "libgcc_s.so.",
];

#[test]
fn needs_only_glibc() -> Result<()> {
    paths::ensure_built()?;
    let listed = Program::new("ldd")?
        .arg(paths::library())
        .run(Duration::from_secs(10))?
        .success()?;
    let names = listed
        .stdout
        .lines()
        .filter_map(|line| line.split_whitespace().next()?.rsplit('/').next());
    for name in names {
        ensure!(
            GLIBC.iter().any(|known| name.starts_with(known)),
            "libsmcr.so needs {name}"
        );
    }
    Ok(())
}

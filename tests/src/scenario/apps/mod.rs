//! The programs, one module each.

pub mod asyncio;
pub mod iperf3;
pub mod load;
pub mod memcached;
pub mod nginx;
pub mod redis;
pub mod sockperf;

use std::path::Path;

use anyhow::Result;

/// A temporary directory that goes away with the value.
fn scratch() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("smcr-test-").tempdir()?)
}

/// True for root: some daemons refuse to run as root unless they are told to.
fn is_root() -> bool {
    // SAFETY: plain system call without arguments.
    unsafe { libc::geteuid() == 0 }
}

/// Fills a file with bytes that do not repeat, the same ones every time.
pub(crate) fn fill(path: &Path, bytes: usize) -> Result<()> {
    use std::io::Write;
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..bytes.div_ceil(8) {
        // xorshift64: enough to notice a byte that is lost, doubled or out of place.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    let mut file = file.into_inner().map_err(|e| e.into_error())?;
    file.flush()?;
    file.set_len(bytes as u64)?;
    Ok(())
}

//! rsockets, librdmacm's sockets over RDMA: what smcr is compared with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::megabits;
use crate::lab::Pair;

const PORT: u16 = 7471;

/// How long its server may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// `rstream`: half a round trip of 64 bytes, and the rate with messages of 64 KiB. Where it fails
/// the report says so: that is a fact about the rival, not about us.
pub fn figures(pair: &Pair) -> Result<Vec<(String, String)>> {
    let small = transfer(pair, 64, 500)?;
    let small = small.map(|seconds| format!("{:.0} us", seconds * 1e6));
    let large = transfer(pair, 65_536, 50)?;
    let large = large.map(|seconds| megabits(65_536.0 / seconds));
    let figure = |title: &str, value: Result<String, String>| {
        (title.to_owned(), value.unwrap_or_else(|fault| fault))
    };
    Ok(vec![
        figure("rstream, 64 bytes", small),
        figure("rstream, 64 KiB", large),
    ])
}

/// Seconds for each transfer of so many bytes, which go to and fro; or how it fails.
pub fn transfer(pair: &Pair, bytes: u32, count: u32) -> Result<Result<f64, String>> {
    let line = format!("rstream -p {PORT} -S {bytes} -C {count} -I 1");
    let mut server = pair.server.spawn(line.as_str())?;
    let client = format!("{line} -s {}", pair.server.address());
    let begun = Instant::now();
    let value = loop {
        let mut client = pair.client.spawn(client.as_str())?;
        match client.wait(Duration::from_secs(30)) {
            Ok(finished) if finished.status.success() => {
                let seconds = parse(&finished.stdout);
                break Ok(seconds.with_context(|| format!("rstream says:\n{}", finished.stdout))?);
            }
            // It listens on RDMA, of which /proc knows nothing: we cannot see when it does.
            Ok(finished)
                if finished.stderr.contains("refused") && begun.elapsed() < START_DEADLINE =>
            {
                std::thread::sleep(Duration::from_millis(300));
            }
            Ok(finished) => break Err(format!("fails: {}", finished.stderr.trim())),
            Err(_) => break Err("hangs".to_owned()),
        }
    };
    server.stop()?;
    Ok(value)
}

/// Seconds for each transfer, the last column: name bytes xfers iters total time Gb/sec usec/xfer
fn parse(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| !line.starts_with("name"))?;
    let microseconds: f64 = line.split_whitespace().last()?.parse().ok()?;
    (microseconds > 0.0).then_some(microseconds * 1e-6)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_last_column() {
        let text = "name      bytes   xfers   iters   total       time     Gb/sec    usec/xfer\n\
                    64_lat    64      10      5       6.2k        0.02s      0.80     15.50\n";
        assert_eq!(super::parse(text), Some(15.5e-6));
    }
}

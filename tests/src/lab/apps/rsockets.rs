//! rsockets, librdmacm's sockets over RDMA: what smcr is compared with.

use std::time::Duration;

use anyhow::{Context, Result};

use super::megabits;
use crate::lab::Pair;

const PORT: u16 = 7471;

/// What one run of `rstream` found out.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// Bytes per second.
    pub rate: f64,
    /// Seconds for each transfer, one way.
    pub latency: f64,
}

/// `rstream`: its latency with messages of 64 bytes, and its rate with those of 64 KiB. Where it
/// fails the report says so: that is a fact about the rival, not about us.
pub fn figures(pair: &Pair) -> Result<Vec<(String, String)>> {
    let mut figures = Vec::new();
    for (title, bytes, count, iterations) in [
        ("rstream, 64 bytes", 64, 100, 5),
        ("rstream, 64 KiB", 65_536, 100, 1),
    ] {
        let value = match run(pair, bytes, count, iterations)? {
            Ok(Stream { rate, latency }) => format!(
                "{} each way, {:.0} us a transfer",
                megabits(rate),
                latency * 1e6
            ),
            Err(trouble) => trouble,
        };
        figures.push((title.to_owned(), value));
    }
    Ok(figures)
}

/// `rstream`: so many transfers one way, then as many the other way, and so on. The inner error
/// says how it failed.
pub fn run(
    pair: &Pair,
    bytes: u32,
    transfers: u32,
    iterations: u32,
) -> Result<Result<Stream, String>> {
    let line = format!("rstream -p {PORT} -S {bytes} -C {transfers} -I {iterations}");
    let mut server = pair.server.spawn(line.as_str())?;
    // It listens on RDMA, of which /proc knows nothing.
    std::thread::sleep(Duration::from_secs(1));
    let client = format!("{line} -s {}", pair.server.address());
    let mut client = pair.client.spawn(client)?;
    let stream = match client.wait(Duration::from_secs(30)) {
        Ok(finished) if finished.status.success() => {
            let (rate, microseconds) = parse(&finished.stdout)
                .with_context(|| format!("rstream says:\n{}", finished.stdout))?;
            Ok(Stream {
                rate,
                latency: microseconds * 1e-6,
            })
        }
        Ok(finished) => Err(format!("fails: {}", finished.stderr.trim())),
        Err(_) => Err("hangs".to_owned()),
    };
    server.stop()?;
    Ok(stream)
}

/// Bytes per second, and microseconds for each transfer.
fn parse(text: &str) -> Option<(f64, f64)> {
    // name bytes xfers iters total time Gb/sec usec/xfer
    let line = text.lines().find(|line| !line.starts_with("name"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |back: usize| {
        words
            .get(words.len().checked_sub(back)?)?
            .parse::<f64>()
            .ok()
    };
    Some((number(2)? * 1e9 / 8.0, number(1)?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_last_columns() {
        let text = "name      bytes   xfers   iters   total       time     Gb/sec    usec/xfer\n\
                    64_lat    64      10      5       6.2k        0.02s      0.80     15.50\n";
        assert_eq!(super::parse(text), Some((1e8, 15.5)));
    }
}

//! perftest: what the emulated RDMA itself can do, without sockets above it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::megabits;
use crate::lab::Pair;

/// By which the two ends of a test find each other.
const PORT: u16 = 18515;

const DEADLINE: Duration = Duration::from_secs(60);

/// Half the round trip of RDMA writes of so many bytes: the median, in seconds.
pub fn write_latency(pair: &Pair, bytes: u32, iterations: u32) -> Result<f64> {
    let text = run(pair, "ib_write_lat", bytes, iterations)?;
    // #bytes #iterations t_min[usec] t_max[usec] t_typical[usec] ...
    let typical = column(&text, bytes, 4);
    Ok(typical.with_context(|| format!("ib_write_lat says:\n{text}"))? * 1e-6)
}

/// Half the round trip of messages of so many bytes between programs that sleep until one comes:
/// the median, in seconds. Where there is one processor, whoever polls is in the way of what he
/// waits for.
pub fn sleeping_latency(pair: &Pair, bytes: u32, iterations: u32) -> Result<f64> {
    let text = run(pair, "ib_send_lat --events", bytes, iterations)?;
    let typical = column(&text, bytes, 4);
    Ok(typical.with_context(|| format!("ib_send_lat says:\n{text}"))? * 1e-6)
}

/// RDMA writes of so many bytes, one after the other: bytes per second.
pub fn write_bandwidth(pair: &Pair, bytes: u32, iterations: u32) -> Result<f64> {
    let text = run(pair, "ib_write_bw --report_gbits", bytes, iterations)?;
    // #bytes #iterations BW peak[Gb/sec] BW average[Gb/sec] MsgRate[Mpps]
    let average = column(&text, bytes, 3);
    Ok(average.with_context(|| format!("ib_write_bw says:\n{text}"))? * 1e9 / 8.0)
}

/// Both figures, for the report.
pub fn figures(pair: &Pair) -> Result<Vec<(String, String)>> {
    let latency = write_latency(pair, 64, 200)? * 1e6;
    let rate = write_bandwidth(pair, 65_536, 100)?;
    Ok(vec![
        (
            "ib_write_lat, 64 bytes".to_owned(),
            format!("{latency:.0} us"),
        ),
        ("ib_write_bw, 64 KiB".to_owned(), megabits(rate)),
    ])
}

fn run(pair: &Pair, tool: &str, bytes: u32, iterations: u32) -> Result<String> {
    // GID 1 is the IPv4-mapped one; -F: the emulated processor has no fixed clock to complain of.
    let line = format!("{tool} -F -d rxe0 -x 1 -p {PORT} -s {bytes} -n {iterations}");
    let mut server = pair.server.spawn(line.as_str())?;
    pair.server.wait_for_listener(PORT)?;
    let client = format!("{line} {}", pair.server.address());
    let finished = pair.client.run(client, DEADLINE)?.success()?;
    server.wait(DEADLINE)?.success()?;
    Ok(finished.stdout)
}

/// A number of the result's line, which begins with the size.
fn column(text: &str, bytes: u32, column: usize) -> Option<f64> {
    let size = bytes.to_string();
    let words =
        |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    text.lines()
        .map(words)
        .find(|words| words.first() == Some(&size))?
        .get(column)?
        .parse()
        .ok()
        .filter(|number| *number > 0.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_line_of_the_size() {
        let text = " #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]\n \
                    64      1000          10.50          90.00        12.25\n";
        assert_eq!(super::column(text, 64, 4), Some(12.25));
        assert_eq!(super::column(text, 65, 4), None);
    }
}

//! How the test talks to an end: lines over a unix socket, which no library touches.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use crate::Outcome;

/// Waits for the test at `path`, and answers its lines until it hangs up.
pub(crate) fn serve(path: &str, mut answer: impl FnMut(&[&str]) -> Outcome<String>) -> Outcome<()> {
    let listener = UnixListener::bind(path)?;
    let (stream, _) = listener.accept()?;
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    loop {
        line.clear();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let text = match answer(&words) {
            Ok(text) => text,
            Err(error) => format!("error {error}"),
        };
        (&stream).write_all(format!("{text}\n").as_bytes())?;
    }
}

/// What this process uses: descriptors, mappings, and memory in KiB (its own, and shared).
pub(crate) fn usage() -> Outcome<String> {
    let fds = std::fs::read_dir("/proc/self/fd")?.count() - 1;
    let maps = std::fs::read_to_string("/proc/self/maps")?.lines().count();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.split_whitespace().nth(1));
        number.unwrap_or("0").to_owned()
    };
    Ok(format!(
        "fds {fds} maps {maps} anon {} shmem {} threads {}",
        field("RssAnon:"),
        field("RssShmem:"),
        field("Threads:"),
    ))
}

//! How many system calls a program makes.

use anyhow::{Context, Result};

use crate::lab::Guest;

const REPORT: &str = "/tmp/strace";

/// What programs call to move data, to wait, and to ring doorbells. Other calls are not traced:
/// a beginning of a thousand of them would take seconds, and time-outs would pass.
const CALLS: &str = "read,readv,write,writev,sendto,recvfrom,sendmsg,recvmsg,sendfile,ioctl,futex,\
                     poll,ppoll,select,pselect6,epoll_wait,epoll_pwait,\
                     epoll_pwait2,sched_yield";

/// The command line with such calls counted, those of all its threads and children.
pub fn line(line: &str) -> String {
    format!(
        "strace --follow-forks --seccomp-bpf --trace={CALLS} --summary-only --output {REPORT} \
         {line}"
    )
}

/// The command line with all its calls traced, into this file.
pub fn trace_line(line: &str, file: &str) -> String {
    format!("strace --follow-forks --absolute-timestamps=unix,us --output {file} {line}")
}

/// The calls of a trace of [`trace_line`], in their order, without those of which only the end is
/// told.
#[derive(Debug)]
pub struct Traced(Vec<String>);

/// Calls for each unit of work.
#[derive(Debug)]
pub struct PerUnit {
    /// So many units.
    pub units: usize,
    /// Their calls, by name.
    pub calls: Vec<(String, usize)>,
}

impl Traced {
    /// Reads a trace.
    pub fn read(text: &str) -> Self {
        let call = |line: &str| {
            let mut words = line.splitn(3, ' ').filter(|word| !word.is_empty());
            let (_process, _time) = (words.next()?, words.next()?);
            let call = words.next()?.trim_start();
            let is_begun = call.starts_with(|c: char| c.is_ascii_lowercase());
            is_begun.then(|| call.to_owned())
        };
        Self(
            text.lines()
                .map(squeeze)
                .filter_map(|line| call(&line))
                .collect(),
        )
    }

    /// The calls from the second one that begins a unit of work to the last such one. `begins` is
    /// the beginning of that call, or its name and a part of its arguments: `connect(AF_INET`.
    pub fn per_unit(&self, begins: &str) -> PerUnit {
        let (name, part) = begins.split_once('(').unwrap_or((begins, ""));
        let is_begin = |call: &&String| {
            let arguments = call
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('('));
            arguments.is_some_and(|arguments| arguments.contains(part))
        };
        let begins = self.0.iter().enumerate().filter(|(_, call)| is_begin(call));
        let begins: Vec<usize> = begins.map(|(at, _)| at).skip(1).collect();
        let mut calls: Vec<(String, usize)> = Vec::new();
        if let [first, .., last] = begins[..] {
            for call in &self.0[first..last] {
                let name = call.split('(').next().unwrap_or(call);
                match calls.iter_mut().find(|(known, _)| known == name) {
                    Some((_, count)) => *count += 1,
                    None => calls.push((name.to_owned(), 1)),
                }
            }
        }
        calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        PerUnit {
            units: begins.len().saturating_sub(1),
            calls,
        }
    }
}

impl PerUnit {
    /// All of them for each unit, then each call by its name.
    pub fn text(&self) -> String {
        let per = |count: usize| format!("{:.1}", count as f64 / self.units as f64);
        let total = self.calls.iter().map(|(_, count)| count).sum();
        let each = self
            .calls
            .iter()
            .map(|(name, count)| format!("{name} {}", per(*count)));
        let each: Vec<String> = each.collect();
        format!(
            "{} ({} traced): {}",
            per(total),
            self.units,
            each.join(", ")
        )
    }
}

/// One blank for several.
fn squeeze(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What the last program in this guest that ran so called, by name; `total` is all of it.
pub fn calls(guest: &Guest) -> Result<Vec<(String, u64)>> {
    let text = guest.read_file(REPORT)?;
    let text = String::from_utf8_lossy(&text);
    let calls: Vec<_> = text.lines().filter_map(parse).collect();
    let has_total = calls.last().is_some_and(|(name, _)| name == "total");
    has_total
        .then_some(calls)
        .with_context(|| format!("strace counts nothing:\n{text}"))
}

/// `% time, seconds, usecs/call, calls, errors (or nothing), name`.
fn parse(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let calls = words.get(3)?.parse().ok()?;
    Some(((*words.last()?).to_owned(), calls))
}

#[cfg(test)]
mod tests {
    use super::{Traced, parse};

    #[test]
    fn calls_are_counted_between_beginnings() {
        let text = "7  1.5 connect(3, {sa_family=AF_INET, 1}, 16) = 0
                    7  1.6 socket(AF_UNIX) = 4
                    7  1.7 connect(3, {sa_family=AF_INET, 2}, 16) = 0
                    8  1.8 read(5,  <unfinished ...>
                    7  1.9 connect(9, {sa_family=AF_UNIX}, 15) = 0
                    8  2.0 <... read resumed>) = 1
                    7  2.1 +++ exited with 0 +++
                    7  2.2 connect(3, {sa_family=AF_INET, 3}, 16) = 0
                    7  2.3 close(3) = 0";
        let counts = Traced::read(text).per_unit("connect(AF_INET");
        assert_eq!(counts.text(), "3.0 (1 traced): connect 2.0, read 1.0");
    }

    #[test]
    fn reads_lines_with_and_without_errors() {
        let read = |line| parse(line).map(|(name, calls)| format!("{calls} {name}"));
        assert_eq!(read(" 50.0  0.01  3  12  4 read").unwrap(), "12 read");
        assert_eq!(read("100.00  0.0  0  57 total").unwrap(), "57 total");
        assert_eq!(read("% time seconds usecs/call calls errors syscall"), None);
        assert_eq!(read("------ ----------- ----------- --------- ----"), None);
    }
}

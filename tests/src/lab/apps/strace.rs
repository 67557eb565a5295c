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
    use super::parse;

    #[test]
    fn reads_lines_with_and_without_errors() {
        let read = |line| parse(line).map(|(name, calls)| format!("{calls} {name}"));
        assert_eq!(read(" 50.0  0.01  3  12  4 read").unwrap(), "12 read");
        assert_eq!(read("100.00  0.0  0  57 total").unwrap(), "57 total");
        assert_eq!(read("% time seconds usecs/call calls errors syscall"), None);
        assert_eq!(read("------ ----------- ----------- --------- ----"), None);
    }
}

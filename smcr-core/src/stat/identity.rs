//! Which process is which: a process id alone is soon used again.

use rustix::io::Errno;
use rustix::process::{Pid, getpid, test_kill_process};

use crate::rawfs;

/// What tells a process from all others on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) pid: u32,
    /// Clock ticks since boot, as the process's time namespace counts them.
    pub(super) start_time: u64,
    /// Inode of the PID namespace that `pid` belongs to, 0 if unknown.
    pub(super) pid_ns: u64,
    /// Inode of the time namespace that `start_time` belongs to, 0 if the kernel has none.
    pub(super) time_ns: u64,
}

impl Identity {
    /// The calling process.
    ///
    /// # Errors
    /// Those of opening /proc/self/stat, EINVAL if it cannot be understood.
    pub(super) fn own() -> Result<Self, Errno> {
        let mut buf = [0; 1024];
        let text = rawfs::read_into("/proc/self/stat", &mut buf)?;
        let stat = ProcStat::parse(text).ok_or(Errno::INVAL)?;
        let pid = own_pid();
        // Where /proc was mounted in another PID namespace its numbers are not ours, and nothing
        // can be said about other processes by them.
        let pid_ns = if stat.pid == pid {
            inode("/proc/self/ns/pid")
        } else {
            0
        };
        Ok(Self {
            pid,
            start_time: stat.start_time,
            pid_ns,
            time_ns: inode("/proc/self/ns/time"),
        })
    }
}

/// Process id of the caller, by a system call: after a fork no cached value will do.
pub(super) fn own_pid() -> u32 {
    getpid().as_raw_nonzero().get().unsigned_abs()
}

/// Whether the process `pid` that started at `start_time` runs. In doubt it does.
pub(super) fn is_alive(pid: u32, start_time: u64) -> bool {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return false;
    };
    if test_kill_process(raw) == Err(Errno::SRCH) {
        return false;
    }
    let mut buf = [0; 1024];
    // Other users' processes may be hidden (hidepid); kill() has seen this one.
    match rawfs::read_into(format!("/proc/{pid}/stat"), &mut buf).map(ProcStat::parse) {
        Ok(Some(stat)) => stat.start_time == start_time && !stat.is_zombie,
        _ => true,
    }
}

fn inode(path: &str) -> u64 {
    rustix::fs::stat(path).map_or(0, |stat| stat.st_ino)
}

/// The fields of /proc/pid/stat that matter here.
#[derive(Debug, PartialEq, Eq)]
struct ProcStat {
    pid: u32,
    start_time: u64,
    /// Dead, but not waited for. A process whose first thread alone has ended is none.
    is_zombie: bool,
}

impl ProcStat {
    fn parse(text: &[u8]) -> Option<Self> {
        // The name in brackets may hold anything, brackets and blanks included; nothing after it
        // does.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let pid = text.split(|byte| *byte == b' ').next()?;
        let pid = std::str::from_utf8(pid).ok()?.parse().ok()?;
        let tail = std::str::from_utf8(&text[end + 1..]).ok()?;
        let mut fields = tail.split_ascii_whitespace();
        let state = fields.next()?;
        // proc(5) counts from 1 and the state is field 3: threads are field 20, start is 22.
        let threads: u32 = fields.nth(16)?.parse().ok()?;
        let start_time = fields.nth(1)?.parse().ok()?;
        Some(Self {
            pid,
            start_time,
            is_zombie: matches!(state, "Z" | "X") && threads <= 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 3 0 987654 1 2";
        let expected = ProcStat {
            pid: 42,
            start_time: 987_654,
            is_zombie: false,
        };
        for name in ["sh", "a b", ") R 1 2", "\u{fc}"] {
            let text = format!("42 ({name}) {tail}");
            assert_eq!(ProcStat::parse(text.as_bytes()).as_ref(), Some(&expected));
        }
        let latin1 = [b"42 (\xfc\xff) ", tail.as_bytes()].concat();
        assert_eq!(ProcStat::parse(&latin1), Some(expected));
        for text in ["", "42", "42 (x)", "42 (x) S 1", ") (", "x (x) S"] {
            assert_eq!(ProcStat::parse(text.as_bytes()), None);
        }
    }

    #[test]
    fn own_process_is_alive_and_others_are_not() {
        let own = Identity::own().unwrap();
        assert_eq!(own.pid, std::process::id());
        assert!(own.pid_ns != 0);
        assert!(is_alive(own.pid, own.start_time));
        assert!(!is_alive(own.pid, own.start_time + 1));
        assert!(!is_alive(0, own.start_time));
        assert!(!is_alive(u32::MAX, own.start_time));
    }

    #[test]
    fn zombies_are_dead() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let start = loop {
            let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap();
            let stat = ProcStat::parse(&text).unwrap();
            if stat.is_zombie {
                break stat.start_time;
            }
            std::thread::yield_now();
        };
        assert!(!is_alive(pid, start));
        child.wait().unwrap();
        assert!(!is_alive(pid, start));
    }
}

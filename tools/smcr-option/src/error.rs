//! What can go wrong, in words that say what to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::programs::Hook;

/// Why a command was not carried out.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No cgroup v2 file system is mounted.
    NoCgroup2,
    /// The path cannot be opened.
    Open(PathBuf, io::Error),
    /// The path is not a directory of a cgroup v2 file system.
    NotACgroup(PathBuf),
    /// The kernel wants a capability for this.
    NotAllowed(
        /// What was tried.
        &'static str,
    ),
    /// The kernel does not know such maps, or bpf(2) at all.
    NoSocketStorage(io::Error),
    /// The verifier refused a program.
    Refused {
        /// The program.
        program: &'static str,
        /// Of bpf(2).
        error: io::Error,
        /// The verifier's words.
        log: String,
    },
    /// Another program is attached that admits no others.
    Exclusive(PathBuf, Hook),
    /// Programs of others work on the options of TCP sockets here, perhaps.
    Others(PathBuf, Vec<String>),
    /// Our programs are attached to a cgroup below.
    Below(PathBuf),
    /// Our programs are attached to a cgroup above, and not here.
    Above(PathBuf),
    /// A call failed that should not.
    Call(&'static str, io::Error),
}

impl Error {
    /// The error of a call that asks for `capabilities`.
    pub(crate) fn of(what: &'static str, error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotAllowed(what),
            _ => Self::Call(what, error),
        }
    }
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCgroup2 => f.write_str(
                "no cgroup v2 file system is mounted here: mount one \
                 (mount -t cgroup2 none /sys/fs/cgroup), or name a directory of one",
            ),
            Self::Open(path, e) => write!(f, "{}: {e}", path.display()),
            Self::NotACgroup(path) => write!(
                f,
                "{} is not in a cgroup v2 file system: findmnt -t cgroup2 shows where one is",
                path.display()
            ),
            Self::NotAllowed(what) => write!(
                f,
                "not allowed to {what}: run as root, with the capabilities CAP_BPF, CAP_NET_ADMIN \
                 and CAP_SYS_ADMIN and not in a container that takes them away"
            ),
            Self::NoSocketStorage(e) => write!(
                f,
                "the kernel cannot keep BPF data for sockets ({e}): Linux 5.15 or later with \
                 CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF is needed"
            ),
            Self::Refused {
                program,
                error,
                log,
            } => {
                write!(
                    f,
                    "the kernel refused the program {program} ({error}): Linux 5.15 or later is \
                     needed"
                )?;
                // The verdict is at the end.
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(8)..];
                tail.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            Self::Exclusive(path, hook) => write!(
                f,
                "{}: a {} program is attached here or above that admits no others: \
                 `bpftool cgroup tree` shows which",
                path.display(),
                hook.name()
            ),
            Self::Others(path, names) => write!(
                f,
                "{}: other sock_ops programs run here ({}). One that writes TCP options and these \
                 would get in each other's way. If you know that none does, say --with-others",
                path.display(),
                names.join(", ")
            ),
            Self::Below(path) => write!(
                f,
                "attached to {} already, which is below: `smcr-option detach {}` first",
                path.display(),
                path.display()
            ),
            Self::Above(path) => write!(
                f,
                "not attached to {}, but to a cgroup above it: detach it there",
                path.display()
            ),
            Self::Call(what, e) => write!(f, "cannot {what}: {e}"),
        }
    }
}

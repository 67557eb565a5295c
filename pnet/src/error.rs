//! What can be wrong with a table.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::names::PnetId;

/// Why a file could not be read, understood or written.
#[derive(Debug)]
#[non_exhaustive]
pub enum TableError {
    /// Reading or writing failed.
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line was not understood.
    Line {
        /// The file; `None` for a text that came from elsewhere.
        path: Option<PathBuf>,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: Problem,
    },
    /// Somebody else holds the lock of the file for too long.
    Locked {
        /// The lock.
        path: PathBuf,
    },
}

/// What is wrong with an id, a device or a line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Not a PNETID.
    BadId(String),
    /// Not the name of a device; names may be so many bytes long.
    BadName(String, usize),
    /// Not a port of a RoCE device.
    BadPort(String),
    /// Neither `netdev` nor `roce`.
    BadKind(String),
    /// Too few or too many words.
    BadShape,
    /// Not text.
    NotUtf8,
    /// The device is listed under this id already.
    Listed(PnetId),
    /// The device is not listed under the id.
    NotListed,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Line {
                path: Some(path),
                line,
                problem,
            } => write!(f, "{}:{line}: {problem}", path.display()),
            Self::Line {
                path: None,
                line,
                problem,
            } => write!(f, "line {line}: {problem}"),
            Self::Locked { path } => write!(
                f,
                "{}: another program has been changing the table for seconds: see who holds this \
                 lock (`fuser`), and try again",
                path.display()
            ),
        }
    }
}

impl Error for TableError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Line { problem, .. } => Some(problem),
            Self::Locked { .. } => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadId(id) => {
                write!(
                    f,
                    "`{id}` is no PNETID: use 1 to 16 letters (A-Z) and digits"
                )
            }
            Self::BadName(name, longest) => write!(
                f,
                "`{name}` cannot be a device: use the name that `ip link` or `rdma link` shows \
                 (1 to {longest} bytes, without blanks and characters as / and #)"
            ),
            Self::BadPort(port) => write!(f, "`{port}` is no port of a RoCE device: use 1 or 2"),
            Self::BadKind(kind) => {
                write!(f, "unknown kind of device `{kind}`: use `netdev` or `roce`")
            }
            Self::BadShape => {
                f.write_str("expected `PNETID netdev NAME` or `PNETID roce DEVICE PORT`")
            }
            Self::NotUtf8 => f.write_str("not UTF-8 text: is it the right file?"),
            Self::Listed(id) => {
                write!(
                    f,
                    "the device is listed under {id} already: remove it there first"
                )
            }
            Self::NotListed => f.write_str("the device is not listed under this PNETID"),
        }
    }
}

impl Error for Problem {}

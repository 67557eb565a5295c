//! What can be wrong with a configuration file, in words that say what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a configuration file was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1; `None` if the file could not be read.
    pub line: Option<usize>,
    /// What is wrong.
    pub kind: ErrorKind,
}

/// What is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file could not be read.
    Read(Errno),
    /// A line is not UTF-8 text.
    NotUtf8,
    /// A line is neither a setting nor a rule.
    NotASetting,
    /// There is no such setting.
    UnknownKey {
        /// What stands there.
        key: String,
        /// The valid name it resembles most.
        nearest: Option<&'static str>,
    },
    /// A setting is given twice.
    RepeatedKey {
        /// The setting.
        key: &'static str,
        /// The line of the first.
        first: usize,
    },
    /// A value is not one of the valid words.
    UnknownWord {
        /// What it is a value of.
        key: &'static str,
        /// What stands there.
        word: String,
        /// The valid words.
        valid: &'static [&'static str],
        /// The valid word it resembles most.
        nearest: Option<&'static str>,
    },
    /// A number or size cannot be understood.
    NotANumber {
        /// The setting.
        key: &'static str,
        /// What stands there.
        value: String,
        /// How it has to look.
        expected: &'static str,
    },
    /// A number or size is too small or too large.
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// What stands there.
        value: String,
        /// The valid values.
        range: &'static str,
    },
    /// A value is not the path of a file.
    NotAPath {
        /// The setting.
        key: &'static str,
        /// What stands there.
        value: String,
    },
    /// `max_memory` has no room for one ring.
    MemoryBelowRing,
    /// An enterprise ID is none, or is given twice, or there are more than 4.
    BadUeid(
        /// What stands there.
        String,
    ),
    /// A rule's condition is not of the form `name=value`.
    NotACondition(
        /// What stands there.
        String,
    ),
    /// A rule has a condition twice.
    RepeatedCondition(
        /// The condition.
        &'static str,
    ),
    /// A port, or range or list of ports, cannot be understood.
    BadPort(
        /// What stands there.
        String,
    ),
    /// A network cannot be understood.
    BadNetwork(
        /// What stands there.
        String,
    ),
    /// A network's address has bits beyond its prefix.
    HostBits {
        /// What stands there.
        network: String,
        /// The network that the prefix alone gives.
        meant: String,
    },
    /// A program is neither a base name nor an absolute path.
    BadProgram(
        /// What stands there.
        String,
    ),
}

impl ConfigError {
    pub(super) fn new(path: &Path, line: Option<usize>, kind: ErrorKind) -> Self {
        Self {
            path: path.to_owned(),
            line,
            kind,
        }
    }
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.kind)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(Errno::FBIG) => f.write_str("longer than 1 MiB: is it the right file?"),
            Self::Read(e) => write!(f, "cannot be read: {}", std::io::Error::from(*e)),
            Self::NotUtf8 => f.write_str("not UTF-8 text: save the file as UTF-8"),
            Self::NotASetting => {
                f.write_str("expected `key = value` or `rule smc|tcp [condition=value ...]`")
            }
            Self::UnknownKey { key, nearest } => {
                write!(f, "unknown setting `{key}`")?;
                suggest(f, *nearest, super::parse::KEYS)
            }
            Self::RepeatedKey { key, first } => {
                write!(
                    f,
                    "`{key}` was set in line {first} already: remove one of the two"
                )
            }
            Self::UnknownWord {
                key,
                word,
                valid,
                nearest,
            } => {
                write!(f, "unknown {key} `{word}`")?;
                suggest(f, *nearest, valid)
            }
            Self::NotANumber {
                key,
                value,
                expected,
            } => {
                write!(f, "`{key}` is `{value}`, expected {expected}")
            }
            Self::OutOfRange { key, value, range } => {
                write!(f, "`{key}` is {value}, valid: {range}")
            }
            Self::NotAPath { key, value } => {
                write!(
                    f,
                    "`{key}` is `{value}`, expected the absolute path of a file"
                )
            }
            Self::MemoryBelowRing => f.write_str(
                "`max_memory` is less than one `ring_size`: raise it or lower the other",
            ),
            Self::BadUeid(text) => write!(
                f,
                "`{text}` is no list of enterprise IDs: expected 1 to 4 different ones, separated \
                 by commas, each 1 to 32 of `A-Z 0-9 . -` and the first one a letter or a digit"
            ),
            Self::NotACondition(text) => {
                write!(
                    f,
                    "expected `condition=value` without blanks, found `{text}`"
                )
            }
            Self::RepeatedCondition(name) => {
                write!(
                    f,
                    "`{name}` is given twice in one rule: separate its values by commas"
                )
            }
            Self::BadPort(text) => write!(
                f,
                "`{text}` is no port: expected numbers 1..=65535, ranges and lists, as 22-23,443"
            ),
            Self::BadNetwork(text) => write!(
                f,
                "`{text}` is no network: expected addresses with or without a prefix length, as \
                 127.0.0.0/8,::1"
            ),
            Self::HostBits { network, meant } => write!(
                f,
                "`{network}` has bits set beyond its prefix: write `{meant}`, or the address alone"
            ),
            Self::BadProgram(text) => write!(
                f,
                "`{text}` is no program: expected base names or absolute paths, as redis-server \
                 or /usr/bin/*"
            ),
        }
    }
}

fn suggest(
    f: &mut fmt::Formatter<'_>,
    nearest: Option<&'static str>,
    valid: &[&str],
) -> fmt::Result {
    match nearest {
        Some(name) => write!(f, ": did you mean `{name}`?"),
        None => write!(f, ": valid are {}", valid.join(", ")),
    }
}

/// The valid name that `word` resembles most, if it resembles any: no more than a third of it
/// mistyped.
pub(super) fn nearest(word: &str, valid: &'static [&'static str]) -> Option<&'static str> {
    // Longer than any name; the comparison takes time by the product of the lengths.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('-', "_");
    let close = |name: &str| (distance(&word, name), name.len().max(word.len()));
    let best = valid.iter().min_by_key(|name| close(name).0)?;
    let (distance, len) = close(best);
    (distance * 3 <= len.max(3)).then_some(*best)
}

/// How many letters must be inserted, removed or replaced, or neighbours swapped, to turn `a`
/// into `b`.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

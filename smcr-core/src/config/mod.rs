//! The configuration file: sizes and limits, and the rules that say which connections use SMC.
//!
//! Read once, when the library starts: `$SMCR_CONFIG`, else `/etc/smcr.conf` if there is one.
//! One setting per line, `#` begins a comment (at the start of a line or after a blank):
//!
//! ```text
//! ring_size = 256K            # receive ring of a connection: 16K, 32K, ... 512M
//! max_connections = 65536     # connections on SMC per process, 1..=1048576
//! max_memory = 4G             # rings of a process, all together
//! spin_us = 50                # how long a call spins before it sleeps, 0..=1000
//! handshake_timeout_ms = 2000 # how long a peer may take for a CLC message, 10..=60000
//! users = same                # peers on this host: of the same user, or any
//! ask_networks = 10.1.0.0/16  # peers on other hosts that are asked over UDP, none if not set
//! default = smc               # when no rule matches: smc or tcp
//! ueid = TEAM-A,TEAM-B        # SMC-R version 2: with peers that have one in common; none by default
//! smcr_version = any          # SMC-R: 1, 2 or any
//! smcr_release = 1            # SMC-R version 2: the highest release, 0 or 1
//! max_group_connections = 255 # SMC-R: connections in a link group, 16..=255
//! pnet_table = /etc/smcr-pnet.conf # which RoCE ports serve which network interfaces
//!
//! # The first rule that matches decides. A rule matches if all its conditions do; a condition
//! # does if one of its values does.
//! rule tcp port=22-23,443
//! rule tcp program=/usr/bin/curl network=::1
//! rule smc program=redis-* port=6379 network=127.0.0.0/8,10.1.2.3
//! ```
//!
//! - `ueid`: 1..=4 enterprise IDs, each 1..=32 of `A-Z 0-9 . -`, the first one a letter or a digit.
//! - `program`: base name or absolute path of the executable, or of the link or script that it was
//!   started by; `*` stands for any characters.
//! - `port`: that of the listening end, at both ends of a connection.
//! - `network`: the peer's address, IPv4 or IPv6, with the length of a prefix or without.

mod error;
mod parse;
mod rule;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;

pub use error::{ConfigError, ErrorKind};
pub use rule::Verdict;
use rule::{Network, Rule};

use crate::clc::{Bounded, Capabilities, Eid};
use crate::handshake::rdma::MAX_UEIDS;
use crate::rawfs;

/// The file that is read when `$SMCR_CONFIG` does not name another.
pub const DEFAULT_PATH: &str = "/etc/smcr.conf";

/// Where the PNET table is if `pnet_table` does not name another file.
pub const DEFAULT_PNET_TABLE: &str = "/etc/smcr-pnet.conf";

/// Programs that forbid themselves most system calls (by seccomp) once they have a connection, among
/// them those that a stream over SMC needs: they would be killed. A rule that names the program
/// decides otherwise.
const CONFINED: &[&str] = &["sshd", "sshd-session", "sshd-auth", "vsftpd", "tor"];

/// Longest file that is read, in bytes.
const MAX_FILE: usize = 1 << 20;

/// What the operator decided. See the module for the file that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    disabled: bool,
    ring_size: u32,
    max_connections: u32,
    max_memory: u64,
    spin_us: u32,
    handshake_timeout_ms: u32,
    users: Users,
    ask_networks: Vec<Network>,
    ueids: Bounded<Eid, MAX_UEIDS>,
    smcr_version: SmcrVersion,
    smcr_release: u32,
    max_group_connections: u8,
    default: Verdict,
    pnet_table: PathBuf,
    rules: Vec<Rule>,
    /// Whether the program is among [`CONFINED`].
    is_confined: bool,
}

/// Which users' processes memory is shared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// Those of the same user only.
    Same,
    /// Those of all users. Each can disturb (not read beyond its connection) the other.
    Any,
}

/// Which versions of SMC-R are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmcrVersion {
    /// The highest one that the peer speaks, too.
    Any,
    /// RFC 7609: RoCEv1, within one subnet.
    V1,
    /// RoCEv2, with an enterprise ID in common.
    V2,
}

/// A connection about which a verdict is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// Port of the listening end: the peer's for connect(), the own one for accept().
    pub port: u16,
    /// Address of the peer.
    pub peer: IpAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            disabled: false,
            ring_size: 256 << 10,
            max_connections: 65536,
            max_memory: 4 << 30,
            spin_us: 50,
            handshake_timeout_ms: 2000,
            users: Users::Same,
            ask_networks: Vec::new(),
            ueids: Bounded::default(),
            smcr_version: SmcrVersion::Any,
            smcr_release: 1,
            max_group_connections: u8::MAX,
            default: Verdict::Smc,
            pnet_table: DEFAULT_PNET_TABLE.into(),
            rules: Vec::new(),
            is_confined: false,
        }
    }
}

impl Config {
    /// The configuration of this process. With `SMCR_DISABLE` set to anything but `0` or nothing,
    /// no file is read. In a program with more rights than its user, `$SMCR_CONFIG` does not
    /// count.
    ///
    /// # Errors
    /// If the file cannot be read, unless it is the default one and does not exist; if any line
    /// of it is not understood. The library then keeps to TCP.
    pub fn load() -> Result<Self, ConfigError> {
        let environment = Environment {
            disable: std::env::var_os("SMCR_DISABLE"),
            config: std::env::var_os("SMCR_CONFIG"),
            // SAFETY: reads a value that the kernel gave the process at its start.
            secure: unsafe { libc::getauxval(libc::AT_SECURE) } != 0,
        };
        let exe = rustix::fs::readlink("/proc/self/exe", Vec::new());
        let exe = exe.map_or_else(|_| Vec::new(), |path| path.into_bytes());
        Self::load_from(environment, DEFAULT_PATH, &[&exe, started_as()])
    }

    /// Reads a file, for all programs: [`Config::verdict`] passes over rules about programs until
    /// [`Config::for_program`] has been asked.
    ///
    /// # Errors
    /// If the file cannot be read, or any line of it is not understood.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let failed = |kind| ConfigError::new(path, None, kind);
        let bytes = rawfs::read_all(path, MAX_FILE).map_err(|e| failed(ErrorKind::Read(e)))?;
        match String::from_utf8(bytes) {
            Ok(text) => Self::parse(&text, path),
            Err(e) => {
                let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
                let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
                Err(ConfigError::new(path, Some(line), ErrorKind::NotUtf8))
            }
        }
    }

    /// Understands the text of a file. `path` is only for errors. As [`Config::read`], for all
    /// programs.
    ///
    /// # Errors
    /// If any line of it is not understood: the first such line.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        parse::parse(text).map_err(|(line, kind)| ConfigError::new(path, Some(line), kind))
    }

    /// Keeps the rules that matter to a program with these names: the executable's path as in
    /// `/proc/<pid>/exe`, and the path it was started by, which may be a link to it or a script.
    #[must_use]
    pub fn for_program(mut self, names: &[&[u8]]) -> Self {
        self.is_confined = names.iter().any(|name| {
            let name = rule::base_name(name);
            CONFINED.iter().any(|confined| confined.as_bytes() == name)
        });
        self.rules.retain_mut(|rule| {
            names.iter().any(|name| {
                // What the kernel appends when the file was replaced by an upgrade.
                rule.select(name.strip_suffix(b" (deleted)").unwrap_or(name))
            })
        });
        self
    }

    /// What is to become of a connection, as far as the rules go ([`Config::is_disabled`] is
    /// not looked at).
    pub fn verdict(&self, query: &Query) -> Verdict {
        let peer = query.peer.to_canonical();
        let default = match self.is_confined {
            true => Verdict::Tcp,
            false => self.default,
        };
        let mut rules = self.rules.iter();
        rules
            .find(|rule| {
                (rule.names_programs() || !self.is_confined) && rule.matches(query.port, peer)
            })
            .map_or(default, |rule| rule.verdict)
    }

    /// Whether the program is one that confines itself, so that only a rule with its name lets it
    /// use SMC.
    pub fn is_confined(&self) -> bool {
        self.is_confined
    }

    /// Whether `SMCR_DISABLE` is set: every connection is to stay on TCP.
    pub fn is_disabled(&self) -> bool {
        self.disabled
    }

    /// Receive ring of a connection, in bytes: `1 << (14 + n)` for n in 0..=15, the sizes that
    /// SMC has codes for. More helps bulk transfers until the ring outgrows the cache; each
    /// connection costs two (one at each end).
    pub fn ring_size(&self) -> u32 {
        self.ring_size
    }

    /// Connections on SMC per process, 1..=1048576. More are to fall back to TCP.
    pub fn max_connections(&self) -> usize {
        self.max_connections as usize
    }

    /// Bytes of rings per process, at least [`Config::ring_size`]. Connections beyond it are to
    /// fall back to TCP.
    pub fn max_memory(&self) -> u64 {
        self.max_memory
    }

    /// How long a blocked call spins before it sleeps, at most 1 ms. Zero saves processor time
    /// and costs latency.
    pub fn spin(&self) -> Duration {
        Duration::from_micros(self.spin_us.into())
    }

    /// How long a peer may take for each message of the CLC handshake, 10 ms to 1 min, before the
    /// connection is ended (RFC 7609 §C.5).
    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms.into())
    }

    /// Which processes of this host memory is shared with.
    pub fn users(&self) -> Users {
        self.users
    }

    /// Whether memory is shared with processes of any user.
    pub fn any_user(&self) -> bool {
        self.users == Users::Any
    }

    /// Whether a peer on another host may be asked by [`crate::signal::networks`]. Both ends have to
    /// say so of each other.
    pub fn asks(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.ask_networks.iter().any(|net| net.contains(peer))
    }

    /// The enterprise IDs, in the order of preference. SMC-R of version 2 is for peers that have one
    /// of them, too.
    pub fn ueids(&self) -> &Bounded<Eid, MAX_UEIDS> {
        &self.ueids
    }

    /// Whether SMC-R of version 1 may be spoken.
    pub fn smcr_v1(&self) -> bool {
        self.smcr_version != SmcrVersion::V2
    }

    /// Whether SMC-R of version 2 may be spoken: it takes an enterprise ID.
    pub fn smcr_v2(&self) -> bool {
        self.smcr_version != SmcrVersion::V1 && !self.ueids.is_empty()
    }

    /// Whether connections to other hosts may use SMC-R at all.
    pub fn rdma(&self) -> bool {
        self.smcr_v1() || self.smcr_v2()
    }

    /// What an end of a link group of SMC-R version 2 can do, with so many links in it (1..=2).
    pub fn smcr_capabilities(&self, max_links: u8) -> Capabilities {
        match self.smcr_release {
            0 => Capabilities::RELEASE_0,
            _ => Capabilities::release_1(self.max_group_connections, max_links, 0),
        }
    }

    /// Connections in a link group of SMC-R, 16..=255. The next one starts another group.
    pub fn max_group_connections(&self) -> u8 {
        self.max_group_connections
    }

    /// The file with the PNET table: an absolute path. It need not exist.
    pub fn pnet_table(&self) -> &Path {
        &self.pnet_table
    }

    fn load_from(
        env: Environment,
        default_path: &str,
        names: &[&[u8]],
    ) -> Result<Self, ConfigError> {
        if env
            .disable
            .is_some_and(|value| !value.is_empty() && value != "0")
        {
            return Ok(Self {
                disabled: true,
                ..Self::default()
            });
        }
        let named = env.config.filter(|path| !env.secure && !path.is_empty());
        let config = match named {
            Some(path) => Self::read(&PathBuf::from(path))?,
            None => match Self::read(Path::new(default_path)) {
                Err(e) if e.kind == ErrorKind::Read(Errno::NOENT) => Self::default(),
                other => other?,
            },
        };
        Ok(config.for_program(names))
    }
}

/// The path that this program was started by, empty if the kernel does not tell.
pub(crate) fn started_as() -> &'static [u8] {
    // SAFETY: a string that the kernel put above the stack, where it stays; or 0.
    unsafe {
        let path = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
        if path.is_null() {
            return &[];
        }
        std::ffi::CStr::from_ptr(path).to_bytes()
    }
}

/// What [`Config::load`] takes from the process's surroundings.
struct Environment {
    disable: Option<OsString>,
    config: Option<OsString>,
    secure: bool,
}

/// The text of a file that says the same.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "ring_size = {}", Bytes(self.ring_size.into()))?;
        writeln!(f, "max_connections = {}", self.max_connections)?;
        writeln!(f, "max_memory = {}", Bytes(self.max_memory))?;
        writeln!(f, "spin_us = {}", self.spin_us)?;
        writeln!(f, "handshake_timeout_ms = {}", self.handshake_timeout_ms)?;
        writeln!(f, "users = {}", self.users.name())?;
        if !self.ask_networks.is_empty() {
            let networks: Vec<String> = self.ask_networks.iter().map(Network::to_string).collect();
            writeln!(f, "ask_networks = {}", networks.join(","))?;
        }
        if let Some((first, others)) = self.ueids.split_first() {
            write!(f, "ueid = {first}")?;
            others.iter().try_for_each(|eid| write!(f, ",{eid}"))?;
            writeln!(f)?;
        }
        writeln!(f, "smcr_version = {}", self.smcr_version.name())?;
        writeln!(f, "smcr_release = {}", self.smcr_release)?;
        writeln!(f, "max_group_connections = {}", self.max_group_connections)?;
        writeln!(f, "default = {}", self.default.name())?;
        writeln!(f, "pnet_table = {}", self.pnet_table.display())?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

impl Users {
    const ALL: &[Self] = &[Self::Same, Self::Any];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Any => "any",
        }
    }
}

impl SmcrVersion {
    const ALL: &[Self] = &[Self::Any, Self::V1, Self::V2];

    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::V1 => "1",
            Self::V2 => "2",
        }
    }
}

/// A size as the file has it: the largest unit that divides it.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("G", 30), ("M", 20), ("K", 10)];
        let unit = units
            .iter()
            .find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match unit {
            Some((name, shift)) => write!(f, "{}{name}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

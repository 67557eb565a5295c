//! What is shown, before it is text or JSON.

use std::net::SocketAddr;

use smcr_core::Reason;
use smcr_core::stat::{Connection, Counter, Mode, ProcessStat, Role, State};

use crate::tcp_info::TcpInfo;

pub(crate) struct View {
    pub(crate) processes: Vec<Process>,
    /// How many connections fell back for each reason, the most frequent first.
    pub(crate) fallbacks: Vec<(Reason, u64)>,
    /// In the order of [`Mode::ALL`].
    pub(crate) totals: Vec<Total>,
    /// Pages that were refused, one sentence each.
    pub(crate) problems: Vec<String>,
}

pub(crate) struct Process {
    pub(crate) stat: ProcessStat,
    pub(crate) rows: Vec<Row>,
}

/// A connection.
pub(crate) struct Row {
    pub(crate) state: State,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) mode: Mode,
    pub(crate) role: Role,
    pub(crate) reason: Option<Reason>,
    pub(crate) group: u64,
    /// Bytes, `None` if not to be had.
    pub(crate) sent: Option<u64>,
    pub(crate) received: Option<u64>,
}

/// Sums over all processes for one mode.
pub(crate) struct Total {
    pub(crate) mode: Mode,
    /// Connections listed now.
    pub(crate) open: u64,
    /// Connections ever made.
    pub(crate) made: u64,
    /// Bytes of open and closed connections; those of closed connections on TCP are not known.
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

impl View {
    /// Reads the pages: of one process only, if `pid` is given; of dead ones only with `all`.
    pub(crate) fn take(pid: Option<u32>, all: bool) -> Self {
        let snapshot = smcr_core::stat::snapshot();
        let mut tcp_info = TcpInfo::open().ok();
        let processes: Vec<_> = snapshot
            .processes
            .into_iter()
            .filter(|process| pid.is_none_or(|pid| pid == process.pid))
            .filter(|process| all || process.alive)
            .map(|stat| Process::new(stat, tcp_info.as_mut()))
            .collect();
        Self {
            fallbacks: fallbacks(&processes),
            totals: Mode::ALL
                .iter()
                .map(|mode| Total::new(*mode, &processes))
                .collect(),
            processes,
            problems: snapshot.problems,
        }
    }

    /// Sum of a counter over all processes.
    pub(crate) fn counter(&self, counter: Counter) -> u64 {
        sum(self
            .processes
            .iter()
            .map(|process| process.stat.counter(counter)))
    }
}

impl Process {
    fn new(stat: ProcessStat, tcp_info: Option<&mut TcpInfo>) -> Self {
        let mut tcp_info = tcp_info.filter(|info| stat.alive && info.covers(stat.pid));
        let rows = stat.connections.iter();
        let rows = rows.map(|c| Row::new(c, tcp_info.as_deref_mut()));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| (row.local, row.peer));
        Self { stat, rows }
    }

    /// What to call the process in a table.
    pub(crate) fn name(&self) -> &str {
        let names = [&self.stat.exe, &self.stat.comm];
        names
            .into_iter()
            .find(|name| !name.is_empty())
            .map_or("?", |name| name)
    }

    /// Listed connections in this mode; listening sockets are none.
    pub(crate) fn open(&self, mode: Mode) -> u64 {
        let rows = self.rows.iter();
        rows.filter(|row| row.mode == mode && row.state != State::Listen)
            .count() as u64
    }
}

impl Row {
    fn new(c: &Connection, tcp_info: Option<&mut TcpInfo>) -> Self {
        let bytes = match c.mode {
            Mode::Shm | Mode::Rdma => Some((c.sent, c.received)),
            Mode::Tcp => tcp_info
                .zip(c.local.zip(c.peer))
                .and_then(|(info, (local, peer))| {
                    let bytes = info.bytes(local, peer, c.role == Role::Client)?;
                    Some((bytes.sent, bytes.received))
                }),
        };
        Self {
            state: c.state,
            local: c.local,
            peer: c.peer,
            mode: c.mode,
            role: c.role,
            reason: c.reason,
            group: c.group,
            sent: bytes.map(|(sent, _)| sent),
            received: bytes.map(|(_, received)| received),
        }
    }
}

impl Total {
    fn new(mode: Mode, processes: &[Process]) -> Self {
        let bytes = processes.iter().map(|process| match mode {
            Mode::Shm | Mode::Rdma => process.stat.bytes(mode),
            Mode::Tcp => {
                let rows = || process.rows.iter().filter(|row| row.mode == mode);
                (
                    sum(rows().filter_map(|row| row.sent)),
                    sum(rows().filter_map(|row| row.received)),
                )
            }
        });
        let (sent, received): (Vec<_>, Vec<_>) = bytes.unzip();
        Self {
            mode,
            open: sum(processes.iter().map(|process| process.open(mode))),
            made: sum(processes
                .iter()
                .map(|process| process.stat.counter(mode.counter()))),
            sent: sum(sent),
            received: sum(received),
        }
    }
}

/// The numbers come from others' memory: their sum may not fit.
fn sum(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

fn fallbacks(processes: &[Process]) -> Vec<(Reason, u64)> {
    let of = |reason: Reason| {
        let all = processes
            .iter()
            .flat_map(|process| process.stat.fallbacks());
        sum(all.filter(|(r, _)| *r == reason).map(|(_, count)| count))
    };
    let counts = Reason::ALL.iter().map(|reason| (*reason, of(*reason)));
    let mut counts: Vec<_> = counts.filter(|(_, count)| *count != 0).collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts
}

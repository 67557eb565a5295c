//! Reading the pages of other processes.
//!
//! Whoever owns a page can write anything into it at any time, and root reads everybody's. So a
//! page is copied with pread(2), never mapped (its owner could truncate the file, and the access
//! would raise SIGBUS); every number is checked, every text cleaned of control characters (it
//! will be printed on a terminal), and a slot is used only if its writer was not at work.

use std::fmt;
use std::io;
use std::mem::offset_of;
use std::net::SocketAddr;
use std::sync::atomic::{Ordering, fence};

use rustix::io::Errno;

use super::dir::{BASE, Directory};
use super::identity::{Identity, is_alive};
use super::page::{
    COUNTERS_OFFSET, Header, MAGIC, MAX_SLOTS, Page, SLOT_LEN, SLOTS_OFFSET, SlotCell, VERSION,
    decode_address,
};
use super::slot::Meta;
use super::words::{Counter, FIRST_REASON, Mode, Role, State};
use crate::Reason;

/// What a process told of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProcessStat {
    /// Process id.
    pub pid: u32,
    /// Start of the process in clock ticks since boot.
    pub start_time: u64,
    /// Owner of the page.
    pub uid: u32,
    /// Whether the process runs. True also where it cannot be known, in other PID namespaces.
    pub alive: bool,
    /// The kernel's name of the process when the page was made.
    pub comm: String,
    /// Base name of the executable.
    pub exe: String,
    /// Command line, cut to 2047 bytes.
    pub command: String,
    /// Version of the library.
    pub library: String,
    /// When the page was made, in seconds since 1970.
    pub opened_at: u64,
    /// The connections, in no particular order.
    pub connections: Vec<Connection>,
    /// Connections left out because they changed each time they were looked at.
    pub unstable: u32,
    counters: Vec<u64>,
}

/// One connection of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// Its state.
    pub state: State,
    /// What carries it.
    pub mode: Mode,
    /// Which end the process is.
    pub role: Role,
    /// Why it fell back to TCP, if it did.
    pub reason: Option<Reason>,
    /// Address of the process's end.
    pub local: Option<SocketAddr>,
    /// Address of the other end.
    pub peer: Option<SocketAddr>,
    /// Id of the link group within the process, 0 for none.
    pub group: u64,
    /// Bytes sent, if the library carried them (not for [`Mode::Tcp`]).
    pub sent: u64,
    /// Bytes received, likewise.
    pub received: u64,
    /// How many of `sent` a parent process sent before it forked.
    pub inherited_sent: u64,
    /// How many of `received` a parent process received before it forked.
    pub inherited_received: u64,
}

/// Everything that could be read, and what could not.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The processes, by process id.
    pub processes: Vec<ProcessStat>,
    /// One sentence for each page or directory that was refused.
    pub problems: Vec<String>,
}

impl ProcessStat {
    /// The value of a counter; 0 if the process's library did not know it.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(counter as usize).copied().unwrap_or(0)
    }

    /// The reasons for which connections fell back, and how many each.
    pub fn fallbacks(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        let counts = self.counters.iter().skip(FIRST_REASON).copied();
        let all = Reason::ALL.iter().copied().zip(counts);
        all.filter(|(_, count)| *count != 0)
    }

    /// Bytes sent and received over `mode` by open and closed connections. Bytes of connections
    /// on TCP are not counted by the library.
    pub fn bytes(&self, mode: Mode) -> (u64, u64) {
        let closed = match mode {
            Mode::Tcp => return (0, 0),
            Mode::Shm => (Counter::SentShm, Counter::ReceivedShm),
            Mode::Rdma => (Counter::SentRdma, Counter::ReceivedRdma),
        };
        let start = (self.counter(closed.0), self.counter(closed.1));
        let open = self.connections.iter().filter(|c| c.mode == mode);
        open.fold(start, |(sent, received), c| {
            (
                sent.saturating_add(c.sent.saturating_sub(c.inherited_sent)),
                received.saturating_add(c.received.saturating_sub(c.inherited_received)),
            )
        })
    }
}

/// The processes whose pages the caller may read: its own user's, as root everybody's. Includes
/// dead processes whose page was not swept yet. Pages that are not valid are left out.
pub fn read_all() -> Vec<ProcessStat> {
    snapshot().processes
}

/// As [`read_all`], and says what was refused and why.
pub fn snapshot() -> Snapshot {
    snapshot_below(BASE)
}

pub(super) fn snapshot_below(base: &str) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let own = Identity::own().ok();
    for directory in Directory::visible(base) {
        match directory {
            Ok(directory) => read_directory(&directory, own.as_ref(), &mut snapshot),
            Err(e) => snapshot.problems.push(e.to_string()),
        }
    }
    snapshot.processes.sort_by_key(|p| (p.pid, p.start_time));
    snapshot
}

fn read_directory(directory: &Directory, own: Option<&Identity>, into: &mut Snapshot) {
    let path = directory.path();
    let pages = directory.pages().unwrap_or_else(|e| {
        into.problems
            .push(format!("{path}: {}", io::Error::from(e)));
        Vec::new()
    });
    for (pid, start_time) in pages {
        let page = directory
            .open_page(pid, start_time)
            .map_err(PageError::Read)
            .and_then(|(fd, _)| {
                read_page(
                    |offset, buf| rustix::io::pread(&fd, buf, offset),
                    pid,
                    start_time,
                )
            });
        match page {
            Ok((mut process, namespaces)) => {
                process.uid = directory.uid();
                process.alive = own.is_none_or(|own| namespaces != (own.pid_ns, own.time_ns))
                    || is_alive(pid, start_time);
                into.processes.push(process);
            }
            // Being made, or removed since the directory was read: as if not looked at.
            Err(PageError::NotReady | PageError::Read(Errno::NOENT)) => {}
            Err(e) => into
                .problems
                .push(format!("{path}/{pid}-{start_time}: {e}")),
        }
    }
}

/// Why a page was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageError {
    Read(Errno),
    /// The process has not finished its page.
    NotReady,
    NotAPage,
    Version(u32),
    /// Named after another process than the one in its header.
    Impostor,
    /// A number in the header is out of range.
    Layout,
    /// The file ends before its last used slot.
    Truncated,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(e) => write!(f, "{}", io::Error::from(*e)),
            Self::NotReady => f.write_str("not finished yet"),
            Self::NotAPage => f.write_str("not a statistics page: remove it"),
            Self::Version(v) => write!(
                f,
                "layout version {v}, this build reads {VERSION}: use the smcr-stat that came with \
                 the library of that process"
            ),
            Self::Impostor => f.write_str("written by another process than it is named after"),
            Self::Layout => f.write_str("damaged header"),
            Self::Truncated => f.write_str("the file is shorter than its header says"),
        }
    }
}

/// Copies and checks a page. `read_at(offset, buf)` is as pread(2). Also gives the inodes of the
/// PID and time namespaces that the page claims.
pub(super) fn read_page(
    read_at: impl Fn(u64, &mut [u8]) -> Result<usize, Errno>,
    pid: u32,
    start_time: u64,
) -> Result<(ProcessStat, (u64, u64)), PageError> {
    let mut page = [0; size_of::<Page>()];
    let have = read_at(0, &mut page).map_err(PageError::Read)?;
    let header = Bytes(&page);
    match header.u64(offset_of!(Header, magic)) {
        MAGIC => {}
        0 => return Err(PageError::NotReady),
        _ => return Err(PageError::NotAPage),
    }
    if have < page.len() {
        return Err(PageError::Truncated);
    }
    match header.u32(offset_of!(Header, version)) {
        VERSION => {}
        other => return Err(PageError::Version(other)),
    }
    if header.u32(offset_of!(Header, pid)) != pid
        || header.u64(offset_of!(Header, start_time)) != start_time
    {
        return Err(PageError::Impostor);
    }
    let capacity = header.u32(offset_of!(Header, capacity));
    let high_water = header.u32(offset_of!(Header, high_water));
    let counters = header.u32(offset_of!(Header, counters)) as usize;
    let room = (page.len() - COUNTERS_OFFSET) / 8;
    if capacity > MAX_SLOTS
        || high_water > capacity
        || counters > room
        || header.u32(offset_of!(Header, slot_len)) as usize != SLOT_LEN
    {
        return Err(PageError::Layout);
    }
    let mut process = ProcessStat {
        pid,
        start_time,
        uid: 0,
        alive: false,
        comm: header.text(offset_of!(Header, comm), 16),
        exe: header.text(offset_of!(Header, exe), 256),
        command: header.text(offset_of!(Header, command), 2048),
        library: header.text(offset_of!(Header, library), 32),
        opened_at: header.u64(offset_of!(Header, opened_at)),
        connections: Vec::new(),
        unstable: 0,
        counters: (0..counters)
            .map(|i| header.u64(COUNTERS_OFFSET + 8 * i))
            .collect(),
    };
    read_slots(&read_at, high_water, &mut process)?;
    let namespaces = (
        header.u64(offset_of!(Header, pid_ns)),
        header.u64(offset_of!(Header, time_ns)),
    );
    Ok((process, namespaces))
}

/// Slots copied by one system call.
const SLOTS_PER_READ: usize = 512;
/// How often a slot whose writer was at work is looked at again.
const RETRIES: u32 = 100;

fn read_slots(
    read_at: &impl Fn(u64, &mut [u8]) -> Result<usize, Errno>,
    high_water: u32,
    process: &mut ProcessStat,
) -> Result<(), PageError> {
    let end = SLOTS_OFFSET + high_water as usize * SLOT_LEN;
    let mut copies: [Vec<u8>; 3] = Default::default();
    let mut offset = SLOTS_OFFSET;
    while offset < end {
        let len = (end - offset).min(SLOTS_PER_READ * SLOT_LEN);
        read_copies(read_at, offset, len, &mut copies)?;
        let mut unstable = Vec::new();
        for at in (0..len).step_by(SLOT_LEN) {
            let slots = copies
                .each_ref()
                .map(|copy| Bytes(&copy[at..at + SLOT_LEN]));
            match stable_slot(slots) {
                Some(connection) => process.connections.extend(connection),
                None => unstable.push(offset + at),
            }
        }
        for at in unstable {
            process.unstable += 1;
            for _ in 0..RETRIES {
                read_copies(read_at, at, SLOT_LEN, &mut copies)?;
                let slots = copies.each_ref().map(|copy| Bytes(copy.as_slice()));
                if let Some(connection) = stable_slot(slots) {
                    process.connections.extend(connection);
                    process.unstable -= 1;
                    break;
                }
                std::thread::yield_now();
            }
        }
        offset += len;
    }
    Ok(())
}

/// Reads the same range three times. A single read does not do: it copies in no particular order,
/// so only what lies between two reads that saw the same sequence number is whole.
fn read_copies(
    read_at: &impl Fn(u64, &mut [u8]) -> Result<usize, Errno>,
    offset: usize,
    len: usize,
    copies: &mut [Vec<u8>; 3],
) -> Result<(), PageError> {
    for copy in copies {
        copy.resize(len, 0);
        fence(Ordering::SeqCst);
        if read_at(offset as u64, copy).map_err(PageError::Read)? < len {
            return Err(PageError::Truncated);
        }
    }
    Ok(())
}

/// What three copies of a slot, in the order they were made, say: `None` if a writer was at work,
/// `Some(None)` if the slot is free or holds words that this build does not know.
fn stable_slot([before, slot, after]: [Bytes<'_>; 3]) -> Option<Option<Connection>> {
    let seq = before.u32(offset_of!(SlotCell, seq));
    if seq & 1 != 0 || after.u32(offset_of!(SlotCell, seq)) != seq {
        return None;
    }
    let Some(meta) = Meta::decode(slot.u32(offset_of!(SlotCell, meta))) else {
        return Some(None);
    };
    let address = |offset| decode_address([0, 8, 16].map(|part| slot.u64(offset + part)));
    Some(Some(Connection {
        state: meta.state,
        mode: meta.mode,
        role: meta.role,
        reason: meta.reason,
        local: address(offset_of!(SlotCell, local)),
        peer: address(offset_of!(SlotCell, peer)),
        group: slot.u64(offset_of!(SlotCell, group)),
        sent: slot.u64(offset_of!(SlotCell, sent)),
        received: slot.u64(offset_of!(SlotCell, received)),
        inherited_sent: slot.u64(offset_of!(SlotCell, inherited_sent)),
        inherited_received: slot.u64(offset_of!(SlotCell, inherited_received)),
    }))
}

/// Part of a copied page. Offsets are fields of the layout, so they lie within it.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn array<const N: usize>(self, offset: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[offset + i])
    }

    fn u32(self, offset: usize) -> u32 {
        u32::from_ne_bytes(self.array(offset))
    }

    fn u64(self, offset: usize) -> u64 {
        u64::from_ne_bytes(self.array(offset))
    }

    /// A NUL-padded text, without what would confuse a terminal.
    fn text(self, offset: usize, len: usize) -> String {
        let field = &self.0[offset..offset + len];
        let text = field.split(|byte| *byte == 0).next().unwrap_or_default();
        let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        String::from_utf8_lossy(text)
            .chars()
            .map(printable)
            .collect()
    }
}

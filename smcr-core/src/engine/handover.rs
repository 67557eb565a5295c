//! Connections that survive exec.
//!
//! The program's descriptor of a connection, an end of its readiness pair, passes exec by itself
//! unless it is close-on-exec. What the library knows of the connection has to follow it: the old
//! image writes it into a memfd, leaves that open under a number that the new image can find
//! ([`crate::fds::handover_number`]), and makes the descriptors inheritable that the record
//! names. The new image's library looks which of the program's descriptors are the ends named in
//! the records, by inode, and puts the connections together again.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::io::{Errno, FdFlags};

use super::record::{Element, Record, WORDS, sealed, unsealed};
use super::{Connection, Engine, PUBLISHER};
use crate::conn::{Smc, exec};
use crate::fds::{self, ProgramLimit};
use crate::group::LinkGroup;
use crate::shm::{Arena, LocalRef, Rmb, Rx, Tx};
use crate::stat::{ConnInfo, Mode, Role, State};

/// The first word: "smcrexec", and the version of what follows.
const MAGIC: u64 = u64::from_be_bytes(*b"smcrex02");

/// Everything is ready for an exec. Dropping it takes that back: the exec failed.
#[derive(Debug)]
pub struct Handover {
    /// Open under its number until the value is dropped.
    _memfd: Option<OwnedFd>,
    inheritable: Vec<RawFd>,
    counted: Vec<LocalRef>,
    left: Vec<Arc<Connection>>,
    _limit: ProgramLimit,
}

/// Who executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Executing {
    /// This process, which is counted among those that have its connections.
    Myself,
    /// A child that is not.
    Child,
}

impl Handover {
    /// Prepares for an exec that passes on the connections of `passing`, each with the inode of
    /// the program's descriptor, but not those of `leaving`.
    ///
    /// # Errors
    /// A system call failed; everything is as it was.
    pub fn prepare(
        passing: &[(Arc<Connection>, u64)],
        leaving: Vec<Arc<Connection>>,
        who: Executing,
    ) -> Result<Self, Errno> {
        // The number depends on it.
        fds::reserve();
        let mut handover = Self {
            _memfd: None,
            inheritable: Vec::new(),
            counted: Vec::new(),
            left: Vec::new(),
            _limit: ProgramLimit::none(),
        };
        let mut words = vec![MAGIC, 0];
        for (connection, inode) in passing {
            let Some(smc) = connection.smc() else {
                continue;
            };
            if who == Executing::Child {
                // Before the child exists: a parent that closes at once must not be the last. And
                // before the record is made: what is shared keeps its TCP socket.
                smc.inherited();
                handover.counted.push(smc.parts().2.clone());
            }
            let Some(record) = Record::of(connection, *inode) else {
                log::error!("a connection without addresses cannot be passed on");
                continue;
            };
            words[1] += 1;
            words.extend(record.words());
            handover.inheritable.extend(record.fds());
        }
        handover.inheritable.sort_unstable();
        handover.inheritable.dedup();
        handover._memfd = Some(publish(&words)?);
        for &fd in &handover.inheritable {
            set_cloexec(fd, false)?;
        }
        if who == Executing::Myself {
            if let Some(engine) = super::engine() {
                engine.image_ends();
            }
            let lost = |(c, _): &&(Arc<Connection>, u64)| {
                c.smc().is_some_and(|smc| smc.conn_id().is_some())
            };
            for (connection, _) in passing.iter().filter(lost) {
                // The queue pair stays behind: the new image finds the connection reset.
                log::warn!("a connection over RDMA does not survive exec: {connection:?}");
                PUBLISHER.fallback(crate::Reason::Executed);
            }
            let leaves = |connection: &Arc<Connection>| connection.smc().is_some_and(Smc::leave);
            handover.left = leaving.into_iter().filter(leaves).collect();
        }
        handover._limit = ProgramLimit::restore();
        Ok(handover)
    }

    /// A child executes the program now: what was prepared for it is its own.
    pub fn spawned(mut self) {
        self.counted.clear();
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        for &fd in &self.inheritable {
            let _ = set_cloexec(fd, true);
        }
        for local in &self.counted {
            local.passed_on.fetch_sub(1, Ordering::AcqRel);
            local.processes.fetch_sub(1, Ordering::AcqRel);
        }
        for connection in &self.left {
            connection.inherited();
        }
    }
}

fn set_cloexec(fd: RawFd, on: bool) -> Result<(), Errno> {
    // SAFETY: one of the library's own, which the connection in question holds.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_setfd(
        fd,
        if on {
            FdFlags::CLOEXEC
        } else {
            FdFlags::empty()
        },
    )
}

/// Puts the words where the new image looks for them.
fn publish(words: &[u64]) -> Result<OwnedFd, Errno> {
    let memfd = sealed(words)?;
    let number = fds::handover_number();
    // SAFETY: only asks whether it is open.
    if rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok() {
        return Err(Errno::BUSY);
    }
    crate::sys::dup_onto(std::os::fd::AsFd::as_fd(&memfd), number, false)?;
    // SAFETY: just made, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A connection that came over exec, and the program's descriptors for it.
#[derive(Debug)]
pub struct Arrived {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Inode of the program's end of the readiness pair.
    pub inode: u64,
    /// The program's descriptors for it.
    pub fds: Vec<RawFd>,
}

/// Takes what the old image left. To be called once, before the program runs.
pub fn arrive(engine: &'static Engine) -> Vec<Arrived> {
    let Some(records) = found() else {
        return Vec::new();
    };
    // The old image's page, which stands for what is no more, is replaced.
    if let Err(error) = PUBLISHER.publish() {
        log::debug!("no statistics: {error}");
    }
    if records.is_empty() {
        return Vec::new();
    }
    fds::reserve();
    let inodes: HashSet<u64> = records.iter().map(|record| record.inode).collect();
    assemble(engine, &records, &open_sockets(&inodes))
}

/// Puts connections together. `ends` are the program's descriptors, by inode.
pub(super) fn assemble(
    engine: &'static Engine,
    records: &[Record],
    ends: &HashMap<u64, Vec<RawFd>>,
) -> Vec<Arrived> {
    let mut parts = Parts::new(records);
    let mut arrived = Vec::new();
    for record in records {
        let Some((tx, rx, local, tcp)) = parts.take(record) else {
            log::error!("a connection was lost on its way: {record:?}");
            continue;
        };
        match ends.get(&record.inode) {
            None => exec::not_arrived(&tx, &rx, &local),
            Some(fds) => {
                let group = parts.group(engine, record);
                let smc = Smc::adopt(tx, rx, local, group);
                arrived.push(Arrived {
                    connection: Arc::new(engine.adopt(tcp, smc, record)),
                    inode: record.inode,
                    fds: fds.clone(),
                });
            }
        }
    }
    arrived
}

/// Reads and closes the memfd, if there is one.
fn found() -> Option<Vec<Record>> {
    let number = fds::handover_number();
    if number < 3 {
        return None;
    }
    // SAFETY: only asks what it is.
    let words = unsealed(unsafe { BorrowedFd::borrow_raw(number) }, MAGIC)?;
    // SAFETY: nobody else in this process knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(number) });
    let records = words[2..].chunks_exact(WORDS).map_while(Record::parse);
    Some(records.collect())
}

/// The open sockets among `inodes`, and under which numbers.
fn open_sockets(inodes: &HashSet<u64>) -> HashMap<u64, Vec<RawFd>> {
    let mut found: HashMap<u64, Vec<RawFd>> = HashMap::new();
    for fd in open_fds() {
        if let Some(inode) = socket_inode(fd)
            && inodes.contains(&inode)
        {
            found.entry(inode).or_default().push(fd);
        }
    }
    found
}

/// The inode behind a descriptor, if it is a socket.
pub fn socket_inode(fd: RawFd) -> Option<u64> {
    // SAFETY: the kernel checks the number.
    let stat = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
}

/// All open descriptors of this process (of a vfork child its own).
pub fn open_fds() -> Vec<RawFd> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open("/proc/self/fd", flags, Mode::empty()) else {
        // No /proc: the first ones, which are the likely ones.
        return (0..1024).collect();
    };
    let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
    let mut entries = rustix::fs::RawDir::new(&directory, &mut buffer);
    let mut fds = Vec::new();
    while let Some(Ok(entry)) = entries.next() {
        let name = entry.file_name().to_str().ok();
        fds.extend(name.and_then(|name| name.parse::<RawFd>().ok()));
    }
    fds.retain(|&fd| fd != directory.as_raw_fd());
    fds
}

/// What the records share, made once; and what is left is closed.
struct Parts {
    /// Descriptors that nobody took yet.
    fds: HashMap<RawFd, OwnedFd>,
    arenas: HashMap<RawFd, Arc<Arena>>,
    rmbs: HashMap<RawFd, Arc<Rmb>>,
    groups: HashMap<[u8; 16], Arc<LinkGroup>>,
}

impl Parts {
    fn new(records: &[Record]) -> Self {
        let numbers: HashSet<RawFd> = records.iter().flat_map(Record::fds).collect();
        let owned = numbers.into_iter().filter_map(|fd| {
            // A file action may have closed it.
            set_cloexec(fd, true).ok()?;
            // SAFETY: the old image left it to us.
            Some((fd, unsafe { OwnedFd::from_raw_fd(fd) }))
        });
        Self {
            fds: owned.collect(),
            arenas: HashMap::new(),
            rmbs: HashMap::new(),
            groups: HashMap::new(),
        }
    }

    fn arena(&mut self, fd: RawFd) -> Option<Arc<Arena>> {
        if let Some(arena) = self.arenas.get(&fd) {
            return Some(Arc::clone(arena));
        }
        let arena = Arena::from_exec(self.fds.remove(&fd)?).ok()?;
        self.arenas.insert(fd, Arc::clone(&arena));
        Some(arena)
    }

    fn rmb(&mut self, of: Element) -> Option<Arc<Rmb>> {
        if let Some(rmb) = self.rmbs.get(&of.fd) {
            return (rmb.geometry() == of.geometry).then(|| Arc::clone(rmb));
        }
        let rmb = Rmb::from_peer(self.fds.remove(&of.fd)?, of.geometry, of.token).ok()?;
        self.rmbs.insert(of.fd, Arc::clone(&rmb));
        Some(rmb)
    }

    fn take(&mut self, record: &Record) -> Option<(Tx, Rx, LocalRef, Option<OwnedFd>)> {
        let local = self.arena(record.arena)?.existing(record.slot as usize)?;
        let Element {
            index, eye_catcher, ..
        } = record.own;
        let rx = Rx::new(self.rmb(record.own)?, index, eye_catcher);
        let Element {
            index, eye_catcher, ..
        } = record.peer;
        let tx = Tx::new(self.rmb(record.peer)?, index, eye_catcher);
        let tcp = match record.tcp {
            Some(tcp) => Some(fds::raise(self.fds.remove(&tcp)?)),
            None => None,
        };
        Some((tx, rx, local, tcp))
    }

    fn group(&mut self, engine: &Engine, record: &Record) -> Arc<LinkGroup> {
        let group = self.groups.entry(record.peer_id).or_insert_with(|| {
            let id = engine.next_group.fetch_add(1, Ordering::Relaxed);
            LinkGroup::new(id, record.peer_id, record.own.geometry.rmbe_size)
        });
        group.adopt();
        Arc::clone(group)
    }
}

impl Engine {
    fn adopt(&self, tcp: Option<OwnedFd>, smc: Smc, record: &Record) -> Connection {
        let role = if record.is_client {
            Role::Client
        } else {
            Role::Server
        };
        let info = ConnInfo {
            state: State::Active,
            mode: Mode::Shm,
            role,
            reason: None,
            local: Some(record.local),
            peer: Some(record.remote),
            group: u64::from(smc.group_id()),
        };
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connection::adopted(tcp, info, smc)
    }
}

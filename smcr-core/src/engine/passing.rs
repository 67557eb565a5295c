//! Connections that are passed to another process in a message (`SCM_RIGHTS`).
//!
//! The sender's library passes its own descriptors for each connection along, behind the
//! program's, and at the very end a memfd that says what they are. The receiver's library takes
//! them out again, so that its program sees what the sender's program passed.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;

use super::handover::{self, Arrived};
use super::record::{self, Record, WORDS};
use super::{Connection, Engine};
use crate::sys;

/// The first word: "smcrpass", and the version of what follows.
const MAGIC: u64 = u64::from_be_bytes(*b"smcrps02");

/// What goes with a message. Dropping it takes it back: the message was not sent.
#[derive(Debug)]
pub struct Parcel {
    memfd: OwnedFd,
    fds: Vec<RawFd>,
    connections: Vec<Arc<Connection>>,
}

impl Parcel {
    /// For the connections, each with the inode of the program's descriptor.
    ///
    /// # Errors
    /// A system call failed.
    pub fn pack(connections: Vec<(Arc<Connection>, u64)>) -> Result<Self, Errno> {
        let mut words = vec![MAGIC, 0];
        let mut fds = Vec::new();
        let mut counted: Vec<Arc<Connection>> = Vec::new();
        for (connection, inode) in connections {
            // Before the message is under way: the sender may close at once. And before the record
            // is made: what is shared keeps its TCP socket.
            connection.inherited();
            let Some(record) = Record::of(&connection, inode) else {
                connection.not_inherited();
                continue;
            };
            words[1] += 1;
            words.extend(record.words());
            fds.extend(record.fds());
            counted.push(connection);
        }
        match record::sealed(&words) {
            Ok(memfd) => Ok(Self {
                memfd,
                fds,
                connections: counted,
            }),
            Err(errno) => {
                counted.iter().for_each(|one| one.not_inherited());
                Err(errno)
            }
        }
    }

    /// The descriptors to send behind the program's.
    pub fn fds(&self) -> Vec<RawFd> {
        let mut fds = self.fds.clone();
        fds.push(self.memfd.as_raw_fd());
        fds
    }

    /// The message is under way.
    pub fn sent(mut self) {
        self.connections.clear();
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        for connection in &self.connections {
            connection.not_inherited();
        }
    }
}

/// Takes what the sender's library added out of the descriptors of a message that came through
/// `channel`, and puts the connections together. `peeked`: the message stays where it is and will
/// come again.
pub fn unpack(
    engine: &'static Engine,
    channel: BorrowedFd<'_>,
    fds: &mut Vec<RawFd>,
    peeked: bool,
) -> Vec<Arrived> {
    let Some(records) = records(fds) else {
        return Vec::new();
    };
    // The state of a connection is shared memory that its users have to trust each other with.
    if !sender(channel).is_some_and(|uid| engine.trusts(uid)) {
        for fd in records.iter().flat_map(Record::fds) {
            // SAFETY: the kernel just made it for us.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        return Vec::new();
    }
    let mut ends: HashMap<u64, Vec<RawFd>> = HashMap::new();
    for &fd in fds.iter() {
        if let Some(inode) = handover::socket_inode(fd)
            && records.iter().any(|record| record.inode == inode)
        {
            ends.entry(inode).or_default().push(fd);
        }
    }
    let arrived = handover::assemble(engine, &records, &ends);
    if peeked {
        for one in &arrived {
            one.connection.inherited();
        }
    }
    arrived
}

/// The user at the other end of a unix socket.
fn sender(channel: BorrowedFd<'_>) -> Option<u32> {
    // struct ucred: pid, uid, gid.
    let mut raw = [0u8; 12];
    let len = sys::get_bytes(channel, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut raw).ok()?;
    let uid: [u8; 4] = raw[4..8].try_into().ok()?;
    (len == 12).then(|| u32::from_ne_bytes(uid))
}

/// Cuts the library's own descriptors off.
fn records(fds: &mut Vec<RawFd>) -> Option<Vec<Record>> {
    let last = *fds.last()?;
    // SAFETY: the kernel just made it.
    let words = record::unsealed(unsafe { BorrowedFd::borrow_raw(last) }, MAGIC)?;
    let records: Vec<Record> = words[2..]
        .chunks_exact(WORDS)
        .map_while(Record::parse)
        .collect();
    // A sender's word, to be checked: the descriptors that came are what there is.
    let needed = records.iter().map(|record| record.fds().count()).sum();
    let program = (fds.len() - 1).checked_sub(needed)?;
    // SAFETY: nobody else knows of it.
    drop(unsafe { OwnedFd::from_raw_fd(last) });
    fds.pop();
    let mut own = fds.split_off(program).into_iter();
    let records = records.into_iter().filter_map(|mut record| {
        let complete = record.set_fds(&mut own);
        complete.then_some(record)
    });
    Some(records.collect())
}

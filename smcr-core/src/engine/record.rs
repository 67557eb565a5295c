//! How a connection is written down for another process: the record names the descriptors that
//! go with it.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Connection;
use crate::conn::Home;
use crate::shm::{Geometry, Rmb};
use crate::stat::Role;

/// Words of a [`Record`].
pub(super) const WORDS: usize = 15;

/// More connections than any process has.
const MOST: usize = 1 << 20;

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE)
    .union(SealFlags::SEAL);

/// An RMBE, by the descriptor of its RMB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) fd: RawFd,
    pub(super) token: u64,
    pub(super) geometry: Geometry,
    pub(super) index: u8,
}

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Inode of the program's end of the readiness pair.
    pub(super) inode: u64,
    pub(super) tcp: RawFd,
    pub(super) arena: RawFd,
    pub(super) slot: u32,
    pub(super) own: Element,
    pub(super) peer: Element,
    pub(super) peer_id: [u8; 16],
    pub(super) is_client: bool,
}

fn element(rmbe: (&Arc<Rmb>, u8)) -> Element {
    let (rmb, index) = rmbe;
    Element {
        fd: rmb.fd().as_raw_fd(),
        token: rmb.token(),
        geometry: rmb.geometry(),
        index,
    }
}

impl Element {
    fn words(&self) -> [u64; 4] {
        let geometry = u64::from(self.geometry.count) << 32 | u64::from(self.geometry.rmbe_size);
        [self.fd as u64, self.token, geometry, u64::from(self.index)]
    }

    fn parse(words: &[u64]) -> Option<Self> {
        let count = u8::try_from(words[2] >> 32).ok()?;
        let geometry = Geometry::new(count, words[2] as u32)?;
        let index = u8::try_from(words[3]).ok().filter(|&index| index < count)?;
        Some(Self {
            fd: number(words[0])?,
            token: words[1],
            geometry,
            index,
        })
    }
}

fn number(word: u64) -> Option<RawFd> {
    RawFd::try_from(word).ok()
}

impl Record {
    pub(super) fn of(connection: &Connection, inode: u64) -> Option<Self> {
        let (smc, tcp) = (connection.smc()?, connection.tcp()?);
        let (tx, rx, local) = smc.parts();
        Some(Self {
            inode,
            tcp: tcp.as_raw_fd(),
            arena: local.arena().fd().as_raw_fd(),
            slot: local.index() as u32,
            own: element(rx.rmbe()),
            peer: element(tx.rmbe()),
            peer_id: match smc.home() {
                Home::Shm(group) => group.peer(),
                Home::Rdma(_) => [0; 16],
            },
            is_client: connection.role() == Role::Client,
        })
    }

    pub(super) fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[0] = self.inode;
        words[1] = self.tcp as u64;
        words[2] = self.arena as u64;
        words[3] = u64::from(self.slot);
        words[4..8].copy_from_slice(&self.own.words());
        words[8..12].copy_from_slice(&self.peer.words());
        let id = u128::from_ne_bytes(self.peer_id);
        words[12] = id as u64;
        words[13] = (id >> 64) as u64;
        words[14] = u64::from(self.is_client);
        words
    }

    pub(super) fn parse(words: &[u64]) -> Option<Self> {
        Some(Self {
            inode: words[0],
            tcp: number(words[1])?,
            arena: number(words[2])?,
            slot: u32::try_from(words[3]).ok()?,
            own: Element::parse(&words[4..8])?,
            peer: Element::parse(&words[8..12])?,
            peer_id: (u128::from(words[13]) << 64 | u128::from(words[12])).to_ne_bytes(),
            is_client: words[14] != 0,
        })
    }

    pub(super) fn fds(&self) -> [RawFd; 4] {
        [self.tcp, self.arena, self.own.fd, self.peer.fd]
    }

    /// The same with other descriptors, in the order of [`Self::fds`].
    pub(super) fn set_fds(&mut self, fds: [RawFd; 4]) {
        [self.tcp, self.arena, self.own.fd, self.peer.fd] = fds;
    }
}

/// A memfd with the words, which nobody can change.
pub(super) fn sealed(words: &[u64]) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("smcr-exec", flags)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&memfd, rest)?..];
    }
    rustix::fs::fcntl_add_seals(&memfd, SEALS)?;
    Ok(memfd)
}

/// The words in a memfd that [`sealed`] made, if it is one and they begin with `magic`.
pub(super) fn unsealed(memfd: BorrowedFd<'_>, magic: u64) -> Option<Vec<u64>> {
    let seals = rustix::fs::fcntl_get_seals(memfd).ok()?;
    if !seals.contains(SEALS) {
        return None;
    }
    let len = rustix::fs::fstat(memfd).ok()?.st_size as usize;
    if !(16..=16 + MOST * WORDS * 8).contains(&len) {
        return None;
    }
    let mut bytes = vec![0u8; len];
    let mut at = 0;
    while at < len {
        match rustix::io::pread(memfd, &mut bytes[at..], at as u64) {
            Ok(got) if got > 0 => at += got,
            _ => return None,
        }
    }
    let chunks = bytes.as_chunks::<8>().0.iter();
    let words: Vec<u64> = chunks.map(|word| u64::from_ne_bytes(*word)).collect();
    (words[0] == magic).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::{Element, Record};
    use crate::shm::Geometry;

    #[test]
    fn records_survive_the_journey() {
        let element = |fd, index| Element {
            fd,
            token: 0xfedc_ba98_7654_3210,
            geometry: Geometry::new(16, 1 << 20).unwrap(),
            index,
        };
        let record = Record {
            inode: 77,
            tcp: 1030,
            arena: 1031,
            slot: 5,
            own: element(1032, 15),
            peer: element(1033, 0),
            peer_id: *b"0123456789abcdef",
            is_client: true,
        };
        assert_eq!(Record::parse(&record.words()), Some(record));
        let mut bad = record.words();
        bad[7] = 16; // no such element
        assert_eq!(Record::parse(&bad), None);
    }
}

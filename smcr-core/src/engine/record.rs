//! How a connection is written down for another process: the record names the descriptors that
//! go with it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::Connection;
use crate::cdc::EyeCatcher;
use crate::conn::Home;
use crate::shm::Geometry;
use crate::shm::ring::Ring;
use crate::stat::Role;

/// Words of a [`Record`].
pub(super) const WORDS: usize = 23;

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
    pub(super) eye_catcher: EyeCatcher,
}

/// One connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    /// Inode of the program's end of the readiness pair.
    pub(super) inode: u64,
    /// `None` after [`Connection::give_up_tcp`].
    pub(super) tcp: Option<RawFd>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) arena: RawFd,
    pub(super) slot: u32,
    pub(super) own: Element,
    pub(super) peer: Element,
    pub(super) peer_id: [u8; 16],
    pub(super) is_client: bool,
}

fn element(ring: &Ring) -> Element {
    let (rmb, index) = ring.rmbe();
    Element {
        fd: rmb.fd().as_raw_fd(),
        token: rmb.token(),
        geometry: rmb.geometry(),
        index,
        eye_catcher: ring.eye_catcher(),
    }
}

impl Element {
    fn words(&self) -> [u64; 4] {
        let geometry = u64::from(self.geometry.count) << 32 | u64::from(self.geometry.rmbe_size);
        let place = u64::from(self.eye_catcher.base()) << 8 | u64::from(self.index);
        [self.fd as u64, self.token, geometry, place]
    }

    fn parse(words: &[u64]) -> Option<Self> {
        let count = u8::try_from(words[2] >> 32).ok()?;
        let geometry = Geometry::new(count, words[2] as u32)?;
        let index = Some(words[3] as u8).filter(|&index| index < count)?;
        let eye_catcher = match words[3] >> 8 {
            0 => EyeCatcher::None,
            4 => EyeCatcher::FourBytes,
            _ => return None,
        };
        Some(Self {
            fd: number(words[0])?,
            token: words[1],
            geometry,
            index,
            eye_catcher,
        })
    }
}

fn number(word: u64) -> Option<RawFd> {
    RawFd::try_from(word).ok()
}

impl Record {
    pub(super) fn of(connection: &Connection, inode: u64) -> Option<Self> {
        let smc = connection.smc()?;
        let (tx, rx, slot) = smc.parts();
        let (local, remote) = connection.addresses()?;
        Some(Self {
            inode,
            tcp: connection.tcp().map(|tcp| tcp.as_raw_fd()),
            local,
            remote,
            arena: slot.arena().fd().as_raw_fd(),
            slot: slot.index() as u32,
            own: element(rx),
            peer: element(tx),
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
        words[1] = self.tcp.map_or(u64::MAX, |fd| fd as u64);
        words[2] = self.arena as u64;
        words[3] = u64::from(self.slot);
        words[4..8].copy_from_slice(&self.own.words());
        words[8..12].copy_from_slice(&self.peer.words());
        let id = u128::from_ne_bytes(self.peer_id);
        words[12] = id as u64;
        words[13] = (id >> 64) as u64;
        words[14] = u64::from(self.is_client);
        words[15..19].copy_from_slice(&address_words(self.local));
        words[19..].copy_from_slice(&address_words(self.remote));
        words
    }

    pub(super) fn parse(words: &[u64]) -> Option<Self> {
        Some(Self {
            inode: words[0],
            tcp: match words[1] {
                u64::MAX => None,
                fd => Some(number(fd)?),
            },
            local: address(&words[15..19])?,
            remote: address(&words[19..23])?,
            arena: number(words[2])?,
            slot: u32::try_from(words[3]).ok()?,
            own: Element::parse(&words[4..8])?,
            peer: Element::parse(&words[8..12])?,
            peer_id: (u128::from(words[13]) << 64 | u128::from(words[12])).to_ne_bytes(),
            is_client: words[14] != 0,
        })
    }

    pub(super) fn fds(&self) -> impl Iterator<Item = RawFd> + use<> {
        let others = [self.arena, self.own.fd, self.peer.fd];
        self.tcp.into_iter().chain(others)
    }

    /// The same with other descriptors, in the order of [`Self::fds`]. False if there are too few.
    pub(super) fn set_fds(&mut self, fds: &mut impl Iterator<Item = RawFd>) -> bool {
        let tcp = self.tcp.as_mut().into_iter();
        let others = [&mut self.arena, &mut self.own.fd, &mut self.peer.fd];
        tcp.chain(others).all(|mine| {
            let fd = fds.next();
            *mine = fd.unwrap_or(*mine);
            fd.is_some()
        })
    }
}

/// Family (4 or 6) and port; the address; flow label and scope.
fn address_words(address: SocketAddr) -> [u64; 4] {
    let (family, ip, more) = match address {
        SocketAddr::V4(v4) => (4, u128::from(u32::from(*v4.ip())), 0),
        SocketAddr::V6(v6) => {
            let more = u64::from(v6.flowinfo()) << 32 | u64::from(v6.scope_id());
            (6, u128::from(*v6.ip()), more)
        }
    };
    let port = u64::from(address.port());
    [family << 16 | port, (ip >> 64) as u64, ip as u64, more]
}

fn address(words: &[u64]) -> Option<SocketAddr> {
    let port = words[0] as u16;
    let ip = u128::from(words[1]) << 64 | u128::from(words[2]);
    match words[0] >> 16 {
        4 => {
            let ip: [u8; 4] = (words[2] as u32).to_be_bytes();
            Some(SocketAddr::new(IpAddr::from(ip), port))
        }
        6 => {
            let (flow, scope) = ((words[3] >> 32) as u32, words[3] as u32);
            let address = SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope);
            Some(SocketAddr::V6(address))
        }
        _ => None,
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
    use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

    use super::{Element, EyeCatcher, Record};
    use crate::shm::Geometry;

    #[test]
    fn records_survive_the_journey() {
        let element = |fd, index, eye_catcher| Element {
            fd,
            token: 0xfedc_ba98_7654_3210,
            geometry: Geometry::new(16, 1 << 20).unwrap(),
            index,
            eye_catcher,
        };
        let mut record = Record {
            inode: 77,
            tcp: Some(1030),
            local: "127.0.0.1:65535".parse().unwrap(),
            remote: SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 7, 0xfffff, 3)),
            arena: 1031,
            slot: 5,
            own: element(1032, 15, EyeCatcher::FourBytes),
            peer: element(1033, 0, EyeCatcher::None),
            peer_id: *b"0123456789abcdef",
            is_client: true,
        };
        assert_eq!(Record::parse(&record.words()), Some(record));
        let mut bad = record.words();
        bad[7] = 16; // no such element
        assert_eq!(Record::parse(&bad), None);
        bad[7] = 3 << 8; // no such eye catcher
        assert_eq!(Record::parse(&bad), None);
        bad = record.words();
        bad[15] = 5 << 16; // no such family
        assert_eq!(Record::parse(&bad), None);

        // Without a TCP socket, and with other descriptors.
        record.tcp = None;
        assert_eq!(Record::parse(&record.words()), Some(record));
        assert!(record.set_fds(&mut [7, 8, 9].into_iter()));
        assert_eq!(record.fds().collect::<Vec<_>>(), [7, 8, 9]);
        assert!(!record.set_fds(&mut [7, 8].into_iter()));
    }
}

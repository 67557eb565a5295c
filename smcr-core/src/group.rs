//! Link groups: what two processes share for all the connections between them (RFC 7609 §2.2).

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::cdc::EyeCatcher;
use crate::forks;
use crate::shm::{Geometry, LocalRef, MemoryError, Rmb, Rx, Tx, flag};

/// The link group with one peer process: our RMBs that it writes to, and its RMBs that we write
/// to. Connections hold it; it goes when they are gone and the engine forgets it.
#[derive(Debug)]
pub struct LinkGroup {
    /// Names the group in statistics.
    id: u32,
    /// The peer process (its GID in the CLC messages: 64 bits and a 64-bit extension).
    peer: [u8; 16],
    /// Ring size of our RMBEs.
    rmbe_size: u32,
    own: Mutex<Vec<OwnRmb>>,
    peer_rmbs: Mutex<Vec<PeerRmb>>,
    connections: AtomicU32,
}

impl Drop for LinkGroup {
    fn drop(&mut self) {
        let own = self.own.get_mut();
        let bytes: usize = own
            .iter()
            .map(|entry| entry.rmb.geometry().memory_size())
            .sum();
        RMB_BYTES.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// An RMB that the peer passed, and which of its RMBEs connections write to.
#[derive(Debug)]
struct PeerRmb {
    rmb: Arc<Rmb>,
    used: [u64; 4],
}

impl PeerRmb {
    fn set_used(&mut self, index: u8, on: bool) {
        let (word, bit) = (usize::from(index / 64), 1 << (index % 64));
        if on {
            self.used[word] |= bit;
        } else {
            self.used[word] &= !bit;
        }
    }

    fn is_used(&self, index: u8) -> bool {
        self.used[usize::from(index / 64)] >> (index % 64) & 1 != 0
    }
}

#[derive(Debug)]
struct OwnRmb {
    rmb: Arc<Rmb>,
    elements: Vec<Element>,
    /// The peer's number for the link group in which it has mapped this RMB.
    passed: Option<u32>,
}

#[derive(Debug)]
enum Element {
    Free,
    Used,
    /// Closed by us; the peer may still write into it until it says `RELEASED`.
    Lingering,
    /// Closed here, in use by other processes.
    Elsewhere(Holders),
}

/// The processes that a connection was left to.
#[derive(Debug)]
pub struct Holders {
    /// This end's state of it.
    pub local: LocalRef,
    /// The peer's RMBE; `None` once the peer uses it for another connection.
    pub peer: Option<Tx>,
    /// How many of them are children of this process.
    pub count: u32,
    /// By which forks they were made (others may have been made by these, too).
    pub forks: RangeInclusive<u64>,
}

impl Holders {
    /// Whether none of them has the connection any more: all have closed it, or are dead.
    fn are_gone(&self) -> bool {
        if self.local.processes.load(Ordering::Acquire) == 0 {
            return true;
        }
        // Of whom a child passed it on to nothing is known.
        let all_known = self.local.passed_on.load(Ordering::Acquire) == self.count;
        if !all_known || forks::any_living(self.forks.clone()) {
            return false;
        }
        // The dead cannot say it themselves.
        if let Some(peer) = &self.peer {
            let flags = &peer.control().tx_flags;
            flags.fetch_or(flag::RELEASED, Ordering::AcqRel);
        }
        true
    }
}

/// Bytes of all RMBs of this process.
static RMB_BYTES: AtomicU64 = AtomicU64::new(0);

/// Bytes of RMBs that this process has for its peers to write to.
pub fn rmb_bytes() -> u64 {
    RMB_BYTES.load(Ordering::Relaxed)
}

/// Memory for RMBs was taken.
pub(crate) fn add_rmb_bytes(bytes: usize) {
    RMB_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// Memory for RMBs was given back.
pub(crate) fn remove_rmb_bytes(bytes: usize) {
    RMB_BYTES.fetch_sub(bytes as u64, Ordering::Relaxed);
}

/// Counts `bytes` more, unless that makes more than `most`.
fn reserve(bytes: u64, most: u64) -> bool {
    let more = |now: u64| now.checked_add(bytes).filter(|&sum| sum <= most);
    RMB_BYTES
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

/// The most RMBs of one peer in one group (each has up to 64 RMBEs).
const MAX_PEER_RMBS: usize = 4096;

impl LinkGroup {
    /// An empty group.
    pub fn new(id: u32, peer: [u8; 16], rmbe_size: u32) -> Arc<Self> {
        Arc::new(Self {
            id,
            peer,
            rmbe_size,
            own: Mutex::default(),
            peer_rmbs: Mutex::default(),
            connections: AtomicU32::new(0),
        })
    }

    /// A connection that came by exec is counted here; its RMBE is in nobody's books.
    pub(crate) fn adopt(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Its number in this process, from 1.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The peer process.
    pub fn peer(&self) -> [u8; 16] {
        self.peer
    }

    /// Connections of this process in the group.
    pub fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Takes an RMBE of our own for a new connection, in a new RMB if all are in use: a smaller one
    /// where all RMBs of the process would take more than `most` bytes.
    ///
    /// # Errors
    /// `ENOMEM` if not even one RMBE fits into `most`, or what the system says.
    pub fn take_rmbe(&self, most: u64) -> Result<Rx, Errno> {
        forks::sweep();
        let mut own = self.own.lock();
        for entry in own.iter_mut() {
            for index in 0..entry.elements.len() {
                let released = || {
                    let control = entry.rmb.control(index as u8);
                    control.tx_flags.load(Ordering::Acquire) & flag::RELEASED != 0
                };
                let free = match &entry.elements[index] {
                    Element::Free => true,
                    Element::Used => false,
                    Element::Lingering => released(),
                    Element::Elsewhere(holders) => {
                        let over = holders.are_gone() && released();
                        if over {
                            if let Some(peer) = &holders.peer {
                                self.release_peer(peer);
                            }
                            holders.local.arena().give_back(&holders.local);
                        }
                        over
                    }
                };
                if free {
                    entry.elements[index] = Element::Used;
                    return Ok(self.start(&entry.rmb, index as u8));
                }
            }
        }
        // Few at first, more as the group grows.
        let mut count = (4 << own.len().min(4)) as u8;
        let geometry = loop {
            let geometry = Geometry::new(count, self.rmbe_size).ok_or(Errno::NOMEM)?;
            if reserve(geometry.memory_size() as u64, most) {
                break geometry;
            }
            count /= 2;
        };
        let rmb = Self::new_rmb(geometry).inspect_err(|_| {
            RMB_BYTES.fetch_sub(geometry.memory_size() as u64, Ordering::Relaxed);
        })?;
        let mut elements: Vec<_> = (0..count).map(|_| Element::Free).collect();
        elements[0] = Element::Used;
        own.push(OwnRmb {
            rmb: Arc::clone(&rmb),
            elements,
            passed: None,
        });
        Ok(self.start(&rmb, 0))
    }

    fn new_rmb(geometry: Geometry) -> Result<Arc<Rmb>, Errno> {
        let mut token = [0u8; 8];
        rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())?;
        Rmb::create(geometry, u64::from_ne_bytes(token))
    }

    fn start(&self, rmb: &Arc<Rmb>, index: u8) -> Rx {
        rmb.reset(index);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Rx::new(Arc::clone(rmb), index, EyeCatcher::None)
    }

    /// The connection on `rx` is closed: its RMBE is free as soon as the peer released it.
    pub fn release(&self, rx: &Rx) {
        self.leave(rx, Element::Lingering);
    }

    /// The connection on `rx` never came to be: nobody wrote into it.
    pub fn give_back(&self, rx: &Rx) {
        self.leave(rx, Element::Free);
    }

    /// The connection on `rx` is closed here but lives on in other processes.
    pub fn hand_over(&self, rx: &Rx, holders: Holders) {
        self.leave(rx, Element::Elsewhere(holders));
    }

    fn leave(&self, rx: &Rx, now: Element) {
        let (rmb, index) = rx.rmbe();
        let mut own = self.own.lock();
        if let Some(entry) = own.iter_mut().find(|entry| Arc::ptr_eq(&entry.rmb, rmb)) {
            entry.elements[usize::from(index)] = now;
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the peer has mapped our `rmb` for its group of this number: it keeps it as long as
    /// that.
    pub fn has_passed(&self, rmb: &Arc<Rmb>, peers: u32) -> bool {
        let own = self.own.lock();
        let entry = own.iter().find(|entry| Arc::ptr_eq(&entry.rmb, rmb));
        entry.is_some_and(|entry| entry.passed == Some(peers))
    }

    /// See [`Self::has_passed`].
    pub fn set_passed(&self, rmb: &Arc<Rmb>, peers: u32) {
        let mut own = self.own.lock();
        if let Some(entry) = own.iter_mut().find(|entry| Arc::ptr_eq(&entry.rmb, rmb)) {
            entry.passed = Some(peers);
        }
    }

    /// The geometry of an RMB that the peer passed before.
    pub fn known_geometry(&self, token: u64) -> Option<Geometry> {
        let known = self.peer_rmbs.lock();
        let found = known.iter().find(|known| known.rmb.token() == token);
        found.map(|known| known.rmb.geometry())
    }

    /// The writing end for an RMBE that the peer named, in an RMB that it passed now or before.
    /// `index` counts from 1, as in CLC messages. It is to be given back by
    /// [`Self::release_peer`].
    ///
    /// # Errors
    /// What is wrong with it; [`MemoryError::InUse`] if another connection writes there.
    pub fn peer_rmbe(
        &self,
        token: u64,
        geometry: Geometry,
        index: u8,
        fd: Option<OwnedFd>,
    ) -> Result<Tx, MemoryError> {
        if index == 0 || index > geometry.count {
            return Err(MemoryError::WrongSize);
        }
        let index = index - 1;
        if self.is_peer_used(token, index) {
            self.forget_closed(token, index);
        }
        let mut known = self.peer_rmbs.lock();
        let found = known.iter().position(|known| known.rmb.token() == token);
        let at = match found {
            Some(at) if known[at].rmb.geometry() != geometry => {
                return Err(MemoryError::WrongSize);
            }
            Some(at) if known[at].is_used(index) => return Err(MemoryError::InUse),
            Some(at) => at,
            None if known.len() >= MAX_PEER_RMBS => return Err(MemoryError::Os(Errno::NOMEM)),
            None => {
                let fd = fd.ok_or(MemoryError::NotSealed)?;
                let rmb = Rmb::from_peer(fd, geometry, token)?;
                known.push(PeerRmb { rmb, used: [0; 4] });
                known.len() - 1
            }
        };
        known[at].set_used(index, true);
        Ok(Tx::new(Arc::clone(&known[at].rmb), index, EyeCatcher::None))
    }

    fn is_peer_used(&self, token: u64, index: u8) -> bool {
        let known = self.peer_rmbs.lock();
        let found = known.iter().find(|known| known.rmb.token() == token);
        found.is_some_and(|known| known.is_used(index))
    }

    /// Whoever used the peer's RMBE for a connection that was left to other processes has closed it:
    /// the peer may use it again, and we have not looked since.
    fn forget_closed(&self, token: u64, index: u8) {
        for entry in self.own.lock().iter_mut() {
            for element in &mut entry.elements {
                if let Element::Elsewhere(holders) = element
                    && let Some(peer) = &holders.peer
                    && (peer.rmbe().0.token(), peer.rmbe().1) == (token, index)
                    && holders.local.processes.load(Ordering::Acquire) == 0
                {
                    self.release_peer(peer);
                    holders.peer = None;
                }
            }
        }
    }

    /// No connection of this process writes to the peer's RMBE any more. To be called before the
    /// peer is told: it may use it again at once.
    pub fn release_peer(&self, tx: &Tx) {
        let (rmb, index) = tx.rmbe();
        let mut known = self.peer_rmbs.lock();
        if let Some(known) = known.iter_mut().find(|known| Arc::ptr_eq(&known.rmb, rmb)) {
            known.set_used(index, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::{LinkGroup, rmb_bytes};
    use crate::shm::{Arena, Geometry, MemoryError, Rmb, flag};

    const SIZE: u32 = 16 << 10;

    fn duplicate(rmb: &Rmb) -> Option<OwnedFd> {
        rmb.fd().try_clone_to_owned().ok()
    }

    #[test]
    fn an_rmbe_serves_one_connection_at_a_time() {
        let group = LinkGroup::new(1, [1; 16], SIZE);
        let geometry = Geometry::new(70, SIZE).unwrap();
        let peers = Rmb::create(geometry, 77).unwrap();
        let name = |index, fd| group.peer_rmbe(77, geometry, index, fd);
        let first = name(1, duplicate(&peers)).unwrap();
        let last = name(70, None).unwrap();
        assert_eq!((first.rmbe().1, last.rmbe().1), (0, 69));
        for index in [1, 70] {
            assert_eq!(name(index, None).unwrap_err(), MemoryError::InUse);
        }
        group.release_peer(&last);
        assert_eq!(name(1, None).unwrap_err(), MemoryError::InUse);
        assert!(name(70, None).is_ok());
    }

    #[test]
    fn an_rmbe_that_was_left_to_children_comes_back() {
        let group = LinkGroup::new(1, [1; 16], SIZE);
        let geometry = Geometry::new(1, SIZE).unwrap();
        let peers = Rmb::create(geometry, 78).unwrap();
        let tx = group.peer_rmbe(78, geometry, 1, duplicate(&peers)).unwrap();
        let rx = group.take_rmbe(u64::MAX).unwrap();
        let local = Arena::create().unwrap().take().unwrap();
        let holders = super::Holders {
            local: local.clone(),
            peer: Some(tx),
            count: 0,
            forks: 1..=1,
        };
        // A process of which nothing is known has it.
        local
            .passed_on
            .store(1, std::sync::atomic::Ordering::Relaxed);
        group.hand_over(&rx, holders);
        let again = group.peer_rmbe(78, geometry, 1, None);
        assert_eq!(again.unwrap_err(), MemoryError::InUse);
        assert_ne!(group.take_rmbe(u64::MAX).unwrap().rmbe().1, rx.rmbe().1);
        // It closes.
        local
            .processes
            .store(0, std::sync::atomic::Ordering::Relaxed);
        assert!(group.peer_rmbe(78, geometry, 1, None).is_ok());
        rx.control()
            .tx_flags
            .store(flag::RELEASED, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(group.take_rmbe(u64::MAX).unwrap().rmbe().1, rx.rmbe().1);
        // That did not make the peer's RMBE free, which serves another connection now.
        let again = group.peer_rmbe(78, geometry, 1, None);
        assert_eq!(again.unwrap_err(), MemoryError::InUse);
    }

    #[test]
    fn the_limit_of_memory_is_kept() {
        let group = LinkGroup::new(1, [1; 16], 512 << 20);
        let one = Geometry::new(1, 512 << 20).unwrap().memory_size() as u64;
        // Others may take some meanwhile: far less than one ring of this size.
        let most = rmb_bytes() + 3 * one;
        assert_eq!(group.take_rmbe(most).unwrap().rmbe().0.geometry().count, 2);
        group.take_rmbe(most).unwrap();
        assert_eq!(group.take_rmbe(most).unwrap().rmbe().0.geometry().count, 1);
        assert!(group.take_rmbe(most).is_err());
        assert!(rmb_bytes() <= most);
    }
}

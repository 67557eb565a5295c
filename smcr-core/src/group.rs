//! Link groups: what two processes share for all the connections between them (RFC 7609 §2.2).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

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
    peer_rmbs: Mutex<Vec<Arc<Rmb>>>,
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

#[derive(Debug)]
struct OwnRmb {
    rmb: Arc<Rmb>,
    elements: Vec<Element>,
}

#[derive(Debug)]
enum Element {
    Free,
    Used,
    /// Closed by us; the peer may still write into it until it says `RELEASED`.
    Lingering,
    /// Closed here, in use by processes that got it by fork.
    Elsewhere(LocalRef),
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

    /// Takes an RMBE of our own for a new connection, in a new RMB if all are in use.
    pub fn take_rmbe(&self) -> Result<Rx, Errno> {
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
                    Element::Elsewhere(local) => {
                        let over = local.processes.load(Ordering::Acquire) == 0 && released();
                        if over {
                            local.arena().give_back(local);
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
        let count = (4 << own.len().min(4)) as u8;
        let geometry = Geometry::new(count, self.rmbe_size).ok_or(Errno::INVAL)?;
        let mut token = [0u8; 8];
        rustix::rand::getrandom(&mut token, rustix::rand::GetRandomFlags::empty())?;
        let rmb = Rmb::create(geometry, u64::from_ne_bytes(token))?;
        let mut elements: Vec<_> = (0..count).map(|_| Element::Free).collect();
        elements[0] = Element::Used;
        RMB_BYTES.fetch_add(geometry.memory_size() as u64, Ordering::Relaxed);
        own.push(OwnRmb {
            rmb: Arc::clone(&rmb),
            elements,
        });
        Ok(self.start(&rmb, 0))
    }

    fn start(&self, rmb: &Arc<Rmb>, index: u8) -> Rx {
        rmb.reset(index);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Rx::new(Arc::clone(rmb), index)
    }

    /// The connection on `rx` is closed: its RMBE is free as soon as the peer released it.
    pub fn release(&self, rx: &Rx) {
        self.leave(rx, Element::Lingering);
    }

    /// The connection on `rx` never came to be: nobody wrote into it.
    pub fn give_back(&self, rx: &Rx) {
        self.leave(rx, Element::Free);
    }

    /// The connection on `rx` is closed here but lives on in a child (or its parent).
    pub fn hand_over(&self, rx: &Rx, local: LocalRef) {
        self.leave(rx, Element::Elsewhere(local));
    }

    fn leave(&self, rx: &Rx, now: Element) {
        let (rmb, index) = rx.rmbe();
        let mut own = self.own.lock();
        if let Some(entry) = own.iter_mut().find(|entry| Arc::ptr_eq(&entry.rmb, rmb)) {
            entry.elements[usize::from(index)] = now;
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// The writing end for an RMBE that the peer named, in an RMB that it passed now or before.
    /// `index` counts from 1, as in CLC messages.
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
        let mut known = self.peer_rmbs.lock();
        let found = known.iter().find(|rmb| rmb.token() == token);
        let rmb = match found {
            Some(rmb) if rmb.geometry() == geometry => Arc::clone(rmb),
            Some(_) => return Err(MemoryError::WrongSize),
            None if known.len() >= MAX_PEER_RMBS => return Err(MemoryError::Os(Errno::NOMEM)),
            None => {
                let fd = fd.ok_or(MemoryError::NotSealed)?;
                let rmb = Rmb::from_peer(fd, geometry, token)?;
                known.push(Arc::clone(&rmb));
                rmb
            }
        };
        Ok(Tx::new(rmb, index - 1))
    }
}

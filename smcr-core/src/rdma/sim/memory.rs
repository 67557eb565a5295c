//! Registered memory: what may be read and written, by which key.

use std::collections::BTreeMap;
use std::ptr::NonNull;

use super::net::Source;
use super::random::Random;
use crate::rdma::fabric::Access;

/// The regions of all domains, by key. A key is of one domain, and is never used again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    regions: BTreeMap<u32, Entry>,
    used_keys: std::collections::BTreeSet<u32>,
}

#[derive(Debug)]
struct Entry {
    port: usize,
    domain: u64,
    base: usize,
    len: usize,
    access: Access,
}

/// A place that the peer may write to now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place(usize);

impl Memory {
    /// Memory of a port and, by its number, of one of its domains. Returns the key, which is both
    /// the local and the remote one.
    pub(super) fn add(
        &mut self,
        (port, domain): (usize, u64),
        base: NonNull<u8>,
        len: usize,
        access: Access,
        random: &mut Random,
    ) -> u32 {
        let key = loop {
            let key = random.next() as u32;
            if key != 0 && self.used_keys.insert(key) {
                break key;
            }
        };
        let base = base.as_ptr().expose_provenance();
        let entry = Entry {
            port,
            domain,
            base,
            len,
            access,
        };
        self.regions.insert(key, entry);
        key
    }

    pub(super) fn remove(&mut self, key: u32) {
        self.regions.remove(&key);
    }

    pub(super) fn registered(&self, port: usize) -> usize {
        let of_port = self.regions.values().filter(|entry| entry.port == port);
        of_port.map(|entry| entry.len).sum()
    }

    pub(super) fn regions(&self, port: usize) -> usize {
        let of_port = self.regions.values().filter(|entry| entry.port == port);
        of_port.count()
    }

    pub(super) fn has_domain(&self, domain: u64) -> bool {
        self.regions.values().any(|entry| entry.domain == domain)
    }

    /// Checks what is asked for over a link in `domain`.
    pub(super) fn remote(&self, domain: u64, rkey: u32, to: u64, len: usize) -> Option<Place> {
        let entry = self.regions.get(&rkey)?;
        let address = usize::try_from(to).ok()?;
        (entry.access == Access::RemoteWrite && entry.domain == domain && entry.holds(address, len))
            .then_some(Place(address))
    }

    fn local(&self, domain: u64, lkey: u32, address: usize, len: usize) -> Option<*const u8> {
        let entry = self.regions.get(&lkey)?;
        (entry.domain == domain && entry.holds(address, len))
            .then_some(std::ptr::with_exposed_provenance(address))
    }

    /// Whether a WRITE from `domain` may read there.
    pub(super) fn is_local(&self, domain: u64, lkey: u32, address: usize, len: usize) -> bool {
        self.local(domain, lkey, address, len).is_some()
    }

    /// Copies a piece to where [`Self::remote`] allowed it. `None`: the source is not (any more)
    /// registered.
    pub(super) fn copy(
        &self,
        domain: u64,
        from: &Source,
        len: usize,
        Place(to): Place,
    ) -> Option<()> {
        let to: *mut u8 = std::ptr::with_exposed_provenance_mut(to);
        let from = match from {
            Source::Memory { address, lkey } => self.local(domain, *lkey, *address, len)?,
            Source::Departed(bytes) => bytes.get(..len)?.as_ptr(),
        };
        // SAFETY: both ranges are inside regions that are registered now, whose owners promised
        // to keep them valid and to bear that others read and write them (or `from` is a vector of
        // at least `len` bytes). They may overlap, since a port may talk to itself.
        unsafe { std::ptr::copy(from, to, len) };
        Some(())
    }

    /// The bytes of a piece.
    pub(super) fn read(&self, domain: u64, from: &Source, len: usize) -> Option<Vec<u8>> {
        let (address, lkey) = match from {
            Source::Memory { address, lkey } => (*address, *lkey),
            Source::Departed(bytes) => return Some(bytes.clone()),
        };
        let from = self.local(domain, lkey, address, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: as in `copy`; the vector is new.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len) };
        Some(bytes)
    }
}

impl Entry {
    fn holds(&self, address: usize, len: usize) -> bool {
        address >= self.base && len <= self.len && address - self.base <= self.len - len
    }
}

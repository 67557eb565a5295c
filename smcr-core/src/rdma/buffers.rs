//! Registered memory, cut into elements: the RMBs that a peer writes to (RFC 7609 §2.1), and the
//! send buffers that our WRITEs take their bytes from.
//!
//! Registering is slow and memory that a peer may write to is precious, so elements are handed out
//! again and again, and a buffer stays registered, with the same key and address, as long as its
//! link group. All of a group's lies in one protection domain, where no other peer gets at it.

use std::sync::Arc;

use rustix::io::Errno;

use super::fabric::{Access, Domain, Region};
use crate::cdc::EyeCatcher;
use crate::clc::{Rkey, RmbeIndex};
use crate::group;
use crate::shm::{Geometry, Rmb, Rx, Tx};

/// Elements of the biggest buffer: registering takes its time, during which the wire stands still.
const BIGGEST: u8 = 8;

/// Elements of the first buffer. The peer has to be told of a second RMB; send buffers are nobody's
/// business, and most peers need one.
const fn first(access: Access) -> u8 {
    match access {
        Access::RemoteWrite => 4,
        Access::Local => 1,
    }
}

/// The most buffers of one pool: RFC 7609 §2.1 counts RMBs in one byte, and the connections of a
/// group in another.
const MOST: usize = 255;

/// All registered memory of a link group.
#[derive(Debug)]
pub(super) struct Pools {
    pub(super) rmbs: Buffers,
    send_buffers: Buffers,
}

impl Pools {
    /// Empty ones. `max_memory`: bytes that the process may have in rings, all together.
    pub(super) fn new(domain: Arc<dyn Domain>, element_size: u32, max_memory: u64) -> Self {
        let pool = |domain, access| Buffers::new(domain, access, element_size, max_memory);
        Self {
            rmbs: pool(Arc::clone(&domain), Access::RemoteWrite),
            send_buffers: pool(domain, Access::Local),
        }
    }

    /// What a connection needs: its RMBE, and its send buffer.
    ///
    /// # Errors
    /// Those of [`Buffers::take`].
    pub(super) fn take(&mut self) -> Result<(Element, Element), Errno> {
        let send_buffer = self.send_buffers.take()?;
        match self.rmbs.take() {
            Ok(rmbe) => Ok((rmbe, send_buffer)),
            Err(errno) => {
                self.send_buffers.give_back(&send_buffer);
                Err(errno)
            }
        }
    }

    /// Returns what a connection had.
    pub(super) fn give_back(&mut self, rmbe: &Element, send_buffer: &Element) {
        self.rmbs.give_back(rmbe);
        self.send_buffers.give_back(send_buffer);
    }

    /// The port is gone, and no link uses the memory any more: nothing of the port is kept.
    pub(super) fn lose_domain(&mut self) {
        self.rmbs.lose_domain();
        self.send_buffers.lose_domain();
    }
}

/// A pool of elements of one size.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Until its port is gone.
    domain: Option<Arc<dyn Domain>>,
    access: Access,
    element_size: u32,
    /// Bytes that the process may have in rings, all together.
    max_memory: u64,
    buffers: Vec<Buffer>,
}

#[derive(Debug)]
struct Buffer {
    /// Before the memory: it goes first. `None` once the port is gone.
    region: Option<Box<dyn Region>>,
    rmb: Arc<Rmb>,
    /// Which elements are in use: bit i for element i.
    used: u64,
    known: Known,
}

/// Whether the peer knows a buffer's key: from Accept or Confirm, or by CONFIRM RKEY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Known {
    No,
    /// It was told, and did not answer yet.
    Asked,
    Yes,
}

impl Buffer {
    fn count(&self) -> u8 {
        self.rmb.geometry().count
    }
}

/// One element in use. To be given back.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) rmb: Arc<Rmb>,
    /// From 0.
    pub(super) index: u8,
    pub(super) lkey: u32,
    pub(super) rkey: Rkey,
    /// The address of the RMB (not of the element) as the peer has to use it.
    pub(super) address: u64,
    /// The number of the buffer in its pool.
    pub(super) buffer: u32,
}

impl Element {
    /// The index as CLC messages have it, from 1.
    pub(super) fn clc_index(&self) -> RmbeIndex {
        RmbeIndex(std::num::NonZeroU8::MIN.saturating_add(self.index))
    }

    /// Its ring, from the side that writes.
    pub(super) fn writer(&self, eye_catcher: EyeCatcher) -> Tx {
        Tx::new(Arc::clone(&self.rmb), self.index, eye_catcher)
    }

    /// Its ring, from the side that reads.
    pub(super) fn reader(&self, eye_catcher: EyeCatcher) -> Rx {
        Rx::new(Arc::clone(&self.rmb), self.index, eye_catcher)
    }
}

impl Buffers {
    fn new(domain: Arc<dyn Domain>, access: Access, element_size: u32, max_memory: u64) -> Self {
        Self {
            domain: Some(domain),
            access,
            element_size,
            max_memory,
            buffers: Vec::new(),
        }
    }

    /// Takes an element, with its cursors at their first values, in a buffer that the peer knows
    /// if possible.
    ///
    /// # Errors
    /// `ENOMEM` and the like: the memory could not be had or registered; `ENOSPC`: the group has
    /// as many buffers as it may; `EDQUOT`: so has the process of memory; `ENODEV`: the port is gone.
    fn take(&mut self) -> Result<Element, Errno> {
        if self.domain.is_none() {
            return Err(Errno::NODEV);
        }
        let free = |(_, buffer): &(usize, &Buffer)| buffer.used != full(buffer.count());
        let all = self.buffers.iter().enumerate().filter(free);
        let number = match all.max_by_key(|(_, buffer)| buffer.known) {
            Some((number, _)) => number,
            None => {
                self.grow()?;
                self.buffers.len() - 1
            }
        };
        let buffer = &mut self.buffers[number];
        let region = buffer.region.as_ref().ok_or(Errno::NODEV)?;
        let index = buffer.used.trailing_ones() as u8;
        buffer.used |= 1 << index;
        buffer.rmb.reset(index);
        if self.access == Access::RemoteWrite {
            // Before the peer learns of the element (RFC 7609 §4.4.1): in a first contact, before it
            // is known whether it wants one.
            buffer.rmb.set_eye_catcher(index);
        }
        Ok(Element {
            rmb: Arc::clone(&buffer.rmb),
            index,
            lkey: region.lkey(),
            rkey: region.rkey(),
            address: region.address(),
            buffer: number as u32,
        })
    }

    /// Returns an element that neither end uses any more.
    fn give_back(&mut self, element: &Element) {
        self.buffers[element.buffer as usize].used &= !(1 << element.index);
    }

    /// Whether the peer knows the element's RMB.
    pub(super) fn is_known(&self, element: &Element) -> bool {
        self.buffers[element.buffer as usize].known == Known::Yes
    }

    /// The peer is about to be told of the element's RMB. False if it was told and has only to
    /// answer.
    pub(super) fn start_telling(&mut self, element: &Element) -> bool {
        let known = &mut self.buffers[element.buffer as usize].known;
        std::mem::replace(known, Known::Asked) == Known::No
    }

    /// What came of telling the peer of the RMB of that number.
    pub(super) fn told(&mut self, buffer: u32, known: bool) {
        if let Some(buffer) = self.buffers.get_mut(buffer as usize) {
            buffer.known = if known { Known::Yes } else { Known::No };
        }
    }

    fn lose_domain(&mut self) {
        for buffer in &mut self.buffers {
            buffer.region = None;
        }
        self.domain = None;
    }

    fn grow(&mut self) -> Result<(), Errno> {
        if self.buffers.len() >= MOST {
            return Err(Errno::NOSPC);
        }
        let doublings = self.buffers.len().min(4) as u32;
        let count = (first(self.access) << doublings).min(BIGGEST);
        let geometry = Geometry::new(count, self.element_size).ok_or(Errno::INVAL)?;
        // Each peer that says hello gets some, whether it means it or not.
        if group::rmb_bytes() + geometry.memory_size() as u64 > self.max_memory {
            return Err(Errno::DQUOT);
        }
        let rmb = Rmb::create(geometry, 0)?;
        let len = usize::from(count) * self.element_size as usize;
        let domain = self.domain.clone().ok_or(Errno::NODEV)?;
        // SAFETY: the rings lie behind one another in the mapping, which `rmb` keeps; `region`
        // is dropped before it (the order of the fields), and whoever holds an Element keeps
        // only the memory longer than the region, not the other way round.
        let region = unsafe { domain.register(rmb.ring(0), len, self.access)? };
        group::add_rmb_bytes(geometry.memory_size());
        self.buffers.push(Buffer {
            region: Some(region),
            rmb,
            used: 0,
            known: Known::No,
        });
        Ok(())
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for buffer in &self.buffers {
            group::remove_rmb_bytes(buffer.rmb.geometry().memory_size());
        }
    }
}

/// All elements of a buffer in use.
fn full(count: u8) -> u64 {
    u64::MAX >> (64 - u32::from(count.clamp(1, 64)))
}

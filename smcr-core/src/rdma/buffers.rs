//! Registered memory, cut into elements: the RMBs that a peer writes to (RFC 7609 §2.1), and the
//! send buffers that our WRITEs take their bytes from.
//!
//! Registering is slow and memory that a peer may write to is precious, so elements are handed out
//! again and again, and a buffer stays registered, with the same key and address, as long as its
//! link group.

use std::sync::Arc;

use rustix::io::Errno;

use super::fabric::{Access, Port, Region};
use crate::cdc::EyeCatcher;
use crate::clc::{Rkey, RmbeIndex};
use crate::group;
use crate::shm::{Geometry, Rmb, Rx, Tx};

/// Elements of the first buffer, and of the biggest one: registering takes its time, during which
/// the wire stands still.
const FIRST: u8 = 4;
const BIGGEST: u8 = 8;

/// The most buffers of one pool. RFC 7609 §2.1 counts RMBs in one byte; send buffers are nobody's
/// business, and as many as a process may have connections.
const fn most(access: Access) -> usize {
    match access {
        Access::RemoteWrite => 255,
        Access::Local => crate::shm::MOST_CONNECTIONS / BIGGEST as usize,
    }
}

/// A pool of elements of one size.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Until it is gone.
    port: Option<Arc<dyn Port>>,
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
    /// `max_memory`: bytes that the process may have in rings, all together.
    pub(super) fn new(
        port: Arc<dyn Port>,
        access: Access,
        element_size: u32,
        max_memory: u64,
    ) -> Self {
        Self {
            port: Some(port),
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
    pub(super) fn take(&mut self) -> Result<Element, Errno> {
        if self.port.is_none() {
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
    pub(super) fn give_back(&mut self, element: &Element) {
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

    /// The port is gone, and no link uses the memory any more: nothing of the port is kept.
    pub(super) fn lose_port(&mut self) {
        for buffer in &mut self.buffers {
            buffer.region = None;
        }
        self.port = None;
    }

    fn grow(&mut self) -> Result<(), Errno> {
        if self.buffers.len() >= most(self.access) {
            return Err(Errno::NOSPC);
        }
        let doublings = self.buffers.len().min(4) as u32;
        let count = (FIRST << doublings).min(BIGGEST);
        let geometry = Geometry::new(count, self.element_size).ok_or(Errno::INVAL)?;
        // Each peer that says hello gets some, whether it means it or not.
        if group::rmb_bytes() + geometry.memory_size() as u64 > self.max_memory {
            return Err(Errno::DQUOT);
        }
        let rmb = Rmb::create(geometry, 0)?;
        let len = usize::from(count) * self.element_size as usize;
        let port = self.port.as_ref().ok_or(Errno::NODEV)?;
        // SAFETY: the rings lie behind one another in the mapping, which `rmb` keeps; `region`
        // is dropped before it (the order of the fields), and whoever holds an Element keeps
        // only the memory longer than the region, not the other way round.
        let region = unsafe { port.register(rmb.ring(0), len, self.access)? };
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

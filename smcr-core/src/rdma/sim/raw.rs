//! A peer that is played by hand: it says any message, writes anywhere, and answers nothing.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;

use super::SimPort;
use crate::clc::{Psn, Rkey};
use crate::rdma::fabric::{
    Access, Completion, Domain, Link, LinkAddress, LinkError, LinkId, Port, Region, Write,
};

/// Something that came to a [`RawPeer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The post with this id has arrived.
    Sent(u64),
    /// A message.
    Message(Vec<u8>),
    /// The link is broken.
    Failed(LinkError),
}

/// One end of a link, with memory for the other end to write to. What it does not do by itself is
/// answer: whoever holds it decides about each byte.
#[derive(Debug)]
pub struct RawPeer {
    link: Option<Box<dyn Link>>,
    id: LinkId,
    region: Box<dyn Region>,
    source: Box<dyn Region>,
    /// After the link and the regions, since fields are dropped in this order.
    memory: Memory,
    source_at: usize,
    next_id: u64,
    seen: Vec<Seen>,
    domain: Arc<dyn Domain>,
    port: Arc<SimPort>,
}

/// What the other end may write to: `len` bytes; behind them, SOURCE bytes that WRITEs come from.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl Send for Memory {}

impl Memory {
    fn new(len: usize) -> Self {
        let bytes = vec![0u8; len + SOURCE].into_boxed_slice();
        let base = NonNull::from(Box::leak(bytes)).cast();
        Self { base, len }
    }

    fn source(&self, at: usize) -> NonNull<u8> {
        assert!(at <= SOURCE);
        // SAFETY: SOURCE bytes follow the first `len`.
        unsafe { self.base.add(self.len + at) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let bytes = std::ptr::slice_from_raw_parts_mut(self.base.as_ptr(), self.len + SOURCE);
        // SAFETY: it is the leaked box of `new`.
        drop(unsafe { Box::from_raw(bytes) });
    }
}

/// Bytes that the WRITEs of a raw peer come from: as many can be on their way at once.
const SOURCE: usize = 1 << 20;

impl RawPeer {
    /// A peer at `port` whose memory has `len` bytes. `gid` is an index of [`SimPort::gids`].
    ///
    /// # Errors
    /// Those of [`Port::domain`], [`Domain::register`] and [`Domain::link`].
    pub fn new(
        port: &Arc<SimPort>,
        gid: usize,
        receive_size: usize,
        len: usize,
    ) -> Result<Self, Errno> {
        let memory = Memory::new(len);
        let domain = Arc::clone(port).domain()?;
        // SAFETY: the memory is dropped after the regions, and touched through raw pointers only.
        let register =
            |base, len, access| unsafe { Arc::clone(&domain).register(base, len, access) };
        let region = register(memory.base, len, Access::RemoteWrite)?;
        let source = register(memory.source(0), SOURCE, Access::Local)?;
        let psn = Psn::new(port.net.random() as u32 & 0x00ff_ffff).expect("24 bits");
        let link = Arc::clone(&domain).link(port.gids()[gid], psn, receive_size)?;
        Ok(Self {
            id: link.id(),
            link: Some(link),
            region,
            source,
            memory,
            source_at: 0,
            next_id: 0,
            seen: Vec::new(),
            domain,
            port: Arc::clone(port),
        })
    }

    /// What the other end has to know of the link.
    pub fn address(&self) -> LinkAddress {
        self.link().address()
    }

    /// Names its link in faults.
    pub fn link_id(&self) -> LinkId {
        self.id
    }

    /// The key and the address of its memory.
    pub fn rtoken(&self) -> (Rkey, u64) {
        (self.region.rkey(), self.region.address())
    }

    /// Where its link and its memory are.
    pub fn domain(&self) -> Arc<dyn Domain> {
        Arc::clone(&self.domain)
    }

    /// Connects and gets ready to send.
    ///
    /// # Errors
    /// Those of [`Link::connect`].
    pub fn connect(&mut self, peer: &LinkAddress) -> Result<(), Errno> {
        let link = self.link.as_mut().ok_or(Errno::NOTCONN)?;
        link.connect(peer)?;
        link.ready_to_send()
    }

    /// Says a message.
    ///
    /// # Errors
    /// Those of [`Link::post`].
    pub fn say(&mut self, message: &[u8]) -> Result<u64, Errno> {
        self.write_and_say(&[], message)
    }

    /// Writes bytes to addresses by keys, then says a message.
    ///
    /// # Errors
    /// Those of [`Link::post`].
    ///
    /// # Panics
    /// If one WRITE is longer than a megabyte.
    pub fn write_and_say(
        &mut self,
        writes: &[(Rkey, u64, &[u8])],
        message: &[u8],
    ) -> Result<u64, Errno> {
        let mut posted = Vec::new();
        for (rkey, to, bytes) in writes {
            assert!(bytes.len() <= SOURCE, "too long for the source buffer");
            if self.source_at + bytes.len() > SOURCE {
                self.source_at = 0;
            }
            let from = self.memory.source(self.source_at);
            // SAFETY: the range is inside the source part, which nobody else writes.
            unsafe { from.copy_from_nonoverlapping(NonNull::from(*bytes).cast(), bytes.len()) };
            self.source_at += bytes.len();
            posted.push(Write {
                from,
                lkey: self.source.lkey(),
                len: bytes.len() as u32,
                to: *to,
                rkey: *rkey,
            });
        }
        let id = self.next_id;
        let link = self.link.as_mut().ok_or(Errno::NOTCONN)?;
        // SAFETY: the source lives until drop, which drops the link first. A peer that writes a
        // megabyte ahead changes bytes under way, which is its own fault and stays in its memory.
        unsafe { link.post(&posted, message, id, true)? };
        self.next_id += 1;
        Ok(id)
    }

    /// Bytes of its memory, as the other end has written them.
    ///
    /// # Panics
    /// If they are not inside.
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let size = self.memory.len;
        assert!(at <= size && len <= size - at, "outside the memory");
        let mut bytes = vec![0; len];
        // SAFETY: inside the memory, which only this thread's network writes.
        unsafe {
            let from = self.memory.base.add(at);
            from.copy_to_nonoverlapping(NonNull::from(bytes.as_mut_slice()).cast(), len);
        }
        bytes
    }

    /// Polls the port. Completions of other links of the port are lost: a raw peer has it alone.
    pub fn poll(&mut self) {
        let (id, seen) = (self.id, &mut self.seen);
        while self.port.poll(&mut |completion| match completion {
            Completion::Sent { link, id: post } if link == id => seen.push(Seen::Sent(post)),
            Completion::Received { link, message } if link == id => {
                seen.push(Seen::Message(message.to_vec()));
            }
            Completion::Failed { link, error } if link == id => seen.push(Seen::Failed(error)),
            _ => {}
        }) > 0
        {}
    }

    /// What has come since the last call, polled for anew.
    pub fn take_seen(&mut self) -> Vec<Seen> {
        self.poll();
        std::mem::take(&mut self.seen)
    }

    /// The messages among [`Self::take_seen`].
    pub fn take_messages(&mut self) -> Vec<Vec<u8>> {
        let seen = self.take_seen().into_iter();
        seen.filter_map(|seen| match seen {
            Seen::Message(message) => Some(message),
            _ => None,
        })
        .collect()
    }

    /// Goes away without a word, as a process that dies.
    pub fn die(&mut self) {
        self.link = None;
    }

    fn link(&self) -> &dyn Link {
        self.link.as_deref().expect("it is alive")
    }
}

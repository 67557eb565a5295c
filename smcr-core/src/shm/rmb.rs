//! Remote memory buffers and their elements (RFC 7609 §2.1): layout in shared memory.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::{Memory, MemoryError};

/// Flags in [`RmbeControl::tx_flags`]: the connection state flags of a CDC message (RFC 7609
/// §A.4), set by the writer.
pub mod flag {
    /// No more data will follow (half close).
    pub const SENDING_DONE: u32 = 1;
    /// The writer closed its socket in good order.
    pub const CLOSED: u32 = 2;
    /// The writer reset the connection.
    pub const ABORT: u32 = 4;
    /// The writer will not touch this RMBE again: its owner may use it for another connection.
    pub const RELEASED: u32 = 8;
}

/// The cursors of one RMBE. Everything here is shared with the peer and hence hostile: read once,
/// validate, use the copy.
///
/// Cursors count the bytes since the start of the connection; the ring offset is the cursor
/// modulo the ring size. Grouped by who writes, one cache line pair each, so that the two ends do
/// not fight for lines.
#[repr(C, align(128))]
#[derive(Debug)]
pub struct RmbeControl {
    /// Bytes written so far. Written by the peer (the writer).
    pub prod: AtomicU64,
    /// Position behind the last urgent byte, 0 if there was none. Written by the writer.
    pub urgent: AtomicU64,
    /// See [`flag`]. Written by the writer.
    pub tx_flags: AtomicU32,
    _pad0: [u8; 108],
    /// Bytes consumed so far. Written by the owner (the reader).
    pub cons: AtomicU64,
    _pad1: [u8; 120],
    /// 1: the reader sleeps or may sleep; whoever takes it down to 0 rings the bell. 2: the writer
    /// rings for each arrival.
    pub armed: AtomicU32,
    /// 1: the writer found the ring full and waits for space.
    pub writer_waiting: AtomicU32,
    /// Bells rung and not yet drained by the reader (a hint that saves system calls).
    pub bells: AtomicU32,
    _pad2: [u8; 116],
}

const _: () = assert!(size_of::<RmbeControl>() == 384);

/// What the eye catchers of our RMBEs say, which is the owner's to choose (RFC 7609 §4.2): "RMBE" in
/// EBCDIC, as CLC messages have theirs.
const EYE_CATCHER: u32 = u32::from_ne_bytes([0xd9, 0xd4, 0xc2, 0xc5]);

/// How an RMB is cut up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Number of RMBEs, 1..=255 (the index has one byte in CLC, RFC 7609 §A.2.3).
    pub count: u8,
    /// Size of each RMBE in bytes, an eye catcher included: a power of two from 16 KiB to 512 MiB.
    pub rmbe_size: u32,
}

impl Geometry {
    /// The geometry, if it is a valid one.
    pub fn new(count: u8, rmbe_size: u32) -> Option<Self> {
        let valid =
            count > 0 && rmbe_size.is_power_of_two() && (16 << 10..=512 << 20).contains(&rmbe_size);
        valid.then_some(Self { count, rmbe_size })
    }

    fn rings_offset(self) -> usize {
        (usize::from(self.count) * size_of::<RmbeControl>()).next_multiple_of(4096)
    }

    /// Bytes of memory an RMB of this geometry takes.
    pub fn memory_size(self) -> usize {
        self.rings_offset() + usize::from(self.count) * self.rmbe_size as usize
    }
}

/// One RMB, ours or a peer's.
#[derive(Debug)]
pub struct Rmb {
    memory: Memory,
    geometry: Geometry,
    /// Names the RMB within its link group (the DMB token of the CLC messages).
    token: u64,
}

impl Rmb {
    /// Makes an RMB of our own.
    pub fn create(geometry: Geometry, token: u64) -> Result<Arc<Self>, rustix::io::Errno> {
        let memory = Memory::create("smcr-rmb", geometry.memory_size())?;
        Ok(Arc::new(Self {
            memory,
            geometry,
            token,
        }))
    }

    /// Maps an RMB that a peer passed to us.
    pub fn from_peer(
        fd: std::os::fd::OwnedFd,
        geometry: Geometry,
        token: u64,
    ) -> Result<Arc<Self>, MemoryError> {
        let memory = Memory::from_peer(fd, geometry.memory_size())?;
        Ok(Arc::new(Self {
            memory,
            geometry,
            token,
        }))
    }

    /// How it is cut up.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its name within the link group.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Its memfd, to be passed to the peer.
    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.memory.fd()
    }

    /// The cursors of RMBE `index`, which counts from 0.
    ///
    /// # Panics
    /// If there is no such RMBE.
    pub fn control(&self, index: u8) -> &RmbeControl {
        assert!(index < self.geometry.count);
        // SAFETY: inside the mapping (checked above), aligned (the base is a page, the size a
        // multiple of the alignment), all fields are atomics for which any bit pattern is valid.
        unsafe {
            self.memory
                .base()
                .cast::<RmbeControl>()
                .add(usize::from(index))
                .as_ref()
        }
    }

    /// The first byte of RMBE `index`; valid for `rmbe_size` bytes.
    ///
    /// # Panics
    /// If there is no such RMBE.
    pub fn ring(&self, index: u8) -> NonNull<u8> {
        assert!(index < self.geometry.count);
        let offset =
            self.geometry.rings_offset() + usize::from(index) * self.geometry.rmbe_size as usize;
        // SAFETY: inside the mapping by the definition of memory_size().
        unsafe { self.memory.base().add(offset) }
    }

    /// Puts the eye catcher in front of the data of RMBE `index` (RFC 7609 §4.4.1). Only its owner does
    /// this, before the peer learns of the RMBE.
    ///
    /// # Panics
    /// If there is no such RMBE.
    pub fn set_eye_catcher(&self, index: u8) {
        self.first_word(index).store(EYE_CATCHER, Ordering::Relaxed);
    }

    /// Whether the eye catcher of RMBE `index` is as it was set: what writes there writes where it
    /// must not.
    ///
    /// # Panics
    /// If there is no such RMBE.
    pub fn has_eye_catcher(&self, index: u8) -> bool {
        self.first_word(index).load(Ordering::Relaxed) == EYE_CATCHER
    }

    /// The first four bytes of RMBE `index`.
    fn first_word(&self, index: u8) -> &AtomicU32 {
        // SAFETY: inside the mapping, which `self` keeps; aligned, since sizes of RMBEs and the
        // offset of the first one are multiples of a page; any bit pattern is valid.
        unsafe { self.ring(index).cast::<AtomicU32>().as_ref() }
    }

    /// Makes RMBE `index` ready for a new connection: cursors and flags to their first values.
    /// Only its owner does this, while no peer uses it.
    pub fn reset(&self, index: u8) {
        use Ordering::Relaxed;
        let control = self.control(index);
        control.prod.store(0, Relaxed);
        control.urgent.store(0, Relaxed);
        control.tx_flags.store(0, Relaxed);
        control.cons.store(0, Relaxed);
        control.armed.store(1, Relaxed);
        control.writer_waiting.store(0, Relaxed);
        control.bells.store(0, Relaxed);
    }
}

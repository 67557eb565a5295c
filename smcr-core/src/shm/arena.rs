//! This end's own state of its connections, shared by the processes of a fork family and by
//! nobody else.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{Lock, Memory, MemoryError};

/// One end's own state of one connection. The peer cannot write here, so the cursors in here are
/// the ones to trust; a parent and its children can, so that all of them may use the connection.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Local {
    /// Held while copying into the peer's ring and moving `prod`.
    pub tx_lock: Lock,
    /// What is known of the two directions: the bits are those of `conn::smc::state`.
    pub state: AtomicU32,
    /// Bytes sent since the connection began.
    pub prod: AtomicU64,
    /// The last valid consumer cursor read from the peer.
    pub peer_cons: AtomicU64,
    _pad0: Padding<104>,
    /// Held while copying out of our ring and moving `cons`.
    pub rx_lock: Lock,
    /// Bytes consumed since the connection began.
    pub cons: AtomicU64,
    /// The urgent position last seen (as [`super::RmbeControl::urgent`]).
    pub urgent_seen: AtomicU64,
    /// The urgent byte, with [`Local::URGENT_VALID`] while nobody read it.
    pub urgent_byte: AtomicU32,
    /// `errno` waiting to be reported once, 0 if none (the kernel's sk_err).
    pub error: AtomicU32,
    _pad1: Padding<88>,
    /// Threads, of all processes, that sleep in the kernel until the socket is readable.
    pub sleepers: AtomicU32,
    /// 1 if the program asked for O_NONBLOCK (a cache: the kernel knows for sure).
    pub nonblocking: AtomicU32,
    /// Processes that have this connection; the slot is free at 0.
    pub processes: AtomicU32,
    /// How long a spin may last, in ns: what paid off lately.
    pub spin_ns: AtomicU32,
    /// SO_OOBINLINE.
    pub oob_inline: AtomicU32,
    /// SO_RCVLOWAT; 0 stands for 1.
    pub low_water: AtomicU32,
    /// How often the connection was passed on to another process.
    pub passed_on: AtomicU32,
    _pad2: Padding<100>,
}

/// Keeps what different ends write in lines of their own.
#[repr(transparent)]
#[derive(Debug)]
struct Padding<const N: usize>([u8; N]);

impl<const N: usize> Default for Padding<N> {
    fn default() -> Self {
        Self([0; N])
    }
}

impl Local {
    /// In `urgent_byte`: there is one that was not read.
    pub const URGENT_VALID: u32 = 0x100;
    /// In `urgent_byte`: there was one, and it was read.
    pub const URGENT_READ: u32 = 0x200;
}

/// Connections that one process can have on SMC at a time.
pub const MOST_CONNECTIONS: usize = 65536;

const SLOTS: usize = MOST_CONNECTIONS;

/// Room for the [`Local`]s of one process.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    free: Mutex<FreeList>,
}

#[derive(Debug, Default)]
struct FreeList {
    /// Slots never used so far start here.
    fresh: usize,
    /// Slots that were used and are free, as far as this process knows.
    known: Vec<u32>,
}

/// A slot in an arena.
#[derive(Debug, Clone)]
pub struct LocalRef {
    arena: Arc<Arena>,
    slot: NonNull<Local>,
}

// SAFETY: the slot lives as long as the arena, which the reference holds; it consists of atomics.
unsafe impl Send for LocalRef {}
// SAFETY: as above.
unsafe impl Sync for LocalRef {}

impl Arena {
    /// Reserves address space for 65536 connections; memory is used as they come.
    pub fn create() -> Result<Arc<Self>, Errno> {
        let memory = Memory::create("smcr-local", SLOTS * size_of::<Local>())?;
        Ok(Arc::new(Self {
            memory,
            free: Mutex::default(),
        }))
    }

    /// Takes a slot, with everything in it at zero except `processes`, which is 1.
    pub fn take(self: &Arc<Self>) -> Option<LocalRef> {
        let mut free = self.free.lock();
        let index = match free.known.pop() {
            Some(index) => index as usize,
            None if free.fresh < SLOTS => {
                free.fresh += 1;
                free.fresh - 1
            }
            None => return None,
        };
        let local = self.slot(index);
        local.state.store(0, Ordering::Relaxed);
        for cursor in [
            &local.prod,
            &local.peer_cons,
            &local.cons,
            &local.urgent_seen,
        ] {
            cursor.store(0, Ordering::Relaxed);
        }
        for word in [
            &local.urgent_byte,
            &local.error,
            &local.sleepers,
            &local.nonblocking,
            &local.spin_ns,
            &local.oob_inline,
            &local.low_water,
            &local.passed_on,
        ] {
            word.store(0, Ordering::Relaxed);
        }
        local.processes.store(1, Ordering::Relaxed);
        Some(LocalRef {
            arena: Arc::clone(self),
            slot: NonNull::from(local),
        })
    }

    /// Returns a slot whose last process is gone, in the process that made the arena.
    pub fn give_back(&self, slot: &LocalRef) {
        self.free.lock().known.push(slot.index() as u32);
    }

    /// The arena that another image of this process, or its parent, passed on by exec.
    pub(crate) fn from_exec(fd: OwnedFd) -> Result<Arc<Self>, MemoryError> {
        let memory = Memory::from_peer(fd, SLOTS * size_of::<Local>())?;
        // No slot of it is for new connections.
        let free = Mutex::new(FreeList {
            fresh: SLOTS,
            known: Vec::new(),
        });
        Ok(Arc::new(Self { memory, free }))
    }

    /// A slot that is in use, by its number.
    pub(crate) fn existing(self: &Arc<Self>, index: usize) -> Option<LocalRef> {
        (index < SLOTS).then(|| LocalRef {
            arena: Arc::clone(self),
            slot: NonNull::from(self.slot(index)),
        })
    }

    /// Its memfd.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    fn slot(&self, index: usize) -> &Local {
        assert!(index < SLOTS);
        // SAFETY: inside the mapping, aligned, any bit pattern is valid for atomics.
        unsafe { self.memory.base().cast::<Local>().add(index).as_ref() }
    }
}

impl LocalRef {
    /// The arena it lies in.
    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// Its number in the arena.
    pub(crate) fn index(&self) -> usize {
        let base = self.arena.memory.base().as_ptr() as usize;
        (self.slot.as_ptr() as usize - base) / size_of::<Local>()
    }
}

impl std::ops::Deref for LocalRef {
    type Target = Local;

    #[inline]
    fn deref(&self) -> &Local {
        // SAFETY: points into the arena that `self` keeps alive.
        unsafe { self.slot.as_ref() }
    }
}

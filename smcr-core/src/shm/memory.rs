//! Sealed shared memory.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// A memfd that nobody can shrink or grow any more, mapped readable and writable.
///
/// The seals are what makes the mapping safe to touch: without them a peer's `ftruncate` would be
/// our SIGBUS.
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
}

/// Why memory offered by a peer was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryError {
    /// Not a memfd, or not sealed against shrinking, growing and further seals.
    NotSealed,
    /// Not of the announced size.
    WrongSize,
    /// It serves another connection already.
    InUse,
    /// A system call failed.
    Os(Errno),
}

impl From<Errno> for MemoryError {
    fn from(errno: Errno) -> Self {
        Self::Os(errno)
    }
}

// SAFETY: the mapping is plain memory that lives as long as the value; what lies in it is only
// touched through atomics and raw copies.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// The type of the file system that memfds of ordinary pages live in.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

impl Memory {
    /// Makes `len` bytes of zeroed, sealed memory. Pages are taken from the system as they are
    /// first touched.
    pub fn create(name: &str, len: usize) -> Result<Self, Errno> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        Self::map(fd, len)
    }

    /// Maps memory that a peer passed to us, after checking its seals and its size.
    pub fn from_peer(fd: OwnedFd, len: usize) -> Result<Self, MemoryError> {
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| MemoryError::NotSealed)?;
        if !seals.contains(SEALS) {
            return Err(MemoryError::NotSealed);
        }
        // Huge pages have seals, too, but touching one is a SIGBUS when the pool is empty.
        if rustix::fs::fstatfs(&fd)?.f_type != TMPFS {
            return Err(MemoryError::NotSealed);
        }
        // The size cannot change any more, so this check holds for good.
        if rustix::fs::fstat(&fd)?.st_size as u64 != len as u64 {
            return Err(MemoryError::WrongSize);
        }
        Ok(Self::map(fd, len)?)
    }

    fn map(fd: OwnedFd, len: usize) -> Result<Self, Errno> {
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &fd,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(Errno::NOMEM)?;
        let fd = crate::fds::raise(fd);
        Ok(Self { base, len, fd })
    }

    /// The first byte; valid for `len()` bytes as long as `self` lives.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The memfd.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: our own mapping, unmapped once; borrowers hold the Memory in an Arc. Failure
        // would only leave it mapped.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

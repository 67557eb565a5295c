//! Small file helpers made of raw system calls.
//!
//! The library lives in programs whose `open`, `read` and `close` it intercepts itself, so the
//! standard library's files would come back through its own hooks (and would touch `errno`).
//! rustix's linux_raw backend issues the system calls directly and does neither.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Flags of every read-only open: never a controlling terminal, never a wait for a FIFO's writer.
const READ: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY)
    .union(OFlags::NONBLOCK);

/// Opens `path` for reading.
///
/// # Errors
/// Those of open(2).
pub(crate) fn open(path: impl Arg) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, path, READ, Mode::empty())
}

/// Reads from the current position until `buf` is full or the file ends; returns the part read.
///
/// # Errors
/// Those of read(2); EINTR is retried.
pub(crate) fn fill(fd: impl AsFd, buf: &mut [u8]) -> Result<&[u8], Errno> {
    let mut have = 0;
    while have < buf.len() {
        match rustix::io::read(&fd, &mut buf[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buf[..have])
}

/// Reads the first `buf.len()` bytes of the file at `path`, without allocating.
///
/// # Errors
/// Those of open(2) and read(2).
pub(crate) fn read_into(path: impl Arg, buf: &mut [u8]) -> Result<&[u8], Errno> {
    fill(open(path)?, buf)
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// Those of open(2) and read(2); EFBIG for a longer file.
pub(crate) fn read_all(path: impl Arg, limit: usize) -> Result<Vec<u8>, Errno> {
    let mut buf = vec![0; limit + 1];
    let have = read_into(path, &mut buf)?.len();
    if have > limit {
        return Err(Errno::FBIG);
    }
    buf.truncate(have);
    Ok(buf)
}

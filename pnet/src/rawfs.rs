//! Reading files by raw system calls.
//!
//! Lookups run inside programs whose `open`, `read` and `close` the library intercepts; rustix's
//! linux_raw backend passes these hooks by, and leaves `errno` alone.

use std::ffi::CStr;
use std::mem::MaybeUninit;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RawDir};
use rustix::io::Errno;
use rustix::path::Arg;

/// Never a controlling terminal, never a wait for the writer of a FIFO.
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

/// Reads until `buf` is full or the file ends; returns the part read.
///
/// # Errors
/// Those of read(2); EINTR is retried.
pub(crate) fn fill<'a>(fd: &OwnedFd, buf: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let mut have = 0;
    while have < buf.len() {
        match rustix::io::read(fd, &mut buf[have..]) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(&buf[..have])
}

/// Reads once, which gives the whole of an attribute in sysfs.
///
/// # Errors
/// Those of open(2) and read(2); EINTR is retried.
pub(crate) fn read_once(path: impl Arg, buf: &mut [u8]) -> Result<&[u8], Errno> {
    let file = open(path)?;
    loop {
        match rustix::io::read(&file, &mut *buf) {
            Ok(n) => return Ok(&buf[..n]),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
}

/// The names in a directory without `.` and `..`, at most `limit` of them, in no order.
///
/// # Errors
/// Those of open(2) and getdents(2).
pub(crate) fn list(path: impl Arg, limit: usize) -> Result<Vec<String>, Errno> {
    let directory = rustix::fs::openat(CWD, path, READ | OFlags::DIRECTORY, Mode::empty())?;
    let mut buf = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(directory, &mut buf);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        // Kernel names are ASCII; one that is not text cannot be one of those we look for.
        let Ok(name) = name.to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        if names.len() == limit {
            break;
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

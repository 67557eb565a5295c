//! sendfile and splice: bytes that go between a stream and another descriptor of the program
//! without passing through its memory.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use libc::{c_int, c_uint, off_t};
use rustix::io::Errno;
use smcr_core::conn::io::{Sink, Source};
use smcr_core::sys;
use syscalls::{Sysno, syscall};

use super::io;
use crate::outcome::{Outcome, PassOn};
use crate::stream::StreamRef;
use crate::{real, table};

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the program's own descriptor, in one of its calls on it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// The most that the kernel moves in one call (MAX_RW_COUNT).
const MOST: usize = 0x7fff_f000;

/// A stretch of a file.
struct File {
    fd: RawFd,
    at: off_t,
    left: usize,
}

impl Source for File {
    fn left(&self) -> usize {
        self.left
    }

    unsafe fn take(&mut self, to: *mut u8, len: usize) -> Result<usize, Errno> {
        // SAFETY: `to` is valid by this function's contract; the kernel writes it.
        let got = real::check(unsafe { syscall!(Sysno::pread64, self.fd, to, len, self.at) })?;
        self.at += got as off_t;
        // Less than asked for is the end of the file: the call ends here.
        self.left = if got < len { 0 } else { self.left - got };
        Ok(got)
    }

    fn back(&mut self, len: usize) {
        self.at -= len as off_t;
        self.left += len;
    }
}

/// sendfile() to `out`; `offset` is what the program passed.
///
/// # Safety
/// As sendfile(2): the kernel is asked whether `offset` is readable and writable.
pub(crate) unsafe fn sendfile(
    out: RawFd,
    file: RawFd,
    offset: *mut off_t,
    count: usize,
) -> Outcome<usize> {
    let Some(stream) = table::stream(out) else {
        return Outcome::PassOn(PassOn::NotOurs);
    };
    // The kernel knows best what is wrong with the arguments; of nothing it sends nothing.
    // SAFETY: as passed by the program.
    let check = |to: RawFd| real::check(unsafe { syscall!(Sysno::sendfile, to, file, offset, 0) });
    let checked = match stream.connection.with_tcp(|tcp| check(tcp.as_raw_fd())) {
        Some(checked) => checked,
        None if stream.connection.smc().is_some() => check(out),
        None => return Outcome::PassOn(PassOn::OnTcp),
    };
    let at = checked.and_then(|_| {
        if offset.is_null() {
            position(file, 0, libc::SEEK_CUR)
        } else {
            // SAFETY: the kernel just read it.
            Ok(unsafe { offset.read_unaligned() })
        }
    });
    let at = match at {
        Ok(at) => at,
        Err(errno) => return Outcome::Failed(errno),
    };
    if count == 0 {
        return Outcome::Done(0);
    }
    let mut source = File {
        fd: file,
        at,
        left: count.min(MOST),
    };
    let sent = io::send(out, &stream, &mut source, 0);
    if let Outcome::Done(sent) = sent {
        let end = at + sent as off_t;
        if offset.is_null() {
            let _ = position(file, end, libc::SEEK_SET);
        } else {
            // SAFETY: the kernel just wrote it.
            unsafe { offset.write_unaligned(end) };
        }
    }
    sent
}

fn position(file: RawFd, at: off_t, whence: c_int) -> Result<off_t, Errno> {
    // SAFETY: takes integers.
    let at = real::check(unsafe { syscall!(Sysno::lseek, file, at, whence) });
    // sendfile's word for what has no position.
    at.map(|at| at as off_t).map_err(|errno| match errno {
        Errno::SPIPE => Errno::INVAL,
        other => other,
    })
}

/// The arguments of splice().
#[derive(Debug, Clone, Copy)]
pub(crate) struct Splice {
    pub(crate) from: RawFd,
    pub(crate) to: RawFd,
    pub(crate) len: usize,
    pub(crate) flags: c_uint,
    /// The program gave a position for one of them, which neither a pipe nor a socket has.
    pub(crate) has_offset: bool,
}

/// splice() between a stream and a pipe.
pub(crate) fn splice(call: Splice) -> Outcome<usize> {
    const FLAGS: c_uint = 0xf;
    let (stream, pipe, receives) = match (table::stream(call.from), table::stream(call.to)) {
        (Some(stream), None) => (stream, call.to, true),
        (None, Some(stream)) => (stream, call.from, false),
        // Two sockets without a pipe: the kernel refuses that.
        _ => return Outcome::PassOn(PassOn::NotOurs),
    };
    // Whatever is wrong, the kernel says so before it touches the readiness pair.
    if call.len == 0 || call.flags & !FLAGS != 0 || call.has_offset || !is_pipe(pipe) {
        return Outcome::PassOn(PassOn::NotOurs);
    }
    let dontwait = call.flags & libc::SPLICE_F_NONBLOCK != 0
        || real::fcntl(pipe, libc::F_GETFL, 0).is_ok_and(|flags| flags & libc::O_NONBLOCK != 0);
    let len = call.len.min(MOST);
    if receives {
        to_pipe(call.from, &stream, pipe, len, dontwait)
    } else {
        from_pipe(call.to, &stream, pipe, len, dontwait)
    }
}

fn is_pipe(fd: RawFd) -> bool {
    let stat = rustix::fs::fstat(borrow(fd));
    stat.is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFIFO)
}

/// Bytes in a pipe.
fn pipe_fill(pipe: RawFd) -> usize {
    rustix::io::ioctl_fionread(borrow(pipe)).unwrap_or(0) as usize
}

/// A pipe to be written to.
struct ToPipe {
    fd: RawFd,
    left: usize,
}

impl Sink for ToPipe {
    fn left(&self) -> usize {
        self.left
    }

    unsafe fn put(&mut self, from: *const u8, len: usize) -> Result<usize, Errno> {
        // SAFETY: `from` is valid by this function's contract.
        let put = real::check(unsafe { syscall!(Sysno::write, self.fd, from, len) })?;
        self.left -= put;
        Ok(put)
    }
}

fn to_pipe(
    fd: RawFd,
    stream: &StreamRef,
    pipe: RawFd,
    len: usize,
    dontwait: bool,
) -> Outcome<usize> {
    // The write happens under the stream's lock and must not wait: an empty pipe takes all it
    // holds, one with room somewhere takes at least PIPE_BUF.
    let room = if pipe_fill(pipe) == 0 {
        real::fcntl(pipe, libc::F_GETPIPE_SZ, 0).map_or(libc::PIPE_BUF, |n| n as usize)
    } else {
        let wait = if dontwait { Some(0) } else { None };
        match sys::poll_one(borrow(pipe), libc::POLLOUT, wait) {
            Ok(0) => return Outcome::Failed(Errno::AGAIN),
            Ok(_) => libc::PIPE_BUF,
            Err(errno) => return Outcome::Failed(errno),
        }
    };
    let mut sink = ToPipe {
        fd: pipe,
        left: len.min(room),
    };
    io::recv(fd, stream, &mut sink, 0)
}

/// A pipe to be read from.
struct FromPipe {
    fd: RawFd,
    left: usize,
    /// The bytes taken last, and how many of them were given back: a pipe takes nothing back.
    last: Vec<u8>,
    back: usize,
}

impl Source for FromPipe {
    fn left(&self) -> usize {
        self.left
    }

    unsafe fn take(&mut self, to: *mut u8, len: usize) -> Result<usize, Errno> {
        let got = if self.back > 0 {
            let got = len.min(self.back);
            let at = self.last.len() - self.back;
            // SAFETY: `to` is valid by this function's contract.
            unsafe { std::ptr::copy_nonoverlapping(self.last.as_ptr().add(at), to, got) };
            self.back -= got;
            got
        } else {
            // Only what is there: reading must not wait under the stream's lock.
            let len = len.min(pipe_fill(self.fd));
            if len == 0 {
                self.left = 0;
                return Ok(0);
            }
            // SAFETY: as above.
            let got = real::check(unsafe { syscall!(Sysno::read, self.fd, to, len) })?;
            if got <= FROM_PIPE_BACK {
                // SAFETY: the kernel wrote `got` bytes there.
                self.last = unsafe { std::slice::from_raw_parts(to, got) }.to_vec();
            }
            got
        };
        self.left -= got;
        Ok(got)
    }

    fn back(&mut self, len: usize) {
        self.back += len;
        self.left += len;
    }
}

/// Only small pieces are ever given back (those that go out over TCP before the handshake).
const FROM_PIPE_BACK: usize = 4096;

fn from_pipe(
    fd: RawFd,
    stream: &StreamRef,
    pipe: RawFd,
    len: usize,
    dontwait: bool,
) -> Outcome<usize> {
    while pipe_fill(pipe) == 0 {
        let wait = if dontwait { Some(0) } else { None };
        match sys::poll_one(borrow(pipe), libc::POLLIN, wait) {
            Ok(0) => return Outcome::Failed(Errno::AGAIN),
            Ok(ready) if ready & libc::POLLIN == 0 => return Outcome::Done(0),
            Ok(_) => {}
            Err(errno) => return Outcome::Failed(errno),
        }
    }
    let mut source = FromPipe {
        fd: pipe,
        left: len,
        last: Vec::new(),
        back: 0,
    };
    let sent = io::send(fd, stream, &mut source, 0);
    let Outcome::Done(mut sent) = sent else {
        return sent;
    };
    // What was taken out of the pipe has to go, even if the socket would rather wait.
    while source.back > 0 {
        source.left = source.back;
        match io::send(fd, stream, &mut source, 0) {
            Outcome::Done(more) => sent += more,
            Outcome::Failed(Errno::AGAIN | Errno::INTR) => {
                let _ = sys::poll_one(borrow(fd), libc::POLLOUT, Some(100));
            }
            Outcome::PassOn(_) => {
                let rest = &source.last[source.last.len() - source.back..];
                match sys::send(borrow(fd), rest, 0) {
                    Ok(more) => {
                        source.back -= more;
                        sent += more;
                    }
                    Err(_) => break,
                }
            }
            Outcome::Failed(_) => break,
        }
    }
    Outcome::Done(sent)
}

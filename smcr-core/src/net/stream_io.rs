//! Reading and writing a stream.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;

use rustix::io::Errno;

use super::SmcStream;
use super::stream::Inner;
use crate::conn::io::Slices;
use crate::engine::Unwatched;
use crate::sys;

impl Inner {
    /// `None`: the descriptor is the TCP socket.
    fn recv(&self, iov: &[libc::iovec], flags: i32) -> io::Result<Option<usize>> {
        let Some(connection) = &self.connection else {
            return Ok(None);
        };
        // SAFETY: the callers pass the parts of exclusively borrowed buffers.
        let mut sink = unsafe { Slices::new(iov) }?;
        // The program may watch the descriptor by means that we do not see.
        match connection.recv(self.fd(), &mut sink, flags, &Unwatched) {
            Ok(received) => Ok(received),
            Err(Errno::AGAIN) => {
                // A descriptor that is readable for no reason would keep an event loop busy.
                if let Some(smc) = connection.smc()
                    && sys::poll_one(self.fd(), libc::POLLIN, Some(0))
                        .is_ok_and(|ready| ready & libc::POLLIN != 0)
                {
                    smc.recheck(self.fd());
                }
                Err(Errno::AGAIN.into())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// `None`: the descriptor is the TCP socket.
    fn send(&self, iov: &[libc::iovec]) -> io::Result<Option<usize>> {
        let Some(connection) = &self.connection else {
            return Ok(None);
        };
        // SAFETY: the callers pass the parts of borrowed buffers, and a source is only read.
        let mut source = unsafe { Slices::new(iov) }?;
        Ok(connection.send(self.fd(), &mut source, libc::MSG_NOSIGNAL, &Unwatched)?)
    }
}

fn part(base: *const u8, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base.cast_mut().cast(),
        iov_len: len,
    }
}

/// A buffer as socket2 wants it.
fn uninit(buf: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: the same layout, and receiving writes nothing but initialised bytes.
    unsafe { &mut *(std::ptr::from_mut(buf) as *mut [MaybeUninit<u8>]) }
}

/// The parts of a vectored call, as the system sees them.
fn parts<'a, T>(bufs: &'a [T]) -> &'a [libc::iovec]
where
    T: IsIovec + 'a,
{
    // SAFETY: `IsIovec` says that the layouts are the same.
    unsafe { std::slice::from_raw_parts(bufs.as_ptr().cast(), bufs.len()) }
}

/// # Safety
/// The type has the layout of `struct iovec`.
unsafe trait IsIovec {}
// SAFETY: std guarantees it.
unsafe impl IsIovec for IoSlice<'_> {}
// SAFETY: std guarantees it.
unsafe impl IsIovec for IoSliceMut<'_> {}

impl SmcStream {
    /// Receives without taking: the next read returns the same bytes.
    ///
    /// # Errors
    /// As [`std::net::TcpStream::peek`].
    pub fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        let iov = [part(buf.as_ptr(), buf.len())];
        match self.inner.recv(&iov, libc::MSG_PEEK)? {
            Some(n) => Ok(n),
            None => self.inner.socket().peek(uninit(buf)),
        }
    }
}

impl Read for &SmcStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let iov = [part(buf.as_ptr(), buf.len())];
        match self.inner.recv(&iov, 0)? {
            Some(n) => Ok(n),
            None => self.inner.socket().recv(uninit(buf)),
        }
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self.inner.recv(parts(bufs), 0)? {
            Some(n) => Ok(n),
            None => (&*self.inner.socket()).read_vectored(bufs),
        }
    }
}

impl Write for &SmcStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let iov = [part(buf.as_ptr(), buf.len())];
        match self.inner.send(&iov)? {
            Some(n) => Ok(n),
            None => self.inner.socket().send_with_flags(buf, libc::MSG_NOSIGNAL),
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.inner.send(parts(bufs))? {
            Some(n) => Ok(n),
            None => self
                .inner
                .socket()
                .send_vectored_with_flags(bufs, libc::MSG_NOSIGNAL),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for SmcStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buf)
    }

    fn read_vectored(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        (&*self).read_vectored(bufs)
    }
}

impl Write for SmcStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (&*self).write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        (&*self).write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

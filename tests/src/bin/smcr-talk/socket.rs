//! What the standard library's streams cannot do.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use socket2::SockRef;

/// Sends one urgent byte.
pub(crate) fn send_urgent(socket: &TcpStream, byte: u8) -> io::Result<()> {
    SockRef::from(socket).send_out_of_band(&[byte]).map(drop)
}

/// The urgent byte, once there is one.
pub(crate) fn receive_urgent(socket: &TcpStream) -> io::Result<u8> {
    let mut waiting = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLPRI,
        revents: 0,
    };
    // SAFETY: one structure of ours.
    let ready = unsafe { libc::poll(&raw mut waiting, 1, 20_000) };
    check(ready)?;
    if ready == 0 {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no POLLPRI"));
    }
    let mut byte = [MaybeUninit::new(0)];
    SockRef::from(socket).recv_out_of_band(&mut byte)?;
    // SAFETY: it had a value from the start.
    Ok(unsafe { byte[0].assume_init() })
}

/// How many bytes can be read.
pub(crate) fn readable(socket: &TcpStream) -> io::Result<usize> {
    let mut count = 0_i32;
    // SAFETY: the call writes one integer of ours.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(count as usize)
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

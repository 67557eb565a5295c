//! Sockets of a family that the standard library knows nothing of.

use std::io;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};

/// The address family of SMC. Addresses themselves are those of IP.
const AF_SMC: i32 = 43;

/// The family of that name.
pub(crate) fn family(name: &str) -> Result<i32> {
    match name {
        "tcp" => Ok(libc::AF_INET),
        "smc" => Ok(AF_SMC),
        _ => bail!("{name}: not tcp or smc"),
    }
}

pub(crate) fn connect(family: i32, to: SocketAddrV4) -> Result<TcpStream> {
    let socket = new(family)?;
    let address = raw(to);
    // SAFETY: the call reads one structure of the length given.
    let result = unsafe {
        libc::connect(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    check(result).context("connect")?;
    Ok(TcpStream::from(socket))
}

pub(crate) fn listen(family: i32, at: SocketAddrV4) -> Result<TcpListener> {
    let socket = new(family)?;
    let address = raw(at);
    set(&socket, libc::SO_REUSEADDR, &1_i32).context("SO_REUSEADDR")?;
    // SAFETY: the call reads one structure of the length given.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    check(result).context("bind")?;
    // SAFETY: plain system call.
    check(unsafe { libc::listen(socket.as_raw_fd(), 512) }).context("listen")?;
    Ok(TcpListener::from(socket))
}

pub(crate) fn accept(listener: &TcpListener) -> Result<TcpStream> {
    // SAFETY: no address is asked for.
    let accepted = unsafe {
        libc::accept(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    check(accepted).context("accept")?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { TcpStream::from_raw_fd(accepted) })
}

/// Sets an option of level `SOL_SOCKET`.
pub(crate) fn set<T>(socket: &impl AsRawFd, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the call reads one value of the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    check(result)
}

/// `send` or `recv` of one urgent byte.
pub(crate) fn send_urgent(socket: &TcpStream, byte: u8) -> io::Result<()> {
    let buffer = [byte];
    // SAFETY: the call reads one byte of ours.
    let sent = unsafe { libc::send(socket.as_raw_fd(), buffer.as_ptr().cast(), 1, libc::MSG_OOB) };
    check(sent as i32)
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
    let mut buffer = [0];
    // SAFETY: the call writes one byte of ours.
    let got = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            1,
            libc::MSG_OOB,
        )
    };
    check(got as i32)?;
    Ok(buffer[0])
}

/// How many bytes can be read.
pub(crate) fn readable(socket: &TcpStream) -> io::Result<usize> {
    let mut count = 0_i32;
    // SAFETY: the call writes one integer of ours.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(count as usize)
}

fn new(family: i32) -> Result<OwnedFd> {
    // SAFETY: plain system call.
    let socket = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    check(socket).context("socket: is the module smc loaded?")?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

fn raw(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(address.ip().octets()),
        },
        sin_zero: [0; 8],
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

//! `AF_SMC` sockets, which libc knows nothing of.

use std::fs::File;
use std::io;
use std::net::SocketAddrV4;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

/// The address family of SMC. Addresses themselves are those of IP.
const AF_SMC: i32 = 43;
/// Its protocol over IPv4.
const SMCPROTO_SMC: i32 = 0;

/// Connects; reading and writing goes through the file.
pub(crate) fn connect(to: SocketAddrV4) -> Result<File> {
    let socket = new()?;
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
    Ok(File::from(socket))
}

/// Listens, and accepts one connection.
pub(crate) fn accept_one(at: SocketAddrV4) -> Result<File> {
    let socket = new()?;
    let address = raw(at);
    let one = 1_i32;
    // SAFETY: the calls read structures of ours, of the lengths given.
    let results = unsafe {
        [
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_REUSEADDR,
                (&raw const one).cast(),
                size_of_val(&one) as u32,
            ),
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            ),
            libc::listen(socket.as_raw_fd(), 16),
        ]
    };
    for (call, result) in ["setsockopt", "bind", "listen"].iter().zip(results) {
        check(result).context(*call)?;
    }
    // SAFETY: no address is asked for.
    let accepted = unsafe {
        libc::accept(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    check(accepted).context("accept")?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { File::from_raw_fd(accepted) })
}

/// No more will be sent.
pub(crate) fn shut_down(socket: &File) -> Result<()> {
    // SAFETY: plain system call.
    let result = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
    check(result).context("shutdown")
}

fn new() -> Result<OwnedFd> {
    // SAFETY: plain system call.
    let socket =
        unsafe { libc::socket(AF_SMC, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, SMCPROTO_SMC) };
    check(socket).context("socket(AF_SMC): is the module smc loaded?")?;
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

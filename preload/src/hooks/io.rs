//! read, write, send, recv and their relatives with plain buffers.

use libc::{c_int, c_void, iovec, off_t, size_t, sockaddr, socklen_t, ssize_t};
use redhook::{hook, real};

use smcr_core::conn::io::{Sink, Slices};

use crate::ops::{io, setup};
use crate::outcome::Outcome;
use crate::stream::StreamRef;
use crate::table;

super::resolves!(
    read,
    write,
    readv,
    writev,
    send,
    recv,
    sendto,
    recvfrom,
    __read_chk,
    __recv_chk,
    __recvfrom_chk,
    preadv2,
    pwritev2
);

/// One buffer as an iovec.
fn one(buf: *const c_void, len: size_t) -> [iovec; 1] {
    [iovec {
        iov_base: buf.cast_mut(),
        iov_len: len,
    }]
}

/// Does `transfer` with `iov` if `fd` is a stream, else `pass_on`.
///
/// # Safety
/// `iov` is valid as for readv(2) or writev(2), whatever `transfer` does.
#[inline(always)]
unsafe fn through(
    fd: c_int,
    (iov, count): (*const iovec, usize),
    transfer: impl FnOnce(&StreamRef, &mut Slices<'_>) -> Outcome<usize>,
    pass_on: impl FnOnce() -> ssize_t,
) -> ssize_t {
    let Some(stream) = table::stream(fd) else {
        return pass_on();
    };
    // SAFETY: by this function's contract.
    unsafe { io::with_slices(iov, count, |slices| transfer(&stream, slices)) }
        .or_else(|done| done as ssize_t, pass_on)
}

/// Sends `iov` if `fd` is a stream, else does `pass_on`.
///
/// # Safety
/// `iov` is valid as for writev(2).
#[inline]
unsafe fn sending(
    fd: c_int,
    iov: *const iovec,
    count: usize,
    flags: c_int,
    pass_on: impl FnOnce() -> ssize_t,
) -> ssize_t {
    let transfer =
        |stream: &StreamRef, source: &mut Slices<'_>| io::send(fd, stream, source, flags);
    // SAFETY: by this function's contract.
    unsafe { through(fd, (iov, count), transfer, pass_on) }
}

/// Receives into `iov` if `fd` is a stream, else does `pass_on`.
///
/// # Safety
/// `iov` is valid as for readv(2).
#[inline]
unsafe fn receiving(
    fd: c_int,
    iov: *const iovec,
    count: usize,
    flags: c_int,
    pass_on: impl FnOnce() -> ssize_t,
) -> ssize_t {
    let transfer = |stream: &StreamRef, sink: &mut Slices<'_>| io::recv(fd, stream, sink, flags);
    // SAFETY: by this function's contract.
    unsafe { through(fd, (iov, count), transfer, pass_on) }
}

/// As [`receiving`] for read and readv, which do nothing when asked for nothing.
///
/// # Safety
/// `iov` is valid as for readv(2).
#[inline]
unsafe fn reading(
    fd: c_int,
    iov: *const iovec,
    count: usize,
    pass_on: impl FnOnce() -> ssize_t,
) -> ssize_t {
    let transfer = |stream: &StreamRef, sink: &mut Slices<'_>| match Sink::left(sink) {
        0 => Outcome::Done(0),
        _ => io::recv(fd, stream, sink, 0),
    };
    // SAFETY: by this function's contract.
    unsafe { through(fd, (iov, count), transfer, pass_on) }
}

hook! {
    unsafe fn read(fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t => smcr_read {
        // SAFETY: the program's buffer, by read's contract.
        unsafe { reading(fd, one(buf, len).as_ptr(), 1, || real!(read)(fd, buf, len)) }
    }
}

hook! {
    unsafe fn __read_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t) -> ssize_t
        => smcr_read_chk
    {
        // SAFETY: the program's buffer; a length beyond its room is libc's to report.
        unsafe {
            if len > room {
                return real!(__read_chk)(fd, buf, len, room);
            }
            reading(fd, one(buf, len).as_ptr(), 1, || real!(read)(fd, buf, len))
        }
    }
}

hook! {
    unsafe fn write(fd: c_int, buf: *const c_void, len: size_t) -> ssize_t => smcr_write {
        // SAFETY: the program's buffer, by write's contract.
        unsafe { sending(fd, one(buf, len).as_ptr(), 1, 0, || real!(write)(fd, buf, len)) }
    }
}

hook! {
    unsafe fn readv(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t => smcr_readv {
        // SAFETY: the program's buffers, by readv's contract.
        unsafe { reading(fd, iov, count as usize, || real!(readv)(fd, iov, count)) }
    }
}

hook! {
    unsafe fn writev(fd: c_int, iov: *const iovec, count: c_int) -> ssize_t => smcr_writev {
        // SAFETY: the program's buffers, by writev's contract.
        unsafe { sending(fd, iov, count as usize, 0, || real!(writev)(fd, iov, count)) }
    }
}

hook! {
    unsafe fn preadv2(fd: c_int, iov: *const iovec, count: c_int, at: off_t, flags: c_int)
        -> ssize_t => smcr_preadv2
    {
        // Without a position it is readv; with one a socket refuses it, which the kernel does.
        // SAFETY: the program's buffers, by preadv2's contract.
        unsafe {
            let pass_on = || real!(preadv2)(fd, iov, count, at, flags);
            let dontwait = if flags & libc::RWF_NOWAIT != 0 { libc::MSG_DONTWAIT } else { 0 };
            if at != -1 {
                return pass_on();
            }
            receiving(fd, iov, count as usize, dontwait, pass_on)
        }
    }
}

hook! {
    unsafe fn pwritev2(fd: c_int, iov: *const iovec, count: c_int, at: off_t, flags: c_int)
        -> ssize_t => smcr_pwritev2
    {
        // SAFETY: the program's buffers, by pwritev2's contract.
        unsafe {
            let pass_on = || real!(pwritev2)(fd, iov, count, at, flags);
            let dontwait = if flags & libc::RWF_NOWAIT != 0 { libc::MSG_DONTWAIT } else { 0 };
            if at != -1 {
                return pass_on();
            }
            sending(fd, iov, count as usize, dontwait, pass_on)
        }
    }
}

hook! {
    unsafe fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t
        => smcr_send
    {
        // SAFETY: the program's buffer, by send's contract.
        unsafe { sending(fd, one(buf, len).as_ptr(), 1, flags, || real!(send)(fd, buf, len, flags)) }
    }
}

hook! {
    unsafe fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t
        => smcr_recv
    {
        // SAFETY: the program's buffer, by recv's contract.
        unsafe {
            receiving(fd, one(buf, len).as_ptr(), 1, flags, || real!(recv)(fd, buf, len, flags))
        }
    }
}

hook! {
    unsafe fn __recv_chk(fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int)
        -> ssize_t => smcr_recv_chk
    {
        // SAFETY: as __read_chk.
        unsafe {
            if len > room {
                return real!(__recv_chk)(fd, buf, len, room, flags);
            }
            receiving(fd, one(buf, len).as_ptr(), 1, flags, || real!(recv)(fd, buf, len, flags))
        }
    }
}

hook! {
    unsafe fn sendto(
        fd: c_int, buf: *const c_void, len: size_t, flags: c_int,
        addr: *const sockaddr, addr_len: socklen_t
    ) -> ssize_t => smcr_sendto {
        // SAFETY: the program's buffer, by sendto's contract.
        unsafe {
            if flags & libc::MSG_FASTOPEN != 0 {
                setup::fast_open(fd);
            }
            if !addr.is_null() && addr_len != 0 && table::stream(fd).is_some() {
                // A connected stream socket ignores the address, but not a wrong one.
                if let Err(errno) = setup::check_address(addr, addr_len) {
                    crate::real::set_errno(errno);
                    return -1;
                }
            }
            sending(fd, one(buf, len).as_ptr(), 1, flags, || {
                real!(sendto)(fd, buf, len, flags, addr, addr_len)
            })
        }
    }
}

hook! {
    unsafe fn recvfrom(
        fd: c_int, buf: *mut c_void, len: size_t, flags: c_int,
        addr: *mut sockaddr, addr_len: *mut socklen_t
    ) -> ssize_t => smcr_recvfrom {
        // SAFETY: the program's buffer, by recvfrom's contract.
        unsafe {
            let received = receiving(fd, one(buf, len).as_ptr(), 1, flags, || {
                real!(recvfrom)(fd, buf, len, flags, addr, addr_len)
            });
            no_address(fd, received, addr, addr_len)
        }
    }
}

hook! {
    unsafe fn __recvfrom_chk(
        fd: c_int, buf: *mut c_void, len: size_t, room: size_t, flags: c_int,
        addr: *mut sockaddr, addr_len: *mut socklen_t
    ) -> ssize_t => smcr_recvfrom_chk {
        // SAFETY: as __read_chk.
        unsafe {
            if len > room {
                return real!(__recvfrom_chk)(fd, buf, len, room, flags, addr, addr_len);
            }
            let received = receiving(fd, one(buf, len).as_ptr(), 1, flags, || {
                real!(recvfrom)(fd, buf, len, flags, addr, addr_len)
            });
            no_address(fd, received, addr, addr_len)
        }
    }
}

/// TCP gives no address with received data: the length becomes 0. Returns what recvfrom returns.
///
/// # Safety
/// `addr` and `addr_len` as for recvfrom(2).
unsafe fn no_address(
    fd: c_int,
    received: ssize_t,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> ssize_t {
    if received >= 0 && !addr.is_null() && !len.is_null() && table::stream(fd).is_some() {
        // SAFETY: by this function's contract.
        unsafe {
            if (*len).cast_signed() < 0 {
                crate::real::set_errno(rustix::io::Errno::INVAL);
                return -1;
            }
            *len = 0;
        }
    }
    received
}

//! Socket options and addresses of a stream: its TCP socket answers, except where the library
//! knows better.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_void, sockaddr, socklen_t};
use rustix::io::Errno;
use smcr_core::engine::Connection;
use smcr_core::{Reason, sys};

use crate::outcome::{Outcome, PassOn};
use crate::real;
use crate::table::{self, Entry};

/// Whether the program ever set a time-out, or a linger time: asked before system calls that
/// would nearly always find none.
static TIMEOUTS_USED: AtomicBool = AtomicBool::new(false);
static LINGER_USED: AtomicBool = AtomicBool::new(false);

const SOL_TCP: c_int = libc::IPPROTO_TCP;

/// setsockopt() on any descriptor: whether the library has to look at it, or why it cannot be.
pub(crate) fn prepare(fd: RawFd, level: c_int, name: c_int) -> Outcome<()> {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
            TIMEOUTS_USED.store(true, Ordering::Relaxed);
            smcr_core::conn::timeouts_used();
        }
        (libc::SOL_SOCKET, libc::SO_LINGER) => LINGER_USED.store(true, Ordering::Relaxed),
        _ => {}
    }
    if !table::is_known(fd) {
        return Outcome::PassOn(PassOn::NotOurs);
    }
    if let Some(stream) = table::stream(fd)
        && let Some(reason) = forbids(level, name)
    {
        stream.connection.withdraw(reason);
        if stream.connection.smc().is_some() {
            // Kernel TLS and the like need the TCP stream, which has moved. Of an upper layer the
            // kernel's word is that it knows none of that name.
            let ulp = (level, name) == (SOL_TCP, libc::TCP_ULP);
            return Outcome::Failed(if ulp { Errno::NOENT } else { Errno::OPNOTSUPP });
        }
    }
    Outcome::Done(())
}

/// setsockopt() after [`prepare`]: `call` makes the real one, on the socket it is given.
pub(crate) fn set(fd: RawFd, level: c_int, name: c_int, call: impl Fn(RawFd) -> c_int) -> c_int {
    let Some(stream) = table::stream(fd) else {
        return call(fd);
    };
    let connection = &stream.connection;
    if let Some(ret) = connection.with_tcp(|tcp| call(tcp.as_raw_fd())) {
        return ret;
    }
    let standing_in = connection.with_options(|options| {
        let socket = options.stand_in()?;
        let ret = call(socket.as_raw_fd());
        if ret == 0 {
            options.note(socket.as_fd(), level, name);
        }
        Ok(ret)
    });
    standing_in.map_or_else(|| call(fd), |done| done.unwrap_or_else(fail))
}

/// getsockopt() on any descriptor: `call` makes the real one, on the socket it is given.
///
/// # Safety
/// `value` and `len` are the program's, which `call` has the kernel check.
pub(crate) unsafe fn get(
    fd: RawFd,
    (level, name): (c_int, c_int),
    value: *mut c_void,
    len: *mut socklen_t,
    call: impl Fn(RawFd) -> c_int,
) -> c_int {
    let Some(stream) = table::stream(fd) else {
        return call(fd);
    };
    let connection = &stream.connection;
    // SAFETY: the kernel wrote there.
    let answer = |bytes: &[u8]| unsafe {
        let fits = bytes.len().min(*len as usize);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), value.cast(), fits);
    };
    let mut ret = connection.with_tcp(|tcp| call(tcp.as_raw_fd()));
    if ret.is_none() {
        let standing_in = connection.with_options(|options| {
            let ret = call(options.stand_in()?.as_raw_fd());
            if let (0, Some(known)) = (ret, options.value(level, name)) {
                answer(known);
            }
            Ok(ret)
        });
        ret = standing_in.map(|done| done.unwrap_or_else(fail));
    }
    let ret = ret.unwrap_or_else(|| call(fd));
    let (0, Some(smc)) = (ret, connection.smc()) else {
        return ret;
    };
    // SAFETY: the kernel wrote there.
    let (len, first) = unsafe { (*len, value.cast::<u8>()) };
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_ERROR) if len == 4 => {
            let error = smc.take_error().map_or(0, |errno| errno.raw_os_error());
            answer(&error.to_ne_bytes());
        }
        (SOL_TCP, libc::TCP_INFO) if len > 0 => {
            const CLOSE: u8 = 7;
            // SAFETY: it has at least one byte.
            let state = connection.with_tcp(|_| unsafe { *first });
            // We, or the peer's library, did without the TCP connection.
            if state.is_none_or(|state| state == CLOSE) {
                answer(&[smc.tcp_state(borrow(fd))]);
            }
        }
        _ => {}
    }
    ret
}

fn fail(errno: Errno) -> c_int {
    real::set_errno(errno);
    -1
}

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the program's own descriptor, in its call on it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Which end's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// getsockname
    Local,
    /// getpeername
    Peer,
}

/// getsockname() or getpeername() on any descriptor: `call` makes the real one, on the socket it
/// is given.
///
/// # Safety
/// `addr` and `len` are the program's, as for getsockname(2); the kernel checks them.
pub(crate) unsafe fn address(
    fd: RawFd,
    end: End,
    addr: *mut sockaddr,
    len: *mut socklen_t,
    call: impl Fn(RawFd) -> c_int,
) -> c_int {
    let Some(stream) = table::stream(fd) else {
        return call(fd);
    };
    let connection = &stream.connection;
    if end == End::Peer && connection.smc().is_some_and(|smc| smc.is_over()) {
        return fail(Errno::NOTCONN);
    }
    match connection.with_tcp(|tcp| call(tcp.as_raw_fd())) {
        // The peer's library did without the TCP connection.
        Some(-1) if real::errno() == Errno::NOTCONN && connection.smc().is_some() => {}
        Some(ret) => return ret,
        None if connection.smc().is_none() => return call(fd),
        None => {}
    }
    let Some((local, peer)) = connection.addresses() else {
        return fail(Errno::NOTCONN);
    };
    let mut room = [0; size_of::<socklen_t>()];
    // SAFETY: checked by the kernel.
    if unsafe { sys::read_own_memory(len.cast(), &mut room) } != Ok(room.len()) {
        return fail(Errno::FAULT);
    }
    // Our own end of the readiness pair, which says whether it can write there.
    let ret = call(fd);
    if ret == 0 {
        let address = if end == End::Local { local } else { peer };
        let address = rustix::net::SocketAddrAny::from(address);
        let fits = (address.addr_len() as usize).min(u32::from_ne_bytes(room) as usize);
        // SAFETY: the program's buffers, of the length that it said.
        unsafe {
            std::ptr::copy_nonoverlapping(address.as_ptr().cast::<u8>(), addr.cast(), fits);
            len.write_unaligned(address.addr_len());
        }
    }
    ret
}

/// setsockopt() succeeded.
pub(crate) fn applied(fd: RawFd, level: c_int, name: c_int, value: &[u8]) {
    let int = value.first_chunk().map(|raw| i32::from_ne_bytes(*raw));
    match table::entry(fd) {
        Entry::Plain(plain) => match (level, name) {
            (libc::IPPROTO_IP, libc::IP_TTL) | (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS) => {
                plain.set_ttl(int.unwrap_or(-1));
            }
            _ => {
                if let (Some(reason), true) = (forbids(level, name), int != Some(0)) {
                    plain.forbid(reason);
                }
            }
        },
        Entry::Stream(stream) => apply(fd, &stream.connection, level, name, value, int),
        _ => {}
    }
}

/// Options that the library serves itself, beside the TCP socket.
fn apply(
    fd: RawFd,
    connection: &Connection,
    level: c_int,
    name: c_int,
    value: &[u8],
    int: Option<i32>,
) {
    if level != libc::SOL_SOCKET {
        return;
    }
    let end = borrow(fd);
    match name {
        libc::SO_RCVTIMEO | libc::SO_SNDTIMEO => {
            let _ = sys::set_bytes(end, level, name, value);
        }
        libc::SO_RCVLOWAT => {
            if let (Some(smc), Some(bytes)) = (connection.smc(), int) {
                smc.set_low_water(bytes.max(1) as u32);
            }
        }
        libc::SO_OOBINLINE => connection.set_oob_inline(int.is_some_and(|on| on != 0)),
        _ => {}
    }
}

/// Options that only TCP can serve.
fn forbids(level: c_int, name: c_int) -> Option<Reason> {
    const TCP_MD5SIG_EXT: c_int = 32;
    const TCP_AO_ADD_KEY: c_int = 38;
    if (level, name) == (libc::SOL_SOCKET, libc::SO_ZEROCOPY) {
        return Some(Reason::Unsupported);
    }
    if level != SOL_TCP {
        return None;
    }
    match name {
        libc::TCP_ULP => Some(Reason::Ulp),
        libc::TCP_MD5SIG | TCP_MD5SIG_EXT | TCP_AO_ADD_KEY => Some(Reason::Md5),
        libc::TCP_REPAIR => Some(Reason::Repair),
        libc::TCP_FASTOPEN | libc::TCP_FASTOPEN_CONNECT => Some(Reason::FastOpen),
        _ => None,
    }
}

/// Gives a readiness pair the time-outs of the socket it replaces.
pub(crate) fn copy_timeouts(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    if !TIMEOUTS_USED.load(Ordering::Relaxed) {
        return;
    }
    for name in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let mut value = [0u8; 16];
        if let Ok(len) = sys::get_bytes(from, libc::SOL_SOCKET, name, &mut value) {
            let _ = sys::set_bytes(to, libc::SOL_SOCKET, name, &value[..len]);
        }
    }
}

/// Whether closing the connection is to reset it (`SO_LINGER` with time 0).
pub(crate) fn wants_reset(connection: &Connection) -> bool {
    if !LINGER_USED.load(Ordering::Relaxed) {
        return false;
    }
    let mut value = [0u8; 8];
    let (level, name) = (libc::SOL_SOCKET, libc::SO_LINGER);
    let got = connection.with_tcp(|tcp| sys::get_bytes(tcp, level, name, &mut value).is_ok());
    if got.is_none() {
        connection.with_options(|options| {
            if let Some(linger) = options.value(level, name) {
                value.copy_from_slice(linger);
            }
        });
    }
    // struct linger: l_onoff, l_linger.
    value[..4] != [0; 4] && value[4..] == [0; 4]
}

/// `len` bytes at `value`, as passed to setsockopt.
///
/// # Safety
/// `value` is null or valid for `len` bytes.
pub(crate) unsafe fn bytes<'a>(value: *const c_void, len: u32) -> &'a [u8] {
    if value.is_null() {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(value.cast(), len as usize) }
}

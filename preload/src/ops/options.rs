//! Socket options and addresses of a stream: its TCP socket answers, except where the library
//! knows better.

use std::os::fd::{BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_int, c_void};
use rustix::io::Errno;
use smcr_core::engine::Connection;
use smcr_core::{Reason, sys};

use crate::outcome::{Outcome, PassOn};
use crate::table::{self, Entry};

/// Whether the program ever set a time-out, or a linger time: asked before system calls that
/// would nearly always find none.
static TIMEOUTS_USED: AtomicBool = AtomicBool::new(false);
static LINGER_USED: AtomicBool = AtomicBool::new(false);

const SOL_TCP: c_int = libc::IPPROTO_TCP;

/// setsockopt() on any descriptor: which socket the option is to be set on, or why it cannot be.
pub(crate) fn prepare(fd: RawFd, level: c_int, name: c_int) -> Outcome<RawFd> {
    match (level, name) {
        (libc::SOL_SOCKET, libc::SO_RCVTIMEO | libc::SO_SNDTIMEO) => {
            TIMEOUTS_USED.store(true, Ordering::Relaxed);
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
    Outcome::Done(tcp_of(fd).unwrap_or(fd))
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
    // SAFETY: the program's own descriptor, in its call on it.
    let end = unsafe { BorrowedFd::borrow_raw(fd) };
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

/// `SO_ERROR` of a stream that is on SMC, which is cleared by asking.
pub(crate) fn take_error(fd: RawFd) -> Option<c_int> {
    let stream = table::stream(fd)?;
    let smc = stream.connection.smc()?;
    Some(smc.take_error().map_or(0, |errno| errno.raw_os_error()))
}

/// The TCP socket that answers for a stream's addresses and identity.
pub(crate) fn tcp_of(fd: RawFd) -> Option<RawFd> {
    use std::os::fd::AsRawFd;
    let stream = table::stream(fd)?;
    let tcp = stream.connection.as_raw_fd();
    (tcp >= 0).then_some(tcp)
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
    let tcp = connection.tcp();
    let got = tcp.map(|tcp| sys::get_bytes(tcp, libc::SOL_SOCKET, libc::SO_LINGER, &mut value));
    // struct linger: l_onoff, l_linger.
    got == Some(Ok(8)) && value[..4] != [0; 4] && value[4..] == [0; 4]
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

/// `ENOTCONN` for a stream whose both directions have ended, as TCP says.
pub(crate) fn disconnected(fd: RawFd) -> Option<Errno> {
    let stream = table::stream(fd)?;
    stream.connection.smc()?.is_over().then_some(Errno::NOTCONN)
}

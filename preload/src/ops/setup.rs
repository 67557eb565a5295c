//! Making sockets and connections: socket, connect, listen, accept.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use libc::{c_int, sockaddr};
use rustix::io::Errno;
use smcr_core::Reason;
use smcr_core::engine::{Admitted, Connecting, Connection, Engine, engine};
use smcr_core::stat::Role;
use smcr_core::sys;

use crate::plain::Plain;
use crate::stream::StreamRef;
use crate::table::{self, Entry};
use crate::watch::set::Set;
use crate::{real, watch};

fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the program's own descriptor, in one of its calls on it.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// socket() made `fd`.
pub(crate) fn created(fd: RawFd, domain: c_int, kind: c_int, protocol: c_int) {
    const MPTCP: c_int = 262;
    let is_inet = domain == libc::AF_INET || domain == libc::AF_INET6;
    let is_stream = kind & 0xf == libc::SOCK_STREAM;
    if !is_inet || !is_stream || !matches!(protocol, 0 | libc::IPPROTO_TCP | MPTCP) {
        return;
    }
    let plain = Plain::new();
    if protocol == MPTCP {
        plain.forbid(Reason::Mptcp);
    }
    put(fd, Entry::Plain(Arc::new(plain)));
}

/// Sets an entry; what was there before is let go outside the lock.
pub(crate) fn put(fd: RawFd, entry: Entry) -> Entry {
    let guard = table::lock();
    table::put(fd, entry, &guard)
}

/// What is known of a TCP socket; sockets that came to us without socket() (by exec, by a
/// descriptor message) are looked at in the kernel.
pub(crate) fn plain(fd: RawFd) -> Option<Arc<Plain>> {
    match table::entry(fd) {
        Entry::Plain(plain) => Some(plain),
        Entry::None => {
            if !is_tcp(fd) {
                return None;
            }
            let plain = Arc::new(Plain::new());
            put(fd, Entry::Plain(Arc::clone(&plain)));
            Some(plain)
        }
        _ => None,
    }
}

/// Whether the kernel says that a descriptor is a TCP socket.
pub(crate) fn is_tcp(fd: RawFd) -> bool {
    let _errno = real::KeepErrno::new();
    let socket = borrow(fd);
    let is = |name, value| sys::get_int(socket, libc::SOL_SOCKET, name) == Ok(value);
    fd >= 0 && is(libc::SO_PROTOCOL, libc::IPPROTO_TCP) && is(libc::SO_TYPE, libc::SOCK_STREAM)
}

/// A socket address, copied out of the program's memory.
#[derive(Clone, Copy)]
pub(crate) struct Address([u8; size_of::<libc::sockaddr_in6>()], usize);

/// Copies an address; `None` if the program's pointer is wrong, which the real call reports.
///
/// # Safety
/// `addr` is the program's argument, which it says is valid for `len` bytes.
pub(crate) unsafe fn copy_address(addr: *const sockaddr, len: u32) -> Option<Address> {
    let mut copy = Address([0; _], 0);
    let wanted = (len as usize).min(copy.0.len());
    // SAFETY: by this function's contract.
    copy.1 = unsafe { sys::read_own_memory(addr.cast(), &mut copy.0[..wanted]) }.ok()?;
    (copy.1 >= size_of::<libc::sa_family_t>()).then_some(copy)
}

/// What the kernel would say of an address that a connected stream socket ignores. It looks at
/// the number only, for this is asked with every send: an address in memory that is not there is
/// not noticed.
pub(crate) fn check_address(addr: *const sockaddr, len: u32) -> Result<(), Errno> {
    // Nothing is ever mapped there.
    const LOWEST: usize = 4096;
    if len as usize > size_of::<libc::sockaddr_storage>() {
        return Err(Errno::INVAL);
    }
    if (addr as usize) < LOWEST {
        Err(Errno::FAULT)
    } else {
        Ok(())
    }
}

impl Address {
    pub(crate) fn family(&self) -> c_int {
        c_int::from(u16::from_ne_bytes([self.0[0], self.0[1]]))
    }

    /// The IP address and port, if it is one.
    pub(crate) fn parse(&self) -> Option<SocketAddr> {
        let raw = &self.0[..self.1];
        let port = u16::from_be_bytes(*raw.get(2..)?.first_chunk()?);
        match self.family() {
            libc::AF_INET if raw.len() >= size_of::<libc::sockaddr_in>() => {
                let ip: [u8; 4] = *raw.get(4..)?.first_chunk()?;
                Some(SocketAddr::from((ip, port)))
            }
            libc::AF_INET6 if raw.len() >= size_of::<libc::sockaddr_in6>() => {
                let ip: [u8; 16] = *raw.get(8..)?.first_chunk()?;
                Some(SocketAddr::from((ip, port)))
            }
            _ => None,
        }
    }
}

/// connect(): `call` makes the real one. Returns what that returned.
pub(crate) fn connect(fd: RawFd, peer: Option<SocketAddr>, call: impl FnOnce() -> c_int) -> c_int {
    let (Some(engine), Some(peer)) = (engine(), peer) else {
        return call();
    };
    crate::init::publish();
    let Some(plain) = plain(fd) else {
        return call();
    };
    let plan = match plain.forbidden() {
        Some(reason) => Err(reason),
        // The other process would have the TCP socket, and the stream would not be there.
        None if plain.is_shared() => Err(Reason::Forked),
        None => {
            super::relief::look();
            engine.plan_connect(borrow(fd), peer, plain.ttl())
        }
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err(reason) => {
            let ret = call();
            let _errno = real::KeepErrno::new();
            if ret == 0 || real::errno() == Errno::INPROGRESS {
                note_tcp(fd, Role::Client, reason);
            }
            return ret;
        }
    };
    let ret = call();
    let _errno = real::KeepErrno::new();
    let outcome = if ret == 0 { Ok(()) } else { Err(real::errno()) };
    match engine.connected(&plan, borrow(fd), outcome) {
        Ok(connecting) => begin(connecting, &names_of(fd, &plain), None, engine),
        Err(Some(reason)) => note_tcp(fd, Role::Client, reason),
        Err(None) => {}
    }
    ret
}

/// The handshake of a connection begins: puts an end of its readiness pair in the place of the TCP
/// socket, under all the `names` that it has. `flags` are those that accept4(2) has just given it.
fn begin(
    mut connecting: Connecting,
    names: &[RawFd],
    flags: Option<c_int>,
    engine: &'static Engine,
) {
    let connection = connecting.connection;
    let stream = StreamRef::new(Arc::clone(&connection));
    let fallback = stream.clone();
    connecting.pending.on_tcp = Box::new(move |tcp| back_to_tcp(&fallback, tcp));
    connection.begin(connecting.pending);
    let end = connecting.end.as_fd();
    // All names have the same status.
    let status = match (flags, names.first()) {
        (Some(flags), _) => Ok(BLOCKING | flags & libc::SOCK_NONBLOCK),
        (None, Some(&name)) => real::fcntl(name, libc::F_GETFL, 0),
        (None, None) => Ok(BLOCKING),
    };
    let put = |&name: &RawFd| {
        let cloexec = match flags {
            Some(flags) => flags & libc::SOCK_CLOEXEC != 0,
            None => real::fcntl(name, libc::F_GETFD, 0)? & libc::FD_CLOEXEC != 0,
        };
        install(name, &stream, end, status?, cloexec)
    };
    if set_status(end, status.unwrap_or(BLOCKING)).is_ok()
        && names.iter().all(|name| put(name).is_ok())
    {
        if status.is_ok_and(|status| status & libc::O_ASYNC != 0) {
            connection.with_tcp(stop_signals);
        }
        engine.watch(&connection);
    } else {
        connection.withdraw(Reason::Descriptors);
    }
}

/// SIGIO is the readiness pair's to cause, no longer the TCP socket's.
fn stop_signals(tcp: BorrowedFd<'_>) {
    let tcp = tcp.as_raw_fd();
    if let Ok(status) = real::fcntl(tcp, libc::F_GETFL, 0)
        && status & libc::O_ASYNC != 0
    {
        let _ = real::fcntl(tcp, libc::F_SETFL, i64::from(status & !libc::O_ASYNC));
    }
}

/// All the descriptors that name this socket: the program may have duplicated it.
fn names_of(fd: RawFd, plain: &Arc<Plain>) -> Vec<RawFd> {
    // The table's reference and the caller's: it has no other name.
    if Arc::strong_count(plain) <= 2 {
        return vec![fd];
    }
    let is_name = |&other: &RawFd| match table::entry(other) {
        Entry::Plain(known) => Arc::ptr_eq(&known, plain),
        _ => false,
    };
    table::known(0, RawFd::MAX).filter(is_name).collect()
}

/// connect() of a stream. `call` makes the real one, on the descriptor it is given.
pub(crate) fn connect_again(
    fd: RawFd,
    stream: &StreamRef,
    disconnect: bool,
    call: impl Fn(RawFd) -> c_int,
) -> c_int {
    stream.connection.wait_decided();
    let connection = &stream.connection;
    if !disconnect {
        // It is connected; the TCP socket says so.
        return match connection.with_tcp(|tcp| call(tcp.as_raw_fd())) {
            Some(ret) => ret,
            None if connection.smc().is_none() => call(fd),
            None => {
                real::set_errno(Errno::ISCONN);
                -1
            }
        };
    }
    // AF_UNSPEC: the connection is reset, and the socket can be used for another one.
    connection.close(true);
    if connection
        .with_tcp(|tcp| back_to_tcp(stream, tcp))
        .is_none()
        && let Some(Ok(tcp)) = connection.with_options(|options| options.restore())
    {
        back_to_tcp(stream, tcp.as_fd());
    }
    call(fd)
}

/// Lists a connection that is on TCP, with the reason.
fn note_tcp(fd: RawFd, role: Role, reason: Reason) {
    let addresses = smcr_core::engine::addresses(borrow(fd)).ok();
    let (local, peer) = addresses.unzip();
    let slot = smcr_core::engine::list_tcp(role, reason, local, peer);
    match plain(fd) {
        Some(plain) => plain.set_slot(slot),
        None => slot.remove(),
    }
}

/// The status of a new socket.
const BLOCKING: c_int = libc::O_RDWR;

/// Gives the end of a readiness pair that we made the status of the socket it replaces.
fn set_status(end: BorrowedFd<'_>, status: c_int) -> Result<(), Errno> {
    if status == BLOCKING {
        return Ok(());
    }
    real::fcntl(end.as_raw_fd(), libc::F_SETFL, i64::from(status)).map(drop)
}

/// Puts an end of a readiness pair in the place of the TCP socket `fd`, whose status and
/// close-on-exec flag these are.
fn install(
    fd: RawFd,
    stream: &StreamRef,
    end: BorrowedFd<'_>,
    status: c_int,
    cloexec: bool,
) -> Result<(), Errno> {
    stream
        .connection
        .set_nonblocking(status & libc::O_NONBLOCK != 0);
    super::options::copy_timeouts(borrow(fd), end);
    super::signals::copy_owner(fd, end);
    stream.watch.set_signals(status & libc::O_ASYNC != 0);
    let sets = sets_with(fd);
    for (epfd, _, member) in &sets {
        ctl(*epfd, libc::EPOLL_CTL_DEL, fd, member);
    }
    sys::dup_onto(end, fd, cloexec)?;
    stream.fds.lock().push(fd);
    let old = put(fd, Entry::Stream(stream.clone()));
    for (epfd, set, member) in &sets {
        ctl(*epfd, libc::EPOLL_CTL_ADD, fd, member);
        set.insert(fd, member.events, member.data, Some(stream));
        watch::epoll::register(set, stream, fd, member.events, false);
    }
    drop(old);
    super::stdio::landed(fd);
    Ok(())
}

/// The stream stays on TCP: puts the socket back in the place of the readiness pair, under all
/// the numbers it has.
fn back_to_tcp(stream: &StreamRef, tcp: BorrowedFd<'_>) {
    let guard = table::lock();
    let fds = std::mem::take(&mut *stream.fds.lock());
    if let Some(status) = fds
        .first()
        .and_then(|&fd| real::fcntl(fd, libc::F_GETFL, 0).ok())
    {
        let _ = real::fcntl(tcp.as_raw_fd(), libc::F_SETFL, i64::from(status));
    }
    let plain = Arc::new(Plain::connected(stream.connection.slot()));
    let mut old = Vec::new();
    for fd in fds {
        let cloexec = real::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|f| f & libc::FD_CLOEXEC != 0);
        let sets = sets_with_locked(fd, &guard);
        for (epfd, _, member) in &sets {
            ctl(*epfd, libc::EPOLL_CTL_DEL, fd, member);
        }
        let _ = sys::dup_onto(tcp, fd, cloexec);
        old.push(table::put(fd, Entry::Plain(Arc::clone(&plain)), &guard));
        for (epfd, set, member) in &sets {
            set.insert(fd, member.events, member.data, None);
            ctl(*epfd, libc::EPOLL_CTL_ADD, fd, member);
        }
    }
    drop(guard);
    drop(old);
}

type Membership = (RawFd, &'static Set, watch::set::Member);

/// The epoll sets that watch a descriptor.
fn sets_with(fd: RawFd) -> Vec<Membership> {
    let guard = table::lock();
    sets_with_locked(fd, &guard)
}

fn sets_with_locked(fd: RawFd, guard: &parking_lot::MutexGuard<'_, ()>) -> Vec<Membership> {
    let sets = table::sets(guard).into_iter();
    sets.filter_map(|(epfd, set)| set.member(fd).map(|member| (epfd, set, member)))
        .collect()
}

fn ctl(epfd: RawFd, op: c_int, fd: RawFd, member: &watch::set::Member) {
    let mut event = libc::epoll_event {
        events: member.events,
        u64: member.data,
    };
    real::epoll_ctl(epfd, op, fd, &mut event);
}

/// listen(): `call` makes the real one.
pub(crate) fn listen(fd: RawFd, call: impl FnOnce() -> c_int) -> c_int {
    let (Some(engine), Some(plain)) = (engine(), plain(fd)) else {
        return call();
    };
    crate::init::publish();
    if plain.forbidden().is_none() {
        // Before the first SYN.
        let _ = engine.listening(borrow(fd));
    }
    let ret = call();
    if ret == 0 {
        announce(engine, fd, &plain);
    }
    ret
}

/// Tells clients that this listener runs under the library.
fn announce(engine: &Engine, fd: RawFd, plain: &Plain) {
    if plain.forbidden().is_some() {
        return;
    }
    let Some(local) = local_address(fd) else {
        return;
    };
    if !plain.is_listening() {
        plain.set_slot(smcr_core::engine::list_listener(local));
    }
    plain.set_listening();
    // A second listen() only changes the backlog.
    if plain.lacks_presence() {
        plain.set_presence(engine.announce(local.port()));
    }
}

fn local_address(fd: RawFd) -> Option<SocketAddr> {
    rustix::net::getsockname(borrow(fd)).ok()?.try_into().ok()
}

/// accept() on `listener` made `fd`, with these flags of accept4(2). Returns `fd`.
pub(crate) fn accepted(listener: RawFd, fd: RawFd, flags: c_int) -> RawFd {
    let Some(engine) = engine() else { return fd };
    let _errno = real::KeepErrno::new();
    let Some(plain) = plain(listener) else {
        return fd;
    };
    if !plain.is_listening() {
        // It was made to listen by somebody else: by systemd, before an exec.
        if engine.listening(borrow(listener)).is_ok() {
            announce(engine, listener, &plain);
        }
    } else if plain.lacks_presence() {
        // Whoever announced the port first may be gone.
        if let Some(local) = local_address(listener) {
            plain.set_presence(engine.announce(local.port()));
        }
    }
    put(fd, Entry::Plain(Arc::new(Plain::new())));
    let accepted = match plain.forbidden() {
        Some(reason) => Err(reason),
        None => {
            super::relief::look();
            engine.accepted(
                borrow(fd),
                may_ask(listener, &plain).then(|| borrow(listener)),
            )
        }
    };
    match accepted {
        Ok(Admitted::Pending(connecting)) => begin(*connecting, &[fd], Some(flags), engine),
        Ok(Admitted::Moved(accepted)) => {
            let connection: Arc<Connection> = Arc::new(accepted.connection);
            let stream = StreamRef::new(Arc::clone(&connection));
            let end = accepted.end.as_fd();
            let status = BLOCKING | flags & libc::SOCK_NONBLOCK;
            let cloexec = flags & libc::SOCK_CLOEXEC != 0;
            // The peer's library made it, and may have given it any status.
            let set = real::fcntl(end.as_raw_fd(), libc::F_SETFL, i64::from(status));
            if set.is_err() || install(fd, &stream, end, status, cloexec).is_err() {
                // Only possible if another thread closed the descriptor: it is closed, then.
                connection.close(true);
            }
        }
        Err(reason) => note_tcp(fd, Role::Server, reason),
    }
    fd
}

/// Whether a listening socket may be made to answer clients: not if a program that does not load
/// the library may have it, too, whose socket it is as well.
fn may_ask(listener: RawFd, plain: &Plain) -> bool {
    let is_kept = || {
        let flags = real::fcntl(listener, libc::F_GETFD, 0);
        flags.is_ok_and(|flags| flags & libc::FD_CLOEXEC != 0)
    };
    // What a child of a fork did with it, nobody here knows.
    !super::exec::have_left_listeners() && (!plain.is_shared() || is_kept())
}

/// The program sends data with the SYN, which no handshake can precede.
pub(crate) fn fast_open(fd: RawFd) {
    if let Some(plain) = plain(fd) {
        plain.forbid(Reason::FastOpen);
        note_tcp(fd, Role::Client, Reason::FastOpen);
    }
}

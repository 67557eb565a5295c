//! The TCP socket behind a connection. It answers for addresses and options, and carries SIGURG;
//! the stream does not need it. Where descriptors get short it is given up, and what it would
//! answer is remembered.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};

use super::Connection;
use crate::stat::Mode;
use crate::sys;

/// A TCP socket that may go while others use it.
#[derive(Debug)]
pub(super) struct TcpSocket {
    /// -1: the program's own descriptor is the socket again, or it was given up.
    fd: AtomicI32,
    /// Calls in progress on it.
    users: AtomicU32,
    /// What it would answer, once it was given up.
    options: Mutex<Option<Options>>,
}

/// Counts a call in progress.
struct Use<'a>(&'a AtomicU32);

impl Drop for Use<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl TcpSocket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd: AtomicI32::new(fd.into_raw_fd()),
            users: AtomicU32::new(0),
            options: Mutex::new(None),
        }
    }

    /// One that was given up by another process.
    pub(super) fn given_up(options: Options) -> Self {
        Self {
            fd: AtomicI32::new(-1),
            users: AtomicU32::new(0),
            options: Mutex::new(Some(options)),
        }
    }

    /// Runs `with` on the socket, which stays open meanwhile. `with` takes no locks of the
    /// connection.
    pub(super) fn with<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.users.fetch_add(1, Ordering::SeqCst);
        let _use = Use(&self.users);
        self.get().map(with)
    }

    /// The socket, for those who know that it cannot go now.
    pub(super) fn get(&self) -> Option<BorrowedFd<'_>> {
        let fd = self.fd.load(Ordering::SeqCst);
        // SAFETY: it is closed only when nobody uses it (see `take`); callers outside `with` hold
        // the connection's pending lock, or it is in a phase in which nobody closes it.
        (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) })
    }

    /// Takes it out, for nobody else to find, when the calls in progress are done.
    pub(super) fn take(&self) -> Option<OwnedFd> {
        let fd: RawFd = self.fd.swap(-1, Ordering::SeqCst);
        if fd < 0 {
            return None;
        }
        while self.users.load(Ordering::SeqCst) > 0 {
            rustix::thread::sched_yield();
        }
        // SAFETY: ours alone, and nobody finds it here any more.
        Some(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Closes it and remembers what it would answer. False if there is none.
    pub(super) fn give_up(&self) -> bool {
        // Whoever finds no socket from here on waits for the options.
        let mut options = self.options.lock();
        let Some(tcp) = self.take() else {
            return false;
        };
        *options = Some(Options::of(tcp.as_fd()));
        drop(options);
        // By a reset, so that the peer's end does not stay half open: that would hold up a later
        // connection between the same ports.
        let linger = [1i32.to_ne_bytes(), [0; 4]].concat();
        let _ = sys::set_bytes(tcp.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, &linger);
        true
    }

    /// Runs `with` on what is remembered of the socket, if it was given up.
    pub(super) fn with_options<T>(&self, with: impl FnOnce(&mut Options) -> T) -> Option<T> {
        self.options.lock().as_mut().map(with)
    }

    /// In the child after a fork: no other thread has a call in progress.
    ///
    /// # Safety
    /// No other thread runs.
    pub(super) unsafe fn forget_users(&self) {
        self.users.store(0, Ordering::SeqCst);
        if self.options.is_locked() {
            // SAFETY: who held it is not in this process; every value of it is a valid one.
            unsafe { self.options.force_unlock() };
        }
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl Connection {
    /// Runs `with` on the TCP socket behind the connection, which answers for its options. `None`
    /// once the program's own descriptor is the TCP socket, or after [`Self::give_up_tcp`].
    ///
    /// `with` makes system calls, and calls nothing of the connection.
    pub fn with_tcp<T>(&self, with: impl FnOnce(BorrowedFd<'_>) -> T) -> Option<T> {
        self.tcp.with(with)
    }

    /// Runs `with` on what is remembered of the TCP socket after [`Self::give_up_tcp`].
    pub fn with_options<T>(&self, with: impl FnOnce(&mut Options) -> T) -> Option<T> {
        self.tcp.with_options(with)
    }

    /// Closes the TCP socket of a connection that is on SMC, to have its descriptor. Options and
    /// addresses are remembered; SIGURG can no longer be sent or received. True if there was one.
    pub fn give_up_tcp(&self) -> bool {
        match self.smc() {
            // Its options are those of the other process, too; and who sends by RDMA watches it.
            Some(smc) if !smc.is_shared() && smc.mode() == Mode::Shm => self.tcp.give_up(),
            _ => false,
        }
    }

    /// The addresses of both ends, this one first, as they were when it was made.
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        self.info.local.zip(self.info.peer)
    }

    /// Another descriptor of the TCP socket; `None` once the program's own descriptor is it.
    pub fn duplicate_tcp(&self) -> Option<OwnedFd> {
        self.with_tcp(|tcp| crate::fds::duplicate(tcp).ok())?
    }

    /// An urgent byte is in the peer's ring: has its kernel send SIGURG to whom the peer's program
    /// made the owner of its socket, which is known there only. An urgent byte over TCP, which
    /// nobody reads, does that.
    #[cold]
    pub fn signal_urgent(&self) {
        // With its buffers full of such bytes the owner has had signals enough.
        self.with_tcp(|tcp| sys::send(tcp, b"!", libc::MSG_OOB | libc::MSG_DONTWAIT));
    }

    /// Takes the peer's bytes of [`Self::signal_urgent`] out of the TCP socket.
    #[cold]
    pub fn forget_urgent_signals(&self) {
        let mut bytes = [0; 64];
        self.with_tcp(
            |tcp| {
                while matches!(sys::recv(tcp, &mut bytes, libc::MSG_DONTWAIT), Ok(1..)) {}
            },
        );
    }
}

/// Options of a TCP socket that is no more.
#[derive(Debug, Clone)]
pub struct Options {
    ipv6: bool,
    /// Level, name, length (a byte each), and the value; one behind the other.
    values: Vec<u8>,
}

const TCP: i32 = libc::IPPROTO_TCP;
const SOCKET: i32 = libc::SOL_SOCKET;
const SO_COOKIE: i32 = 57;

/// What is remembered, and whether a new socket can be told it.
const REMEMBERED: &[(i32, i32, bool)] = &[
    (SOCKET, libc::SO_LINGER, true),
    (SOCKET, libc::SO_KEEPALIVE, true),
    (SOCKET, libc::SO_RCVTIMEO, true),
    (SOCKET, libc::SO_SNDTIMEO, true),
    (SOCKET, libc::SO_RCVLOWAT, true),
    (SOCKET, libc::SO_PRIORITY, true),
    (SOCKET, libc::SO_MARK, true),
    (SOCKET, libc::SO_OOBINLINE, true),
    (SOCKET, libc::SO_REUSEADDR, true),
    (SOCKET, libc::SO_REUSEPORT, true),
    (SOCKET, libc::SO_SNDBUF, false),
    (SOCKET, libc::SO_RCVBUF, false),
    (SOCKET, libc::SO_INCOMING_CPU, false),
    (SOCKET, SO_COOKIE, false),
    (TCP, libc::TCP_NODELAY, true),
    (TCP, libc::TCP_CORK, true),
    (TCP, libc::TCP_KEEPIDLE, true),
    (TCP, libc::TCP_KEEPINTVL, true),
    (TCP, libc::TCP_KEEPCNT, true),
    (TCP, libc::TCP_SYNCNT, true),
    (TCP, libc::TCP_LINGER2, true),
    (TCP, libc::TCP_USER_TIMEOUT, true),
    (TCP, libc::TCP_NOTSENT_LOWAT, true),
    (TCP, libc::TCP_CONGESTION, true),
    (TCP, libc::TCP_QUICKACK, false),
    (TCP, libc::TCP_MAXSEG, false),
    (TCP, libc::TCP_WINDOW_CLAMP, false),
    (TCP, libc::TCP_DEFER_ACCEPT, false),
    (TCP, libc::TCP_INFO, false),
    (libc::IPPROTO_IP, libc::IP_TOS, true),
    (libc::IPPROTO_IP, libc::IP_TTL, true),
    (libc::IPPROTO_IP, libc::IP_MTU, false),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, true),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, true),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, true),
];

impl Options {
    /// Of a socket of which nothing is known but its addresses.
    pub(super) fn of_address(local: Option<SocketAddr>) -> Self {
        Self {
            ipv6: local.is_some_and(|local| local.is_ipv6()),
            values: Vec::new(),
        }
    }

    fn of(tcp: BorrowedFd<'_>) -> Self {
        let domain = sys::get_int(tcp, SOCKET, libc::SO_DOMAIN);
        let mut options = Self {
            ipv6: domain == Ok(libc::AF_INET6),
            values: Vec::new(),
        };
        for &(level, name, _) in REMEMBERED {
            options.note(tcp, level, name);
        }
        options.values.shrink_to_fit();
        options
    }

    /// Remembers an option as a socket has it now.
    pub fn note(&mut self, socket: BorrowedFd<'_>, level: i32, name: i32) {
        let mut value = [0; u8::MAX as usize];
        let (Ok(len), Ok(short_level), Ok(short_name)) = (
            sys::get_bytes(socket, level, name, &mut value),
            u8::try_from(level),
            u8::try_from(name),
        ) else {
            return;
        };
        if let Some(at) = self.position(level, name) {
            let old = usize::from(self.values[at + 2]);
            self.values.drain(at..at + 3 + old);
        }
        self.values.extend([short_level, short_name, len as u8]);
        self.values.extend(&value[..len]);
    }

    /// The value of an option, as far as it is known.
    pub fn value(&self, level: i32, name: i32) -> Option<&[u8]> {
        let at = self.position(level, name)?;
        let len = usize::from(self.values[at + 2]);
        Some(&self.values[at + 3..at + 3 + len])
    }

    fn position(&self, level: i32, name: i32) -> Option<usize> {
        let mut at = 0;
        while let Some(&[l, n, len]) = self.values.get(at..at + 3) {
            if (i32::from(l), i32::from(n)) == (level, name) {
                return Some(at);
            }
            at += 3 + usize::from(len);
        }
        None
    }

    /// A socket of the same kind with the system's defaults: it knows which options there are,
    /// and which values are right.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn stand_in(&self) -> Result<OwnedFd, Errno> {
        let family = if self.ipv6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(ipproto::TCP);
        rustix::net::socket_with(family, SocketType::STREAM, flags, protocol).map(crate::fds::raise)
    }

    /// A socket like the one that was given up, not connected.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn restore(&self) -> Result<OwnedFd, Errno> {
        let socket = self.stand_in()?;
        for &(level, name, settable) in REMEMBERED {
            if let (true, Some(value)) = (settable, self.value(level, name)) {
                let _ = sys::set_bytes(socket.as_fd(), level, name, value);
            }
        }
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::Duration;

    use super::TcpSocket;
    use crate::sys;

    #[test]
    fn a_socket_that_is_given_up_is_remembered_and_reset() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let theirs = listener.accept().unwrap().0;
        ours.set_nodelay(true).unwrap();
        let (level, nodelay) = (libc::IPPROTO_TCP, libc::TCP_NODELAY);
        let socket = TcpSocket::new(OwnedFd::from(ours));
        assert!(socket.with_options(|_| ()).is_none());
        assert!(socket.give_up());
        assert!(!socket.give_up());
        assert!(socket.with(|_| ()).is_none());
        theirs
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let error = std::io::Read::read(&mut &theirs, &mut [0]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        let checked = socket.with_options(|options| {
            assert_eq!(options.value(level, nodelay), Some(&1i32.to_ne_bytes()[..]));
            let restored = options.restore().unwrap();
            assert_eq!(sys::get_int(restored.as_fd(), level, nodelay), Ok(1));
            // A later change replaces it, and nothing else.
            let stand_in = options.stand_in().unwrap();
            let info = options.value(level, libc::TCP_INFO).map(<[u8]>::to_vec);
            options.note(stand_in.as_fd(), level, nodelay);
            assert_eq!(options.value(level, nodelay), Some(&[0; 4][..]));
            assert_eq!(options.value(level, libc::TCP_INFO), info.as_deref());
        });
        assert!(checked.is_some());
    }

    #[test]
    fn nobody_loses_the_socket_while_using_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let socket = TcpSocket::new(OwnedFd::from(ours));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(protocol) = socket
                        .with(|tcp| sys::get_int(tcp, libc::SOL_SOCKET, libc::SO_PROTOCOL).unwrap())
                    {
                        assert_eq!(protocol, libc::IPPROTO_TCP);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(20));
            assert!(socket.give_up());
        });
    }
}

//! Whether routes, interfaces and addresses are as they were: the kernel tells of each change.

use std::time::{Duration, Instant};

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with, sockopt,
};
use syscalls::{Sysno, syscall};

/// Groups of rtnetlink, a bit each, number 1 the lowest: interfaces (1); addresses, routes and
/// rules of IPv4 (5, 7, 8) and of IPv6 (9, 11, 19).
const GROUPS: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 18;
/// That of next hops which routes share, beyond what the bits can say. Linux before 5.3 has none.
const NEXT_HOPS: u32 = 32;

const SOL_NETLINK: i32 = 270;
const NETLINK_ADD_MEMBERSHIP: i32 = 1;

/// What the kernel may keep for us, in bytes.
const ROOM: usize = 4096;

/// News that are read at a time; what is left is news the next time.
const MOST_NEWS: usize = 64;

/// How old the last look may be. What a connect() finds may change in the next microsecond, too.
const FRESH: Duration = Duration::from_millis(1);

/// A socket on which the kernel tells of changes in the network namespace of the process.
#[derive(Debug)]
pub(super) struct Watch {
    socket: OwnedFd,
    looked: Instant,
    /// When something was found to have changed, or the watch began.
    changed: Instant,
}

impl Watch {
    /// `keep` is given the socket, and may move it.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub(super) fn begin(keep: fn(OwnedFd) -> OwnedFd, now: Instant) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // NETLINK_ROUTE is 0.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // A program that makes no connections reads none of them. That there were too many is news
        // enough.
        let _ = sockopt::set_socket_recv_buffer_size(&socket, ROOM);
        bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        let group = NEXT_HOPS;
        // SAFETY: the option's value is valid for reads of its length. A kernel without that group
        // has no such next hops.
        let _ = unsafe {
            syscall!(
                Sysno::setsockopt,
                socket.as_raw_fd(),
                SOL_NETLINK,
                NETLINK_ADD_MEMBERSHIP,
                &raw const group,
                size_of::<u32>()
            )
        };
        Ok(Self {
            socket: keep(socket),
            looked: now,
            changed: now,
        })
    }

    /// When the last change was found. One system call if there was none, and none at all right
    /// after the last look.
    ///
    /// # Errors
    /// The socket is of no use any more.
    pub(super) fn last_change(&mut self, now: Instant) -> Result<Instant, Errno> {
        if now.saturating_duration_since(self.looked) < FRESH {
            return Ok(self.changed);
        }
        let mut news = [0; 64];
        for _ in 0..MOST_NEWS {
            match recv(&self.socket, &mut news[..], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN) => break,
                // There were more than the socket has room for.
                Ok(_) | Err(Errno::NOBUFS | Errno::INTR) => self.changed = now,
                Err(errno) => return Err(errno),
            }
        }
        self.looked = now;
        Ok(self.changed)
    }
}

//! Descriptors: close, dup, fcntl, ioctl.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::c_int;
use rustix::io::Errno;
use smcr_core::engine::{Phase, is_reported_readable};
use smcr_core::sys;

use super::options;
use super::setup::put;
use crate::outcome::{Outcome, PassOn};
use crate::real;
use crate::stream::StreamRef;
use crate::table::{self, Entry};

/// The process that the table describes.
static PROCESS: AtomicU32 = AtomicU32::new(0);

/// The table describes this process from now on.
pub(crate) fn adopt_process() {
    PROCESS.store(sys::getpid(), Ordering::Relaxed);
}

/// Whether this is a vfork child (or a raw clone): it has our memory, but descriptors of its own,
/// so the table is not to be touched.
pub(crate) fn is_other_process() -> bool {
    PROCESS.load(Ordering::Relaxed) != sys::getpid()
}

/// `fd` is about to be closed, or replaced by another file.
pub(crate) fn closing(fd: RawFd) {
    if !table::is_known(fd) || is_other_process() {
        return;
    }
    match put(fd, Entry::None) {
        Entry::Stream(stream) => stream_closing(fd, &stream),
        Entry::Set(set) => set.unnamed(),
        // The kernel forgets it in every epoll set; those that we know have to, too.
        Entry::Plain(_) => forget_in_sets(fd),
        Entry::None => {}
    }
}

fn forget_in_sets(fd: RawFd) {
    let sets = {
        let guard = table::lock();
        table::sets(&guard)
    };
    for (_, set) in sets {
        set.remove(fd, true);
    }
}

fn stream_closing(fd: RawFd, stream: &StreamRef) {
    let last = {
        let _guard = table::lock();
        let mut fds = stream.fds.lock();
        fds.retain(|&known| known != fd);
        fds.is_empty()
    };
    if last {
        stream.watch.forget_looker();
        forget_in_sets(fd);
        let abort = options::wants_reset(&stream.connection);
        stream.connection.close(abort);
    } else if stream.watch.is_registered() {
        // The kernel keeps the registration of a file that is open under another number: it
        // reports what it knows, so it has to know everything.
        stream.watch.set_looker(None, stream.connection.smc());
    }
}

/// `new` became another name of `old`. What `new` was before is known to be closed.
pub(crate) fn duplicated(old: RawFd, new: RawFd) {
    if is_other_process() {
        return;
    }
    match table::entry(old) {
        Entry::None => {}
        Entry::Stream(stream) => {
            let guard = table::lock();
            stream.fds.lock().push(new);
            let before = table::put(new, Entry::Stream(stream.clone()), &guard);
            drop(guard);
            drop(before);
            super::stdio::landed(new);
        }
        Entry::Plain(plain) => drop(put(new, Entry::Plain(plain))),
        Entry::Set(set) => {
            set.named();
            drop(put(new, Entry::Set(set)));
        }
    }
}

/// close_range, closefrom: the entries from `first` to `last` go.
pub(crate) fn closing_range(first: u32, last: u32) {
    let bound = |fd: u32| RawFd::try_from(fd).unwrap_or(RawFd::MAX);
    for fd in table::known(bound(first), bound(last)) {
        closing(fd);
    }
}

/// Calls `close` for the range, leaving out the library's own descriptors: the program does not
/// know of them, and closes what it did not open to be sure that nothing is left.
pub(crate) fn close_range(first: u32, last: u32, close: impl Fn(u32, u32) -> c_int) -> c_int {
    // So in a vfork child, which may have to pass on connections; exec closes them.
    let mut from = first;
    let mut result = 0;
    while let Some(own) = smcr_core::fds::next_own(from).filter(|&own| own <= last) {
        if from < own {
            result = result.min(close(from, own - 1));
        }
        if own == last {
            return result;
        }
        from = own + 1;
    }
    result.min(close(from, last))
}

/// Whether the kernel knows the descriptor.
pub(crate) fn is_open(fd: RawFd) -> bool {
    real::fcntl(fd, libc::F_GETFD, 0).is_ok()
}

/// fcntl(F_SETFL) succeeded.
pub(crate) fn status_changed(fd: RawFd, flags: c_int) {
    if let Some(stream) = table::stream(fd) {
        stream
            .connection
            .set_nonblocking(flags & libc::O_NONBLOCK != 0);
        let signals = flags & libc::O_ASYNC != 0;
        stream.watch.set_signals(signals);
        if let (true, Some(smc)) = (signals, stream.connection.smc()) {
            smc.arm();
        }
    }
}

/// ioctl() of a stream. `arg` is what the program passed.
///
/// # Safety
/// `arg` is valid for the request, as for ioctl(2).
pub(crate) unsafe fn ioctl(
    fd: RawFd,
    request: libc::Ioctl,
    arg: *mut libc::c_void,
) -> Outcome<c_int> {
    let Some(stream) = table::stream(fd) else {
        return Outcome::PassOn(PassOn::NotOurs);
    };
    if request as libc::c_ulong == libc::FIONBIO as libc::c_ulong {
        // SAFETY: FIONBIO takes a pointer to an int.
        let on = unsafe { arg.cast::<c_int>().read_unaligned() } != 0;
        stream.connection.set_nonblocking(on);
        return Outcome::PassOn(PassOn::NotOurs);
    }
    if matches!(
        request as libc::c_ulong,
        libc::FIONREAD | libc::TIOCOUTQ | SIOCATMARK
    ) {
        // SAFETY: the program's own descriptor, in its call on it.
        let end = unsafe { BorrowedFd::borrow_raw(fd) };
        if stream.connection.phase() == Phase::Committing && is_reported_readable(end) {
            // See `Connection::recv`.
            stream.connection.wait_decided();
        }
        // Checks the program's pointer.
        // SAFETY: by this function's contract.
        let ask = |socket: RawFd| unsafe { real::ioctl(socket, request, arg) };
        let asked = stream.connection.with_tcp(|tcp| ask(tcp.as_raw_fd()));
        if let Some(Err(errno)) = asked {
            return Outcome::Failed(errno);
        }
        match stream.connection.phase() {
            // Before the handshake it is the TCP socket that has the bytes.
            Phase::Pending => return Outcome::Done(0),
            Phase::Tcp => return Outcome::PassOn(PassOn::OnTcp),
            // During the handshake what it has is none of the program's.
            Phase::Committing | Phase::Smc => {}
        }
    }
    let answer = match request as libc::c_ulong {
        libc::FIONREAD => match stream.connection.smc() {
            Some(smc) => smc.fionread() as c_int,
            None => 0,
        },
        // Bytes not yet acknowledged: what is sent is in the peer's memory.
        libc::TIOCOUTQ => 0,
        SIOCATMARK => match stream.connection.smc() {
            Some(smc) => c_int::from(smc.at_urgent_mark()),
            None => 0,
        },
        _ => return Outcome::PassOn(PassOn::NotOurs),
    };
    if arg.is_null() {
        return Outcome::Failed(Errno::FAULT);
    }
    // SAFETY: these requests take a pointer to an int.
    unsafe { arg.cast::<c_int>().write_unaligned(answer) };
    Outcome::Done(0)
}

const SIOCATMARK: libc::c_ulong = 0x8905;

/// shutdown() of a stream.
pub(crate) fn shutdown(fd: RawFd, how: c_int) -> Outcome<c_int> {
    let Some(stream) = table::stream(fd) else {
        return Outcome::PassOn(PassOn::NotOurs);
    };
    stream.connection.withdraw(smcr_core::Reason::EarlyData);
    let Some(smc) = stream.connection.smc() else {
        return Outcome::PassOn(PassOn::OnTcp);
    };
    // SAFETY: the program's own descriptor, in its call on it.
    let result = smc.shutdown(unsafe { BorrowedFd::borrow_raw(fd) }, how);
    if result.is_ok() {
        // For TCP_INFO and the like; the peer's library takes no notice.
        stream.connection.with_tcp(|tcp| sys::shutdown(tcp, how));
    }
    result.map(|()| 0).into()
}

/// Whether new descriptors of the program may have this number: the library raised the limit for
/// itself, which must not be seen.
pub(crate) fn within_limit(fd: RawFd) -> bool {
    if fd < smcr_core::fds::program_limit() {
        return true;
    }
    real::close(fd);
    real::set_errno(Errno::MFILE);
    false
}

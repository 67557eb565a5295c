//! exec and spawn: connections that the new program inherits.

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::{c_char, c_int};
use parking_lot::Mutex;
use smcr_core::Reason;
use smcr_core::engine::handover::{self, Arrived, Executing, Handover};
use smcr_core::engine::{self, Connection, Engine, PUBLISHER, engine};
use smcr_core::signal::option::{self, Withdrawn};

use super::image::{self, Image};
use super::{fds, fork};
use crate::real;
use crate::stream::StreamRef;
use crate::table::{self, Entry};

/// One spawn at a time: there is one number for what a child has to find.
static SPAWNING: Mutex<()> = Mutex::new(());

/// Listening sockets of this process are with programs that do not load the library.
static LEFT_LISTENERS: AtomicBool = AtomicBool::new(false);

/// The process's streams, by what an exec now would do to them.
#[derive(Default)]
struct Streams {
    passing: Vec<(Arc<Connection>, u64)>,
    leaving: Vec<Arc<Connection>>,
}

/// `passes` says of a descriptor whether the new program gets it.
fn streams(passes: impl Fn(RawFd) -> bool) -> Streams {
    let _guard = table::lock();
    let mut found = Streams::default();
    for stream in fork::all_streams() {
        let connection = Arc::clone(&stream.connection);
        if stream.fds.lock().iter().any(|&fd| passes(fd)) {
            let inode = stream.inode();
            found.passing.push((connection, inode));
        } else {
            found.leaving.push(connection);
        }
    }
    found
}

fn is_inheritable(fd: RawFd) -> bool {
    real::fcntl(fd, libc::F_GETFD, 0).is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0)
}

/// The streams that a vfork child passes on. It shares the table with its parent, but has
/// descriptors of its own, which only the kernel knows.
fn streams_of_vfork_child() -> Streams {
    let mut known: HashMap<u64, Arc<Connection>> = HashMap::new();
    {
        let _guard = table::lock();
        for stream in fork::all_streams() {
            let inode = stream.inode();
            known.insert(inode, Arc::clone(&stream.connection));
        }
    }
    let mut found = Streams::default();
    if known.is_empty() {
        return found;
    }
    for fd in handover::open_fds() {
        if is_inheritable(fd)
            && let Some(inode) = handover::socket_inode(fd)
            && let Some(connection) = known.remove(&inode)
        {
            found.passing.push((connection, inode));
        }
    }
    found
}

/// Whether the new program will not see to its connections; says so.
///
/// # Safety
/// `envp` is null or an array of C strings that ends in null.
unsafe fn are_lost(streams: &Streams, image: Image<'_>, envp: *const *const c_char) -> bool {
    // SAFETY: by this function's contract.
    let Some(why) = (unsafe { image::stays_out(image, envp) }) else {
        return false;
    };
    for (connection, _) in &streams.passing {
        if connection.smc().is_some() {
            log::warn!("{image:?} inherits a connection and cannot use it: {why}");
            PUBLISHER.fallback(Reason::Executed);
        }
    }
    true
}

/// Whether a program that does not load the library got listening sockets of this process.
pub(crate) fn have_left_listeners() -> bool {
    LEFT_LISTENERS.load(Ordering::Relaxed)
}

/// A program that does not load the library is about to get what `passes`: no client is to take it
/// for one that understands CLC.
fn leave_listeners(passes: impl Fn(RawFd) -> bool) -> Withdrawn {
    let fds = handover::open_fds().into_iter().filter(|&fd| passes(fd));
    // SAFETY: open a moment ago. If another thread closes one meanwhile, the kernel says so.
    let fds = fds.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    let withdrawn = option::withdraw_listeners(fds);
    if !withdrawn.is_complete() {
        log::warn!("a program without the library inherits a listener that clients take for SMC's");
    }
    if !withdrawn.is_empty() {
        // Now, since an exec does not return. A vfork child tells its parent by this.
        LEFT_LISTENERS.store(true, Ordering::Relaxed);
    }
    withdrawn
}

/// Any function of the exec family: `call` makes the real call, which returns only on failure.
///
/// # Safety
/// `envp` is null or an array of C strings that ends in null.
pub(crate) unsafe fn exec(
    image: Image<'_>,
    envp: *const *const c_char,
    call: impl FnOnce() -> c_int,
) -> c_int {
    if engine().is_none() {
        return call();
    }
    let is_vfork_child = fds::is_other_process();
    // Its parent did this before the vfork; here it would change the wrong descriptors.
    let rest = if is_vfork_child {
        None
    } else {
        engine::before_fork()
    };
    let (streams, who) = if is_vfork_child {
        (streams_of_vfork_child(), Executing::Child)
    } else {
        (streams(is_inheritable), Executing::Myself)
    };
    let had_left = have_left_listeners();
    // SAFETY: by this function's contract.
    let (handover, withdrawn) = if unsafe { are_lost(&streams, image, envp) } {
        if !is_vfork_child {
            PUBLISHER.close();
        }
        (None, Some(leave_listeners(is_inheritable)))
    } else {
        (prepare(streams, who), None)
    };
    let _limit = handover
        .is_none()
        .then(smcr_core::fds::ProgramLimit::restore);
    let ret = call();
    let _errno = real::KeepErrno::new();
    // It failed: the listeners are this program's still, and ask again.
    drop(withdrawn);
    LEFT_LISTENERS.store(had_left, Ordering::Relaxed);
    drop(handover);
    drop(rest);
    ret
}

fn prepare(streams: Streams, who: Executing) -> Option<Handover> {
    if streams.passing.is_empty()
        && streams.leaving.is_empty()
        && !(who == Executing::Myself && PUBLISHER.is_published())
    {
        return None;
    }
    Handover::prepare(&streams.passing, streams.leaving, who)
        .inspect_err(|errno| log::warn!("exec: connections cannot be passed on: {errno}"))
        .ok()
}

/// posix_spawn, popen: `call` makes the real call; 0 is success. `moved` says which descriptors
/// the child gets besides those that are not close-on-exec.
///
/// # Safety
/// `envp` is null or an array of C strings that ends in null.
pub(crate) unsafe fn spawn<T>(
    image: Image<'_>,
    envp: *const *const c_char,
    moved: &[RawFd],
    call: impl FnOnce() -> T,
    succeeded: impl FnOnce(&T) -> bool,
) -> T {
    if engine().is_none() || fds::is_other_process() {
        return call();
    }
    let _one = SPAWNING.lock();
    drop(engine::before_fork());
    let passes = |fd| is_inheritable(fd) || moved.contains(&fd);
    let streams = Streams {
        leaving: Vec::new(),
        ..streams(passes)
    };
    let had_left = have_left_listeners();
    // SAFETY: by this function's contract.
    let (handover, withdrawn) = if unsafe { are_lost(&streams, image, envp) } {
        (None, Some(leave_listeners(passes)))
    } else {
        (prepare(streams, Executing::Child), None)
    };
    let limit = handover
        .is_none()
        .then(smcr_core::fds::ProgramLimit::restore);
    let done = call();
    let _errno = real::KeepErrno::new();
    let succeeded = succeeded(&done);
    match handover {
        Some(handover) if succeeded => handover.spawned(),
        handover => drop(handover),
    }
    match withdrawn {
        Some(withdrawn) if succeeded => withdrawn.keep(),
        withdrawn => {
            drop(withdrawn);
            LEFT_LISTENERS.store(had_left, Ordering::Relaxed);
        }
    }
    drop(limit);
    done
}

/// Before a vfork: connections whose handshake is pending go on over TCP, as before a fork.
///
/// vfork itself stays what it is. Its child shares our memory and has its own descriptors, so
/// everything that would change the table sees that it runs in another process and stays away
/// (`fds::is_other_process`); the table goes on to describe the parent, which is right when it
/// continues. To make it a fork would be sound, too, but slow in a large process, and programs
/// exist whose child tells the parent by a variable why exec failed.
pub(crate) fn before_vfork() {
    if fds::is_other_process() {
        return;
    }
    drop(engine::before_fork());
    // The child knows its descriptors by their inodes, and may change which number is which.
    let _guard = table::lock();
    for stream in fork::all_streams() {
        stream.inode();
    }
}

/// Takes over the connections that came with the exec of this program.
pub(crate) fn arrive(engine: &'static Engine) {
    handover::arrive(engine).into_iter().for_each(take);
}

/// Takes over a connection that came to this process.
pub(crate) fn take(arrived: Arrived) {
    let stream = StreamRef::new(arrived.connection);
    let first = arrived.fds.first();
    if let Some(Ok(status)) = first.map(|&fd| real::fcntl(fd, libc::F_GETFL, 0)) {
        let nonblocking = status & libc::O_NONBLOCK != 0;
        stream.connection.set_nonblocking(nonblocking);
    }
    let mut before = Vec::new();
    {
        let guard = table::lock();
        for &fd in &arrived.fds {
            stream.fds.lock().push(fd);
            before.push(table::put(fd, Entry::Stream(stream.clone()), &guard));
        }
    }
    drop(before);
    for &fd in &arrived.fds {
        super::stdio::landed(fd);
    }
}

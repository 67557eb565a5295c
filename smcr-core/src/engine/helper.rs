//! The helper thread: carries out the client's side of handshakes while the program does what it
//! likes. It starts with the first pending connection and ends when there has been none for a
//! while.

mod handshake;

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;

use super::Engine;
use super::connection::Connection;
use crate::Reason;
use crate::{fds, sys};

/// How long the thread waits for work before it ends.
const LINGER: Duration = Duration::from_secs(2);

/// The thread's mailbox.
#[derive(Debug)]
pub(super) struct Helper {
    epoll: OwnedFd,
    wake: OwnedFd,
    state: Mutex<State>,
    /// Held by the thread while it works, and across a fork.
    busy: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    next: u64,
    /// Locked after a connection's own lock, never before.
    pending: HashMap<u64, Arc<Connection>>,
    /// When to give up on whom. Few have one.
    deadlines: Vec<(Instant, u64)>,
}

/// Keeps the helper thread at rest until it is dropped.
#[derive(Debug)]
pub(super) struct Rest {
    _busy: MutexGuard<'static, ()>,
}

/// What an epoll event is about: the connection's number and one of these.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject {
    Call = 0,
    Channel = 1,
    Tcp = 2,
}

fn data(id: u64, subject: Subject) -> EventData {
    EventData::new_u64(id << 2 | subject as u64)
}

impl Helper {
    pub(super) fn new() -> Result<Self, Errno> {
        let epoll = fds::raise(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = fds::raise(rustix::event::eventfd(0, flags)?);
        epoll::add(&epoll, &wake, EventData::new_u64(u64::MAX), EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            state: Mutex::default(),
            busy: Mutex::new(()),
        })
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Brings every pending connection to SMC or TCP, and the thread to rest.
    pub(super) fn rest(&'static self) -> Rest {
        let pending: Vec<_> = self.state.lock().pending.values().cloned().collect();
        for connection in pending {
            connection.withdraw(Reason::Forked);
        }
        Rest {
            _busy: self.busy.lock(),
        }
    }

    /// The handshake of a connection is over, or given up. `tcp` stays open under the program's
    /// own number, so the kernel would go on reporting it.
    pub(super) fn forget(&self, connection: &Connection, tcp: Option<BorrowedFd<'_>>) {
        if let Some(tcp) = tcp {
            let _ = epoll::delete(&self.epoll, tcp);
        }
        let id = connection.helper_id();
        let mut state = self.state.lock();
        state.pending.remove(&id);
        state.deadlines.retain(|(_, of)| *of != id);
    }

    /// Sets when to stop waiting for the peer's call, unless a deadline is set already.
    fn wait_for_call(&self, connection: &Connection, at: Instant) {
        let id = connection.helper_id();
        let mut state = self.state.lock();
        if state.pending.contains_key(&id) && state.deadlines.iter().all(|(_, of)| *of != id) {
            state.deadlines.push((at, id));
        }
    }

    /// Sets when the handshake has to be done. What was set for the call no longer counts: it
    /// came.
    fn wait_for_handshake(&self, connection: &Connection, at: Instant) {
        let id = connection.helper_id();
        let mut state = self.state.lock();
        state.deadlines.retain(|(_, of)| *of != id);
        state.deadlines.push((at, id));
    }
}

impl Engine {
    /// Hands a connection to the helper thread. If that is not possible it stays on TCP.
    pub fn watch(&'static self, connection: &Arc<Connection>) {
        if connection
            .lock_pending()
            .as_ref()
            .is_some_and(|pending| pending.rdma.is_some())
        {
            return self.watch_rdma(connection);
        }
        let helper = &self.helper;
        let id = {
            let mut state = helper.state.lock();
            state.next += 1;
            let id = state.next;
            connection.set_helper_id(id);
            state.pending.insert(id, Arc::clone(connection));
            if !state.running {
                state.running = self.start_helper();
            }
            if !state.running {
                state.pending.remove(&id);
                drop(state);
                connection.withdraw(Reason::Internal);
                return;
            }
            id
        };
        let guard = connection.lock_pending();
        let Some(pending) = guard.as_ref() else {
            return;
        };
        let mut added = Ok(());
        if let Some(listener) = &pending.listener {
            added = epoll::add(
                &helper.epoll,
                listener,
                data(id, Subject::Call),
                EventFlags::IN,
            );
        }
        if let Some(tcp) = connection.tcp() {
            let events = EventFlags::IN | EventFlags::RDHUP;
            added =
                added.and_then(|()| epoll::add(&helper.epoll, tcp, data(id, Subject::Tcp), events));
        }
        drop(guard);
        if added.is_err() {
            connection.withdraw(Reason::Internal);
        }
    }

    /// Makes the helper give up on a connection after `wait`, if nothing came of it by then.
    pub(super) fn helper_deadline(&self, connection: &Connection, wait: Duration) {
        self.helper.wait_for_call(connection, Instant::now() + wait);
        self.helper.wake();
    }

    /// See [`Helper::forget`].
    pub(super) fn helper_forget(&self, connection: &Connection, tcp: Option<BorrowedFd<'_>>) {
        self.helper.forget(connection, tcp);
    }

    fn start_helper(&'static self) -> bool {
        spawn("smcr", move || self.helper_main())
    }

    fn helper_main(&'static self) {
        let helper = &self.helper;
        let mut events = Vec::with_capacity(64);
        let mut idle_since = Instant::now();
        loop {
            let deadline = {
                let mut state = helper.state.lock();
                if !state.pending.is_empty() {
                    idle_since = Instant::now();
                } else if idle_since.elapsed() >= LINGER {
                    state.running = false;
                    return;
                }
                if state.pending.is_empty() {
                    Some(idle_since + LINGER)
                } else {
                    state.deadlines.iter().map(|(at, _)| *at).min()
                }
            };
            let timeout = deadline.map(|at| {
                let left = at.saturating_duration_since(Instant::now());
                Timespec {
                    tv_sec: left.as_secs() as i64,
                    tv_nsec: i64::from(left.subsec_nanos()) + 1000,
                }
            });
            events.clear();
            let space = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&helper.epoll, space, timeout.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Somebody closed it by a system call of his own. What is pending ends by its
                // deadline.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            let _busy = helper.busy.lock();
            for event in &events {
                self.helper_event(event.data.u64());
            }
            self.helper_timeouts();
        }
    }

    fn helper_event(&'static self, word: u64) {
        if word == u64::MAX {
            let mut count = [0u8; 8];
            let _ = rustix::io::read(&self.helper.wake, &mut count);
            return;
        }
        let (id, subject) = (word >> 2, word & 3);
        let Some(connection) = self.helper.state.lock().pending.get(&id).cloned() else {
            return;
        };
        let mut guard = connection.lock_pending();
        match guard.as_mut() {
            None => {}
            Some(_) if subject == Subject::Call as u64 => {
                self.answer_call(&connection, &mut guard, id)
            }
            Some(_) if subject == Subject::Channel as u64 => {
                self.read_channel(&connection, &mut guard)
            }
            Some(pending) if pending.handshake.is_some() => self.read_tcp(&connection, &mut guard),
            Some(_) => {
                // Data or an end from the server, and no call: it does not run under the library.
                connection.to_tcp(&mut guard, Reason::PeerNoSmc);
            }
        }
    }

    fn helper_timeouts(&'static self) {
        let now = Instant::now();
        let due: Vec<_> = {
            let mut state = self.helper.state.lock();
            let late = state.deadlines.extract_if(.., |(at, _)| *at <= now);
            let ids: Vec<u64> = late.map(|(_, id)| id).collect();
            ids.iter()
                .filter_map(|id| state.pending.get(id).cloned())
                .collect()
        };
        for connection in due {
            let mut guard = connection.lock_pending();
            match guard.as_mut() {
                Some(pending) if pending.handshake.is_some() => {
                    self.abandon(&connection, &mut guard, Reason::ClcTimeout);
                }
                _ => connection.to_tcp(&mut guard, Reason::EarlyData),
            }
        }
    }
}

/// Starts a thread of the library's own. False if that is not possible.
pub(super) fn spawn(name: &str, main: impl FnOnce() + Send + 'static) -> bool {
    // The program's signals are not for this thread: it inherits a full mask.
    // SAFETY: plain sigset operations on local values.
    let old = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
        old
    };
    let spawned = std::thread::Builder::new()
        .name(name.into())
        .stack_size(256 << 10)
        .spawn(main);
    // SAFETY: as above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &old, std::ptr::null_mut()) };
    spawned.is_ok()
}

/// Ends a TCP connection at once, at both ends, as by a reset. What was received and not read is
/// thrown away: it may be CLC, which no program is to see.
pub(super) fn disconnect(tcp: BorrowedFd<'_>) {
    if let Err(errno) = rustix::net::connect_unspec(tcp) {
        log::warn!("a connection could not be reset: {errno}");
    }
    // The socket is as if never connected; a receive is to find an end, not that. (The call says
    // ENOTCONN, and does it.)
    let _ = rustix::net::shutdown(tcp, rustix::net::Shutdown::Both);
}

/// Writes a CLC message. It is far smaller than any send buffer; a peer that does not take it in
/// time lets the handshake run into its deadline.
pub(super) fn transmit(tcp: BorrowedFd<'_>, message: Option<Vec<u8>>) {
    let Some(message) = message else { return };
    let mut rest = &message[..];
    while !rest.is_empty() {
        match sys::send(tcp, rest, libc::MSG_DONTWAIT) {
            Ok(n) => rest = &rest[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if !matches!(sys::poll_one(tcp, libc::POLLOUT, Some(200)), Ok(1..)) {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

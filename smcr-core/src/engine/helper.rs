//! The helper thread: carries out the client's side of handshakes while the program does what it
//! likes. It starts with the first pending connection and ends when there has been none for a
//! while.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;

use super::client::Pending;
use super::connection::Connection;
use super::{Engine, PUBLISHER};
use crate::Reason;
use crate::clc::{DmbToken, RmbeIndex, RmbeSize};
use crate::conn::{Home, Smc};
use crate::group::LinkGroup;
use crate::handshake::shm::{ShmBuffer, ShmGid, ShmOffer};
use crate::handshake::{Event, ShmClient};
use crate::rendezvous::messages::{self, Message, RmbInfo};
use crate::shm::Rx;
use crate::stat::Counter;
use crate::{fds, sys};

/// How long the thread waits for work before it ends.
const LINGER: Duration = Duration::from_secs(2);

/// How long it looks for an answer before it sleeps: the server's library is at work on it.
const ANSWER_SPIN: Duration = Duration::from_micros(80);

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

    fn answer_call(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        id: u64,
    ) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let Some(Ok((channel, uid))) = pending.listener.as_ref().map(|l| l.accept()) else {
            return;
        };
        if !self.trusts(uid) {
            log::debug!("call from uid {uid} refused");
            connection.to_tcp(guard, Reason::OtherUser);
            return;
        }
        pending.channel = Some(channel);
        self.read_channel(connection, guard);
        // Mostly the Hello is there already.
        if let Some(pending) = guard
            && pending.handshake.is_none()
            && let Some(channel) = &pending.channel
        {
            let word = data(id, Subject::Channel);
            if epoll::add(&self.helper.epoll, channel, word, EventFlags::IN).is_err() {
                pending.channel = None;
            }
        }
    }

    fn read_channel(&'static self, connection: &Arc<Connection>, guard: &mut Option<Pending>) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let Some(channel) = &pending.channel else {
            return;
        };
        if pending.handshake.is_some() {
            // The memory message; it is read when the Accept names it. Not a level to wake for.
            let _ = epoll::delete(&self.helper.epoll, channel);
            return self.read_tcp(connection, guard);
        }
        match messages::recv(channel.as_fd()) {
            Err(Errno::AGAIN) => {}
            Ok((Message::Hello { tsval, gid }, _)) if pending.knows(tsval) => {
                match self.commit(connection, pending, ShmGid(gid)) {
                    Ok(()) => self.read_tcp(connection, guard),
                    Err(reason) => connection.to_tcp(guard, reason),
                }
            }
            Ok(_) | Err(Errno::PROTO) => {
                // Somebody else's words. The real peer may still call.
                log::debug!("{pending:?}: a call that does not know the connection");
                pending.channel = None;
            }
            Err(_) => {
                // The server's library gave up: it knows no more of us.
                connection.to_tcp(guard, Reason::NoAnswer);
            }
        }
    }

    /// Says yes to the call, and starts the CLC handshake.
    fn commit(
        &'static self,
        connection: &Connection,
        pending: &mut Pending,
        server: ShmGid,
    ) -> Result<(), Reason> {
        let (Some(channel), Some(end), Some(tcp)) =
            (&pending.channel, &pending.server_end, connection.tcp())
        else {
            return Err(Reason::Internal);
        };
        let group = self.group(server);
        let rx = group
            .take_rmbe(self.config.max_memory())
            .map_err(|_| Reason::Memory)?;
        let (rmb, _) = rx.rmbe();
        let commit = Message::Commit {
            early: pending.early,
            gid: self.identity.gid.0,
            rmb: RmbInfo {
                token: rmb.token(),
                geometry: rmb.geometry(),
            },
            group: group.id(),
        };
        if messages::send(channel.as_fd(), &commit, &[end.as_fd(), rmb.fd()]).is_err() {
            group.give_back(&rx);
            return Err(Reason::NoAnswer);
        }
        // From here on the server's library expects CLC on the TCP stream.
        connection.set_committing();
        PUBLISHER.count(Counter::HandshakesStarted);
        pending.server_end = None;
        pending.listener = None;
        pending.buffer = Some((group, rx));
        let offer = ShmOffer {
            identity: self.identity,
            eids: self.eids.clone(),
        };
        let mut handshake = ShmClient::new(offer, self.timeouts(), Instant::now());
        if let Some(at) = handshake.poll_timeout() {
            self.helper.wait_for_handshake(connection, at);
        }
        transmit(tcp, handshake.poll_transmit());
        pending.handshake = Some(handshake);
        // The server is at work on the answer.
        let until = Instant::now() + ANSWER_SPIN;
        while sys::poll_one(tcp, libc::POLLIN, Some(0)) == Ok(0) && Instant::now() < until {
            rustix::thread::sched_yield();
        }
        Ok(())
    }

    /// Goes on with the CLC handshake as far as the bytes in the TCP stream allow.
    fn read_tcp(&'static self, connection: &Arc<Connection>, guard: &mut Option<Pending>) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let (Some(handshake), Some(tcp)) = (&mut pending.handshake, connection.tcp()) else {
            return;
        };
        let mut bytes = [0u8; 4096];
        loop {
            let needed = handshake.needed().min(bytes.len());
            let now = Instant::now();
            let fed = match sys::recv(tcp, &mut bytes[..needed], libc::MSG_DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok(0) | Err(_) => handshake.handle_end(),
                Ok(n) => handshake.handle_bytes(&bytes[..n], now).map(drop),
            };
            if let Err(error) = fed {
                log::debug!("handshake: {error}");
                self.abandon(connection, guard, error.reason());
                return;
            }
            match handshake.poll_event() {
                None => {}
                Some(Event::Accepted(accepted)) => {
                    break self.accepted_by(connection, guard, accepted.peer);
                }
                Some(Event::Declined { code, .. }) => {
                    log::debug!("the peer declined: {code:?}");
                    break self.declined(connection, guard, Reason::PeerDeclined);
                }
                Some(Event::Refused { reason }) => {
                    transmit(tcp, handshake.poll_transmit());
                    break self.declined(connection, guard, reason);
                }
                Some(event) => log::error!("unexpected in a client's handshake: {event:?}"),
            }
        }
    }

    /// The Accept came: everything is there for the switch.
    fn accepted_by(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        peer: ShmBuffer,
    ) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let (Some(handshake), Some(tcp)) = (&mut pending.handshake, connection.tcp()) else {
            return;
        };
        let joined = self.join(
            &pending.channel,
            &mut pending.buffer,
            peer,
            u64::from(pending.early),
        );
        match joined {
            Ok((smc, local)) => {
                if handshake.confirm(local).is_err() {
                    self.abandon(connection, guard, Reason::Internal);
                    return;
                }
                let confirm = handshake.poll_transmit();
                self.helper.forget(connection, Some(tcp));
                log::debug!("{} -> {}: shm", pending.local, pending.peer);
                connection.set_smc(smc, || transmit(tcp, confirm));
                *guard = None;
            }
            Err(reason) => {
                let _ = handshake.decline(reason);
                transmit(tcp, handshake.poll_transmit());
                self.declined(connection, guard, reason)
            }
        }
    }

    /// Joins our buffer and the server's to a stream.
    fn join(
        &self,
        channel: &Option<OwnedFd>,
        buffer: &mut Option<(Arc<LinkGroup>, Rx)>,
        peer: ShmBuffer,
        early: u64,
    ) -> Result<(Smc, ShmBuffer), Reason> {
        let (rmb, memory) = match &*buffer {
            None => return Err(Reason::Internal),
            // Not the process that said Hello.
            Some((group, _)) if peer.gid.0 != group.peer() => return Err(Reason::ClcInvalid),
            Some((group, _)) => self.memory(channel, group, peer.token.0)?,
        };
        if rmb.token != peer.token.0 || rmb.geometry.rmbe_size as usize != peer.size.bytes() {
            return Err(Reason::BadMemory);
        }
        let (group, rx) = buffer.take().ok_or(Reason::Internal)?;
        let tx = group.peer_rmbe(rmb.token, rmb.geometry, peer.index.get(), memory);
        let (tx, local) = match (tx, self.arena.take()) {
            (Ok(tx), Some(local)) => (tx, local),
            (tx, local) => {
                if let Some(local) = local {
                    self.arena.give_back(&local);
                }
                if let Ok(tx) = &tx {
                    group.release_peer(tx);
                }
                group.give_back(&rx);
                return Err(if tx.is_err() {
                    Reason::BadMemory
                } else {
                    Reason::Memory
                });
            }
        };
        let own = self.describe(&rx)?;
        Ok((Smc::new(tx, rx, local, Home::Shm(group), early), own))
    }

    /// The RMB that the server named: known, or passed by it.
    fn memory(
        &self,
        channel: &Option<OwnedFd>,
        group: &LinkGroup,
        token: u64,
    ) -> Result<(RmbInfo, Option<OwnedFd>), Reason> {
        if let Some(geometry) = group.known_geometry(token) {
            return Ok((RmbInfo { token, geometry }, None));
        }
        let channel = channel.as_ref().ok_or(Reason::Internal)?;
        match messages::recv(channel.as_fd()) {
            Ok((Message::Memory { rmb }, memory)) => Ok((rmb, memory.into_iter().next())),
            _ => Err(Reason::ClcInvalid),
        }
    }

    /// How one of our buffers is named in CLC messages.
    pub(super) fn describe(&self, rx: &Rx) -> Result<ShmBuffer, Reason> {
        let (rmb, index) = rx.rmbe();
        Ok(ShmBuffer {
            gid: self.identity.gid,
            token: DmbToken(rmb.token()),
            index: RmbeIndex::new(index + 1).ok_or(Reason::Internal)?,
            size: RmbeSize::holding(rmb.geometry().rmbe_size as usize).ok_or(Reason::Internal)?,
        })
    }

    /// One side declined: the stream goes on over TCP, if no byte of the program was taken out of
    /// it by the server's library.
    fn declined(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        reason: Reason,
    ) {
        if guard.as_ref().is_some_and(|pending| pending.early > 0) {
            self.abandon(connection, guard, reason);
        } else {
            self.return_buffer(guard);
            connection.to_tcp(guard, reason);
        }
    }

    /// The handshake failed where neither side knows what the other has taken for what: the
    /// connection ends (RFC 7609 §C.5, §C.6), as by a reset.
    fn abandon(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        reason: Reason,
    ) {
        self.return_buffer(guard);
        if let Some(tcp) = connection.tcp() {
            disconnect(tcp);
        }
        connection.to_tcp(guard, reason);
    }

    fn return_buffer(&self, guard: &mut Option<Pending>) {
        if let Some((group, rx)) = guard.as_mut().and_then(|pending| pending.buffer.take()) {
            // Not `give_back`: the server may have begun to write.
            group.release(&rx);
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

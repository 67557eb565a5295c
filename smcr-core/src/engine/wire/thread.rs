//! The thread of the wire: sleeps until an adapter, a TCP socket with a pending handshake, a
//! process that shares a connection, or the clock has something to say.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};
use rustix::io::Errno;

use super::super::{Connection, Engine};
use super::Rest;
use crate::rdma::fabric::Port;
use crate::rdma::{ConnId, News};
use crate::{Reason, fds};

/// How often the thread looks at the clock at least, while there are connections.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// How long a fork waits for handshakes of accepted connections.
const FORK_WAIT: Duration = Duration::from_secs(5);

/// How often to look whether handshakes are decided that hold something back.
const SETTLE_LOOK: Duration = Duration::from_millis(1);

/// The thread's mailbox.
#[derive(Debug)]
pub(in crate::engine) struct Thread {
    epoll: OwnedFd,
    wake: OwnedFd,
    running: AtomicBool,
    pending: Mutex<Handshakes>,
    /// Something was decided.
    decided: Condvar,
    /// Held by whoever does the thread's work, and across a fork.
    busy: Mutex<()>,
}

#[derive(Debug, Default)]
struct Handshakes {
    next: u64,
    connections: HashMap<u64, Arc<Connection>>,
    /// To be looked at without any event.
    new: Vec<u64>,
}

/// What an epoll event is about, in the lowest bits of its number.
mod subject {
    pub(super) const WAKE: u64 = 0;
    /// Completions of the port of that number.
    pub(super) const COMPLETIONS: u64 = 1;
    /// Events of the port of that number.
    pub(super) const PORT: u64 = 2;
    /// The TCP socket of the pending connection of that number.
    pub(super) const TCP: u64 = 3;
    /// The end of the connection of that number: another process rings.
    pub(super) const END: u64 = 4;
    /// The TCP socket behind the connection of that number, which moved.
    pub(super) const WITNESS: u64 = 5;
    /// The UDP flow of the pending connection of that number.
    pub(super) const FLOW: u64 = 6;
    pub(super) const BITS: u32 = 3;
}

fn word(subject: u64, number: u64) -> EventData {
    EventData::new_u64(number << subject::BITS | subject)
}

impl Thread {
    pub(super) fn new() -> Result<Self, Errno> {
        let epoll = fds::raise(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = fds::raise(rustix::event::eventfd(0, flags)?);
        epoll::add(&epoll, &wake, word(subject::WAKE, 0), EventFlags::IN)?;
        Ok(Self {
            epoll,
            wake,
            running: AtomicBool::new(false),
            pending: Mutex::default(),
            decided: Condvar::new(),
            busy: Mutex::new(()),
        })
    }

    /// What wakes the thread when written to.
    pub(super) fn wake_fd(&self) -> Result<OwnedFd, Errno> {
        fds::duplicate(self.wake.as_fd())
    }

    fn wake(&self) {
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// The handshake of a connection is over. `tcp` may stay open under the program's number, so
    /// the kernel would go on reporting it; without it the socket is watched on.
    pub(super) fn forget(&self, connection: &Connection, tcp: Option<BorrowedFd<'_>>) {
        if let Some(tcp) = tcp {
            let _ = epoll::delete(&self.epoll, tcp);
        }
        let mut pending = self.pending.lock();
        pending.connections.remove(&connection.helper_id());
        self.decided.notify_all();
    }

    /// Watches the UDP flow by which the peer of a pending connection is asked.
    pub(super) fn watch_flow(
        &self,
        connection: &Connection,
        flow: BorrowedFd<'_>,
    ) -> Result<(), Errno> {
        let word = word(subject::FLOW, connection.helper_id());
        epoll::add(&self.epoll, flow, word, EventFlags::IN)
    }

    /// Takes [`Self::watch_flow`] back.
    pub(super) fn forget_flow(&self, flow: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, flow);
    }

    /// Those whose handshake is pending. (The lock of a connection comes before the thread's, so
    /// they cannot be looked at with the list locked.)
    pub(super) fn pending_connections(&self) -> Vec<Arc<Connection>> {
        self.pending.lock().connections.values().cloned().collect()
    }

    /// Waits until the handshakes of connections that were accepted are decided, `at_most` so
    /// long: a program that accepts and then forks is to find them decided in its child. Those that
    /// are not stay this process's.
    fn settle(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        let mut pending = self.pending.lock();
        while pending.connections.values().any(|c| c.is_server()) {
            if self.decided.wait_until(&mut pending, until).timed_out() {
                break;
            }
        }
    }

    /// Waits until nothing is held back for a handshake any more that a program has sent, `at_most`
    /// so long.
    pub(super) fn settle_held(&self, at_most: Duration) {
        let until = Instant::now() + at_most;
        while Instant::now() < until {
            if !self.pending_connections().iter().any(|c| c.holds_back()) {
                return;
            }
            std::thread::sleep(SETTLE_LOOK);
        }
    }

    /// Whoever is at work is done in milliseconds; but for a signal handler that forks in the
    /// middle of a connect() of its own thread.
    fn lock_busy(&'static self) -> Option<MutexGuard<'static, ()>> {
        self.busy.try_lock_for(FORK_WAIT)
    }
}

impl Engine {
    /// Hands a connection whose handshake is pending to the thread, unless it begins it in this
    /// very call.
    pub(in crate::engine) fn watch_rdma(&'static self, connection: &Arc<Connection>) {
        let thread = &self.wire.thread;
        if !thread.running.swap(true, Ordering::AcqRel) {
            let spawned = super::super::helper::spawn("smcr-rdma", move || self.wire_main());
            if !spawned {
                thread.running.store(false, Ordering::Release);
                connection.give_up_rdma(Reason::Internal);
                return;
            }
        }
        // As the thread does its work, so that no fork comes in between: its child would find the
        // connection locked for ever. The thread does it where somebody else is at work.
        let busy = thread.busy.try_lock();
        let waits_for_peer = busy.is_some() && self.begin_at_once(connection, Instant::now());
        drop(busy);
        let mut pending = thread.pending.lock();
        pending.next += 1;
        let id = pending.next;
        connection.set_helper_id(id);
        pending.connections.insert(id, Arc::clone(connection));
        if !waits_for_peer {
            pending.new.push(id);
        }
        drop(pending);
        // Edges: each byte and each change of state is looked at once, by `step`. What is there
        // already is told at once.
        let mut events = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        if !waits_for_peer {
            events |= EventFlags::OUT;
        }
        let added = connection
            .tcp()
            .map(|tcp| epoll::add(&thread.epoll, tcp, word(subject::TCP, id), events));
        // The deadlines of one that waits for its peer are not before the thread looks at the clock
        // by itself.
        if !waits_for_peer || !matches!(added, Some(Ok(()))) {
            thread.wake();
        }
    }

    /// The TCP connection of a connection that moved has one more thing to say: that the peer's end
    /// of it is gone. (It is reported until the socket is closed, which ends the watch.)
    pub(super) fn watch_witness(&self, connection: &Connection) {
        let id = connection.smc().and_then(crate::conn::Smc::conn_id);
        if let (Some(id), Some(tcp)) = (id, connection.tcp()) {
            let events = EventFlags::RDHUP | EventFlags::ET;
            let word = word(subject::WITNESS, id.to_bits());
            // In the place of the watch over its handshake.
            let _ = epoll::modify(&self.wire.thread.epoll, tcp, word, events);
        }
    }

    /// Brings pending handshakes to an end, and the thread to rest, for the time of a fork.
    pub(in crate::engine) fn rest_wire(&'static self) -> Option<Rest> {
        let thread = &self.wire.thread;
        if !thread.running.load(Ordering::Acquire) {
            return None;
        }
        self.stop_asking(false, Reason::Forked);
        thread.settle(FORK_WAIT);
        Some(Rest {
            _busy: thread.lock_busy(),
        })
    }

    fn wire_main(&'static self) {
        let thread = &self.wire.thread;
        let mut events = Vec::with_capacity(64);
        let mut ports = 0;
        let mut looked = Instant::now();
        loop {
            let known = ports;
            ports = self.watch_ports(known);
            let timeout = if ports > known {
                self.wire.rdma.new_ports();
                // What completed before the port was armed is not told.
                Duration::ZERO
            } else {
                self.wire_timeout()
            };
            let timeout = Timespec {
                tv_sec: timeout.as_secs() as i64,
                tv_nsec: i64::from(timeout.subsec_nanos()),
            };
            events.clear();
            let space = rustix::buffer::spare_capacity(&mut events);
            if epoll::wait(&thread.epoll, space, Some(&timeout)).is_err() {
                continue;
            }
            let _busy = thread.busy.lock();
            for event in &events {
                self.wire_event(event.data.u64());
            }
            let now = Instant::now();
            if now - looked >= LONGEST_SLEEP {
                looked = now;
                self.wire.rdma.look_for_ports();
                self.wire.choice.forget_gone();
                self.wire.rdma.renew();
            }
            let (news, to_watch) = self.wire.rdma.look_after(now);
            self.watch_ends(&to_watch);
            self.wire.rdma.make_seat(|number, port| {
                let _ = epoll::delete(&thread.epoll, port.completion_fd());
                self.watch_completions(number as u64, port);
            });
            self.step_all(&news);
        }
    }

    /// Asks the adapters to wake us, and starts with those that are new.
    fn watch_ports(&self, known: usize) -> usize {
        let new = self.wire.rdma.ports_from(known);
        for (number, port) in (known as u64..).zip(&new) {
            let Some(port) = port else { continue };
            self.watch_completions(number, &**port);
            let _ = epoll::add(
                &self.wire.thread.epoll,
                port.event_fd(),
                word(subject::PORT, number),
                EventFlags::IN,
            );
            port.arm();
        }
        known + new.len()
    }

    /// Watches the completions of the port of that number, for those that no sleeper waits for.
    fn watch_completions(&self, number: u64, port: &dyn Port) {
        let _ = epoll::add(
            &self.wire.thread.epoll,
            port.completion_fd(),
            word(subject::COMPLETIONS, number),
            EventFlags::IN | EventFlags::EXCLUSIVE,
        );
    }

    /// Ends that another process shares: its bells come to us.
    fn watch_ends(&self, shared: &[ConnId]) {
        for id in shared {
            self.wire.rdma.with_end(*id, |end| {
                let events = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                let word = word(subject::END, id.to_bits());
                let _ = epoll::add(&self.wire.thread.epoll, end, word, events);
            });
        }
    }

    fn wire_event(&'static self, word: u64) {
        let number = word >> subject::BITS;
        match word & ((1 << subject::BITS) - 1) {
            subject::WAKE => {
                let mut count = [0u8; 8];
                let _ = rustix::io::read(&self.wire.thread.wake, &mut count);
            }
            subject::COMPLETIONS => {
                if let Some(port) = self.wire.rdma.port(number as usize) {
                    port.take_event();
                    self.wire.rdma.woken();
                }
            }
            subject::PORT => {
                self.wire.rdma.port_events();
                if let Some(port) = self.wire.rdma.port(number as usize)
                    && port.is_gone()
                {
                    // Its descriptors stay readable.
                    for fd in [port.completion_fd(), port.event_fd()] {
                        let _ = epoll::delete(&self.wire.thread.epoll, fd);
                    }
                }
            }
            subject::TCP | subject::FLOW => {
                let mut pending = self.wire.thread.pending.lock();
                if pending.connections.contains_key(&number) {
                    pending.new.push(number);
                }
            }
            // Nothing else is told of it: no byte is to come there.
            subject::WITNESS => self.wire.rdma.tcp_ended(ConnId::from_bits(number)),
            subject::END => self.wire.rdma.answer_bell(ConnId::from_bits(number)),
            _ => {}
        }
    }

    /// Goes on with the handshakes: those that something happened to, and those whose time came.
    fn step_all(&'static self, news: &[News]) {
        let (new, all) = {
            let mut pending = self.wire.thread.pending.lock();
            let new = std::mem::take(&mut pending.new);
            let new: Vec<_> = new
                .iter()
                .filter_map(|id| pending.connections.get(id).cloned())
                .collect();
            let all: Vec<_> = if news.is_empty() {
                Vec::new()
            } else {
                pending.connections.values().cloned().collect()
            };
            (new, all)
        };
        for item in news {
            for connection in &all {
                self.step(connection, Some(*item));
            }
        }
        for connection in &new {
            self.step(connection, None);
        }
        let now = Instant::now();
        for connection in self.wire.thread.pending_connections() {
            if connection.rdma_timeout().is_some_and(|at| at <= now) {
                self.step(&connection, None);
            }
        }
    }

    fn wire_timeout(&self) -> Duration {
        let now = Instant::now();
        if !self.wire.thread.pending.lock().new.is_empty() {
            return Duration::ZERO;
        }
        let pending = self.wire.thread.pending_connections();
        let of_handshakes = pending.iter().filter_map(|c| c.rdma_timeout());
        let next = of_handshakes
            .chain(self.wire.rdma.next_timeout())
            .min()
            .map(|at| at.saturating_duration_since(now) + Duration::from_micros(1));
        let next = next.map_or(LONGEST_SLEEP, |next| next.min(LONGEST_SLEEP));
        let glance = self.wire.rdma.next_glance();
        glance.map_or(next, |glance| next.min(glance))
    }
}

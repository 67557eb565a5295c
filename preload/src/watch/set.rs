//! An epoll set as the library sees it: which streams are in it, and which of them have to be
//! looked at.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use libc::epoll_event;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use rustix::event::EventfdFlags;
use smcr_core::conn::Smc;
use smcr_core::fds;
use smcr_core::rdma::Sitter;

use super::edge::{Edge, Look, WRITABLE};
use crate::stream::StreamRef;

/// An epoll set. Sets are never freed, only reused: a stream's [`super::Watch`] may point to one
/// at any time.
#[derive(Debug, Default)]
pub(crate) struct Set {
    pub(super) state: Mutex<State>,
    /// Streams in the set. Zero: the set is none of our business.
    streams: AtomicUsize,
    /// Descriptors that name it.
    names: AtomicUsize,
    /// Watched by another epoll set or by poll: its own readiness has to be the kernel's.
    nested: AtomicBool,
    epfd: AtomicI32,
    /// How long a spin on this set may last.
    pub(crate) spin_ns: AtomicU32,
    /// Tells it from the sets that were here before.
    serial: AtomicU64,
    /// Threads asleep in the kernel: everything is armed while there are any. Changed under the
    /// lock.
    sleepers: AtomicU32,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) members: Vec<Member>,
    /// Members that can be used again.
    free: Vec<u32>,
    /// By descriptor: the member's index and 1, or 0.
    by_fd: Vec<u32>,
    /// The member a kernel event belongs to, by the program's data word.
    pub(super) by_data: FxHashMap<u64, u32>,
    /// Members whose ring was left empty and unarmed, or that may have data the kernel does not
    /// know of. [`super::Watch::in_hot`] says of a stream that it is here.
    hot: Vec<u32>,
    /// Those that were hot when the last thread fell asleep.
    dozing: Vec<u32>,
    /// Where the next scan begins, so that no stream starves.
    next: usize,
    /// Wakes the sleepers, see [`Set::kick`].
    kicker: Option<OwnedFd>,
}

/// A descriptor in the set that is a TCP socket (which may become a stream) or a stream.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(super) fd: RawFd,
    pub(crate) events: u32,
    pub(crate) data: u64,
    pub(super) stream: Option<StreamRef>,
    /// In the kernel's set, too. Programs that take a descriptor out often put it back.
    pub(super) active: bool,
    /// The kernel reports it only once, since it would report a hang-up that TCP does not have.
    pub(super) silenced: bool,
    pub(super) edge: Edge,
}

pub(super) const EDGE: u32 = libc::EPOLLET as u32;
pub(super) const ONCE: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// The serial number of the next set.
static SERIAL: AtomicU64 = AtomicU64::new(1);

static POOL: Mutex<Vec<&'static Set>> = Mutex::new(Vec::new());

impl State {
    fn index(&self, fd: RawFd) -> Option<usize> {
        let index = *self.by_fd.get(fd as usize)?;
        (index > 0).then(|| index as usize - 1)
    }

    /// The member of `fd`, made if there is none.
    fn entry(&mut self, fd: RawFd) -> usize {
        if let Some(index) = self.index(fd) {
            return index;
        }
        let index = match self.free.pop() {
            Some(index) => index as usize,
            None => {
                self.members.push(Member {
                    fd,
                    events: 0,
                    data: 0,
                    stream: None,
                    active: false,
                    silenced: false,
                    edge: Edge::default(),
                });
                self.members.len() - 1
            }
        };
        let at = fd as usize;
        if self.by_fd.len() <= at {
            self.by_fd.resize(at + 1, 0);
        }
        self.by_fd[at] = index as u32 + 1;
        self.members[index].fd = fd;
        index
    }

    /// Forgets to look at a member.
    fn cool(&mut self, index: usize) {
        for list in [&mut self.hot, &mut self.dozing] {
            list.retain(|&at| at as usize != index);
        }
    }

    /// Forgets that events with `data` belong to member `index`.
    fn unmap(&mut self, data: u64, index: usize) {
        if self.by_data.get(&data) == Some(&(index as u32)) {
            self.by_data.remove(&data);
        }
    }
}

impl Set {
    /// The set behind a new epoll descriptor.
    pub(crate) fn new(epfd: RawFd) -> &'static Self {
        let pooled = POOL.lock().pop();
        let set = pooled.unwrap_or_else(|| Box::leak(Box::default()));
        set.epfd.store(epfd, Ordering::Relaxed);
        set.names.store(1, Ordering::Relaxed);
        set.serial
            .store(SERIAL.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        set
    }

    /// One more descriptor names it.
    pub(crate) fn named(&self) {
        self.names.fetch_add(1, Ordering::Relaxed);
    }

    /// One descriptor less names it.
    pub(crate) fn unnamed(&'static self) {
        if self.names.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.clear();
            POOL.lock().push(self);
        }
    }

    /// The last descriptor is closed.
    fn clear(&self) {
        let members = {
            let mut state = self.state.lock();
            let members = std::mem::take(&mut state.members);
            *state = State::default();
            members
        };
        self.streams.store(0, Ordering::Relaxed);
        self.nested.store(false, Ordering::Relaxed);
        let active = members.into_iter().filter(|member| member.active);
        for stream in active.filter_map(|member| member.stream) {
            stream.watch.unregistered(stream.connection.smc());
            stream.watch.set_looker(None, stream.connection.smc());
        }
    }

    /// Whether there are streams in the set.
    #[inline]
    pub(crate) fn has_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    /// Whether the set may look at rings itself.
    pub(crate) fn can_look(&self, events: u32) -> bool {
        events & (ONCE | EXCLUSIVE) == 0 && !self.is_nested()
    }

    /// Whether the set is watched itself.
    pub(crate) fn is_nested(&self) -> bool {
        self.nested.load(Ordering::Relaxed)
    }

    /// The set's own readiness is asked of the kernel from now on.
    pub(crate) fn set_nested(&self) {
        if self.nested.swap(true, Ordering::Relaxed) {
            return;
        }
        let streams: Vec<StreamRef> = {
            let state = self.state.lock();
            state
                .members
                .iter()
                .filter_map(|member| member.stream.clone())
                .collect()
        };
        for stream in streams {
            let smc = stream.connection.smc();
            stream.watch.set_looker(None, smc);
            if let Some(smc) = smc {
                smc.set_edges(true);
            }
        }
    }

    /// A descriptor was added or modified. True if it was in the set as this stream before.
    pub(crate) fn insert(
        &self,
        fd: RawFd,
        events: u32,
        data: u64,
        stream: Option<&StreamRef>,
    ) -> bool {
        let mut state = self.state.lock();
        let index = state.entry(fd);
        let member = &mut state.members[index];
        let same = match (&member.stream, stream) {
            (Some(old), Some(new)) => old.same(new),
            (None, None) => true,
            _ => false,
        };
        let was_stream = member.active && member.stream.is_some();
        let old_data = member.data;
        if !same {
            let old = std::mem::replace(&mut member.stream, stream.cloned());
            if let Some(old) = old {
                old.watch.in_hot.store(false, Ordering::Relaxed);
            }
        }
        member.events = events;
        member.data = data;
        member.active = true;
        member.silenced = false;
        member.edge = Edge::default();
        if !same {
            // What was to be looked at was another stream.
            state.cool(index);
        }
        if old_data != data || !was_stream {
            state.unmap(old_data, index);
            if stream.is_some() {
                state.by_data.insert(data, index as u32);
            }
        }
        match (was_stream, stream.is_some()) {
            (false, true) => self.streams.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.streams.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        was_stream && same
    }

    /// A descriptor was taken out; returns its stream. `closed`: it will not come back.
    pub(crate) fn remove(&self, fd: RawFd, closed: bool) -> Option<StreamRef> {
        let mut state = self.state.lock();
        let index = state.index(fd)?;
        let member = &mut state.members[index];
        let (data, was_active) = (member.data, member.active);
        member.active = false;
        let stream = if closed {
            member.stream.take()
        } else {
            member.stream.clone()
        };
        state.unmap(data, index);
        if closed {
            state.by_fd[fd as usize] = 0;
            state.cool(index);
            state.free.push(index as u32);
        }
        let stream = stream.filter(|_| was_active);
        if stream.is_some() {
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
        stream
    }

    pub(crate) fn member(&self, fd: RawFd) -> Option<Member> {
        let state = self.state.lock();
        let member = state.members.get(state.index(fd)?)?;
        member.active.then(|| member.clone())
    }

    /// Whether threads are asleep in the kernel on this set.
    #[inline]
    pub(crate) fn has_sleepers(&self) -> bool {
        self.sleepers.load(Ordering::SeqCst) > 0
    }

    /// Looks at this member from now on; if somebody sleeps in the kernel, it is armed instead.
    #[cold]
    pub(crate) fn make_hot(&self, stream: &StreamRef, smc: &Smc, fd: RawFd) {
        let mut state = self.state.lock();
        let Some(index) = state.index(fd) else {
            drop(state);
            smc.arm();
            return;
        };
        let asleep = self.has_sleepers();
        if asleep && smc.arm() {
            return;
        }
        if stream.watch.in_hot.swap(true, Ordering::Relaxed) {
            return;
        }
        state.hot.push(index as u32);
        if asleep {
            // Something arrived before we armed, and will not ring.
            self.kick(&mut state);
        }
    }

    /// Wakes the threads that sleep in the kernel, so that they look at the rings again.
    fn kick(&self, state: &mut State) {
        if state.kicker.is_none() {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let Ok(fd) = rustix::event::eventfd(0, flags) else {
                return;
            };
            let fd = fds::raise(fd);
            let events = libc::EPOLLIN as u32 | EDGE;
            let mut event = epoll_event {
                events,
                u64: self.kick_data(),
            };
            let epfd = self.epfd.load(Ordering::Relaxed);
            crate::real::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event);
            state.kicker = Some(fd);
        }
        if let Some(kicker) = &state.kicker {
            let _ = rustix::io::write(kicker, &1u64.to_ne_bytes());
        }
    }

    /// The data word of the kicker: no program will use this address as one of its own.
    pub(super) fn kick_data(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// Whether the kernel reports the kicker.
    pub(crate) fn was_kicked(&self, events: &[epoll_event]) -> bool {
        let kick = self.kick_data();
        events.iter().any(|event| { event.u64 } == kick)
    }

    /// Forgets to look at this member.
    pub(crate) fn cool(&self, fd: RawFd) {
        let mut state = self.state.lock();
        if let Some(index) = state.index(fd) {
            state.cool(index);
        }
    }

    /// Whether there is anything to look at.
    #[inline]
    pub(crate) fn is_hot(&self) -> bool {
        !self.state.lock().hot.is_empty()
    }

    /// Reports ready members among those that are looked at.
    pub(crate) fn scan(&self, out: &mut [epoll_event]) -> usize {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let count = state.hot.len();
        let mut found = 0;
        for step in 0..count {
            if found == out.len() {
                state.next = (state.next + step) % count;
                return found;
            }
            let at = (state.next + step) % count;
            let member = &mut state.members[state.hot[at] as usize];
            let Some(smc) = member
                .stream
                .as_ref()
                .and_then(|stream| stream.connection.smc())
            else {
                continue;
            };
            if !member.active || smc.is_quiet() && !(member.wants_space() && smc.is_blocked()) {
                continue;
            }
            let look = Look::at(smc);
            if !member.edge.is_news(member.events, smc, look) {
                continue;
            }
            member.edge.told(member.events, smc, look);
            out[found] = epoll_event {
                events: look.mask(member.events),
                u64: member.data,
            };
            found += 1;
        }
        found
    }

    /// A thread is about to sleep in the kernel: arms everything that is looked at. False if
    /// something is ready, and the thread must not sleep.
    pub(crate) fn begin_sleep(&self) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        for &hot in &state.hot {
            let member = &state.members[hot as usize];
            let Some(smc) = member
                .stream
                .as_ref()
                .and_then(|stream| stream.connection.smc())
            else {
                continue;
            };
            smc.arm();
            if member.wants_space() && smc.is_blocked() {
                // SAFETY: the descriptor is in the set, so the program has it open.
                smc.arm_writable(unsafe { BorrowedFd::borrow_raw(member.fd) });
            }
            let look = Look::at(smc);
            if member.active && member.edge.is_news(member.events, smc, look) {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return false;
            }
        }
        state.dozing.clear();
        std::mem::swap(&mut state.hot, &mut state.dozing);
        for &dozing in &state.dozing {
            if let Some(stream) = &state.members[dozing as usize].stream {
                stream.watch.in_hot.store(false, Ordering::Relaxed);
            }
        }
        true
    }

    /// Looks again at what was looked at before the thread slept, and takes back that it rings. Not
    /// if others sleep here.
    pub(crate) fn look_again(&self) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if self.sleepers.load(Ordering::SeqCst) > 1 {
            return;
        }
        for index in state.dozing.drain(..) {
            let member = &state.members[index as usize];
            if let Some(stream) = &member.stream
                && let Some(smc) = stream.connection.smc()
                && !stream.watch.is_for_others(smc)
                && !stream.watch.in_hot.swap(true, Ordering::Relaxed)
            {
                smc.disarm_for_set();
                state.hot.push(index);
            }
        }
    }

    /// Who waits when a thread waits for this set.
    pub(crate) fn sitter(&self) -> Sitter {
        Sitter::set(self.serial.load(Ordering::Relaxed))
    }

    /// The opposite of [`Self::begin_sleep`] (when it returned true).
    pub(crate) fn end_sleep(&self) {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Member {
    fn wants_space(&self) -> bool {
        self.events & WRITABLE != 0
    }
}

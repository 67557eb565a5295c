//! An epoll set as the library sees it: which streams are in it, and which of them have to be
//! looked at.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

use libc::epoll_event;
use once_cell::sync::OnceCell;
use parking_lot::Mutex;
use rustix::event::EventfdFlags;
use smcr_core::conn::Smc;
use smcr_core::fds;

use crate::stream::StreamRef;

/// An epoll set.
#[derive(Debug, Default)]
pub(crate) struct Set {
    state: Mutex<State>,
    /// Streams in the set. Zero: the set is none of our business.
    streams: AtomicUsize,
    /// Watched by another epoll set or by poll: its own readiness has to be the kernel's.
    nested: AtomicBool,
    epfd: AtomicI32,
    /// How long a spin on this set may last.
    pub(crate) spin_ns: AtomicU32,
    /// Threads asleep in the kernel: everything is armed while there are any. Changed under the
    /// lock.
    sleepers: AtomicU32,
    /// Wakes the sleepers, see [`Set::kick`].
    kicker: OnceCell<OwnedFd>,
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<RawFd, Member>,
    /// The member a kernel event belongs to, by the program's data word.
    by_data: HashMap<u64, RawFd>,
    /// Streams whose ring was left empty and unarmed, or that have data the kernel does not know.
    hot: Vec<Hot>,
    /// Where the next scan begins, so that no stream starves.
    next: usize,
}

/// A descriptor in the set that is a TCP socket (which may become a stream) or a stream.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) events: u32,
    pub(crate) data: u64,
    pub(crate) stream: Option<StreamRef>,
    /// The kernel reports it only once, since it would report a hang-up that TCP does not have.
    silenced: bool,
    edge: Edge,
}

/// What an edge-triggered watcher was told already.
#[derive(Debug, Clone, Copy, Default)]
struct Edge {
    /// How many bytes had arrived.
    arrivals: u64,
    /// The peer's end.
    eof: bool,
    /// An error, or the end of both directions.
    fatal: bool,
    /// Anything since the registration.
    any: bool,
}

#[derive(Debug)]
struct Hot {
    fd: RawFd,
    stream: StreamRef,
    events: u32,
    data: u64,
}

const EDGE: u32 = libc::EPOLLET as u32;
const ONCE: u32 = libc::EPOLLONESHOT as u32;
const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;
const ALWAYS: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
/// What the library answers for.
const OURS: u32 = (libc::EPOLLIN
    | libc::EPOLLOUT
    | libc::EPOLLPRI
    | libc::EPOLLERR
    | libc::EPOLLHUP
    | libc::EPOLLRDHUP
    | libc::EPOLLRDNORM
    | libc::EPOLLWRNORM) as u32;

/// What epoll would say of a stream. (The EPOLL bits are the POLL bits.)
fn ready(smc: &Smc, events: u32) -> u32 {
    u32::from(smc.readiness() as u16) & (events & OURS | ALWAYS)
}

const WRITABLE: u32 = (libc::EPOLLOUT | libc::EPOLLWRNORM) as u32;

impl Edge {
    /// Whether there is something that the watcher was not told, for which TCP would have given
    /// an edge; takes note of it.
    fn advance(&mut self, smc: &Smc, mask: u32) -> bool {
        let arrivals = smc.arrivals();
        let (_, consumed) = smc.bytes();
        let eof = mask & libc::EPOLLRDHUP as u32 != 0 || smc.readiness() & libc::POLLRDHUP != 0;
        let news = arrivals > self.arrivals.max(consumed)
            || eof && !self.eof
            || mask & ALWAYS != 0 && !self.fatal
            || mask & WRITABLE != 0 && (smc.take_unblocked() || !self.any);
        if news {
            *self = Self {
                arrivals,
                eof,
                fatal: mask & ALWAYS != 0,
                any: true,
            };
        }
        news
    }
}

impl Set {
    /// The set behind a new epoll descriptor.
    pub(crate) fn new(epfd: RawFd) -> Self {
        Self {
            epfd: AtomicI32::new(epfd),
            ..Self::default()
        }
    }

    /// Whether there are streams in the set.
    #[inline]
    pub(crate) fn has_streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed) > 0
    }

    /// Whether the set may look at rings itself.
    pub(crate) fn can_look(&self, events: u32) -> bool {
        events & (ONCE | EXCLUSIVE) == 0 && !self.nested.load(Ordering::Relaxed)
    }

    /// Whether the set is watched itself.
    pub(crate) fn is_nested(&self) -> bool {
        self.nested.load(Ordering::Relaxed)
    }

    /// The set's own readiness is asked of the kernel from now on.
    pub(crate) fn set_nested(&self) {
        self.nested.store(true, Ordering::Relaxed);
        let members: Vec<StreamRef> = self
            .state
            .lock()
            .members
            .values()
            .filter_map(|m| m.stream.clone())
            .collect();
        for stream in members {
            let smc = stream.connection.smc();
            stream.watch.set_looker(None, smc);
            if let Some(smc) = smc {
                smc.set_edges(true);
            }
        }
    }

    pub(crate) fn insert(&self, fd: RawFd, events: u32, data: u64, stream: Option<StreamRef>) {
        let mut state = self.state.lock();
        let is_stream = stream.is_some();
        let old = state.members.insert(
            fd,
            Member {
                events,
                data,
                stream,
                silenced: false,
                edge: Edge::default(),
            },
        );
        if let Some(old) = &old {
            state.by_data.remove(&old.data);
            state.hot.retain(|hot| hot.fd != fd);
        }
        if is_stream {
            state.by_data.insert(data, fd);
        }
        let was = usize::from(old.is_some_and(|old| old.stream.is_some()));
        self.streams
            .fetch_add(usize::from(is_stream), Ordering::Relaxed);
        self.streams.fetch_sub(was, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, fd: RawFd) -> Option<Member> {
        let mut state = self.state.lock();
        state.hot.retain(|hot| hot.fd != fd);
        let old = state.members.remove(&fd)?;
        if old.stream.is_some() {
            if state.by_data.get(&old.data) == Some(&fd) {
                state.by_data.remove(&old.data);
            }
            self.streams.fetch_sub(1, Ordering::Relaxed);
        }
        Some(old)
    }

    /// The epoll descriptor is closed.
    pub(crate) fn clear(&self) {
        let members: Vec<Member> = {
            let mut state = self.state.lock();
            state.hot.clear();
            state.by_data.clear();
            state.members.drain().map(|(_, member)| member).collect()
        };
        self.streams.store(0, Ordering::Relaxed);
        for stream in members.into_iter().filter_map(|member| member.stream) {
            stream.watch.unregistered(stream.connection.smc());
        }
    }

    pub(crate) fn member(&self, fd: RawFd) -> Option<Member> {
        self.state.lock().members.get(&fd).cloned()
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
        let Some(member) = state.members.get(&fd) else {
            drop(state);
            smc.arm();
            return;
        };
        let (events, data) = (member.events, member.data);
        let asleep = self.has_sleepers();
        if asleep && smc.arm() {
            return;
        }
        if stream.watch.in_hot.swap(true, Ordering::Relaxed) {
            return;
        }
        let stream = stream.clone();
        state.hot.push(Hot {
            fd,
            stream,
            events,
            data,
        });
        drop(state);
        if asleep {
            // Something arrived before we armed, and will not ring.
            self.kick();
        }
    }

    /// Wakes the threads that sleep in the kernel, so that they look at the rings again.
    fn kick(&self) {
        let kicker = self.kicker.get_or_try_init(|| {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let fd = fds::raise(rustix::event::eventfd(0, flags)?);
            let mut event = epoll_event {
                events: libc::EPOLLIN as u32 | EDGE,
                u64: self.kick_data(),
            };
            let epfd = self.epfd.load(Ordering::Relaxed);
            crate::real::epoll_ctl(epfd, libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &mut event);
            Ok::<_, rustix::io::Errno>(fd)
        });
        if let Ok(kicker) = kicker {
            let _ = rustix::io::write(kicker, &1u64.to_ne_bytes());
        }
    }

    /// The data word of the kicker: no program will use this address as one of its own.
    fn kick_data(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    /// Forgets to look at this member.
    pub(crate) fn cool(&self, fd: RawFd) {
        self.state.lock().hot.retain(|hot| hot.fd != fd);
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
            let hot = &mut state.hot[(state.next + step) % count];
            let Some(smc) = hot.stream.connection.smc() else {
                continue;
            };
            let mask = ready(smc, hot.events);
            if hot.events & EDGE != 0 {
                let member = state.members.get_mut(&hot.fd);
                if mask == 0 || !member.is_some_and(|member| member.edge.advance(smc, mask)) {
                    continue;
                }
            } else if mask & !WRITABLE == 0 && (mask == 0 || !smc.is_blocked()) {
                // Writability alone is the kernel's matter, unless it was made to say otherwise.
                continue;
            }
            out[found] = epoll_event {
                events: mask,
                u64: hot.data,
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
        for hot in &state.hot {
            let Some(smc) = hot.stream.connection.smc() else {
                continue;
            };
            smc.arm();
            if hot.events & WRITABLE != 0 && smc.is_blocked() {
                // SAFETY: the descriptor is in the set, so the program has it open.
                smc.arm_writable(unsafe { BorrowedFd::borrow_raw(hot.fd) });
            }
            let mask = ready(smc, hot.events);
            let idle = if hot.events & EDGE != 0 {
                let edge = state.members.get(&hot.fd).map(|member| member.edge);
                mask == 0 || !edge.is_some_and(|mut edge| edge.advance(smc, mask & !WRITABLE))
            } else {
                mask & !WRITABLE == 0 && (mask == 0 || !smc.is_blocked())
            };
            if !idle {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return false;
            }
        }
        for hot in state.hot.drain(..) {
            hot.stream.watch.in_hot.store(false, Ordering::Relaxed);
        }
        true
    }

    /// The opposite of [`Self::begin_sleep`] (when it returned true).
    pub(crate) fn end_sleep(&self) {
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Makes the kernel's events say what TCP would: bells that mean nothing are dropped, and a
    /// closed peer is no hang-up. Returns how many events are left.
    pub(crate) fn correct(&self, epfd: RawFd, events: &mut [epoll_event]) -> usize {
        let mut kept = 0;
        for at in 0..events.len() {
            let event = events[at];
            let mask = self.corrected(epfd, event);
            if mask != 0 {
                events[kept] = epoll_event {
                    events: mask,
                    u64: event.u64,
                };
                kept += 1;
            }
        }
        kept
    }

    fn corrected(&self, epfd: RawFd, event: epoll_event) -> u32 {
        let mut state = self.state.lock();
        let data = event.u64;
        if data == self.kick_data() {
            return 0;
        }
        let Some(&fd) = state.by_data.get(&data) else {
            return event.events;
        };
        let Some(member) = state.members.get(&fd).cloned() else {
            return event.events;
        };
        let Some(stream) = &member.stream else {
            return event.events;
        };
        let Some(smc) = stream.connection.smc() else {
            return event.events;
        };
        let seen = event.events;
        let kernel_in = (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLRDHUP) as u32;
        let mut mask = ready(smc, member.events);
        let hangup = seen & (libc::EPOLLHUP | libc::EPOLLRDHUP) as u32 != 0;
        if hangup && smc.readiness() & libc::POLLRDHUP == 0
            || seen & kernel_in != 0 && mask & !(libc::EPOLLOUT | libc::EPOLLWRNORM) as u32 == 0
        {
            // SAFETY: the descriptor is in the set, so the program has it open.
            smc.recheck(unsafe { BorrowedFd::borrow_raw(fd) });
            mask = ready(smc, member.events);
        }
        if member.events & EDGE != 0 {
            let news = state.members.get_mut(&fd);
            if !news.is_some_and(|member| member.edge.advance(smc, mask)) {
                mask = 0;
            }
        } else if seen & kernel_in == 0 {
            // Found writable: what else there is was not what woke us, but TCP would say it, too.
            mask &= seen | ALWAYS | libc::EPOLLIN as u32;
        }
        if mask == 0 {
            // The kernel goes on reporting what we do not: for a hang-up that means for ever.
            let quiet = seen & ALWAYS != 0 && !member.silenced && member.events & EDGE == 0;
            if quiet || member.events & ONCE != 0 {
                let extra = if quiet { EDGE } else { 0 };
                let mut again = epoll_event {
                    events: member.events | extra,
                    u64: data,
                };
                if let Some(member) = state.members.get_mut(&fd) {
                    member.silenced = quiet;
                }
                drop(state);
                crate::real::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, &mut again);
            }
        }
        mask
    }
}

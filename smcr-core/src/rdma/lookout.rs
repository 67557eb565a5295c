//! A thread of the program's that sleeps waits for the adapters itself, and does the work of the
//! wire's thread when it is woken: one change of context for a message instead of two.
//!
//! Who is woken is left to the kernel. The thread has the completion channels in its epoll set, and
//! the sleeper in another one, both with `EPOLLEXCLUSIVE`: an event goes to the set that was added
//! first, the sleeper's, if somebody waits in it, else to the thread's. So there is nothing to hand
//! over when a sleeper leaves, by whatever way: a signal, a time-out, its end.
//!
//! Whoever takes an event asks for the next one at once. A sleeper that is woken for an event and
//! never comes back to it (a handler of a signal that came in between jumps elsewhere) leaves it to
//! the thread's look at the clock: see [`Rdma::renew`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::fabric::Port;
use super::{MOST_TURNS, Rdma, handle};
use crate::{fds, sys};

/// So many sleeps of the only sleeper, and it gets a seat.
const ENOUGH: i32 = 16;

/// The score does not get higher than this.
const MOST: i32 = 2 * ENOUGH;

/// What it costs to be woken for others.
const IN_VAIN: i32 = 2;

/// Ports that are seen from a seat; the thread sees all.
const MOST_PORTS: usize = 64;

/// What an event of the seat is about, beside the ports by their places.
mod subject {
    pub(super) const OWN: u64 = u64::MAX;
    pub(super) const NUDGE: u64 = u64::MAX - 1;
}

/// Who waits, and for what: a number that is given only once. (The same number with the same
/// descriptor is the same file: as long as it is open anywhere in this process it stays watched,
/// and then it is not given up by whoever waits.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sitter(u64);

impl Sitter {
    /// The program's end of a connection.
    pub(crate) fn end(id: super::ConnId) -> Self {
        Self(id.to_bits() << 1 | 1)
    }

    /// An epoll set of the program's, from its serial number, which is not 0.
    pub fn set(serial: u64) -> Self {
        Self(serial << 1)
    }
}

/// Where one sleeper at a time waits.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    /// Held by who sits there. Programs only try.
    seat: Mutex<Option<Seat>>,
    /// Whether a seat would pay, or does.
    score: AtomicI32,
    /// The thread is to make one.
    wanted: AtomicBool,
    /// The [`Sitter`] who sits there, or did last; or 0.
    sitter: AtomicU64,
    /// Written to when who sits there has to get up.
    nudge: OnceLock<OwnedFd>,
}

#[derive(Debug)]
struct Seat {
    epoll: OwnedFd,
    ports: Vec<Weak<dyn Port>>,
    /// What is watched beside the ports.
    own: Option<(Sitter, RawFd)>,
}

/// A sleeper that waits for the adapters, until this is dropped.
#[derive(Debug)]
pub(crate) struct Seated<'a> {
    rdma: &'a Rdma,
    /// See [`super::handle::generation`].
    generation: u32,
    seat: MutexGuard<'a, Option<Seat>>,
}

/// What woke it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Woken {
    /// Its own descriptor, or something that only a look can tell.
    pub(crate) own: bool,
    /// Adapters, a bit for each: [`Seated::collect`] has to be called.
    pub(crate) ports: u64,
}

impl Lookout {
    fn nudge(&self) -> Result<&OwnedFd, Errno> {
        if let Some(nudge) = self.nudge.get() {
            return Ok(nudge);
        }
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let nudge = fds::raise(eventfd(0, flags)?);
        Ok(self.nudge.get_or_init(|| nudge))
    }

    /// For the thread: a seat from which these ports are seen.
    fn make(&self, ports: &[Option<Arc<dyn Port>>]) -> Result<Seat, Errno> {
        let set = fds::raise(epoll::create(CreateFlags::CLOEXEC)?);
        let edge = EventFlags::IN | EventFlags::ET;
        epoll::add(
            &set,
            self.nudge()?,
            EventData::new_u64(subject::NUDGE),
            edge,
        )?;
        let alive = ports.iter().flatten().filter(|port| !port.is_gone());
        let ports: Vec<_> = alive.take(MOST_PORTS).collect();
        for (place, port) in ports.iter().enumerate() {
            let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
            let place = EventData::new_u64(place as u64);
            epoll::add(&set, port.completion_fd(), place, flags)?;
        }
        Ok(Seat {
            epoll: set,
            ports: ports.into_iter().map(Arc::downgrade).collect(),
            own: None,
        })
    }
}

impl Seat {
    /// Watches `fd` beside the ports. False if what was watched before cannot be got rid of.
    fn watch(&mut self, who: Sitter, fd: BorrowedFd<'_>) -> bool {
        let number = fd.as_raw_fd();
        if self.own == Some((who, number)) {
            return true;
        }
        if let Some((_, before)) = self.own.take() {
            // SAFETY: a number of the program's, which may be closed, or something else by now:
            // that is what the call finds out.
            let before = unsafe { BorrowedFd::borrow_raw(before) };
            if epoll::delete(&self.epoll, before).is_err() {
                return false;
            }
        }
        let flags = EventFlags::IN | EventFlags::RDHUP;
        let added = epoll::add(&self.epoll, fd, EventData::new_u64(subject::OWN), flags);
        self.own = added.is_ok().then_some((who, number));
        added.is_ok()
    }
}

impl Rdma {
    /// Whether the thread has to make a seat.
    pub(crate) fn wants_seat(&self) -> bool {
        self.lookout.wanted.load(Ordering::Relaxed)
    }

    /// A thread of the program's, which has said that it [sleeps](Self::sleep_begins), would wait
    /// for the adapters beside `fd`. `None` if it is not to.
    pub(crate) fn sit_down(&self, who: Sitter, fd: BorrowedFd<'_>) -> Option<Seated<'_>> {
        let lookout = &self.lookout;
        if self.attention.sleepers() > 1 {
            lookout.score.store(0, Ordering::Relaxed);
            return None;
        }
        let score = lookout.score.load(Ordering::Relaxed);
        if score < ENOUGH {
            lookout.score.store(score + 1, Ordering::Relaxed);
            return None;
        }
        let mut seat = lookout.seat.try_lock()?;
        if seat.as_mut().is_some_and(|seat| seat.watch(who, fd)) {
            lookout.sitter.store(who.0, Ordering::SeqCst);
            return Some(Seated {
                rdma: self,
                generation: handle::generation(),
                seat,
            });
        }
        let old = seat.take();
        drop(seat);
        drop(old);
        if !lookout.wanted.swap(true, Ordering::Relaxed) {
            self.wake();
        }
        None
    }

    /// The program is about to close what this one waits for: it is to look.
    pub(crate) fn get_up(&self, who: Sitter) {
        if self.lookout.sitter.load(Ordering::SeqCst) == who.0
            && let Some(nudge) = self.lookout.nudge.get()
        {
            let _ = rustix::io::write(nudge, &1u64.to_ne_bytes());
        }
    }

    /// For the thread: there are new ports, which are to be seen from the seat, too.
    pub(crate) fn new_ports(&self) {
        if self.lookout.sitter.load(Ordering::Relaxed) != 0 {
            self.lookout.wanted.store(true, Ordering::Relaxed);
        }
    }

    /// For the thread: makes a seat, if a program wants one. `queue_again` puts the thread's own
    /// watch of a port behind it.
    pub(crate) fn make_seat(&self, mut queue_again: impl FnMut(usize, &dyn Port)) {
        let lookout = &self.lookout;
        if !self.wants_seat() {
            return;
        }
        let Some(mut place) = lookout.seat.try_lock() else {
            return;
        };
        lookout.wanted.store(false, Ordering::Relaxed);
        let ports = self.ports_from(0);
        let Ok(seat) = lookout.make(&ports) else {
            lookout.score.store(i32::MIN / 2, Ordering::Relaxed);
            return;
        };
        for (number, port) in ports.iter().enumerate() {
            if let Some(port) = port.as_ref().filter(|port| !port.is_gone()) {
                queue_again(number, &**port);
            }
        }
        *place = Some(seat);
    }

    /// For the thread, now and then: takes events that a sleeper was woken for and did not take,
    /// and asks for the next ones. To be followed by a look at the ports.
    pub(crate) fn renew(&self) {
        if self.lookout.sitter.load(Ordering::Relaxed) == 0 {
            return;
        }
        for port in self.ports_from(0).iter().flatten() {
            port.take_event();
            port.arm();
        }
    }
}

impl Seated<'_> {
    /// Sleeps until there is something to see, for `at_most` so long (`None`: for ever), with
    /// `sigmask` (null, or a `sigset_t`) as epoll_pwait(2) takes it.
    ///
    /// # Errors
    /// `EINTR` for a signal; others mean that it is no place to sleep.
    pub(crate) fn sleep(
        &self,
        at_most: Option<Duration>,
        sigmask: *const libc::sigset_t,
    ) -> Result<Woken, Errno> {
        let Some(seat) = &*self.seat else {
            return Err(Errno::INVAL);
        };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        let count = sys::epoll_wait(seat.epoll.as_fd(), &mut events, at_most, sigmask)?;
        let mut woken = Woken {
            own: false,
            ports: 0,
        };
        for event in &events[..count] {
            match event.u64 {
                subject::OWN | subject::NUDGE => woken.own = true,
                place => woken.ports |= 1 << place,
            }
        }
        Ok(woken)
    }

    /// Takes what came from the adapters.
    pub(crate) fn collect(&self, woken: Woken) {
        let Some(seat) = &*self.seat else { return };
        if self.generation != handle::generation() {
            // A handler of a signal has forked in here, and this is the child.
            return;
        }
        let named = seat.ports.iter().enumerate();
        for (_, port) in named.filter(|(place, _)| woken.ports >> place & 1 != 0) {
            if let Some(port) = port.upgrade() {
                port.take_event();
                // Before the look: what comes after it is told.
                port.arm();
            }
        }
        // Never wait for the lock: a handler of a signal may be in here that came while it was
        // held.
        let looked = self.rdma.state.try_lock().is_some_and(|mut state| {
            let now = Instant::now();
            let mut turns = MOST_TURNS;
            while turns > 0 && state.poll(now) > 0 {
                turns -= 1;
            }
            self.rdma.pass_on(&state);
            turns > 0
        });
        if !looked {
            self.rdma.wake();
        }
        self.rdma.attend();
    }

    /// What came was for who sits here.
    pub(crate) fn paid(&self) {
        let score = &self.rdma.lookout.score;
        let now = score.load(Ordering::Relaxed);
        score.store((now + 1).min(MOST), Ordering::Relaxed);
    }

    /// What came was for others.
    pub(crate) fn was_in_vain(&self) {
        let score = &self.rdma.lookout.score;
        score.fetch_sub(IN_VAIN, Ordering::Relaxed);
    }

    /// Whether it is worth sitting here.
    pub(crate) fn pays(&self) -> bool {
        self.rdma.lookout.score.load(Ordering::Relaxed) >= ENOUGH
    }
}

//! How a thread of the program waits for its streams: awake for a while, then asleep.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;

use super::{Smc, spin};
use crate::rdma::{Rdma, Seated, Sitter};
use crate::sys;

/// Whether the program ever set a time-out for receiving.
static TIMEOUTS_USED: AtomicBool = AtomicBool::new(false);

/// For how long it is taken to be known what handlers of signals the program has.
const HANDLERS_KNOWN: Duration = Duration::from_secs(1);

/// The program set a time-out for receiving on some socket (`SO_RCVTIMEO`).
pub fn timeouts_used() {
    TIMEOUTS_USED.store(true, Ordering::Relaxed);
}

/// One wait of one thread.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// What has to be looked at, and told when the thread goes to sleep.
    wire: Option<&'static Rdma>,
}

/// A thread sleeps, or is about to, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Asleep(Option<&'static Rdma>);

impl Waiting {
    /// A wait for any of several streams, of which it is not known what carries them.
    pub fn for_any() -> Self {
        let wire = crate::engine::engine().map(crate::engine::Engine::rdma);
        Self {
            wire: wire.filter(|wire| wire.is_in_use()),
        }
    }

    /// A wait for any of these streams.
    pub fn for_one_of<'a>(streams: impl IntoIterator<Item = &'a Smc>) -> Self {
        let mut wires = streams.into_iter().filter_map(|smc| Self::on(smc).wire);
        Self { wire: wires.next() }
    }

    /// A wait for one stream.
    pub(super) fn on(smc: &Smc) -> Self {
        Self {
            wire: smc.wire().map(crate::rdma::Handle::rdma),
        }
    }

    /// Looks at `ready`, and at what adapters have to say, for as long as that pays: see
    /// [`spin::spin`]. Returns whether it became true.
    #[inline]
    pub fn spin(self, budget: &AtomicU32, mut ready: impl FnMut() -> bool) -> bool {
        match self.wire {
            Some(wire) => spin::spin_on_adapter(budget, || {
                wire.poll();
                ready()
            }),
            None => spin::spin(budget, ready),
        }
    }

    /// The thread is going to sleep: from here on the wire rings as the streams ask for it. They
    /// have to be looked at once more before it does.
    pub fn fall_asleep(self) -> Asleep {
        if let Some(wire) = self.wire {
            wire.sleep_begins();
        }
        Asleep(self.wire)
    }
}

/// How a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slept {
    /// Something came from the wire, perhaps for this stream.
    Wire,
    /// The kernel has something to say of the descriptor.
    Kernel,
    /// The time is over.
    Time,
}

impl Asleep {
    /// Sleeps until there is something to be read from this stream, waiting for the adapters
    /// beside its descriptor. Only where nobody else is to be rung for it but those that
    /// [said so](Smc::sleep_begin), this one included. `at_most`: `None` is for ever; `sigmask`:
    /// null, or what epoll_pwait(2) takes. `None` if the caller has to sleep in another way.
    ///
    /// # Errors
    /// `EINTR` for a signal, or after a stop.
    pub fn sleep_on(
        &self,
        smc: &Smc,
        fd: BorrowedFd<'_>,
        at_most: Option<Duration>,
        sigmask: *const libc::sigset_t,
    ) -> Option<Result<Slept, Errno>> {
        let seat = smc.sit_down(fd)?;
        Some(smc.sleep_there(&seat, at_most, sigmask))
    }

    /// The same for an epoll set. `look` takes back what was asked for and looks at the streams, after
    /// `collect`, which it has to call: 0 if there is nothing.
    ///
    /// # Errors
    /// As [`Self::sleep_on`].
    pub fn sleep_on_set(
        &self,
        who: Sitter,
        epfd: BorrowedFd<'_>,
        at_most: Option<Duration>,
        sigmask: *const libc::sigset_t,
        mut look: impl FnMut(&dyn Fn()) -> usize,
    ) -> Option<Result<(Slept, usize), Errno>> {
        let seat = self.0?.sit_down(who, epfd)?;
        let woken = match seat.sleep(at_most, sigmask) {
            Ok(woken) => woken,
            Err(errno) => return Some(Err(errno)),
        };
        let found = look(&|| {
            if woken.ports != 0 {
                seat.collect(woken);
            }
        });
        let slept = match (woken.own, woken.ports) {
            (true, _) => Slept::Kernel,
            (_, 0) => Slept::Time,
            _ if found > 0 => {
                seat.paid();
                Slept::Wire
            }
            _ => {
                seat.was_in_vain();
                Slept::Wire
            }
        };
        Some(Ok((slept, found)))
    }
}

impl Smc {
    /// See [`Asleep::sleep_on`].
    fn sit_down(&self, fd: BorrowedFd<'_>) -> Option<Seated<'_>> {
        let wire = self.wire()?;
        if self.is_shared() || self.edges.load(Ordering::Relaxed) || self.is_released() {
            return None;
        }
        wire.rdma().sit_down(Sitter::end(wire.id()), fd)
    }

    /// Sleeps once. What came is looked at, and nobody needs to ring for it.
    fn sleep_there(
        &self,
        seat: &Seated<'_>,
        at_most: Option<Duration>,
        sigmask: *const libc::sigset_t,
    ) -> Result<Slept, Errno> {
        let woken = seat.sleep(at_most, sigmask)?;
        if woken.ports != 0 {
            self.disarm();
            seat.collect(woken);
            if self.has_something() {
                seat.paid();
                return Ok(Slept::Wire);
            }
            seat.was_in_vain();
        }
        Ok(match (woken.own, woken.ports) {
            (true, _) => Slept::Kernel,
            (_, 0) => Slept::Time,
            _ => Slept::Wire,
        })
    }

    /// Whether a receive would return.
    pub(super) fn has_something(&self) -> bool {
        self.readable().is_ok_and(|bytes| bytes > 0)
            || self.see_flags()
            || self.state() & super::state::READ_SHUT != 0
    }

    /// A sleep in recv(2): until there is something to see, or the kernel has to be asked. `None`
    /// if it has to sleep in recv itself.
    pub(super) fn sleep_in_recv(&self, fd: BorrowedFd<'_>) -> Option<Result<(), Errno>> {
        self.wire()?;
        if self.has_timeout(fd) || is_interruptible(false) {
            return None;
        }
        let seat = self.sit_down(fd)?;
        loop {
            match self.sleep_there(&seat, None, std::ptr::null()) {
                Ok(Slept::Wire) if self.has_something() => return Some(Ok(())),
                Ok(Slept::Wire) if seat.pays() => {
                    self.arm();
                    if self.has_something() {
                        return Some(Ok(()));
                    }
                }
                // After a handler with SA_RESTART, or a stop, recv goes on. The handler may have
                // received, too.
                Err(Errno::INTR) if !is_interruptible(true) => return Some(Ok(())),
                Err(Errno::INTR) => return Some(Err(Errno::INTR)),
                _ => {
                    // Nobody is to ring any more, perhaps.
                    self.arm();
                    return self.has_something().then_some(Ok(()));
                }
            }
        }
    }

    /// Whether receives have a time-out: one that this program set, or that came with the
    /// descriptor.
    fn has_timeout(&self, fd: BorrowedFd<'_>) -> bool {
        if !self.timeout_asked.swap(true, Ordering::Relaxed) {
            use rustix::net::sockopt::{Timeout, socket_timeout};
            if socket_timeout(fd, Timeout::Recv) != Ok(None) {
                timeouts_used();
            }
        }
        TIMEOUTS_USED.load(Ordering::Relaxed)
    }
}

/// Whether a signal may end a call that sleeps. (epoll_wait is always ended; it does not say
/// whether another call would have been.)
fn is_interruptible(now: bool) -> bool {
    static KNOWN: Mutex<Option<(Instant, bool)>> = Mutex::new(None);
    let Some(mut known) = KNOWN.try_lock() else {
        return sys::has_handler(true);
    };
    let at = Instant::now();
    match *known {
        Some((since, is)) if !now && at - since < HANDLERS_KNOWN => is,
        _ => {
            let is = sys::has_handler(true);
            *known = Some((at, is));
            is
        }
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        if let Some(wire) = self.0 {
            wire.sleep_ends();
        }
    }
}

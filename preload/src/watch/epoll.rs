//! epoll_wait and its relatives.

use std::os::fd::{BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use libc::{c_int, epoll_event, sigset_t, timespec};
use rustix::io::Errno;
use smcr_core::conn::{Asleep, Slept, Waiting, spin};

use super::set::Set;
use crate::outcome::{Outcome, PassOn};
use crate::real::KeepErrno;
use crate::stream::StreamRef;
use crate::table::{self, Entry};

/// A wait's time-out and signal mask, whichever of the three calls it came by.
#[derive(Clone, Copy)]
pub(crate) struct Wait {
    /// `None`: for ever.
    pub(crate) timeout: Option<Duration>,
    pub(crate) sigmask: *const sigset_t,
}

/// A new epoll descriptor.
pub(crate) fn created(epfd: RawFd) {
    let guard = table::lock();
    let old = table::put(epfd, Entry::Set(Set::new(epfd)), &guard);
    drop(guard);
    drop(old);
}

/// epoll_ctl succeeded in the kernel.
pub(crate) fn controlled(epfd: RawFd, op: i32, fd: RawFd, event: Option<epoll_event>) {
    let Some(set) = table::set(epfd) else {
        return;
    };
    let stream = table::stream(fd);
    if stream.is_none() {
        if let Some(inner) = table::set(fd) {
            inner.set_nested();
            return;
        }
        // A TCP socket: it may become a stream when it connects. Nothing else is of interest.
        if !table::is_plain(fd) {
            return;
        }
    }
    match (op, event) {
        (libc::EPOLL_CTL_DEL, _) => {
            if let Some(stream) = set.remove(fd, false) {
                unregister(&stream);
            }
        }
        (_, Some(event)) => {
            let again = set.insert(fd, event.events, event.u64, stream.as_ref());
            if let Some(stream) = stream {
                register(set, &stream, fd, event.events, again);
            }
        }
        _ => {}
    }
}

/// A stream is in a set: decides who arms, and looks at what is there already.
pub(crate) fn register(set: &'static Set, stream: &StreamRef, fd: RawFd, events: u32, again: bool) {
    let smc = stream.connection.smc();
    let looker = set.can_look(events).then_some((set, fd));
    if again {
        stream.watch.reregistered(looker, smc);
    } else {
        stream.watch.registered(looker, smc);
    }
    if let Some(smc) = smc {
        // A set that is watched itself gives edges, too.
        let edges = events & libc::EPOLLET as u32 != 0 || set.is_nested();
        smc.set_edges(edges && stream.watch.looker().is_none());
        stream.watch.left_unarmed(stream, smc);
    }
}

fn unregister(stream: &StreamRef) {
    let smc = stream.connection.smc();
    stream.watch.unregistered(smc);
    if let Some(smc) = smc {
        smc.set_edges(false);
    }
}

/// epoll_wait, epoll_pwait, epoll_pwait2. `call` is the program's own call of libc's function.
pub(crate) fn wait(
    epfd: RawFd,
    out: &mut [epoll_event],
    wait: &Wait,
    call: impl Fn() -> c_int,
) -> Outcome<usize> {
    let Some(set) = table::set(epfd) else {
        return Outcome::PassOn(PassOn::NotOurs);
    };
    if out.is_empty() {
        return Outcome::PassOn(PassOn::NotOurs);
    }
    if set.has_streams() {
        return wait_on(set, epfd, out, wait).into();
    }
    if wait.timeout.is_some_and(|timeout| timeout.is_zero()) {
        return Outcome::PassOn(PassOn::NotOurs);
    }
    wait_for_others(set, epfd, out, wait, call)
}

/// Waits on a set without streams. Another thread may put one in meanwhile, which has to ring for
/// this one.
fn wait_for_others(
    set: &Set,
    epfd: RawFd,
    out: &mut [epoll_event],
    wait: &Wait,
    call: impl Fn() -> c_int,
) -> Outcome<usize> {
    let deadline = wait.timeout.map(|timeout| Instant::now() + timeout);
    if !set.begin_sleep() {
        return wait_on(set, epfd, out, wait).into();
    }
    // A thread that is cancelled in here counts as asleep for ever, which costs bells.
    let found = call();
    let keep = KeepErrno::new();
    set.end_sleep();
    let Ok(count) = usize::try_from(found) else {
        drop(keep);
        return Outcome::Failed(crate::real::errno());
    };
    let events = &mut out[..count];
    let kept = match set.has_streams() || set.was_kicked(events) {
        true => set.correct(epfd, events),
        false => count,
    };
    if count > 0 && kept == 0 {
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        return wait_on(set, epfd, out, &Wait { timeout, ..*wait }).into();
    }
    Outcome::Done(kept)
}

fn wait_on(set: &Set, epfd: RawFd, out: &mut [epoll_event], wait: &Wait) -> Result<usize, Errno> {
    let deadline = wait.timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let found = look(set, epfd, out)?;
        if found > 0 || wait.timeout.is_some_and(|timeout| timeout.is_zero()) {
            return Ok(found);
        }
        let waiting = Waiting::for_any();
        if set.is_hot() {
            let mut found = Ok(0);
            let mut rounds = 0u32;
            waiting.spin(&set.spin_ns, || {
                rounds += 1;
                found = if rounds.is_multiple_of(64) {
                    look(set, epfd, out)
                } else {
                    Ok(set.scan(out))
                };
                found != Ok(0)
            });
            if found? > 0 {
                // What the kernel has ready is reported in the same call.
                let found = found?;
                let more = kernel(
                    set,
                    epfd,
                    &mut out[found..],
                    Some(Duration::ZERO),
                    wait.sigmask,
                )?;
                return Ok(merge(out, found, more));
            }
        }
        // Before the last look, which begin_sleep takes: what comes after it rings.
        let sleep = waiting.fall_asleep();
        if !set.begin_sleep() {
            continue;
        }
        let began = Instant::now();
        let left = deadline.map(|at| at.saturating_duration_since(began));
        spin::sleeps();
        let woken = match sleep_alone(set, epfd, &sleep, out, left, wait.sigmask) {
            Some(woken) => woken,
            None => kernel(set, epfd, out, left, wait.sigmask),
        };
        set.end_sleep();
        drop(sleep);
        spin::slept(&set.spin_ns, began.elapsed());
        match woken? {
            // The time is over, or what woke us was no event of the program's.
            0 if deadline.is_some_and(|at| Instant::now() >= at) => return look(set, epfd, out),
            0 => {}
            found => return Ok(found),
        }
    }
}

/// The sleep of the only thread that waits for streams: it waits for the adapters itself.
fn sleep_alone(
    set: &Set,
    epfd: RawFd,
    sleep: &Asleep,
    out: &mut [epoll_event],
    timeout: Option<Duration>,
    sigmask: *const sigset_t,
) -> Option<Result<usize, Errno>> {
    if set.is_nested() {
        return None;
    }
    // SAFETY: the program waits for this descriptor.
    let own = unsafe { BorrowedFd::borrow_raw(epfd) };
    let slept = sleep.sleep_on_set(set.sitter(), own, timeout, sigmask, |collect| {
        // What is found now needs no bell.
        set.look_again();
        collect();
        set.scan(out)
    })?;
    Some(match slept {
        Ok((Slept::Kernel, found)) => {
            let now = Some(Duration::ZERO);
            kernel(set, epfd, &mut out[found..], now, std::ptr::null())
                .map(|more| merge(out, found, more))
        }
        Ok((_, found)) => Ok(found),
        Err(errno) => Err(errno),
    })
}

/// What is ready now.
fn look(set: &Set, epfd: RawFd, out: &mut [epoll_event]) -> Result<usize, Errno> {
    let found = set.scan(out);
    let more = kernel(
        set,
        epfd,
        &mut out[found..],
        Some(Duration::ZERO),
        std::ptr::null(),
    )?;
    Ok(merge(out, found, more))
}

/// Asks the kernel, and corrects what it says of streams.
fn kernel(
    set: &Set,
    epfd: RawFd,
    out: &mut [epoll_event],
    timeout: Option<Duration>,
    sigmask: *const sigset_t,
) -> Result<usize, Errno> {
    if out.is_empty() {
        return Ok(0);
    }
    let time = timeout.map(|time| timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let count = crate::real::epoll_pwait2(epfd, out, time.as_ref(), sigmask)?;
    Ok(set.correct(epfd, &mut out[..count]))
}

/// `found` events came from rings, `more` behind them from the kernel: one event for each
/// descriptor.
fn merge(out: &mut [epoll_event], found: usize, more: usize) -> usize {
    let mut kept = found;
    for at in found..found + more {
        let event = out[at];
        let data = event.u64;
        match out[..found].iter().position(|known| { known.u64 } == data) {
            Some(known) => out[known].events |= event.events,
            None => {
                out[kept] = event;
                kept += 1;
            }
        }
    }
    kept
}

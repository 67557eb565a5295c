//! poll and ppoll; select is built on them.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use libc::{pollfd, sigset_t, timespec};
use rustix::io::Errno;
use smallvec::SmallVec;
use smcr_core::conn::{Asleep, Slept, Smc, Waiting, spin};

use super::epoll::Wait;
use super::pending::{self, Pending};
use crate::outcome::{Outcome, PassOn};
use crate::stream::StreamRef;
use crate::table;

/// The streams among the descriptors of one call, with their positions.
type Streams = SmallVec<[(usize, StreamRef); 8]>;

pub(crate) fn poll(fds: &mut [pollfd], wait: &Wait) -> Outcome<usize> {
    if fds.len() > smcr_core::fds::program_limit() as usize {
        return Outcome::Failed(Errno::INVAL);
    }
    let deadline = wait.timeout.map(|timeout| Instant::now() + timeout);
    let mut outcome = poll_once(fds, wait);
    while let Some(Err(pending::DECIDED)) = outcome {
        let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = Wait { timeout, ..*wait };
        // With no stream left this poll still has to end when the program said.
        outcome = poll_once(fds, &wait).or_else(|| Some(pending_only(fds, &wait)));
    }
    outcome.map_or(Outcome::PassOn(PassOn::NotOurs), Outcome::from)
}

/// `None`: there is no stream among them. [`pending::DECIDED`]: what they are has changed.
fn poll_once(fds: &mut [pollfd], wait: &Wait) -> Option<Result<usize, Errno>> {
    let mut streams = Streams::new();
    let mut pending = false;
    for (at, entry) in fds.iter().enumerate() {
        if !table::is_known(entry.fd) {
            continue;
        }
        if let Some(stream) = table::stream(entry.fd) {
            if stream.connection.smc().is_some() {
                stream.watch.set_polled();
                streams.push((at, stream));
            } else {
                pending = true;
            }
        } else if let Some(set) = table::set(entry.fd) {
            set.set_nested();
        }
    }
    if streams.is_empty() && pending {
        return Some(pending_only(fds, wait));
    }
    if streams.is_empty() {
        return None;
    }
    Some(wait_for(fds, &streams, wait))
}

/// Streams whose handshake is pending are as the kernel says, nearly.
fn pending_only(fds: &mut [pollfd], wait: &Wait) -> Result<usize, Errno> {
    let time = wait.timeout.map(|time| timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let mut asked: SmallVec<[pollfd; 16]> = SmallVec::from_slice(fds);
    let held = hold(&mut asked, wait.timeout);
    let count = crate::real::ppoll(&mut asked, time.as_ref(), wait.sigmask)?;
    held.check()?;
    for (entry, asked) in fds.iter_mut().zip(&asked) {
        entry.revents = asked.revents;
        if table::is_known(entry.fd)
            && let Some(stream) = table::stream(entry.fd)
        {
            pending::correct(entry, &stream)?;
        }
    }
    Ok(count)
}

fn hold(asked: &mut [pollfd], timeout: Option<Duration>) -> Pending {
    if timeout.is_some_and(|timeout| timeout.is_zero()) {
        Pending::none()
    } else {
        Pending::hold(asked)
    }
}

/// What poll would report of a stream.
fn ready(smc: &Smc, events: i16) -> i16 {
    smc.readiness() & (events | libc::POLLERR | libc::POLLHUP)
}

/// Calls `each` with every stream that is on SMC, and its entry.
fn each_smc(fds: &mut [pollfd], streams: &Streams, mut each: impl FnMut(&mut pollfd, &Smc)) {
    for (at, stream) in streams {
        if let Some(smc) = stream.connection.smc() {
            each(&mut fds[*at], smc);
        }
    }
}

/// Whether some entry asks for `POLLRDHUP` and does not have it yet: with data in the ring, only
/// the kernel knows that the peer was killed.
fn wants_hangup(fds: &[pollfd]) -> bool {
    fds.iter()
        .any(|entry| entry.events & !entry.revents & libc::POLLRDHUP != 0)
}

fn wait_for(fds: &mut [pollfd], streams: &Streams, wait: &Wait) -> Result<usize, Errno> {
    let deadline = wait.timeout.map(|timeout| Instant::now() + timeout);
    let others = fds.len() > streams.len();
    let on_smc = streams.iter().filter_map(|(_, s)| s.connection.smc());
    let waiting = Waiting::for_one_of(on_smc);
    let look = |fds: &mut [pollfd]| {
        let mut count = 0;
        each_smc(fds, streams, |entry, smc| {
            entry.revents = ready(smc, entry.events);
            count += usize::from(entry.revents != 0);
        });
        count
    };
    loop {
        let found = look(fds);
        if found > 0 && !others && !wants_hangup(fds) {
            return Ok(found);
        }
        let now = wait.timeout.is_some_and(|timeout| timeout.is_zero());
        if found > 0 || now {
            return ask_kernel(fds, streams, Some(Duration::ZERO), wait.sigmask);
        }
        let budget = streams[0].1.connection.smc().map(Smc::spin_budget);
        let mut rounds = 0u32;
        let mut early = Ok(0);
        let spun = budget.is_some_and(|budget| {
            waiting.spin(budget, || {
                rounds += 1;
                if others && rounds.is_multiple_of(32) {
                    early = ask_kernel(fds, streams, Some(Duration::ZERO), std::ptr::null());
                    return early != Ok(0);
                }
                look(fds) > 0
            })
        });
        if early? > 0 {
            return early;
        }
        if spun {
            continue;
        }
        let sleep = waiting.fall_asleep();
        if !arm(fds, streams) {
            disarm(streams);
            continue;
        }
        let began = Instant::now();
        let left = deadline.map(|at| at.saturating_duration_since(began));
        spin::sleeps();
        let woken = match sleep_alone(fds, streams, &sleep, left, wait.sigmask) {
            Some(Ok(Slept::Kernel)) => {
                ask_kernel(fds, streams, Some(Duration::ZERO), std::ptr::null())
            }
            Some(Ok(Slept::Wire)) => Ok(look(fds)),
            Some(Ok(Slept::Time)) => Ok(0),
            Some(Err(errno)) => Err(errno),
            None => ask_kernel(fds, streams, left, wait.sigmask),
        };
        drop(sleep);
        disarm(streams);
        if let Some(budget) = budget {
            spin::slept(budget, began.elapsed());
        }
        match woken? {
            0 if deadline.is_some_and(|at| Instant::now() >= at) => return Ok(0),
            0 => {}
            count => return Ok(count),
        }
    }
}

/// The sleep of a thread that waits for nothing but to read from one stream, which nobody else
/// watches: it waits for the adapter itself.
fn sleep_alone(
    fds: &[pollfd],
    streams: &Streams,
    sleep: &Asleep,
    timeout: Option<Duration>,
    sigmask: *const sigset_t,
) -> Option<Result<Slept, Errno>> {
    const READS: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLRDHUP;
    let ([entry], [(_, stream)]) = (fds, streams.as_slice()) else {
        return None;
    };
    let smc = stream.connection.smc()?;
    let reads_only = entry.events & !READS == 0 && entry.events & libc::POLLIN != 0;
    if !reads_only || stream.watch.is_registered() || stream.watch.is_for_others(smc) {
        return None;
    }
    // SAFETY: the program asked for this descriptor, and it has an entry.
    let fd = unsafe { BorrowedFd::borrow_raw(entry.fd) };
    let slept = sleep.sleep_on(smc, fd, timeout, sigmask)?;
    // It may have been a stop, which ends the sleep and does not end a poll.
    let goes_on = slept == Err(Errno::INTR) && !smcr_core::sys::has_handler(false);
    Some(if goes_on { Ok(Slept::Wire) } else { slept })
}

/// Prepares all streams for a sleep in the kernel. False if one of them is ready.
fn arm(fds: &mut [pollfd], streams: &Streams) -> bool {
    let mut idle = true;
    each_smc(fds, streams, |entry, smc| {
        smc.sleep_begin();
        if entry.events & (libc::POLLIN | libc::POLLRDNORM | libc::POLLRDHUP | libc::POLLPRI) != 0 {
            smc.arm();
        }
        if entry.events & (libc::POLLOUT | libc::POLLWRNORM) != 0 {
            // SAFETY: the program asked for this descriptor, and it has an entry.
            smc.arm_writable(unsafe { BorrowedFd::borrow_raw(entry.fd) });
        }
        idle &= ready(smc, entry.events) == 0;
    });
    idle
}

fn disarm(streams: &Streams) {
    for (_, stream) in streams {
        if let Some(smc) = stream.connection.smc() {
            smc.sleep_end();
        }
    }
}

/// How often a stream with unread data is looked at for an urgent byte.
const GLANCE: Duration = Duration::from_millis(10);

/// Polls in the kernel, and replaces what it says of streams by what TCP would say.
fn ask_kernel(
    fds: &mut [pollfd],
    streams: &Streams,
    timeout: Option<Duration>,
    sigmask: *const sigset_t,
) -> Result<usize, Errno> {
    let mut asked: SmallVec<[pollfd; 16]> = SmallVec::from_slice(fds);
    let mut timeout = timeout;
    each_smc(fds, streams, |entry, smc| {
        // The kernel knows nothing of urgent bytes: the bell tells of them as of all that arrives.
        const BELL: i16 = libc::POLLIN | libc::POLLRDNORM;
        if entry.events & libc::POLLPRI != 0 && entry.events & BELL == 0 {
            if smc.readiness() & libc::POLLIN == 0 {
                let at = asked.iter_mut().find(|asked| asked.fd == entry.fd);
                if let Some(asked) = at {
                    asked.events |= libc::POLLIN;
                }
            } else {
                // A bell is there, of data that the program does not want now.
                timeout = Some(timeout.map_or(GLANCE, |timeout| timeout.min(GLANCE)));
            }
        }
        // Nothing more is to be heard of a peer that is gone, and the kernel would not sleep.
        if smc.is_peer_closed() {
            let at = asked.iter_mut().find(|asked| asked.fd == entry.fd);
            if let Some(asked) = at {
                asked.fd = -1;
            }
        }
    });
    let time = timeout.map(|time| timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: i64::from(time.subsec_nanos()),
    });
    let held = hold(&mut asked, timeout);
    crate::real::ppoll(&mut asked, time.as_ref(), sigmask)?;
    held.check()?;
    for (at, (entry, asked)) in fds.iter_mut().zip(&asked).enumerate() {
        entry.revents = asked.revents;
        if asked.revents != 0
            && table::is_known(entry.fd)
            && streams.binary_search_by_key(&at, |(at, _)| *at).is_err()
            && let Some(stream) = table::stream(entry.fd)
        {
            pending::correct(entry, &stream)?;
        }
    }
    each_smc(fds, streams, |entry, smc| {
        let said = entry.revents;
        if said & libc::POLLNVAL != 0 {
            return;
        }
        entry.revents = ready(smc, entry.events);
        let hangup = said & (libc::POLLHUP | libc::POLLRDHUP) != 0;
        let known = smc.readiness();
        if hangup && known & libc::POLLRDHUP == 0
            || said & libc::POLLIN != 0 && known & (libc::POLLIN | libc::POLLHUP) == 0
        {
            // SAFETY: the kernel just knew it.
            smc.recheck(unsafe { BorrowedFd::borrow_raw(entry.fd) });
            entry.revents = ready(smc, entry.events);
        }
    });
    Ok(fds.iter().filter(|entry| entry.revents != 0).count())
}

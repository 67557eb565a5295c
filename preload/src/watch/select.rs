//! select and pselect, by way of poll.

use std::os::fd::RawFd;

use libc::{POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDNORM, fd_set, pollfd};
use rustix::io::Errno;
use smallvec::SmallVec;

use super::epoll::Wait;
use super::poll;
use crate::outcome::{Outcome, PassOn};
use crate::table;

/// The three sets of a call, each null or big enough for `nfds` bits.
pub(crate) struct Sets {
    pub(crate) nfds: i32,
    pub(crate) read: *mut fd_set,
    pub(crate) write: *mut fd_set,
    pub(crate) except: *mut fd_set,
}

const BITS: usize = 64;

/// The word of a set that holds `fd`'s bit, and the bit. (Programs may use sets larger than
/// `fd_set`, so FD_ISSET's bound does not hold.)
fn bit(set: *mut fd_set, fd: usize) -> (*mut u64, u64) {
    (set.cast::<u64>().wrapping_add(fd / BITS), 1 << (fd % BITS))
}

fn is_set(set: *mut fd_set, fd: usize) -> bool {
    if set.is_null() {
        return false;
    }
    let (word, mask) = bit(set, fd);
    // SAFETY: the program promised `nfds` bits.
    unsafe { word.read() & mask != 0 }
}

fn change(set: *mut fd_set, fd: usize, on: bool) {
    if set.is_null() {
        return;
    }
    let (word, mask) = bit(set, fd);
    // SAFETY: the program promised `nfds` bits.
    unsafe {
        word.write(if on {
            word.read() | mask
        } else {
            word.read() & !mask
        })
    }
}

/// Changes the sets only on success, like select.
pub(crate) fn select(sets: &Sets, wait: &Wait) -> Outcome<usize> {
    let nfds = sets.nfds.max(0) as usize;
    let all = [sets.read, sets.write, sets.except];
    let ours = (0..nfds).any(|fd| {
        table::is_known(fd as RawFd)
            && all.iter().any(|set| is_set(*set, fd))
            && table::stream(fd as RawFd).is_some()
    });
    if !ours {
        return Outcome::PassOn(PassOn::NotOurs);
    }
    let mut fds: SmallVec<[pollfd; 16]> = SmallVec::new();
    for fd in 0..nfds {
        let wants = [POLLIN | POLLRDNORM, POLLOUT, POLLPRI];
        let events = all.iter().zip(wants).filter(|(set, _)| is_set(**set, fd));
        let events = events.fold(0, |sum, (_, want)| sum | want);
        if events != 0 {
            fds.push(pollfd {
                fd: fd as RawFd,
                events,
                revents: 0,
            });
        }
    }
    match poll::poll(&mut fds, wait) {
        Outcome::Done(_) => match report(sets, &fds) {
            Ok(count) => Outcome::Done(count),
            Err(errno) => Outcome::Failed(errno),
        },
        other => other,
    }
}

fn report(sets: &Sets, fds: &[pollfd]) -> Result<usize, Errno> {
    if fds.iter().any(|entry| entry.revents & POLLNVAL != 0) {
        return Err(Errno::BADF);
    }
    let mut count = 0;
    for entry in fds {
        let fd = entry.fd as usize;
        for (set, mask) in [
            (sets.read, POLLIN | POLLRDNORM | POLLHUP | POLLERR),
            (sets.write, POLLOUT | POLLERR),
            (sets.except, POLLPRI),
        ] {
            let on = is_set(set, fd) && entry.revents & mask != 0;
            change(set, fd, on);
            count += usize::from(on);
        }
    }
    Ok(count)
}

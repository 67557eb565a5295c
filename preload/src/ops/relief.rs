//! Where descriptors get short: streams can do without the TCP sockets behind them.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use libc::c_int;
use rustix::io::Errno;
use smcr_core::fds;

use super::signals;
use crate::{real, table};

/// The descriptor at which the next round goes on.
static NEXT: AtomicI32 = AtomicI32::new(0);

/// Rounds to be left out, after one that found nothing.
static PAUSE: AtomicU32 = AtomicU32::new(0);

/// Streams that are relieved of their TCP sockets in one round.
const ROUND: usize = 64;

/// Descriptors that are looked at in one round.
const LOOKS: RawFd = 4096;

/// To be called when a connection is made: if few descriptors are left, some streams give up
/// their TCP sockets.
#[inline]
pub(crate) fn look() {
    if fds::are_short() {
        relieve();
    }
}

/// Makes a call that makes a descriptor. If there is none left, and streams hold some that they
/// can do without, makes it again.
pub(crate) fn retry(call: impl Fn() -> c_int) -> c_int {
    let ret = call();
    if ret >= 0 || real::errno() != Errno::MFILE {
        return ret;
    }
    if relieve() == 0 {
        real::set_errno(Errno::MFILE);
        return ret;
    }
    call()
}

/// Returns how many gave theirs up.
#[cold]
fn relieve() -> usize {
    let pause = |rounds: u32| rounds.checked_sub(1);
    if PAUSE
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, pause)
        .is_ok()
    {
        return 0;
    }
    let from = NEXT.load(Ordering::Relaxed);
    let mut given_up = 0;
    for fd in table::known(from, from + LOOKS) {
        if let Some(stream) = table::stream(fd)
            && stream.connection.smc().is_some()
            && stream
                .connection
                .with_tcp(|tcp| signals::has_owner(tcp.as_raw_fd()))
                == Some(false)
        {
            given_up += usize::from(stream.connection.give_up_tcp());
            if given_up == ROUND {
                NEXT.store(fd + 1, Ordering::Relaxed);
                return given_up;
            }
        }
    }
    let is_last = from + LOOKS > table::highest();
    NEXT.store(if is_last { 0 } else { from + LOOKS }, Ordering::Relaxed);
    if given_up == 0 {
        PAUSE.store(ROUND as u32, Ordering::Relaxed);
    }
    given_up
}

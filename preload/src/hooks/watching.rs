//! epoll, poll and select.

use std::time::Duration;

use libc::{c_int, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};
use redhook::{hook, real};

use super::files::is_hidden;
use crate::watch::epoll::{self, Wait};
use crate::watch::poll as polling;
use crate::watch::select::{self as selecting, Sets};

super::resolves!(
    epoll_create,
    epoll_create1,
    epoll_ctl,
    epoll_wait,
    epoll_pwait,
    epoll_pwait2,
    poll,
    ppoll,
    __poll_chk,
    __ppoll_chk,
    select,
    pselect
);

hook! {
    unsafe fn epoll_create(size: c_int) -> c_int => smcr_epoll_create {
        // SAFETY: takes an integer.
        created(unsafe { real!(epoll_create)(size) })
    }
}

hook! {
    unsafe fn epoll_create1(flags: c_int) -> c_int => smcr_epoll_create1 {
        // SAFETY: takes an integer.
        created(unsafe { real!(epoll_create1)(flags) })
    }
}

fn created(epfd: c_int) -> c_int {
    if epfd >= 0 && smcr_core::engine::engine().is_some() {
        epoll::created(epfd);
    }
    epfd
}

hook! {
    unsafe fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int
        => smcr_epoll_ctl
    {
        if is_hidden(fd) || is_hidden(epfd) {
            return -1;
        }
        // SAFETY: the program's event, by epoll_ctl's contract.
        unsafe {
            let ret = real!(epoll_ctl)(epfd, op, fd, event);
            if ret == 0 && crate::table::is_known(fd) {
                let event = (!event.is_null()).then(|| event.read_unaligned());
                epoll::controlled(epfd, op, fd, event);
            }
            ret
        }
    }
}

/// # Safety
/// `events` has room for `max` entries.
unsafe fn events<'a>(events: *mut epoll_event, max: c_int) -> &'a mut [epoll_event] {
    if events.is_null() || max <= 0 {
        return &mut [];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts_mut(events, max as usize) }
}

fn milliseconds(timeout: c_int) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// Whether the kernel would take this time.
///
/// # Safety
/// `timeout` is null or valid.
unsafe fn is_valid(timeout: *const timespec) -> bool {
    // SAFETY: by this function's contract.
    unsafe { timeout.as_ref() }
        .is_none_or(|time| time.tv_sec >= 0 && (0..1_000_000_000).contains(&time.tv_nsec))
}

/// # Safety
/// `timeout` is null or valid.
unsafe fn duration(timeout: *const timespec) -> Option<Duration> {
    // SAFETY: by this function's contract.
    let time = unsafe { timeout.as_ref() }?;
    Some(Duration::new(
        time.tv_sec.max(0) as u64,
        time.tv_nsec.clamp(0, 999_999_999) as u32,
    ))
}

hook! {
    unsafe fn epoll_wait(epfd: c_int, out: *mut epoll_event, max: c_int, timeout: c_int) -> c_int
        => smcr_epoll_wait
    {
        let wait = Wait { timeout: milliseconds(timeout), sigmask: std::ptr::null() };
        // SAFETY: the program's array, by epoll_wait's contract.
        unsafe {
            let call = || real!(epoll_wait)(epfd, out, max, timeout);
            epoll::wait(epfd, events(out, max), &wait, call).or_else(|found| found as c_int, call)
        }
    }
}

hook! {
    unsafe fn epoll_pwait(
        epfd: c_int, out: *mut epoll_event, max: c_int, timeout: c_int, sigmask: *const sigset_t
    ) -> c_int => smcr_epoll_pwait {
        let wait = Wait { timeout: milliseconds(timeout), sigmask };
        // SAFETY: the program's array and mask, by epoll_pwait's contract.
        unsafe {
            let call = || real!(epoll_pwait)(epfd, out, max, timeout, sigmask);
            epoll::wait(epfd, events(out, max), &wait, call).or_else(|found| found as c_int, call)
        }
    }
}

hook! {
    unsafe fn epoll_pwait2(
        epfd: c_int, out: *mut epoll_event, max: c_int, timeout: *const timespec,
        sigmask: *const sigset_t
    ) -> c_int => smcr_epoll_pwait2 {
        // SAFETY: the program's array, time and mask, by epoll_pwait2's contract.
        unsafe {
            if !is_valid(timeout) {
                return real!(epoll_pwait2)(epfd, out, max, timeout, sigmask);
            }
            let wait = Wait { timeout: duration(timeout), sigmask };
            let call = || real!(epoll_pwait2)(epfd, out, max, timeout, sigmask);
            epoll::wait(epfd, events(out, max), &wait, call).or_else(|found| found as c_int, call)
        }
    }
}

/// More entries than the program may have descriptors: the kernel goes by the limit that we
/// raised.
fn too_many(count: nfds_t) -> bool {
    count > smcr_core::fds::program_limit() as nfds_t
}

fn refuse() -> c_int {
    crate::real::set_errno(rustix::io::Errno::INVAL);
    -1
}

/// # Safety
/// `fds` has `count` entries.
unsafe fn entries<'a>(fds: *mut pollfd, count: nfds_t) -> &'a mut [pollfd] {
    if fds.is_null() {
        return &mut [];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts_mut(fds, count as usize) }
}

hook! {
    unsafe fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int => smcr_poll {
        let wait = Wait { timeout: milliseconds(timeout), sigmask: std::ptr::null() };
        if too_many(count) {
            return refuse();
        }
        // SAFETY: the program's array, by poll's contract.
        unsafe {
            polling::poll(entries(fds, count), &wait)
                .or_else(|found| found as c_int, || real!(poll)(fds, count, timeout))
        }
    }
}

hook! {
    unsafe fn __poll_chk(fds: *mut pollfd, count: nfds_t, timeout: c_int, room: usize) -> c_int
        => smcr_poll_chk
    {
        // SAFETY: as poll; a count beyond the room is libc's to report.
        unsafe {
            if room / size_of::<pollfd>() < count as usize {
                return real!(__poll_chk)(fds, count, timeout, room);
            }
            smcr_poll(fds, count, timeout)
        }
    }
}

hook! {
    unsafe fn ppoll(
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, sigmask: *const sigset_t
    ) -> c_int => smcr_ppoll {
        // SAFETY: the program's array, time and mask, by ppoll's contract.
        unsafe {
            if !is_valid(timeout) || too_many(count) {
                return refuse();
            }
            let wait = Wait { timeout: duration(timeout), sigmask };
            polling::poll(entries(fds, count), &wait)
                .or_else(|found| found as c_int, || real!(ppoll)(fds, count, timeout, sigmask))
        }
    }
}

hook! {
    unsafe fn __ppoll_chk(
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, sigmask: *const sigset_t,
        room: usize
    ) -> c_int => smcr_ppoll_chk {
        // SAFETY: as ppoll; a count beyond the room is libc's to report.
        unsafe {
            if room / size_of::<pollfd>() < count as usize {
                return real!(__ppoll_chk)(fds, count, timeout, sigmask, room);
            }
            smcr_ppoll(fds, count, timeout, sigmask)
        }
    }
}

hook! {
    unsafe fn select(
        nfds: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set,
        timeout: *mut timeval
    ) -> c_int => smcr_select {
        // SAFETY: the program's sets and time, by select's contract.
        unsafe {
            if timeout.as_ref().is_some_and(|time| time.tv_sec < 0 || time.tv_usec < 0) {
                return real!(select)(nfds, read, write, except, timeout);
            }
            let sets = Sets { nfds, read, write, except };
            let time = timeout.as_ref().map(|time| {
                Duration::from_secs(time.tv_sec.max(0) as u64)
                    + Duration::from_micros(time.tv_usec.max(0) as u64)
            });
            let began = std::time::Instant::now();
            let wait = Wait { timeout: time, sigmask: std::ptr::null() };
            selecting::select(&sets, &wait).or_else(
                |found| {
                    // Linux tells how much time is left.
                    if let (Some(all), Some(left)) = (time, timeout.as_mut()) {
                        let rest = all.saturating_sub(began.elapsed());
                        left.tv_sec = rest.as_secs() as i64;
                        left.tv_usec = i64::from(rest.subsec_micros());
                    }
                    found as c_int
                },
                || real!(select)(nfds, read, write, except, timeout),
            )
        }
    }
}

hook! {
    unsafe fn pselect(
        nfds: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set,
        timeout: *const timespec, sigmask: *const sigset_t
    ) -> c_int => smcr_pselect {
        // SAFETY: the program's sets, time and mask, by pselect's contract.
        unsafe {
            if !is_valid(timeout) {
                return real!(pselect)(nfds, read, write, except, timeout, sigmask);
            }
            let sets = Sets { nfds, read, write, except };
            let wait = Wait { timeout: duration(timeout), sigmask };
            selecting::select(&sets, &wait).or_else(
                |found| found as c_int,
                || real!(pselect)(nfds, read, write, except, timeout, sigmask),
            )
        }
    }
}

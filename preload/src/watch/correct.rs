//! What the kernel says of an epoll set, made to say what TCP would.

use std::os::fd::{BorrowedFd, RawFd};

use libc::epoll_event;
use smcr_core::engine::Phase;

use super::edge::{ALWAYS, Look, WRITABLE};
use super::set::{EDGE, ONCE, Set};

/// What the kernel says when there is something to receive.
const INCOMING: u32 = (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLRDHUP) as u32;

impl Set {
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

    /// Waits until a handshake is decided whose stream the kernel reports: a bell, or a hang-up,
    /// comes only from a server that knows its end. Whether it is (still) a stream; `None` if it
    /// was decided before.
    fn was_pending(&self, data: u64) -> Option<bool> {
        let stream = {
            let state = self.state.lock();
            let member = &state.members[*state.by_data.get(&data)? as usize];
            member.stream.clone()?
        };
        if stream.connection.smc().is_some() {
            return None;
        }
        // Without the lock, which a return to TCP takes.
        stream.connection.wait_decided();
        Some(stream.connection.phase() != Phase::Tcp)
    }

    fn corrected(&self, epfd: RawFd, event: epoll_event) -> u32 {
        let (seen, data) = (event.events, event.u64);
        if data == self.kick_data() {
            return 0;
        }
        if seen & INCOMING != 0 && self.was_pending(data) == Some(false) {
            // It is on TCP now: the event was the readiness pair's.
            return 0;
        }
        let mut state = self.state.lock();
        let Some(&index) = state.by_data.get(&data) else {
            return seen;
        };
        let member = &mut state.members[index as usize];
        let Some(stream) = member.stream.as_ref().filter(|_| member.active) else {
            return seen;
        };
        let Some(smc) = stream.connection.smc() else {
            // Its handshake is pending. A unix socket has a bit that TCP has not.
            return seen & !(libc::EPOLLWRBAND as u32);
        };
        let mut look = Look::at(smc);
        let mut mask = look.mask(member.events);
        let hangup = seen & (libc::EPOLLHUP | libc::EPOLLRDHUP) as u32 != 0;
        if hangup && smc.readiness() & libc::POLLRDHUP == 0
            || seen & INCOMING != 0 && mask & !WRITABLE == 0
        {
            // SAFETY: the descriptor is in the set, so the program has it open.
            smc.recheck(unsafe { BorrowedFd::borrow_raw(member.fd) });
            look = Look::at(smc);
            mask = look.mask(member.events);
        }
        if seen & member.events & WRITABLE != 0 && mask & WRITABLE == 0 {
            // There is too little space to say so, and the kernel does not know it yet.
            // SAFETY: as above.
            smc.arm_writable(unsafe { BorrowedFd::borrow_raw(member.fd) });
            look = Look::at(smc);
            mask = look.mask(member.events);
        }
        if member.events & EDGE != 0 {
            if member.edge.is_news(member.events, smc, look) {
                member.edge.told(member.events, smc, look);
            } else {
                mask = 0;
            }
        } else if seen & INCOMING == 0 {
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
                member.silenced = quiet;
                let fd = member.fd;
                drop(state);
                crate::real::epoll_ctl(epfd, libc::EPOLL_CTL_MOD, fd, &mut again);
            }
        }
        mask
    }
}

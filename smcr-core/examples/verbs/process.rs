//! Tests of what the rest of a process has to do with it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use smcr_core::clc::Psn;
use smcr_core::rdma::fabric::{Completion, Link, LinkId};
use smcr_core::rdma::verbs;

use super::end::{End, Gid, Outcome, Result, describe, exchange, parse, rand};
use super::traffic;

/// Many links at once, each in its own domain, more than the first completion queue has room for,
/// and again when they are gone.
pub(crate) fn many(end: &mut End, gid: &Gid, links: usize, rounds: usize) -> Outcome {
    for round in 0..rounds {
        let mut made: Vec<Box<dyn Link>> = Vec::new();
        for _ in 0..links {
            let psn = Psn::new(rand() & 0xff_ffff).ok_or("24 bits")?;
            let domain = end.port.clone().domain()?;
            let mut link = domain.link(gid.local()?, psn, 44)?;
            let own = describe(&link.address(), 0, end.rmb_region.rkey());
            let (peer, ..) = parse(&exchange(&mut end.tcp, &own)?)?;
            link.connect(&peer)?;
            made.push(link);
        }
        end.meet()?;
        for link in &mut made {
            link.ready_to_send()?;
            for id in 1..=3 {
                // SAFETY: no memory but the message, which is copied.
                unsafe { link.post(&[], &[7; 44], id, id == 3)? };
            }
        }
        // The links of odd rounds are destroyed with completions outstanding.
        if round % 2 == 0 {
            let ids: Vec<LinkId> = made.iter().map(|link| link.id()).collect();
            let mut seen = vec![(0, 0); links];
            let begun = Instant::now();
            while seen
                .iter()
                .any(|&(sent, received)| sent != 3 || received != 3)
            {
                let mut wrong = None;
                let found = end.port.poll(&mut |completion| {
                    let index = |link| ids.iter().position(|&id| id == link);
                    match completion {
                        Completion::Sent { link, id } => match index(link) {
                            Some(index) => seen[index].0 = id,
                            None => wrong = Some(format!("sent by {link:?}")),
                        },
                        Completion::Received { link, .. } => match index(link) {
                            Some(index) => seen[index].1 += 1,
                            None => wrong = Some(format!("received by {link:?}")),
                        },
                        Completion::Failed { link, error } => {
                            wrong = Some(format!("{link:?} failed: {error:?}"));
                        }
                    }
                });
                if let Some(wrong) = wrong {
                    return Err(format!("round {round}: {wrong}").into());
                }
                if begun.elapsed() > Duration::from_secs(20) {
                    return Err(format!("round {round}: stuck at {seen:?}").into());
                }
                if found == 0 {
                    std::hint::spin_loop();
                }
            }
        }
        end.meet()?;
        drop(made);
        end.meet()?;
    }
    // What the odd rounds left behind is dropped.
    while end
        .port
        .poll(&mut |completion| panic!("of a destroyed link: {completion:?}"))
        > 0
    {}
    end.meet()?;
    traffic::pattern_after(end)
}

/// A child drops everything; the parent's link lives on.
pub(crate) fn fork(end: &mut End) -> Outcome {
    traffic::pattern(end, 3, 50)?;
    let rest = verbs::before_fork();
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            drop(rest);
            verbs::after_fork_in_child();
            // SAFETY: the parent's copy is another one. Dropping must not touch the adapter.
            unsafe {
                drop(std::ptr::read(&raw const end.link));
                drop(std::ptr::read(&raw const end.rmb_region));
                drop(std::ptr::read(&raw const end.source_region));
                drop(std::ptr::read(&raw const end.domain));
                drop(std::ptr::read(&raw const end.port));
                libc::_exit(0);
            }
        }
        -1 => return Err("cannot fork".into()),
        child => {
            drop(rest);
            let mut status = -1;
            // SAFETY: a valid place for the status.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            if status != 0 {
                return Err(format!("the child's status is {status:#x}").into());
            }
        }
    }
    traffic::pattern_after(end)
}

/// Opening a port does not change which numbers the program gets, and nothing of it reaches what
/// the program executes.
pub(crate) fn descriptors(gid: &Gid) -> Outcome {
    if !smcr_core::fds::reserve() {
        return Err("no room above the limit of descriptors".into());
    }
    let lowest = || -> Result<OwnedFd> { Ok(std::fs::File::open("/dev/null")?.into()) };
    let limit = smcr_core::fds::program_limit();
    let ours_before = own_descriptors(limit)?;
    let before = lowest()?.as_raw_fd();
    let port = verbs::open(&gid.device, 1)?;
    let after = lowest()?.as_raw_fd();
    if before != after {
        return Err(format!("the lowest free descriptor was {before}, and is {after}").into());
    }
    let ours = own_descriptors(limit)? - ours_before;
    // Commands, events, completions, and what shows that the device is there.
    if ours != 4 {
        return Err(format!("{ours} descriptors of the port's are above {limit}").into());
    }
    let own = [port.completion_fd(), port.event_fd()];
    if own.iter().any(|fd| fd.as_raw_fd() < limit) {
        return Err("a descriptor among the program's".into());
    }
    drop(port);
    let left = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&number| number >= limit)
        .count();
    if left != 0 {
        return Err(format!("{left} descriptors are left").into());
    }
    Ok(())
}

/// How many descriptors are above the program's; an error if one of them survives exec.
fn own_descriptors(limit: i32) -> Result<i32> {
    let mut ours = 0;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name().into_string().map_err(|_| "not text")?;
        let number: i32 = name.parse()?;
        if number < limit {
            continue;
        }
        ours += 1;
        // SAFETY: takes integers.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags & libc::FD_CLOEXEC == 0 {
            return Err(format!("descriptor {number} survives exec").into());
        }
    }
    Ok(ours)
}

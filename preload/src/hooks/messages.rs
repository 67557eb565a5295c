//! sendmsg, recvmsg and their plural forms.

use std::os::fd::AsRawFd;

use libc::{c_int, c_uint, mmsghdr, msghdr, ssize_t, timespec};
use redhook::{hook, real};
use rustix::io::Errno;

use crate::ops::{io, passing};
use crate::outcome::Outcome;
use crate::stream::StreamRef;
use crate::table;

super::resolves!(sendmsg, recvmsg, sendmmsg, recvmmsg);

/// # Safety
/// `message` is valid as for sendmsg(2).
unsafe fn send_one(
    fd: c_int,
    stream: &StreamRef,
    message: *const msghdr,
    flags: c_int,
) -> Outcome<usize> {
    // SAFETY: by this function's contract. Ancillary data mean nothing on a TCP socket.
    unsafe {
        let (iov, count) = ((*message).msg_iov, (*message).msg_iovlen);
        if count > 1024 {
            return Outcome::Failed(Errno::MSGSIZE);
        }
        if (*message).msg_controllen > 0 {
            // Wrong ones are refused: by the TCP socket, which is given nothing to send. (What it
            // says else is about a TCP connection that may have ended before the stream.)
            let mut empty = *message;
            empty.msg_iovlen = 0;
            let flags = flags & !libc::MSG_OOB | libc::MSG_NOSIGNAL;
            let sent = stream
                .connection
                .with_tcp(|tcp| real!(sendmsg)(tcp.as_raw_fd(), &empty, flags));
            if sent.is_some_and(|sent| sent < 0)
                && let errno @ (Errno::INVAL | Errno::FAULT | Errno::PERM | Errno::NOBUFS) =
                    crate::real::errno()
            {
                return Outcome::Failed(errno);
            }
        }
        io::with_slices(iov, count, |source| io::send(fd, stream, source, flags))
    }
}

/// # Safety
/// `message` is valid as for recvmsg(2).
unsafe fn receive_one(
    fd: c_int,
    stream: &StreamRef,
    message: *mut msghdr,
    flags: c_int,
) -> Outcome<usize> {
    // SAFETY: by this function's contract.
    unsafe {
        let (iov, count) = ((*message).msg_iov, (*message).msg_iovlen);
        if count > 1024 {
            return Outcome::Failed(Errno::MSGSIZE);
        }
        let received = io::with_slices(iov, count, |sink| io::recv(fd, stream, sink, flags));
        if let Outcome::Done(_) = received {
            // As TCP: no address, no ancillary data.
            (*message).msg_namelen = 0;
            (*message).msg_controllen = 0;
            (*message).msg_flags = flags & (libc::MSG_OOB | libc::MSG_CMSG_CLOEXEC);
        }
        received
    }
}

hook! {
    unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t => smcr_sendmsg {
        // SAFETY: the program's message, by sendmsg's contract.
        unsafe {
            if flags & libc::MSG_FASTOPEN != 0 {
                crate::ops::setup::fast_open(fd);
            }
            match table::stream(fd) {
                None if !message.is_null() && (*message).msg_controllen > 0 => {
                    passing::sending(&*message, |message| real!(sendmsg)(fd, message, flags))
                }
                None => real!(sendmsg)(fd, message, flags),
                Some(stream) => send_one(fd, &stream, message, flags).or_else(
                    |sent| sent as ssize_t,
                    || real!(sendmsg)(fd, message, flags),
                ),
            }
        }
    }
}

hook! {
    unsafe fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t => smcr_recvmsg {
        // SAFETY: the program's message, by recvmsg's contract.
        unsafe {
            match table::stream(fd) {
                None if passing::may_receive(fd, message) => {
                    passing::receiving(fd, message, flags, |message| {
                        real!(recvmsg)(fd, message, flags)
                    })
                }
                None => real!(recvmsg)(fd, message, flags),
                Some(stream) => receive_one(fd, &stream, message, flags).or_else(
                    |received| received as ssize_t,
                    || real!(recvmsg)(fd, message, flags),
                ),
            }
        }
    }
}

/// sendmmsg() through what is not a stream: where descriptors of streams are passed, message by
/// message.
///
/// # Safety
/// As sendmmsg(2).
unsafe fn send_all(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int {
    const MOST: c_uint = 1024;
    // SAFETY: by this function's contract.
    unsafe {
        let all = 0..count.min(MOST) as usize;
        let passes = !messages.is_null()
            && all
                .clone()
                .any(|at| passing::passes_stream(&(*messages.add(at)).msg_hdr));
        if !passes {
            return real!(sendmmsg)(fd, messages, count, flags);
        }
        for at in all {
            let message = messages.add(at);
            let sent = passing::sending(&(*message).msg_hdr, |header| {
                real!(sendmsg)(fd, header, flags)
            });
            if sent < 0 {
                // The error of a later one is kept for the next call.
                return if at > 0 { at as c_int } else { -1 };
            }
            (*message).msg_len = sent as c_uint;
        }
        count.min(MOST) as c_int
    }
}

hook! {
    unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int
        => smcr_sendmmsg
    {
        // SAFETY: the program's messages, by sendmmsg's contract.
        unsafe {
            let Some(stream) = table::stream(fd) else {
                return send_all(fd, messages, count, flags);
            };
            let mut done = 0;
            for at in 0..count.min(1024) as usize {
                let message = messages.add(at);
                match send_one(fd, &stream, &raw const (*message).msg_hdr, flags) {
                    Outcome::Done(sent) => {
                        (*message).msg_len = sent as c_uint;
                        done += 1;
                    }
                    _ if done > 0 => break,
                    failed => {
                        return failed.or_else(
                            |_| 0,
                            || real!(sendmmsg)(fd, messages, count, flags),
                        );
                    }
                }
            }
            done
        }
    }
}

hook! {
    unsafe fn recvmmsg(
        fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, timeout: *mut timespec
    ) -> c_int => smcr_recvmmsg {
        // SAFETY: the program's messages, by recvmmsg's contract.
        unsafe {
            let Some(stream) = table::stream(fd) else {
                return real!(recvmmsg)(fd, messages, count, flags, timeout);
            };
            if !timeout.is_null() && ((*timeout).tv_sec < 0 || !(0..1_000_000_000).contains(&(*timeout).tv_nsec)) {
                crate::real::set_errno(Errno::INVAL);
                return -1;
            }
            let began = std::time::Instant::now();
            let mut done = 0;
            let mut flags = flags;
            for at in 0..count.min(1024) as usize {
                let message = messages.add(at);
                match receive_one(fd, &stream, &raw mut (*message).msg_hdr, flags & !libc::MSG_WAITFORONE) {
                    Outcome::Done(received) => {
                        (*message).msg_len = received as c_uint;
                        done += 1;
                    }
                    _ if done > 0 => break,
                    failed => {
                        return failed.or_else(
                            |_| 0,
                            || real!(recvmmsg)(fd, messages, count, flags, timeout),
                        );
                    }
                }
                if flags & libc::MSG_WAITFORONE != 0 {
                    flags |= libc::MSG_DONTWAIT;
                }
                // As the kernel: the time is looked at after each message.
                if !timeout.is_null() {
                    let spent = began.elapsed();
                    let all = std::time::Duration::new(
                        (*timeout).tv_sec.max(0) as u64,
                        (*timeout).tv_nsec.clamp(0, 999_999_999) as u32,
                    );
                    if spent >= all {
                        break;
                    }
                }
            }
            done
        }
    }
}

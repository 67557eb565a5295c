//! The TCP option of RFC 7609 (§3.1, §3.5.1.1, §A.1), which BPF programs on the process's cgroup
//! write and read for us (`tools/smcr-option`). We ask for it and learn the outcome by socket
//! options on a level of our own; without the programs the kernel knows no such level, and there
//! is no signal. Nothing here needs privileges.
//!
//! **What a caller has to do.** [`ask`] on a socket before its `connect`, or before its `listen`;
//! after the handshake, [`verdict`] on the connected or accepted socket. A request is good for one
//! `connect`; a listening socket keeps it, and the sockets it accepts come with a verdict each.
//! Verdict and request belong to the socket, whatever descriptor or process it is reached by.
//!
//! - Never ask on a socket that connects by TCP fast open: its data leave before the handshake.
//!   (Should it happen, [`Verdict::PeerSmc`] may come with data of the program on the way.)
//! - [`Verdict::PeerSmc`] on a socket that connected: a CLC message has to follow (§3.5.1.1), at
//!   least a Decline.
//! - [`Verdict::PeerSmc`] on an accepted socket: expect CLC, but look before taking: if something
//!   on the way took the option out of the SYN-ACK, the client is plain TCP. After a deadline it
//!   is, yet what comes first has still to be looked at, since a Proposal may be late.
//! - [`Verdict::NoSyn`]: plain TCP for certain on our side, and nearly so on the peer's.
//! - A listening socket that asked goes on confirming the option to clients, whoever holds it. So
//!   it must not reach a program that does not load the library: see [`withdraw_listeners`].
//! - If the programs are detached and attached again, listening sockets no longer ask, and nothing
//!   is confirmed for them: their new sockets say [`Verdict::NotAsked`] (or
//!   [`Verdict::NoSignal`]), which is the moment to [`ask`] again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::{fds, sys};

/// Level of the socket options below.
const LEVEL: i32 = 0x534d_4352;
/// setsockopt: 1 asks, 0 takes it back. getsockopt: which of them holds.
const ASK: i32 = 1;
/// getsockopt: the verdict.
const VERDICT: i32 = 2;

/// What the TCP handshake of a socket said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both ends sent the option: the peer understands CLC, and takes us to do so.
    PeerSmc,
    /// We asked, and the peer did not send the option.
    Plain,
    /// Nobody asked on this socket (or on the one that listened), or the handshake is not over.
    NotAsked,
    /// Accepted, asked for, but the kernel did not keep the SYN (SYN cookies, no memory), so that
    /// nothing was confirmed to the client.
    NoSyn,
    /// The programs are not there, or the socket is of a kind they do not serve.
    NoSignal,
}

impl Verdict {
    const fn of(answer: Result<i32, rustix::io::Errno>) -> Self {
        match answer {
            Ok(0) => Self::NotAsked,
            Ok(1) => Self::PeerSmc,
            Ok(2) => Self::Plain,
            Ok(3) => Self::NoSyn,
            // Programs of another time or maker.
            Ok(_) => Self::NoSignal,
            Err(_) => Self::NoSignal,
        }
    }
}

/// Asks for the option on the next handshake of `fd`, or, if it listens, on those that begin
/// later. True if the signal will be given: the programs are there, and the socket is a TCP socket
/// that is neither connecting nor connected. To ask again does no harm.
///
/// A socket that listens already can ask since Linux 6.12 only; one that has not begun to, always.
/// Of handshakes that are half done when it asks, the client may learn [`Verdict::Plain`] and the
/// accepted socket [`Verdict::PeerSmc`], as if the option had been taken out on the way.
pub fn ask(fd: BorrowedFd<'_>) -> bool {
    sys::set_int(fd, LEVEL, ASK, 1).is_ok()
}

/// Takes the request back; true if `fd` asks for nothing now. For a socket that listens: the next
/// SYN gets no option in its answer. Handshakes that are half done may still end with
/// [`Verdict::PeerSmc`] at the client. Before Linux 6.12, other sockets that listen on the port (by
/// `SO_REUSEPORT`) are plain from then on, too, until one asks again.
pub fn withdraw(fd: BorrowedFd<'_>) -> bool {
    match sys::set_int(fd, LEVEL, ASK, 0) {
        Ok(()) => true,
        // The programs are gone (or never were), and with them the option.
        Err(error) => error != rustix::io::Errno::PERM,
    }
}

/// Whether a request of `fd` is in force: the next `connect` carries the option, or the listening
/// socket confirms it.
pub fn asks(fd: BorrowedFd<'_>) -> bool {
    sys::get_int(fd, LEVEL, ASK) == Ok(1)
}

/// Listening sockets whose request was taken back. When it is dropped they ask again.
#[derive(Debug)]
pub struct Withdrawn {
    /// Descriptors of our own: the program may close its meanwhile. An exec closes these.
    listeners: Vec<OwnedFd>,
    is_complete: bool,
}

impl Withdrawn {
    /// Whether none of them asks any more.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.listeners.is_empty() && self.is_complete
    }

    /// They do not ask again: somebody has them now who does not load the library.
    pub fn keep(mut self) {
        self.listeners.clear();
    }
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        for listener in &self.listeners {
            ask(listener.as_fd());
        }
    }
}

/// To be called before an exec or spawn of a program that does not load the library, with all the
/// descriptors that it will inherit: the listening sockets among them ask no longer, so that no
/// client takes that program for one that understands CLC. Drop the result if the exec failed;
/// [`Withdrawn::keep`] it after a spawn: this process and the other have the sockets together.
///
/// To do in a vfork child, too: sockets, unlike descriptors, are the same ones there.
pub fn withdraw_listeners<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Withdrawn {
    let mut withdrawn = Withdrawn {
        listeners: Vec::new(),
        is_complete: true,
    };
    for fd in fds {
        let listens = sys::get_int(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN) == Ok(1);
        if !listens || !asks(fd) {
            continue;
        }
        let own = fds::duplicate(fd);
        if !withdraw(fd) {
            withdrawn.is_complete = false;
        } else if let Ok(own) = own {
            withdrawn.listeners.push(own);
        }
    }
    withdrawn
}

/// What the handshake of a connected or accepted socket said. It is known as soon as `connect`
/// returned or the socket is writable, and before `accept` returns.
pub fn verdict(fd: BorrowedFd<'_>) -> Verdict {
    Verdict::of(sys::get_int(fd, LEVEL, VERDICT))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use rustix::io::Errno;

    use super::{Verdict, verdict, withdraw};

    #[test]
    fn every_answer_has_a_meaning() {
        for (answer, expected) in [
            (Ok(0), Verdict::NotAsked),
            (Ok(1), Verdict::PeerSmc),
            (Ok(2), Verdict::Plain),
            (Ok(3), Verdict::NoSyn),
            (Ok(4), Verdict::NoSignal),
            (Ok(-1), Verdict::NoSignal),
            (Ok(i32::MIN), Verdict::NoSignal),
            (Err(Errno::NOPROTOOPT), Verdict::NoSignal),
            (Err(Errno::OPNOTSUPP), Verdict::NoSignal),
            (Err(Errno::PERM), Verdict::NoSignal),
            (Err(Errno::BADF), Verdict::NoSignal),
        ] {
            assert_eq!(Verdict::of(answer), expected, "{answer:?}");
        }
    }

    /// Whether or not the machine has the programs, a socket that did not ask is never SMC.
    #[test]
    fn without_asking_there_is_no_smc() {
        for addr in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(addr) else {
                continue;
            };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            for fd in [client.as_fd(), server.as_fd(), listener.as_fd()] {
                let verdict = verdict(fd);
                assert!(matches!(verdict, Verdict::NotAsked | Verdict::NoSignal));
            }
            assert!(withdraw(listener.as_fd()));
        }
    }
}

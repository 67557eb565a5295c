//! The server's side: what happens inside accept().

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::client::{Connecting, is_established};
use super::connection::EARLY_MAX;
use super::helper::{disconnect, transmit};
use super::{Connection, Engine, PUBLISHER, addresses, on_this_host};
use crate::conn::bell;
use crate::conn::{Home, Smc};
use crate::group::LinkGroup;
use crate::handshake::shm::{ShmGid, ShmHost};
use crate::handshake::{Event, ShmServer};
use crate::rendezvous::messages::{self, Message, RmbInfo};
use crate::rendezvous::{names, syn};
use crate::shm::Rx;
use crate::stat::{ConnInfo, Counter, Mode, Role, State};
use crate::{Reason, fds, sys};

/// A connection that moved to SMC inside accept().
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub connection: Connection,
    /// The end of the readiness pair that takes the place of the accepted TCP socket.
    pub end: OwnedFd,
}

/// What became of an accepted connection.
#[derive(Debug)]
pub enum Admitted {
    /// It moved.
    Moved(Box<Accepted>),
    /// Its handshake is pending, as a client's.
    Pending(Box<Connecting>),
}

/// How long to look for the client's name, which it binds right after its connect(), unless it
/// loses its core in between.
const CALL_WAIT: Duration = Duration::from_millis(100);

/// How long to look without sleeping, and then how often to look.
const CALL_YIELD: Duration = Duration::from_micros(500);

/// How long the client's library may take to say yes. It has a thread for it, which may have to
/// wait for a core.
const COMMIT_WAIT: Duration = Duration::from_millis(200);

/// Waiting awake for the client's library.
const SPIN: Duration = Duration::from_micros(80);

/// Why an accepted connection is not SMC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It is plain TCP, untouched.
    Tcp(Reason),
    /// It is broken: the handshake failed in the middle. The program sees a reset connection.
    Broken(Reason),
}

impl Engine {
    /// The program accepted a TCP connection. If the client runs under the library, moves the
    /// stream to SMC. `listener` is the socket it came from, if that may be asked to answer clients:
    /// not if a program that does not load the library has it, too.
    ///
    /// # Errors
    /// Why it stays TCP; `fd` is as it was then, or reset if the handshake broke off.
    pub fn accepted(
        &'static self,
        fd: BorrowedFd<'_>,
        listener: Option<BorrowedFd<'_>>,
    ) -> Result<Admitted, Reason> {
        let (local, peer) = addresses(fd).map_err(|_| Reason::Ended)?;
        if !on_this_host(local, peer) && self.config.rdma() {
            let pending = self.accepted_rdma(fd, local, peer, listener)?;
            return Ok(Admitted::Pending(Box::new(pending)));
        }
        let accepted = self.accepted_here(fd, local, peer)?;
        Ok(Admitted::Moved(Box::new(accepted)))
    }

    /// A connection from this host.
    fn accepted_here(
        &'static self,
        fd: BorrowedFd<'_>,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<Accepted, Reason> {
        let Some(syn) = syn::hinted(fd) else {
            return Err(Reason::PeerNoSmc);
        };
        if !on_this_host(local, peer) {
            // Anybody can send a SYN with that hint; nobody far away can make us wait.
            return Err(Reason::PeerNoSmc);
        }
        self.allow(local.port(), peer.ip())?;
        if !fds::reserve() {
            return Err(Reason::Descriptors);
        }
        // Before anything is said: it may fail, and there is no way back afterwards.
        let tcp = fds::duplicate(fd).map_err(|_| Reason::Descriptors)?;
        let (channel, uid) = call(fd, local, peer)?;
        if !self.trusts(uid) {
            return Err(Reason::OtherUser);
        }
        let hello = Message::Hello {
            tsval: syn.tsval,
            gid: self.identity.gid.0,
        };
        // A client that closes again at once takes its channel with it: there is nothing to move.
        let unanswered = |reason| if is_ending(fd) { Reason::Ended } else { reason };
        messages::send(channel.as_fd(), &hello, &[]).map_err(|_| unanswered(Reason::NoAnswer))?;
        let (message, passed) = wait_commit(&channel).map_err(unanswered)?;
        let Message::Commit {
            early,
            gid,
            rmb,
            group,
        } = message
        else {
            return Err(Reason::ClcInvalid);
        };
        let mut passed = passed.into_iter();
        // From here on the client's library speaks CLC: no way back to TCP without its consent.
        let (Some(end), Some(memory)) = (passed.next(), passed.next()) else {
            disconnect(fd);
            return Err(Reason::ClcInvalid);
        };
        if !bell::is_end(end.as_fd()) || !bell::empty(end.as_fd()) {
            disconnect(fd);
            return Err(Reason::ClcInvalid);
        }
        PUBLISHER.count(Counter::HandshakesStarted);
        let client = Client {
            early: early as usize,
            gid: ShmGid(gid),
            rmb,
            group,
            memory,
        };
        let smc = match self.shake_hands(fd, &channel, client) {
            Ok(smc) => smc,
            Err(Refusal::Tcp(reason)) => return Err(reason),
            Err(Refusal::Broken(reason)) => {
                disconnect(fd);
                return Err(reason);
            }
        };
        let info = ConnInfo {
            state: State::Active,
            mode: Mode::Shm,
            role: Role::Server,
            reason: None,
            local: Some(local),
            peer: Some(peer),
            group: u64::from(smc.group_id()),
        };
        log::debug!("{local} <- {peer}: shm");
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ok(Accepted {
            connection: Connection::established(tcp, info, smc),
            end,
        })
    }

    /// The CLC handshake on the TCP stream.
    fn shake_hands(
        &'static self,
        tcp: BorrowedFd<'_>,
        channel: &OwnedFd,
        client: Client,
    ) -> Result<Smc, Refusal> {
        let group = self.group(client.gid);
        let rx = group
            .take_rmbe(self.config.max_memory())
            .map_err(|_| Refusal::Broken(Reason::Memory))?;
        match self.shake_hands_with(tcp, channel, client, &group, &rx) {
            Ok(tx) => {
                let Some(local) = self.arena.take() else {
                    group.release_peer(&tx);
                    group.release(&rx);
                    return Err(Refusal::Broken(Reason::Memory));
                };
                Ok(Smc::new(tx, rx, local, Home::Shm(group), 0))
            }
            Err(refusal) => {
                group.release(&rx);
                Err(refusal)
            }
        }
    }

    fn shake_hands_with(
        &'static self,
        tcp: BorrowedFd<'_>,
        channel: &OwnedFd,
        client: Client,
        group: &LinkGroup,
        rx: &Rx,
    ) -> Result<crate::shm::Tx, Refusal> {
        let early = client.early;
        // With bytes of the program taken out of the stream there is no way back to TCP.
        let refuse = move |reason| {
            if early == 0 {
                Refusal::Tcp(reason)
            } else {
                Refusal::Broken(reason)
            }
        };
        if early > rx.size() {
            return Err(Refusal::Broken(Reason::ClcInvalid));
        }
        let timeouts = self.timeouts();
        let mut inbox = Inbox::default();
        inbox.take_early(tcp, rx, early, Instant::now() + timeouts.proposal)?;
        let host = ShmHost {
            identity: self.identity,
            eids: self.eids.clone(),
        };
        let mut handshake = ShmServer::new(host, timeouts, Instant::now());
        let mut memory = Some(client.memory);
        // Nothing follows the Proposal until it is answered. What follows a later message may be the
        // program's.
        let mut proposed_yet = false;
        loop {
            let event = loop {
                if let Some(event) = handshake.poll_event() {
                    break event;
                }
                let most = if proposed_yet {
                    handshake.needed()
                } else {
                    usize::MAX
                };
                let fed = match inbox.fill(tcp, most, handshake.poll_timeout()) {
                    Ok(0) => handshake.handle_end(),
                    Ok(_) => handshake
                        .handle_bytes(inbox.rest(), Instant::now())
                        .map(|taken| inbox.from += taken),
                    Err(Errno::TIMEDOUT) => handshake.handle_timeout(Instant::now()),
                    Err(_) => handshake.handle_end(),
                };
                fed.map_err(|error| {
                    log::debug!("handshake: {error}");
                    Refusal::Broken(error.reason())
                })?;
            };
            if !inbox.rest().is_empty() {
                return Err(Refusal::Broken(Reason::ClcInvalid));
            }
            proposed_yet = true;
            match event {
                Event::Proposed(proposed) => {
                    let own = self.describe(rx).map_err(Refusal::Broken)?;
                    let (rmb, _) = rx.rmbe();
                    let info = RmbInfo {
                        token: rmb.token(),
                        geometry: rmb.geometry(),
                    };
                    let message = Message::Memory { rmb: info };
                    let sent = if group.has_passed(rmb, client.group) {
                        Ok(())
                    } else {
                        messages::send(channel.as_fd(), &message, &[rmb.fd()])
                    };
                    let first_contact = group.connections() <= 1;
                    let answered = if proposed.gid != client.gid || sent.is_err() {
                        handshake.decline(Reason::ClcInvalid)
                    } else {
                        handshake.accept(own, first_contact, Instant::now())
                    };
                    answered.map_err(|_| Refusal::Broken(Reason::Internal))?;
                    transmit(tcp, handshake.poll_transmit());
                }
                Event::Confirmed(confirmed) => {
                    let peer = confirmed.peer;
                    // It has mapped ours.
                    group.set_passed(rx.rmbe().0, client.group);
                    let rmb = client.rmb;
                    if peer.token.0 != rmb.token
                        || peer.size.bytes() != rmb.geometry.rmbe_size as usize
                    {
                        return Err(Refusal::Broken(Reason::BadMemory));
                    }
                    let index = peer.index.get();
                    return group
                        .peer_rmbe(rmb.token, rmb.geometry, index, memory.take())
                        .map_err(|error| {
                            log::debug!("memory of the client refused: {error:?}");
                            Refusal::Broken(Reason::BadMemory)
                        });
                }
                Event::Declined { code, .. } => {
                    log::debug!("the client declined: {code:?}");
                    return Err(refuse(Reason::PeerDeclined));
                }
                Event::Refused { reason } => {
                    transmit(tcp, handshake.poll_transmit());
                    return Err(refuse(reason));
                }
                event => log::error!("unexpected in a server's handshake: {event:?}"),
            }
        }
    }
}

/// What the client's library committed to.
struct Client {
    /// Bytes of the program that come before the Proposal.
    early: usize,
    gid: ShmGid,
    rmb: RmbInfo,
    /// Its number for the link group.
    group: u32,
    memory: OwnedFd,
}

/// Calls the client's library; it binds its name right after its connect() returned.
fn call(
    tcp: BorrowedFd<'_>,
    local: SocketAddr,
    peer: SocketAddr,
) -> Result<(OwnedFd, u32), Reason> {
    let began = Instant::now();
    loop {
        match names::call(local, peer) {
            Ok(called) => return Ok(called),
            Err(_) if began.elapsed() < CALL_WAIT && may_be_early(tcp) => {
                if began.elapsed() < CALL_YIELD {
                    rustix::thread::sched_yield();
                } else {
                    std::thread::sleep(CALL_YIELD);
                }
            }
            // Closed before anybody could answer: there is nothing to move.
            Err(_) if !is_established(tcp) => return Err(Reason::Ended),
            Err(Errno::CONNREFUSED) => return Err(Reason::NoAnswer),
            Err(_) => return Err(Reason::Internal),
        }
    }
}

/// Whether the client is closing its connection. Its channel goes first, its FIN follows: looks
/// again for a moment.
fn is_ending(tcp: BorrowedFd<'_>) -> bool {
    let began = Instant::now();
    while is_established(tcp) {
        if began.elapsed() >= CALL_WAIT {
            return false;
        }
        std::thread::sleep(CALL_YIELD);
    }
    true
}

/// Whether the client may not have come to bind its name yet. If it is gone, or gave SMC up
/// already, there is nothing to wait for: a server that waits for each of many dead connections
/// comes too late for the living ones behind them.
fn may_be_early(tcp: BorrowedFd<'_>) -> bool {
    const ESTABLISHED: u8 = 1;
    /// Offset of `tcpi_last_ack_recv`, in ms.
    const LAST_ACK: usize = 56;
    let mut info = [0u8; LAST_ACK + 4];
    let Ok(LAST_ACK..) = sys::get_bytes(tcp, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info) else {
        return true;
    };
    let age = info[LAST_ACK..]
        .first_chunk()
        .map(|raw| u32::from_ne_bytes(*raw));
    // Every segment of the client acknowledges: this long ago it was connected, or sent.
    let recent = age.is_none_or(|ms| u128::from(ms) <= CALL_WAIT.as_millis());
    let unread = rustix::io::ioctl_fionread(tcp);
    info[0] == ESTABLISHED && recent && unread.is_ok_and(|unread| unread <= u64::from(EARLY_MAX))
}

fn wait_commit(channel: &OwnedFd) -> Result<(Message, Vec<OwnedFd>), Reason> {
    let until = Instant::now() + COMMIT_WAIT;
    let recv = || messages::recv(channel.as_fd());
    match retry(channel.as_fd(), Some(until), recv) {
        Err(Errno::TIMEDOUT) => messages::give_up(channel).ok_or(Reason::NoAnswer),
        got => got.map_err(|_| Reason::NoAnswer),
    }
}

/// What was received and not looked at yet.
struct Inbox {
    bytes: [u8; 4096],
    from: usize,
    to: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            bytes: [0; 4096],
            from: 0,
            to: 0,
        }
    }
}

impl Inbox {
    fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    /// Receives at most `most` bytes if there are none. Returns how many there are, 0 at the end
    /// of the stream.
    fn fill(
        &mut self,
        tcp: BorrowedFd<'_>,
        most: usize,
        until: Option<Instant>,
    ) -> Result<usize, Errno> {
        if self.from == self.to {
            let most = most.min(self.bytes.len());
            self.to = 0;
            self.from = 0;
            self.to = receive(tcp, &mut self.bytes[..most], until)?;
        }
        Ok(self.to - self.from)
    }

    /// Moves the bytes that the client's program sent over TCP into the ring, as if they had come
    /// over SMC.
    fn take_early(
        &mut self,
        tcp: BorrowedFd<'_>,
        rx: &Rx,
        early: usize,
        until: Instant,
    ) -> Result<(), Refusal> {
        let mut taken = 0;
        while taken < early {
            match self.fill(tcp, usize::MAX, Some(until)) {
                Ok(there) if there > 0 => {
                    let len = there.min(early - taken);
                    rx.preload(taken, &self.rest()[..len]);
                    self.from += len;
                    taken += len;
                }
                _ => return Err(Refusal::Broken(Reason::Ended)),
            }
        }
        if early > 0 && self.rest().is_empty() {
            // Nagle's algorithm keeps the Proposal back until these bytes are acknowledged, which
            // the kernel may put off for 40 ms (always, where the program switched TCP_QUICKACK
            // off). It is best effort.
            let _ = sys::set_int(tcp, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 1);
        }
        Ok(())
    }
}

/// Receives what there is, waiting until `until`.
fn receive(tcp: BorrowedFd<'_>, buf: &mut [u8], until: Option<Instant>) -> Result<usize, Errno> {
    retry(tcp, until, || sys::recv(tcp, buf, libc::MSG_DONTWAIT))
}

/// Does `receive` until it finds something in `fd`: awake for a moment, then asleep in between.
/// `ETIMEDOUT` when the time is over.
fn retry<T>(
    fd: BorrowedFd<'_>,
    until: Option<Instant>,
    mut receive: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    let began = Instant::now();
    loop {
        match receive() {
            Err(Errno::AGAIN) => {}
            received => return received,
        }
        if began.elapsed() < SPIN {
            // The helper thread at the other end may need this core to answer.
            rustix::thread::sched_yield();
        } else if !wait(fd, until) {
            return Err(Errno::TIMEDOUT);
        }
    }
}

/// Sleeps until `fd` is readable. False when the time is over.
fn wait(fd: BorrowedFd<'_>, until: Option<Instant>) -> bool {
    loop {
        let left = until.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return false;
        }
        let ms = left.map(|left| left.as_millis().min(60_000) as i32 + 1);
        match sys::poll_one(fd, libc::POLLIN, ms) {
            Ok(0) => return false,
            Ok(_) => return true,
            // A signal of the program: its handler ran; accept() itself goes on.
            Err(_) => {}
        }
    }
}

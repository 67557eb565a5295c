//! The client's side of a handshake for shared memory, step by step: the server's call, CLC, the
//! switch.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use super::super::client::Pending;
use super::super::connection::Connection;
use super::super::{Engine, PUBLISHER};
use super::{Subject, data, disconnect, transmit};
use crate::Reason;
use crate::clc::{DmbToken, RmbeIndex, RmbeSize};
use crate::conn::{Home, Smc};
use crate::group::LinkGroup;
use crate::handshake::shm::{ShmBuffer, ShmGid, ShmOffer};
use crate::handshake::{Event, ShmClient};
use crate::rendezvous::messages::{self, Message, RmbInfo};
use crate::shm::Rx;
use crate::stat::Counter;
use crate::sys;

/// How long the thread looks for an answer before it sleeps: the server's library is at work on it.
const ANSWER_SPIN: Duration = Duration::from_micros(80);

impl Engine {
    pub(super) fn answer_call(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        id: u64,
    ) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let Some(Ok((channel, uid))) = pending.listener.as_ref().map(|l| l.accept()) else {
            return;
        };
        if !self.trusts(uid) {
            log::debug!("call from uid {uid} refused");
            connection.to_tcp(guard, Reason::OtherUser);
            return;
        }
        pending.channel = Some(channel);
        self.read_channel(connection, guard);
        // Mostly the Hello is there already.
        if let Some(pending) = guard
            && pending.handshake.is_none()
            && let Some(channel) = &pending.channel
        {
            let word = data(id, Subject::Channel);
            if epoll::add(&self.helper.epoll, channel, word, EventFlags::IN).is_err() {
                pending.channel = None;
            }
        }
    }

    pub(super) fn read_channel(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
    ) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let Some(channel) = &pending.channel else {
            return;
        };
        if pending.handshake.is_some() {
            // The memory message; it is read when the Accept names it. Not a level to wake for.
            let _ = epoll::delete(&self.helper.epoll, channel);
            return self.read_tcp(connection, guard);
        }
        match messages::recv(channel.as_fd()) {
            Err(Errno::AGAIN) => {}
            Ok((Message::Hello { tsval, gid }, _)) if pending.knows(tsval) => {
                match self.commit(connection, pending, ShmGid(gid)) {
                    Ok(()) => self.read_tcp(connection, guard),
                    Err(reason) => connection.to_tcp(guard, reason),
                }
            }
            Ok(_) | Err(Errno::PROTO) => {
                // Somebody else's words. The real peer may still call.
                log::debug!("{pending:?}: a call that does not know the connection");
                pending.channel = None;
            }
            Err(_) => {
                // The server's library gave up: it knows no more of us.
                connection.to_tcp(guard, Reason::NoAnswer);
            }
        }
    }

    /// Says yes to the call, and starts the CLC handshake.
    fn commit(
        &'static self,
        connection: &Connection,
        pending: &mut Pending,
        server: ShmGid,
    ) -> Result<(), Reason> {
        let (Some(channel), Some(end), Some(tcp)) =
            (&pending.channel, &pending.server_end, connection.tcp())
        else {
            return Err(Reason::Internal);
        };
        let group = self.group(server);
        let rx = group
            .take_rmbe(self.config.max_memory())
            .map_err(|_| Reason::Memory)?;
        let (rmb, _) = rx.rmbe();
        let commit = Message::Commit {
            early: pending.early,
            gid: self.identity.gid.0,
            rmb: RmbInfo {
                token: rmb.token(),
                geometry: rmb.geometry(),
            },
            group: group.id(),
        };
        if messages::send(channel.as_fd(), &commit, &[end.as_fd(), rmb.fd()]).is_err() {
            group.give_back(&rx);
            return Err(Reason::NoAnswer);
        }
        // From here on the server's library expects CLC on the TCP stream.
        connection.set_committing();
        PUBLISHER.count(Counter::HandshakesStarted);
        pending.server_end = None;
        pending.listener = None;
        pending.buffer = Some((group, rx));
        let offer = ShmOffer {
            identity: self.identity,
            eids: self.eids.clone(),
        };
        let mut handshake = ShmClient::new(offer, self.timeouts(), Instant::now());
        if let Some(at) = handshake.poll_timeout() {
            self.helper.wait_for_handshake(connection, at);
        }
        transmit(tcp, handshake.poll_transmit());
        pending.handshake = Some(handshake);
        // The server is at work on the answer.
        let until = Instant::now() + ANSWER_SPIN;
        while sys::poll_one(tcp, libc::POLLIN, Some(0)) == Ok(0) && Instant::now() < until {
            rustix::thread::sched_yield();
        }
        Ok(())
    }

    /// Goes on with the CLC handshake as far as the bytes in the TCP stream allow.
    pub(super) fn read_tcp(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
    ) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let (Some(handshake), Some(tcp)) = (&mut pending.handshake, connection.tcp()) else {
            return;
        };
        let mut bytes = [0u8; 4096];
        loop {
            let needed = handshake.needed().min(bytes.len());
            let now = Instant::now();
            let fed = match sys::recv(tcp, &mut bytes[..needed], libc::MSG_DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok(0) | Err(_) => handshake.handle_end(),
                Ok(n) => handshake.handle_bytes(&bytes[..n], now).map(drop),
            };
            if let Err(error) = fed {
                log::debug!("handshake: {error}");
                self.abandon(connection, guard, error.reason());
                return;
            }
            match handshake.poll_event() {
                None => {}
                Some(Event::Accepted(accepted)) => {
                    break self.accepted_by(connection, guard, accepted.peer);
                }
                Some(Event::Declined { code, .. }) => {
                    log::debug!("the peer declined: {code:?}");
                    break self.declined(connection, guard, Reason::PeerDeclined);
                }
                Some(Event::Refused { reason }) => {
                    transmit(tcp, handshake.poll_transmit());
                    break self.declined(connection, guard, reason);
                }
                Some(event) => log::error!("unexpected in a client's handshake: {event:?}"),
            }
        }
    }

    /// The Accept came: everything is there for the switch.
    fn accepted_by(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        peer: ShmBuffer,
    ) {
        let Some(pending) = guard.as_mut() else {
            return;
        };
        let (Some(handshake), Some(tcp)) = (&mut pending.handshake, connection.tcp()) else {
            return;
        };
        let joined = self.join(
            &pending.channel,
            &mut pending.buffer,
            peer,
            u64::from(pending.early),
        );
        match joined {
            Ok((smc, local)) => {
                if handshake.confirm(local).is_err() {
                    self.abandon(connection, guard, Reason::Internal);
                    return;
                }
                let confirm = handshake.poll_transmit();
                self.helper.forget(connection, Some(tcp));
                log::debug!("{} -> {}: shm", pending.local, pending.peer);
                connection.set_smc(smc, || transmit(tcp, confirm));
                *guard = None;
            }
            Err(reason) => {
                let _ = handshake.decline(reason);
                transmit(tcp, handshake.poll_transmit());
                self.declined(connection, guard, reason)
            }
        }
    }

    /// Joins our buffer and the server's to a stream.
    fn join(
        &self,
        channel: &Option<OwnedFd>,
        buffer: &mut Option<(Arc<LinkGroup>, Rx)>,
        peer: ShmBuffer,
        early: u64,
    ) -> Result<(Smc, ShmBuffer), Reason> {
        let (rmb, memory) = match &*buffer {
            None => return Err(Reason::Internal),
            // Not the process that said Hello.
            Some((group, _)) if peer.gid.0 != group.peer() => return Err(Reason::ClcInvalid),
            Some((group, _)) => self.memory(channel, group, peer.token.0)?,
        };
        if rmb.token != peer.token.0 || rmb.geometry.rmbe_size as usize != peer.size.bytes() {
            return Err(Reason::BadMemory);
        }
        let (group, rx) = buffer.take().ok_or(Reason::Internal)?;
        let tx = group.peer_rmbe(rmb.token, rmb.geometry, peer.index.get(), memory);
        let (tx, local) = match (tx, self.arena.take()) {
            (Ok(tx), Some(local)) => (tx, local),
            (tx, local) => {
                if let Some(local) = local {
                    self.arena.give_back(&local);
                }
                if let Ok(tx) = &tx {
                    group.release_peer(tx);
                }
                group.give_back(&rx);
                return Err(if tx.is_err() {
                    Reason::BadMemory
                } else {
                    Reason::Memory
                });
            }
        };
        let own = self.describe(&rx)?;
        Ok((Smc::new(tx, rx, local, Home::Shm(group), early), own))
    }

    /// The RMB that the server named: known, or passed by it.
    fn memory(
        &self,
        channel: &Option<OwnedFd>,
        group: &LinkGroup,
        token: u64,
    ) -> Result<(RmbInfo, Option<OwnedFd>), Reason> {
        if let Some(geometry) = group.known_geometry(token) {
            return Ok((RmbInfo { token, geometry }, None));
        }
        let channel = channel.as_ref().ok_or(Reason::Internal)?;
        match messages::recv(channel.as_fd()) {
            Ok((Message::Memory { rmb }, memory)) => Ok((rmb, memory.into_iter().next())),
            _ => Err(Reason::ClcInvalid),
        }
    }

    /// How one of our buffers is named in CLC messages.
    pub(in crate::engine) fn describe(&self, rx: &Rx) -> Result<ShmBuffer, Reason> {
        let (rmb, index) = rx.rmbe();
        Ok(ShmBuffer {
            gid: self.identity.gid,
            token: DmbToken(rmb.token()),
            index: RmbeIndex::new(index + 1).ok_or(Reason::Internal)?,
            size: RmbeSize::holding(rmb.geometry().rmbe_size as usize).ok_or(Reason::Internal)?,
        })
    }

    /// One side declined: the stream goes on over TCP, if no byte of the program was taken out of
    /// it by the server's library.
    fn declined(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        reason: Reason,
    ) {
        if guard.as_ref().is_some_and(|pending| pending.early > 0) {
            self.abandon(connection, guard, reason);
        } else {
            self.return_buffer(guard);
            connection.to_tcp(guard, reason);
        }
    }

    /// The handshake failed where neither side knows what the other has taken for what: the
    /// connection ends (RFC 7609 §C.5, §C.6), as by a reset.
    pub(super) fn abandon(
        &'static self,
        connection: &Arc<Connection>,
        guard: &mut Option<Pending>,
        reason: Reason,
    ) {
        self.return_buffer(guard);
        if let Some(tcp) = connection.tcp() {
            disconnect(tcp);
        }
        connection.to_tcp(guard, reason);
    }

    fn return_buffer(&self, guard: &mut Option<Pending>) {
        if let Some((group, rx)) = guard.as_mut().and_then(|pending| pending.buffer.take()) {
            // Not `give_back`: the server may have begun to write.
            group.release(&rx);
        }
    }
}

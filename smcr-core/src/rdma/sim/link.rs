//! A queue pair of the simulated network.

use std::sync::Arc;

use rustix::io::Errno;

use super::domain::SimDomain;
use super::net::{Net, Packet, Post, Source, State};
use crate::clc::{Psn, QpNumber};
use crate::rdma::fabric::{Link, LinkAddress, LinkError, LinkId, LocalGid, Port, Write};

/// A queue pair. Made by [`Domain::link`](crate::rdma::fabric::Domain::link).
#[derive(Debug)]
pub(super) struct SimLink {
    domain: Arc<SimDomain>,
    qpn: u32,
    address: LinkAddress,
}

impl SimLink {
    pub(super) fn new(domain: Arc<SimDomain>, gid: LocalGid, psn: Psn, qpn: u32) -> Self {
        let address = LinkAddress {
            gid: gid.gid,
            mac: domain.port.mac(),
            qpn: QpNumber::new(qpn).expect("numbers start low and there are 2^24"),
            psn,
            mtu: domain.port.mtu(),
        };
        Self {
            domain,
            qpn,
            address,
        }
    }
}

impl Link for SimLink {
    fn id(&self) -> LinkId {
        LinkId(self.qpn)
    }

    fn address(&self) -> LinkAddress {
        self.address
    }

    fn connect(&mut self, peer: &LinkAddress) -> Result<(), Errno> {
        let mut net = self.domain.port.net.lock();
        let mtu = peer.mtu.bytes().ok_or(Errno::INVAL)?;
        let mtu = mtu.min(self.address.mtu.bytes().ok_or(Errno::INVAL)?);
        let is_known =
            |port: &super::net::PortState| port.gids.contains(&peer.gid) && port.mac == peer.mac;
        if !net.ports.iter().any(is_known) {
            return Err(Errno::NETUNREACH);
        }
        let qp = net
            .qps
            .get_mut(&self.qpn)
            .expect("it lives as long as self");
        if qp.state != State::Init {
            return Err(Errno::INVAL);
        }
        qp.peer = Some(*peer);
        qp.mtu = usize::from(mtu);
        qp.state = State::Rtr;
        let delay = net.config.rnr_delay;
        net.receives_posted(self.qpn, delay);
        Ok(())
    }

    fn ready_to_send(&mut self) -> Result<(), Errno> {
        let mut net = self.domain.port.net.lock();
        let qp = net
            .qps
            .get_mut(&self.qpn)
            .expect("it lives as long as self");
        if qp.state != State::Rtr {
            return Err(Errno::INVAL);
        }
        qp.state = State::Rts;
        Ok(())
    }

    fn room(&self) -> usize {
        let net = self.domain.port.net.lock();
        net.config.send_queue - net.qps[&self.qpn].used
    }

    unsafe fn post(
        &mut self,
        writes: &[Write],
        message: &[u8],
        id: u64,
        signal: bool,
    ) -> Result<(), Errno> {
        let mut net = self.domain.port.net.lock();
        let net = &mut *net;
        let qp = net
            .qps
            .get_mut(&self.qpn)
            .expect("it lives as long as self");
        if qp.state != State::Rts {
            return Err(Errno::NOTCONN);
        }
        let requests = writes.len() + 1;
        if requests > net.config.send_queue - qp.used {
            return Err(Errno::AGAIN);
        }
        if writes.iter().any(|write| write.len == 0) {
            return Err(Errno::INVAL);
        }
        qp.used += requests;
        qp.unsignalled += requests;
        let is_signalled = signal || qp.unsignalled >= net.config.signal_every;
        if is_signalled {
            qp.unsignalled = 0;
        }
        qp.posts.push_back(Post {
            id,
            requests,
            is_signalled,
        });
        let (port, domain, mtu) = (qp.port, qp.domain, qp.mtu);
        let counts = &mut net.ports[port].counts;
        counts.writes += writes.len() as u64;
        counts.sends += 1;
        counts.doorbells += 1;
        let mut packets = Vec::with_capacity(requests);
        for write in writes {
            let address = write.from.as_ptr().expose_provenance();
            if !net
                .memory
                .is_local(domain, write.lkey, address, write.len as usize)
            {
                net.fail(self.qpn, LinkError::Local);
                return Ok(());
            }
            net.cut(&mut packets, write, mtu);
        }
        packets.push(Packet::Message(message.to_vec()));
        net.transmit(self.qpn, packets);
        Ok(())
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        self.domain.port.net.lock().destroy(self.qpn);
    }
}

impl Net {
    /// Adds the pieces of one WRITE to `packets`.
    fn cut(&mut self, packets: &mut Vec<Packet>, write: &Write, mtu: usize) {
        let first = packets.len();
        let address = write.from.as_ptr().expose_provenance();
        let len = write.len as usize;
        packets.extend((0..len).step_by(mtu).map(|at| Packet::Piece {
            from: Source::Memory {
                address: address + at,
                lkey: write.lkey,
            },
            len: mtu.min(len - at),
            to: write.to.wrapping_add(at as u64),
            rkey: write.rkey.0,
        }));
        if self.config.shuffle_pieces {
            let pieces = &mut packets[first..];
            for last in (1..pieces.len()).rev() {
                pieces.swap(last, self.random.index(last + 1));
            }
        }
    }
}

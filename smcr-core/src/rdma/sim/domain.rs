//! A protection domain of the simulated network.

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::io::Errno;

use super::link::SimLink;
use super::port::SimPort;
use crate::clc::{Psn, Rkey};
use crate::rdma::fabric::{Access, Domain, Link, LocalGid, Region};

/// A domain. Made by [`Port::domain`](crate::rdma::fabric::Port::domain).
#[derive(Debug)]
pub(super) struct SimDomain {
    pub(super) port: Arc<SimPort>,
    /// No other domain of the network has, or had, this number.
    pub(super) number: u64,
}

impl SimDomain {
    pub(super) fn new(port: Arc<SimPort>) -> Result<Arc<Self>, Errno> {
        let number = {
            let mut net = port.net.lock();
            if net.ports[port.id.0].is_gone {
                return Err(Errno::NODEV);
            }
            if port.count_domains(&net) >= net.config.max_domains {
                return Err(Errno::NOMEM);
            }
            net.add_domain(port.id.0)
        };
        Ok(Arc::new(Self { port, number }))
    }
}

impl Domain for SimDomain {
    unsafe fn register(
        self: Arc<Self>,
        base: NonNull<u8>,
        len: usize,
        access: Access,
    ) -> Result<Box<dyn Region>, Errno> {
        let port = self.port.id.0;
        let key = {
            let mut net = self.port.net.lock();
            let net = &mut *net;
            if net.ports[port].is_gone {
                return Err(Errno::NODEV);
            }
            if len == 0 {
                return Err(Errno::INVAL);
            }
            let registered = net.memory.registered(port);
            if len > net.config.max_registered.saturating_sub(registered) {
                return Err(Errno::NOMEM);
            }
            let place = (port, self.number);
            net.memory.add(place, base, len, access, &mut net.random)
        };
        Ok(Box::new(SimRegion {
            key,
            address: base.addr().get() as u64,
            domain: self,
        }))
    }

    fn link(
        self: Arc<Self>,
        gid: LocalGid,
        psn: Psn,
        receive_size: usize,
    ) -> Result<Box<dyn Link>, Errno> {
        let port = &self.port;
        let mut net = port.net.lock();
        if net.ports[port.id.0].is_gone {
            return Err(Errno::NODEV);
        }
        if !port.gids().contains(&gid) || receive_size == 0 {
            return Err(Errno::INVAL);
        }
        let qpn = net.add_qp((port.id.0, self.number), gid.gid, psn, receive_size);
        drop(net);
        Ok(Box::new(SimLink::new(self, gid, psn, qpn)))
    }
}

impl Drop for SimDomain {
    fn drop(&mut self) {
        self.port.net.lock().remove_domain(self.number);
    }
}

/// Registered memory of a [`SimDomain`].
#[derive(Debug)]
struct SimRegion {
    domain: Arc<SimDomain>,
    key: u32,
    address: u64,
}

impl Region for SimRegion {
    fn lkey(&self) -> u32 {
        self.key
    }

    fn rkey(&self) -> Rkey {
        Rkey(self.key)
    }

    fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for SimRegion {
    fn drop(&mut self) {
        self.domain.port.net.lock().memory.remove(self.key);
    }
}

//! A simulated network of RDMA ports, for tests: one thread, virtual time, and everything that is
//! left to chance decided by a seed.
//!
//! [`SimNet`] makes [`SimPort`]s, which are [`Port`](super::fabric::Port)s as the engine knows
//! them. Registered memory is real memory. What is posted arrives when [`SimNet::advance`] or
//! [`SimNet::step`] lets the time come: within a link in order, WRITEs in pieces that can be seen
//! one by one, across links in any order.
//!
//! What breaks, breaks as it does with an adapter: who is not answered fails after a while as
//! unreachable, and what was posted comes back; who is refused fails at once, and so does the one
//! who refused; who runs out of receives is waited for. Nothing is ever damaged on the way: RC
//! queue pairs are reliable. A hostile peer is a [`RawPeer`], which writes and says anything;
//! what it might say is in [`hostile`].

mod config;
mod domain;
mod far;
mod fault;
pub mod hostile;
mod link;
mod manners;
mod memory;
mod net;
mod port;
mod random;
mod raw;
mod record;
#[cfg(test)]
mod tests;
mod wire;
pub mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use rustix::io::Errno;

pub use config::SimConfig;
pub use far::{FarEnd, Place};
pub use fault::{Fault, PortId};
pub use manners::Manners;
pub use port::SimPort;
pub use random::Random;
pub use raw::{RawPeer, Seen};
pub use record::Recorded;

use net::Net;

/// The network. Clones are the same one.
#[derive(Debug, Clone)]
pub struct SimNet {
    begin: Instant,
    net: Arc<Mutex<Net>>,
}

impl SimNet {
    /// A network without ports. The same seed and the same calls give the same events.
    pub fn new(config: SimConfig, seed: u64) -> Self {
        Self {
            begin: Instant::now(),
            net: Arc::new(Mutex::new(Net::new(config, seed))),
        }
    }

    /// Adds a port that reaches all others.
    ///
    /// # Panics
    /// If there are no descriptors left for its bells.
    pub fn port(&self, name: &str) -> Arc<SimPort> {
        SimPort::new(self, name).unwrap_or_else(|error: Errno| panic!("{name}: {error}"))
    }

    /// The virtual time.
    pub fn now(&self) -> Instant {
        self.begin + self.elapsed()
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.lock().now)
    }

    /// When something happens next. `None`: nothing will, unless somebody posts.
    pub fn next_event(&self) -> Option<Instant> {
        let at = self.lock().next_event()?;
        Some(self.begin + Duration::from_nanos(at))
    }

    /// Goes to the next event and lets it happen. False if there is none.
    pub fn step(&self) -> bool {
        self.lock().step(u64::MAX)
    }

    /// Lets everything happen that is due until `to`, and goes there. A time that has passed
    /// changes nothing.
    pub fn advance(&self, to: Instant) {
        let to = to.saturating_duration_since(self.begin).as_nanos() as u64;
        let mut net = self.lock();
        while net.step(to) {}
        net.now = net.now.max(to);
    }

    /// [`Self::advance`] by a time from now.
    pub fn advance_by(&self, time: Duration) {
        self.advance(self.now() + time);
    }

    /// Lets a fault happen now.
    pub fn inject(&self, fault: Fault) {
        self.lock().apply(fault);
    }

    /// Lets a fault happen `after` that time.
    pub fn inject_after(&self, after: Duration, fault: Fault) {
        self.lock().schedule_fault(after, fault);
    }

    /// Injects a [`Fault::random`] now, and its end after at most `longest`.
    pub fn inject_random(&self, longest: Duration) -> Option<Fault> {
        let mut net = self.lock();
        let ports: Vec<PortId> = (0..net.ports.len()).map(PortId).collect();
        let links: Vec<_> = net
            .qps
            .keys()
            .map(|qpn| super::fabric::LinkId(*qpn))
            .collect();
        let (fault, end) = Fault::random(&mut net.random, &ports, &links)?;
        net.apply(fault);
        if let Some(end) = end {
            let after = net.random.below(longest.as_nanos() as u64 + 1);
            net.schedule_fault(Duration::from_nanos(after), end);
        }
        Some(fault)
    }

    /// A random number of the network's own seed, for what a test leaves to chance.
    pub fn random(&self) -> u64 {
        self.lock().random.next()
    }

    /// Starts to record what arrives.
    pub fn record(&self) {
        self.lock().record.start();
    }

    /// What was recorded since the last call.
    pub fn take_record(&self) -> Vec<Recorded> {
        self.lock().record.take()
    }

    fn lock(&self) -> MutexGuard<'_, Net> {
        self.net.lock()
    }
}

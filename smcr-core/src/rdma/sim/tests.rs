//! Tests of the simulated network itself.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use super::{Fault, RawPeer, Recorded, Seen, SimConfig, SimNet, SimPort};
use crate::rdma::fabric::{LinkError, Port, PortEvent};

mod faults;
mod transfer;

/// Two raw peers with a link between them.
struct Pair {
    net: SimNet,
    ports: [Arc<SimPort>; 2],
    a: RawPeer,
    b: RawPeer,
}

const MEMORY: usize = 64 << 10;

impl Pair {
    fn new(config: SimConfig, seed: u64) -> Self {
        let net = SimNet::new(config, seed);
        let ports = [net.port("sim0/1"), net.port("sim1/1")];
        let [a, b] = connected(&ports);
        Self { net, ports, a, b }
    }

    fn run(&self) {
        while self.net.step() {}
    }

    fn events(&self, of: usize) -> Vec<PortEvent> {
        std::iter::from_fn(|| self.ports[of].event()).collect()
    }
}

fn connected(ports: &[Arc<SimPort>; 2]) -> [RawPeer; 2] {
    let mut a = RawPeer::new(&ports[0], 1, 44, MEMORY).unwrap();
    let mut b = RawPeer::new(&ports[1], 1, 44, MEMORY).unwrap();
    a.connect(&b.address()).unwrap();
    b.connect(&a.address()).unwrap();
    [a, b]
}

fn message(number: u64) -> Vec<u8> {
    let mut message = vec![0; 44];
    message[..8].copy_from_slice(&number.to_be_bytes());
    message
}

fn failures(seen: &[Seen]) -> Vec<LinkError> {
    let failure = |seen: &Seen| match seen {
        Seen::Failed(error) => Some(*error),
        _ => None,
    };
    seen.iter().filter_map(failure).collect()
}

/// Whether it broke in this way first, and then gave everything back.
fn broke(seen: &[Seen], first: LinkError) -> bool {
    let failures = failures(seen);
    failures.first() == Some(&first)
        && failures.len() > 1
        && failures[1..]
            .iter()
            .all(|error| *error == LinkError::Flushed)
}

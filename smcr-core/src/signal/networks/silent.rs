//! Who did not answer lately.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How long a peer that did not answer is not asked again.
const MEMORY: Duration = Duration::from_secs(60);

/// How many are remembered; if there are more, the oldest is forgotten.
const MOST: usize = 64;

/// Peers that did not answer: for a client, addresses with the listening port; for a server, clients
/// with port 0. To ask them again and again would cost each connection the same wait.
#[derive(Debug, Default)]
pub struct Silent {
    peers: Vec<((IpAddr, u16), Instant)>,
}

impl Silent {
    /// Nobody.
    pub const fn new() -> Self {
        Self { peers: Vec::new() }
    }

    /// Whether this peer did not answer within the last minute.
    pub fn contains(&self, peer: SocketAddr, now: Instant) -> bool {
        let peer = key(peer);
        self.peers
            .iter()
            .any(|(known, at)| *known == peer && now.saturating_duration_since(*at) < MEMORY)
    }

    /// It did not answer.
    pub fn insert(&mut self, peer: SocketAddr, now: Instant) {
        self.remove(peer);
        if self.peers.len() == MOST {
            // They are in the order of time.
            self.peers.remove(0);
        }
        self.peers.push((key(peer), now));
    }

    /// It answered.
    pub fn remove(&mut self, peer: SocketAddr) {
        let peer = key(peer);
        self.peers.retain(|(known, _)| *known != peer);
    }
}

fn key(peer: SocketAddr) -> (IpAddr, u16) {
    (peer.ip().to_canonical(), peer.port())
}

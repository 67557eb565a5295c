//! How the simulated network behaves when nothing is broken.

use std::time::Duration;

use crate::clc::MtuCode;

/// Times and limits of a [`SimNet`](super::SimNet). All times are virtual.
#[derive(Debug, Clone)]
pub struct SimConfig {
    /// Least time from a post to its arrival, and from an arrival to its acknowledgement.
    pub latency: Duration,
    /// What chance adds to the latency, for each post and acknowledgement anew. Links overtake
    /// each other by it; within a link the order stays.
    pub jitter: Duration,
    /// What chance adds between an arrival (or acknowledgement) and its completion.
    pub completion_delay: Duration,
    /// Time between two packets of one link.
    pub packet_gap: Duration,
    /// How long a link repeats what is not answered before it fails as
    /// [`Unreachable`](crate::rdma::fabric::LinkError::Unreachable).
    pub retry_time: Duration,
    /// How long until a link repeats a packet that was lost ([`Fault::Lose`](super::Fault::Lose)).
    pub retransmit: Duration,
    /// How long after a receive was posted the sender tries again.
    pub rnr_delay: Duration,
    /// How long a receiver may be without receives before the sender's link fails. `None`: for
    /// ever, as with an RNR retry count of 7.
    pub rnr_time: Option<Duration>,
    /// Path MTU of ports: WRITEs arrive in pieces of the smaller of the two ends'.
    pub mtu: MtuCode,
    /// Whether the pieces of one WRITE arrive in any order. Nothing promises an order within a
    /// WRITE.
    pub shuffle_pieces: bool,
    /// Work requests that a link can hold.
    pub send_queue: usize,
    /// Receives posted on each link.
    pub receives: usize,
    /// A message that is this many work requests behind the last signalled one is signalled
    /// unasked; 1 for every one. Far less than [`Self::send_queue`], or that never gets free.
    pub signal_every: usize,
    /// Completions that one poll hands out at most.
    pub poll_batch: usize,
    /// Bytes that a port can register.
    pub max_registered: usize,
    /// Protection domains that a port can have.
    pub max_domains: usize,
}

impl SimConfig {
    /// A local network with small queues, so that they are found full: 3 to 23 us, retries for
    /// one second.
    pub fn new() -> Self {
        Self {
            latency: Duration::from_micros(3),
            jitter: Duration::from_micros(20),
            completion_delay: Duration::from_micros(5),
            packet_gap: Duration::from_nanos(100),
            retry_time: Duration::from_secs(1),
            retransmit: Duration::from_millis(50),
            rnr_delay: Duration::from_micros(10),
            rnr_time: None,
            mtu: MtuCode::new(3).expect("1 to 5 are MTUs"),
            shuffle_pieces: true,
            send_queue: 64,
            receives: 32,
            signal_every: 16,
            poll_batch: 32,
            max_registered: 1 << 30,
            max_domains: 1 << 10,
        }
    }
}

impl Default for SimConfig {
    fn default() -> Self {
        Self::new()
    }
}

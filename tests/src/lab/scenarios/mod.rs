//! What is tried in the lab: one function and one line of the table each.

mod apps_tcp;
mod faults;
mod kernel_smc;
mod library;
mod pnet;
mod rdma_iperf3;
mod rdma_works;
mod rivals;
mod tcp_works;

use anyhow::Result;

use super::kernel_peer;
use super::pair::Pair;

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Modules that it needs beside those of RDMA, which are loaded in both guests.
    pub modules: &'static [&'static str],
    /// It leaves the guests in a state in which others must not find them.
    pub own_boot: bool,
    /// So many bytes of each packet are captured.
    pub captured: u32,
    pub(super) run: fn(&mut Pair) -> Result<()>,
}

impl Scenario {
    const fn new(
        name: &'static str,
        run: fn(&mut Pair) -> Result<()>,
        about: &'static str,
    ) -> Self {
        Self {
            name,
            about,
            modules: &[],
            own_boot: false,
            captured: 65_535,
            run,
        }
    }

    /// Needs modules. Scenarios that need more run after those that need less, in one boot.
    #[allow(dead_code)]
    const fn modules(mut self, modules: &'static [&'static str]) -> Self {
        self.modules = modules;
        self
    }

    /// Gets a pair of its own, for those that break something that they cannot mend.
    #[allow(dead_code)]
    const fn own_boot(mut self) -> Self {
        self.own_boot = true;
        self
    }

    /// Moves much data: only headers are captured.
    #[allow(dead_code)]
    const fn bulk(mut self) -> Self {
        self.captured = 160;
        self
    }
}

/// All scenarios.
pub const ALL: &[Scenario] = &[
    Scenario::new(
        "rdma-works",
        rdma_works::run,
        "verbs between the guests: a ping-pong, hardware counters, GIDs",
    ),
    Scenario::new(
        "tcp-works",
        tcp_works::run,
        "TCP between the guests: iperf3, a pulled cable, a guest that stands still",
    )
    .bulk(),
    Scenario::new(
        "rivals",
        rivals::run,
        "the figures of plain TCP, plain RDMA and rsockets",
    )
    .bulk(),
    Scenario::new(
        "apps-tcp",
        apps_tcp::run,
        "iperf3, redis, nginx and PostgreSQL over plain TCP",
    )
    .bulk(),
    Scenario::new(
        "pnet",
        pnet::run,
        "the PNET table: which RoCE port and GID, under VLANs and bonds too",
    ),
    Scenario::new(
        "rdma-iperf3",
        rdma_iperf3::run,
        "iperf3 under the library: over RDMA",
    )
    .bulk(),
    Scenario::new(
        "library",
        library::run,
        "programs under the library: in one guest, and between the two",
    )
    .bulk(),
    Scenario::new(
        "faults-refused",
        faults::refused::run,
        "what keeps connections on TCP: why, at both ends",
    )
    .bulk(),
    Scenario::new(
        "faults-device",
        faults::device::run,
        "the RoCE device is removed, and comes back",
    )
    .bulk(),
    Scenario::new(
        "faults-network",
        faults::network::run,
        "cables out, guests that stand still",
    )
    .bulk(),
    Scenario::new(
        "faults-peers",
        faults::peers::run,
        "peers killed and stopped",
    )
    .bulk(),
    Scenario::new(
        "faults-processes",
        faults::processes::run,
        "processes that end with bytes on their way, fork, exec",
    )
    .bulk(),
    Scenario::new(
        "kernel-smc",
        kernel_smc::run,
        "Linux's own SMC-R between the guests, and its messages as tshark reads them",
    )
    .modules(kernel_peer::MODULES),
];

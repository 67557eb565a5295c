//! What is tried in the lab: one function and one line of the table each.

mod apps_tcp;
mod ask_networks;
mod faults;
mod interop;
mod kernel_smc;
mod library;
mod pnet;
mod rdma_capture;
mod rdma_contacts;
mod rdma_counts;
mod rdma_iperf3;
mod rdma_nginx;
mod rdma_postgresql;
mod rdma_redis;
mod rdma_rivals;
mod rdma_works;
mod rivals;
mod tcp_option;
mod tcp_works;
mod verbs;

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
    /// It is run only when it is asked for, by its name or with `--full`.
    pub on_request: bool,
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
            on_request: false,
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

    /// Takes too long for every run of the tests.
    const fn on_request(mut self) -> Self {
        self.on_request = true;
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
    .bulk()
    .on_request(),
    Scenario::new(
        "rivals",
        rivals::run,
        "the figures of plain TCP, plain RDMA and rsockets",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "apps-tcp",
        apps_tcp::run,
        "iperf3, redis, nginx and PostgreSQL over plain TCP",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "pnet",
        pnet::run,
        "the PNET table: which RoCE port and GID, under VLANs and bonds too",
    ),
    Scenario::new(
        "verbs",
        verbs::run,
        "the RDMA fabric alone: traffic, failures, latency and throughput",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "tcp-option",
        tcp_option::run,
        "the TCP option: we and Linux's own SMC-R know each other",
    )
    .modules(&["smc", "smc_diag"]),
    Scenario::new(
        "tcp-option-cases",
        tcp_option::all_cases,
        "the TCP option alone, in a guest's kernel: who learns what, case by case",
    )
    .modules(&["tun"])
    .on_request(),
    Scenario::new(
        "rdma-iperf3",
        rdma_iperf3::run,
        "iperf3 under the library: one stream, four, the other way, both ways",
    )
    .bulk(),
    Scenario::new(
        "ask-networks",
        ask_networks::run,
        "the same hosts without the TCP option: they ask each other over UDP",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "rdma-redis",
        rdma_redis::run,
        "redis under the library, one request at a time and sixteen",
    )
    .bulk(),
    Scenario::new(
        "rdma-nginx",
        rdma_nginx::run,
        "nginx and curl under the library: a file by sendfile()",
    )
    .bulk(),
    Scenario::new(
        "rdma-nginx-1gib",
        rdma_nginx::large,
        "the same with a file of 1 GiB",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "rdma-postgresql",
        rdma_postgresql::run,
        "PostgreSQL under the library, which accepts and then forks",
    )
    .bulk(),
    Scenario::new(
        "rdma-capture",
        rdma_capture::run,
        "a connection of the library on the wire, as tshark reads it",
    ),
    Scenario::new(
        "rdma-contacts",
        rdma_contacts::run,
        "what a new connection costs: the first in time, later ones in system calls",
    )
    .on_request(),
    Scenario::new(
        "rdma-counts",
        rdma_counts::run,
        "work requests, doorbells, CDC messages and system calls for so many bytes",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "rdma-rivals",
        rdma_rivals::run,
        "the library beside TCP, rsockets and plain RDMA: round trip and rate",
    )
    .bulk()
    .on_request(),
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
    .bulk()
    .on_request(),
    Scenario::new(
        "faults-network",
        faults::network::run,
        "cables out, guests that stand still",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "faults-peers",
        faults::peers::run,
        "peers killed and stopped",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "faults-processes",
        faults::processes::run,
        "processes that end with bytes on their way, fork, exec",
    )
    .bulk()
    .on_request(),
    Scenario::new(
        "kernel-smc",
        kernel_smc::run,
        "Linux's own SMC-R between the guests, and its messages as tshark reads them",
    )
    .modules(kernel_peer::MODULES),
    Scenario::new(
        "verbs-down",
        verbs::down,
        "the interface under the RDMA fabric goes down, and its device is deleted",
    )
    .bulk()
    .own_boot()
    .on_request(),
    Scenario::new(
        "interop",
        interop::quick,
        "the library and Linux's own SMC-R as peers: the quick part",
    )
    .modules(kernel_peer::MODULES),
    Scenario::new(
        "interop-rates",
        interop::rates,
        "the library, Linux's own SMC-R and TCP side by side: round trip, rate, connections",
    )
    .modules(kernel_peer::MODULES)
    .bulk()
    .on_request(),
    Scenario::new(
        "interop-data",
        interop::data,
        "the same: bulk data, ping-pong, a reader that stops, urgent data",
    )
    .modules(kernel_peer::MODULES)
    .bulk()
    .on_request(),
    Scenario::new(
        "interop-bulk",
        interop::bulk,
        "the same: 256 MiB and 1 GiB, each way and both ways at once",
    )
    .modules(kernel_peer::MODULES)
    .bulk()
    .on_request(),
    Scenario::new(
        "interop-programs",
        interop::programs,
        "iperf3, redis, nginx and curl, one end over Linux's own SMC-R",
    )
    .modules(kernel_peer::MODULES)
    .bulk()
    .on_request(),
    Scenario::new(
        "interop-close",
        interop::close,
        "the same: the ends of connections, in all orders",
    )
    .modules(kernel_peer::MODULES)
    .on_request(),
    Scenario::new(
        "interop-group",
        interop::group,
        "the same: idle links, 300 connections",
    )
    .modules(kernel_peer::MODULES)
    .on_request(),
    Scenario::new("interop-kill", interop::kill, "the same: one end is killed")
        .modules(kernel_peer::MODULES)
        .on_request(),
    Scenario::new(
        "interop-pause",
        interop::pause,
        "the same: a guest stands still for 1 s and for 60 s",
    )
    .modules(kernel_peer::MODULES)
    .bulk()
    .on_request(),
    Scenario::new(
        "interop-decline",
        interop::declines,
        "the same: what is declined in each phase, SYN cookies, RoCE lost",
    )
    .modules(kernel_peer::MODULES)
    .on_request(),
    Scenario::new(
        "interop-device",
        interop::device,
        "the same: a RoCE device is removed",
    )
    .modules(kernel_peer::MODULES)
    .own_boot()
    .on_request(),
    Scenario::new(
        "interop-fallback",
        interop::no_device,
        "the same: no UEID in common, no RDMA device, release 0",
    )
    .modules(kernel_peer::MODULES)
    .own_boot()
    .on_request(),
    Scenario::new(
        "interop-no-smc",
        interop::no_smc,
        "the library and a kernel without the module smc",
    )
    .on_request(),
];

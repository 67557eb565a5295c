//! What is measured, and what it should come to.

use anyhow::Result;
use smcr_tests::scenario::apps::iperf3::{self, Flow};
use smcr_tests::scenario::apps::load::{self, Work};
use smcr_tests::scenario::apps::{asyncio, memcached, nginx, redis, sockperf};
use smcr_tests::scenario::{Outcome, Setup};

use super::Way;
use crate::ui::Unit;

/// A pair of programs, run in several ways.
pub(super) struct Job {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Each end has a processor of its own.
    pub(super) pinned: bool,
    /// Measured in more but shorter rounds, to tell differences of a few percent.
    pub(super) fine: bool,
    pub(super) ways: &'static [Way],
    pub(super) run: fn(&Setup) -> Result<Outcome>,
    pub(super) rows: &'static [Row],
}

/// One line of the report.
pub(super) struct Row {
    pub(super) title: &'static str,
    pub(super) figure: &'static str,
    pub(super) unit: Unit,
    /// The way that is compared with plain TCP.
    pub(super) way: Way,
    pub(super) target: Target,
}

/// What a row should come to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    /// At least this many times as good as plain TCP.
    Ratio(f64),
    /// No more than this, whatever plain TCP needs.
    Most(f64),
    /// For information.
    None,
}

const fn row(title: &'static str, figure: &'static str, unit: Unit, target: Target) -> Row {
    let way = Way::Library;
    Row {
        title,
        figure,
        unit,
        way,
        target,
    }
}

/// A program under the library but on TCP may lose 3 %.
const fn on_tcp(title: &'static str, figure: &'static str, unit: Unit, way: Way) -> Row {
    let target = Target::Ratio(0.97);
    Row {
        title,
        figure,
        unit,
        way,
        target,
    }
}

const TWO: &[Way] = &[Way::Tcp, Way::Library];
const THREE: &[Way] = &[Way::Tcp, Way::Unix, Way::Library];
const ON_TCP: &[Way] = &[Way::Tcp, Way::ServerOnly, Way::ClientOnly, Way::Disabled];

/// Everything that is measured, in this order.
pub(super) const ALL: &[Job] = &[
    Job {
        name: "sockperf",
        title: "sockperf ping-pong, 64 bytes, pinned",
        pinned: true,
        fine: false,
        ways: TWO,
        run: |setup| sockperf::run(setup, 64, false),
        rows: &[
            row(
                "sockperf 64 B round trip",
                "round_trip",
                Unit::Seconds,
                Target::Ratio(50.0),
            ),
            row(
                "sockperf 64 B, 99 %",
                "round_trip_p99",
                Unit::Seconds,
                Target::None,
            ),
        ],
    },
    Job {
        name: "ping",
        title: "smcr-load ping, 64 bytes, blocking calls, pinned",
        pinned: true,
        fine: false,
        ways: THREE,
        run: |setup| load::run(setup, Work::Ping, 1),
        rows: &[row(
            "smcr-load 64 B round trip",
            "round_trip",
            Unit::Seconds,
            Target::None,
        )],
    },
    Job {
        name: "iperf3",
        title: "iperf3, one stream, pinned",
        pinned: true,
        fine: false,
        ways: TWO,
        run: |setup| iperf3::run(setup, 1, Flow::Forward),
        rows: &[row(
            "iperf3 one stream",
            "bytes_per_second",
            Unit::BytesPerSecond,
            Target::Ratio(2.5),
        )],
    },
    Job {
        name: "stream",
        title: "smcr-load stream, calls of 128 KiB, pinned",
        pinned: true,
        fine: false,
        ways: THREE,
        run: |setup| load::run(setup, Work::Stream, 1),
        rows: &[row(
            "smcr-load one stream",
            "bytes_per_second",
            Unit::BytesPerSecond,
            Target::None,
        )],
    },
    Job {
        name: "redis",
        title: "redis-benchmark, 50 clients, P=1",
        pinned: false,
        fine: false,
        ways: THREE,
        run: |setup| redis::run(setup, 1),
        rows: &[
            row(
                "redis GET, P=1",
                "get_per_second",
                Unit::PerSecond,
                Target::Ratio(1.8),
            ),
            row(
                "redis SET, P=1",
                "set_per_second",
                Unit::PerSecond,
                Target::Ratio(1.8),
            ),
        ],
    },
    Job {
        name: "redis-pipelined",
        title: "redis-benchmark, 50 clients, P=16",
        pinned: false,
        fine: false,
        ways: THREE,
        run: |setup| redis::run(setup, 16),
        rows: &[
            row(
                "redis GET, P=16",
                "get_per_second",
                Unit::PerSecond,
                Target::None,
            ),
            row(
                "redis SET, P=16",
                "set_per_second",
                Unit::PerSecond,
                Target::None,
            ),
        ],
    },
    Job {
        name: "nginx",
        title: "nginx and wrk, 612-byte file, 32 kept connections",
        pinned: false,
        fine: false,
        ways: TWO,
        run: |setup| nginx::small_file(setup, 32),
        rows: &[row(
            "nginx small file",
            "requests_per_second",
            Unit::PerSecond,
            Target::Ratio(1.3),
        )],
    },
    Job {
        name: "memcached",
        title: "memcached and memcslap, 8 threads, get",
        pinned: false,
        fine: false,
        ways: TWO,
        run: memcached::load,
        rows: &[row(
            "memcached get",
            "get_per_second",
            Unit::PerSecond,
            Target::None,
        )],
    },
    Job {
        name: "connections",
        title: "smcr-load rate: connect, one byte each way, close; 2 threads",
        pinned: false,
        fine: false,
        ways: THREE,
        run: |setup| load::run(setup, Work::Rate, 2),
        rows: &[row(
            "new connections",
            "connections_per_second",
            Unit::PerSecond,
            Target::Ratio(0.5),
        )],
    },
    Job {
        name: "on-tcp-redis",
        title: "redis-benchmark P=1 with the library, on TCP",
        pinned: false,
        fine: true,
        ways: ON_TCP,
        run: |setup| redis::run(setup, 1),
        rows: &[
            on_tcp(
                "redis GET, library at server",
                "get_per_second",
                Unit::PerSecond,
                Way::ServerOnly,
            ),
            on_tcp(
                "redis GET, library at client",
                "get_per_second",
                Unit::PerSecond,
                Way::ClientOnly,
            ),
            on_tcp(
                "redis GET, library disabled",
                "get_per_second",
                Unit::PerSecond,
                Way::Disabled,
            ),
        ],
    },
    Job {
        name: "on-tcp-iperf3",
        title: "iperf3 one stream with the library, on TCP, pinned",
        pinned: true,
        fine: true,
        ways: ON_TCP,
        run: |setup| iperf3::run(setup, 1, Flow::Forward),
        rows: &[
            on_tcp(
                "iperf3, library at server",
                "bytes_per_second",
                Unit::BytesPerSecond,
                Way::ServerOnly,
            ),
            on_tcp(
                "iperf3, library at client",
                "bytes_per_second",
                Unit::BytesPerSecond,
                Way::ClientOnly,
            ),
            on_tcp(
                "iperf3, library disabled",
                "bytes_per_second",
                Unit::BytesPerSecond,
                Way::Disabled,
            ),
        ],
    },
    Job {
        name: "on-tcp-sockperf",
        title: "sockperf 64 B with the library, on TCP, pinned",
        pinned: true,
        fine: true,
        ways: ON_TCP,
        run: |setup| sockperf::run(setup, 64, false),
        rows: &[
            on_tcp(
                "sockperf, library at server",
                "round_trip",
                Unit::Seconds,
                Way::ServerOnly,
            ),
            on_tcp(
                "sockperf, library at client",
                "round_trip",
                Unit::Seconds,
                Way::ClientOnly,
            ),
            on_tcp(
                "sockperf, library disabled",
                "round_trip",
                Unit::Seconds,
                Way::Disabled,
            ),
        ],
    },
    Job {
        name: "idle",
        title: "300 idle connections of Python's asyncio: CPU time over 3 s",
        pinned: false,
        fine: false,
        ways: TWO,
        run: |setup| asyncio::idle(&setup.seconds(3), 300),
        rows: &[
            row(
                "idle CPU, server",
                "server_cpu",
                Unit::CpuShare,
                Target::Most(0.002),
            ),
            row(
                "idle CPU, client",
                "client_cpu",
                Unit::CpuShare,
                Target::Most(0.002),
            ),
        ],
    },
];

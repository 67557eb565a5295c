//! Unmodified programs, both ends under the library, and one end under it.
//!
//! Both ends: the results are right and every connection is in mode `shm`. One end: everything
//! stays on TCP, for the reason that the peer does not run under the library, with the same
//! results. In no case does the library write to stderr.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use smcr_tests::scenario::apps::iperf3::{self, Flow};
use smcr_tests::scenario::apps::load::{self, Work};
use smcr_tests::scenario::apps::{asyncio, memcached, nginx, redis, sockperf};
use smcr_tests::scenario::{Outcome, Preload, Setup, leftovers, paths};

/// What `smcr-stat` names where the other end does not run under the library.
const NO_PEER: &str = "peer-no-smc";

/// The programs are heavy and the machine may be small: one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    paths::ensure_built().expect("the release build");
    turn
}

/// Runs a scenario with both ends under the library.
fn both(run: impl Fn(&Setup) -> Result<Outcome>) -> Result<Outcome> {
    let _turn = alone();
    let outcome = run(&Setup::library().watched())?;
    quiet(&outcome)?;
    outcome.seen.expect_mode("shm")?;
    Ok(outcome)
}

/// Runs a scenario with the library under the server only, then under the client only.
fn either(run: impl Fn(&Setup) -> Result<Outcome>) -> Result<()> {
    let _turn = alone();
    for (server, client) in [
        (Preload::Library, Preload::None),
        (Preload::None, Preload::Library),
    ] {
        let run = || -> Result<()> {
            let outcome = run(&Setup::new(server, client).watched())?;
            quiet(&outcome)?;
            outcome.seen.expect_tcp(NO_PEER)
        };
        run().with_context(|| format!("server: {server:?}, client: {client:?}"))?;
    }
    Ok(())
}

fn quiet(outcome: &Outcome) -> Result<()> {
    let noise = outcome.library_noise();
    ensure!(noise.is_empty(), "stderr has: {noise:?}");
    Ok(())
}

#[test]
fn iperf3_one_stream() -> Result<()> {
    both(|setup| iperf3::run(setup, 1, Flow::Forward)).map(drop)
}

#[test]
fn iperf3_four_streams() -> Result<()> {
    both(|setup| iperf3::run(setup, 4, Flow::Forward)).map(drop)
}

#[test]
fn iperf3_reverse() -> Result<()> {
    both(|setup| iperf3::run(setup, 1, Flow::Reverse)).map(drop)
}

#[test]
fn iperf3_both_ways() -> Result<()> {
    both(|setup| iperf3::run(setup, 1, Flow::Both)).map(drop)
}

#[test]
fn iperf3_with_one_end() -> Result<()> {
    either(|setup| iperf3::run(setup, 2, Flow::Both))
}

#[test]
fn redis_one_request_at_a_time() -> Result<()> {
    both(|setup| redis::run(setup, 1)).map(drop)
}

#[test]
fn redis_pipelined() -> Result<()> {
    both(|setup| redis::run(setup, 16)).map(drop)
}

#[test]
fn redis_keeps_a_large_value() -> Result<()> {
    let _turn = alone();
    redis::round_trip(&Setup::library())
}

#[test]
fn redis_with_one_end() -> Result<()> {
    either(|setup| redis::run(setup, 1))
}

#[test]
fn nginx_small_file() -> Result<()> {
    both(|setup| nginx::small_file(setup, 32)).map(drop)
}

#[test]
fn nginx_large_file() -> Result<()> {
    both(|setup| nginx::large_file(setup, 200 << 20)).map(drop)
}

#[test]
fn nginx_small_file_with_one_end() -> Result<()> {
    either(|setup| nginx::small_file(setup, 32))
}

#[test]
fn nginx_large_file_with_one_end() -> Result<()> {
    either(|setup| nginx::large_file(setup, 50 << 20))
}

#[test]
fn memcached_load() -> Result<()> {
    both(memcached::load).map(drop)
}

#[test]
fn memcached_values() -> Result<()> {
    both(memcached::check).map(drop)
}

#[test]
fn memcached_with_one_end() -> Result<()> {
    either(memcached::check)
}

#[test]
fn sockperf_ping_pong() -> Result<()> {
    both(|setup| sockperf::run(setup, 64, true)).map(drop)
}

#[test]
fn sockperf_ping_pong_of_large_messages() -> Result<()> {
    both(|setup| sockperf::run(setup, 16_000, true)).map(drop)
}

#[test]
fn sockperf_with_one_end() -> Result<()> {
    either(|setup| sockperf::run(setup, 64, true))
}

#[test]
fn asyncio_with_500_connections() -> Result<()> {
    let outcome = both(|setup| asyncio::echo(&setup.seconds(3), 500))?;
    let seen = [&outcome.seen.server, &outcome.seen.client].map(|end| end.count("shm"));
    ensure!(seen == [500, 500], "smcr-stat showed {seen:?} connections");
    Ok(())
}

#[test]
fn asyncio_with_one_end() -> Result<()> {
    either(|setup| asyncio::echo(setup, 100))
}

#[test]
fn one_way_stream_arrives_whole() -> Result<()> {
    both(|setup| load::run(setup, Work::Stream, 2)).map(drop)
}

#[test]
fn idle_connections_use_no_cpu() -> Result<()> {
    let outcome = both(|setup| asyncio::idle(&setup.seconds(3), 200))?;
    for end in ["server_cpu", "client_cpu"] {
        let used = outcome.figure(end)?;
        // Not a speed limit: spinning would show as a whole core.
        ensure!(used < 0.05, "{end}: {used} s/s with idle connections");
    }
    Ok(())
}

#[test]
fn disabled_library_is_not_noticed() -> Result<()> {
    let _turn = alone();
    let setup = Setup::new(Preload::Disabled, Preload::Disabled);
    quiet(&redis::run(&setup.seconds(1), 16)?)?;
    quiet(&load::run(&setup.seconds(1), Work::Stream, 1)?)
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    let _turn = alone();
    load::run(&Setup::library().seconds(1), Work::Rate, 2)?;
    redis::run(&Setup::library().seconds(1), 16)?;
    leftovers::expect_none()
}

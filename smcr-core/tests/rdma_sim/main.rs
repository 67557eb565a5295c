//! Two engines over a simulated RDMA network, against queues: see `smcr_core::rdma::sim::world`.
//!
//! `SMCR_SIM_OPS` sets how many operations are made, `SMCR_SIM_SEED` the first seed: that of a
//! failure makes the same failure again as the first thing.

use smcr_core::rdma::sim::Random;
use smcr_core::rdma::sim::world::{Op, Totals, World};

/// Operations in the life of one world.
const LIFE: u64 = 1000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Makes `ops` operations in worlds of neighbouring seeds; of 10,000 operations `faults` break
/// something.
fn run(ops: u64, first_seed: u64, faults: u64) -> Totals {
    let ops = number("SMCR_SIM_OPS").map_or(ops, |all| all * ops / 1_000_000);
    let first_seed = number("SMCR_SIM_SEED").unwrap_or(first_seed);
    let mut all = Totals::default();
    for seed in first_seed..first_seed + ops.div_ceil(LIFE) {
        let mut world = World::new(seed);
        let mut random = Random::new(!seed);
        world.act(Op::Open);
        for _ in 0..LIFE {
            world.act(Op::random(&mut random, faults));
        }
        all += world.finish();
    }
    println!("{all:#?}");
    all
}

#[test]
fn streams_are_whole_while_nothing_breaks() {
    let all = run(500_000, 1, 0);
    assert_eq!((all.faults, all.lost_groups), (0, 0));
    assert!(number("SMCR_SIM_OPS").is_some() || all.bytes > 100_000_000 && all.ends > 1000);
}

#[test]
fn streams_are_whole_or_end_by_an_error_when_something_breaks() {
    let all = run(500_000, 1_000_000, 30);
    assert!(number("SMCR_SIM_OPS").is_some() || all.faults > 1000 && all.lost_groups > 100);
}
